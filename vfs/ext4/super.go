package ext4

import (
	"errors"
	"fmt"
	"io"
	"math/bits"

	"golang.org/x/sys/unix"
)

// OpenOptions changes how Open finds the filesystem.
type OpenOptions struct {
	// Super is the byte offset of the superblock to use, 0 for the primary one.
	Super int64
}

// ErrNotExt says that there is no ext2/3/4 filesystem.
var ErrNotExt = errors.New("not an ext2/3/4 filesystem")

// Limits of what Open takes for a filesystem.
const (
	blockBitsMin = 10
	blockBitsMax = 16
	// groupsMax bounds the table of inode-table locations: 2^21 groups are 256 TiB of 4 KiB
	// blocks, and 16 MiB of memory.
	groupsMax = 1 << 21
)

// Open reads the superblock and the group descriptors of the filesystem in r, which has size
// bytes, and checks that they make sense. Errors are one line: ErrNotExt, *FeatureError,
// *CorruptError, or another with the reason.
func Open(r io.ReaderAt, size int64, o OpenOptions) (*Volume, error) {
	v := new(Volume)
	at := o.Super
	if at == 0 {
		at = SuperOffset
	}
	if size < at+SuperSize {
		return nil, fmt.Errorf("%w: %d bytes are too few for a superblock at byte %d", ErrNotExt,
			size, at)
	}
	v.superAt = at
	if _, err := r.ReadAt(v.Super[:], at); err != nil {
		return nil, fmt.Errorf("reading the superblock at byte %d: %w", at, err)
	}
	if err := v.decode(size); err != nil {
		return nil, v.hint(err, r, size, at)
	}
	if err := v.loadGroups(r); err != nil {
		return nil, err
	}
	return v, nil
}

// hint adds to the error about the primary superblock where a good copy lies, if there is one.
func (v *Volume) hint(err error, r io.ReaderAt, size, at int64) error {
	var feature *FeatureError
	if at != SuperOffset || errors.As(err, &feature) || errors.Is(err, errTruncated) {
		return err
	}
	for _, bs := range []int64{1024, 2048, 4096, 8192, 16384, 32768, 65536} {
		block := 8 * bs // the first block of group 1
		if bs == 1024 {
			block++
		}
		var backup Volume
		if block*bs+SuperSize > size {
			return err
		}
		_, rerr := r.ReadAt(backup.Super[:], block*bs)
		if rerr == nil && backup.decode(size) == nil {
			return fmt.Errorf("%w; block %d (of %d bytes) has a good copy: try sb=%d", err, block,
				bs, block*bs/1024)
		}
	}
	return err
}

func (v *Volume) u16(off int) uint16 { return le.Uint16(v.Super[off:]) }
func (v *Volume) u32(off int) uint32 { return le.Uint32(v.Super[off:]) }

// decode checks the superblock and fills in everything that follows from it alone.
func (v *Volume) decode(size int64) error {
	if err := v.checkMagic(); err != nil {
		return err
	}
	if v.u32(sRevLevel) >= revDynamic {
		v.Compat, v.Incompat, v.ROCompat = v.u32(sFeatureCompat), v.u32(sFeatureIncompat),
			v.u32(sFeatureROCompat)
	}
	if err := v.checkSum(); err != nil {
		return err
	}
	if v.Incompat&IncompatJournalDev != 0 {
		return errors.New("an external journal, not a filesystem")
	}
	if unknown := v.Incompat &^ incompatReadable; unknown != 0 {
		return &FeatureError{featureNames(unknown, &incompatNames, "I")}
	}
	if err := v.decodeSizes(); err != nil {
		return err
	}
	if err := v.decodeGroups(size); err != nil {
		return err
	}
	v.decodeNames()
	return nil
}

func (v *Volume) checkMagic() error {
	if v.u16(sMagic) == superMagic {
		return nil
	}
	zero := true
	for _, b := range v.Super {
		zero = zero && b == 0
	}
	if zero {
		return fmt.Errorf("%w: the superblock is all zeros", ErrNotExt)
	}
	return fmt.Errorf("%w: no magic number at byte %d", ErrNotExt, SuperOffset+sMagic)
}

