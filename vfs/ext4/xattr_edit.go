package ext4

import (
	"bytes"
	"cmp"

	"golang.org/x/sys/unix"
)

// Attributes are changed by writing the whole list anew: that inside the inode, or that in the
// block. A list is small, and every shape of it is made by the same code.

// xattrChange is an attribute to be set in a list, or removed from it.
type xattrChange struct {
	index  uint8
	name   []byte
	value  []byte
	remove bool
}

// xattrValueSize is what a value takes in its list.
func xattrValueSize(n int) int { return (n + xePad - 1) &^ (xePad - 1) }

// before says whether the attribute of the change comes before e in the order of blocks.
func (c *xattrChange) before(e *xattrEntry) bool {
	return cmp.Or(cmp.Compare(c.index, e.index), cmp.Compare(len(c.name), len(e.name)),
		bytes.Compare(c.name, e.name)) < 0
}

// xattrWriter lays out a list from both ends of its space.
type xattrWriter struct {
	data  []byte
	off   int // where the next entry goes
	value int // where the values begin
	block bool
}

// add appends an entry and its value. It says whether there was room.
func (w *xattrWriter) add(index uint8, name, value []byte, inum Ino, size, hash uint32) bool {
	at := w.value - xattrValueSize(len(value))
	next := w.off + xattrEntrySize(len(name))
	if next+xattrEndBytes > at {
		return false
	}
	p := w.data[w.off:next]
	p[xeNameLen], p[xeNameIndex] = byte(len(name)), index
	le.PutUint16(p[xeValueOffs:], 0)
	le.PutUint32(p[xeValueInum:], uint32(inum))
	le.PutUint32(p[xeValueSize:], size)
	copy(p[xeName:], name)
	if len(value) > 0 {
		copy(w.data[at:], value)
		le.PutUint16(p[xeValueOffs:], uint16(at))
		w.value = at
	}
	if inum == 0 {
		if hash = 0; w.block { // only entries of blocks have one, for sharing
			hash = xattrEntryHash(name, w.data[at:at+xattrValueSize(len(value))])
		}
	}
	le.PutUint32(p[xeHash:], hash)
	w.off = next
	return true
}

// xattrEntryHash is e_hash of an entry with its value in the list, padded with zeros.
func xattrEntryHash(name, padded []byte) (hash uint32) {
	for _, b := range name {
		hash = hash<<5 ^ hash>>27 ^ uint32(b)
	}
	for ; len(padded) > 0; padded = padded[4:] {
		hash = hash<<16 ^ hash>>16 ^ le32(padded, 0)
	}
	return hash
}

// rebuild writes list a, changed by c, to w, which is empty. It says whether there was room, and
// how many entries there are.
func (w *xattrWriter) rebuild(a *xattrArea, c *xattrChange) (count int, ok bool) {
	done := c.remove
	for off := a.first; off < a.end; {
		e := a.at(off)
		off = e.next
		if e.index == c.index && bytes.Equal(e.name, c.name) {
			if w.block || c.remove {
				continue
			}
			e = xattrEntry{name: c.name, index: c.index, size: uint32(len(c.value))}
			done = true
			if !w.add(e.index, e.name, c.value, 0, e.size, 0) {
				return 0, false
			}
			count++
			continue
		}
		if w.block && !done && c.before(&e) {
			if !w.add(c.index, c.name, c.value, 0, uint32(len(c.value)), 0) {
				return 0, false
			}
			done = true
			count++
		}
		var value []byte
		if e.inum == 0 {
			value = a.value(&e)
		}
		if !w.add(e.index, e.name, value, e.inum, e.size, e.hash) {
			return 0, false
		}
		count++
	}
	if !done {
		if !w.add(c.index, c.name, c.value, 0, uint32(len(c.value)), 0) {
			return 0, false
		}
		count++
	}
	return count, true
}

// SetXattr sets an attribute of in, which the caller writes: inside the inode if there is room,
// else in the block. flags are XATTR_CREATE and XATTR_REPLACE. Errors: EEXIST; ENODATA; ENOSPC if
// there is no room; ERANGE for a name that is too long; EOPNOTSUPP for a value in an inode of
// its own; those of ed; CorruptError.
func (v *Volume) SetXattr(ed Editor, in *Inode, index uint8, name, value []byte, flags int) error {
	switch {
	case len(name) > xattrNameMax:
		return unix.ERANGE
	case len(name) == 0 && !isACL(index):
		return unix.EINVAL
	}
	body, block, inBody, inBlock, err := v.findXattr(ed, in, index, name)
	switch {
	case err != nil:
		return err
	case flags&unix.XATTR_CREATE != 0 && (inBody || inBlock):
		return unix.EEXIST
	case flags&unix.XATTR_REPLACE != 0 && !inBody && !inBlock:
		return unix.ENODATA
	}
	c := xattrChange{index: index, name: name, value: value}
	gone := c
	gone.remove, gone.value = true, nil
	ok, err := v.writeBody(ed, in, &body, &c)
	if err != nil {
		return err
	}
	if ok {
		if inBlock {
			return v.writeBlock(ed, in, &block, &gone)
		}
		return nil
	}
	if inBody {
		if _, err := v.writeBody(ed, in, &body, &gone); err != nil {
			return err
		}
	}
	return v.writeBlock(ed, in, &block, &c)
}

