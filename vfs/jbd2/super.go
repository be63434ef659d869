package jbd2

import (
	"fmt"

	"asyncfsd/vfs/ext4"
)

// Config says where a journal is.
type Config struct {
	FS  Storage // the filesystem, whose blocks are replayed
	Log Storage // the device with the log: FS, or that of an external journal
	// Runs are the blocks of the log, in order and without gaps from block 0 on.
	Runs []Run
	// Super is the block with the journal's superblock: 0, but on an external journal, whose log
	// blocks are numbered from the beginning of the device.
	Super     LogBlock
	BlockBits uint8      // log2 of the block size, the same for filesystem and log
	FSBlocks  ext4.Block // blocks of the filesystem
}

// Log is an open journal.
type Log struct {
	c     Config
	super [superSize]byte
	total LogBlock // blocks there are

	compat, incompat uint32
	first, last      LogBlock // the ring is [first, last)
	fcFirst, fcEnd   LogBlock // fast commits are [fcFirst, fcEnd)
	csumSeed         uint32
	tagBytes         int

	info    scanInfo
	revokes revokes
}

// Open reads the journal's superblock and checks that it makes sense. Errors are one line:
// *FeatureError, *CorruptError, or those of the device.
func Open(c Config) (*Log, error) {
	l := &Log{c: c}
	for _, r := range c.Runs {
		if r.First != l.total || r.Len == 0 || uint64(r.First)+uint64(r.Len) > 1<<32-1 {
			return nil, fmt.Errorf("journal: log block %d is not where it should be", l.total)
		}
		l.total += LogBlock(r.Len)
	}
	if l.total <= c.Super {
		return nil, fmt.Errorf("journal: %d blocks are too few for a superblock", l.total)
	}
	if _, err := c.Log.ReadAt(l.super[:], l.offset(c.Super)); err != nil {
		return nil, fmt.Errorf("reading the journal's superblock: %w", err)
	}
	if err := l.checkHeader(); err != nil {
		return nil, err
	}
	if err := l.checkFeatures(); err != nil {
		return nil, err
	}
	return l, l.checkRing()
}

func (l *Log) u32(off int) uint32 { return be.Uint32(l.super[off:]) }

// checkHeader checks what both versions of the superblock have.
func (l *Log) checkHeader() error {
	switch {
	case l.u32(hMagic) != magic:
		return superError("no magic number")
	case l.u32(hBlocktype) != blockSuperV1 && l.u32(hBlocktype) != blockSuperV2:
		return superError("block type %d", l.u32(hBlocktype))
	case l.u32(sBlocksize) != l.blockSize():
		return superError("block size %d, that of the filesystem is %d", l.u32(sBlocksize),
			l.blockSize())
	case l.u32(sMaxlen) > uint32(l.total):
		return superError("%d blocks, only %d are there", l.u32(sMaxlen), l.total)
	}
	l.total = LogBlock(l.u32(sMaxlen))
	if l.total < blocksMin {
		return superError("%d blocks are too few", l.total)
	}
	return nil
}

// checkFeatures checks the feature bits, and the checksum if they say that there is one.
func (l *Log) checkFeatures() error {
	l.tagBytes = tagSize32
	if l.u32(hBlocktype) != blockSuperV2 {
		return nil
	}
	l.compat, l.incompat = l.u32(sFeatureCompat), l.u32(sFeatureIncompat)
	var names []string
	names = featureNames(names, l.incompat&^incompatKnown, "I")
	names = featureNames(names, l.u32(sFeatureROCompat), "R")
	if names != nil {
		return &FeatureError{names}
	}
	if err := l.checkTags(); err != nil || !l.csummed() {
		return err
	}
	if crc32cZeroed(^uint32(0), l.super[:], sChecksum) != l.u32(sChecksum) {
		return superError("wrong checksum")
	}
	return nil
}

// checkTags takes in what the features say of tags and checksums.
func (l *Log) checkTags() error {
	l.tagBytes = tagSize32
	if l.has(incompatCsumV2) && l.has(incompatCsumV3) {
		return superError("checksums of versions 2 and 3 at the same time")
	}
	if l.has64() {
		l.tagBytes = tagSize64
	}
	if l.has(incompatCsumV2) {
		l.tagBytes += tagCsumV2
	}
	if l.has(incompatCsumV3) {
		l.tagBytes = tag3Size
	}
	if !l.csummed() {
		return nil
	}
	if l.csumV1() {
		return superError("checksums of version 1 and a later one at the same time")
	}
	if l.super[sChecksumType] != checksumCRC32C {
		return superError("s_checksum_type %d is unknown", l.super[sChecksumType])
	}
	l.csumSeed = crc32c(^uint32(0), l.super[sUUID:sUUID+16])
	return nil
}

