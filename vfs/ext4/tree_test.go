package ext4_test

import (
	"io"
	"os"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"asyncfsd/internal/imagetest"
	"asyncfsd/internal/manifest"
	"asyncfsd/vfs"
	"asyncfsd/vfs/ext4"
)

const imagesDir = "../../testdata/images"

// tree reads a filesystem through this package alone, for imagetest to walk. It checks on the way
// what every caller relies on: cursors advance, and sizes are announced as they come.
type tree struct {
	t   testing.TB
	v   *ext4.Volume
	src ext4.Source
	r   *ext4.ReaderSource
	// lookups counts names that were found by Lookup.
	lookups int
}

var _ imagetest.Client = (*tree)(nil)

// openTree opens an image without replaying its journal.
func openTree(t testing.TB, img manifest.Image) *tree {
	t.Helper()
	f, err := os.Open(manifest.Unpack(t, img))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	r := io.NewSectionReader(f, img.Offset, img.Size-img.Offset)
	v, err := ext4.Open(r, r.Size(), ext4.OpenOptions{Super: img.Superblock * 1024})
	if err != nil {
		t.Fatalf("%s: %v", img.Name, err)
	}
	src := ext4.NewReaderSource(r, v.BlockBits)
	return &tree{t: t, v: v, src: src, r: src}
}

// Getattr returns the attributes of an inode.
func (tr *tree) Getattr(ino ext4.Ino) (vfs.Attr, error) {
	var in ext4.Inode
	if err := tr.v.ReadInode(tr.src, ino, &in); err != nil {
		return vfs.Attr{}, ext4.ErrnoOf(err)
	}
	a := vfs.Attr{Ino: in.Ino, Mode: uint32(in.Mode), Nlink: in.Links, UID: in.UID, GID: in.GID,
		Rdev: in.Rdev(), Size: in.Size, Sectors: in.Sectors, Generation: in.Generation,
		ProjID: in.ProjID, Flags: in.Flags,
		Atime: in.Atime, Mtime: in.Mtime, Ctime: in.Ctime, Crtime: in.Crtime}
	switch {
	case in.Type() == unix.S_IFLNK:
		a.Size = tr.v.SymlinkSize(&in)
	case in.Type() == unix.S_IFREG && in.Flags&ext4.FlagInlineData != 0:
		a.Sectors += (in.Size + 511) / 512
	}
	return a, nil
}

// Lookup finds a name, in as many steps as it takes.
func (tr *tree) Lookup(dir ext4.Ino, name string) (vfs.Attr, error) {
	var in ext4.Inode
	if err := tr.v.ReadInode(tr.src, dir, &in); err != nil {
		return vfs.Attr{}, ext4.ErrnoOf(err)
	}
	var ent ext4.Dirent
	if err := tr.lookup(&in, []byte(name), &ent); err != nil {
		return vfs.Attr{}, ext4.ErrnoOf(err)
	}
	tr.lookups++
	return tr.Getattr(ent.Ino)
}

func (tr *tree) lookup(dir *ext4.Inode, name []byte, ent *ext4.Dirent) error {
	var cur ext4.LookupCursor
	for {
		was := cur
		err := tr.v.Lookup(tr.src, dir, name, &cur, ent)
		if err != ext4.ErrContinue {
			return err
		}
		if cur == was {
			tr.t.Fatalf("%q: the cursor stands still at %+v", name, cur)
		}
	}
}

// ReadDir lists a directory, and looks every name up again.
func (tr *tree) ReadDir(ino ext4.Ino) ([]vfs.Dirent, error) {
	var dir ext4.Inode
	if err := tr.v.ReadInode(tr.src, ino, &dir); err != nil {
		return nil, ext4.ErrnoOf(err)
	}
	list, err := tr.readDir(&dir)
	for _, d := range list {
		var found ext4.Dirent
		ferr := tr.lookup(&dir, []byte(d.Name), &found)
		if ferr != nil && err == nil {
			tr.t.Errorf("inode %d, %q: listed, but %v", ino, d.Name, ferr)
		}
		if ferr == nil && (found.Ino != d.Ino || found.Type != d.Type) {
			tr.t.Errorf("inode %d, %q: found %d %d, listed %d %d", ino, d.Name, found.Ino,
				found.Type, d.Ino, d.Type)
		}
	}
	if err == nil {
		tr.notThere(&dir)
	}
	return list, ext4.ErrnoOf(err)
}

