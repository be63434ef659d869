package ext4

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"asyncfsd/internal/manifest"
)

// tree reads a filesystem through this package alone.
type tree struct {
	t    testing.TB
	v    *Volume
	src  Source
	list []manifest.Entry
	// lookups counts names that were found again by Lookup.
	lookups int
	above   []Ino // the directories that are being walked
}

// openTree opens an image without replaying its journal.
func openTree(t testing.TB, img manifest.Image) *tree {
	t.Helper()
	f, err := os.Open(manifest.Unpack(t, img))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	r := io.NewSectionReader(f, img.Offset, img.Size-img.Offset)
	v, err := Open(r, r.Size(), OpenOptions{Super: img.Superblock * 1024})
	if err != nil {
		t.Fatalf("%s: %v", img.Name, err)
	}
	return &tree{t: t, v: v, src: NewReaderSource(r, v.BlockBits)}
}

// errnoOf is what a user sees of an error.
func errnoOf(err error) error {
	var corrupt *CorruptError
	if errors.As(err, &corrupt) {
		return unix.EUCLEAN
	}
	return err
}

// readDir lists a directory, and looks every name up again.
func (tr *tree) readDir(dir *Inode) (list []Dirent, err error) {
	seen := map[uint64]bool{}
	var ent Dirent
	for pos := uint64(0); ; pos = ent.Off {
		err := tr.v.ReadDir(tr.src, dir, pos, &ent)
		odd := seen[ent.Off] || ent.Off == 0 || ent.Off>>63 != 0
		if odd && (err == nil || err == ErrContinue) {
			tr.t.Fatalf("inode %d: cookie %#x follows %#x", dir.Ino, ent.Off, pos)
		}
		seen[ent.Off] = true
		switch err {
		case nil:
			list = append(list, Dirent{Name: slices.Clone(ent.Name), Ino: ent.Ino, Type: ent.Type})
		case ErrContinue:
		case ErrEOF:
			return list, nil
		default:
			return list, err
		}
	}
}

// lookup finds a name, in as many steps as it takes.
func (tr *tree) lookup(dir *Inode, name []byte, ent *Dirent) error {
	var cur LookupCursor
	for {
		was := cur
		err := tr.v.Lookup(tr.src, dir, name, &cur, ent)
		if err != ErrContinue {
			return err
		}
		if cur == was {
			tr.t.Fatalf("%q: the cursor stands still at %+v", name, cur)
		}
	}
}

// walk adds the entry at p, which is inode ino, and everything below it.
func (tr *tree) walk(p string, ent Dirent) {
	e := manifest.NewEntry(p)
	var in Inode
	if err := tr.v.ReadInode(tr.src, ent.Ino, &in); err != nil {
		e.Fail("stat", errnoOf(err))
		e.DirIno = uint64(ent.Ino)
		tr.list = append(tr.list, e)
		return
	}
	tr.fill(&e, &in)
	e.DirIno, e.DType = uint64(ent.Ino), dtypeNames[ent.Type]
	at := len(tr.list)
	tr.list = append(tr.list, e)
	if e.Type != "dir" {
		return
	}
	if slices.Contains(tr.above, ent.Ino) { // as the kernel's dentries see it
		tr.list[at].Fail("stat", unix.ELOOP)
		return
	}
	tr.above = append(tr.above, ent.Ino)
	defer func() { tr.above = tr.above[:len(tr.above)-1] }()
	names, err := tr.readDir(&in)
	if err != nil {
		tr.list[at].Fail("readdir", errnoOf(err))
	}
	for _, d := range names {
		var found Dirent
		if err := tr.lookup(&in, d.Name, &found); err == nil {
			tr.lookups++
			if found.Ino != d.Ino || found.Type != d.Type {
				tr.t.Errorf("%s/%q: found %d %d, listed %d %d", p, d.Name, found.Ino, found.Type,
					d.Ino, d.Type)
			}
		} else if tr.list[at].Err == "" {
			tr.t.Errorf("%s/%q: listed, but %v", p, d.Name, err)
		}
		if name := string(d.Name); name != "." && name != ".." {
			tr.walk(manifest.Join(p, name), d)
		}
	}
	if err == nil {
		tr.notThere(p, &in)
	}
}

