package ext4

import "golang.org/x/sys/unix"

// mapPath is the way to the pointer for a block in a block map: through i_block, level 0, and
// indirect blocks, to level depth.
type mapPath struct {
	depth int
	// base is the first block of those whose pointers stand in the last node.
	base  Lblk
	nodes [levelsMax + 1]struct {
		block Block
		data  []byte // not for level 0; nil where a block is missing
		index int
		fresh bool // it was just allocated
	}
}

// place fills in depth, base and the indexes for a block. It returns false beyond what a block map
// reaches.
func (v *Volume) place(lblk Lblk, p *mapPath) bool {
	bits := uint(v.BlockBits - 2) // log2 of the pointers in a block
	rest := uint64(lblk)
	if rest < directBlocks {
		p.depth, p.base, p.nodes[0].index = 0, 0, int(rest)
		return true
	}
	rest -= directBlocks
	depth := uint(1)
	for ; rest>>(depth*bits) != 0; depth++ {
		if depth == levelsMax {
			return false
		}
		rest -= 1 << (depth * bits)
	}
	p.depth, p.nodes[0].index = int(depth), directBlocks+int(depth)-1
	for level := uint(1); level <= depth; level++ {
		p.nodes[level].index = int(rest >> ((depth - level) * bits) & (1<<bits - 1))
	}
	p.base = lblk - Lblk(p.nodes[depth].index)
	return true
}

// mapBlocks is the number of blocks that a block map reaches.
func (v *Volume) mapBlocks() uint64 {
	per := uint64(v.BlockSize / 4)
	return min(lblkMax, directBlocks+per+per*per+per*per*per)
}

// mapBlocksIn is the number of blocks that a block map can have if together with its indirect
// blocks they must not be more than limit.
func (v *Volume) mapBlocksIn(limit uint64) uint64 {
	per := uint64(v.BlockSize / 4)
	if v.mapBlocks()+(1)+(1+per)+(1+per+per*per) <= limit {
		return v.mapBlocks()
	}
	rest, indirect := limit-directBlocks-per, uint64(1+1)
	if rest < per*per {
		return limit - indirect - (rest+per-1)/per
	}
	rest -= per * per
	indirect += per + 1 + (rest+per-1)/per + (rest+per*per-1)/(per*per)
	return min(limit-indirect, v.mapBlocks())
}

// pointersLeft is how many blocks from lblk on have their pointers in the same block.
func (v *Volume) pointersLeft(lblk Lblk) uint32 {
	var p mapPath
	switch {
	case !v.place(lblk, &p):
		return 0
	case p.depth == 0:
		return directBlocks - uint32(lblk)
	}
	return v.BlockSize/4 - uint32(lblk-p.base)
}

// node is the node at a level; of the inode's i_block what a path at that level may look at.
func (p *mapPath) node(in *Inode, level int) []byte {
	switch {
	case level > 0:
		return p.nodes[level].data
	case p.depth == 0:
		return in.IBlock[:4*directBlocks]
	}
	return in.IBlock[:]
}

func pointerAt(node []byte, i int) Block { return Block(le32(node, 4*i)) }

// walk goes down to the last node of a path that is there, and returns its level.
func (v *Volume) walk(src Source, in *Inode, p *mapPath) (level int, err error) {
	for ; level < p.depth; level++ {
		i := p.nodes[level].index
		b := pointerAt(p.node(in, level), i)
		if b == 0 {
			return level, nil
		}
		if !v.checkBlock(b, 1) || b < v.FirstDataBlock {
			return level, Corrupt("block map points outside", p.nodes[level].block, 4*i, in.Ino)
		}
		buf, err := src.Block(b)
		if err != nil {
			return level, err
		}
		n := &p.nodes[level+1]
		n.block, n.data, n.fresh = b, buf.Data, false
	}
	return level, nil
}

// edit makes the node at a level ready to be changed.
func (p *mapPath) edit(ed Editor, in *Inode, level int) ([]byte, error) {
	if n := &p.nodes[level]; level > 0 && !n.fresh {
		buf, err := ed.Modify(n.block)
		if err != nil {
			return nil, err
		}
		n.data = buf.Data
	}
	return p.node(in, level), nil
}

// insertPointers is InsertRun for a block map.
func (v *Volume) insertPointers(ed Editor, in *Inode, lblk Lblk, phys Block, n uint32,
	unwritten bool) error {
	var p mapPath
	switch {
	case unwritten || v.ClusterBits > 0:
		return unix.EOPNOTSUPP
	case !v.place(lblk, &p) || uint64(phys)+uint64(n) > 1<<32:
		return unix.EFBIG
	case n > v.pointersLeft(lblk):
		return unix.EINVAL
	}
	level, err := v.walk(ed, in, &p)
	if err != nil {
		return err
	}
	m := metaBlocks{goal: v.metaGoal(phys), want: uint32(p.depth - level)}
	node, err := p.edit(ed, in, level)
	if err != nil {
		return err
	}
	for ; level < p.depth; level++ {
		b, data, err := v.takeMeta(ed, in, &m)
		if err != nil {
			return err
		}
		if b >= 1<<32 {
			return unix.EFBIG
		}
		le.PutUint32(node[4*p.nodes[level].index:], uint32(b))
		next := &p.nodes[level+1]
		next.block, next.data, next.fresh = b, data, true
		node = data
	}
	first := p.nodes[p.depth].index
	for i := range int(n) {
		if pointerAt(node, first+i) != 0 {
			return Corrupt("block put where there is one", p.nodes[p.depth].block, 4*(first+i),
				in.Ino)
		}
		le.PutUint32(node[4*(first+i):], uint32(phys)+uint32(i))
	}
	return nil
}

