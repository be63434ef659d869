package fusefs

import (
	"unsafe"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"

	"asyncfsd/vfs"
	"asyncfsd/vfs/ext4"
)

// Nothing is kept for an open file: the kernel holds a lookup of its inode for as long as it is
// open.

// openImmediate answers OPEN and OPENDIR where the inode has no say in it.
func (t *Transport) openImmediate(h *fuse.InHeader, req []byte) bool {
	a := in[fuse.OpenIn](req)
	switch {
	case a == nil:
		t.fail(h.Unique, unix.EINVAL)
	case t.config.Opens:
		return false
	case t.config.ReadOnly:
		t.fail(h.Unique, unix.ENOSYS) // the kernel never asks again
	case h.Opcode == opOpen && a.Flags&unix.O_ACCMODE != unix.O_RDONLY:
		return false // the file may be immutable, which the kernel does not know
	default:
		t.setOpen(body[fuse.OpenOut](t), h.Opcode, a.Flags)
		t.reply(h.Unique, int(unsafe.Sizeof(fuse.OpenOut{})))
	}
	return true
}

// setOpen says how the kernel is to treat what it has opened.
func (t *Transport) setOpen(out *fuse.OpenOut, opcode, flags uint32) {
	switch {
	case opcode == opOpendir:
		out.OpenFlags = fuse.FOPEN_KEEP_CACHE | fuse.FOPEN_CACHE_DIR
	case !t.config.ReadOnly && flags&unix.O_DIRECT != 0 && t.directMmap:
		// NB: the kernel lets several write at once only where it was told FOPEN_DIRECT_IO, which
		// changes nothing else for a file that is opened with O_DIRECT, and takes their lock all
		// the same while somebody has the file open through the page cache, or beyond its end.
		// Random writes of 4k by 4 processes, 2 CPUs: 40–60k/s with it, 13–20k/s without.
		out.OpenFlags = fuse.FOPEN_KEEP_CACHE | fuse.FOPEN_NOFLUSH | fuse.FOPEN_DIRECT_IO |
			fuse.FOPEN_PARALLEL_DIRECT_WRITES
	default:
		out.OpenFlags = fuse.FOPEN_KEEP_CACHE | fuse.FOPEN_NOFLUSH
	}
	if t.config.ColdOpens {
		out.OpenFlags &^= fuse.FOPEN_KEEP_CACHE
	}
}

// replyOpen answers an OPEN or OPENDIR when the inode has been looked at.
func (t *Transport) replyOpen(r *request, op *vfs.Op) {
	if r.opcode == opOpen {
		if errno := mayOpen(op.Attr.Flags, r.flags); errno != 0 {
			t.fail(op.Tag, errno)
			return
		}
	}
	t.setOpen(body[fuse.OpenOut](t), r.opcode, r.flags)
	t.reply(op.Tag, int(unsafe.Sizeof(fuse.OpenOut{})))
}

// mayOpen says what open(2) of a file with inode flags attr is refused with.
func mayOpen(attr, flags uint32) unix.Errno {
	write := flags&unix.O_ACCMODE != unix.O_RDONLY
	switch {
	case attr&ext4.FlagEncrypt != 0:
		return unix.ENOKEY
	case write && attr&ext4.FlagImmutable != 0,
		write && attr&ext4.FlagAppend != 0 && flags&unix.O_APPEND == 0:
		return unix.EPERM
	}
	return 0
}
