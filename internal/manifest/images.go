package manifest

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"testing"

	"github.com/klauspost/compress/zstd"
)

// Image describes one test image: a row of images.json, which make.sh writes beside the images.
type Image struct {
	Name  string `json:"name"`  // NAME.img.zst holds it
	About string `json:"about"` // what it is there to show
	Made  string `json:"made"`  // by what: kernel, mke2fs, debugfs, patched
	Size  int64  `json:"size"`  // bytes, unpacked

	BlockSize int      `json:"block_size"` // bytes; 0 if the superblock cannot be read
	Features  []string `json:"features"`   // as dumpe2fs names them

	// Source is where the manifest comes from. "kernel": the kernel's ext4 read the image (a
	// recovered copy, if Dirty). "twin": the kernel cannot read it and read a copy without the
	// feature. "tree": the tree it was made of. "": there is no manifest.
	Source string `json:"source,omitempty"`
	// Ignore names the fields of the manifest that say nothing about this image.
	Ignore []string `json:"ignore,omitempty"`

	// Dirty says that the journal has to be replayed before the manifest holds.
	Dirty bool `json:"dirty,omitempty"`
	// Journal names the image of the external journal.
	Journal string `json:"journal,omitempty"`
	// Offset and Partition say where the filesystem lies in the image (bytes; number from 1). An
	// image with a partition has both, and either must lead to it.
	Offset    int64 `json:"offset,omitempty"`
	Partition int   `json:"partition,omitempty"`
	// ReadOnly says why the image may be mounted, but not written to.
	ReadOnly string `json:"read_only,omitempty"`
	// MountError says why a mount must be refused; empty if it must succeed.
	MountError string `json:"mount_error,omitempty"`
	// KernelCannot says why the kernel that made the manifests could not mount it.
	KernelCannot string `json:"kernel_cannot,omitempty"`
	// Superblock is the number, in units of 1024 bytes, of the backup superblock that a mount has
	// to be told (option sb=) for the manifest to hold; without it MountError does.
	Superblock int64 `json:"sb,omitempty"`
	// Corrupt says what is damaged in an image that mounts all the same.
	Corrupt string `json:"corrupt,omitempty"`
	// Damaged names the paths that suffer: where the manifest has an error, any error will do,
	// and what is said of them and below them may differ (see Options.Damaged).
	Damaged []string `json:"damaged,omitempty"`
	// Lookups are names that are not spelled as readdir shows them: the path asked for, and the
	// path of the file that it must lead to, or "" if there must be none. Both are escaped, see
	// Escape.
	Lookups [][2]string `json:"lookups,omitempty"`

	dir string
}

// Images reads the table of the images in dir.
func Images(dir string) ([]Image, error) {
	text, err := os.ReadFile(filepath.Join(dir, "images.json"))
	if err != nil {
		return nil, err
	}
	var list []Image
	if err := json.Unmarshal(text, &list); err != nil {
		return nil, fmt.Errorf("images.json: %w", err)
	}
	for i := range list {
		list[i].dir = dir
	}
	return list, nil
}

// Find returns the image of that name; ok is false if there is none.
func Find(list []Image, name string) (img Image, ok bool) {
	for _, img := range list {
		if img.Name == name {
			return img, true
		}
	}
	return Image{}, false
}

// Options returns what Diff needs to compare a tree with the image's manifest.
func (img Image) Options() Options { return Options{Ignore: img.Ignore, Damaged: img.Damaged} }

// Manifest loads the image's manifest; it is an error if the image has none (Source is empty).
func (img Image) Manifest() ([]Entry, error) {
	if img.Source == "" {
		return nil, fmt.Errorf("image %s has no manifest", img.Name)
	}
	path := filepath.Join(img.dir, img.Name+".manifest")
	entries, err := Load(path)
	if errors.Is(err, os.ErrNotExist) {
		return Load(path + ".zst")
	}
	return entries, err
}

// UnpackTo writes the image to path as a sparse file.
func (img Image) UnpackTo(path string) error {
	packed, err := os.Open(filepath.Join(img.dir, img.Name+".img.zst"))
	if err != nil {
		return err
	}
	defer packed.Close()
	z, err := zstd.NewReader(packed, zstd.WithDecoderConcurrency(1))
	if err != nil {
		return err
	}
	defer z.Close()
	file, err := os.OpenFile(path, os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o644)
	if err != nil {
		return err
	}
	n, err := copySparse(file, z)
	if err == nil && n != img.Size {
		err = fmt.Errorf("image %s has %d bytes, should have %d", img.Name, n, img.Size)
	}
	return errors.Join(err, file.Close())
}

// Unpack writes the image into the test's temporary directory and returns its path. Every call
// gives a file of its own, which the test may write to: unpacking the largest image takes less
// than a tenth of a second, and a shared file changed by one test would haunt the others.
func Unpack(t testing.TB, img Image) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), img.Name+".img")
	if err := img.UnpackTo(path); err != nil {
		t.Fatal(err)
	}
	return path
}

// copySparse copies r to an empty file, leaving holes for zeros, and returns the length.
func copySparse(file *os.File, r io.Reader) (int64, error) {
	const unit = 4096 // zeros are looked for in this granularity
	buf := make([]byte, 1<<20)
	size := int64(0)
	for {
		n, err := io.ReadFull(r, buf)
		for from := 0; from < n; from += unit {
			piece := buf[from:min(from+unit, n)]
			if allZero(piece) {
				continue
			}
			if _, err := file.WriteAt(piece, size+int64(from)); err != nil {
				return size, err
			}
		}
		size += int64(n)
		if err == io.EOF || err == io.ErrUnexpectedEOF {
			return size, file.Truncate(size)
		}
		if err != nil {
			return size, err
		}
	}
}
