package vfs

import (
	"golang.org/x/sys/unix"

	"asyncfsd/vfs/ext4"
)

func prepareGetattr(fs *FS, tx *Tx, op *Op) error {
	if err := fs.readInode(tx, op.Node, &fs.inode); err != nil {
		return err
	}
	fs.attr(&fs.inode, &op.Attr)
	return nil
}

// attr fills in what stat tells of an inode, overrides applied.
func (fs *FS) attr(in *ext4.Inode, out *Attr) {
	*out = Attr{Ino: in.Ino, Mode: uint32(in.Mode), Nlink: in.Links, UID: in.UID, GID: in.GID,
		Size: in.Size, Sectors: in.Sectors, Blksize: fs.vol.BlockSize, ProjID: in.ProjID,
		Generation: in.Generation, Flags: in.Flags,
		Atime: in.Atime, Mtime: in.Mtime, Ctime: in.Ctime, Crtime: in.Crtime}
	switch in.Type() {
	case unix.S_IFCHR, unix.S_IFBLK:
		out.Rdev = in.Rdev()
	case unix.S_IFLNK:
		out.Size = fs.vol.SymlinkSize(in)
	case unix.S_IFREG:
		if in.Flags&ext4.FlagInlineData != 0 { // as the kernel: data counts though it has no blocks
			out.Sectors += (in.Size + 511) >> 9
		}
	}
	o := &fs.config.Override
	if o.SetUID {
		out.UID = o.UID
	}
	if o.SetGID {
		out.GID = o.GID
	}
	out.Mode &^= o.Umask
}

// prepareStatfs has what was deleted before be free, as far as that takes less than so many
// evictions: a file is freed when the kernel forgets it, after unlink has returned.
func prepareStatfs(fs *FS, tx *Tx, op *Op) error {
	const most = 32
	if fs.w != nil && fs.w.evicting > 0 && op.attempts < most {
		return tx.stallOn(&fs.w.evicted, wantEvicted)
	}
	return nil
}

// prepareAccess checks the mode bits for mounts without default_permissions; with it, the
// kernel never asks.
func prepareAccess(fs *FS, tx *Tx, op *Op) error {
	if err := prepareGetattr(fs, tx, op); err != nil {
		return err
	}
	a := &op.Attr
	if fs.w == nil && op.Arg&unix.W_OK != 0 && a.Mode&unix.S_IFMT != unix.S_IFCHR &&
		a.Mode&unix.S_IFMT != unix.S_IFBLK {
		return unix.EROFS
	}
	if op.Cred.IsRoot() || fs.config.Fakeroot {
		if op.Arg&unix.X_OK != 0 && a.Mode&unix.S_IFMT == unix.S_IFREG && a.Mode&0111 == 0 {
			return unix.EACCES
		}
		return nil
	}
	bits := a.Mode
	switch {
	case op.Cred.UID == a.UID:
		bits >>= 6
	case op.Cred.GID == a.GID:
		bits >>= 3
	}
	if op.Arg&^bits&7 != 0 {
		return unix.EACCES
	}
	return nil
}
