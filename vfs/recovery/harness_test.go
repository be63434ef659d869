package recovery

import (
	"bytes"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"asyncfsd/internal/manifest"
	"asyncfsd/internal/testenv"
	"asyncfsd/vfs/ext4"
)

const imagesDir = "../../testdata/images"

// file is a Storage over an image file.
type file struct{ *os.File }

func (f file) Flush() error { return nil }

func (f file) Size() int64 {
	st, err := f.Stat()
	if err != nil {
		panic(err)
	}
	return st.Size()
}

func openFile(t testing.TB, path string) file {
	t.Helper()
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	return file{f}
}

// memory is a Storage in memory.
type memory struct{ data []byte }

func (m *memory) ReadAt(p []byte, off int64) (int, error) {
	if off < 0 || off > int64(len(m.data)) {
		return 0, unix.EIO
	}
	n := copy(p, m.data[off:])
	if n < len(p) {
		return n, io.EOF
	}
	return n, nil
}

func (m *memory) WriteAt(p []byte, off int64) (int, error) {
	if off < 0 || off+int64(len(p)) > int64(len(m.data)) {
		return 0, unix.EIO
	}
	return copy(m.data[off:], p), nil
}

func (m *memory) Flush() error { return nil }
func (m *memory) Size() int64  { return int64(len(m.data)) }

// load reads an image file into memory.
func load(t testing.TB, path string) *memory {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return &memory{data}
}

// formatted makes an ext4 filesystem of 16 MiB.
func formatted(t testing.TB, args ...string) (*memory, *ext4.Volume) {
	t.Helper()
	testenv.NeedProgram(t, "mke2fs")
	path := filepath.Join(t.TempDir(), "image")
	args = append(append([]string{"-q", "-F", "-t", "ext4"}, args...), path, "16M")
	if out, err := exec.Command("mke2fs", args...).CombinedOutput(); err != nil {
		t.Fatalf("mke2fs: %v: %s", err, out)
	}
	dev := load(t, path)
	vol, err := ext4.Open(dev, dev.Size(), ext4.OpenOptions{})
	if err != nil {
		t.Fatal(err)
	}
	return dev, vol
}

func (m *memory) clone() *memory { return &memory{bytes.Clone(m.data)} }

// recoverAt opens and recovers a filesystem.
func recoverAt(dev Storage, o Options) (Report, error) {
	vol, err := ext4.Open(dev, dev.Size(), ext4.OpenOptions{Super: o.Super})
	if err != nil {
		return Report{}, err
	}
	return Recover(dev, vol, o)
}

// images lists the test images that keep accepts.
func images(t testing.TB, keep func(img manifest.Image) bool) (list []manifest.Image) {
	t.Helper()
	all, err := manifest.Images(imagesDir)
	if err != nil {
		t.Fatal(err)
	}
	for _, img := range all {
		if keep(img) {
			list = append(list, img)
		}
	}
	if list == nil {
		t.Fatal("no images")
	}
	return list
}

// journalOf unpacks the external journal of an image, if it has one.
func journalOf(t testing.TB, img manifest.Image) Storage {
	t.Helper()
	if img.Journal == "" {
		return nil
	}
	all, err := manifest.Images(imagesDir)
	if err != nil {
		t.Fatal(err)
	}
	journal, ok := manifest.Find(all, img.Journal)
	if !ok {
		t.Fatalf("no image %s", img.Journal)
	}
	return openFile(t, manifest.Unpack(t, journal))
}

// fsck wants a filesystem without any error.
func fsck(t testing.TB, path string) {
	t.Helper()
	testenv.NeedProgram(t, "e2fsck")
	out, err := exec.Command("e2fsck", "-fn", path).CombinedOutput()
	if err != nil {
		t.Errorf("e2fsck: %v\n%s", err, out)
	}
}

// kernelWalk mounts an image with the kernel and lists its tree.
func kernelWalk(t testing.TB, path, options string) []manifest.Entry {
	t.Helper()
	testenv.NeedRoot(t)
	mnt := filepath.Join(t.TempDir(), "mnt")
	if err := os.Mkdir(mnt, 0o755); err != nil {
		t.Fatal(err)
	}
	out, err := exec.Command("mount", "-t", "ext4", "-o", "loop,noatime,"+options, path, mnt).
		CombinedOutput()
	if err != nil {
		t.Fatalf("mount: %v: %s", err, out)
	}
	entries, err := manifest.Walk(mnt)
	if out, uerr := exec.Command("umount", mnt).CombinedOutput(); uerr != nil {
		t.Fatalf("umount: %v: %s", uerr, out)
	}
	if err != nil {
		t.Fatal(err)
	}
	return entries
}

// same fails with the differences of two trees.
func same(t testing.TB, want, have []manifest.Entry, o manifest.Options) {
	t.Helper()
	for i, line := range manifest.Diff(want, have, o) {
		if i == 10 {
			t.Error("and more")
			break
		}
		t.Error(line)
	}
}
