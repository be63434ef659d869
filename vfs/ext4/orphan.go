package ext4

import "golang.org/x/sys/unix"

// Orphans are inodes that the next mount after a crash has to finish: those without a name, to be
// freed, and those that are being cut at their size ("Orphan file"; the list is described with
// s_last_orphan in "Super Block"). On the disk there are two forms:
//
//   - a list: the superblock names the newest one, and each names, in i_dtime, the one before
//   - with the feature orphan_file, a file of inode numbers, so that adding one does not always
//     change the same block; when it is full the list is used
//
// Taking an inode out of the list needs the one that names it, which is only known here, in memory.
// Without a journal nothing could be made of either form after a crash: then there is only this
// memory.
//
// Invariants: an inode is in at most one place; the links here are those on the disk. Like those of
// Space, changes are undone with the attempt that made them.
type Orphans struct {
	// newest is s_last_orphan.
	newest Ino
	// table is open-addressed by inode number; its length is a power of two, and it is at most
	// half full. An entry with ino 0 is free.
	table []orphan
	count int
	// blocks are those of the orphan file; hint is one that may have room.
	blocks []orphanBlock
	hint   int
	seed   uint32 // of its checksums
	undo   []orphanUndo
}

// orphan is what is known of one inode.
type orphan struct {
	ino Ino
	// prev names it in the list, 0 for the superblock; next is whom it names. place is orphanList
	// for those two to mean something, orphanMemory, or the number of its entry in the file.
	prev, next Ino
	place      int32
}

const (
	orphanList   = -1
	orphanMemory = -2
)

// orphanBlock is a block of the orphan file.
type orphanBlock struct {
	where Block
	free  uint32 // entries that are 0
}

// orphanUndo is what there was before a change: the inode's entry, its ino 0 if there was none;
// newest; and free of a block, if block is not -1.
type orphanUndo struct {
	ino    Ino
	was    orphan
	newest Ino
	block  int32
	free   uint32
}

// orphansMin is the number of entries that the table begins with: 16 KiB.
const orphansMin = 1 << 10

func newOrphans() *Orphans {
	return &Orphans{table: make([]orphan, orphansMin), undo: make([]orphanUndo, 0, 64)}
}

// Has says whether an inode is an orphan.
func (o *Orphans) Has(ino Ino) bool { return o.find(ino) != nil }

// List returns all orphans, the newest of the list first.
func (o *Orphans) List() (list []Ino) {
	for ino := o.newest; ino != 0; ino = o.find(ino).next {
		list = append(list, ino)
	}
	for i := range o.table {
		if e := &o.table[i]; e.ino != 0 && e.place != orphanList {
			list = append(list, e.ino)
		}
	}
	return list
}

// Begin starts an attempt.
func (o *Orphans) Begin() { o.undo = o.undo[:0] }

// Rollback undoes all changes since Begin.
func (o *Orphans) Rollback() {
	for i := len(o.undo) - 1; i >= 0; i-- {
		u := &o.undo[i]
		o.newest = u.newest
		if u.block >= 0 {
			o.blocks[u.block].free = u.free
		}
		switch e := o.find(u.ino); {
		case u.was.ino == 0:
			o.drop(u.ino)
		case e != nil:
			*e = u.was
		default:
			o.insert(u.was)
		}
	}
	o.undo = o.undo[:0]
}

// note keeps what is going to change: of an inode, and of block of the orphan file if it is not -1.
func (o *Orphans) note(ino Ino, block int) {
	u := orphanUndo{ino: ino, newest: o.newest, block: int32(block)}
	if e := o.find(ino); e != nil {
		u.was = *e
	}
	if block >= 0 {
		u.free = o.blocks[block].free
	}
	o.undo = append(o.undo, u)
}

// home is where the search for an inode begins.
func (o *Orphans) home(ino Ino) int {
	return int(uint32(ino) * 0x9e3779b1 >> 1 & uint32(len(o.table)-1))
}

