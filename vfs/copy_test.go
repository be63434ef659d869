package vfs_test

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"testing"

	"golang.org/x/sys/unix"

	"asyncfsd/vfs"
	"asyncfsd/vfs/ext4"
)

// TestCopyRange copies ranges of all alignments and sizes, beyond a piece as well, out of a file
// with holes and unwritten blocks, within it too, and over what is there.
func TestCopyRange(t *testing.T) {
	for name, args := range map[string][]string{
		"1k": {"-t", "ext4", "-b", "1024"}, "4k": {"-t", "ext4", "-b", "4096"},
		"ext2":   {"-t", "ext2", "-b", "1024"},
		"inline": {"-t", "ext4", "-b", "4096", "-O", "inline_data"},
	} {
		t.Run(name, func(t *testing.T) {
			path := mkfs(t, 64<<20, args...)
			b := openWrite(t, path, setting{})
			defer b.close()
			copyRanges(t, b, name == "inline")
		})
	}
}

func copyRanges(t *testing.T, b *writeBed, small bool) {
	rng := rand.New(rand.NewPCG(7, 7))
	model := [2][]byte{}
	var inos [2]ext4.Ino
	for i := range inos {
		name := fmt.Sprint("file", i)
		inos[i] = must[vfs.Attr](t)(b.Mknod(ext4.RootIno, name, unix.S_IFREG|0o644, 0)).Ino
	}
	sizes := []int{1, 60, 511, 512, 4000, 4096, 40000, 1 << 20, 3<<20 + 77}
	if small {
		sizes = []int{1, 2, 30, 60, 90, 150}
	}
	put := func(i, at int, p []byte) {
		if n := at + len(p); n > len(model[i]) {
			model[i] = append(model[i], make([]byte, n-len(model[i]))...)
		}
		copy(model[i][at:], p)
	}
	for round := range 120 {
		i, k := rng.IntN(2), rng.IntN(2)
		n := sizes[rng.IntN(len(sizes))]
		at, off := rng.IntN(2*n), rng.IntN(n+n/2)
		if round%3 == 0 || len(model[k]) == 0 {
			p := bytes.Repeat([]byte{byte(round + 1)}, n)
			must[int](t)(b.WriteAt(inos[i], p, int64(at)))
			put(i, at, p)
			continue
		}
		if i == k { // what does not overlap, nor makes the source longer as it goes
			if n = min(n, len(model[k])-off); n <= 0 {
				continue
			}
			at = off + n
		}
		want := max(0, min(n, len(model[k])-off))
		got, err := b.CopyRange(inos[i], uint64(at), inos[k], uint64(off), uint64(n))
		if err != nil || got != uint64(want) {
			t.Fatalf("round %d: copied %d of %d: %v", round, got, want, err)
		}
		if want > 0 {
			put(i, at, bytes.Clone(model[k][off:off+want]))
		}
		for i, ino := range inos {
			data := make([]byte, len(model[i])+1)
			n, _ := b.Client.ReadAt(ino, data, 0)
			if !bytes.Equal(data[:n], model[i]) {
				t.Fatalf("round %d: file %d differs", round, i)
			}
		}
	}
}

// TestCopyErrors wants copies that cannot be to say why, and one that fills the filesystem to tell
// what it has copied.
func TestCopyErrors(t *testing.T) {
	b := openWrite(t, mkfs(t, 8<<20, "-t", "ext4", "-b", "1024", "-m", "0"), setting{})
	defer b.close()
	root := ext4.RootIno
	file := func(name string, n int) ext4.Ino {
		ino := must[vfs.Attr](t)(b.Mknod(root, name, unix.S_IFREG|0o644, 0)).Ino
		must[int](t)(b.WriteAt(ino, bytes.Repeat([]byte(name), n), 0))
		return ino
	}
	check(t, b.Fsync(0))
	free := b.fs.StatFS().Bfree
	from, to := file("a", 4<<20), file("b", 10)
	for what, c := range map[string]struct {
		to, from ext4.Ino
		at       uint64
		want     error
	}{
		"from a directory":        {to, root, 0, unix.EISDIR},
		"to a directory":          {root, from, 0, unix.EISDIR},
		"behind the largest file": {to, from, 1 << 62, unix.EFBIG},
	} {
		if n, err := b.CopyRange(c.to, c.at, c.from, 0, 10); n != 0 || err != c.want {
			t.Errorf("%s: %d bytes, %v", what, n, err)
		}
	}
	n, err := b.CopyRange(to, 0, from, 0, 4<<20)
	if err != unix.ENOSPC || n == 0 {
		t.Errorf("copying to a full filesystem: %d bytes, %v", n, err)
	}
	if size := must[vfs.Attr](t)(b.Getattr(to)).Size; size != n {
		t.Errorf("copied %d bytes, size %d", n, size)
	}
	check(t, b.Unlink(root, "a"))
	check(t, b.Unlink(root, "b"))
	for range 100 { // they are freed by and by
		check(t, b.Fsync(0))
		check(t, b.loop.Step(false))
	}
	if now := b.fs.StatFS().Bfree; now != free {
		t.Errorf("%d blocks are free afterwards, %d were before", now, free)
	}
}