// notThere looks for names that no directory has.
func (tr *tree) notThere(p string, dir *Inode) {
	for _, name := range []string{"no such name", strings.Repeat("x", 255), "\xff", "AAAA"} {
		var ent Dirent
		err := tr.lookup(dir, []byte(name), &ent)
		if err != unix.ENOENT && !(err == unix.EINVAL && tr.v.foldStrict()) {
			tr.t.Errorf("%s/%q: %v, %+v", p, name, err, ent)
		}
	}
}

var dtypeNames = map[uint8]string{0: "unknown", 1: "file", 2: "dir", 3: "chr", 4: "blk", 5: "fifo",
	6: "sock", 7: "symlink"}

// fill fills in what this half of the package knows.
func (tr *tree) fill(e *manifest.Entry, in *Inode) {
	e.Type, e.Mode = manifest.TypeName(uint32(in.Mode)), uint32(in.Mode)&0o7777
	e.Nlink, e.Size, e.Ino = in.Links, int64(in.Size), uint64(in.Ino)
	tr.fillXattrs(e, in)
	switch {
	case e.Type == "symlink":
		buf := make([]byte, unix.PathMax)
		n, err := tr.v.Readlink(tr.src, in, buf)
		if err != nil {
			e.Fail("readlink", errnoOf(err))
			return
		}
		e.Symlink, e.Size = string(buf[:n]), int64(tr.v.SymlinkSize(in))
	case e.Type == "file" && in.Flags&FlagEncrypt != 0:
		e.Fail("open", unix.ENOKEY)
	case e.Type == "file" && in.Flags&FlagInlineData != 0:
		hash, err := manifest.HashData(e.Size, nil, func(p []byte, off int64) (int, error) {
			return tr.v.InlineData(tr.src, in, p, off)
		})
		if err != nil {
			e.Fail("read", errnoOf(err))
		}
		e.SHA256 = hash
	case e.Type == "file":
		var run Run
		for at := Lblk(0); uint64(at)<<tr.v.BlockBits < in.Size; at += Lblk(run.Len) {
			if err := tr.v.Map(tr.src, in, at, 1<<20, &run); err != nil {
				e.Fail("read", errnoOf(err))
				return
			}
		}
	}
}

func (tr *tree) fillXattrs(e *manifest.Entry, in *Inode) {
	list, value, out := make([]byte, 1<<16), make([]byte, 1<<16), make([]byte, 1<<17)
	n, err := tr.v.ListXattr(tr.src, in, list, true)
	if err != nil {
		e.Fail("listxattr", errnoOf(err))
		return
	}
	if m, err := tr.v.ListXattr(tr.src, in, nil, true); m != n || err != nil {
		tr.t.Errorf("%s: the list has %d bytes, announced are %d, %v", e.Path, n, m, err)
	}
	for name := range strings.SplitSeq(string(list[:n]), "\x00") {
		if name == "" {
			continue
		}
		m, err := tr.getXattr(in, name, value)
		data := value[:m]
		if err == nil && strings.HasPrefix(name, "system.posix_acl") {
			m, err = ACLToXattr(data, out)
			data = out[:m]
		}
		if err != nil {
			e.Fail("getxattr "+name, errnoOf(err))
			continue
		}
		if e.Xattrs == nil {
			e.Xattrs = map[string]string{}
		}
		e.Xattrs[name] = manifest.XattrValue(data)
	}
}

