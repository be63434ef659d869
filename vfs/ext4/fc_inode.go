package ext4

import "golang.org/x/sys/unix"

// read reads an inode as it is now. ok is false if it is not in use.
func (x *fcReplay) read(ino Ino) (in *Inode, ok bool, err error) {
	if err := x.noteQuota(ino); err != nil {
		return nil, false, err
	}
	return x.look(ino)
}

// look is read without taking note of it.
func (x *fcReplay) look(ino Ino) (in *Inode, ok bool, err error) {
	v := x.v
	if ino > v.InodesCount || ino < v.FirstInode && ino != RootIno {
		return nil, false, nil
	}
	g := v.groupOfInode(ino)
	d, err := v.desc(x.e, g, false)
	if err != nil {
		return nil, false, err
	}
	bitmap, err := v.bitmapOf(x.e, g, d, &inodeBitmap)
	if err != nil || bitmap == nil || !hasBit(bitmap, uint32(ino-1)%v.InodesPerGroup) {
		return nil, false, err
	}
	in = new(Inode)
	if err := v.ReadUnlinked(x.e, ino, in); err != nil {
		return nil, false, err
	}
	return in, in.Mode != 0, nil
}

// touch notes that an inode in use is changed.
func (x *fcReplay) touch(ino Ino) {
	if _, ok := x.names[ino]; !ok {
		x.names[ino] = 1
	}
}

// dead says whether a file has no names.
func (x *fcReplay) dead(in *Inode) bool {
	if in.IsDir() {
		n, ok := x.names[in.Ino]
		return ok && n <= 0
	}
	return in.Links == 0
}

// putInode takes over an inode as it was when the fast commit was made. What says where its
// contents are is not taken over: that follows from the ranges, and for directories from the
// entries, and so does how many subdirectories they have.
func (x *fcReplay) putInode(ino Ino, raw []byte) error {
	v := x.v
	if ino > v.InodesCount || ino < v.FirstInode && ino != RootIno {
		return Corrupt("fast commit: inode number", 0, 0, ino)
	}
	old, used, err := x.read(ino)
	if err != nil {
		return err
	}
	kind := uint32(le16(raw, iMode)) & unix.S_IFMT
	if used && (old.Type() != kind || x.dead(old) && old.Generation != le32(raw, iGeneration)) {
		// The number was used again, for another file.
		if err := x.delete(old); err != nil {
			return err
		}
		used = false
	}
	if used {
		x.touch(ino)
	} else {
		x.names[ino] = 0
		old = &Inode{Ino: ino, Links: 2}
		if err := x.takeInode(ino, kind == unix.S_IFDIR); err != nil {
			return err
		}
	}
	slot, err := x.slot(ino)
	if err != nil {
		return err
	}
	if !used {
		clear(slot)
	}
	n := min(len(raw), len(slot))
	copy(slot[:iBlock], raw)
	copy(slot[iGeneration:n], raw[iGeneration:n])
	in := &Inode{Ino: ino, Generation: le32(slot, iGeneration)}
	if v.InodeSize > inodeSizeGood {
		in.ExtraISize = le16(slot, iExtraISize)
	}
	v.sealInode(slot, in)
	if err := v.ReadUnlinked(x.e, ino, in); err != nil {
		return err
	}
	x.keepContents(in, old, used, raw)
	return v.WriteInode(x.e, in)
}

// keepContents gives in, which was just taken over from raw, the contents that the inode had.
func (x *fcReplay) keepContents(in, old *Inode, used bool, raw []byte) {
	v := x.v
	// NB: on the list of orphans, i_dtime is where it goes on, and raw is of another list.
	in.Dtime = 0
	if x.orphans.Has(in.Ino) {
		in.Dtime = old.Dtime
	}
	if in.IsDir() {
		in.Links = old.Links
	}
	if !v.HasMapping(in) {
		copy(in.IBlock[:], raw[iBlock:])
		return
	}
	if used && v.HasMapping(old) && (in.Flags^old.Flags)&FlagExtents == 0 {
		in.IBlock, in.Sectors = old.IBlock, old.Sectors
	} else {
		EmptyMapping(in)
		in.Sectors = 0
		if in.FileACL != 0 {
			in.Sectors = v.clusterSectors()
		}
	}
	if in.IsDir() {
		in.Size = old.Size
		in.Flags = in.Flags&^FlagIndex | old.Flags&FlagIndex
	}
}

// slot returns the bytes of an inode, to be changed.
func (x *fcReplay) slot(ino Ino) ([]byte, error) {
	b, off, err := x.v.InodeBlock(ino)
	if err != nil {
		return nil, err
	}
	buf, err := x.e.Modify(b)
	if err != nil {
		return nil, err
	}
	return buf.Data[off : off+int(x.v.InodeSize)], nil
}

