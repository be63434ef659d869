package fusefs

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"time"

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
	// AllowOther lets other users in; DefaultPermissions has the kernel check modes and ACLs.
	AllowOther, DefaultPermissions bool
	// AutoUnmount has fusermount3 unmount when this process ends, however it ends.
	AutoUnmount bool
	// MaxRead limits the size of reads in bytes, 0 for no limit.
	MaxRead uint32
}

// ErrNoFuse says that /dev/fuse cannot be opened: the machine has no FUSE, or forbids it.
var ErrNoFuse = errors.New("/dev/fuse")

// Mounted is a mount that is being served.
type Mounted struct {
	// FD is the descriptor of /dev/fuse.
	FD int
	// watch is the socket to a fusermount3 that waits for our end (AutoUnmount).
	watch *os.File
}

// Mount mounts: by mount(2) where that is permitted, else by fusermount3. Errors are one line
// that names the mountpoint.
func Mount(o MountOptions) (*Mounted, error) {
	if fd, ok := passedFD(o.Mountpoint); ok {
		if _, err := unix.FcntlInt(uintptr(fd), unix.F_GETFD, 0); err != nil {
			return nil, fmt.Errorf("%s: %w", o.Mountpoint, err)
		}
		unix.CloseOnExec(fd)
		return &Mounted{FD: fd}, nil
	}
	var st unix.Stat_t
	if err := unix.Stat(o.Mountpoint, &st); err != nil {
		return nil, fmt.Errorf("mountpoint %s: %w", o.Mountpoint, err)
	}
	if st.Mode&unix.S_IFMT != unix.S_IFDIR {
		return nil, fmt.Errorf("mountpoint %s: %w", o.Mountpoint, unix.ENOTDIR)
	}
	if os.Geteuid() != 0 || o.AutoUnmount {
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

// passedFD resolves /dev/fd/N.
func passedFD(mountpoint string) (fd int, ok bool) {
	n, found := strings.CutPrefix(mountpoint, "/dev/fd/")
	if !found {
		return -1, false
	}
	fd, err := strconv.Atoi(n)
	return fd, err == nil && fd >= 0
}

// directMount mounts by mount(2).
func directMount(o MountOptions) (*Mounted, error) {
	fd, err := unix.Open("/dev/fuse", unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrNoFuse, err)
	}
	data := fmt.Sprintf("fd=%d,rootmode=40000,user_id=%d,group_id=%d", fd, os.Getuid(),
		os.Getgid())
	for _, word := range o.kernelWords() {
		data += "," + word
	}
	flags := uintptr(0)
	for _, f := range o.flags() {
		flags |= f.bit
	}
	if err := unix.Mount(o.Source, o.Mountpoint, "fuse."+o.Subtype, flags, data); err != nil {
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
	} {
		if f.on {
			flags = append(flags, f.flag)
		}
	}
	return flags
}

// helper is the set-user-ID program that mounts for ordinary users.
const helper = "fusermount3"

// helperMount has fusermount3 mount; it sends the descriptor over a socket.
func helperMount(o MountOptions) (*Mounted, error) {
	path, err := exec.LookPath(helper)
	if err != nil {
		return nil, fmt.Errorf("mounting without root needs %s (package fuse3): %w", helper,
			unix.EPERM)
	}
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("socketpair: %w", err)
	}
	ours, theirs := os.NewFile(uintptr(pair[0]), "fusermount"), os.NewFile(uintptr(pair[1]), "")
	words := append(o.kernelWords(), "fsname="+escapeOption(o.Source), "subtype="+o.Subtype)
	for _, f := range o.flags() {
		words = append(words, f.word)
	}
	if o.AutoUnmount {
		words = append(words, "auto_unmount")
	}
	var said strings.Builder
	cmd := exec.Command(path, "-o", strings.Join(words, ","), "--", o.Mountpoint)
	cmd.Env = append(os.Environ(), "_FUSE_COMMFD=3")
	cmd.ExtraFiles = []*os.File{theirs}
	// NB: with auto_unmount it stays, and a pipe would be waited for.
	if !o.AutoUnmount {
		cmd.Stderr = &said
	}
	err = cmd.Start()
	_ = theirs.Close()
	if err != nil {
		_ = ours.Close()
		return nil, fmt.Errorf("%s: %w", helper, err)
	}
	fd, err := receiveFD(pair[0])
	if !o.AutoUnmount || err != nil {
		_ = cmd.Wait()
	}
	if err != nil {
		_ = ours.Close()
		if line := firstLine(said.String()); line != "" {
			return nil, errors.New(line)
		}
		return nil, fmt.Errorf("%s did not mount on %s: %w", helper, o.Mountpoint, err)
	}
	if !o.AutoUnmount {
		_ = ours.Close()
		ours = nil
	}
	return &Mounted{FD: fd, watch: ours}, nil
}

// escapeOption protects commas and backslashes from fusermount3.
func escapeOption(s string) string {
	return strings.NewReplacer(`\`, `\\`, ",", `\,`).Replace(s)
}

func firstLine(s string) string {
	line, _, _ := strings.Cut(strings.TrimSpace(s), "\n")
	return line
}

// receiveFD takes the descriptor that comes over a socket.
func receiveFD(socket int) (int, error) {
	var byteBuf [1]byte
	oob := make([]byte, unix.CmsgSpace(4))
	for {
		n, oobn, _, _, err := unix.Recvmsg(socket, byteBuf[:], oob, unix.MSG_CMSG_CLOEXEC)
		if err == unix.EINTR {
			continue
		}
		if err != nil {
			return -1, err
		}
		if n == 0 {
			return -1, unix.ECONNRESET
		}
		messages, err := unix.ParseSocketControlMessage(oob[:oobn])
		if err != nil || len(messages) == 0 {
			return -1, unix.EBADMSG
		}
		fds, err := unix.ParseUnixRights(&messages[0])
		if err != nil || len(fds) == 0 {
			return -1, unix.EBADMSG
		}
		return fds[0], nil
	}
}

// Unmount unmounts mountpoint: by umount(2) or fusermount3. lazy detaches it at once and lets the
// filesystem live until nobody uses it any more. EBUSY: it is in use.
func Unmount(mountpoint string, lazy bool) error {
	flags := unix.UMOUNT_NOFOLLOW
	if lazy {
		flags |= unix.MNT_DETACH
	}
	err := unix.Unmount(mountpoint, flags)
	if err == nil || err != unix.EPERM {
		return err
	}
	args := []string{"-u", "-q", "--", mountpoint}
	if lazy {
		args[0] = "-uz"
	}
	out, err := exec.Command(helper, args...).CombinedOutput()
	if err == nil {
		return nil
	}
	if m, findErr := FindMount(mountpoint); findErr == nil && m == nil {
		return unix.EINVAL // not mounted
	}
	if line := firstLine(string(out)); line != "" && !strings.Contains(line, "busy") {
		return errors.New(line)
	}
	return unix.EBUSY
}

// UnmountRetry unmounts, and tries again for as long as the mount is in use, at most for patience:
// programs that have just ended or looked at it (desktop indexers) hold it for a moment.
func UnmountRetry(mountpoint string, patience time.Duration) error {
	for end := time.Now().Add(patience); ; time.Sleep(20 * time.Millisecond) {
		err := Unmount(mountpoint, false)
		if !errors.Is(err, unix.EBUSY) || time.Now().After(end) {
			return err
		}
	}
}
