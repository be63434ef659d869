package jbd2

import (
	"fmt"

	"asyncfsd/vfs/ext4"
)

// Writer encodes transactions for a log that was opened and recovered. It does no I/O: the owner
// writes what Encode and Super produce, where Pieces and SuperOffset say, in this order for each
// transaction: all its blocks but the last; a flush; the last, which is the commit block, durably.
//
// Invariants: the log holds the transactions [tail, next) and nothing else that counts; head is
// the block behind the last of them; a transaction is not encoded if it does not fit.
type Writer struct {
	l    *Log
	next Tid // number of the running transaction
	head LogBlock
	used int // blocks between the tail and head
	// live are the transactions in the log, a ring: where each begins, and its blocks.
	live      []liveTx
	liveFirst int
	liveCount int
}

type liveTx struct {
	tid   Tid
	first LogBlock
	n     int
}

// liveMax is the most transactions that the log may hold: the smallest has three blocks, and a
// log that is full of them is one of 48 MiB with blocks of 4 KiB.
const liveMax = 4096

// NewWriter readies an empty log for writing: its superblock gets the features that a filesystem
// with 64-bit block numbers or metadata checksums needs, as the kernel sets them. The owner then
// writes Super. Errors: one line, if this log cannot be written.
func (l *Log) NewWriter(wide, csummed bool) (*Writer, error) {
	if !l.Empty() {
		return nil, fmt.Errorf("journal: not empty")
	}
	if l.u32(hBlocktype) != blockSuperV2 {
		return nil, fmt.Errorf("journal: version 1 can only be replayed")
	}
	l.incompat = l.incompat&^(incompatAsyncCommit|incompatCsumV2|incompatCsumV3|
		incompatFastCommit) | incompatRevoke
	l.compat &^= compatChecksum
	l.last = l.total
	if wide {
		l.incompat |= incompat64bit
	}
	if csummed {
		l.incompat |= incompatCsumV3
		l.super[sChecksumType] = checksumCRC32C
	}
	be.PutUint32(l.super[sFeatureCompat:], l.compat)
	be.PutUint32(l.super[sFeatureIncompat:], l.incompat)
	if err := l.checkTags(); err != nil {
		return nil, err
	}
	first := Tid(l.u32(sSequence))
	if first == 0 {
		first = 1
	}
	return &Writer{l: l, next: first, head: l.first, live: make([]liveTx, liveMax)}, nil
}

// Tid is the number of the running transaction.
func (w *Writer) Tid() Tid { return w.next }

// Empty says that no transaction is in the log.
func (w *Writer) Empty() bool { return w.liveCount == 0 }

// Capacity is the number of blocks of the log.
func (w *Writer) Capacity() int { return int(w.l.last - w.l.first) }

// Free is the number of blocks that are free. One is kept, so that a full log is not an empty one.
func (w *Writer) Free() int {
	if w.liveCount == liveMax {
		return 0
	}
	return w.Capacity() - w.used - 1
}

// perDescriptor is how many blocks one descriptor block describes.
func (w *Writer) perDescriptor() int {
	return (int(w.l.blockSize()) - headerSize - tagUUIDLen - tailSize) / w.l.tagBytes
}

// perRevoke is how many blocks one revoke block revokes.
func (w *Writer) perRevoke() int {
	return (int(w.l.blockSize()) - revokeHeaderSize - tailSize) / w.revokeSize()
}

func (w *Writer) revokeSize() int {
	if w.l.has64() {
		return 8
	}
	return 4
}

// Need is how many blocks of the log a transaction takes, the commit block included.
func (w *Writer) Need(blocks, revokes int) int {
	d, r := w.perDescriptor(), w.perRevoke()
	return blocks + (blocks+d-1)/d + (revokes+r-1)/r + 1
}

// Entry is a block of a transaction.
type Entry struct {
	Block ext4.Block
	Data  []byte
}

// Encode writes the running transaction to dst, a copy of each block included, and returns the
// number of log blocks. It begins at Head, and ends with its commit block. sec and nsec are the
// time of the commit.
func (w *Writer) Encode(dst []byte, n int, entry func(i int) Entry, revokes []ext4.Block,
	sec uint64, nsec uint32) int {
	size := int(w.l.blockSize())
	at := 0
	block := func() []byte {
		at++
		return dst[(at-1)*size : at*size]
	}
	for i := 0; i < len(revokes); i += w.perRevoke() {
		w.revoke(block(), revokes[i:min(i+w.perRevoke(), len(revokes))])
	}
	per := w.perDescriptor()
	for i := 0; i < n; i += per {
		desc := block()
		w.header(desc, blockDescriptor)
		off := headerSize
		for j := i; j < min(i+per, n); j++ {
			off = w.data(desc, off, block(), entry(j), j == i, j+1 == min(i+per, n))
		}
		w.sealTail(desc)
	}
	w.commit(block(), sec, nsec)
	return at
}

func (w *Writer) header(b []byte, kind uint32) {
	clear(b)
	be.PutUint32(b[hMagic:], magic)
	be.PutUint32(b[hBlocktype:], kind)
	be.PutUint32(b[hSequence:], uint32(w.next))
}

