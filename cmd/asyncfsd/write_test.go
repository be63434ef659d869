package main

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"asyncfsd/internal/testenv"
)

// newImage makes an empty filesystem.
func newImage(t *testing.T, args ...string) string {
	t.Helper()
	return newImageOf(t, "64M", args...)
}

// newImageOf makes an empty filesystem of a size.
func newImageOf(t *testing.T, size string, args ...string) string {
	t.Helper()
	testenv.NeedProgram(t, "mke2fs", "e2fsck")
	path := filepath.Join(t.TempDir(), "image")
	args = append([]string{"-q", "-F", "-t", "ext4"}, args...)
	out, err := exec.Command("mke2fs", append(args, path, size)...).CombinedOutput()
	if err != nil {
		t.Fatalf("mke2fs: %v: %s", err, out)
	}
	return path
}

// check wants e2fsck to find nothing.
func check(t *testing.T, path string) {
	t.Helper()
	if out, err := exec.Command("e2fsck", "-fn", path).CombinedOutput(); err != nil {
		t.Errorf("e2fsck: %v: %s", err, out)
	}
}

// filled is what fill leaves behind: names, and the sizes of files.
var filled = map[string]int64{"dir/moved": 5, "dir/hard": 5, "linked": 5000, "mapped": 65536,
	"large": 3<<20 + 1, "cut": 4097, "dir/gone": -1}

// fill changes a filesystem in every way that files are used in.
func fill(t *testing.T, mnt string) {
	must := func(errs ...error) {
		t.Helper()
		if err := errors.Join(errs...); err != nil {
			t.Fatal(err)
		}
	}
	in := func(name string) string { return filepath.Join(mnt, name) }
	large := bytes.Repeat([]byte("0123456789"), 400_000)[:3<<20+1]
	must(os.Mkdir(in("dir"), 0o755), os.Mkdir(in("dir/gone"), 0o700),
		os.WriteFile(in("file"), []byte("hello"), 0o644),
		os.Link(in("file"), in("dir/hard")), os.Rename(in("file"), in("dir/moved")),
		os.Symlink("../x", in("dir/symlink")),
		unix.Mknod(in("fifo"), unix.S_IFIFO|0o600, 0),
		os.WriteFile(in("large"), large, 0o600),
		os.WriteFile(in("cut"), large, 0o600), os.Truncate(in("cut"), 4097),
		unix.Setxattr(in("dir"), "user.name", []byte("value"), 0))
	if err := os.Mkdir(in(strings.Repeat("n", 256)), 0o755); !errors.Is(err, unix.ENAMETOOLONG) {
		t.Errorf("a long name: %v", err)
	}
	if have, err := os.ReadFile(in("large")); err != nil || !bytes.Equal(have, large) {
		t.Errorf("large file: %d bytes, %v", len(have), err)
	}
	nameless(t, mnt)
	mapped(t, in("mapped"))
	for i := range 100 {
		must(os.WriteFile(in(fmt.Sprintf("dir/gone/%d", i)), large[:i*50], 0o600))
	}
	must(os.RemoveAll(in("dir/gone")))
}

