package recovery

import (
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"asyncfsd/internal/testenv"
)

// TestFastQuota has fast commits change what quotas count: the kernel leaves it to their replay. It
// makes them on a filesystem whose quota files it does not see, so that these are as after the last
// full commit also where the kernel does not know quotas at all.
func TestFastQuota(t *testing.T) {
	testenv.NeedRoot(t)
	testenv.NeedProgram(t, "mke2fs", "debugfs", "e2fsck")
	path, mnt := filepath.Join(t.TempDir(), "fast.img"), filepath.Join(t.TempDir(), "mnt")
	if err := os.Mkdir(mnt, 0o755); err != nil {
		t.Fatal(err)
	}
	run := func(name string, args ...string) {
		t.Helper()
		if out, err := exec.Command(name, args...).CombinedOutput(); err != nil {
			t.Fatalf("%s %v: %v\n%s", name, args, err, out)
		}
	}
	run("mke2fs", "-q", "-t", "ext4", "-b", "1024", "-J", "size=4,fast_commit_size=1024", "-O",
		"fast_commit,quota", path, "24M")
	run("debugfs", "-w", "-R", "feature -quota", path)
	run("mount", "-o", "loop", path, mnt)
	w := &fastWork{t: t, rand: rand.New(rand.NewPCG(1, 1)), dirs: []string{mnt}}
	for i := range 40 {
		name := w.name()
		w.write(name, 500*i, 0)
		w.check(os.Chown(name, i%5, i%3))
	}
	run("umount", mnt)
	run("debugfs", "-w", "-R", "feature quota", path)
	_ = exec.Command("e2fsck", "-fy", path).Run() // counts
	fsck(t, path)
	run("debugfs", "-w", "-R", "feature -quota", path)
	run("mount", "-o", "loop,noatime,commit=300", path, mnt)
	defer exec.Command("umount", mnt).Run()
	// The first commit is a full one, which must not have the superblock, nor what counts.
	w.check(os.Chmod(w.files[0], 0o600))
	w.sync(mnt)
	for i := range 3 {
		for range 4 {
			w.owners(mnt)
		}
		crashed := filepath.Join(t.TempDir(), fmt.Sprint("crash-", i))
		w.crash(mnt, path, crashed)
		run("debugfs", "-w", "-R", "feature quota", crashed)
		r, err := recoverAt(openFile(t, crashed), Options{})
		if err != nil {
			t.Fatal(err)
		}
		if r.FastCommits == 0 {
			t.Errorf("no fast commits: %v", r)
		}
		t.Log(r)
		fsck(t, crashed)
	}
}

// owners changes what three files count for, and to whom, and makes a new one.
func (w *fastWork) owners(mnt string) {
	pick := func() string { return w.files[w.rand.IntN(len(w.files))] }
	w.check(os.Chown(pick(), w.rand.IntN(300), w.rand.IntN(5)))
	w.check(os.Truncate(pick(), int64(w.rand.IntN(9000))))
	i := w.rand.IntN(len(w.files))
	w.check(os.Remove(w.files[i]))
	w.files = append(w.files[:i], w.files[i+1:]...)
	name := w.name()
	w.write(name, 7000, 0)
	w.check(os.Chown(name, 1000+w.rand.IntN(3), 7))
	for _, name := range w.files[len(w.files)-3:] {
		f, err := os.Open(name)
		w.check(err)
		w.check(f.Sync())
		w.check(f.Close())
	}
}
