package ext4

import "golang.org/x/sys/unix"

// SeekCursor is how far a search for data or a hole has come over a stall. The zero value begins.
type SeekCursor struct {
	begun bool
	lblk  Lblk
}

// seekRuns is how many runs one step of a search looks at: 4 times the blocks of a deepest tree
// lie within BlocksPerStep.
const seekRuns = 4

// SeekData returns the offset of the first data at or behind off. Unwritten extents count as holes,
// as the kernel's do when nothing of them is in its page cache. ENXIO: there is none.
func (v *Volume) SeekData(src Source, in *Inode, off int64, cur *SeekCursor) (int64, error) {
	return v.seek(src, in, off, cur, true)
}

// SeekHole returns the offset of the first hole at or behind off; the end of the file is one.
// ENXIO: off is behind it.
func (v *Volume) SeekHole(src Source, in *Inode, off int64, cur *SeekCursor) (int64, error) {
	return v.seek(src, in, off, cur, false)
}

func (v *Volume) seek(src Source, in *Inode, off int64, cur *SeekCursor, data bool) (int64,
	error) {
	size := int64(in.Size)
	if off < 0 || off >= size {
		return 0, unix.ENXIO
	}
	if in.Flags&FlagInlineData != 0 { // all of it is data
		if data {
			return off, nil
		}
		return size, nil
	}
	if !cur.begun {
		*cur = SeekCursor{true, Lblk(off >> v.BlockBits)}
	}
	for range seekRuns {
		at := int64(cur.lblk) << v.BlockBits
		if at >= size {
			if data {
				return 0, unix.ENXIO
			}
			return size, nil
		}
		var run Run
		if err := v.Map(src, in, cur.lblk, lblkMax, &run); err != nil {
			return 0, err
		}
		if (run.State == RunMapped) == data {
			return max(at, off), nil
		}
		next := uint64(cur.lblk) + uint64(run.Len)
		if next >= lblkMax {
			next = lblkMax
			if int64(next)<<v.BlockBits < size || data {
				return min(size, max(off, int64(next)<<v.BlockBits)), seekEnd(data)
			}
		}
		cur.lblk = Lblk(next)
	}
	return 0, ErrContinue
}

// seekEnd is the error of a search that has come to the last block a file can have.
func seekEnd(data bool) error {
	if data {
		return unix.ENXIO
	}
	return nil
}
