package ext4

import "encoding/binary"

// The layouts of this file follow "Directory Entries" (directory.rst) of the kernel's
// Documentation/filesystems/ext4. All numbers on the disk are little-endian.

// struct ext4_dir_entry_2: a directory block is a list of these, each rec_len bytes long.
const (
	deInode    = 0x0 // __le32 inode, 0 for an unused entry
	deRecLen   = 0x4 // __le16 rec_len, encoded for 64 KiB blocks, see recLen
	deNameLen  = 0x6 // __u8 name_len
	deFileType = 0x7 // __u8 file_type; part of name_len, and 0, without the filetype feature
	deName     = 0x8 // name[name_len], no terminator
	// deHashSize is the size of struct ext4_dir_entry_hash (__le32 hash, __le32 minor_hash), which
	// follows the name, padded to four bytes, in directories both encrypted and casefolded.
	deHashSize = 8
	// deSizeMin is the length of an entry whose name has one to four bytes.
	deSizeMin = 12
	nameMax   = 255
)

// Values of file_type.
const (
	fileTypeUnknown = 0x0
	fileTypeRegular = 0x1
	fileTypeDir     = 0x2
	fileTypeChar    = 0x3
	fileTypeBlock   = 0x4
	fileTypeFifo    = 0x5
	fileTypeSock    = 0x6
	fileTypeSymlink = 0x7
	fileTypeCsum    = 0xde // marks struct ext4_dir_entry_tail
)

// struct ext4_dir_entry_tail: the last bytes of a leaf block with metadata_csum. It looks like
// an unused entry to those who do not know it.
const (
	detReservedZero1 = 0x0 // __le32, where an entry has its inode
	detRecLen        = 0x4 // __le16, 12
	detReservedZero2 = 0x6 // __u8, where an entry has name_len
	detReservedFT    = 0x7 // __u8, fileTypeCsum
	detChecksum      = 0x8 // __le32, crc32c of inode seed and the block up to the tail
	detSize          = 12
)

// struct dx_root: the first block of an indexed directory. The entries "." and ".." come first,
// the second of them covering the rest of the block.
const (
	dxDotDot      = 0x0c // where the entry ".." begins
	dxInfo        = 0x18 // struct dx_root_info begins
	dxHashVersion = 0x1c // __u8 info.hash_version
	dxInfoLength  = 0x1d // __u8 info.info_length, 8
	dxLevels      = 0x1e // __u8 info.indirect_levels, 0 if the root points to leaves
	dxFlags       = 0x1f // __u8 info.unused_flags, bit 0 must not be set
	dxInfoSize    = 8    // what info_length must be for the checksum to be found
)

// struct dx_node: any other index block. It begins with an unused directory entry that covers
// all of the block.
const dxNodeEntries = 0x8 // struct dx_countlimit and the entries

// struct dx_entry; in place of the first one's hash stands struct dx_countlimit.
const (
	dxeHash   = 0x0 // __le32 hash; bit 0: names with this hash begin in the block before
	dxeBlock  = 0x4 // __le32 block, a logical block of the directory, in the low 28 bits
	dxclLimit = 0x0 // __le16 limit: how many entries there is room for
	dxclCount = 0x2 // __le16 count: how many there are, including the first
	dxeSize   = 8
	dxeMask   = 0x0fffffff
)

// struct dx_tail: behind the room for entries of an index block, with metadata_csum.
const (
	dtReserved = 0x0 // __le32
	dtChecksum = 0x4 // __le32
	dtSize     = 8
)

// Compile-time check of sizes that are used as sums elsewhere.
var (
	_ = [1]struct{}{}[detChecksum+4-detSize]
	_ = [1]struct{}{}[dxFlags+1-dxInfo-dxInfoSize]
	_ = [1]struct{}{}[dtChecksum+4-dtSize]
)

func le16(b []byte, off int) uint16 { return binary.LittleEndian.Uint16(b[off:]) }
func le32(b []byte, off int) uint32 { return binary.LittleEndian.Uint32(b[off:]) }

// recLen decodes the length of the entry at off. Blocks of 64 KiB need a length that does not
// fit into 16 bits: there 0 and 65535 stand for the whole block, and the two low bits, always 0
// otherwise, are bits 16 and 17.
func recLen(block []byte, off int) int {
	n := int(le16(block, off+deRecLen))
	if len(block) < 65536 {
		return n
	}
	if n == 65535 || n == 0 {
		return len(block)
	}
	return n&65532 | n&3<<16
}

// entrySize is how long an entry with such a name must be; hashed says that hashes follow it.
func entrySize(nameLen int, hashed bool) int {
	n := (deName + nameLen + 3) &^ 3
	if hashed {
		n += deHashSize
	}
	return n
}
