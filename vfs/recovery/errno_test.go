package recovery

import (
	"bytes"
	"encoding/binary"
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
	dev, vol := formatted(t)
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
