package ext4

import (
	"bytes"

	"golang.org/x/sys/unix"
)

// Changing extended attributes ("Extended Attributes"). An attribute stands in the inode if it
// fits there, else in the inode's attribute block, never in both. Blocks may be shared by inodes
// with the same attributes (h_refcount): one that is shared is copied to be changed.
//
// The most blocks that a change touches are 9: the inode's, the attribute block as it was, the new
// one, one that may be shared instead, bitmap and descriptor for what is allocated and again for
// what is freed, and the superblock for the feature ext_attr.

const (
	// xattrSizeMaxSet is the largest value that can be set, as in the system call.
	xattrSizeMaxSet = 64 << 10
	// xattrRefsMax is how many inodes share a block at most.
	xattrRefsMax = 1024
)

// xattrChange is what is to become of one attribute.
type xattrChange struct {
	index  uint8
	name   []byte
	value  []byte
	remove bool
	// own: the value goes to an inode of its own: inum, once that is made, with the value's hash.
	own  bool
	inum Ino
	hash uint32
}

// held is what the value is going to take in the list.
func (c *xattrChange) held() int {
	if c.own {
		return 0
	}
	return xattrPadded(len(c.value))
}

// SetXattr creates or replaces an attribute; ACLs are in the form of the disk, see EncodeACL. It
// may change in.FileACL and in.Sectors and what is behind the inode's fields; the caller writes the
// inode. value must not lie in the inode or in a cached block. flags are unix.XATTR_CREATE and
// unix.XATTR_REPLACE. Errors: EEXIST and ENODATA for the flags; ERANGE for a long name, E2BIG for a
// long value; EINVAL for a prefix alone; ENOSPC if the attribute does not fit with the others, or
// there is no block; ErrSpaceBusy; those of ed; CorruptError.
func (v *Volume) SetXattr(ed Editor, in *Inode, index uint8, name, value []byte,
	flags int) error {
	if err := checkXattrName(index, name); err != nil {
		return err
	}
	if len(value) > xattrSizeMaxSet {
		return unix.E2BIG
	}
	c := xattrChange{index: index, name: name, value: value}
	body, block, err := v.findXattr(ed, in, &c)
	if err != nil {
		return err
	}
	found := body.found || block.found
	switch {
	case !found && flags&unix.XATTR_REPLACE != 0:
		return unix.ENODATA
	case found && flags&unix.XATTR_CREATE != 0:
		return unix.EEXIST
	case body.holds(value) || block.holds(value):
		return nil
	}
	if err := v.wantFeature(ed, CompatExtAttr); err != nil {
		return err
	}
	c.own = v.ownValues(in) && len(value) > v.valueSizeLarge()
	fits, err := v.placeXattr(ed, in, &c, &body, &block)
	if !fits && err == nil && v.ownValues(in) && len(value) > 0 && !c.own {
		c.own = true
		fits, err = v.placeXattr(ed, in, &c, &body, &block)
	}
	if !fits && err == nil {
		err = unix.ENOSPC
	}
	return err
}

// placeXattr makes a change where it fits: inside the inode, else in the block. In the other place
// the attribute must not be, too. If it fits nowhere nothing has changed.
func (v *Volume) placeXattr(ed Editor, in *Inode, c *xattrChange, body, block *xattrPlace) (
	fits bool, err error) {
	gone := xattrChange{index: c.index, name: c.name, remove: true}
	if fits, err = v.changeBody(ed, in, c); err != nil {
		return false, err
	}
	if fits {
		if block.found {
			_, err = v.changeBlock(ed, in, &gone)
		}
		return true, err
	}
	if fits, err = v.changeBlock(ed, in, c); err != nil || !fits {
		return false, err
	}
	if body.found {
		_, err = v.changeBody(ed, in, &gone)
	}
	return true, err
}

// RemoveXattr removes an attribute. It changes what SetXattr changes. Errors: ENODATA; ERANGE and
// EINVAL for the name; those of ed; CorruptError.
func (v *Volume) RemoveXattr(ed Editor, in *Inode, index uint8, name []byte) error {
	if err := checkXattrName(index, name); err != nil {
		return err
	}
	c := xattrChange{index: index, name: name, remove: true}
	body, block, err := v.findXattr(ed, in, &c)
	switch {
	case err != nil:
	case body.found:
		_, err = v.changeBody(ed, in, &c)
	case block.found:
		_, err = v.changeBlock(ed, in, &c)
	default:
		err = unix.ENODATA
	}
	return err
}

