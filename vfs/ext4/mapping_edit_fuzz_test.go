package ext4

import (
	"bytes"
	"encoding/binary"
	"errors"
	"os"
	"sync"
	"testing"

	"golang.org/x/sys/unix"

	"asyncfsd/internal/manifest"
)

// fuzzImage is a filesystem without checksums in memory, and a file in it with a tree or a map.
type fuzzImage struct {
	data []byte
	v    *Volume
	in   Inode
	// nodes are the blocks of its mapping.
	nodes []Block
}

// fuzzImages are made once: an extent tree with small nodes, and a block map.
var fuzzImages = sync.OnceValues(func() (list [2]fuzzImage, err error) {
	images, err := manifest.Images(imagesDir)
	if err != nil {
		return list, err
	}
	dir, err := os.MkdirTemp("", "fuzz")
	if err != nil {
		return list, err
	}
	defer os.RemoveAll(dir)
	for i := range list {
		img, ok := manifest.Find(images, "ext3-1k")
		if !ok {
			return list, errors.New("no image ext3-1k")
		}
		if err := img.UnpackTo(dir + "/img"); err != nil {
			return list, err
		}
		data, err := os.ReadFile(dir + "/img")
		if err != nil {
			return list, err
		}
		if list[i], err = newFuzzImage(data, i == 0); err != nil {
			return list, err
		}
		if err := os.Remove(dir + "/img"); err != nil {
			return list, err
		}
	}
	return list, nil
})

// newFuzzImage gives a new file some hundred extents, and writes that to data.
func newFuzzImage(data []byte, extents bool) (f fuzzImage, err error) {
	f.data = data
	if f.v, err = Open(bytes.NewReader(data), int64(len(data)), OpenOptions{}); err != nil {
		return f, err
	}
	f.v.nodeEntries = 6
	ed := NewEdit(f.v, bytes.NewReader(data), Timespec{})
	var root Inode
	if err := f.v.ReadInode(ed, RootIno, &root); err != nil {
		return f, err
	}
	in := &f.in
	if in.Ino, err = f.v.AllocInode(ed, &root, false); err != nil {
		return f, err
	}
	in.Mode, in.Links = unix.S_IFREG|0o644, 1
	if extents {
		in.Flags = FlagExtents
	}
	EmptyMapping(in)
	for i := range Lblk(200) {
		b, _, err := f.v.AllocBlocks(ed, Alloc{Want: 3})
		if err != nil {
			return f, err
		}
		n := min(1+uint32(i%3), f.v.InsertMax(in, i*5))
		if err := f.v.InsertRun(ed, in, i*5, b, n, extents && i%4 == 0); err != nil {
			return f, err
		}
	}
	if err := f.v.InitInode(ed, in); err != nil {
		return f, err
	}
	for _, c := range ed.Changed() {
		copy(data[int64(c.Block)<<f.v.BlockBits:], c.Data)
	}
	seen := map[Block]bool{}
	note := &noteSource{Source: ed, seen: seen}
	for at := Lblk(0); at < 1000; at++ {
		var run Run
		if err := f.v.Map(note, in, at, 1, &run); err != nil {
			return f, err
		}
	}
	for b := range f.v.BlocksCount {
		if seen[b] {
			f.nodes = append(f.nodes, b)
		}
	}
	// The counts that are kept in memory are of before.
	f.v, err = Open(bytes.NewReader(data), int64(len(data)), OpenOptions{})
	return f, err
}

// noteSource notes which blocks are looked at.
type noteSource struct {
	Source
	seen map[Block]bool
}

func (s *noteSource) Block(b Block) (Buf, error) {
	s.seen[b] = true
	return s.Source.Block(b)
}

