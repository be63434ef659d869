package vfs

import (
	"golang.org/x/sys/unix"

	"asyncfsd/asyncq"
	"asyncfsd/blockdev"
	"asyncfsd/vfs/ext4"
)

// An attempt changes blocks where they are, in the cache, after keeping what they were. Nobody else
// runs in between: an attempt either succeeds, and its blocks become part of the running
// transaction all at once, or is undone. So no lock is held and no change is seen by halves.

const (
	// editsMax is the most blocks one attempt changes; the operations' credits, in opTable, are
	// below it.
	editsMax = 96
	// revokesPerStep is the most blocks of metadata one attempt frees.
	revokesPerStep = 64
)

// edit is a changed block, and how to undo the change.
type edit struct {
	block   ext4.Block
	data    []byte
	checked *blockdev.Checked
	was     blockdev.Checked
	// discard: the block was not cached before.
	discard bool
}

// edits is what the running attempt has changed.
type edits struct {
	list    [editsMax]edit
	n       int
	images  []byte // of the blocks before they were changed
	revokes [revokesPerStep]ext4.Block
	nrev    int
}

// Modify returns block b to be changed.
func (tx *Tx) Modify(b ext4.Block) (ext4.Buf, error) {
	buf, err := tx.Block(b)
	if err != nil {
		return buf, err
	}
	if !tx.fs.cache.First(uint64(b)) {
		return buf, nil
	}
	return buf, tx.keep(b, buf, true)
}

// Fresh returns block b as zeros to be changed.
func (tx *Tx) Fresh(b ext4.Block) (ext4.Buf, error) {
	data, checked, ok, existed := tx.fs.cache.Fresh(uint64(b))
	if !ok {
		buf, err := tx.Modify(b) // being read ahead, of all things
		if err == nil {
			clear(buf.Data)
			*buf.Checked = blockdev.Checked{}
		}
		return buf, err
	}
	buf := ext4.Buf{Data: data, Checked: checked}
	if tx.fs.cache.First(uint64(b)) {
		if err := tx.keep(b, buf, existed); err != nil {
			return buf, err
		}
	}
	clear(buf.Data)
	*buf.Checked = blockdev.Checked{}
	return buf, nil
}

// keep remembers a block as it is before its first change.
func (tx *Tx) keep(b ext4.Block, buf ext4.Buf, existed bool) error {
	e := &tx.edits
	if e.n == editsMax {
		if !existed {
			tx.fs.cache.Discard(uint64(b))
		}
		tx.fs.log.Error("an operation changes too many blocks", "op", tx.op.Code)
		return unix.EIO
	}
	e.list[e.n] = edit{block: b, data: buf.Data, checked: buf.Checked, was: *buf.Checked,
		discard: !existed}
	if existed {
		copy(e.images[e.n*len(buf.Data):], buf.Data)
	}
	e.n++
	return nil
}

// Forget notes that block b of metadata is freed.
func (tx *Tx) Forget(b ext4.Block) {
	if tx.edits.nrev < revokesPerStep {
		tx.edits.revokes[tx.edits.nrev] = b
	}
	tx.edits.nrev++
}

// Space returns what is known of free blocks and inodes.
func (tx *Tx) Space() *ext4.Space { return tx.fs.w.space }

// Now is the time at which the operation began.
func (tx *Tx) Now() ext4.Timespec { return tx.op.now }

// Random is a number fixed when the operation began, another one at each call of an attempt.
func (tx *Tx) Random() uint32 {
	tx.random = tx.random*1664525 + 1013904223
	return tx.random
}

// beginEdits readies the attempt of an operation that writes.
func (tx *Tx) beginEdits() {
	tx.editing = true
	tx.edits.n, tx.edits.nrev, tx.random = 0, 0, tx.op.seed
	tx.fs.w.space.Begin()
	tx.fs.w.space.Root = tx.fs.root(tx.op)
	tx.fs.w.orphans.Begin()
	if q := tx.fs.w.quotas; q != nil {
		q.Exempt(exempt(tx.op))
	}
}

// exempt says whether an operation may exceed the limits of quotas, as root may. Nobody knows who
// has written what comes from the page cache: the limits hold then.
func exempt(op *Op) bool {
	return op.Cred.UID == 0 && (op.Code != OpWrite || op.Arg&WriteCached == 0)
}

// rollback undoes what the attempt has changed.
func (tx *Tx) rollback() {
	e := &tx.edits
	for i := e.n - 1; i >= 0; i-- {
		x := &e.list[i]
		if x.discard {
			// NB: its bytes do not matter, but nobody may find them either.
			tx.fs.cache.Discard(uint64(x.block))
			continue
		}
		copy(x.data, e.images[i*len(x.data):])
		*x.checked = x.was
	}
	e.n, e.nrev = 0, 0
	tx.fs.w.space.Rollback()
	tx.fs.w.orphans.Rollback()
}

// publish makes what the attempt has changed part of the running transaction. It cannot fail.
func (tx *Tx) publish() {
	w := tx.fs.w
	e := &tx.edits
	if e.n == 0 {
		return
	}
	if e.nrev > revokesPerStep {
		panic("vfs: a step frees too many blocks of metadata")
	}
	for i := range e.n {
		tx.fs.cache.Edited(uint64(e.list[i].block))
	}
	w.revokes = append(w.revokes, e.revokes[:e.nrev]...)
	w.evictions = append(w.evictions, w.space.Gone()...) // see writer.over
	tx.op.tid = w.runningTid()
	e.n, e.nrev = 0, 0
	w.touched()
}

// stallOn hangs the slot on list l and ends the attempt.
func (tx *Tx) stallOn(l *asyncq.WaitList, kind uint8) error {
	tx.fs.loop.Table.Want(l, tx.slot)
	tx.stalled, tx.kind = true, kind
	return asyncq.ErrStall
}