// find returns the entry of an inode, nil if there is none.
func (o *Orphans) find(ino Ino) *orphan {
	if ino == 0 {
		return nil
	}
	for i := o.home(ino); o.table[i].ino != 0; i = (i + 1) & (len(o.table) - 1) {
		if o.table[i].ino == ino {
			return &o.table[i]
		}
	}
	return nil
}

// insert adds an inode that is not there. The table grows with the most orphans there ever were,
// which are at most the inodes that programs keep open.
func (o *Orphans) insert(e orphan) {
	if 2*(o.count+1) > len(o.table) {
		old := o.table
		o.table, o.count = make([]orphan, 2*len(old)), 0
		for _, e := range old {
			if e.ino != 0 {
				o.insert(e)
			}
		}
	}
	i := o.home(e.ino)
	for o.table[i].ino != 0 {
		i = (i + 1) & (len(o.table) - 1)
	}
	o.table[i] = e
	o.count++
}

// drop takes an inode out of the table, and moves those up that stand behind it because of it.
func (o *Orphans) drop(ino Ino) {
	mask := len(o.table) - 1
	hole := o.home(ino)
	for o.table[hole].ino != ino {
		hole = (hole + 1) & mask
	}
	for i := (hole + 1) & mask; o.table[i].ino != 0; i = (i + 1) & mask {
		if (i-o.home(o.table[i].ino))&mask >= (i-hole)&mask {
			o.table[hole] = o.table[i]
			hole = i
		}
	}
	o.table[hole] = orphan{}
	o.count--
}

// AddOrphan makes an inode an orphan; one that is stays it. In the list it changes in.Dtime, which
// the caller writes. Errors: those of ed; CorruptError.
func (v *Volume) AddOrphan(ed Editor, o *Orphans, in *Inode) error {
	switch {
	case o.Has(in.Ino):
		return nil
	case !v.HasCompat(CompatHasJournal):
		o.note(in.Ino, -1)
		o.insert(orphan{ino: in.Ino, place: orphanMemory})
		return nil
	}
	if done, err := v.addToFile(ed, o, in.Ino); done || err != nil {
		return err
	}
	sb, err := v.editSuper(ed)
	if err != nil {
		return err
	}
	le.PutUint32(sb[sLastOrphan:], uint32(in.Ino))
	v.sealSuper(sb)
	in.Dtime = uint32(o.newest)
	o.note(in.Ino, -1)
	o.insert(orphan{ino: in.Ino, next: o.newest, place: orphanList})
	if e := o.find(o.newest); e != nil {
		o.note(e.ino, -1)
		e.prev = in.Ino
	}
	o.newest = in.Ino
	return nil
}

// RemoveOrphan takes an inode out of the orphans, if it is one, and clears in.Dtime, which the
// caller writes.
//
// NB: it may change another inode, the one that names this one in the list. The caller must not
// have that one decoded, to write it later. Errors: those of ed; CorruptError.
func (v *Volume) RemoveOrphan(ed Editor, o *Orphans, in *Inode) error {
	e := o.find(in.Ino)
	if e == nil {
		return nil
	}
	was := *e
	switch {
	case was.place >= 0:
		return v.removeFromFile(ed, o, was)
	case was.place == orphanMemory:
		o.note(was.ino, -1)
		o.drop(was.ino)
		return nil
	}
	if err := v.relinkOrphan(ed, was.prev, was.next); err != nil {
		return err
	}
	in.Dtime = 0
	o.note(was.ino, -1)
	o.drop(was.ino)
	if prev := o.find(was.prev); prev != nil {
		o.note(prev.ino, -1)
		prev.next = was.next
	} else {
		o.newest = was.next
	}
	if next := o.find(was.next); next != nil {
		o.note(next.ino, -1)
		next.prev = was.prev
	}
	return nil
}

