package ext4

import (
	"errors"
	"io"

	"golang.org/x/sys/unix"
)

// fcReplay carries fast commits out, record by record, in memory.
//
// What makes it special: records name the blocks that files have got, which the bitmaps do not know
// of. They are kept from everybody else from the beginning, and at the end every file that was
// touched is gone over: all that it maps is marked used, and counted.
type fcReplay struct {
	v       *Volume
	ed      *Edit
	touched map[Ino]bool
}

// ReplayFastCommits carries fast commits out on the filesystem in r, whose log has been replayed,
// and returns the blocks that change thereby, in order. now is what directories get as time of
// their last change. Memory is bounded by the number of blocks that records can touch, a few
// each. Errors: CorruptError; ENOSPC; those of the devices.
func (v *Volume) ReplayFastCommits(fc *FastCommits, r io.ReaderAt, now Timespec) ([]Changed,
	error) {
	e := &fcReplay{v: v, ed: NewEdit(v, r, now), touched: map[Ino]bool{}}
	e.ed.space.lenient = true
	for _, region := range fc.regions {
		if err := e.keep(region); err != nil {
			return nil, err
		}
	}
	if err := fc.each(e.record); err != nil {
		return nil, err
	}
	for ino := range e.touched {
		if err := e.settle(ino); err != nil {
			return nil, err
		}
	}
	return e.ed.Changed(), nil
}

// pieces calls f for the part of a range of blocks in each group.
func (v *Volume) pieces(b Block, n uint32, f func(g Group, first, n uint32) error) error {
	if !v.checkBlock(b, n) || b < v.FirstDataBlock {
		return Corrupt("fast commit: blocks outside of the filesystem", b, 0, 0)
	}
	for end := b + Block(n); b < end; {
		g := v.groupOf(b)
		next := min(end, v.groupFirst(g)+Block(v.BlocksPerGroup))
		from := v.clusterOf(b)
		to := uint32((next-1-v.groupFirst(g))>>v.ClusterBits) + 1
		if err := f(g, from, to-from); err != nil {
			return err
		}
		b = next
	}
	return nil
}

// keep makes blocks that a record gives to a file unavailable to all others.
func (e *fcReplay) keep(r fcRegion) error {
	return e.v.pieces(r.first, r.n, func(g Group, first, n uint32) error {
		return e.ed.space.busy(BusyReserved, g, first, n)
	})
}

// record carries one record out. Those about files that are not there are left out, as the kernel
// does: the file was deleted later.
func (e *fcReplay) record(r *fcRecord) error {
	v := r.value
	switch r.tag {
	case fcTagInode:
		return e.putInode(Ino(le32(v, fcInodeIno)), v[fcInodeRaw:])
	case fcTagAddRange:
		return e.addRange(Ino(le32(v, fcRangeIno)), extentAt(fcLeaf(v[fcRangeEx:]), 0))
	case fcTagDelRange:
		from := Lblk(le32(v, fcDelLblk))
		return e.delRange(Ino(le32(v, fcDelIno)), from, from+Lblk(le32(v, fcDelLen)))
	case fcTagCreat, fcTagLink, fcTagUnlink:
		parent, ino := Ino(le32(v, fcDentryParent)), Ino(le32(v, fcDentryIno))
		return e.dentry(r.tag, parent, ino, v[fcDentryName:])
	}
	return nil
}

// fcLeaf makes a node of an extent tree of one entry.
func fcLeaf(p []byte) []byte {
	var node [2 * extentEntrySize]byte
	copy(node[extentEntrySize:], p[:extentEntrySize])
	return node[:]
}

// inode reads an inode that is in use. ok is false if it is not.
func (e *fcReplay) inode(ino Ino) (in *Inode, ok bool, err error) {
	if ino != RootIno && ino < e.v.FirstInode || ino > e.v.InodesCount {
		return nil, false, nil
	}
	in = new(Inode)
	used, err := e.v.inodeUsed(e.ed, ino)
	if err == nil && used {
		err = e.v.ReadInode(e.ed, ino, in)
	}
	if errors.Is(err, unix.ESTALE) {
		return nil, false, nil
	}
	e.touched[ino] = e.touched[ino] || used
	return in, used && err == nil, err
}

// putInode takes over an inode as it was when the fast commit was made. What says where its
// contents are is not taken over: that follows from the ranges, and for directories from the
// entries.
func (e *fcReplay) putInode(ino Ino, raw []byte) error {
	if ino > e.v.InodesCount || ino != RootIno && ino < e.v.FirstInode {
		return Corrupt("fast commit: inode number", 0, 0, ino)
	}
	in, ok, err := e.inode(ino)
	if err != nil {
		return err
	}
	if le16(raw, iLinksCount) == 0 {
		if ok {
			return e.delete(in)
		}
		return nil
	}
	b, off, err := e.v.InodeBlock(ino)
	if err != nil {
		return err
	}
	buf, err := e.ed.Modify(b)
	if err != nil {
		return err
	}
	slot := buf.Data[off : off+int(e.v.InodeSize)]
	if !ok {
		isDir := le16(raw, iMode)&unix.S_IFMT == unix.S_IFDIR
		if err := e.v.takeInode(e.ed, ino, isDir); err != nil {
			return err
		}
		clear(slot)
	}
	e.touched[ino] = true
	e.copyInode(slot, raw)
	e.v.sealInode(slot, &Inode{Ino: ino, Generation: le32(slot, iGeneration),
		ExtraISize: extraOf(e.v, slot)})
	return nil
}

