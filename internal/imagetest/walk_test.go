package imagetest

import (
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"asyncfsd/internal/manifest"
	"asyncfsd/vfs"
	"asyncfsd/vfs/ext4"
)

// hostClient answers from a directory of the host: what WalkClient makes of the answers must be
// what manifest.Walk says of that directory. The root's number is given as RootIno.
type hostClient struct {
	root  string
	paths map[ext4.Ino]string
	trick func(dir ext4.Ino, name string, a *vfs.Attr) error
}

func newHostClient(root string) *hostClient {
	return &hostClient{root: root, paths: map[ext4.Ino]string{ext4.RootIno: root}}
}

func (h *hostClient) attr(path string) (vfs.Attr, error) {
	var st unix.Statx_t
	err := unix.Statx(unix.AT_FDCWD, path, unix.AT_SYMLINK_NOFOLLOW, unix.STATX_ALL, &st)
	ts := func(t unix.StatxTimestamp) ext4.Timespec {
		return ext4.Timespec{Sec: t.Sec, Nsec: t.Nsec}
	}
	a := vfs.Attr{Ino: ext4.Ino(st.Ino), Mode: uint32(st.Mode), Nlink: st.Nlink, UID: st.Uid,
		GID: st.Gid, Size: st.Size, Sectors: st.Blocks, Atime: ts(st.Atime), Mtime: ts(st.Mtime),
		Ctime: ts(st.Ctime), Crtime: ts(st.Btime),
		Rdev: uint32(unix.Mkdev(st.Rdev_major, st.Rdev_minor))}
	if path == h.root {
		a.Ino = ext4.RootIno
	}
	h.paths[a.Ino] = path
	return a, err
}

func (h *hostClient) Getattr(ino ext4.Ino) (vfs.Attr, error) { return h.attr(h.paths[ino]) }

func (h *hostClient) Lookup(dir ext4.Ino, name string) (vfs.Attr, error) {
	a, err := h.attr(h.paths[dir] + "/" + name)
	if h.trick != nil && err == nil {
		err = h.trick(dir, name, &a)
	}
	return a, err
}

func (h *hostClient) Readlink(ino ext4.Ino) (string, error) { return os.Readlink(h.paths[ino]) }

func (h *hostClient) ReadAt(ino ext4.Ino, p []byte, off int64) (int, error) {
	f, err := os.Open(h.paths[ino])
	if err != nil {
		return 0, err
	}
	defer f.Close()
	return f.ReadAt(p, off)
}

func (h *hostClient) ReadDir(ino ext4.Ino) ([]vfs.Dirent, error) {
	list := []vfs.Dirent{{Name: ".", Ino: ino, Type: 2}, {Name: "..", Ino: ino, Type: 2}}
	entries, err := os.ReadDir(h.paths[ino])
	for _, e := range entries {
		a, _ := h.attr(h.paths[ino] + "/" + e.Name())
		code := map[uint32]uint8{unix.S_IFREG: 1, unix.S_IFDIR: 2, unix.S_IFLNK: 7,
			unix.S_IFIFO: 5}[a.Mode&unix.S_IFMT]
		list = append(list, vfs.Dirent{Name: e.Name(), Ino: a.Ino, Type: code})
	}
	return list, err
}

func (h *hostClient) Getxattr(ino ext4.Ino, name string) ([]byte, error) {
	value := make([]byte, 1<<16)
	n, err := unix.Lgetxattr(h.paths[ino], name, value)
	return value[:max(n, 0)], err
}

func (h *hostClient) Listxattr(ino ext4.Ino) ([]string, error) {
	buf := make([]byte, 1<<16)
	n, err := unix.Llistxattr(h.paths[ino], buf)
	if n <= 0 {
		return nil, err
	}
	return strings.Split(strings.TrimSuffix(string(buf[:n]), "\x00"), "\x00"), nil
}

func (h *hostClient) Seek(ino ext4.Ino, off int64, whence uint32) (int64, error) {
	f, err := os.Open(h.paths[ino])
	if err != nil {
		return 0, err
	}
	defer f.Close()
	return unix.Seek(int(f.Fd()), off, int(whence))
}

