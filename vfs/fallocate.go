package vfs

import (
	"golang.org/x/sys/unix"

	"asyncfsd/vfs/ext4"
)

// Steps of fallocate behind those of zeroEdges.
const (
	fallocPunch = truncFree + iota
	fallocFill
)

// prepareFallocate allocates, punches or zeroes a range, piece by piece. What is allocated is
// unwritten and reads as zeros; a crash in between leaves a part of the range done.
func prepareFallocate(fs *FS, tx *Tx, op *Op) error {
	const modes = unix.FALLOC_FL_KEEP_SIZE | unix.FALLOC_FL_PUNCH_HOLE | unix.FALLOC_FL_ZERO_RANGE
	in := &fs.inode
	if op.Arg&^modes != 0 {
		return unix.EOPNOTSUPP
	}
	if err := fs.writable(tx, op); err != nil {
		return err
	}
	punch, zero := op.Arg&unix.FALLOC_FL_PUNCH_HOLE != 0, op.Arg&unix.FALLOC_FL_ZERO_RANGE != 0
	end := op.Off + op.Len
	switch {
	case op.Len == 0:
		return unix.EINVAL
	case end < op.Off || end > fs.vol.SizeMax(in) && !punch:
		return unix.EFBIG
	case !punch && in.Flags&(ext4.FlagExtents|ext4.FlagInlineData) == 0:
		return unix.EOPNOTSUPP
	case op.phase == inlineMoved:
		return fs.publishInline(tx, op, in)
	}
	inline := in.Flags&ext4.FlagInlineData != 0
	first, last := ext4.Lblk(op.Off>>fs.vol.BlockBits), ext4.Lblk((end-1)>>fs.vol.BlockBits)
	if inline {
		first = 0
	}
	if err := tx.lockRange(op.Node, first, last); err != nil {
		return err
	}
	if inline {
		return fs.moveInline(tx, op, in)
	}
	if err := fs.growable(end); err != nil && !punch && op.phase == truncBegin {
		return err
	}
	if punch || zero {
		if done, err := fs.punch(tx, op, in, end, zero); err != nil || !done {
			return err
		}
	}
	if punch {
		fs.attr(in, &op.Attr)
		return nil
	}
	return fs.fill(tx, op, in, end)
}

// killFor takes from a file what an allocation ends.
// NB: the kernel does not say that setuid and setgid are to go, as it does with a WRITE. They stay
// where the caller has CAP_FSETID; that root has it, and nobody else, is as close as one can get.
func (fs *FS) killFor(tx *Tx, op *Op, in *ext4.Inode) (bool, error) {
	if in.Mode&(unix.S_ISUID|unix.S_ISGID) == 0 || op.Cred.IsRoot() {
		return fs.killPrivileges(tx, in, false)
	}
	// Setgid without execution for the group goes when somebody else's group it is.
	kept := in.Mode&unix.S_ISGID != 0 && in.Mode&unix.S_IXGRP == 0 && op.Cred.InGroup(in.GID)
	killed, err := fs.killPrivileges(tx, in, true)
	if in.Mode&unix.S_ISGID != 0 && !kept {
		in.Mode, killed = in.Mode&^unix.S_ISGID, true
	}
	return killed, err
}

// punch frees the whole blocks of the range and zeroes the parts of blocks at its ends. done says
// that this is over.
func (fs *FS) punch(tx *Tx, op *Op, in *ext4.Inode, end uint64, zero bool) (done bool, err error) {
	size, bits := uint64(fs.vol.BlockSize), fs.vol.BlockBits
	low, high := (op.Off+size-1)&^(size-1), end&^(size-1)
	if op.phase < truncSize {
		op.zero[0], op.zero[1] = byteRange{op.Off, min(low, end)}, byteRange{max(high, op.Off), end}
		if low > high { // within one block
			op.zero[1] = byteRange{}
		}
		if done, err := fs.zeroEdges(tx, op, in); err != nil || !done {
			return false, err
		}
	}
	if op.phase < fallocPunch {
		op.to, op.phase = ext4.Lblk(min(high>>bits, uint64(lblkLast))), fallocPunch
	}
	if op.phase > fallocPunch {
		return true, nil
	}
	next, err := op.to, error(nil)
	if from := ext4.Lblk(low >> bits); from < op.to {
		next, err = fs.vol.RemoveRuns(tx, in, from, op.to)
	}
	if err != nil && err != ext4.ErrContinue {
		return false, err
	}
	fs.modified(in, op.now)
	killed, werr := fs.killFor(tx, op, in)
	if werr != nil {
		return false, werr
	}
	if werr := fs.write(tx, in); werr != nil {
		return false, werr
	}
	op.to, op.Killed = next, op.Killed || killed
	if err == nil {
		op.phase = fallocFill
		if zero {
			return false, ext4.ErrContinue
		}
	}
	return true, err
}

// fill allocates unwritten blocks for the holes of the range, and sets the size.
func (fs *FS) fill(tx *Tx, op *Op, in *ext4.Inode, end uint64) error {
	bits := fs.vol.BlockBits
	pos, last := ext4.Lblk(op.pos>>bits), ext4.Lblk((end-1)>>bits)
	op.phase = fallocFill
	for pos <= last {
		if err := fs.vol.Map(tx, in, pos, uint32(last-pos)+1, &fs.run); err != nil {
			return err
		}
		if fs.run.State == ext4.RunHole {
			break
		}
		pos += ext4.Lblk(fs.run.Len)
	}
	if pos <= last {
		n, err := fs.allocUnwritten(tx, op, in, pos, min(fs.run.Len, 32767))
		if err != nil {
			return err
		}
		pos += ext4.Lblk(n)
	}
	done := min(uint64(pos)<<bits, end)
	if op.Arg&unix.FALLOC_FL_KEEP_SIZE == 0 && done > in.Size {
		in.Size = done
		in.Mtime = fs.vol.ClampTime(op.now)
	}
	fs.changedAt(in, op.now)
	killed, err := fs.killFor(tx, op, in)
	if err != nil {
		return err
	}
	if err := fs.write(tx, in); err != nil {
		return err
	}
	fs.attr(in, &op.Attr)
	op.pos, op.Killed = uint64(pos)<<bits, op.Killed || killed
	if pos <= last {
		return ext4.ErrContinue
	}
	return nil
}

func (fs *FS) allocUnwritten(tx *Tx, op *Op, in *ext4.Inode, lblk ext4.Lblk, n uint32) (uint32,
	error) {
	v := fs.vol
	b, n, owned, err := v.HolePlace(tx, in, lblk, n)
	if err != nil {
		return 0, err
	}
	if !owned {
		goal, err := v.Goal(tx, in, lblk)
		if err != nil {
			return 0, err
		}
		within := v.InCluster(lblk)
		want, err := fs.allowed(tx, op, in, within+n)
		if err != nil {
			return 0, err
		}
		first, got, err := v.AllocBlocks(tx, ext4.Alloc{Goal: goal, Want: want})
		if err != nil {
			return 0, err
		}
		in.Sectors += uint64(got) << (v.BlockBits - 9)
		b, n = first+ext4.Block(within), min(n, got-within)
	}
	return n, v.InsertRun(tx, in, lblk, b, n, true)
}
