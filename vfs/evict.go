package vfs

import (
	"golang.org/x/sys/unix"

	"asyncfsd/asyncq"
	"asyncfsd/vfs/ext4"
)

// Steps of an eviction.
const (
	evictBegin uint8 = iota
	evictTail        // of a file that stays
	evictBlocks
	evictInode
)

// Evict frees an inode that has no name and that nobody holds any more. It takes a reserved slot,
// and says whether there was one.
func (fs *FS) Evict(ino ext4.Ino) bool {
	s, op := fs.ClaimReserved(fs.w.front)
	if s == asyncq.NoSlot {
		return false
	}
	op.Code, op.Node = OpEvict, ino
	fs.w.pending++
	fs.Submit(s)
	return true
}

// evict frees an inode that has lost its last name, unless a front says that it is held.
func (fs *FS) evict(ino ext4.Ino) {
	if fs.held(ino) {
		return
	}
	if !fs.Evict(ino) {
		fs.w.evictions = append(fs.w.evictions, ino)
	}
}

// evictFront takes the results of what nobody has asked for, evictions and times of access: there
// is nobody to tell.
type evictFront struct{ fs *FS }

// Reply frees the slot, for the next inode that waits.
func (f *evictFront) Reply(s asyncq.Slot, op *Op) {
	w := f.fs.w
	if op.Errno != 0 && op.Errno != unix.ESTALE {
		f.fs.log.Error("freeing an inode failed; the next mount or e2fsck frees it",
			"inode", op.Node, "errno", op.Errno)
	}
	w.pending--
	f.fs.Done(s)
	w.nextEviction()
	w.kick() // an unmount may wait for it
}

// cleanOrphans ends what the last mount has left undone, before anything else is done: a file that
// was being cut could grow again and show what had been behind its end.
func (w *writer) cleanOrphans() error {
	w.nextEviction()
	for w.pending > 0 {
		if err := w.fs.loop.Step(true); err != nil {
			return err
		}
	}
	return nil
}

// nextEviction begins to free the next inode that waits, if there is a slot.
func (w *writer) nextEviction() {
	if n := len(w.evictions); n > 0 && w.fs.Evict(w.evictions[n-1]) {
		w.evictions = w.evictions[:n-1]
	}
}

// AddDirent is never asked for.
func (f *evictFront) AddDirent(*Op, []byte, *ext4.Dirent, *Attr) bool { return false }

// Held says no.
func (f *evictFront) Held(ext4.Ino) bool { return false }

// prepareEvict frees the blocks of an orphan piece by piece, and at last the inode. A file that has
// a name after all, as at a mount after a crash, or that is still open, is cut at its size.
func prepareEvict(fs *FS, tx *Tx, op *Op) error {
	in := &fs.inode
	if err := fs.readInode(tx, op.Node, in); err != nil {
		return err
	}
	if !fs.Orphan(op.Node) {
		return nil
	}
	if op.phase == evictBegin {
		if done, err := fs.beginEvict(tx, op, in); err != nil || done {
			return err
		}
	}
	switch op.phase {
	case evictTail:
		return fs.freeTail(tx, op, in)
	case evictBlocks:
		return fs.evictBlocks(tx, op, in)
	}
	if err := fs.vol.FreeXattrs(tx, in); err == ext4.ErrContinue {
		if err := fs.write(tx, in); err != nil {
			return err
		}
		return ext4.ErrContinue
	} else if err != nil {
		return err
	}
	if err := fs.vol.RemoveOrphan(tx, fs.w.orphans, in); err != nil {
		return err
	}
	in.Size, in.Dtime = 0, uint32(op.now.Sec)
	if err := fs.write(tx, in); err != nil {
		return err
	}
	return fs.vol.FreeInode(tx, in)
}

// beginEvict finds out how much of an orphan goes. done: nothing, somebody has it open.
func (fs *FS) beginEvict(tx *Tx, op *Op, in *ext4.Inode) (done bool, err error) {
	op.to = lblkLast
	held := in.Links == 0 && !fs.w.unmounting && fs.held(op.Node)
	switch {
	case held && !fs.w.uncut[op.Node]: // opened by its handle meanwhile
		return true, nil
	case held || in.Links > 0: // nobody may write to what is being freed
		if err := tx.lockRange(op.Node, 0, lblkLast); err != nil {
			return false, err
		}
		op.phase = evictTail
	default:
		op.phase = evictBlocks
	}
	return false, nil
}

func (fs *FS) evictBlocks(tx *Tx, op *Op, in *ext4.Inode) error {
	var err error
	next := op.to
	if fs.vol.HasMapping(in) {
		next, err = fs.vol.RemoveRuns(tx, in, 0, op.to)
	}
	if err != nil && err != ext4.ErrContinue {
		return err
	}
	if werr := fs.write(tx, in); werr != nil {
		return werr
	}
	if op.to = next; err == nil {
		op.phase = evictInode
	}
	return ext4.ErrContinue
}
