package ext4

import (
	"bytes"

	"golang.org/x/sys/unix"
)

// Dirent is one entry of a directory. It is a value of one attempt.
type Dirent struct {
	// Name aliases a cached block, the inode, or memory of the Dirent itself.
	Name []byte
	Ino  Ino
	// Type is file_type as on the disk: 1 regular, 2 directory, 3 character device, 4 block device,
	// 5 fifo, 6 socket, 7 symbolic link; 0 if the filesystem does not tell.
	Type uint8
	// Off is the cookie of the entry that follows.
	Off uint64

	nokey [nokeyNameMax + 3]byte
	order *leafOrder // of the leaf that ReadDir looked at last
	// where and at say where the entry stands, for those who change it.
	where Block
	at    int
}

// LookupCursor is how far a Lookup is; its zero value is the beginning.
type LookupCursor struct {
	linear bool
	// next is the logical block to search next if linear, else how many leaves of the chain with
	// the name's hash are done.
	next uint32
}

const (
	// leavesPerStep is how many leaves of an indexed directory one step looks at: one nearly
	// always, more in a chain of equal hashes or among empty ones.
	leavesPerStep = 4
	// linearPerStep is how many blocks of a directory without index one step looks at, and asks
	// for in parallel.
	linearPerStep = 16
)

// Lookup finds the entry of dir with that name, "." and ".." included. In encrypted directories
// name is a no-key name. Errors: ENOENT; ENAMETOOLONG; EINVAL for text that a strict casefold
// filesystem does not allow; ErrContinue after cur has been advanced; those of src; CorruptError.
func (v *Volume) Lookup(src Source, dir *Inode, name []byte, cur *LookupCursor,
	ent *Dirent) error {
	if len(name) > nameMax {
		return unix.ENAMETOOLONG
	}
	if len(name) == 0 {
		return unix.ENOENT
	}
	var q nameQuery
	if err := v.query(dir, name, &q); err != nil {
		return err
	}
	if dir.Flags&FlagInlineData != 0 {
		return v.lookupInline(dir, &q, ent)
	}
	if isDots(name) { // in the first block, if anywhere
		_, err := v.lookupBlock(src, dir, 0, &q, ent)
		return err
	}
	if !cur.linear && v.indexed(dir) {
		err := v.lookupIndexed(src, dir, &q, cur, ent)
		switch {
		case err == errBadIndex: // as the kernel does
		case err == unix.ENOENT && q.fold && !v.foldIndexExact():
			// NB: hashes of folded names have changed over time; the kernel searches again, too.
		default:
			return err
		}
		*cur = LookupCursor{linear: true}
	}
	return v.lookupLinear(src, dir, &q, cur, ent)
}

// lookupLinear searches block after block, and stops at every multiple of linearPerStep.
func (v *Volume) lookupLinear(src Source, dir *Inode, q *nameQuery, cur *LookupCursor,
	ent *Dirent) error {
	blocks := v.dirBlocks(dir)
	for cur.next < blocks {
		if cur.next%linearPerStep == 0 {
			if err := v.wantBlocks(src, dir, Lblk(cur.next)); err != nil {
				return err
			}
		}
		skip, err := v.lookupBlock(src, dir, Lblk(cur.next), q, ent)
		if err != unix.ENOENT {
			return err
		}
		before := cur.next
		cur.next = uint32(min(uint64(before)+uint64(skip), uint64(blocks)))
		if cur.next/linearPerStep != before/linearPerStep {
			return ErrContinue
		}
	}
	return unix.ENOENT
}

// lookupBlock searches one block. ENOENT comes with the number of blocks searched, more than one
// if they are a hole.
func (v *Volume) lookupBlock(src Source, dir *Inode, lblk Lblk, q *nameQuery,
	ent *Dirent) (skip uint32, err error) {
	b, err := v.dirBlock(src, dir, lblk)
	if err != nil {
		return 0, err
	}
	if b.data == nil {
		return b.hole, unix.ENOENT
	}
	off, err := v.search(&b, q)
	if err != nil {
		return 1, err
	}
	v.fill(&b, off, ent)
	return 1, nil
}

// search finds the entry of a block that q asks for.
func (v *Volume) search(b *dirData, q *nameQuery) (off int, err error) {
	for off < len(b.data) {
		n, problem := v.checkEntry(b, off)
		if problem != "" {
			return 0, b.corrupt(problem, off)
		}
		nameLen := int(b.data[off+deNameLen])
		if le32(b.data, off+deInode) != 0 && q.match(b.data[off+deName:off+deName+nameLen]) {
			return off, nil
		}
		off += n
	}
	return 0, unix.ENOENT
}

// fill makes ent the entry at off, its name as it stands on the disk.
func (v *Volume) fill(b *dirData, off int, ent *Dirent) {
	ent.Ino = Ino(le32(b.data, off+deInode))
	ent.Name = b.data[off+deName : off+deName+int(b.data[off+deNameLen])]
	ent.Type = fileTypeUnknown
	if t := b.data[off+deFileType]; v.HasIncompat(IncompatFiletype) && t <= fileTypeSymlink {
		ent.Type = t
	}
	ent.Off, ent.where, ent.at = 0, b.where, b.base+off
}

// dirData is one verified piece of a directory: a block, or a part of an inline directory.
type dirData struct {
	data  []byte // nil for a hole
	hole  uint32 // blocks that are a hole from this one on, for data nil
	where Block
	base  int // where in that block data begins
	ino   Ino
	// hashed says that entries have hashes behind their names.
	hashed bool
	inline bool
}

func (b *dirData) corrupt(what string, off int) error {
	return Corrupt("directory: "+what, b.where, b.base+off, b.ino)
}

