package ext4

import "golang.org/x/sys/unix"

// extent is a decoded entry of a leaf.
type extent struct {
	lblk      Lblk
	n         uint32 // blocks
	phys      Block
	unwritten bool
}

func extentAt(p []byte) extent {
	x := extent{lblk: Lblk(le32(p, eeBlock)), n: uint32(le16(p, eeLen)),
		phys: Block(le32(p, eeStartLo)) | Block(le16(p, eeStartHi))<<32}
	if x.n > extentInitMax {
		x.n, x.unwritten = x.n-extentInitMax, true
	}
	return x
}

func (x *extent) put(p []byte) {
	n := x.n
	if x.unwritten {
		n += extentInitMax
	}
	le.PutUint32(p[eeBlock:], uint32(x.lblk))
	le.PutUint16(p[eeLen:], uint16(n))
	le.PutUint16(p[eeStartHi:], uint16(x.phys>>32))
	le.PutUint32(p[eeStartLo:], uint32(x.phys))
}

// joins says whether y can become part of x: it follows x in the file and on the device.
func (x *extent) joins(y *extent) bool {
	most := uint32(extentInitMax)
	if x.unwritten {
		most--
	}
	return x.unwritten == y.unwritten && x.lblk+Lblk(x.n) == y.lblk &&
		x.phys+Block(x.n) == y.phys && x.n+y.n <= most
}

func putIndex(p []byte, first Lblk, child Block) {
	le.PutUint32(p[eiBlock:], uint32(first))
	le.PutUint32(p[eiLeafLo:], uint32(child))
	le.PutUint16(p[eiLeafHi:], uint16(child>>32))
	le.PutUint16(p[eiLeafHi+2:], 0)
}

func indexChild(p []byte) Block {
	return Block(le32(p, eiLeafLo)) | Block(le16(p, eiLeafHi))<<32
}

func entries(node []byte) int           { return int(le16(node, ehEntries)) }
func setEntries(node []byte, n int)     { le.PutUint16(node[ehEntries:], uint16(n)) }
func nodeFull(node []byte) bool         { return le16(node, ehEntries) >= le16(node, ehMax) }
func entryLblk(node []byte, i int) Lblk { return Lblk(le32(entry(node, i), eeBlock)) }

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

// treePath is the way from the root of an extent tree to a leaf. Level 0 is the root; at is the
// entry taken, -1 in a leaf whose entries all begin later.
type treePath struct {
	in    *Inode
	depth int
	nodes [extentDepthMax + 1]struct {
		block Block
		data  []byte
		at    int
	}
}

func (p *treePath) leaf() []byte { return p.nodes[p.depth].data }

// descend finds the leaf for lblk.
func (v *Volume) descend(ed Editor, in *Inode, lblk Lblk, p *treePath) error {
	root := in.IBlock[:]
	p.in, p.depth = in, int(le16(root, ehDepth))
	if p.depth > extentDepthMax || !v.checkExtents(root, p.depth, rootEntries, 0) {
		return Corrupt("extent header", in.Where, in.Offset+iBlock, in.Ino)
	}
	p.nodes[0].data, p.nodes[0].block = root, 0
	for level := 0; ; level++ {
		n := &p.nodes[level]
		n.at = searchExtents(n.data, lblk)
		if level == p.depth {
			return nil
		}
		n.at = max(n.at, 0)
		e := entry(n.data, n.at)
		child := indexChild(e)
		if !v.checkBlock(child, 1) {
			return Corrupt("extent index points outside", n.block, 0, in.Ino)
		}
		data, err := v.extentBlock(ed, in, child, p.depth-level-1, Lblk(le32(e, eiBlock)))
		if err != nil {
			return err
		}
		p.nodes[level+1].block, p.nodes[level+1].data = child, data
	}
}

// edit makes the node of a level ready to be changed; seal follows.
func (p *treePath) edit(ed Editor, level int) ([]byte, error) {
	if n := &p.nodes[level]; level > 0 {
		buf, err := ed.Modify(n.block)
		n.data = buf.Data
		return buf.Data, err
	}
	return p.in.IBlock[:], nil
}

// seal sets the checksum of the node of a level. The root's is the inode's.
func (v *Volume) seal(p *treePath, level int) {
	if level > 0 {
		v.sealExtents(p.in, p.nodes[level].data)
	}
}

