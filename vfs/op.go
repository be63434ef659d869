package vfs

import (
	"golang.org/x/sys/unix"

	"asyncfsd/asyncq"
	"asyncfsd/blockdev"
	"asyncfsd/vfs/ext4"
)

// Code says what an operation does. Each has a row in opTable.
type Code uint8

// The operations.
const (
	OpNone        Code = iota
	OpLookup           // Node, Name → Entry, Attr
	OpGetattr          // Node → Attr
	OpReadlink         // Node → payload
	OpRead             // Node, Off, Size → payload
	OpReaddir          // Node, Off (cookie), Size → payload, through Front.AddDirent
	OpReaddirPlus      // the same with attributes
	OpStatfs           // → the volume's counts, see FS.StatFS
	OpGetxattr         // Node, Name, Size → payload, or with Size 0 its length in Value
	OpListxattr        // Node, Size → payload, or with Size 0 its length in Value
	OpAccess           // Node, Arg (mask of R_OK, W_OK, X_OK)
	OpLseek            // Node, Off, Arg (SEEK_DATA or SEEK_HOLE) → Value
	OpBmap             // Node, Off (logical block in units of Arg bytes) → Value

	// Those that write. Names in Name (and Name2); a new inode's owner is Cred's.

	OpSetattr     // Node, Set with Valid → Attr
	OpMknod       // Node (directory), Name, Mode, Umask, Rdev → Attr; any type but directory
	OpMkdir       // Node, Name, Mode, Umask → Attr
	OpSymlink     // Node, Name, payload: target, Size its length → Attr
	OpTmpfile     // Node, Mode, Umask → Attr; a file without a name
	OpLink        // Node (the file), Node2 (directory), Name → Attr
	OpUnlink      // Node, Name
	OpRmdir       // Node, Name
	OpRename      // Node, Name, Node2, Name2, Arg (RENAME_* flags)
	OpWrite       // Node, Off, Size, payload; Arg (Write* flags) → N bytes written
	OpFsync       // Node, Arg 1: data only; Node 0: the whole filesystem
	OpFallocate   // Node, Off, Len, Arg (FALLOC_FL_* mode) → Attr
	OpCopy        // Node, Off (to), Node2, Off2 (from), Len → Value bytes copied
	OpSetxattr    // Node, Name, payload: value, Size its length, Arg (XATTR_* flags, Acl*)
	OpRemovexattr // Node, Name
	OpSetflags    // Node, Arg (FS_*_FL)
	OpSetproject  // Node, Arg (ext4 flags), Valid, Set.ProjID: FS_IOC_FSSETXATTR
	OpSetlabel    // Name
	OpTrim        // Off, Len, Off2 (least length of a range) → Value bytes discarded
	OpShutdown    // Arg (EXT4_GOING_FLAGS_*)
	OpCheckpoint  // Arg (Checkpoint* flags)
	OpEvict       // Node, an inode that the kernel has forgotten; no reply
	OpTouch       // Node was read: its time of access; no reply
	opCount
)

// Attr is what stat tells of an inode.
type Attr struct {
	Ino        ext4.Ino
	Mode       uint32 // type and permissions
	Nlink      uint32
	UID, GID   uint32
	Rdev       uint32
	Size       uint64 // bytes
	Sectors    uint64 // units of 512 bytes
	Blksize    uint32 // bytes
	Generation uint32
	ProjID     uint32
	Flags      uint32 // ext4 inode flags (FS_*_FL)

	Atime, Mtime, Ctime, Crtime ext4.Timespec
}

// runsMax is the most pieces of the device that one data stage of a read fetches: a fragmented
// megabyte takes several rounds, a contiguous one takes one.
const runsMax = 32

// dataRun is one contiguous piece of device that goes to one place of the payload.
type dataRun struct {
	off    int64  // byte offset on the device
	at     uint32 // byte offset in the payload
	length uint32 // bytes
	blocks uint32 // of a discard
	kind   runKind
}

// runKind says what memory a run has.
type runKind uint8

