package vfs

import (
	"golang.org/x/sys/unix"

	"asyncfsd/asyncq"
)

// Bits of Op.Arg of OpCheckpoint (EXT4_IOC_CHECKPOINT_FLAG_*).
const (
	// CheckpointDiscard and CheckpointZero have what the log held discarded, or overwritten with
	// zeros: names and data of files that were deleted since are in it.
	CheckpointDiscard = 1 << iota
	CheckpointZero
	// CheckpointDryRun does nothing, and so says that the others are known.
	CheckpointDryRun
	checkpointKnown = CheckpointDiscard | CheckpointZero | CheckpointDryRun
)

// checkpoint is what the journal's machine has to do for an OpCheckpoint: there is one at a time.
type checkpoint struct {
	wanted bool // no new change is admitted until it is done
	how    uint32
	at     int // blocks of the log that are erased
	err    unix.Errno
	over   asyncq.WaitList
}

// prepareCheckpoint has everything written in place, so that the log is empty, and then the log
// erased. Changes wait meanwhile.
func prepareCheckpoint(fs *FS, tx *Tx, op *Op) error {
	const begun = 1
	w := fs.w
	switch both := uint32(CheckpointDiscard | CheckpointZero); {
	case !op.Cred.IsRoot():
		return unix.EPERM
	case op.Arg&^checkpointKnown != 0, op.Arg&both == both:
		return unix.EINVAL
	case op.Arg&CheckpointDryRun != 0:
		return nil
	case w == nil || w.aborted != 0:
		return unix.EROFS
	case w.log == nil:
		return unix.ENODEV
	}
	c := &w.checkpoint
	switch {
	case op.phase == begun && !c.wanted:
		if c.err != 0 {
			return c.err
		}
		return nil
	case !c.wanted:
		c.wanted, c.how, c.at, c.err = true, op.Arg, 0, 0
		op.phase = begun
		w.kick()
	}
	return tx.stallOn(&c.over, wantJournal)
}

// empty goes on with a checkpoint when everything is in place: until the log is known to be empty
// its blocks may not be touched.
func (w *writer) empty() bool {
	if !w.log.Empty() {
		return w.flush(writerSettled, false)
	}
	return w.erase()
}

// erase erases the next blocks of the log.
func (w *writer) erase() bool {
	c, total := &w.checkpoint, w.log.Capacity()
	if c.how == 0 || c.at == total || c.err != 0 || w.aborted != 0 {
		if c.at > 0 && w.aborted == 0 {
			return w.flush(writerErased, true)
		}
		return w.erased()
	}
	p := w.log.Piece(c.at, total)
	n := min(p.Len, len(w.mem)&^int(w.fs.vol.BlockSize-1))
	c.at += n >> w.fs.vol.BlockBits
	w.stage = writerErase
	if c.how&CheckpointDiscard != 0 {
		w.submitDiscard(w.logDev, p.Off, int64(n))
	} else {
		clear(w.mem[:n])
		w.submit(w.logDev, asyncq.OpWrite, p.Off, w.mem[:n], false)
	}
	return w.park()
}

// erased ends a checkpoint.
func (w *writer) erased() bool {
	w.stage = writerIdle
	w.endCheckpoint()
	return true
}

// endCheckpoint lets changes, and who waits for the checkpoint, go on.
func (w *writer) endCheckpoint() {
	w.checkpoint.wanted = false
	w.fs.loop.Table.WakeAll(&w.checkpoint.over, 0)
	w.wakeRoom()
}