func (v *Volume) sealExtents(in *Inode, node []byte) {
	if v.csummed() {
		at := extentEntrySize * (1 + int(le16(node, ehMax)))
		le.PutUint32(node[at:], crc32c(v.inodeSeed(in.Ino, in.Generation), node[:at]))
	}
}

// insertEntry makes room for an entry at i of a node that is not full.
func insertEntry(node []byte, i int) []byte {
	n := entries(node)
	copy(node[extentEntrySize*(i+2):extentEntrySize*(n+2)],
		node[extentEntrySize*(i+1):extentEntrySize*(n+1)])
	setEntries(node, n+1)
	return entry(node, i)
}

func deleteEntry(node []byte, i int) {
	n := entries(node)
	copy(node[extentEntrySize*(i+1):], node[extentEntrySize*(i+2):extentEntrySize*(n+1)])
	clear(entry(node, n-1))
	setEntries(node, n-1)
}

// fixKeys tells the nodes above level, up to the first that does not begin with it, of the new
// first block of the node at level.
func (v *Volume) fixKeys(ed Editor, p *treePath, level int) error {
	if entries(p.nodes[level].data) == 0 {
		return nil
	}
	first := entryLblk(p.nodes[level].data, 0)
	for level--; level >= 0; level-- {
		node, err := p.edit(ed, level)
		if err != nil {
			return err
		}
		le.PutUint32(entry(node, p.nodes[level].at)[eiBlock:], uint32(first))
		v.seal(p, level)
		if p.nodes[level].at > 0 {
			break
		}
	}
	return nil
}

// InsertMax is how many blocks from lblk on one call of InsertRun may insert.
func (v *Volume) InsertMax(in *Inode, lblk Lblk) uint32 {
	if in.Flags&FlagExtents != 0 {
		return extentInitMax - 1
	}
	return v.indirectLeft(lblk)
}

// InsertRun puts the blocks phys … behind lblk …, where the file has a hole. It changes the nodes on
// one path, and splits those that are full: two or three blocks nearly always. in.Sectors grows by
// what the mapping itself takes; the caller counts the data and writes the inode. Errors: ENOSPC;
// EOPNOTSUPP for unwritten blocks in a block map; EFBIG; those of ed; CorruptError.
func (v *Volume) InsertRun(ed Editor, in *Inode, lblk Lblk, phys Block, n uint32,
	unwritten bool) error {
	if in.Flags&FlagExtents == 0 {
		return v.insertIndirect(ed, in, lblk, phys, n, unwritten)
	}
	x := extent{lblk, n, phys, unwritten}
	for range 3 * (extentDepthMax + 1) {
		var p treePath
		if err := v.descend(ed, in, lblk, &p); err != nil {
			return err
		}
		done, err := v.insertInLeaf(ed, &p, x)
		if done || err != nil {
			return err
		}
		if err := v.makeRoom(ed, &p); err != nil {
			return err
		}
	}
	return Corrupt("extent tree cannot be split", in.Where, in.Offset+iBlock, in.Ino)
}

// insertInLeaf joins x with its neighbours in the leaf, or gives it an entry of its own if there is
// room.
func (v *Volume) insertInLeaf(ed Editor, p *treePath, x extent) (done bool, err error) {
	level, at := p.depth, p.nodes[p.depth].at
	leaf := p.leaf()
	var left, right extent
	joinLeft, joinRight := false, false
	if at >= 0 {
		left = extentAt(entry(leaf, at))
		if left.lblk+Lblk(left.n) > x.lblk {
			return false, Corrupt("extents overlap", p.nodes[level].block, 0, p.in.Ino)
		}
		joinLeft = left.joins(&x)
	}
	if at+1 < entries(leaf) {
		right = extentAt(entry(leaf, at+1))
		if x.lblk+Lblk(x.n) > right.lblk {
			return false, Corrupt("extents overlap", p.nodes[level].block, 0, p.in.Ino)
		}
		joinRight = x.joins(&right)
	}
	if !joinLeft && !joinRight && nodeFull(leaf) {
		return false, nil
	}
	if leaf, err = p.edit(ed, level); err != nil {
		return false, err
	}
	switch {
	case joinLeft:
		left.n += x.n
		if left.joins(&right) && at+1 < entries(leaf) {
			left.n += right.n
			deleteEntry(leaf, at+1)
		}
		left.put(entry(leaf, at))
	case joinRight:
		right.lblk, right.phys, right.n = x.lblk, x.phys, right.n+x.n
		right.put(entry(leaf, at+1))
	default:
		x.put(insertEntry(leaf, at+1))
	}
	v.seal(p, level)
	if at < 0 {
		return true, v.fixKeys(ed, p, level)
	}
	return true, nil
}

