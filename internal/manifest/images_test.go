package manifest

import (
	"bytes"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

const imagesDir = "../../testdata/images"

func loadImages(t *testing.T) []Image {
	t.Helper()
	images, err := Images(imagesDir)
	if err != nil {
		t.Fatal(err)
	}
	return images
}

// TestImagesTable checks that table, images and manifests belong together.
func TestImagesTable(t *testing.T) {
	files, err := os.ReadDir(imagesDir)
	if err != nil {
		t.Fatal(err)
	}
	images := loadImages(t)
	total := int64(0)
	for _, f := range files {
		name, isImage := strings.CutSuffix(f.Name(), ".img.zst")
		if _, ok := Find(images, name); isImage && !ok {
			t.Errorf("%s is not in images.json", f.Name())
		}
		if info, err := f.Info(); err == nil {
			total += info.Size()
		}
	}
	if total > 8<<20 {
		t.Errorf("the images have %d KiB, more than 8 MiB", total>>10)
	}
	for _, img := range images {
		if _, err := os.Stat(filepath.Join(imagesDir, img.Name+".img.zst")); err != nil {
			t.Error(err)
		}
		if img.About == "" || img.Made == "" {
			t.Errorf("%s: does not say what it is", img.Name)
		}
		if (img.Source == "") != (img.MountError != "") && img.Superblock == 0 {
			t.Errorf("%s: source %q, mount error %q", img.Name, img.Source, img.MountError)
		}
		for _, field := range img.Ignore {
			if !slices.Contains(FieldNames(), field) {
				t.Errorf("%s: ignores %q, which is no field", img.Name, field)
			}
		}
	}
}

// TestImageManifests checks the order of each manifest, and that what the table says of paths is
// about paths that are there.
func TestImageManifests(t *testing.T) {
	for _, img := range loadImages(t) {
		if img.Source == "" {
			if _, err := img.Manifest(); err == nil {
				t.Errorf("%s: a manifest without a source", img.Name)
			}
			continue
		}
		entries, err := img.Manifest()
		if err != nil {
			t.Errorf("%s: %v", img.Name, err)
			continue
		}
		paths := make([]string, len(entries))
		for i, e := range entries {
			paths[i] = e.Path
			if e.Type == "" && e.Err == "" {
				t.Errorf("%s: %s has neither type nor error", img.Name, e.Path)
			}
			if e.Err != "" && e.Err != "open ENOKEY" && !slices.Contains(img.Damaged, e.Path) {
				t.Errorf("%s: %s: %s, and it is not damaged", img.Name, e.Path, e.Err)
			}
		}
		if paths[0] != "." || !slices.IsSorted(paths[1:]) {
			t.Errorf("%s: paths are not in order", img.Name)
		}
		for _, pair := range img.Lookups {
			found, err := Unescape(pair[1])
			if err != nil || found != "" && !slices.Contains(paths, found) {
				t.Errorf("%s: lookup of %q leads nowhere", img.Name, pair[1])
			}
		}
	}
}

func TestUnpack(t *testing.T) {
	img, ok := Find(loadImages(t), "ext4-4k")
	if !ok {
		t.Fatal("no image ext4-4k")
	}
	path := Unpack(t, img)
	var st unix.Stat_t
	if err := unix.Stat(path, &st); err != nil {
		t.Fatal(err)
	}
	if st.Size != img.Size || st.Blocks*512 > img.Size/2 {
		t.Errorf("%d bytes in %d sectors, want %d bytes and holes", st.Size, st.Blocks, img.Size)
	}
	magic := make([]byte, 2)
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := f.ReadAt(magic, 1024+56); err != nil || !bytes.Equal(magic, []byte{0x53, 0xef}) {
		t.Errorf("magic number %x, %v", magic, err)
	}
	img.Size++
	if err := img.UnpackTo(path); err == nil {
		t.Error("an image of the wrong size gives no error")
	}
}

func TestCopySparse(t *testing.T) {
	content := make([]byte, 3<<20+100)
	copy(content[5000:], "data")
	copy(content[len(content)-3:], "end")
	path := filepath.Join(t.TempDir(), "file")
	for _, n := range []int{0, 1, 4096, 1 << 20, len(content)} {
		f, err := os.Create(path)
		if err != nil {
			t.Fatal(err)
		}
		size, err := copySparse(f, bytes.NewReader(content[:n]))
		if err != nil || size != int64(n) {
			t.Errorf("%d bytes: copied %d, %v", n, size, err)
		}
		f.Close()
		if have, err := os.ReadFile(path); err != nil || !bytes.Equal(have, content[:n]) {
			t.Errorf("%d bytes: other content, %v", n, err)
		}
	}
}
