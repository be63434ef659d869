package ext4

import (
	"errors"

	"golang.org/x/sys/unix"
)

// The index of a directory ("Hash Tree Directories"): a tree of dx_entry arrays, each sorted by
// the hash from which on names are in its block. All blocks are blocks of the directory.

// errBadIndex says that the index cannot be used, and that the directory is to be searched block
// by block. Damage that a checksum shows, or blocks that are not there, are CorruptError instead.
var errBadIndex = errors.New("ext4: unusable directory index")

// dxLevelsMax is the most index blocks on the way to a leaf, with large_dir; 2 without.
const dxLevelsMax = 3

// dxPath leads from the root of an index to a leaf.
type dxPath struct {
	hasher hasher
	depth  int // index blocks on the path
	frames [dxLevelsMax]dxFrame
}

// dxFrame is one index block and the place in it.
type dxFrame struct {
	lblk    Lblk
	where   Block
	entries []byte // dx_countlimit and the entries, as many as there are
	room    int    // how many there may be
	at      int
}

func (f *dxFrame) count() int        { return len(f.entries) / dxeSize }
func (f *dxFrame) hash(i int) uint32 { return le32(f.entries, i*dxeSize+dxeHash) }
func (f *dxFrame) block(i int) Lblk  { return Lblk(le32(f.entries, i*dxeSize+dxeBlock) & dxeMask) }

// full says whether the block has no room for another entry.
func (f *dxFrame) full() bool { return f.count() >= f.room }

// leaf returns the block that the path leads to.
func (p *dxPath) leaf() Lblk {
	f := &p.frames[p.depth-1]
	return f.block(f.at)
}

// begins returns the hash with which the leaf begins, bit 0 as in dxNext.
func (p *dxPath) begins() uint32 {
	for level := p.depth - 1; level >= 0; level-- {
		if f := &p.frames[level]; f.at > 0 {
			return f.hash(f.at)
		}
	}
	return 0
}

// peek returns the hash with which the next leaf begins; ok is false at the end.
func (p *dxPath) peek() (hash uint32, ok bool) {
	for level := p.depth - 1; level >= 0; level-- {
		if f := &p.frames[level]; f.at+1 < f.count() {
			return f.hash(f.at + 1), true
		}
	}
	return 0, false
}

// dxOpen reads the root of dir's index. errBadIndex if it is of no use.
func (v *Volume) dxOpen(src Source, dir *Inode, p *dxPath) error {
	data, where, err := v.dxBlock(src, dir, 0)
	if err != nil {
		return err
	}
	p.frames[0].where = where
	var ok bool
	if p.hasher, ok = v.hasher(data[dxHashVersion]); !ok {
		return errBadIndex
	}
	p.depth = int(data[dxLevels]) + 1
	depthMax := dxLevelsMax
	if !v.HasIncompat(IncompatLargedir) {
		depthMax--
	}
	if (p.hasher.version == hashSip) != hashInEntry(dir) || data[dxFlags]&1 != 0 ||
		p.depth > depthMax || recLen(data, 0) == len(data) {
		return errBadIndex
	}
	off := dxInfo + int(data[dxInfoLength])
	return p.frames[0].fill(data, off, v.dxRoom(data, off))
}

// dxRoom is how many entries an index block must have room for, if they begin at off.
func (v *Volume) dxRoom(data []byte, off int) int {
	if v.csummed() {
		off += dtSize
	}
	return (len(data) - off) / dxeSize
}

// fill takes the entries of an index block that begin at off. errBadIndex if the block does not
// say itself that there is room for so many, or has more.
func (f *dxFrame) fill(data []byte, off, room int) error {
	n := int(le16(data, off+dxclCount))
	if int(le16(data, off+dxclLimit)) != room || n < 1 || n > room {
		return errBadIndex
	}
	f.entries, f.room, f.at = data[off:off+n*dxeSize], room, 0
	return nil
}

// dxDescend goes from the root to the leaf where names of that hash begin.
func (v *Volume) dxDescend(src Source, dir *Inode, hash uint32, p *dxPath) error {
	for level := 0; ; level++ {
		f := &p.frames[level]
		// The last entry that is not above hash; the first has none, and begins at 0.
		low, high := 1, f.count()
		for low < high {
			if mid := (low + high) / 2; f.hash(mid) > hash {
				high = mid
			} else {
				low = mid + 1
			}
		}
		f.at = low - 1
		if level == p.depth-1 {
			return nil
		}
		if err := v.dxNode(src, dir, f.block(f.at), p, level+1); err != nil {
			return err
		}
	}
}

