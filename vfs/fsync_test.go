package vfs_test

import (
	"bytes"
	"os"
	"slices"
	"testing"

	"golang.org/x/sys/unix"

	"asyncfsd/asyncq"
	"asyncfsd/blockdev"
	"asyncfsd/vfs"
	"asyncfsd/vfs/ext4"
)

// begin begins one operation and does not wait for it.
func (f *nullFront) begin(t testing.TB, fill func(op *vfs.Op)) {
	s, op := f.fs.Claim(f.id)
	if s == asyncq.NoSlot {
		t.Fatal("no slot")
	}
	fill(op)
	f.fs.Submit(s)
}

// TestFsyncDuringCommit overwrites data while the transaction that the file belongs to is being
// committed, in the same tick of the clock, so that the inode is not changed again. The commit's
// own flush may have been too early for them: fsync has to see to that.
func TestFsyncDuringCommit(t *testing.T) {
	base, err := os.ReadFile(mkfs(t, 8<<20, "-t", "ext4", "-b", "1024", "-J", "size=1"))
	if err != nil {
		t.Fatal(err)
	}
	for steps := range 100 {
		fsyncDuringCommit(t, slices.Clone(base), uint64(steps+1), steps)
	}
}

func fsyncDuringCommit(t *testing.T, data []byte, seed uint64, steps int) {
	b := must[*memBed](t)(openMem(data, seed, false))
	defer b.close()
	f := &nullFront{fs: b.fs}
	f.id = b.fs.AddFront(f)
	file := must[vfs.Attr](t)(b.Mknod(ext4.RootIno, "file", unix.S_IFREG|0o644, 0))
	must[int](t)(b.WriteAt(file.Ino, make([]byte, 4096), 0))
	sync := func(op *vfs.Op) { op.Code, op.Node = vfs.OpFsync, file.Ino }
	f.begin(t, sync)
	for range steps {
		check(t, b.loop.Step(false))
	}
	f.begin(t, func(op *vfs.Op) {
		op.Code, op.Node, op.Size, op.Buf = vfs.OpWrite, file.Ino, 4096, b.fs.Arena().Get(4096)
		copy(b.fs.Arena().Payload(op.Buf), bytes.Repeat([]byte("2"), 4096))
	})
	for !f.written {
		check(t, b.loop.Step(false))
	}
	f.begin(t, sync)
	for f.replies < 3 {
		check(t, b.loop.Step(false))
	}
	image := b.record.Image(b.record.Now(), blockdev.KeepNone)
	if !bytes.Contains(image, bytes.Repeat([]byte("2"), 4096)) {
		t.Errorf("after %d steps: what was written before fsync is not durable", steps)
	}
	check(t, b.fs.Unmount())
}