// takeInode takes an inode into use. Those before it in the inode table that never were, and may
// hold anything, become zeros.
func (x *fcReplay) takeInode(ino Ino, isDir bool) error {
	v := x.v
	g, i := v.groupOfInode(ino), uint32(ino-1)%v.InodesPerGroup
	d, bitmap, err := v.editBitmap(x.e, g, &inodeBitmap)
	if err != nil {
		return err
	}
	if hasBit(bitmap, i) { // though the inode is empty
		v.sealBitmap(g, d, bitmap, &inodeBitmap)
		return nil
	}
	if v.descSummed() && le16(d, bgFlags)&bgInodeZeroed == 0 {
		unused := min(v.descField(d, bgItableUnusedLo, bgItableUnusedHi), v.InodesPerGroup)
		for j := v.InodesPerGroup - unused; j < i; j++ {
			slot, err := x.slot(Ino(uint32(g)*v.InodesPerGroup + j + 1))
			if err != nil {
				return err
			}
			clear(slot)
		}
	}
	return v.takeInode(x.e, g, i, d, bitmap, isDir)
}

// delete frees an inode and all it has.
func (x *fcReplay) delete(in *Inode) error {
	v := x.v
	if err := v.RemoveOrphan(x.e, x.orphans, in); err != nil {
		return err
	}
	if v.HasMapping(in) {
		if err := x.remove(in, 0, lblkMax); err != nil {
			return err
		}
	}
	if in.FileACL != 0 {
		if err := x.claim(in.FileACL, 1); err != nil {
			return err
		}
	}
	for {
		// Values in inodes of their own become orphans, which the mount frees.
		err := v.FreeXattrs(x.e, in)
		if err == nil {
			break
		}
		if err != ErrContinue {
			return err
		}
		x.e.space.Begin()
	}
	in.Size, in.Links, in.Dtime = 0, 0, uint32(x.e.now.Sec)
	if err := v.WriteInode(x.e, in); err != nil {
		return err
	}
	delete(x.names, in.Ino)
	return v.FreeInode(x.e, in)
}

// mapped reads a file that a range belongs to; ok is false if it cannot have one.
func (x *fcReplay) mapped(ino Ino) (in *Inode, ok bool, err error) {
	in, ok, err = x.read(ino)
	if err != nil || !ok || in.IsDir() || !x.v.HasMapping(in) {
		return nil, false, err
	}
	x.touch(ino)
	return in, true, nil
}

// addRange makes a range of blocks that of a file.
func (x *fcReplay) addRange(ino Ino, r extent) error {
	in, ok, err := x.mapped(ino)
	if err != nil || !ok {
		return err
	}
	if r.n == 0 || uint64(r.lblk)+uint64(r.n) > lblkMax {
		return Corrupt("fast commit: extent", r.phys, 0, ino)
	}
	for r.n > 0 {
		var run Run
		if err := x.v.Map(x.e, in, r.lblk, r.n, &run); err != nil {
			return err
		}
		part := r
		part.n = min(run.Len, x.v.InsertMax(in, r.lblk))
		if err := x.setRun(in, part, &run); err != nil {
			return err
		}
		r.lblk, r.phys, r.n = r.lblk+Lblk(part.n), r.phys+Block(part.n), r.n-part.n
	}
	return x.v.WriteInode(x.e, in)
}

// setRun is addRange for a part all of which is in one state.
func (x *fcReplay) setRun(in *Inode, r extent, run *Run) error {
	v := x.v
	if run.State != RunHole && run.Phys == r.phys {
		if err := x.claim(r.phys, r.n); err != nil || in.Flags&FlagExtents == 0 {
			return err
		}
		return v.ConvertRun(x.e, in, r.lblk, r.n, !r.unwritten)
	}
	if run.State != RunHole {
		if err := x.remove(in, r.lblk, r.lblk+Lblk(r.n)); err != nil {
			return err
		}
	}
	if err := x.claim(r.phys, r.n); err != nil {
		return err
	}
	in.Sectors += uint64(r.n) << (v.BlockBits - 9)
	return v.InsertRun(x.e, in, r.lblk, r.phys, r.n, r.unwritten)
}

// delRange makes a hole.
func (x *fcReplay) delRange(ino Ino, lblk, n uint32) error {
	in, ok, err := x.mapped(ino)
	if err != nil || !ok {
		return err
	}
	end := min(uint64(lblk)+uint64(n), lblkMax)
	if err := x.remove(in, Lblk(lblk), Lblk(end)); err != nil {
		return err
	}
	return x.v.WriteInode(x.e, in)
}
