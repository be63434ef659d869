package vfs

import (
	"golang.org/x/sys/unix"

	"asyncfsd/vfs/ext4"
)

// prepareLseek finds the next data or hole from op.Off on.
func prepareLseek(fs *FS, tx *Tx, op *Op) error {
	if err := fs.readable(tx, op.Node); err != nil {
		return err
	}
	var off int64
	var err error
	switch op.Arg {
	case unix.SEEK_DATA:
		off, err = fs.vol.SeekData(tx, &fs.inode, int64(op.Off), &op.seek)
	case unix.SEEK_HOLE:
		off, err = fs.vol.SeekHole(tx, &fs.inode, int64(op.Off), &op.seek)
	default:
		return unix.EINVAL
	}
	op.Value = uint64(off)
	return err
}

// prepareBmap tells where a block of a file lies on the device. The unit of both numbers is
// op.Arg bytes, which must be the filesystem's block size.
func prepareBmap(fs *FS, tx *Tx, op *Op) error {
	if err := fs.readable(tx, op.Node); err != nil {
		return err
	}
	if op.Arg != fs.vol.BlockSize || fs.inode.Flags&ext4.FlagInlineData != 0 {
		return unix.EINVAL
	}
	if op.Off > 0xffffffff {
		return unix.EFBIG
	}
	if err := fs.vol.Map(tx, &fs.inode, ext4.Lblk(op.Off), 1, &fs.run); err != nil {
		return err
	}
	op.Value = 0
	if fs.run.State == ext4.RunMapped {
		op.Value = uint64(fs.run.Phys)
	}
	return nil
}
