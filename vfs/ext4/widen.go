package ext4

import "golang.org/x/sys/unix"

// Widening inodes ("Inode Timestamps", s_want_extra_isize). A filesystem may have inodes with less
// room for extra fields than new ones get: it was made by older programs, or has been told since to
// want more. Such an inode is widened when it is changed. Its attributes begin right behind those
// fields, so that their list moves; the values, which stand at the inode's end, stay, and what has
// no room any more goes to the attribute block. Where it does not fit there either, the inode gets
// the room that the filesystem asks for at least, or stays as it is: nothing depends on it.
//
// Moving attributes changes at most 5 blocks besides the inode's: the attribute block as it was,
// the one that there is instead, bitmap and descriptor for what is allocated or freed, and the
// superblock for the feature ext_attr.

// Widen gives an inode, which the caller is about to write, as much room for extra fields as new
// ones get. With move, attributes may go to the attribute block for that; in.FileACL and
// in.Sectors may change then. No room is not an error. Errors: ErrSpaceBusy;
// those of ed; CorruptError for what is not an attribute.
func (v *Volume) Widen(ed Editor, in *Inode, move bool) error {
	want := v.extraISize()
	if in.ExtraISize >= want || in.Links == 0 {
		return nil
	}
	wide, err := v.widenTo(ed, in, want, move)
	if least := v.extraISizeMin(); !wide && err == nil && least > in.ExtraISize && least < want {
		_, err = v.widenTo(ed, in, least, move)
	}
	return err
}

// widenTo widens an inode to a size, unless there is no room.
func (v *Volume) widenTo(ed Editor, in *Inode, size uint16, move bool) (wide bool, err error) {
	more := int(size - in.ExtraISize)
	a, err := v.xattrBody(in)
	if err != nil {
		return false, unlessCorrupt(err)
	}
	if a.data != nil && a.room() < more {
		if !move {
			return false, nil
		}
		if moved, err := v.moveXattrs(ed, in, &a, more-a.room()); !moved || err != nil {
			return false, err
		}
		if a, err = v.xattrBody(in); err != nil {
			return false, err
		}
	}
	buf, err := ed.Modify(in.Where)
	if err != nil {
		return false, err
	}
	raw := buf.Data[in.Offset : in.Offset+int(v.InodeSize)]
	body := raw[inodeSizeGood+int(in.ExtraISize):]
	if a.data == nil {
		clear(body) // NB: it may hold anything
	} else {
		a.data = body[xiSize:]
		a.shift(body, more)
	}
	in.ExtraISize, in.InBody = size, body[more:]
	le.PutUint16(raw[iExtraISize:], size)
	return true, nil
}

// shift moves the list of attributes in body, an inode's, away from its beginning, which becomes
// zeros. There is room.
func (a *xattrArea) shift(body []byte, more int) {
	var e xattrEntry
	for off := a.first; off < a.end; off = e.next {
		// NB: libext2fs checks the place of an empty value, too, and gives it one at the end.
		if e = a.at(off); e.inum == 0 {
			le.PutUint16(a.data[off+xeValueOffs:], e.offs-min(e.offs, uint16(more)))
		}
	}
	copy(body[more:], body[:xiSize+a.end+xattrEndBytes])
	clear(body[:more])
}

// moveXattrs moves attributes out of an inode into the attribute block, so that there are at least
// need bytes more; without room for them there nothing has changed.
func (v *Volume) moveXattrs(ed Editor, in *Inode, body *xattrArea, need int) (bool, error) {
	old, err := v.xattrBlock(ed, in)
	if err != nil {
		return false, unlessCorrupt(err)
	}
	a := draftBlock(ed, in, &old)
	if old.data != nil && !old.mayGive() || a.meets(body) {
		return false, nil
	}
	for need > 0 {
		c, size := a.choose(body, need)
		if size == 0 {
			return false, nil
		}
		if err := a.change(&c); err != nil {
			return false, unlessCorrupt(err)
		}
		need -= size
	}
	a.rehash()
	if old.data == nil {
		if ok, err := v.mayHaveBlock(ed, in); !ok || err != nil {
			return false, err
		}
		if err := v.wantFeature(ed, CompatExtAttr); err != nil {
			return false, err
		}
	}
	switch err := v.storeBlock(ed, in, &old, &a, &xattrChange{}); err {
	case nil:
	case unix.ENOSPC: // NB: a block is allocated before anything is changed
		return false, nil
	default:
		return false, err
	}
	return true, v.removeMoved(ed, in, &a)
}

// unlessCorrupt is err, but for attributes that are not sound: that is for whoever asks for them.
func unlessCorrupt(err error) error {
	if _, corrupt := err.(*CorruptError); corrupt {
		return nil
	}
	return err
}

// mayGive says whether an inode can give up its use of an attribute block with little work: not if
// others keep it and each of their values in inodes of their own would have one more user.
func (a *xattrArea) mayGive() bool {
	refs := le32(a.data, xhRefcount)
	return refs == 1 || refs > 1 && !a.hasOwnValues()
}

// meets says whether an attribute is in both lists, where it must not be.
func (a *xattrArea) meets(b *xattrArea) bool {
	var e xattrEntry
	for off := a.first; off < a.end; off = e.next {
		e = a.at(off)
		if _, both := b.find(e.index, e.name); both {
			return true
		}
	}
	return false
}

// choose returns the next attribute that is to move from an inode to the block a, and what it
// takes in the inode, 0 if none can: the smallest that gives need bytes, else the largest. The
// data of a file stay, and so does what has an inode of its own, of which little is in this one.
func (a *xattrArea) choose(body *xattrArea, need int) (best xattrChange, most int) {
	var e xattrEntry
	for off := body.first; off < body.end; off = e.next {
		e = body.at(off)
		size := e.next - off + e.held()
		c := xattrChange{index: e.index, name: e.name, value: body.value(&e)}
		if e.index == xattrIndexSystem || e.inum != 0 || !a.fits(&c) {
			continue
		}
		if _, moved := a.find(e.index, e.name); moved {
			continue
		}
		if most == 0 || most < need && size > most || size >= need && size < most {
			best, most = c, size
		}
	}
	return best, most
}

// mayHaveBlock says whether whom an inode counts for may have one more block, besides what the
// inode has got since it was written.
func (v *Volume) mayHaveBlock(ed Editor, in *Inode) (bool, error) {
	if !v.isCharged(ed, in) {
		return true, nil
	}
	room, err := v.QuotaRoom(ed, in)
	if err != nil {
		return false, err
	}
	raw, err := v.rawInode(ed, in.Ino)
	if err != nil {
		return false, err
	}
	was, now := v.chargedOn(raw), v.chargedFor(in)
	need := int64(now.sectors + v.clusterSectors())
	if was.ids == now.ids {
		need -= int64(was.sectors)
	}
	return need <= 0 || uint64(need)<<9 <= room, nil
}

// removeMoved removes from an inode the attributes that are in its block, too.
func (v *Volume) removeMoved(ed Editor, in *Inode, block *xattrArea) error {
	var e xattrEntry
	for off := block.first; off < block.end; off = e.next {
		e = block.at(off)
		body, err := v.xattrBody(in)
		if err != nil {
			return err
		}
		if _, both := body.find(e.index, e.name); !both {
			continue
		}
		c := xattrChange{index: e.index, name: e.name, remove: true}
		if _, err := v.changeBody(ed, in, &c); err != nil {
			return err
		}
	}
	return nil
}
