package ext4

// Volume is the decoded geometry of one filesystem: what the superblock says, in memory units,
// fixed for the life of a mount. It holds no blocks; those come from a Source.
type Volume struct {
	// Super is a private copy of the superblock as read.
	Super   [SuperSize]byte
	superAt int64 // the byte where it stands

	BlockSize uint32 // bytes
	BlockBits uint8  // log2 of BlockSize
	// ClusterBits is log2 of the blocks in a cluster; 0 without bigalloc.
	ClusterBits      uint8
	InodeSize        uint16 // bytes of an inode on disk
	DescSize         uint16 // bytes of a group descriptor: 32, or 64 and more with 64bit
	FirstDataBlock   Block
	BlocksCount      Block
	BlocksPerGroup   uint32
	ClustersPerGroup uint32
	InodesCount      Ino
	InodesPerGroup   uint32
	GroupsCount      Group
	FirstInode       Ino // first inode that is not reserved

	Compat, Incompat, ROCompat uint32

	// CsumSeed is the starting value of every metadata_csum checksum: crc32c of the UUID, or
	// s_checksum_seed with metadata_csum_seed.
	CsumSeed uint32

	HashSeed       [4]uint32 // s_hash_seed, for htree
	HashUnsigned   bool      // names are hashed as unsigned chars (s_flags)
	DefHashVersion uint8     // s_def_hash_version

	UUID  [16]byte
	Label string

	// Warnings are what Open found wrong without refusing the filesystem.
	Warnings []string

	itable       []Block      // location of each group's inode table
	groups       []groupSpace // of the group descriptors when opened
	freeClusters uint64       // sums over them
	freeInodes   uint64
	overhead     uint64 // blocks of metadata; see SetOverhead

	// nodeEntries is how many entries new nodes of extent trees have room for, if it is not 0: a
	// test makes it few, which makes trees deep.
	nodeEntries int
}

// Timespec is a point in time as an inode holds it.
type Timespec struct {
	Sec  int64
	Nsec uint32
}

// Before says that t is earlier than u.
func (t Timespec) Before(u Timespec) bool {
	return t.Sec < u.Sec || t.Sec == u.Sec && t.Nsec < u.Nsec
}

// Inode is a decoded inode. It is a value of one attempt: InBody aliases the cached block.
type Inode struct {
	Ino        Ino
	Mode       uint16 // i_mode: type and permissions
	UID, GID   uint32
	Size       uint64 // bytes
	Links      uint32
	Dtime      uint32 // i_dtime: when it was deleted, or the next inode of the orphan list
	Sectors    uint64 // i_blocks in units of 512 bytes, huge_file resolved
	Flags      uint32 // i_flags, FlagExtents and its like
	Generation uint32
	ProjID     uint32
	FileACL    Block // extended attribute block, 0 if none
	Version    uint64

	Atime, Mtime, Ctime, Crtime Timespec

	// IBlock is i_block: extent root, block map, fast symlink, device number or inline data.
	IBlock [60]byte
	// ExtraISize is i_extra_isize, 0 for 128-byte inodes.
	ExtraISize uint16
	// InBody is the space behind the extra fields: in-inode extended attributes, inline data.
	InBody []byte
	// Where and Offset say in which block the inode stands, for messages.
	Where  Block
	Offset int
}