// hostTree makes a small tree.
func hostTree(t *testing.T) string {
	root := t.TempDir()
	check := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	check(os.MkdirAll(filepath.Join(root, "dir", "sub"), 0o750))
	check(os.WriteFile(filepath.Join(root, "dir", "file"), []byte("content"), 0o640))
	check(os.WriteFile(filepath.Join(root, "bad-\xff"), nil, 0o600))
	check(os.Truncate(filepath.Join(root, "bad-\xff"), 100<<20))
	check(os.Symlink("dir/file", filepath.Join(root, "dir", "link")))
	check(os.Link(filepath.Join(root, "dir", "file"), filepath.Join(root, "hard")))
	check(unix.Mkfifo(filepath.Join(root, "fifo"), 0o600))
	_ = unix.Setxattr(filepath.Join(root, "hard"), "user.a", []byte("value"), 0) // if it can
	return root
}

// flags are what the host client does not know.
var hostOptions = manifest.Options{Ignore: []string{"flags", "gen", "projid", "dino", "ino"}}

func TestWalkClientIsWalk(t *testing.T) {
	root := hostTree(t)
	want, err := manifest.Walk(root)
	if err != nil {
		t.Fatal(err)
	}
	have, err := WalkClient(newHostClient(root))
	if err != nil {
		t.Fatal(err)
	}
	if len(have) != 8 {
		t.Errorf("%d entries, want 8", len(have))
	}
	for _, line := range manifest.Diff(want, have, hostOptions) {
		t.Error(line)
	}
}

// find returns the entry of that path.
func find(t *testing.T, entries []manifest.Entry, path string) manifest.Entry {
	t.Helper()
	i := slices.IndexFunc(entries, func(e manifest.Entry) bool { return e.Path == path })
	if i < 0 {
		t.Fatalf("no entry %s", path)
	}
	return entries[i]
}

func TestWalkClientLoop(t *testing.T) {
	h := newHostClient(hostTree(t))
	h.trick = func(_ ext4.Ino, name string, a *vfs.Attr) error {
		if name == "sub" {
			*a, _ = h.Getattr(ext4.RootIno)
		}
		return nil
	}
	have, err := WalkClient(h)
	if err != nil {
		t.Fatal(err)
	}
	if e := find(t, have, "dir/sub"); e.Err != "stat ELOOP" {
		t.Errorf("dir/sub: error %q, want ELOOP", e.Err)
	}
}

func TestWalkClientErrors(t *testing.T) {
	h := newHostClient(hostTree(t))
	h.trick = func(_ ext4.Ino, name string, a *vfs.Attr) error {
		switch name {
		case "hard":
			return unix.EUCLEAN
		case "link":
			a.Mode ^= 0o100
		}
		return nil
	}
	have, err := WalkClient(h)
	if err != nil {
		t.Fatal(err)
	}
	if e := find(t, have, "hard"); e.Err != "stat "+unix.ErrnoName(unix.EUCLEAN) {
		t.Errorf("hard: error %q, want EUCLEAN", e.Err)
	}
	if e := find(t, have, "dir/link"); !strings.HasPrefix(e.Err, "stat lookup says") {
		t.Errorf("dir/link: error %q, want one about lookup and getattr", e.Err)
	}
}

// lockedClient has no key for regular files, and reads too much of others.
type lockedClient struct{ *hostClient }

func (l lockedClient) ReadAt(ino ext4.Ino, p []byte, off int64) (int, error) {
	if filepath.Base(l.paths[ino]) == "hard" {
		return 0, unix.ENOKEY
	}
	if n, err := l.hostClient.ReadAt(ino, p, off); n > 0 || err != io.EOF {
		return n, err
	}
	return 1, nil
}

func TestWalkClientReads(t *testing.T) {
	have, err := WalkClient(lockedClient{newHostClient(hostTree(t))})
	if err != nil {
		t.Fatal(err)
	}
	if e := find(t, have, "hard"); e.Err != "open ENOKEY" || e.SHA256 != "" ||
		e.Flags != manifest.Unknown {
		t.Errorf("hard: %+v, want the error of a missing key and no more", e)
	}
	if e := find(t, have, "bad-\xff"); !strings.HasPrefix(e.Err, "read behind the end") {
		t.Errorf("error %q, want one about the end of the file", e.Err)
	}
}

func TestLookups(t *testing.T) {
	h := newHostClient(hostTree(t))
	good := manifest.Image{Lookups: [][2]string{{"hard", "dir/file"}, {`bad-\xff`, `bad-\xff`},
		{"HARD", ""}}}
	if lines := Lookups(h, good); len(lines) > 0 {
		t.Errorf("good lookups: %q", lines)
	}
	bad := manifest.Image{Lookups: [][2]string{{"hard", ""}, {"HARD", "hard"}, {"fifo", "hard"},
		{"hard", "nothing"}}}
	if lines := Lookups(h, bad); len(lines) != len(bad.Lookups) {
		t.Errorf("bad lookups: %q", lines)
	}
}
