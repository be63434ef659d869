package vfs_test

import (
	"bytes"
	"flag"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"asyncfsd/blockdev"
	"asyncfsd/vfs"
	"asyncfsd/vfs/ext4"
)

// The exhaustive test: every sequence of two operations on a small tree, each followed by something
// that makes it durable, with a power cut at each point at which something has become durable. This
// is bounded black-box testing in the manner of CrashMonkey and ACE: most bugs of file systems in
// crashes show with one or two operations on a tree that is nearly empty.
// Every single operation is always tried.
var exhaustiveEvery = flag.Int("exhaustive.every", 131,
	"which share of the sequences of two operations is tried; 1 is all")

// crashOp is one operation of the exhaustive test. It may fail where an earlier one took away what
// it needs.
type crashOp struct {
	name string
	do   func(b *memBed, at func(path string) ext4.Ino) error
}

// crashOps are the operations. The tree they find has files a, b and d/x, and directories d and z.
var crashOps = slices.Concat(crashData, crashNames)

var crashData = []crashOp{
	{"write", func(b *memBed, at func(string) ext4.Ino) error {
		_, err := b.WriteAt(at("a"), bytes.Repeat([]byte("W"), 2000), 1000)
		return err
	}},
	{"append", func(b *memBed, at func(string) ext4.Ino) error {
		_, err := b.WriteAt(at("a"), bytes.Repeat([]byte("A"), 3000), 5000)
		return err
	}},
	{"append b", func(b *memBed, at func(string) ext4.Ino) error {
		_, err := b.WriteAt(at("b"), bytes.Repeat([]byte("B"), 3000), 2000)
		return err
	}},
	{"write far", func(b *memBed, at func(string) ext4.Ino) error {
		_, err := b.WriteAt(at("a"), bytes.Repeat([]byte("F"), 1500), 300_000)
		return err
	}},
	{"truncate", func(b *memBed, at func(string) ext4.Ino) error {
		return b.Truncate(at("a"), 700)
	}},
	{"truncate up", func(b *memBed, at func(string) ext4.Ino) error {
		return b.Truncate(at("a"), 9000)
	}},
	{"falloc", func(b *memBed, at func(string) ext4.Ino) error {
		return b.Fallocate(at("a"), 0, 4000, 5000)
	}},
	{"falloc keep", func(b *memBed, at func(string) ext4.Ino) error {
		return b.Fallocate(at("a"), unix.FALLOC_FL_KEEP_SIZE, 5000, 6000)
	}},
	{"zero", func(b *memBed, at func(string) ext4.Ino) error {
		return b.Fallocate(at("a"), unix.FALLOC_FL_ZERO_RANGE, 1500, 6000)
	}},
	{"punch", func(b *memBed, at func(string) ext4.Ino) error {
		return b.Fallocate(at("a"), unix.FALLOC_FL_KEEP_SIZE|unix.FALLOC_FL_PUNCH_HOLE, 900, 2500)
	}},
	{"setxattr", func(b *memBed, at func(string) ext4.Ino) error {
		return b.Setxattr(at("a"), "user.small", []byte("value"), 0)
	}},
	{"setxattr large", func(b *memBed, at func(string) ext4.Ino) error {
		return b.Setxattr(at("a"), "user.large", bytes.Repeat([]byte("v"), 600), 0)
	}},
}

var crashNames = []crashOp{
	{"creat", func(b *memBed, at func(string) ext4.Ino) error {
		_, err := b.Mknod(ext4.RootIno, "c", unix.S_IFREG|0o644, 0)
		return err
	}},
	{"creat in d", func(b *memBed, at func(string) ext4.Ino) error {
		_, err := b.Mknod(at("d"), "y", unix.S_IFREG|0o644, 0)
		return err
	}},
	{"link", func(b *memBed, at func(string) ext4.Ino) error {
		return b.Link(at("a"), at("d"), "l")
	}},
	{"unlink", func(b *memBed, _ func(string) ext4.Ino) error {
		return b.Unlink(ext4.RootIno, "a")
	}},
	{"unlink d/x", func(b *memBed, at func(string) ext4.Ino) error {
		return b.Unlink(at("d"), "x")
	}},
	{"rename", func(b *memBed, _ func(string) ext4.Ino) error {
		return b.Rename(ext4.RootIno, "a", ext4.RootIno, "c", 0)
	}},
	{"rename over", func(b *memBed, _ func(string) ext4.Ino) error {
		return b.Rename(ext4.RootIno, "b", ext4.RootIno, "a", 0)
	}},
	{"rename over d/x", func(b *memBed, at func(string) ext4.Ino) error {
		return b.Rename(ext4.RootIno, "a", at("d"), "x", 0)
	}},
	{"rename directory", func(b *memBed, at func(string) ext4.Ino) error {
		return b.Rename(ext4.RootIno, "d", at("z"), "d", 0)
	}},
	{"rename over directory", func(b *memBed, _ func(string) ext4.Ino) error {
		return b.Rename(ext4.RootIno, "d", ext4.RootIno, "z", 0)
	}},
	{"exchange", func(b *memBed, at func(string) ext4.Ino) error {
		return b.Rename(ext4.RootIno, "z", at("d"), "x", unix.RENAME_EXCHANGE)
	}},
	{"mkdir", func(b *memBed, _ func(string) ext4.Ino) error {
		_, err := b.Mkdir(ext4.RootIno, "e", 0o755)
		return err
	}},
	{"rmdir", func(b *memBed, _ func(string) ext4.Ino) error {
		return b.Rmdir(ext4.RootIno, "z")
	}},
	{"symlink", func(b *memBed, at func(string) ext4.Ino) error {
		_, err := b.Symlink(at("d"), "s", "short")
		return err
	}},
	{"symlink long", func(b *memBed, _ func(string) ext4.Ino) error {
		_, err := b.Symlink(ext4.RootIno, "s", strings.Repeat("s", 200))
		return err
	}},
}

