package ext4

import "io"

// ReaderSource is a Source over an io.ReaderAt, for code that may block: at mount time, in tools
// and tests. It keeps the last few blocks. It never stalls.
type ReaderSource struct {
	r      io.ReaderAt
	bits   uint8
	blocks [readerBlocks]readerBlock
	hand   int
}

// readerBlocks is how many blocks stay: those of two lookups (BlocksPerStep), so that nothing a
// step has in hand is overwritten.
const readerBlocks = 64

type readerBlock struct {
	b       Block
	data    []byte
	checked Checked
}

// NewReaderSource makes a Source of blocks of 1<<blockBits bytes.
func NewReaderSource(r io.ReaderAt, blockBits uint8) *ReaderSource {
	return &ReaderSource{r: r, bits: blockBits}
}

// Block reads block b. Errors: a unix.Errno.
func (s *ReaderSource) Block(b Block) (Buf, error) {
	for i := range s.blocks {
		if e := &s.blocks[i]; e.data != nil && e.b == b {
			return Buf{e.data, &e.checked}, nil
		}
	}
	e := &s.blocks[s.hand]
	s.hand = (s.hand + 1) % readerBlocks
	data := make([]byte, 1<<s.bits)
	*e = readerBlock{b: b}
	if _, err := s.r.ReadAt(data, int64(b)<<s.bits); err != nil {
		return Buf{}, readErr(err)
	}
	e.data = data
	return Buf{data, &e.checked}, nil
}

// Want does nothing.
func (s *ReaderSource) Want(Block) {}

// FileReader reads the data of a regular file, or of the journal, as an io.ReaderAt.
type FileReader struct {
	v   *Volume
	src *ReaderSource
	in  Inode
}

// OpenFile opens inode ino for reading through src.
func (v *Volume) OpenFile(src *ReaderSource, ino Ino) (*FileReader, error) {
	f := &FileReader{v: v, src: src}
	return f, v.ReadInode(src, ino, &f.in)
}

// Inode returns the file's inode.
func (f *FileReader) Inode() *Inode { return &f.in }

// ReadAt reads len(p) bytes at off; io.EOF at the end of the file.
func (f *FileReader) ReadAt(p []byte, off int64) (n int, err error) {
	for n < len(p) && uint64(off) < f.in.Size {
		var run Run
		size := int64(f.v.BlockSize)
		if err := f.v.Map(f.src, &f.in, Lblk(off/size), 1, &run); err != nil {
			return n, err
		}
		within := off % size
		part := p[n:min(len(p), n+int(min(size-within, int64(f.in.Size)-off)))]
		clear(part)
		if run.State == RunMapped {
			buf, err := f.src.Block(run.Phys)
			if err != nil {
				return n, err
			}
			copy(part, buf.Data[within:])
		}
		n += len(part)
		off += int64(len(part))
	}
	if n < len(p) {
		return n, io.EOF
	}
	return n, nil
}
