package ext4

import "golang.org/x/sys/unix"

// orphanFileMax bounds the file of orphans as the kernel does, so that it is read in bounded time.
const orphanFileMax = 8 << 20

// orphansPerBlock is the number of entries of a block of the orphan file.
func (v *Volume) orphansPerBlock() uint32 { return (v.BlockSize - orphanTailSize) / 4 }

// orphanFile returns the inode of the orphan file.
func (v *Volume) orphanFile() Ino { return Ino(v.u32(sOrphanFileInum)) }

// orphanSum is the checksum of a block of the orphan file.
func (v *Volume) orphanSum(b Block, data []byte, seed uint32) uint32 {
	crc := crc32c32(crc32c32(seed, uint32(b)), uint32(b>>32))
	return crc32c(crc, data[:4*v.orphansPerBlock()])
}

// checkOrphanBlock verifies a block of the orphan file, once per read.
func (v *Volume) checkOrphanBlock(buf Buf, b Block, seed uint32) error {
	if buf.Checked.Kind == kindOrphans {
		return nil
	}
	at := int(v.BlockSize - orphanTailSize)
	tail := buf.Data[at:]
	if le32(tail, obMagic) != orphanTailMagic {
		return Corrupt("orphan file: magic number", b, at, v.orphanFile())
	}
	if v.csummed() && v.orphanSum(b, buf.Data, seed) != le32(tail, obChecksum) {
		return Corrupt("orphan file: checksum", b, at, v.orphanFile())
	}
	*buf.Checked = Checked{Kind: kindOrphans}
	return nil
}

// editOrphanBlock returns block i of the orphan file to be changed; sealOrphanBlock follows.
func (v *Volume) editOrphanBlock(ed Editor, o *Orphans, i int) ([]byte, error) {
	b := o.blocks[i].where
	buf, err := ed.Modify(b)
	if err != nil {
		return nil, err
	}
	return buf.Data, v.checkOrphanBlock(buf, b, o.seed)
}

func (v *Volume) sealOrphanBlock(o *Orphans, i int, data []byte) {
	if v.csummed() {
		le.PutUint32(data[v.BlockSize-orphanTailSize+obChecksum:],
			v.orphanSum(o.blocks[i].where, data, o.seed))
	}
}

// addToFile writes an inode's number to the orphan file; done is false if there is no room, or no
// such file.
func (v *Volume) addToFile(ed Editor, o *Orphans, ino Ino) (done bool, err error) {
	i := o.roomyBlock()
	if i < 0 {
		return false, nil
	}
	data, err := v.editOrphanBlock(ed, o, i)
	if err != nil {
		return false, err
	}
	per := int(v.orphansPerBlock())
	slot := 0
	for slot < per && le32(data, 4*slot) != 0 {
		slot++
	}
	if slot == per {
		return false, Corrupt("orphan file: count of free entries", o.blocks[i].where, 0, ino)
	}
	le.PutUint32(data[4*slot:], uint32(ino))
	v.sealOrphanBlock(o, i, data)
	o.note(ino, i)
	o.insert(orphan{ino: ino, place: int32(i*per + slot)})
	o.blocks[i].free--
	return true, nil
}

// roomyBlock returns a block of the orphan file that has a free entry, -1 if there is none.
func (o *Orphans) roomyBlock() int {
	for range o.blocks {
		if o.blocks[o.hint].free > 0 {
			return o.hint
		}
		if o.hint++; o.hint == len(o.blocks) {
			o.hint = 0
		}
	}
	return -1
}

// removeFromFile clears an inode's entry in the orphan file.
func (v *Volume) removeFromFile(ed Editor, o *Orphans, e orphan) error {
	per := int(v.orphansPerBlock())
	i, slot := int(e.place)/per, int(e.place)%per
	data, err := v.editOrphanBlock(ed, o, i)
	if err != nil {
		return err
	}
	if Ino(le32(data, 4*slot)) != e.ino {
		return Corrupt("orphan file: entry of another inode", o.blocks[i].where, 4*slot, e.ino)
	}
	le.PutUint32(data[4*slot:], 0)
	v.sealOrphanBlock(o, i, data)
	o.note(e.ino, i)
	o.drop(e.ino)
	o.blocks[i].free++
	return nil
}

