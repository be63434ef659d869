package ext4

import "golang.org/x/sys/unix"

// mapPath is the way to a pointer of a block map: i_block, then the indirect blocks.
type mapPath struct {
	level int // of indirection: 0 for a direct block
	index [levelsMax + 1]int
	nodes [levelsMax + 1]struct {
		block Block
		data  []byte // nil where the block is missing
	}
}

// mapTo finds the pointers on the way to lblk. ok is false beyond what a map reaches.
func (v *Volume) mapTo(src Source, in *Inode, lblk Lblk, p *mapPath) (ok bool, err error) {
	bits := uint(v.BlockBits - 2)
	rest := uint64(lblk)
	p.nodes[0].data = in.IBlock[:]
	if rest < directBlocks {
		p.level, p.index[0] = 0, int(rest)
		return true, nil
	}
	rest -= directBlocks
	level := uint(1)
	for ; rest>>(level*bits) != 0; level++ {
		if rest -= 1 << (level * bits); level == levelsMax {
			return false, nil
		}
	}
	p.level, p.index[0] = int(level), directBlocks+int(level)-1
	for i := 1; i <= p.level; i++ {
		p.index[i] = int(rest >> ((level - uint(i)) * bits) & (1<<bits - 1))
		p.nodes[i].block, p.nodes[i].data = 0, nil
		if p.nodes[i-1].data == nil {
			continue
		}
		b := p.pointer(i - 1)
		if b == 0 {
			continue
		}
		if !v.checkBlock(b, 1) {
			return false, Corrupt("block map points outside", in.Where, in.Offset+iBlock, in.Ino)
		}
		buf, err := src.Block(b)
		if err != nil {
			return false, err
		}
		p.nodes[i].block, p.nodes[i].data = b, buf.Data
	}
	return true, nil
}

// pointer is the pointer that the path takes at a level.
func (p *mapPath) pointer(level int) Block {
	return Block(le32(p.nodes[level].data, 4*p.index[level]))
}

// set changes it; level's node has been made ready.
func (p *mapPath) set(level, offset int, b Block) {
	le.PutUint32(p.nodes[level].data[4*(p.index[level]+offset):], uint32(b))
}

// edit makes the node of a level ready to be changed.
func (p *mapPath) edit(ed Editor, in *Inode, level int) error {
	if level == 0 {
		p.nodes[0].data = in.IBlock[:]
		return nil
	}
	buf, err := ed.Modify(p.nodes[level].block)
	p.nodes[level].data = buf.Data
	return err
}

// indirectLeft is how many blocks from lblk on have their pointers in the same block.
func (v *Volume) indirectLeft(lblk Lblk) uint32 {
	per := uint32(v.BlockSize / 4)
	if lblk < directBlocks {
		return directBlocks - uint32(lblk)
	}
	return per - (uint32(lblk)-directBlocks)%per
}

// insertIndirect is InsertRun for a block map. All pointers lie in one block, see InsertMax.
func (v *Volume) insertIndirect(ed Editor, in *Inode, lblk Lblk, phys Block, n uint32,
	unwritten bool) error {
	if unwritten {
		return unix.EOPNOTSUPP
	}
	var p mapPath
	ok, err := v.mapTo(ed, in, lblk, &p)
	if err != nil {
		return err
	}
	if !ok || uint64(phys)+uint64(n) > 1<<32 || n > v.indirectLeft(lblk) {
		return unix.EFBIG
	}
	for i := 1; i <= p.level; i++ {
		if p.nodes[i].data != nil {
			continue
		}
		if err := v.newIndirect(ed, in, &p, i, phys); err != nil {
			return err
		}
	}
	if err := p.edit(ed, in, p.level); err != nil {
		return err
	}
	for i := range int(n) {
		if le32(p.nodes[p.level].data, 4*(p.index[p.level]+i)) != 0 {
			return Corrupt("block map: block mapped twice", p.nodes[p.level].block, 0, in.Ino)
		}
		p.set(p.level, i, phys+Block(i))
	}
	return nil
}

// newIndirect allocates the missing block of a level, near the data.
func (v *Volume) newIndirect(ed Editor, in *Inode, p *mapPath, level int, near Block) error {
	b, n, err := v.AllocBlocks(ed, Alloc{Goal: near, Want: 1, Root: true})
	if err != nil {
		return err
	}
	in.Sectors += uint64(n) << (v.BlockBits - 9)
	buf, err := ed.Fresh(b)
	if err != nil {
		return err
	}
	if err := p.edit(ed, in, level-1); err != nil {
		return err
	}
	p.set(level-1, 0, b)
	p.nodes[level].block, p.nodes[level].data = b, buf.Data
	return nil
}

