package vfs_test

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"asyncfsd/vfs"
	"asyncfsd/vfs/ext4"
)

// TestInlineFiles changes small files and directories at random, which are in their inodes at
// first, and has the kernel read them.
func TestInlineFiles(t *testing.T) {
	path := mkfs(t, 64<<20, "-t", "ext4", "-b", "1024", "-I", "512", "-O", "inline_data", "-N",
		"4000")
	for seed := range uint64(3) {
		s := &smallFiles{t: t, rng: rand.New(rand.NewPCG(seed, 5)), files: map[string]*smallFile{},
			b: openWrite(t, path, setting{seed: seed + 1, stall: seed == 1})}
		s.dir = must[vfs.Attr](t)(s.b.Mkdir(ext4.RootIno, fmt.Sprint("dir", seed), 0o755)).Ino
		for range 600 {
			s.step()
		}
		s.compare()
		s.b.close()
		s.b = openWrite(t, path, setting{})
		s.compare()
		s.b.close()
		s.kernel(path, fmt.Sprint("dir", seed))
	}
}

type smallFile struct {
	ino   ext4.Ino
	data  []byte
	value []byte
}

type smallFiles struct {
	t     *testing.T
	b     *writeBed
	rng   *rand.Rand
	dir   ext4.Ino
	files map[string]*smallFile
}

func (s *smallFiles) step() {
	s.t.Helper()
	name := fmt.Sprint("file", s.rng.IntN(30))
	f := s.files[name]
	if f == nil {
		a := must[vfs.Attr](s.t)(s.b.Mknod(s.dir, name, unix.S_IFREG|0o644, 0))
		s.files[name] = &smallFile{ino: a.Ino}
		return
	}
	off, n := s.rng.IntN(1+min(len(f.data)+40, 420)), 1+s.rng.IntN(120)
	switch s.rng.IntN(16) {
	case 0:
		check(s.t, s.b.Unlink(s.dir, name))
		delete(s.files, name)
	case 1, 2:
		check(s.t, s.b.Truncate(f.ino, uint64(off)))
		f.resize(off)
	case 3:
		check(s.t, s.b.Fallocate(f.ino, unix.FALLOC_FL_KEEP_SIZE|unix.FALLOC_FL_PUNCH_HOLE,
			uint64(off), uint64(n)))
		if off < len(f.data) {
			clear(f.data[off:min(off+n, len(f.data))])
		}
	case 4:
		check(s.t, s.b.Fallocate(f.ino, 0, uint64(off), uint64(n)))
		f.resize(max(len(f.data), off+n))
	case 5:
		f.value = bytes.Repeat([]byte{'v'}, n)
		check(s.t, s.b.Setxattr(f.ino, "user.value", f.value, 0))
	default:
		p := make([]byte, n)
		for i := range p {
			p[i] = byte(s.rng.Uint32())
		}
		must[int](s.t)(s.b.WriteAt(f.ino, p, int64(off)))
		f.resize(max(len(f.data), off+n))
		copy(f.data[off:], p)
	}
	if f := s.files[name]; f != nil {
		sameData(s.t, s.b, f.ino, f.data, 0)
	}
}

func (f *smallFile) resize(n int) {
	f.data = append(f.data, make([]byte, max(n-len(f.data), 0))...)[:n]
}

func (s *smallFiles) compare() {
	s.t.Helper()
	if n := len(must[[]vfs.Dirent](s.t)(s.b.ReadDir(s.dir))); n != len(s.files)+2 {
		s.t.Errorf("%d names, want %d", n, len(s.files))
	}
	inline, blocks := 0, 0
	for name, f := range s.files {
		a := must[vfs.Attr](s.t)(s.b.Lookup(s.dir, name))
		switch {
		case a.Sectors > 1:
			blocks++
		case a.Size > 0:
			inline++
		}
		if a.Ino != f.ino {
			s.t.Errorf("%s is inode %d, not %d", name, a.Ino, f.ino)
		}
		sameData(s.t, s.b, f.ino, f.data, -1)
	}
	if inline == 0 || blocks == 0 {
		s.t.Errorf("%d files are inline, %d are not", inline, blocks)
	}
}

// kernel compares with what the kernel reads.
func (s *smallFiles) kernel(path, name string) {
	if os.Getuid() != 0 {
		return
	}
	mnt := s.t.TempDir()
	out, err := exec.Command("mount", "-t", "ext4", "-o", "loop,ro", path, mnt).CombinedOutput()
	if err != nil {
		s.t.Fatalf("mount: %s", out)
	}
	defer exec.Command("umount", mnt).Run()
	dir := filepath.Join(mnt, name)
	if list := must[[]os.DirEntry](s.t)(os.ReadDir(dir)); len(list) != len(s.files) {
		s.t.Errorf("the kernel lists %d names, want %d", len(list), len(s.files))
	}
	for name, f := range s.files {
		have, err := os.ReadFile(filepath.Join(dir, name))
		if err != nil || !bytes.Equal(have, f.data) {
			s.t.Errorf("%s: the kernel reads\n%x, %v, want\n%x", name, have, err, f.data)
		}
		value := make([]byte, 1024)
		n, err := unix.Getxattr(filepath.Join(dir, name), "user.value", value)
		if f.value != nil && (err != nil || !bytes.Equal(value[:n], f.value)) {
			s.t.Errorf("%s: user.value has %d bytes, %v, want %d", name, n, err, len(f.value))
		}
	}
}
