package recovery

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"asyncfsd/internal/manifest"
	"asyncfsd/internal/testenv"
	"asyncfsd/vfs/ext4"
)

// longEnv makes the tests of this file try every block of the log.
const longEnv = "ASYNCFSD_LONG"

// tornImages are those whose logs are cut short and damaged.
var tornImages = []string{"log-plain", "log-v1", "log-async", "log-v2", "log-v2-32", "log-v3",
	"log-v3-32bit", "log-64bit", "log-4k", "log-data", "log-wrap", "log-revoke32"}

// damages are what happens to a block of the log: nothing was written from there on, it holds
// something else, or one bit is wrong.
var damages = []struct {
	name string
	do   func(dev *memory, bs int, tail []int64)
}{
	{"cut", func(dev *memory, bs int, tail []int64) {
		for _, off := range tail {
			clear(dev.data[off : off+int64(bs)])
		}
	}},
	{"lost", func(dev *memory, bs int, tail []int64) {
		for i := range bs {
			dev.data[tail[0]+int64(i)] = byte(i * 7)
		}
	}},
	{"bit", func(dev *memory, bs int, tail []int64) { dev.data[tail[0]+int64(bs)-8] ^= 16 }},
}

// TestTorn damages the log at many places, and wants recovery to end as the kernel's does: with the
// same bytes on the disk, or both with an error.
func TestTorn(t *testing.T) {
	testenv.NeedRoot(t)
	all, err := manifest.Images(imagesDir)
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range tornImages {
		img, ok := manifest.Find(all, name)
		if !ok {
			t.Fatalf("no image %s", name)
		}
		t.Run(name, func(t *testing.T) { tornImage(t, img) })
	}
}

func tornImage(t *testing.T, img manifest.Image) {
	whole := load(t, manifest.Unpack(t, img))
	r, err := recoverAt(whole.clone(), Options{})
	if err != nil {
		t.Fatal(err)
	}
	log := logOffsets(t, whole, r.LogBlocks)
	for n, damage := range damages {
		step := len(log)/3 + 1
		if os.Getenv(longEnv) != "" {
			step = 1
		}
		failed := 0
		for i := n % step; i < len(log); i += step {
			dev := whole.clone()
			damage.do(dev, img.BlockSize, log[i:])
			t.Run(fmt.Sprintf("%s-%d", damage.name, i), func(t *testing.T) {
				if !againstKernel(t, dev) {
					failed++
				}
			})
		}
		t.Logf("%s: %d blocks, step %d, refused %d", damage.name, len(log), step, failed)
	}
}

// logOffsets returns where the first n blocks of the log are.
func logOffsets(t *testing.T, dev Storage, n int) (list []int64) {
	t.Helper()
	vol, err := ext4.Open(dev, dev.Size(), ext4.OpenOptions{})
	if err != nil {
		t.Fatal(err)
	}
	c, err := find(dev, vol, Options{})
	if err != nil {
		t.Fatal(err)
	}
	var all []int64
	for _, r := range c.Runs {
		for i := range r.Len {
			all = append(all, int64(r.Phys+ext4.Block(i))<<c.BlockBits)
		}
	}
	super := make([]byte, 64)
	if _, err := dev.ReadAt(super, all[0]); err != nil {
		t.Fatal(err)
	}
	first, at := int(binary.BigEndian.Uint32(super[20:])), int(binary.BigEndian.Uint32(super[28:]))
	for range n {
		list = append(list, all[at])
		if at++; at == len(all) {
			at = first
		}
	}
	return list
}

// againstKernel recovers a filesystem here and by the kernel, and compares. ok is false if both
// refused.
func againstKernel(t *testing.T, dev *memory) (ok bool) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "kernel.img")
	if err := os.WriteFile(path, dev.data, 0o644); err != nil {
		t.Fatal(err)
	}
	out, kerr := kernelRecover(t, path)
	r, err := recoverAt(dev, Options{})
	if (err != nil) != (kerr != nil) {
		t.Errorf("%+v, %v; the kernel: %v %s", r, err, kerr, out)
	}
	if err != nil || kerr != nil {
		return false
	}
	kernel := load(t, path)
	blank(t, dev)
	blank(t, kernel)
	for i := range dev.data {
		if dev.data[i] != kernel.data[i] {
			t.Errorf("%+v: byte %d is %#x, with the kernel %#x", r, i, dev.data[i], kernel.data[i])
			break
		}
	}
	return true
}

// kernelRecover mounts read-only, which replays the journal and writes nothing else.
//
// NB: the option loop would make the device read-only as well.
func kernelRecover(t *testing.T, path string) (string, error) {
	t.Helper()
	mnt := filepath.Join(t.TempDir(), "mnt")
	if err := os.Mkdir(mnt, 0o755); err != nil {
		t.Fatal(err)
	}
	dev, err := exec.Command("losetup", "-f", "--show", path).Output()
	if err != nil {
		t.Fatal(err)
	}
	name := string(bytes.TrimSpace(dev))
	defer exec.Command("losetup", "-d", name).Run()
	out, err := exec.Command("mount", "-t", "ext4", "-o", "ro", name, mnt).CombinedOutput()
	if err == nil {
		if out, err := exec.Command("umount", mnt).CombinedOutput(); err != nil {
			t.Fatalf("umount: %v: %s", err, out)
		}
	}
	return string(bytes.TrimSpace(out)), err
}

// blank clears what may differ: the times of the superblock, and of the journal's superblock what
// depends on where the next transaction would begin.
func blank(t *testing.T, dev *memory) {
	t.Helper()
	vol, err := ext4.Open(dev, dev.Size(), ext4.OpenOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if vol.NeedsRecovery() {
		t.Error("still needs recovery")
	}
	c, err := find(dev, vol, Options{})
	if err != nil {
		t.Fatal(err)
	}
	journal := dev.data[int64(c.Runs[0].Phys)<<c.BlockBits:]
	super := dev.data[ext4.SuperOffset:]
	clear(journal[0x24:0x30])  // features: the kernel sets those of its mount options
	clear(journal[0x50:0x51])  // s_checksum_type
	clear(journal[0x58:0x5c])  // s_head
	clear(journal[0xfc:0x100]) // s_checksum
	clear(super[0x30:0x34])    // s_wtime
	clear(super[0x178:0x180])  // s_kbytes_written
	clear(super[0x274:0x275])  // s_wtime_hi
	clear(super[0x3fc:0x400])  // s_checksum
}
