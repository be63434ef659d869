package fusefs

import (
	"bytes"
	"encoding/binary"
	"strings"
	"testing"
	"unsafe"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"

	"asyncfsd/vfs"
	"asyncfsd/vfs/ext4"
)

// fixed is the fixed part of a request, without its header.
func fixed[T any](v T) []byte {
	return bytes.Clone(bytesOf(&v)[unsafe.Sizeof(fuse.InHeader{}):])
}

func le32(words ...uint32) (p []byte) {
	for _, w := range words {
		p = binary.LittleEndian.AppendUint32(p, w)
	}
	return p
}

func le64(words ...uint64) (p []byte) {
	for _, w := range words {
		p = binary.LittleEndian.AppendUint64(p, w)
	}
	return p
}

// decoded is a request, and what it must become: an operation or an error.
type decoded struct {
	name   string
	opcode uint32
	parts  [][]byte
	errno  unix.Errno
	want   vfs.Op
	names  [2]string
	data   string
}

const (
	dirNode  = 11
	fileNode = 12
)

var longName = strings.Repeat("n", 255)

func parts(p ...[]byte) [][]byte { return p }

// decodeAs has t decode a request about dirNode.
func decodeAs(t *Transport, opcode uint32, parts [][]byte) (*vfs.Op, *request, []byte, unix.Errno) {
	req := rawRequest(opcode, 2, dirNode, parts...)
	op, r := &vfs.Op{Node: dirNode}, &request{opcode: opcode}
	if opcode == opIoctl {
		return op, r, nil, decodeIoctl(op, r, req)
	}
	data, errno := t.decodeWrite(op, r, req)
	return op, r, data, errno
}

func checkDecoded(t *testing.T, tr *Transport, cases []decoded) {
	t.Helper()
	for _, c := range cases {
		op, _, data, errno := decodeAs(tr, c.opcode, c.parts)
		if errno != c.errno {
			t.Errorf("%s: %v, want %v", c.name, errno, c.errno)
		}
		if errno != 0 || c.errno != 0 {
			continue
		}
		names := [2]string{string(op.Name()), string(op.Name2())}
		if names != c.names || string(data) != c.data {
			t.Errorf("%s: names %q, data %.20q, want %q and %.20q", c.name, names, data, c.names,
				c.data)
		}
		// What was compared, and what is not said.
		op.NameLen, op.Name2Len, op.NameBuf, op.Name2Buf = 0, 0, [256]byte{}, [256]byte{}
		if c.want.Node == 0 && c.opcode != opSyncfs {
			c.want.Node = dirNode
		}
		if *op != c.want {
			t.Errorf("%s:\n%+v, want\n%+v", c.name, *op, c.want)
		}
	}
}

