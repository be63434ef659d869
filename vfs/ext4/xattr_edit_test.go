package ext4

import (
	"bytes"
	"fmt"
	"maps"
	"math/rand"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// xattrImages are filesystems with attributes of different room, in the inode and in blocks.
var xattrImages = map[string][]string{
	"ext4":     {"-t", "ext4", "-b", "4096"},
	"ext4-1k":  {"-t", "ext4", "-b", "1024"},
	"512":      {"-t", "ext4", "-b", "4096", "-I", "512"},
	"1024":     {"-t", "ext4", "-b", "1024", "-I", "1024"},
	"128":      {"-t", "ext4", "-b", "1024", "-I", "128"},
	"ext3":     {"-t", "ext3", "-b", "2048", "-I", "256"},
	"ext2":     {"-t", "ext2", "-b", "1024", "-I", "128"},
	"none":     {"-t", "ext2", "-b", "1024", "-O", "none"},
	"no-csum":  {"-t", "ext4", "-b", "4096", "-O", "^metadata_csum"},
	"bigalloc": {"-t", "ext4", "-b", "1024", "-O", "bigalloc", "-C", "8192"},
	"inline":   {"-t", "ext4", "-b", "4096", "-O", "inline_data"},
	"ea":       {"-t", "ext4", "-b", "1024", "-O", "ea_inode"},
	"ea-128":   {"-t", "ext4", "-b", "4096", "-I", "128", "-O", "ea_inode"},
	"ea-map":   {"-t", "ext4", "-b", "1024", "-O", "ea_inode,^extents,^64bit"},
}

const xattrFiles = 12

// newXattrTest makes a filesystem with a few files, and returns their inodes.
func newXattrTest(t testing.TB, args ...string) (*editTest, []Ino) {
	t.Helper()
	tree := t.TempDir()
	for i := range xattrFiles {
		text := strings.Repeat("x", i*20)
		if err := os.WriteFile(filepath.Join(tree, xattrFile(i)), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	h := newEditTest(t, "48M", append(args, "-d", tree)...)
	var list []Ino
	for i := range xattrFiles {
		list = append(list, h.lookup(xattrFile(i)))
	}
	return h, list
}

func xattrFile(i int) string { return fmt.Sprintf("file%d", i) }

// lookup finds a name in the root directory.
func (h *editTest) lookup(name string) Ino {
	h.t.Helper()
	var cur LookupCursor
	var ent Dirent
	if err := h.v.Lookup(h.ed, h.read(RootIno), []byte(name), &cur, &ent); err != nil {
		h.t.Fatalf("%s: %v", name, err)
	}
	return ent.Ino
}

// xattrStep is one system call.
type xattrStep struct {
	file   int
	name   string
	value  []byte
	flags  int
	remove bool
}

func (s *xattrStep) String() string {
	return fmt.Sprintf("file %d, %q, %d bytes, flags %d, remove %v", s.file, s.name, len(s.value),
		s.flags, s.remove)
}

// xattrSteps makes up system calls: few names, so that they meet; values of all sizes, some of
// which many files get.
func xattrSteps(rng *rand.Rand, n int, sizes int) (list []xattrStep) {
	names := []string{"user.a", "user.bb", "user.k\xc3\xa4se", "trusted.t", "security.s",
		"user." + strings.Repeat("long", 20), "trusted.\xff\x80", "user.z", "trusted.aa"}
	for range n {
		s := xattrStep{file: rng.Intn(xattrFiles), name: names[rng.Intn(len(names))]}
		switch rng.Intn(10) {
		case 0, 1:
			s.remove = true
		case 2:
			s.flags = 1 + rng.Intn(3)
		}
		size := []int{0, 3, 4, 40, 100, 200}[rng.Intn(6)]
		if rng.Intn(3) == 0 {
			size = rng.Intn(sizes)
		}
		s.value = bytes.Repeat([]byte{byte(rng.Intn(2)) + 'a'}, size)
		if rng.Intn(4) == 0 {
			rng.Read(s.value)
		}
		list = append(list, s)
	}
	return list
}

// apply runs a step on the image.
func (s *xattrStep) apply(h *editTest, files []Ino) error {
	index, name, ok := XattrIndex([]byte(s.name))
	if !ok {
		return unix.EOPNOTSUPP
	}
	err := h.change(files[s.file], func(ed Editor, in *Inode) error {
		if s.remove {
			return h.v.RemoveXattr(ed, in, index, name)
		}
		return h.v.SetXattr(ed, in, index, name, s.value, s.flags)
	})
	h.freeGone()
	return err
}

// kernel runs a step on a mounted copy.
func (s *xattrStep) kernel(dir string) error {
	path := filepath.Join(dir, xattrFile(s.file))
	if s.remove {
		return unix.Lremovexattr(path, s.name)
	}
	return unix.Lsetxattr(path, s.name, s.value, s.flags)
}

// model runs a step on maps, if it is known to succeed, and returns the error that it must have
// otherwise.
func (s *xattrStep) model(m []map[string]string, fits bool) error {
	_, found := m[s.file][s.name]
	switch {
	case !found && (s.remove || s.flags&unix.XATTR_REPLACE != 0):
		return unix.ENODATA
	case s.remove:
		delete(m[s.file], s.name)
	case found && s.flags&unix.XATTR_CREATE != 0:
		return unix.EEXIST
	case !fits:
		return unix.ENOSPC
	default:
		m[s.file][s.name] = string(s.value)
	}
	return nil
}

// TestSetXattr runs the same steps here, with stalls and without, and in the kernel: the same
// errors, the same attributes, the same blocks; e2fsck finds nothing.
func TestSetXattr(t *testing.T) {
	for _, name := range slices.Sorted(maps.Keys(xattrImages)) {
		t.Run(name, func(t *testing.T) {
			h, files := newXattrTest(t, xattrImages[name]...)
			steps, most := 1500, int(h.v.BlockSize)+50
			if h.v.HasIncompat(IncompatEAInode) {
				steps, most = 400, 70000
			}
			list := xattrSteps(rand.New(rand.NewSource(1)), steps, most)
			errs := make([]error, len(list))
			model := make([]map[string]string, xattrFiles)
			for i := range model {
				model[i] = map[string]string{}
			}
			for i := range list {
				s := &list[i]
				errs[i] = s.apply(h, files)
				if errs[i] == unix.E2BIG && len(s.value) > 65536 {
					continue
				}
				if want := s.model(model, errs[i] != unix.ENOSPC); errs[i] != want {
					t.Fatalf("%v: %v, want %v", s, errs[i], want)
				}
			}
			twin := h.twin()
			for i := range list {
				if err := list[i].apply(twin, files); err != errs[i] {
					t.Fatalf("%v: %v with stalls, %v without", &list[i], err, errs[i])
				}
			}
			sameResult(t, h, twin)
			t.Logf("at most %d accesses to blocks", twin.most)
			compareXattrs(t, h, files, model)
			compareKernel(t, h, files, list, errs, model)
		})
	}
}

// compareXattrs reads all attributes through this package.
func compareXattrs(t *testing.T, h *editTest, files []Ino, model []map[string]string) {
	t.Helper()
	list, value := make([]byte, 1<<16), make([]byte, 1<<17)
	for i, ino := range files {
		in := h.read(ino)
		n, err := h.v.ListXattr(h.ed, in, list, true)
		if err != nil {
			t.Fatal(err)
		}
		if count := bytes.Count(list[:n], []byte{0}); count != len(model[i]) {
			t.Errorf("file %d: %d attributes, want %d: %q", i, count, len(model[i]), list[:n])
		}
		for name, want := range model[i] {
			n, err := h.getXattr(in, name, value)
			if err != nil || string(value[:n]) != want {
				t.Errorf("file %d, %q: %d bytes, %v; want %d", i, name, n, err, len(want))
			}
		}
	}
}

// getXattr reads an attribute by its whole name.
func (h *editTest) getXattr(in *Inode, name string, value []byte) (int, error) {
	index, suffix, _ := XattrIndex([]byte(name))
	var cur XattrCursor
	for {
		n, err := h.v.GetXattr(h.ed, in, index, suffix, value, &cur)
		if err != ErrContinue {
			return n, err
		}
	}
}

// compareKernel has the kernel read what was written, and do the same on its own.
func compareKernel(t *testing.T, h *editTest, files []Ino, steps []xattrStep, errs []error,
	model []map[string]string) {
	t.Helper()
	path := h.write()
	fsck(t, path, "-fn")
	read := func(dir string) {
		for i, ino := range files {
			file := filepath.Join(dir, xattrFile(i))
			kernelXattrs(t, file, model[i])
			in := h.read(ino)
			want := int64(in.Sectors)
			if in.Flags&FlagInlineData != 0 { // the kernel lets stat count data in the inode
				want += (int64(in.Size) + 511) >> 9
			}
			var st unix.Stat_t
			if err := unix.Lstat(file, &st); err != nil || st.Blocks != want {
				t.Errorf("file %d: the kernel counts %d sectors, want %d, %v", i, st.Blocks, want,
					err)
			}
		}
	}
	mountLoop(t, path, "ro", read)
	copyImage(t, h.path, path)
	mountLoop(t, path, "rw", func(dir string) {
		for i := range steps {
			if err := steps[i].kernel(dir); err != errs[i] {
				t.Errorf("%v: the kernel says %v, not %v", &steps[i], err, errs[i])
			}
		}
		read(dir)
	})
}

// kernelXattrs compares the attributes of a file in a mounted filesystem.
func kernelXattrs(t *testing.T, file string, model map[string]string) {
	t.Helper()
	list, value := make([]byte, 1<<16), make([]byte, 1<<17)
	n, err := unix.Llistxattr(file, list)
	if err != nil {
		t.Fatal(err)
	}
	if count := bytes.Count(list[:n], []byte{0}); count != len(model) {
		t.Errorf("%s: the kernel lists %q, want %d", file, list[:n], len(model))
	}
	for name, want := range model {
		n, err := unix.Lgetxattr(file, name, value)
		if err != nil || string(value[:n]) != want {
			t.Errorf("%s, %q: the kernel reads %d bytes, %v; want %d", file, name, n, err,
				len(want))
		}
	}
}

// TestShareXattrs gives many files the same attributes: they share one block, whose hashes are as
// the kernel's, and leave it one by one.
func TestShareXattrs(t *testing.T) {
	h, files := newXattrTest(t, "-t", "ext4", "-b", "1024", "-I", "128")
	h.inject = true
	set := func(i int, name, value string) {
		h.t.Helper()
		s := xattrStep{file: i, name: name, value: []byte(value)}
		if err := s.apply(h, files); err != nil {
			h.t.Fatal(err)
		}
	}
	free := h.ed.space.freeClusters
	attrs := [][2]string{{"user.b\xe4r", "one"}, {"trusted.x", strings.Repeat("two", 50)},
		{"user.empty", ""}}
	for i := range files {
		for _, a := range attrs {
			set(i, a[0], a[1])
		}
	}
	b := h.read(files[0]).FileACL
	data := h.ed.dirty[b]
	if refs := le32(data, xhRefcount); refs != xattrFiles || h.ed.space.freeClusters != free-1 {
		t.Fatalf("%d inodes share the block; %d blocks", refs, free-h.ed.space.freeClusters)
	}
	compareHashes(t, h, attrs, data)
	set(3, "user.b\xe4r", "another")
	if h.read(files[3]).FileACL == b || le32(data, xhRefcount) != xattrFiles-1 {
		t.Errorf("changed in place")
	}
	set(3, "user.b\xe4r", "one")
	if h.read(files[3]).FileACL != b || le32(data, xhRefcount) != xattrFiles {
		t.Errorf("not shared again")
	}
	fsck(t, h.write(), "-fn")
	for i, ino := range files {
		if err := h.change(ino, func(ed Editor, in *Inode) error {
			return h.v.FreeXattrs(ed, in)
		}); err != nil {
			t.Fatal(err)
		}
		if in := h.read(ino); in.FileACL != 0 {
			t.Errorf("file %d still has block %d", i, in.FileACL)
		}
	}
	if h.ed.space.freeClusters != free || !slices.Contains(h.ed.Forgotten, b) {
		t.Errorf("%d blocks are not free", free-h.ed.space.freeClusters)
	}
	set(0, attrs[0][0], attrs[0][1]) // must not find the block that was freed
	fsck(t, h.write(), "-fn")
}

// compareHashes has the kernel set the same attributes, and compares the hashes.
func compareHashes(t *testing.T, h *editTest, attrs [][2]string, data []byte) {
	t.Helper()
	path := h.path + ".hashes"
	copyImage(t, h.path, path)
	mountLoop(t, path, "rw", func(dir string) {
		for _, a := range attrs {
			err := unix.Lsetxattr(filepath.Join(dir, xattrFile(0)), a[0], []byte(a[1]), 0)
			if err != nil {
				t.Fatal(err)
			}
		}
	})
	other := openEditTest(t, path)
	buf, err := other.ed.Block(other.read(other.lookup(xattrFile(0))).FileACL)
	if err != nil {
		t.Fatal(err)
	}
	kernel := bytes.Clone(buf.Data)
	ours := bytes.Clone(data)
	for _, b := range [][]byte{kernel, ours} {
		le.PutUint32(b[xhRefcount:], 0)
		le.PutUint32(b[xhChecksum:], 0)
	}
	if !bytes.Equal(kernel, ours) {
		t.Errorf("the kernel's block:\n%x\nours:\n%x", kernel, ours)
	}
}

// TestSharedXattrsFull stops sharing when a block has as many users as it may have.
func TestSharedXattrsFull(t *testing.T) {
	h, files := newXattrTest(t, "-t", "ext4", "-b", "1024", "-I", "128")
	s := xattrStep{name: "user.a", value: []byte("value")}
	if err := s.apply(h, files); err != nil {
		t.Fatal(err)
	}
	h.must(func(ed Editor) error {
		return h.v.countRefs(ed, h.read(files[0]).FileACL, xattrRefsMax-1)
	})
	for s.file = 1; s.file < 4; s.file++ {
		if err := s.apply(h, files); err != nil {
			t.Fatal(err)
		}
	}
	b := h.read(files[0]).FileACL
	if h.read(files[1]).FileACL != b || h.read(files[2]).FileACL == b {
		t.Errorf("blocks %d, %d, %d", b, h.read(files[1]).FileACL, h.read(files[2]).FileACL)
	}
	if refs := le32(h.ed.dirty[b], xhRefcount); refs != xattrRefsMax {
		t.Errorf("%d users", refs)
	}
}

// TestSetXattrErrors covers what the system call or the name decide.
func TestSetXattrErrors(t *testing.T) {
	h, files := newXattrTest(t, "-t", "ext4", "-b", "4096")
	for _, x := range []struct {
		index uint8
		name  string
		size  int
		want  error
	}{
		{XattrIndexUser, "", 1, unix.EINVAL},
		{XattrIndexUser, "a\x00b", 1, unix.EINVAL},
		{XattrIndexUser, strings.Repeat("n", 256), 1, unix.ERANGE},
		{XattrIndexUser, "a", 65537, unix.E2BIG},
		{XattrIndexUser, "a", 65536, unix.ENOSPC},
		{XattrIndexUser, strings.Repeat("n", 255), 1, nil},
		{XattrIndexACLAccess, "", 28, nil},
	} {
		err := h.change(files[0], func(ed Editor, in *Inode) error {
			return h.v.SetXattr(ed, in, x.index, []byte(x.name), make([]byte, x.size), 0)
		})
		if err != x.want {
			t.Errorf("%d, %q, %d bytes: %v, want %v", x.index, x.name, x.size, err, x.want)
		}
	}
}

// FuzzSetXattr changes attributes where the disk says anything at all: errors are fine.
func FuzzSetXattr(f *testing.F) {
	f.Add([]byte{}, []byte{}, uint16(40), uint8(0))
	f.Add([]byte("\x00\x00\x02\xea\x01\x01\x38\x00\x00\x00\x00\x00\x10\x00\x00\x00\x00"+
		"\x00\x00\x00a\x00\x00\x00"), []byte("\x01\x01\x40\x00"), uint16(3), uint8(1))
	h, files := newXattrTest(f, "-t", "ext4", "-b", "1024")
	grow := xattrStep{name: "user.big", value: make([]byte, 300)}
	if err := grow.apply(h, files); err != nil {
		f.Fatal(err)
	}
	in := h.read(files[0])
	body, block := bytes.Clone(in.InBody), bytes.Clone(h.ed.dirty[in.FileACL])
	f.Fuzz(func(t *testing.T, inBody, inBlock []byte, size uint16, name uint8) {
		h.t = t
		in := h.read(files[0])
		acl := in.FileACL
		copy(in.InBody, body)
		copy(in.InBody, inBody)
		h.v.sealInode(h.ed.dirty[in.Where][in.Offset:][:h.v.InodeSize], in)
		data := h.ed.dirty[acl]
		copy(data, block)
		copy(data[xhSize:], inBlock)
		h.v.sealXattrs(data, acl)
		for _, c := range [][]byte{[]byte("a"), []byte("big"), {name}} {
			for _, value := range [][]byte{make([]byte, size%1100), nil} {
				_ = h.change(files[0], func(ed Editor, in *Inode) error {
					err := h.v.SetXattr(ed, in, XattrIndexUser, c, value, 0)
					if err == nil {
						err = h.v.RemoveXattr(ed, in, XattrIndexUser, c)
					}
					if err == nil {
						err = unix.ECANCELED // and undo it, for the next input
					}
					return err
				})
			}
		}
	})
}
