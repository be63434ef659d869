package ext4

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"strings"
	"sync"
	"testing"

	"golang.org/x/sys/unix"

	"asyncfsd/internal/manifest"
)

// fuzzDir is a filesystem without checksums in memory, and a directory with an index in it.
type fuzzDir struct {
	data []byte
	v    *Volume
	in   Inode
}

// fuzzDirImage is made once. Its index has two levels.
var fuzzDirImage = sync.OnceValues(func() (f fuzzDir, err error) {
	images, err := manifest.Images(imagesDir)
	if err != nil {
		return f, err
	}
	img, ok := manifest.Find(images, "ext3-1k")
	if !ok {
		return f, errors.New("no image ext3-1k")
	}
	dir, err := os.MkdirTemp("", "fuzz")
	if err != nil {
		return f, err
	}
	defer os.RemoveAll(dir)
	if err := img.UnpackTo(dir + "/img"); err != nil {
		return f, err
	}
	if f.data, err = os.ReadFile(dir + "/img"); err != nil {
		return f, err
	}
	return f, f.make()
})

// make adds the directory to the image.
func (f *fuzzDir) make() (err error) {
	size := int64(len(f.data))
	if f.v, err = Open(bytes.NewReader(f.data), size, OpenOptions{}); err != nil {
		return err
	}
	ed := NewEdit(f.v, bytes.NewReader(f.data), Timespec{})
	var root Inode
	if err := f.v.ReadInode(ed, RootIno, &root); err != nil {
		return err
	}
	in := &f.in
	if in.Ino, err = f.v.AllocInode(ed, &root, true); err != nil {
		return err
	}
	in.Mode, in.Links = unix.S_IFDIR|0o755, 2
	EmptyMapping(in)
	if err := f.v.InitInode(ed, in); err != nil {
		return err
	}
	if err := f.v.InitDir(ed, in, RootIno); err != nil {
		return err
	}
	for i := range 600 {
		err := f.v.AddEntry(ed, in, fuzzName(i), RootIno, fileTypeDir, new(AddCursor))
		if err != nil {
			return err
		}
	}
	for _, c := range ed.Changed() {
		copy(f.data[int64(c.Block)<<f.v.BlockBits:], c.Data)
	}
	// The counts that are kept in memory are of before.
	f.v, err = Open(bytes.NewReader(f.data), size, OpenOptions{})
	return err
}

func fuzzName(i int) []byte { return fmt.Appendf(nil, "%d%s", i, strings.Repeat("x", 240)) }

// FuzzDirEdit damages a directory, and edits it then. The first byte says how many bytes are
// damaged; four bytes each say where and what. What follows are operations of four bytes. Nothing
// panics or goes on for ever, and errors are of the few kinds there are.
func FuzzDirEdit(f *testing.F) {
	f.Add([]byte{0, 0, 9, 0, 0, 1, 1, 0, 0, 2, 2, 0, 0, 3, 0, 0, 0})
	f.Add([]byte{1, 0, 30, 0, 1, 0, 9, 0, 0, 0, 10, 0, 0, 3, 0, 0, 0})
	f.Add([]byte{1, 0, 28, 0, 9, 0, 9, 0, 0, 0, 10, 0, 0, 4, 0, 0, 0})
	f.Add([]byte{2, 0, 34, 0, 255, 0, 35, 0, 255, 0, 9, 0, 0, 4, 0, 0, 0})
	f.Add([]byte{1, 1, 4, 0, 255, 0, 9, 0, 0, 1, 9, 0, 0})
	f.Fuzz(func(t *testing.T, input []byte) {
		img, err := fuzzDirImage()
		if err != nil {
			t.Fatal(err)
		}
		if len(input) == 0 {
			return
		}
		in := img.in
		ed := NewEdit(img.v, bytes.NewReader(img.data), Timespec{})
		damage := int(input[0] & 7)
		input = input[1:]
		for ; damage > 0 && len(input) >= 4; damage-- {
			b, err := img.v.dirBlock(ed, &in, Lblk(uint32(input[0])%img.v.dirBlocks(&in)))
			if err != nil {
				t.Fatal(err)
			}
			buf, err := ed.Modify(b.where)
			if err != nil {
				t.Fatal(err)
			}
			buf.Data[binary.LittleEndian.Uint16(input[1:])%1024] ^= input[3]
			input = input[4:]
		}
		for steps := 0; len(input) >= 4 && steps < 40; steps++ {
			editDamagedDir(t, img.v, ed, &in, input)
			input = input[4:]
		}
	})
}

// editDamagedDir runs one operation. Damage that an error leaves behind is the next one's.
func editDamagedDir(t *testing.T, v *Volume, ed *Edit, in *Inode, p []byte) {
	name := fuzzName(int(binary.LittleEndian.Uint16(p[1:])) % 1200)
	if p[3]&1 != 0 {
		name = name[:len(name)-int(p[3])%230]
	}
	var cur LookupCursor
	var add AddCursor
	err := ErrContinue
	for tries := 0; err == ErrContinue; tries++ {
		if tries > 1000 {
			t.Fatal("no end")
		}
		switch p[0] % 5 {
		case 0:
			err = v.AddEntry(ed, in, name, RootIno, fileTypeDir, &add)
		case 1:
			_, _, err = v.RemoveEntry(ed, in, name, &cur)
		case 2:
			err = v.SetEntry(ed, in, name, RootIno, fileTypeDir, &cur)
		case 3:
			err = v.DirEmpty(ed, in, &cur)
		case 4:
			err = v.SetEntry(ed, in, dots, RootIno, fileTypeDir, &cur)
		}
	}
	if corrupt := new(CorruptError); errors.As(err, &corrupt) {
		return
	}
	switch err {
	case nil, ErrSpaceBusy, unix.ENOSPC, unix.ENOENT, unix.ENOTEMPTY, unix.EFBIG:
	default:
		t.Fatal(err)
	}
}