func (tr *tree) readDir(dir *ext4.Inode) (list []vfs.Dirent, err error) {
	seen := map[uint64]bool{}
	var ent ext4.Dirent
	for pos := uint64(0); ; pos = ent.Off {
		err := tr.v.ReadDir(tr.src, dir, pos, &ent)
		switch err {
		case nil:
			list = append(list, vfs.Dirent{Name: string(ent.Name), Ino: ent.Ino, Type: ent.Type,
				Off: ent.Off})
		case ext4.ErrContinue:
		case ext4.ErrEOF:
			return list, nil
		default:
			return list, err
		}
		if seen[ent.Off] || ent.Off == 0 || ent.Off>>63 != 0 {
			tr.t.Fatalf("inode %d: cookie %#x follows %#x", dir.Ino, ent.Off, pos)
		}
		seen[ent.Off] = true
	}
}

// notThere looks for names that no directory has.
func (tr *tree) notThere(dir *ext4.Inode) {
	for _, name := range []string{"no such name", strings.Repeat("x", 255), "\xff", "AAAA"} {
		var ent ext4.Dirent
		err := tr.lookup(dir, []byte(name), &ent)
		if err != unix.ENOENT && !(err == unix.EINVAL && tr.v.FoldStrict()) {
			tr.t.Errorf("inode %d, %q: %v, %+v", dir.Ino, name, err, ent)
		}
	}
}

// Readlink returns the target of a symbolic link.
func (tr *tree) Readlink(ino ext4.Ino) (string, error) {
	var in ext4.Inode
	if err := tr.v.ReadInode(tr.src, ino, &in); err != nil {
		return "", ext4.ErrnoOf(err)
	}
	buf := make([]byte, unix.PathMax)
	n, err := tr.v.Readlink(tr.src, &in, buf)
	return string(buf[:n]), ext4.ErrnoOf(err)
}

// ReadAt reads the data of a file, inline or in blocks.
func (tr *tree) ReadAt(ino ext4.Ino, p []byte, off int64) (n int, err error) {
	file, err := tr.v.OpenFile(tr.r, ino)
	if err != nil {
		return 0, ext4.ErrnoOf(err)
	}
	switch in := file.Inode(); {
	case in.Flags&ext4.FlagEncrypt != 0:
		return 0, unix.ENOKEY
	case in.Flags&ext4.FlagInlineData == 0:
		n, err = file.ReadAt(p, off)
	default:
		if n, err = tr.v.InlineData(tr.src, in, p, off); err == nil && n < len(p) {
			err = io.EOF
		}
	}
	return n, ext4.ErrnoOf(err)
}

// Seek finds data or a hole, in as many steps as it takes.
func (tr *tree) Seek(ino ext4.Ino, off int64, whence uint32) (int64, error) {
	var in ext4.Inode
	if err := tr.v.ReadInode(tr.src, ino, &in); err != nil {
		return 0, ext4.ErrnoOf(err)
	}
	seek := tr.v.SeekData
	if whence == unix.SEEK_HOLE {
		seek = tr.v.SeekHole
	}
	var cur ext4.SeekCursor
	for {
		was := cur
		at, err := seek(tr.src, &in, off, &cur)
		if err != ext4.ErrContinue {
			return at, ext4.ErrnoOf(err)
		}
		if cur == was {
			tr.t.Fatalf("inode %d: the cursor stands still at %+v", ino, cur)
		}
	}
}

