package vfs_test

import (
	"bytes"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"testing"

	"golang.org/x/sys/unix"

	"asyncfsd/internal/testenv"
	"asyncfsd/vfs"
	"asyncfsd/vfs/ext4"
)

// Filesystems whose blocks are allocated in clusters (bigalloc).
const (
	clusterBlock = 4096
	clusterSize  = 65536
)

func mkfsClusters(t *testing.T, size int64) string {
	return mkfs(t, size, "-t", "ext4", "-b", "4096", "-O", "bigalloc", "-C", "65536")
}

// wantClusters holds the number of clusters of a file against i_blocks.
func wantClusters(t *testing.T, b *writeBed, ino ext4.Ino, want uint64, what string) {
	t.Helper()
	if have := must[vfs.Attr](t)(b.Getattr(ino)).Sectors; have != want*clusterSize/512 {
		t.Errorf("%s: %d sectors, not %d clusters", what, have, want)
	}
}

// TestClusterShared has blocks of one cluster come and go, one by one.
func TestClusterShared(t *testing.T) {
	b := openWrite(t, mkfsClusters(t, 64<<20), setting{})
	f := must[vfs.Attr](t)(b.Mknod(ext4.RootIno, "f", unix.S_IFREG|0o644, 0)).Ino
	block := bytes.Repeat([]byte("x"), clusterBlock)
	punch := uint32(unix.FALLOC_FL_PUNCH_HOLE | unix.FALLOC_FL_KEEP_SIZE)
	free := func() uint64 { return b.fs.StatFS().Bfree }
	before := free()
	for i, lblk := range []int64{9, 10, 3, 15, 8, 14} {
		must[int](t)(b.WriteAt(f, block, lblk*clusterBlock))
		wantClusters(t, b, f, 1, "written "+string(rune('0'+i)))
	}
	// NB: from the fifth extent on there is a node of the tree, in a cluster of its own.
	check(t, b.Fallocate(f, 0, 4*clusterBlock, 3*clusterBlock))
	must[int](t)(b.WriteAt(f, block, 0))
	wantClusters(t, b, f, 2, "allocated in the cluster")
	check(t, b.Fallocate(f, 0, 11*clusterBlock, 10*clusterBlock))
	wantClusters(t, b, f, 3, "allocated beyond the cluster")
	must[int](t)(b.WriteAt(f, block, 40*clusterBlock+5))
	wantClusters(t, b, f, 4, "written into a third")
	must[int](t)(b.WriteAt(f, bytes.Repeat(block, 40), 2*clusterBlock))
	wantClusters(t, b, f, 4, "the gaps written")
	if have := before - free(); have != 4*clusterSize/clusterBlock {
		t.Errorf("%d blocks fewer are free, not 4 clusters", have)
	}
	check(t, b.Fallocate(f, punch, 0, 15*clusterBlock))
	wantClusters(t, b, f, 3, "all but one block of a cluster punched")
	check(t, b.Fallocate(f, punch, 15*clusterBlock, 16*clusterBlock))
	wantClusters(t, b, f, 2, "its last block punched, and half of the next one")
	check(t, b.Truncate(f, 32*clusterBlock+1))
	wantClusters(t, b, f, 2, "cut within a cluster")
	check(t, b.Truncate(f, 1))
	wantClusters(t, b, f, 0, "cut to a hole")
	check(t, b.Fsync(0))
	if free() != before {
		t.Errorf("%d blocks are free, not %d", free(), before)
	}
	b.close()
}

// TestClusterFull fills a filesystem with files of a block each: there is no space for another
// cluster, but for the rest of those that are used.
func TestClusterFull(t *testing.T) {
	b := openWrite(t, mkfsClusters(t, 24<<20), setting{})
	f := must[vfs.Attr](t)(b.Mknod(ext4.RootIno, "f", unix.S_IFREG|0o644, 0)).Ino
	block := bytes.Repeat([]byte("x"), clusterBlock)
	n := int64(0)
	for ; ; n++ {
		_, err := b.WriteAt(f, block, (2*n+1)*clusterSize-clusterBlock)
		if err == unix.ENOSPC {
			break
		}
		check(t, err)
	}
	if n < 50 {
		t.Errorf("%d clusters only", n)
	}
	if _, err := b.WriteAt(f, block, 2*n*clusterSize); err != unix.ENOSPC {
		t.Errorf("another cluster: %v", err)
	}
	if err := b.Fallocate(f, 0, uint64(2*n+1)*clusterSize, 1); err != unix.ENOSPC {
		t.Errorf("allocating another cluster: %v", err)
	}
	for i := range n - 1 {
		must[int](t)(b.WriteAt(f, block, (2*i+1)*clusterSize-2*clusterBlock))
	}
	// What fits is written: the last cluster's rest, and nothing of the next.
	all := bytes.Repeat([]byte("y"), 3*clusterSize)
	have, err := b.WriteAt(f, all, 2*(n-1)*clusterSize)
	if have != clusterSize || err != unix.ENOSPC {
		t.Errorf("at the end of the space: %d, %v", have, err)
	}
	b.close()
}

// TestClusterStale has nothing of what the device held before show in a file.
func TestClusterStale(t *testing.T) {
	testenv.NeedProgram(t, "mke2fs")
	for seed, args := range [][]string{{"-b", "4096", "-C", "65536"}, {"-b", "1024", "-C", "16384"},
		{"-b", "4096", "-C", "16384"}} {
		path := filepath.Join(t.TempDir(), "image")
		check(t, os.WriteFile(path, bytes.Repeat([]byte{0xee}, 64<<20), 0o600))
		args = append(args, "-q", "-F", "-t", "ext4", "-O", "bigalloc", "-E", "nodiscard", path)
		if out, err := exec.Command("mke2fs", args...).CombinedOutput(); err != nil {
			t.Fatalf("mke2fs: %v\n%s", err, out)
		}
		randomFile(t, path, uint64(seed))
	}
}

// TestClusterWriters has several writers fill the blocks of the same clusters at once.
func TestClusterWriters(t *testing.T) {
	b := openWrite(t, mkfsClusters(t, 64<<20), setting{seed: 3})
	f := must[vfs.Attr](t)(b.Mknod(ext4.RootIno, "f", unix.S_IFREG|0o644, 0)).Ino
	const writers, size = 8, 1 << 20
	var all sync.WaitGroup
	for w := range writers {
		all.Go(func() {
			rng := rand.New(rand.NewPCG(uint64(w), 9))
			for _, i := range rng.Perm(size / clusterBlock / writers) {
				data := bytes.Repeat([]byte{byte('a' + w)}, clusterBlock)
				if _, err := b.WriteAt(f, data, int64(i*writers+w)*clusterBlock); err != nil {
					t.Error(err)
				}
			}
		})
	}
	all.Wait()
	want := make([]byte, size)
	for i := range want {
		want[i] = byte('a' + i/clusterBlock%writers)
	}
	sameData(t, b, f, want, 0)
	wantClusters(t, b, f, size/clusterSize+1, "all written, and a node of the tree")
	b.close()
}
