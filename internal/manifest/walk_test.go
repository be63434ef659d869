package manifest

import (
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

func TestWalk(t *testing.T) {
	root := t.TempDir()
	name := func(s string) string { return filepath.Join(root, s) }
	check := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	check(os.Mkdir(name("a"), 0o700))
	check(os.WriteFile(name("a/file"), []byte("abc"), 0o600))
	check(unix.Chmod(name("a/file"), 0o4710))
	check(os.Chtimes(name("a/file"), unixTime(7, 8), unixTime(9, 10)))
	check(os.Link(name("a/file"), name("link")))
	check(os.Symlink("\xff", name("sym")))
	check(unix.Mkfifo(name("a.fifo"), 0o600))
	entries, err := Walk(root)
	check(err)
	var paths []string
	for _, e := range entries {
		paths = append(paths, e.Path)
	}
	if want := []string{".", "a", "a.fifo", "a/file", "link", "sym"}; !slices.Equal(paths, want) {
		t.Fatalf("paths %q, want %q", paths, want)
	}
	file := entries[3]
	const abc = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
	if file.Type != "file" || file.Mode != 0o4710 || file.Size != 3 || file.Nlink != 2 ||
		file.SHA256 != abc || !slices.Equal(file.Data, []Segment{{0, 3}}) || file.Err != "" ||
		file.Atime != (Time{7, 8}) || file.Mtime != (Time{9, 10}) {
		t.Errorf("file: %+v", file)
	}
	if l := entries[4]; l.Ino != file.Ino || l.DirIno != l.Ino || l.DType != "file" {
		t.Errorf("link: %+v", l)
	}
	if s := entries[5]; s.Symlink != "\xff" || s.Type != "symlink" || s.Flags != Unknown {
		t.Errorf("symlink: %+v", s)
	}
	if f := entries[2]; f.Type != "fifo" || f.DType != "fifo" {
		t.Errorf("fifo: %+v", f)
	}
	one := Stat(root, "a/file")
	if lines := Diff([]Entry{file}, []Entry{one}, Options{Atime: true}); len(lines) > 0 {
		t.Errorf("Stat is not Walk: %q", lines)
	}
}

func TestWalkMissing(t *testing.T) {
	if _, err := Walk(filepath.Join(t.TempDir(), "missing")); err == nil {
		t.Error("no error")
	}
	e := Stat(t.TempDir(), "missing")
	if e.Err != "stat ENOENT" {
		t.Errorf("error %q, want stat ENOENT", e.Err)
	}
}

func TestSegments(t *testing.T) {
	data := []Segment{{0, 100}, {300, 1000}}
	seek := func(off int64, whence int) (int64, error) {
		for _, s := range data {
			if whence == unix.SEEK_DATA && off < s.End {
				return max(off, s.Off), nil
			}
			if whence == unix.SEEK_HOLE && off >= s.Off && off < s.End {
				return s.End, nil
			}
		}
		return 0, unix.ENXIO
	}
	if have, err := segments(seek, 1000); err != nil || !slices.Equal(have, data) {
		t.Errorf("%v, %v, want %v", have, err, data)
	}
	if have, err := segments(seek, 2000); err != nil || !slices.Equal(have, data) {
		t.Errorf("hole at the end: %v, %v, want %v", have, err, data)
	}
	stuck := func(int64, int) (int64, error) { return 5, nil }
	if have, err := segments(stuck, 1000); err == nil {
		t.Errorf("a seek that gets nowhere gives %v and no error", have)
	}
}

func TestParseDirents(t *testing.T) {
	record := func(ino byte, kind byte, name string, length int) []byte {
		b := make([]byte, length)
		b[0], b[16], b[18] = ino, byte(length), kind
		copy(b[19:], name)
		return b
	}
	buf := slices.Concat(record(1, unix.DT_DIR, ".", 24), record(7, unix.DT_LNK, "link", 24),
		record(8, 0, "unknown", 32))
	want := []dirent{{"link", 7, "symlink"}, {"unknown", 8, "unknown"}}
	if have := parseDirents(nil, buf); !slices.Equal(have, want) {
		t.Errorf("%v, want %v", have, want)
	}
	buf[16+24] = 0 // a record without length ends it
	if have := parseDirents(nil, buf); len(have) != 0 {
		t.Errorf("%v, want nothing", have)
	}
}

func unixTime(sec, nsec int64) time.Time { return time.Unix(sec, nsec) }
