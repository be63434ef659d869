package vfs

import (
	"asyncfsd/blockdev"
	"asyncfsd/vfs/ext4"
)

// A copy of a range of a file to another goes piece by piece through the operation's buffer: read
// as by a read, then written as by a write, with all that belongs to these. Holes are written as
// zeros, as the kernel's ext4 does.
const (
	// copyRead is the phase in which a piece is read. Those of a write follow it.
	copyRead uint8 = 50 + iota
	// copyStop ends the copy with what it has copied so far, as an error does, see FS.fail.
	copyStop
)

// copyMost is the most that one operation copies, in bytes, before the caller may be interrupted.
const copyMost = 16 << 20

// prepareCopy does the step that is next.
func prepareCopy(fs *FS, tx *Tx, op *Op) error {
	switch {
	case op.phase == copyStop:
		return nil
	case op.Size > 0:
		return fs.copyWrite(tx, op)
	}
	if op.phase != copyRead {
		op.pos, op.phase = op.Off2, copyRead
	}
	return fs.copyRead(tx, op)
}

// copyRead plans the reading of the next piece, or of the rest of it.
func (fs *FS) copyRead(tx *Tx, op *Op) error {
	if err := fs.writable(tx, op); err != nil {
		return err
	}
	in := &fs.inode
	if err := fs.readable(tx, op.Node2); err != nil {
		return err
	}
	left := min(op.Len, copyMost) - op.Value
	if op.Off2 >= in.Size || left == 0 {
		op.touch = op.Value > 0 && fs.staleAtime(in)
		return nil
	}
	n := uint32(min(left, in.Size-op.Off2, blockdev.PayloadMax))
	if err := tx.awaitData(op.Node2, op.Off2, n); err != nil {
		return err
	}
	if err := tx.Buffer(n); err != nil {
		return err
	}
	payload := fs.arena.Payload(op.Buf)
	op.writes = false
	if in.Flags&ext4.FlagInlineData != 0 {
		if _, err := fs.vol.InlineData(tx, in, payload[:n], int64(op.Off2)); err != nil {
			return err
		}
		op.BufOff, op.more = 0, false
	} else if err := fs.mapRange(tx, op, payload, op.Off2, n); err != nil {
		return err
	}
	if !op.more { // the last of the piece
		op.Size, op.phase, op.more = n, writeBegin, true
	}
	return nil
}

// copyWrite does a step of writing a piece, and after the last one goes on to the next piece.
func (fs *FS) copyWrite(tx *Tx, op *Op) error {
	size := op.Size
	if err := prepareWrite(fs, tx, op); err != nil || op.more {
		return err
	}
	fs.w.unlockRange(tx.slot, op)
	op.Value, op.Off, op.Off2 = op.Value+uint64(op.N), op.Off+uint64(op.N), op.Off2+uint64(op.N)
	if op.phase = writeBegin; op.N < size || op.sync {
		op.phase = copyStop
	}
	op.Size, op.N, op.BufOff = 0, 0, 0
	return ext4.ErrContinue
}
