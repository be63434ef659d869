package jbd2

import "encoding/binary"

// On-disk layouts: byte offsets within each structure, in jbd2's own field names. All numbers are
// big-endian, unlike those of the filesystem.

var be = binary.BigEndian

// struct journal_header_s ("Block Header"): every block of the log begins with it, but those with
// data.
const (
	hMagic     = 0x0
	hBlocktype = 0x4
	hSequence  = 0x8
	headerSize = 12

	magic = 0xc03b3998
)

// Values of h_blocktype.
const (
	blockDescriptor = 1
	blockCommit     = 2
	blockSuperV1    = 3
	blockSuperV2    = 4
	blockRevoke     = 5
)

// SuperSize is the size of the journal's superblock in bytes.
const SuperSize = 1024

// struct journal_superblock_s ("Super Block"): the first block of the log. What lies behind
// s_errno is there in version 2 only.
const (
	superSize = SuperSize

	sBlocksize       = 0x0c
	sMaxlen          = 0x10
	sFirst           = 0x14
	sSequence        = 0x18
	sStart           = 0x1c
	sErrno           = 0x20
	sFeatureCompat   = 0x24
	sFeatureIncompat = 0x28
	sFeatureROCompat = 0x2c
	sUUID            = 0x30
	sNrUsers         = 0x40
	sChecksumType    = 0x50
	sNumFCBlks       = 0x54
	sHead            = 0x58
	sChecksum        = 0xfc
	sUsers           = 0x100

	checksumCRC32C = 4 // JBD2_CRC32C_CHKSUM, of s_checksum_type
)

// Features of the journal.
const (
	compatChecksum = 0x1

	incompatRevoke      = 0x1
	incompat64bit       = 0x2
	incompatAsyncCommit = 0x4
	incompatCsumV2      = 0x8
	incompatCsumV3      = 0x10
	incompatFastCommit  = 0x20
	incompatKnown       = 0x3f
)

const (
	// blocksMin is the least number of blocks a log may have (JBD2_MIN_JOURNAL_BLOCKS).
	blocksMin = 1024
	// fcBlocksDefault is what s_num_fc_blks 0 stands for (JBD2_DEFAULT_FAST_COMMIT_BLOCKS).
	fcBlocksDefault = 256
)

// struct journal_block_tag_s and, with checksums version 3, journal_block_tag3_s ("Descriptor
// Block"): a descriptor block is a list of them. A UUID follows a tag without flagSameUUID.
const (
	tBlocknr     = 0x0
	tChecksum    = 0x4 // 16 bits
	tFlags       = 0x6 // 16 bits
	tBlocknrHigh = 0x8 // with 64bit

	t3Blocknr     = 0x0
	t3Flags       = 0x4
	t3BlocknrHigh = 0x8
	t3Checksum    = 0xc

	tagSize32  = 8
	tagSize64  = 12
	tag3Size   = 16
	tagCsumV2  = 2 // what a tag is longer by with checksums version 2
	tagUUIDLen = 16
	// tailSize is the checksum at the end of descriptor and revoke blocks, version 2 and 3.
	tailSize = 4
)

// Bits of t_flags.
const (
	flagEscape   = 1 // the block begins with the magic number, which was replaced by 0
	flagSameUUID = 2 // no UUID follows
	flagDeleted  = 4 // never written by the kernel, nor looked at
	flagLastTag  = 8
)

// struct jbd2_journal_revoke_header_s ("Revocation Block"): block numbers of 4 or, with 64bit, 8
// bytes follow. r_count counts bytes, the header included.
const (
	rCount           = 0xc
	revokeHeaderSize = 16
)

// struct commit_header ("Commit Block").
const (
	hChksumType = 0xc
	hChksumSize = 0xd
	hChksum     = 0x10
	hCommitSec  = 0x30
	hCommitNsec = 0x38
	commitSize  = 0x40

	chksumCRC32     = 1 // JBD2_CRC32_CHKSUM, of h_chksum_type
	chksumCRC32Size = 4
)
