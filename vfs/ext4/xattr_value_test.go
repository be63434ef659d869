package ext4

import (
	"bytes"
	"fmt"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"
)

// delete takes a file's name away, and frees it as the daemon does.
func (h *editTest) delete(name string) {
	h.t.Helper()
	ino := h.lookup(name)
	h.must(func(ed Editor) error {
		var dir, in Inode
		if err := h.v.ReadInode(ed, RootIno, &dir); err != nil {
			return err
		}
		var cur LookupCursor
		if _, _, err := h.v.RemoveEntry(ed, &dir, []byte(name), &cur); err != nil {
			return err
		}
		if err := h.v.WriteInode(ed, &dir); err != nil {
			return err
		}
		if err := h.v.ReadInode(ed, ino, &in); err != nil {
			return err
		}
		in.Links = 0
		if err := h.v.AddOrphan(ed, h.orphans, &in); err != nil {
			return err
		}
		return h.v.WriteInode(ed, &in)
	})
	if err := h.change(ino, func(ed Editor, in *Inode) error {
		_, err := h.v.RemoveRuns(ed, in, 0, 1<<32-1)
		return err
	}); err != nil {
		h.t.Fatal(err)
	}
	for again := true; again; h.freeGone() {
		if err := h.change(ino, func(ed Editor, in *Inode) error {
			err := h.v.FreeXattrs(ed, in)
			if again = err == ErrContinue; again {
				err = nil
			}
			return err
		}); err != nil {
			h.t.Fatal(err)
		}
	}
	h.freeOrphan(ino)
}

// TestFreeValues deletes a file with more values in inodes of their own than one step drops, inside
// the inode and in the block.
func TestFreeValues(t *testing.T) {
	for _, args := range [][]string{{"-I", "1024"}, {"-I", "256"}, {"-I", "128"}} {
		h, files := newXattrTest(t, append([]string{"-t", "ext4", "-b", "1024", "-O", "ea_inode"},
			args...)...)
		h.inject = true
		clusters, inodes := h.ed.space.freeClusters, h.ed.space.freeInodes
		const values = 3*valuesPerStep + 1
		for i := range values {
			s := xattrStep{file: 1, name: fmt.Sprint("user.", i),
				value: bytes.Repeat([]byte{byte(i)}, 2000+i)}
			if err := s.apply(h, files); err != nil {
				t.Fatal(err)
			}
		}
		if n := inodes - h.ed.space.freeInodes; n != values {
			t.Errorf("%d values have taken %d inodes", values, n)
		}
		fsck(t, h.write(), "-fn")
		h.delete(xattrFile(1))
		if h.ed.space.freeInodes != inodes+1 || h.ed.space.freeClusters < clusters {
			t.Errorf("%d inodes, %d blocks are not free", inodes+1-h.ed.space.freeInodes,
				clusters-h.ed.space.freeClusters)
		}
		if n := len(h.orphans.List()); n > 0 {
			t.Errorf("%d orphans are left", n)
		}
		fsck(t, h.write(), "-fn")
	}
}

