package ext4

import "golang.org/x/sys/unix"

// EmptyMapping is a stand-in.
func EmptyMapping(in *Inode) {
	in.IBlock = [60]byte{}
	if in.Flags&FlagExtents != 0 {
		le.PutUint16(in.IBlock[ehMagic:], extentMagic)
		le.PutUint16(in.IBlock[ehMax:], 4)
	}
}

// InsertRun is a stand-in.
func (v *Volume) InsertRun(ed Editor, in *Inode, lblk Lblk, phys Block, n uint32,
	unwritten bool) error {
	if in.Flags&FlagExtents != 0 {
		c := int(le16(in.IBlock[:], ehEntries))
		if c == 4 {
			return unix.ENOSPC
		}
		e := entry(in.IBlock[:], c)
		le.PutUint32(e[eeBlock:], uint32(lblk))
		le.PutUint16(e[eeLen:], uint16(n))
		le.PutUint16(e[eeStartHi:], uint16(phys>>32))
		le.PutUint32(e[eeStartLo:], uint32(phys))
		le.PutUint16(in.IBlock[ehEntries:], uint16(c+1))
		return nil
	}
	for i := range n {
		le.PutUint32(in.IBlock[4*(uint32(lblk)+i):], uint32(phys)+i)
	}
	return nil
}

// RemoveRuns is a stand-in.
func (v *Volume) RemoveRuns(ed Editor, in *Inode, from, to Lblk) (Lblk, error) {
	for l := Lblk(0); l < to; {
		var run Run
		if err := v.Map(ed, in, l, uint32(to-l), &run); err != nil {
			return l, err
		}
		if run.State == RunHole {
			break
		}
		meta := in.IsDir() || in.Flags&FlagEAInode != 0
		if err := v.FreeBlocks(ed, run.Phys, run.Len, meta); err != nil {
			return l, err
		}
		c := (run.Len + 1<<v.ClusterBits - 1) >> v.ClusterBits << v.ClusterBits
		in.Sectors -= uint64(c) << v.BlockBits >> 9
		l += Lblk(run.Len)
	}
	EmptyMapping(in)
	return to, nil
}
