package ext4

import "slices"

// StatFS is what statfs(2) tells of a filesystem.
type StatFS struct {
	Blocks, Bfree, Bavail uint64 // units of Bsize bytes
	Files, Ffree          uint64 // inodes
	Bsize, NameLen        uint32
}

// reservedClustersMax is the most clusters that the kernel keeps back for its own needs
// (ext4's sysfs file reserved_clusters).
const reservedClustersMax = 4096

// StatFS returns the counts as of Open. Blocks leaves out what metadata takes (bsddf), or counts
// the whole device (minixdf).
func (v *Volume) StatFS(minix bool) StatFS { return v.statFS(minix, v.freeClusters, v.freeInodes) }

// StatFS is Volume.StatFS with the counts as of now.
func (s *Space) StatFS(minix bool) StatFS {
	free := s.freeClusters - s.busyClusters[BusyReserved] + s.windowBlocks
	return s.v.statFS(minix, uint64(max(free, 0)), uint64(s.freeInodes))
}

func (v *Volume) statFS(minix bool, clusters, inodes uint64) StatFS {
	st := StatFS{Blocks: uint64(v.BlocksCount), Bfree: clusters << v.ClusterBits,
		Files: uint64(v.InodesCount), Ffree: inodes, Bsize: v.BlockSize, NameLen: 255}
	if !minix {
		st.Blocks -= min(v.overhead, st.Blocks)
	}
	st.Bfree = min(st.Bfree, uint64(v.BlocksCount))
	keep := v.reservedBlocks() + v.treeClusters()<<v.ClusterBits
	if keep < st.Bfree {
		st.Bavail = st.Bfree - keep
	}
	return st
}

// SetOverhead computes the blocks that metadata takes, the journal's journalBlocks included,
// where the superblock does not tell (s_overhead_clusters).
func (v *Volume) SetOverhead(journalBlocks uint64) {
	if n := uint64(v.u32(sOverheadClusters)); n != 0 && n <= uint64(v.BlocksCount)>>v.ClusterBits {
		v.overhead = n << v.ClusterBits
		return
	}
	// Ranges of clusters, since a cluster may hold several pieces of metadata.
	var used [][2]uint64
	add := func(b Block, n uint32) {
		if n > 0 {
			used = append(used, [2]uint64{uint64(b) >> v.ClusterBits,
				(uint64(b) + uint64(n) - 1) >> v.ClusterBits})
		}
	}
	add(0, uint32(v.FirstDataBlock))
	for g := Group(0); g < v.GroupsCount; g++ {
		add(v.groupFirst(g), v.baseBlocks(g))
		add(v.itable[g], v.inTable())
	}
	slices.SortFunc(used, func(a, b [2]uint64) int { return int(int64(a[0]) - int64(b[0])) })
	clusters, next := uint64(0), uint64(0)
	for _, r := range used {
		if from := max(r[0], next); from <= r[1] {
			clusters += r[1] + 1 - from
			next = r[1] + 1
		}
	}
	// NB: bitmaps are counted one by one, which is right but for bigalloc, where they share
	// clusters with each other.
	bitmaps := 2 * uint64(v.GroupsCount)
	if v.ClusterBits > 0 {
		bitmaps = (bitmaps >> v.ClusterBits) + 1
	}
	v.overhead = clusters<<v.ClusterBits + bitmaps<<v.ClusterBits + journalBlocks
}

// baseBlocks is the number of blocks of superblock and descriptors at the start of a group.
func (v *Volume) baseBlocks(g Group) uint32 {
	per := v.BlockSize / uint32(v.DescSize)
	table := (uint32(v.GroupsCount) + per - 1) / per
	super := uint32(0)
	if v.hasSuper(g) {
		super = 1
	}
	if v.HasIncompat(IncompatMetaBG) && uint32(g)/per >= v.u32(sFirstMetaBG) {
		if i := uint32(g) % per; i == 0 || i == 1 || i == per-1 {
			return super + 1
		}
		return super
	}
	if super == 0 {
		return 0
	}
	if v.HasIncompat(IncompatMetaBG) {
		table = v.u32(sFirstMetaBG)
	}
	return super + table + uint32(v.u16(sReservedGdtBlocks))
}
