package ext4

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"asyncfsd/internal/manifest"
	"asyncfsd/internal/testenv"
)

const imagesDir = "../../testdata/images"

// errnoOf is what a user sees of an error.
func errnoOf(err error) error {
	var corrupt *CorruptError
	if errors.As(err, &corrupt) {
		return unix.EUCLEAN
	}
	return err
}

// openImage unpacks an image and opens it.
func openImage(t testing.TB, img manifest.Image) (*Volume, *os.File) {
	t.Helper()
	f, err := os.Open(manifest.Unpack(t, img))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	v, err := Open(f, img.Size, OpenOptions{})
	if err != nil {
		t.Fatalf("%s: %v", img.Name, err)
	}
	return v, f
}

// TestReadFile compares files, found by inode number, with what debugfs reads.
func TestReadFile(t *testing.T) {
	testenv.NeedProgram(t, "debugfs")
	images, err := manifest.Images(imagesDir)
	if err != nil {
		t.Fatal(err)
	}
	for _, img := range images {
		if img.Source != "kernel" || img.Dirty || img.Journal != "" || img.Offset != 0 ||
			img.Partition != 0 || img.Superblock != 0 || img.Corrupt != "" || img.Size > 64<<20 {
			continue
		}
		t.Run(img.Name, func(t *testing.T) { compareFiles(t, img) })
	}
}

func compareFiles(t *testing.T, img manifest.Image) {
	v, f := openImage(t, img)
	entries, err := img.Manifest()
	if err != nil {
		t.Fatal(err)
	}
	src := NewReaderSource(f, v.BlockBits)
	seen := map[uint64]bool{}
	for _, e := range entries {
		if e.Type != "file" || e.Err != "" || seen[e.Ino] || e.Size > 4<<20 || len(seen) > 30 {
			continue
		}
		seen[e.Ino] = true
		file, err := v.OpenFile(src, Ino(e.Ino))
		if err != nil {
			t.Fatalf("%s: %v", e.Path, err)
		}
		in := file.Inode()
		if in.Flags&FlagInlineData != 0 {
			continue
		}
		hash, err := manifest.HashData(int64(in.Size), nil, file.ReadAt)
		if err != nil || hash != e.SHA256 || int64(in.Size) != e.Size ||
			int64(in.Sectors) != e.Blocks || in.Mtime != Timespec(e.Mtime) {
			t.Errorf("%s: %v, %+v", e.Path, err, in)
		}
	}
	if len(seen) == 0 {
		t.Skip("no files")
	}
}

// TestStatFS compares with the kernel's numbers.
func TestStatFS(t *testing.T) {
	testenv.NeedRoot(t)
	images, err := manifest.Images(imagesDir)
	if err != nil {
		t.Fatal(err)
	}
	names := []string{"ext2-1k", "ext4-1k", "ext4-4k", "csum32", "bigalloc", "meta-bg"}
	for _, name := range names {
		img, ok := manifest.Find(images, name)
		if !ok {
			t.Errorf("no image %s", name)
			continue
		}
		t.Run(name, func(t *testing.T) {
			v, f := openImage(t, img)
			mnt := filepath.Join(t.TempDir(), "mnt")
			if err := os.Mkdir(mnt, 0o755); err != nil {
				t.Fatal(err)
			}
			out, err := exec.Command("mount", "-t", "ext4", "-o", "loop,ro", f.Name(), mnt).
				CombinedOutput()
			if err != nil {
				t.Fatalf("mount: %s", out)
			}
			defer exec.Command("umount", mnt).Run()
			want, err := exec.Command("stat", "-f", "-c", "%b %f %a %c %d %s", mnt).Output()
			if err != nil {
				t.Fatal(err)
			}
			if have := statLine(t, v, f); have != string(bytes.TrimSpace(want)) {
				t.Errorf("have %s, the kernel says %s", have, want)
			}
		})
	}
}

// statLine formats the counts as stat -f does.
func statLine(t *testing.T, v *Volume, f *os.File) string {
	t.Helper()
	journal := uint64(0)
	if ino := v.JournalInode(); ino != 0 {
		file, err := v.OpenFile(NewReaderSource(f, v.BlockBits), ino)
		if err != nil {
			t.Fatal(err)
		}
		journal = file.Inode().Size >> v.BlockBits
	}
	v.SetOverhead(journal)
	st := v.StatFS(false)
	return fmt.Sprintf("%d %d %d %d %d %d", st.Blocks, st.Bfree, st.Bavail, st.Files, st.Ffree,
		st.Bsize)
}
