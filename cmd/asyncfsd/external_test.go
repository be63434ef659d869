package main

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"asyncfsd/internal/testenv"
)

// external is a filesystem whose journal is a device of its own.
type external struct{ device, journal string }

// newExternal makes one on two loop devices.
func newExternal(t *testing.T, block string) external {
	t.Helper()
	testenv.NeedRoot(t)
	testenv.NeedProgram(t, "mke2fs", "e2fsck")
	device, _ := testenv.LoopDevice(t, 64<<20, 512)
	journal, _ := testenv.LoopDevice(t, 8<<20, 512)
	for _, args := range [][]string{{"-O", "journal_dev", journal},
		{"-t", "ext4", "-J", "device=" + journal, device}} {
		args = append([]string{"-q", "-F", "-b", block}, args...)
		if out, err := exec.Command("mke2fs", args...).CombinedOutput(); err != nil {
			t.Fatalf("mke2fs: %v: %s", err, out)
		}
	}
	return external{device, journal}
}

// mount has asyncfsd mount it.
func (e external) mount(t *testing.T, mnt, options string) {
	t.Helper()
	r := asyncfsd(t, "-o", options+",journal_path="+e.journal, e.device, mnt)
	if r.code != 0 || r.stderr != "" {
		t.Fatalf("exit code %d: %s", r.code, r.stderr)
	}
}

// kernel has the kernel mount it while use runs.
func (e external) kernel(t *testing.T, use func(mnt string)) {
	t.Helper()
	mnt := t.TempDir()
	err := unix.Mount(e.device, mnt, "ext4", unix.MS_NODEV|unix.MS_NOSUID,
		"journal_path="+e.journal)
	if err != nil {
		testenv.Missing(t, "needs the kernel's ext4: "+err.Error())
	}
	defer func() {
		if err := unix.Unmount(mnt, 0); err != nil {
			t.Errorf("unmounting the kernel's: %v", err)
			_ = unix.Unmount(mnt, unix.MNT_DETACH)
		}
	}()
	use(mnt)
}

// check wants e2fsck, run in a certain way, to find nothing but a dirty journal.
func (e external) check(t *testing.T, how string) {
	t.Helper()
	out, err := exec.Command("e2fsck", how, "-j", e.journal, e.device).CombinedOutput()
	var exit *exec.ExitError
	if err != nil && (how == "-fn" || !errors.As(err, &exit) || exit.ExitCode() != 1) ||
		strings.Contains(string(out), "? yes") {
		t.Errorf("e2fsck %s: %v: %s", how, err, out)
	}
}

// crash fills a filesystem, makes that durable and kills the daemon.
func (e external) crash(t *testing.T, mnt string) {
	t.Helper()
	lock := filepath.Join(t.TempDir(), "lock")
	e.mount(t, mnt, "lockfile="+lock)
	fill(t, mnt)
	syncDir(t, mnt)
	end(t, lock, unix.SIGKILL)
	if err := unix.Unmount(mnt, unix.MNT_DETACH); err != nil {
		t.Fatal(err)
	}
}

func syncDir(t *testing.T, path string) {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := errors.Join(f.Sync(), unix.Syncfs(int(f.Fd()))); err != nil {
		t.Error(err)
	}
}

// TestExternal writes with the journal on another device, again and again.
func TestExternal(t *testing.T) {
	for _, block := range []string{"4096", "1024"} {
		t.Run(block, func(t *testing.T) {
			e, mnt := newExternal(t, block), mountpoint(t)
			e.mount(t, mnt, "rw")
			fill(t, mnt)
			verify(t, mnt)
			umount(t, mnt)
			e.check(t, "-fn")
			e.kernel(t, func(mnt string) { verify(t, mnt) })
			e.mount(t, mnt, "rw")
			verify(t, mnt)
			umount(t, mnt)
			e.check(t, "-fn")
		})
	}
}

