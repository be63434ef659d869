package main

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// fill puts files of one KIND into DIR. All content is a function of the arguments.
func fill(args []string) error {
	t := &tree{dir: args[1]}
	kinds := map[string]func(*tree, []string){
		"common": fillCommon, "source": fillSource, "names": fillNames, "extents": fillExtents,
		"indirect": fillIndirect, "inline": fillInline, "xattrs": fillXattrs,
		"eainode": fillEAInode, "huge": fillHuge, "flags": fillFlags, "many": fillMany,
		"basic": workBasic, "revoke": workRevoke, "escape": workEscape, "fast": workFast,
		"fastdir": workFastDir,
		"orphans": workOrphans, "wrap": workWrap, "secret": fillSecret, "folded": fillFolded,
		"plain": fillPlain,
	}
	kind := kinds[args[0]]
	if kind == nil {
		return errors.New("no such kind")
	}
	kind(t, args[2:])
	return errors.Join(t.errs...)
}

// tree is a directory being filled; errors are kept until the end.
type tree struct {
	dir  string
	errs []error
}

func (t *tree) path(name string) string { return t.dir + "/" + name }

func (t *tree) check(what string, err error) {
	if err != nil {
		t.errs = append(t.errs, fmt.Errorf("%.60s: %w", what, err))
	}
}

// pattern is the content of all files: every 512 bytes begin with a label that tells the file's
// seed and the position, and go on with one letter. So misplaced sectors are noticed, and yet it
// packs to almost nothing.
func pattern(seed, from, n int) []byte {
	p := make([]byte, 0, n+512)
	for at := from &^ 511; at < from+n; at += 512 {
		sector := bytes.Repeat([]byte{byte('a' + (at/512+seed)%26)}, 512)
		copy(sector, fmt.Sprintf("%04x:%09x\n", seed&0xffff, at))
		p = append(p, sector...)
	}
	return p[from&511:][:n]
}

func (t *tree) file(name string, size int) {
	seed := len(name)*31 + size
	t.check(name, os.WriteFile(t.path(name), pattern(seed, 0, size), 0o644))
}

func (t *tree) mkdir(name string) { t.check(name, os.MkdirAll(t.path(name), 0o755)) }

// write puts n bytes of the pattern at off.
func (t *tree) write(name string, off int64, n int) {
	f, err := os.OpenFile(t.path(name), os.O_CREATE|os.O_WRONLY, 0o644)
	if err != nil {
		t.check(name, err)
		return
	}
	_, err = f.WriteAt(pattern(int(off>>9), int(off&511), n), off)
	t.check(name, err)
	t.check(name, f.Close())
}

func (t *tree) sync(name string) {
	f, err := os.Open(t.path(name))
	if err != nil {
		t.check(name, err)
		return
	}
	t.check(name, f.Sync())
	f.Close()
}

func (t *tree) xattr(name, key string, value []byte) {
	t.check(name+" "+key, unix.Lsetxattr(t.path(name), key, value, 0))
}

func (t *tree) blockSize() int {
	var st unix.Statfs_t
	t.check(t.dir, unix.Statfs(t.dir, &st))
	return int(st.Bsize)
}

// fillCommon makes one of everything that every ext2, ext3 and ext4 can hold.
func fillCommon(t *tree, args []string) {
	fillSource(t, args)
	t.mknod("special/sock", unix.S_IFSOCK|0o666, 0, 0)
	fillFlags(t, nil)
}

// fillSource is fillCommon without what mke2fs -d cannot take over.
func fillSource(t *tree, _ []string) {
	t.mkdir("sizes")
	for _, n := range []int{0, 1, 511, 1023, 1024, 1025, 4095, 4096, 4097, 65536, 100001} {
		t.file(fmt.Sprintf("sizes/%d", n), n)
	}
	fillSparse(t)
	t.mkdir("deep/" + strings.Repeat("d/", 30))
	t.mkdir("dir/empty")
	for i := range 150 {
		t.file(fmt.Sprintf("dir/name-%03d", i), i%3)
	}
	t.file("linked", 777)
	t.mkdir("links")
	t.check("link", os.Link(t.path("linked"), t.path("links/hard")))
	for _, n := range []int{1, 58, 59, 60, 61, 255, 1023} {
		target := strings.Repeat("../target/", 103)[:n]
		t.check("symlink", os.Symlink(target, t.path(fmt.Sprintf("links/sym-%04d", n))))
	}
	t.check("symlink", os.Symlink("../linked", t.path("links/good")))
	fillSpecial(t)
	fillWeird(t)
	fillModes(t)
	fillXattrs(t, nil)
	fillTimes(t)
}

