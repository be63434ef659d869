package ext4

// RunState says what lies behind a run of logical blocks.
type RunState uint8

// The states of a run.
const (
	RunHole      RunState = iota // nothing: reads as zeros
	RunMapped                    // blocks with data
	RunUnwritten                 // blocks that are reserved and read as zeros
)

// Run is a range of logical blocks in one state: where Map found its first block.
type Run struct {
	State RunState
	Phys  Block  // first physical block, of a mapped or unwritten run
	Len   uint32 // blocks
}

// lblkMax is the number of logical blocks a file can have.
const lblkMax = 1<<32 - 1

// mapExtents finds lblk in the extent tree of in ("Extent Tree").
func (v *Volume) mapExtents(src Source, in *Inode, lblk Lblk, limit uint32, run *Run) error {
	if err := v.checkRoot(in); err != nil {
		return err
	}
	node, where, base := in.IBlock[:], in.Where, in.Offset+iBlock
	depth := int(le.Uint16(node[ehDepth:]))
	end := uint64(lblkMax) // first block behind what this node covers
	for ; depth > 0; depth-- {
		i := searchExtents(node, lblk)
		if i < 0 {
			run.hole(lblk, uint64(le.Uint32(entry(node, 0)[eiBlock:])), limit)
			return nil
		}
		e := entry(node, i)
		if i+1 < int(le.Uint16(node[ehEntries:])) {
			end = uint64(le.Uint32(entry(node, i+1)[eiBlock:]))
		}
		child := Block(le.Uint32(e[eiLeafLo:])) | Block(le.Uint16(e[eiLeafHi:]))<<32
		if !v.checkBlock(child, 1) {
			return Corrupt("extent index points outside", where, base, in.Ino)
		}
		first := Lblk(le.Uint32(e[eiBlock:]))
		var err error
		if node, err = v.extentBlock(src, in, child, depth-1, first); err != nil {
			return err
		}
		where, base = child, 0
	}
	v.findExtent(node, lblk, end, limit, run)
	if run.State != RunHole && !v.checkBlock(run.Phys, run.Len) {
		return Corrupt("extent points outside", where, base, in.Ino)
	}
	return nil
}

// checkRoot verifies the root of an extent tree, and that its entries lie in the filesystem.
func (v *Volume) checkRoot(in *Inode) error {
	node, capacity := in.IBlock[:], (len(in.IBlock)-extentEntrySize)/extentEntrySize
	depth := int(le.Uint16(node[ehDepth:]))
	if depth > extentDepthMax {
		return Corrupt("extent tree deeper than 5", in.Where, in.Offset+iBlock, in.Ino)
	}
	if !v.checkExtents(node, depth, capacity, 0) {
		return Corrupt("extent header", in.Where, in.Offset+iBlock, in.Ino)
	}
	for i := range int(le.Uint16(node[ehEntries:])) {
		if e := entry(node, i); !v.entryInside(e, depth) {
			return Corrupt("extent points outside", in.Where,
				in.Offset+iBlock+extentEntrySize*(i+1), in.Ino)
		}
	}
	return nil
}

// entryInside says whether the blocks of an entry lie in the filesystem.
func (v *Volume) entryInside(e []byte, depth int) bool {
	if depth > 0 {
		return v.checkBlock(Block(le.Uint32(e[eiLeafLo:]))|Block(le.Uint16(e[eiLeafHi:]))<<32, 1)
	}
	n := uint32(le.Uint16(e[eeLen:]))
	if n > extentInitMax {
		n -= extentInitMax
	}
	return v.checkBlock(Block(le.Uint32(e[eeStartLo:]))|Block(le.Uint16(e[eeStartHi:]))<<32, n)
}

// findExtent looks lblk up in a leaf that covers the blocks up to end.
func (v *Volume) findExtent(leaf []byte, lblk Lblk, end uint64, limit uint32, run *Run) {
	i := searchExtents(leaf, lblk)
	if i+1 < int(le.Uint16(leaf[ehEntries:])) {
		end = uint64(le.Uint32(entry(leaf, i+1)[eeBlock:]))
	}
	if i < 0 {
		run.hole(lblk, end, limit)
		return
	}
	e := entry(leaf, i)
	length, state := uint32(le.Uint16(e[eeLen:])), RunMapped
	if length > extentInitMax {
		length, state = length-extentInitMax, RunUnwritten
	}
	skip := uint32(lblk) - le.Uint32(e[eeBlock:])
	if skip >= length {
		run.hole(lblk, end, limit)
		return
	}
	start := Block(le.Uint32(e[eeStartLo:])) | Block(le.Uint16(e[eeStartHi:]))<<32
	*run = Run{state, start + Block(skip), min(length-skip, limit)}
}

// hole makes run a hole from lblk to end, of at most limit blocks.
func (run *Run) hole(lblk Lblk, end uint64, limit uint32) {
	*run = Run{State: RunHole, Len: uint32(min(max(end, uint64(lblk)+1)-uint64(lblk),
		uint64(limit)))}
}

func entry(node []byte, i int) []byte {
	return node[extentEntrySize*(i+1):][:extentEntrySize]
}

// searchExtents returns the last entry that begins at or before lblk, -1 if there is none. The
// first block stands at the same place in extents and index entries.
func searchExtents(node []byte, lblk Lblk) int {
	low, high := 0, int(le.Uint16(node[ehEntries:]))
	for low < high {
		mid := (low + high) / 2
		if le.Uint32(entry(node, mid)[eeBlock:]) <= uint32(lblk) {
			low = mid + 1
		} else {
			high = mid
		}
	}
	return low - 1
}

// extentBlock returns a node of the tree other than the root, verified once per read.
func (v *Volume) extentBlock(src Source, in *Inode, b Block, depth int, first Lblk) ([]byte,
	error) {
	buf, err := src.Block(b)
	if err != nil {
		return nil, err
	}
	node := buf.Data
	if buf.Checked.Kind == kindExtents && buf.Checked.Items == uint64(in.Ino)<<8|uint64(depth) {
		return node, nil
	}
	capacity := (len(node) - extentEntrySize) / extentEntrySize
	if !v.checkExtents(node, depth, capacity, first) {
		return nil, Corrupt("extent block", b, 0, in.Ino)
	}
	if v.csummed() {
		at := extentEntrySize * (1 + int(le.Uint16(node[ehMax:])))
		if at+4 > len(node) ||
			crc32c(v.inodeSeed(in.Ino, in.Generation), node[:at]) != le.Uint32(node[at:]) {
			return nil, Corrupt("extent block checksum", b, at, in.Ino)
		}
	}
	*buf.Checked = Checked{Kind: kindExtents, Items: uint64(in.Ino)<<8 | uint64(depth)}
	return node, nil
}

// checkExtents verifies the header of a node and the order of its entries, none of which may lie
// before first.
func (v *Volume) checkExtents(node []byte, depth, capacity int, first Lblk) bool {
	n, most := int(le.Uint16(node[ehEntries:])), int(le.Uint16(node[ehMax:]))
	if le.Uint16(node[ehMagic:]) != extentMagic || int(le.Uint16(node[ehDepth:])) != depth ||
		n > most || most > capacity || n == 0 && depth > 0 {
		return false
	}
	next := uint64(first)
	for i := range n {
		e := entry(node, i)
		at, length := uint64(le.Uint32(e[eeBlock:])), uint64(1)
		if depth == 0 {
			length = uint64(le.Uint16(e[eeLen:]))
			if length > extentInitMax {
				length -= extentInitMax
			}
		}
		if at < next || length == 0 || at+length > lblkMax {
			return false
		}
		next = at + length
	}
	return true
}