func extraOf(v *Volume, slot []byte) uint16 {
	if v.InodeSize > inodeSizeGood {
		return le16(slot, iExtraISize)
	}
	return 0
}

// copyInode copies the parts of an inode that count.
func (e *fcReplay) copyInode(slot, raw []byte) {
	was := append([]byte(nil), slot...)
	n := min(len(raw), len(slot))
	copy(slot[:iBlock], raw)
	copy(slot[iGeneration:n], raw[iGeneration:n])
	kind, flags := uint32(le16(raw, iMode))&unix.S_IFMT, le32(raw, iFlags)
	if kind == unix.S_IFDIR && flags&FlagInlineData == 0 {
		copy(slot[iSizeLo:iSizeLo+4], was[iSizeLo:])
		copy(slot[iSizeHigh:iSizeHigh+4], was[iSizeHigh:])
		flags = flags&^FlagIndex | le32(was, iFlags)&FlagIndex
		le.PutUint32(slot[iFlags:], flags)
	}
	switch {
	case flags&FlagExtents != 0:
		if le16(slot, iBlock+ehMagic) != extentMagic || le32(was, iFlags)&FlagExtents == 0 {
			clear(slot[iBlock : iBlock+60])
			initNode(slot[iBlock:iBlock+60], 4, 0)
		}
	case flags&FlagInlineData != 0, kind != unix.S_IFREG && kind != unix.S_IFDIR:
		copy(slot[iBlock:iBlock+60], raw[iBlock:])
	}
}

// addRange gives a file blocks, in place of others that it may have there.
func (e *fcReplay) addRange(ino Ino, x extent) error {
	in, ok, err := e.inode(ino)
	if err != nil || !ok || in.Flags&FlagExtents == 0 {
		return err
	}
	v := e.v
	for end := x.lblk + Lblk(x.n); x.lblk < end; {
		var run Run
		if err := v.Map(e.ed, in, x.lblk, uint32(end-x.lblk), &run); err != nil {
			return err
		}
		n := run.Len
		switch {
		case run.State == RunHole:
			err = v.InsertRun(e.ed, in, x.lblk, x.phys, n, x.unwritten)
		case run.Phys != x.phys:
			if err = e.removeRuns(in, x.lblk, x.lblk+Lblk(n)); err == nil {
				err = v.InsertRun(e.ed, in, x.lblk, x.phys, n, x.unwritten)
			}
		case (run.State == RunUnwritten) != x.unwritten:
			err = v.ConvertRun(e.ed, in, x.lblk, n, !x.unwritten)
		}
		if err != nil {
			return err
		}
		x.lblk += Lblk(n)
		x.phys += Block(n)
	}
	return v.WriteInode(e.ed, in)
}

func (e *fcReplay) removeRuns(in *Inode, from, to Lblk) error {
	for {
		next, err := e.v.RemoveRuns(e.ed, in, from, to)
		if err != ErrContinue {
			return err
		}
		to = next
	}
}

func (e *fcReplay) delRange(ino Ino, from, to Lblk) error {
	in, ok, err := e.inode(ino)
	if err != nil || !ok || !e.v.HasMapping(in) {
		return err
	}
	if err := e.removeRuns(in, from, to); err != nil {
		return err
	}
	return e.v.WriteInode(e.ed, in)
}

// delete frees an inode and all it has.
func (e *fcReplay) delete(in *Inode) error {
	if e.v.HasMapping(in) {
		if err := e.removeRuns(in, 0, lblkMax); err != nil {
			return err
		}
	}
	if err := e.v.FreeXattrs(e.ed, in); err != nil {
		return err
	}
	in.Links, in.Size, in.Dtime = 0, 0, uint32(e.ed.Now().Sec)
	if err := e.v.WriteInode(e.ed, in); err != nil {
		return err
	}
	e.touched[in.Ino] = false
	return e.v.FreeInode(e.ed, in)
}