func (tr *tree) getXattr(in *Inode, name string, value []byte) (n int, err error) {
	index, suffix, ok := XattrIndex([]byte(name))
	if !ok {
		return 0, unix.EOPNOTSUPP
	}
	var cur XattrCursor
	for {
		was := cur
		n, err = tr.v.GetXattr(tr.src, in, index, suffix, value, &cur)
		if err != ErrContinue {
			break
		}
		if cur == was {
			tr.t.Fatalf("%s: the cursor stands still at %+v", name, cur)
		}
	}
	if err != nil {
		return 0, err
	}
	m, err := tr.v.GetXattr(tr.src, in, index, suffix, nil, &XattrCursor{})
	if err != nil || m != n {
		tr.t.Errorf("inode %d, %s: %d bytes, announced are %d, %v", in.Ino, name, n, m, err)
	}
	if n > 0 {
		_, err := tr.v.GetXattr(tr.src, in, index, suffix, value[:n-1:n-1], &XattrCursor{})
		if n > 1 && err != unix.ERANGE {
			tr.t.Errorf("inode %d, %s: %v with too little room", in.Ino, name, err)
		}
	}
	return n, nil
}

// otherFields are what the other half of the package is tested for.
var otherFields = []string{"uid", "gid", "rdev", "mtime", "ctime", "crtime", "blocks", "data",
	"flags",
	"gen", "projid"}

// TestTree reads every image that needs no recovery and compares names, types, targets,
// attributes and inline data with what the kernel read.
func TestTree(t *testing.T) {
	images, err := manifest.Images(imagesDir)
	if err != nil {
		t.Fatal(err)
	}
	for _, img := range images {
		if img.Source == "" || img.Dirty || img.MountError != "" || img.Partition != 0 {
			continue
		}
		t.Run(img.Name, func(t *testing.T) { compareTree(t, img) })
	}
}

func compareTree(t *testing.T, img manifest.Image) {
	tr := openTree(t, img)
	tr.walk(".", Dirent{Ino: RootIno, Type: fileTypeDir})
	want, err := img.Manifest()
	if err != nil {
		t.Fatal(err)
	}
	inline := map[string]bool{}
	for _, e := range tr.list {
		inline[e.Path] = e.SHA256 != ""
	}
	for i := range want {
		if e := &want[i]; !inline[e.Path] {
			e.SHA256 = ""
		}
		if e := &want[i]; e.Path == "." {
			e.DirIno, e.DType = uint64(RootIno), "dir"
		}
		if e := &want[i]; strings.HasPrefix(e.Err, "open") && e.Type == "dir" {
			e.Err = ""
		}
	}
	slices.SortFunc(tr.list, func(a, b manifest.Entry) int {
		return strings.Compare(sortKey(a.Path), sortKey(b.Path))
	})
	opts := img.Options()
	opts.Ignore = append(slices.Clone(opts.Ignore), otherFields...)
	lines := manifest.Diff(want, tr.list, opts)
	for i, line := range lines {
		if i == 20 {
			t.Errorf("and %d more", len(lines)-i)
			break
		}
		t.Error(line)
	}
	if tr.lookups == 0 {
		t.Error("no names")
	}
	tr.odd(img)
}

func sortKey(p string) string { return strings.TrimPrefix(p, ".") }

// odd looks up the names that an image's row gives.
func (tr *tree) odd(img manifest.Image) {
	for _, l := range img.Lookups {
		name, err := manifest.Unescape(l[0])
		if err != nil {
			tr.t.Fatal(err)
		}
		ino, err := tr.find(name)
		want := fmt.Sprint(unix.ENOENT)
		if l[1] != "" {
			n, werr := tr.find(l[1])
			want = fmt.Sprint(n, werr)
		} else if err == unix.ENOENT {
			continue
		}
		if have := fmt.Sprint(ino, err); have != want {
			tr.t.Errorf("%q leads to %s, %q to %s", l[0], have, l[1], want)
		}
	}
}

// find follows a path.
func (tr *tree) find(p string) (Ino, error) {
	ino := RootIno
	for name := range strings.SplitSeq(path.Clean(p), "/") {
		var in Inode
		if err := tr.v.ReadInode(tr.src, ino, &in); err != nil {
			return 0, err
		}
		var ent Dirent
		if err := tr.lookup(&in, []byte(name), &ent); err != nil {
			return 0, err
		}
		ino = ent.Ino
	}
	return ino, nil
}
