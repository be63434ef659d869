package ext4

// quotaTree is a quota file that is looked at or changed.
type quotaTree struct {
	v  *Volume
	t  QuotaType
	in Inode
}

// quotaPart is a block of a quota file, and where it is.
type quotaPart struct {
	data  []byte
	where Block
	off   int
}

func (f *quotaTree) corrupt(what string, where Block, off int) error {
	return Corrupt("quota file: "+what, where, off, f.in.Ino)
}

// openQuota reads the inode of a quota file.
func (v *Volume) openQuota(src Source, f *quotaTree, t QuotaType, ino Ino) error {
	f.v, f.t = v, t
	err := v.ReadInode(src, ino, &f.in)
	if err != nil {
		return err
	}
	if !v.HasMapping(&f.in) || f.in.IsDir() {
		return f.corrupt("inode", f.in.Where, f.in.Offset)
	}
	return nil
}

// place returns where block n of the file is.
func (f *quotaTree) place(src Source, n uint32) (Block, int, error) {
	bits := f.v.BlockBits
	at := uint64(n) << quotaBlockBits
	if at+quotaBlockSize > f.in.Size {
		return 0, 0, f.corrupt("block behind its end", f.in.Where, f.in.Offset)
	}
	var run Run
	if err := f.v.Map(src, &f.in, Lblk(at>>bits), 1, &run); err != nil {
		return 0, 0, err
	}
	if run.State != RunMapped {
		return 0, 0, f.corrupt("hole", f.in.Where, f.in.Offset)
	}
	return run.Phys, int(at & uint64(f.v.BlockSize-1)), nil
}

// block returns block n of the file, to be looked at.
func (f *quotaTree) block(src Source, n uint32) (p quotaPart, err error) {
	if p.where, p.off, err = f.place(src, n); err != nil {
		return p, err
	}
	buf, err := src.Block(p.where)
	if err == nil {
		p.data = buf.Data[p.off : p.off+quotaBlockSize]
	}
	return p, err
}

// edit returns block n of the file, to be changed.
func (f *quotaTree) edit(ed Editor, n uint32) (p quotaPart, err error) {
	if p.where, p.off, err = f.place(ed, n); err != nil {
		return p, err
	}
	buf, err := ed.Modify(p.where)
	if err == nil {
		p.data = buf.Data[p.off : p.off+quotaBlockSize]
	}
	return p, err
}

// quotaIndex is where in an index of a level the reference for an id is.
func quotaIndex(id uint32, depth int) int {
	return 4 * int(id>>(8*(quotaDepth-1-depth))&0xff)
}

// ref returns the block that an index block names for an id, 0 if there is none.
func (f *quotaTree) ref(p *quotaPart, id uint32, depth int) (uint32, error) {
	off := quotaIndex(id, depth)
	n := le32(p.data, off)
	if n != 0 && n <= quotaRoot {
		return 0, f.corrupt("index", p.where, p.off+off)
	}
	return n, nil
}

// entry finds the entry of an id in its leaf.
func (f *quotaTree) entry(p *quotaPart, id uint32) (quotaHint, error) {
	for i := range quotaEntriesMax {
		off := qdSize + i*qeSize
		if e := p.data[off : off+qeSize]; le32(e, qeID) == id && !allZero(e) {
			return quotaHint{block: p.where, off: uint32(p.off + off), id: id, t: f.t}, nil
		}
	}
	return quotaHint{}, f.corrupt("entry is missing in its leaf", p.where, p.off)
}

// findQuota looks for the entry of an id; block is 0 if there is none.
func (v *Volume) findQuota(src Editor, t QuotaType, id uint32) (quotaHint, error) {
	q := src.Space().quotas
	h := quotaHint{id: id, t: t}
	if x := q.hints[h.slot()]; x.block != 0 && x.id == id && x.t == t {
		return x, nil
	}
	for _, x := range q.fresh[:q.nfresh] {
		if x.id == id && x.t == t {
			return x, nil
		}
	}
	var f quotaTree
	if err := v.openQuota(src, &f, t, q.files[t].ino); err != nil {
		return quotaHint{}, err
	}
	n := uint32(quotaRoot)
	for depth := range quotaDepth {
		p, err := f.block(src, n)
		if err != nil {
			return quotaHint{}, err
		}
		if n, err = f.ref(&p, id, depth); n == 0 || err != nil {
			return quotaHint{}, err
		}
	}
	leaf, err := f.block(src, n)
	if err != nil {
		return quotaHint{}, err
	}
	h, err = f.entry(&leaf, id)
	q.remember(h)
	return h, err
}

func (q *Quotas) remember(h quotaHint) {
	if h.block != 0 && q.nfresh < len(q.fresh) {
		q.fresh[q.nfresh] = h
		q.nfresh++
	}
}

