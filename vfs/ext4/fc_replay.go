package ext4

import (
	"errors"
	"io"
	"maps"
	"slices"

	"golang.org/x/sys/unix"
)

// fcReplay is a replay of fast commits. Records tell what a file has become, not all the steps of
// the way there, and those of different files are in no order. A block may so be given to one file
// before it is taken from another. The bitmaps are therefore brought in line with what files have
// twice: before anything is taken from a file, and in the end.
type fcReplay struct {
	v       *Volume
	e       *Edit
	orphans *Orphans
	// names are the inodes that were touched. Of directories, it is how many names they have.
	names map[Ino]int
	// quotas is nil if there are none; counted is what each inode that was looked at counted for.
	quotas  *Quotas
	counted map[Ino]fcCount
}

// Replay carries the fast commits out on the filesystem v in r, whose log has been replayed, and
// returns the blocks that change thereby, in order. Nothing is written: half of the changes would
// be worse than none. now is what directories get as time of their last change. Memory is bounded
// by the number of blocks that records can touch, a few each. Errors: CorruptError; ENOSPC;
// EOPNOTSUPP for changes of a directory whose entries are in its inode; those of the device.
func (fc *FastCommits) Replay(v *Volume, r io.ReaderAt, now Timespec) ([]Changed, error) {
	x := &fcReplay{v: v, e: NewEdit(v, r, now), names: map[Ino]int{},
		counted: map[Ino]fcCount{}}
	// What is there was there before the crash, too.
	x.e.space.keep, x.e.space.keepTrees = 0, 0
	err := x.run(fc)
	if errors.Is(err, ErrSpaceBusy) {
		err = unix.ENOSPC // nothing that is freed is used again here
	}
	if err != nil {
		return nil, err
	}
	return x.e.Changed(), nil
}

func (x *fcReplay) run(fc *FastCommits) (err error) {
	if x.orphans, err = x.v.LoadOrphans(x.e); err != nil {
		return err
	}
	x.e.space.Attach(x.orphans)
	if err := x.openQuotas(); err != nil {
		return err
	}
	for _, r := range fc.regions {
		if err := x.reserve(r.first, r.n); err != nil {
			return err
		}
	}
	if err := fc.each(x.record); err != nil {
		return err
	}
	return x.finish()
}

// record carries one record out. Those about files that are not there are left out, as the kernel
// does: the file was deleted later.
func (x *fcReplay) record(r *fcRecord) error {
	x.e.space.Begin() // nothing is going to be undone
	x.orphans.Begin()
	v := r.value
	switch r.tag {
	case fcTagInode:
		return x.putInode(Ino(le32(v, fcInodeIno)), v[fcInodeRaw:])
	case fcTagAddRange:
		return x.addRange(Ino(le32(v, fcRangeIno)), decodeExtent(v[fcRangeEx:]))
	case fcTagDelRange:
		return x.delRange(Ino(le32(v, fcDelIno)), le32(v, fcDelLblk), le32(v, fcDelLen))
	case fcTagCreat, fcTagLink, fcTagUnlink:
		parent, ino := Ino(le32(v, fcDentryParent)), Ino(le32(v, fcDentryIno))
		return x.dentry(r.tag, parent, ino, v[fcDentryName:])
	}
	return nil
}

// reserve keeps blocks that a record is going to give to a file from being allocated before that.
func (x *fcReplay) reserve(b Block, n uint32) error {
	v, s := x.v, x.e.space
	if !v.checkBlock(b, n) || b < v.FirstDataBlock {
		return Corrupt("fast commit: blocks outside of the filesystem", b, 0, 0)
	}
	s.Begin()
	for end := b + Block(n); b < end; {
		g, first, count, next := v.groupPart(b, end)
		d, err := v.desc(x.e, g, false)
		if err != nil {
			return err
		}
		bitmap, err := v.bitmapOf(x.e, g, d, &blockBitmap)
		if err != nil {
			return err
		}
		for i := first; i < first+count; i++ {
			if bitmap != nil && hasBit(bitmap, i) || s.isBusy(BusyReserved, g, i) {
				continue
			}
			if err := s.busy(BusyReserved, g, i, 1); err != nil {
				return err
			}
		}
		b = next
	}
	return nil
}

// claim marks blocks as used, which they may be already.
func (x *fcReplay) claim(b Block, n uint32) error {
	if !x.v.checkBlock(b, n) || b < x.v.FirstDataBlock {
		return Corrupt("blocks outside of the filesystem", b, 0, 0)
	}
	for end := b + Block(n); b < end; {
		g, first, count, next := x.v.groupPart(b, end)
		if err := x.claimIn(g, first, count); err != nil {
			return err
		}
		b = next
	}
	return nil
}

