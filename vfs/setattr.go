package vfs

import (
	"golang.org/x/sys/unix"

	"asyncfsd/vfs/ext4"
)

// The steps of a change of size, see prepareSetattr.
const (
	truncBegin uint8 = iota
	truncZero
	truncSize
	truncFree
)

// prepareSetattr changes what chmod, chown, utimes and truncate change. A smaller size goes in
// steps:
//
//	zero the rest of the block in which the file ends from now on
//	set the size, and put the inode on the orphan list: from here on the next mount would finish
//	free the blocks behind it, piece by piece; take it off the list
func prepareSetattr(fs *FS, tx *Tx, op *Op) error {
	in := &fs.inode
	if err := fs.readInode(tx, op.Node, in); err != nil {
		return err
	}
	switch op.phase {
	case truncFree:
		return fs.freeTail(tx, op, in)
	case inlineMoved:
		return fs.publishInline(tx, op, in)
	}
	if in.Flags&ext4.FlagImmutable != 0 || in.Flags&ext4.FlagAppend != 0 && !appendable(op) {
		return unix.EPERM
	}
	if op.Valid&SetSize != 0 {
		if done, err := fs.sizeSteps(tx, op, in); err != nil || !done {
			return err
		}
	}
	if err := fs.setAttributes(tx, op, in); err != nil {
		return err
	}
	shorter := op.Valid&SetSize != 0 && op.Set.Size < in.Size
	if op.Valid&SetSize != 0 {
		if in.Size != op.Set.Size {
			in.Mtime = fs.vol.ClampTime(op.now)
		}
		in.Size = op.Set.Size
	}
	fs.changedAt(in, op.now)
	if shorter && in.Flags&ext4.FlagInlineData == 0 {
		if in.Links > 0 {
			if err := fs.vol.AddOrphan(tx, fs.w.orphans, in); err != nil {
				return err
			}
		}
		op.to, op.phase = lblkLast, truncFree
		if err := fs.write(tx, in); err != nil {
			return err
		}
		return ext4.ErrContinue
	}
	if err := fs.write(tx, in); err != nil {
		return err
	}
	fs.attr(in, &op.Attr)
	return nil
}

// appendable says whether an attribute may be set of a file that can only be appended to: its times
// may be set to now. NB: mtime and ctime alone are what the kernel has noted of cached writes.
func appendable(op *Op) bool {
	switch v := op.Valid &^ (SetAtimeNow | SetMtimeNow); {
	case v&^(SetAtime|SetMtime|SetCtime) != 0:
		return false
	case v == SetMtime|SetCtime:
		return true
	default:
		return (v&SetAtime == 0 || op.Valid&SetAtimeNow != 0) &&
			(v&SetMtime == 0 || op.Valid&SetMtimeNow != 0)
	}
}

// sizeSteps does what comes before the transaction that changes the size. done says that this is
// next.
func (fs *FS) sizeSteps(tx *Tx, op *Op, in *ext4.Inode) (done bool, err error) {
	size := op.Set.Size
	if err := fs.writable(tx, op); err != nil {
		return false, err
	}
	if size > fs.vol.SizeMax(in) {
		return false, unix.EFBIG
	}
	first := ext4.Lblk(min(size, in.Size) >> fs.vol.BlockBits)
	if err := tx.lockRange(op.Node, first, lblkLast); err != nil {
		return false, err
	}
	if in.Flags&ext4.FlagInlineData != 0 {
		return fs.truncateInline(tx, op, in)
	}
	if size >= in.Size {
		return true, fs.growable(size)
	}
	block := uint64(fs.vol.BlockSize)
	op.zero[0] = byteRange{size, min((size+block-1)&^(block-1), (in.Size+block-1)&^(block-1))}
	op.zero[1] = byteRange{}
	return fs.zeroEdges(tx, op, in)
}

// setAttributes changes owner, permissions and times.
func (fs *FS) setAttributes(tx *Tx, op *Op, in *ext4.Inode) error {
	set := &op.Set
	chown := op.Valid&(SetUID|SetGID) != 0
	if op.Valid&SetUID != 0 {
		in.UID = set.UID
	}
	if op.Valid&SetGID != 0 {
		in.GID = set.GID
	}
	if chown || op.Valid&SetSize != 0 {
		kill := chown && op.Valid&SetMode == 0 || op.Valid&SetKillSuidgid != 0
		if _, err := fs.killPrivileges(tx, in, kill); err != nil {
			return err
		}
	}
	if op.Valid&SetMode != 0 {
		in.Mode = uint16(uint32(in.Mode)&unix.S_IFMT | set.Mode&07777)
		if !fs.config.NoACL {
			if err := fs.vol.ChmodACL(tx, in, in.Mode); err != nil {
				return err
			}
		}
	}
	switch {
	case op.Valid&SetAtimeNow != 0:
		in.Atime = fs.vol.ClampTime(op.now)
	case op.Valid&SetAtime != 0:
		in.Atime = fs.vol.ClampTime(set.Atime)
	}
	switch {
	case op.Valid&SetMtimeNow != 0:
		in.Mtime = fs.vol.ClampTime(op.now)
	case op.Valid&SetMtime != 0:
		in.Mtime = fs.vol.ClampTime(set.Mtime)
	}
	return nil
}

// freeTail frees a piece of what lies behind the end of a file, and at last takes it off the list
// of orphans.
func (fs *FS) freeTail(tx *Tx, op *Op, in *ext4.Inode) error {
	bits := fs.vol.BlockBits
	from := ext4.Lblk((in.Size + 1<<bits - 1) >> bits)
	next, err := op.to, error(nil)
	if fs.vol.HasMapping(in) { // an orphan of the last mount may have its data inside
		next, err = fs.vol.RemoveRuns(tx, in, from, op.to)
	}
	if err != nil && err != ext4.ErrContinue {
		return err
	}
	if err == nil && in.Links > 0 {
		if err := fs.vol.RemoveOrphan(tx, fs.w.orphans, in); err != nil {
			return err
		}
	}
	if werr := fs.write(tx, in); werr != nil {
		return werr
	}
	op.to = next
	fs.attr(in, &op.Attr)
	return err
}
