package vfs

import (
	"golang.org/x/sys/unix"

	"asyncfsd/asyncq"
	"asyncfsd/vfs/ext4"
)

// aheadEntries is how many entries of a directory are looked at to read their inodes ahead
// when a readdirplus stalls on one: a block of short names, and about 16 inode-table blocks.
const aheadEntries = 256

// prepareReaddir fills the payload with entries from cookie op.pos on. It advances the cursor
// entry by entry, so that a stall loses nothing.
func prepareReaddir(fs *FS, tx *Tx, op *Op) error {
	if err := fs.readInode(tx, op.Node, &fs.inode); err != nil {
		return err
	}
	if !fs.inode.IsDir() {
		return unix.ENOTDIR
	}
	op.touch = fs.staleAtime(&fs.inode)
	if err := tx.Buffer(op.Size); err != nil {
		return err
	}
	payload := fs.arena.Payload(op.Buf)[:op.Size]
	for range entriesPerStep {
		ent := &fs.dirent
		err := fs.vol.ReadDir(tx, &fs.inode, op.pos, ent)
		switch {
		case err == ext4.ErrEOF:
			return nil
		case err == ext4.ErrContinue:
			op.pos = ent.Off
			return err
		case err == nil:
			err = fs.addDirent(tx, op, payload, ent)
		case err != asyncq.ErrStall && op.N > 0:
			return nil // what was found so far; the error comes at the next call
		}
		if err == errFull {
			return nil
		}
		if err != nil {
			return err
		}
		op.pos = ent.Off
	}
	return ext4.ErrContinue
}

// entriesPerStep bounds one attempt: others may run, and pins are given back.
const entriesPerStep = 64

// errFull says that the payload has no room for another entry.
const errFull = unix.ENOBUFS

func (fs *FS) addDirent(tx *Tx, op *Op, payload []byte, ent *ext4.Dirent) error {
	front := fs.fronts[op.Front]
	var attr *Attr
	if op.Code == OpReaddirPlus {
		if err := fs.direntAttr(tx, op, ent); err != nil {
			return err
		}
		attr = &op.Attr
	}
	if !front.AddDirent(op, payload, ent, attr) {
		return errFull
	}
	return nil
}

// direntAttr reads the inode of an entry into op.Attr. An entry whose inode is damaged is listed
// without attributes: the directory stays readable, and a stat of the name gives the error.
func (fs *FS) direntAttr(tx *Tx, op *Op, ent *ext4.Dirent) error {
	err := fs.readInode(tx, ent.Ino, &fs.child)
	switch err {
	case nil:
		fs.attr(&fs.child, &op.Attr)
	case asyncq.ErrStall:
		fs.inodesAhead(op)
		return err
	default:
		_ = fs.errno(op, err) // counted and logged
		op.Attr = Attr{}
	}
	return nil
}

// inodesAhead has the inodes of the entries that follow read, all at once.
func (fs *FS) inodesAhead(op *Op) {
	src := ahead{fs}
	pos := op.pos
	for range aheadEntries {
		if fs.vol.ReadDir(src, &fs.inode, pos, &fs.aheadEnt) != nil {
			return
		}
		pos = fs.aheadEnt.Off
		if b, _, err := fs.vol.InodeBlock(fs.aheadEnt.Ino); err == nil {
			fs.cache.Ahead(uint64(b))
		}
	}
}
