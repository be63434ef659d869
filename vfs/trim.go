package vfs

import (
	"golang.org/x/sys/unix"

	"asyncfsd/vfs/ext4"
)

// prepareTrim tells the device of free blocks (FITRIM), a few runs at a time. They are reserved
// meanwhile, so that nobody writes to what is being discarded.
func prepareTrim(fs *FS, tx *Tx, op *Op) error {
	v := fs.vol
	bits := v.BlockBits
	if op.phase == 0 {
		if op.Off>>bits >= uint64(v.BlocksCount) || op.Len < uint64(v.BlockSize) {
			return unix.EINVAL
		}
		op.pos, op.phase = max(op.Off>>bits, uint64(v.FirstDataBlock)), 1
	}
	for _, p := range op.pieces[:op.npieces] { // of the round before, which the device knows of
		v.UnreserveBlocks(fs.w.space, p.phys, p.n)
	}
	end := uint64(v.BlocksCount)
	if last := (op.Off + op.Len) >> bits; last >= op.Off>>bits && last < end {
		end = last
	}
	least := uint32(max(1, min(op.Off2>>(bits+v.ClusterBits), 1<<31)))
	// NB: op may only change when nothing can stall any more.
	var found [piecesMax]piece
	pos, n := op.pos, 0
	for groups := 0; pos < end && n < piecesMax && groups < groupsPerTrim; groups++ {
		b, blocks, next, err := v.ReserveFree(tx, ext4.Block(pos), least)
		if err != nil {
			return err
		}
		if blocks > 0 {
			found[n] = piece{phys: b, n: blocks}
			n++
		}
		pos = uint64(next)
	}
	op.pos, op.pieces, op.npieces = pos, found, uint8(n)
	for _, p := range found[:n] {
		op.Value += uint64(p.n) << bits
		fs.addRun(op, dataRun{off: int64(p.phys) << bits, blocks: p.n, kind: runDiscard})
	}
	op.more = op.pos < end || op.nruns > 0
	return nil
}

// groupsPerTrim bounds the bitmaps that one attempt looks at.
const groupsPerTrim = 8

// discard sends the machine's discards of what the last transaction has freed, some at a time. It
// says whether there were any.
func (w *writer) discard() bool {
	v := w.fs.vol
	for w.inflight < discardsMax {
		first, n, g := w.space.FreedRun(w.discardGroup, w.discardBit)
		if n == 0 {
			break
		}
		w.discardGroup, w.discardBit = g, first+n
		w.submitDiscard(w.fs.dev, int64(v.ClusterBlock(g, first))<<v.BlockBits,
			int64(n)<<(v.BlockBits+v.ClusterBits))
	}
	return w.inflight > 0
}

// discardsMax is how many discards of the machine are under way at once.
const discardsMax = 32
