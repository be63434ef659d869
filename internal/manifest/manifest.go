// Package manifest describes file trees as tests compare them: a list of entries with everything
// that ordinary system calls tell about each file, written one JSON object a line. The manifests
// beside the images of testdata/images are what the kernel's ext4 read from them; a tree read by
// any other means must give the same list.
//
// Invariants:
//  1. Entries are sorted by path, bytewise, and the root comes first as ".".
//  2. Names are bytes, not text: whatever a directory holds survives encoding.
//  3. Unknown is not zero: what a reader could not tell is Unknown or empty, and never differs.
package manifest

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/klauspost/compress/zstd"
)

// Unknown stands in Flags, Generation and ProjID for a value the reader could not learn.
const Unknown = -1

// Time is a file's timestamp. It is not time.Time's UnixNano, because ext4 reaches the year 2446
// and 64 bits of nanoseconds end in 2262.
type Time struct {
	Sec  int64  // seconds since 1970, negative before
	Nsec uint32 // nanoseconds after Sec, below 1e9
}

// String formats the time as seconds, a dot and nine digits of nanoseconds. A time before 1970
// counts its nanoseconds forward from the (negative) second, as struct timespec does.
func (t Time) String() string { return fmt.Sprintf("%d.%09d", t.Sec, t.Nsec) }

// ParseTime reads what String wrote.
func ParseTime(s string) (Time, error) {
	sec, nsec, found := strings.Cut(s, ".")
	if !found {
		return Time{}, fmt.Errorf("manifest: time %q has no dot", s)
	}
	a, err := strconv.ParseInt(sec, 10, 64)
	if err != nil {
		return Time{}, err
	}
	b, err := strconv.ParseUint(nsec, 10, 32)
	return Time{a, uint32(b)}, err
}

// Segment is a range of a file that holds data, as SEEK_DATA and SEEK_HOLE tell it.
type Segment struct {
	Off int64 // first byte
	End int64 // first byte behind it
}

// Entry is one name of a tree and the file it leads to.
type Entry struct {
	Path  string // relative to the root, "." for the root itself; any bytes but NUL
	Type  string // file, dir, symlink, chr, blk, fifo, sock
	Mode  uint32 // permission, set-id and sticky bits: 07777
	UID   uint32
	GID   uint32
	Nlink uint32
	Size  int64  // bytes
	Rdev  string // "major:minor" of a device node

	Atime, Mtime, Ctime Time
	Crtime              *Time // nil where the filesystem keeps none

	Blocks  int64             // st_blocks, in units of 512 bytes
	Ino     uint64            // st_ino
	DirIno  uint64            // d_ino of the directory entry
	DType   string            // d_type of the directory entry, "unknown" for DT_UNKNOWN
	Symlink string            // target of a symbolic link
	Xattrs  map[string]string // name to XattrValue of the value

	SHA256 string    // of the data of a regular file, as HashData defines it
	Data   []Segment // where a regular file has data; empty if it is all hole

	Flags      int64 // FS_IOC_GETFLAGS, or Unknown
	Generation int64 // FS_IOC_GETVERSION, or Unknown
	ProjID     int64 // FS_IOC_FSGETXATTR, or Unknown

	// Err says what could not be read, "open ENOKEY" for example: such things are part of what
	// an image is made to show. Empty if all went well.
	Err string
}

// line is an Entry on its way to and from JSON. LinkTo stands for all the rest of an entry whose
// inode was already written under that path: directories of many thousand hard links stay small.
type line struct {
	Path   string            `json:"path"`
	LinkTo string            `json:"link,omitempty"`
	Type   string            `json:"type,omitempty"`
	Mode   string            `json:"mode,omitempty"`
	UID    uint32            `json:"uid,omitempty"`
	GID    uint32            `json:"gid,omitempty"`
	Nlink  uint32            `json:"nlink,omitempty"`
	Size   int64             `json:"size,omitempty"`
	Rdev   string            `json:"rdev,omitempty"`
	Times  []string          `json:"amcr,omitempty"`
	Blocks int64             `json:"blocks,omitempty"`
	Ino    uint64            `json:"ino,omitempty"`
	DirIno uint64            `json:"dino,omitempty"`
	DType  string            `json:"dtype,omitempty"`
	Target string            `json:"target,omitempty"`
	Xattrs map[string]string `json:"xattrs,omitempty"`
	SHA256 string            `json:"sha256,omitempty"`
	Data   [][2]int64        `json:"data,omitempty"`
	Flags  string            `json:"flags,omitempty"`
	Gen    *int64            `json:"gen,omitempty"`
	ProjID *int64            `json:"projid,omitempty"`
	Err    string            `json:"err,omitempty"`
}

