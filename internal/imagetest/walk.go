// Package imagetest compares the test images with their manifests through the Go API, as package
// manifest does through a mount.
package imagetest

import (
	"fmt"
	"io"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"asyncfsd/internal/manifest"
	"asyncfsd/vfs"
	"asyncfsd/vfs/ext4"
)

// Client is what WalkClient needs of *vfs.Client.
type Client interface {
	Lookup(dir ext4.Ino, name string) (vfs.Attr, error)
	Getattr(ino ext4.Ino) (vfs.Attr, error)
	Readlink(ino ext4.Ino) (string, error)
	ReadAt(ino ext4.Ino, p []byte, off int64) (int, error)
	ReadDir(ino ext4.Ino) ([]vfs.Dirent, error)
	Getxattr(ino ext4.Ino, name string) ([]byte, error)
	Listxattr(ino ext4.Ino) ([]string, error)
	Seek(ino ext4.Ino, off int64, whence uint32) (int64, error)
}

var _ Client = (*vfs.Client)(nil)

// userFlags are the inode flags that the kernel's ext4 shows to programs (FS_FL_USER_VISIBLE and
// what ext4 adds).
const userFlags = 0x725bdfff

// WalkClient lists the whole tree as manifest.Walk lists a mounted one, with the same words for
// the same errors. It reaches every file by looking its name up, and takes what Getattr says. An
// error comes back only if the root cannot be read.
func WalkClient(c Client) ([]manifest.Entry, error) {
	attr, err := c.Getattr(ext4.RootIno)
	if err != nil {
		return nil, fmt.Errorf("root: %w", err)
	}
	w := walker{c: c}
	e := manifest.NewEntry(".")
	e.DirIno, e.DType = uint64(attr.Ino), "dir"
	w.visit(e, attr)
	if first := &w.entries[0]; strings.HasPrefix(first.Err, "readdir") {
		return nil, fmt.Errorf("root: %s", first.Err)
	}
	slices.SortFunc(w.entries[1:], func(a, b manifest.Entry) int {
		return strings.Compare(a.Path, b.Path)
	})
	return w.entries, nil
}

type walker struct {
	c       Client
	above   []ext4.Ino // directories from the root to the one that is being read
	entries []manifest.Entry
}

// visit appends the entry of a file and, if it is a directory, of all below it.
func (w *walker) visit(e manifest.Entry, attr vfs.Attr) {
	w.fill(&e, &attr)
	at := len(w.entries)
	w.entries = append(w.entries, e)
	if e.Type != "dir" {
		return
	}
	list, err := w.c.ReadDir(attr.Ino)
	if err != nil {
		w.entries[at].Fail("readdir", err)
	}
	w.above = append(w.above, attr.Ino)
	for _, d := range list {
		if d.Name != "." && d.Name != ".." {
			w.name(e.Path, attr.Ino, d)
		}
	}
	w.above = w.above[:len(w.above)-1]
}

// name visits one name of directory dir.
func (w *walker) name(path string, dir ext4.Ino, d vfs.Dirent) {
	e := manifest.NewEntry(manifest.Join(path, d.Name))
	e.DirIno, e.DType = uint64(d.Ino), direntType(d.Type)
	attr, err := w.c.Lookup(dir, d.Name)
	if err == nil {
		attr, err = w.same(attr)
	}
	if err != nil {
		e.Fail("stat", err)
		w.entries = append(w.entries, e)
		return
	}
	w.visit(e, attr)
}

// same asks for the attributes again by number, and refuses a directory that holds itself, which
// the kernel never lets anybody see.
func (w *walker) same(found vfs.Attr) (vfs.Attr, error) {
	if slices.Contains(w.above, found.Ino) {
		return found, unix.ELOOP
	}
	attr, err := w.c.Getattr(found.Ino)
	if err == nil && attr != found {
		err = fmt.Errorf("lookup says %+v, getattr %+v", found, attr)
	}
	return attr, err
}

// direntType names the type of a directory entry (see "Directory Entries" in the kernel's
// description of ext4).
func direntType(code uint8) string {
	names := []string{"unknown", "file", "dir", "chr", "blk", "fifo", "sock", "symlink"}
	if int(code) < len(names) {
		return names[code]
	}
	return "unknown"
}

