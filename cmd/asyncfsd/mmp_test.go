package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"asyncfsd/internal/testenv"
)

// mmpImage makes a filesystem with multiple mount protection. Who finds it in use waits for 11
// seconds, the least there is, and as long again before it takes what nobody has.
func mmpImage(t *testing.T) string {
	t.Helper()
	testenv.NeedRoot(t)
	return newImage(t, "-O", "mmp", "-E", "mmp_update_interval=1")
}

// slowly runs asyncfsd with patience.
func slowly(t *testing.T, args ...string) result {
	t.Helper()
	return finishIn(t, exec.Command(binary, args...), time.Minute)
}

// TestMMPKernelRefuses has the kernel mount what asyncfsd has, by another loop device.
func TestMMPKernelRefuses(t *testing.T) {
	t.Parallel()
	path, mnt := mmpImage(t), mountpoint(t)
	device := testenv.AttachLoop(t, path, 512)
	if r := asyncfsd(t, path, mnt); r.code != 0 || r.stderr != "" {
		t.Fatalf("exit code %d: %s", r.code, r.stderr)
	}
	other := t.TempDir()
	err := unix.Mount(device, other, "ext4", 0, "")
	if err == nil {
		_ = unix.Unmount(other, 0)
	}
	if err != unix.EBUSY && err != unix.EINVAL {
		t.Errorf("the kernel mounts it: %v", err)
	}
	if err := os.WriteFile(mnt+"/file", []byte("x"), 0o600); err != nil {
		t.Error(err)
	}
	umount(t, mnt)
	check(t, path)
	began := time.Now()
	if err := unix.Mount(device, other, "ext4", 0, ""); err != nil {
		t.Fatalf("the kernel does not mount what was given back: %v", err)
	}
	if took := time.Since(began); took > 5*time.Second {
		t.Errorf("the kernel has waited %v", took)
	}
	if err := unix.Unmount(other, 0); err != nil {
		t.Fatal(err)
	}
}

// TestMMPRefused has asyncfsd mount what the kernel has, by another loop device.
func TestMMPRefused(t *testing.T) {
	t.Parallel()
	path, mnt := mmpImage(t), mountpoint(t)
	theirs, ours := testenv.AttachLoop(t, path, 512), testenv.AttachLoop(t, path, 512)
	other := t.TempDir()
	if err := unix.Mount(theirs, other, "ext4", 0, ""); err != nil {
		testenv.Missing(t, "needs the kernel's ext4: "+err.Error())
	}
	r := slowly(t, ours, mnt)
	if err := unix.Unmount(other, 0); err != nil {
		t.Fatal(err)
	}
	node, _ := os.Hostname()
	lines := strings.Split(strings.TrimSpace(r.stderr), "\n")
	if want := ours + ": in use on node " + node + " as " + filepath.Base(theirs); r.code != 32 ||
		len(lines) != 2 || !strings.Contains(lines[1], want) {
		t.Errorf("exit code %d, says %q, not %q", r.code, lines, want)
	}
	if r := asyncfsd(t, ours, mnt); r.code != 0 || r.stderr != "" {
		t.Fatalf("what the kernel has given back: exit code %d: %s", r.code, r.stderr)
	}
	umount(t, mnt)
	check(t, path)
}

// TestMMPKilled has a daemon end without giving the filesystem back.
func TestMMPKilled(t *testing.T) {
	t.Parallel()
	path, mnt := mmpImage(t), mountpoint(t)
	lock := filepath.Join(t.TempDir(), "lock")
	if r := asyncfsd(t, "-o", "lockfile="+lock, path, mnt); r.code != 0 {
		t.Fatalf("exit code %d: %s", r.code, r.stderr)
	}
	if err := os.WriteFile(mnt+"/file", []byte("x"), 0o600); err != nil {
		t.Error(err)
	}
	fd, err := unix.Open(mnt, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	err = unix.Fsync(fd)
	_ = unix.Close(fd)
	if err != nil {
		t.Error(err)
	}
	end(t, lock, unix.SIGKILL)
	if err := unix.Unmount(mnt, unix.MNT_DETACH); err != nil {
		t.Fatal(err)
	}
	began := time.Now()
	r := slowly(t, path, mnt)
	if took := time.Since(began); r.code != 0 || took < 22*time.Second ||
		!strings.Contains(r.stderr, "waiting 22 seconds") {
		t.Fatalf("exit code %d after %v: %s", r.code, took, r.stderr)
	}
	if _, err := os.Stat(mnt + "/file"); err != nil {
		t.Error(err)
	}
	umount(t, mnt)
	check(t, path)
}
