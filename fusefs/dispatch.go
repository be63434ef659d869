package fusefs

import (
	"bytes"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"

	"asyncfsd/vfs"
	"asyncfsd/vfs/ext4"
)

// nodeToIno and its inverse exchange 1, FUSE's number of the root, and 2, ext4's, so that no
// table is needed.
func nodeToIno(node uint64) ext4.Ino {
	switch node {
	case fuse.FUSE_ROOT_ID:
		return ext4.RootIno
	case uint64(ext4.RootIno):
		return 1
	}
	return ext4.Ino(node)
}

func inoToNode(ino ext4.Ino) uint64 {
	return uint64(nodeToIno(uint64(ino)))
}

// dispatch begins, or answers at once, one request.
func (t *Transport) dispatch(req []byte) {
	h := in[fuse.InHeader](req)
	if h == nil || int(h.Length) != len(req) {
		t.log.Error("malformed request", "bytes", len(req))
		return
	}
	t.counted()
	if h.Opcode < uint32(len(t.Requests)) {
		t.Requests[h.Opcode]++
	}
	if !t.started && h.Opcode != opInit && h.Opcode != opDestroy {
		t.fail(h.Unique, unix.EIO)
		return
	}
	if h.NodeId>>32 != 0 && h.Opcode != opForget {
		t.fail(h.Unique, unix.ESTALE)
		return
	}
	if t.config.OnlyRootAndOwner && h.Uid != 0 && h.Uid != t.owner && asks(h.Opcode) {
		t.fail(h.Unique, unix.EACCES)
		return
	}
	if t.immediate(h, req) {
		return
	}
	s, op := t.fs.Claim(t.front)
	op.Tag, op.Node = h.Unique, nodeToIno(h.NodeId)
	op.Cred = vfs.Cred{UID: h.Uid, GID: h.Gid, PID: h.Pid}
	r := t.reqs.At(s)
	*r = request{opcode: h.Opcode, entry: uint32(t.entry)}
	errno := unix.Errno(0)
	if changes(h.Opcode) {
		var data []byte
		if data, errno = t.decodeWrite(op, r, req); data != nil && errno == 0 {
			t.keep(op, data) // NB: from here on req may be somebody else's
		}
	} else if errno = decode(op, r, req); t.entry != 0 {
		op.Buf = t.fs.Arena().Own(t.entry - 1)
	}
	if errno != 0 {
		t.fs.Abandon(s)
		t.fail(op.Tag, errno)
		return
	}
	t.fs.Submit(s)
}

// asks says whether a request is somebody's, and not the kernel's own housekeeping.
func asks(opcode uint32) bool {
	switch opcode {
	case opInit, opDestroy, opForget, opBatchForget, opInterrupt, opRelease, opReleasedir:
		return false
	}
	return true
}

// immediate answers the requests that need no disk, and says whether it did.
func (t *Transport) immediate(h *fuse.InHeader, req []byte) bool {
	switch h.Opcode {
	case opInit:
		t.initialise(req)
	case opDestroy:
		t.fail(h.Unique, 0)
	case opForget, opBatchForget:
		t.forget(h, req)
		if t.entry != 0 {
			// NB: what READDIRPLUS was told of, and the kernel does not want, it forgets by a
			// request like any other, which waits for a reply in a ring.
			t.fail(h.Unique, 0)
		}
	case opInterrupt:
		// Every operation ends by itself in the time of a few disk reads; an EINTR from the read
		// of a regular file would surprise more than the wait.
	case opOpen, opOpendir:
		return t.openImmediate(h, req)
	case opRelease, opReleasedir:
		t.fail(h.Unique, 0)
	case opFlush:
		t.fail(h.Unique, unix.ENOSYS)
	case opIoctl:
		return t.ioctlImmediate(h, req)
	default:
		if h.Opcode >= 64 {
			t.fail(h.Unique, unix.ENOSYS)
			return true
		}
		return t.config.ReadOnly && t.refused(h)
	}
	return true
}

// changes says whether an opcode is one of those that change the filesystem, or make changes
// durable.
func changes(opcode uint32) bool { return (opsWriteMask|opsSyncMask)>>opcode&1 != 0 }

// refused answers what a read-only mount never does.
func (t *Transport) refused(h *fuse.InHeader) bool {
	bit := uint64(1) << h.Opcode
	switch {
	case opsWriteMask&bit != 0:
		t.fail(h.Unique, unix.EROFS)
	case opsSyncMask&bit != 0:
		t.fail(h.Unique, 0)
	default:
		return false
	}
	return true
}

// decode fills in op from a request that needs the filesystem.
func decode(op *vfs.Op, r *request, req []byte) unix.Errno {
	switch r.opcode {
	case opLookup:
		op.Code = vfs.OpLookup
		return setName(op, rest[fuse.InHeader](req))
	case opGetattr, opStatx, opOpendir:
		op.Code = vfs.OpGetattr
	case opOpen:
		op.Code = vfs.OpGetattr
		a := in[fuse.OpenIn](req)
		if a == nil {
			return unix.EINVAL
		}
		r.flags = a.Flags
	case opIoctl:
		return decodeIoctl(op, r, req)
	case opReadlink:
		op.Code = vfs.OpReadlink
	case opRead, opReaddir, opReaddirplus:
		return decodeRead(op, r.opcode, req)
	case opStatfs:
		op.Code = vfs.OpStatfs
	case opGetxattr, opListxattr:
		return decodeXattr(op, r, req)
	case opAccess:
		a := in[fuse.AccessIn](req)
		if a == nil {
			return unix.EINVAL
		}
		op.Code, op.Arg = vfs.OpAccess, a.Mask
	case opLseek:
		a := in[fuse.LseekIn](req)
		if a == nil {
			return unix.EINVAL
		}
		op.Code, op.Off, op.Arg = vfs.OpLseek, a.Offset, a.Whence
	case opBmap:
		a := in[bmapIn](req)
		if a == nil {
			return unix.EINVAL
		}
		op.Code, op.Off, op.Arg = vfs.OpBmap, a.Block, a.Blocksize
	default:
		return unix.ENOSYS
	}
	return 0
}

type bmapIn struct {
	fuse.InHeader
	Block     uint64
	Blocksize uint32
	_         uint32
}

// getxattrIn is struct fuse_getxattr_in after its header.
type getxattrIn struct {
	fuse.InHeader
	Size uint32
	_    uint32
}

func decodeRead(op *vfs.Op, opcode uint32, req []byte) unix.Errno {
	a := in[fuse.ReadIn](req)
	if a == nil || a.Size > maxPages*4096 {
		return unix.EINVAL
	}
	op.Off, op.Size = a.Offset, a.Size
	switch opcode {
	case opRead:
		op.Code = vfs.OpRead
	case opReaddir:
		op.Code = vfs.OpReaddir
	default:
		op.Code = vfs.OpReaddirPlus
	}
	return 0
}

func decodeXattr(op *vfs.Op, r *request, req []byte) unix.Errno {
	a := in[getxattrIn](req)
	if a == nil {
		return unix.EINVAL
	}
	op.Size, r.size = a.Size, a.Size
	if r.opcode == opListxattr {
		op.Code = vfs.OpListxattr
		return 0
	}
	op.Code = vfs.OpGetxattr
	return setName(op, rest[getxattrIn](req))
}

// setName takes a NUL-terminated name.
func setName(op *vfs.Op, p []byte) unix.Errno {
	n := bytes.IndexByte(p, 0)
	if n <= 0 {
		return unix.EINVAL
	}
	return op.SetName(p[:n])
}
