package ext4

import "golang.org/x/sys/unix"

// AddCursor is how far a search for room for an entry is; its zero value is the beginning.
type AddCursor struct{ next uint32 }

// FileType is the file_type of entries for inodes of that mode.
func FileType(mode uint16) uint8 {
	switch uint32(mode) & unix.S_IFMT {
	case unix.S_IFREG:
		return fileTypeRegular
	case unix.S_IFDIR:
		return fileTypeDir
	case unix.S_IFCHR:
		return fileTypeChar
	case unix.S_IFBLK:
		return fileTypeBlock
	case unix.S_IFIFO:
		return fileTypeFifo
	case unix.S_IFSOCK:
		return fileTypeSock
	case unix.S_IFLNK:
		return fileTypeSymlink
	}
	return fileTypeUnknown
}

// putRecLen is the inverse of recLen.
func putRecLen(block []byte, off, n int) {
	if n == 65536 {
		n = 65535
	}
	le.PutUint16(block[off+deRecLen:], uint16(n))
}

// leafRoom is how many bytes of a block are for entries.
func (v *Volume) leafRoom() int {
	if v.csummed() {
		return int(v.BlockSize) - detSize
	}
	return int(v.BlockSize)
}

// initLeaf makes a block of zeros one without entries.
func (v *Volume) initLeaf(dir *Inode, data []byte) {
	putRecLen(data, 0, v.leafRoom())
	v.sealLeaf(dir, data)
}

// sealLeaf sets the checksum of a block of entries.
func (v *Volume) sealLeaf(dir *Inode, data []byte) {
	if !v.csummed() {
		return
	}
	n := len(data) - detSize
	tail := data[n:]
	clear(tail)
	le.PutUint16(tail[detRecLen:], detSize)
	tail[detReservedFT] = fileTypeCsum
	le.PutUint32(tail[detChecksum:], crc32c(v.inodeSeed(dir.Ino, dir.Generation), data[:n]))
}

// putEntry writes an entry of n bytes.
func (v *Volume) putEntry(data []byte, off, n int, name []byte, ino Ino, fileType uint8) {
	le.PutUint32(data[off+deInode:], uint32(ino))
	putRecLen(data, off, n)
	data[off+deNameLen] = byte(len(name))
	if !v.HasIncompat(IncompatFiletype) {
		fileType = 0
	}
	data[off+deFileType] = fileType
	copy(data[off+deName:], name)
}

// gap finds room for an entry of a name in a block: an unused entry, or what a used one has too
// much. It verifies the entries on the way. off is -1 if there is none.
func (v *Volume) gap(b *dirData, nameLen int) (off int, err error) {
	need, room := entrySize(nameLen, b.hashed), v.leafRoom()
	for off < room {
		n, problem := v.checkEntry(b, off)
		if problem != "" {
			return -1, b.corrupt(problem, off)
		}
		if n-v.usedBytes(b, off) >= need {
			return off, nil
		}
		off += n
	}
	return -1, nil
}

// usedBytes is how much of the entry at off is in use.
func (v *Volume) usedBytes(b *dirData, off int) int {
	if le32(b.data, off+deInode) == 0 {
		return 0
	}
	return entrySize(int(b.data[off+deNameLen]), b.hashed)
}

// insertAt puts an entry into the gap at off.
func (v *Volume) insertAt(b *dirData, off int, name []byte, ino Ino, fileType uint8) {
	n := recLen(b.data, off)
	if used := v.usedBytes(b, off); used > 0 {
		putRecLen(b.data, off, used)
		off, n = off+used, n-used
	}
	v.putEntry(b.data, off, n, name, ino, fileType)
}

// editDir returns a block of a directory that has been read, to be changed.
func (v *Volume) editDir(ed Editor, b *dirData) error {
	buf, err := ed.Modify(b.where)
	b.data = buf.Data
	return err
}

