package blockdev

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"asyncfsd/asyncq"
	"asyncfsd/internal/testenv"
)

func imageOf(t testing.TB, contents []byte) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "image")
	if err := os.WriteFile(path, contents, 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// open is Open on an engine of the test's own.
func open(t testing.TB, path string, o Options) (*File, error) {
	t.Helper()
	e, _, err := asyncq.NewEngine("", 8)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = e.Close() })
	dev, err := Open(path, e, o)
	if err != nil {
		return nil, err
	}
	t.Cleanup(func() { _ = dev.Close() })
	return dev.(*File), nil
}

func mustOpen(t testing.TB, path string, o Options) *File {
	t.Helper()
	f, err := open(t, path, o)
	if err != nil {
		t.Fatal(err)
	}
	return f
}

// wantError checks the errno and the one line of an error.
func wantError(t testing.TB, err error, errno unix.Errno, text string) {
	t.Helper()
	if !errors.Is(err, errno) || err.Error() != text {
		t.Errorf("got  %v\nwant %s (%v)", err, text, error(errno))
	}
}

func TestOpenErrors(t *testing.T) {
	dir := t.TempDir()
	empty, pipe, small := dir+"/empty", dir+"/pipe", dir+"/small"
	if err := errors.Join(os.WriteFile(empty, nil, 0o600), unix.Mkfifo(pipe, 0o600),
		os.WriteFile(small, make([]byte, 5000), 0o600)); err != nil {
		t.Fatal(err)
	}
	tests := []struct {
		path  string
		o     Options
		errno unix.Errno
		what  string
	}{
		{dir + "/missing", Options{}, unix.ENOENT, "no such file or directory"},
		{small + "/x", Options{}, unix.ENOTDIR, "not a directory"},
		{dir, Options{}, unix.EISDIR, "is a directory, not an image or a block device"},
		{"/dev/null", Options{}, unix.ENOTBLK,
			"is a character device, not an image or a block device"},
		{pipe, Options{}, unix.ENOTBLK, "is not an image or a block device"},
		{empty, Options{}, unix.EINVAL, "is empty"},
		{small, Options{Offset: 5000}, unix.EINVAL, "offset 5000 is beyond the end at byte 5000"},
		{small, Options{Offset: -1}, unix.EINVAL, "offset -1 is negative"},
		{small, Options{Partition: -1}, unix.EINVAL, "partition -1: partitions are counted from 1"},
		{small, Options{Partition: 1}, unix.ENXIO, "no partition table"},
		{small, Options{Partition: 1, Offset: 512}, unix.EINVAL,
			"either a partition or an offset, not both"},
		{"/dev/fd/999", Options{}, unix.ENOENT, "no such file or directory"},
	}
	for _, c := range tests {
		_, err := open(t, c.path, c.o)
		wantError(t, err, c.errno, c.path+": "+c.what)
	}
}

// TestOpenLocks: one writer or many readers.
func TestOpenLocks(t *testing.T) {
	image := imageOf(t, make([]byte, 64<<10))
	sources := map[string]func() string{"file": func() string { return image }}
	if os.Getuid() == 0 {
		sources["loop"] = func() string {
			device, _ := testenv.LoopDevice(t, 1<<20, 512)
			return device
		}
	}
	for name, source := range sources {
		t.Run(name, func(t *testing.T) {
			path := source()
			busy := path + ": in use by another process"
			w := mustOpen(t, path, Options{})
			_, err := open(t, path, Options{})
			wantError(t, err, unix.EBUSY, busy)
			_, err = open(t, path, Options{ReadOnly: true})
			wantError(t, err, unix.EBUSY, busy)
			mustOpen(t, path, Options{ReadOnly: true, NoLock: true})
			_ = w.Close()
			readers := [3]*File{}
			for i := range readers {
				readers[i] = mustOpen(t, path, Options{ReadOnly: true})
			}
			for i := range readers {
				_, err = open(t, path, Options{})
				wantError(t, err, unix.EBUSY, busy)
				mustOpen(t, path, Options{ReadOnly: true}).Close()
				_ = readers[i].Close()
			}
			_ = mustOpen(t, path, Options{}).Close()
		})
	}
}

const holdVar = "ASYNCFSD_TEST_HOLD"

// TestOpenAfterKill: a process that is killed leaves no lock, whatever it had in flight.
func TestOpenAfterKill(t *testing.T) {
	if path := os.Getenv(holdVar); path != "" {
		f := mustOpen(t, path, Options{})
		mem := pages(t, 1<<20)
		for range 16 {
			f.Submit(asyncq.IO{Buf: mem})
		}
		_, _ = f.Engine().Wait(0, make([]asyncq.Completion, 1))
		fmt.Println("holding")
		select {}
	}
	testenv.NeedRoot(t)
	device, _ := testenv.LoopDevice(t, 16<<20, 512)
	for _, path := range []string{device, imageOf(t, make([]byte, 16<<20))} {
		cmd := exec.Command(os.Args[0], "-test.run=^TestOpenAfterKill$")
		cmd.Env = append(os.Environ(), holdVar+"="+path)
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err = cmd.Start(); err != nil {
			t.Fatal(err)
		}
		if _, err = out.Read(make([]byte, 8)); err != nil {
			t.Fatal(err)
		}
		_, err = open(t, path, Options{})
		wantError(t, err, unix.EBUSY, path+": in use by another process")
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		if _, err = open(t, path, Options{}); err != nil {
			t.Error("after the kill: ", err)
		}
	}
}