const (
	runPayload runKind = iota
	runEdge            // the operation's second buffer
	runZeros           // zeros to be written
	runDiscard         // none: blocks blocks are discarded
)

// piece is a range of blocks that a write has filled, and that is to become part of its file.
type piece struct {
	lblk    ext4.Lblk
	phys    ext4.Block
	n       uint32
	convert bool // was unwritten, and part of the file before; else a hole
	owned   bool // in a cluster that is the file's before; else reserved
}

// piecesMax is the most ranges of blocks that one round of a write makes part of its file.
const piecesMax = 4

// Op is the frozen state of one operation: what it was asked, how far it is, and its result. It
// has no pointers.
type Op struct {
	// What was asked; set by the front before Submit.

	Code  Code
	Front FrontID
	// Tag is the front's own: the request's unique number, an index.
	Tag  uint64
	Cred Cred
	Node ext4.Ino
	Off  uint64
	Size uint32
	Arg  uint32
	// What only some of the writing operations have.
	Node2       ext4.Ino
	Off2, Len   uint64
	Mode, Umask uint32
	Rdev        uint32
	Valid       uint32 // Set* bits
	Set         Attr
	// Name2 is the first Name2Len bytes of Name2Buf.
	Name2Len uint16
	Name2Buf [256]byte
	// Name is the first NameLen bytes of NameBuf.
	NameLen uint16
	NameBuf [256]byte

	// The result; for the front when it is asked to reply.

	Errno unix.Errno
	// N is the number of payload bytes, which start at BufOff of buffer Buf's payload.
	N      uint32
	BufOff uint32
	Buf    blockdev.BufID
	Value  uint64
	// Killed says that a write or an allocation took setuid, setgid or capabilities of the file.
	Killed bool
	Attr   Attr // Attr.Ino 0 after OpLookup: the name does not exist

	// How far it is.

	pos      uint64 // cursor: bytes done, directory cookie
	lookup   ext4.LookupCursor
	lookup2  ext4.LookupCursor // of the target of a rename
	empty    ext4.LookupCursor // of the look whether a directory is empty
	add      ext4.AddCursor
	xattr    ext4.XattrCursor
	seek     ext4.SeekCursor
	attempts uint32
	inflight uint16
	moved    uint32 // bytes that the data stage has read
	nruns    uint8
	npins    uint8
	ticket   bool
	more     bool // data stage goes back to prepare
	ioErr    unix.Errno
	// Of those that write.
	now     ext4.Timespec // when it began
	seed    uint32        // random
	tid     uint32        // the last transaction that has changes of it, or is durable anyway
	phase   uint8         // the operation's own: which of its steps is next
	writes  bool          // the runs are written, not read
	touch   bool          // a read that sets the time of the last access
	sync    bool          // durable before the reply
	late    bool          // its transaction was closed before it began to wait for that
	reading bool          // counted among the readers
	parity  uint8
	locked  bool
	behind  bool // replied to, with its data on their way
	npieces uint8
	edge    blockdev.BufID
	edges   uint8 // which sectors of the write lie in edge
	zero    [2]byteRange
	// roundEnd is where the round of a write under way ends, in bytes of the file.
	roundEnd uint64
	victim   ext4.Ino // inode to be freed afterwards if nobody holds it
	to       ext4.Lblk
	pieces   [piecesMax]piece
	pins     [blockdev.PinsMax]blockdev.Frame
	runs     [runsMax]dataRun
}

// Name returns the operation's name argument.
func (op *Op) Name() []byte { return op.NameBuf[:op.NameLen] }

// SetName copies a name of at most 255 bytes into op; ENAMETOOLONG if it is longer.
func (op *Op) SetName(name []byte) unix.Errno {
	if len(name) > 255 {
		return unix.ENAMETOOLONG
	}
	op.NameLen = uint16(copy(op.NameBuf[:], name))
	return 0
}

// Name2 returns the operation's second name.
func (op *Op) Name2() []byte { return op.Name2Buf[:op.Name2Len] }

// SetName2 is SetName for the second name.
func (op *Op) SetName2(name []byte) unix.Errno {
	if len(name) > 255 {
		return unix.ENAMETOOLONG
	}
	op.Name2Len = uint16(copy(op.Name2Buf[:], name))
	return 0
}

