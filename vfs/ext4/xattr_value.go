package ext4

import (
	"bytes"

	"golang.org/x/sys/unix"
)

// Values of attributes in inodes of their own (feature ea_inode): a regular file without a name,
// which holds the value, a count of the attributes that have it, and its hash ("Extended
// Attributes"). Equal values share an inode: Space remembers those made last.
//
// When the count gets to 0 the inode becomes an orphan, and is freed like any other: its blocks
// are too many for the step that drops it. Space tells the caller of it.

const (
	// valuesPerStep is how many such inodes one step of FreeXattrs drops: 2 blocks each.
	valuesPerStep = 8
	// valuesCopied bounds what a change writes of such inodes: the blocks of the new value, and the
	// counts of those that a shared block names, when that is copied, 1 block each. 64 blocks are
	// the largest value in the smallest blocks.
	valuesCopied = 64 + 8
	// valueCompared is the most blocks that a value may have to be compared with another one.
	valueCompared = 8
	// valueReserve is what a value that could have its own inode leaves free in a block, for
	// entries: an eighth of it, at most this.
	valueReserve = 1024
	// goneMax is how many inodes one attempt can drop: those of FreeXattrs, or of a few changes.
	goneMax = 2 * valuesPerStep
)

// Attach says where the inodes of values become orphans that nobody needs any more. Without it such
// values cannot be given up.
func (s *Space) Attach(o *Orphans) { s.attrs.orphans = o }

// Gone returns the inodes of values that the attempt has made orphans: the caller frees them when
// the attempt has succeeded. The list is good until the next attempt.
func (s *Space) Gone() []Ino { return s.attrs.gone[:s.attrs.ngone] }

// ownValues says whether large values get an inode of their own.
func (v *Volume) ownValues(in *Inode) bool {
	// NB: what counts as a short symbolic link is decided by i_blocks, in which values count.
	return v.HasIncompat(IncompatEAInode) && in.Type() != unix.S_IFLNK
}

// valueSizeLarge is the size from which on a value always gets its own inode.
func (v *Volume) valueSizeLarge() int {
	return int(v.BlockSize) - xattrEntrySize(3) - xhSize - xattrEndBytes
}

// valueSectors is what a value in an inode of its own counts in i_blocks of those that have it.
func (v *Volume) valueSectors(size uint32) uint64 {
	cluster := uint64(v.BlockSize) << v.ClusterBits
	return (uint64(size) + cluster - 1) &^ (cluster - 1) >> 9
}

// makeValue gives the value of a change its inode, one that has the same value or a new one,
// unless that is done.
func (v *Volume) makeValue(ed Editor, in *Inode, c *xattrChange) error {
	if !c.own || c.inum != 0 {
		return nil
	}
	c.hash = crc32c(v.CsumSeed, c.value)
	in.Sectors += v.valueSectors(uint32(len(c.value)))
	if err := v.chargeValues(ed, in, 1); err != nil {
		return err
	}
	if found, err := v.shareValue(ed, in, c); found || err != nil {
		return err
	}
	ino, err := v.AllocInode(ed, in, false)
	if err != nil {
		return err
	}
	now := v.ClampTime(ed.Now())
	ea := Inode{Ino: ino, Mode: unix.S_IFREG | 0o600, UID: in.UID, GID: in.GID, Links: 1,
		Flags: FlagEAInode, Generation: ed.Random(), Mtime: now, Crtime: now,
		Atime: Timespec{Sec: int64(c.hash)}, Version: 1}
	if v.HasIncompat(IncompatExtents) {
		ea.Flags |= FlagExtents
	}
	EmptyMapping(&ea)
	if err := v.InitInode(ed, &ea); err != nil {
		return err
	}
	if err := v.fillValue(ed, &ea, c.value); err != nil {
		return err
	}
	c.inum = ino
	ed.Space().attrs.rememberValue(c)
	return v.WriteInode(ed, &ea)
}

