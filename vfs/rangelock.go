package vfs

import (
	"slices"

	"asyncfsd/asyncq"
	"asyncfsd/vfs/ext4"
)

// rangeLock excludes others from writing to blocks [first, last] of a file: between the moment in
// which a write finds a hole and the one in which its blocks become part of the file, and while a
// sector of which it knows only a part is read. Readers need none.
type rangeLock struct {
	slot        asyncq.Slot
	ino         ext4.Ino
	first, last ext4.Lblk
	// follow is the number of a write that has been replied to, 0 for other operations.
	follow uint64
}

const lblkLast = ^ext4.Lblk(0)

// lockRange locks blocks of an inode for the operation, until it is over. With bigalloc these are
// whole clusters, since a block may have to go where its neighbours are.
func (tx *Tx) lockRange(ino ext4.Ino, first, last ext4.Lblk) error {
	w := tx.fs.w
	if tx.op.locked {
		return nil
	}
	cluster := ext4.Lblk(1)<<tx.fs.vol.ClusterBits - 1
	first, last = first&^cluster, last|cluster
	for i := range w.locks {
		l := &w.locks[i]
		if l.ino == ino && l.first <= last && first <= l.last {
			return tx.stallOn(w.rangeWaiting(ino), wantRange)
		}
	}
	w.locks = append(w.locks, rangeLock{tx.slot, ino, first, last, 0})
	tx.op.locked = true
	if tx.op.Code != OpWrite {
		w.tails.drop(ino, 0, ^uint64(0))
	}
	return nil
}

// rangeWaiting is where those wait who need a lock that somebody has on an inode; some wait for
// other inodes.
func (w *writer) rangeWaiting(ino ext4.Ino) *asyncq.WaitList {
	return &w.rangeWait[uint32(ino)%uint32(len(w.rangeWait))]
}

// lockOf is the index of the lock of slot s.
func (w *writer) lockOf(s asyncq.Slot) int {
	return slices.IndexFunc(w.locks, func(l rangeLock) bool { return l.slot == s })
}

// unlockRange ends the lock of slot s. Those who wait look again.
func (w *writer) unlockRange(s asyncq.Slot, op *Op) {
	if !op.locked {
		return
	}
	op.locked = false
	i := w.lockOf(s)
	ino := w.locks[i].ino
	w.locks[i] = w.locks[len(w.locks)-1]
	w.locks = w.locks[:len(w.locks)-1]
	w.fs.loop.Table.WakeAll(w.rangeWaiting(ino), 0)
}