func (v *Volume) checkSum() error {
	if !v.csummed() {
		return nil
	}
	if v.Super[sChecksumType] != checksumCRC32C {
		return superError("s_checksum_type %d is unknown", v.Super[sChecksumType])
	}
	if crc32c(^uint32(0), v.Super[:sChecksum]) != v.u32(sChecksum) {
		return superError("wrong checksum")
	}
	return nil
}

// superError is a CorruptError of the superblock.
func superError(format string, args ...any) error {
	return &CorruptError{What: "superblock: " + fmt.Sprintf(format, args...)}
}

func (v *Volume) decodeSizes() error {
	logBlock, logCluster := v.u32(sLogBlockSize), v.u32(sLogClusterSize)
	if logBlock > blockBitsMax-blockBitsMin {
		return superError("block size 2^(10+%d)", logBlock)
	}
	v.BlockBits = uint8(blockBitsMin + logBlock)
	v.BlockSize = 1 << v.BlockBits
	if v.HasROCompat(ROCompatBigalloc) {
		if logCluster < logBlock || logCluster > 30-blockBitsMin {
			return superError("cluster size 2^(10+%d) of blocks of %d bytes", logCluster,
				v.BlockSize)
		}
		v.ClusterBits = uint8(logCluster - logBlock)
	} else if logCluster != logBlock {
		return superError("cluster size 2^(10+%d) without bigalloc", logCluster)
	}
	v.InodeSize, v.FirstInode = inodeSizeGood, 11
	if v.u32(sRevLevel) >= revDynamic {
		v.InodeSize, v.FirstInode = v.u16(sInodeSize), Ino(v.u32(sFirstIno))
	}
	if v.InodeSize < inodeSizeGood || uint32(v.InodeSize) > v.BlockSize ||
		v.InodeSize&(v.InodeSize-1) != 0 {
		return superError("inode size %d", v.InodeSize)
	}
	if v.FirstInode < 11 {
		return superError("first inode %d", v.FirstInode)
	}
	v.DescSize = descSize32
	if v.HasIncompat(Incompat64bit) {
		v.DescSize = v.u16(sDescSize)
		if v.DescSize < descSize64 || v.DescSize > 1024 || v.DescSize&(v.DescSize-1) != 0 {
			return superError("group descriptor size %d", v.DescSize)
		}
	}
	return nil
}

// errTruncated marks a device that is smaller than its filesystem.
var errTruncated = errors.New("truncated")

func (v *Volume) decodeGroups(size int64) error {
	v.FirstDataBlock = Block(v.u32(sFirstDataBlock))
	v.BlocksCount = Block(v.u32(sBlocksCountLo))
	if v.HasIncompat(Incompat64bit) {
		v.BlocksCount |= Block(v.u32(sBlocksCountHi)) << 32
	}
	v.BlocksPerGroup, v.InodesPerGroup = v.u32(sBlocksPerGroup), v.u32(sInodesPerGroup)
	v.ClustersPerGroup = v.BlocksPerGroup
	if v.HasROCompat(ROCompatBigalloc) {
		v.ClustersPerGroup = v.u32(sClustersPerGroup)
	}
	v.InodesCount = Ino(v.u32(sInodesCount))
	switch {
	case v.BlocksPerGroup == 0 || v.ClustersPerGroup == 0 || v.ClustersPerGroup > 8*v.BlockSize ||
		uint64(v.ClustersPerGroup)<<v.ClusterBits != uint64(v.BlocksPerGroup):
		return superError("%d blocks and %d clusters per group", v.BlocksPerGroup,
			v.ClustersPerGroup)
	case v.InodesPerGroup < v.BlockSize/uint32(v.InodeSize) || v.InodesPerGroup > 8*v.BlockSize:
		return superError("%d inodes per group", v.InodesPerGroup)
	case v.FirstDataBlock >= v.BlocksCount || v.FirstDataBlock > 1:
		return superError("first data block %d of %d blocks", v.FirstDataBlock, v.BlocksCount)
	case v.BlocksCount > Block(1)<<(63-v.BlockBits):
		return superError("%d blocks", v.BlocksCount)
	}
	if have := Block(uint64(size) >> v.BlockBits); v.BlocksCount > have {
		return fmt.Errorf("%w: the filesystem has %d blocks of %d bytes, the device only %d",
			errTruncated, v.BlocksCount, v.BlockSize, have)
	}
	per := Block(v.BlocksPerGroup)
	groups := (v.BlocksCount - v.FirstDataBlock + per - 1) / per
	if groups > groupsMax {
		return superError("%d groups", groups)
	}
	v.GroupsCount = Group(groups)
	if uint64(groups)*uint64(v.InodesPerGroup) != uint64(v.InodesCount) {
		return superError("%d inodes in %d groups of %d", v.InodesCount, groups, v.InodesPerGroup)
	}
	return nil
}

