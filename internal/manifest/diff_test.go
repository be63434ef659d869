package manifest

import (
	"slices"
	"strings"
	"testing"
)

func TestDiffEqual(t *testing.T) {
	if lines := Diff(someEntries(), someEntries(), Options{Atime: true}); len(lines) > 0 {
		t.Errorf("%q", lines)
	}
}

// TestDiffFields changes each field of an entry in turn: it must be noticed under its own name,
// and be ignored on request.
func TestDiffFields(t *testing.T) {
	changes := map[string]func(e *Entry){
		"err": func(e *Entry) { e.Err = "read EIO" }, "type": func(e *Entry) { e.Type = "fifo" },
		"mode": func(e *Entry) { e.Mode ^= 1 }, "uid": func(e *Entry) { e.UID++ },
		"gid": func(e *Entry) { e.GID++ }, "nlink": func(e *Entry) { e.Nlink++ },
		"size": func(e *Entry) { e.Size++ }, "rdev": func(e *Entry) { e.Rdev = "1:1" },
		"atime": func(e *Entry) { e.Atime.Nsec++ }, "mtime": func(e *Entry) { e.Mtime.Sec++ },
		"ctime":  func(e *Entry) { e.Ctime.Nsec++ },
		"crtime": func(e *Entry) { e.Crtime = &Time{} },
		"blocks": func(e *Entry) { e.Blocks++ }, "ino": func(e *Entry) { e.Ino++ },
		"dino": func(e *Entry) { e.DirIno++ }, "dtype": func(e *Entry) { e.DType = "dir" },
		"target": func(e *Entry) { e.Symlink = "x" },
		"xattrs": func(e *Entry) { e.Xattrs = map[string]string{"user.a": ""} },
		"sha256": func(e *Entry) { e.SHA256 = "" }, "data": func(e *Entry) { e.Data = nil },
		"flags": func(e *Entry) { e.Flags = 0 }, "gen": func(e *Entry) { e.Generation = 7 },
		"projid": func(e *Entry) { e.ProjID = 0 },
	}
	for _, name := range FieldNames() {
		change := changes[name]
		if name == "dirsize" {
			continue // below
		}
		b := someEntries()
		change(&b[1])
		lines := Diff(someEntries(), b, Options{Atime: true})
		if len(lines) != 1 || !strings.HasPrefix(lines[0], `bad-\xff: `+name+" is ") {
			t.Errorf("%s: %q", name, lines)
		}
		options := Options{Atime: true, Ignore: []string{name}}
		if lines := Diff(someEntries(), b, options); len(lines) > 0 {
			t.Errorf("%s ignored: %q", name, lines)
		}
		if lines := Diff(someEntries(), b, Options{}); name == "atime" && len(lines) > 0 {
			t.Errorf("atime not asked for: %q", lines)
		}
	}
}

func TestDiffDirSize(t *testing.T) {
	b := someEntries()
	b[0].Size++
	lines := Diff(someEntries(), b, Options{Ignore: []string{"size"}})
	if want := []string{".: dirsize is 1, should be 0"}; !slices.Equal(lines, want) {
		t.Errorf("%q, want %q", lines, want)
	}
	if lines := Diff(someEntries(), b, Options{Ignore: []string{"dirsize"}}); len(lines) > 0 {
		t.Errorf("%q", lines)
	}
}

func TestDiffUnknown(t *testing.T) {
	b := someEntries()
	b[1].Flags, b[1].Generation, b[1].ProjID, b[1].Crtime = Unknown, Unknown, Unknown, nil
	b[1].DType = "unknown"
	if lines := Diff(someEntries(), b, Options{}); len(lines) > 0 {
		t.Errorf("what b does not know: %q", lines)
	}
	if lines := Diff(b, someEntries(), Options{}); len(lines) > 0 {
		t.Errorf("what a does not know: %q", lines)
	}
}

func TestDiffNames(t *testing.T) {
	a, b := someEntries(), someEntries()
	b[2].Path = "new"
	b = append(b, b[0])
	want := []string{"link: missing (file)", "new: unexpected (file)", "1 names are there twice"}
	if lines := Diff(a, b, Options{}); !slices.Equal(lines, want) {
		t.Errorf("%q, want %q", lines, want)
	}
}

func TestDiffDamaged(t *testing.T) {
	options := Options{Damaged: []string{"link", "zero"}}
	b := someEntries()
	b[2].Size++                   // damaged, and a shows no error
	b[4].Err = "readlink EUCLEAN" // another error than a's
	inside := NewEntry("link/inside")
	if lines := Diff(someEntries(), append(b, inside), options); len(lines) > 0 {
		t.Errorf("%q", lines)
	}
	b[4].Err = ""
	lines := Diff(someEntries(), b, options)
	want := []string{"zero: err is (none), should be like listxattr EIO"}
	if !slices.Equal(lines, want) {
		t.Errorf("%q, want %q", lines, want)
	}
	b = append(someEntries()[:4], NewEntry("zero2"))
	lines = Diff(someEntries(), b, options)
	if want := []string{"zero2: unexpected ()"}; !slices.Equal(lines, want) {
		t.Errorf("%q, want %q", lines, want)
	}
}