// openOrphanFile finds the blocks of the orphan file and verifies them, all of them before any is
// used. broken says why it cannot be used.
func (v *Volume) openOrphanFile(src Source, o *Orphans) (broken, err error) {
	var in Inode
	switch err = v.ReadInode(src, v.orphanFile(), &in); {
	case err == unix.ESTALE, err == nil && (in.Type() != unix.S_IFREG || in.Size == 0 ||
		in.Size > orphanFileMax || in.Size&uint64(v.BlockSize-1) != 0 ||
		in.Flags&FlagInlineData != 0):
		return Corrupt("orphan file: inode", in.Where, in.Offset, v.orphanFile()), nil
	case err != nil:
		return onlyCorrupt(err)
	}
	o.seed = v.inodeSeed(in.Ino, in.Generation)
	for lblk := Lblk(0); uint64(lblk) < in.Size>>v.BlockBits; lblk++ {
		var run Run
		if err := v.Map(src, &in, lblk, 1, &run); err != nil {
			return onlyCorrupt(err)
		}
		if run.State != RunMapped {
			return Corrupt("orphan file: hole", in.Where, in.Offset, in.Ino), nil
		}
		buf, err := src.Block(run.Phys)
		if err == nil {
			err = v.checkOrphanBlock(buf, run.Phys, o.seed)
		}
		if err != nil {
			return onlyCorrupt(err)
		}
		o.blocks = append(o.blocks, orphanBlock{where: run.Phys})
	}
	return nil, nil
}

// onlyCorrupt splits an error into one of the disk's contents and any other.
func onlyCorrupt(err error) (broken, other error) {
	if corrupt, ok := err.(*CorruptError); ok {
		return corrupt, nil
	}
	return nil, err
}

// loadOrphanFile reads the orphan file. If it is broken it is not used. An entry that cannot be an
// orphan stays where it is: a program that repairs can make more of it.
func (v *Volume) loadOrphanFile(src Source, o *Orphans) (broken, err error) {
	if broken, err = v.openOrphanFile(src, o); broken != nil || err != nil {
		o.blocks = nil
		return broken, err
	}
	for i := range o.blocks {
		problem, err := v.loadOrphanBlock(src, o, i)
		if err != nil {
			return nil, err
		}
		if problem != nil {
			broken = problem
		}
	}
	return broken, nil
}

func (v *Volume) loadOrphanBlock(src Source, o *Orphans, i int) (broken, err error) {
	buf, err := src.Block(o.blocks[i].where)
	if err != nil {
		return nil, err
	}
	per := int(v.orphansPerBlock())
	var in Inode
	for slot := range per {
		ino := Ino(le32(buf.Data, 4*slot))
		if ino == 0 {
			o.blocks[i].free++
			continue
		}
		problem, err := v.checkOrphan(src, o, ino, &in)
		if err != nil {
			return nil, err
		}
		if problem != nil {
			broken = problem
			continue
		}
		o.insert(orphan{ino: ino, place: int32(i*per + slot)})
	}
	return broken, nil
}

// orphanFileEmpty says whether the orphan file has no entries; so it is without such a file.
func (v *Volume) orphanFileEmpty(src Source) (bool, error) {
	if !v.HasCompat(CompatOrphanFile) {
		return true, nil
	}
	o := newOrphans()
	if broken, err := v.openOrphanFile(src, o); broken != nil || err != nil {
		return false, err
	}
	for _, b := range o.blocks {
		buf, err := src.Block(b.where)
		if err != nil {
			return false, err
		}
		for off := uint32(0); off < 4*v.orphansPerBlock(); off += 4 {
			if le32(buf.Data, int(off)) != 0 {
				return false, nil
			}
		}
	}
	return true, nil
}
