package vfs_test

import (
	"os"
	"testing"

	"asyncfsd/asyncq"
	"asyncfsd/blockdev"
	"asyncfsd/internal/manifest"
	"asyncfsd/vfs"
	"asyncfsd/vfs/ext4"
)

const imagesDir = "../testdata/images"

// setting is one way to run a filesystem in a test.
type setting struct {
	slots int    // 0: asyncq.SlotsMax
	cache int    // bytes of block cache, 0: the smallest
	seed  uint64 // order in which queued slots run
	stall bool   // every block access stalls once
	wrap  func(blockdev.Device) blockdev.Device
	// limits of users' quotas are enforced.
	limits bool
}

// bed is an image served to a client by this goroutine.
type bed struct {
	loop   *asyncq.Loop
	fs     *vfs.FS
	client *vfs.Client
	dev    blockdev.Device
	stalls *int
}

// serve opens the filesystem of an image file and begins to serve it.
func serve(t testing.TB, img manifest.Image, path string, s setting) *bed {
	t.Helper()
	engine, err := asyncq.NewUring(64)
	if err != nil {
		t.Fatal(err)
	}
	l := asyncq.New(asyncq.Config{Engine: engine, Slots: s.slots, Seed: s.seed})
	dev, err := blockdev.Open(path, engine, blockdev.Options{ReadOnly: true, Offset: img.Offset})
	if err != nil {
		t.Fatal(err)
	}
	b := &bed{loop: l, dev: dev}
	t.Cleanup(func() {
		_ = l.Close()
		_ = dev.Close()
	})
	if s.wrap != nil {
		dev = s.wrap(dev)
	}
	vol := openVolume(t, img, path)
	if s.cache == 0 {
		s.cache = blockdev.FramesMin << max(vol.BlockBits, 12)
	}
	arena, err := blockdev.NewArena(s.cache)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = arena.Close() })
	b.fs, err = vfs.New(vfs.Config{Loop: l, Device: dev, Volume: vol, Arena: arena})
	if err != nil {
		t.Fatal(err)
	}
	if s.stall {
		b.stalls = b.fs.StallOnce()
	}
	b.client = vfs.NewClient(b.fs)
	return b
}

func openVolume(t testing.TB, img manifest.Image, path string) *ext4.Volume {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil {
		t.Fatal(err)
	}
	r := offsetReader{f, img.Offset}
	vol, err := ext4.Open(r, st.Size()-img.Offset,
		ext4.OpenOptions{Super: int64(img.Superblock) * 1024})
	if err != nil {
		t.Fatal(err)
	}
	return vol
}

// offsetReader reads a filesystem inside a file.
type offsetReader struct {
	f   *os.File
	off int64
}

func (r offsetReader) ReadAt(p []byte, off int64) (int, error) { return r.f.ReadAt(p, off+r.off) }

// images returns the test images that can be mounted, dirty ones excepted.
func images(t testing.TB) (list []manifest.Image) {
	t.Helper()
	all, err := manifest.Images(imagesDir)
	if err != nil {
		t.Fatal(err)
	}
	for _, img := range all {
		if img.Source != "" && !img.Dirty {
			list = append(list, img)
		}
	}
	if len(list) < 100 {
		t.Fatalf("only %d images", len(list))
	}
	return list
}

// named returns one test image.
func named(t testing.TB, name string) manifest.Image {
	t.Helper()
	all, err := manifest.Images(imagesDir)
	if err != nil {
		t.Fatal(err)
	}
	img, ok := manifest.Find(all, name)
	if !ok {
		t.Fatalf("no image %s", name)
	}
	return img
}
