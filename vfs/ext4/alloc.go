package ext4

import (
	"golang.org/x/sys/unix"
)

// Fields of a group descriptor come in a low and, with 64bit, a high half.

func (v *Volume) descField(d []byte, lo, hi int) uint32 {
	n := uint32(le16(d, lo))
	if v.DescSize >= descSize64 {
		n |= uint32(le16(d, hi)) << 16
	}
	return n
}

func (v *Volume) putDescField(d []byte, lo, hi int, n uint32) {
	le.PutUint16(d[lo:], uint16(n))
	if v.DescSize >= descSize64 {
		le.PutUint16(d[hi:], uint16(n>>16))
	}
}

func (v *Volume) descBitmap(d []byte, lo, hi int) Block {
	b := Block(le32(d, lo))
	if v.DescSize >= descSize64 {
		b |= Block(le32(d, hi)) << 32
	}
	return b
}

// descSummed says that descriptors have checksums, and with them the flags of what has not been
// initialised.
func (v *Volume) descSummed() bool { return v.csummed() || v.HasROCompat(ROCompatGdtCsum) }

// descSum is the checksum of a descriptor under metadata_csum or gdt_csum.
func (v *Volume) descSum(g Group, d []byte) uint16 {
	if v.csummed() {
		crc := crc32c(crc32c32(v.CsumSeed, uint32(g)), d[:bgChecksum])
		return uint16(crc32c(crc32cZeros(crc, 2), d[bgChecksum+2:]))
	}
	group := [4]byte{byte(g), byte(g >> 8), byte(g >> 16), byte(g >> 24)}
	crc := crc16(crc16(crc16(0xffff, v.UUID[:]), group[:]), d[:bgChecksum])
	return crc16(crc, d[bgChecksum+2:])
}

// desc returns a group's descriptor, to be changed or only to be looked at.
func (v *Volume) desc(ed Editor, g Group, modify bool) ([]byte, error) {
	per := v.BlockSize / uint32(v.DescSize)
	b := v.descBlock(uint32(g) / per)
	get := ed.Block
	if modify {
		get = ed.Modify
	}
	buf, err := get(b)
	if err != nil {
		return nil, err
	}
	off := uint32(g) % per * uint32(v.DescSize)
	return buf.Data[off : off+uint32(v.DescSize)], nil
}

// sealDesc sets the checksum of a descriptor.
func (v *Volume) sealDesc(g Group, d []byte) {
	if v.descSummed() {
		le.PutUint16(d[bgChecksum:], v.descSum(g, d))
	}
}

// clustersIn is the number of clusters of a group: the last one may be short.
func (v *Volume) clustersIn(g Group) uint32 {
	left := v.BlocksCount - v.groupFirst(g)
	return uint32(min(uint64(v.ClustersPerGroup),
		(uint64(left)+1<<v.ClusterBits-1)>>v.ClusterBits))
}

// bitmapSum is the checksum of the first n bits of a bitmap, as far as there is room for it.
func (v *Volume) bitmapSum(bitmap []byte, n uint32) uint32 {
	sum := crc32c(v.CsumSeed, bitmap[:n/8])
	if v.DescSize < descSize64 {
		sum &= 0xffff
	}
	return sum
}

// bitmapKind says where the two bitmaps of a group are described.
type bitmapKind struct {
	lo, hi, csumLo, csumHi int
	uninit                 uint16
	kind                   uint8
	inodes                 bool
}

var (
	blockBitmap = bitmapKind{lo: bgBlockBitmapLo, hi: bgBlockBitmapHi, csumLo: bgBlockBitmapCsum,
		csumHi: bgBlockBitmapCsHi, uninit: bgBlockUninit, kind: kindBlockBitmap}
	inodeBitmap = bitmapKind{lo: bgInodeBitmapLo, hi: bgInodeBitmapHi, csumLo: bgInodeBitmapCsum,
		csumHi: bgInodeBitmapCsHi, uninit: bgInodeUninit, kind: kindInodeBitmap, inodes: true}
)

// bits is how many bits of a bitmap of this kind count.
func (v *Volume) bitmapBits(k *bitmapKind) uint32 {
	if k.inodes {
		return v.InodesPerGroup
	}
	return v.ClustersPerGroup
}