func fillSparse(t *tree) {
	t.write("sparse-start", 300000, 5000)
	t.write("sparse-end", 0, 5000)
	t.check("truncate", os.Truncate(t.path("sparse-end"), 3000001))
	for i := range int64(5) {
		t.write("sparse-many", i*200000, 3000)
	}
	t.check("create", os.WriteFile(t.path("sparse-all"), nil, 0o600))
	t.check("truncate", os.Truncate(t.path("sparse-all"), 1<<20))
}

func (t *tree) mknod(name string, mode uint32, major, minor uint32) {
	t.check(name, unix.Mknod(t.path(name), mode, int(unix.Mkdev(major, minor))))
}

func fillSpecial(t *tree) {
	t.mkdir("special")
	t.mknod("special/null", unix.S_IFCHR|0o666, 1, 3)
	t.mknod("special/old-max", unix.S_IFCHR|0o600, 255, 255)
	t.mknod("special/new", unix.S_IFCHR|0o600, 300, 70000)
	t.mknod("special/loop", unix.S_IFBLK|0o660, 7, 0)
	t.mknod("special/new-blk", unix.S_IFBLK|0o660, 259, 1048575)
	t.mknod("special/fifo", unix.S_IFIFO|0o640, 0, 0)
}

func fillWeird(t *tree) {
	names := []string{
		strings.Repeat("n", 255), "grün-日本", "bad-\xff\xfe\x80", "new\nline", `back\slash`,
		" spaces ", "-dash", "...", "tab\there", "\x01", "UPPER", "upper",
	}
	t.mkdir("weird")
	for i, name := range names {
		t.file("weird/"+name, i)
	}
	t.check("symlink", os.Symlink("to/\xff\xfe", t.path("weird/link")))
}

func fillModes(t *tree) {
	t.mkdir("modes/sticky")
	t.mkdir("modes/setgid")
	for i, mode := range []uint32{0, 0o4755, 0o2755, 0o6711, 0o444, 0o1777} {
		name := fmt.Sprintf("modes/%04o", mode)
		t.file(name, 10)
		owner := []int{0, 1000, 65534, 65536, 70000, 4294967294}[i]
		t.check(name, os.Chown(t.path(name), owner, owner))
		t.check(name, unix.Chmod(t.path(name), mode))
	}
	t.check("chmod", unix.Chmod(t.path("modes/sticky"), 0o1777))
	t.check("chmod", unix.Chmod(t.path("modes/setgid"), 0o2775))
}

// fillXattrs covers the four name spaces, values within the inode and in a block of their own,
// and one block shared by several files.
func fillXattrs(t *tree, _ []string) {
	t.mkdir("xattrs")
	t.file("xattrs/small", 1)
	t.xattr("xattrs/small", "user.a", []byte("1"))
	t.xattr("xattrs/small", "user.empty", nil)
	t.xattr("xattrs/small", "trusted.t", []byte{0, 255})
	t.file("xattrs/block", 1)
	for i := range 6 {
		t.xattr("xattrs/block", fmt.Sprintf("user.key%d", i), pattern(i, 0, 100+i))
	}
	t.xattr("xattrs/block", "user."+strings.Repeat("k", 200), []byte("long name"))
	for i := range 4 {
		name := fmt.Sprintf("xattrs/shared%d", i)
		t.file(name, 1)
		t.xattr(name, "user.shared", pattern(7, 0, 700))
	}
	t.xattr("xattrs", "user.on-a-directory", []byte("yes"))
	t.check("symlink", os.Symlink("x", t.path("xattrs/link")))
	t.xattr("xattrs/link", "trusted.on-a-link", []byte("yes"))
	t.file("xattrs/cap", 1)
	capability := make([]byte, 20) // version 2, effective, cap_net_bind_service
	capability[0], capability[3], capability[5] = 1, 2, 4
	t.xattr("xattrs/cap", "security.capability", capability)
	t.mkdir("xattrs/acl")
	t.xattr("xattrs/acl", "system.posix_acl_default", acl())
	t.xattr("xattrs/acl", "system.posix_acl_access", acl())
	t.file("xattrs/acl/inherits", 1)
	t.file("xattrs/aclfile", 1)
	t.xattr("xattrs/aclfile", "system.posix_acl_access", acl())
}

// acl is u::rwx,u:1000:r--,g::r-x,g:70000:-w-,m::rwx,o::r-- as the kernel's xattr interface
// takes it: version 2, then tag, permission and id of each entry.
func acl() []byte {
	const noID = ^uint32(0)
	b := binary.LittleEndian.AppendUint32(nil, 2)
	for _, e := range []struct {
		tag, perm uint16
		id        uint32
	}{{1, 7, noID}, {2, 4, 1000}, {4, 5, noID}, {8, 2, 70000}, {16, 7, noID}, {32, 4, noID}} {
		b = binary.LittleEndian.AppendUint16(b, e.tag)
		b = binary.LittleEndian.AppendUint16(b, e.perm)
		b = binary.LittleEndian.AppendUint32(b, e.id)
	}
	return b
}

