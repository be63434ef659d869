package jbd2

import (
	"fmt"
	"slices"

	"asyncfsd/vfs/ext4"
)

// readAhead is how many bytes of the log are read at once, a multiple of any block size.
const readAhead = 256 << 10

// reader reads blocks of the log one after the other.
type reader struct {
	l    *Log
	buf  []byte
	from LogBlock // buf holds the blocks from here on
	n    LogBlock // so many
}

func (l *Log) newReader() *reader { return &reader{l: l, buf: make([]byte, readAhead)} }

// block returns a block of the log. It is good until the next call.
func (r *reader) block(b LogBlock) ([]byte, error) {
	if b >= r.l.total {
		return nil, &CorruptError{What: "block beyond the end", Block: b}
	}
	if b-r.from >= r.n { // b before r.from wraps around and is far away, too
		if err := r.fill(b); err != nil {
			return nil, err
		}
	}
	size := r.l.blockSize()
	return r.buf[uint32(b-r.from)*size:][:size], nil
}

// fill reads the blocks from b on that are contiguous on the device.
func (r *reader) fill(b LogBlock) error {
	l := r.l
	n := min(LogBlock(len(r.buf)>>l.c.BlockBits), l.total-b)
	i, found := slices.BinarySearchFunc(l.c.Runs, b, func(run Run, b LogBlock) int {
		return int(int64(run.First) - int64(b))
	})
	if !found {
		i--
	}
	run := &l.c.Runs[i]
	n = min(n, run.First+LogBlock(run.Len)-b)
	r.from, r.n = b, 0
	if _, err := l.c.Log.ReadAt(r.buf[:int(n)<<l.c.BlockBits], l.offset(b)); err == nil {
		r.n = n
		return nil
	}
	// One bad block must not take the others with it.
	_, err := l.c.Log.ReadAt(r.buf[:l.blockSize()], l.offset(b))
	if err != nil {
		return fmt.Errorf("reading log block %d: %w", b, err)
	}
	r.n = 1
	return nil
}

// header is what a block of the log says it is.
type header struct {
	kind uint32
	tid  Tid
}

// decodeHeader reports ok false for a block without the magic number.
func decodeHeader(block []byte) (h header, ok bool) {
	return header{be.Uint32(block[hBlocktype:]), Tid(be.Uint32(block[hSequence:]))},
		be.Uint32(block[hMagic:]) == magic
}

// tag is one entry of a descriptor block.
type tag struct {
	block ext4.Block
	flags uint32
	csum  uint32 // of the data, 16 bits in version 2
}

// tags goes over the entries of a descriptor block.
type tags struct {
	l    *Log
	desc []byte
	off  int
	done bool
}

func (l *Log) tagsOf(desc []byte) tags { return tags{l: l, desc: desc, off: headerSize} }

// next returns the next entry; ok is false at the end.
func (t *tags) next() (g tag, ok bool) {
	end := len(t.desc)
	if t.l.csummed() {
		end -= tailSize
	}
	if t.done || t.off+t.l.tagBytes > end {
		return tag{}, false
	}
	g = t.l.decodeTag(t.desc[t.off:])
	t.off += t.l.tagBytes
	if g.flags&flagSameUUID == 0 {
		t.off += tagUUIDLen
	}
	t.done = g.flags&flagLastTag != 0
	return g, true
}

func (l *Log) decodeTag(p []byte) (g tag) {
	g.block = ext4.Block(be.Uint32(p[tBlocknr:]))
	if l.has(incompatCsumV3) {
		g.flags, g.csum = be.Uint32(p[t3Flags:]), be.Uint32(p[t3Checksum:])
	} else {
		g.flags, g.csum = uint32(be.Uint16(p[tFlags:])), uint32(be.Uint16(p[tChecksum:]))
	}
	if l.has64() { // t_blocknr_high stands at the same place in both kinds
		g.block |= ext4.Block(be.Uint32(p[tBlocknrHigh:])) << 32
	}
	return g
}

// count is the number of entries, and so of the blocks that follow the descriptor block.
func (t tags) count() (n LogBlock) {
	for _, ok := t.next(); ok; _, ok = t.next() {
		n++
	}
	return n
}

// tailOK verifies the checksum of a descriptor or revoke block.
func (l *Log) tailOK(block []byte) bool {
	at := len(block) - tailSize
	return !l.csummed() || crc32cZeroed(l.csumSeed, block, at) == be.Uint32(block[at:])
}

// commitOK verifies the checksum of a commit block, version 2 and 3. As in the kernel it will do
// if only the beginning of the block has reached the disk: the rest should be zeros.
func (l *Log) commitOK(block []byte) bool {
	want := be.Uint32(block[hChksum:])
	if !l.csummed() || crc32cZeroed(l.csumSeed, block, hChksum) == want {
		return true
	}
	crc := crc32cZeroed(l.csumSeed, block[:commitSize], hChksum)
	var zeros [64]byte
	for range (len(block) - commitSize) / len(zeros) {
		crc = crc32c(crc, zeros[:])
	}
	return crc == want
}

// commitV1OK compares the checksum of a transaction's blocks with that in its commit block, which
// may have none.
func commitV1OK(block []byte, sum uint32) bool {
	kind, size, have := block[hChksumType], block[hChksumSize], be.Uint32(block[hChksum:])
	return kind == chksumCRC32 && size == chksumCRC32Size && have == sum ||
		kind == 0 && size == 0 && have == 0
}

// dataOK verifies the checksum of a logged block.
func (l *Log) dataOK(g tag, tid Tid, data []byte) bool {
	if !l.csummed() {
		return true
	}
	crc := crc32c(l.csumSeed, be.AppendUint32(nil, uint32(tid)))
	crc = crc32c(crc, data)
	if l.has(incompatCsumV2) {
		crc &= 0xffff
	}
	return crc == g.csum
}
