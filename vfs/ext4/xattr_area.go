package ext4

import "bytes"

// Changing a list of attributes in its memory. The entries grow up from the beginning, the values
// down from the end; there are no gaps between values, so that all room is in the middle.

func xattrPadded(size int) int { return (size + xePad - 1) &^ (xePad - 1) }

// offset returns where an entry begins.
func (e *xattrEntry) offset() int { return e.next - xattrEntrySize(len(e.name)) }

// held is how many bytes the value of an entry takes in the area.
func (e *xattrEntry) held() int {
	if e.inum != 0 {
		return 0
	}
	return xattrPadded(int(e.size))
}

// lowest returns where the values begin.
func (a *xattrArea) lowest() int {
	lowest := len(a.data)
	var e xattrEntry
	for off := a.first; off < a.end; off = e.next {
		if e = a.at(off); e.held() > 0 {
			lowest = min(lowest, int(e.offs))
		}
	}
	return lowest
}

// room is how many bytes there are for more entries and values.
func (a *xattrArea) room() int { return a.lowest() - a.end - xattrEndBytes }

// fits says whether there is room to set an attribute.
func (a *xattrArea) fits(c *xattrChange) bool {
	room := a.room()
	if e, ok := a.find(c.index, c.name); ok {
		room += xattrEntrySize(len(c.name)) + e.held()
	}
	return room >= xattrEntrySize(len(c.name))+c.held()
}

// was returns the entry of the attribute that is going to be changed, an empty one if there is
// none.
func (a *xattrArea) was(c *xattrChange) xattrEntry {
	if e, ok := a.find(c.index, c.name); ok {
		return e
	}
	return xattrEntry{}
}

// change sets an attribute, for which there is room, or removes one, which is there.
func (a *xattrArea) change(c *xattrChange) error {
	e, found := a.find(c.index, c.name)
	off := 0
	switch {
	case !found:
		off = a.insertEntry(c)
	case c.remove:
		a.cutValue(&e)
		a.cutEntry(&e)
		return nil
	case e.held() != c.held():
		a.cutValue(&e)
		off = e.offset()
	default: // no other value has to move
		off = e.offset()
		a.writeValue(off, int(e.offs), c)
		return nil
	}
	at := a.lowest() - c.held()
	if at < a.end+xattrEndBytes { // values lie one over the other, or entries have lied
		return a.corrupt("values overlap", off)
	}
	a.writeValue(off, at, c)
	return nil
}

// writeValue writes the value of the entry at off to at, unless it has an inode of its own, and
// what the entry says of it.
func (a *xattrArea) writeValue(off, at int, c *xattrChange) {
	held := c.held()
	if held == 0 {
		at = 0
	}
	p := a.data[off:]
	le.PutUint16(p[xeValueOffs:], uint16(at))
	le.PutUint32(p[xeValueInum:], uint32(c.inum))
	le.PutUint32(p[xeValueSize:], uint32(len(c.value)))
	if held > 0 {
		clear(a.data[at+copy(a.data[at:], c.value) : at+held])
	}
	hash := uint32(0)
	switch {
	case c.own:
		hash = xattrHash(c.name, c.hash, true)
	case a.hashed:
		hash = xattrHashWords(c.name, a.data[at:][:held])
	}
	le.PutUint32(p[xeHash:], hash)
}

// insertEntry makes room for an entry, without a value yet, and returns where: at the end, or in
// the order that blocks have.
func (a *xattrArea) insertEntry(c *xattrChange) (off int) {
	off = a.end
	if a.hashed {
		for off = a.first; off < a.end; {
			e := a.at(off)
			if c.before(&e) {
				break
			}
			off = e.next
		}
	}
	size := xattrEntrySize(len(c.name))
	copy(a.data[off+size:], a.data[off:a.end])
	a.end += size
	p := a.data[off : off+size]
	clear(p)
	p[xeNameLen], p[xeNameIndex] = uint8(len(c.name)), c.index
	copy(p[xeName:], c.name)
	clear(a.data[a.end : a.end+xattrEndBytes])
	return off
}

// before says whether an attribute stands before an entry in a block: by prefix, then length of
// the name, then name.
func (c *xattrChange) before(e *xattrEntry) bool {
	switch {
	case c.index != e.index:
		return c.index < e.index
	case len(c.name) != len(e.name):
		return len(c.name) < len(e.name)
	}
	return bytes.Compare(c.name, e.name) < 0
}

// cutValue takes the value of an entry out, and moves those below it up.
func (a *xattrArea) cutValue(e *xattrEntry) {
	size := e.held()
	if size == 0 {
		return
	}
	lowest, at := a.lowest(), int(e.offs)
	copy(a.data[lowest+size:], a.data[lowest:at])
	clear(a.data[lowest : lowest+size])
	var x xattrEntry
	for off := a.first; off < a.end; off = x.next {
		if x = a.at(off); x.held() > 0 && int(x.offs) < at {
			le.PutUint16(a.data[off+xeValueOffs:], x.offs+uint16(size))
		}
	}
	p := a.data[e.offset():]
	le.PutUint16(p[xeValueOffs:], 0)
	le.PutUint32(p[xeValueSize:], 0)
}

// cutEntry takes an entry out, whose value is gone already.
func (a *xattrArea) cutEntry(e *xattrEntry) {
	copy(a.data[e.offset():], a.data[e.next:a.end])
	size := e.next - e.offset()
	clear(a.data[a.end-size : a.end])
	a.end -= size
}

// xattrHashWords is e_hash of an entry in a block: of its name and its padded value.
//
// NB: the kernel took the characters of names as signed on most machines, and takes them as
// unsigned now; e2fsck allows both, and nobody else looks at the hash of a value in its place.
func xattrHashWords(name, padded []byte) uint32 {
	hash := xattrNameHash(name, true)
	for ; len(padded) > 0; padded = padded[4:] {
		hash = hash<<16 ^ hash>>16 ^ le32(padded, 0)
	}
	return hash
}

// rehash sets h_hash of a block, of the hashes of all entries; 0 if one of them is: such a block
// is not shared.
func (a *xattrArea) rehash() {
	hash := uint32(0)
	var e xattrEntry
	for off := a.first; off < a.end; off = e.next {
		if e = a.at(off); e.hash == 0 {
			hash = 0
			break
		}
		hash = hash<<16 ^ hash>>16 ^ e.hash
	}
	le.PutUint32(a.data[xhHash:], hash)
}

// same says whether two blocks hold the same attributes.
func (a *xattrArea) same(b *xattrArea) bool {
	i, j := a.first, b.first
	for i < a.end && j < b.end {
		x, y := a.at(i), b.at(j)
		if x.index != y.index || x.size != y.size || x.inum != y.inum || x.hash != y.hash ||
			!bytes.Equal(x.name, y.name) ||
			x.inum == 0 && !bytes.Equal(a.value(&x), b.value(&y)) {
			return false
		}
		i, j = x.next, y.next
	}
	return i == a.end && j == b.end
}
