package recovery

import (
	"os/exec"
	"strings"
	"testing"

	"asyncfsd/internal/manifest"
	"asyncfsd/internal/testenv"
	"asyncfsd/vfs/ext4"
)

func dirty(img manifest.Image) bool { return img.Dirty }

// orphans says that a recovered image still has inodes without names. They are left to a mount
// that may write, and e2fsck would complain of them.
func orphans(img manifest.Image) bool { return strings.Contains(img.Name, "orphan") }

// TestImages recovers every image with a dirty journal, and compares the tree with what the kernel
// made of it.
func TestImages(t *testing.T) {
	for _, img := range images(t, dirty) {
		t.Run(img.Name, func(t *testing.T) {
			path := manifest.Unpack(t, img)
			journal := journalOf(t, img)
			dev := openFile(t, path)
			r, err := recoverAt(dev, Options{Journal: journal})
			if err != nil {
				t.Fatal(err)
			}
			if !r.Replayed || r.Transactions == 0 {
				t.Fatalf("nothing replayed: %+v", r)
			}
			t.Log(r)
			again, err := recoverAt(dev, Options{Journal: journal})
			if err != nil || again != (Report{}) {
				t.Fatalf("the second time: %+v, %v", again, err)
			}
			if orphans(img) {
				repair(t, path)
			}
			if img.Journal != "" {
				withoutJournal(t, path)
			}
			fsck(t, path)
			want, err := img.Manifest()
			if err != nil {
				t.Fatal(err)
			}
			same(t, want, kernelWalk(t, path, "ro"), img.Options())
		})
	}
}

// repair lets e2fsck take care of orphans.
func repair(t *testing.T, path string) {
	t.Helper()
	testenv.NeedProgram(t, "e2fsck")
	out, err := exec.Command("e2fsck", "-fp", path).CombinedOutput()
	if err != nil && err.(*exec.ExitError).ExitCode() != 1 {
		t.Fatalf("e2fsck: %v\n%s", err, out)
	}
	t.Logf("%s", out)
}

// withoutJournal takes the external journal away, which a mount would want to see.
func withoutJournal(t *testing.T, path string) {
	t.Helper()
	testenv.NeedProgram(t, "tune2fs")
	out, err := exec.Command("tune2fs", "-f", "-O", "^has_journal", path).CombinedOutput()
	if err != nil {
		t.Fatalf("tune2fs: %v\n%s", err, out)
	}
}

// TestReadOnly wants a dirty journal to be refused where nothing can be written, and to be left
// alone where it shall be.
func TestReadOnly(t *testing.T) {
	img := images(t, func(img manifest.Image) bool { return img.Name == "log-v3" })[0]
	dev := load(t, manifest.Unpack(t, img))
	before := dev.clone()
	if r, err := recoverAt(dev, Options{ReadOnly: true}); err != ErrReadOnly {
		t.Errorf("%+v, %v", r, err)
	}
	r, err := recoverAt(dev, Options{NoRecovery: true})
	if err != nil || !r.Skipped || r.Replayed {
		t.Errorf("norecovery: %+v, %v", r, err)
	}
	if string(before.data) != string(dev.data) {
		t.Error("the image was changed")
	}
}

// TestClean wants clean journals to be accepted without a single write, and bad ones refused.
func TestClean(t *testing.T) {
	clean := func(img manifest.Image) bool {
		return !img.Dirty && img.Offset == 0 && img.Superblock == 0 && img.Size <= 64<<20
	}
	refused := 0
	for _, img := range images(t, clean) {
		t.Run(img.Name, func(t *testing.T) {
			dev := openFile(t, manifest.Unpack(t, img))
			vol, err := ext4.Open(dev, dev.Size(), ext4.OpenOptions{})
			if err != nil {
				t.Skip("no volume")
			}
			r, err := Recover(readOnly{dev}, vol, Options{ReadOnly: true})
			bad := strings.HasPrefix(img.Name, "bad-journal")
			if (err != nil) != bad || r != (Report{}) {
				t.Errorf("%+v, %v", r, err)
			}
			if bad {
				refused++
				t.Log(err)
			}
		})
	}
	if refused != 2 {
		t.Errorf("%d journals refused", refused)
	}
}

// readOnly must not be written to.
type readOnly struct{ Storage }

func (readOnly) WriteAt([]byte, int64) (int, error) { panic("written to") }