// Listxattr returns the names of the attributes.
func (tr *tree) Listxattr(ino ext4.Ino) ([]string, error) {
	var in ext4.Inode
	if err := tr.v.ReadInode(tr.src, ino, &in); err != nil {
		return nil, ext4.ErrnoOf(err)
	}
	list := make([]byte, 1<<16)
	n, err := tr.v.ListXattr(tr.src, &in, list, true)
	if err != nil || n == 0 {
		return nil, ext4.ErrnoOf(err)
	}
	if m, err := tr.v.ListXattr(tr.src, &in, nil, true); m != n || err != nil {
		tr.t.Errorf("inode %d: the list has %d bytes, announced are %d, %v", ino, n, m, err)
	}
	return strings.Split(strings.TrimSuffix(string(list[:n]), "\x00"), "\x00"), nil
}

// Getxattr returns the value of an attribute, ACLs in the form of the system calls.
func (tr *tree) Getxattr(ino ext4.Ino, name string) ([]byte, error) {
	var in ext4.Inode
	if err := tr.v.ReadInode(tr.src, ino, &in); err != nil {
		return nil, ext4.ErrnoOf(err)
	}
	value, out := make([]byte, 1<<16), make([]byte, 1<<17)
	n, err := tr.getXattr(&in, name, value)
	if err != nil || !strings.HasPrefix(name, "system.posix_acl") {
		return value[:n], ext4.ErrnoOf(err)
	}
	n, err = ext4.ACLToXattr(value[:n], out)
	return out[:n], ext4.ErrnoOf(err)
}

func (tr *tree) getXattr(in *ext4.Inode, name string, value []byte) (n int, err error) {
	index, suffix, ok := ext4.XattrIndex([]byte(name))
	if !ok {
		return 0, unix.EOPNOTSUPP
	}
	var cur ext4.XattrCursor
	for {
		was := cur
		n, err = tr.v.GetXattr(tr.src, in, index, suffix, value, &cur)
		if err != ext4.ErrContinue {
			break
		}
		if cur == was {
			tr.t.Fatalf("%s: the cursor stands still at %+v", name, cur)
		}
	}
	if err != nil {
		return 0, err
	}
	m, err := tr.v.GetXattr(tr.src, in, index, suffix, nil, &ext4.XattrCursor{})
	if err != nil || m != n {
		tr.t.Errorf("inode %d, %s: %d bytes, announced are %d, %v", in.Ino, name, n, m, err)
	}
	if n > 1 {
		small := value[: n-1 : n-1]
		_, err := tr.v.GetXattr(tr.src, in, index, suffix, small, &ext4.XattrCursor{})
		if err != unix.ERANGE {
			tr.t.Errorf("inode %d, %s: %v with too little room", in.Ino, name, err)
		}
	}
	return n, nil
}

// TestTree reads every image that needs no recovery and compares everything with what the kernel
// read.
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
	have, err := imagetest.WalkClient(tr)
	if err != nil {
		t.Fatal(err)
	}
	want, err := img.Manifest()
	if err != nil {
		t.Fatal(err)
	}
	lines := manifest.Diff(want, have, img.Options())
	lines = append(lines, imagetest.Lookups(tr, img)...)
	lines = append(lines, sameStatErrors(want, have)...)
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
}

// sameStatErrors wants a file that the kernel does not let anybody look at to be refused here,
// too, even among those of which the manifest leaves open how the damage shows: an inode that is
// taken for sound would be written to.
func sameStatErrors(want, have []manifest.Entry) (lines []string) {
	for _, w := range want {
		if !strings.HasPrefix(w.Err, "stat ") {
			continue
		}
		i := slices.IndexFunc(have, func(h manifest.Entry) bool { return h.Path == w.Path })
		if i >= 0 && !strings.HasPrefix(have[i].Err, "stat ") {
			lines = append(lines, w.Path+": error "+have[i].Err+", the kernel says "+w.Err)
		}
	}
	return lines
}
