package daemon

import (
	"fmt"
	"io"
	"os"
	"regexp"

	"golang.org/x/sys/unix"
)

// Lock makes the file that lockfile= asks for, with the number of this process. It is locked for
// as long as the process lives and removed by release, so that a file left by a daemon that was
// killed is no obstacle. An empty path asks for nothing. Errors are *Error.
func Lock(path string) (release func(), err error) {
	if path == "" {
		return func() {}, nil
	}
	for {
		f, err := takeLock(path)
		if err != nil {
			return nil, fail(ExitMount, fmt.Errorf("lockfile %s: %w", path, err))
		}
		if f != nil {
			return func() {
				_ = os.Remove(path) // NB: before the lock goes with the file
				_ = f.Close()
			}, nil
		}
	}
}

// processNumber is all that a lock file may hold: another file is not ours to overwrite.
var processNumber = regexp.MustCompile(`^[0-9]{0,10}\n?$`)

// takeLock returns nil and no error if the file was removed in the meantime.
func takeLock(path string) (*os.File, error) {
	fd, err := unix.Open(path, unix.O_RDWR|unix.O_CREAT|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0o644)
	if err != nil {
		return nil, err
	}
	f := os.NewFile(uintptr(fd), path)
	again, err := writeLock(f, path)
	if again || err != nil {
		_ = f.Close()
		return nil, err
	}
	return f, nil
}

func writeLock(f *os.File, path string) (again bool, err error) {
	fd := int(f.Fd())
	if err := unix.Flock(fd, unix.LOCK_EX|unix.LOCK_NB); err == unix.EWOULDBLOCK {
		return false, fmt.Errorf("held by a daemon that is running: %w", unix.EBUSY)
	} else if err != nil {
		return false, err
	}
	var here, there unix.Stat_t
	if err := unix.Fstat(fd, &here); err != nil {
		return false, err
	}
	if unix.Lstat(path, &there) != nil || here.Ino != there.Ino || here.Dev != there.Dev {
		return true, nil
	}
	text, err := io.ReadAll(io.LimitReader(f, 64))
	if err != nil {
		return false, err
	}
	if !processNumber.Match(text) {
		return false, fmt.Errorf("not a lock file: %w", unix.EEXIST)
	}
	if err := f.Truncate(0); err != nil {
		return false, err
	}
	_, err = f.WriteAt(fmt.Appendln(nil, os.Getpid()), 0)
	return false, err
}
