package ext4

// inodeGoal is where the first block of a file is wanted: in the group of its inode, and files
// that grow at the same time some way apart ("Block and Inode Allocation Policy"). The kernel
// takes the number of the process for that; here it is the inode's, spread by a hash.
func (v *Volume) inodeGoal(in *Inode) Block {
	g := v.groupOfInode(in.Ino)
	first := v.groupFirst(g)
	size := min(Block(v.BlocksPerGroup), v.BlocksCount-first)
	colour := uint32(in.Ino) * 0x9e3779b1 >> 28
	return first + size/16*Block(colour)
}

// Goal is the block at which the block for lblk is wanted: as far behind the one before it, or
// before the one behind it, as it is in the file, so that a hole that is filled later fits in.
// Errors of src, CorruptError.
func (v *Volume) Goal(src Source, in *Inode, lblk Lblk) (Block, error) {
	if in.Flags&FlagExtents == 0 {
		return v.goalPointers(src, in, lblk)
	}
	var p treePath
	if err := v.descend(src, in, lblk, &p); err != nil {
		return 0, err
	}
	leaf := p.node(in, p.depth)
	if entries(leaf) == 0 {
		return v.inodeGoal(in), nil
	}
	x := extentAt(leaf, max(p.nodes[p.depth].at, 0))
	return v.goalNear(in, x.phys, int64(lblk)-int64(x.lblk)), nil
}

// goalNear is the block at a distance from another block of the file, or the inode's goal if there
// is no such block.
func (v *Volume) goalNear(in *Inode, b Block, distance int64) Block {
	if at := int64(b) + distance; at >= int64(v.FirstDataBlock) && at < int64(v.BlocksCount) {
		return Block(at)
	}
	return v.inodeGoal(in)
}

// ClusterMapped looks, with bigalloc, for a block of the file in the same logical cluster as
// lblk, other than lblk itself. If there is one lblk belongs into its cluster, and is b there.
// Without bigalloc there is none.
func (v *Volume) ClusterMapped(src Source, in *Inode, lblk Lblk) (b Block, ok bool, err error) {
	first := lblk &^ (1<<v.ClusterBits - 1)
	b, ok, err = v.mappedIn(src, in, uint64(first), uint64(lblk))
	if !ok && err == nil {
		b, ok, err = v.mappedIn(src, in, uint64(lblk)+1, uint64(first)+1<<v.ClusterBits)
	}
	if !ok || err != nil {
		return 0, false, err
	}
	return b + Block(lblk), true, nil // NB: modulo 2^64
}

// HolePlace says where the blocks of a hole belong: the first n of them, at most those asked for,
// into the cluster of a neighbour that is mapped, from block b on; or, if ok is false, into new
// clusters, of which the first one begins with the block that lblk's cluster begins with. Without
// bigalloc it is always the latter. Errors of src, CorruptError.
func (v *Volume) HolePlace(src Source, in *Inode, lblk Lblk, n uint32) (b Block, of uint32, ok bool,
	err error) {
	mask := uint64(1)<<v.ClusterBits - 1
	if mask == 0 {
		return 0, n, false, nil
	}
	if b, ok, err = v.ClusterMapped(src, in, lblk); err != nil {
		return 0, 0, false, err
	}
	if ok {
		return b, min(n, v.clusterLeft(lblk)), true, nil
	}
	end := uint64(lblk) + uint64(n)
	if _, used, err := v.mappedIn(src, in, end, (end+mask)&^mask); err != nil || !used {
		return 0, n, false, err
	}
	return 0, uint32(end&^mask - uint64(lblk)), false, nil
}

// clusterLeft is how many blocks the cluster of lblk has from lblk on.
func (v *Volume) clusterLeft(lblk Lblk) uint32 {
	return 1<<v.ClusterBits - v.InCluster(lblk)
}

// InCluster is the number of a block of a file in its cluster: 0 without bigalloc.
func (v *Volume) InCluster(lblk Lblk) uint32 { return uint32(lblk) & (1<<v.ClusterBits - 1) }

// mappedIn looks for a block of the file in [from, to), a part of a cluster: block lblk of that
// cluster is block b+lblk of the filesystem. It takes as many looks into the mapping as there are
// runs up to the first that is not a hole: one or two.
func (v *Volume) mappedIn(src Source, in *Inode, from, to uint64) (b Block, ok bool, err error) {
	for to = min(to, lblkMax); from < to; {
		var run Run
		if err := v.Map(src, in, Lblk(from), uint32(to-from), &run); err != nil {
			return 0, false, err
		}
		if run.State != RunHole {
			return run.Phys - Block(from), true, nil
		}
		from += uint64(run.Len)
	}
	return 0, false, nil
}
