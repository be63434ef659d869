package ext4

// Fast commits (fs/ext4/fast_commit.h in the kernel; "Fast commits" in journal.rst): records of a
// tag, a length, and a value of that length, all little-endian.
const (
	fcTag      = 0x0 // __le16 fc_tag
	fcLen      = 0x2 // __le16 fc_len, of the value
	fcBaseSize = 4

	fcTagAddRange = 1
	fcTagDelRange = 2
	fcTagCreat    = 3
	fcTagLink     = 4
	fcTagUnlink   = 5
	fcTagInode    = 6
	fcTagPad      = 7
	fcTagTail     = 8
	fcTagHead     = 9
)

// struct ext4_fc_head.
const (
	fcHeadFeatures = 0x0
	fcHeadTid      = 0x4
	fcHeadSize     = 8
)

// struct ext4_fc_tail.
const (
	fcTailTid  = 0x0
	fcTailCrc  = 0x4
	fcTailSize = 8
)

// struct ext4_fc_add_range: an inode number and an extent as in a leaf of an extent tree.
const (
	fcRangeIno  = 0x0
	fcRangeEx   = 0x4
	fcRangeSize = 16
)

// struct ext4_fc_del_range.
const (
	fcDelIno  = 0x0
	fcDelLblk = 0x4
	fcDelLen  = 0x8
	fcDelSize = 12
)

// struct ext4_fc_dentry_info.
const (
	fcDentryParent = 0x0
	fcDentryIno    = 0x4
	fcDentryName   = 0x8
)

// struct ext4_fc_inode.
const (
	fcInodeIno = 0x0
	fcInodeRaw = 0x4
)