// FreeXattrs gives up the attributes of an inode that is going to be freed: its block, and values
// in inodes of their own. ErrContinue: there are more of those; the caller writes the inode, and
// calls again. Other errors: those of ed; CorruptError.
func (v *Volume) FreeXattrs(ed Editor, in *Inode) error {
	block, err := v.xattrBlock(ed, in)
	if err != nil {
		return err
	}
	if v.HasIncompat(IncompatEAInode) {
		if err := v.freeAllValues(ed, in, &block); err != nil {
			return err
		}
	}
	if in.FileACL == 0 {
		return nil
	}
	return v.moveToBlock(ed, in, &block, 0)
}

// freeAllValues gives up the values of an inode's attributes that have inodes of their own. Those
// of a block that is shared are the others'.
func (v *Volume) freeAllValues(ed Editor, in *Inode, block *xattrArea) error {
	n := 0
	body, err := v.xattrBody(in)
	if err != nil {
		return err
	}
	if body.hasOwnValues() {
		if err := v.editBody(ed, in); err != nil {
			return err
		}
		body.data = in.InBody[xiSize:]
		if err := v.freeValues(ed, in, &body, &n); err != nil {
			return err
		}
	}
	switch {
	case block.data == nil || !block.hasOwnValues():
		return nil
	case le32(block.data, xhRefcount) != 1:
		return v.uncountValues(ed, in, block)
	}
	buf, err := ed.Modify(block.where)
	if err != nil {
		return err
	}
	ed.Space().attrs.forget(le32(block.data, xhHash), block.where)
	block.data = buf.Data
	err = v.freeValues(ed, in, block, &n)
	v.sealXattrs(buf.Data, block.where)
	return err
}

func checkXattrName(index uint8, name []byte) error {
	switch {
	case len(name) > xattrNameMax:
		return unix.ERANGE
	case len(name) == 0 && !isACL(index) || bytes.IndexByte(name, 0) >= 0:
		return unix.EINVAL
	}
	return nil
}

// xattrPlace is an attribute that was looked for in an area.
type xattrPlace struct {
	area  xattrArea
	entry xattrEntry
	found bool
}

// holds says whether the attribute has that value already.
func (p *xattrPlace) holds(value []byte) bool {
	return p.found && p.entry.inum == 0 && bytes.Equal(p.area.value(&p.entry), value)
}

// findXattr looks an attribute up in the inode, and if it is not there in the block.
func (v *Volume) findXattr(src Source, in *Inode, c *xattrChange) (body, block xattrPlace,
	err error) {
	if body.area, err = v.xattrBody(in); err != nil {
		return body, block, err
	}
	body.entry, body.found = body.area.find(c.index, c.name)
	if body.found {
		return body, block, nil
	}
	if block.area, err = v.xattrBlock(src, in); err != nil {
		return body, block, err
	}
	block.entry, block.found = block.area.find(c.index, c.name)
	return body, block, nil
}

// changeBody makes a change inside the inode; fits is false if there is no room for it, and then
// nothing has changed.
func (v *Volume) changeBody(ed Editor, in *Inode, c *xattrChange) (fits bool, err error) {
	if in.ExtraISize == 0 || len(in.InBody) < xiSize+xattrEndBytes {
		return false, nil
	}
	a, err := v.xattrBody(in)
	if err != nil {
		return false, err
	}
	none := a.data == nil
	if none {
		a = xattrArea{data: in.InBody[xiSize:]}
	}
	if !c.remove && !a.fits(c) {
		return false, nil
	}
	if err := v.makeValue(ed, in, c); err != nil {
		return false, err
	}
	old := a.was(c)
	if err := v.editBody(ed, in); err != nil {
		return false, err
	}
	if none { // NB: what is there without the magic number is of no use to anybody
		clear(in.InBody)
	}
	a.data = in.InBody[xiSize:]
	if err := a.change(c); err != nil {
		return false, err
	}
	magic := uint32(xattrMagic)
	if a.end == a.first {
		magic = 0
	}
	le.PutUint32(in.InBody[xiMagic:], magic)
	return true, v.leaveValue(ed, in, &old, false)
}

// editBody makes what is behind the inode's fields memory that may be changed.
func (v *Volume) editBody(ed Editor, in *Inode) error {
	buf, err := ed.Modify(in.Where)
	if err != nil {
		return err
	}
	raw := buf.Data[in.Offset : in.Offset+int(v.InodeSize)]
	in.InBody = raw[inodeSizeGood+int(in.ExtraISize):]
	return nil
}

