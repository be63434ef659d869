package ext4

import "encoding/binary"

// On-disk layouts: byte offsets within each structure, in ext4's own field names. All numbers are
// little-endian.

var le = binary.LittleEndian

// The superblock ("Super Block"): SuperSize bytes at byte SuperOffset of the filesystem.
const (
	SuperOffset = 1024
	SuperSize   = 1024
	superMagic  = 0xef53

	sInodesCount       = 0x00
	sBlocksCountLo     = 0x04
	sRBlocksCountLo    = 0x08
	sFreeBlocksLo      = 0x0c
	sFreeInodes        = 0x10
	sFirstDataBlock    = 0x14
	sLogBlockSize      = 0x18
	sLogClusterSize    = 0x1c
	sBlocksPerGroup    = 0x20
	sClustersPerGroup  = 0x24
	sInodesPerGroup    = 0x28
	sMtime             = 0x2c
	sWtime             = 0x30
	sMntCount          = 0x34
	sMagic             = 0x38
	sState             = 0x3a
	sErrors            = 0x3c
	sRevLevel          = 0x4c
	sDefResUID         = 0x50
	sDefResGID         = 0x52
	sFirstIno          = 0x54
	sInodeSize         = 0x58
	sFeatureCompat     = 0x5c
	sFeatureIncompat   = 0x60
	sFeatureROCompat   = 0x64
	sUUID              = 0x68
	sVolumeName        = 0x78
	sLastMounted       = 0x88
	sReservedGdtBlocks = 0xce
	sJournalUUID       = 0xd0
	sJournalInum       = 0xe0
	sJournalDev        = 0xe4
	sLastOrphan        = 0xe8
	sHashSeed          = 0xec
	sDefHashVersion    = 0xfc
	sJnlBackupType     = 0xfd
	sDescSize          = 0xfe
	sDefaultMountOpts  = 0x100
	sFirstMetaBG       = 0x104
	sJnlBlocks         = 0x10c
	sBlocksCountHi     = 0x150
	sRBlocksCountHi    = 0x154
	sMinExtraISize     = 0x15c
	sWantExtraISize    = 0x15e
	sFlags             = 0x160
	sMMPUpdateInterval = 0x166
	sMMPBlock          = 0x168
	sFreeBlocksHi      = 0x158
	sChecksumType      = 0x175
	sKbytesWritten     = 0x178
	sErrorCount        = 0x194
	sFirstErrorTime    = 0x198
	sFirstErrorIno     = 0x19c
	sFirstErrorBlock   = 0x1a0
	sFirstErrorFunc    = 0x1a8
	sLastErrorTime     = 0x1cc
	sLastErrorIno      = 0x1d0
	sLastErrorBlock    = 0x1d8
	sLastErrorFunc     = 0x1e0
	sOverheadClusters  = 0x248
	sBackupBGs         = 0x24c
	sChecksumSeed      = 0x270
	sEncoding          = 0x27c
	sEncodingFlags     = 0x27e
	sOrphanFileInum    = 0x280
	sUsrQuotaInum      = 0x240
	sGrpQuotaInum      = 0x244
	sPrjQuotaInum      = 0x26c
	sChecksum          = 0x3fc

	// Bits of s_flags.
	flagsSignedHash   = 1
	flagsUnsignedHash = 2
	// Bits of s_state.
	stateValid  = 1
	stateErrors = 2
	// checksumCRC32C is the only s_checksum_type.
	checksumCRC32C = 1
	revDynamic     = 1
	// jnlBackupBlocks: s_jnl_blocks holds the journal inode's i_block and size.
	jnlBackupBlocks = 1
)

// The block of multiple mount protection ("Multiple Mount Protection").
const (
	mmpMagic         = 0x00
	mmpSeq           = 0x04
	mmpTime          = 0x08
	mmpNodename      = 0x10
	mmpBdevname      = 0x50
	mmpCheckInterval = 0x70
	mmpChecksum      = 0x3fc

	mmpMagicNumber = 0x004d4d50
)

// Fields of the superblock that only a writer needs.
const (
	sMaxMntCount       = 0x36
	sFirstErrorLine    = 0x1c8
	sLastErrorLine     = 0x1d4
	sWtimeHi           = 0x274
	sMtimeHi           = 0x275
	sFirstErrorTimeHi  = 0x278
	sLastErrorTimeHi   = 0x279
	sFirstErrorErrcode = 0x27a
	sLastErrorErrcode  = 0x27b

	superNameSize = 16 // of s_volume_name
	superPathSize = 64 // of s_last_mounted
	superFuncSize = 32 // of s_first_error_func
	// maxMntCount is what stands for "the default" in s_max_mnt_count.
	maxMntCount = 20
)

