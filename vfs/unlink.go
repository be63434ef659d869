package vfs

import (
	"golang.org/x/sys/unix"

	"asyncfsd/vfs/ext4"
)

func prepareUnlink(fs *FS, tx *Tx, op *Op) error { return fs.remove(tx, op, false) }
func prepareRmdir(fs *FS, tx *Tx, op *Op) error  { return fs.remove(tx, op, true) }

// remove takes a name away, and with the last one the inode's right to exist.
func (fs *FS) remove(tx *Tx, op *Op, isDir bool) error {
	dir, child := &fs.inode, &fs.child
	op.victim = 0
	if err := fs.readDirectory(tx, op.Node, dir); err != nil {
		return err
	}
	if err := fs.find(tx, dir, op.Name(), &op.lookup, &fs.dirent, child); err != nil {
		return err
	}
	if err := fs.removable(tx, op, dir, child, isDir); err != nil {
		return err
	}
	if _, _, err := fs.vol.RemoveEntry(tx, dir, op.Name(), &op.lookup); err != nil {
		return searching(err)
	}
	if isDir {
		lessDirLinks(dir)
	}
	fs.modified(dir, op.now)
	if err := fs.write(tx, dir); err != nil {
		return err
	}
	op.sync = dir.Flags&(ext4.FlagDirsync|ext4.FlagSync) != 0
	return fs.drop(tx, op, child)
}

// removable says whether child may lose its name in dir.
func (fs *FS) removable(tx *Tx, op *Op, dir, child *ext4.Inode, isDir bool) error {
	switch {
	case isDir && !child.IsDir():
		return unix.ENOTDIR
	case !isDir && child.IsDir():
		return unix.EISDIR
	case child.Flags&(ext4.FlagImmutable|ext4.FlagAppend) != 0, dir.Flags&ext4.FlagAppend != 0:
		return unix.EPERM
	case isDir:
		return searching(fs.vol.DirEmpty(tx, child, &op.empty))
	}
	return nil
}

// prepareRename moves or exchanges names, in one transaction.
func prepareRename(fs *FS, tx *Tx, op *Op) error {
	const known = unix.RENAME_NOREPLACE | unix.RENAME_EXCHANGE | unix.RENAME_WHITEOUT
	op.victim = 0
	if op.Arg&^known != 0 || op.Arg&unix.RENAME_EXCHANGE != 0 && op.Arg != unix.RENAME_EXCHANGE {
		return unix.EINVAL
	}
	source, target := &fs.inode, &fs.inode
	if err := fs.readDirectory(tx, op.Node, source); err != nil {
		return err
	}
	if op.Node2 != op.Node {
		target = &fs.inode2
		if err := fs.readDirectory(tx, op.Node2, target); err != nil {
			return err
		}
	}
	if err := fs.find(tx, source, op.Name(), &op.lookup, &fs.dirent, &fs.child); err != nil {
		return err
	}
	err := fs.find(tx, target, op.Name2(), &op.lookup2, &fs.dirent2, &fs.child2)
	exists := err == nil
	switch {
	case err != nil && err != unix.ENOENT:
		return err
	case fs.child.Ino == op.Node2:
		return unix.EINVAL
	case !exists && op.Arg&unix.RENAME_EXCHANGE != 0:
		return unix.ENOENT
	case exists && op.Arg&unix.RENAME_NOREPLACE != 0:
		return unix.EEXIST
	case exists && fs.child.Ino == fs.child2.Ino:
		return nil
	}
	const fixed = ext4.FlagImmutable | ext4.FlagAppend
	if fs.child.Flags&fixed != 0 || source.Flags&ext4.FlagAppend != 0 {
		return unix.EPERM
	}
	if target.Flags&ext4.FlagProjinherit != 0 && target.ProjID != fs.child.ProjID {
		return unix.EXDEV
	}
	if op.Arg&unix.RENAME_EXCHANGE != 0 {
		return fs.exchange(tx, op, source, target)
	}
	if exists {
		err := fs.removable(tx, op, target, &fs.child2, fs.child.IsDir())
		if err != nil {
			return err
		}
	}
	return fs.move(tx, op, source, target, exists)
}