// AddEntry adds an entry for a name that dir does not have. It changes dir, which the caller
// writes. Errors: ENOSPC, also when the index is as deep as it may be; ENOKEY in an encrypted
// directory; ErrContinue after cur has been advanced, with nothing changed; those of ed;
// CorruptError.
func (v *Volume) AddEntry(ed Editor, dir *Inode, name []byte, ino Ino, fileType uint8,
	cur *AddCursor) error {
	switch {
	case len(name) > nameMax:
		return unix.ENAMETOOLONG
	case dir.Flags&FlagEncrypt != 0:
		return unix.ENOKEY
	case dir.Flags&FlagInlineData != 0:
		return unix.EOPNOTSUPP
	case v.indexed(dir):
		return v.addIndexed(ed, dir, name, ino, fileType)
	}
	blocks := v.dirBlocks(dir)
	for n := 0; cur.next < blocks; n++ {
		if n == linearPerStep {
			return ErrContinue
		}
		b, err := v.dirBlock(ed, dir, Lblk(cur.next))
		if err != nil {
			return err
		}
		if b.data != nil {
			if done, err := v.addTo(ed, dir, &b, name, ino, fileType); done || err != nil {
				return err
			}
		}
		cur.next++
	}
	if blocks == 1 && v.HasCompat(CompatDirIndex) {
		if err := v.makeIndex(ed, dir); err != nil {
			return err
		}
		return v.addIndexed(ed, dir, name, ino, fileType)
	}
	// NB: the flag without the feature: the tree knows nothing of what is added from now on.
	dir.Flags &^= FlagIndex
	b, _, err := v.appendBlock(ed, dir)
	if err != nil {
		return err
	}
	v.initLeaf(dir, b.data)
	v.insertAt(&b, 0, name, ino, fileType)
	v.sealLeaf(dir, b.data)
	return nil
}

// addTo adds an entry to a block if it has room.
func (v *Volume) addTo(ed Editor, dir *Inode, b *dirData, name []byte, ino Ino, fileType uint8) (
	done bool, err error) {
	off, err := v.gap(b, len(name))
	if err != nil || off < 0 {
		return false, err
	}
	if err := v.editDir(ed, b); err != nil {
		return false, err
	}
	v.insertAt(b, off, name, ino, fileType)
	v.sealLeaf(dir, b.data)
	return true, nil
}

// appendBlock gives dir another block, of zeros.
func (v *Volume) appendBlock(ed Editor, dir *Inode) (b dirData, lblk Lblk, err error) {
	lblk = Lblk(v.dirBlocks(dir))
	size := dir.Size + uint64(v.BlockSize)
	if size > 1<<31-1 && !v.HasIncompat(IncompatLargedir) || lblk >= dxeMask {
		return b, 0, unix.ENOSPC
	}
	phys, n, err := v.appendPlace(ed, dir, lblk)
	if err != nil {
		return b, 0, err
	}
	buf, err := ed.Fresh(phys)
	if err != nil {
		return b, 0, err
	}
	dir.Size, dir.Sectors = size, dir.Sectors+uint64(n)<<(v.BlockBits-9)
	b = dirData{data: buf.Data, where: phys, ino: dir.Ino, hashed: hashInEntry(dir)}
	return b, lblk, v.InsertRun(ed, dir, lblk, phys, 1, false)
}

// appendPlace returns the block for lblk of dir, and how many blocks were allocated for it: none,
// with bigalloc, if the cluster of the block before has room.
func (v *Volume) appendPlace(ed Editor, dir *Inode, lblk Lblk) (Block, uint32, error) {
	if v.ClusterBits > 0 {
		if b, ok, err := v.ClusterMapped(ed, dir, lblk); ok || err != nil {
			return b, 0, err
		}
	}
	goal, err := v.Goal(ed, dir, lblk)
	if err != nil {
		return 0, 0, err
	}
	return v.AllocBlocks(ed, Alloc{Goal: goal, Want: 1})
}

// InitDir gives a new directory its first block, with "." and "..".
func (v *Volume) InitDir(ed Editor, dir *Inode, parent Ino) error {
	b, _, err := v.appendBlock(ed, dir)
	if err != nil {
		return err
	}
	v.putEntry(b.data, 0, deSizeMin, []byte("."), dir.Ino, fileTypeDir)
	v.putEntry(b.data, deSizeMin, v.leafRoom()-deSizeMin, []byte(".."), parent, fileTypeDir)
	v.sealLeaf(dir, b.data)
	return nil
}

