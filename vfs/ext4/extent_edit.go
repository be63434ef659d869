package ext4

import "golang.org/x/sys/unix"

// extent is a decoded entry of a leaf.
type extent struct {
	lblk      Lblk
	n         uint32 // blocks; 0 is no extent
	phys      Block
	unwritten bool
}

func extentAt(node []byte, i int) extent { return decodeExtent(entry(node, i)) }

func decodeExtent(p []byte) extent {
	x := extent{lblk: Lblk(le32(p, eeBlock)), n: uint32(le16(p, eeLen)),
		phys: Block(le32(p, eeStartLo)) | Block(le16(p, eeStartHi))<<32}
	if x.n > extentInitMax {
		x.n, x.unwritten = x.n-extentInitMax, true
	}
	return x
}

func (x extent) put(node []byte, i int) {
	p, n := entry(node, i), x.n
	if x.unwritten {
		n += extentInitMax
	}
	le.PutUint32(p[eeBlock:], uint32(x.lblk))
	le.PutUint16(p[eeLen:], uint16(n))
	le.PutUint16(p[eeStartHi:], uint16(x.phys>>32))
	le.PutUint32(p[eeStartLo:], uint32(x.phys))
}

func (x extent) end() Lblk { return x.lblk + Lblk(x.n) }

// before and after are what x has on either side of lblk.
func (x extent) before(lblk Lblk) extent {
	return extent{x.lblk, uint32(lblk - x.lblk), x.phys, x.unwritten}
}

func (x extent) after(lblk Lblk) extent {
	return extent{lblk, uint32(x.end() - lblk), x.phys + Block(lblk-x.lblk), x.unwritten}
}

// extentMax is the most blocks of an extent.
func extentMax(unwritten bool) uint32 {
	if unwritten {
		return extentInitMax - 1
	}
	return extentInitMax
}

// joins says whether y can become part of x: it follows x in the file and on the device.
func (x extent) joins(y extent) bool {
	return x.n > 0 && y.n > 0 && x.unwritten == y.unwritten && x.end() == y.lblk &&
		x.phys+Block(x.n) == y.phys && x.n+y.n <= extentMax(x.unwritten)
}

func putIndex(node []byte, i int, first Lblk, child Block) {
	p := entry(node, i)
	le.PutUint32(p[eiBlock:], uint32(first))
	le.PutUint32(p[eiLeafLo:], uint32(child))
	le.PutUint16(p[eiLeafHi:], uint16(child>>32))
	le.PutUint16(p[eiLeafHi+2:], 0)
}

func indexChild(node []byte, i int) Block {
	p := entry(node, i)
	return Block(le32(p, eiLeafLo)) | Block(le16(p, eiLeafHi))<<32
}

func entries(node []byte) int           { return int(le16(node, ehEntries)) }
func setEntries(node []byte, n int)     { le.PutUint16(node[ehEntries:], uint16(n)) }
func entriesMax(node []byte) int        { return int(le16(node, ehMax)) }
func entryLblk(node []byte, i int) Lblk { return Lblk(le32(entry(node, i), eeBlock)) }

// nodeSpan is the bytes of n entries from number i on.
func nodeSpan(node []byte, i, n int) []byte {
	return node[extentEntrySize*(i+1):][:extentEntrySize*n]
}

// insertEntries makes n unused entries at i of a node that has room for them.
func insertEntries(node []byte, i, n int) {
	rest := entries(node) - i
	copy(nodeSpan(node, i+n, rest), nodeSpan(node, i, rest))
	setEntries(node, i+rest+n)
}

// deleteEntries takes n entries at i out of a node.
func deleteEntries(node []byte, i, n int) {
	rest := entries(node) - i - n
	copy(nodeSpan(node, i, rest), nodeSpan(node, i+n, rest))
	clear(nodeSpan(node, i+rest, n))
	setEntries(node, i+rest)
}

func initNode(node []byte, most, depth int) {
	le.PutUint16(node[ehMagic:], extentMagic)
	le.PutUint16(node[ehEntries:], 0)
	le.PutUint16(node[ehMax:], uint16(most))
	le.PutUint16(node[ehDepth:], uint16(depth))
	le.PutUint32(node[ehGeneration:], 0)
}

// rootEntries is how many entries there is room for in the inode.
const rootEntries = 4

