package vfs

import (
	"golang.org/x/sys/unix"

	"asyncfsd/vfs/ext4"
)

func prepareMknod(fs *FS, tx *Tx, op *Op) error {
	if op.Mode&unix.S_IFMT == 0 {
		op.Mode |= unix.S_IFREG
	}
	return fs.create(tx, op, op.Mode)
}

func prepareMkdir(fs *FS, tx *Tx, op *Op) error {
	return fs.create(tx, op, op.Mode&^uint32(unix.S_IFMT)|unix.S_IFDIR)
}

func prepareSymlink(fs *FS, tx *Tx, op *Op) error {
	if op.Size == 0 || op.Size >= fs.vol.BlockSize || op.Size >= unix.PathMax {
		return unix.ENAMETOOLONG
	}
	return fs.create(tx, op, unix.S_IFLNK|0777)
}

// create makes an inode and its name in one transaction.
func (fs *FS) create(tx *Tx, op *Op, mode uint32) error {
	dir, child := &fs.inode, &fs.child
	if err := fs.readDirectory(tx, op.Node, dir); err != nil {
		return err
	}
	err := searching(fs.vol.Lookup(tx, dir, op.Name(), &op.lookup, &fs.dirent))
	if err == nil {
		return unix.EEXIST
	}
	if err != unix.ENOENT {
		return err
	}
	if mode&unix.S_IFMT == unix.S_IFDIR {
		if err := fs.moreDirLinks(dir); err != nil {
			return err
		}
	}
	if err := fs.newInode(tx, op, dir, child, mode); err != nil {
		return err
	}
	err = fs.vol.AddEntry(tx, dir, op.Name(), child.Ino, ext4.FileType(child.Mode), &op.add)
	if err != nil {
		return searching(err)
	}
	fs.modified(dir, op.now)
	if err := fs.write(tx, dir); err != nil {
		return err
	}
	fs.attr(child, &op.Attr)
	op.sync = dir.Flags&(ext4.FlagDirsync|ext4.FlagSync) != 0
	return fs.write(tx, child)
}

// prepareTmpfile makes a file without a name: an orphan from the beginning.
func prepareTmpfile(fs *FS, tx *Tx, op *Op) error {
	dir, child := &fs.inode, &fs.child
	if err := fs.readDirectory(tx, op.Node, dir); err != nil {
		return err
	}
	if err := fs.newInode(tx, op, dir, child, op.Mode&^unix.S_IFMT|unix.S_IFREG); err != nil {
		return err
	}
	child.Links = 0
	if err := fs.vol.AddOrphan(tx, fs.w.orphans, child); err != nil {
		return err
	}
	fs.attr(child, &op.Attr)
	return fs.write(tx, child)
}

// Flags that a new inode takes from its directory (EXT4_FL_INHERITED), and which of them files
// that are no directories, or neither regular, do not have.
const (
	flagsInherited = 0x1 | 0x2 | ext4.FlagSync | ext4.FlagNodump | ext4.FlagNoatime | 0x4 | 0x400 |
		ext4.FlagJournalData | 0x8000 | ext4.FlagDirsync | ext4.FlagProjinherit |
		ext4.FlagCasefold | ext4.FlagDax
	flagsNotRegular = ext4.FlagDirsync | ext4.FlagTopdir | ext4.FlagCasefold |
		ext4.FlagProjinherit
	flagsOther = ext4.FlagNodump | ext4.FlagNoatime
)

// newInode allocates an inode and fills it in, contents included.
func (fs *FS) newInode(tx *Tx, op *Op, dir, in *ext4.Inode, mode uint32) error {
	kind := mode & unix.S_IFMT
	ino, err := fs.vol.AllocInode(tx, dir, kind == unix.S_IFDIR)
	if err != nil {
		return err
	}
	t := fs.vol.ClampTime(op.now)
	*in = ext4.Inode{Ino: ino, Mode: uint16(mode), UID: op.Cred.UID, GID: op.Cred.GID, Links: 1,
		Generation: tx.Random(), Atime: t, Mtime: t, Ctime: t, Crtime: t,
		Flags: dir.Flags & flagsInherited}
	switch kind {
	case unix.S_IFDIR:
	case unix.S_IFREG:
		in.Flags &^= flagsNotRegular
	default:
		in.Flags &= flagsOther
	}
	if fs.w.c.Grpid || dir.Mode&unix.S_ISGID != 0 {
		if in.GID = dir.GID; kind == unix.S_IFDIR && dir.Mode&unix.S_ISGID != 0 {
			in.Mode |= unix.S_ISGID
		}
	}
	if dir.Flags&ext4.FlagProjinherit != 0 {
		in.ProjID = dir.ProjID
	}
	if err := fs.vol.InitInode(tx, in); err != nil {
		return err
	}
	if err := fs.contents(tx, op, dir, in); err != nil {
		return err
	}
	if kind == unix.S_IFLNK {
		return nil
	}
	if fs.config.NoACL {
		in.Mode &^= uint16(op.Umask)
		return nil
	}
	return fs.vol.InheritACL(tx, dir, in, uint16(op.Umask))
}

