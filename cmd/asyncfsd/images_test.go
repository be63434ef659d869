package main

import (
	"fmt"
	"os"
	"strings"
	"testing"

	"asyncfsd/internal/manifest"
	"asyncfsd/internal/testenv"
)

// TestImages mounts every test image that can be mounted, and compares the whole tree as system
// calls show it with the manifest; the others it must refuse.
func TestImages(t *testing.T) {
	testenv.NeedRoot(t)
	all, err := manifest.Images(imagesDir)
	if err != nil {
		t.Fatal(err)
	}
	for _, img := range all {
		t.Run(img.Name, func(t *testing.T) {
			path := manifest.Unpack(t, img)
			if img.MountError != "" {
				refuse(t, path, img)
				return
			}
			mnt := mountpoint(t)
			mount(t, append(arguments(t, img), path, mnt)...)
			have, err := manifest.Walk(mnt)
			if err != nil {
				t.Fatal(err)
			}
			compare(t, img, have)
		})
	}
}

// arguments are the options an image needs.
func arguments(t *testing.T, img manifest.Image) []string {
	var words []string
	switch {
	case img.Partition != 0:
		words = append(words, fmt.Sprintf("partition=%d", img.Partition))
	case img.Offset != 0:
		words = append(words, fmt.Sprintf("offset=%d", img.Offset))
	}
	if img.Superblock != 0 {
		words = append(words, fmt.Sprintf("sb=%d", img.Superblock))
	}
	if img.Journal != "" {
		path, _ := image(t, img.Journal)
		words = append(words, "journal_path="+path)
	}
	return []string{"-o", strings.Join(append(words, "suid", "dev"), ",")}
}

func compare(t *testing.T, img manifest.Image, have []manifest.Entry) {
	want, err := img.Manifest()
	if err != nil {
		t.Fatal(err)
	}
	lines := manifest.Diff(want, have, img.Options())
	for i, line := range lines {
		if i == 10 {
			t.Errorf("and %d more", len(lines)-i)
			break
		}
		t.Error(line)
	}
}

// refuse mounts what must be refused: with one line that names the image, exit code 32, and the
// image left as it was.
func refuse(t *testing.T, path string, img manifest.Image) {
	mnt := mountpoint(t)
	before, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	r := asyncfsd(t, path, mnt)
	if r.code != 32 || strings.Count(r.stderr, "\n") != 1 ||
		!strings.HasPrefix(r.stderr, "asyncfsd: "+path+": ") {
		t.Errorf("%s: exit code %d: %s", img.MountError, r.code, r.stderr)
	}
	t.Logf("%s: %s", img.MountError, strings.TrimPrefix(r.stderr, "asyncfsd: "+path+": "))
	after, err := os.ReadFile(path)
	if err != nil || string(before) != string(after) {
		t.Error("the image was changed")
	}
}
