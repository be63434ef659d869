package jbd2

import (
	"fmt"
	"io"

	"asyncfsd/vfs/ext4"
)

// Tid is the number of a transaction. It wraps around, so that only numbers which are close to
// each other can be compared.
type Tid uint32

// After says that t comes later than u.
func (t Tid) After(u Tid) bool { return int32(t-u) > 0 }

// LogBlock is the number of a block within the log; 0 is the journal's superblock.
type LogBlock uint32

// Storage is a device for synchronous I/O at any byte offset, all of it relative to the beginning
// of the filesystem or of the external journal.
type Storage interface {
	io.ReaderAt
	io.WriterAt
	// Flush returns when everything written before is on stable storage.
	Flush() error
	// Size is the number of bytes that there are.
	Size() int64
}

// Run says where Len blocks of the log from First on are on its device.
type Run struct {
	First LogBlock
	Phys  ext4.Block
	Len   uint32
}

// CorruptError says that the journal is not what the format allows, or that the log in it is
// damaged. Recovery refuses such a log as the kernel does; e2fsck may make something of it.
type CorruptError struct {
	What  string
	Block LogBlock // where it was found
	Tid   Tid      // the transaction, 0 if none
}

// Error formats the corruption as one line.
func (e *CorruptError) Error() string {
	if e.Tid != 0 {
		return fmt.Sprintf("corrupt journal: %s (transaction %d, log block %d)", e.What, e.Tid,
			e.Block)
	}
	return fmt.Sprintf("corrupt journal: %s (log block %d)", e.What, e.Block)
}

// superError is a CorruptError of the journal's superblock.
func superError(format string, args ...any) error {
	return &CorruptError{What: "superblock: " + fmt.Sprintf(format, args...)}
}

// FeatureError says that a journal has features which are not known here.
type FeatureError struct {
	Names []string // FEATURE_I6 and its like, as dumpe2fs names unknown bits
}

// Error lists the features.
func (e *FeatureError) Error() string {
	s := "unsupported features of the journal:"
	for i, name := range e.Names {
		if i > 0 {
			s += ","
		}
		s += " " + name
	}
	return s
}
