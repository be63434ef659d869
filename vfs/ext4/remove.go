package ext4

import "golang.org/x/sys/unix"

// Bounds of one call of RemoveRuns.
const (
	// removeGroups is in how many groups it frees data, each with a bitmap and a descriptor.
	removeGroups = 6
	// removeRuns is how often it frees a piece of data; each takes two entries of the undo list.
	removeRuns = 256
	// removeNodes is how many leaves, or blocks of pointers, it goes through.
	removeNodes = 4
	// removeForget is how many blocks of data that is metadata it frees: with the nodes, each of
	// which may take those above it along, below what a step may have the log forget.
	removeForget = 32
)

// removal is a call of RemoveRuns.
type removal struct {
	in       *Inode
	from, to Lblk // as called
	metadata bool
	// What it may still do.
	runs, nodes int
	forget      uint32
	// groups are those in which it has freed data.
	groups     [removeGroups]Group
	groupsUsed int
}

// RemoveRuns frees the blocks [from, to) of a file, from the end backwards, and what of its
// mapping is needed no more, a bounded piece of it. ErrContinue: everything from next on is done,
// and the file is in order as it is. in.Sectors is reduced by what was freed; the caller writes
// the inode.
//
// Blocks that one call changes: bitmaps and descriptors of removeGroups groups, and of those in
// which nodes of the mapping lie that are freed, nearly always the same. Of the mapping, nodes that
// become empty are freed without being changed; at the two ends of what was removed a leaf and the
// nodes above it may change. A hole in the middle of an extent changes what InsertRun does. So 24
// in a tree of depth 5, and hardly ever more than 12.
//
// Blocks of directories, symbolic links and values of attributes are metadata of the log. Errors:
// those of ed; ErrSpaceBusy; ENOSPC, if a hole in the middle of an extent needs a new node; EINVAL;
// EOPNOTSUPP for a block map with bigalloc; CorruptError.
func (v *Volume) RemoveRuns(ed Editor, in *Inode, from, to Lblk) (next Lblk, err error) {
	if in.Flags&FlagInlineData != 0 {
		return to, unix.EINVAL
	}
	r := removal{in: in, from: from, to: to, runs: removeRuns, nodes: removeNodes,
		forget: removeForget, metadata: in.IsDir() || in.Type() == unix.S_IFLNK ||
			in.Flags&FlagEAInode != 0}
	if in.Flags&FlagExtents != 0 {
		return v.removeExtents(ed, &r)
	}
	return v.removePointers(ed, &r)
}

// afford says whether the removal may still free blocks in a group.
func (r *removal) afford(g Group) bool {
	if r.runs == 0 || r.metadata && r.forget == 0 {
		return false
	}
	for _, have := range r.groups[:r.groupsUsed] {
		if have == g {
			return true
		}
	}
	if r.groupsUsed == removeGroups {
		return false
	}
	r.groups[r.groupsUsed] = g
	r.groupsUsed++
	return true
}

// reach is how far the removal may go through the blocks [from, to) of a file, which are phys …,
// from the end backwards: to, if it may not remove any.
func (v *Volume) reach(r *removal, from, to Lblk, phys Block) (Lblk, error) {
	if !v.checkBlock(phys, uint32(to-from)) || phys < v.FirstDataBlock {
		return to, Corrupt("file maps blocks outside", r.in.Where, r.in.Offset+iBlock, r.in.Ino)
	}
	for to > from {
		end := phys + Block(to-from)
		g := v.groupOf(end - 1)
		if !r.afford(g) {
			break
		}
		n := uint32(min(Block(to-from), end-v.groupFirst(g)))
		if r.metadata {
			n = min(n, r.forget)
			r.forget -= n
		}
		r.runs--
		to -= Lblk(n)
	}
	return to, nil
}

// freeData frees the blocks [from, to) of a file, which are phys …. With bigalloc a cluster is
// freed with the last of its blocks. The mapping still shows what this removal has done already:
// that is all between to and the end it was called with.
func (v *Volume) freeData(ed Editor, r *removal, from, to Lblk, phys Block) error {
	if from == to {
		return nil
	}
	low, high := uint64(from), uint64(to)
	if r.metadata { // all of it, also what does not free a cluster yet
		for i := range Block(to - from) {
			ed.Forget(phys + i)
		}
	}
	if mask := uint64(1)<<v.ClusterBits - 1; mask != 0 {
		if (uint64(phys-v.FirstDataBlock)^low)&mask != 0 {
			return Corrupt("block in the wrong place of its cluster", r.in.Where,
				r.in.Offset+iBlock, r.in.Ino)
		}
		headUsed, tailUsed, err := v.clusterEnds(ed, r, low, high)
		if err != nil {
			return err
		}
		if headUsed {
			low = (low + mask) &^ mask
		}
		if tailUsed {
			high &^= mask
		}
		if low >= high {
			return nil
		}
		phys += Block(low - uint64(from))
		r.in.uncount((high+mask)>>v.ClusterBits-low>>v.ClusterBits, v.clusterSectors())
	} else {
		r.in.uncount(high-low, v.clusterSectors())
	}
	return v.FreeBlocks(ed, phys, uint32(high-low), false)
}

// clusterEnds says whether the clusters in which [low, high) begins and ends hold other blocks of
// the file, which are not removed.
func (v *Volume) clusterEnds(ed Editor, r *removal, low, high uint64) (head, tail bool,
	err error) {
	mask := uint64(1)<<v.ClusterBits - 1
	first, last := low&^mask, (high+mask)&^mask
	if _, head, err = v.mappedIn(ed, r.in, first, low); err != nil {
		return false, false, err
	}
	if _, tail, err = v.mappedIn(ed, r.in, max(high, uint64(r.to)), last); err != nil {
		return false, false, err
	}
	return head, tail, nil
}

// uncount takes n clusters out of i_blocks, whose value on the disk may have been too small.
func (in *Inode) uncount(n, sectors uint64) { in.Sectors -= min(in.Sectors, n*sectors) }

// freeNode frees a block of a file's mapping.
func (v *Volume) freeNode(ed Editor, in *Inode, b Block) error {
	in.uncount(1, v.clusterSectors())
	return v.FreeBlocks(ed, b, 1, true)
}
