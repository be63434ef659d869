package daemon

import (
	"fmt"
	"unsafe"

	"golang.org/x/sys/unix"

	"asyncfsd/internal/options"
)

// Remount makes a mount read-only, or writable again (mount -o remount). The kernel refuses what
// writes meanwhile, the daemon goes on as it is; so that one that only reads cannot be made
// writable. Noexec and noatime can be added, other options stay as they were. Errors are *Error.
func Remount(path string, o *options.Options) error {
	info, err := findFUSE(path)
	if err != nil {
		return err
	}
	if err := remount(info.Mountpoint, o); err != nil {
		return fail(ExitMount, fmt.Errorf("remounting %s: %w", path, err))
	}
	return nil
}

func remount(mountpoint string, o *options.Options) error {
	dir, err := unix.Open(mountpoint, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(dir)
	var st unix.Statfs_t
	if err := unix.Fstatfs(dir, &st); err != nil {
		return err
	}
	flags := mountFlags(st.Flags)
	if o.NoExec {
		flags |= unix.MS_NOEXEC
	}
	if o.NoAtime {
		flags = flags&^unix.MS_RELATIME | unix.MS_NOATIME
	}
	switch {
	case o.ReadOnly:
		flags |= unix.MS_RDONLY
	case onlyReads(dir):
		return fmt.Errorf("it was mounted for reading only: unmount and mount it again")
	}
	if err := unix.Mount("", mountpoint, "", unix.MS_REMOUNT|flags, ""); err != nil {
		return err
	}
	if o.ReadOnly { // NB: FUSE does not pass on that everything is to be synced.
		return unix.Fsync(dir)
	}
	return nil
}

// mountFlags turns the flags of statfs(2) into those of mount(2), but for that of read-only mounts.
func mountFlags(statfs int64) (flags uintptr) {
	for _, f := range [...][2]int64{
		{unix.ST_NOSUID, unix.MS_NOSUID}, {unix.ST_NODEV, unix.MS_NODEV},
		{unix.ST_NOEXEC, unix.MS_NOEXEC}, {unix.ST_SYNCHRONOUS, unix.MS_SYNCHRONOUS},
		{unix.ST_NOATIME, unix.MS_NOATIME}, {unix.ST_NODIRATIME, unix.MS_NODIRATIME},
		{unix.ST_RELATIME, unix.MS_RELATIME},
	} {
		if statfs&f[0] != 0 {
			flags |= uintptr(f[1])
		}
	}
	return flags
}

// onlyReads says whether the daemon was told to read only: it answers a discard of nothing with
// EROFS then, and with EINVAL otherwise.
func onlyReads(dir int) bool {
	const fitrim = 0xc0185879 // FITRIM, struct fstrim_range
	var nothing [3]uint64
	_, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(dir), fitrim,
		uintptr(unsafe.Pointer(&nothing)))
	return errno == unix.EROFS
}
