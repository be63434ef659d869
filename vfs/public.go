package vfs

import (
	"golang.org/x/sys/unix"

	"asyncfsd/asyncq"
	"asyncfsd/blockdev"
	"asyncfsd/vfs/ext4"
)

// publicFront serves operations that were begun by asyncq's Start on a handle of a file. They go
// through the user's buffer in pieces of a payload buffer each. Reads end early at the end of the
// file, writes where the filesystem is full.
type publicFront struct{ fs *FS }

// publicID is the front that a filesystem begins with.
const publicID FrontID = 0

// FileHandle makes a handle on which Start reads the data of a regular file, or writes them, as
// root. It does not look at the inode: what is wrong with it the operation tells. EROFS: the
// filesystem is not written.
func (fs *FS) FileHandle(ino ext4.Ino) asyncq.Handle {
	return fs.loop.NewHandle(fs.id, uint32(ino))
}

// CommitHandle makes a handle on which Start, without a buffer, completes when every change to an
// inode so far is durable; 0 is the whole filesystem. EIO: the journal was aborted.
func (fs *FS) CommitHandle(ino ext4.Ino) asyncq.Handle {
	return fs.loop.NewHandle(fs.commits, uint32(ino))
}

// commits is the provider of commits. Its operations are the filesystem's.
type commits struct{ *FS }

// Resume begins an operation, or goes on with it.
func (c commits) Resume(s asyncq.Slot) {
	if d := c.loop.Table.Desc(s); d.Stage == stagePublic {
		op := c.ops.At(s)
		op.reset(publicID)
		op.Code, op.Node = OpFsync, ext4.Ino(d.Object)
		c.Submit(s)
		return
	}
	c.FS.Resume(s)
}

// beginPublic turns a descriptor of the public API into an operation.
func (fs *FS) beginPublic(s asyncq.Slot, op *Op) {
	d := fs.loop.Table.Desc(s)
	if d.Pos < 0 {
		fs.loop.Finish(s, 0, unix.EINVAL)
		return
	}
	op.reset(publicID)
	op.Code, op.Node = OpWrite, ext4.Ino(d.Object)
	if d.IsRead {
		op.Code = OpRead
	}
	fs.nextPublic(s, op)
}

// nextPublic begins the next piece.
func (fs *FS) nextPublic(s asyncq.Slot, op *Op) {
	d := fs.loop.Table.Desc(s)
	left := int64(len(fs.loop.Memory(s))) - d.Bytes
	op.Off, op.Size = uint64(d.Pos), uint32(min(left, blockdev.PayloadMax))
	op.N, op.BufOff = 0, 0
	op.restart()
	fs.Submit(s)
}

// takePublic takes a piece of a public write from the user's buffer.
//
// NB: to a large buffer, however small it is: a write may need one of the small ones besides, and
// must not hold one while it waits for another.
func (fs *FS) takePublic(tx *Tx, op *Op) error {
	if op.Front != publicID || op.Buf != 0 || op.Size == 0 {
		return nil
	}
	if err := tx.Buffer(blockdev.PayloadMax); err != nil {
		return err
	}
	mem := fs.loop.Memory(tx.slot)[fs.loop.Table.Desc(tx.slot).Bytes:]
	copy(fs.arena.Payload(op.Buf), mem[:op.Size])
	return nil
}

// AddDirent is never asked for: handles are of files.
func (f *publicFront) AddDirent(*Op, []byte, *ext4.Dirent, *Attr) bool { return false }

// Held says no.
func (f *publicFront) Held(ext4.Ino) bool { return false }

// Reply copies a piece that was read to the user, and goes on until the buffer is through, the file
// ends or nothing more is written.
func (f *publicFront) Reply(s asyncq.Slot, op *Op) {
	fs := f.fs
	d := fs.loop.Table.Desc(s)
	mem := fs.loop.Memory(s)
	if op.Code == OpRead && op.Errno == 0 && op.N > 0 {
		copy(mem[d.Bytes:], fs.arena.Payload(op.Buf)[op.BufOff:op.BufOff+op.N])
	}
	if op.Code == OpWrite || op.Errno == 0 { // NB: a write may fail after a part of it
		d.Bytes += int64(op.N)
		d.Pos += int64(op.N)
	}
	whole := op.Errno == 0 && op.N == op.Size
	fs.dropBuffer(op)
	if whole && op.N > 0 && d.Bytes < int64(len(mem)) {
		fs.nextPublic(s, op)
		return
	}
	fs.loop.Finish(s, d.Bytes, op.Errno)
}