func featureNames(list []string, mask uint32, class string) []string {
	for i := range 32 {
		if mask&(1<<i) != 0 {
			list = append(list, fmt.Sprintf("FEATURE_%s%d", class, i))
		}
	}
	return list
}

// checkRing takes in where the parts of the log are.
func (l *Log) checkRing() error {
	l.first, l.last = LogBlock(l.u32(sFirst)), l.total
	if l.has(incompatFastCommit) {
		n := LogBlock(l.u32(sNumFCBlks))
		if n == 0 {
			n = fcBlocksDefault
		}
		if n > l.total-blocksMin {
			return superError("%d of %d blocks for fast commits", n, l.total)
		}
		l.last -= n
		// NB: the kernel leaves out the first of these blocks.
		l.fcFirst, l.fcEnd = l.last+1, l.total
	}
	start := LogBlock(l.u32(sStart))
	switch {
	case l.first <= l.c.Super || l.first >= l.last:
		return superError("the log begins at block %d of %d", l.first, l.last)
	case start != 0 && (start < l.first || start >= l.last):
		return superError("s_start %d is outside of the log, blocks %d to %d", start, l.first,
			l.last-1)
	}
	return nil
}

// has says whether an incompatible feature is set.
func (l *Log) has(f uint32) bool { return l.incompat&f != 0 }
func (l *Log) has64() bool       { return l.has(incompat64bit) }

// csummed says that there are checksums of version 2 or 3.
func (l *Log) csummed() bool     { return l.has(incompatCsumV2 | incompatCsumV3) }
func (l *Log) csumV1() bool      { return l.compat&compatChecksum != 0 }
func (l *Log) blockSize() uint32 { return 1 << l.c.BlockBits }

// Empty says that no transaction waits to be replayed.
func (l *Log) Empty() bool { return l.u32(sStart) == 0 }

// Errno is the error for which the filesystem gave the journal up, as a positive number; 0 if
// there was none.
func (l *Log) Errno() int {
	n := int(int32(l.u32(sErrno)))
	return max(n, -n)
}

// Users is the number of filesystems that share an external journal.
func (l *Log) Users() uint32 { return l.u32(sNrUsers) }

// UserUUID is the UUID of the first of the filesystems that share an external journal.
func (l *Log) UserUUID() (uuid [16]byte) {
	copy(uuid[:], l.super[sUsers:])
	return uuid
}

// offset returns the byte on the log's device at which a block begins. b is below the number of
// blocks in the runs.
func (l *Log) offset(b LogBlock) int64 {
	r := l.runOf(b)
	return int64(uint64(r.Phys)+uint64(b-r.First)) << l.c.BlockBits
}

// runOf returns the run that holds a block.
func (l *Log) runOf(b LogBlock) *Run {
	low, high := 0, len(l.c.Runs)
	for low+1 < high {
		if mid := (low + high) / 2; l.c.Runs[mid].First <= b {
			low = mid
		} else {
			high = mid
		}
	}
	return &l.c.Runs[low]
}

// writeSuper writes the journal's superblock, and returns when it is on stable storage.
func (l *Log) writeSuper() error {
	l.sealSuper()
	if _, err := l.c.Log.WriteAt(l.super[:], l.offset(l.c.Super)); err != nil {
		return fmt.Errorf("writing the journal's superblock: %w", err)
	}
	if err := l.c.Log.Flush(); err != nil {
		return fmt.Errorf("writing the journal's superblock: %w", err)
	}
	return nil
}

func (l *Log) sealSuper() {
	if l.csummed() {
		be.PutUint32(l.super[sChecksum:], crc32cZeroed(^uint32(0), l.super[:], sChecksum))
	}
}

// MarkEmpty records that all transactions are in place, which the caller has made sure of by
// Replay. The log goes on with a number that no block in it has.
func (l *Log) MarkEmpty() error {
	if l.Empty() {
		return nil
	}
	be.PutUint32(l.super[sSequence:], uint32(l.info.end+1))
	be.PutUint32(l.super[sStart:], 0)
	if l.u32(hBlocktype) == blockSuperV2 {
		be.PutUint32(l.super[sHead:], uint32(l.info.head))
		// As the kernel: an empty log has no fast commits, and older kernels may mount it.
		l.incompat &^= incompatFastCommit
		be.PutUint32(l.super[sFeatureIncompat:], l.incompat)
	}
	return l.writeSuper()
}

// ClearErrno forgets the error, which the caller has noted in the filesystem's superblock.
func (l *Log) ClearErrno() error {
	be.PutUint32(l.super[sErrno:], 0)
	return l.writeSuper()
}