// fill fills in everything about the file with these attributes.
func (w *walker) fill(e *manifest.Entry, a *vfs.Attr) {
	e.Type, e.Mode = manifest.TypeName(a.Mode), a.Mode&0o7777
	e.UID, e.GID, e.Nlink, e.Ino = a.UID, a.GID, a.Nlink, uint64(a.Ino)
	e.Size, e.Blocks = int64(a.Size), int64(a.Sectors)
	e.Atime, e.Mtime, e.Ctime = timeOf(a.Atime), timeOf(a.Mtime), timeOf(a.Ctime)
	if t := timeOf(a.Crtime); t != (manifest.Time{}) {
		e.Crtime = &t // zero: the inode has no room for it
	}
	switch e.Type {
	case "chr", "blk":
		e.Rdev = fmt.Sprintf("%d:%d", unix.Major(uint64(a.Rdev)), unix.Minor(uint64(a.Rdev)))
	case "symlink":
		var err error
		if e.Symlink, err = w.c.Readlink(a.Ino); err != nil {
			e.Fail("readlink", err)
		}
	case "dir":
		w.fillFlags(e, a)
	case "file":
		w.fillFile(e, a)
	}
	w.fillXattrs(e, a.Ino)
}

func timeOf(t ext4.Timespec) manifest.Time { return manifest.Time{Sec: t.Sec, Nsec: t.Nsec} }

func (w *walker) fillFlags(e *manifest.Entry, a *vfs.Attr) {
	e.Flags, e.Generation, e.ProjID =
		int64(a.Flags&userFlags), int64(a.Generation), int64(a.ProjID)
}

// fillFile reads a regular file. Files whose key is missing cannot be opened in a mount; here the
// first read says so.
func (w *walker) fillFile(e *manifest.Entry, a *vfs.Attr) {
	var b [1]byte
	if _, err := w.c.ReadAt(a.Ino, b[:], 0); err == unix.ENOKEY {
		e.Fail("open", err)
		return
	}
	w.fillFlags(e, a)
	e.FillData(
		func(off int64, whence int) (int64, error) { return w.c.Seek(a.Ino, off, uint32(whence)) },
		func(p []byte, off int64) (int, error) { return w.c.ReadAt(a.Ino, p, off) })
	w.beyond(e, a)
}

// beyond makes sure that nothing can be read behind the end of the file.
func (w *walker) beyond(e *manifest.Entry, a *vfs.Attr) {
	var b [600]byte
	n, err := w.c.ReadAt(a.Ino, b[:], e.Size)
	if err != io.EOF || n != 0 {
		e.Fail("read", fmt.Errorf("behind the end: %d bytes, error %v", n, err))
	}
}

func (w *walker) fillXattrs(e *manifest.Entry, ino ext4.Ino) {
	names, err := w.c.Listxattr(ino)
	if err == unix.ENOTSUP || err == nil && len(names) == 0 {
		return
	}
	if err != nil {
		e.Fail("listxattr", err)
		return
	}
	e.Xattrs = map[string]string{}
	for _, name := range names {
		value, err := w.c.Getxattr(ino, name)
		if err != nil {
			e.Fail("getxattr "+name, err)
			continue
		}
		e.Xattrs[name] = manifest.XattrValue(value)
	}
}

// Lookups checks the image's other spellings of names and returns a line for each that does not
// lead to where it should.
func Lookups(c Client, img manifest.Image) (lines []string) {
	for _, pair := range img.Lookups {
		want, err := resolve(c, pair[1])
		if err != nil {
			lines = append(lines, fmt.Sprintf("%s: %v", pair[1], err))
			continue
		}
		have, err := resolve(c, pair[0])
		switch {
		case pair[1] == "" && err != unix.ENOENT:
			lines = append(lines, fmt.Sprintf("%s: there, or %v", pair[0], err))
		case pair[1] != "" && err != nil:
			lines = append(lines, fmt.Sprintf("%s: %v", pair[0], err))
		case pair[1] != "" && have != want:
			lines = append(lines, fmt.Sprintf("%s: is inode %d, and %s is inode %d",
				pair[0], have, pair[1], want))
		}
	}
	return lines
}

// resolve follows an escaped path from the root.
func resolve(c Client, escaped string) (ext4.Ino, error) {
	path, err := manifest.Unescape(escaped)
	if err != nil || path == "" {
		return ext4.RootIno, err
	}
	ino := ext4.Ino(ext4.RootIno)
	for name := range strings.SplitSeq(path, "/") {
		attr, err := c.Lookup(ino, name)
		if err != nil {
			return 0, err
		}
		ino = attr.Ino
	}
	return ino, nil
}