func TestDecodeNames(t *testing.T) {
	long := longName + "n"
	rename2 := fixed(fuse.RenameIn{Newdir: fuse.FUSE_ROOT_ID, Flags: 2})
	checkDecoded(t, &Transport{}, []decoded{
		{name: "unlink", opcode: opUnlink, parts: parts(cstring("a")),
			want: vfs.Op{Code: vfs.OpUnlink}, names: [2]string{"a"}},
		{name: "rmdir", opcode: opRmdir, parts: parts(cstring(longName)),
			want: vfs.Op{Code: vfs.OpRmdir}, names: [2]string{longName}},
		{name: "too long", opcode: opUnlink, parts: parts(cstring(long)),
			errno: unix.ENAMETOOLONG},
		{name: "no NUL", opcode: opUnlink, parts: parts([]byte("a")), errno: unix.EINVAL},
		{name: "empty", opcode: opUnlink, parts: parts(cstring("")), errno: unix.EINVAL},
		{name: "nothing", opcode: opRmdir, errno: unix.EINVAL},
		{name: "dot", opcode: opRmdir, parts: parts(cstring(".")), errno: unix.EINVAL},
		{name: "dotdot", opcode: opUnlink, parts: parts(cstring("..")), errno: unix.EINVAL},
		{name: "slash", opcode: opUnlink, parts: parts(cstring("a/b")), errno: unix.EINVAL},
		{name: "rename", opcode: opRename, parts: parts(le64(33), cstring("a"), cstring("..b")),
			want: vfs.Op{Code: vfs.OpRename, Node2: 33}, names: [2]string{"a", "..b"}},
		{name: "rename2", opcode: opRename2, parts: parts(rename2, cstring("a"), cstring("b")),
			want:  vfs.Op{Code: vfs.OpRename, Node2: ext4.RootIno, Arg: 2},
			names: [2]string{"a", "b"}},
		{name: "rename to a long one", opcode: opRename,
			parts: parts(le64(33), cstring("a"), cstring(long)), errno: unix.ENAMETOOLONG},
		{name: "rename to dot", opcode: opRename,
			parts: parts(le64(33), cstring("a"), cstring(".")), errno: unix.EINVAL},
		{name: "rename to nothing", opcode: opRename, parts: parts(le64(33), cstring("a")),
			errno: unix.EINVAL},
		{name: "rename to another world", opcode: opRename,
			parts: parts(le64(1<<32), cstring("a"), cstring("b")), errno: unix.ESTALE},
		{name: "rename, cut", opcode: opRename2, parts: parts(le32(1)), errno: unix.EINVAL},
		{name: "link", opcode: opLink, parts: parts(le64(fileNode), cstring("l")),
			want:  vfs.Op{Code: vfs.OpLink, Node: fileNode, Node2: dirNode},
			names: [2]string{"l"}},
		{name: "link to nothing", opcode: opLink, parts: parts(le64(1<<40), cstring("l")),
			errno: unix.ESTALE},
		{name: "removexattr", opcode: opRemovexattr, parts: parts(cstring("user.a/b")),
			want: vfs.Op{Code: vfs.OpRemovexattr}, names: [2]string{"user.a/b"}},
		{name: "unknown", opcode: 63, errno: unix.ENOSYS},
	})
}

func TestDecodeCreate(t *testing.T) {
	const file = unix.S_IFREG | 0o4666
	tmpfile := fixed(fuse.CreateIn{Flags: unix.O_RDWR, Mode: 0o600, Umask: 0o77})
	checkDecoded(t, &Transport{}, []decoded{
		{name: "mknod", opcode: opMknod, parts: parts(fixed(fuse.MknodIn{
			Mode: unix.S_IFBLK | 0o640, Rdev: 0x801, Umask: 0o22}), cstring("sda1")),
			want: vfs.Op{Code: vfs.OpMknod, Mode: unix.S_IFBLK | 0o640, Rdev: 0x801,
				Umask: 0o22}, names: [2]string{"sda1"}},
		{name: "mknod of a directory", opcode: opMknod,
			parts: parts(fixed(fuse.MknodIn{Mode: unix.S_IFDIR}), cstring("d")),
			errno: unix.EINVAL},
		{name: "mkdir", opcode: opMkdir,
			parts: parts(fixed(fuse.MkdirIn{Mode: unix.S_IFDIR | 0o1777, Umask: 2}),
				cstring("d")),
			want: vfs.Op{Code: vfs.OpMkdir, Mode: 0o1777, Umask: 2}, names: [2]string{"d"}},
		{name: "create", opcode: opCreate,
			parts: parts(fixed(fuse.CreateIn{Mode: file, Umask: 0o27}), cstring("f")),
			want:  vfs.Op{Code: vfs.OpMknod, Mode: file, Umask: 0o27}, names: [2]string{"f"}},
		{name: "create of a device", opcode: opCreate,
			parts: parts(fixed(fuse.CreateIn{Mode: unix.S_IFCHR}), cstring("f")),
			errno: unix.EINVAL},
		{name: "create, long name", opcode: opCreate,
			parts: parts(fixed(fuse.CreateIn{Mode: file}), cstring(longName+"x")),
			errno: unix.ENAMETOOLONG},
		{name: "create, cut", opcode: opCreate, parts: parts(le32(1, 2)), errno: unix.EINVAL},
		{name: "tmpfile", opcode: opTmpfile, parts: parts(tmpfile, cstring("/")),
			want: vfs.Op{Code: vfs.OpTmpfile, Mode: unix.S_IFREG | 0o600, Umask: 0o77}},
		{name: "symlink", opcode: opSymlink, parts: parts(cstring("s"), cstring("../a/./b")),
			want:  vfs.Op{Code: vfs.OpSymlink, Size: 8},
			names: [2]string{"s"}, data: "../a/./b"},
		{name: "symlink to nothing", opcode: opSymlink, parts: parts(cstring("s"), cstring("")),
			errno: unix.ENOENT},
		{name: "symlink without a target", opcode: opSymlink, parts: parts(cstring("s")),
			errno: unix.EINVAL},
		{name: "long symlink", opcode: opSymlink,
			parts: parts(cstring("s"), bytes.Repeat([]byte("t"), 4096), []byte{0}),
			errno: unix.ENAMETOOLONG},
	})
	_, r, _, _ := decodeAs(&Transport{}, opTmpfile, parts(tmpfile, cstring("/")))
	if r.flags != unix.O_RDWR {
		t.Errorf("flags %#x", r.flags)
	}
}

