package ext4

import (
	"encoding/binary"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"asyncfsd/internal/testenv"
)

// TestKernelReadsMapping has the kernel read files whose mappings were edited here, and then change
// them.
func TestKernelReadsMapping(t *testing.T) {
	testenv.NeedRoot(t)
	for _, name := range []string{"ext4-4k", "ext4-1k", "ext4-nosum", "ext3-1k", "ext2-4k",
		"bigalloc", "groups"} {
		t.Run(name, func(t *testing.T) {
			b := newBed(t, imageNamed(name), 9)
			b.churn(3000)
			b.check()
			b.fillPattern()
			b.mounted("ro", b.readPattern)
			b.mounted("rw", b.kernelChanges)
			b.fsck()
		})
	}
}

// pattern is what stands at the beginning of a block.
func pattern(f *bedFile, lblk Lblk) (p [8]byte) {
	binary.LittleEndian.PutUint32(p[:], uint32(f.ino))
	binary.LittleEndian.PutUint32(p[4:], ^uint32(lblk))
	return p
}

// fillPattern writes every mapped block, also those that read as zeros.
func (b *bed) fillPattern() {
	b.t.Helper()
	for _, f := range b.files {
		for lblk, m := range f.model {
			p := pattern(f, lblk)
			if _, err := b.img.WriteAt(p[:], int64(m.phys)<<b.v.BlockBits); err != nil {
				b.t.Fatal(err)
			}
		}
	}
}

// mounted mounts the image for fn. NB: on a loop device of its own: mount(8) would take the one of
// the mount before, which is read-only, if that is not gone yet.
func (b *bed) mounted(option string, fn func(dir string)) {
	b.t.Helper()
	dir := filepath.Join(b.t.TempDir(), "mnt")
	if err := os.Mkdir(dir, 0o755); err != nil {
		b.t.Fatal(err)
	}
	device := testenv.AttachLoop(b.t, b.path, 512)
	out, err := exec.Command("mount", "-t", "ext4", "-o", option, device, dir).CombinedOutput()
	if err != nil {
		b.t.Fatalf("mount: %s", out)
	}
	defer func() {
		if out, err := exec.Command("umount", dir).CombinedOutput(); err != nil {
			b.t.Errorf("umount: %s", out)
		}
	}()
	fn(dir)
}

func (b *bed) readPattern(dir string) {
	for _, f := range b.files {
		in := b.inode(f)
		file, err := os.Open(filepath.Join(dir, f.name))
		if err != nil {
			b.t.Fatal(err)
		}
		defer file.Close()
		if st, err := file.Stat(); err != nil || st.Size() != int64(in.Size) {
			b.t.Fatalf("%v, %v", st, err)
		}
		check := func(lblk Lblk) {
			if (uint64(lblk)+1)<<b.v.BlockBits > in.Size {
				return
			}
			var have, want [8]byte
			if m, ok := f.model[lblk]; ok && !m.unwritten {
				want = pattern(f, lblk)
			}
			_, err := file.ReadAt(have[:], int64(lblk)<<b.v.BlockBits)
			if err != nil || have != want {
				b.t.Fatalf("%s, block %d: % x, not % x; %v", f.name, lblk, have, want, err)
			}
		}
		for lblk := range f.model {
			check(lblk)
			check(lblk + 1)
		}
	}
}

// kernelChanges has the kernel write to one file, and empty the other one.
func (b *bed) kernelChanges(dir string) {
	f, err := os.OpenFile(filepath.Join(dir, b.files[0].name), os.O_RDWR, 0)
	if err != nil {
		b.t.Fatal(err)
	}
	defer f.Close()
	for i := range 500 {
		at := int64(b.rng.Intn(3000)) << b.v.BlockBits
		if _, err := f.WriteAt(make([]byte, 1+i%5000), at); err != nil {
			b.t.Fatal(err)
		}
		if i%10 == 0 {
			err := unix.Fallocate(int(f.Fd()), unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE,
				int64(b.rng.Intn(3000))<<b.v.BlockBits, 30000)
			if err != nil && err != unix.EOPNOTSUPP {
				b.t.Fatal(err)
			}
		}
	}
	name := filepath.Join(dir, b.files[1].name)
	if err := os.Truncate(name, 0); err != nil {
		b.t.Fatal(err)
	}
	if st, err := os.Stat(name); err != nil || st.Sys().(*syscall.Stat_t).Blocks != 0 {
		b.t.Errorf("%v, %v", st.Sys(), err)
	}
}
