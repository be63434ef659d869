package ext4

// superBlock is the block with the primary superblock.
func (v *Volume) superBlock() Block { return Block(SuperOffset >> v.BlockBits) }

// editSuper returns the superblock to be changed; sealSuper follows.
func (v *Volume) editSuper(ed Editor) ([]byte, error) {
	buf, err := ed.Modify(v.superBlock())
	if err != nil {
		return nil, err
	}
	off := SuperOffset & int(v.BlockSize-1)
	return buf.Data[off : off+SuperSize], nil
}

// sealSuper sets the checksum of the superblock.
func (v *Volume) sealSuper(super []byte) {
	if v.csummed() {
		le.PutUint32(super[sChecksum:], crc32c(^uint32(0), super[:sChecksum]))
	}
}

// SetLabel names the volume; at most 16 bytes.
func (v *Volume) SetLabel(ed Editor, label []byte) error {
	super, err := v.editSuper(ed)
	if err != nil {
		return err
	}
	name := super[sVolumeName : sVolumeName+16]
	clear(name)
	copy(name, label)
	v.sealSuper(super)
	v.Label = string(label)
	return nil
}

// ErrorRecord is what the superblock remembers of damage that was found.
type ErrorRecord struct {
	When  Timespec
	Ino   Ino
	Block Block
	// Where is what was being done, in 31 bytes.
	Where string
}

// ErrorSuper records n errors, of which the first and the last are given, and that the filesystem
// has to be checked.
func (v *Volume) ErrorSuper(ed Editor, n uint32, first, last ErrorRecord) error {
	super, err := v.editSuper(ed)
	if err != nil {
		return err
	}
	count := le32(super, sErrorCount)
	put := func(r *ErrorRecord, when, ino, block, where int) {
		le.PutUint32(super[when:], uint32(r.When.Sec))
		le.PutUint32(super[ino:], uint32(r.Ino))
		le.PutUint64(super[block:], uint64(r.Block))
		clear(super[where : where+32])
		copy(super[where:where+31], r.Where)
	}
	if count == 0 {
		put(&first, sFirstErrorTime, sFirstErrorIno, sFirstErrorBlock, sFirstErrorFunc)
	}
	put(&last, sLastErrorTime, sLastErrorIno, sLastErrorBlock, sLastErrorFunc)
	le.PutUint32(super[sErrorCount:], count+n)
	le.PutUint16(super[sState:], le16(super, sState)|stateErrors)
	v.sealSuper(super)
	return nil
}

// MountSuper records in the superblock that the filesystem is mounted and written: with a journal
// that it needs recovery, without that it is not clean.
func (v *Volume) MountSuper(ed Editor, journal bool, mountpoint string) error {
	super, err := v.editSuper(ed)
	if err != nil {
		return err
	}
	now := uint32(ed.Now().Sec)
	le.PutUint32(super[sMtime:], now)
	le.PutUint32(super[sWtime:], now)
	le.PutUint16(super[sMntCount:], le16(super, sMntCount)+1)
	if mountpoint != "" {
		name := super[sLastMounted : sLastMounted+64]
		clear(name)
		copy(name[:63], mountpoint)
	}
	if journal {
		le.PutUint32(super[sFeatureIncompat:], le32(super, sFeatureIncompat)|IncompatRecover)
	} else {
		le.PutUint16(super[sState:], le16(super, sState)&^stateValid)
	}
	v.sealSuper(super)
	return nil
}

// UnmountSuper records that everything is in place, and what is free. kbytes is how much was
// written since the mount.
func (v *Volume) UnmountSuper(ed Editor, s *Space, kbytes uint64) error {
	super, err := v.editSuper(ed)
	if err != nil {
		return err
	}
	le.PutUint32(super[sWtime:], uint32(ed.Now().Sec))
	free := uint64(s.freeClusters) << v.ClusterBits
	le.PutUint32(super[sFreeBlocksLo:], uint32(free))
	if v.HasIncompat(Incompat64bit) {
		le.PutUint32(super[sFreeBlocksHi:], uint32(free>>32))
	}
	le.PutUint32(super[sFreeInodes:], uint32(s.freeInodes))
	le.PutUint32(super[sFeatureIncompat:], le32(super, sFeatureIncompat)&^IncompatRecover)
	le.PutUint32(super[sFeatureROCompat:],
		le32(super, sFeatureROCompat)&^ROCompatOrphanPresent)
	// NB: damage that was found before the mount stays recorded; so does an unclean state.
	if v.Clean() {
		le.PutUint16(super[sState:], le16(super, sState)|stateValid)
	}
	le.PutUint64(super[sKbytesWritten:], le.Uint64(super[sKbytesWritten:])+kbytes)
	v.sealSuper(super)
	return nil
}
