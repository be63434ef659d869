package vfs_test

import (
	"bytes"
	"errors"
	"flag"
	"fmt"
	"os"
	"slices"
	"testing"

	"golang.org/x/sys/unix"

	"asyncfsd/asyncq"
	"asyncfsd/blockdev"
	"asyncfsd/vfs"
	"asyncfsd/vfs/ext4"
)

// faultScript does a little of everything, and returns the first error of any step. A step that
// needs what an earlier one should have made is left out without it. With behind the writes are
// replied to before their data are on the device.
func faultScript(b *memBed, behind bool) (errs []error) {
	write := b.WriteAt
	if behind {
		write = b.WriteBehind
	}
	note := func(err error) bool {
		if err != nil {
			errs = append(errs, err)
		}
		return err == nil
	}
	root := ext4.RootIno
	f, err := b.Mknod(root, "file", unix.S_IFREG|0o644, 0)
	if note(err) {
		_, err = write(f.Ino, bytes.Repeat([]byte("a"), 30000), 0)
		note(err)
		note(b.Fsync(f.Ino))
		_, err = write(f.Ino, bytes.Repeat([]byte("b"), 5000), 1001)
		note(err)
		_, err = write(f.Ino, bytes.Repeat([]byte("c"), 700), 30000)
		note(err)
		note(b.Fsync(f.Ino))
		note(b.Truncate(f.Ino, 12345))
		note(b.Truncate(f.Ino, 50000))
		note(b.Fsync(0))
		note(b.Fallocate(f.Ino, unix.FALLOC_FL_KEEP_SIZE|unix.FALLOC_FL_PUNCH_HOLE, 3000, 6000))
		note(b.Fallocate(f.Ino, 0, 60000, 20000))
		note(b.Setxattr(f.Ino, "user.small", []byte("value"), 0))
		note(b.Setxattr(f.Ino, "user.large", bytes.Repeat([]byte("v"), 600), 0))
		note(b.Setxattr(f.Ino, "user.value", bytes.Repeat([]byte("i"), 3000), 0))
		note(b.Setxattr(f.Ino, "user.value", bytes.Repeat([]byte("j"), 3000), 0))
		if g, err := b.Mknod(root, "copy", unix.S_IFREG|0o644, 0); note(err) {
			_, err = b.CopyRange(g.Ino, 1500, f.Ino, 700, 40000)
			note(err)
		}
		note(b.Fsync(f.Ino))
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
	note(b.Fsync(0))
	note(b.Unlink(root, "link"))
	note(b.Fsync(0))
	return errs
}

// faultKinds are the ways in which requests fail: one alone, or all from one on.
var faultKinds = map[string]blockdev.FaultRule{
	"any":           {},
	"read":          {Ops: blockdev.FaultOn(asyncq.OpRead)},
	"write":         {Ops: blockdev.FaultOn(asyncq.OpWrite)},
	"flush":         {Ops: blockdev.FaultOn(asyncq.OpFlush)},
	"all after it":  {Count: -1},
	"all writes":    {Ops: blockdev.FaultOn(asyncq.OpWrite), Count: -1},
	"torn write":    {Kind: blockdev.FaultTorn, Ops: blockdev.FaultOn(asyncq.OpWrite), Sectors: -1},
	"short request": {Kind: blockdev.FaultShort, Sectors: 1},
}

// TestFaults fails the n-th request to the device, n = 0, 1, 2 … until the script gets through: no
// step gives another error than EIO or EROFS, or one that follows from a step before, and what is
// on the device then is recovered clean.
func TestFaults(t *testing.T) {
	path := mkfs(t, 4<<20, "-t", "ext4", "-b", "1024", "-N", "512", "-J", "size=1", "-O",
		"ea_inode")
	base, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	step := *faultStep
	if testing.Short() {
		step *= 7
	}
	for name, rule := range faultKinds {
		t.Run(name, func(t *testing.T) {
			for n := 0; ; n += step {
				rule.After = n
				if !faultOnce(t, slices.Clone(base), rule) || t.Failed() {
					t.Logf("%d requests", n)
					return
				}
			}
		})
	}
}

// faultStep is 1 for every request; the short run leaves out some, others for each kind of fault.
var faultStep = flag.Int("fault.step", 5, "try only every so many requests")

// faultOnce does the script with one rule, and checks what it leaves. It says whether there was
// anything to fail.
func faultOnce(t *testing.T, data []byte, rule blockdev.FaultRule) (injected bool) {
	t.Helper()
	b, err := openMem(data, 5, false)
	if err != nil {
		t.Fatal(err)
	}
	defer b.close()
	b.fault.SetRules(rule)
	when := fmt.Sprintf("request %d failed", rule.After)
	for _, err := range faultScript(b, rule.After%2 == 1) {
		if !errors.Is(err, unix.EIO) && !errors.Is(err, unix.EROFS) &&
			!errors.Is(err, unix.ENOENT) {
			t.Errorf("%s: %v", when, err)
		}
	}
	injected = b.fault.Injected() > 0
	after := slices.Clone(b.data)
	fsckImage(t, after, "-fy", when)
	faultRecover(t, slices.Clone(b.data), when)
	// The device is well again: what can be written is, and only what cannot be is left to the
	// next mount.
	b.fault.SetRules()
	err = b.fs.Unmount()
	if err == nil {
		fsckImage(t, b.data, "-fn", when+", unmounted")
	} else if rule.Ops == blockdev.FaultOn(asyncq.OpRead) {
		t.Errorf("%s: unmounting: %v", when, err)
	}
	faultRecover(t, b.data, when+", unmounted")
	return injected
}

// faultRecover mounts what there is, and wants it to be clean then.
func faultRecover(t *testing.T, data []byte, when string) {
	t.Helper()
	b, err := openMem(data, 0, false)
	if err != nil {
		t.Fatalf("%s: %v", when, err)
	}
	defer b.close()
	if err := b.fs.Unmount(); err != nil {
		t.Fatalf("%s: %v", when, err)
	}
	fsckImage(t, b.data, "-fn", when+", recovered here")
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

// TestFaultTruncate has a truncation fail in the middle. The file must not show what was behind its
// end when it grows again.
func TestFaultTruncate(t *testing.T) {
	base := must[[]byte](t)(os.ReadFile(mkfs(t, 8<<20, "-t", "ext4", "-b", "1024", "-J", "size=1")))
	b := must[*memBed](t)(openMem(base, 1, false))
	file := must[vfs.Attr](t)(b.Mknod(ext4.RootIno, "file", unix.S_IFREG|0o644, 0))
	for off := range int64(300) { // an extent tree with several leaves
		must[int](t)(b.WriteAt(file.Ino, []byte("old"), off*2048))
	}
	check(t, b.fs.Unmount())
	b.close()
	for n, failed := 0, true; failed; n++ {
		b := must[*memBed](t)(openMem(slices.Clone(base), 1, false))
		b.fault.SetRules(blockdev.FaultRule{After: n, Ops: blockdev.FaultOn(asyncq.OpRead)})
		failed = b.Truncate(file.Ino, 1024) != nil
		b.fault.SetRules()
		size := must[vfs.Attr](t)(b.Getattr(file.Ino)).Size
		if size > 1024 && !failed {
			t.Errorf("read %d failed: size %d", n, size)
		}
		if failed && n%2 == 0 { // and it fails again when it is tried again
			b.fault.SetRules(blockdev.FaultRule{Ops: blockdev.FaultOn(asyncq.OpRead), Count: -1})
		}
		if err := b.Truncate(file.Ino, 600_000); err != nil && (!failed || err != unix.EIO) {
			t.Errorf("read %d failed: growing: %v", n, err)
		}
		b.fault.SetRules()
		data := make([]byte, must[vfs.Attr](t)(b.Getattr(file.Ino)).Size)
		must[int](t)(b.Client.ReadAt(file.Ino, data, 0))
		if i := bytes.Index(data[min(size, 1024):], []byte("old")); size == 1024 && i >= 0 {
			t.Errorf("read %d failed: old data at %d", n, 1024+i)
		}
		check(t, b.fs.Unmount())
		fsckImage(t, b.data, "-fn", fmt.Sprintf("read %d failed", n))
		b.close()
	}
}
