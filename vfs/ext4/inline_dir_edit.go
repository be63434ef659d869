package ext4

// Inline directories: i_block holds the number of the parent and 56 bytes of entries, the value of
// "system.data" more of them.

// inlineDirRoom is how many bytes of entries lie in i_block.
const inlineDirRoom = inlineBlockSize - inlineDirParent

// initInlineDir makes a new directory, which has no contents yet, an inline one. ErrInlineFull: it
// has to get a block. Other errors: those of ed; CorruptError.
func (v *Volume) initInlineDir(ed Editor, dir *Inode, parent Ino) error {
	most, err := v.InlineMax(dir)
	if err != nil {
		return err
	}
	if most < inlineBlockSize {
		return ErrInlineFull
	}
	if err := v.beginInline(ed, dir); err != nil {
		return err
	}
	le.PutUint32(dir.IBlock[:], uint32(parent))
	putRecLen(dir.IBlock[inlineDirParent:], 0, inlineDirRoom)
	dir.Size = inlineBlockSize
	return nil
}

// growInlineDir gives an inline directory all the room for entries that there is in its inode.
// ErrInlineFull: it has that already, or nearly so. Other errors: those of ed; CorruptError.
func (v *Volume) growInlineDir(ed Editor, dir *Inode) error {
	rest, _, err := v.inlineRest(dir)
	if err != nil {
		return err
	}
	most, err := v.InlineMax(dir)
	if err != nil {
		return err
	}
	had, room := len(rest), most-inlineBlockSize
	if room < had+deSizeMin {
		return ErrInlineFull
	}
	if err := v.resizeInline(ed, dir, rest, room); err != nil {
		return err
	}
	parts, err := v.inlineDir(dir)
	if err != nil {
		return err
	}
	// What was added is one unused entry, or belongs to the last one there is.
	if had == 0 {
		putRecLen(parts[1].data, 0, room)
	} else if err := v.stretchLast(&parts[1], had, room); err != nil {
		return err
	}
	dir.Size = uint64(inlineBlockSize + room)
	return nil
}

// stretchLast makes the last of the entries that fill n bytes of a piece of a directory reach to
// byte end.
func (v *Volume) stretchLast(b *dirData, n, end int) error {
	part := *b
	part.data = b.data[:n]
	last, err := v.lastEntry(&part)
	if err == nil {
		putRecLen(b.data, last, end-last)
	}
	return err
}

// lastEntry verifies the entries of a piece of a directory, and returns where the last one is.
func (v *Volume) lastEntry(b *dirData) (last int, err error) {
	for off := 0; off < len(b.data); {
		size, problem := v.checkEntry(b, off)
		if problem != "" {
			return 0, b.corrupt(problem, off)
		}
		last = off
		off += size
	}
	return last, nil
}

// evictInlineDir makes an inline directory one with a block, in which its entries are in the same
// order. Errors: ENOSPC; ErrSpaceBusy; those of ed; CorruptError.
func (v *Volume) evictInlineDir(ed Editor, dir *Inode) error {
	parts, err := v.inlineDir(dir)
	if err != nil {
		return err
	}
	parent, err := v.inlineParent(dir)
	if err != nil {
		return err
	}
	list := ed.Space().block[:0]
	for i := range parts {
		if _, err := v.lastEntry(&parts[i]); err != nil {
			return err
		}
		list = append(list, parts[i].data...)
	}
	const dots = 2 * deSizeMin
	n := len(list)
	if dots+n > v.leafRoom() {
		return parts[1].corrupt("more entries than a block holds", 0)
	}
	if _, err := v.EvictInline(ed, dir, nil); err != nil {
		return err
	}
	dir.Size = 0
	b, _, err := v.appendBlock(ed, dir)
	if err != nil {
		return err
	}
	v.putEntry(b.data, 0, deSizeMin, []byte("."), dir.Ino, fileTypeDir)
	v.putEntry(b.data, deSizeMin, deSizeMin, []byte(".."), parent, fileTypeDir)
	copy(b.data[dots:], list)
	entries := b
	entries.data = b.data[dots:v.leafRoom()]
	if err := v.stretchLast(&entries, n, len(entries.data)); err != nil {
		return err
	}
	v.sealLeaf(dir, b.data)
	return nil
}
