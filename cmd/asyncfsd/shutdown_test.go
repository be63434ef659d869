package main

import (
	"errors"
	"os"
	"path/filepath"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"

	"asyncfsd/internal/testenv"
)

// TestOrphansReadOnly has a mount that only reads replay the journal after a shutdown, and free
// what has no name any more.
func TestOrphansReadOnly(t *testing.T) {
	testenv.NeedRoot(t)
	mnt, path := mountpoint(t), newImage(t)
	if r := asyncfsd(t, path, mnt); r.code != 0 {
		t.Fatalf("exit code %d: %s", r.code, r.stderr)
	}
	f, err := os.Create(filepath.Join(mnt, "file"))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.Write(make([]byte, 100_000)); err != nil {
		t.Fatal(err)
	}
	how := uint32(1)
	if err := os.Remove(f.Name()); err != nil {
		t.Fatal(err)
	}
	_, _, errno := unix.Syscall(unix.SYS_IOCTL, f.Fd(), goingDown, uintptr(unsafe.Pointer(&how)))
	if errno != 0 {
		t.Errorf("shutdown: %v", errno)
	}
	_ = f.Close()
	umount(t, mnt)
	if r := asyncfsd(t, "-o", "ro", path, mnt); r.code != 0 || r.stderr != "" {
		t.Fatalf("exit code %d: %s", r.code, r.stderr)
	}
	check(t, path)
	umount(t, mnt)
	check(t, path)
}

// goingDown is EXT4_IOC_SHUTDOWN.
const goingDown = 0x8004587d

// TestShutdown shuts a mount down (EXT4_IOC_SHUTDOWN) and looks at what the next one has: what was
// synced, and, if the log was to be flushed, everything.
func TestShutdown(t *testing.T) {
	testenv.NeedRoot(t)
	for _, c := range []struct {
		name string
		how  uint32
		kept bool
	}{{"default", 0, true}, {"logflush", 1, true}, {"nologflush", 2, false}} {
		t.Run(c.name, func(t *testing.T) {
			mnt, path := mountpoint(t), newImage(t)
			if r := asyncfsd(t, "-o", "commit=300", path, mnt); r.code != 0 {
				t.Fatalf("exit code %d: %s", r.code, r.stderr)
			}
			if err := os.Mkdir(filepath.Join(mnt, "synced"), 0o755); err != nil {
				t.Fatal(err)
			}
			dir, err := os.Open(mnt)
			if err != nil {
				t.Fatal(err)
			}
			if err := dir.Sync(); err != nil {
				t.Fatal(err)
			}
			if err := os.Mkdir(filepath.Join(mnt, "late"), 0o755); err != nil {
				t.Fatal(err)
			}
			_, _, errno := unix.Syscall(unix.SYS_IOCTL, dir.Fd(), goingDown,
				uintptr(unsafe.Pointer(&c.how)))
			if errno != 0 {
				t.Errorf("shutdown: %v", errno)
			}
			if err := os.Mkdir(filepath.Join(mnt, "more"), 0o755); !errors.Is(err, unix.EIO) {
				t.Errorf("after the shutdown: %v", err)
			}
			_ = dir.Close()
			umount(t, mnt)
			if r := asyncfsd(t, path, mnt); r.code != 0 {
				t.Fatalf("exit code %d: %s", r.code, r.stderr)
			}
			for name, want := range map[string]bool{"synced": true, "late": c.kept, "more": false} {
				if _, err := os.Stat(filepath.Join(mnt, name)); (err == nil) != want {
					t.Errorf("%s: %v, want it there: %v", name, err, want)
				}
			}
			umount(t, mnt)
			check(t, path)
		})
	}
}
