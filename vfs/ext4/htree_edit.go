package ext4

import (
	"cmp"
	"slices"

	"golang.org/x/sys/unix"
)

// sealIndex sets the checksum of an index block.
func (v *Volume) sealIndex(dir *Inode, data []byte) {
	if !v.csummed() {
		return
	}
	off := dxEntries(data)
	limit, count := int(le16(data, off+dxclLimit)), int(le16(data, off+dxclCount))
	tail := off + limit*dxeSize
	le.PutUint32(data[tail+dtReserved:], 0)
	crc := crc32c(v.inodeSeed(dir.Ino, dir.Generation), data[:off+count*dxeSize])
	crc = crc32cZeros(crc32c(crc, data[tail:tail+dtChecksum]), 4)
	le.PutUint32(data[tail+dtChecksum:], crc)
}

// dxEntries is where the entries of an index block begin.
func dxEntries(data []byte) int {
	if recLen(data, 0) == len(data) {
		return dxNodeEntries
	}
	return dxInfo + int(data[dxInfoLength])
}

// initIndex makes an index block with one entry, for all hashes.
func (v *Volume) initIndex(dir *Inode, data []byte, child Lblk) {
	off := dxEntries(data)
	le.PutUint16(data[off+dxclLimit:], uint16(v.dxRoom(data, off)))
	le.PutUint16(data[off+dxclCount:], 1)
	le.PutUint32(data[off+dxeBlock:], uint32(child))
	v.sealIndex(dir, data)
}

// makeIndex gives a directory of one block, which is full, an index: its entries move to a second
// block, and the first one becomes the root. errBadIndex, with nothing changed, if the first block
// is not as it must be for that, or the hash that the superblock wants is not known.
func (v *Volume) makeIndex(ed Editor, dir *Inode) error {
	root, err := v.dirBlock(ed, dir, 0)
	if err != nil {
		return err
	}
	h, ok := v.hasher(v.DefHashVersion)
	if !ok || (h.version == hashSip) != hashInEntry(dir) || !v.beginsWithDots(&root) {
		return errBadIndex
	}
	s := ed.Space()
	from := deSizeMin + recLen(root.data, deSizeMin)
	list, err := v.leafEntries(s, dir, &root, from, nil)
	if err != nil {
		return err
	}
	if err := v.editDir(ed, &root); err != nil {
		return err
	}
	leaf, lblk, err := v.appendBlock(ed, dir)
	if err != nil {
		return err
	}
	v.packLeaf(dir, root.data, leaf.data, list)
	dir.Flags |= FlagIndex
	putRecLen(root.data, deSizeMin, len(root.data)-deSizeMin)
	clear(root.data[dxInfo:])
	root.data[dxHashVersion], root.data[dxInfoLength] = v.DefHashVersion, dxInfoSize
	v.initIndex(dir, root.data, lblk)
	return nil
}

// beginsWithDots says whether a block begins with the entries "." and ".." where a root has them.
func (v *Volume) beginsWithDots(b *dirData) bool {
	for i := range 2 {
		at := i * deSizeMin
		if b.data == nil || le32(b.data, at+deInode) == 0 || int(b.data[at+deNameLen]) != i+1 ||
			!isDots(b.data[at+deName:at+deName+i+1]) {
			return false
		}
	}
	return recLen(b.data, 0) == deSizeMin
}

// leafEntry is an entry of a leaf that is being split.
type leafEntry struct {
	hash uint32
	off  uint32
	size uint32
}

// leafEntries lists the used entries of a block from off on, with their hashes if h is not nil.
func (v *Volume) leafEntries(s *Space, dir *Inode, b *dirData, off int, h *hasher) ([]leafEntry,
	error) {
	list := s.leafEntries[:0]
	for off < v.leafRoom() {
		n, err := v.entryLen(b, off)
		if err != nil {
			return nil, err
		}
		if used := v.usedBytes(b, off); used > 0 {
			e := leafEntry{off: uint32(off), size: uint32(used)}
			if h != nil {
				e.hash, _ = v.entryHashes(dir, h, b.data, off)
			}
			list = append(list, e)
		}
		off += n
	}
	s.leafEntries = list
	return list, nil
}