// TestOpenMounted: what the kernel has mounted is refused, with the place.
func TestOpenMounted(t *testing.T) {
	testenv.NeedRoot(t)
	testenv.NeedProgram(t, "mke2fs")
	device, file := testenv.LoopDevice(t, 4<<20, 512)
	if out, err := exec.Command("mke2fs", "-q", device).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	dir := t.TempDir()
	for _, flags := range []uintptr{0, unix.MS_RDONLY} {
		if err := unix.Mount(device, dir, "ext2", flags, ""); err != nil {
			testenv.Missing(t, "needs to mount ext2: "+err.Error())
		}
		for _, ro := range []bool{false, true} {
			_, err := open(t, device, Options{ReadOnly: ro})
			wantError(t, err, unix.EBUSY, device+": is mounted on "+dir)
		}
		_, err := open(t, file, Options{})
		wantError(t, err, unix.EBUSY, file+": is mounted on "+dir+" by way of "+device)
		if err := unix.Unmount(dir, 0); err != nil {
			t.Fatal(err)
		}
	}
	f := mustOpen(t, device, Options{ReadOnly: true})
	if err := unix.Mount(device, dir, "ext2", 0, ""); err != unix.EBUSY {
		t.Errorf("the kernel mounts what is in use: %v", err)
	}
	_ = f.Close()
	mustOpen(t, device, Options{})
	mustOpen(t, file, Options{})
}

