package vfs_test

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"golang.org/x/sys/unix"

	"asyncfsd/blockdev"
	"asyncfsd/internal/testenv"
)

// TestKernelRecovers has the kernel recover what power cuts leave of simulations: it replays the
// journal and frees the orphans, and what was promised is there.
func TestKernelRecovers(t *testing.T) {
	testenv.NeedRoot(t)
	for name, args := range map[string][]string{
		"ext4-1k": {"-t", "ext4", "-b", "1024", "-J", "size=1"},
		"ext4-4k": {"-t", "ext4", "-b", "4096", "-J", "size=4"},
		"ext3-1k": {"-t", "ext3", "-b", "1024", "-J", "size=1"},
	} {
		base := formatted(t, 24<<20, args...)
		for seed := uint64(1); seed <= max(1, *simSeeds/2); seed++ {
			t.Run(fmt.Sprintf("%s/%d", name, seed), func(t *testing.T) {
				b := must[*memBed](t)(openMem(slices.Clone(base), seed, false))
				defer b.close()
				r := newSimRun(t, b, seed)
				for i := 0; i < *simOps && !t.Failed(); i++ {
					r.operation()
				}
				for i := 0; i < *simCuts && !t.Failed(); i++ {
					r.kernelCut(r.rng.IntN(b.record.Now()+1), blockdev.KeepRandom(r.rng.Uint64()))
				}
			})
		}
	}
}

// kernelCut is cut with the kernel's recovery.
func (r *simRun) kernelCut(point int, keep blockdev.Keep) {
	when := fmt.Sprintf("power cut at %d, recovered by the kernel", point)
	image := kernelMounted(r.t, r.b.image(point, keep))
	fsckImage(r.t, slices.Clone(image), "-fn", when)
	first, last := r.between(point)
	b := must[*memBed](r.t)(openMem(image, 0, false))
	if why := r.matches(b, first, last, "f"); why != "" {
		r.t.Errorf("%s: none of the states %d to %d: %s", when, first, last, why)
	}
	b.done(r.t, when)
}

// kernelMounted returns what an image is once the kernel has mounted and unmounted it.
func kernelMounted(t *testing.T, image []byte) []byte {
	t.Helper()
	path, mnt := filepath.Join(testenv.MemoryDir(t), "image"), t.TempDir()
	check(t, os.WriteFile(path, image, 0o600))
	device := testenv.AttachLoop(t, path, 512)
	if err := unix.Mount(device, mnt, "ext4", 0, ""); err != nil {
		t.Fatalf("the kernel does not mount it: %v", err)
	}
	check(t, unix.Unmount(mnt, 0))
	fd := must[int](t)(unix.Open(device, unix.O_RDWR|unix.O_CLOEXEC, 0))
	check(t, unix.Fsync(fd))
	check(t, unix.Close(fd))
	return must[[]byte](t)(os.ReadFile(path))
}