// fillTimes sets times around every border: 32 bits signed, the epoch, the 34 bits of ext4.
func fillTimes(t *tree) {
	t.mkdir("times")
	for _, sec := range []int64{-1 << 31, -1, 0, 1, 1e9, 1<<31 - 1, 1 << 31, 1 << 32, 6e9,
		15032385535} {
		name := fmt.Sprintf("times/%d", sec)
		t.file(name, 0)
		ts := []unix.Timespec{{Sec: sec, Nsec: 1}, {Sec: sec, Nsec: 999999999}}
		t.check(name, unix.UtimesNanoAt(unix.AT_FDCWD, t.path(name), ts, 0))
	}
}

// fillFlags sets inode flags. It comes last: immutable files cannot be touched any more.
func fillFlags(t *tree, _ []string) {
	t.mkdir("flags")
	for _, f := range []struct {
		name string
		bits int
	}{{"append", 0x20}, {"nodump", 0x40}, {"noatime", 0x80}, {"immutable", 0x10}} {
		t.file("flags/"+f.name, 3)
		fd, err := unix.Open(t.path("flags/"+f.name), unix.O_RDONLY, 0)
		t.check(f.name, err)
		old, err := unix.IoctlGetUint32(fd, unix.FS_IOC_GETFLAGS)
		t.check(f.name, err)
		t.check(f.name, unix.IoctlSetPointerInt(fd, unix.FS_IOC_SETFLAGS, int(old)|f.bits))
		unix.Close(fd)
	}
}

// fillNames makes directory "names" with N names of LEN bytes, all links to few files, then
// removes every tenth. Half of the names hold bytes above 127, where hashes of signed and
// unsigned characters differ.
func fillNames(t *tree, args []string) {
	n, _ := strconv.Atoi(args[0])
	length, _ := strconv.Atoi(args[1])
	t.mkdir("names")
	for i := range n {
		path := t.path("names/" + longName(i, length))
		if i%50000 == 0 {
			t.file(fmt.Sprintf("target%d", i/50000), i%1000)
		}
		t.check("link", os.Link(t.path(fmt.Sprintf("target%d", i/50000)), path))
	}
	for i := 0; i < n; i += 10 {
		t.check("unlink", os.Remove(t.path("names/"+longName(i, length))))
	}
}

func longName(i, length int) string {
	fill := "x"
	if i%2 == 1 {
		fill = "\xe9"
	}
	name := fmt.Sprintf("%06d", i)
	return name + strings.Repeat(fill, max(length-len(name), 0))
}

// fillExtents writes every other block of a file, N times, so that each is an extent of its own;
// and the same into preallocated space, so that written and unwritten extents alternate.
func fillExtents(t *tree, args []string) {
	n, _ := strconv.Atoi(args[0])
	bs := t.blockSize()
	f, err := os.Create(t.path("fragmented"))
	t.check("create", err)
	for i := range n {
		_, err := f.WriteAt(fmt.Appendf(nil, "%08x", i), int64(2*i*bs))
		t.check("write", err)
	}
	t.check("sync", f.Sync())
	t.check("close", f.Close())
	f, err = os.Create(t.path("unwritten"))
	t.check("create", err)
	t.check("fallocate", unix.Fallocate(int(f.Fd()), 0, 0, int64(200*bs)))
	for i := range 100 {
		_, err := f.WriteAt(fmt.Appendf(nil, "%08x", i), int64(2*i*bs))
		t.check("write", err)
	}
	t.check("sync", f.Sync())
	const keepSize = 1
	t.check("fallocate", unix.Fallocate(int(f.Fd()), keepSize, int64(200*bs), int64(50*bs)))
	t.check("close", f.Close())
}

// fillIndirect writes a block on either side of every border of the block map.
func fillIndirect(t *tree, _ []string) {
	bs := int64(t.blockSize())
	n := bs / 4
	single, double := 12+n, 12+n+n*n
	for _, b := range []int64{0, 11, 12, single - 1, single, single + n, double - 1, double,
		double + n, double + n*n} {
		t.write("mapped", b*bs, 600)
		t.write(fmt.Sprintf("only-%d", b), b*bs+7, 99)
	}
	last := min(double+n*n*n-1, 1<<28)
	for ; last > double; last -= last / 8 {
		if os.Truncate(t.path("mapped"), (last+1)*bs) == nil {
			t.write("mapped", last*bs, 600)
			return
		}
	}
}

// fillHuge makes sparse files up to the end of the 32-bit logical block range.
func fillHuge(t *tree, _ []string) {
	bs := int64(t.blockSize())
	for _, b := range []int64{1 << 20, 1<<31 - 1, 1 << 31, 1<<32 - 2} {
		t.write(fmt.Sprintf("block-%d", b), b*bs, 700)
		t.write("all", b*bs, 700)
	}
	t.check("truncate", os.WriteFile(t.path("hole"), nil, 0o600))
	t.check("truncate", os.Truncate(t.path("hole"), (1<<32-1)*bs))
}