// makeRoom splits the lowest full node of a path whose parent has room, or puts another level
// below the root. The caller descends again.
func (v *Volume) makeRoom(ed Editor, p *treePath) error {
	level := p.depth
	for level > 0 && nodeFull(p.nodes[level-1].data) {
		level--
	}
	if level == 0 {
		return v.deepen(ed, p)
	}
	b, node, err := v.newNode(ed, p, p.depth-level)
	if err != nil {
		return err
	}
	old, err := p.edit(ed, level)
	if err != nil {
		return err
	}
	n := entries(old)
	half := n / 2
	if v.rightmost(p, level) {
		half = n - 1 // files grow at their end: what stays behind is full
	}
	copy(node[extentEntrySize:], old[extentEntrySize*(half+1):extentEntrySize*(n+1)])
	setEntries(node, n-half)
	clear(old[extentEntrySize*(half+1) : extentEntrySize*(n+1)])
	setEntries(old, half)
	v.seal(p, level)
	v.sealExtents(p.in, node)
	parent, err := p.edit(ed, level-1)
	if err != nil {
		return err
	}
	putIndex(insertEntry(parent, p.nodes[level-1].at+1), entryLblk(node, 0), b)
	v.seal(p, level-1)
	return nil
}

// rightmost says whether the path takes the last entry of every node down to level.
func (v *Volume) rightmost(p *treePath, level int) bool {
	for i := 0; i <= level; i++ {
		if p.nodes[i].at != entries(p.nodes[i].data)-1 {
			return false
		}
	}
	return true
}

// newNode allocates a node near the one it is split from.
func (v *Volume) newNode(ed Editor, p *treePath, depth int) (Block, []byte, error) {
	goal := v.inodeGoal(p.in)
	if leaf := p.leaf(); entries(leaf) > 0 {
		x := extentAt(entry(leaf, max(p.nodes[p.depth].at, 0)))
		goal = x.phys + Block(x.n)
	}
	b, n, err := v.AllocBlocks(ed, Alloc{Goal: goal, Want: 1, Root: true})
	if err != nil {
		return 0, nil, err
	}
	p.in.Sectors += uint64(n) << (v.BlockBits - 9)
	buf, err := ed.Fresh(b)
	if err != nil {
		return 0, nil, err
	}
	initNode(buf.Data, (len(buf.Data)-extentEntrySize)/extentEntrySize, depth)
	return b, buf.Data, nil
}

// deepen moves the entries of the root to a new node below it.
func (v *Volume) deepen(ed Editor, p *treePath) error {
	if p.depth == extentDepthMax {
		return unix.EFBIG
	}
	b, node, err := v.newNode(ed, p, p.depth)
	if err != nil {
		return err
	}
	root := p.in.IBlock[:]
	n := entries(root)
	first := Lblk(0)
	if n > 0 {
		first = entryLblk(root, 0)
	}
	copy(node[extentEntrySize:], root[extentEntrySize:extentEntrySize*(n+1)])
	setEntries(node, n)
	v.sealExtents(p.in, node)
	clear(root)
	initNode(root, rootEntries, p.depth+1)
	setEntries(root, 1)
	putIndex(entry(root, 0), first, b)
	return nil
}

