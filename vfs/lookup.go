package vfs

import (
	"golang.org/x/sys/unix"

	"asyncfsd/vfs/ext4"
)

// prepareLookup finds a name. One that does not exist is a result (Attr.Ino 0), which the
// kernel caches, and not an error.
func prepareLookup(fs *FS, tx *Tx, op *Op) error {
	if err := fs.readInode(tx, op.Node, &fs.inode); err != nil {
		return err
	}
	if string(op.Name()) == "." { // of any inode: how the kernel opens a file by its handle
		fs.attr(&fs.inode, &op.Attr)
		return nil
	}
	if !fs.inode.IsDir() {
		return unix.ENOTDIR
	}
	err := fs.vol.Lookup(tx, &fs.inode, op.Name(), &op.lookup, &fs.dirent)
	if err == unix.ENOENT {
		op.Attr.Ino = 0
		return nil
	}
	if err != nil {
		return err
	}
	if err := fs.readInode(tx, fs.dirent.Ino, &fs.child); err != nil {
		if err == unix.ESTALE {
			return ext4.Corrupt("entry of a free inode", fs.inode.Where, fs.inode.Offset, op.Node)
		}
		return err
	}
	fs.attr(&fs.child, &op.Attr)
	return nil
}

func prepareReadlink(fs *FS, tx *Tx, op *Op) error {
	if err := fs.readInode(tx, op.Node, &fs.inode); err != nil {
		return err
	}
	if fs.inode.Type() != unix.S_IFLNK {
		return unix.EINVAL
	}
	op.touch = fs.staleAtime(&fs.inode)
	if err := tx.Buffer(unix.PathMax); err != nil {
		return err
	}
	n, err := fs.vol.Readlink(tx, &fs.inode, fs.arena.Payload(op.Buf)[:unix.PathMax])
	op.N = uint32(n)
	return err
}