// fillInline makes files and directories of all sizes around the borders of the inline area.
func fillInline(t *tree, args []string) {
	room, _ := strconv.Atoi(args[0])
	t.mkdir("inline")
	for _, n := range []int{0, 1, 2, 59, 60, 61, 64, 100, room - 2, room - 1, room, room + 1,
		room + 8, 4096, 9000} {
		t.file(fmt.Sprintf("inline/%04d", n), n)
	}
	for _, n := range []int{0, 1, 2, 3, 4, 5, 6, 8, 10, 12, 20, 60} {
		dir := fmt.Sprintf("inline/dir-%02d", n)
		t.mkdir(dir)
		for i := range n {
			t.file(fmt.Sprintf("%s/%08d", dir, i), i)
		}
		if n > 4 {
			t.check("unlink", os.Remove(t.path(dir+"/00000001")))
		}
	}
	for i := range 10 {
		name := fmt.Sprintf("inline/xattr-%d", i)
		t.file(name, 55+i)
		t.xattr(name, "user.beside", pattern(i, 0, 4*i))
	}
	t.write("inline/hole", 50, 5)
	t.check("truncate", os.Truncate(t.path("inline/hole"), 58))
	t.check("symlink", os.Symlink(strings.Repeat("s", 90), t.path("inline/link-90")))
	t.check("symlink", os.Symlink(strings.Repeat("s", 200), t.path("inline/link-200")))
}

// fillEAInode sets attribute values too large for a block, each in an inode of its own.
func fillEAInode(t *tree, _ []string) {
	for i, n := range []int{3000, 5000, 20000, 60000} {
		name := fmt.Sprintf("ea-%d", n)
		t.file(name, 1)
		t.xattr(name, "user.big", pattern(i, 0, n))
		t.xattr(name, "user.small", []byte("s"))
	}
	for i := range 3 { // equal values share one inode
		name := fmt.Sprintf("ea-shared%d", i)
		t.file(name, 1)
		t.xattr(name, "user.shared", pattern(9, 0, 12000))
	}
}

// fillMany makes N small files in directories of 100.
func fillMany(t *tree, args []string) {
	n, _ := strconv.Atoi(args[0])
	for i := range n {
		if i%100 == 0 {
			t.mkdir(fmt.Sprintf("many/%03d", i/100))
		}
		t.file(filepath.Join("many", fmt.Sprintf("%03d/%05d", i/100, i)), i%50)
	}
}

// fillPlain makes a file and a directory, for images that show something else.
func fillPlain(t *tree, _ []string) {
	t.mkdir("dir/sub")
	t.file("dir/sub/file", 3000)
	t.file("file", 20000)
	t.check("symlink", os.Symlink("file", t.path("link")))
}

// fillSecret fills directory "locked", which is encrypted and whose key is there: names of all
// lengths, symbolic links, and a directory of N names.
func fillSecret(t *tree, args []string) {
	n, _ := strconv.Atoi(args[0])
	t.mkdir("locked/many")
	t.mkdir("locked/sub/sub")
	for _, length := range []int{1, 15, 16, 17, 31, 32, 33, 100, 149, 150, 160, 161, 200, 255} {
		t.file("locked/sub/"+longName(0, 6)[:min(length, 6)]+
			strings.Repeat("n", max(length-6, 0)), length*10)
	}
	for _, length := range []int{1, 20, 59, 60, 300, 900} {
		target := strings.Repeat("t", length)
		t.check("symlink", os.Symlink(target, t.path(fmt.Sprintf("locked/link-%d", length))))
	}
	for i := range n {
		t.file("locked/many/"+longName(i, 20+i%60), 0)
	}
	t.xattr("locked/sub", "user.plain", []byte("visible"))
	t.file("open", 3000)
}

// fillFolded makes names that have several spellings where letter case does not matter, for
// directories whose flag is set afterwards.
func fillFolded(t *tree, args []string) {
	n, _ := strconv.Atoi(args[0])
	t.mkdir("fold/Sub")
	t.mkdir("big")
	for i, name := range []string{"readme.TXT", "Gr\u00fcn", "stra\u00dfe", "Σίσυφος", "\ufb01le",
		"\u0130zmir", "e\u0301t\u00e9", "so\u00adft", "\uac00", "bad-\xff"} {
		t.file("fold/"+name, i)
	}
	t.file("fold/Sub/Inside", 100)
	for i := range n {
		t.file(fmt.Sprintf("big/%s-%04d", []string{"Name", "\u00c4rger", "Δέλτα"}[i%3], i), 0)
	}
}