// Bits of Op.Valid: which fields of Op.Set count.
const (
	SetMode = 1 << iota
	SetUID
	SetGID
	SetSize
	SetAtime
	SetMtime
	SetCtime
	SetAtimeNow    // Set.Atime is the time of the operation
	SetMtimeNow    // Set.Mtime is the time of the operation
	SetKillSuidgid // the file loses setuid and setgid bits as a write takes them
	SetProject
)

// Bits of Op.Arg of OpWrite.
const (
	WriteKillSuidgid = 1 << iota // setuid and setgid bits go
	WriteSync                    // O_SYNC or O_DSYNC: durable before the reply
	WriteAppend                  // O_APPEND
	WriteCached                  // from the page cache: times are set by the kernel itself
	WriteBehind                  // the reply need not wait for the device, see FS.follow
	WriteDirect                  // O_DIRECT, see FS.mayCut
)

// Stages of a slot. A slot of the public API begins at stage 0, the fronts' at stagePrepare.
const (
	stagePublic asyncq.Stage = iota
	stagePrepare
	stageData
	stageDurable
)

// Kinds of wants: every reason for which an operation can stop. They are kept in the parked
// descriptor for statistics and messages.
const (
	wantBlock    uint8 = iota + 1 // a metadata block (block cache), or a ticket to wait for one
	wantBuffer                    // a payload buffer (arena)
	wantData                      // its own data I/O
	wantEvicted                   // the blocks of a deleted file
	wantJournal                   // room in the journal, a commit, or the machine's own I/O
	wantRange                     // a range of a file
	wantTime                      // that some time passes
	wantInjected                  // nothing: a stall injected by a test
)

// prepareFunc is the first stage of an operation: sequential code that may stall.
type prepareFunc func(fs *FS, tx *Tx, op *Op) error

// opRow is the row of an operation in opTable.
type opRow struct {
	name    string
	prepare prepareFunc
	// credits of an operation that writes: the most blocks that one step of it changes; quota is
	// how many more there are on a filesystem that has quotas.
	credits, quota int
}

// Credits, in blocks. A bitmap comes with its group descriptor.
const (
	creditsInode = 1
	creditsAlloc = 2
	// creditsTree: an insertion into an extent tree of depth 5 that splits every node: 5 nodes
	// and as many new ones, each allocated in a group of its own at worst. A node that splits up
	// to the root is rare enough for the real bound, editsMax, to be checked instead: 3 splits.
	creditsTree = 5 + 3*(1+creditsAlloc)
	// creditsOrphan: superblock, and the neighbours on the list, or a block of the orphan file.
	creditsOrphan = 3
	// creditsEntry: a leaf that splits, index blocks of 3 levels that split, each with mapping.
	creditsEntry = 4*(1+creditsAlloc) + creditsTree + 4
	// creditsWrite: a round of a write.
	creditsWrite = piecesMax*(creditsAlloc+8) + creditsTree + 1
	creditsXattr = 2*creditsAlloc + 3
	// creditsDrop: a value in an inode of its own that is given up.
	creditsDrop = creditsInode + creditsOrphan
	// creditsValue: such a value of 64 KiB in blocks of 1 KiB, in two runs, and its inode.
	creditsValue = 64 + 2*creditsAlloc + creditsInode + creditsAlloc + 1
	// creditsNew: a new inode with bitmap, block bitmap of an unused group, and attributes.
	creditsNew = creditsInode + creditsAlloc + 1 + creditsXattr
	// creditsWiden: attributes that move to a block of their own; see Code.widens.
	creditsWiden = creditsAlloc + 3
	// creditsOwner: the quotas of whom one inode belongs to: user, group and project.
	creditsOwner = 3
	// creditsNewOwner: the same where each needs a new entry, in a leaf and three indexes that are
	// new, too: bitmap, index above, header and inode of the file with that.
	creditsNewOwner = creditsOwner * (4 + creditsAlloc + 3)
	// creditsRemove: what one call of RemoveRuns changes.
	creditsRemove = 40
)

