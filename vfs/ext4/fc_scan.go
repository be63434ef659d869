package ext4

import (
	"fmt"
)

// FastCommits are the fast commits behind a log: what was made durable since the last transaction
// in it. They are scanned before the log is replayed, and replayed after it.
type FastCommits struct {
	// Commits is how many complete ones there are, and Tags how many changes in them.
	Commits, Tags int

	v       *Volume
	read    func(i int, p []byte) error
	records int // of the complete commits, all kinds
	regions []fcRegion
}

// fcRegion is a range of blocks that a fast commit gives to a file.
type fcRegion struct {
	first Block
	n     uint32
}

// fcRecord is one record.
type fcRecord struct {
	tag   int
	value []byte
	raw   []byte // tag and length included
}

// ScanFastCommits looks for fast commits to transaction tid in n blocks, which read reads.
// Everything behind the last complete one was never promised to anybody, and does not count.
// Errors: one line, if they need something that is not known here; those of read.
func (v *Volume) ScanFastCommits(n int, read func(i int, p []byte) error, tid uint32) (
	*FastCommits, error) {
	fc := &FastCommits{v: v, read: read}
	s := fcScanner{fc: fc, tid: tid}
	block := make([]byte, v.BlockSize)
	for i := 0; i < n && !s.done; i++ {
		if err := read(i, block); err != nil {
			return nil, err
		}
		if i == 0 && le16(block, fcTag) != fcTagHead {
			break
		}
		if err := s.block(block); err != nil {
			return nil, err
		}
	}
	fc.regions = fc.regions[:s.regions]
	return fc, nil
}

// fcScanner is the state of a scan.
type fcScanner struct {
	fc      *FastCommits
	tid     uint32
	crc     uint32 // of the records of this commit so far
	records int
	tags    int
	regions int // those of complete commits
	done    bool
}

// nextRecord returns the record at off. ok is false at the end of a block, and where there is no
// proper record.
func (v *Volume) nextRecord(block []byte, off int) (r fcRecord, next int, ok bool) {
	if off+fcBaseSize > len(block) {
		return r, off, false
	}
	n := int(le16(block, off+fcLen))
	next = off + fcBaseSize + n
	if next > len(block) {
		return r, off, false
	}
	r = fcRecord{int(le16(block, off+fcTag)), block[off+fcBaseSize : next], block[off:next]}
	return r, next, v.fcLenOK(r.tag, n)
}

// fcLenOK says whether a value can have that length.
func (v *Volume) fcLenOK(tag, n int) bool {
	switch tag {
	case fcTagAddRange:
		return n == fcRangeSize
	case fcTagDelRange:
		return n == fcDelSize
	case fcTagCreat, fcTagLink, fcTagUnlink:
		return n > fcDentryName && n <= fcDentryName+nameMax
	case fcTagInode:
		return n >= fcInodeRaw+inodeSizeGood && n <= fcInodeRaw+int(v.InodeSize)
	case fcTagPad:
		return true
	case fcTagTail:
		return n >= fcTailSize
	case fcTagHead:
		return n == fcHeadSize
	}
	return false
}

// block scans one block.
func (s *fcScanner) block(block []byte) error {
	for off := 0; !s.done && off+fcBaseSize <= len(block); {
		r, next, ok := s.fc.v.nextRecord(block, off)
		if !ok {
			s.done = true
			return nil
		}
		off = next
		s.records++
		if err := s.record(&r); err != nil {
			return err
		}
	}
	return nil
}

func (s *fcScanner) record(r *fcRecord) error {
	switch r.tag {
	case fcTagHead:
		if f := le32(r.value, fcHeadFeatures); f != 0 {
			return fmt.Errorf("fast commits with unknown features %#x", f)
		}
		if le32(r.value, fcHeadTid) != s.tid {
			s.done = true // of an earlier transaction
			return nil
		}
	case fcTagTail:
		crc := crc32c(s.crc, r.raw[:fcBaseSize+fcTailCrc])
		if le32(r.value, fcTailTid) != s.tid || le32(r.value, fcTailCrc) != crc {
			s.done = true
			return nil
		}
		s.crc = 0
		s.fc.records, s.fc.Tags, s.regions = s.records, s.tags, len(s.fc.regions)
		s.fc.Commits++
		return nil
	case fcTagAddRange:
		ex := decodeExtent(r.value[fcRangeEx:])
		s.fc.regions = append(s.fc.regions, fcRegion{ex.phys, ex.n})
		s.tags++
	case fcTagPad:
	default:
		s.tags++
	}
	s.crc = crc32c(s.crc, r.raw)
	return nil
}

// each visits the records of the complete commits in order.
func (fc *FastCommits) each(visit func(r *fcRecord) error) error {
	block := make([]byte, fc.v.BlockSize)
	left := fc.records
	for i := 0; left > 0; i++ {
		if err := fc.read(i, block); err != nil {
			return err
		}
		for off := 0; left > 0 && off+fcBaseSize <= len(block); {
			r, next, ok := fc.v.nextRecord(block, off)
			if !ok {
				return Corrupt("fast commits have changed", 0, 0, 0)
			}
			off = next
			left--
			if err := visit(&r); err != nil {
				return err
			}
		}
	}
	return nil
}