// TestOpenReadOnly: what cannot be written is read, unless writing is a must.
func TestOpenReadOnly(t *testing.T) {
	check := func(t *testing.T, path string, errno unix.Errno) {
		t.Helper()
		f := mustOpen(t, path, Options{})
		want := fmt.Sprintf("%s: cannot be written (%v), reading only", path, error(errno))
		if !f.ReadOnly() || len(f.Notes()) == 0 || f.Notes()[0] != want {
			t.Errorf("read-only %v, notes %q, want %q", f.ReadOnly(), f.Notes(), want)
		}
		again := mustOpen(t, path, Options{ReadOnly: true})
		for _, n := range again.Notes() {
			if strings.Contains(n, "reading only") {
				t.Errorf("a note on what was asked for: %s", n)
			}
		}
		_ = f.Close()
		_ = again.Close()
		_, err := open(t, path, Options{MustWrite: true})
		wantError(t, err, errno, path+": "+error(errno).Error())
	}
	t.Run("loop", func(t *testing.T) {
		device, _ := testenv.LoopDevice(t, 1<<20, 512, "--read-only")
		check(t, device, openErrno(device))
	})
	t.Run("file system", func(t *testing.T) {
		testenv.NeedRoot(t)
		dir := t.TempDir()
		if err := unix.Mount("none", dir, "tmpfs", 0, ""); err != nil {
			testenv.Missing(t, "needs to mount: "+err.Error())
		}
		defer func() { _ = unix.Unmount(dir, unix.MNT_DETACH) }()
		path := dir + "/image"
		if err := os.WriteFile(path, make([]byte, 8192), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := unix.Mount("none", dir, "", unix.MS_REMOUNT|unix.MS_RDONLY, ""); err != nil {
			t.Fatal(err)
		}
		check(t, path, unix.EROFS)
	})
	t.Run("mode", func(t *testing.T) {
		path := imageOf(t, make([]byte, 8192))
		if err := os.Chmod(path, 0o444); err != nil {
			t.Fatal(err)
		}
		if os.Getuid() != 0 {
			check(t, path, unix.EACCES)
			return
		}
		// Root may do everything: the immutable flag stops it, too.
		fd := mustOpen(t, path, Options{ReadOnly: true, NoLock: true}).fd
		if err := setImmutable(fd, true); err != nil {
			t.Skip("no immutable flag here: ", err)
		}
		defer func() { _ = setImmutable(fd, false) }()
		check(t, path, unix.EPERM)
	})
}

// openErrno is what the kernel answers to a read-write open of a read-only device: EACCES or
// EPERM, or nothing, and then blockdev answers EROFS.
func openErrno(path string) unix.Errno {
	fd, err := unix.Open(path, unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		return err.(unix.Errno)
	}
	_ = unix.Close(fd)
	return unix.EROFS
}

func setImmutable(fd int, on bool) error {
	flags, err := unix.IoctlGetInt(fd, unix.FS_IOC_GETFLAGS)
	if err != nil {
		return err
	}
	if flags &^= unix.STATX_ATTR_IMMUTABLE; on {
		flags |= unix.STATX_ATTR_IMMUTABLE
	}
	return unix.IoctlSetPointerInt(fd, unix.FS_IOC_SETFLAGS, flags)
}

// TestOpenDescriptor: SOURCE may be /dev/fd/N.
func TestOpenDescriptor(t *testing.T) {
	image := imageOf(t, random(1, 8192))
	f, err := os.OpenFile(image, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	path := fmt.Sprintf("/dev/fd/%d", f.Fd())
	r := newRig(t, realEngine(t, "auto"), 0)
	if r.dev, err = Open(path, r.loop.Engine(), Options{}); err != nil {
		t.Fatal(err)
	}
	mem := pages(t, 8192)
	if res := r.do(r.dev, asyncq.IO{Buf: mem}); res != 8192 || !bytes.Equal(mem, random(1, 8192)) {
		t.Fatalf("read: %d", res)
	}
	_, err = open(t, image, Options{})
	wantError(t, err, unix.EBUSY, image+": in use by another process")
}

const handedVar = "ASYNCFSD_TEST_HANDED"

// TestOpenHandedDown: a process with fewer rights uses a descriptor that it may not open anew.
func TestOpenHandedDown(t *testing.T) {
	if os.Getenv(handedVar) != "" {
		f := mustOpen(t, "/dev/fd/3", Options{})
		if f.ReadOnly() || f.Size() != 8192 {
			t.Fatalf("read-only %v, %d bytes", f.ReadOnly(), f.Size())
		}
		fmt.Println("opened")
		return
	}
	testenv.NeedRoot(t)
	file, err := os.OpenFile(imageOf(t, make([]byte, 8192)), os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	self, err := os.Open(os.Args[0])
	if err != nil {
		t.Fatal(err)
	}
	defer self.Close()
	cmd := exec.Command("/proc/self/fd/4", "-test.run=^TestOpenHandedDown$")
	cmd.ExtraFiles = []*os.File{file, self}
	cmd.Env, cmd.Dir = append(os.Environ(), handedVar+"=1"), "/"
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
	out, err := cmd.CombinedOutput()
	if err != nil || !strings.Contains(string(out), "opened") {
		t.Errorf("%v\n%s", err, out)
	}
}

// TestOpenOffset: any offset works; one that is not on a sector goes through the page cache.
func TestOpenOffset(t *testing.T) {
	contents := random(5, 64<<10+100)
	image := imageOf(t, contents)
	device, _ := testenv.LoopDevice(t, 64<<10, 4096)
	if err := os.WriteFile(device, contents[:64<<10], 0o600); err != nil {
		t.Fatal(err)
	}
	tests := []struct {
		path   string
		offset int64
		direct bool
	}{
		{image, 512, true}, {image, 4096, true}, {image, 1000, false}, {image, 64<<10 + 99, false},
		{device, 4096, true}, {device, 512, false}, {device, 1, false},
	}
	for _, c := range tests {
		for _, kind := range []string{"uring", "aio"} {
			r := newRig(t, realEngine(t, kind), 0)
			dev, err := Open(c.path, r.loop.Engine(), Options{Offset: c.offset})
			if err != nil {
				t.Fatal(err)
			}
			f := dev.(*File)
			if f.Direct() != c.direct || (len(f.Notes()) == 0) != c.direct {
				t.Errorf("%s at %d: direct %v, notes %q", c.path, c.offset, f.Direct(), f.Notes())
			}
			n := int(roundUp(f.Size(), int64(f.SectorSize())))
			mem := pages(t, n)
			if res := r.do(f, asyncq.IO{Buf: mem}); int(res) != n ||
				!bytes.Equal(mem[:f.Size()], contents[c.offset:c.offset+f.Size()]) {
				t.Errorf("%s at %d: read of %d: %d, or other bytes", c.path, c.offset, n, res)
			}
			_ = r.loop.Close()
			_ = f.Close()
		}
	}
}

// TestOpenUndirect: a filesystem without direct I/O does, too, and says so.
func TestOpenUndirect(t *testing.T) {
	contents := random(5, 10_000)
	r := newRig(t, realEngine(t, "auto"), 0)
	dev, err := Open(imageOf(t, contents), r.loop.Engine(), Options{Buffered: true})
	if err != nil {
		t.Fatal(err)
	}
	r.dev = dev
	f := dev.(*File)
	if f.Direct() || f.SectorSize() != 512 || len(f.Notes()) != 0 {
		t.Errorf("direct %v, sector %d, notes %q", f.Direct(), f.SectorSize(), f.Notes())
	}
	mem := pages(t, 10_240)
	if res := r.do(f, asyncq.IO{Buf: mem}); res != 10_240 || !bytes.Equal(mem[:10_000], contents) {
		t.Errorf("read: %d", res)
	}
	if file, err := os.Open("/proc/self/mounts"); err == nil { // procfs: no size, no direct I/O
		defer file.Close()
		_, err = open(t, "/proc/self/mounts", Options{})
		wantError(t, err, unix.EINVAL, "/proc/self/mounts: is empty")
	}
}