// move is a rename that is no exchange: child gets its new name, which may be that of child2.
func (fs *FS) move(tx *Tx, op *Op, source, target *ext4.Inode, exists bool) error {
	child := &fs.child
	kind := ext4.FileType(child.Mode)
	if err := fs.leave(tx, op, source); err != nil {
		return err
	}
	var err error
	if exists {
		err = fs.vol.SetEntry(tx, target, op.Name2(), child.Ino, kind, &op.lookup2)
	} else {
		err = fs.vol.AddEntry(tx, target, op.Name2(), child.Ino, kind, &op.add)
	}
	if err != nil {
		return searching(err)
	}
	if child.IsDir() {
		if exists {
			lessDirLinks(target)
		}
		if err := fs.reparent(tx, child, source, target); err != nil {
			return err
		}
	}
	if exists {
		if err := fs.drop(tx, op, &fs.child2); err != nil {
			return err
		}
	}
	fs.changedAt(child, op.now)
	if err := fs.write(tx, child); err != nil {
		return err
	}
	return fs.writeDirs(tx, op, source, target)
}

// leave takes the old name away, or makes a whiteout of it: a character device 0, 0.
func (fs *FS) leave(tx *Tx, op *Op, source *ext4.Inode) error {
	if op.Arg&unix.RENAME_WHITEOUT == 0 {
		_, _, err := fs.vol.RemoveEntry(tx, source, op.Name(), &op.lookup)
		return searching(err)
	}
	op.Rdev, op.Umask = 0, 0
	if err := fs.newInode(tx, op, source, &fs.fresh, unix.S_IFCHR); err != nil {
		return err
	}
	if err := fs.write(tx, &fs.fresh); err != nil {
		return err
	}
	err := fs.vol.SetEntry(tx, source, op.Name(), fs.fresh.Ino, ext4.FileType(unix.S_IFCHR),
		&op.lookup)
	return searching(err)
}

// reparent tells a directory that moves from source to target of its new parent.
func (fs *FS) reparent(tx *Tx, dir, source, target *ext4.Inode) error {
	if source.Ino == target.Ino {
		return nil
	}
	lessDirLinks(source)
	if err := fs.moreDirLinks(target); err != nil {
		return err
	}
	var cur ext4.LookupCursor
	return fs.vol.SetEntry(tx, dir, dotDot, target.Ino, ext4.FileType(unix.S_IFDIR), &cur)
}

var dotDot = []byte("..")

// exchange has two names stand for each other's inodes.
func (fs *FS) exchange(tx *Tx, op *Op, source, target *ext4.Inode) error {
	a, b := &fs.child, &fs.child2
	if b.Flags&(ext4.FlagImmutable|ext4.FlagAppend) != 0 || target.Flags&ext4.FlagAppend != 0 {
		return unix.EPERM
	}
	if source.Flags&ext4.FlagProjinherit != 0 && source.ProjID != b.ProjID {
		return unix.EXDEV
	}
	err := fs.vol.SetEntry(tx, source, op.Name(), b.Ino, ext4.FileType(b.Mode), &op.lookup)
	if err == nil {
		err = fs.vol.SetEntry(tx, target, op.Name2(), a.Ino, ext4.FileType(a.Mode), &op.lookup2)
	}
	if err != nil {
		return searching(err)
	}
	if a.IsDir() {
		if err := fs.reparent(tx, a, source, target); err != nil {
			return err
		}
	}
	if b.IsDir() {
		if err := fs.reparent(tx, b, target, source); err != nil {
			return err
		}
	}
	for _, in := range [2]*ext4.Inode{a, b} {
		fs.changedAt(in, op.now)
		if err := fs.write(tx, in); err != nil {
			return err
		}
	}
	return fs.writeDirs(tx, op, source, target)
}

// writeDirs writes the two directories of a rename, which may be one.
func (fs *FS) writeDirs(tx *Tx, op *Op, source, target *ext4.Inode) error {
	fs.modified(source, op.now)
	if err := fs.write(tx, source); err != nil || source.Ino == target.Ino {
		return err
	}
	fs.modified(target, op.now)
	return fs.write(tx, target)
}
