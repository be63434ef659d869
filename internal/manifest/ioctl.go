package manifest

import (
	"unsafe"

	"golang.org/x/sys/unix"
)

// ioctl calls request on fd with a pointer to the fixed-size structure arg.
func ioctl[T any](fd int, request uint, arg *T) error {
	_, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), uintptr(request),
		uintptr(unsafe.Pointer(arg)))
	if errno != 0 {
		return errno
	}
	return nil
}