// packLeaf fills a block with entries of another one.
func (v *Volume) packLeaf(dir *Inode, from, to []byte, list []leafEntry) {
	at, last := 0, 0
	for _, e := range list {
		copy(to[at:], from[e.off:e.off+e.size])
		putRecLen(to, at, int(e.size))
		last, at = at, at+int(e.size)
	}
	clear(to[at:])
	if at == 0 {
		v.initLeaf(dir, to)
		return
	}
	putRecLen(to, last, v.leafRoom()-last)
	v.sealLeaf(dir, to)
}

// addIndexed is AddEntry for a directory with an index. Each round that finds no room splits one
// block on the path and descends again. With fresh the only leaf is split in any case: without the
// dots it has a little room, but not for long. errBadIndex, with nothing changed, if the index
// cannot be used.
func (v *Volume) addIndexed(ed Editor, dir *Inode, q *nameQuery, ino Ino, fileType uint8,
	fresh bool) error {
	for round := range 3 * (dxLevelsMax + 1) {
		var p dxPath
		err := v.dxOpen(ed, dir, &p)
		if err == nil {
			err = v.dxDescend(ed, dir, q.hash(&p.hasher), &p)
		}
		if err == errBadIndex && round > 0 {
			break
		}
		if err != nil {
			return err
		}
		leaf, err := v.dirBlock(ed, dir, p.leaf())
		if err != nil {
			return err
		}
		if leaf.data == nil {
			return Corrupt("directory: leaf is a hole", dir.Where, dir.Offset, dir.Ino)
		}
		if !fresh || round > 0 {
			done, err := v.addTo(ed, dir, &leaf, q.name, ino, fileType)
			if done || err != nil {
				return err
			}
		}
		if err := v.splitIndexed(ed, dir, &p, &leaf); err != nil {
			return err
		}
	}
	return Corrupt("directory: index cannot be split", dir.Where, dir.Offset, dir.Ino)
}

// splitIndexed splits the leaf if the index block above it has room, or else the lowest full index
// block whose parent has room, or puts another level below the root.
func (v *Volume) splitIndexed(ed Editor, dir *Inode, p *dxPath, leaf *dirData) error {
	level := p.depth - 1
	if !p.frames[level].full() {
		return v.splitLeaf(ed, dir, p, leaf)
	}
	for level > 0 && p.frames[level-1].full() {
		level--
	}
	if level == 0 {
		return v.deepenIndex(ed, dir, p)
	}
	return v.splitIndex(ed, dir, p, level)
}

// editIndex returns the index block of a level, which was read, to be changed.
func (v *Volume) editIndex(ed Editor, p *dxPath, level int) ([]byte, error) {
	buf, err := ed.Modify(p.frames[level].where)
	return buf.Data, err
}

// insertIndex adds an entry behind the one that the path takes at a level.
func (v *Volume) insertIndex(ed Editor, dir *Inode, p *dxPath, level int, hash uint32,
	lblk Lblk) error {
	data, err := v.editIndex(ed, p, level)
	if err != nil {
		return err
	}
	off := dxEntries(data)
	n, at := int(le16(data, off+dxclCount)), p.frames[level].at+1
	copy(data[off+(at+1)*dxeSize:off+(n+1)*dxeSize], data[off+at*dxeSize:off+n*dxeSize])
	le.PutUint32(data[off+at*dxeSize+dxeHash:], hash)
	le.PutUint32(data[off+at*dxeSize+dxeBlock:], uint32(lblk))
	le.PutUint16(data[off+dxclCount:], uint16(n+1))
	v.sealIndex(dir, data)
	return nil
}