// TestExternalDirty leaves a dirty journal on another device to the kernel, to e2fsck, and to
// itself; and takes over the kernel's.
func TestExternalDirty(t *testing.T) {
	t.Run("to the kernel", func(t *testing.T) {
		e := newExternal(t, "4096")
		e.crash(t, mountpoint(t))
		e.kernel(t, func(mnt string) { verify(t, mnt) })
		e.check(t, "-fn")
	})
	t.Run("to e2fsck", func(t *testing.T) {
		e, mnt := newExternal(t, "1024"), mountpoint(t)
		e.crash(t, mnt)
		e.check(t, "-fp")
		e.check(t, "-fn")
		e.mount(t, mnt, "ro")
		verify(t, mnt)
		umount(t, mnt)
	})
	t.Run("to itself", func(t *testing.T) {
		e, mnt := newExternal(t, "4096"), mountpoint(t)
		e.crash(t, mnt)
		e.mount(t, mnt, "rw")
		verify(t, mnt)
		umount(t, mnt)
		e.check(t, "-fn")
	})
	t.Run("from the kernel", func(t *testing.T) {
		e, mnt := newExternal(t, "4096"), mountpoint(t)
		e.kernel(t, func(mnt string) {
			fill(t, mnt)
			syncDir(t, mnt)
			kernelShutdown(t, mnt)
		})
		e.mount(t, mnt, "rw")
		verify(t, mnt)
		if err := os.WriteFile(mnt+"/more", []byte("x"), 0o600); err != nil {
			t.Error(err)
		}
		umount(t, mnt)
		e.check(t, "-fn")
	})
}

// kernelShutdown stops a mount of the kernel's as a crash would, after a commit.
func kernelShutdown(t *testing.T, mnt string) {
	t.Helper()
	f, err := os.Open(mnt)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	const ext4Shutdown, logFlush = 0x8004587d, 1
	if err := unix.IoctlSetPointerInt(int(f.Fd()), ext4Shutdown, logFlush); err != nil {
		t.Fatalf("shutdown: %v", err)
	}
}

// TestExternalRefused has no journal, the wrong one, and one that is somebody else's.
func TestExternalRefused(t *testing.T) {
	e, other, mnt := newExternal(t, "4096"), newExternal(t, "4096"), mountpoint(t)
	r := asyncfsd(t, e.device, mnt)
	if r.code != 0 || strings.Count(r.stderr, "\n") != 1 || !strings.Contains(r.stderr,
		"mounted read-only: the journal is on another device, with UUID ") {
		t.Errorf("exit code %d: %s", r.code, r.stderr)
	}
	umount(t, mnt)
	wantRefusal(t, asyncfsd(t, "-o", "journal_path="+other.journal, e.device, mnt), 32,
		"external journal: UUID is ")
	wantRefusal(t, asyncfsd(t, "-o", "journal_path="+other.device, e.device, mnt), 32,
		"external journal: not a journal device")
	e.mount(t, mnt, "rw")
	wantRefusal(t, asyncfsd(t, "-o", "journal_path="+e.journal, other.device, t.TempDir()), 32,
		"in use by another process")
	umount(t, mnt)
	forgetUser(t, other.journal) // NB: which has no checksum before it is first written
	r = asyncfsd(t, "-o", "journal_path="+other.journal, other.device, mnt)
	if r.code != 0 || !strings.Contains(r.stderr,
		"mounted read-only: the external journal belongs to a filesystem with UUID ") {
		t.Errorf("exit code %d: %s", r.code, r.stderr)
	}
	umount(t, mnt)
}

// forgetUser changes the UUID of the filesystem that a journal says it belongs to.
func forgetUser(t *testing.T, journal string) {
	t.Helper()
	f, err := os.OpenFile(journal, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	p := make([]byte, 16)
	const users = 4096 + 0x100
	_, err = f.ReadAt(p, users)
	p[3] ^= 1
	if err == nil {
		_, err = f.WriteAt(p, users)
	}
	if err == nil {
		err = f.Sync()
	}
	if err != nil {
		t.Fatal(err)
	}
}