func TestDecodeData(t *testing.T) {
	in := fuse.WriteIn{Offset: 4097, Size: 5, WriteFlags: fuse.WRITE_KILL_SUIDGID,
		Flags: unix.O_WRONLY | unix.O_APPEND}
	sync := fuse.WriteIn{Offset: 1<<63 - 6, Size: 5, WriteFlags: fuse.WRITE_CACHE,
		Flags: unix.O_DSYNC}
	direct := fuse.WriteIn{Size: 5, Flags: unix.O_RDWR | unix.O_DIRECT}
	checkDecoded(t, &Transport{}, []decoded{
		{name: "write", opcode: opWrite, parts: parts(fixed(in), []byte("12345")),
			want: vfs.Op{Code: vfs.OpWrite, Off: 4097, Size: 5,
				Arg: vfs.WriteKillSuidgid | vfs.WriteAppend | vfs.WriteBehind}, data: "12345"},
		{name: "write to the end", opcode: opWrite, parts: parts(fixed(sync), []byte("12345")),
			want: vfs.Op{Code: vfs.OpWrite, Off: 1<<63 - 6, Size: 5,
				Arg: vfs.WriteCached | vfs.WriteSync | vfs.WriteBehind}, data: "12345"},
		{name: "direct write", opcode: opWrite, parts: parts(fixed(direct), []byte("12345")),
			want: vfs.Op{Code: vfs.OpWrite, Size: 5, Arg: vfs.WriteDirect}, data: "12345"},
		{name: "write beyond the end", opcode: opWrite,
			parts: parts(fixed(fuse.WriteIn{Offset: 1<<63 - 1, Size: 1}), []byte("1")),
			errno: unix.EFBIG},
		{name: "short write", opcode: opWrite, parts: parts(fixed(in), []byte("1234")),
			errno: unix.EINVAL},
		{name: "long write", opcode: opWrite, parts: parts(fixed(in), []byte("123456")),
			errno: unix.EINVAL},
		{name: "write, cut", opcode: opWrite, parts: parts(le64(1)), errno: unix.EINVAL},
		{name: "fsync", opcode: opFsync, parts: parts(fixed(fuse.FsyncIn{})),
			want: vfs.Op{Code: vfs.OpFsync}},
		{name: "fdatasync", opcode: opFsync, parts: parts(fixed(fuse.FsyncIn{FsyncFlags: 1})),
			want: vfs.Op{Code: vfs.OpFsync, Arg: 1}},
		{name: "fsyncdir", opcode: opFsyncdir, parts: parts(fixed(fuse.FsyncIn{})),
			want: vfs.Op{Code: vfs.OpFsync}},
		{name: "fsync, cut", opcode: opFsyncdir, errno: unix.EINVAL},
		{name: "syncfs", opcode: opSyncfs, parts: parts(le64(0)),
			want: vfs.Op{Code: vfs.OpFsync}},
		{name: "fallocate", opcode: opFallocate,
			parts: parts(fixed(fuse.FallocateIn{Offset: 1, Length: 2, Mode: 3})),
			want:  vfs.Op{Code: vfs.OpFallocate, Off: 1, Len: 2, Arg: 3}},
		{name: "fallocate beyond the end", opcode: opFallocate,
			parts: parts(fixed(fuse.FallocateIn{Offset: 1 << 62, Length: 1 << 62})),
			errno: unix.EFBIG},
		{name: "copy", opcode: opCopyFileRange, parts: parts(fixed(fuse.CopyFileRangeIn{
			OffIn: 1, NodeIdOut: fileNode, OffOut: 2, Len: 1 << 40})),
			want: vfs.Op{Code: vfs.OpCopy, Off: 2, Node: fileNode, Node2: dirNode, Off2: 1,
				Len: 1<<32 - 4096}},
		{name: "copy with flags", opcode: opCopyFileRange64,
			parts: parts(fixed(fuse.CopyFileRangeIn{Flags: 1})), errno: unix.EINVAL},
		{name: "copy to nothing", opcode: opCopyFileRange64,
			parts: parts(fixed(fuse.CopyFileRangeIn{NodeIdOut: 1 << 33})), errno: unix.ESTALE},
	})
}

