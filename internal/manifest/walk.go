package manifest

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// Walk lists the tree at root through ordinary system calls. It does not follow symbolic links
// and does not leave the filesystem of root. What cannot be read of one file is noted in its
// entry; an error comes back only if root itself cannot be read.
func Walk(root string) ([]Entry, error) {
	var st unix.Stat_t
	if err := unix.Lstat(root, &st); err != nil {
		return nil, &fs.PathError{Op: "stat", Path: root, Err: err}
	}
	w := walker{root: root, dev: st.Dev, buf: newBuffers()}
	w.visit(".", dirent{ino: st.Ino, kind: "dir"})
	if first := &w.entries[0]; strings.HasPrefix(first.Err, "readdir") {
		return nil, fmt.Errorf("manifest: %s: %s", root, first.Err)
	}
	slices.SortFunc(w.entries[1:], func(a, b Entry) int { return strings.Compare(a.Path, b.Path) })
	return w.entries, nil
}

// Stat returns the entry of one path below root, without its directory entry's number and type.
func Stat(root, path string) Entry {
	e := NewEntry(path)
	e.fill(root+"/"+path, newBuffers())
	e.DirIno, e.DType = e.Ino, e.Type
	return e
}

// NewEntry returns an entry of which nothing is known but its path.
func NewEntry(path string) Entry {
	return Entry{Path: path, Flags: Unknown, Generation: Unknown, ProjID: Unknown}
}

type walker struct {
	root    string
	dev     uint64
	buf     *buffers
	entries []Entry
}

// buffers are as large as a list and a value of extended attributes can be.
type buffers struct{ list, value []byte }

func newBuffers() *buffers { return &buffers{make([]byte, 1<<16), make([]byte, 1<<16)} }

// visit appends the entry of path and, if it is a directory, of all below it.
func (w *walker) visit(path string, d dirent) {
	e := NewEntry(path)
	e.fill(w.root+"/"+path, w.buf)
	e.DirIno, e.DType = d.ino, d.kind
	at := len(w.entries)
	w.entries = append(w.entries, e)
	if e.Type != "dir" {
		return
	}
	names, err := readdir(w.root+"/"+path, w.dev)
	if err != nil {
		w.entries[at].Fail("readdir", err)
	}
	for _, d := range names {
		w.visit(Join(path, d.name), d)
	}
}

// Join makes the path of a name in directory dir, the root being ".". Unlike filepath.Join it
// cleans nothing: a damaged directory may hold any name.
func Join(dir, name string) string {
	if dir == "." {
		return name
	}
	return dir + "/" + name
}

// Fail notes in Err that op failed, unless something else went wrong before.
func (e *Entry) Fail(op string, err error) {
	if e.Err != "" {
		return
	}
	var errno unix.Errno
	if errors.As(err, &errno) {
		e.Err = op + " " + unix.ErrnoName(errno)
		return
	}
	e.Err = op + " " + err.Error()
}

// fill reads everything about the file at path.
func (e *Entry) fill(path string, buf *buffers) {
	var st unix.Statx_t
	const mask = unix.STATX_BASIC_STATS | unix.STATX_BTIME
	if err := unix.Statx(unix.AT_FDCWD, path, unix.AT_SYMLINK_NOFOLLOW, mask, &st); err != nil {
		e.Fail("stat", err)
		return
	}
	e.Type, e.Mode = TypeName(uint32(st.Mode)), uint32(st.Mode)&0o7777
	e.UID, e.GID, e.Nlink, e.Ino = st.Uid, st.Gid, st.Nlink, st.Ino
	e.Size, e.Blocks = int64(st.Size), int64(st.Blocks)
	e.Atime, e.Mtime, e.Ctime = timeOf(st.Atime), timeOf(st.Mtime), timeOf(st.Ctime)
	if st.Mask&unix.STATX_BTIME != 0 {
		t := timeOf(st.Btime)
		e.Crtime = &t
	}
	switch e.Type {
	case "chr", "blk":
		e.Rdev = fmt.Sprintf("%d:%d", st.Rdev_major, st.Rdev_minor)
	case "symlink":
		e.fillSymlink(path, buf.value)
	case "file", "dir":
		e.fillOpen(path)
	}
	e.fillXattrs(path, buf)
}

func (e *Entry) fillSymlink(path string, buf []byte) {
	n, err := unix.Readlink(path, buf)
	if err != nil {
		e.Fail("readlink", err)
		return
	}
	e.Symlink = string(buf[:n])
}

// fillOpen reads what takes an open file: flags and the data.
func (e *Entry) fillOpen(path string) {
	const how = unix.O_RDONLY | unix.O_NOFOLLOW | unix.O_CLOEXEC
	fd, err := unix.Open(path, how|unix.O_NOATIME, 0)
	if err == unix.EPERM {
		fd, err = unix.Open(path, how, 0) // O_NOATIME is for the owner only
	}
	if err != nil {
		e.Fail("open", err)
		return
	}
	defer unix.Close(fd)
	e.fillFlags(fd)
	if e.Type != "file" {
		return
	}
	e.FillData(
		func(off int64, whence int) (int64, error) { return unix.Seek(fd, off, whence) },
		func(p []byte, off int64) (int, error) { return unix.Pread(fd, p, off) })
}

