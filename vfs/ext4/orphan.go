package ext4

import (
	"fmt"
)

// Orphans are the inodes that the next mount has to deal with if this one does not: those without
// a name, which are to be freed, and those that are being cut. The disk has them in a list that
// begins in the superblock and goes on in i_dtime, or in slots of the orphan file ("Orphan file").
// New ones always go to the list, which every kernel reads.
//
// Like those to a Space, changes are undone with the attempt that made them.
type Orphans struct {
	links map[Ino]orphanLink
	head  Ino
	undo  []orphanUndo
}

// orphanLink is what is known of one orphan: its neighbours on the list, or its slot in the file.
type orphanLink struct {
	prev, next Ino
	slot       orphanSlot
}

// orphanSlot is a place in the orphan file; block 0 is none.
type orphanSlot struct {
	block Block
	index uint32
}

type orphanUndo struct {
	ino     Ino
	link    orphanLink
	removed bool
}

// Begin starts an attempt.
func (o *Orphans) Begin() { o.undo = o.undo[:0] }

// Rollback undoes all changes since Begin.
func (o *Orphans) Rollback() {
	for i := len(o.undo) - 1; i >= 0; i-- {
		if u := &o.undo[i]; u.removed {
			o.insert(u.ino, u.link)
		} else {
			o.remove(u.ino)
		}
	}
	o.undo = o.undo[:0]
}

// Has says whether an inode is an orphan.
func (o *Orphans) Has(ino Ino) bool {
	_, ok := o.links[ino]
	return ok
}

// List returns all orphans.
func (o *Orphans) List() (list []Ino) {
	for ino := range o.links {
		list = append(list, ino)
	}
	return list
}

// insert puts an inode between its neighbours.
func (o *Orphans) insert(ino Ino, l orphanLink) {
	o.links[ino] = l
	if l.slot.block != 0 {
		return
	}
	if l.prev == 0 {
		o.head = ino
	} else {
		p := o.links[l.prev]
		p.next = ino
		o.links[l.prev] = p
	}
	if l.next != 0 {
		n := o.links[l.next]
		n.prev = ino
		o.links[l.next] = n
	}
}

func (o *Orphans) remove(ino Ino) {
	l := o.links[ino]
	delete(o.links, ino)
	if l.slot.block != 0 {
		return
	}
	if l.prev == 0 {
		o.head = l.next
	} else {
		p := o.links[l.prev]
		p.next = l.next
		o.links[l.prev] = p
	}
	if l.next != 0 {
		n := o.links[l.next]
		n.prev = l.prev
		o.links[l.next] = n
	}
}

// AddOrphan makes in, which the caller writes, an orphan; it may be one already.
func (v *Volume) AddOrphan(ed Editor, o *Orphans, in *Inode) error {
	if o.Has(in.Ino) {
		return nil
	}
	super, err := v.editSuper(ed)
	if err != nil {
		return err
	}
	l := orphanLink{next: o.head}
	in.Dtime = uint32(o.head)
	le.PutUint32(super[sLastOrphan:], uint32(in.Ino))
	v.sealSuper(super)
	o.insert(in.Ino, l)
	o.undo = append(o.undo, orphanUndo{ino: in.Ino, link: l})
	return nil
}

// RemoveOrphan makes in, which the caller writes, an orphan no more; it need not be one.
func (v *Volume) RemoveOrphan(ed Editor, o *Orphans, in *Inode) error {
	l, ok := o.links[in.Ino]
	if !ok {
		return nil
	}
	var err error
	switch {
	case l.slot.block != 0:
		err = v.clearOrphanSlot(ed, l.slot)
	case l.prev == 0:
		var super []byte
		if super, err = v.editSuper(ed); err == nil {
			le.PutUint32(super[sLastOrphan:], uint32(l.next))
			v.sealSuper(super)
		}
	default:
		err = v.relinkOrphan(ed, l.prev, l.next)
	}
	if err != nil {
		return err
	}
	in.Dtime = 0
	o.remove(in.Ino)
	o.undo = append(o.undo, orphanUndo{ino: in.Ino, link: l, removed: true})
	return nil
}

// relinkOrphan has the list go on from one orphan to another.
func (v *Volume) relinkOrphan(ed Editor, ino, next Ino) error {
	var in Inode
	if err := v.ReadUnlinked(ed, ino, &in); err != nil {
		return err
	}
	in.Dtime = uint32(next)
	return v.WriteInode(ed, &in)
}

// clearOrphanSlot empties a slot of the orphan file.
func (v *Volume) clearOrphanSlot(ed Editor, s orphanSlot) error {
	buf, err := ed.Modify(s.block)
	if err != nil {
		return err
	}
	le.PutUint32(buf.Data[4*s.index:], 0)
	if v.csummed() {
		n := len(buf.Data) - orphanTailSize
		crc := crc32c32(crc32c32(v.orphanSeed, uint32(s.block)), uint32(s.block>>32))
		le.PutUint32(buf.Data[n+4:], crc32c(crc, buf.Data[:n]))
	}
	return nil
}

// LoadOrphans reads the orphans that the last mount has left. Errors: CorruptError, and those of
// src.
func (v *Volume) LoadOrphans(src Source) (*Orphans, error) {
	o := &Orphans{links: map[Ino]orphanLink{}, undo: make([]orphanUndo, 0, 16)}
	prev := Ino(0)
	for ino := v.LastOrphan(); ino != 0; {
		if o.Has(ino) || ino < v.FirstInode || ino > v.InodesCount {
			return nil, Corrupt("orphan list", v.superBlock(), sLastOrphan, ino)
		}
		var in Inode
		if err := v.ReadUnlinked(src, ino, &in); err != nil {
			return nil, fmt.Errorf("orphan list: %w", err)
		}
		o.insert(ino, orphanLink{prev: prev})
		prev, ino = ino, Ino(in.Dtime)
	}
	if !v.HasROCompat(ROCompatOrphanPresent) || !v.HasCompat(CompatOrphanFile) {
		return o, nil
	}
	return o, v.loadOrphanFile(src, o)
}

// loadOrphanFile reads the slots of the orphan file.
func (v *Volume) loadOrphanFile(src Source, o *Orphans) error {
	var in Inode
	if err := v.ReadInode(src, Ino(v.u32(sOrphanFileInum)), &in); err != nil {
		return fmt.Errorf("orphan file: %w", err)
	}
	v.orphanSeed = v.inodeSeed(in.Ino, in.Generation)
	for lblk := Lblk(0); uint64(lblk) < in.Size>>v.BlockBits; lblk++ {
		var run Run
		if err := v.Map(src, &in, lblk, 1, &run); err != nil {
			return err
		}
		if run.State != RunMapped {
			return Corrupt("orphan file: hole", in.Where, in.Offset, in.Ino)
		}
		buf, err := src.Block(run.Phys)
		if err != nil {
			return err
		}
		n := len(buf.Data) - orphanTailSize
		if le32(buf.Data, n) != orphanTailMagic {
			return Corrupt("orphan file: magic number", run.Phys, n, in.Ino)
		}
		for i := 0; i < n/4; i++ {
			ino := Ino(le32(buf.Data, 4*i))
			if ino == 0 {
				continue
			}
			if o.Has(ino) || ino < v.FirstInode || ino > v.InodesCount {
				return Corrupt("orphan file: inode number", run.Phys, 4*i, ino)
			}
			o.insert(ino, orphanLink{slot: orphanSlot{run.Phys, uint32(i)}})
		}
	}
	return nil
}
