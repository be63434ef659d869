package ext4

import (
	"fmt"

	"asyncfsd/blockdev"
)

// Block is a physical block number of the filesystem, in units of the block size.
type Block uint64

// Lblk is a logical block number within a file.
type Lblk uint32

// Ino is an inode number; the root directory is RootIno.
type Ino uint32

// Group is a block group number.
type Group uint32

// Checked is the verification memory of a cached block; its Kind holds kind* constants.
type Checked = blockdev.Checked

// Buf is one cached block: its bytes, valid until the attempt ends, and its verification memory.
type Buf struct {
	Data    []byte
	Checked *Checked
}

// Source hands out blocks. In the daemon it is the Tx of an operation's attempt: Block returns
// asyncq.ErrStall when the block is not there yet, and the error travels up unchanged until the
// attempt ends; the attempt is run again from its top once the block has arrived. Code in this
// package must therefore keep no state but through its arguments, return every error as it is,
// and touch a bounded number of blocks (BlocksPerStep) between two advances of a cursor.
type Source interface {
	// Block returns block b. Errors: asyncq.ErrStall, or a unix.Errno of the device.
	Block(b Block) (Buf, error)
	// Want names a block that is going to be needed, so that several are fetched in parallel.
	Want(b Block)
}

// BlocksPerStep is the most blocks one step of any function here may touch: the sum for the
// deepest one, a lookup in a three-level htree: group descriptor 1 + inode table 1 +
// (extent depth 5 nodes) for each of 3 index levels and the leaf 20 + those blocks 4 = 26.
const BlocksPerStep = 26

// CorruptError says that something on the disk is not what the format allows. It is made by
// Corrupt alone, so that corruption can be counted and logged in one place.
type CorruptError struct {
	What   string // the structure and what is wrong with it
	Where  Block  // the block it stands in, 0 if unknown
	Offset int    // byte offset within that block
	Ino    Ino    // the inode it belongs to, 0 if none
}

// Error formats the corruption as one line.
func (e *CorruptError) Error() string {
	if e.Ino != 0 {
		return fmt.Sprintf("corrupt filesystem: %s (inode %d, block %d, offset %d)",
			e.What, e.Ino, e.Where, e.Offset)
	}
	return fmt.Sprintf("corrupt filesystem: %s (block %d, offset %d)", e.What, e.Where, e.Offset)
}

// Corrupt makes the error for a damaged structure.
func Corrupt(what string, where Block, offset int, ino Ino) error {
	return &CorruptError{What: what, Where: where, Offset: offset, Ino: ino}
}
