package vfs

import (
	"golang.org/x/sys/unix"

	"asyncfsd/vfs/ext4"
)

// attribute reads the inode whose attribute op.Name is going to be changed.
func (fs *FS) attribute(tx *Tx, op *Op) (index uint8, name []byte, err error) {
	index, name, ok := ext4.XattrIndex(op.Name())
	isACL := ok && (index == ext4.XattrIndexACLAccess || index == ext4.XattrIndexACLDefault)
	if !ok || isACL && fs.config.NoACL {
		return 0, nil, unix.EOPNOTSUPP
	}
	if err := fs.readInode(tx, op.Node, &fs.inode); err != nil {
		return 0, nil, err
	}
	if fs.inode.Flags&(ext4.FlagImmutable|ext4.FlagAppend) != 0 {
		return 0, nil, unix.EPERM
	}
	return index, name, nil
}

// prepareSetxattr sets one attribute. An access ACL also changes the mode.
func prepareSetxattr(fs *FS, tx *Tx, op *Op) error {
	index, name, err := fs.attribute(tx, op)
	if err != nil {
		return err
	}
	in := &fs.inode
	var value []byte
	if op.Size > 0 {
		value = fs.arena.Payload(op.Buf)[:op.Size]
	}
	if index == ext4.XattrIndexACLAccess || index == ext4.XattrIndexACLDefault {
		err = fs.setACL(tx, op, in, index, value)
	} else {
		err = fs.vol.SetXattr(tx, in, index, name, value, int(op.Arg&xattrFlags))
	}
	if err != nil {
		return err
	}
	fs.changedAt(in, op.now)
	return fs.write(tx, in)
}

const (
	xattrFlags = unix.XATTR_CREATE | unix.XATTR_REPLACE
	// AclKillSgid in Op.Arg: the setter is not in the file's group, so that setgid goes.
	AclKillSgid = 1 << 16
)

func (fs *FS) setACL(tx *Tx, op *Op, in *ext4.Inode, index uint8, value []byte) error {
	if index == ext4.XattrIndexACLDefault && !in.IsDir() {
		if len(value) == 0 {
			return nil
		}
		return unix.EACCES
	}
	n, mode, equal, err := ext4.EncodeACL(fs.scratch[0][:], value)
	if err != nil {
		return err
	}
	if index == ext4.XattrIndexACLAccess && n > 0 {
		in.Mode = in.Mode&^0777 | mode&0777
		if op.Arg&AclKillSgid != 0 {
			in.Mode &^= unix.S_ISGID
		}
	}
	if n == 0 || index == ext4.XattrIndexACLAccess && equal {
		err = fs.vol.RemoveXattr(tx, in, index, nil)
		if err == unix.ENODATA {
			err = nil
		}
		return err
	}
	return fs.vol.SetXattr(tx, in, index, nil, fs.scratch[0][:n], 0)
}

func prepareRemovexattr(fs *FS, tx *Tx, op *Op) error {
	index, name, err := fs.attribute(tx, op)
	if err != nil {
		return err
	}
	in := &fs.inode
	err = fs.vol.RemoveXattr(tx, in, index, name)
	if err == unix.ENODATA && (index == ext4.XattrIndexACLAccess ||
		index == ext4.XattrIndexACLDefault) {
		return nil
	}
	if err != nil {
		return err
	}
	fs.changedAt(in, op.now)
	return fs.write(tx, in)
}

// flagsSettable are the inode flags that FS_IOC_SETFLAGS may change (EXT4_FL_USER_MODIFIABLE, less
// what is not supported: compression, journalled data, encryption, inline data, extents). DAX is
// kept for the kernel.
const flagsSettable = 0x1 | 0x2 | ext4.FlagSync | ext4.FlagImmutable | ext4.FlagAppend |
	ext4.FlagNodump | ext4.FlagNoatime | 0x8000 | ext4.FlagDirsync | ext4.FlagTopdir |
	ext4.FlagProjinherit | ext4.FlagDax

// flagsModifiable is EXT4_FL_USER_MODIFIABLE.
const flagsModifiable = 0x604bc0ff

// flagsShown are flags that programs read and hand back, which may not change (0x725bdfff is
// what FS_IOC_GETFLAGS shows).
const flagsShown = 0x725bdfff

func prepareSetflags(fs *FS, tx *Tx, op *Op) error {
	in := &fs.inode
	if err := fs.readInode(tx, op.Node, in); err != nil {
		return err
	}
	wanted, allowed := op.Arg&flagsShown, uint32(flagsSettable)
	if in.Type() == unix.S_IFREG {
		allowed &^= flagsNotRegular
	} else if !in.IsDir() {
		allowed = flagsOther
	}
	if wanted&flagsSettable&^allowed != 0 ||
		(wanted^in.Flags)&flagsShown&^uint32(flagsSettable|flagsKept) != 0 {
		return unix.EOPNOTSUPP
	}
	if (wanted^in.Flags)&(ext4.FlagImmutable|ext4.FlagAppend) != 0 && !op.Cred.IsRoot() {
		return unix.EPERM
	}
	// What is immutable and stays so cannot be changed in any other way. NB: also not to what it
	// is, if that is none of the flags that can be changed, as with a directory that has an index.
	if in.Flags&wanted&ext4.FlagImmutable != 0 && in.Flags != op.Arg&flagsModifiable {
		return unix.EPERM
	}
	in.Flags = in.Flags&^uint32(flagsSettable) | wanted&flagsSettable
	fs.changedAt(in, op.now)
	return fs.write(tx, in)
}

// flagsKept are shown, and silently kept as they are whatever is asked for.
const flagsKept = ext4.FlagIndex | ext4.FlagHugeFile | ext4.FlagExtents | ext4.FlagVerity |
	ext4.FlagEAInode | ext4.FlagInlineData | ext4.FlagEncrypt

// prepareSetproject is FS_IOC_FSSETXATTR: flags and project.
func prepareSetproject(fs *FS, tx *Tx, op *Op) error {
	in := &fs.inode
	if err := fs.readInode(tx, op.Node, in); err != nil {
		return err
	}
	const known = ext4.FlagSync | ext4.FlagImmutable | ext4.FlagAppend | ext4.FlagNodump |
		ext4.FlagNoatime | ext4.FlagProjinherit | ext4.FlagDax
	if op.Arg&^uint32(known) != 0 {
		return unix.EOPNOTSUPP
	}
	if op.Valid&SetProject != 0 && op.Set.ProjID != in.ProjID {
		if !fs.vol.HasROCompat(ext4.ROCompatProject) {
			return unix.EOPNOTSUPP
		}
		if err := fs.vol.Widen(tx, in, true); err != nil {
			return err
		}
		if !in.HoldsProject() {
			return unix.EOVERFLOW
		}
		in.ProjID = op.Set.ProjID
	}
	if (op.Arg^in.Flags)&(ext4.FlagImmutable|ext4.FlagAppend) != 0 && !op.Cred.IsRoot() {
		return unix.EPERM
	}
	in.Flags = in.Flags&^uint32(known) | op.Arg
	fs.changedAt(in, op.now)
	return fs.write(tx, in)
}