// removePointers is RemoveRuns for a block map: one block of pointers after the other.
func (v *Volume) removePointers(ed Editor, r *removal) (next Lblk, err error) {
	if v.ClusterBits > 0 {
		return r.to, unix.EOPNOTSUPP
	}
	for next = Lblk(min(uint64(r.to), v.mapBlocks())); next > r.from; {
		if r.nodes == 0 {
			return next, ErrContinue
		}
		r.nodes--
		var p mapPath
		v.place(next-1, &p)
		level, err := v.walk(ed, r.in, &p)
		if err != nil {
			return next, err
		}
		if level < p.depth {
			next = v.skipMissing(r.in, &p, level, next)
			continue
		}
		if next, err = v.removeInNode(ed, r, &p, next); err != nil {
			return next, err
		}
	}
	return r.from, nil
}

// skipMissing is where the search for blocks before next goes on, where the path ends at level for
// want of a block: behind what the nearest pointer before it in the same node leads to, or at the
// first block of the node.
func (v *Volume) skipMissing(in *Inode, p *mapPath, level int, next Lblk) Lblk {
	bits := uint(v.BlockBits - 2)
	span := uint64(1) << (uint(p.depth-level) * bits) // blocks below each pointer of the node
	offset := uint64(next-1) - v.firstAtDepth(p.depth)
	first := v.firstAtDepth(p.depth) + offset&^(span-1)
	if level > 0 { // in i_block the pointer before it is that of another depth
		node := p.node(in, level)
		for i := p.nodes[level].index; i > 0 && pointerAt(node, i-1) == 0; i-- {
			first -= span
		}
	}
	return Lblk(first)
}

// firstAtDepth is the first block behind so many levels of indirect blocks.
func (v *Volume) firstAtDepth(depth int) uint64 {
	if depth == 0 {
		return 0
	}
	first, span := uint64(directBlocks), uint64(v.BlockSize/4)
	for range depth - 1 {
		first += span
		span *= uint64(v.BlockSize / 4)
	}
	return first
}

// removeInNode removes what the last node of a path has before to, and returns how far it came.
func (v *Volume) removeInNode(ed Editor, r *removal, p *mapPath, to Lblk) (Lblk, error) {
	node := p.node(r.in, p.depth)
	first := int(max(p.base, r.from) - p.base)
	end := int(to - p.base)
	i, used := end, false
	for i > first {
		b, n := pointerAt(node, i-1), 1
		if b != 0 {
			for i-n > first && b > 1 && pointerAt(node, i-n-1) == b-1 {
				b--
				n++
			}
			low, high := p.base+Lblk(i-n), p.base+Lblk(i)
			done, err := v.reach(r, low, high, b)
			if err != nil {
				return to, err
			}
			if err := v.freeData(ed, r, done, high, b+Block(done-low)); err != nil {
				return to, err
			}
			if n = int(high - done); n > 0 {
				used = true
			}
			if done > low { // nothing more can be afforded
				i -= n
				r.nodes = 0
				break
			}
		}
		i -= n
	}
	to = p.base + Lblk(i)
	if p.depth > 0 && allZero(node[:4*i]) && allZero(node[4*end:]) {
		return to, v.dropPointers(ed, r.in, p)
	}
	if !used {
		return to, nil
	}
	node, err := p.edit(ed, r.in, p.depth)
	if err != nil {
		return to, err
	}
	clear(node[4*i : 4*end])
	return to, nil
}

// dropPointers frees the last node of a path, which maps nothing any more, and the nodes above it
// that lead to nothing else.
func (v *Volume) dropPointers(ed Editor, in *Inode, p *mapPath) error {
	level := p.depth
	for ; level > 0; level-- {
		if err := v.freeNode(ed, in, p.nodes[level].block); err != nil {
			return err
		}
		up, i := p.node(in, level-1), p.nodes[level-1].index
		if level == 1 || !allZero(up[:4*i]) || !allZero(up[4*(i+1):]) {
			break
		}
	}
	level--
	node, err := p.edit(ed, in, level)
	if err != nil {
		return err
	}
	clear(node[4*p.nodes[level].index:][:4])
	return nil
}

// allZero says whether p, whose length is a multiple of 4, has only zeros.
func allZero(p []byte) bool {
	for ; len(p) >= 8; p = p[8:] {
		if le.Uint64(p) != 0 {
			return false
		}
	}
	return len(p) == 0 || le.Uint32(p) == 0
}

// goalPointers is Goal for a block map: by the nearest pointer of the same block, first before
// lblk's own and then behind it; where there is none, or the block is missing, by the pointers
// above it, which lead to blocks near the data.
func (v *Volume) goalPointers(src Source, in *Inode, lblk Lblk) (Block, error) {
	var p mapPath
	if !v.place(lblk, &p) {
		return v.inodeGoal(in), nil
	}
	level, err := v.walk(src, in, &p)
	if err != nil {
		return 0, err
	}
	for ; level >= 0; level-- {
		node, at := p.node(in, level), p.nodes[level].index
		for i := at - 1; i >= 0; i-- {
			b := pointerAt(node, i)
			switch {
			case b == 0:
			case level == p.depth:
				return v.goalNear(in, b, int64(at-i)), nil
			default:
				return v.goalNear(in, b, 1), nil
			}
		}
		for i := at + 1; level == p.depth && 4*i < len(node); i++ {
			if b := pointerAt(node, i); b != 0 {
				return v.goalNear(in, b, int64(at-i)), nil
			}
		}
	}
	return v.inodeGoal(in), nil
}
