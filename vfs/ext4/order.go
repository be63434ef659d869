package ext4

import (
	"bytes"
	"slices"
)

// leafRange is where a leaf lies in the order of hashes: all its entries get keys from begin
// to below end, so that none is left out even if its hash belongs elsewhere.
type leafRange struct {
	hasher     hasher
	begin, end uint64
	// hash and chain: the leaf is number chain, from 1, of those which go on with the names of
	// that hash. chain 0: it is not such a leaf.
	hash, chain uint32
}

// enter sets what is known from the hash with which the next leaf begins.
func (l *leafRange) enter(begins uint32) {
	hash := begins &^ 1
	switch {
	case begins&1 == 0:
		l.chain = 0
	case l.chain > 0 && l.hash == hash:
		l.chain++
	default:
		l.chain = 1
	}
	l.hash = hash
	l.begin = uint64(hash>>1)<<cookieHashShift | uint64(l.chain)<<cookieMinorBits
}

// leave sets the end from the hash with which the next leaf begins, if there is one.
func (l *leafRange) leave(begins uint32, more bool) {
	if !more {
		l.end = cookieHashed
		return
	}
	next := *l
	next.enter(begins)
	l.end = next.begin
}

// chainOf is the number of the leaf in the chain of a hash, 0 for the one where it begins.
func (l *leafRange) chainOf(hash uint32) uint32 {
	if l.hash == hash {
		return l.chain
	}
	return 0
}

// key places two hashes in the order of the leaf.
func (l *leafRange) key(major, minor uint32) uint64 {
	return uint64(major>>1)<<cookieHashShift | uint64(l.chainOf(major&^1))<<cookieMinorBits |
		uint64(min(minor>>(32-cookieMinorBits), cookieMinorMax))
}

// leafOrder is the order of the entries of a leaf. It is a function of the leaf's bytes, and is
// kept from one ReadDir to the next for as long as those are the same: comparing 4 KiB takes a
// tenth of a microsecond, hashing and sorting them a hundred times as long.
type leafOrder struct {
	leaf  leafRange
	dir   Ino
	flags uint32
	data  []byte // copy of the leaf, the parts of an inline directory one behind the other
	ents  []orderedEntry
}

type orderedEntry struct {
	key uint64
	off int // in data
}

// orderLeaf returns the order of a leaf, from ent's memory if it is there.
func (v *Volume) orderLeaf(dir *Inode, parts []dirData, leaf leafRange,
	ent *Dirent) (*leafOrder, error) {
	if ent.order == nil {
		ent.order = new(leafOrder)
	}
	o := ent.order
	if o.dir == dir.Ino && o.flags == dir.Flags && o.leaf == leaf && o.same(parts) {
		return o, nil
	}
	o.dir, o.flags, o.leaf, o.data, o.ents = 0, dir.Flags, leaf, o.data[:0], o.ents[:0]
	for i := range parts {
		if err := v.collect(dir, &parts[i], o); err != nil {
			return nil, err
		}
	}
	o.sort()
	o.dir = dir.Ino
	return o, nil
}

// same tells whether o is about the same bytes.
func (o *leafOrder) same(parts []dirData) bool {
	rest := o.data
	for i := range parts {
		data := parts[i].data
		if len(data) > len(rest) || !bytes.Equal(data, rest[:len(data)]) {
			return false
		}
		rest = rest[len(data):]
	}
	return len(rest) == 0
}

// collect adds the used entries of a part of the leaf, but for "." and "..".
func (v *Volume) collect(dir *Inode, b *dirData, o *leafOrder) error {
	base := len(o.data)
	o.data = append(o.data, b.data...)
	for off := 0; off < len(b.data); {
		n, problem := v.checkEntry(b, off)
		if problem != "" {
			return b.corrupt(problem, off)
		}
		if le32(b.data, off+deInode) != 0 {
			if problem := nameProblem(dir, b.data, off); problem != "" {
				return b.corrupt(problem, off)
			}
			name := b.data[off+deName:][:b.data[off+deNameLen]]
			if !isDots(name) {
				major, minor := v.entryHashes(dir, &o.leaf.hasher, b.data, off)
				if o.leaf.hasher.legacy() { // which has no minor hash
					minor = crc32c(0, name)
				}
				o.ents = append(o.ents, orderedEntry{o.leaf.key(major, minor), base + off})
			}
		}
		off += n
	}
	return nil
}

// sort puts the entries in order and makes their keys unique, and such as the leaf's range allows.
func (o *leafOrder) sort() {
	slices.SortFunc(o.ents, func(a, b orderedEntry) int {
		switch {
		case a.key < b.key:
			return -1
		case a.key > b.key:
			return 1
		}
		return bytes.Compare(o.name(a.off), o.name(b.off))
	})
	least := o.leaf.begin
	for i := range o.ents {
		e := &o.ents[i]
		e.key = max(e.key, least)
		least = e.key + 1
	}
	most := o.leaf.end - 1
	for i := len(o.ents) - 1; i >= 0; i-- {
		e := &o.ents[i]
		e.key = min(e.key, most)
		most = e.key - 1
	}
}

func (o *leafOrder) name(off int) []byte {
	return o.data[off+deName:][:o.data[off+deNameLen]]
}

// next makes ent the first entry whose key is not below the given one; false if there is none.
func (o *leafOrder) next(v *Volume, dir *Inode, key uint64, ent *Dirent) bool {
	low, high := 0, len(o.ents)
	for low < high {
		if mid := (low + high) / 2; o.ents[mid].key < key {
			low = mid + 1
		} else {
			high = mid
		}
	}
	if low == len(o.ents) {
		return false
	}
	e := &o.ents[low]
	var major, minor uint32
	if dir.Flags&FlagEncrypt != 0 {
		major, minor = v.entryHashes(dir, &o.leaf.hasher, o.data, e.off)
		if hashInEntry(dir) {
			major, minor = storedHashes(o.data, e.off)
		}
	}
	v.fillVisible(dir, o.data, e.off, major, minor, ent)
	ent.Off = cookieHashed + e.key + 1
	return true
}

// storedHashes returns the hashes that an entry carries behind its name.
func storedHashes(data []byte, off int) (major, minor uint32) {
	at := off + entrySize(int(data[off+deNameLen]), false)
	return le32(data, at), le32(data, at+4)
}

// entryHashes returns the hashes of the name of an entry.
func (v *Volume) entryHashes(dir *Inode, h *hasher, data []byte, off int) (major, minor uint32) {
	if hashInEntry(dir) {
		return storedHashes(data, off)
	}
	name := data[off+deName:][:data[off+deNameLen]]
	if dir.Flags&FlagCasefold != 0 && v.foldKnown() {
		if folded := foldName(name); folded != nil {
			name = folded
		}
	}
	return h.name(name)
}