// changeBlock makes a change in the attribute block; fits is false if there is no room for it, and
// then nothing has changed.
func (v *Volume) changeBlock(ed Editor, in *Inode, c *xattrChange) (fits bool, err error) {
	old, err := v.xattrBlock(ed, in)
	if err != nil {
		return false, err
	}
	a := draftBlock(ed, in, &old)
	was := a.was(c)
	if !c.remove && (!a.fits(c) || !v.leavesRoom(in, &a, &was, c)) {
		return false, nil
	}
	if err := v.makeValue(ed, in, c); err != nil {
		return false, err
	}
	shared := old.data != nil && le32(old.data, xhRefcount) > 1
	if err := a.change(c); err != nil {
		return false, err
	}
	a.rehash()
	if err := v.storeBlock(ed, in, &old, &a, c); err != nil {
		return false, err
	}
	return true, v.leaveValue(ed, in, &was, shared)
}

// draftBlock returns a copy of an attribute block, or an empty one if there is none, to be changed
// and stored. It is made beside the block: there may already be one like it.
func draftBlock(ed Editor, in *Inode, old *xattrArea) xattrArea {
	a := xattrArea{data: ed.Space().block, first: xhSize, end: xhSize, ino: in.Ino, hashed: true}
	if old.data == nil {
		clear(a.data)
		le.PutUint32(a.data[xhMagic:], xattrMagic)
		le.PutUint32(a.data[xhBlocks:], 1)
	} else {
		copy(a.data, old.data)
		a.end, a.where = old.end, old.where
	}
	le.PutUint32(a.data[xhRefcount:], 1)
	return a
}

// storeBlock gives an inode, which had the attribute block old or none, the block a: none if that
// is empty, the same one that there is already, old changed, or a new one. c is what has changed.
func (v *Volume) storeBlock(ed Editor, in *Inode, old, a *xattrArea, c *xattrChange) error {
	if a.end == a.first {
		return v.moveToBlock(ed, in, old, 0)
	}
	shared, err := v.shareBlock(ed, old, a)
	if err != nil {
		return err
	}
	if shared != 0 {
		return v.moveToBlock(ed, in, old, shared)
	}
	s := &ed.Space().attrs
	if old.data != nil && le32(old.data, xhRefcount) == 1 {
		s.forget(le32(old.data, xhHash), old.where)
		buf, err := ed.Modify(old.where)
		if err != nil {
			return err
		}
		copy(buf.Data, a.data)
		v.sealXattrs(buf.Data, old.where)
		s.remember(le32(a.data, xhHash), old.where)
		return nil
	}
	if err := v.shareValues(ed, in, a, c); err != nil {
		return err
	}
	goal := v.groupFirst(v.groupOfInode(in.Ino))
	b, _, err := v.AllocBlocks(ed, Alloc{Goal: goal, Want: 1})
	if err != nil {
		return err
	}
	buf, err := ed.Fresh(b)
	if err != nil {
		return err
	}
	copy(buf.Data, a.data)
	v.sealXattrs(buf.Data, b)
	s.remember(le32(a.data, xhHash), b)
	return v.moveToBlock(ed, in, old, b)
}

// moveToBlock makes b, which may be 0, the attribute block of an inode, and gives old up, if it
// had that.
func (v *Volume) moveToBlock(ed Editor, in *Inode, old *xattrArea, b Block) error {
	if old.data != nil {
		if err := v.releaseBlock(ed, old); err != nil {
			return err
		}
		in.Sectors -= min(v.clusterSectors(), in.Sectors)
	}
	if in.FileACL = b; b != 0 {
		in.Sectors += v.clusterSectors()
	}
	return nil
}

// releaseBlock gives up one inode's use of an attribute block.
func (v *Volume) releaseBlock(ed Editor, a *xattrArea) error {
	refs := le32(a.data, xhRefcount)
	switch refs {
	case 0:
		return a.corrupt("h_refcount", xhRefcount)
	case 1:
		ed.Space().attrs.forget(le32(a.data, xhHash), a.where)
		return v.FreeBlocks(ed, a.where, 1, true)
	}
	return v.countRefs(ed, a.where, refs-1)
}

// countRefs sets how many inodes use an attribute block.
func (v *Volume) countRefs(ed Editor, b Block, refs uint32) error {
	buf, err := ed.Modify(b)
	if err != nil {
		return err
	}
	le.PutUint32(buf.Data[xhRefcount:], refs)
	v.sealXattrs(buf.Data, b)
	return nil
}

// sealXattrs sets the checksum of an attribute block.
func (v *Volume) sealXattrs(data []byte, b Block) {
	if v.csummed() {
		le.PutUint32(data[xhChecksum:], v.xattrSum(data, b))
	}
}
