package recovery

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"asyncfsd/internal/manifest"
	"asyncfsd/internal/testenv"
)

// fastIgnore are the fields that may differ after a replay: fast commits have no times of
// directories, and not what came and went in them. Where unwritten blocks are in the cache, the
// kernel shows them as data. e2fsck checks what is counted.
var fastIgnore = manifest.Options{Ignore: []string{"mtime", "ctime", "dirsize", "blocks", "data"}}

// TestFastRandom lets the kernel do this and that with an fsync after each, and wants every image
// of a crash to be recovered to what there was to be seen at that moment.
func TestFastRandom(t *testing.T) {
	testenv.NeedRoot(t)
	testenv.NeedProgram(t, "mke2fs")
	rounds := 2
	if os.Getenv(longEnv) != "" {
		rounds = 40
	}
	for _, features := range []string{"metadata_csum,64bit", "^metadata_csum,^64bit,uninit_bg",
		"metadata_csum,^flex_bg", "bigalloc,metadata_csum"} {
		t.Run(features, func(t *testing.T) {
			for seed := range uint64(rounds) {
				t.Run(fmt.Sprint(seed), func(t *testing.T) { fastRandom(t, features, seed) })
			}
		})
	}
}

func fastRandom(t *testing.T, features string, seed uint64) {
	path := filepath.Join(t.TempDir(), "fast.img")
	out, err := exec.Command("mke2fs", "-q", "-t", "ext4", "-b", "1024", "-g", "2048", "-N", "2048",
		"-J", "size=4,fast_commit_size=1024", "-O", "fast_commit,"+features, path, "24M").
		CombinedOutput()
	if err != nil {
		t.Fatalf("mke2fs: %v\n%s", err, out)
	}
	mnt := filepath.Join(t.TempDir(), "mnt")
	if err := os.Mkdir(mnt, 0o755); err != nil {
		t.Fatal(err)
	}
	out, err = exec.Command("mount", "-o", "loop,noatime,commit=300", path, mnt).CombinedOutput()
	if err != nil {
		t.Fatalf("mount: %v\n%s", err, out)
	}
	defer exec.Command("umount", mnt).Run()
	w := &fastWork{t: t, rand: rand.New(rand.NewPCG(seed, 0)), dirs: []string{mnt}}
	for range 40 {
		w.step()
	}
	w.sync(mnt) // everything before is on the disk by a full commit
	for i := range 4 {
		for range 12 {
			w.step()
		}
		crashed := filepath.Join(t.TempDir(), fmt.Sprint("crash-", i))
		want := w.crash(mnt, path, crashed)
		fastRecover(t, crashed, want)
	}
}

