package ext4

import (
	"fmt"
	"maps"
	"math/rand"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"asyncfsd/internal/testenv"
)

// widenImages are filesystems whose inodes are narrow, and how wide they are to get: s_want and
// s_min_extra_isize, before and after.
var widenImages = map[string]struct {
	before, want, least int
	args                []string
}{
	"256":    {4, 32, 28, []string{"-t", "ext4", "-b", "4096", "-I", "256"}},
	"256-1k": {28, 32, 32, []string{"-t", "ext4", "-b", "1024", "-I", "256"}},
	"1024":   {640, 720, 656, []string{"-t", "ext4", "-b", "4096", "-I", "1024"}},
	"all":    {32, 384, 128, []string{"-t", "ext4", "-b", "1024", "-I", "512"}},
	"no-csum": {32, 200, 0, []string{"-t", "ext4", "-b", "2048", "-I", "512", "-O",
		"^metadata_csum"}},
	"inline": {32, 160, 64, []string{"-t", "ext4", "-b", "4096", "-I", "512", "-O",
		"inline_data"}},
	"ea":    {32, 160, 64, []string{"-t", "ext4", "-b", "1024", "-I", "512", "-O", "ea_inode"}},
	"quota": {32, 160, 64, []string{"-t", "ext4", "-b", "1024", "-I", "512", "-O", "quota"}},
}

// want tells the superblock how wide inodes are to be.
func (h *editTest) want(want, least int) {
	h.t.Helper()
	for field, n := range map[string]int{"want": want, "min": least} {
		cmd := fmt.Sprintf("ssv %s_extra_isize %d", field, n)
		out, err := exec.Command("debugfs", "-w", "-R", cmd, h.path).CombinedOutput()
		if err != nil {
			h.t.Fatalf("debugfs: %v\n%s", err, out)
		}
	}
}

// narrow makes the extra fields of an inode as few as n bytes.
func (h *editTest) narrow(ino Ino, n uint16) {
	h.t.Helper()
	h.must(func(ed Editor) error {
		in := h.read(ino)
		buf, err := ed.Modify(in.Where)
		if err != nil {
			return err
		}
		raw := buf.Data[in.Offset : in.Offset+int(h.v.InodeSize)]
		if a, err := h.v.xattrBody(in); err != nil || a.data != nil {
			h.t.Fatalf("inode %d has attributes, %v", ino, err)
		}
		clear(raw[inodeSizeGood+int(n):])
		for i := range raw[inodeSizeGood+int(n):] { // what is there must not matter
			raw[inodeSizeGood+int(n)+i] = byte(0xa0 + i%7)
		}
		le.PutUint16(raw[iExtraISize:], n)
		in.ExtraISize, in.InBody = n, raw[inodeSizeGood+int(n):]
		return h.v.WriteInode(ed, in)
	})
}

// newWidenTest makes a filesystem with narrow inodes and attributes of all sizes, and then has it
// want wider ones.
func newWidenTest(t *testing.T, name string) (*editTest, []Ino, []map[string]string) {
	img := widenImages[name]
	h, files := newXattrTest(t, img.args...)
	if h.v.HasROCompat(ROCompatQuota) { // mke2fs has not counted the files
		_ = exec.Command("e2fsck", "-fy", h.path).Run()
		h = openEditTest(t, h.path)
	}
	model := make([]map[string]string, xattrFiles)
	for i := range model {
		model[i] = map[string]string{}
		if !h.v.HasIncompat(IncompatInlineData) {
			h.narrow(files[i], uint16(img.before))
		}
	}
	rng := rand.New(rand.NewSource(2))
	steps := xattrSteps(rng, 150, 300)
	for i := range 8 * 40 { // file i/40 gets many small ones, some so many that its block is full
		if i%40 < 5*(i/40) {
			steps = append(steps, xattrStep{file: 4 + i/40, name: fmt.Sprintf("user.%d", i),
				value: []byte("aa")})
		}
	}
	for i := range steps {
		s := &steps[i]
		if s.file == 0 { // has none
			continue
		}
		if err := s.apply(h, files); err == nil {
			if err := s.model(model, true); err != nil {
				t.Fatal(err)
			}
		}
	}
	for i := 0; i < 300; i++ {
		s := xattrStep{file: xattrFiles - 1, name: fmt.Sprintf("user.f%d", i), value: []byte("aa")}
		if s.apply(h, files) != nil {
			break
		}
		_ = s.model(model, true)
	}
	copyImage(t, h.write(), h.path)
	h.want(img.want, img.least)
	return openEditTest(t, h.path), files, model
}

