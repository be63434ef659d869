package testenv

import "os"

// overRing is the parameter of the kernel that allows FUSE over io_uring.
const overRing = "/sys/module/fuse/parameters/enable_uring"

// AllowOverRing has the kernel allow FUSE over io_uring until restore is called. It says false
// where that cannot be: not root, or an old kernel.
func AllowOverRing() (restore func(), ok bool) {
	before, err := os.ReadFile(overRing)
	if err == nil {
		err = os.WriteFile(overRing, []byte("Y"), 0)
	}
	return func() { _ = os.WriteFile(overRing, before, 0) }, err == nil
}
