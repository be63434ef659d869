package vfs

import (
	"golang.org/x/sys/unix"

	"asyncfsd/vfs/ext4"
)

// Small files of filesystems with inline_data have no blocks: their data are in the inode, and are
// changed in a transaction, like its other fields. When they do not fit any more they move to a
// block first, in two steps:
//
//	reserve a block, and write the data to it
//	take them out of the inode, and insert the block: one transaction
//
// Everything that changes such data holds the lock of the file's first block, in which they all
// are.

// inlineMoved is the phase, of any operation, in which the data have been written to a block.
const inlineMoved uint8 = 100

// writeInline writes to the inode, if the data belong there. done says that the attempt is over:
// the write, or a step of moving the data out.
func (fs *FS) writeInline(tx *Tx, op *Op) (done bool, err error) {
	in := &fs.inode
	err = fs.vol.WriteInline(tx, in, fs.arena.Payload(op.Buf)[op.BufOff:op.BufOff+op.Size], op.Off)
	switch {
	case err == ext4.ErrInlineFull && in.Flags&ext4.FlagInlineData != 0:
		return true, fs.moveInline(tx, op, in)
	case err == ext4.ErrInlineFull:
		return false, nil
	case err != nil:
		return true, err
	}
	if _, err := fs.killPrivileges(tx, in, op.Arg&WriteKillSuidgid != 0); err != nil {
		return true, err
	}
	fs.modified(in, op.now)
	op.N = op.Size
	if err := fs.write(tx, in); err != nil {
		return true, err
	}
	fs.syncWrite(op)
	return true, nil
}

// truncateInline changes the size of a file whose data are in the inode; the caller writes it. done
// is false if they move out first.
func (fs *FS) truncateInline(tx *Tx, op *Op, in *ext4.Inode) (done bool, err error) {
	if op.Set.Size != in.Size {
		in.Mtime = fs.vol.ClampTime(op.now)
	}
	err = fs.vol.TruncateInline(tx, in, op.Set.Size)
	if err == ext4.ErrInlineFull {
		return false, fs.moveInline(tx, op, in)
	}
	return err == nil, err
}

// moveInline begins to move the data of a file out of its inode. The operation goes on with
// inlineMoved. Without data there is nothing to write, and it starts again at once.
func (fs *FS) moveInline(tx *Tx, op *Op, in *ext4.Inode) error {
	op.nruns, op.npieces = 0, 0
	if in.Size == 0 {
		return fs.publishInline(tx, op, in)
	}
	size := fs.vol.BlockSize
	if err := tx.bufferInto(&op.edge, max(size, edgeTail+uint32(fs.sector))); err != nil {
		return err
	}
	payload := fs.arena.Payload(op.edge)[:size]
	n, err := fs.vol.InlineData(tx, in, payload, 0)
	if err != nil {
		return err
	}
	clear(payload[n:])
	b, got, err := fs.vol.ReserveBlocks(tx, in, ext4.Alloc{Goal: fs.vol.InlineGoal(in), Want: 1})
	if err != nil {
		return err
	}
	op.pieces[0], op.npieces = piece{phys: b, n: got}, 1
	fs.addRun(op, dataRun{off: int64(b) << fs.vol.BlockBits, length: size, kind: runEdge})
	op.writes, op.more, op.phase = true, true, inlineMoved
	return nil
}

// publishInline makes the block to which the data were written the file's. The operation starts
// from its beginning then.
func (fs *FS) publishInline(tx *Tx, op *Op, in *ext4.Inode) error {
	if in.Flags&ext4.FlagInlineData == 0 {
		return unix.EIO // the lock has kept everybody else away
	}
	if _, err := fs.vol.EvictInline(tx, in, nil); err != nil {
		return err
	}
	for _, p := range op.pieces[:op.npieces] {
		if err := fs.publishPiece(tx, in, &p); err != nil {
			return err
		}
	}
	if err := fs.write(tx, in); err != nil {
		return err
	}
	op.npieces, op.phase = 0, 0
	return ext4.ErrContinue
}