// bitmapOf returns a bitmap of a group with descriptor d, to be looked at, its checksum verified
// once per read. A bitmap that was never initialised is nil.
func (v *Volume) bitmapOf(src Source, g Group, d []byte, k *bitmapKind) ([]byte, error) {
	if v.descSummed() && le16(d, bgFlags)&k.uninit != 0 {
		return nil, nil
	}
	b := v.descBitmap(d, k.lo, k.hi)
	if !v.checkBlock(b, 1) {
		return nil, Corrupt("group descriptor: bitmap outside of the filesystem", b, 0, 0)
	}
	buf, err := src.Block(b)
	if err != nil {
		return nil, err
	}
	if v.csummed() && buf.Checked.Kind != k.kind {
		sum := v.descField(d, k.csumLo, k.csumHi)
		if v.bitmapSum(buf.Data, v.bitmapBits(k)) != sum {
			return nil, Corrupt("bitmap checksum", b, 0, 0)
		}
		*buf.Checked = Checked{Kind: k.kind}
	}
	return buf.Data, nil
}

// editBitmap returns descriptor and bitmap of a group to be changed; sealBitmap follows.
func (v *Volume) editBitmap(ed Editor, g Group, k *bitmapKind) (d, bitmap []byte, err error) {
	if d, err = v.desc(ed, g, true); err != nil {
		return nil, nil, err
	}
	b := v.descBitmap(d, k.lo, k.hi)
	if v.descSummed() && le16(d, bgFlags)&k.uninit != 0 {
		buf, err := ed.Fresh(b)
		if err != nil {
			return nil, nil, err
		}
		le.PutUint16(d[bgFlags:], le16(d, bgFlags)&^k.uninit)
		v.initBitmap(g, d, buf.Data, k)
		*buf.Checked = Checked{Kind: k.kind}
		return d, buf.Data, nil
	}
	if _, err = v.bitmapOf(ed, g, d, k); err != nil {
		return nil, nil, err
	}
	buf, err := ed.Modify(b)
	return d, buf.Data, err
}

// sealBitmap sets the checksums of a bitmap and its descriptor.
func (v *Volume) sealBitmap(g Group, d, bitmap []byte, k *bitmapKind) {
	if v.csummed() {
		v.putDescField(d, k.csumLo, k.csumHi, v.bitmapSum(bitmap, v.bitmapBits(k)))
	}
	v.sealDesc(g, d)
}

// initBitmap fills in a bitmap that did not exist yet: what lies beyond its end, and in a bitmap of
// blocks the group's metadata: superblock and descriptors, and its own bitmaps and inode table if
// they lie in the group.
func (v *Volume) initBitmap(g Group, d, bitmap []byte, k *bitmapKind) {
	count := v.InodesPerGroup
	if !k.inodes {
		count = v.clustersIn(g)
	}
	for i := count; i < 8*v.BlockSize; i++ {
		setBit(bitmap, i)
	}
	if k.inodes {
		return
	}
	first := v.groupFirst(g)
	end := first + Block(count)<<v.ClusterBits
	mark := func(b Block, n uint32) {
		for ; n > 0; n-- {
			if b >= first && b < end {
				setBit(bitmap, uint32((b-first)>>v.ClusterBits))
			}
			b++
		}
	}
	mark(first, v.baseBlocks(g))
	mark(v.descBitmap(d, bgBlockBitmapLo, bgBlockBitmapHi), 1)
	mark(v.descBitmap(d, bgInodeBitmapLo, bgInodeBitmapHi), 1)
	mark(v.itable[g], v.inTable())
}

func setBit(bitmap []byte, i uint32)      { bitmap[i/8] |= 1 << (i % 8) }
func clearBit(bitmap []byte, i uint32)    { bitmap[i/8] &^= 1 << (i % 8) }
func hasBit(bitmap []byte, i uint32) bool { return bitmap[i/8]&(1<<(i%8)) != 0 }
func (v *Volume) groupOf(b Block) Group {
	return Group((b - v.FirstDataBlock) / Block(v.BlocksPerGroup))
}
func (v *Volume) groupOfInode(i Ino) Group { return Group(uint32(i-1) / v.InodesPerGroup) }
func (v *Volume) clusterOf(b Block) uint32 {
	return uint32((b - v.groupFirst(v.groupOf(b))) >> v.ClusterBits)
}

// Alloc says how blocks are to be allocated.
type Alloc struct {
	Goal Block  // where they are wanted; 0 does not matter
	Want uint32 // blocks, at least 1; fewer are a success, too
	// Tree is for what must not fail: nodes of mappings, and quota files. It may use everything,
	// so that what was allocated for a file can be written to whatever else fills the filesystem.
	Tree bool
	// Reserve only makes the blocks unavailable to others, in memory: Publish follows, or
	// Unreserve. Otherwise they are marked in the bitmap.
	Reserve bool
}