// sealTail sets the checksum at the end of a descriptor or revoke block.
func (w *Writer) sealTail(b []byte) {
	if w.l.csummed() {
		at := len(b) - tailSize
		be.PutUint32(b[at:], crc32cZeroed(w.l.csumSeed, b, at))
	}
}

func (w *Writer) revoke(b []byte, list []ext4.Block) {
	w.header(b, blockRevoke)
	off := revokeHeaderSize
	for _, block := range list {
		if w.l.has64() {
			be.PutUint64(b[off:], uint64(block))
		} else {
			be.PutUint32(b[off:], uint32(block))
		}
		off += w.revokeSize()
	}
	be.PutUint32(b[rCount:], uint32(off))
	w.sealTail(b)
}

// data copies one block to b and describes it at off of desc. It returns where the next tag goes.
func (w *Writer) data(desc []byte, off int, b []byte, e Entry, first, last bool) int {
	copy(b, e.Data)
	flags := uint32(0)
	if be.Uint32(b) == magic {
		be.PutUint32(b, 0)
		flags |= flagEscape
	}
	if !first {
		flags |= flagSameUUID
	}
	if last {
		flags |= flagLastTag
	}
	sum := uint32(0)
	if w.l.csummed() {
		var seq [4]byte
		be.PutUint32(seq[:], uint32(w.next))
		sum = crc32c(crc32c(w.l.csumSeed, seq[:]), b)
	}
	p := desc[off:]
	be.PutUint32(p[tBlocknr:], uint32(e.Block))
	if w.l.has(incompatCsumV3) {
		be.PutUint32(p[t3Flags:], flags)
		be.PutUint32(p[t3BlocknrHigh:], uint32(e.Block>>32))
		be.PutUint32(p[t3Checksum:], sum)
	} else {
		be.PutUint16(p[tFlags:], uint16(flags))
		if w.l.has64() {
			be.PutUint32(p[tBlocknrHigh:], uint32(e.Block>>32))
		}
	}
	off += w.l.tagBytes
	if first {
		off += copy(desc[off:off+tagUUIDLen], w.l.super[sUUID:])
	}
	return off
}

func (w *Writer) commit(b []byte, sec uint64, nsec uint32) {
	w.header(b, blockCommit)
	be.PutUint64(b[hCommitSec:], sec)
	be.PutUint32(b[hCommitNsec:], nsec)
	if w.l.csummed() {
		be.PutUint32(b[hChksum:], crc32cZeroed(w.l.csumSeed, b, hChksum))
	}
}

// Advance takes the transaction of n blocks that was just encoded for logged: the next one is
// running.
func (w *Writer) Advance(n int) {
	i := (w.liveFirst + w.liveCount) % liveMax
	w.live[i] = liveTx{w.next, w.head, n}
	w.liveCount++
	w.used += n
	w.head = w.ahead(w.head, n)
	w.next++
}

// ahead is the block n behind b in the ring.
func (w *Writer) ahead(b LogBlock, n int) LogBlock {
	b += LogBlock(n)
	if b >= w.l.last {
		b -= w.l.last - w.l.first
	}
	return b
}

// Piece is a contiguous range of the device.
type Piece struct {
	Off int64 // byte offset on the device
	At  int   // of the encoded transaction, in bytes
	Len int   // bytes
}

// Piece returns where the at'th block from the head on belongs, and how many of the n blocks from
// there on are contiguous with it.
func (w *Writer) Piece(at, n int) Piece {
	l := w.l
	b := w.ahead(w.head, at)
	run := l.runOf(b)
	n = min(n-at, int(run.First)+int(run.Len)-int(b), int(l.last-b))
	return Piece{Off: l.offset(b), At: at << l.c.BlockBits, Len: n << l.c.BlockBits}
}

// TailTo forgets the transactions before tid, whose blocks are all in place. It says whether
// that changed anything; the owner then writes Super before the freed blocks are used again.
func (w *Writer) TailTo(tid Tid) bool {
	changed := false
	for w.liveCount > 0 && tid.After(w.live[w.liveFirst].tid) {
		w.used -= w.live[w.liveFirst].n
		w.liveFirst = (w.liveFirst + 1) % liveMax
		w.liveCount--
		changed = true
	}
	return changed
}

// Super writes the journal's superblock to dst, at least its size, as it must be on the device
// from now on: while the filesystem is mounted, with where the log begins; at the end (clean) with
// an empty log.
func (w *Writer) Super(dst []byte, clean bool) {
	l := w.l
	tid, start := w.next, w.head
	if w.liveCount > 0 {
		tid, start = w.live[w.liveFirst].tid, w.live[w.liveFirst].first
	}
	be.PutUint32(l.super[sSequence:], uint32(tid))
	be.PutUint32(l.super[sStart:], uint32(start))
	be.PutUint32(l.super[sHead:], 0)
	if clean {
		be.PutUint32(l.super[sStart:], 0)
	}
	l.sealSuper()
	copy(dst, l.super[:])
}

// SetErrno records why the journal was aborted, for the next mount.
func (w *Writer) SetErrno(errno int) { be.PutUint32(w.l.super[sErrno:], uint32(-errno)) }

// SuperOffset is the byte on the device at which Super belongs.
func (w *Writer) SuperOffset() int64 { return w.l.offset(w.l.c.Super) }
