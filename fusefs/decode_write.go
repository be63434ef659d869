package fusefs

import (
	"bytes"
	"math"
	"unsafe"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"

	"asyncfsd/vfs"
	"asyncfsd/vfs/ext4"
)

// decodeWrite fills in op from a request that changes the filesystem, or makes changes durable.
// data is the part of the request that becomes op's payload, nil for none.
func (t *Transport) decodeWrite(op *vfs.Op, r *request, req []byte) (data []byte,
	errno unix.Errno) {
	switch r.opcode {
	case opWrite:
		return decodeData(op, req)
	case opSymlink:
		return decodeSymlink(op, req)
	case opSetxattr:
		return t.decodeSetxattr(op, req)
	case opSetattr:
		return nil, decodeSetattr(op, req)
	case opMknod, opMkdir, opCreate, opTmpfile:
		return nil, decodeCreate(op, r, req)
	case opUnlink:
		op.Code = vfs.OpUnlink
		return nil, setEntryName(op, rest[fuse.InHeader](req))
	case opRmdir:
		op.Code = vfs.OpRmdir
		return nil, setEntryName(op, rest[fuse.InHeader](req))
	case opLink, opRename, opRename2:
		return nil, decodeLink(op, r.opcode, req)
	case opRemovexattr:
		op.Code = vfs.OpRemovexattr
		return nil, setName(op, rest[fuse.InHeader](req))
	case opFallocate, opCopyFileRange, opCopyFileRange64:
		return nil, decodeRange(op, r.opcode, req)
	case opFsync, opFsyncdir, opSyncfs:
		return nil, decodeSync(op, r.opcode, req)
	}
	return nil, unix.ENOSYS
}

// decodeData takes in a WRITE.
func decodeData(op *vfs.Op, req []byte) ([]byte, unix.Errno) {
	a := in[fuse.WriteIn](req)
	if a == nil || int(a.Size) != len(req)-writeHead {
		return nil, unix.EINVAL
	}
	if a.Offset > math.MaxInt64-uint64(a.Size) {
		return nil, unix.EFBIG
	}
	op.Code, op.Off, op.Size = vfs.OpWrite, a.Offset, a.Size
	for _, f := range [...]struct {
		on   bool
		flag uint32
	}{
		{a.WriteFlags&fuse.WRITE_KILL_SUIDGID != 0, vfs.WriteKillSuidgid},
		{a.WriteFlags&fuse.WRITE_CACHE != 0, vfs.WriteCached},
		{a.Flags&(unix.O_SYNC|unix.O_DSYNC) != 0, vfs.WriteSync},
		{a.Flags&unix.O_APPEND != 0, vfs.WriteAppend},
		{a.Flags&unix.O_DIRECT == 0 && a.Size <= copyMax, vfs.WriteBehind},
		{a.Flags&unix.O_DIRECT != 0, vfs.WriteDirect},
	} {
		if f.on {
			op.Arg |= f.flag
		}
	}
	return req[writeHead:], 0
}

// targetMax is the longest target of a symbolic link: PATH_MAX without its NUL.
const targetMax = unix.PathMax - 1

// decodeSymlink takes in a name, and the target that follows it.
func decodeSymlink(op *vfs.Op, req []byte) ([]byte, unix.Errno) {
	op.Code = vfs.OpSymlink
	names := rest[fuse.InHeader](req)
	if errno := setEntryName(op, names); errno != 0 {
		return nil, errno
	}
	target := names[op.NameLen+1:]
	switch n := bytes.IndexByte(target, 0); {
	case n < 0:
		return nil, unix.EINVAL
	case n == 0:
		return nil, unix.ENOENT
	case n > targetMax:
		return nil, unix.ENAMETOOLONG
	default:
		op.Size = uint32(n)
		return target[:n], 0
	}
}

// valueMax is the largest value of an extended attribute (XATTR_SIZE_MAX).
const valueMax = 64 << 10

