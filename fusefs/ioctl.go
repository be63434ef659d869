package fusefs

import (
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
	fsIocSetXattr   = 0x401c5820
	fsIocSetLabel   = 0x41009432
	fitrim          = 0xc0185879

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
	case fsIocSetFlags, fsIocSetXattr, fsIocSetLabel, fitrim:
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

// xflags maps inode flags to FS_XFLAG_*.
func xflags(flags uint32) (x uint32) {
	for _, m := range [...][2]uint32{
		{ext4.FlagSync, xflagSync}, {ext4.FlagImmutable, xflagImmutable},
		{ext4.FlagAppend, xflagAppend}, {ext4.FlagNodump, xflagNodump},
		{ext4.FlagNoatime, xflagNoatime},
		{ext4.FlagProjinherit, xflagProjinherit}, {ext4.FlagDax, xflagDax},
	} {
		if flags&m[0] != 0 {
			x |= m[1]
		}
	}
	return x
}
