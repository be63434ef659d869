package blockdev

import (
	"bufio"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// A source that somebody else holds is tried again for a moment: udev locks a device while it
// looks at it, and the lock of a process that has just died goes with the last of its I/O.
const (
	lockAttempts = 10
	lockPause    = 20 * time.Millisecond
)

// openLocked opens the source, for reading only if it must be, and locks it.
//
// Whoever may write has the source alone; readers share it. All use flock(2), which ends with the
// process, so that nothing stale is ever left. A block device is opened O_EXCL as well, which the
// kernel's own mounts, device mapper and RAID respect and which keeps them away. O_EXCL cannot be
// shared: the first reader has it, and the next see by the reader's flock that it is one of
// theirs. NB: when the first leaves before the others, the kernel may mount the device beneath
// them.
func (f *File) openLocked(o Options) error {
	write := !o.ReadOnly
	err := f.openRetry(write, o)
	if write && !o.MustWrite && unwritable(err) {
		why := err
		if err = f.openRetry(false, o); err == nil {
			f.note("cannot be written (%v), reading only", why)
		}
	}
	if err == unix.EBUSY {
		return f.busy()
	}
	if err != nil {
		return f.sys("", err)
	}
	f.locked = !o.NoLock
	if !o.ReadOnly && !f.readOnly {
		return f.mountedThroughLoop()
	}
	return nil
}

// unwritable says whether err of an open for writing leaves hope for one for reading.
func unwritable(err error) bool {
	return err == unix.EACCES || err == unix.EPERM || err == unix.EROFS || err == unix.ETXTBSY
}

func (f *File) openRetry(write bool, o Options) (err error) {
	for i := range lockAttempts {
		if i > 0 {
			time.Sleep(lockPause)
		}
		if err = f.openOnce(write, o); err != unix.EBUSY {
			break
		}
	}
	return err
}

// openOnce opens and locks. EBUSY: somebody else has the source.
func (f *File) openOnce(write bool, o Options) (err error) {
	flags := unix.O_RDONLY | unix.O_CLOEXEC | unix.O_LARGEFILE
	if write {
		flags = unix.O_RDWR | unix.O_CLOEXEC | unix.O_LARGEFILE
	}
	excl := 0
	if f.block && !o.NoLock {
		excl = unix.O_EXCL
	}
	fd, err := f.openPath(flags | excl)
	fellow := err == unix.EBUSY && excl != 0 && !write
	if fellow {
		fd, err = f.openPath(flags)
	}
	if err != nil {
		return err
	}
	if err = f.claim(fd, write, fellow, o); err != nil {
		_ = unix.Close(fd)
		return err
	}
	f.fd, f.readOnly = fd, !write
	return nil
}

// claim checks that an open source may be written, if that is wanted, and locks it.
func (f *File) claim(fd int, write, fellow bool, o Options) error {
	if write && f.block {
		if ro, err := unix.IoctlGetInt(fd, unix.BLKROGET); err == nil && ro != 0 {
			return unix.EROFS
		}
	}
	if o.NoLock {
		return nil
	}
	if write {
		return flock(fd, unix.LOCK_EX)
	}
	if err := flock(fd, unix.LOCK_SH); err != nil || !fellow {
		return err
	}
	// Somebody has it O_EXCL. A lock for writing can be had if it is not a fellow reader.
	if flock(fd, unix.LOCK_EX) == nil {
		return unix.EBUSY
	}
	return flock(fd, unix.LOCK_SH) // NB: a failed conversion loses the lock
}

// flock locks without waiting. A filesystem that cannot lock does not keep us from working.
func flock(fd, how int) error {
	switch err := unix.Flock(fd, how|unix.LOCK_NB); err {
	case unix.EWOULDBLOCK:
		return unix.EBUSY
	case unix.ENOSYS, unix.ENOTSUP, unix.EINVAL, unix.ENOLCK, unix.EBADF:
		return nil // EBADF: NFS wants a descriptor open for writing
	default:
		return err
	}
}

// openPath opens the source. A /dev/fd/N that may not be opened anew, as when a process with
// more rights handed it down, is used as it is.
func (f *File) openPath(flags int) (int, error) {
	fd, err := unix.Open(f.name, flags, 0)
	for err == unix.EINTR {
		fd, err = unix.Open(f.name, flags, 0)
	}
	given, ok := descriptorOf(f.name)
	if err != unix.EACCES && err != unix.EPERM || !ok {
		return fd, err
	}
	has, ferr := unix.FcntlInt(uintptr(given), unix.F_GETFL, 0)
	if ferr != nil || flags&unix.O_ACCMODE != unix.O_RDONLY && has&unix.O_ACCMODE != unix.O_RDWR {
		return -1, err
	}
	return unix.FcntlInt(uintptr(given), unix.F_DUPFD_CLOEXEC, 3)
}

// descriptorOf returns N of /dev/fd/N and its like.
func descriptorOf(path string) (fd int, ok bool) {
	for _, prefix := range []string{"/dev/fd/", "/proc/self/fd/"} {
		if rest, found := strings.CutPrefix(path, prefix); found {
			n, err := strconv.Atoi(rest)
			return n, err == nil && n >= 0
		}
	}
	return 0, false
}

// busy says who has the source, as far as that can be told.
func (f *File) busy() error {
	var st unix.Stat_t
	if f.block && unix.Stat(f.name, &st) == nil {
		if where := mountOf(uint64(st.Rdev)); where != "" {
			return f.fail(unix.EBUSY, "is mounted on %s", where)
		}
	}
	return f.fail(unix.EBUSY, "in use by another process")
}

// mountedThroughLoop refuses to write an image that the kernel has mounted by way of a loop
// device, which locks nothing.
func (f *File) mountedThroughLoop() error {
	var image, backing unix.Stat_t
	if f.block || unix.Fstat(f.fd, &image) != nil {
		return nil
	}
	files, _ := filepath.Glob("/sys/block/loop*/loop/backing_file")
	for _, file := range files {
		path, err := os.ReadFile(file)
		if err != nil || unix.Stat(strings.TrimSuffix(string(path), "\n"), &backing) != nil ||
			backing.Dev != image.Dev || backing.Ino != image.Ino {
			continue
		}
		loop := filepath.Dir(filepath.Dir(file))
		parts, _ := filepath.Glob(loop + "/loop*p*/dev")
		for _, dev := range append(parts, loop+"/dev") {
			if where := mountOf(readDev(dev)); where != "" {
				return f.fail(unix.EBUSY, "is mounted on %s by way of %s", where,
					"/dev/"+filepath.Base(loop))
			}
		}
	}
	return nil
}

// readDev reads a "major:minor" file of sysfs.
func readDev(path string) uint64 {
	var major, minor uint32
	text, err := os.ReadFile(path)
	if err != nil {
		return 0
	}
	if _, err = fmt.Sscanf(string(text), "%d:%d", &major, &minor); err != nil {
		return 0
	}
	return unix.Mkdev(major, minor)
}

// mountOf returns where this process sees device dev mounted, "" if nowhere. Lines of mountinfo
// are "ID PARENT MAJOR:MINOR ROOT MOUNTPOINT …", see proc_pid_mountinfo(5).
func mountOf(dev uint64) string {
	file, err := os.Open("/proc/self/mountinfo")
	if err != nil || dev == 0 {
		return ""
	}
	defer file.Close()
	want := fmt.Sprintf("%d:%d", unix.Major(dev), unix.Minor(dev))
	for lines := bufio.NewScanner(file); lines.Scan(); {
		fields := strings.Fields(lines.Text())
		if len(fields) > 4 && fields[2] == want {
			return fields[4]
		}
	}
	return ""
}
