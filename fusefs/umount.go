package fusefs

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// Unmount unmounts mountpoint: by umount(2) or fusermount3. lazy detaches it at once and lets the
// filesystem live until nobody uses it any more. EBUSY: it is in use; EINVAL: it is no mountpoint.
func Unmount(mountpoint string, lazy bool) error {
	flags := unix.UMOUNT_NOFOLLOW
	if lazy {
		flags |= unix.MNT_DETACH
	}
	err := unix.Unmount(mountpoint, flags)
	if err != unix.EPERM {
		return err
	}
	return helperUnmount(mountpoint, lazy)
}

// helperUnmount has fusermount3 unmount what the user has mounted.
func helperUnmount(mountpoint string, lazy bool) error {
	how := "-u"
	if lazy {
		how = "-uz"
	}
	cmd := exec.Command(helper, how, "--", mountpoint)
	cmd.Env = append(os.Environ(), "LC_ALL=C")
	out, err := cmd.CombinedOutput()
	line := firstLine(string(out))
	switch {
	case err == nil:
		return nil
	case errors.Is(err, exec.ErrNotFound):
		return fmt.Errorf("without root this needs %s (package fuse3): %w", helper, unix.EPERM)
	case strings.Contains(line, "busy"):
		return unix.EBUSY
	case line != "":
		return errors.New(line)
	}
	return fmt.Errorf("%s: %w", helper, err)
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
