package ext4

import (
	"fmt"
	"io"
)

// descBlock returns the block that holds block n of the group descriptor table ("Meta Block
// Groups" for the spread-out form).
func (v *Volume) descBlock(n uint32) Block {
	super := Block(SuperOffset >> v.BlockBits)
	if !v.HasIncompat(IncompatMetaBG) || n < v.u32(sFirstMetaBG) {
		return super + 1 + Block(n)
	}
	g := Group(n * (v.BlockSize / uint32(v.DescSize)))
	b := v.groupFirst(g)
	if v.hasSuper(g) {
		b++
	}
	// NB: with 1 KiB blocks that are counted from 0 (bigalloc), block 0 is the boot block.
	if v.BlockSize == 1024 && n == 0 && v.FirstDataBlock == 0 {
		b++
	}
	return b
}

// groupFirst returns the first block of a group.
func (v *Volume) groupFirst(g Group) Block {
	return v.FirstDataBlock + Block(g)*Block(v.BlocksPerGroup)
}

// hasSuper says whether a group begins with a copy of the superblock ("Layout", sparse_super).
func (v *Volume) hasSuper(g Group) bool {
	switch {
	case g == 0:
		return true
	case v.HasCompat(CompatSparseSuper2):
		return g == Group(v.u32(sBackupBGs)) || g == Group(v.u32(sBackupBGs+4))
	case g == 1 || !v.HasROCompat(ROCompatSparseSuper):
		return true
	case g%2 == 0:
		return false
	}
	for _, base := range [...]Group{3, 5, 7} {
		p := base
		for p < g {
			p *= base
		}
		if p == g {
			return true
		}
	}
	return false
}

// loadGroups reads all group descriptors: it keeps where the inode tables are, which never
// changes, and sums up what is free.
func (v *Volume) loadGroups(r io.ReaderAt) error {
	per := v.BlockSize / uint32(v.DescSize)
	v.itable, v.groups = make([]Block, v.GroupsCount), make([]groupSpace, v.GroupsCount)
	buf := make([]byte, v.BlockSize)
	for g := Group(0); g < v.GroupsCount; g++ {
		n := uint32(g) / per
		if uint32(g)%per == 0 {
			b := v.descBlock(n)
			if !v.checkBlock(b, 1) {
				return Corrupt("group descriptors outside of the filesystem", b, 0, 0)
			}
			if _, err := r.ReadAt(buf, int64(b)<<v.BlockBits); err != nil {
				return fmt.Errorf("reading group descriptors in block %d: %w", b, err)
			}
		}
		off := uint32(g) % per * uint32(v.DescSize)
		if err := v.loadGroup(g, buf[off:off+uint32(v.DescSize)]); err != nil {
			return fmt.Errorf("group %d: %w", g, err)
		}
	}
	return nil
}

// loadGroup takes in one descriptor.
func (v *Volume) loadGroup(g Group, d []byte) error {
	var bb, ib, it uint64
	var freeBlocks, freeInodes uint32
	bb, ib, it = uint64(le.Uint32(d[bgBlockBitmapLo:])), uint64(le.Uint32(d[bgInodeBitmapLo:])),
		uint64(le.Uint32(d[bgInodeTableLo:]))
	freeBlocks, freeInodes = uint32(le.Uint16(d[bgFreeBlocksLo:])),
		uint32(le.Uint16(d[bgFreeInodesLo:]))
	if v.DescSize >= descSize64 {
		bb = get64(d, bgBlockBitmapLo, bgBlockBitmapHi)
		ib = get64(d, bgInodeBitmapLo, bgInodeBitmapHi)
		it = get64(d, bgInodeTableLo, bgInodeTableHi)
		freeBlocks |= uint32(le.Uint16(d[bgFreeBlocksHi:])) << 16
		freeInodes |= uint32(le.Uint16(d[bgFreeInodesHi:])) << 16
	}
	where := v.descBlock(uint32(g) / (v.BlockSize / uint32(v.DescSize)))
	if !v.checkBlock(Block(bb), 1) || !v.checkBlock(Block(ib), 1) ||
		!v.checkBlock(Block(it), v.inTable()) {
		return Corrupt("group descriptor: bitmap or inode table outside of the filesystem", where,
			0, 0)
	}
	if !v.descSumOK(g, d) {
		// As the kernel on a read-only mount: go on, the range checks above have passed.
		v.Warnings = append(v.Warnings, fmt.Sprintf("group %d: wrong descriptor checksum", g))
	}
	v.itable[g] = Block(it)
	v.groups[g] = groupSpace{freeClusters: freeBlocks, freeInodes: freeInodes,
		dirs: v.descField(d, bgUsedDirsLo, bgUsedDirsHi)}
	v.freeClusters += uint64(freeBlocks)
	v.freeInodes += uint64(freeInodes)
	return nil
}

// descSumOK verifies the checksum of a descriptor under metadata_csum or gdt_csum.
func (v *Volume) descSumOK(g Group, d []byte) bool {
	return !v.descSummed() || v.descSum(g, d) == le.Uint16(d[bgChecksum:])
}
