package testenv

import (
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
)

// LoopDevice attaches a new loop device of size bytes and sectors of sector bytes (512 or 4096)
// for the time of the test. It lies over a sparse file in memory where /dev/shm is there. Flags
// are more options of losetup(8). It returns the device and its file.
func LoopDevice(t testing.TB, size int64, sector int, flags ...string) (device, file string) {
	t.Helper()
	NeedRoot(t)
	NeedProgram(t, "losetup")
	dir, err := os.MkdirTemp("/dev/shm", "asyncfsd-test-")
	if err != nil {
		dir = t.TempDir()
	} else {
		t.Cleanup(func() { _ = os.RemoveAll(dir) })
	}
	file = filepath.Join(dir, "disk")
	if err = os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err = os.Truncate(file, size); err != nil {
		t.Fatal(err)
	}
	return AttachLoop(t, file, sector, flags...), file
}

// AttachLoop attaches a loop device to a file for the time of the test.
func AttachLoop(t testing.TB, file string, sector int, flags ...string) (device string) {
	t.Helper()
	NeedRoot(t)
	NeedProgram(t, "losetup")
	args := append([]string{"--find", "--show", "--sector-size", strconv.Itoa(sector)}, flags...)
	out, err := exec.Command("losetup", append(args, file)...).CombinedOutput()
	if err != nil {
		Missing(t, "needs loop devices: "+strings.TrimSpace(string(out)))
	}
	device = strings.TrimSpace(string(out))
	t.Cleanup(func() {
		if out, err := exec.Command("losetup", "-d", device).CombinedOutput(); err != nil {
			t.Errorf("losetup -d %s: %s", device, out)
		}
	})
	return device
}
