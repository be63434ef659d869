package ext4

// The layouts of this file follow "Extended Attributes" (attributes.rst) and "Inline Data"
// (inlinedata.rst) of the kernel's Documentation/filesystems/ext4.

// struct ext4_xattr_header: the beginning of an attribute block.
const (
	xhMagic    = 0x00 // __le32, xattrMagic
	xhRefcount = 0x04 // __le32, how many inodes share the block
	xhBlocks   = 0x08 // __le32, 1
	xhHash     = 0x0c // __le32, of all entries, to find blocks that can be shared
	xhChecksum = 0x10 // __le32, crc32c of filesystem seed, block number and block
	xhSize     = 0x20 // where the entries begin; values count from the start of the block
)

// struct ext4_xattr_ibody_header: the beginning of the attributes inside an inode.
const (
	xiMagic = 0x0 // __le32, xattrMagic; anything else means that there are none
	xiSize  = 0x4 // where the entries begin, and where values count from
)

// xattrMagic begins attribute blocks and the attributes inside inodes.
const xattrMagic = 0xea020000

// struct ext4_xattr_entry: entries follow one another, each padded to four bytes; four zero bytes
// end them. The values lie behind, at the end of the space.
const (
	xeNameLen   = 0x0 // __u8
	xeNameIndex = 0x1 // __u8, the prefix of the name: XattrIndexUser and its like
	xeValueOffs = 0x2 // __le16, where the value lies; counted as the header says
	xeValueInum = 0x4 // __le32, the inode that holds the value, 0 if it lies here
	xeValueSize = 0x8 // __le32, bytes
	xeHash      = 0xc // __le32, of name and value
	xeName      = 0x10
	xeSizeMin   = 0x10
	xePad       = 4
)

// Limits of attributes.
const (
	xattrNameMax  = 255     // of a name behind its prefix
	xattrSizeMax  = 1 << 24 // of a value, as the kernel reads it
	xattrListMax  = 64 << 10
	xattrEndBytes = 4 // the zero bytes behind the last entry
)

// On-disk form of a POSIX ACL (struct ext4_acl_header and ext4_acl_entry): a value of index
// XattrIndexACLAccess or XattrIndexACLDefault with an empty name.
const (
	aclVersion   = 0x0 // __le32, 1
	aclHeader    = 4
	aclTag       = 0x0 // __le16 e_tag
	aclPerm      = 0x2 // __le16 e_perm
	aclID        = 0x4 // __le32 e_id, of users and groups only
	aclShort     = 4   // bytes of an entry without e_id
	aclLong      = 8
	aclVersion1  = 1
	aclTagUser   = 0x02 // of a named user
	aclTagGroup  = 0x08 // of a named group
	aclTagOwner  = 0x01
	aclTagOwning = 0x04 // of the owning group
	aclTagMask   = 0x10
	aclTagOther  = 0x20
)

// inlineBlockSize is how much of a file with inline data lies in i_block; the rest is the value
// of the attribute "data" of index xattrIndexSystem.
const inlineBlockSize = 60

// inlineDirParent is how many bytes at the start of an inline directory hold the inode number
// of its parent; "." and ".." have no entries.
const inlineDirParent = 4

// fscrypt's struct fscrypt_symlink_data: the target of an encrypted symbolic link.
const (
	fslLen  = 0x0 // __le16, bytes of encrypted_path
	fslPath = 0x2
)