func TestDecodeSetattr(t *testing.T) {
	var a fuse.SetAttrIn
	a.Valid = fuse.FATTR_MODE | fuse.FATTR_UID | fuse.FATTR_GID | fuse.FATTR_SIZE |
		fuse.FATTR_ATIME | fuse.FATTR_MTIME | fuse.FATTR_CTIME | fuse.FATTR_FH |
		fuse.FATTR_LOCKOWNER
	a.Mode, a.Uid, a.Gid, a.Size = unix.S_IFREG|0o6755, 1, 2, 1<<40
	before := int64(-5)
	a.Atime, a.Mtime, a.Ctime = uint64(before), 6, 7
	a.Atimensec, a.Mtimensec, a.Ctimensec = 8, 9, 999999999
	set := vfs.Attr{Mode: 0o6755, UID: 1, GID: 2, Size: 1 << 40,
		Atime: ext4.Timespec{Sec: -5, Nsec: 8}, Mtime: ext4.Timespec{Sec: 6, Nsec: 9},
		Ctime: ext4.Timespec{Sec: 7, Nsec: 999999999}}
	now := a
	now.Valid = fuse.FATTR_ATIME | fuse.FATTR_ATIME_NOW | fuse.FATTR_MTIME |
		fuse.FATTR_MTIME_NOW | fuse.FATTR_KILL_SUIDGID
	wrong, huge := a, a
	wrong.Mtimensec++
	wrong.Mtimensec *= 1e8
	huge.Size = 1 << 63
	checkDecoded(t, &Transport{}, []decoded{
		{name: "all", opcode: opSetattr, parts: parts(fixed(a)),
			want: vfs.Op{Code: vfs.OpSetattr, Set: set, Valid: vfs.SetMode | vfs.SetUID |
				vfs.SetGID | vfs.SetSize | vfs.SetAtime | vfs.SetMtime | vfs.SetCtime}},
		{name: "now", opcode: opSetattr, parts: parts(fixed(now)),
			want: vfs.Op{Code: vfs.OpSetattr, Set: set, Valid: vfs.SetAtime | vfs.SetMtime |
				vfs.SetAtimeNow | vfs.SetMtimeNow | vfs.SetKillSuidgid}},
		{name: "nanoseconds", opcode: opSetattr, parts: parts(fixed(wrong)), errno: unix.EINVAL},
		{name: "size", opcode: opSetattr, parts: parts(fixed(huge)), errno: unix.EFBIG},
		{name: "cut", opcode: opSetattr, parts: parts(le64(1)), errno: unix.EINVAL},
	})
}

func TestDecodeSetxattr(t *testing.T) {
	ext := fixed(fuse.SetXAttrIn{Size: 3, Flags: unix.XATTR_CREATE,
		SetXAttrFlags: fuse.SETXATTR_ACL_KILL_SGID})
	want := vfs.Op{Code: vfs.OpSetxattr, Size: 3, Arg: unix.XATTR_CREATE | vfs.AclKillSgid}
	names, large := [2]string{"user.a"}, strings.Repeat("v", 64<<10)
	checkDecoded(t, &Transport{xattrExt: true}, []decoded{
		{name: "setxattr", opcode: opSetxattr,
			parts: parts(ext, cstring("user.a"), []byte("a\x00b")),
			want:  want, names: names, data: "a\x00b"},
		{name: "large value", opcode: opSetxattr, parts: parts(
			fixed(fuse.SetXAttrIn{Size: 64 << 10}), cstring("user.a"), []byte(large)),
			want: vfs.Op{Code: vfs.OpSetxattr, Size: 64 << 10}, names: names, data: large},
		{name: "too large", opcode: opSetxattr, parts: parts(
			fixed(fuse.SetXAttrIn{Size: 64<<10 + 1}), cstring("user.a"), []byte(large+"v")),
			errno: unix.E2BIG},
		{name: "short value", opcode: opSetxattr,
			parts: parts(ext, cstring("user.a"), []byte("ab")), errno: unix.EINVAL},
		{name: "no name", opcode: opSetxattr, parts: parts(ext), errno: unix.EINVAL},
		{name: "cut", opcode: opSetxattr, parts: parts(le32(1, 2)), errno: unix.EINVAL},
	})
	checkDecoded(t, &Transport{}, []decoded{
		{name: "old kernel", opcode: opSetxattr,
			parts: parts(le32(3, 2), cstring("user.a"), []byte("abc")),
			want:  vfs.Op{Code: vfs.OpSetxattr, Size: 3, Arg: 2}, names: names, data: "abc"},
	})
}

