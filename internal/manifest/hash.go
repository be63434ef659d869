package manifest

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"io"
)

// HashWholeMax is the size in bytes up to which the hash of a file is the plain SHA-256 of its
// content, as sha256sum prints it. Larger files of the test images are sparse, up to terabytes,
// and are hashed by their non-zero blocks.
const HashWholeMax = 16 << 20

// hashBlock is the unit of the sparse hash. It is not the filesystem's block size, so that the
// hash depends on the content alone.
const hashBlock = 4096

// readerAt reads len(p) bytes at off or fails; it is io.ReaderAt as a function.
type readerAt func(p []byte, off int64) (int, error)

// HashData returns the hash of a file's content in hexadecimal. Up to HashWholeMax bytes it is
// the SHA-256 of the content. Beyond, it is the SHA-256 over every aligned 4096-byte block that
// is not all zero (the last one filled up with zeros), each preceded by its byte offset as 8
// bytes big-endian, followed by the size in the same form. data says where to look for
// blocks that may be non-zero; nil means everywhere. read is as io.ReaderAt's ReadAt.
func HashData(size int64, data []Segment, read func(p []byte, off int64) (int, error)) (
	string, error) {
	if size <= HashWholeMax {
		return hashWhole(size, read)
	}
	if data == nil {
		data = []Segment{{0, size}}
	}
	h := sha256.New()
	block := make([]byte, 8+hashBlock)
	next := int64(0)
	for _, s := range data {
		// NB: segments may begin and end within a block; each block is hashed once.
		off := max(s.Off&^(hashBlock-1), next)
		for ; off < s.End; off += hashBlock {
			if err := readFull(read, block[8:], off, size); err != nil {
				return "", err
			}
			binary.BigEndian.PutUint64(block, uint64(off))
			if !allZero(block[8:]) {
				h.Write(block)
			}
		}
		next = max(off, next)
	}
	h.Write(binary.BigEndian.AppendUint64(nil, uint64(size)))
	return hex.EncodeToString(h.Sum(nil)), nil
}

func hashWhole(size int64, read readerAt) (string, error) {
	h := sha256.New()
	buf := make([]byte, min(size, 1<<20))
	for off := int64(0); off < size; off += int64(len(buf)) {
		buf = buf[:min(int64(len(buf)), size-off)]
		if err := readFull(read, buf, off, size); err != nil {
			return "", err
		}
		h.Write(buf)
	}
	return hex.EncodeToString(h.Sum(nil)), nil
}

// readFull fills p from off; what lies behind size is zero.
func readFull(read readerAt, p []byte, off, size int64) error {
	want := int(min(int64(len(p)), size-off))
	clear(p[max(want, 0):])
	for have := 0; have < want; {
		n, err := read(p[have:want], off+int64(have))
		have += n
		if have == want {
			return nil
		}
		if err == nil && n == 0 || err == io.EOF {
			return fmt.Errorf("manifest: file ends at %d, not at %d", off+int64(have), size)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

func allZero(p []byte) bool {
	for _, b := range p {
		if b != 0 {
			return false
		}
	}
	return true
}

// XattrValue is how a manifest shows the value of an extended attribute: in hexadecimal up to 32
// bytes, as "sha256:HASH:LENGTH" beyond.
func XattrValue(value []byte) string {
	if len(value) <= 32 {
		return hex.EncodeToString(value)
	}
	sum := sha256.Sum256(value)
	return fmt.Sprintf("sha256:%x:%d", sum, len(value))
}
