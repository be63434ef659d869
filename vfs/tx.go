package vfs

import (
	"asyncfsd/asyncq"
	"asyncfsd/blockdev"
	"asyncfsd/vfs/ext4"
)

// Tx is one attempt of an operation: the ext4.Source through which prepare reads blocks. There
// is one Tx per filesystem, since attempts do not overlap.
type Tx struct {
	fs      *FS
	slot    asyncq.Slot
	op      *Op
	stalled bool
	kind    uint8 // what the attempt stalled on
	editing bool  // the attempt may change blocks
	random  uint32
	edits   edits
}

func (tx *Tx) begin(s asyncq.Slot, op *Op) {
	tx.slot, tx.op, tx.stalled, tx.kind, tx.editing = s, op, false, 0, false
	tx.fs.cache.Begin()
}

// Block returns block b, or asyncq.ErrStall after hanging the slot on its arrival.
func (tx *Tx) Block(b ext4.Block) (ext4.Buf, error) {
	if f := tx.fs.stallAt; f != nil && f(tx.op, b) {
		return ext4.Buf{}, tx.stallInjected()
	}
	data, checked, ok, err := tx.fs.cache.Get(uint64(b))
	if err != nil {
		return ext4.Buf{}, err
	}
	if !ok {
		tx.want(b)
		tx.stalled, tx.kind = true, wantBlock
		return ext4.Buf{}, asyncq.ErrStall
	}
	return ext4.Buf{Data: data, Checked: checked}, nil
}

// Want has block b fetched together with the one that the attempt is going to stall on.
//
// NB: not for those that write. An attempt that gets through while blocks are outstanding would
// have to be undone, with all that it has noted in its Op.
func (tx *Tx) Want(b ext4.Block) {
	if tx.editing {
		return
	}
	if _, _, ok, _ := tx.fs.cache.Get(uint64(b)); !ok {
		tx.want(b)
	}
}

// want hangs the slot on block b and pins it. Without a ticket it hangs on the ticket instead.
func (tx *Tx) want(b ext4.Block) {
	op := tx.op
	if !op.ticket {
		if outstanding, _ := tx.fs.loop.Table.Wants(tx.slot); outstanding > 0 {
			return // for a ticket, since an earlier Want
		}
		if op.ticket = tx.fs.cache.Ticket(tx.slot); !op.ticket {
			return
		}
	}
	f := tx.fs.cache.Fetch(uint64(b), tx.slot)
	switch {
	case f == blockdev.NoFrame: // waits for it already, or for as much as a slot can
	case op.npins == blockdev.PinsMax:
		tx.fs.cache.Unpin(f) // as good as it gets; attemptsMax ends a livelock
	default:
		op.pins[op.npins] = f
		op.npins++
	}
}

// Buffer makes sure that the operation has a payload buffer for n bytes. One that has to wait
// gives up its pins and ticket first: it must not hold what others need to give it a buffer.
func (tx *Tx) Buffer(n uint32) error { return tx.bufferInto(&tx.op.Buf, n) }

// bufferInto is Buffer for any of the operation's buffers.
func (tx *Tx) bufferInto(buf *blockdev.BufID, n uint32) error {
	if *buf != 0 {
		return nil
	}
	if *buf = tx.fs.arena.Get(int(n)); *buf != 0 {
		return nil
	}
	tx.fs.unpin(tx.op)
	tx.fs.loop.Table.Want(tx.fs.arena.Waiting(int(n)), tx.slot)
	tx.stalled, tx.kind = true, wantBuffer
	return asyncq.ErrStall
}

// stallInjected makes the attempt stall on a block that is there: the slot is queued again at
// once. It proves in tests that an attempt can stop anywhere.
func (tx *Tx) stallInjected() error {
	tx.stalled, tx.kind = true, wantInjected
	return asyncq.ErrStall
}

// ahead is a Source that never stalls: what is missing it asks the cache to read ahead, and
// reports as errAhead. Read-ahead code uses it to look at what happens to be cached.
type ahead struct{ fs *FS }

// Block returns block b if it is cached.
func (a ahead) Block(b ext4.Block) (ext4.Buf, error) {
	data, checked, ok, err := a.fs.cache.Get(uint64(b))
	if ok && err == nil {
		return ext4.Buf{Data: data, Checked: checked}, nil
	}
	a.fs.cache.Ahead(uint64(b))
	return ext4.Buf{}, errAhead
}

// Want asks for block b to be read ahead.
func (a ahead) Want(b ext4.Block) { a.fs.cache.Ahead(uint64(b)) }
