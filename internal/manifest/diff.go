package manifest

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// Options says what Diff compares.
type Options struct {
	// Atime compares access times, too; reading a tree changes them on most mounts.
	Atime bool
	// Ignore names fields that are not compared: any of FieldNames.
	Ignore []string
	// Damaged names paths that suffer from damage on the disk. How much of a damaged thing is
	// shown is a matter of taste, that it is damaged is not: where a has an error of such a path,
	// b must have one too, be it another one, or not have the path. Nothing else is compared
	// there, nor anything below.
	Damaged []string
}

// damaged tells whether path is one of the damaged paths or lies below one.
func (o *Options) damaged(path string) bool {
	return slices.ContainsFunc(o.Damaged, func(d string) bool {
		return path == d || strings.HasPrefix(path, d+"/")
	})
}

// field is one thing that Diff compares, as text; "" is unknown where optional is set.
type field struct {
	name     string
	optional bool
	text     func(e *Entry) string
}

var fields = []field{
	{"err", false, func(e *Entry) string { return e.Err }},
	{"type", false, func(e *Entry) string { return e.Type }},
	{"mode", false, func(e *Entry) string { return fmt.Sprintf("%04o", e.Mode) }},
	{"uid", false, func(e *Entry) string { return strconv.Itoa(int(e.UID)) }},
	{"gid", false, func(e *Entry) string { return strconv.Itoa(int(e.GID)) }},
	{"nlink", false, func(e *Entry) string { return strconv.Itoa(int(e.Nlink)) }},
	{"size", false, func(e *Entry) string { return strconv.FormatInt(e.Size, 10) }},
	{"dirsize", false, func(e *Entry) string { return strconv.FormatInt(e.Size, 10) }},
	{"rdev", false, func(e *Entry) string { return e.Rdev }},
	{"atime", false, func(e *Entry) string { return e.Atime.String() }},
	{"mtime", false, func(e *Entry) string { return e.Mtime.String() }},
	{"ctime", false, func(e *Entry) string { return e.Ctime.String() }},
	{"crtime", true, crtimeText},
	{"blocks", false, func(e *Entry) string { return strconv.FormatInt(e.Blocks, 10) }},
	{"ino", false, func(e *Entry) string { return strconv.FormatUint(e.Ino, 10) }},
	{"dino", false, func(e *Entry) string { return strconv.FormatUint(e.DirIno, 10) }},
	{"dtype", true, dtypeText},
	{"target", false, func(e *Entry) string { return Escape(e.Symlink) }},
	{"xattrs", false, xattrsText},
	{"sha256", false, func(e *Entry) string { return e.SHA256 }},
	{"data", false, dataText},
	{"flags", true, func(e *Entry) string { return knownText(e.Flags, 16) }},
	{"gen", true, func(e *Entry) string { return knownText(e.Generation, 10) }},
	{"projid", true, func(e *Entry) string { return knownText(e.ProjID, 10) }},
}

// FieldNames lists the names that Options.Ignore understands. "size" is that of everything but
// directories, whose size is "dirsize".
func FieldNames() []string {
	var names []string
	for _, f := range fields {
		names = append(names, f.name)
	}
	return names
}

// Diff compares two trees and returns one line for each thing that differs, in the order of
// paths: what a holds (the expectation) and what b holds. Equal trees give none.
func Diff(a, b []Entry, opts Options) []string {
	inB := make(map[string]int, len(b))
	for i := range b {
		inB[b[i].Path] = i
	}
	var lines []string
	seen := make(map[string]bool, len(a))
	for i := range a {
		seen[a[i].Path] = true
		j, ok := inB[a[i].Path]
		if opts.damaged(a[i].Path) {
			if ok && a[i].Err != "" && b[j].Err == "" {
				lines = append(lines, fmt.Sprintf("%s: err is (none), should be like %s",
					Escape(a[i].Path), a[i].Err))
			}
			continue
		}
		if !ok {
			lines = append(lines, fmt.Sprintf("%s: missing (%s)", Escape(a[i].Path), a[i].Type))
			continue
		}
		lines = appendDiff(lines, &a[i], &b[j], opts)
	}
	for i := range b {
		if !seen[b[i].Path] && !opts.damaged(b[i].Path) {
			lines = append(lines, fmt.Sprintf("%s: unexpected (%s)", Escape(b[i].Path), b[i].Type))
		}
	}
	if len(b) != len(inB) {
		lines = append(lines, fmt.Sprintf("%d names are there twice", len(b)-len(inB)))
	}
	return lines
}

func appendDiff(lines []string, a, b *Entry, opts Options) []string {
	for _, f := range fields {
		if slices.Contains(opts.Ignore, f.name) || f.name == "atime" && !opts.Atime ||
			f.name == "size" && a.Type == "dir" || f.name == "dirsize" && a.Type != "dir" {
			continue
		}
		x, y := f.text(a), f.text(b)
		if x == y || f.optional && (x == "" || y == "") {
			continue
		}
		lines = append(lines, fmt.Sprintf("%s: %s is %s, should be %s",
			Escape(a.Path), f.name, show(y), show(x)))
	}
	return lines
}

// show keeps an empty text visible.
func show(s string) string {
	if s == "" {
		return "(none)"
	}
	return s
}

// dtypeText makes nothing of an unknown type: who knows more than the directory entry says, for
// having read the inode as well, may tell.
func dtypeText(e *Entry) string {
	if e.DType == "unknown" {
		return ""
	}
	return e.DType
}

func crtimeText(e *Entry) string {
	if e.Crtime == nil {
		return ""
	}
	return e.Crtime.String()
}

func xattrsText(e *Entry) string {
	var list []string
	for name, value := range e.Xattrs {
		list = append(list, Escape(name)+"="+value)
	}
	slices.Sort(list)
	return strings.Join(list, " ")
}

func dataText(e *Entry) string {
	var b strings.Builder
	for _, s := range e.Data {
		fmt.Fprintf(&b, "[%d,%d)", s.Off, s.End)
	}
	return b.String()
}

func knownText(v int64, base int) string {
	if v == Unknown {
		return ""
	}
	return strconv.FormatInt(v, base)
}