// TestWiden widens inodes, with stalls and without: the attributes stay, e2fsck finds nothing, and
// the kernel makes of the same inodes the same sizes.
func TestWiden(t *testing.T) {
	testenv.NeedProgram(t, "debugfs")
	for _, name := range slices.Sorted(maps.Keys(widenImages)) {
		t.Run(name, func(t *testing.T) {
			h, files, model := newWidenTest(t, name)
			twin := h.twin()
			for _, x := range []*editTest{h, twin} {
				for _, ino := range files {
					err := x.change(ino, func(ed Editor, in *Inode) error {
						return x.v.Widen(ed, in, true)
					})
					if err != nil {
						t.Fatal(err)
					}
				}
			}
			sameResult(t, h, twin)
			compareXattrs(t, h, files, model)
			fsck(t, h.write(), "-fn")
			sizes := h.extraSizes(files)
			t.Logf("at most %d accesses to blocks; sizes %d", twin.most, sizes)
			if img := widenImages[name]; !slices.Contains(sizes, uint16(img.want)) {
				t.Errorf("no inode has %d bytes", img.want)
			}
			if !h.v.HasROCompat(ROCompatQuota) { // which kernels need not have
				compareWidened(t, h, files, model, sizes)
			}
		})
	}
}

func (h *editTest) extraSizes(files []Ino) (list []uint16) {
	for _, ino := range files {
		list = append(list, h.read(ino).ExtraISize)
	}
	return list
}

// compareWidened has the kernel read what was widened, and widen what was not.
func compareWidened(t *testing.T, h *editTest, files []Ino, model []map[string]string,
	sizes []uint16) {
	path := h.write()
	read := func(dir string) {
		for i := range files {
			kernelXattrs(t, filepath.Join(dir, xattrFile(i)), model[i])
		}
	}
	mountLoop(t, path, "ro", read)
	copyImage(t, h.path, path)
	mountLoop(t, path, "rw", func(dir string) {
		for i := range files {
			if err := os.Chmod(filepath.Join(dir, xattrFile(i)), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		read(dir)
	})
	if kernel := openEditTest(t, path).extraSizes(files); !slices.Equal(kernel, sizes) {
		t.Errorf("the kernel makes sizes %d", kernel)
	}
}

// TestWidenElsewhere: what costs more than the inode is for those that ask for it.
func TestWidenElsewhere(t *testing.T) {
	testenv.NeedProgram(t, "debugfs")
	h, files := newXattrTest(t, "-t", "ext4", "-b", "1024", "-I", "256")
	full := xattrStep{file: 1, name: "user.a", value: []byte(strings.Repeat("x", 60))}
	if err := full.apply(h, files); err != nil {
		t.Fatal(err)
	}
	copyImage(t, h.write(), h.path)
	h.want(60, 60)
	h = openEditTest(t, h.path)
	for i, want := range []uint16{60, 32} {
		if err := h.change(files[i], func(ed Editor, in *Inode) error {
			return h.v.Widen(ed, in, false)
		}); err != nil {
			t.Fatal(err)
		}
		if in := h.read(files[i]); in.ExtraISize != want || in.FileACL != 0 {
			t.Errorf("file %d: %d bytes, want %d; block %d", i, in.ExtraISize, want, in.FileACL)
		}
	}
	fsck(t, h.write(), "-fn")
}