// contents gives a new inode what its type needs.
func (fs *FS) contents(tx *Tx, op *Op, dir, in *ext4.Inode) error {
	extents := fs.vol.HasIncompat(ext4.IncompatExtents)
	switch in.Type() {
	case unix.S_IFREG, unix.S_IFDIR:
		if extents {
			in.Flags |= ext4.FlagExtents
		}
		ext4.EmptyMapping(in)
		if in.IsDir() {
			in.Links = 2
			return fs.vol.InitDir(tx, in, dir.Ino)
		}
	case unix.S_IFCHR, unix.S_IFBLK:
		in.SetRdev(op.Rdev)
	case unix.S_IFLNK:
		return fs.linkTarget(tx, op, in, extents)
	}
	return nil
}

// linkTarget stores the target of a new symbolic link: in the inode, or in a block if it is long.
func (fs *FS) linkTarget(tx *Tx, op *Op, in *ext4.Inode, extents bool) error {
	target := fs.arena.Payload(op.Buf)[:op.Size]
	in.Size = uint64(op.Size)
	if len(target) < len(in.IBlock) {
		copy(in.IBlock[:], target)
		return nil
	}
	if extents {
		in.Flags |= ext4.FlagExtents
	}
	ext4.EmptyMapping(in)
	goal, err := fs.vol.Goal(tx, in, 0)
	if err != nil {
		return err
	}
	b, _, err := fs.vol.AllocBlocks(tx, ext4.Alloc{Goal: goal, Want: 1})
	if err != nil {
		return err
	}
	buf, err := tx.Fresh(b)
	if err != nil {
		return err
	}
	copy(buf.Data, target)
	in.Sectors += uint64(fs.vol.BlockSize) << fs.vol.ClusterBits >> 9
	return fs.vol.InsertRun(tx, in, 0, b, 1, false)
}

// prepareLink gives an inode another name.
func prepareLink(fs *FS, tx *Tx, op *Op) error {
	dir, child := &fs.inode, &fs.child
	if err := fs.readDirectory(tx, op.Node2, dir); err != nil {
		return err
	}
	if err := fs.readInode(tx, op.Node, child); err != nil {
		return err
	}
	switch {
	case child.IsDir() || child.Flags&(ext4.FlagImmutable|ext4.FlagAppend) != 0:
		return unix.EPERM
	case child.Links >= linkMax:
		return unix.EMLINK
	case dir.Flags&ext4.FlagProjinherit != 0 && dir.ProjID != child.ProjID:
		return unix.EXDEV
	}
	err := searching(fs.vol.Lookup(tx, dir, op.Name(), &op.lookup, &fs.dirent))
	if err == nil {
		return unix.EEXIST
	}
	if err != unix.ENOENT {
		return err
	}
	err = fs.vol.AddEntry(tx, dir, op.Name(), child.Ino, ext4.FileType(child.Mode), &op.add)
	if err != nil {
		return searching(err)
	}
	if child.Links == 0 {
		if fs.w.uncut[child.Ino] {
			return unix.EIO // the list of orphans has to remember what lies behind its end
		}
		if err := fs.vol.RemoveOrphan(tx, fs.w.orphans, child); err != nil {
			return err
		}
	}
	child.Links++
	fs.changedAt(child, op.now)
	fs.modified(dir, op.now)
	fs.attr(child, &op.Attr)
	if err := fs.write(tx, dir); err != nil {
		return err
	}
	return fs.write(tx, child)
}
