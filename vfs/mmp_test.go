package vfs_test

import (
	"bytes"
	"os"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"asyncfsd/vfs"
	"asyncfsd/vfs/ext4"
)

// mmpBed is a filesystem with multiple mount protection that is mounted, and its block.
type mmpBed struct {
	*writeBed
	file *os.File
	at   int64
}

func openMMP(t *testing.T) *mmpBed {
	t.Helper()
	path := mkfs(t, 32<<20, "-t", "ext4", "-O", "mmp", "-E", "mmp_update_interval=1")
	b := &mmpBed{writeBed: openWrite(t, path, setting{})}
	b.file = must[*os.File](t)(os.OpenFile(path, os.O_RDWR, 0))
	t.Cleanup(func() { _ = b.file.Close() })
	vol := b.fs.Volume()
	b.at = int64(must[ext4.Block](t)(vol.MMPBlock())) << vol.BlockBits
	return b
}

func (b *mmpBed) read() ext4.MMP {
	b.t.Helper()
	block := make([]byte, b.fs.Volume().BlockSize)
	must[int](b.t)(b.file.ReadAt(block, b.at))
	return must[ext4.MMP](b.t)(b.fs.Volume().DecodeMMP(block))
}

func (b *mmpBed) write(m ext4.MMP) {
	b.t.Helper()
	block := make([]byte, b.fs.Volume().BlockSize)
	must[int](b.t)(b.file.ReadAt(block, b.at))
	m.Encode(b.fs.Volume(), block)
	must[int](b.t)(b.file.WriteAt(block, b.at))
}

// until turns the loop until something is true.
func (b *mmpBed) until(what string, done func() bool) {
	b.t.Helper()
	for end := time.Now().Add(10 * time.Second); !done(); {
		if time.Now().After(end) {
			b.t.Fatalf("%s does not happen", what)
		}
		must[vfs.Attr](b.t)(b.Getattr(ext4.RootIno))
		time.Sleep(10 * time.Millisecond)
	}
}

// TestMMPKept wants the number to go up once in an interval, and to say clean at the end.
func TestMMPKept(t *testing.T) {
	b := openMMP(t)
	began := time.Now()
	first := b.read()
	last := first
	for n := range uint32(3) {
		b.until("an update", func() bool { return b.read() != last })
		have := b.read()
		if have.Seq != last.Seq+1 || n > 0 && have.Node != first.Node {
			t.Errorf("update %d: %#v after %#v", n, have, last)
		}
		last = have
	}
	// NB: the first one comes at once.
	if took := time.Since(began); took < 1900*time.Millisecond {
		t.Errorf("three updates in %v", took)
	}
	b.close()
	if have := b.read(); have.Seq != ext4.MMPClean {
		t.Errorf("in the end: %#v", have)
	}
}

// TestMMPLost has somebody else take the filesystem: nothing is written any more.
func TestMMPLost(t *testing.T) {
	b := openMMP(t)
	f := must[vfs.Attr](t)(b.Mknod(ext4.RootIno, "f", unix.S_IFREG|0o644, 0))
	check(t, b.Fsync(0))
	first := b.read()
	b.until("the first update", func() bool { return b.read() != first })
	other := b.read()
	other.Seq += 100
	b.write(other)
	before := must[[]byte](t)(os.ReadFile(b.path))
	b.until("giving up", func() bool { return b.Truncate(f.Ino, 5) == unix.EROFS })
	if _, err := b.WriteAt(f.Ino, make([]byte, 10), 0); err != unix.EROFS {
		t.Errorf("a write: %v", err)
	}
	if _, err := b.Lookup(ext4.RootIno, "f"); err != nil {
		t.Errorf("reading: %v", err)
	}
	if err := b.fs.Unmount(); err == nil {
		t.Error("unmounted as if nothing had happened")
	}
	b.drop()
	if !bytes.Equal(before, must[[]byte](t)(os.ReadFile(b.path))) {
		t.Error("something was written to what somebody else has")
	}
}