func TestDecodeIoctl(t *testing.T) {
	ioctl := func(cmd uint32, arg ...[]byte) [][]byte {
		return append(parts(fixed(fuse.IoctlIn{Cmd: cmd})), arg...)
	}
	label := func(s string) []byte { return append([]byte(s), make([]byte, 256-len(s))...) }
	checkDecoded(t, &Transport{}, []decoded{
		{name: "setflags", opcode: opIoctl, parts: ioctl(fsIocSetFlags, le32(0x20)),
			want: vfs.Op{Code: vfs.OpSetflags, Arg: 0x20}},
		{name: "setflags of 8 bytes", opcode: opIoctl,
			parts: ioctl(fsIocSetFlags, le32(0x20, 0xffffffff)),
			want:  vfs.Op{Code: vfs.OpSetflags, Arg: 0x20}},
		{name: "setflags, cut", opcode: opIoctl, parts: ioctl(fsIocSetFlags32, []byte{1}),
			errno: unix.EINVAL},
		{name: "fssetxattr", opcode: opIoctl, parts: ioctl(fsIocSetXattr,
			le32(xflagNodump|xflagProjinherit, 0, 0, 42, 0, 0, 0)),
			want: vfs.Op{Code: vfs.OpSetproject, Arg: ext4.FlagNodump | ext4.FlagProjinherit,
				Valid: vfs.SetProject, Set: vfs.Attr{ProjID: 42}}},
		{name: "fssetxattr of others", opcode: opIoctl, parts: ioctl(fsIocSetXattr,
			le32(1, 0, 0, 0, 0, 0, 0)), errno: unix.EOPNOTSUPP},
		{name: "label", opcode: opIoctl, parts: ioctl(fsIocSetLabel, label("0123456789abcdef")),
			want: vfs.Op{Code: vfs.OpSetlabel}, names: [2]string{"0123456789abcdef"}},
		{name: "no label", opcode: opIoctl, parts: ioctl(fsIocSetLabel, label("")),
			want: vfs.Op{Code: vfs.OpSetlabel}},
		{name: "long label", opcode: opIoctl,
			parts: ioctl(fsIocSetLabel, label("0123456789abcdefg")), errno: unix.EINVAL},
		{name: "fitrim", opcode: opIoctl, parts: ioctl(fitrim, le64(1, 2, 3)),
			want: vfs.Op{Code: vfs.OpTrim, Off: 1, Len: 2, Off2: 3}},
		{name: "shutdown", opcode: opIoctl, parts: ioctl(ext4Shutdown),
			want: vfs.Op{Code: vfs.OpShutdown, Arg: 1}},
		{name: "checkpoint", opcode: opIoctl, parts: ioctl(ext4Checkpoint, le32(2)),
			want: vfs.Op{Code: vfs.OpCheckpoint, Arg: vfs.CheckpointZero}},
		{name: "checkpoint, cut", opcode: opIoctl, parts: ioctl(ext4Checkpoint, []byte("123")),
			errno: unix.EINVAL},
		{name: "getflags", opcode: opIoctl, parts: ioctl(fsIocGetFlags),
			want: vfs.Op{Code: vfs.OpGetattr}},
	})
	for _, cmd := range []uint32{fitrim, ext4Shutdown, ext4Checkpoint, fsIocSetLabel} {
		req := rawRequest(opIoctl, 2, dirNode, ioctl(cmd, make([]byte, 256))...)
		if errno := decodeIoctl(&vfs.Op{Cred: vfs.Cred{UID: 1}}, &request{}, req); errno !=
			unix.EPERM {
			t.Errorf("%#x for everybody: %v", cmd, errno)
		}
	}
}
