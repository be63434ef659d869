package vfs_test

import (
	"testing"

	"asyncfsd/asyncq"
	"asyncfsd/internal/manifest"
	"asyncfsd/vfs"
	"asyncfsd/vfs/ext4"
)

// nullFront takes results and forgets them, without an allocation.
type nullFront struct {
	fs      *vfs.FS
	id      vfs.FrontID
	replies int
	failed  int
	bytes   uint64 // that were written by those that have not failed
	written bool   // a WRITE has been replied to
}

func (f *nullFront) Reply(s asyncq.Slot, op *vfs.Op) {
	f.replies++
	f.written = f.written || op.Code == vfs.OpWrite
	if op.Errno != 0 {
		f.failed++
	} else if op.Code == vfs.OpWrite {
		f.bytes += uint64(op.N)
	}
	f.fs.Done(s)
}

func (f *nullFront) AddDirent(op *vfs.Op, payload []byte, ent *ext4.Dirent, _ *vfs.Attr) bool {
	if int(op.N)+len(ent.Name) > len(payload) {
		return false
	}
	op.N += uint32(copy(payload[op.N:], ent.Name))
	return true
}

func (f *nullFront) Held(ext4.Ino) bool { return false }

// run begins one operation and turns the loop until it has been replied to.
func (f *nullFront) run(t testing.TB, l *asyncq.Loop, fill func(op *vfs.Op)) {
	f.begin(t, fill)
	for want := f.replies + 1; f.replies < want; {
		if err := l.Step(false); err != nil {
			t.Fatal(err)
		}
	}
}

// TestNoAllocations wants each operation of the hot paths to leave the heap alone once it is
// warm: with everything cached, and, in the smallest cache, with reads of the disk.
func TestNoAllocations(t *testing.T) {
	img := named(t, "ext4-4k")
	b := serve(t, img, manifest.Unpack(t, img), setting{})
	f := &nullFront{fs: b.fs}
	f.id = b.fs.AddFront(f)
	dir, err := b.client.Resolve("dir")
	if err != nil {
		t.Fatal(err)
	}
	file, err := b.client.Resolve("sizes/100001")
	if err != nil {
		t.Fatal(err)
	}
	link, err := b.client.Resolve("links/good")
	if err != nil {
		t.Fatal(err)
	}
	xattr, err := b.client.Resolve("xattrs/block")
	if err != nil {
		t.Fatal(err)
	}
	name, key := []byte("name-077"), []byte("user.key3")
	for what, fill := range map[string]func(op *vfs.Op){
		"lookup": func(op *vfs.Op) {
			op.Code, op.Node = vfs.OpLookup, dir.Ino
			op.SetName(name)
		},
		"getattr": func(op *vfs.Op) { op.Code, op.Node = vfs.OpGetattr, file.Ino },
		"read": func(op *vfs.Op) {
			op.Code, op.Node, op.Off, op.Size = vfs.OpRead, file.Ino, 8192, 32768
		},
		"readlink": func(op *vfs.Op) { op.Code, op.Node = vfs.OpReadlink, link.Ino },
		"readdir": func(op *vfs.Op) {
			op.Code, op.Node, op.Size = vfs.OpReaddir, dir.Ino, 4096
		},
		"readdirplus": func(op *vfs.Op) {
			op.Code, op.Node, op.Size = vfs.OpReaddirPlus, dir.Ino, 4096
		},
		"getxattr": func(op *vfs.Op) {
			op.Code, op.Node, op.Size = vfs.OpGetxattr, xattr.Ino, 4096
			op.SetName(key)
		},
		"listxattr": func(op *vfs.Op) {
			op.Code, op.Node, op.Size = vfs.OpListxattr, xattr.Ino, 4096
		},
		"lseek": func(op *vfs.Op) { op.Code, op.Node, op.Arg = vfs.OpLseek, file.Ino, 4 },
	} {
		f.run(t, b.loop, fill)
		if n := testing.AllocsPerRun(200, func() { f.run(t, b.loop, fill) }); n != 0 {
			t.Errorf("%s: %v allocations", what, n)
		}
	}
	if f.failed > 0 {
		t.Errorf("%d operations failed", f.failed)
	}
}

func BenchmarkGetattr(b *testing.B) {
	img := named(b, "ext4-4k")
	bed := serve(b, img, manifest.Unpack(b, img), setting{cache: 32 << 20})
	f := &nullFront{fs: bed.fs}
	f.id = bed.fs.AddFront(f)
	b.ReportAllocs()
	for b.Loop() {
		f.run(b, bed.loop, func(op *vfs.Op) { op.Code, op.Node = vfs.OpGetattr, 12 })
	}
}