// EmptyMapping makes in, whose flags say how it maps its blocks, a file without any.
func EmptyMapping(in *Inode) {
	clear(in.IBlock[:])
	if in.Flags&FlagExtents != 0 {
		initNode(in.IBlock[:], rootEntries, 0)
	}
}

// treePath is the way from the root of an extent tree, level 0, to a leaf, level depth.
//
// The root's bytes are the inode's and do not stand here: a pointer to an Inode that is stored
// would have all inodes allocated on the heap.
type treePath struct {
	depth int
	// end is the first block that the leaf cannot hold, because the next one does.
	end   uint64
	nodes [extentDepthMax + 1]treeNode
}

// treeNode is one node of a path.
type treeNode struct {
	block Block
	data  []byte
	// at is the entry that was taken; in a leaf it is -1 if all entries begin later.
	at int
	// edited: data may be changed, and has no valid checksum.
	edited bool
}

// node is the node at a level.
func (p *treePath) node(in *Inode, level int) []byte {
	if level == 0 {
		return in.IBlock[:]
	}
	return p.nodes[level].data
}

// edit makes the node at a level ready to be changed; sealPath follows.
func (p *treePath) edit(ed Editor, in *Inode, level int) ([]byte, error) {
	n := &p.nodes[level]
	if level > 0 && !n.edited {
		buf, err := ed.Modify(n.block)
		if err != nil {
			return nil, err
		}
		n.data, n.edited = buf.Data, true
	}
	return p.node(in, level), nil
}

// rightmost says whether a path takes the last entry of every index node.
func (p *treePath) rightmost(in *Inode) bool {
	for level := range p.depth {
		if p.nodes[level].at != entries(p.node(in, level))-1 {
			return false
		}
	}
	return true
}

// treeRoot returns the depth of an extent tree, whose root is verified.
func (v *Volume) treeRoot(in *Inode) (depth int, err error) {
	depth = int(le16(in.IBlock[:], ehDepth))
	if depth > extentDepthMax || !v.checkExtents(in.IBlock[:], depth, rootEntries, 0) {
		return 0, Corrupt("extent header", in.Where, in.Offset+iBlock, in.Ino)
	}
	return depth, nil
}

// treeChild returns the node that entry i of an index node at block where points to, which is
// depth levels above the leaves. Everything in it lies within what the index says, whose blocks
// begin with exactly its key and end before end: a change of a key may rely on that.
func (v *Volume) treeChild(src Source, in *Inode, node []byte, i, depth int, where Block,
	end uint64) (Block, []byte, error) {
	b, first := indexChild(node, i), entryLblk(node, i)
	if !v.checkBlock(b, 1) || b < v.FirstDataBlock {
		return 0, nil, Corrupt("extent index points outside", where, 0, in.Ino)
	}
	child, err := v.extentBlock(src, in, b, depth, first)
	if err != nil {
		return 0, nil, err
	}
	n := entries(child)
	if n == 0 || entryLblk(child, 0) != first {
		return 0, nil, Corrupt("extent block begins elsewhere than its index", b, 0, in.Ino)
	}
	last := uint64(entryLblk(child, n-1)) + 1
	if depth == 0 {
		last = uint64(extentAt(child, n-1).end())
	}
	if last > end {
		return 0, nil, Corrupt("extent block reaches into the next", b, 0, in.Ino)
	}
	return b, child, nil
}

// descend finds the leaf for lblk.
func (v *Volume) descend(src Source, in *Inode, lblk Lblk, p *treePath) error {
	depth, err := v.treeRoot(in)
	if err != nil {
		return err
	}
	p.depth, p.end = depth, lblkMax
	node, where := in.IBlock[:], in.Where
	for level := 0; ; level++ {
		n := &p.nodes[level]
		n.at, n.edited = searchExtents(node, lblk), false
		if level == depth {
			return nil
		}
		n.at = max(n.at, 0)
		if n.at+1 < entries(node) {
			p.end = uint64(entryLblk(node, n.at+1))
		}
		where, node, err = v.treeChild(src, in, node, n.at, depth-level-1, where, p.end)
		if err != nil {
			return err
		}
		p.nodes[level+1].block, p.nodes[level+1].data = where, node
	}
}

