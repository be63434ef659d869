package ext4

// Places in i_block of the block map ("Direct/Indirect Block Addressing").
const (
	directBlocks = 12
	levelsMax    = 3
)

// mapIndirect finds lblk in the block map of in: direct blocks, then trees of one to three levels.
func (v *Volume) mapIndirect(src Source, in *Inode, lblk Lblk, limit uint32, run *Run) error {
	bits := v.BlockBits - 2 // log2 of the pointers in a block
	rest := uint64(lblk)
	if rest < directBlocks {
		return v.pointers(in, in.IBlock[:4*directBlocks], int(rest), limit, run,
			in.Where, in.Offset+iBlock)
	}
	rest -= directBlocks
	level := 1
	for rest>>(uint(level)*uint(bits)) != 0 {
		rest -= 1 << (uint(level) * uint(bits))
		if level++; level > levelsMax {
			run.hole(lblk, lblkMax, limit)
			return nil
		}
	}
	at := Block(le.Uint32(in.IBlock[4*(directBlocks+level-1):]))
	for ; ; level-- {
		shift := uint(level-1) * uint(bits)
		if at == 0 {
			left := uint64(1)<<(uint(level)*uint(bits)) - rest&(1<<(uint(level)*uint(bits))-1)
			run.hole(lblk, uint64(lblk)+left, limit)
			return nil
		}
		if !v.checkBlock(at, 1) {
			return Corrupt("block map points outside", in.Where, in.Offset+iBlock, in.Ino)
		}
		buf, err := src.Block(at)
		if err != nil {
			return err
		}
		i := int(rest >> shift & (1<<bits - 1))
		if level == 1 {
			return v.pointers(in, buf.Data, i, limit, run, at, 0)
		}
		at = Block(le.Uint32(buf.Data[4*i:]))
	}
}

// checkDirect verifies the direct blocks of in; those of the trees are when they are followed.
func (v *Volume) checkDirect(in *Inode) error {
	for i := range directBlocks {
		b := Block(le.Uint32(in.IBlock[4*i:]))
		if b != 0 && !v.checkBlock(b, 1) {
			return Corrupt("block map points outside", in.Where, in.Offset+iBlock+4*i, in.Ino)
		}
	}
	return nil
}

// pointers makes a run of the equal or consecutive pointers from number i on.
func (v *Volume) pointers(in *Inode, p []byte, i int, limit uint32, run *Run, where Block,
	base int) error {
	first := Block(le.Uint32(p[4*i:]))
	n := uint32(1)
	for j := i + 1; 4*j < len(p) && n < limit; j++ {
		next := Block(le.Uint32(p[4*j:]))
		if first == 0 && next != 0 || first != 0 && next != first+Block(n) {
			break
		}
		n++
	}
	if first == 0 {
		*run = Run{State: RunHole, Len: n}
		return nil
	}
	if !v.checkBlock(first, n) {
		return Corrupt("block map points outside", where, base+4*i, in.Ino)
	}
	*run = Run{RunMapped, first, n}
	return nil
}