// FuzzMappingEdit damages a mapping, and edits it then. The first byte chooses tree or map and how
// many bytes are damaged; four bytes say where and what. What follows are operations of eight
// bytes. Nothing panics or goes on for ever, and errors are of the few kinds there are.
func FuzzMappingEdit(f *testing.F) {
	f.Add([]byte{0, 0, 0, 5, 0, 0, 7, 0, 1, 1, 0, 5, 0, 0, 3, 0, 1, 2, 0, 1, 0, 0, 200, 0, 1})
	f.Add([]byte{1, 0, 0, 5, 0, 0, 7, 0, 1, 1, 0, 5, 0, 0, 3, 0, 1, 2, 0, 1, 0, 0, 200, 0, 1})
	f.Add([]byte{2, 0, 2, 0, 255, 2, 0, 0, 0, 0, 0, 255, 255, 255})
	f.Add([]byte{7, 1, 4, 0, 255, 0, 52, 0, 3, 2, 5, 1, 1, 2, 0, 0, 0, 0, 0, 255, 255, 255})
	f.Fuzz(func(t *testing.T, input []byte) {
		images, err := fuzzImages()
		if err != nil {
			t.Fatal(err)
		}
		if len(input) == 0 {
			return
		}
		img := &images[input[0]&1]
		in := img.in
		ed := NewEdit(img.v, bytes.NewReader(img.data), Timespec{})
		damage := int(input[0] >> 1 & 7)
		input = input[1:]
		for ; damage > 0 && len(input) >= 4; damage-- {
			damageMapping(t, img, ed, &in, input)
			input = input[4:]
		}
		for steps := 0; len(input) >= 8 && steps < 40; steps++ {
			editDamaged(t, img.v, ed, &in, input)
			input = input[8:]
		}
	})
}

func damageMapping(t *testing.T, img *fuzzImage, ed *Edit, in *Inode, p []byte) {
	node := in.IBlock[:]
	if n := int(p[0]) % (len(img.nodes) + 1); n > 0 {
		buf, err := ed.Modify(img.nodes[n-1])
		if err != nil {
			t.Fatal(err)
		}
		node = buf.Data
	}
	node[int(binary.LittleEndian.Uint16(p[1:]))%len(node)] ^= p[3]
}

// editDamaged runs one operation. Damage that an error leaves behind is the next one's.
func editDamaged(t *testing.T, v *Volume, ed *Edit, in *Inode, p []byte) {
	n := uint32(p[1]) + 1
	lblk, more := Lblk(binary.LittleEndian.Uint16(p[2:])), Lblk(binary.LittleEndian.Uint32(p[4:]))
	if p[0]&0x40 != 0 {
		lblk = more
	}
	var err error
	switch p[0] % 6 {
	case 0:
		var b Block
		if b, n, err = v.AllocBlocks(ed, Alloc{Want: n}); err == nil {
			n = min(n, max(1, v.InsertMax(in, lblk)))
			err = v.InsertRun(ed, in, lblk, b, n, p[0]&0x80 != 0)
		}
	case 1:
		err = v.ConvertRun(ed, in, lblk, n, p[0]&0x80 != 0)
	case 2, 3:
		next, was := more, more
		for range 40 {
			if next, err = v.RemoveRuns(ed, in, min(lblk, was), was); err != ErrContinue {
				break
			}
			if next >= was || next < lblk {
				t.Fatalf("removing [%d, %d) goes on from %d", lblk, was, next)
			}
			was = next
		}
	case 4:
		var b Block
		if b, err = v.Goal(ed, in, lblk); err == nil && !v.checkBlock(b, 1) {
			t.Fatalf("the goal is block %d", b)
		}
	case 5:
		_, _, err = v.ClusterMapped(ed, in, lblk)
	}
	if corrupt := new(CorruptError); errors.As(err, &corrupt) {
		return
	}
	switch err {
	case nil, ErrContinue, ErrSpaceBusy, unix.ENOSPC, unix.EFBIG, unix.EINVAL, unix.EOPNOTSUPP:
	default:
		t.Fatal(err)
	}
}