// RemoveEntry takes an entry out of dir and returns what it stood for. Errors: as those of Lookup;
// ENOKEY.
func (v *Volume) RemoveEntry(ed Editor, dir *Inode, name []byte, cur *LookupCursor) (Ino, uint8,
	error) {
	var ent Dirent
	data, err := v.editEntry(ed, dir, name, cur, &ent)
	if err != nil {
		return 0, 0, err
	}
	b := dirData{data: data, where: ent.where, ino: dir.Ino, hashed: hashInEntry(dir)}
	before := -1
	for off := 0; off < ent.at; {
		n, problem := v.checkEntry(&b, off)
		if problem != "" {
			return 0, 0, b.corrupt(problem, off)
		}
		before, off = off, off+n
	}
	n := recLen(data, ent.at)
	if before >= 0 {
		putRecLen(data, before, recLen(data, before)+n)
		clear(data[ent.at : ent.at+deName])
	} else {
		le.PutUint32(data[ent.at+deInode:], 0)
		data[ent.at+deNameLen], data[ent.at+deFileType] = 0, 0
	}
	clear(data[ent.at+deName : ent.at+n])
	v.sealLeaf(dir, data)
	return ent.Ino, ent.Type, nil
}

// editEntry finds an entry and returns its block to be changed; ent.at says where in it.
func (v *Volume) editEntry(ed Editor, dir *Inode, name []byte, cur *LookupCursor, ent *Dirent) (
	[]byte, error) {
	if dir.Flags&FlagEncrypt != 0 && !isDots(name) {
		return nil, unix.ENOKEY
	}
	if dir.Flags&FlagInlineData != 0 {
		return nil, unix.EOPNOTSUPP
	}
	if err := v.Lookup(ed, dir, name, cur, ent); err != nil {
		return nil, err
	}
	buf, err := ed.Modify(ent.where)
	return buf.Data, err
}

// SetEntry has an entry of dir stand for another inode. Errors as those of RemoveEntry.
func (v *Volume) SetEntry(ed Editor, dir *Inode, name []byte, ino Ino, fileType uint8,
	cur *LookupCursor) error {
	var ent Dirent
	data, err := v.editEntry(ed, dir, name, cur, &ent)
	if err != nil {
		return err
	}
	le.PutUint32(data[ent.at+deInode:], uint32(ino))
	if v.HasIncompat(IncompatFiletype) {
		data[ent.at+deFileType] = fileType
	}
	if isDots(name) && dir.Flags&FlagIndex != 0 {
		v.sealIndex(dir, data)
	} else {
		v.sealLeaf(dir, data)
	}
	return nil
}

// DirEmpty says whether dir has no entries but "." and "..": nil or ENOTEMPTY. ErrContinue after
// cur has been advanced; those of src; CorruptError.
func (v *Volume) DirEmpty(src Source, dir *Inode, cur *LookupCursor) error {
	if dir.Flags&FlagInlineData != 0 {
		parts, err := v.inlineDir(dir)
		for i := range parts {
			if err == nil {
				err = v.noEntries(&parts[i])
			}
		}
		return err
	}
	blocks := v.dirBlocks(dir)
	for n := 0; cur.next < blocks; n++ {
		if n == linearPerStep {
			return ErrContinue
		}
		b, err := v.dirBlock(src, dir, Lblk(cur.next))
		if err != nil {
			return err
		}
		if b.data == nil {
			cur.next = uint32(min(uint64(cur.next)+uint64(max(b.hole, 1)), uint64(blocks)))
			continue
		}
		if err := v.noEntries(&b); err != nil {
			return err
		}
		cur.next++
	}
	return nil
}

func (v *Volume) noEntries(b *dirData) error {
	_, found, err := v.scan(b, 0, true)
	if err == nil && found {
		return unix.ENOTEMPTY
	}
	return err
}
