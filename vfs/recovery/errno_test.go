package recovery

import (
	"bytes"
	"encoding/binary"
	"os/exec"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"asyncfsd/internal/testenv"
	"asyncfsd/vfs/ext4"
)

// TestErrno mounts a filesystem whose journal is clean and still says why it was given up, as when
// power fails at the end of a recovery: the superblock has to say so, and the journal no more, as
// with the kernel.
func TestErrno(t *testing.T) {
	testenv.NeedRoot(t)
	path := filepath.Join(t.TempDir(), "image")
	out, err := exec.Command("mke2fs", "-q", "-t", "ext4", path, "8m").CombinedOutput()
	if err != nil {
		t.Fatalf("mke2fs: %v: %s", err, out)
	}
	dev := load(t, path)
	vol, err := ext4.Open(dev, dev.Size(), ext4.OpenOptions{})
	if err != nil {
		t.Fatal(err)
	}
	c, err := find(dev, vol, Options{})
	if err != nil {
		t.Fatal(err)
	}
	journal := dev.data[int64(c.Runs[0].Phys)<<c.BlockBits:]
	errno := -int32(unix.EIO)
	binary.BigEndian.PutUint32(journal[0x20:], uint32(errno)) // s_errno

	before := bytes.Clone(dev.data)
	if r, err := recoverAt(dev, Options{ReadOnly: true}); err != nil || r.Replayed ||
		!bytes.Equal(before, dev.data) {
		t.Errorf("read-only: %+v, %v, or something was written", r, err)
	}
	againstKernel(t, dev.clone())
	r, err := recoverAt(dev, Options{})
	if err != nil || r.Errno != int(unix.EIO) || !r.Replayed {
		t.Errorf("%+v, %v", r, err)
	}
	if dev.data[ext4.SuperOffset+sState]&stateErrors == 0 ||
		binary.BigEndian.Uint32(journal[0x20:]) != 0 {
		t.Error("the error is not where it belongs")
	}
}