func (x *fcReplay) claimIn(g Group, first, n uint32) error {
	v, s := x.v, x.e.space
	d, err := v.desc(x.e, g, false)
	if err != nil {
		return err
	}
	bitmap, err := v.bitmapOf(x.e, g, d, &blockBitmap)
	if err != nil {
		return err
	}
	i := first
	for ; bitmap != nil && i < first+n && hasBit(bitmap, i); i++ {
	}
	if i == first+n {
		return nil
	}
	if d, bitmap, err = v.editBitmap(x.e, g, &blockBitmap); err != nil {
		return err
	}
	taken := int32(0)
	for ; i < first+n; i++ {
		if hasBit(bitmap, i) {
			continue
		}
		setBit(bitmap, i)
		taken++
		for set := range BusySet(busySets) {
			if s.isBusy(set, g, i) {
				s.unbusy(set, g, i, 1)
			}
		}
	}
	return v.countClusters(x.e, g, d, bitmap, -taken)
}

// own claims what a file has in [from, to), and returns how many clusters that are.
func (x *fcReplay) own(in *Inode, from, to Lblk) (clusters uint64, err error) {
	bits, last := x.v.ClusterBits, ^Block(0)
	if in.Flags&FlagExtents == 0 { // a block map is long to walk, and has nothing beyond the end
		to = min(to, Lblk((in.Size+uint64(x.v.BlockSize)-1)>>x.v.BlockBits))
	}
	for from < to {
		var run Run
		if err := x.v.Map(x.e, in, from, uint32(to-from), &run); err != nil {
			return 0, err
		}
		if run.State != RunHole {
			if err := x.claim(run.Phys, run.Len); err != nil {
				return 0, err
			}
			first, end := run.Phys>>bits, (run.Phys+Block(run.Len)-1)>>bits+1
			if first == last {
				first++ // parts of one cluster
			}
			clusters, last = clusters+uint64(end-first), end-1
		}
		from += Lblk(run.Len)
	}
	return clusters, nil
}

// remove makes [from, to) of a file a hole. The caller writes in.
func (x *fcReplay) remove(in *Inode, from, to Lblk) error {
	if _, err := x.own(in, from, to); err != nil {
		return err
	}
	for {
		x.e.space.Begin()
		next, err := x.v.RemoveRuns(x.e, in, from, to)
		if err != ErrContinue {
			return err
		}
		to = next
	}
}

// nodes counts the nodes of an extent tree below one.
func (x *fcReplay) nodes(in *Inode, node []byte, depth int) (n uint64, err error) {
	for i := 0; depth > 0 && i < entries(node); i++ {
		child := indexChild(node, i)
		if !x.v.checkBlock(child, 1) {
			return 0, Corrupt("extent index points outside", in.Where, in.Offset, in.Ino)
		}
		data, err := x.v.extentBlock(x.e, in, child, depth-1, entryLblk(node, i))
		if err != nil {
			return 0, err
		}
		below, err := x.nodes(in, data, depth-1)
		if err != nil {
			return 0, err
		}
		n += 1 + below
	}
	return n, nil
}

// finish frees the files without a name, and then claims what the others have.
func (x *fcReplay) finish() error {
	touched := slices.Sorted(maps.Keys(x.names))
	for _, settle := range []func(*Inode) error{x.settleDead, x.settle} {
		for _, ino := range touched {
			x.e.space.Begin()
			in, ok, err := x.read(ino)
			if err == nil && ok {
				err = settle(in)
			}
			if err != nil {
				return err
			}
		}
	}
	return x.countQuotas()
}

// settleDead deletes a file without a name. What is on the list of orphans is freed from there.
func (x *fcReplay) settleDead(in *Inode) error {
	if !x.dead(in) || x.orphans.Has(in.Ino) {
		return nil
	}
	return x.delete(in)
}

// settle claims what a file has, and sets how much that is.
func (x *fcReplay) settle(in *Inode) error {
	v := x.v
	if in.FileACL != 0 {
		if err := x.claim(in.FileACL, 1); err != nil {
			return err
		}
	}
	if !v.HasMapping(in) {
		return nil
	}
	clusters, err := x.own(in, 0, lblkMax)
	if err != nil || in.Flags&FlagExtents == 0 {
		return err // a block map has no blocks but those that were counted with each change
	}
	nodes, err := x.nodes(in, in.IBlock[:], int(le16(in.IBlock[:], ehDepth)))
	if err != nil {
		return err
	}
	if clusters += nodes; in.FileACL != 0 {
		clusters++
	}
	_, values, err := v.countOwnValues(x.e, in)
	if err != nil {
		return err
	}
	in.Sectors = clusters*v.clusterSectors() + values
	return v.WriteInode(x.e, in)
}
