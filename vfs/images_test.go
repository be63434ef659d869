package vfs_test

import (
	"testing"

	"asyncfsd/internal/imagetest"
	"asyncfsd/internal/manifest"
)

// compare walks an image through the Go API and compares everything with its manifest.
func compare(t *testing.T, img manifest.Image, b *bed) {
	t.Helper()
	want, err := img.Manifest()
	if err != nil {
		t.Fatal(err)
	}
	have, err := imagetest.WalkClient(b.client)
	if err != nil {
		t.Fatal(err)
	}
	lines := manifest.Diff(want, have, img.Options())
	lines = append(lines, imagetest.Lookups(b.client, img)...)
	for i, line := range lines {
		if i == 10 {
			t.Errorf("and %d more", len(lines)-i)
			break
		}
		t.Error(line)
	}
}

// TestImages reads every image with ample resources.
func TestImages(t *testing.T) {
	for _, img := range images(t) {
		t.Run(img.Name, func(t *testing.T) {
			compare(t, img, serve(t, img, manifest.Unpack(t, img), setting{cache: 32 << 20}))
		})
	}
}

// TestImagesStalled reads every image with a stall at every block access, the smallest cache and
// a single slot.
func TestImagesStalled(t *testing.T) {
	for _, img := range images(t) {
		t.Run(img.Name, func(t *testing.T) {
			b := serve(t, img, manifest.Unpack(t, img), setting{slots: 1, stall: true, seed: 1})
			compare(t, img, b)
			if *b.stalls == 0 {
				t.Error("nothing stalled")
			}
		})
	}
}
