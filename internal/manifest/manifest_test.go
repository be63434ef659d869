package manifest

import (
	"bytes"
	"reflect"
	"strings"
	"testing"
)

func TestEscape(t *testing.T) {
	for raw, want := range map[string]string{
		"":           "",
		"plain ä":    "plain ä",
		`back\slash`: `back\\slash`,
		"\x00\n\x7f": `\x00\x0a\x7f`,
		"bad-\xff":   `bad-\xff`,
		"\xc3":       `\xc3`,
		"\ufffd":     "\ufffd", // the character itself is not a mistake
		`\x41`:       `\\x41`,
	} {
		if have := Escape(raw); have != want {
			t.Errorf("Escape(%q) is %q, want %q", raw, have, want)
		}
		if back, err := Unescape(want); err != nil || back != raw {
			t.Errorf("Unescape(%q) is %q, %v, want %q", want, back, err, raw)
		}
	}
	for _, bad := range []string{`\`, `\q`, `\x1`, `\xzz`} {
		if s, err := Unescape(bad); err == nil {
			t.Errorf("Unescape(%q) is %q, want an error", bad, s)
		}
	}
}

func FuzzEscape(f *testing.F) {
	f.Add("a\\\xff\n")
	f.Fuzz(func(t *testing.T, s string) {
		text := Escape(s)
		if strings.ToValidUTF8(text, "") != text || strings.ContainsFunc(text, isControl) {
			t.Fatalf("Escape(%q) is %q", s, text)
		}
		if back, err := Unescape(text); err != nil || back != s {
			t.Fatalf("Unescape(Escape(%q)) is %q, %v", s, back, err)
		}
	})
}

func isControl(r rune) bool { return r < ' ' || r == 0x7f }

func TestTime(t *testing.T) {
	for _, tt := range []struct {
		time Time
		text string
	}{
		{Time{0, 0}, "0.000000000"},
		{Time{-1, 999999999}, "-1.999999999"},
		{Time{15032385535, 1}, "15032385535.000000001"},
	} {
		if tt.time.String() != tt.text {
			t.Errorf("%+v is %q, want %q", tt.time, tt.time.String(), tt.text)
		}
		if back, err := ParseTime(tt.text); err != nil || back != tt.time {
			t.Errorf("ParseTime(%q) is %+v, %v", tt.text, back, err)
		}
	}
	for _, bad := range []string{"", "1", "x.0", "1.x", "1.-1"} {
		if _, err := ParseTime(bad); err == nil {
			t.Errorf("ParseTime(%q) gives no error", bad)
		}
	}
}

// someEntries is a tree with everything an entry can hold.
func someEntries() []Entry {
	crtime := Time{5, 6}
	root := NewEntry(".")
	root.Type, root.Mode, root.Ino, root.DirIno, root.DType = "dir", 0o755, 2, 2, "dir"
	file := Entry{Path: "bad-\xff", Type: "file", Mode: 0o4711, UID: 4294967294, GID: 70000,
		Nlink: 2, Size: 1 << 43, Atime: Time{-1, 1}, Mtime: Time{1 << 33, 999999999},
		Ctime: Time{3, 4}, Crtime: &crtime, Blocks: 16, Ino: 12, DirIno: 12, DType: "file",
		Xattrs: map[string]string{"user.\xfe": "00ff"}, SHA256: "abcd",
		Data: []Segment{{0, 4096}, {1 << 42, 1<<42 + 512}}, Flags: 0x80000, Generation: 0,
		ProjID: 4294967295}
	link := file
	link.Path = "link"
	symlink := NewEntry("sym")
	symlink.Type, symlink.Symlink, symlink.Ino, symlink.DirIno = "symlink", "to/\xff", 13, 14
	symlink.DType = "unknown"
	device := NewEntry("zero")
	device.Type, device.Rdev, device.Err = "chr", "1:5", "listxattr EIO"
	device.Ino, device.DirIno, device.DType = 15, 15, "chr"
	return []Entry{root, file, link, symlink, device}
}

func TestEncodeDecode(t *testing.T) {
	want := someEntries()
	var text bytes.Buffer
	if err := Encode(&text, want); err != nil {
		t.Fatal(err)
	}
	if n := strings.Count(text.String(), `"sha256"`); n != 1 {
		t.Errorf("a file of two names is written %d times:\n%s", n, text.String())
	}
	have, err := Decode(&text)
	if err != nil {
		t.Fatal(err)
	}
	if !reflect.DeepEqual(have, want) {
		t.Errorf("decoded\n%+v\nwant\n%+v", have, want)
	}
}

func TestEncodeKeepsDifferences(t *testing.T) {
	want := someEntries()
	want[2].SHA256 = "other" // the same inode, and yet it read differently
	var text bytes.Buffer
	if err := Encode(&text, want); err != nil {
		t.Fatal(err)
	}
	if have, err := Decode(&text); err != nil || !reflect.DeepEqual(have, want) {
		t.Errorf("decoded\n%+v, %v\nwant\n%+v", have, err, want)
	}
}

func TestDecodeErrors(t *testing.T) {
	for _, bad := range []string{
		"{",
		`{"path":"a","link":"b"}`,
		`{"path":"\\q","mode":"0","amcr":["0.0","0.0","0.0"]}`,
		`{"path":"a","mode":"9","amcr":["0.0","0.0","0.0"]}`,
		`{"path":"a","mode":"0","amcr":["0.0"]}`,
		`{"path":"a","mode":"0","amcr":["0.0","0.0","x"]}`,
		`{"path":"a","mode":"0","amcr":["0.0","0.0","0.0"],"flags":"x"}`,
		`{"path":"a","mode":"0","amcr":["0.0","0.0","0.0"],"xattrs":{"\\q":""}}`,
		`{"path":"a","mode":"0","amcr":["0.0","0.0","0.0"],"target":"\\q"}`,
	} {
		if have, err := Decode(strings.NewReader(bad)); err == nil {
			t.Errorf("%s: decoded %+v, want an error", bad, have)
		}
	}
}

func FuzzDecode(f *testing.F) {
	var text bytes.Buffer
	if err := Encode(&text, someEntries()); err != nil {
		f.Fatal(err)
	}
	f.Add(text.String())
	f.Fuzz(func(t *testing.T, s string) {
		entries, err := Decode(strings.NewReader(s))
		if err != nil {
			return
		}
		var again bytes.Buffer
		if err := Encode(&again, entries); err != nil {
			t.Fatal(err)
		}
		back, err := Decode(&again)
		if err != nil {
			t.Fatal(err)
		}
		if lines := Diff(entries, back, Options{Atime: true}); len(entries) == 1 && len(lines) > 0 {
			t.Fatalf("%q", lines)
		}
	})
}