// splitLeaf moves the upper half of a leaf's entries, by hash, to a new one.
func (v *Volume) splitLeaf(ed Editor, dir *Inode, p *dxPath, leaf *dirData) error {
	s := ed.Space()
	list, err := v.leafEntries(s, dir, leaf, 0, &p.hasher)
	if err != nil {
		return err
	}
	if len(list) < 2 { // too many pieces: one will do
		return v.repackLeaf(ed, dir, leaf, list)
	}
	slices.SortFunc(list, func(a, b leafEntry) int {
		return cmp.Or(cmp.Compare(a.hash, b.hash), cmp.Compare(a.off, b.off))
	})
	split, size := len(list), 0
	for split > 1 && size < int(v.BlockSize)/2 {
		split--
		size += int(list[split].size)
	}
	hash := list[split].hash
	if list[split-1].hash == hash { // names with this hash begin in the old leaf
		hash |= 1
	}
	if err := v.editDir(ed, leaf); err != nil {
		return err
	}
	upper, lblk, err := v.appendBlock(ed, dir)
	if err != nil {
		return err
	}
	copy(s.block, leaf.data)
	v.packLeaf(dir, s.block, upper.data, list[split:])
	v.packLeaf(dir, s.block, leaf.data, list[:split])
	return v.insertIndex(ed, dir, p, p.depth-1, hash, lblk)
}

// repackLeaf joins what is unused in a leaf.
func (v *Volume) repackLeaf(ed Editor, dir *Inode, leaf *dirData, list []leafEntry) error {
	if err := v.editDir(ed, leaf); err != nil {
		return err
	}
	s := ed.Space()
	copy(s.block, leaf.data)
	v.packLeaf(dir, s.block, leaf.data, list)
	return nil
}

// newIndex gives dir another block, an index block without entries.
func (v *Volume) newIndex(ed Editor, dir *Inode) ([]byte, Lblk, error) {
	b, lblk, err := v.appendBlock(ed, dir)
	if err != nil {
		return nil, 0, err
	}
	putRecLen(b.data, 0, len(b.data))
	return b.data, lblk, nil
}

// splitIndex moves the upper half of an index block's entries to a new one.
func (v *Volume) splitIndex(ed Editor, dir *Inode, p *dxPath, level int) error {
	data, lblk, err := v.newIndex(ed, dir)
	if err != nil {
		return err
	}
	old, err := v.editIndex(ed, p, level)
	if err != nil {
		return err
	}
	v.initIndex(dir, data, 0)
	n := int(le16(old, dxNodeEntries+dxclCount))
	half := n / 2
	hash := le32(old, dxNodeEntries+half*dxeSize+dxeHash)
	copyIndex(data, dxNodeEntries, old, dxNodeEntries+half*dxeSize, n-half)
	le.PutUint16(old[dxNodeEntries+dxclCount:], uint16(half))
	v.sealIndex(dir, data)
	v.sealIndex(dir, old)
	return v.insertIndex(ed, dir, p, level-1, hash, lblk)
}

// copyIndex makes n entries of an index block those of another one; the first has no hash.
func copyIndex(to []byte, off int, from []byte, at, n int) {
	first := le32(from, at+dxeBlock)
	copy(to[off+dxeSize:], from[at+dxeSize:at+n*dxeSize])
	le.PutUint16(to[off+dxclCount:], uint16(n))
	le.PutUint32(to[off+dxeBlock:], first)
}

// deepenIndex moves the entries of the root to a new index block below it.
func (v *Volume) deepenIndex(ed Editor, dir *Inode, p *dxPath) error {
	most := dxLevelsMax
	if !v.HasIncompat(IncompatLargedir) {
		most--
	}
	if p.depth >= most {
		return unix.ENOSPC
	}
	data, lblk, err := v.newIndex(ed, dir)
	if err != nil {
		return err
	}
	root, err := v.editIndex(ed, p, 0)
	if err != nil {
		return err
	}
	v.initIndex(dir, data, 0)
	off := dxEntries(root)
	copyIndex(data, dxNodeEntries, root, off, int(le16(root, off+dxclCount)))
	v.sealIndex(dir, data)
	root[dxLevels]++
	v.initIndex(dir, root, lblk)
	return nil
}
