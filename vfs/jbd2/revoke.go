package jbd2

import (
	"slices"

	"asyncfsd/vfs/ext4"
)

// revokes knows for each block that is in the log which transaction last revoked it: copies of
// the block in that transaction and in earlier ones are out of date, and must not be written,
// since the block may have become something else that is not in the log.
//
// Blocks which are not in the log are of no interest. So the table has at most one entry for each
// block of the log, 13 bytes long, while there may be hundreds of revoke records in a block.
type revokes struct {
	logged []ext4.Block // sorted once seal has been called
	tid    []Tid        // that revoked the block
	set    []bool       // tid means something
}

// add notes that a block is in the log.
func (r *revokes) add(b ext4.Block) { r.logged = append(r.logged, b) }

// seal ends the adding.
func (r *revokes) seal() {
	slices.Sort(r.logged)
	r.logged = slices.Compact(r.logged)
	r.tid = make([]Tid, len(r.logged))
	r.set = make([]bool, len(r.logged))
}

// revoke notes that tid revoked a block.
func (r *revokes) revoke(b ext4.Block, tid Tid) {
	i, ok := slices.BinarySearch(r.logged, b)
	if ok && (!r.set[i] || tid.After(r.tid[i])) {
		r.tid[i], r.set[i] = tid, true
	}
}

// revoked says whether the copy of a block in transaction tid is out of date.
func (r *revokes) revoked(b ext4.Block, tid Tid) bool {
	i, ok := slices.BinarySearch(r.logged, b)
	return ok && r.set[i] && !tid.After(r.tid[i])
}

// scanRevokes takes in the records of a revoke block.
func (l *Log) scanRevokes(block []byte, at LogBlock, tid Tid) (n int, err error) {
	end, size := len(block), 4
	if l.csummed() {
		end -= tailSize
	}
	if l.has64() {
		size = 8
	}
	count := be.Uint32(block[rCount:])
	if count > uint32(end) {
		return 0, &CorruptError{"revoke block: r_count is too large", at, tid}
	}
	for off := revokeHeaderSize; off+size <= int(count); off += size {
		b := ext4.Block(be.Uint32(block[off:]))
		if size == 8 {
			b = ext4.Block(be.Uint64(block[off:]))
		}
		l.revokes.revoke(b, tid)
		n++
	}
	return n, nil
}
