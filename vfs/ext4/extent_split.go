package ext4

import "golang.org/x/sys/unix"

// metaBlocks are blocks for nodes of a mapping, allocated together as far as possible.
type metaBlocks struct {
	goal Block
	want uint32 // how many are still to be used
	next Block  // of those that are allocated
	left uint32
}

// metaGoal is where nodes of a file's mapping are wanted whose data is at phys: at the beginning
// of its group. Right behind the data they would be in the way of more of it.
func (v *Volume) metaGoal(phys Block) Block {
	return v.groupFirst(v.groupOf(max(phys, v.FirstDataBlock)))
}

// takeMeta allocates a block of metadata for a file, in a cluster of its own, as zeros.
func (v *Volume) takeMeta(ed Editor, in *Inode, m *metaBlocks) (Block, []byte, error) {
	if m.left == 0 {
		want := m.want << v.ClusterBits
		b, n, err := v.AllocBlocks(ed, Alloc{Goal: m.goal, Want: want, Tree: true})
		if err != nil {
			return 0, nil, err
		}
		m.next, m.left = b, n>>v.ClusterBits
	}
	b := m.next
	m.next += 1 << v.ClusterBits
	m.left--
	m.want--
	buf, err := ed.Fresh(b)
	if err != nil {
		return 0, nil, err
	}
	*buf.Checked = Checked{}
	in.Sectors += v.clusterSectors()
	return b, buf.Data, nil
}

// clusterSectors is what a cluster adds to i_blocks.
func (v *Volume) clusterSectors() uint64 { return 1 << (v.BlockBits + v.ClusterBits - 9) }

// takeNode allocates a node of an extent tree, depth levels above the leaves.
func (v *Volume) takeNode(ed Editor, in *Inode, m *metaBlocks, depth int) (Block, []byte, error) {
	b, node, err := v.takeMeta(ed, in, m)
	if err != nil {
		return 0, nil, err
	}
	most := (len(node) - extentEntrySize) / extentEntrySize
	if v.nodeEntries != 0 {
		most = v.nodeEntries
	}
	initNode(node, most, depth)
	return b, node, nil
}

func hasRoom(node []byte, n int) bool { return entries(node)+n <= entriesMax(node) }

// makeRoom makes room for n entries at i of a path's leaf, the first of which is for lblk, and
// returns where they belong. It goes up to the lowest node that has room, or makes the tree deeper,
// and comes down again splitting what is full, so that every node it splits has a parent with
// room.
func (v *Volume) makeRoom(ed Editor, in *Inode, p *treePath, i, n int, lblk Lblk) (int, error) {
	if hasRoom(p.node(in, p.depth), n) {
		return i, nil
	}
	level := p.depth - 1
	for level >= 0 && !hasRoom(p.node(in, level), 1) {
		level--
	}
	m := metaBlocks{goal: p.nodes[p.depth].block, want: uint32(p.depth - level)}
	if p.depth == 0 {
		m.goal = v.metaGoal(extentAt(in.IBlock[:], 0).phys)
	}
	if level < 0 {
		if err := v.deepen(ed, in, p, &m); err != nil {
			return 0, err
		}
		level = 1
	}
	if level < p.depth && i == entries(p.node(in, p.depth)) && p.rightmost(in) {
		return 0, v.branch(ed, in, p, level, lblk, &m)
	}
	for level++; level <= p.depth; level++ {
		if err := v.split(ed, in, p, level, &i, &m); err != nil {
			return 0, err
		}
	}
	if !hasRoom(p.node(in, p.depth), n) {
		return 0, Corrupt("extent block with room for few entries", p.nodes[p.depth].block, ehMax,
			in.Ino)
	}
	return i, nil
}

// deepen puts a node between the root and its entries. It has room where the root had none.
func (v *Volume) deepen(ed Editor, in *Inode, p *treePath, m *metaBlocks) error {
	if p.depth == extentDepthMax {
		return unix.EFBIG
	}
	b, node, err := v.takeNode(ed, in, m, p.depth)
	if err != nil {
		return err
	}
	root := in.IBlock[:]
	n, first := entries(root), entryLblk(root, 0)
	copy(nodeSpan(node, 0, n), nodeSpan(root, 0, n))
	setEntries(node, n)
	clear(root)
	p.depth++
	initNode(root, rootEntries, p.depth)
	setEntries(root, 1)
	putIndex(root, 0, first, b)
	copy(p.nodes[1:], p.nodes[:p.depth])
	p.nodes[1].block, p.nodes[1].data, p.nodes[1].edited = b, node, true
	p.nodes[0].at = 0
	return nil
}

// branch puts a new and empty branch for lblk behind all that the node at level has: nodes of a
// file that grows at its end stay full.
func (v *Volume) branch(ed Editor, in *Inode, p *treePath, level int, lblk Lblk,
	m *metaBlocks) error {
	parent, err := p.edit(ed, in, level)
	if err != nil {
		return err
	}
	for level++; level <= p.depth; level++ {
		b, node, err := v.takeNode(ed, in, m, p.depth-level)
		if err != nil {
			return err
		}
		at := entries(parent)
		insertEntries(parent, at, 1)
		putIndex(parent, at, lblk, b)
		p.nodes[level-1].at = at
		v.seal(in, p, level)
		p.nodes[level] = treeNode{block: b, data: node, edited: true}
		parent = node
	}
	return nil
}

// split moves the second half of the node at level, whose parent has room, to a new node. The path
// then leads through the half that it has led through before; in the leaf, to that in which i is,
// which it changes.
func (v *Volume) split(ed Editor, in *Inode, p *treePath, level int, i *int, m *metaBlocks) error {
	node, err := p.edit(ed, in, level)
	if err != nil {
		return err
	}
	parent, err := p.edit(ed, in, level-1)
	if err != nil {
		return err
	}
	n := entries(node)
	half := n / 2
	if half == 0 || !hasRoom(parent, 1) {
		return Corrupt("extent block with room for few entries", p.nodes[level].block, ehMax,
			in.Ino)
	}
	b, right, err := v.takeNode(ed, in, m, p.depth-level)
	if err != nil {
		return err
	}
	copy(nodeSpan(right, 0, n-half), nodeSpan(node, half, n-half))
	setEntries(right, n-half)
	clear(nodeSpan(node, half, n-half))
	setEntries(node, half)
	up := &p.nodes[level-1].at
	insertEntries(parent, *up+1, 1)
	putIndex(parent, *up+1, entryLblk(right, 0), b)
	at := p.nodes[level].at
	if level == p.depth {
		at = *i - 1 // an entry that is to come first in the right half may as well end the left
	}
	if at < half {
		v.sealExtents(in, right)
		return nil
	}
	v.seal(in, p, level)
	p.nodes[level] = treeNode{block: b, data: right, at: at - half, edited: true}
	*up++
	if level == p.depth {
		*i -= half
	}
	return nil
}
