package ext4

import (
	"golang.org/x/sys/unix"
)

// AddCursor is how far a search for room for an entry is; its zero value is the beginning.
type AddCursor struct {
	next uint32
	// linear: the index is of no use.
	linear bool
}

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

// room is how many bytes of a piece of a directory are for entries.
func (v *Volume) room(b *dirData) int {
	if b.inline {
		return len(b.data)
	}
	return v.leafRoom()
}

// entryLen verifies the entry at off of a piece that is going to be changed. It returns the entry's
// length.
func (v *Volume) entryLen(b *dirData, off int) (int, error) {
	n, problem := v.checkEntry(b, off)
	if problem == "" && off+n > v.room(b) {
		problem = "entry over the checksum"
	}
	if problem != "" {
		return 0, b.corrupt(problem, off)
	}
	return n, nil
}

// gap finds room for an entry of a name in a piece of a directory: an unused entry, or what a used
// one has too much. It verifies the entries on the way. off is -1 if there is none.
func (v *Volume) gap(b *dirData, nameLen int) (off int, err error) {
	need, room := entrySize(nameLen, b.hashed), v.room(b)
	for off < room {
		n, err := v.entryLen(b, off)
		if err != nil {
			return -1, err
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
// writes. Errors: ENOSPC, also when the index is as deep as it may be; EINVAL for text that a
// strict casefold filesystem does not allow; ENOKEY in an encrypted directory;
// ErrContinue after cur has been advanced, with nothing changed; those of ed; CorruptError.
func (v *Volume) AddEntry(ed Editor, dir *Inode, name []byte, ino Ino, fileType uint8,
	cur *AddCursor) error {
	switch {
	case len(name) > nameMax:
		return unix.ENAMETOOLONG
	case len(name) == 0:
		return unix.ENOENT
	case dir.Flags&FlagEncrypt != 0:
		return unix.ENOKEY
	}
	var q nameQuery
	if err := v.query(dir, name, &q); err != nil {
		return err
	}
	if dir.Flags&FlagInlineData != 0 {
		if err := v.addInline(ed, dir, name, ino, fileType); err != ErrInlineFull {
			return err
		}
		if err := v.evictInlineDir(ed, dir); err != nil {
			return err
		}
	}
	if dir.Flags&FlagIndex != 0 {
		err := errBadIndex
		if v.indexed(dir) && !cur.linear {
			err = v.addIndexed(ed, dir, &q, ino, fileType, false)
		}
		if err != errBadIndex {
			return err
		}
		if v.csummed() {
			return Corrupt("directory: unusable index", dir.Where, dir.Offset, dir.Ino)
		}
		// As the kernel does: the index, of which the other blocks know nothing, is given up.
		cur.linear = true
		dir.Flags &^= FlagIndex
	}
	return v.addLinear(ed, dir, &q, ino, fileType, cur)
}

// addInline is AddEntry for an inline directory, which may grow for it. ErrInlineFull: there is no
// room.
func (v *Volume) addInline(ed Editor, dir *Inode, name []byte, ino Ino, fileType uint8) error {
	done, err := v.addToParts(ed, dir, name, ino, fileType)
	if done || err != nil {
		return err
	}
	if err := v.growInlineDir(ed, dir); err != nil {
		return err
	}
	if done, err = v.addToParts(ed, dir, name, ino, fileType); done || err != nil {
		return err
	}
	return ErrInlineFull
}

// addToParts adds an entry to an inline directory if it has room as it is.
func (v *Volume) addToParts(ed Editor, dir *Inode, name []byte, ino Ino, fileType uint8) (
	done bool, err error) {
	parts, err := v.editInline(ed, dir)
	if err != nil {
		return false, err
	}
	for i := range parts {
		off, err := v.gap(&parts[i], len(name))
		if err != nil {
			return false, err
		}
		if off >= 0 {
			v.insertAt(&parts[i], off, name, ino, fileType)
			return true, nil
		}
	}
	return false, nil
}

// addLinear is AddEntry for a directory without an index: into the first gap, or a new block. A
// directory of one block gets its index then.
func (v *Volume) addLinear(ed Editor, dir *Inode, q *nameQuery, ino Ino, fileType uint8,
	cur *AddCursor) error {
	blocks := v.dirBlocks(dir)
	for n := 0; cur.next < blocks; n++ {
		if n == linearPerStep {
			return ErrContinue
		}
		if n == 0 {
			if err := v.wantBlocks(ed, dir, Lblk(cur.next)); err != nil {
				return err
			}
		}
		b, err := v.dirBlock(ed, dir, Lblk(cur.next))
		if err != nil {
			return err
		}
		if b.data == nil {
			cur.next = uint32(min(uint64(cur.next)+uint64(max(b.hole, 1)), uint64(blocks)))
			continue
		}
		done, err := v.addTo(ed, dir, &b, q.name, ino, fileType)
		if done || err != nil {
			return err
		}
		cur.next++
	}
	if blocks == 1 && v.HasCompat(CompatDirIndex) && !cur.linear {
		err := v.makeIndex(ed, dir)
		if err == nil {
			err = v.addIndexed(ed, dir, q, ino, fileType, true)
		}
		if err != errBadIndex {
			return err
		}
	}
	b, _, err := v.appendBlock(ed, dir)
	if err != nil {
		return err
	}
	v.initLeaf(dir, b.data)
	v.insertAt(&b, 0, q.name, ino, fileType)
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
	phys, n, err := v.appendPlace(ed, dir, lblk, Alloc{})
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

// appendPlace returns a block for lblk of a file, and how many blocks were allocated for it: none,
// with bigalloc, if the cluster of the block before has room. a says what may be used for it.
func (v *Volume) appendPlace(ed Editor, in *Inode, lblk Lblk, a Alloc) (Block, uint32, error) {
	if v.ClusterBits > 0 {
		if b, ok, err := v.ClusterMapped(ed, in, lblk); ok || err != nil {
			return b, 0, err
		}
	}
	goal, err := v.Goal(ed, in, lblk)
	if err != nil {
		return 0, 0, err
	}
	a.Goal, a.Want = goal, 1
	return v.AllocBlocks(ed, a)
}

// InitDir gives a new directory, whose mapping is empty, its first block, with "." and "..", or
// makes it an inline one. It changes dir, which the caller writes. Errors: ENOSPC; those of ed;
// CorruptError.
func (v *Volume) InitDir(ed Editor, dir *Inode, parent Ino) error {
	if err := v.initInlineDir(ed, dir, parent); err != ErrInlineFull {
		return err
	}
	b, _, err := v.appendBlock(ed, dir)
	if err != nil {
		return err
	}
	v.putEntry(b.data, 0, deSizeMin, []byte("."), dir.Ino, fileTypeDir)
	v.putEntry(b.data, deSizeMin, v.leafRoom()-deSizeMin, []byte(".."), parent, fileTypeDir)
	v.sealLeaf(dir, b.data)
	return nil
}

// RemoveEntry takes an entry out of dir, which the caller writes, and returns what it stood for.
// Errors: as those of Lookup; ENOKEY.
func (v *Volume) RemoveEntry(ed Editor, dir *Inode, name []byte, cur *LookupCursor) (Ino, uint8,
	error) {
	var p entryPlace
	if err := v.editEntry(ed, dir, name, cur, &p); err != nil {
		return 0, 0, err
	}
	data, before := p.data, -1
	for off := 0; off < p.off; {
		n, err := v.entryLen(&p.dirData, off)
		if err != nil {
			return 0, 0, err
		}
		before, off = off, off+n
	}
	n, err := v.entryLen(&p.dirData, p.off)
	if err != nil {
		return 0, 0, err
	}
	if before >= 0 {
		putRecLen(data, before, p.off-before+n)
		clear(data[p.off : p.off+deName])
	} else {
		le.PutUint32(data[p.off+deInode:], 0)
		data[p.off+deNameLen], data[p.off+deFileType] = 0, 0
	}
	clear(data[p.off+deName : p.off+n])
	v.sealPlace(dir, &p)
	return p.ino, p.fileType, nil
}

// entryPlace is an entry that was found, in memory that may be changed.
type entryPlace struct {
	dirData
	off int
	// index: the entry stands in the root of an index.
	index bool
	// ino and fileType are what it stands for.
	ino      Ino
	fileType uint8
}

// editEntry finds an entry to be changed. sealPlace follows.
func (v *Volume) editEntry(ed Editor, dir *Inode, name []byte, cur *LookupCursor,
	p *entryPlace) error {
	if dir.Flags&FlagEncrypt != 0 && !isDots(name) {
		return unix.ENOKEY
	}
	var ent Dirent
	if err := v.Lookup(ed, dir, name, cur, &ent); err != nil {
		return err
	}
	p.ino, p.fileType = ent.Ino, ent.Type
	if dir.Flags&FlagInlineData != 0 {
		return v.editInlineEntry(ed, dir, name, p)
	}
	buf, err := ed.Block(ent.where)
	if err != nil {
		return err
	}
	// NB: Lookup does not verify the block that may be an index's root.
	p.index = dir.Flags&FlagIndex != 0 && isDots(name)
	if v.csummed() && (p.index && !v.dxSumOK(buf, dir) || !p.index && !v.leafSumOK(buf, dir)) {
		return Corrupt("directory: checksum", ent.where, 0, dir.Ino)
	}
	buf, err = ed.Modify(ent.where)
	p.dirData = dirData{data: buf.Data, where: ent.where, ino: dir.Ino, hashed: hashInEntry(dir)}
	p.off = ent.at
	return err
}

// editInlineEntry is editEntry for an inline directory, in which there are no entries for "." and
// "..".
func (v *Volume) editInlineEntry(ed Editor, dir *Inode, name []byte, p *entryPlace) error {
	parts, err := v.editInline(ed, dir)
	if err != nil || isDots(name) {
		return err
	}
	var q nameQuery
	if err := v.query(dir, name, &q); err != nil {
		return err
	}
	for i := range parts {
		if p.off, err = v.search(&parts[i], &q); err != unix.ENOENT {
			p.dirData = parts[i]
			return err
		}
	}
	return unix.ENOENT
}

// sealPlace sets the checksum of what an entry stands in. That of an inode is set when it is
// written.
func (v *Volume) sealPlace(dir *Inode, p *entryPlace) {
	switch {
	case p.inline:
	case p.index:
		v.sealIndex(dir, p.data)
	default:
		v.sealLeaf(dir, p.data)
	}
}

// SetEntry has an entry of dir, which the caller writes, stand for another inode. Errors as those
// of RemoveEntry.
func (v *Volume) SetEntry(ed Editor, dir *Inode, name []byte, ino Ino, fileType uint8,
	cur *LookupCursor) error {
	var p entryPlace
	if err := v.editEntry(ed, dir, name, cur, &p); err != nil {
		return err
	}
	if p.data == nil { // ".." of an inline directory
		le.PutUint32(dir.IBlock[:], uint32(ino))
		return nil
	}
	le.PutUint32(p.data[p.off+deInode:], uint32(ino))
	if v.HasIncompat(IncompatFiletype) {
		p.data[p.off+deFileType] = fileType
	}
	v.sealPlace(dir, &p)
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