// FillData fills in where a regular file of Size bytes has data, and the hash of it. seek is as
// lseek with SEEK_DATA and SEEK_HOLE, read as io.ReaderAt's ReadAt.
func (e *Entry) FillData(seek func(off int64, whence int) (int64, error),
	read func(p []byte, off int64) (int, error)) {
	var err error
	if e.Data, err = segments(seek, e.Size); err != nil {
		e.Fail("seek", err)
	}
	where := e.Data
	if err != nil {
		where = nil
	} else if where == nil {
		where = []Segment{}
	}
	if err != nil && e.Size > HashWholeMax {
		return // it could be terabytes, all hole
	}
	if e.SHA256, err = HashData(e.Size, where, read); err != nil {
		e.Fail("read", err)
	}
}

// fsxattr is struct fsxattr of linux/fs.h.
type fsxattr struct {
	xflags, extsize, nextents, projid, cowextsize uint32
	pad                                           [8]byte
}

func (e *Entry) fillFlags(fd int) {
	const getVersion, fsGetXattr = 0x80087601, 0x801c581f
	// NB: both are declared as long and used as int: FUSE may fill in all eight bytes.
	var v [2]uint32
	if err := ioctl(fd, unix.FS_IOC_GETFLAGS, &v); err == nil {
		e.Flags = int64(v[0])
	}
	if err := ioctl(fd, getVersion, &v); err == nil {
		e.Generation = int64(v[0])
	}
	var x fsxattr
	if err := ioctl(fd, fsGetXattr, &x); err == nil {
		e.ProjID = int64(x.projid)
	}
}

// segments lists the data of a file of the given size.
func segments(seek func(off int64, whence int) (int64, error), size int64) ([]Segment, error) {
	var list []Segment
	for off := int64(0); off < size; {
		from, err := seek(off, unix.SEEK_DATA)
		if err == unix.ENXIO {
			break
		}
		if err != nil {
			return list, err
		}
		end, err := seek(from, unix.SEEK_HOLE)
		if err != nil {
			return list, err
		}
		if from < off || end <= from { // of use to nobody, and this must end
			return list, unix.EOVERFLOW
		}
		list = append(list, Segment{from, end})
		off = end
	}
	return list, nil
}

func (e *Entry) fillXattrs(path string, buf *buffers) {
	n, err := unix.Llistxattr(path, buf.list)
	if err == unix.ENOTSUP || err == nil && n == 0 {
		return
	}
	if err != nil {
		e.Fail("listxattr", err)
		return
	}
	e.Xattrs = map[string]string{}
	names := strings.TrimSuffix(string(buf.list[:n]), "\x00")
	for name := range strings.SplitSeq(names, "\x00") {
		n, err := unix.Lgetxattr(path, name, buf.value)
		if err != nil {
			e.Fail("getxattr "+name, err)
			continue
		}
		e.Xattrs[name] = XattrValue(buf.value[:n])
	}
}

func timeOf(t unix.StatxTimestamp) Time { return Time{t.Sec, t.Nsec} }

// dirent is one entry of a directory as the kernel hands it out.
type dirent struct {
	name string
	ino  uint64
	kind string
}

// readdir lists a directory of filesystem dev; on an error it returns what came before.
func readdir(path string, dev uint64) ([]dirent, error) {
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	defer unix.Close(fd)
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil || st.Dev != dev {
		return nil, err // a mount point: its content belongs to another tree
	}
	var list []dirent
	buf := make([]byte, 1<<16)
	for {
		n, err := unix.Getdents(fd, buf)
		if err != nil || n <= 0 {
			return list, err
		}
		list = parseDirents(list, buf[:n])
	}
}

// parseDirents appends the struct linux_dirent64 records in buf, without "." and "..".
func parseDirents(list []dirent, buf []byte) []dirent {
	const nameAt = 19 // offset of d_name
	for len(buf) > nameAt {
		length := int(binary.NativeEndian.Uint16(buf[16:]))
		if length <= nameAt || length > len(buf) {
			return list
		}
		name, _, _ := strings.Cut(string(buf[nameAt:length]), "\x00")
		if name != "." && name != ".." {
			kind := TypeName(uint32(buf[18]) << 12)
			list = append(list, dirent{name, binary.NativeEndian.Uint64(buf), kind})
		}
		buf = buf[length:]
	}
	return list
}

// TypeName names the file type of a mode as Entry.Type and DType have it, "unknown" if there is
// none. A DT_ constant is that type's bits shifted by 12.
func TypeName(mode uint32) string {
	switch mode & unix.S_IFMT {
	case unix.S_IFREG:
		return "file"
	case unix.S_IFDIR:
		return "dir"
	case unix.S_IFLNK:
		return "symlink"
	case unix.S_IFCHR:
		return "chr"
	case unix.S_IFBLK:
		return "blk"
	case unix.S_IFIFO:
		return "fifo"
	case unix.S_IFSOCK:
		return "sock"
	}
	return "unknown"
}
