package vfs

import (
	"asyncfsd/asyncq"
	"asyncfsd/vfs/ext4"
)

// behindMax is how many writes may have been replied to before their data are on the device: a
// quarter of the slots.
const behindMax = 64

// mayFollow says whether a write can be replied to before its data are on the device: it was said
// that nobody minds, and there is a journal, whose transaction then waits for the data.
func (w *writer) mayFollow(op *Op, in *ext4.Inode) bool {
	return op.Arg&(WriteBehind|WriteSync) == WriteBehind && op.Code == OpWrite && w.log != nil &&
		in.Flags&ext4.FlagSync == 0 && w.following() < behindMax
}

// following is how many writes have been replied to and have their data on the way.
func (w *writer) following() int { return w.behind[0] + w.behind[1] }

// follow replies to a write that has become part of the running transaction, and sends its data
// after it. It keeps its slot, its buffer and its lock until they have landed:
//
//	the transaction is not sealed before, so that nobody ever sees what was in new blocks
//	who reads or writes the blocks waits, and so does fsync
//
// If the data cannot be written nobody is left to be told but all: the journal is aborted.
func (fs *FS) follow(s asyncq.Slot, op *Op) {
	w := fs.w
	w.follows++
	w.locks[w.lockOf(s)].follow = w.follows
	fs.startData(s, op)
	w.behind[op.parity]++
	op.Errno = 0
	fs.fronts[op.Front].Reply(s, op)
}

// landed ends a write that was replied to before.
func (fs *FS) landed(s asyncq.Slot, op *Op) {
	w := fs.w
	op.behind = false
	if op.ioErr != 0 && w.aborted == 0 {
		w.abort(op.ioErr)
	}
	w.over(s, op)
	fs.Done(s)
	w.less(&w.behind[op.parity])
	if w.unmounting {
		w.kick()
	}
}

// awaitLanded has the operation wait while data of the first so many writes that were replied to
// are on their way to blocks [first, last] of an inode, or of any if ino is 0.
func (tx *Tx) awaitLanded(ino ext4.Ino, first, last ext4.Lblk, follows uint64) error {
	w := tx.fs.w
	if w.following() == 0 {
		return nil
	}
	for i := range w.locks {
		l := &w.locks[i]
		if l.follow > 0 && l.follow <= follows && (ino == 0 || l.ino == ino) && l.first <= last &&
			first <= l.last {
			return tx.stallOn(w.rangeWaiting(l.ino), wantRange)
		}
	}
	return nil
}

// awaitData is awaitLanded for somebody who is going to read n bytes, at least 1, at off of a file.
func (tx *Tx) awaitData(ino ext4.Ino, off uint64, n uint32) error {
	if tx.fs.w == nil {
		return nil
	}
	bits := tx.fs.vol.BlockBits
	return tx.awaitLanded(ino, ext4.Lblk(off>>bits), ext4.Lblk((off+uint64(n)-1)>>bits),
		tx.fs.w.follows)
}

// awaitSynced has an fsync wait for the data of what was written to its file before it.
func (fs *FS) awaitSynced(tx *Tx, op *Op) error {
	if op.phase == 0 {
		op.phase, op.pos = 1, fs.w.follows
	}
	return tx.awaitLanded(op.Node, 0, lblkLast, op.pos)
}