// ConvertRun makes the blocks lblk …, which lie within one extent, written or unwritten. Errors as
// those of InsertRun.
func (v *Volume) ConvertRun(ed Editor, in *Inode, lblk Lblk, n uint32, written bool) error {
	var p treePath
	if in.Flags&FlagExtents == 0 {
		return unix.EOPNOTSUPP
	}
	if err := v.descend(ed, in, lblk, &p); err != nil {
		return err
	}
	at := p.nodes[p.depth].at
	if at < 0 {
		return Corrupt("no extent to convert", in.Where, in.Offset+iBlock, in.Ino)
	}
	x := extentAt(entry(p.leaf(), at))
	skip := uint32(lblk - x.lblk)
	if skip >= x.n || x.n-skip < n {
		return Corrupt("no extent to convert", in.Where, in.Offset+iBlock, in.Ino)
	}
	if x.unwritten != written {
		return nil
	}
	if err := v.removeFrom(ed, &p, x, lblk, lblk+Lblk(n)); err != nil {
		return err
	}
	return v.InsertRun(ed, in, lblk, x.phys+Block(skip), n, !written)
}

// removeFrom takes [from, to) out of extent x, the one that the path leads to. What it had of
// blocks is the caller's to free.
func (v *Volume) removeFrom(ed Editor, p *treePath, x extent, from, to Lblk) error {
	level, at := p.depth, p.nodes[p.depth].at
	leaf, err := p.edit(ed, level)
	if err != nil {
		return err
	}
	end := x.lblk + Lblk(x.n)
	rest := extent{to, uint32(end - to), x.phys + Block(to-x.lblk), x.unwritten}
	switch {
	case from > x.lblk:
		x.n = uint32(from - x.lblk)
		x.put(entry(leaf, at))
		v.seal(p, level)
		if rest.n == 0 {
			return nil
		}
		return v.InsertRun(ed, p.in, rest.lblk, rest.phys, rest.n, rest.unwritten)
	case rest.n > 0:
		rest.put(entry(leaf, at))
	default:
		deleteEntry(leaf, at)
	}
	if entries(leaf) == 0 && level > 0 {
		return v.dropNode(ed, p, level)
	}
	v.seal(p, level)
	if at == 0 {
		return v.fixKeys(ed, p, level)
	}
	return nil
}

// dropNode frees an empty node, and those above that become empty by it.
func (v *Volume) dropNode(ed Editor, p *treePath, level int) error {
	for ; level > 0 && entries(p.nodes[level].data) == 0; level-- {
		if err := v.FreeBlocks(ed, p.nodes[level].block, 1, true); err != nil {
			return err
		}
		p.in.Sectors -= v.clusterSectors()
		parent, err := p.edit(ed, level-1)
		if err != nil {
			return err
		}
		deleteEntry(parent, p.nodes[level-1].at)
	}
	if level == 0 && entries(p.in.IBlock[:]) == 0 {
		initNode(p.in.IBlock[:], rootEntries, 0)
		return nil
	}
	v.seal(p, level)
	if p.nodes[level].at == 0 {
		return v.fixKeys(ed, p, level)
	}
	return nil
}

// clusterSectors is what a cluster adds to i_blocks.
func (v *Volume) clusterSectors() uint64 { return 1 << (v.BlockBits + v.ClusterBits - 9) }

// Bounds of one call of RemoveRuns: each group of blocks has a bitmap and a descriptor.
const (
	removeGroups  = 6
	removeExtents = 64
)

// RemoveRuns frees the blocks [from, to) of a file, from the end backwards, a bounded piece of them;
// what the mapping itself needs no more goes with them. ErrContinue: everything from next on is
// done. The blocks of directories and symbolic links are metadata of the log. Errors: those of ed;
// ENOSPC, if a hole in the middle of an extent needs a new node; CorruptError.
func (v *Volume) RemoveRuns(ed Editor, in *Inode, from, to Lblk) (next Lblk, err error) {
	if in.Flags&FlagExtents == 0 {
		return v.removeIndirect(ed, in, from, to)
	}
	metadata := in.Type() != unix.S_IFREG
	groups, last := 0, Group(0)
	for range removeExtents {
		var p treePath
		if to <= from {
			return from, nil
		}
		if err := v.descend(ed, in, to-1, &p); err != nil {
			return to, err
		}
		at := p.nodes[p.depth].at
		if at < 0 { // nothing before to in this leaf, which is the first, or begins with a hole
			left, ok := p.before()
			if !ok {
				return from, v.flatten(ed, in)
			}
			to = left
			continue
		}
		x := extentAt(entry(p.leaf(), at))
		end := min(x.lblk+Lblk(x.n), to)
		if end <= from {
			return from, v.flatten(ed, in)
		}
		if !v.checkBlock(x.phys, x.n) {
			return to, Corrupt("extent points outside", p.nodes[p.depth].block, 0, in.Ino)
		}
		first := max(x.lblk, from)
		phys, n := x.phys+Block(first-x.lblk), uint32(end-first)
		if g := v.groupOf(phys); groups == 0 || g != last {
			groups, last = groups+1, g
		}
		if v.groupOf(phys+Block(n)-1) != last {
			groups, last = groups+1, v.groupOf(phys+Block(n)-1)
		}
		if err := v.removeFrom(ed, &p, x, first, end); err != nil {
			return to, err
		}
		if err := v.freeRun(ed, in, phys, n, metadata); err != nil {
			return to, err
		}
		if to = first; groups >= removeGroups {
			break
		}
	}
	return to, ErrContinue
}