// nameless has files without a name: removed while open, and made without one.
func nameless(t *testing.T, mnt string) {
	f, err := os.Create(filepath.Join(mnt, "removed"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	_, _ = f.Write(make([]byte, 100_000))
	_ = os.Remove(f.Name())
	if st, err := f.Stat(); err != nil || st.Size() != 100_000 {
		t.Errorf("removed: %v", err)
	}
	if _, err := f.WriteAt([]byte("more"), 100_000); err != nil {
		t.Errorf("removed: %v", err)
	}
	fd, err := unix.Open(mnt, unix.O_RDWR|unix.O_TMPFILE|unix.O_CLOEXEC, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	_, _ = unix.Write(fd, make([]byte, 5000))
	err = unix.Linkat(unix.AT_FDCWD, fmt.Sprintf("/proc/self/fd/%d", fd), unix.AT_FDCWD,
		filepath.Join(mnt, "linked"), unix.AT_SYMLINK_FOLLOW)
	if err != nil {
		t.Errorf("linkat: %v", err)
	}
}

// mapped has a file seen through the page cache, a mapping and direct I/O at once.
func mapped(t *testing.T, path string) {
	if err := os.WriteFile(path, make([]byte, 65536), 0o600); err != nil {
		t.Fatal(err)
	}
	fd, err := unix.Open(path, unix.O_RDWR|unix.O_DIRECT|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	mem, err := unix.Mmap(fd, 0, 65536, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Munmap(mem)
	page, err := unix.Mmap(-1, 0, 4096, unix.PROT_READ|unix.PROT_WRITE,
		unix.MAP_PRIVATE|unix.MAP_ANONYMOUS)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Munmap(page)
	copy(mem, "mapping")
	if _, err := unix.Pread(fd, page, 0); err != nil || !bytes.HasPrefix(page, []byte("mapping")) {
		t.Errorf("direct read after a write to the mapping: %.10q, %v", page, err)
	}
	copy(page, "direct")
	if _, err := unix.Pwrite(fd, page, 4096); err != nil || string(mem[4096:4102]) != "direct" {
		t.Errorf("mapping after a direct write: %.10q, %v", mem[4096:], err)
	}
	if text, err := os.ReadFile(path); err != nil || string(text[4096:4102]) != "direct" {
		t.Errorf("read after a direct write: %v", err)
	}
}

// verify looks for what fill has left.
func verify(t *testing.T, mnt string) {
	t.Helper()
	for name, size := range filled {
		st, err := os.Lstat(filepath.Join(mnt, name))
		if size < 0 && !errors.Is(err, unix.ENOENT) || size >= 0 && (err != nil ||
			st.Size() != size) {
			t.Errorf("%s: %+v, %v", name, st, err)
		}
	}
}

// TestWrite writes, unmounts, and looks at what is there: with e2fsck and in another mount.
func TestWrite(t *testing.T) {
	testenv.NeedRoot(t)
	for _, c := range [][2]string{{"rw", ""}, {"writeback_cache", ""}, {"sync,dirsync", ""},
		{"noatime", "^has_journal"}, {"strictatime", "^metadata_csum,^64bit"}} {
		t.Run(c[0]+" "+c[1], func(t *testing.T) {
			mnt, path := mountpoint(t), newImage(t, "-O", "extent,"+c[1])
			if r := asyncfsd(t, "-o", c[0], path, mnt); r.code != 0 || r.stderr != "" {
				t.Fatalf("exit code %d: %s", r.code, r.stderr)
			}
			fill(t, mnt)
			verify(t, mnt)
			umount(t, mnt)
			check(t, path)
			mount(t, "-o", "ro", path, mnt)
			verify(t, mnt)
			if err := os.Mkdir(filepath.Join(mnt, "x"), 0o755); !errors.Is(err, unix.EROFS) {
				t.Errorf("read-only: %v", err)
			}
		})
	}
}

// TestWriteEnds ends daemons that have written, by the signal to unmount and by force: what was
// synced is there in the next mount, and what had no name is gone.
func TestWriteEnds(t *testing.T) {
	testenv.NeedRoot(t)
	for name, signal := range map[string]unix.Signal{"SIGTERM": unix.SIGTERM,
		"SIGKILL": unix.SIGKILL, "SIGKILL-ro": unix.SIGKILL} {
		t.Run(name, func(t *testing.T) {
			options := "rw"
			if strings.HasSuffix(name, "ro") {
				options = "ro"
			}
			mnt, path := mountpoint(t), newImage(t)
			lock := filepath.Join(t.TempDir(), "lock")
			if r := asyncfsd(t, "-o", "lockfile="+lock, path, mnt); r.code != 0 {
				t.Fatalf("exit code %d: %s", r.code, r.stderr)
			}
			fill(t, mnt)
			if signal == unix.SIGKILL { // a file without a name, that is open to the end
				gone, err := os.Create(filepath.Join(mnt, "gone"))
				if err != nil {
					t.Fatal(err)
				}
				defer gone.Close()
				if _, err := gone.Write(make([]byte, 100_000)); err != nil {
					t.Error(err)
				}
				if err := os.Remove(gone.Name()); err != nil {
					t.Error(err)
				}
			}
			// NB: FUSE does not pass sync(2) on. Whatever is synced, the journal is committed.
			linked, err := os.Open(filepath.Join(mnt, "linked"))
			if err != nil {
				t.Fatal(err)
			}
			if err := linked.Sync(); err != nil {
				t.Error(err)
			}
			_ = linked.Close()
			end(t, lock, signal)
			if signal == unix.SIGKILL {
				_ = unix.Unmount(mnt, unix.MNT_DETACH)
			} else {
				check(t, path)
			}
			if r := asyncfsd(t, "-o", options, path, mnt); r.code != 0 {
				t.Fatalf("exit code %d: %s", r.code, r.stderr)
			}
			verify(t, mnt)
			umount(t, mnt)
			check(t, path)
		})
	}
}

// end ends the daemon with a lock file by a signal, and waits until it is gone.
func end(t *testing.T, lock string, signal unix.Signal) {
	t.Helper()
	pid := lockHolder(t, lock)
	if err := unix.Kill(pid, signal); err != nil {
		t.Fatal(err)
	}
	waitGone(t, pid)
}

// TestWriteImpossible mounts for reading what cannot be written, and says why.
func TestWriteImpossible(t *testing.T) {
	testenv.NeedRoot(t)
	mnt, path := mountpoint(t), newImage(t, "-b", "1024")
	r := asyncfsd(t, "-o", "sb=8193", path, mnt)
	if r.code != 0 || strings.Count(r.stderr, "\n") != 1 ||
		!strings.Contains(r.stderr, "mounted read-only: ") {
		t.Errorf("exit code %d: %s", r.code, r.stderr)
	}
	if err := os.Mkdir(filepath.Join(mnt, "x"), 0o755); !errors.Is(err, unix.EROFS) {
		t.Errorf("mkdir: %v", err)
	}
	umount(t, mnt)
}

// TestStrictAtime has every opening and reading of a file set its time of access: also that of a
// file that the kernel has cached.
func TestStrictAtime(t *testing.T) {
	testenv.NeedRoot(t)
	mnt, path := mountpoint(t), newImage(t)
	if r := asyncfsd(t, "-o", "strictatime", path, mnt); r.code != 0 {
		t.Fatalf("exit code %d: %s", r.code, r.stderr)
	}
	name := filepath.Join(mnt, "file")
	if err := os.WriteFile(name, []byte("text"), 0o600); err != nil {
		t.Fatal(err)
	}
	var before int64
	for i := range 3 {
		time.Sleep(20 * time.Millisecond) // NB: more than the kernel's clock may be behind
		if _, err := os.ReadFile(name); err != nil {
			t.Fatal(err)
		}
		var st unix.Stat_t
		if err := unix.Stat(name, &st); err != nil {
			t.Fatal(err)
		}
		if st.Atim.Nano() <= before {
			t.Errorf("read %d: the time of access stays %d", i, before)
		}
		before = st.Atim.Nano()
	}
	umount(t, mnt)
	check(t, path)
}

// TestRemount makes a mount read-only and writable again, with its other flags left alone. What was
// mounted for reading stays so.
func TestRemount(t *testing.T) {
	testenv.NeedRoot(t)
	mnt, path := mountpoint(t), newImage(t)
	if r := asyncfsd(t, "-o", "dev,nosuid,rw", path, mnt); r.code != 0 {
		t.Fatalf("exit code %d: %s", r.code, r.stderr)
	}
	name := filepath.Join(mnt, "file")
	f, err := os.Create(name)
	if err != nil {
		t.Fatal(err)
	}
	wantRefusal(t, asyncfsd(t, "-o", "remount,ro", path, mnt), 32, "busy")
	_ = f.Close()
	for _, c := range []struct {
		options string
		want    error
	}{{"remount,ro", unix.EROFS}, {"remount,rw,noexec", nil}, {"remount", nil}} {
		if r := asyncfsd(t, "-o", c.options, path, mnt); r.code != 0 {
			t.Fatalf("%s: exit code %d: %s", c.options, r.code, r.stderr)
		}
		if err := os.WriteFile(name, []byte(c.options), 0o600); !errors.Is(err, c.want) {
			t.Errorf("%s: writing: %v, want %v", c.options, err, c.want)
		}
	}
	var st unix.Statfs_t
	if err := unix.Statfs(mnt, &st); err != nil {
		t.Fatal(err)
	}
	const flags = unix.ST_NOSUID | unix.ST_NODEV | unix.ST_NOEXEC | unix.ST_RDONLY
	if have := st.Flags & flags; have != unix.ST_NOSUID|unix.ST_NOEXEC {
		t.Errorf("flags of the mount: %#x", have)
	}
	umount(t, mnt)
	check(t, path)
	mount(t, "-o", "ro", path, mnt)
	wantRefusal(t, asyncfsd(t, "-o", "remount,rw", path, mnt), 32, "for reading only")
}

// TestUmountBind unmounts a bind mount, for which the daemon does not end.
func TestUmountBind(t *testing.T) {
	testenv.NeedRoot(t)
	mnt, other := mountpoint(t), mountpoint(t)
	mount(t, newImage(t), mnt)
	if err := unix.Mount(mnt, other, "", unix.MS_BIND, ""); err != nil {
		t.Fatal(err)
	}
	begun := time.Now()
	umount(t, other)
	if took := time.Since(begun); took > umountTimeout/2 {
		t.Errorf("unmounting one of two took %v", took)
	}
	if err := os.WriteFile(filepath.Join(mnt, "file"), nil, 0o600); err != nil {
		t.Error(err)
	}
}

// TestKillPrivileges has files that others than root change lose setuid and setgid, for the kernel
// as well, which has their mode in its cache.
func TestKillPrivileges(t *testing.T) {
	testenv.NeedRoot(t)
	testenv.NeedProgram(t, "dd", "fallocate", "truncate")
	mnt, path := mountpoint(t), newImage(t)
	if r := asyncfsd(t, "-o", "kernel", path, mnt); r.code != 0 {
		t.Fatalf("exit code %d: %s", r.code, r.stderr)
	}
	// NB: others do not get to where tests have their directories.
	if err := os.Chmod(filepath.Dir(filepath.Dir(mnt)), 0o755); err != nil {
		t.Fatal(err)
	}
	name := filepath.Join(mnt, "file")
	if err := os.WriteFile(name, make([]byte, 8192), 0o666); err != nil {
		t.Fatal(err)
	}
	if err := os.Chown(name, 1000, 1001); err != nil {
		t.Fatal(err)
	}
	for _, c := range []string{"dd conv=notrunc bs=4k count=1 if=/dev/zero of=",
		"dd conv=notrunc bs=4k count=1 oflag=direct if=/dev/zero of=", "truncate -s 5000 ",
		"fallocate -l 64k ", "fallocate -n -p -l 4k "} {
		if err := unix.Chmod(name, 0o6777); err != nil {
			t.Fatal(err)
		}
		for user, want := range map[uint32]uint32{0: 0o6777, 1000: 0o777} {
			if out, err := asUser(user, "sh", "-c", c+name); err != nil {
				t.Fatalf("%s: %v: %s", c, err, out)
			}
			var st unix.Stat_t
			if err := unix.Stat(name, &st); err != nil || st.Mode&0o7777 != want {
				t.Errorf("%s by %d: mode %o, %v, want %o", c, user, st.Mode, err, want)
			}
			if err := unix.Chmod(name, 0o6777); err != nil {
				t.Fatal(err)
			}
		}
	}
	// Setgid alone marks files for mandatory locking; it stays for who is in the group.
	for group, want := range map[int]uint32{0: 0o666, 1001: 0o2666} {
		if err := errors.Join(os.Chown(name, 0, group), unix.Chmod(name, 0o6666)); err != nil {
			t.Fatal(err)
		}
		if out, err := asUser(1000, "fallocate", "-l", "64k", name); err != nil {
			t.Fatalf("fallocate: %v: %s", err, out)
		}
		var st unix.Stat_t
		if err := unix.Stat(name, &st); err != nil || st.Mode&0o7777 != want {
			t.Errorf("fallocate, file of group %d: mode %o, %v, want %o", group, st.Mode, err, want)
		}
	}
	umount(t, mnt)
	check(t, path)
}

// setFlags is chattr(1): FS_IOC_SETFLAGS.
func setFlags(t *testing.T, path string, flags int) {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	const setflags = 0x40086602
	if err := unix.IoctlSetPointerInt(int(f.Fd()), setflags, flags); err != nil {
		t.Fatal(err)
	}
}

// TestFixedFiles has what the flags of immutable files and of those that can only be appended to
// leave possible.
func TestFixedFiles(t *testing.T) {
	testenv.NeedRoot(t)
	const immutable, appendOnly = 0x10, 0x20
	mnt := mountpoint(t)
	mount(t, newImage(t), mnt)
	name := filepath.Join(mnt, "file")
	now := []unix.Timespec{{Nsec: unix.UTIME_NOW}, {Nsec: unix.UTIME_NOW}}
	then := []unix.Timespec{{Sec: 1}, {Sec: 2}}
	atime := []unix.Timespec{{Sec: 1}, {Nsec: unix.UTIME_OMIT}}
	times := func(ts []unix.Timespec) func() error {
		return func() error { return unix.UtimesNanoAt(unix.AT_FDCWD, name, ts, 0) }
	}
	open := func(flags int) func() error {
		return func() error {
			fd, err := unix.Open(name, flags|unix.O_CLOEXEC, 0)
			if err == nil {
				_, err = unix.Write(fd, []byte("x"))
				_ = unix.Close(fd)
			}
			return err
		}
	}
	for _, c := range []struct {
		what string
		do   func() error
		// Whether it may be done to an immutable file, and to one that is for appending.
		immutable, appendOnly bool
	}{
		{"append", open(unix.O_WRONLY | unix.O_APPEND), false, true},
		{"overwrite", open(unix.O_WRONLY), false, false},
		{"chmod", func() error { return unix.Chmod(name, 0o600) }, false, false},
		{"chown", func() error { return unix.Chown(name, 1, 1) }, false, false},
		{"truncate", func() error { return unix.Truncate(name, 1) }, false, false},
		{"utime now", times(now), false, true},
		{"utime", times(then), false, false},
		{"utime of atime", times(atime), false, false},
		{"setxattr", func() error { return unix.Setxattr(name, "user.a", nil, 0) }, false, false},
		{"link", func() error { return unix.Link(name, name+"2") }, false, false},
		{"rename", func() error { return unix.Rename(name, name+"3") }, false, false},
		{"unlink", func() error { return unix.Unlink(name) }, false, false},
	} {
		for flags, may := range map[int]bool{immutable: c.immutable, appendOnly: c.appendOnly} {
			if err := os.WriteFile(name, []byte("text"), 0o644); err != nil {
				t.Fatal(err)
			}
			setFlags(t, name, flags)
			if err := c.do(); (err == nil) != may || !may && err != unix.EPERM {
				t.Errorf("%s with flags %#x: %v", c.what, flags, err)
			}
			setFlags(t, name, 0)
		}
	}
}

// TestLabel has a new label soon on the device, where programs look for it, and not in the journal
// alone.
func TestLabel(t *testing.T) {
	testenv.NeedRoot(t)
	const setLabel = 0x41009432 // FS_IOC_SETFSLABEL
	mnt, path := mountpoint(t), newImage(t)
	mount(t, path, mnt)
	fd, err := unix.Open(mnt, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	label := [256]byte{}
	copy(label[:], "a new label")
	if _, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), setLabel,
		uintptr(unsafe.Pointer(&label))); errno != 0 {
		t.Fatal(errno)
	}
	image, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer image.Close()
	var name [16]byte // s_volume_name
	for late := time.Now().Add(time.Second); ; time.Sleep(time.Millisecond) {
		if _, err := image.ReadAt(name[:], 1024+0x78); err != nil {
			t.Fatal(err)
		}
		if unix.ByteSliceToString(name[:]) == "a new label" {
			return
		}
		if time.Now().After(late) {
			t.Fatalf("the label on the device is %q", name)
		}
	}
}