// decodeSetxattr takes in a name and a value; the fixed part is a short one if the kernel does not
// know the long one.
func (t *Transport) decodeSetxattr(op *vfs.Op, req []byte) ([]byte, unix.Errno) {
	const shortSize = int(unsafe.Offsetof(fuse.SetXAttrIn{}.SetXAttrFlags))
	size := int(unsafe.Sizeof(fuse.SetXAttrIn{}))
	if !t.xattrExt {
		size = shortSize
	}
	if len(req) < size {
		return nil, unix.EINVAL
	}
	var a fuse.SetXAttrIn
	copy(unsafe.Slice((*byte)(unsafe.Pointer(&a)), size), req)
	op.Code, op.Size, op.Arg = vfs.OpSetxattr, a.Size, a.Flags
	if a.SetXAttrFlags&fuse.SETXATTR_ACL_KILL_SGID != 0 {
		op.Arg |= vfs.AclKillSgid
	}
	if errno := setName(op, req[size:]); errno != 0 {
		return nil, errno
	}
	value := req[size+int(op.NameLen)+1:]
	switch {
	case a.Size > valueMax:
		return nil, unix.E2BIG
	case len(value) != int(a.Size):
		return nil, unix.EINVAL
	}
	return value, 0
}

// setattrBits are the bits of a SETATTR, and those of an operation that they become.
var setattrBits = [...][2]uint32{
	{fuse.FATTR_MODE, vfs.SetMode}, {fuse.FATTR_UID, vfs.SetUID}, {fuse.FATTR_GID, vfs.SetGID},
	{fuse.FATTR_SIZE, vfs.SetSize}, {fuse.FATTR_ATIME, vfs.SetAtime},
	{fuse.FATTR_MTIME, vfs.SetMtime}, {fuse.FATTR_CTIME, vfs.SetCtime},
	{fuse.FATTR_ATIME_NOW, vfs.SetAtimeNow}, {fuse.FATTR_MTIME_NOW, vfs.SetMtimeNow},
	{fuse.FATTR_KILL_SUIDGID, vfs.SetKillSuidgid},
}

func decodeSetattr(op *vfs.Op, req []byte) unix.Errno {
	a := in[fuse.SetAttrIn](req)
	if a == nil {
		return unix.EINVAL
	}
	if a.Valid&fuse.FATTR_SIZE != 0 && a.Size > math.MaxInt64 {
		return unix.EFBIG
	}
	op.Code = vfs.OpSetattr
	for _, b := range setattrBits {
		if a.Valid&b[0] != 0 {
			op.Valid |= b[1]
		}
	}
	op.Set = vfs.Attr{Mode: a.Mode & 0o7777, UID: a.Uid, GID: a.Gid, Size: a.Size,
		Atime: ext4.Timespec{Sec: int64(a.Atime), Nsec: a.Atimensec},
		Mtime: ext4.Timespec{Sec: int64(a.Mtime), Nsec: a.Mtimensec},
		Ctime: ext4.Timespec{Sec: int64(a.Ctime), Nsec: a.Ctimensec}}
	if a.Atimensec > 999999999 || a.Mtimensec > 999999999 || a.Ctimensec > 999999999 {
		return unix.EINVAL
	}
	return 0
}

// decodeCreate takes in what makes an inode.
func decodeCreate(op *vfs.Op, r *request, req []byte) unix.Errno {
	var name []byte
	switch r.opcode {
	case opMknod:
		a := in[fuse.MknodIn](req)
		if a == nil {
			return unix.EINVAL
		}
		op.Code, op.Mode, op.Umask, op.Rdev = vfs.OpMknod, a.Mode, a.Umask, a.Rdev
		name = rest[fuse.MknodIn](req)
	case opMkdir:
		a := in[fuse.MkdirIn](req)
		if a == nil {
			return unix.EINVAL
		}
		op.Code, op.Mode, op.Umask = vfs.OpMkdir, a.Mode&0o7777, a.Umask
		return setEntryName(op, rest[fuse.MkdirIn](req))
	default:
		a := in[fuse.CreateIn](req)
		if a == nil {
			return unix.EINVAL
		}
		op.Code, op.Mode, op.Umask, r.flags = vfs.OpMknod, a.Mode, a.Umask, a.Flags
		name = rest[fuse.CreateIn](req)
	}
	switch op.Mode & unix.S_IFMT {
	case 0:
		op.Mode |= unix.S_IFREG
	case unix.S_IFREG:
	case unix.S_IFCHR, unix.S_IFBLK, unix.S_IFIFO, unix.S_IFSOCK:
		if r.opcode != opMknod {
			return unix.EINVAL
		}
	default:
		return unix.EINVAL
	}
	if r.opcode == opTmpfile { // NB: its name stands for none
		op.Code = vfs.OpTmpfile
		return 0
	}
	return setEntryName(op, name)
}