// freeRun frees data blocks of a file.
func (v *Volume) freeRun(ed Editor, in *Inode, b Block, n uint32, metadata bool) error {
	in.Sectors -= min(in.Sectors, uint64(n)<<(v.BlockBits-9))
	return v.FreeBlocks(ed, b, n, metadata)
}

// before returns the first block of the leaf that the path leads to, when it is not the first one
// of the tree.
func (p *treePath) before() (first Lblk, ok bool) {
	for level := p.depth - 1; level >= 0; level-- {
		if n := &p.nodes[level]; n.at > 0 {
			return entryLblk(n.data, n.at), true
		}
	}
	return 0, false
}

// flatten takes a tree of one leaf with few entries back into the inode, as the kernel does.
func (v *Volume) flatten(ed Editor, in *Inode) error {
	root := in.IBlock[:]
	if le16(root, ehDepth) != 1 || entries(root) != 1 {
		return nil
	}
	var p treePath
	if err := v.descend(ed, in, 0, &p); err != nil {
		return err
	}
	leaf := p.leaf()
	n := entries(leaf)
	if n > rootEntries {
		return nil
	}
	initNode(root, rootEntries, 0)
	copy(root[extentEntrySize:], leaf[extentEntrySize:extentEntrySize*(n+1)])
	clear(root[extentEntrySize*(n+1):])
	setEntries(root, n)
	in.Sectors -= min(in.Sectors, v.clusterSectors())
	return v.FreeBlocks(ed, p.nodes[1].block, 1, true)
}

// inodeGoal is where the first block of a file is wanted: in the group of its inode, files of the
// same group some way apart ("Block and Inode Allocation Policy").
func (v *Volume) inodeGoal(in *Inode) Block {
	g := v.groupOfInode(in.Ino)
	colour := uint64(uint32(in.Ino)*0x9e3779b1>>28) * uint64(v.BlocksPerGroup) / 16
	if b := v.groupFirst(g) + Block(colour); b < v.BlocksCount {
		return b
	}
	return v.groupFirst(g)
}

// Goal is the block at which the block for lblk is wanted: behind the one before it in the file.
func (v *Volume) Goal(src Source, in *Inode, lblk Lblk) (Block, error) {
	if in.Flags&FlagExtents == 0 {
		return v.goalIndirect(src, in, lblk)
	}
	node := in.IBlock[:]
	depth := int(le16(node, ehDepth))
	if depth > extentDepthMax || !v.checkExtents(node, depth, rootEntries, 0) {
		return 0, Corrupt("extent header", in.Where, in.Offset+iBlock, in.Ino)
	}
	for ; depth > 0; depth-- {
		e := entry(node, max(searchExtents(node, lblk), 0))
		child := indexChild(e)
		if !v.checkBlock(child, 1) {
			return 0, Corrupt("extent index points outside", in.Where, in.Offset, in.Ino)
		}
		var err error
		if node, err = v.extentBlock(src, in, child, depth-1, Lblk(le32(e, eiBlock))); err != nil {
			return 0, err
		}
	}
	i := searchExtents(node, lblk)
	if i < 0 {
		return v.inodeGoal(in), nil
	}
	x := extentAt(entry(node, i))
	// A hole that is filled later fits in between; far behind, the distance means nothing.
	if skip := Block(lblk - x.lblk); skip < Block(v.BlocksPerGroup) &&
		x.phys+skip < v.BlocksCount {
		return x.phys + skip, nil
	}
	return x.phys + Block(x.n), nil
}
