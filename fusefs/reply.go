package fusefs

import (
	"time"
	"unsafe"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"

	"asyncfsd/asyncq"
	"asyncfsd/blockdev"
	"asyncfsd/vfs"
	"asyncfsd/vfs/ext4"
)

// Reply encodes the result of an operation and sends it.
func (t *Transport) Reply(s asyncq.Slot, op *vfs.Op) {
	r := t.reqs.At(s)
	t.entry = int(r.entry)
	defer func() { t.entry = 0 }()
	if op.Killed {
		t.attrsChanged(op.Node) // the kernel asked for it, but keeps the mode that it knows
	}
	switch {
	case r.opcode == opForget:
		t.evicted(s)
		return
	case op.Errno != 0:
		t.fail(op.Tag, op.Errno)
		if r.opcode == opReaddirplus {
			t.untold(op)
		}
	case changes(r.opcode):
		t.replyWrite(r, op)
	default:
		t.replyRead(r, op)
	}
	t.fs.Done(s)
}

// replyWrite answers an operation that has changed the filesystem.
func (t *Transport) replyWrite(r *request, op *vfs.Op) {
	switch r.opcode {
	case opSetattr:
		t.replyAttr(op)
	case opMknod, opMkdir, opSymlink, opLink:
		t.replyEntry(op)
	case opCreate, opTmpfile:
		out := body[fuse.CreateOut](t)
		t.setEntry(&out.EntryOut, &op.Attr)
		t.setOpen(&out.OpenOut, opOpen, r.flags)
		t.sendEntry(op, int(unsafe.Sizeof(*out)))
	case opWrite:
		body[fuse.WriteOut](t).Size = op.N
		t.reply(op.Tag, int(unsafe.Sizeof(fuse.WriteOut{})))
	case opCopyFileRange:
		body[fuse.WriteOut](t).Size = uint32(op.Value)
		t.reply(op.Tag, int(unsafe.Sizeof(fuse.WriteOut{})))
	case opCopyFileRange64:
		*body[uint64](t) = op.Value
		t.reply(op.Tag, 8)
	default:
		t.fail(op.Tag, 0)
	}
}

// replyRead answers an operation that has read.
func (t *Transport) replyRead(r *request, op *vfs.Op) {
	switch r.opcode {
	case opLookup:
		t.replyEntry(op)
	case opGetattr:
		t.replyAttr(op)
	case opStatx:
		t.replyStatx(op)
	case opOpen, opOpendir:
		t.replyOpen(r, op)
	case opStatfs:
		t.replyStatfs(op)
	case opGetxattr, opListxattr:
		if r.size == 0 {
			body[fuse.GetXAttrOut](t).Size = uint32(op.Value)
			t.reply(op.Tag, int(unsafe.Sizeof(fuse.GetXAttrOut{})))
		} else {
			t.replyPayload(op)
		}
	case opAccess:
		t.fail(op.Tag, 0)
	case opLseek, opBmap: // both answer with one 64-bit number
		*body[uint64](t) = op.Value
		t.reply(op.Tag, 8)
	case opIoctl:
		t.replyIoctl(r, op)
	case opReaddirplus:
		if !t.replyPayload(op) {
			t.untold(op)
		}
	default: // READ, READDIR, READLINK
		t.replyPayload(op)
	}
}

// replyPayload sends the payload in one piece: the header goes into the room before it.
func (t *Transport) replyPayload(op *vfs.Op) (taken bool) {
	if op.Buf == 0 || op.N == 0 {
		t.fail(op.Tag, 0)
		return true
	}
	whole := t.fs.Arena().Whole(op.Buf)
	start := blockdev.HeadRoom + int(op.BufOff) - headerSize
	if t.entry != 0 {
		t.over.reply(t.entry-1, &fuse.OutHeader{Length: uint32(headerSize) + op.N, Unique: op.Tag},
			whole[start+headerSize:][:op.N])
		return true
	}
	// NB: BufOff is a multiple of nothing in particular, so that the header may be unaligned;
	// it overwrites at most the widened head of the first sector, which is not sent.
	h := fuse.OutHeader{Length: uint32(headerSize) + op.N, Unique: op.Tag}
	copy(whole[start:], unsafe.Slice((*byte)(unsafe.Pointer(&h)), headerSize))
	return t.send(whole[start : start+headerSize+int(op.N)])
}

func (t *Transport) replyAttr(op *vfs.Op) {
	out := body[fuse.AttrOut](t)
	setTimeout(&out.AttrValid, &out.AttrValidNsec, t.config.AttrTimeout)
	setAttr(&out.Attr, &op.Attr)
	t.reply(op.Tag, int(unsafe.Sizeof(*out)))
}

func (t *Transport) replyEntry(op *vfs.Op) {
	out := body[fuse.EntryOut](t)
	t.setEntry(out, &op.Attr)
	t.sendEntry(op, int(unsafe.Sizeof(*out)))
}

// sendEntry sends n bytes that tell the kernel of an inode, and counts it if the kernel took them.
// Otherwise a file without a name may be left with nobody who knows it.
func (t *Transport) sendEntry(op *vfs.Op, n int) {
	ino := op.Attr.Ino
	switch {
	case t.reply(op.Tag, n):
		t.told(ino)
	case ino != 0 && !t.config.ReadOnly && !t.Held(ino):
		t.unknown(ino)
	}
}