// How a step is made durable.
const (
	crashNoSync = iota
	crashFsync  // of each inode that it has changed and that still has a name, data only if even
	crashParent // of the first one only
	crashSync
	crashSyncs
)

// crashTree is what a filesystem shows: for each inode what it is and where.
type crashTree map[ext4.Ino]crashNode

type crashNode struct {
	what string // all but data
	data string
}

// crashStep is one operation and what makes it durable.
type crashStep struct {
	op   crashOp
	sync int
}

func TestExhaustive(t *testing.T) {
	dir := t.TempDir()
	for name, size := range map[string]int{"a": 5000, "b": 2000, "d/x": 100} {
		path := filepath.Join(dir, name)
		check(t, os.MkdirAll(filepath.Dir(path), 0o755))
		check(t, os.WriteFile(path, bytes.Repeat([]byte(name[:1]), size), 0o600))
	}
	check(t, os.Mkdir(filepath.Join(dir, "z"), 0o755))
	args := []string{"-t", "ext4", "-b", "1024", "-N", "64", "-J", "size=1", "-d", dir}
	exhaust(t, must[[]byte](t)(os.ReadFile(mkfs(t, 4<<20, args...))), *exhaustiveEvery, true)
	args = append(args, "-O", "bigalloc", "-C", "4096")
	clusters := must[[]byte](t)(os.ReadFile(mkfs(t, 8<<20, args...)))
	exhaust(t, clusters, max(1, 2*(*exhaustiveEvery)-1), false)
}

// exhaust tries one of every so many sequences of two operations, and all single ones if asked to.
func exhaust(t *testing.T, base []byte, every int, singles bool) {
	n, images := 0, 0
	run := func(steps ...crashStep) {
		images += crashRun(t, base, steps, uint64(n))
	}
	for _, first := range crashOps {
		for sync := range crashSyncs {
			for _, second := range crashOps {
				for last := crashFsync; last < crashSyncs; last++ {
					n++
					if !t.Failed() && n%every == 0 {
						run(crashStep{first, sync}, crashStep{second, last})
					}
				}
			}
			if !t.Failed() && singles && sync != crashNoSync {
				run(crashStep{first, sync})
			}
		}
	}
	t.Logf("%d sequences, %d images after power cuts", n, images)
}

// crashCase is one sequence.
type crashCase struct {
	t        *testing.T
	b        *memBed
	trees    []crashTree
	begun    []int
	promises []promise
	what     string
}

// crashRun does the steps, and checks what each power cut leaves. It returns how many there were.
func crashRun(t *testing.T, base []byte, steps []crashStep, seed uint64) (images int) {
	b := must[*memBed](t)(openMem(slices.Clone(base), seed+1, false))
	defer b.close()
	c := &crashCase{t: t, b: b, trees: []crashTree{show(t, b)}, begun: []int{0}}
	start := b.record.Now()
	for i, s := range steps {
		c.what += fmt.Sprintf("%s, sync %d; ", s.op.name, s.sync)
		c.begun = append(c.begun, b.record.Now())
		err := s.op.do(b, func(path string) ext4.Ino {
			a, _ := b.Resolve(path)
			return a.Ino
		})
		if err != nil && i == 0 {
			t.Fatalf("%s: %v", c.what, err)
		}
		c.trees = append(c.trees, show(t, b))
		c.sync(s.sync)
	}
	points := append(b.record.Boundaries(), b.record.Now())
	var seen [][]byte
	for _, point := range slices.Compact(points) {
		for _, keep := range []blockdev.Keep{blockdev.KeepNone, blockdev.KeepAll} {
			if point < start {
				continue
			}
			image := b.record.Image(point, keep)
			if len(seen) > 0 && bytes.Equal(seen[len(seen)-1], image) {
				continue
			}
			seen = append(seen[:0], image)
			images++
			c.cut(slices.Clone(image), point)
		}
	}
	return images
}

