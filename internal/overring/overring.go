// Package overring is the kernel's permission to use FUSE over io_uring: a parameter of its module
// that is off by default, and that root can turn on.
package overring

import (
	"os"
	"strings"
)

// Path is the parameter.
const Path = "/sys/module/fuse/parameters/enable_uring"

// Allowed says whether the kernel has FUSE over io_uring, and allows it.
func Allowed() bool {
	text, err := os.ReadFile(Path)
	return err == nil && strings.TrimSpace(string(text)) == "Y"
}

// Allow has the kernel allow it until restore is called. It is for tests and measurements, and
// says false where it cannot: not as root, or on an old kernel.
func Allow() (restore func() error, ok bool) {
	before, err := os.ReadFile(Path)
	if err == nil {
		err = os.WriteFile(Path, []byte("Y"), 0)
	}
	if err != nil {
		return func() error { return nil }, false
	}
	return func() error { return os.WriteFile(Path, before, 0) }, true
}
