package ext4

import (
	"bytes"

	"golang.org/x/sys/unix"
)

// Cookies: what ReadDir takes and Dirent.Off holds. docs/design/003-readdir-cookies.md says why.
//
// A directory that has an index, or gets one when it grows, is read in the order of its names'
// hashes: "." is at 0, ".." at 1, and a name at cookieHashed plus a key of, from the top,
//
//	31 bits  the hash, without bit 0
//	10 bits  which leaf of the chain of leaves that have names of this hash
//	21 bits  the top of the minor hash
//
// made unique within a leaf by adding to it. Any other directory is read from block to block, and
// the cookie is the byte offset of an entry.
const (
	cookieHashed    = 1 << 62
	cookieDotDot    = 1
	cookieChainBits = 10
	cookieMinorBits = 21
	cookieHashShift = cookieChainBits + cookieMinorBits
	// cookieMinorMax leaves room to make the keys of a block unique (it has at most 65536/12
	// entries) without a carry into the chain's number.
	cookieMinorMax = 1<<cookieMinorBits - 65536/deSizeMin - 1
	cookieChainMax = 1<<cookieChainBits - 1
)

// ReadDir finds the first entry of dir at or behind cookie pos, 0 being the beginning; ent.Off
// is the cookie to go on with. ErrEOF: there is none. ErrContinue: none was found in this step;
// go on at ent.Off. Other errors: those of src, CorruptError.
func (v *Volume) ReadDir(src Source, dir *Inode, pos uint64, ent *Dirent) error {
	ordered := v.ordered(dir)
	if ordered && pos <= cookieDotDot {
		return v.readDots(src, dir, pos, ent)
	}
	// NB: up to the size it may be an offset, of a directory whose index became unusable. What else
	// is no cookie of ours is before all names, as in the kernel.
	if ordered && pos > dir.Size && pos < cookieHashed {
		pos = cookieHashed
	}
	if ordered && pos >= cookieHashed {
		err := v.readOrdered(src, dir, pos-cookieHashed, ent)
		if err != errBadIndex {
			return err
		}
		pos = 0 // the index is unusable from here on: rather twice than not at all
	}
	if dir.Flags&FlagInlineData != 0 {
		return v.readInline(dir, pos, ent)
	}
	return v.readLinear(src, dir, pos, ordered, ent)
}

// ordered says whether dir is read in the order of hashes. A directory of one block gets its
// index when it grows, and must have the same cookies before.
func (v *Volume) ordered(dir *Inode) bool {
	if !v.HasCompat(CompatDirIndex) {
		return false
	}
	inline := dir.Flags&FlagInlineData != 0
	if dir.Flags&FlagIndex != 0 && !inline {
		return true
	}
	_, ok := v.hasher(v.DefHashVersion)
	return ok && (inline || v.dirBlocks(dir) == 1)
}

var dots = []byte("..")

// readDots returns the entry "." or "..", which come first.
func (v *Volume) readDots(src Source, dir *Inode, pos uint64, ent *Dirent) error {
	name, next := dots[:1+pos], uint64(cookieDotDot)
	if pos == cookieDotDot {
		next = cookieHashed
	}
	var err error
	if dir.Flags&FlagInlineData != 0 {
		err = v.inlineDots(dir, name, ent)
	} else {
		_, err = v.lookupBlock(src, dir, 0, &nameQuery{name: name}, ent)
	}
	if err == unix.ENOENT { // damaged, but no reason to give up
		err = ErrContinue
	}
	ent.Off = next
	return err
}

// readOrdered returns the entry with the least key that is not below the given one.
func (v *Volume) readOrdered(src Source, dir *Inode, key uint64, ent *Dirent) error {
	if v.indexed(dir) && dir.Flags&FlagInlineData == 0 {
		return v.readIndexed(src, dir, key, ent)
	}
	h, _ := v.hasher(v.DefHashVersion)
	leaf := leafRange{hasher: h, end: cookieHashed}
	var parts [2]dirData
	var err error
	if dir.Flags&FlagInlineData != 0 {
		parts, err = v.inlineDir(dir)
	} else {
		parts[0], err = v.dirBlock(src, dir, 0)
	}
	if err != nil {
		return err
	}
	o, err := v.orderLeaf(dir, parts[:], leaf, ent)
	if err != nil || o.next(v, dir, key, ent) {
		return err
	}
	return ErrEOF
}

// readIndexed looks for the entry in the leaves of the index, from the one on where key belongs.
func (v *Volume) readIndexed(src Source, dir *Inode, key uint64, ent *Dirent) error {
	var p dxPath
	if err := v.dxOpen(src, dir, &p); err != nil {
		return err
	}
	hash := uint32(key>>cookieHashShift) << 1
	if err := v.dxDescend(src, dir, hash, &p); err != nil {
		return err
	}
	leaf := leafRange{hasher: p.hasher}
	leaf.enter(p.begins())
	chain := uint32(key>>cookieMinorBits) & cookieChainMax
	for begins, ok := p.peek(); ok && begins == hash|1 && leaf.chainOf(hash) < chain; {
		if _, _, err := v.dxNext(src, dir, &p); err != nil {
			return err
		}
		leaf.enter(begins)
		begins, ok = p.peek()
	}
	for range leavesPerStep {
		begins, more := p.peek()
		leaf.leave(begins, more)
		if leaf.end <= leaf.begin || leaf.end <= key || leaf.chain == cookieChainMax {
			return Corrupt("directory: order of the index", dir.Where, dir.Offset, dir.Ino)
		}
		if ok, err := v.readLeaf(src, dir, &p, leaf, key, ent); ok || err != nil {
			return err
		}
		if !more {
			return ErrEOF
		}
		key = leaf.end
		if _, _, err := v.dxNext(src, dir, &p); err != nil {
			return err
		}
		leaf.enter(begins)
	}
	ent.Off = cookieHashed + key
	return ErrContinue
}

