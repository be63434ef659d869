package ext4

import (
	"errors"

	"golang.org/x/sys/unix"
)

// ErrContinue says that a function has advanced its cursor as far as one step may go: the caller
// lets go of what it holds and calls again.
var ErrContinue = errors.New("ext4: to be continued")

// ErrEOF says that nothing follows: the end of a directory.
var ErrEOF = errors.New("ext4: end")

// Map finds what lies behind logical block lblk of an inode and the at most limit-1 blocks after
// it: run is their longest stretch in one state, at least 1 block. Inline data has no blocks:
// EINVAL. Errors of src, CorruptError.
func (v *Volume) Map(src Source, in *Inode, lblk Lblk, limit uint32, run *Run) error {
	switch {
	case in.Flags&FlagInlineData != 0:
		return unix.EINVAL
	case lblk >= lblkMax || limit == 0:
		run.hole(lblk, lblkMax+1, max(limit, 1))
		return nil
	case in.Flags&FlagExtents != 0:
		return v.mapExtents(src, in, lblk, limit, run)
	}
	return v.mapIndirect(src, in, lblk, limit, run)
}
