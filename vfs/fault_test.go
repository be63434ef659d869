package vfs_test

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"slices"
	"testing"

	"golang.org/x/sys/unix"

	"asyncfsd/blockdev"
	"asyncfsd/vfs"
	"asyncfsd/vfs/ext4"
)

// faultScript does a little of everything, and returns the first error of any step. A step that
// needs what an earlier one should have made is left out without it.
func faultScript(b *memBed) (errs []error) {
	note := func(err error) bool {
		if err != nil {
			errs = append(errs, err)
		}
		return err == nil
	}
	root := ext4.RootIno
	f, err := b.Mknod(root, "file", unix.S_IFREG|0o644, 0)
	if note(err) {
		_, err = b.WriteAt(f.Ino, bytes.Repeat([]byte("a"), 30000), 0)
		note(err)
		note(b.Fsync(f.Ino))
		_, err = b.WriteAt(f.Ino, bytes.Repeat([]byte("b"), 5000), 1001)
		note(err)
		_, err = b.WriteAt(f.Ino, bytes.Repeat([]byte("c"), 700), 30000)
		note(err)
		note(b.Truncate(f.Ino, 12345))
		note(b.Truncate(f.Ino, 50000))
		note(b.Fallocate(f.Ino, unix.FALLOC_FL_KEEP_SIZE|unix.FALLOC_FL_PUNCH_HOLE, 3000, 6000))
		note(b.Fallocate(f.Ino, 0, 60000, 20000))
		note(b.Setxattr(f.Ino, "user.small", []byte("value"), 0))
		note(b.Setxattr(f.Ino, "user.large", bytes.Repeat([]byte("v"), 600), 0))
		note(b.Link(f.Ino, root, "link"))
		note(b.Rename(root, "file", root, "moved", 0))
	}
	d, err := b.Mkdir(root, "dir", 0o755)
	if note(err) {
		for i := range 60 {
			_, err := b.Mknod(d.Ino, fmt.Sprint("a-rather-long-name-", i), unix.S_IFREG|0o600, 0)
			note(err)
		}
		_, err = b.Symlink(d.Ino, "symlink", string(bytes.Repeat([]byte("s"), 200)))
		note(err)
		note(b.Fsync(0))
		note(b.Rename(d.Ino, "a-rather-long-name-1", d.Ino, "a-rather-long-name-2", 0))
		note(b.Unlink(d.Ino, "a-rather-long-name-3"))
	}
	if _, err := b.Mkdir(root, "empty", 0o755); note(err) {
		note(b.Rmdir(root, "empty"))
	}
	note(b.Unlink(root, "link"))
	note(b.Fsync(0))
	return errs
}

// TestFaults fails the n-th request to the device, n = 0, 1, 2 … until the script gets through: no
// step gives another error than EIO or EROFS, or one that follows from a step before, and what is
// on the device then is recovered clean.
func TestFaults(t *testing.T) {
	path := mkfs(t, 16<<20, "-t", "ext4", "-b", "1024", "-J", "size=1")
	base, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	step := 1
	if testing.Short() {
		step = 7
	}
	for n := 0; ; n += step {
		b, err := openMem(slices.Clone(base), 5, false)
		if err != nil {
			t.Fatal(err)
		}
		b.fault.SetRules(blockdev.FaultRule{Kind: blockdev.FaultFail, After: n})
		for _, err := range faultScript(b) {
			if !errors.Is(err, unix.EIO) && !errors.Is(err, unix.EROFS) &&
				!errors.Is(err, unix.ENOENT) {
				t.Errorf("request %d failed: %v", n, err)
			}
		}
		done := b.fault.Injected() == 0
		b.fault.SetRules()
		when := fmt.Sprintf("request %d failed", n)
		fsckImage(t, b.data, "-fy", when)
		again, err := openMem(slices.Clone(b.data), 0, false)
		if err != nil {
			t.Fatalf("%s: %v", when, err)
		}
		if err := again.fs.Unmount(); err != nil {
			t.Fatalf("%s: %v", when, err)
		}
		fsckImage(t, again.data, "-fn", when+", recovered here")
		if done || t.Failed() {
			t.Logf("%d requests", n)
			return
		}
	}
}

// TestWriteNoAllocations wants an overwrite to leave the heap alone once it is warm.
func TestWriteNoAllocations(t *testing.T) {
	b := openWrite(t, mkfs(t, 64<<20, "-t", "ext4", "-b", "4096"), setting{})
	defer b.close()
	file := must[vfs.Attr](t)(b.Mknod(ext4.RootIno, "file", unix.S_IFREG|0o644, 0))
	must[int](t)(b.WriteAt(file.Ino, make([]byte, 1<<20), 0))
	f := &nullFront{fs: b.fs}
	f.id = b.fs.AddFront(f)
	for what, size := range map[string]uint32{"block": 4096, "unaligned": 1000, "large": 1 << 19} {
		write := func(op *vfs.Op) {
			op.Code, op.Node, op.Off, op.Size = vfs.OpWrite, file.Ino, 8192, size
			op.Buf = b.fs.Arena().Get(int(size))
		}
		f.run(t, b.loop, write)
		if n := testing.AllocsPerRun(200, func() { f.run(t, b.loop, write) }); n != 0 {
			t.Errorf("%s: %v allocations", what, n)
		}
	}
	if f.failed > 0 {
		t.Errorf("%d operations failed", f.failed)
	}
}