// sealExtents sets the checksum of a node other than the root, whose checksum is the inode's.
func (v *Volume) sealExtents(in *Inode, node []byte) {
	if v.csummed() {
		at := extentEntrySize * (1 + entriesMax(node))
		le.PutUint32(node[at:], crc32c(v.inodeSeed(in.Ino, in.Generation), node[:at]))
	}
}

// seal sets the checksum of the node at a level, if it was changed.
func (v *Volume) seal(in *Inode, p *treePath, level int) {
	if n := &p.nodes[level]; level > 0 && n.edited {
		v.sealExtents(in, n.data)
		n.edited = false
	}
}

func (v *Volume) sealPath(in *Inode, p *treePath) {
	for level := 1; level <= p.depth; level++ {
		v.seal(in, p, level)
	}
}

// fixKeys tells the nodes above level, up to the first in which it is not the first entry, of the
// block that the node at level now begins with.
func (v *Volume) fixKeys(ed Editor, in *Inode, p *treePath, level int) error {
	first := entryLblk(p.node(in, level), 0)
	for level--; level >= 0; level-- {
		at := p.nodes[level].at
		if entryLblk(p.node(in, level), at) == first {
			return nil
		}
		node, err := p.edit(ed, in, level)
		if err != nil {
			return err
		}
		le.PutUint32(entry(node, at)[eiBlock:], uint32(first))
		if at > 0 {
			return nil
		}
	}
	return nil
}

// runMax is how many blocks one call of InsertRun may insert into an extent tree.
const runMax = extentInitMax

// InsertMax is how many blocks from lblk on one call of InsertRun may insert: those of one extent
// in either state, or those whose pointers stand in one block of a block map.
func (v *Volume) InsertMax(in *Inode, lblk Lblk) uint32 {
	most := lblkMax - min(uint32(lblk), lblkMax)
	if in.Flags&FlagExtents != 0 {
		return min(most, extentInitMax-1)
	}
	return min(most, v.pointersLeft(lblk))
}

// InsertRun puts the blocks phys … behind lblk …, where the file has a hole; n is at most
// InsertMax. in.Sectors grows by what the mapping itself takes; the caller counts the data and
// writes the inode. With bigalloc the caller takes care that a block which shares its cluster with
// others that are mapped is the one it has to be (ClusterMapped).
//
// Blocks that one call changes, in an extent tree of depth d: the leaf, nearly always. Where the
// new extent comes first in it, the d-1 above it, too. Where nodes are full, at most d of them and
// d+1 new ones, allocated in one piece if there is one (bitmap and descriptor): 7 for d = 2, which
// is a file of 460,000 extents with blocks of 4 KiB, and 12 for d = 5, the most. In a block map:
// one block of pointers, and at most 3 new ones with bitmap and descriptor. Space in so many
// pieces that each new block comes from a group of its own adds two blocks for each.
//
// Errors: ENOSPC; ErrSpaceBusy; EOPNOTSUPP for unwritten blocks in a block map, and for a block
// map with bigalloc; EFBIG behind the last block that a file, or its block map, can have, and for a
// block number that does not fit into a block map; EINVAL; those of ed; CorruptError, also if there
// was no hole.
func (v *Volume) InsertRun(ed Editor, in *Inode, lblk Lblk, phys Block, n uint32,
	unwritten bool) error {
	switch {
	case uint64(lblk)+uint64(n) > lblkMax:
		return unix.EFBIG
	case n == 0 || n > runMax || !v.checkBlock(phys, n) || in.Flags&FlagInlineData != 0:
		return unix.EINVAL
	case in.Flags&FlagExtents == 0:
		return v.insertPointers(ed, in, lblk, phys, n, unwritten)
	}
	for n > 0 { // NB: twice for as many unwritten blocks as only a written extent can hold
		x := extent{lblk, min(n, extentMax(unwritten)), phys, unwritten}
		if err := v.insertExtent(ed, in, x); err != nil {
			return err
		}
		lblk, phys, n = x.end(), phys+Block(x.n), n-x.n
	}
	return nil
}

