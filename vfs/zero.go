package vfs

import (
	"asyncfsd/vfs/ext4"
)

// byteRange is a range of bytes of a file, within one block: [from, to).
type byteRange struct{ from, to uint64 }

func (r byteRange) empty() bool { return r.from >= r.to }

// zeroEdges zeroes the ranges op.zero, each within one block, where they have data: it reads the
// sectors, zeroes the bytes, and writes the sectors. It is called at the start of each attempt and
// says when that is done; until then the attempt ends without an error.
func (fs *FS) zeroEdges(tx *Tx, op *Op, in *ext4.Inode) (done bool, err error) {
	if op.phase > truncZero {
		return true, nil
	}
	size, sector := uint64(fs.vol.BlockSize), fs.sector
	op.nruns = 0
	for i, r := range op.zero {
		if r.empty() {
			continue
		}
		err := fs.vol.Map(tx, in, ext4.Lblk(r.from>>fs.vol.BlockBits), 1, &fs.run)
		if err != nil {
			return false, err
		}
		if fs.run.State != ext4.RunMapped {
			continue
		}
		if err := tx.Buffer(2 * fs.vol.BlockSize); err != nil {
			return false, err
		}
		within := r.from & (size - 1)
		low := within &^ (sector - 1)
		high := (within + r.to - r.from + sector - 1) &^ (sector - 1)
		fs.addRun(op, dataRun{off: int64(uint64(fs.run.Phys)<<fs.vol.BlockBits + low),
			at: uint32(uint64(i)*size + low), length: uint32(high - low)})
		if op.phase == truncZero {
			at := uint64(i)*size + within
			clear(fs.arena.Payload(op.Buf)[at : at+r.to-r.from])
		}
	}
	if op.nruns == 0 {
		op.phase = truncSize
		return true, nil
	}
	op.writes = op.phase == truncZero
	op.phase, op.more = op.phase+1, true
	return false, nil
}
