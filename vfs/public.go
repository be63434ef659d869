package vfs

import (
	"golang.org/x/sys/unix"

	"asyncfsd/asyncq"
	"asyncfsd/blockdev"
	"asyncfsd/vfs/ext4"
)

// publicFront serves operations that were begun by asyncq's Start on a handle of a file. They
// read into the user's buffer in pieces of a payload buffer each, and end early at the end of
// the file.
type publicFront struct{ fs *FS }

// FileHandle makes a handle on which Start reads the data of a regular file. It does not look
// at the inode: what is wrong with it the operation tells.
func (fs *FS) FileHandle(ino ext4.Ino) asyncq.Handle {
	return fs.loop.NewHandle(fs.id, uint32(ino))
}

// beginPublic turns a descriptor of the public API into an operation.
func (fs *FS) beginPublic(s asyncq.Slot, op *Op) {
	d := fs.loop.Table.Desc(s)
	switch {
	case !d.IsRead:
		fs.loop.Finish(s, 0, unix.EROFS)
	case d.Pos < 0:
		fs.loop.Finish(s, 0, unix.EINVAL)
	default:
		op.reset(0)
		op.Code, op.Node = OpRead, ext4.Ino(d.Object)
		fs.nextPublic(s, op)
	}
}

// nextPublic begins the next piece.
func (fs *FS) nextPublic(s asyncq.Slot, op *Op) {
	d := fs.loop.Table.Desc(s)
	left := int64(len(fs.loop.Memory(s))) - d.Bytes
	op.Off, op.Size = uint64(d.Pos), uint32(min(left, blockdev.PayloadMax))
	op.N, op.BufOff = 0, 0
	op.restart()
	d.Stage = stagePrepare
	fs.loop.Table.Queue(s)
}

// AddDirent is never asked for: handles are of files.
func (f *publicFront) AddDirent(*Op, []byte, *ext4.Dirent, *Attr) bool { return false }

// Held says no.
func (f *publicFront) Held(ext4.Ino) bool { return false }

// Reply copies a piece to the user and goes on until the buffer is full or the file ends.
func (f *publicFront) Reply(s asyncq.Slot, op *Op) {
	fs := f.fs
	d := fs.loop.Table.Desc(s)
	mem := fs.loop.Memory(s)
	if op.Errno == 0 && op.N > 0 {
		copy(mem[d.Bytes:], fs.arena.Payload(op.Buf)[op.BufOff:op.BufOff+op.N])
		d.Bytes += int64(op.N)
		d.Pos += int64(op.N)
	}
	whole := op.Errno == 0 && op.N == op.Size
	fs.dropBuffer(op)
	if whole && d.Bytes < int64(len(mem)) {
		fs.nextPublic(s, op)
		return
	}
	fs.loop.Finish(s, d.Bytes, op.Errno)
}
