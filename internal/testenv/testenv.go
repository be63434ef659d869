// Package testenv says what a test needs of the machine it runs on. Where that is missing a test
// skips with the reason; in CI, which has everything, it fails, so that nothing is skipped unseen.
package testenv

import (
	"os"
	"os/exec"
	"testing"

	"golang.org/x/sys/unix"
)

// CI is the environment variable which says that nothing may be skipped, when it is "1".
const CI = "ASYNCFSD_CI"

// Missing skips the test for a reason, or fails it in CI.
func Missing(t testing.TB, reason string) {
	t.Helper()
	if os.Getenv(CI) == "1" {
		t.Fatalf("%s, and %s=1 forbids to skip", reason, CI)
	}
	t.Skip(reason)
}

// NeedRoot is for tests that mount, attach loop devices or read any file.
func NeedRoot(t testing.TB) {
	t.Helper()
	if os.Getuid() != 0 {
		Missing(t, "needs root")
	}
}

// NeedFuse is for tests that serve a mount.
func NeedFuse(t testing.TB) {
	t.Helper()
	fd, err := unix.Open("/dev/fuse", unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		Missing(t, "needs /dev/fuse: "+err.Error())
		return
	}
	_ = unix.Close(fd)
}

// NeedProgram is for tests that run a program.
func NeedProgram(t testing.TB, names ...string) {
	t.Helper()
	for _, name := range names {
		if _, err := exec.LookPath(name); err != nil {
			Missing(t, "needs the program "+name)
		}
	}
}

// MemoryDir is a directory for images that another program is to look at, gone when the test ends:
// in memory if the machine has enough of it, which makes a simulation a third faster.
func MemoryDir(t testing.TB) string {
	t.Helper()
	const shm = "/dev/shm"
	var st unix.Statfs_t
	if err := unix.Statfs(shm, &st); err != nil || st.Bavail*uint64(st.Bsize) < 1<<30 {
		return t.TempDir()
	}
	dir, err := os.MkdirTemp(shm, "asyncfsd-test-")
	if err != nil {
		return t.TempDir()
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	return dir
}
