package vfs_test

import (
	"bytes"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"testing"

	goext4 "github.com/dsoprea/go-ext4"

	"asyncfsd/vfs/ext4"
)

// TestGoExt4 has go-ext4, which knows nothing of this project, read what was written here:
// directories, fragmented files, and the superblock's and the groups' counts.
func TestGoExt4(t *testing.T) {
	for _, block := range []string{"1024", "4096"} {
		t.Run(block, func(t *testing.T) {
			// NB: it does not know directories with an index.
			path := mkfs(t, 64<<20, "-t", "ext4", "-b", block, "-O", "^dir_index")
			b := openWrite(t, path, setting{})
			want := fragmented(t, b, 5)
			st := b.fs.StatFS()
			b.close()
			f, err := os.Open(path)
			if err != nil {
				t.Fatal(err)
			}
			defer f.Close()
			sb, groups := goGroups(t, f)
			free := uint64(0)
			for g := range int(sb.BlockGroupCount()) {
				bgd, err := groups.GetWithAbsoluteInode(1 + g*int(sb.Data().SInodesPerGroup))
				if err != nil {
					t.Fatal(err)
				}
				d := bgd.Data()
				free += uint64(d.BgFreeBlocksCountLo) | uint64(d.BgFreeBlocksCountHi)<<16
			}
			if free != st.Bfree || uint64(sb.Data().SFreeBlocksCountLo) != st.Bfree {
				t.Errorf("%d blocks are free in the groups, %d in the superblock, want %d", free,
					sb.Data().SFreeBlocksCountLo, st.Bfree)
			}
			sameTree(t, f, groups, want)
		})
	}
}

// fragmented writes files to which blocks are added in turns, in directories of names that need
// several blocks, and returns what they hold.
func fragmented(t *testing.T, b *writeBed, seed uint64) map[string][]byte {
	t.Helper()
	rng := rand.New(rand.NewPCG(seed, 1))
	want := map[string][]byte{}
	for d := range 4 {
		_, err := b.Mkdir(ext4.RootIno, fmt.Sprint("directory", d), 0o755)
		check(t, err)
	}
	inos, names := []ext4.Ino{}, []string{}
	for i := range 240 {
		dir := fmt.Sprint("directory", i%4)
		at, err := b.Lookup(ext4.RootIno, dir)
		check(t, err)
		name := fmt.Sprintf("a file with a name that takes some room %d", i)
		attr, err := b.Mknod(at.Ino, name, 0o100644, 0)
		check(t, err)
		inos, names = append(inos, attr.Ino), append(names, dir+"/"+name)
	}
	for range 1500 {
		i := rng.IntN(len(inos))
		p := make([]byte, 1+rng.IntN(9000))
		for j := range p {
			p[j] = byte(rng.Uint32())
		}
		_, err := b.WriteAt(inos[i], p, int64(len(want[names[i]])))
		check(t, err)
		want[names[i]] = append(want[names[i]], p...)
	}
	return want
}

func goGroups(t *testing.T, f *os.File) (*goext4.Superblock, *goext4.BlockGroupDescriptorList) {
	t.Helper()
	if _, err := f.Seek(goext4.Superblock0Offset, io.SeekStart); err != nil {
		t.Fatal(err)
	}
	sb, err := goext4.NewSuperblockWithReader(f)
	if err != nil {
		t.Fatal(err)
	}
	groups, err := goext4.NewBlockGroupDescriptorListWithReadSeeker(f, sb)
	if err != nil {
		t.Fatal(err)
	}
	return sb, groups
}

// sameTree has go-ext4 find exactly the files of want, and read them.
//
// NB: its own walk looks for all inodes in the group of the first.
func sameTree(t *testing.T, f *os.File, groups *goext4.BlockGroupDescriptorList,
	want map[string][]byte) {
	t.Helper()
	inode := func(ino int) *goext4.Inode {
		bgd, err := groups.GetWithAbsoluteInode(ino)
		if err != nil {
			t.Fatal(err)
		}
		in, err := goext4.NewInodeWithReadSeeker(bgd, f, ino)
		if err != nil {
			t.Fatalf("inode %d: %v", ino, err)
		}
		return in
	}
	found := 0
	var walk func(dir string, ino int)
	walk = func(dir string, ino int) {
		entries := goext4.NewDirectoryBrowser(f, inode(ino))
		for {
			de, err := entries.Next()
			if err == io.EOF {
				return
			}
			if err != nil {
				t.Fatalf("%s: %v", dir, err)
			}
			name, child := de.Name(), int(de.Data().Inode)
			switch {
			case child == 0 || name == "." || name == ".." || name == "lost+found":
			case de.IsDirectory():
				walk(dir+name+"/", child)
			default:
				found++
				r := goext4.NewInodeReader(goext4.NewExtentNavigatorWithReadSeeker(f, inode(child)))
				got, err := io.ReadAll(r)
				if data := want[dir+name]; err != nil || !bytes.Equal(got, data) {
					t.Errorf("%s%s: %d bytes read, %d written: %v", dir, name, len(got), len(data),
						err)
				}
			}
		}
	}
	walk("", goext4.InodeRootDirectory)
	if found != len(want) {
		t.Errorf("%d files found, %d written", found, len(want))
	}
}