// TestSharedValues changes what the kernel has made: a block that several inodes share, with values
// that are in inodes which share them, too.
func TestSharedValues(t *testing.T) {
	h, _ := newXattrTest(t, "-t", "ext4", "-b", "1024", "-I", "128", "-O", "ea_inode")
	big, other := bytes.Repeat([]byte("value"), 1000), bytes.Repeat([]byte("other"), 900)
	mountLoop(t, h.path, "rw", func(dir string) {
		for i := range 6 {
			file := filepath.Join(dir, xattrFile(i))
			for _, err := range []error{unix.Setxattr(file, "user.big", big, 0),
				unix.Setxattr(file, "user.other", other, 0),
				unix.Setxattr(file, "user.small", []byte("small"), 0)} {
				if err != nil {
					t.Fatal(err)
				}
			}
		}
	})
	h = openEditTest(t, h.path)
	h.inject = true
	files := make([]Ino, xattrFiles)
	model := make([]map[string]string, xattrFiles)
	for i := range files {
		files[i], model[i] = h.lookup(xattrFile(i)), map[string]string{}
		if i < 6 {
			model[i] = map[string]string{"user.big": string(big), "user.other": string(other),
				"user.small": "small"}
		}
	}
	compareXattrs(t, h, files, model)
	if b := h.read(files[0]).FileACL; b == 0 || b != h.read(files[5]).FileACL {
		t.Skip("the kernel does not share attribute blocks")
	}
	for _, s := range []xattrStep{
		{file: 5, name: "user.small", value: other},
		{file: 4, name: "user.small", value: other}, // in two entries of a copied block
		{file: 0, name: "user.small", value: []byte("changed")},
		{file: 1, name: "user.big", remove: true},
		{file: 2, name: "user.other", value: bytes.Repeat([]byte("another"), 800)},
		{file: 1, name: "user.other", remove: true},
		{file: 3, name: "user.big", value: []byte("no longer")},
	} {
		if err := s.apply(h, files); err != nil {
			t.Fatal(err)
		}
		if err := s.model(model, true); err != nil {
			t.Fatal(err)
		}
		compareXattrs(t, h, files, model)
		fsck(t, h.write(), "-fn")
	}
	for i := range 6 {
		h.delete(xattrFile(i))
		fsck(t, h.write(), "-fn")
	}
	if n := len(h.orphans.List()); n > 0 {
		t.Errorf("%d orphans are left", n)
	}
}

// TestValueErrors covers what stays as it is.
func TestValueErrors(t *testing.T) {
	h, files := newXattrTest(t, "-t", "ext4", "-b", "1024", "-O", "ea_inode")
	large := make([]byte, 3000)
	link := h.newInode(unix.S_IFLNK|0o777, 0, nil)
	if err := h.change(link, func(ed Editor, in *Inode) error {
		return h.v.SetXattr(ed, in, XattrIndexTrusted, []byte("a"), large, 0)
	}); err != unix.ENOSPC {
		t.Errorf("a symbolic link: %v", err)
	}
	h.freeOrphan(link)
	s := xattrStep{name: "user.a", value: large}
	if err := s.apply(h, files); err != nil {
		t.Fatal(err)
	}
	h.ed.space.Attach(nil)
	if s.remove = true; s.apply(h, files) != unix.EOPNOTSUPP {
		t.Errorf("nowhere to put an orphan: %v", s.apply(h, files))
	}
	fsck(t, h.write(), "-fn")
}

// TestEqualValues has attributes of many files share the inode of their value, gives them up one by
// one, and sets the same value once more when its inode is free, or something else.
func TestEqualValues(t *testing.T) {
	for _, args := range [][]string{{"-b", "1024", "-I", "128"}, {"-b", "4096"}} {
		h, files := newXattrTest(t, append([]string{"-t", "ext4", "-O", "ea_inode"}, args...)...)
		h.inject = true
		inodes := h.ed.space.freeInodes
		value, other := bytes.Repeat([]byte("equal"), 1500), bytes.Repeat([]byte("other"), 1500)
		set := func(file int, name string, value []byte, taken int64) {
			t.Helper()
			s := xattrStep{file: file, name: name, value: value, remove: value == nil}
			if err := s.apply(h, files); err != nil {
				t.Fatal(err)
			}
			if n := inodes - h.ed.space.freeInodes; n != taken {
				t.Errorf("%v: %d inodes are taken, want %d", &s, n, taken)
			}
		}
		for round := range 3 {
			for i := range 4 {
				set(i, "user.a", value, 1)
				set(i, "user.b", value, 1)
			}
			fsck(t, h.write(), "-fn")
			for i := range 4 {
				set(i, "user.a", other, 2)
				set(i, "user.a", value, 1)
				set(i, "user.a", value, 1)
			}
			for i := range 4 {
				set(i, "user.a", []byte("small"), 1)
				set(i, "user.b", nil, int64(1-i/3))
			}
			if round == 0 {
				fsck(t, h.write(), "-fn")
				continue
			}
			// The inode that had the value has another one, of the same size.
			set(5, "user.c", other, 1)
			set(6, "user.c", value, 2)
			set(6, "user.c", nil, 1)
			set(5, "user.c", nil, 0)
		}
		fsck(t, h.write(), "-fn")
	}
}