// relinkOrphan has prev, or the superblock if prev is 0, name next.
func (v *Volume) relinkOrphan(ed Editor, prev, next Ino) error {
	if prev == 0 {
		sb, err := v.editSuper(ed)
		if err != nil {
			return err
		}
		le.PutUint32(sb[sLastOrphan:], uint32(next))
		v.sealSuper(sb)
		return nil
	}
	b, off, err := v.InodeBlock(prev)
	if err != nil {
		return err
	}
	buf, err := ed.Modify(b)
	if err != nil {
		return err
	}
	raw := buf.Data[off : off+int(v.InodeSize)]
	in := Inode{Ino: prev, Where: b, Offset: off}
	if err := v.decodeInode(buf.Checked, raw, &in); err != nil {
		return err
	}
	le.PutUint32(raw[iDtime:], uint32(next))
	v.sealInode(raw, &in)
	return nil
}

// LoadOrphans reads the orphans that a crash has left. A CorruptError comes with a result all the
// same: what is broken is left out of it, be it the rest of the list, an entry of the orphan file,
// or all of that file, which is then not used. Other errors are those of src.
func (v *Volume) LoadOrphans(src Source) (*Orphans, error) {
	o := newOrphans()
	broken, err := v.loadList(src, o)
	if err == nil && v.HasCompat(CompatOrphanFile) {
		var problem error
		if problem, err = v.loadOrphanFile(src, o); broken == nil {
			broken = problem
		}
	}
	o.undo = o.undo[:0]
	if err == nil {
		err = broken
	}
	return o, err
}

// loadList follows the list to its end, or to where it is broken.
func (v *Volume) loadList(src Source, o *Orphans) (broken, err error) {
	sb, err := v.readSuper(src)
	if err != nil {
		return nil, err
	}
	var last Ino
	var in Inode
	for ino := Ino(le32(sb, sLastOrphan)); ino != 0; ino = Ino(in.Dtime) {
		broken, err = v.checkOrphan(src, o, ino, &in)
		if broken != nil || err != nil {
			return broken, err
		}
		o.insert(orphan{ino: ino, prev: last, place: orphanList})
		if e := o.find(last); e != nil {
			e.next = ino
		} else {
			o.newest = ino
		}
		last = ino
	}
	return nil, nil
}

// checkOrphan reads an inode that is said to be an orphan. What is none, but damage, must not be
// freed: broken says why.
func (v *Volume) checkOrphan(src Source, o *Orphans, ino Ino, in *Inode) (broken, err error) {
	switch {
	case ino < v.FirstInode || ino > v.InodesCount:
		return Corrupt("orphans: inode number", 0, 0, ino), nil
	case o.Has(ino):
		return Corrupt("orphans: inode twice", 0, 0, ino), nil
	}
	used, err := v.inodeUsed(src, ino)
	if err == nil && !used {
		return Corrupt("orphans: free inode", 0, 0, ino), nil
	}
	if err == nil {
		err = v.ReadUnlinked(src, ino, in)
	}
	if corrupt, ok := err.(*CorruptError); ok {
		return corrupt, nil
	}
	if err == nil && in.Links > 0 && in.Type() != unix.S_IFREG && in.Type() != unix.S_IFDIR &&
		in.Type() != unix.S_IFLNK {
		return Corrupt("orphans: inode has a name, and nothing to cut", in.Where, in.Offset, ino),
			nil
	}
	return nil, err
}

// inodeUsed says whether the bitmap shows an inode as used.
func (v *Volume) inodeUsed(src Source, ino Ino) (bool, error) {
	g, i := v.groupOfInode(ino), uint32(ino-1)%v.InodesPerGroup
	per := v.BlockSize / uint32(v.DescSize)
	buf, err := src.Block(v.descBlock(uint32(g) / per))
	if err != nil {
		return false, err
	}
	off := uint32(g) % per * uint32(v.DescSize)
	bitmap, err := v.bitmapOf(src, g, buf.Data[off:off+uint32(v.DescSize)], &inodeBitmap)
	return bitmap != nil && hasBit(bitmap, i), err
}
