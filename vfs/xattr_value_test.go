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

// TestLargeXattrs sets, replaces and removes attributes whose values have inodes of their own, and
// removes files that have them: nothing may be left of those.
func TestLargeXattrs(t *testing.T) {
	for i, args := range [][]string{{"-b", "1024"}, {"-b", "4096", "-I", "128"},
		{"-b", "1024", "-O", "^has_journal"}} {
		path := mkfs(t, 64<<20, append([]string{"-t", "ext4", "-O", "ea_inode"}, args...)...)
		b := openWrite(t, path, setting{seed: uint64(i) + 1, stall: i < 2})
		free := b.fs.StatFS()
		rng := rand.New(rand.NewPCG(uint64(i), 9))
		values := map[string][]byte{}
		var files []ext4.Ino
		for n := range 4 {
			a := must[vfs.Attr](t)(b.Mknod(ext4.RootIno, fmt.Sprint("f", n), unix.S_IFREG|0o644, 0))
			files = append(files, a.Ino)
		}
		for range 300 {
			n, name := rng.IntN(len(files)), fmt.Sprint("user.", rng.IntN(10))
			key := fmt.Sprint(n, name)
			if old := values[key]; old != nil && rng.IntN(3) == 0 {
				check(t, b.Removexattr(files[n], name))
				delete(values, key)
				continue
			}
			size := 1 + rng.IntN(6000)
			if rng.IntN(10) == 0 {
				size = 65536
			}
			values[key] = bytes.Repeat([]byte{byte(rng.Uint32())}, size)
			check(t, b.Setxattr(files[n], name, values[key], 0))
		}
		for key, want := range values {
			have, err := b.Getxattr(files[key[0]-'0'], key[1:])
			if err != nil || !bytes.Equal(have, want) {
				t.Errorf("%s: %d bytes, %v, want %d", key, len(have), err, len(want))
			}
		}
		check(t, b.Fsync(0))
		const slots = 8 // that may be freeing values just now
		if n := free.Ffree - b.fs.StatFS().Ffree; n > uint64(len(values)+len(files)+slots) {
			t.Errorf("%d inodes are taken by %d values", n, len(values))
		}
		for n := range files {
			if n > 0 {
				check(t, b.Unlink(ext4.RootIno, fmt.Sprint("f", n)))
			}
		}
		b.close()
		b = openWrite(t, path, setting{})
		check(t, b.Unlink(ext4.RootIno, "f0"))
		b.close()
		b = openWrite(t, path, setting{})
		if have := b.fs.StatFS(); have != free {
			t.Errorf("%+v is free, was %+v", have, free)
		}
		b.close()
	}
}