// AllocBlocks allocates one run of blocks, in whole clusters, and returns its first block and
// length, which is at most a.Want rounded up to clusters. Errors: ENOSPC; ErrSpaceBusy; those of
// ed; CorruptError.
func (v *Volume) AllocBlocks(ed Editor, a Alloc) (Block, uint32, error) {
	s := ed.Space()
	avail := s.available()
	if !a.Tree {
		avail = s.room(s.Root)
	}
	if avail <= 0 {
		if v.dropWindows(s) {
			return v.AllocBlocks(ed, a)
		}
		return 0, 0, s.full()
	}
	clusters := (a.Want + 1<<v.ClusterBits - 1) >> v.ClusterBits
	clusters = uint32(min(int64(clusters), avail, int64(v.ClustersPerGroup)))
	if a.Goal < v.FirstDataBlock || a.Goal >= v.BlocksCount {
		a.Goal = v.FirstDataBlock
	}
	for want := clusters; want > 0; want /= 2 {
		b, n, err := v.allocPass(ed, &a, want, clusters)
		if err != nil || n > 0 {
			return b, n << v.ClusterBits, err
		}
	}
	if v.dropWindows(s) {
		return v.AllocBlocks(ed, a)
	}
	return 0, 0, s.full()
}

// allocPass looks for a run of at least want clusters, from the goal's group on, and allocates at
// most limit of them.
func (v *Volume) allocPass(ed Editor, a *Alloc, want, limit uint32) (Block, uint32, error) {
	s := ed.Space()
	g := v.groupOf(a.Goal)
	from := v.clusterOf(a.Goal)
	for range v.GroupsCount {
		if s.groups[g].longest >= want {
			first, n, err := v.findRun(ed, g, from, want, limit)
			if err != nil {
				return 0, 0, err
			}
			if n > 0 {
				return v.groupFirst(g) + Block(first)<<v.ClusterBits, n,
					v.take(ed, a, g, first, n)
			}
		}
		from = 0
		if g++; g == v.GroupsCount {
			g = 0
		}
	}
	return 0, 0, nil
}

// findRun finds a run of at least want free clusters in a group: at from, or the first one behind
// it, or the first one at all. n is 0 if there is none.
func (v *Volume) findRun(ed Editor, g Group, from, want, limit uint32) (first, n uint32,
	err error) {
	bitmap, err := v.searchable(ed, g)
	if err != nil {
		return 0, 0, err
	}
	s := ed.Space()
	gs := &s.groups[g]
	end := v.clustersIn(g)
	if g == 0 && v.FirstDataBlock == 0 && from == 0 {
		from = 1 // block 0 is never free, whatever the bitmap says
	}
	start, longest := from, uint32(0)
	for pass := range 2 {
		stop := end
		if pass == 1 {
			start, stop = 0, from
		}
		for i := start; i < stop; {
			i = s.nextBit(gs, bitmap, i, end, false)
			if i >= stop {
				break
			}
			j := s.nextBit(gs, bitmap, i, min(end, i+max(limit, longest+1)), true)
			longest = max(longest, j-i)
			if j-i >= want {
				return i, min(j-i, limit), nil
			}
			i = j
		}
	}
	gs.longest = longest
	return 0, 0, nil
}

// searchable returns the block bitmap of a group for a search; that of a group without one as it
// is going to be.
func (v *Volume) searchable(ed Editor, g Group) ([]byte, error) {
	d, err := v.desc(ed, g, false)
	if err != nil {
		return nil, err
	}
	bitmap, err := v.bitmapOf(ed, g, d, &blockBitmap)
	if bitmap == nil && err == nil {
		if d, bitmap, err = v.editBitmap(ed, g, &blockBitmap); err == nil {
			v.sealBitmap(g, d, bitmap, &blockBitmap)
		}
	}
	return bitmap, err
}

// take allocates or reserves a run that was found.
func (v *Volume) take(ed Editor, a *Alloc, g Group, first, n uint32) error {
	s := ed.Space()
	if a.Reserve {
		return s.busy(BusyReserved, g, first, n)
	}
	return v.markUsed(ed, g, first, n)
}

// markUsed sets n bits of a group's block bitmap, which are clear.
func (v *Volume) markUsed(ed Editor, g Group, first, n uint32) error {
	d, bitmap, err := v.editBitmap(ed, g, &blockBitmap)
	if err != nil {
		return err
	}
	for i := first; i < first+n; i++ {
		if hasBit(bitmap, i) {
			return Corrupt("block bitmap: allocated twice",
				v.descBitmap(d, bgBlockBitmapLo, bgBlockBitmapHi), int(i/8), 0)
		}
		setBit(bitmap, i)
	}
	return v.countClusters(ed, g, d, bitmap, -int32(n))
}

