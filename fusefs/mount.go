package fusefs

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// MountOptions says what is mounted where, and how the kernel is to treat it.
type MountOptions struct {
	// Source is shown as the mount's source, in /proc/mounts for example.
	Source string
	// Subtype makes the type "fuse.SUBTYPE".
	Subtype string
	// Mountpoint is a directory, or /dev/fd/N: an open /dev/fuse that somebody has mounted.
	Mountpoint string

	ReadOnly, NoDev, NoSuid, NoExec, NoAtime bool
	// Sync and DirSync are the mount flags of that name: the kernel asks for an fsync after every
	// write to a file with Sync. What changes directories it leaves to the daemon.
	Sync, DirSync bool
	// AllowOther lets other users in; DefaultPermissions has the kernel check modes and ACLs.
	AllowOther, DefaultPermissions bool
	// MaxRead limits the size of reads in bytes, 0 for no limit.
	MaxRead uint32
	// OwnerUID and OwnerGID are who may use the mount if not AllowOther. They are this process's
	// own unless root mounts for somebody else.
	OwnerUID, OwnerGID int
}

// ErrNoFuse says that /dev/fuse cannot be opened: the machine has no FUSE, or forbids it.
var ErrNoFuse = errors.New("/dev/fuse")

// Mounted is a mount that can be served.
type Mounted struct {
	// FD is the descriptor of /dev/fuse.
	FD int
	// Passed says that FD came with the mountpoint: whoever opened it unmounts.
	Passed bool
	// Note is what fusermount3 remarked, in one line: options that it left out, for example.
	Note string
}

// Mount mounts: by mount(2) where that is permitted, else by fusermount3. Errors are one line
// that names the mountpoint.
func Mount(o MountOptions) (*Mounted, error) {
	if fd, ok := passedFD(o.Mountpoint); ok {
		return takePassed(o.Mountpoint, fd)
	}
	if err := checkMountpoint(o.Mountpoint); err != nil {
		return nil, err
	}
	if os.Geteuid() != 0 {
		return helperMount(o)
	}
	m, err := directMount(o)
	if errors.Is(err, unix.EPERM) { // root of a container without the capability
		if _, lookErr := exec.LookPath(helper); lookErr == nil {
			return helperMount(o)
		}
	}
	return m, err
}

// checkMountpoint wants a directory: the root of an ext4 filesystem is one.
func checkMountpoint(path string) error {
	var st unix.Stat_t
	err := unix.Stat(path, &st)
	switch {
	case err == unix.ENOTCONN:
		return fmt.Errorf("mountpoint %s: a mount whose daemon has died is still there: "+
			"unmount it first", path)
	case err == nil && st.Mode&unix.S_IFMT != unix.S_IFDIR:
		err = unix.ENOTDIR
	}
	if err != nil {
		return fmt.Errorf("mountpoint %s: %w", path, err)
	}
	return nil
}

// passedFD resolves /dev/fd/N.
func passedFD(mountpoint string) (fd int, ok bool) {
	n, found := strings.CutPrefix(mountpoint, "/dev/fd/")
	if !found {
		return -1, false
	}
	fd, err := strconv.Atoi(n)
	return fd, err == nil && fd >= 0
}

// fuseMajor and fuseMinor are the numbers of /dev/fuse.
const fuseMajor, fuseMinor = 10, 229

// takePassed takes a descriptor that somebody else has opened and mounted.
func takePassed(path string, fd int) (*Mounted, error) {
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return nil, fmt.Errorf("mountpoint %s: %w", path, err)
	}
	if st.Mode&unix.S_IFMT != unix.S_IFCHR || st.Rdev != unix.Mkdev(fuseMajor, fuseMinor) {
		return nil, fmt.Errorf("mountpoint %s: not an open /dev/fuse", path)
	}
	unix.CloseOnExec(fd)
	return &Mounted{FD: fd, Passed: true}, nil
}

// directMount mounts by mount(2). NB: as "fuse", for block devices too; see
// docs/design/004-fuseblk.md.
func directMount(o MountOptions) (*Mounted, error) {
	fd, err := unix.Open("/dev/fuse", unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrNoFuse, err)
	}
	data := fmt.Sprintf("fd=%d,rootmode=40000,user_id=%d,group_id=%d", fd, o.OwnerUID,
		o.OwnerGID)
	for _, word := range o.kernelWords() {
		data += "," + word
	}
	flags := uintptr(0)
	for _, f := range o.flags() {
		flags |= f.bit
	}
	kind := "fuse"
	if o.Subtype != "" {
		kind += "." + o.Subtype
	}
	if err := unix.Mount(o.Source, o.Mountpoint, kind, flags, data); err != nil {
		_ = unix.Close(fd)
		return nil, fmt.Errorf("mounting on %s: %w", o.Mountpoint, err)
	}
	return &Mounted{FD: fd}, nil
}

// kernelWords are the options that the kernel's FUSE takes.
func (o *MountOptions) kernelWords() (words []string) {
	if o.AllowOther {
		words = append(words, "allow_other")
	}
	if o.DefaultPermissions {
		words = append(words, "default_permissions")
	}
	if o.MaxRead != 0 {
		words = append(words, fmt.Sprintf("max_read=%d", o.MaxRead))
	}
	return words
}

type mountFlag struct {
	bit  uintptr
	word string
}

// flags are the mount's flags that apply to every filesystem.
func (o *MountOptions) flags() (flags []mountFlag) {
	for _, f := range []struct {
		on   bool
		flag mountFlag
	}{
		{o.ReadOnly, mountFlag{unix.MS_RDONLY, "ro"}},
		{o.NoDev, mountFlag{unix.MS_NODEV, "nodev"}},
		{o.NoSuid, mountFlag{unix.MS_NOSUID, "nosuid"}},
		{o.NoExec, mountFlag{unix.MS_NOEXEC, "noexec"}},
		{o.NoAtime, mountFlag{unix.MS_NOATIME, "noatime"}},
		{o.Sync, mountFlag{unix.MS_SYNCHRONOUS, "sync"}},
		{o.DirSync, mountFlag{unix.MS_DIRSYNC, "dirsync"}},
	} {
		if f.on {
			flags = append(flags, f.flag)
		}
	}
	return flags
}
