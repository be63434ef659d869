package fusefs

import (
	"bytes"
	"encoding/binary"
	"unsafe"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"

	"asyncfsd/vfs"
	"asyncfsd/vfs/ext4"
)

// The ioctls that are answered: those of chattr(1), lsattr(1) and friends, which FUSE passes on
// as restricted ones (include/uapi/linux/fs.h, fs/ext4/ext4.h).
const (
	fsIocGetFlags   = 0x80086601 // FS_IOC_GETFLAGS, long
	fsIocGetFlags32 = 0x80046601
	fsIocGetVersion = 0x80087601 // FS_IOC_GETVERSION
	ext4GetVersion  = 0x80086603 // EXT4_IOC_GETVERSION
	fsIocGetXattr   = 0x801c581f // FS_IOC_FSGETXATTR
	fsIocGetLabel   = 0x81009431 // FS_IOC_GETFSLABEL
	fsIocGetUUID    = 0x80111500 // FS_IOC_GETFSUUID
	fsIocSetFlags   = 0x40086602
	fsIocSetFlags32 = 0x40046602
	fsIocSetXattr   = 0x401c5820
	fsIocSetLabel   = 0x41009432
	fitrim          = 0xc0185879
	ext4Shutdown    = 0x8004587d // EXT4_IOC_SHUTDOWN, u32
	ext4Checkpoint  = 0x4004662b // EXT4_IOC_CHECKPOINT, u32

	// flagsUserVisible are the inode flags that FS_IOC_GETFLAGS shows (EXT4_FL_USER_VISIBLE).
	flagsUserVisible = 0x725bdfff
)

// ioctlImmediate answers ioctls that need no inode. It returns false for those that do.
func (t *Transport) ioctlImmediate(h *fuse.InHeader, req []byte) bool {
	a := in[fuse.IoctlIn](req)
	if a == nil {
		t.fail(h.Unique, unix.EINVAL)
		return true
	}
	out := body[ioctlBody](t)
	v := t.fs.Volume()
	n := 0
	switch a.Cmd {
	case fsIocGetFlags, fsIocGetFlags32, fsIocGetVersion, ext4GetVersion, fsIocGetXattr:
		return false
	case fsIocGetLabel:
		n = 256
		copy(out.data[:255], v.Label)
	case fsIocGetUUID: // struct fsuuid2: length, bytes
		n = 17
		out.data[0] = 16
		copy(out.data[1:], v.UUID[:])
	case fsIocSetFlags, fsIocSetFlags32, fsIocSetXattr, fsIocSetLabel, fitrim, ext4Shutdown,
		ext4Checkpoint:
		if !t.config.ReadOnly {
			return false
		}
		t.fail(h.Unique, unix.EROFS)
		return true
	default:
		t.fail(h.Unique, unix.ENOTTY)
		return true
	}
	t.sendIoctl(h.Unique, n, a.OutSize)
	return true
}

// ioctlBody is an ioctl's answer with room for the largest, a label.
type ioctlBody struct {
	fuse.IoctlOut
	data [256]byte
}

func (t *Transport) sendIoctl(unique uint64, n int, room uint32) {
	if uint32(n) > room {
		t.fail(unique, unix.EINVAL)
		return
	}
	t.reply(unique, int(unsafe.Sizeof(fuse.IoctlOut{}))+n)
}

// replyIoctl answers an ioctl about an inode.
func (t *Transport) replyIoctl(r *request, op *vfs.Op) {
	if op.Code == vfs.OpSetflags || op.Code == vfs.OpSetproject {
		t.attrsChanged(op.Node) // the kernel does not know that an ioctl sets a time
	}
	out := body[ioctlBody](t)
	n := 4
	switch r.cmd {
	case fsIocGetFlags, fsIocGetFlags32:
		binary.LittleEndian.PutUint32(out.data[:], op.Attr.Flags&flagsUserVisible)
	case fsIocGetVersion, ext4GetVersion:
		binary.LittleEndian.PutUint32(out.data[:], op.Attr.Generation)
	case fsIocGetXattr: // struct fsxattr: xflags, extsize, nextents, projid, cowextsize
		n = 28
		binary.LittleEndian.PutUint32(out.data[:], xflags(op.Attr.Flags))
		binary.LittleEndian.PutUint32(out.data[12:], op.Attr.ProjID)
	case fitrim: // struct fstrim_range: start, len (now what was discarded), minlen
		n = 24
		binary.LittleEndian.PutUint64(out.data[:], op.Off)
		binary.LittleEndian.PutUint64(out.data[8:], op.Value)
		binary.LittleEndian.PutUint64(out.data[16:], op.Off2)
	default: // those that only take
		n = 0
	}
	// NB: the command says that a long is copied out, and the kernel gives the caller's
	// room as OutSize; ext4 itself writes only an int there.
	t.sendIoctl(op.Tag, n, r.size)
}