// readLeaf looks for the entry in one leaf of the index.
func (v *Volume) readLeaf(src Source, dir *Inode, p *dxPath, leaf leafRange, key uint64,
	ent *Dirent) (ok bool, err error) {
	b, err := v.dirBlock(src, dir, p.leaf())
	if err != nil {
		return false, err
	}
	if b.data == nil {
		return false, Corrupt("directory: leaf is a hole", dir.Where, dir.Offset, dir.Ino)
	}
	o, err := v.orderLeaf(dir, []dirData{b}, leaf, ent)
	if err != nil {
		return false, err
	}
	return o.next(v, dir, key, ent), nil
}

// readLinear returns the first entry at or behind byte pos of the directory. Where "." and ".."
// have been read already, they are left out.
func (v *Volume) readLinear(src Source, dir *Inode, pos uint64, noDots bool, ent *Dirent) error {
	size := uint64(v.dirBlocks(dir)) << v.BlockBits
	for pos < size {
		lblk, within := pos>>v.BlockBits, int(pos&uint64(v.BlockSize-1))
		if within == 0 && lblk%linearPerStep == 0 {
			if err := v.wantBlocks(src, dir, Lblk(lblk)); err != nil {
				return err
			}
		}
		b, err := v.dirBlock(src, dir, Lblk(lblk))
		if err != nil {
			return err
		}
		next := lblk + 1
		if b.data == nil {
			next = lblk + uint64(b.hole)
		} else {
			end, ok, err := v.scan(&b, within, noDots)
			if err != nil {
				return err
			}
			if ok {
				return v.fillLinear(dir, &b, end, lblk<<v.BlockBits, ent)
			}
		}
		if pos = next << v.BlockBits; next/linearPerStep != lblk/linearPerStep {
			ent.Off = pos
			return ErrContinue
		}
	}
	return ErrEOF
}

// readInline reads an inline directory of a volume without indexes. The cookies are those which
// the entries have when the directory moves to a block, behind "." and "..".
func (v *Volume) readInline(dir *Inode, pos uint64, ent *Dirent) error {
	parts, err := v.inlineDir(dir)
	if err != nil {
		return err
	}
	const first = 2 * deSizeMin
	for i, name := range [2][]byte{dots[:1], dots} {
		if next := uint64(i+1) * deSizeMin; pos < next {
			err := v.inlineDots(dir, name, ent)
			ent.Off = next
			return err
		}
	}
	base := uint64(first)
	for i := range parts {
		b := &parts[i]
		if pos < base+uint64(len(b.data)) {
			off, ok, err := v.scan(b, int(max(pos, base)-base), false)
			if err != nil {
				return err
			}
			if ok {
				return v.fillLinear(dir, b, off, base, ent)
			}
		}
		base += uint64(len(b.data))
	}
	return ErrEOF
}

// scan finds the first used entry at or behind offset from. It goes there from the beginning: an
// entry may have grown over its successor since the cookie was given.
func (v *Volume) scan(b *dirData, from int, noDots bool) (off int, ok bool, err error) {
	for off < len(b.data) {
		n, problem := v.checkEntry(b, off)
		if problem != "" {
			return 0, false, b.corrupt(problem, off)
		}
		if off >= from && le32(b.data, off+deInode) != 0 &&
			!(noDots && isDots(b.data[off+deName:][:b.data[off+deNameLen]])) {
			return off, true, nil
		}
		off += n
	}
	return 0, false, nil
}

// fillLinear makes ent the entry at off of a part that begins at byte base of the directory.
func (v *Volume) fillLinear(dir *Inode, b *dirData, off int, base uint64, ent *Dirent) error {
	if problem := nameProblem(dir, b.data, off); problem != "" {
		return b.corrupt(problem, off)
	}
	var major, minor uint32
	if b.hashed {
		major, minor = storedHashes(b.data, off)
	}
	v.fillVisible(dir, b.data, off, major, minor, ent)
	ent.Off = base + uint64(off+recLen(b.data, off))
	return nil
}

// fillVisible makes ent the entry at off under the name that users see.
func (v *Volume) fillVisible(dir *Inode, data []byte, off int, major, minor uint32, ent *Dirent) {
	v.fill(&dirData{data: data}, off, ent)
	if dir.Flags&FlagEncrypt != 0 && !isDots(ent.Name) {
		ent.Name = ent.nokey[:nokeyName(ent.nokey[:], major, minor, ent.Name)]
	}
}

// nameProblem says what is wrong with the name of a used entry. The names of encrypted directories
// are any bytes.
func nameProblem(dir *Inode, data []byte, off int) string {
	name := data[off+deName:][:data[off+deNameLen]]
	switch {
	case len(name) == 0:
		return "empty name"
	case dir.Flags&FlagEncrypt != 0 && len(name) < cryptNameMin && !isDots(name):
		return "encrypted name is too short"
	case dir.Flags&FlagEncrypt == 0 && bytes.IndexByte(name, '/') >= 0:
		return "slash in a name"
	case dir.Flags&FlagEncrypt == 0 && bytes.IndexByte(name, 0) >= 0:
		return "zero byte in a name"
	}
	return ""
}