func (v *Volume) decodeNames() {
	copy(v.UUID[:], v.Super[sUUID:])
	v.Label = cString(v.Super[sVolumeName : sVolumeName+16])
	v.CsumSeed = crc32c(^uint32(0), v.UUID[:])
	if v.HasIncompat(IncompatCsumSeed) {
		v.CsumSeed = v.u32(sChecksumSeed)
	}
	for i := range v.HashSeed {
		v.HashSeed[i] = v.u32(sHashSeed + 4*i)
	}
	v.DefHashVersion = v.Super[sDefHashVersion]
	// NB: without either flag the kernel takes the signedness of the machine's char; it is signed
	// where these filesystems come from.
	v.HashUnsigned = v.u32(sFlags)&flagsUnsignedHash != 0
}

func cString(p []byte) string {
	for i, b := range p {
		if b == 0 {
			return string(p[:i])
		}
	}
	return string(p)
}

// NeedsRecovery says that the journal holds transactions which are not yet in place.
func (v *Volume) NeedsRecovery() bool { return v.HasIncompat(IncompatRecover) }

// HasErrors says that the filesystem is marked as having errors (s_state).
func (v *Volume) HasErrors() bool { return v.u16(sState)&stateErrors != 0 }

// Clean says that the filesystem was unmounted cleanly (s_state).
func (v *Volume) Clean() bool { return v.u16(sState)&stateValid != 0 }

// JournalInode returns the number of the journal's inode, 0 if the journal is a device of its own.
func (v *Volume) JournalInode() Ino { return Ino(v.u32(sJournalInum)) }

// JournalUUID returns the UUID of the external journal.
func (v *Volume) JournalUUID() (uuid [16]byte) {
	copy(uuid[:], v.Super[sJournalUUID:])
	return uuid
}

// JournalBackup returns the copy of the journal inode's i_block and size that the superblock
// keeps (s_jnl_blocks); ok is false if there is none.
func (v *Volume) JournalBackup() (iblock [60]byte, size uint64, ok bool) {
	copy(iblock[:], v.Super[sJnlBlocks:])
	lo, hi := v.u32(sJnlBlocks+4*16), v.u32(sJnlBlocks+4*15)
	return iblock, uint64(lo) | uint64(hi)<<32, v.Super[sJnlBackupType] == jnlBackupBlocks
}

// LastOrphan returns the head of the orphan list, 0 if it is empty.
func (v *Volume) LastOrphan() Ino { return Ino(v.u32(sLastOrphan)) }

// inodesPerBlock is the number of inodes in a block of the inode table.
func (v *Volume) inodesPerBlock() uint32 { return v.BlockSize / uint32(v.InodeSize) }

// inTable is the number of blocks of a group's inode table.
func (v *Volume) inTable() uint32 {
	return (v.InodesPerGroup + v.inodesPerBlock() - 1) >> bits.TrailingZeros32(v.inodesPerBlock())
}

// checkBlock says whether b can be a block of metadata or data.
func (v *Volume) checkBlock(b Block, n uint32) bool {
	return b > 0 && b < v.BlocksCount && uint64(n) <= uint64(v.BlocksCount-b)
}

// readErr makes an EIO of a device's error that is not an errno.
func readErr(err error) error {
	var errno unix.Errno
	if errors.As(err, &errno) {
		return errno
	}
	return unix.EIO
}