// addQuota makes an entry for an id that has none. Most blocks that change: a leaf and three
// indexes, all new, with bitmap and descriptor; the index above, the header, the file's inode.
func (v *Volume) addQuota(ed Editor, t QuotaType, id uint32) (h quotaHint, err error) {
	var f quotaTree
	q := ed.Space().quotas
	if err := v.openQuota(ed, &f, t, q.files[t].ino); err != nil {
		return h, err
	}
	at := uint32(quotaRoot)
	for depth := range quotaDepth {
		p, err := f.block(ed, at)
		if err != nil {
			return h, err
		}
		next, err := f.ref(&p, id, depth)
		switch {
		case err != nil:
			return h, err
		case depth == quotaDepth-1:
			next, h, err = f.addEntry(ed, id)
		case next == 0:
			next, _, err = f.newBlock(ed)
		default:
			at = next
			continue
		}
		if err != nil {
			return h, err
		}
		if p, err = f.edit(ed, at); err != nil {
			return h, err
		}
		le.PutUint32(p.data[quotaIndex(id, depth):], next)
		at = next
	}
	q.remember(h)
	return h, v.WriteInode(ed, &f.in)
}

// newBlock returns a block of zeros: one that is not used, or one behind all others.
func (f *quotaTree) newBlock(ed Editor) (uint32, quotaPart, error) {
	header, err := f.edit(ed, 0)
	if err != nil {
		return 0, quotaPart{}, err
	}
	n := le32(header.data, qhFreeBlk)
	if n == 0 {
		n = le32(header.data, qhBlocks)
		if err := f.grow(ed, n); err != nil {
			return 0, quotaPart{}, err
		}
		le.PutUint32(header.data[qhBlocks:], n+1)
	} else if n <= quotaRoot {
		return 0, quotaPart{}, f.corrupt("list of free blocks", header.where, header.off)
	}
	p, err := f.edit(ed, n)
	if err != nil {
		return 0, quotaPart{}, err
	}
	if n == le32(header.data, qhFreeBlk) {
		copy(header.data[qhFreeBlk:qhFreeBlk+4], p.data[qdNextFree:])
	}
	clear(p.data)
	return n, p, nil
}

// grow makes block n, the one behind its end, a part of the file.
func (f *quotaTree) grow(ed Editor, n uint32) error {
	v, in := f.v, &f.in
	at := uint64(n) << quotaBlockBits
	lblk := Lblk(at >> v.BlockBits)
	var run Run
	if err := v.Map(ed, in, lblk, 1, &run); err != nil {
		return err
	}
	in.Size = max(in.Size, at+quotaBlockSize)
	if run.State == RunMapped {
		return nil
	}
	// NB: who gets his first block on a full filesystem must be counted, as in the kernel.
	b, got, err := v.appendPlace(ed, in, lblk, Alloc{Tree: true})
	if err != nil {
		return err
	}
	if _, err := ed.Fresh(b); err != nil {
		return err
	}
	in.Sectors += uint64(got) << (v.BlockBits - 9)
	return v.InsertRun(ed, in, lblk, b, 1, false)
}

// addEntry writes an entry for an id to a leaf with room, and returns the leaf.
func (f *quotaTree) addEntry(ed Editor, id uint32) (n uint32, h quotaHint, err error) {
	header, err := f.edit(ed, 0)
	if err != nil {
		return 0, h, err
	}
	var p quotaPart
	if n = le32(header.data, qhFreeEntry); n == 0 {
		n, p, err = f.newBlock(ed)
		le.PutUint32(header.data[qhFreeEntry:], n)
	} else if p, err = f.edit(ed, n); n <= quotaRoot && err == nil {
		err = f.corrupt("list of leaves", header.where, header.off)
	}
	if err != nil {
		return 0, h, err
	}
	count := le16(p.data, qdEntries) + 1
	le.PutUint16(p.data[qdEntries:], count)
	if count >= quotaEntriesMax {
		if err := f.unlistLeaf(ed, &header, &p); err != nil {
			return 0, h, err
		}
	}
	for i := range quotaEntriesMax {
		off := qdSize + i*qeSize
		if e := p.data[off : off+qeSize]; allZero(e) {
			le.PutUint32(e[qeID:], id)
			if id == 0 {
				le.PutUint64(e[qeITime:], 1)
			}
			return n, quotaHint{block: p.where, off: uint32(p.off + off), id: id, t: f.t}, nil
		}
	}
	return 0, h, f.corrupt("count of entries", p.where, p.off+qdEntries)
}

// unlistLeaf takes a leaf that gets full, the first one, off the list of those with room.
func (f *quotaTree) unlistLeaf(ed Editor, header, leaf *quotaPart) error {
	next := le32(leaf.data, qdNextFree)
	le.PutUint32(header.data[qhFreeEntry:], next)
	if next != 0 {
		p, err := f.edit(ed, next)
		if err != nil {
			return err
		}
		le.PutUint32(p.data[qdPrevFree:], 0)
	}
	le.PutUint32(leaf.data[qdNextFree:], 0)
	le.PutUint32(leaf.data[qdPrevFree:], 0)
	return nil
}
