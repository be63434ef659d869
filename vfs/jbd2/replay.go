package jbd2

import (
	"cmp"
	"errors"
	"fmt"
	"slices"

	"asyncfsd/vfs/ext4"
)

// Stats says what a replay did.
type Stats struct {
	Transactions int
	LogBlocks    int // of the log that they take
	Blocks       int // written, a block as often as it was logged
	Revokes      int // revoke records
	Revoked      int // blocks that were not written for them
}

// Next is the number of the transaction that would have followed the complete ones: that to which
// the fast commits belong. Scan must have been called.
func (l *Log) Next() Tid { return l.info.end }

// Replay writes the blocks of all complete transactions to where they belong, and returns when
// they are on stable storage. An error that concerns one block does not keep the others from being
// written; the first of these errors is returned in the end, and the filesystem must not be used.
// Errors: *CorruptError, those of the devices.
func (l *Log) Replay() (Stats, error) {
	var st Stats
	if l.Empty() {
		return st, nil
	}
	st.Transactions = int(uint32(l.info.end - l.info.start))
	st.LogBlocks = int(l.info.blocks)
	if err := l.collectRevokes(&st); err != nil {
		return st, err
	}
	b := newBatch(l)
	err := l.replayBlocks(b, &st)
	err = errors.Join(err, b.write())
	if ferr := l.c.FS.Flush(); ferr != nil {
		err = errors.Join(err, fmt.Errorf("replaying the journal: %w", ferr))
	}
	if err == nil && l.info.failed {
		err = &CorruptError{"wrong checksum in a complete transaction", l.info.head, l.info.end}
	}
	return st, firstLine(err)
}

// firstLine returns the first of joined errors.
func firstLine(err error) error {
	if list, ok := err.(interface{ Unwrap() []error }); ok {
		return firstLine(list.Unwrap()[0])
	}
	return err
}

// complete goes over the blocks with a header of the complete transactions. Where it ends
// elsewhere than Scan did, the log has changed under it.
func (l *Log) complete(visit func(w *walker, block []byte, h header, at LogBlock) error) error {
	w := l.walker()
	for l.info.end.After(w.tid) {
		block, h, at, ok, err := w.next()
		if err != nil {
			return err
		}
		if !ok || h.kind != blockCommit && h.kind != blockDescriptor && h.kind != blockRevoke {
			return &CorruptError{"the log has changed", at, w.tid}
		}
		if h.kind == blockCommit {
			w.tid++
			continue
		}
		if err := visit(w, block, h, at); err != nil {
			return err
		}
	}
	return nil
}

// collectRevokes is the second pass.
func (l *Log) collectRevokes(st *Stats) error {
	return l.complete(func(w *walker, block []byte, h header, at LogBlock) error {
		if h.kind == blockDescriptor {
			if !l.tailOK(block) {
				return &CorruptError{"descriptor block: wrong checksum", at, h.tid}
			}
			w.skip(l.tagsOf(block).count())
			return nil
		}
		n, err := l.scanRevokes(block, at, h.tid)
		st.Revokes += n
		return err
	})
}

// replayBlocks is the third pass.
func (l *Log) replayBlocks(b *batch, st *Stats) error {
	var failed error
	err := l.complete(func(w *walker, block []byte, h header, at LogBlock) error {
		if h.kind == blockRevoke {
			return nil
		}
		// The reader's buffer is used for the data, too.
		t := l.tagsOf(append(b.desc[:0], block...))
		for g, ok := t.next(); ok; g, ok = t.next() {
			if err := l.replayBlock(b, w, g, st); err != nil {
				failed = errors.Join(failed, err)
			}
			w.skip(1)
		}
		return nil
	})
	return errors.Join(failed, err)
}

// replayBlock puts one block of the log, at w.at, into the batch.
func (l *Log) replayBlock(b *batch, w *walker, g tag, st *Stats) error {
	if l.revokes.revoked(g.block, w.tid) {
		st.Revoked++
		return nil
	}
	data, err := w.r.block(w.at)
	if err != nil {
		return err
	}
	if !l.dataOK(g, w.tid, data) {
		return &CorruptError{fmt.Sprintf("wrong checksum of block %d of the filesystem", g.block),
			w.at, w.tid}
	}
	if g.block >= l.c.FSBlocks {
		return &CorruptError{fmt.Sprintf("block %d is outside of the filesystem", g.block), w.at,
			w.tid}
	}
	st.Blocks++
	return b.add(g, data)
}

// batch collects blocks that are to be written, so that they are written in order and neighbours
// together.
type batch struct {
	l     *Log
	desc  []byte // a descriptor block
	data  []byte // blocks, in the order of their arrival
	out   []byte // neighbours
	slots []slot
}

type slot struct {
	block ext4.Block
	i     int // which block of data
}

// batchSize is how many bytes are collected.
const batchSize = 1 << 20

func newBatch(l *Log) *batch {
	return &batch{l: l, desc: make([]byte, 0, l.blockSize()), data: make([]byte, 0, batchSize),
		out: make([]byte, 0, batchSize)}
}

// add takes in a block. What was logged later is written later.
func (b *batch) add(g tag, data []byte) error {
	if len(b.data)+len(data) > cap(b.data) {
		if err := b.write(); err != nil {
			return err
		}
	}
	at := len(b.data)
	b.slots = append(b.slots, slot{g.block, len(b.slots)})
	b.data = append(b.data, data...)
	if g.flags&flagEscape != 0 {
		be.PutUint32(b.data[at:], magic)
	}
	return nil
}

// write writes what was collected, of each block the last copy.
func (b *batch) write() error {
	slices.SortFunc(b.slots, func(x, y slot) int {
		return cmp.Or(cmp.Compare(x.block, y.block), cmp.Compare(x.i, y.i))
	})
	var err error
	size := int(b.l.blockSize())
	first := ext4.Block(0) // of out
	for i, s := range b.slots {
		if i+1 < len(b.slots) && b.slots[i+1].block == s.block {
			continue
		}
		if s.block != first+ext4.Block(len(b.out)/size) {
			err = errors.Join(err, b.writeOut(first))
		}
		if len(b.out) == 0 {
			first = s.block
		}
		b.out = append(b.out, b.data[s.i*size:][:size]...)
	}
	err = errors.Join(err, b.writeOut(first))
	b.slots, b.data = b.slots[:0], b.data[:0]
	return err
}

// writeOut writes neighbours, the first of which is given.
func (b *batch) writeOut(first ext4.Block) error {
	if len(b.out) == 0 {
		return nil
	}
	_, err := b.l.c.FS.WriteAt(b.out, int64(first)<<b.l.c.BlockBits)
	b.out = b.out[:0]
	if err != nil {
		return fmt.Errorf("replaying the journal: block %d: %w", first, err)
	}
	return nil
}