// shareValue looks for an inode that has the value of a change already, and counts one more use.
func (v *Volume) shareValue(ed Editor, in *Inode, c *xattrChange) (found bool, err error) {
	s := &ed.Space().attrs
	x := s.values[c.hash%xattrValuesMax]
	size := uint32(len(c.value))
	if x.ino == 0 || x.hash != c.hash || size > valueCompared<<v.BlockBits {
		return false, nil
	}
	var ea Inode
	e := xattrEntry{inum: x.ino, size: size}
	if err := v.eaInode(ed, in, &e, &ea); err != nil {
		if _, corrupt := err.(*CorruptError); corrupt { // was freed, and serves as something else
			return false, nil
		}
		return false, err
	}
	e.hash = c.hash // so that it is none of Lustre's
	refs, lustre := valueRefs(in, &e, &ea)
	if lustre || refs == 0 || c.hash != uint32(ea.Atime.Sec) {
		return false, nil
	}
	if same, err := v.sameValue(ed, &ea, c.value); !same || err != nil {
		return false, err
	}
	setValueRefs(&ea, refs+1)
	c.inum = x.ino
	return true, v.WriteInode(ed, &ea)
}

// sameValue compares what an inode holds with a value of the same size.
func (v *Volume) sameValue(src Source, ea *Inode, value []byte) (bool, error) {
	for lblk := uint32(0); len(value) > 0; lblk++ {
		data, err := v.eaBlock(src, ea, lblk, uint32(ea.Size))
		if err != nil || !bytes.Equal(data, value[:len(data)]) {
			return false, err
		}
		value = value[len(data):]
	}
	return true, nil
}

// fillValue writes a value to the blocks of a new inode. They are metadata: the value is part of
// the transaction that makes the attribute.
func (v *Volume) fillValue(ed Editor, ea *Inode, value []byte) error {
	ea.Size = uint64(len(value))
	goal := v.inodeGoal(ea)
	for lblk := Lblk(0); len(value) > 0; {
		want := min(uint32((len(value)-1)>>v.BlockBits)+1, v.InsertMax(ea, lblk))
		b, n, err := v.AllocBlocks(ed, Alloc{Goal: goal, Want: want})
		if err != nil {
			return err
		}
		ea.Sectors += uint64(n) << (v.BlockBits - 9)
		n = min(n, want)
		if err := v.InsertRun(ed, ea, lblk, b, n, false); err != nil {
			return err
		}
		for i := range Block(n) {
			buf, err := ed.Fresh(b + i)
			if err != nil {
				return err
			}
			value = value[copy(buf.Data, value):]
		}
		lblk, goal = lblk+Lblk(n), b+Block(n)
	}
	return nil
}

// valueRefs returns how many attributes have the value of an inode. Those of Lustre keep no count,
// but name the one that there is.
func valueRefs(owner *Inode, e *xattrEntry, ea *Inode) (refs uint64, lustre bool) {
	if e.hash != uint32(ea.Atime.Sec) && uint32(ea.Mtime.Sec) == uint32(owner.Ino) &&
		ea.Generation == owner.Generation {
		return 1, true
	}
	return uint64(uint32(ea.Ctime.Sec))<<32 | ea.Version&(1<<32-1), false
}

func setValueRefs(ea *Inode, refs uint64) {
	ea.Ctime = Timespec{Sec: int64(refs >> 32)}
	ea.Version = ea.Version&^(1<<32-1) | refs&(1<<32-1)
}

// dropValue gives up the value of an attribute of owner, which has an inode of its own.
func (v *Volume) dropValue(ed Editor, owner *Inode, e *xattrEntry) error {
	var ea Inode
	if err := v.eaInode(ed, owner, e, &ea); err != nil {
		return err
	}
	refs, lustre := valueRefs(owner, e, &ea)
	if refs == 0 {
		return Corrupt("extended attributes: count of a value", ea.Where, ea.Offset, ea.Ino)
	}
	setValueRefs(&ea, refs-1)
	if refs == 1 {
		s := &ed.Space().attrs
		if s.orphans == nil || s.ngone == goneMax {
			return unix.EOPNOTSUPP
		}
		ea.Links = 0
		if err := v.AddOrphan(ed, s.orphans, &ea); err != nil {
			return err
		}
		s.gone[s.ngone] = ea.Ino
		s.ngone++
	}
	if !lustre {
		if err := v.uncountValue(ed, owner, e); err != nil {
			return err
		}
	}
	return v.WriteInode(ed, &ea)
}

// uncountValue takes what a value in an inode of its own counts off an inode that had it.
func (v *Volume) uncountValue(ed Editor, owner *Inode, e *xattrEntry) error {
	owner.Sectors -= min(owner.Sectors, v.valueSectors(e.size))
	return v.chargeValues(ed, owner, -1)
}