// Encode writes the entries as JSON lines.
func Encode(w io.Writer, entries []Entry) error {
	out := bufio.NewWriter(w)
	enc := json.NewEncoder(out)
	enc.SetEscapeHTML(false)
	first := map[uint64]*Entry{}
	for i := range entries {
		e := &entries[i]
		l := toLine(e)
		if was := first[e.Ino]; was != nil && sameInode(was, e) {
			l = line{Path: Escape(e.Path), LinkTo: Escape(was.Path)}
		} else if e.Ino != 0 {
			first[e.Ino] = e
		}
		if err := enc.Encode(l); err != nil {
			return err
		}
	}
	return out.Flush()
}

// Decode reads what Encode wrote.
func Decode(r io.Reader) ([]Entry, error) {
	var entries []Entry
	at := map[string]int{}
	dec := json.NewDecoder(r)
	for {
		var l line
		err := dec.Decode(&l)
		if err == io.EOF {
			return entries, nil
		}
		if err != nil {
			return nil, fmt.Errorf("manifest: entry %d: %w", len(entries)+1, err)
		}
		e, err := fromLine(l)
		if err != nil {
			return nil, fmt.Errorf("manifest: entry %d: %w", len(entries)+1, err)
		}
		if l.LinkTo != "" {
			i, ok := at[l.LinkTo]
			if !ok {
				return nil, fmt.Errorf("manifest: %s links to %s, which is not there",
					l.Path, l.LinkTo)
			}
			path := e.Path
			e = entries[i]
			e.Path = path
		}
		at[l.Path] = len(entries)
		entries = append(entries, e)
	}
}

// Load reads a manifest file; a name that ends in ".zst" is decompressed.
func Load(path string) ([]Entry, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	if !strings.HasSuffix(path, ".zst") {
		return Decode(f)
	}
	z, err := zstd.NewReader(f)
	if err != nil {
		return nil, err
	}
	defer z.Close()
	return Decode(z)
}

// sameInode tells whether b says nothing that a did not already say under another name.
func sameInode(a, b *Entry) bool {
	c := *b
	c.Path = a.Path
	x, errX := json.Marshal(toLine(a))
	y, errY := json.Marshal(toLine(&c))
	return errX == nil && errY == nil && bytes.Equal(x, y)
}

func toLine(e *Entry) line {
	l := line{
		Path: Escape(e.Path), Type: e.Type, Mode: strconv.FormatUint(uint64(e.Mode), 8),
		UID: e.UID, GID: e.GID, Nlink: e.Nlink, Size: e.Size, Rdev: e.Rdev,
		Times:  []string{e.Atime.String(), e.Mtime.String(), e.Ctime.String()},
		Blocks: e.Blocks, Ino: e.Ino, DType: e.DType, Target: Escape(e.Symlink),
		SHA256: e.SHA256, Err: e.Err,
	}
	if e.Crtime != nil {
		l.Times = append(l.Times, e.Crtime.String())
	}
	if e.DirIno != e.Ino {
		l.DirIno = e.DirIno
	}
	if e.DType == e.Type {
		l.DType = "="
	}
	if len(e.Xattrs) > 0 {
		l.Xattrs = map[string]string{}
		for name, value := range e.Xattrs {
			l.Xattrs[Escape(name)] = value
		}
	}
	for _, s := range e.Data {
		l.Data = append(l.Data, [2]int64{s.Off, s.End})
	}
	if e.Flags != Unknown {
		l.Flags = "0x" + strconv.FormatInt(e.Flags, 16)
	}
	l.Gen, l.ProjID = known(e.Generation), known(e.ProjID)
	return l
}