var opTable = [opCount]opRow{
	OpLookup:      {"lookup", prepareLookup, 0, 0},
	OpGetattr:     {"getattr", prepareGetattr, 0, 0},
	OpReadlink:    {"readlink", prepareReadlink, 0, 0},
	OpRead:        {"read", prepareRead, 0, 0},
	OpReaddir:     {"readdir", prepareReaddir, 0, 0},
	OpReaddirPlus: {"readdirplus", prepareReaddir, 0, 0},
	OpStatfs:      {"statfs", prepareStatfs, 0, 0},
	OpGetxattr:    {"getxattr", prepareGetxattr, 0, 0},
	OpListxattr:   {"listxattr", prepareListxattr, 0, 0},
	OpAccess:      {"access", prepareAccess, 0, 0},
	OpLseek:       {"lseek", prepareLseek, 0, 0},
	OpBmap:        {"bmap", prepareBmap, 0, 0},

	OpSetattr: {"setattr", prepareSetattr,
		creditsRemove + creditsOrphan + creditsXattr + creditsWiden + 1,
		creditsNewOwner + creditsOwner},
	OpMknod: {"mknod", prepareMknod,
		creditsNew + creditsEntry + 1, creditsNewOwner + creditsOwner},
	OpMkdir: {"mkdir", prepareMkdir,
		creditsNew + creditsEntry + 4, creditsNewOwner + creditsOwner},
	OpSymlink: {"symlink", prepareSymlink,
		creditsNew + creditsEntry + 4, creditsNewOwner + creditsOwner},
	OpTmpfile: {"tmpfile", prepareTmpfile, creditsNew + creditsOrphan, creditsNewOwner},
	OpLink:    {"link", prepareLink, creditsEntry + creditsOrphan + 2, creditsOwner},
	OpUnlink:  {"unlink", prepareUnlink, creditsOrphan + 4, 0},
	OpRmdir:   {"rmdir", prepareRmdir, creditsOrphan + 4, 0},
	OpRename: {"rename", prepareRename,
		creditsEntry + creditsNew + creditsOrphan + 8, creditsNewOwner + 2*creditsOwner},
	OpWrite: {"write", prepareWrite, creditsWrite + creditsWiden, creditsOwner},
	OpFsync: {"fsync", prepareFsync, 0, 0},
	OpFallocate: {"fallocate", prepareFallocate,
		creditsRemove + creditsTree + creditsAlloc + 1, creditsOwner},
	OpCopy: {"copy", prepareCopy, creditsWrite, creditsOwner},
	OpSetxattr: {"setxattr", prepareSetxattr,
		creditsXattr + creditsValue + creditsDrop + 1, creditsOwner},
	OpRemovexattr: {"removexattr", prepareRemovexattr,
		creditsXattr + creditsDrop + 1, creditsOwner},
	OpSetflags: {"setflags", prepareSetflags, creditsInode + creditsWiden, creditsOwner},
	OpSetproject: {"setproject", prepareSetproject,
		creditsInode + creditsWiden, creditsNewOwner + creditsOwner},
	OpSetlabel:   {"setlabel", prepareSetlabel, 1, 0},
	OpTrim:       {"trim", prepareTrim, 2 * groupsPerTrim, 0},
	OpShutdown:   {"shutdown", prepareShutdown, 0, 0},
	OpCheckpoint: {"checkpoint", prepareCheckpoint, 0, 0},
	OpTouch:      {"touch", prepareTouch, creditsInode, 0},
	OpEvict: {"evict", prepareEvict,
		creditsRemove + creditsXattr + creditsOrphan + 4, creditsOwner},
}

// widens says whether an operation may move attributes out of the one inode that it changes, to
// give it the extra fields that it lacks. Others do that only where it costs nothing.
func (c Code) widens() bool {
	switch c {
	case OpSetattr, OpWrite, OpSetflags, OpSetproject:
		return true
	}
	return false
}

// String returns the operation's name.
func (c Code) String() string { return opTable[c].name }