// checkEntry verifies the entry at off, off being below the length of the data. It returns the
// entry's length, or what is wrong with it.
func (v *Volume) checkEntry(b *dirData, off int) (n int, problem string) {
	left := len(b.data) - off
	if left < deSizeMin {
		return 0, "entry beyond the end"
	}
	n = recLen(b.data, off)
	nameLen := int(b.data[off+deNameLen])
	// NB: "." and ".." and the checksum's entry have no hashes.
	hashed := b.hashed && b.data[off+deFileType] != fileTypeCsum &&
		!isDots(b.data[off+deName:off+deName+min(nameLen, 3)])
	rest := left - n // behind the entry
	switch {
	case n < entrySize(max(nameLen, 1), hashed):
		return 0, "rec_len is too small"
	case n&3 != 0:
		return 0, "rec_len is no multiple of 4"
	case rest < 0:
		return 0, "rec_len reaches beyond the end"
	case rest > 0 && rest < entrySize(1, b.hashed && !v.csummed()):
		return 0, "no room for an entry before the end"
	case Ino(le32(b.data, off+deInode)) > v.InodesCount:
		return 0, "inode number is too large"
	}
	return n, ""
}

// isDots says whether a name is "." or "..".
func isDots(name []byte) bool {
	return len(name) == 1 && name[0] == '.' || len(name) == 2 && name[0] == '.' && name[1] == '.'
}

// hashInEntry says that the entries of dir carry their hashes.
func hashInEntry(dir *Inode) bool {
	return dir.Flags&(FlagEncrypt|FlagCasefold) == FlagEncrypt|FlagCasefold
}

// indexed says whether dir has a hash tree. The flag alone is not enough: where the feature is
// off, entries have been added behind the tree's back.
func (v *Volume) indexed(dir *Inode) bool {
	return dir.Flags&FlagIndex != 0 && v.HasCompat(CompatDirIndex)
}

// dirBlocks is the number of blocks of dir.
func (v *Volume) dirBlocks(dir *Inode) uint32 {
	return uint32(min(dir.Size>>v.BlockBits, lblkMax))
}

// wantBlocks asks for the next blocks that a linear search is going to look at.
func (v *Volume) wantBlocks(src Source, dir *Inode, lblk Lblk) error {
	limit := min(v.dirBlocks(dir)-uint32(lblk), linearPerStep)
	var run Run
	if err := v.Map(src, dir, lblk, limit, &run); err != nil || run.State != RunMapped {
		return err
	}
	for i := range run.Len {
		src.Want(run.Phys + Block(i))
	}
	return nil
}

// dirBlock reads a block of dir that holds entries, or that must be taken for such.
func (v *Volume) dirBlock(src Source, dir *Inode, lblk Lblk) (b dirData, err error) {
	var run Run
	if err := v.Map(src, dir, lblk, lblkMax-uint32(lblk), &run); err != nil {
		return b, err
	}
	b = dirData{ino: dir.Ino, hashed: hashInEntry(dir), hole: run.Len}
	if run.State != RunMapped {
		return b, nil
	}
	buf, err := src.Block(run.Phys)
	if err != nil {
		return b, err
	}
	b.data, b.where = buf.Data, run.Phys
	// An index block passes for one unused entry; its checksum stands elsewhere.
	index := dir.Flags&FlagIndex != 0 && (lblk == 0 || recLen(b.data, 0) == len(b.data))
	if v.csummed() && !index && !v.leafSumOK(buf, dir) {
		return b, b.corrupt("checksum", len(b.data)-detSize)
	}
	return b, nil
}

// leafSumOK verifies the checksum of a block of entries, once per read.
func (v *Volume) leafSumOK(buf Buf, dir *Inode) bool {
	if *buf.Checked == (Checked{Kind: kindDir, Items: uint64(dir.Ino)}) {
		return true
	}
	n := len(buf.Data) - detSize
	tail := buf.Data[n:]
	if le32(tail, detReservedZero1) != 0 || le16(tail, detRecLen) != detSize ||
		tail[detReservedZero2] != 0 || tail[detReservedFT] != fileTypeCsum ||
		crc32c(v.inodeSeed(dir.Ino, dir.Generation), buf.Data[:n]) != le32(tail, detChecksum) {
		return false
	}
	*buf.Checked = Checked{Kind: kindDir, Items: uint64(dir.Ino)}
	return true
}

// nameQuery is a name to be found, in the forms in which it can be compared.
type nameQuery struct {
	name []byte
	// nokey: crypt is the decoded no-key name, to be compared instead.
	nokey bool
	// fold: a name is also found that folds to the same; folded is nil if name cannot be folded.
	fold   bool
	folded []byte
	crypt  nokeyQuery
}

// query prepares the search for a name.
func (v *Volume) query(dir *Inode, name []byte, q *nameQuery) error {
	q.name = name
	switch {
	case dir.Flags&(FlagEncrypt|FlagCasefold) == 0 || isDots(name):
	case dir.Flags&FlagEncrypt != 0:
		if q.nokey = true; !q.crypt.parse(name) {
			return unix.ENOENT
		}
	case v.foldKnown():
		q.fold = true
		if q.folded = foldName(name); q.folded == nil && v.foldStrict() {
			return unix.EINVAL
		}
	}
	return nil
}

// match tells whether an entry has the name.
func (q *nameQuery) match(name []byte) bool {
	switch {
	case q.nokey:
		return q.crypt.match(name)
	case bytes.Equal(q.name, name):
		return true
	}
	return q.fold && q.folded != nil && foldsTo(name, q.folded)
}