// removeIndirect is RemoveRuns for a block map: a piece is what has its pointers in one block.
func (v *Volume) removeIndirect(ed Editor, in *Inode, from, to Lblk) (Lblk, error) {
	metadata := in.Type() != unix.S_IFREG
	for range removeExtents {
		if to <= from {
			return from, nil
		}
		var p mapPath
		ok, err := v.mapTo(ed, in, to-1, &p)
		if err != nil {
			return to, err
		}
		if !ok || p.nodes[p.level].data == nil {
			to = v.skipMissing(&p, to, ok)
			continue
		}
		// The pointers of this block from its first, or from's, up to to's.
		count := min(p.index[p.level]+1, int(to-from))
		if p.level == 0 {
			count = min(p.index[0]+1, int(to-from))
		}
		p.index[p.level] -= count - 1
		done, err := v.clearPointers(ed, in, &p, count, metadata)
		if err != nil {
			return to, err
		}
		if to -= Lblk(done); to <= from {
			return from, nil
		}
		return to, ErrContinue
	}
	return to, ErrContinue
}

// skipMissing is where a search for mapped blocks before to goes on, when to-1 lies below an
// indirect block that is missing: at the first block of what that would map.
func (v *Volume) skipMissing(p *mapPath, to Lblk, ok bool) Lblk {
	bits := uint(v.BlockBits - 2)
	end := uint64(directBlocks)
	for l := uint(1); l <= levelsMax; l++ {
		if ok && int(l) == p.level {
			break
		}
		end += 1 << (l * bits)
	}
	if !ok {
		return Lblk(min(end, uint64(to-1)))
	}
	rest := uint64(to-1) - end
	for level := 1; level <= p.level; level++ {
		if p.nodes[level].data == nil {
			span := uint64(1) << (uint(p.level-level+1) * bits)
			return Lblk(end + rest&^(span-1))
		}
	}
	return to - 1
}

// clearPointers frees the blocks behind count pointers from the path's on, in as few ranges as they
// make, at most removeGroups of them, from the last one on; and the indirect blocks that are empty
// then. It returns how many pointers it went over.
func (v *Volume) clearPointers(ed Editor, in *Inode, p *mapPath, count int, metadata bool) (int,
	error) {
	if err := p.edit(ed, in, p.level); err != nil {
		return 0, err
	}
	node, first := p.nodes[p.level].data, p.index[p.level]
	ranges, i := 0, first+count
	for i > first && ranges < removeGroups {
		b := Block(le32(node, 4*(i-1)))
		n := 1
		if b != 0 {
			for i-n > first && Block(le32(node, 4*(i-n-1))) == b-1 {
				b--
				n++
			}
			if !v.checkBlock(b, uint32(n)) {
				return 0, Corrupt("block map points outside", p.nodes[p.level].block, 4*i, in.Ino)
			}
			if err := v.freeRun(ed, in, b, uint32(n), metadata); err != nil {
				return 0, err
			}
			ranges++
		}
		clear(node[4*(i-n) : 4*i])
		i -= n
	}
	return first + count - i, v.dropIndirect(ed, in, p)
}

// dropIndirect frees the indirect blocks of a path that are empty.
func (v *Volume) dropIndirect(ed Editor, in *Inode, p *mapPath) error {
	for level := p.level; level > 0; level-- {
		for _, b := range p.nodes[level].data {
			if b != 0 {
				return nil
			}
		}
		if err := v.FreeBlocks(ed, p.nodes[level].block, 1, true); err != nil {
			return err
		}
		in.Sectors -= min(in.Sectors, v.clusterSectors())
		if err := p.edit(ed, in, level-1); err != nil {
			return err
		}
		p.set(level-1, 0, 0)
	}
	return nil
}

// goalIndirect is Goal for a block map: behind the nearest block before it in the same block of
// pointers.
func (v *Volume) goalIndirect(src Source, in *Inode, lblk Lblk) (Block, error) {
	var p mapPath
	ok, err := v.mapTo(src, in, lblk, &p)
	if err != nil || !ok {
		return v.inodeGoal(in), err
	}
	for level := p.level; level >= 0; level-- {
		if p.nodes[level].data == nil {
			continue
		}
		for i := p.index[level] - 1; i >= 0; i-- {
			if b := Block(le32(p.nodes[level].data, 4*i)); b != 0 {
				return b + Block(p.index[level]-i), nil
			}
		}
		if level > 0 {
			return p.nodes[level].block + 1, nil
		}
	}
	return v.inodeGoal(in), nil
}