// setEntry fills in what the kernel learns of a name; an Ino of 0 says that there is none.
func (t *Transport) setEntry(out *fuse.EntryOut, a *vfs.Attr) {
	if a.Ino == 0 {
		setTimeout(&out.EntryValid, &out.EntryValidNsec, t.config.NegativeTimeout)
		return
	}
	out.NodeId, out.Generation = inoToNode(a.Ino), uint64(a.Generation)
	setTimeout(&out.EntryValid, &out.EntryValidNsec, t.config.EntryTimeout)
	setTimeout(&out.AttrValid, &out.AttrValidNsec, t.config.AttrTimeout)
	setAttr(&out.Attr, a)
}

func setTimeout(sec *uint64, nsec *uint32, d time.Duration) {
	*sec, *nsec = uint64(d/time.Second), uint32(d%time.Second)
}

func setAttr(out *fuse.Attr, a *vfs.Attr) {
	*out = fuse.Attr{Ino: uint64(a.Ino), Size: a.Size, Blocks: a.Sectors,
		Atime: uint64(a.Atime.Sec), Mtime: uint64(a.Mtime.Sec), Ctime: uint64(a.Ctime.Sec),
		Atimensec: a.Atime.Nsec, Mtimensec: a.Mtime.Nsec, Ctimensec: a.Ctime.Nsec,
		Mode: a.Mode, Nlink: a.Nlink, Rdev: a.Rdev, Blksize: a.Blksize,
		Owner: fuse.Owner{Uid: a.UID, Gid: a.GID}}
}

// statxMask is what a STATX is answered with: STATX_BASIC_STATS and STATX_BTIME.
const statxMask = unix.STATX_BASIC_STATS | unix.STATX_BTIME

func (t *Transport) replyStatx(op *vfs.Op) {
	a := &op.Attr
	out := body[fuse.StatxOut](t)
	setTimeout(&out.AttrValid, &out.AttrValidNsec, t.config.AttrTimeout)
	out.Statx = fuse.Statx{Mask: statxMask, Blksize: a.Blksize, Nlink: a.Nlink, Uid: a.UID,
		Gid: a.GID, Mode: uint16(a.Mode), Ino: uint64(a.Ino), Size: a.Size, Blocks: a.Sectors,
		Atime: sxTime(a.Atime), Btime: sxTime(a.Crtime), Ctime: sxTime(a.Ctime),
		Mtime: sxTime(a.Mtime), RdevMajor: unix.Major(uint64(a.Rdev)),
		RdevMinor:      unix.Minor(uint64(a.Rdev)),
		Attributes:     statxAttributes(a.Flags),
		AttributesMask: statxAttributes(^uint32(0))}
	t.reply(op.Tag, int(unsafe.Sizeof(*out)))
}

func sxTime(ts ext4.Timespec) fuse.SxTime {
	return fuse.SxTime{Sec: uint64(ts.Sec), Nsec: ts.Nsec}
}

// statxAttributes maps inode flags to STATX_ATTR_*.
func statxAttributes(flags uint32) (attr uint64) {
	for _, m := range [...]struct {
		flag uint32
		attr uint64
	}{
		{ext4.FlagAppend, unix.STATX_ATTR_APPEND},
		{ext4.FlagCompr, unix.STATX_ATTR_COMPRESSED},
		{ext4.FlagEncrypt, unix.STATX_ATTR_ENCRYPTED},
		{ext4.FlagImmutable, unix.STATX_ATTR_IMMUTABLE},
		{ext4.FlagNodump, unix.STATX_ATTR_NODUMP},
		{ext4.FlagVerity, unix.STATX_ATTR_VERITY},
	} {
		if flags&m.flag != 0 {
			attr |= m.attr
		}
	}
	return attr
}

func (t *Transport) replyStatfs(op *vfs.Op) {
	st := t.fs.StatFS()
	out := body[fuse.StatfsOut](t)
	*out = fuse.StatfsOut{Blocks: st.Blocks, Bfree: st.Bfree, Bavail: st.Bavail, Files: st.Files,
		Ffree: st.Ffree, Bsize: st.Bsize, NameLen: st.NameLen, Frsize: st.Bsize}
	t.reply(op.Tag, int(unsafe.Sizeof(*out)))
}

// AddDirent appends an entry in the form of READDIR or READDIRPLUS.
func (t *Transport) AddDirent(op *vfs.Op, payload []byte, ent *ext4.Dirent, a *vfs.Attr) bool {
	size := (direntSize + len(ent.Name) + 7) &^ 7
	if a != nil {
		size += int(unsafe.Sizeof(fuse.EntryOut{}))
	}
	if int(op.N)+size > len(payload) {
		return false
	}
	list := fuse.NewDirEntryList(payload[op.N:int(op.N)+size], 0)
	e := fuse.DirEntry{Ino: uint64(ent.Ino), Off: ent.Off, Mode: direntMode(ent.Type),
		Name: unsafe.String(unsafe.SliceData(ent.Name), len(ent.Name))}
	if a == nil {
		list.AddDirEntry(e)
	} else if out := list.AddDirLookupEntry(e); out != nil {
		*out = fuse.EntryOut{}
		// NB: "." and ".." must not be instantiated: the kernel counts no lookup for them.
		if name := e.Name; a.Ino != 0 && name != "." && name != ".." {
			t.setEntry(out, a)
			t.told(a.Ino) // NB: before the reply; see untold
		}
	}
	op.N += uint32(size)
	return true
}

// direntSize is the fixed part of struct fuse_dirent.
const direntSize = 24

// direntMode maps the file type of a directory entry to the type bits of a mode.
func direntMode(ft uint8) uint32 {
	modes := [...]uint32{0, unix.S_IFREG, unix.S_IFDIR, unix.S_IFCHR, unix.S_IFBLK,
		unix.S_IFIFO, unix.S_IFSOCK, unix.S_IFLNK}
	if int(ft) < len(modes) {
		return modes[ft]
	}
	return 0
}