// countClusters changes the count of free clusters of a group whose bitmap has changed.
func (v *Volume) countClusters(ed Editor, g Group, d, bitmap []byte, n int32) error {
	free := int64(v.descField(d, bgFreeBlocksLo, bgFreeBlocksHi)) + int64(n)
	if free < 0 || free > int64(v.ClustersPerGroup) {
		return Corrupt("group descriptor: count of free blocks", 0, 0, 0)
	}
	v.putDescField(d, bgFreeBlocksLo, bgFreeBlocksHi, uint32(free))
	v.sealBitmap(g, d, bitmap, &blockBitmap)
	ed.Space().clusters(g, n)
	return nil
}

// PublishBlocks marks the reserved clusters in which n blocks from b on lie, all of one group, as
// allocated, and counts them in i_blocks; the caller writes the inode.
func (v *Volume) PublishBlocks(ed Editor, in *Inode, b Block, n uint32) error {
	g, first, count, _ := v.groupPart(b, b+Block(n))
	ed.Space().unbusy(BusyReserved, g, first, count)
	in.Sectors += uint64(count) * v.clusterSectors()
	return v.markUsed(ed, g, first, count)
}

// UnreserveBlocks gives the reserved clusters back in which n blocks from b on lie.
func (v *Volume) UnreserveBlocks(s *Space, b Block, n uint32) {
	g, first, count, _ := v.groupPart(b, b+Block(n))
	s.unbusy(BusyReserved, g, first, count)
}

// FreeBlocks frees whole clusters: the n blocks from b on and the rest of their clusters. They are
// busy until the transaction is durable. Blocks of metadata are forgotten by the log.
func (v *Volume) FreeBlocks(ed Editor, b Block, n uint32, metadata bool) error {
	if !v.checkBlock(b, n) || b < v.FirstDataBlock {
		return Corrupt("freeing blocks outside of the filesystem", b, 0, 0)
	}
	if metadata {
		for i := range n {
			ed.Forget(b + Block(i))
		}
	}
	for end := b + Block(n); b < end; {
		g, first, count, next := v.groupPart(b, end)
		if err := v.freeIn(ed, g, first, count); err != nil {
			return err
		}
		b = next
	}
	return nil
}

// groupPart returns the clusters of [b, end) that are in the group of b, and the block behind them.
func (v *Volume) groupPart(b, end Block) (g Group, first, count uint32, next Block) {
	g = v.groupOf(b)
	start := v.groupFirst(g)
	next = min(end, start+Block(v.BlocksPerGroup))
	first = v.clusterOf(b)
	return g, first, uint32((next-1-start)>>v.ClusterBits) + 1 - first, next
}

func (v *Volume) freeIn(ed Editor, g Group, first, n uint32) error {
	d, bitmap, err := v.editBitmap(ed, g, &blockBitmap)
	if err != nil {
		return err
	}
	for i := first; i < first+n; i++ {
		if !hasBit(bitmap, i) {
			return Corrupt("block bitmap: freed twice",
				v.descBitmap(d, bgBlockBitmapLo, bgBlockBitmapHi), int(i/8), 0)
		}
		clearBit(bitmap, i)
	}
	s := ed.Space()
	if err := s.busy(s.freed, g, first, n); err != nil {
		return err
	}
	return v.countClusters(ed, g, d, bitmap, int32(n))
}

// AllocInode takes a free inode for a file in directory dir (the root's has none: nil) and
// returns its number. The inode's bytes are whatever they were. Directories are spread over the
// groups, other files stay near their directory ("Block and Inode Allocation Policy"). Errors:
// ENOSPC; those of ed; CorruptError.
func (v *Volume) AllocInode(ed Editor, dir *Inode, isDir bool) (Ino, error) {
	s := ed.Space()
	if s.freeInodes <= 0 {
		return 0, unix.ENOSPC
	}
	g := v.groupOfInode(dir.Ino)
	if isDir {
		g = v.orlov(ed, dir, g)
	}
	for range v.GroupsCount {
		if s.groups[g].freeInodes > 0 {
			ino, err := v.inodeIn(ed, g, isDir)
			if err != nil || ino != 0 {
				return ino, err
			}
		}
		if g++; g == v.GroupsCount {
			g = 0
		}
	}
	return 0, unix.ENOSPC
}

