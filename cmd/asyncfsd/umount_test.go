package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"asyncfsd/internal/testenv"
)

// TestUmountAfterHung has a daemon hang whose mount is gone, so that the kernel gives its device
// number to the next mount: an umount of that waits for its own daemon, and for no other.
func TestUmountAfterHung(t *testing.T) {
	testenv.NeedRoot(t)
	hung := mountpoint(t)
	lock := filepath.Join(t.TempDir(), "lock")
	if r := asyncfsd(t, "-o", "lockfile="+lock, newImage(t), hung); r.code != 0 {
		t.Fatalf("exit code %d: %s", r.code, r.stderr)
	}
	pid := lockHolder(t, lock)
	if err := unix.Kill(pid, unix.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	defer func() {
		_ = unix.Kill(pid, unix.SIGCONT)
		waitGone(t, pid)
	}()
	number := deviceNumber(t, hung)
	if err := unix.Unmount(hung, unix.MNT_DETACH); err != nil {
		t.Fatal(err)
	}
	for range 12 { // NB: somebody else may have taken the number
		if umountAgain(t, number) {
			return
		}
	}
	testenv.Missing(t, "needs device number "+number+" again")
}

// umountAgain mounts and unmounts once, and says whether the device number was this one. If it is
// not, the mount stays until the end.
func umountAgain(t *testing.T, number string) bool {
	mnt, path := mountpoint(t), newImage(t)
	lock := filepath.Join(t.TempDir(), "lock")
	if r := asyncfsd(t, "-o", "lockfile="+lock, path, mnt); r.code != 0 {
		t.Fatalf("exit code %d: %s", r.code, r.stderr)
	}
	if have := deviceNumber(t, mnt); have != number {
		t.Cleanup(func() { umount(t, mnt) })
		return false
	}
	if err := os.WriteFile(filepath.Join(mnt, "file"), make([]byte, 1<<20), 0o600); err != nil {
		t.Error(err)
	}
	umount(t, mnt)
	ended(t, lock)
	check(t, path)
	return true
}

// ended wants the daemon with a lock file to have ended.
func ended(t *testing.T, lock string) {
	t.Helper()
	if _, err := os.Lstat(lock); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("umount returns before the daemon has ended: %v", err)
	}
}

// TestUmountElsewhere unmounts one of two places at which a filesystem is mounted: there is nothing
// to wait for until it is the last one.
func TestUmountElsewhere(t *testing.T) {
	testenv.NeedRoot(t)
	mnt, bound, path := mountpoint(t), mountpoint(t), newImage(t)
	lock := filepath.Join(t.TempDir(), "lock")
	if r := asyncfsd(t, "-o", "lockfile="+lock, path, mnt); r.code != 0 {
		t.Fatalf("exit code %d: %s", r.code, r.stderr)
	}
	if err := unix.Mount(mnt, bound, "", unix.MS_BIND, ""); err != nil {
		t.Fatal(err)
	}
	umount(t, mnt)
	if err := os.Mkdir(filepath.Join(bound, "dir"), 0o755); err != nil {
		t.Error(err)
	}
	umount(t, bound)
	ended(t, lock)
	check(t, path)
}

// TestUmountUser unmounts as an ordinary user what that user has mounted.
func TestUmountUser(t *testing.T) {
	testenv.NeedRoot(t)
	testenv.NeedFuse(t)
	testenv.NeedProgram(t, "fusermount3", "unshare", "setpriv")
	dir, err := os.MkdirTemp("", "user")
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(dir)
	const uid = 65534
	mnt, path := filepath.Join(dir, "mnt"), filepath.Join(dir, "image")
	data, err := os.ReadFile(newImage(t, "-E", fmt.Sprintf("root_owner=%d:%d", uid, uid)))
	if err == nil {
		err = os.WriteFile(path, data, 0o600)
	}
	if err == nil {
		err = os.Mkdir(mnt, 0o755)
	}
	for _, p := range []string{dir, mnt, path} {
		if err == nil {
			err = os.Chown(p, uid, uid)
		}
	}
	if err != nil {
		t.Fatal(err)
	}
	// NB: in a mount namespace where the user may open /dev/fuse.
	script := `set -e; mknod "$1/fuse" c 10 229; chmod 666 "$1/fuse"
		mount --bind "$1/fuse" /dev/fuse; cd "$1"
		exec setpriv --reuid=65534 --regid=65534 --clear-groups sh -ec '
			"$0" -o lockfile=lock image mnt; touch mnt/file; test -e lock
			"$0" umount mnt; test ! -e lock; test ! -e mnt/file' "$2"`
	r := finish(t, exec.Command("unshare", "-m", "sh", "-c", script, "sh", dir, binary))
	if r.code != 0 || r.stderr != "" {
		t.Errorf("exit code %d: %s", r.code, r.stderr)
	}
	check(t, path)
}

// lockHolder returns the process number in a lock file.
func lockHolder(t *testing.T, lock string) int {
	t.Helper()
	text, err := os.ReadFile(lock)
	if err != nil {
		t.Fatal(err)
	}
	pid, err := strconv.Atoi(strings.TrimSpace(string(text)))
	if err != nil {
		t.Fatal(err)
	}
	return pid
}

// deviceNumber is the device number of a mount.
func deviceNumber(t *testing.T, mnt string) string {
	t.Helper()
	out, err := exec.Command("findmnt", "-n", "-o", "MAJ:MIN", mnt).Output()
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(string(out))
}

// waitGone waits for the end of a process that somebody else has started.
func waitGone(t *testing.T, pid int) {
	t.Helper()
	for late := time.Now().Add(20 * time.Second); unix.Kill(pid, 0) == nil; {
		if time.Now().After(late) {
			t.Fatalf("daemon %d did not end", pid)
		}
		time.Sleep(10 * time.Millisecond)
	}
}