// Flags of struct fsxattr, FS_XFLAG_* of include/uapi/linux/fs.h.
const (
	xflagImmutable   = 0x8
	xflagAppend      = 0x10
	xflagSync        = 0x20
	xflagNoatime     = 0x40
	xflagNodump      = 0x80
	xflagProjinherit = 0x200
	xflagDax         = 0x8000
)

// xflagsOf pairs inode flags with their FS_XFLAG_*.
var xflagsOf = [...][2]uint32{
	{ext4.FlagSync, xflagSync}, {ext4.FlagImmutable, xflagImmutable},
	{ext4.FlagAppend, xflagAppend}, {ext4.FlagNodump, xflagNodump},
	{ext4.FlagNoatime, xflagNoatime},
	{ext4.FlagProjinherit, xflagProjinherit}, {ext4.FlagDax, xflagDax},
}

// xflags maps inode flags to FS_XFLAG_*.
func xflags(flags uint32) (x uint32) {
	for _, m := range xflagsOf {
		if flags&m[0] != 0 {
			x |= m[1]
		}
	}
	return x
}

// fromXflags maps FS_XFLAG_* to inode flags; known is false if there are others.
func fromXflags(x uint32) (flags uint32, known bool) {
	for _, m := range xflagsOf {
		if x&m[1] != 0 {
			flags |= m[0]
			x &^= m[1]
		}
	}
	return flags, x == 0
}

// decodeIoctl fills in op from an ioctl that needs the filesystem. The kernel has checked who may
// change the flags of an inode, but not who may do what is for root.
func decodeIoctl(op *vfs.Op, r *request, req []byte) unix.Errno {
	a := in[fuse.IoctlIn](req)
	if a == nil {
		return unix.EINVAL
	}
	r.cmd, r.size = a.Cmd, a.OutSize
	arg := rest[fuse.IoctlIn](req)
	size, root := 0, false
	switch a.Cmd {
	case fsIocSetFlags, fsIocSetFlags32: // NB: an int, whatever the command says
		size = 4
	case fsIocSetXattr:
		size = 28
	case fsIocSetLabel:
		size, root = 256, true
	case fitrim:
		size, root = 24, true
	case ext4Shutdown:
		root = true
	case ext4Checkpoint:
		size, root = 4, true
	}
	switch {
	case root && !op.Cred.IsRoot():
		return unix.EPERM
	case len(arg) < size:
		return unix.EINVAL
	}
	return decodeIoctlArg(op, a.Cmd, arg, a.Arg)
}

// decodeIoctlArg has what was copied from the caller, and the argument itself.
func decodeIoctlArg(op *vfs.Op, cmd uint32, arg []byte, argument uint64) unix.Errno {
	le := binary.LittleEndian
	switch cmd {
	case fsIocSetFlags, fsIocSetFlags32:
		op.Code, op.Arg = vfs.OpSetflags, le.Uint32(arg)
	case fsIocSetXattr:
		flags, known := fromXflags(le.Uint32(arg))
		if !known {
			return unix.EOPNOTSUPP
		}
		op.Code, op.Arg, op.Valid = vfs.OpSetproject, flags, vfs.SetProject
		op.Set = vfs.Attr{ProjID: le.Uint32(arg[12:])}
	case fsIocSetLabel:
		n := bytes.IndexByte(arg[:256], 0)
		if n < 0 || n > labelMax {
			return unix.EINVAL
		}
		op.Code = vfs.OpSetlabel
		return op.SetName(arg[:n])
	case fitrim:
		op.Code, op.Off, op.Len, op.Off2 = vfs.OpTrim, le.Uint64(arg), le.Uint64(arg[8:]),
			le.Uint64(arg[16:])
	case ext4Shutdown:
		op.Code, op.Arg = vfs.OpShutdown, goingDown(op.Cred.PID, argument)
	case ext4Checkpoint:
		op.Code, op.Arg = vfs.OpCheckpoint, le.Uint32(arg)
	default:
		op.Code = vfs.OpGetattr
	}
	return 0
}

// goingDown returns how to shut down. NB: the command says that the argument is an answer, so that
// the kernel does not pass it on; it is read from the caller's memory, who is root. Where that is
// not permitted, what was done so far is kept, which no way of shutting down forbids.
func goingDown(pid uint32, argument uint64) uint32 {
	var word [4]byte
	local := unix.Iovec{Base: &word[0], Len: 4}
	remote := unix.RemoteIovec{Base: uintptr(argument), Len: 4}
	n, err := unix.ProcessVMReadv(int(pid), []unix.Iovec{local}, []unix.RemoteIovec{remote}, 0)
	if how := binary.LittleEndian.Uint32(word[:]); err == nil && n == 4 && how <= goingMax {
		return how
	}
	return goingLogFlush
}

const (
	// labelMax is how long a label may be: s_volume_name has 16 bytes.
	labelMax = 16
	// goingLogFlush is EXT4_GOING_FLAGS_LOGFLUSH: the journal is committed first.
	goingLogFlush = 1
	// goingMax is EXT4_GOING_FLAGS_NOLOGFLUSH: what is not in the log is lost.
	goingMax = 2
)