func fromLine(l line) (e Entry, err error) {
	e = Entry{
		Type: l.Type, UID: l.UID, GID: l.GID, Nlink: l.Nlink, Size: l.Size, Rdev: l.Rdev,
		Blocks: l.Blocks, Ino: l.Ino, DirIno: l.DirIno, DType: l.DType, SHA256: l.SHA256,
		Flags: Unknown, Generation: Unknown, ProjID: Unknown, Err: l.Err,
	}
	if e.Path, err = Unescape(l.Path); err != nil || l.LinkTo != "" {
		return e, err
	}
	if e.Symlink, err = Unescape(l.Target); err != nil {
		return e, err
	}
	mode, err := strconv.ParseUint(l.Mode, 8, 32)
	if err != nil {
		return e, err
	}
	e.Mode = uint32(mode)
	if e.DirIno == 0 {
		e.DirIno = e.Ino
	}
	if e.DType == "=" {
		e.DType = e.Type
	}
	for _, s := range l.Data {
		e.Data = append(e.Data, Segment{s[0], s[1]})
	}
	if l.Flags != "" {
		if e.Flags, err = strconv.ParseInt(l.Flags, 0, 64); err != nil {
			return e, err
		}
	}
	if l.Gen != nil {
		e.Generation = *l.Gen
	}
	if l.ProjID != nil {
		e.ProjID = *l.ProjID
	}
	if err := fromLineXattrs(&e, l.Xattrs); err != nil {
		return e, err
	}
	return e, fromLineTimes(&e, l.Times)
}

func fromLineXattrs(e *Entry, xattrs map[string]string) error {
	if len(xattrs) == 0 {
		return nil
	}
	e.Xattrs = map[string]string{}
	for escaped, value := range xattrs {
		name, err := Unescape(escaped)
		if err != nil {
			return err
		}
		e.Xattrs[name] = value
	}
	return nil
}

func fromLineTimes(e *Entry, times []string) error {
	if len(times) != 3 && len(times) != 4 {
		return fmt.Errorf("manifest: %d times", len(times))
	}
	var crtime Time
	for i, to := range []*Time{&e.Atime, &e.Mtime, &e.Ctime, &crtime}[:len(times)] {
		t, err := ParseTime(times[i])
		if err != nil {
			return err
		}
		*to = t
	}
	if len(times) == 4 {
		e.Crtime = &crtime
	}
	return nil
}

func known(v int64) *int64 {
	if v == Unknown {
		return nil
	}
	return &v
}

// Escape makes text of any bytes: a backslash is doubled, control characters and whatever is not
// UTF-8 become \xNN.
//
// NB: encoding/json replaces invalid UTF-8 silently, so no name may reach it as it is.
func Escape(s string) string {
	var b strings.Builder
	for len(s) > 0 {
		r, n := utf8.DecodeRuneInString(s)
		switch {
		case r == '\\':
			b.WriteString(`\\`)
		case r == utf8.RuneError && n == 1, r < ' ', r == 0x7f:
			fmt.Fprintf(&b, `\x%02x`, s[0])
		default:
			b.WriteString(s[:n])
		}
		s = s[n:]
	}
	return b.String()
}

// Unescape is the inverse of Escape.
func Unescape(s string) (string, error) {
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		switch {
		case s[i] != '\\':
			b.WriteByte(s[i])
		case strings.HasPrefix(s[i:], `\\`):
			b.WriteByte('\\')
			i++
		case strings.HasPrefix(s[i:], `\x`) && len(s) >= i+4:
			v, err := strconv.ParseUint(s[i+2:i+4], 16, 8)
			if err != nil {
				return "", err
			}
			b.WriteByte(byte(v))
			i += 3
		default:
			return "", fmt.Errorf("manifest: bad escape in %q", s)
		}
	}
	return b.String(), nil
}