// dentry makes or removes a name. It may have been made or removed already.
func (e *fcReplay) dentry(tag int, parent, ino Ino, name []byte) error {
	dir, ok, err := e.inode(parent)
	if err != nil || !ok {
		return err
	}
	in, ok, err := e.inode(ino)
	if err != nil || !ok {
		return err
	}
	var ent Dirent
	err = e.search(func(cur *LookupCursor) error {
		return e.v.Lookup(e.ed, dir, name, cur, &ent)
	})
	if err != nil && err != unix.ENOENT {
		return err
	}
	there := err == nil && ent.Ino == ino
	switch {
	case tag == fcTagUnlink && there:
		return e.unlink(dir, in, name)
	case tag == fcTagUnlink || there:
		return nil
	case err == nil:
		err = e.search(func(cur *LookupCursor) error {
			return e.v.SetEntry(e.ed, dir, name, ino, FileType(in.Mode), cur)
		})
	default:
		var cur AddCursor
		for err = ErrContinue; err == ErrContinue; {
			err = e.v.AddEntry(e.ed, dir, name, ino, FileType(in.Mode), &cur)
		}
	}
	if err != nil {
		return err
	}
	return e.linked(tag, dir, in)
}

// search calls f until it has come to an end.
func (e *fcReplay) search(f func(cur *LookupCursor) error) (err error) {
	var cur LookupCursor
	for err = ErrContinue; err == ErrContinue; {
		err = f(&cur)
	}
	return err
}

func (e *fcReplay) unlink(dir, in *Inode, name []byte) error {
	err := e.search(func(cur *LookupCursor) error {
		_, _, err := e.v.RemoveEntry(e.ed, dir, name, cur)
		return err
	})
	if err != nil {
		return err
	}
	if in.IsDir() && dir.Links > 2 {
		dir.Links--
	}
	if err := e.writeDir(dir); err != nil {
		return err
	}
	if in.Links--; in.Links == 0 || in.IsDir() {
		return e.delete(in)
	}
	return e.v.WriteInode(e.ed, in)
}

// linked counts a name that was made. A directory that was made gets its first block.
func (e *fcReplay) linked(tag int, dir, in *Inode) error {
	// NB: the kernel leaves 1 as the number of links of a directory, and that of its parent as it
	// was; e2fsck then complains.
	switch {
	case in.IsDir() && dir.Links > 1:
		dir.Links++
	case tag == fcTagLink:
		in.Links++
	}
	if tag == fcTagCreat {
		in.Links = 1
	}
	if in.IsDir() {
		in.Links = 2
	}
	if err := e.writeDir(dir); err != nil {
		return err
	}
	if in.IsDir() && in.Size == 0 && in.Flags&FlagInlineData == 0 {
		if err := e.v.InitDir(e.ed, in, dir.Ino); err != nil {
			return err
		}
	}
	return e.v.WriteInode(e.ed, in)
}

func (e *fcReplay) writeDir(dir *Inode) error {
	dir.Mtime, dir.Ctime = e.ed.Now(), e.ed.Now()
	return e.v.WriteInode(e.ed, dir)
}

// settle marks everything that a file maps as used, and counts it.
func (e *fcReplay) settle(ino Ino) error {
	in, ok, err := e.inode(ino)
	if err != nil || !ok || !e.v.HasMapping(in) {
		return err
	}
	v := e.v
	sectors := uint64(0)
	if in.FileACL != 0 {
		sectors += v.clusterSectors()
	}
	for lblk := Lblk(0); lblk < lblkMax; {
		var run Run
		if err := v.Map(e.ed, in, lblk, lblkMax-uint32(lblk), &run); err != nil {
			return err
		}
		if run.State != RunHole {
			sectors += uint64(run.Len) << (v.BlockBits - 9)
			err := v.pieces(run.Phys, run.Len, func(g Group, first, n uint32) error {
				return v.markUsed(e.ed, g, first, n)
			})
			if err != nil {
				return err
			}
		}
		lblk += Lblk(run.Len)
	}
	if in.Flags&FlagExtents == 0 {
		return nil
	}
	in.Sectors = sectors + v.treeSectors(e.ed, in)
	return v.WriteInode(e.ed, in)
}

// treeSectors is what the nodes of an extent tree take. Nodes that cannot be read count as one.
func (v *Volume) treeSectors(src Source, in *Inode) uint64 {
	var count func(node []byte, depth int) uint64
	count = func(node []byte, depth int) (n uint64) {
		for i := 0; depth > 0 && i < entries(node); i++ {
			n += v.clusterSectors()
			child, err := v.extentBlock(src, in, indexChild(node, i), depth-1, entryLblk(node, i))
			if err == nil {
				n += count(append([]byte(nil), child...), depth-1)
			}
		}
		return n
	}
	return count(in.IBlock[:], int(le16(in.IBlock[:], ehDepth)))
}

// inodeUsed says whether the bitmap shows an inode in use.
func (v *Volume) inodeUsed(ed Editor, ino Ino) (bool, error) {
	g := v.groupOfInode(ino)
	d, err := v.desc(ed, g, false)
	if err != nil {
		return false, err
	}
	bitmap, err := v.bitmapOf(ed, g, d, &inodeBitmap)
	if err != nil || bitmap == nil {
		return false, err
	}
	return hasBit(bitmap, uint32(ino-1)%v.InodesPerGroup), nil
}