// insertExtent joins x with its neighbours in the leaf, as far as there are and they allow it, or
// gives it an entry of its own.
func (v *Volume) insertExtent(ed Editor, in *Inode, x extent) error {
	var p treePath
	if err := v.descend(ed, in, x.lblk, &p); err != nil {
		return err
	}
	leaf := p.node(in, p.depth)
	i, end := p.nodes[p.depth].at+1, p.end
	var left, right extent
	if i > 0 {
		left = extentAt(leaf, i-1)
	}
	if i < entries(leaf) {
		right = extentAt(leaf, i)
		end = uint64(right.lblk)
	}
	if left.end() > x.lblk || uint64(x.end()) > end {
		return Corrupt("extent put where there is one", p.nodes[p.depth].block, 0, in.Ino)
	}
	first, count := i, 0
	if left.joins(x) {
		x.lblk, x.phys, x.n = left.lblk, left.phys, left.n+x.n
		first, count = first-1, count+1
	}
	if x.joins(right) {
		x.n, count = x.n+right.n, count+1
	}
	return v.replaceExtents(ed, in, &p, first, count, [...]extent{x, {}, {}})
}

// ConvertRun makes the n blocks from lblk on, which lie within one extent, written or unwritten.
// The extent falls into up to three, or what was converted joins its neighbours. Blocks that a
// call changes, and errors, are those of InsertRun.
func (v *Volume) ConvertRun(ed Editor, in *Inode, lblk Lblk, n uint32, written bool) error {
	switch {
	case in.Flags&FlagExtents == 0:
		return unix.EOPNOTSUPP
	case n == 0 || uint64(lblk)+uint64(n) > lblkMax:
		return unix.EINVAL
	}
	var p treePath
	if err := v.descend(ed, in, lblk, &p); err != nil {
		return err
	}
	leaf, at := p.node(in, p.depth), p.nodes[p.depth].at
	var x extent
	if at >= 0 {
		x = extentAt(leaf, at)
	}
	if x.end() <= lblk || uint64(x.end()) < uint64(lblk)+uint64(n) {
		return Corrupt("no extent to convert", p.nodes[p.depth].block, 0, in.Ino)
	}
	if x.unwritten != written {
		return nil
	}
	mid := x.before(lblk + Lblk(n)).after(lblk)
	mid.unwritten = !written
	if mid.n > extentMax(mid.unwritten) { // as many as only a written extent can hold
		cut := mid.lblk + Lblk(extentMax(true))
		return v.replaceExtents(ed, in, &p, at, 1, [...]extent{mid.before(cut), mid.after(cut), {}})
	}
	head, rest := x.before(mid.lblk), x.after(mid.end())
	first, count := at, 1
	if head.n == 0 && at > 0 {
		if left := extentAt(leaf, at-1); left.joins(mid) {
			mid.lblk, mid.phys, mid.n = left.lblk, left.phys, left.n+mid.n
			first, count = first-1, count+1
		}
	}
	if rest.n == 0 && at+1 < entries(leaf) {
		if right := extentAt(leaf, at+1); mid.joins(right) {
			mid.n, count = mid.n+right.n, count+1
		}
	}
	return v.replaceExtents(ed, in, &p, first, count, [...]extent{head, mid, rest})
}

// replaceExtents replaces count extents of a leaf, from number first on, by those of list that are
// not empty, and brings the tree in order. If there are more of them than before, count is at
// most 1.
func (v *Volume) replaceExtents(ed Editor, in *Inode, p *treePath, first, count int,
	list [3]extent) error {
	n := 0
	for _, x := range list {
		if x.n > 0 {
			list[n] = x
			n++
		}
	}
	if n == 0 && count == entries(p.node(in, p.depth)) && p.depth > 0 {
		return v.dropNodes(ed, in, p)
	}
	leaf, err := p.edit(ed, in, p.depth)
	if err != nil {
		return err
	}
	same := min(n, count)
	for i, x := range list[:same] {
		x.put(leaf, first+i)
	}
	first += same
	if n > same {
		// NB: what stays was changed before, since making room may lead the path elsewhere.
		if first, err = v.makeRoom(ed, in, p, first, n-same, list[same].lblk); err != nil {
			return err
		}
		if leaf, err = p.edit(ed, in, p.depth); err != nil {
			return err
		}
		insertEntries(leaf, first, n-same)
		for i, x := range list[same:n] {
			x.put(leaf, first+i)
		}
	} else {
		deleteEntries(leaf, first, count-same)
	}
	if entries(leaf) > 0 {
		if err := v.fixKeys(ed, in, p, p.depth); err != nil {
			return err
		}
	}
	v.sealPath(in, p)
	return nil
}
