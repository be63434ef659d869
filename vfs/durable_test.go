package vfs_test

import (
	"bytes"
	"encoding/binary"
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

// formatted is the contents of a new image.
func formatted(t testing.TB, size int64, args ...string) []byte {
	t.Helper()
	return must[[]byte](t)(os.ReadFile(mkfs(t, size, args...)))
}

// afterCut is what a power cut leaves of a filesystem now, if nothing survives that need not:
// mounted again.
func afterCut(t *testing.T, b *memBed) *memBed {
	t.Helper()
	image := b.record.Image(b.record.Now(), blockdev.KeepNone)
	fsckImage(t, slices.Clone(image), "-fy", "power cut")
	return must[*memBed](t)(openMem(image, 1, false))
}

// done unmounts and checks.
func (b *memBed) done(t *testing.T, when string) {
	t.Helper()
	check(t, b.fs.Unmount())
	fsckImage(t, b.whole(), "-fn", when)
	b.close()
}

// TestSyncWrite has a write with O_DSYNC that changes nothing but data, in the tick of the clock of
// one that has made the file longer: the reply promises that what was written can be read.
func TestSyncWrite(t *testing.T) {
	base := formatted(t, 8<<20, "-t", "ext4", "-b", "1024", "-J", "size=1")
	for try := range uint64(20) { // NB: now and then the tick ends in between
		b := must[*memBed](t)(openMem(slices.Clone(base), try+1, false))
		f := &nullFront{fs: b.fs}
		f.id = b.fs.AddFront(f)
		file := must[vfs.Attr](t)(b.Mknod(ext4.RootIno, "file", unix.S_IFREG|0o644, 0))
		for _, arg := range []uint32{0, vfs.WriteSync} {
			f.run(t, b.loop, func(op *vfs.Op) {
				op.Code, op.Node, op.Size, op.Arg = vfs.OpWrite, file.Ino, 4096, arg
				op.Buf = b.fs.Arena().Get(4096)
				copy(b.fs.Arena().Payload(op.Buf), bytes.Repeat([]byte{byte('1' + arg)}, 4096))
			})
		}
		again := afterCut(t, b)
		have := make([]byte, 4096)
		n, err := again.Client.ReadAt(file.Ino, have, 0)
		if err != nil || !bytes.Equal(have, bytes.Repeat([]byte{'1' + vfs.WriteSync}, 4096)) {
			t.Errorf("try %d: %d bytes, %v, %.9q", try, n, err, have)
		}
		again.done(t, "after a power cut")
		b.done(t, "after unmounting")
	}
}

// TestSyncMount has each change durable when it has been made, as a mount with sync promises.
func TestSyncMount(t *testing.T) {
	base := formatted(t, 8<<20, "-t", "ext4", "-b", "1024", "-J", "size=1")
	b := must[*memBed](t)(memSetting{seed: 1, sync: true}.open(base))
	file := must[vfs.Attr](t)(b.Mknod(ext4.RootIno, "file", unix.S_IFREG|0o644, 0))
	for what, change := range map[string]func() error{
		"truncate": func() error { return b.Truncate(file.Ino, 9000) },
		"falloc":   func() error { return b.Fallocate(file.Ino, 0, 0, 20000) },
		"xattr":    func() error { return b.Setxattr(file.Ino, "user.x", []byte("y"), 0) },
		"link":     func() error { return b.Link(file.Ino, ext4.RootIno, "link") },
		"chmod": func() error {
			_, err := b.Setattr(file.Ino, vfs.SetMode, vfs.Attr{Mode: 0o600})
			return err
		},
	} {
		check(t, change())
		want := must[vfs.Attr](t)(b.Getattr(file.Ino))
		again := afterCut(t, b)
		if have := must[vfs.Attr](t)(again.Getattr(file.Ino)); have != want {
			t.Errorf("%s: after a power cut %+v instead of %+v", what, have, want)
		}
		again.done(t, what)
	}
	b.done(t, "after unmounting")
}

// TestLargeTransaction has one transaction with as many blocks, and as many revoked ones, as it may
// get: more would not fit where it is put together for the log, beside which lie the zeros that
// holes in new blocks are filled with.
func TestLargeTransaction(t *testing.T) {
	const dirs = 9000
	base := formatted(t, 96<<20, "-t", "ext4", "-b", "1024", "-J", "size=40", "-i", "2048")
	b := must[*memBed](t)(memSetting{seed: 1, cache: 48 << 10, commit: 1 << 20}.open(base))
	name := func(i int) string { return fmt.Sprint("directory", i) }
	parent := must[vfs.Attr](t)(b.Mkdir(ext4.RootIno, "parent", 0o755)).Ino
	for i := range dirs {
		must[vfs.Attr](t)(b.Mkdir(parent, name(i), 0o755))
	}
	check(t, b.Fsync(0))
	for i := range dirs {
		check(t, b.Rmdir(parent, name(i)))
	}
	check(t, b.Fsync(0))
	file := must[vfs.Attr](t)(b.Mknod(ext4.RootIno, "file", unix.S_IFREG|0o644, 0))
	must[int](t)(b.WriteAt(file.Ino, []byte("x"), 1023)) // zeros before it
	must[int](t)(b.WriteAt(file.Ino, []byte("x"), 4096)) // and behind it
	check(t, b.Truncate(file.Ino, 5120))
	have := make([]byte, 5120)
	must[int](t)(b.Client.ReadAt(file.Ino, have, 0))
	want := make([]byte, 5120)
	want[1023], want[4096] = 'x', 'x'
	if !bytes.Equal(have, want) {
		t.Error("new blocks do not have zeros around what was written")
	}
	check(t, b.Fsync(0))
	again := afterCut(t, b)
	if n := len(must[[]vfs.Dirent](t)(again.ReadDir(parent))); n != 2 {
		t.Errorf("%d entries after a power cut", n)
	}
	again.done(t, "after a power cut")
	b.done(t, "after unmounting")
}

// setSequence has the log of an image without checksums go on with transaction tid.
func setSequence(t testing.TB, image []byte, tid uint32) {
	t.Helper()
	super := []byte{0xc0, 0x3b, 0x39, 0x98, 0, 0, 0, 4} // magic number, superblock of version 2
	for at := 0; at < len(image); at += 1024 {
		if bytes.HasPrefix(image[at:], super) {
			binary.BigEndian.PutUint32(image[at+0x18:], tid)
			return
		}
	}
	t.Fatal("no journal")
}

// TestSequence begins with numbers of transactions that are large, and that wrap round.
func TestSequence(t *testing.T) {
	base := formatted(t, 8<<20, "-t", "ext3", "-b", "1024", "-J", "size=1")
	for _, first := range []uint32{0x7ffffff0, 0x80000005, 0xfffffff0, 0xffffffff} {
		image := slices.Clone(base)
		setSequence(t, image, first)
		b := must[*memBed](t)(openMem(image, 1, false))
		check(t, b.Fsync(ext4.RootIno)) // of what was never changed
		for i := range 40 {
			file := must[vfs.Attr](t)(b.Mknod(ext4.RootIno, fmt.Sprint(i), unix.S_IFREG, 0))
			must[int](t)(b.WriteAt(file.Ino, make([]byte, 3000), 0))
			check(t, b.Fsync(file.Ino))
			if i%5 > 0 {
				continue
			}
			again := afterCut(t, b)
			if n := len(must[[]vfs.Dirent](t)(again.ReadDir(ext4.RootIno))); n != 4+i {
				t.Errorf("from %#x on: %d entries after %d were made", first, n, i+1)
			}
			again.done(t, "after a power cut")
		}
		b.done(t, "after unmounting")
	}
}

// TestFaultTruncateUnlinked is TestFaultTruncate for a file that is open, but has no name any more.
func TestFaultTruncateUnlinked(t *testing.T) {
	base := formatted(t, 8<<20, "-t", "ext4", "-b", "1024", "-J", "size=1")
	b := must[*memBed](t)(openMem(base, 1, false))
	file := must[vfs.Attr](t)(b.Mknod(ext4.RootIno, "file", unix.S_IFREG|0o644, 0))
	for off := range int64(300) { // an extent tree with several leaves
		must[int](t)(b.WriteAt(file.Ino, []byte("old"), off*2048))
	}
	check(t, b.fs.Unmount())
	b.close()
	for n, failed := 0, true; failed; n++ {
		b := must[*memBed](t)(openMem(slices.Clone(base), 1, false))
		held := &holdingFront{nullFront{fs: b.fs}}
		b.fs.AddFront(held)
		check(t, b.Unlink(ext4.RootIno, "file"))
		count := 1 - n%2*2 // every other time all that follow fail, too
		reads := blockdev.FaultRule{After: n, Ops: blockdev.FaultOn(asyncq.OpRead), Count: count}
		b.fault.SetRules(reads)
		failed = b.Truncate(file.Ino, 1024) != nil
		b.fault.SetRules()
		size := must[vfs.Attr](t)(b.Getattr(file.Ino)).Size
		if failed && count < 0 {
			reads.After = 0
			b.fault.SetRules(reads)
		}
		for what, err := range map[string]error{"growing": b.Truncate(file.Ino, 700_000),
			"linking": b.Link(file.Ino, ext4.RootIno, "again")} {
			if err != nil && (!failed || err != unix.EIO) {
				t.Errorf("read %d failed: %s: %v", n, what, err)
			}
		}
		b.fault.SetRules()
		data := make([]byte, must[vfs.Attr](t)(b.Getattr(file.Ino)).Size)
		must[int](t)(b.Client.ReadAt(file.Ino, data, 0))
		if i := bytes.LastIndex(data, []byte("old")); size == 1024 && i > 1024 {
			t.Errorf("read %d failed: old data at %d of %d", n, i, len(data))
		}
		again := afterCut(t, b)
		again.done(t, fmt.Sprintf("read %d failed, power cut", n))
		b.done(t, fmt.Sprintf("read %d failed", n))
	}
}