// RemoveXattr removes an attribute of in, which the caller writes. Errors: ENODATA; otherwise as
// SetXattr.
func (v *Volume) RemoveXattr(ed Editor, in *Inode, index uint8, name []byte) error {
	body, block, inBody, inBlock, err := v.findXattr(ed, in, index, name)
	if err != nil {
		return err
	}
	c := xattrChange{index: index, name: name, remove: true}
	switch {
	case inBody:
		_, err = v.writeBody(ed, in, &body, &c)
		return err
	case inBlock:
		return v.writeBlock(ed, in, &block, &c)
	}
	return unix.ENODATA
}

// findXattr reads both lists and says which one has an attribute.
func (v *Volume) findXattr(ed Editor, in *Inode, index uint8, name []byte) (body, block xattrArea,
	inBody, inBlock bool, err error) {
	if body, err = v.xattrBody(in); err != nil {
		return
	}
	if block, err = v.xattrBlock(ed, in); err != nil {
		return
	}
	e, inBody := body.find(index, name)
	f, inBlock := block.find(index, name)
	if inBody && e.inum != 0 || inBlock && f.inum != 0 {
		err = unix.EOPNOTSUPP
	}
	return body, block, inBody, inBlock, err
}

// writeBody changes the list inside an inode. ok is false, and nothing changed, if it has no room.
func (v *Volume) writeBody(ed Editor, in *Inode, a *xattrArea, c *xattrChange) (ok bool,
	err error) {
	if in.ExtraISize == 0 || len(in.InBody) < xiSize+xeSizeMin {
		return false, nil
	}
	if _, err := ed.Modify(in.Where); err != nil {
		return false, err
	}
	scratch := ed.Space().block[:len(in.InBody)-xiSize]
	clear(scratch)
	w := xattrWriter{data: scratch, value: len(scratch)}
	if _, ok := w.rebuild(a, c); !ok {
		return false, nil
	}
	le.PutUint32(in.InBody[xiMagic:], xattrMagic)
	copy(in.InBody[xiSize:], scratch)
	// What follows may look at the list again.
	a.data, a.first, a.end = in.InBody[xiSize:], 0, w.off
	return true, nil
}

// writeBlock changes the list in the block of an inode. One that other inodes share stays theirs,
// and one without entries is freed.
func (v *Volume) writeBlock(ed Editor, in *Inode, a *xattrArea, c *xattrChange) error {
	scratch := ed.Space().block[:v.BlockSize]
	clear(scratch)
	w := xattrWriter{data: scratch, off: xhSize, value: len(scratch), block: true}
	count, ok := w.rebuild(a, c)
	if !ok {
		return unix.ENOSPC
	}
	if count == 0 {
		return v.dropXattrBlock(ed, in)
	}
	le.PutUint32(scratch[xhMagic:], xattrMagic)
	le.PutUint32(scratch[xhRefcount:], 1)
	le.PutUint32(scratch[xhBlocks:], 1)
	le.PutUint32(scratch[xhHash:], blockHash(scratch))
	if in.FileACL != 0 && le32(a.data, xhRefcount) > 1 {
		if err := v.dropXattrBlock(ed, in); err != nil {
			return err
		}
	}
	var buf Buf
	var err error
	if in.FileACL != 0 {
		buf, err = ed.Modify(in.FileACL)
	} else {
		buf, err = v.newXattrBlock(ed, in)
	}
	if err != nil {
		return err
	}
	copy(buf.Data, scratch)
	v.sealXattrs(buf.Data, in.FileACL)
	return nil
}

// newXattrBlock allocates the block for attributes, near the inode.
func (v *Volume) newXattrBlock(ed Editor, in *Inode) (Buf, error) {
	b, n, err := v.AllocBlocks(ed, Alloc{Goal: v.inodeGoal(in), Want: 1, Root: true})
	if err != nil {
		return Buf{}, err
	}
	in.FileACL = b
	in.Sectors += uint64(n) << (v.BlockBits - 9)
	return ed.Fresh(b)
}

// blockHash is h_hash of a block: of the hashes of its entries, 0 if one has none.
func blockHash(data []byte) (hash uint32) {
	for off := xhSize; le32(data, off) != 0; off += xattrEntrySize(int(data[off+xeNameLen])) {
		h := le32(data, off+xeHash)
		if h == 0 {
			return 0
		}
		hash = hash<<16 ^ hash>>16 ^ h
	}
	return hash
}

// sealXattrs sets the checksum of an attribute block.
func (v *Volume) sealXattrs(data []byte, b Block) {
	if v.csummed() {
		crc := crc32c32(crc32c32(v.CsumSeed, uint32(b)), uint32(b>>32))
		crc = crc32cZeros(crc32c(crc, data[:xhChecksum]), 4)
		le.PutUint32(data[xhChecksum:], crc32c(crc, data[xhChecksum+4:]))
	}
}

// dropXattrBlock takes its attribute block from an inode: the last one who has it frees it.
func (v *Volume) dropXattrBlock(ed Editor, in *Inode) error {
	b := in.FileACL
	if b == 0 {
		return nil
	}
	buf, err := ed.Modify(b)
	if err != nil {
		return err
	}
	in.FileACL = 0
	in.Sectors -= min(in.Sectors, v.clusterSectors())
	if n := le32(buf.Data, xhRefcount); n > 1 {
		le.PutUint32(buf.Data[xhRefcount:], n-1)
		v.sealXattrs(buf.Data, b)
		return nil
	}
	return v.FreeBlocks(ed, b, 1, true)
}

// FreeXattrs frees the attribute block of an inode that is being deleted. Errors: those of ed;
// CorruptError.
func (v *Volume) FreeXattrs(ed Editor, in *Inode) error {
	if _, err := v.xattrBlock(ed, in); err != nil {
		return err
	}
	return v.dropXattrBlock(ed, in)
}