// orlov chooses the group of a new directory: those below the root are spread to groups with more
// than the average of free inodes and blocks, and few directories; others stay with their parent
// as long as its group is not worse than that.
func (v *Volume) orlov(ed Editor, dir *Inode, parent Group) Group {
	s := ed.Space()
	groups := int64(v.GroupsCount)
	inodes, clusters := s.freeInodes/groups, s.freeClusters/groups
	top := dir.Ino == RootIno || dir.Flags&FlagTopdir != 0
	g := parent
	if top {
		g = Group(ed.Random()) % v.GroupsCount
	}
	best, bestDirs := parent, ^uint32(0)
	for range v.GroupsCount {
		gs := &s.groups[g]
		good := gs.freeInodes > 0 && int64(gs.freeInodes) >= inodes &&
			int64(gs.freeClusters) >= clusters
		switch {
		case good && !top:
			return g
		case good && gs.dirs < bestDirs:
			best, bestDirs = g, gs.dirs
		}
		if g++; g == v.GroupsCount {
			g = 0
		}
	}
	return best
}

// inodeIn takes the first free inode of a group, 0 if there is none after all.
func (v *Volume) inodeIn(ed Editor, g Group, isDir bool) (Ino, error) {
	d, bitmap, err := v.editBitmap(ed, g, &inodeBitmap)
	if err != nil {
		return 0, err
	}
	i := uint32(0)
	if g == 0 {
		i = uint32(v.FirstInode) - 1
	}
	for ; i < v.InodesPerGroup && hasBit(bitmap, i); i++ {
	}
	if i == v.InodesPerGroup {
		v.sealBitmap(g, d, bitmap, &inodeBitmap)
		return 0, nil
	}
	return Ino(uint32(g)*v.InodesPerGroup + i + 1), v.takeInode(ed, g, i, d, bitmap, isDir)
}

// takeInode marks inode i of a group, which is free.
func (v *Volume) takeInode(ed Editor, g Group, i uint32, d, bitmap []byte, isDir bool) error {
	setBit(bitmap, i)
	// NB: a group whose inodes are used must have a bitmap of its blocks, too: e2fsck says so.
	if v.descSummed() {
		_, blocks, err := v.editBitmap(ed, g, &blockBitmap)
		if err != nil {
			return err
		}
		unused := min(v.descField(d, bgItableUnusedLo, bgItableUnusedHi), v.InodesPerGroup)
		if i >= v.InodesPerGroup-unused {
			v.putDescField(d, bgItableUnusedLo, bgItableUnusedHi, v.InodesPerGroup-i-1)
		}
		if v.csummed() {
			v.putDescField(d, bgBlockBitmapCsum, bgBlockBitmapCsHi,
				v.bitmapSum(blocks, v.ClustersPerGroup))
		}
	}
	return v.countInode(ed, g, d, bitmap, -1, isDir)
}

// countInode changes the counts of a group one of whose inodes was taken (-1) or freed (1).
func (v *Volume) countInode(ed Editor, g Group, d, bitmap []byte, n int32, isDir bool) error {
	free := int64(v.descField(d, bgFreeInodesLo, bgFreeInodesHi)) + int64(n)
	if free < 0 || free > int64(v.InodesPerGroup) {
		return Corrupt("group descriptor: count of free inodes", 0, 0, 0)
	}
	v.putDescField(d, bgFreeInodesLo, bgFreeInodesHi, uint32(free))
	if isDir {
		dirs := int64(v.descField(d, bgUsedDirsLo, bgUsedDirsHi)) - int64(n)
		v.putDescField(d, bgUsedDirsLo, bgUsedDirsHi, uint32(max(dirs, 0)))
		ed.Space().dirs(g, -n)
	}
	v.sealBitmap(g, d, bitmap, &inodeBitmap)
	ed.Space().inodes(g, n)
	return nil
}

// FreeInode frees an inode, whose contents are gone already.
func (v *Volume) FreeInode(ed Editor, in *Inode) error {
	if err := v.chargeFreed(ed, in); err != nil {
		return err
	}
	g, i := v.groupOfInode(in.Ino), uint32(in.Ino-1)%v.InodesPerGroup
	d, bitmap, err := v.editBitmap(ed, g, &inodeBitmap)
	if err != nil {
		return err
	}
	if !hasBit(bitmap, i) {
		return Corrupt("inode bitmap: freed twice",
			v.descBitmap(d, bgInodeBitmapLo, bgInodeBitmapHi), int(i/8), in.Ino)
	}
	clearBit(bitmap, i)
	return v.countInode(ed, g, d, bitmap, 1, in.IsDir())
}