// uncountValues is uncountValue for all values of a block that others keep.
func (v *Volume) uncountValues(ed Editor, owner *Inode, block *xattrArea) error {
	var e xattrEntry
	for off := block.first; off < block.end; off = e.next {
		if e = block.at(off); e.inum != 0 {
			if err := v.uncountValue(ed, owner, &e); err != nil {
				return err
			}
		}
	}
	return nil
}

// leaveValue is told that an attribute of owner was replaced or removed: the value that it had in
// an inode of its own, if it did, is given up, but for one in a block that others still share.
func (v *Volume) leaveValue(ed Editor, owner *Inode, e *xattrEntry, shared bool) error {
	switch {
	case e.inum == 0:
		return nil
	case !shared:
		return v.dropValue(ed, owner, e)
	}
	var ea Inode
	if err := v.eaInode(ed, owner, e, &ea); err != nil {
		return err
	}
	if _, lustre := valueRefs(owner, e, &ea); lustre {
		return nil
	}
	return v.uncountValue(ed, owner, e)
}

// leavesRoom says whether a value that could have its own inode leaves enough of the block to other
// entries.
func (v *Volume) leavesRoom(in *Inode, a *xattrArea, was *xattrEntry, c *xattrChange) bool {
	if !v.ownValues(in) || c.held() == 0 || was.held() == c.held() {
		return true
	}
	return a.lowest()+was.held()-c.held() >= min(int(v.BlockSize)/8, valueReserve)
}

// shareValues counts one more use of all values in inodes of their own that a list has, but for
// that of the attribute which was just changed.
func (v *Volume) shareValues(ed Editor, owner *Inode, a *xattrArea, c *xattrChange) error {
	count := len(c.value) >> v.BlockBits
	var e xattrEntry
	for off := a.first; off < a.end; off = e.next {
		if e = a.at(off); e.inum == 0 || e.index == c.index && bytes.Equal(e.name, c.name) {
			continue
		}
		if count++; count > valuesCopied {
			return unix.ENOSPC
		}
		var ea Inode
		if err := v.eaInode(ed, owner, &e, &ea); err != nil {
			return err
		}
		refs, lustre := valueRefs(owner, &e, &ea)
		if lustre {
			return unix.EOPNOTSUPP
		}
		setValueRefs(&ea, refs+1)
		if err := v.WriteInode(ed, &ea); err != nil {
			return err
		}
	}
	return nil
}

// hasOwnValues says whether a list has values in inodes of their own.
func (a *xattrArea) hasOwnValues() bool {
	var e xattrEntry
	for off := a.first; off < a.end; off = e.next {
		if e = a.at(off); e.inum != 0 {
			return true
		}
	}
	return false
}

// freeValues gives up all values of a list that have inodes of their own, and takes them out of
// it, which is in memory that may be changed. n counts them; ErrContinue after valuesPerStep. What
// is no such inode is left alone: the list is given up anyway.
func (v *Volume) freeValues(ed Editor, in *Inode, a *xattrArea, n *int) error {
	var e xattrEntry
	for off := a.first; off < a.end; off = e.next {
		if e = a.at(off); e.inum == 0 {
			continue
		}
		if *n == valuesPerStep {
			return ErrContinue
		}
		*n++
		err := v.dropValue(ed, in, &e)
		if _, corrupt := err.(*CorruptError); err != nil && !corrupt {
			return err
		}
		le.PutUint32(a.data[off+xeValueInum:], 0)
		le.PutUint32(a.data[off+xeValueSize:], 0)
	}
	return nil
}

// countOwnValues returns how many values an inode's attributes have in inodes of their own, and
// what those count in i_blocks.
func (v *Volume) countOwnValues(src Source, in *Inode) (n int64, sectors uint64, err error) {
	if !v.HasIncompat(IncompatEAInode) {
		return 0, 0, nil
	}
	body, err := v.xattrBody(in)
	if err != nil {
		return 0, 0, err
	}
	block, err := v.xattrBlock(src, in)
	if err != nil {
		return 0, 0, err
	}
	var e xattrEntry
	for _, a := range [2]*xattrArea{&body, &block} {
		for off := a.first; off < a.end; off = e.next {
			if e = a.at(off); e.inum != 0 {
				n++
				sectors += v.valueSectors(e.size)
			}
		}
	}
	return n, sectors, nil
}
