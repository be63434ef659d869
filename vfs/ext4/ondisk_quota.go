package ext4

// The quota inodes ("Special inodes") hold files in the format vfsv1 of the quota tools: blocks of
// quotaBlockSize, whatever those of the filesystem are. The first one is the header, the second one
// the root of a tree with quotaDepth levels of indexes, one for each byte of an id, the highest one
// first; entries lie in leaves, in no order.
const (
	quotaBlockBits = 10
	quotaBlockSize = 1 << quotaBlockBits
	quotaRoot      = 1
	quotaDepth     = 4
	quotaVersion   = 1
)

// quotaMagic begins the header of each type's file.
var quotaMagic = [quotaTypes]uint32{0xd9c01f11, 0xd9c01927, 0xd9c03f14}

// struct v2_disk_dqheader and v2_disk_dqinfo: the header.
const (
	qhMagic     = 0x00 // __le32
	qhVersion   = 0x04 // __le32
	qhBGrace    = 0x08 // __le32, seconds for which blocks may be above the soft limit
	qhIGrace    = 0x0c // __le32, the same of inodes
	qhBlocks    = 0x14 // __le32, of the file
	qhFreeBlk   = 0x18 // __le32, first of a list of unused blocks, 0 if there is none
	qhFreeEntry = 0x1c // __le32, first of a list of leaves with room, 0 if there is none
	qhSize      = 0x20
)

// struct qt_disk_dqdbheader: the beginning of a leaf.
const (
	qdNextFree = 0x0 // __le32, next one in the list the block is on
	qdPrevFree = 0x4 // __le32, of leaves with room
	qdEntries  = 0x8 // __le16
	qdSize     = 0x10
)

// struct v2r1_disk_dqblk: an entry. One that is all zeros is unused.
const (
	qeID         = 0x00 // __le32
	qeIHardLimit = 0x08 // __le64, inodes; 0 is none
	qeISoftLimit = 0x10 // __le64
	qeCurInodes  = 0x18 // __le64
	qeBHardLimit = 0x20 // __le64, units of quotaBlockSize; 0 is none
	qeBSoftLimit = 0x28 // __le64
	qeCurSpace   = 0x30 // __le64, bytes
	qeBTime      = 0x38 // __le64, until when the soft limit may be exceeded; 0 if it is not
	qeITime      = 0x40 // __le64; 1 where all else is zero: an entry of id 0 that is in use
	qeSize       = 0x48
)

// quotaEntriesMax is how many entries a leaf has.
const quotaEntriesMax = (quotaBlockSize - qdSize) / qeSize
