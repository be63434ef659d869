package ext4

import (
	"io"
	"maps"
	"slices"
)

// Editor is a Source whose blocks can be changed. In the daemon it is the Tx of an operation's
// attempt: what an attempt that stalls or fails has changed is undone, all of it at once, so that
// code in this package may change blocks and return an error at any point after it. Code that
// changes an Inode changes the caller's decoded copy; the caller writes it with WriteInode.
//
// A block that was changed stays the same memory for the rest of the attempt: slices of it, such
// as Inode.InBody, see the changes.
type Editor interface {
	Source
	// Modify returns block b to be changed. Checksums inside it are the caller's to set. Errors
	// as those of Block; ENOSPC if the step changes more blocks than it may.
	Modify(b Block) (Buf, error)
	// Fresh returns block b, which has just been allocated for metadata, as zeros to be changed.
	// It is not read.
	Fresh(b Block) (Buf, error)
	// Forget says that block b is freed and was metadata: a log that is replayed must not bring
	// it back.
	Forget(b Block)
	// Space is what is known in memory of free blocks and inodes; changes to it are undone like
	// those of blocks.
	Space() *Space
	// Now is the time of the operation, the same for all its attempts.
	Now() Timespec
	// Random is a random number of the operation, the same for all its attempts.
	Random() uint32
}

// Edit is an Editor in memory over a Source, for code that may block: fast-commit replay, tools,
// tests. Nothing is written before the caller writes what Changed returns.
type Edit struct {
	src   *ReaderSource
	dirty map[Block][]byte
	space *Space
	now   Timespec
	seed  uint32
	// Forgotten are the blocks that Forget was told of.
	Forgotten []Block
}

// NewEdit makes an Editor over the filesystem v in r. now is the time of all that it does.
func NewEdit(v *Volume, r io.ReaderAt, now Timespec) *Edit {
	return &Edit{src: NewReaderSource(r, v.BlockBits), dirty: map[Block][]byte{},
		space: NewSpace(v), now: now}
}

// Changed is a block with its new contents.
type Changed struct {
	Block Block
	Data  []byte
}

// Changed returns all changed blocks in order.
func (e *Edit) Changed() (list []Changed) {
	for _, b := range slices.Sorted(maps.Keys(e.dirty)) {
		list = append(list, Changed{b, e.dirty[b]})
	}
	return list
}

// WriteTo writes all changed blocks to w.
func (e *Edit) WriteTo(w io.WriterAt) error {
	for _, c := range e.Changed() {
		if _, err := w.WriteAt(c.Data, int64(c.Block)<<e.src.bits); err != nil {
			return err
		}
	}
	return nil
}

// Block returns a block as it is going to be. What was changed is verified anew each time.
func (e *Edit) Block(b Block) (Buf, error) {
	if data, ok := e.dirty[b]; ok {
		return Buf{data, new(Checked)}, nil
	}
	return e.src.Block(b)
}

// Want does nothing.
func (e *Edit) Want(Block) {}

// Modify returns block b to be changed.
func (e *Edit) Modify(b Block) (Buf, error) {
	if data, ok := e.dirty[b]; ok {
		return Buf{data, new(Checked)}, nil
	}
	buf, err := e.src.Block(b)
	if err != nil {
		return Buf{}, err
	}
	e.dirty[b] = buf.Data // NB: the same memory, see Editor; the source never writes it again
	return buf, nil
}

// Fresh returns block b as zeros.
func (e *Edit) Fresh(b Block) (Buf, error) {
	e.dirty[b] = make([]byte, 1<<e.src.bits)
	return Buf{e.dirty[b], new(Checked)}, nil
}

// Forget notes a freed block, which need not be written any more.
func (e *Edit) Forget(b Block) {
	delete(e.dirty, b)
	e.Forgotten = append(e.Forgotten, b)
}

// Space returns what is known of free blocks and inodes.
func (e *Edit) Space() *Space { return e.space }

// Now returns the time that was given.
func (e *Edit) Now() Timespec { return e.now }

// Random returns another number each time.
func (e *Edit) Random() uint32 {
	e.seed = e.seed*1664525 + 1013904223
	return e.seed
}
