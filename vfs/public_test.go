package vfs_test

import (
	"bytes"
	"math/rand/v2"
	"os"
	"testing"

	"golang.org/x/sys/unix"

	"asyncfsd/asyncq"
	"asyncfsd/blockdev"
	"asyncfsd/vfs"
	"asyncfsd/vfs/ext4"
)

// publicBed is a filesystem with a file in it that is used by the public API.
type publicBed struct {
	*memBed
	t      *testing.T
	ino    ext4.Ino
	handle asyncq.Handle
}

func newPublicBed(t *testing.T, seed uint64) *publicBed {
	base := must[[]byte](t)(os.ReadFile(mkfs(t, 16<<20, "-t", "ext4", "-J", "size=4")))
	b := &publicBed{memBed: must[*memBed](t)(openMem(base, seed, true)), t: t}
	t.Cleanup(b.close)
	b.ino = must[vfs.Attr](t)(b.Mknod(ext4.RootIno, "file", unix.S_IFREG|0o644, 0)).Ino
	b.handle = b.fs.FileHandle(b.ino)
	return b
}

// start begins a write at off.
func (b *publicBed) start(off int64, p []byte) asyncq.DescID {
	return must[asyncq.DescID](b.t)(b.loop.Start(b.handle, off, false, asyncq.NewBuffer(p)))
}

// commit waits until everything about an inode is durable.
func (b *publicBed) commit(ino ext4.Ino) error {
	id := must[asyncq.DescID](b.t)(b.loop.Start(b.fs.CommitHandle(ino), 0, false, nil))
	_, err := b.loop.Release(id)
	return err
}

// TestPublicWrite writes by descriptors, many at a time, and has a crash after a commit.
func TestPublicWrite(t *testing.T) {
	for seed := range uint64(6) {
		b := newPublicBed(t, seed)
		r := rand.New(rand.NewPCG(seed, 1))
		want := make([]byte, 6<<20)
		for range 3 {
			var ids []asyncq.DescID
			for off := 0; off < len(want); { // NB: pieces share sectors and blocks
				n := min(1+r.IntN(1<<(4+r.IntN(19))), len(want)-off)
				for i := range n {
					want[off+i] = byte(r.Uint32())
				}
				ids = append(ids, b.start(int64(off), bytes.Clone(want[off:off+n])))
				if off += n; len(ids) < 16 && off < len(want) {
					continue
				}
				total := 0
				for _, id := range ids {
					total += must[int](t)(b.loop.Release(id))
				}
				if ids = ids[:0]; total == 0 {
					t.Fatal("nothing was written")
				}
			}
		}
		check(t, b.commit(ext4.Ino(seed%2)*b.ino))
		image := b.record.Image(b.record.Now(), blockdev.KeepNone)
		after := must[*memBed](t)(openMem(image, 1, false))
		have := make([]byte, len(want)+1)
		if n, _ := after.Client.ReadAt(b.ino, have, 0); !bytes.Equal(have[:n], want) {
			t.Errorf("seed %d: %d bytes after the crash, other ones than were written", seed, n)
		}
		check(t, after.fs.Unmount())
		after.close()
		check(t, b.fs.Unmount())
		fsckImage(t, b.data, "-fn", "after unmounting")
	}
}

// TestPublicWriteEnds has what a write by a descriptor can end with.
func TestPublicWriteEnds(t *testing.T) {
	b := newPublicBed(t, 1)
	if _, err := b.loop.Release(b.start(-1, []byte("x"))); err != unix.EINVAL {
		t.Errorf("before the beginning: %v", err)
	}
	if n, err := b.loop.Release(b.start(0, nil)); n != 0 || err != nil {
		t.Errorf("nothing: %d, %v", n, err)
	}
	dir := must[asyncq.DescID](t)(b.loop.Start(b.fs.FileHandle(ext4.RootIno), 0, false,
		asyncq.NewBuffer([]byte("x"))))
	if _, err := b.loop.Release(dir); err != unix.EISDIR {
		t.Errorf("a directory: %v", err)
	}
	big := make([]byte, 20<<20)
	n, err := b.loop.Release(b.start(0, big))
	if size := must[vfs.Attr](t)(b.Getattr(b.ino)).Size; n < 8<<20 || n == len(big) || err != nil ||
		int(size) != n {
		t.Errorf("into a full filesystem: %d of %d, %v; the file has %d", n, len(big), err, size)
	}
	check(t, b.Truncate(b.ino, 0))
	check(t, b.commit(0)) // what was freed is available
	id := b.start(0, big[:6<<20])
	check(t, b.loop.Cancel(id))
	if n, err := b.loop.Release(id); err != nil && err != unix.ECANCELED || n%(1<<20) != 0 {
		t.Errorf("cancelled: %d, %v", n, err)
	}
	// Its buffers are free again: as many writes as there are descriptors end.
	var ids []asyncq.DescID
	for i := range 64 {
		ids = append(ids, b.start(int64(i)*1000, big[:1000]))
	}
	for _, id := range ids {
		if n, err := b.loop.Release(id); n != 1000 || err != nil {
			t.Fatalf("%d, %v", n, err)
		}
	}
	check(t, b.fs.Unmount())
	fsckImage(t, b.data, "-fn", "after unmounting")
}