// dxNode reads the index block of a level below the root.
func (v *Volume) dxNode(src Source, dir *Inode, lblk Lblk, p *dxPath, level int) error {
	for i := range p.frames[:level] { // a cycle
		if p.frames[i].lblk == lblk {
			return errBadIndex
		}
	}
	data, where, err := v.dxBlock(src, dir, lblk)
	if err != nil {
		return err
	}
	if recLen(data, 0) != len(data) {
		return Corrupt("directory: leaf in place of an index block", dir.Where, dir.Offset,
			dir.Ino)
	}
	p.frames[level].lblk, p.frames[level].where = lblk, where
	// NB: the limit counts as if the unused entry at the beginning had hashes like any other.
	room := v.dxRoom(data, entrySize(0, hashInEntry(dir)))
	return p.frames[level].fill(data, dxNodeEntries, room)
}

// dxNext goes to the next leaf and returns the hash it begins with. Bit 0 of the hash says that
// the names of that hash begin in the leaf before. ok is false at the end.
func (v *Volume) dxNext(src Source, dir *Inode, p *dxPath) (hash uint32, ok bool, err error) {
	level := p.depth - 1
	for p.frames[level].at+1 >= p.frames[level].count() {
		if level == 0 {
			return 0, false, nil
		}
		level--
	}
	f := &p.frames[level]
	f.at++
	hash = f.hash(f.at)
	for ; level < p.depth-1; level++ {
		f := &p.frames[level]
		if err := v.dxNode(src, dir, f.block(f.at), p, level+1); err != nil {
			return 0, false, err
		}
	}
	return hash, true, nil
}

// dxBlock reads an index block, its checksum verified once per read.
func (v *Volume) dxBlock(src Source, dir *Inode, lblk Lblk) ([]byte, Block, error) {
	var run Run
	if err := v.Map(src, dir, lblk, 1, &run); err != nil {
		return nil, 0, err
	}
	if run.State != RunMapped {
		return nil, 0, Corrupt("directory: index block is a hole", dir.Where, dir.Offset, dir.Ino)
	}
	buf, err := src.Block(run.Phys)
	if err != nil {
		return nil, 0, err
	}
	if v.csummed() && !v.dxSumOK(buf, dir) {
		return nil, 0, Corrupt("directory: index checksum", run.Phys, 0, dir.Ino)
	}
	return buf.Data, run.Phys, nil
}

func (v *Volume) dxSumOK(buf Buf, dir *Inode) bool {
	if *buf.Checked == (Checked{Kind: kindIndex, Items: uint64(dir.Ino)}) {
		return true
	}
	data := buf.Data
	off := dxNodeEntries
	if recLen(data, 0) != len(data) { // the root
		if recLen(data, 0) != dxDotDot || recLen(data, dxDotDot) != len(data)-dxDotDot ||
			le32(data, dxInfo) != 0 || data[dxInfoLength] != dxInfoSize {
			return false
		}
		off = dxInfo + dxInfoSize
	}
	limit, count := int(le16(data, off+dxclLimit)), int(le16(data, off+dxclCount))
	tail := off + limit*dxeSize
	if tail > len(data)-dtSize || count > limit {
		return false
	}
	crc := crc32c(v.inodeSeed(dir.Ino, dir.Generation), data[:off+count*dxeSize])
	crc = crc32cZeros(crc32c(crc, data[tail:tail+dtChecksum]), 4)
	if crc != le32(data, tail+dtChecksum) {
		return false
	}
	*buf.Checked = Checked{Kind: kindIndex, Items: uint64(dir.Ino)}
	return true
}

// lookupIndexed searches the leaves that may have the name.
func (v *Volume) lookupIndexed(src Source, dir *Inode, q *nameQuery, cur *LookupCursor,
	ent *Dirent) error {
	var p dxPath
	if err := v.dxOpen(src, dir, &p); err != nil {
		return err
	}
	hash := q.hash(&p.hasher)
	if err := v.dxDescend(src, dir, hash, &p); err != nil {
		return err
	}
	for i := uint32(0); ; i++ {
		if i >= cur.next {
			if i >= cur.next+leavesPerStep {
				cur.next = i
				return ErrContinue
			}
			if err := v.lookupLeaf(src, dir, p.leaf(), q, ent); err != unix.ENOENT {
				return err
			}
		}
		begins, ok, err := v.dxNext(src, dir, &p)
		if err != nil {
			return err
		}
		if !ok || begins&^1 != hash {
			return unix.ENOENT
		}
	}
}

// lookupLeaf searches one leaf, which must not be a hole.
func (v *Volume) lookupLeaf(src Source, dir *Inode, lblk Lblk, q *nameQuery, ent *Dirent) error {
	if skip, err := v.lookupBlock(src, dir, lblk, q, ent); err != unix.ENOENT || skip == 1 {
		return err
	}
	return Corrupt("directory: leaf is a hole", dir.Where, dir.Offset, dir.Ino)
}

// hash returns the hash by which the index finds the name.
func (q *nameQuery) hash(h *hasher) (hash uint32) {
	switch {
	case q.nokey:
		cipher, whole := q.crypt.whole()
		if hash, _ = q.crypt.hashes(); whole && h.version != hashSip {
			hash, _ = h.name(cipher)
		}
	case q.folded != nil:
		hash, _ = h.name(q.folded)
	default:
		hash, _ = h.name(q.name)
	}
	return hash
}