// sync makes the last step durable in one of the ways, and notes what that promises.
func (c *crashCase) sync(how int) {
	last := len(c.trees) - 1
	switch how {
	case crashNoSync:
		return
	case crashSync:
		check(c.t, c.b.Fsync(0))
		c.promises = append(c.promises, promise{point: c.b.record.Now(), state: last})
		return
	}
	for _, ino := range slices.Sorted(maps.Keys(c.trees[last])) {
		if c.trees[last][ino] == c.trees[last-1][ino] {
			continue
		}
		if ino%2 == 0 {
			check(c.t, c.b.Fdatasync(ino))
		} else {
			check(c.t, c.b.Fsync(ino))
		}
		c.promises = append(c.promises, promise{point: c.b.record.Now(), state: last})
		if how == crashParent {
			return
		}
	}
}

// show reads everything.
func show(t *testing.T, b *memBed) crashTree {
	tree := crashTree{}
	var walk func(ino ext4.Ino, name string)
	walk = func(ino ext4.Ino, name string) {
		a := must[vfs.Attr](t)(b.Getattr(ino))
		node := tree[ino]
		if node.what == "" {
			node.what = fmt.Sprintf("mode %o links %d size %d", a.Mode, a.Nlink, a.Size)
			for _, key := range must[[]string](t)(b.Listxattr(ino)) {
				node.what += fmt.Sprintf(" %s=%s", key, must[[]byte](t)(b.Getxattr(ino, key)))
			}
		}
		node.what += " " + name
		switch a.Mode & unix.S_IFMT {
		case unix.S_IFLNK:
			node.what += " to " + must[string](t)(b.Readlink(ino))
		case unix.S_IFREG:
			data := make([]byte, a.Size)
			if n, err := b.Client.ReadAt(ino, data, 0); n != len(data) {
				t.Fatalf("%s: read %d of %d: %v", name, n, len(data), err)
			}
			node.data = string(data)
		case unix.S_IFDIR:
			for _, e := range must[[]vfs.Dirent](t)(b.ReadDir(ino)) {
				if e.Name == "." || e.Name == ".." || e.Name == "lost+found" {
					continue
				}
				node.what += fmt.Sprintf(" %s:%d", e.Name, e.Ino)
				walk(e.Ino, fmt.Sprintf("%d/%s", ino, e.Name))
			}
		}
		tree[ino] = node
	}
	walk(ext4.RootIno, "")
	return tree
}

// cut checks what a power cut leaves: it is clean, and one of the states that may be seen.
func (c *crashCase) cut(image []byte, point int) {
	c.t.Helper()
	first, last := 0, len(c.trees)-1
	for _, p := range c.promises {
		if p.point <= point {
			first = max(first, p.state)
		}
	}
	for last > first && c.begun[last] > point {
		last--
	}
	b, err := openMem(image, 0, false)
	if err != nil {
		c.t.Fatalf("%s power cut at %d: %v", c.what, point, err)
	}
	defer b.close()
	have := show(c.t, b)
	var why strings.Builder
	for i := last; i >= first; i-- {
		reason := c.differs(have, i, first, last)
		if reason == "" {
			why.Reset()
			break
		}
		fmt.Fprintf(&why, "\n\t%d: %s", i, reason)
	}
	if why.Len() > 0 {
		c.t.Errorf("%s power cut at %d: none of the states %d to %d:%s", c.what, point, first, last,
			why.String())
	}
	check(c.t, b.fs.Unmount())
	fsckImage(c.t, b.data, "-fn", fmt.Sprintf("%s power cut at %d", c.what, point))
}

// differs says in what a tree differs from a state. Data may be those of any state in question,
// byte by byte.
func (c *crashCase) differs(have crashTree, state, first, last int) string {
	want := c.trees[state]
	for ino, node := range want {
		if have[ino].what != node.what {
			return fmt.Sprintf("inode %d is %q instead of %q", ino, have[ino].what, node.what)
		}
	bytes:
		for i := range len(node.data) {
			x := have[ino].data[i]
			for k := first; k <= last; k++ {
				d := c.trees[k][ino].data
				if i < len(d) && d[i] == x || i >= len(d) && x == 0 {
					continue bytes
				}
			}
			return fmt.Sprintf("inode %d: byte %d is %q, which it never was", ino, i, x)
		}
	}
	if len(have) != len(want) {
		return fmt.Sprintf("%d inodes instead of %d", len(have), len(want))
	}
	return ""
}