// decodeLink takes in what has two inodes: the kernel names a directory first.
func decodeLink(op *vfs.Op, opcode uint32, req []byte) unix.Errno {
	type renameIn struct {
		fuse.InHeader
		Newdir uint64
	}
	var other uint64
	var names []byte
	switch opcode {
	case opLink:
		a := in[fuse.LinkIn](req)
		if a == nil {
			return unix.EINVAL
		}
		op.Code, op.Node2, other = vfs.OpLink, op.Node, a.Oldnodeid
		op.Node = nodeToIno(other)
		names = rest[fuse.LinkIn](req)
	case opRename:
		a := in[renameIn](req)
		if a == nil {
			return unix.EINVAL
		}
		op.Code, other = vfs.OpRename, a.Newdir
		names = rest[renameIn](req)
	default:
		a := in[fuse.RenameIn](req)
		if a == nil {
			return unix.EINVAL
		}
		op.Code, other, op.Arg = vfs.OpRename, a.Newdir, a.Flags
		names = rest[fuse.RenameIn](req)
	}
	if other>>32 != 0 {
		return unix.ESTALE
	}
	if errno := setEntryName(op, names); errno != 0 || opcode == opLink {
		return errno
	}
	op.Node2 = nodeToIno(other)
	return setEntryName2(op, names[op.NameLen+1:])
}

// copyMost is the most bytes that the answer of a COPY_FILE_RANGE can tell of, in whole pages.
const copyMost = math.MaxUint32 &^ 4095

// decodeRange takes in what works on a range of a file.
func decodeRange(op *vfs.Op, opcode uint32, req []byte) unix.Errno {
	if opcode == opFallocate {
		a := in[fuse.FallocateIn](req)
		if a == nil {
			return unix.EINVAL
		}
		op.Code, op.Off, op.Len, op.Arg = vfs.OpFallocate, a.Offset, a.Length, a.Mode
		return checkRange(op.Off, op.Len)
	}
	a := in[fuse.CopyFileRangeIn](req)
	if a == nil || a.Flags != 0 {
		return unix.EINVAL
	}
	if a.NodeIdOut>>32 != 0 {
		return unix.ESTALE
	}
	op.Code, op.Off, op.Off2, op.Len = vfs.OpCopy, a.OffOut, a.OffIn, min(a.Len, copyMost)
	op.Node, op.Node2 = nodeToIno(a.NodeIdOut), op.Node
	if errno := checkRange(op.Off, op.Len); errno != 0 {
		return errno
	}
	return checkRange(op.Off2, op.Len)
}

// checkRange refuses ranges that no file can have.
func checkRange(off, length uint64) unix.Errno {
	if off > math.MaxInt64 || length > math.MaxInt64-off {
		return unix.EFBIG
	}
	return 0
}

func decodeSync(op *vfs.Op, opcode uint32, req []byte) unix.Errno {
	op.Code = vfs.OpFsync
	if opcode == opSyncfs {
		op.Node = 0
		return 0
	}
	a := in[fuse.FsyncIn](req)
	if a == nil {
		return unix.EINVAL
	}
	op.Arg = a.FsyncFlags & fsyncDataOnly
	return 0
}

// fsyncDataOnly is FUSE_FSYNC_FDATASYNC.
const fsyncDataOnly = 1

// setEntryName takes the NUL-terminated name of a directory entry that comes or goes.
func setEntryName(op *vfs.Op, p []byte) unix.Errno {
	errno := setName(op, p)
	if errno == 0 {
		errno = checkEntryName(op.Name())
	}
	return errno
}

// setEntryName2 is setEntryName for the second name.
func setEntryName2(op *vfs.Op, p []byte) unix.Errno {
	n := bytes.IndexByte(p, 0)
	if n <= 0 {
		return unix.EINVAL
	}
	errno := op.SetName2(p[:n])
	if errno == 0 {
		errno = checkEntryName(op.Name2())
	}
	return errno
}

// checkEntryName refuses what is no name of an entry. The kernel has sorted these out.
func checkEntryName(name []byte) unix.Errno {
	if string(name) == "." || string(name) == ".." || bytes.IndexByte(name, '/') >= 0 {
		return unix.EINVAL
	}
	return 0
}