// fastRecover recovers the image of a crash.
func fastRecover(t *testing.T, path string, want []manifest.Entry) {
	dev := openFile(t, path)
	r, err := recoverAt(dev, Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Log(r)
	fsck(t, path)
	same(t, want, kernelWalk(t, path, "ro"), fastIgnore)
}

// fastWork changes a filesystem.
type fastWork struct {
	t           *testing.T
	rand        *rand.Rand
	dirs, files []string
	made        int
}

func (w *fastWork) name() string {
	w.made++
	return filepath.Join(w.dirs[w.rand.IntN(len(w.dirs))], fmt.Sprintf("name-%040d", w.made))
}

func (w *fastWork) check(err error) {
	if err != nil && !errors.Is(err, unix.ENOSPC) {
		w.t.Helper()
		w.t.Fatal(err)
	}
}

// sync makes all that was done durable.
func (w *fastWork) sync(path string) {
	f, err := os.Open(path)
	if err != nil {
		w.t.Fatal(err)
	}
	defer f.Close()
	w.check(unix.Syncfs(int(f.Fd())))
}

// crash makes everything durable by an fsync, and copies the image as it is then. It returns what
// is in it.
func (w *fastWork) crash(mnt, from, to string) []manifest.Entry {
	name := filepath.Join(mnt, fmt.Sprint("last-", w.made))
	w.made++
	f, err := os.Create(name)
	w.check(err)
	w.check(f.Sync())
	w.check(f.Close())
	data, err := os.ReadFile(from)
	w.check(err)
	w.check(os.WriteFile(to, data, 0o644))
	entries, err := manifest.Walk(mnt)
	w.check(err)
	return entries
}

func (w *fastWork) step() {
	if len(w.files) == 0 {
		w.write(w.name(), 3000, 0)
		return
	}
	i := w.rand.IntN(len(w.files))
	file := w.files[i]
	switch w.rand.IntN(12) {
	case 0, 1, 2:
		w.write(w.name(), w.rand.IntN(20000), 0)
	case 3, 4:
		w.write(file, w.rand.IntN(9000), int64(w.rand.IntN(60000)))
	case 5:
		w.check(os.Truncate(file, int64(w.rand.IntN(30000))))
	case 6:
		w.punch(file)
	case 7:
		name := w.name()
		w.check(os.Rename(file, name))
		w.files[i] = name
	case 8:
		name := w.name()
		w.check(os.Link(file, name))
		w.files = append(w.files, name)
	case 9:
		w.check(os.Remove(file))
		w.files = append(w.files[:i], w.files[i+1:]...)
	case 10:
		name := w.name()
		w.check(os.Mkdir(name, 0o755))
		w.dirs = append(w.dirs, name)
		for range w.rand.IntN(40) {
			w.write(w.name(), 10, 0)
		}
	case 11:
		name := w.files[w.rand.IntN(len(w.files))]
		if name != file {
			w.check(os.Rename(file, name))
			if _, err := os.Lstat(file); err != nil { // not two names of one file
				w.files = append(w.files[:i], w.files[i+1:]...)
			}
		}
	}
}

func (w *fastWork) write(name string, n int, off int64) {
	if _, err := os.Lstat(name); err != nil {
		w.files = append(w.files, name)
	}
	f, err := os.OpenFile(name, os.O_CREATE|os.O_WRONLY, 0o644)
	w.check(err)
	data := make([]byte, n)
	for i := range data {
		data[i] = byte(w.rand.Uint32())
	}
	_, err = f.WriteAt(data, off)
	w.check(err)
	w.check(f.Sync())
	w.check(f.Close())
}

// punch makes a hole, or allocates.
func (w *fastWork) punch(name string) {
	f, err := os.OpenFile(name, os.O_RDWR, 0)
	w.check(err)
	mode := []uint32{0, unix.FALLOC_FL_KEEP_SIZE,
		unix.FALLOC_FL_PUNCH_HOLE | unix.FALLOC_FL_KEEP_SIZE, unix.FALLOC_FL_ZERO_RANGE}
	off, n := int64(w.rand.IntN(30000)), int64(1+w.rand.IntN(20000))
	w.check(unix.Fallocate(int(f.Fd()), mode[w.rand.IntN(len(mode))], off, n))
	w.check(f.Sync())
	w.check(f.Close())
}

// errCut is what a device says after the power has gone.
var errCut = errors.New("cut")

// cutter is a device that takes only some more writes.
type cutter struct {
	*memory
	left int
}

func (c *cutter) WriteAt(p []byte, off int64) (int, error) {
	if c.left--; c.left < 0 {
		return 0, errCut
	}
	return c.memory.WriteAt(p, off)
}

// TestFastCut cuts recovery short at every write, and wants the next one to do all the same.
func TestFastCut(t *testing.T) {
	for _, img := range images(t, dirty) {
		if img.Name != "log-fast" && img.Name != "log-fast-32" && img.Name != "log-fast-dir" {
			continue
		}
		t.Run(img.Name, func(t *testing.T) {
			want, err := img.Manifest()
			if err != nil {
				t.Fatal(err)
			}
			whole := load(t, manifest.Unpack(t, img))
			for n := 0; ; n++ {
				dev := &cutter{whole.clone(), n}
				if _, err := recoverAt(dev, Options{}); err == nil {
					t.Logf("%d writes", n)
					break
				} else if !errors.Is(err, errCut) {
					t.Fatal(err)
				}
				if _, err := recoverAt(dev.memory, Options{}); err != nil {
					t.Fatalf("after %d writes: %v", n, err)
				}
				path := filepath.Join(t.TempDir(), "image")
				if err := os.WriteFile(path, dev.data, 0o644); err != nil {
					t.Fatal(err)
				}
				fsck(t, path)
				same(t, want, kernelWalk(t, path, "ro"), img.Options())
			}
		})
	}
}
