package main

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"asyncfsd/internal/testenv"
)

// TestClusters has asyncfsd and the kernel do the same on two copies of a filesystem whose blocks
// are allocated in clusters: both tell of the same free space, before and after, and of the same
// size of files.
func TestClusters(t *testing.T) {
	testenv.NeedRoot(t)
	path := newImage(t, "-b", "4096", "-O", "bigalloc", "-C", "65536")
	other := path + ".kernel"
	base, err := os.ReadFile(path)
	if err := errors.Join(err, os.WriteFile(other, base, 0o600)); err != nil {
		t.Fatal(err)
	}
	mnt := mountpoint(t)
	if r := asyncfsd(t, "-o", "rw", path, mnt); r.code != 0 || r.stderr != "" {
		t.Fatalf("exit code %d: %s", r.code, r.stderr)
	}
	theirs, detach := kernelMount(t, other)
	defer detach()
	for _, step := range []func(t *testing.T, root string){func(*testing.T, string) {},
		clusterFiles, clusterHoles} {
		var have [2]string
		for i, root := range []string{mnt, theirs} {
			step(t, root)
			have[i] = clusterUse(t, root)
		}
		if have[0] != have[1] {
			t.Errorf("asyncfsd: %s\nthe kernel: %s", have[0], have[1])
		}
	}
	umount(t, mnt)
	check(t, path)
	detach()
}

// clusterUse is what a mount tells of free space and of the sectors of files.
func clusterUse(t *testing.T, root string) string {
	t.Helper()
	fd, err := unix.Open(root, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	_ = unix.Fsync(fd)
	_ = unix.Syncfs(fd)
	var fs unix.Statfs_t
	if err := unix.Statfs(root, &fs); err != nil {
		t.Fatal(err)
	}
	text := fmt.Sprint(fs.Blocks, fs.Bfree, fs.Bavail, fs.Ffree, fs.Bsize)
	names, _ := filepath.Glob(root + "/*")
	for _, name := range names {
		var st unix.Stat_t
		if err := unix.Lstat(name, &st); err != nil {
			t.Fatal(err)
		}
		text += fmt.Sprint(" ", filepath.Base(name), st.Size, st.Blocks)
	}
	return text
}

func clusterFiles(t *testing.T, root string) {
	for i := range 20 {
		data := bytes.Repeat([]byte{byte(i)}, i*i*1000)
		if err := os.WriteFile(fmt.Sprint(root, "/", i), data, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	err := errors.Join(os.Mkdir(root+"/dir", 0o700),
		os.Symlink(string(bytes.Repeat([]byte("s"), 300)), root+"/link"),
		unix.Setxattr(root+"/3", "user.large", make([]byte, 3000), 0))
	if err != nil {
		t.Fatal(err)
	}
}

func clusterHoles(t *testing.T, root string) {
	f, err := os.OpenFile(root+"/19", os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	fd := int(f.Fd())
	_, err = f.WriteAt([]byte("x"), 1_000_001)
	err = errors.Join(err, f.Sync(),
		unix.Fallocate(fd, unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, 4096, 120_000),
		unix.Fallocate(fd, unix.FALLOC_FL_KEEP_SIZE, 600_000, 100_000),
		os.Truncate(root+"/18", 70_000), os.Remove(root+"/17"))
	if err != nil {
		t.Fatal(err)
	}
}