// A group descriptor ("Block Group Descriptors"); what lies behind 32 bytes is there with 64bit.
const (
	bgBlockBitmapLo = 0x00
	bgInodeBitmapLo = 0x04
	bgInodeTableLo  = 0x08
	bgFreeBlocksLo  = 0x0c
	bgFreeInodesLo  = 0x0e
	bgFlags         = 0x12
	bgChecksum      = 0x1e
	bgBlockBitmapHi = 0x20
	bgInodeBitmapHi = 0x24
	bgInodeTableHi  = 0x28
	bgFreeBlocksHi  = 0x2c
	bgFreeInodesHi  = 0x2e

	bgUsedDirsLo      = 0x10
	bgBlockBitmapCsum = 0x18
	bgInodeBitmapCsum = 0x1a
	bgItableUnusedLo  = 0x1c
	bgUsedDirsHi      = 0x30
	bgItableUnusedHi  = 0x32
	bgBlockBitmapCsHi = 0x38
	bgInodeBitmapCsHi = 0x3a

	descSize32 = 32
	descSize64 = 64

	bgInodeUninit = 1
	bgBlockUninit = 2
	bgInodeZeroed = 4
)

// An inode ("Index Nodes"); what lies behind 128 bytes is there as far as i_extra_isize reaches.
const (
	iMode       = 0x00
	iUID        = 0x02
	iSizeLo     = 0x04
	iAtime      = 0x08
	iCtime      = 0x0c
	iMtime      = 0x10
	iDtime      = 0x14
	iGID        = 0x18
	iLinksCount = 0x1a
	iBlocksLo   = 0x1c
	iFlags      = 0x20
	iVersion    = 0x24
	iBlock      = 0x28
	iGeneration = 0x64
	iFileACLLo  = 0x68
	iSizeHigh   = 0x6c
	iBlocksHigh = 0x74
	iFileACLHi  = 0x76
	iUIDHigh    = 0x78
	iGIDHigh    = 0x7a
	iChecksumLo = 0x7c
	iExtraISize = 0x80
	iChecksumHi = 0x82
	iCtimeExtra = 0x84
	iMtimeExtra = 0x88
	iAtimeExtra = 0x8c
	iCrtime     = 0x90
	iCrtimeExt  = 0x94
	iVersionHi  = 0x98
	iProjID     = 0x9c

	inodeSizeGood = 128 // EXT4_GOOD_OLD_INODE_SIZE
)

// An extent tree ("Extent Tree"): header, then entries of the same size; a block of it ends in a
// checksum.
const (
	ehMagic   = 0x0
	ehEntries = 0x2
	ehMax     = 0x4
	ehDepth   = 0x6

	ehGeneration = 0x8

	eeBlock   = 0x0
	eeLen     = 0x4
	eeStartHi = 0x6
	eeStartLo = 0x8

	eiBlock  = 0x0
	eiLeafLo = 0x4
	eiLeafHi = 0x8

	extentMagic     = 0xf30a
	extentEntrySize = 12
	extentDepthMax  = 5
	// extentInitMax: a longer ee_len is an unwritten extent of ee_len − extentInitMax blocks.
	extentInitMax = 32768
)

// A block of the orphan file ("Orphan file"): inode numbers, then magic and checksum.
const (
	orphanTailSize  = 8
	obMagic         = 0x0 // of the tail: __le32 ob_magic
	obChecksum      = 0x4 // __le32, crc32c of the file's inode seed, block number and entries
	orphanTailMagic = 0x0b10ca04
)

// Special inodes ("Special inodes").
const (
	RootIno    Ino = 2
	JournalIno Ino = 8
)

// Flags of an inode (i_flags).
const (
	FlagSync        = 0x8
	FlagImmutable   = 0x10
	FlagAppend      = 0x20
	FlagNodump      = 0x40
	FlagNoatime     = 0x80
	FlagCompr       = 0x200
	FlagEncrypt     = 0x800
	FlagIndex       = 0x1000
	FlagJournalData = 0x4000
	FlagDirsync     = 0x10000
	FlagTopdir      = 0x20000
	FlagHugeFile    = 0x40000
	FlagExtents     = 0x80000
	FlagVerity      = 0x100000
	FlagEAInode     = 0x200000
	FlagDax         = 0x2000000
	FlagInlineData  = 0x10000000
	FlagProjinherit = 0x20000000
	FlagCasefold    = 0x40000000
)

func get64(p []byte, lo, hi int) uint64 {
	return uint64(le.Uint32(p[lo:])) | uint64(le.Uint32(p[hi:]))<<32
}
