package vfs

import (
	"golang.org/x/sys/unix"

	"asyncfsd/vfs/ext4"
)

// readInode reads an inode that has a name, or had one when it was opened.
func (fs *FS) readInode(src ext4.Source, ino ext4.Ino, in *ext4.Inode) error {
	err := fs.vol.ReadInode(src, ino, in)
	if err == unix.ESTALE && fs.Orphan(ino) {
		return fs.vol.ReadUnlinked(src, ino, in)
	}
	return err
}

// readDir reads an inode that must be a directory with a name: one in which names are changed.
func (fs *FS) readDirectory(tx *Tx, ino ext4.Ino, in *ext4.Inode) error {
	if err := fs.readInode(tx, ino, in); err != nil {
		return err
	}
	switch {
	case !in.IsDir():
		return unix.ENOTDIR
	case in.Links == 0:
		return unix.ENOENT
	case in.Flags&ext4.FlagImmutable != 0:
		return unix.EPERM
	}
	return nil
}

// find looks a name up in a directory whose entries are going to be changed. ENOENT.
func (fs *FS) find(tx *Tx, dir *ext4.Inode, name []byte, cur *ext4.LookupCursor,
	ent *ext4.Dirent, child *ext4.Inode) error {
	if err := fs.vol.Lookup(tx, dir, name, cur, ent); err != nil {
		return searching(err)
	}
	err := fs.readInode(tx, ent.Ino, child)
	if err == unix.ESTALE {
		return ext4.Corrupt("entry of a free inode", dir.Where, dir.Offset, dir.Ino)
	}
	return err
}

// write writes an inode that an operation has changed, and notes it for fsync. It may move the
// attributes inside the inode.
func (fs *FS) write(tx *Tx, in *ext4.Inode) error {
	fs.w.changed(in.Ino)
	if err := fs.vol.Widen(tx, in, tx.op.Code.widens()); err != nil {
		return err
	}
	return fs.vol.WriteInode(tx, in)
}

// modified sets the times of an inode whose contents have changed.
func (fs *FS) modified(in *ext4.Inode, now ext4.Timespec) {
	in.Mtime = fs.vol.ClampTime(now)
	fs.changedAt(in, now)
}

// changedAt sets the time of an inode's last change.
func (fs *FS) changedAt(in *ext4.Inode, now ext4.Timespec) {
	in.Ctime = fs.vol.ClampTime(now)
	in.Version++
}

// linkMax is the most names an inode may have (EXT4_LINK_MAX).
const linkMax = 65000

// moreDirLinks counts a new subdirectory. With dir_nlink, 1 stands for too many to count.
func (fs *FS) moreDirLinks(dir *ext4.Inode) error {
	switch {
	case dir.Links == 1:
	case dir.Links+1 < linkMax:
		dir.Links++
	case fs.vol.HasROCompat(ext4.ROCompatDirNlink):
		dir.Links = 1
	default:
		return unix.EMLINK
	}
	return nil
}

// lessDirLinks counts a subdirectory that is gone.
func lessDirLinks(dir *ext4.Inode) {
	if dir.Links > 2 {
		dir.Links--
	}
}

// drop takes one name from an inode; without any left it becomes an orphan, and is freed when
// nobody holds it.
func (fs *FS) drop(tx *Tx, op *Op, in *ext4.Inode) error {
	if in.Links--; in.IsDir() {
		in.Links = 0
	}
	fs.changedAt(in, op.now)
	if in.Links == 0 {
		op.victim = in.Ino
		if err := fs.vol.AddOrphan(tx, fs.w.orphans, in); err != nil {
			return err
		}
	}
	return fs.write(tx, in)
}

// root says whether an operation may use what is kept for root.
func (fs *FS) root(op *Op) bool {
	// NB: who asks may have to be found out, which is for when it matters.
	if fs.w.space.Ample() {
		return false
	}
	c := &fs.w.c
	return op.Cred.IsRoot() || c.ResUID != 0 && op.Cred.UID == c.ResUID ||
		c.ResGID != 0 && op.Cred.GID == c.ResGID
}
