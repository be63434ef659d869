package ext4

import (
	"golang.org/x/sys/unix"
)

// WriteInode writes in back to its place, with its checksum. What lies behind the extra fields
// (in-inode attributes) stays as it is there. Errors: those of ed; EFBIG for more blocks than
// i_blocks can count; EDQUOT, if its owner may not have what it has.
func (v *Volume) WriteInode(ed Editor, in *Inode) error {
	b, off, err := v.InodeBlock(in.Ino)
	if err != nil {
		return err
	}
	buf, err := ed.Modify(b)
	if err != nil {
		return err
	}
	raw := buf.Data[off : off+int(v.InodeSize)]
	if err := v.chargeChange(ed, raw, in); err != nil {
		return err
	}
	return v.putInode(raw, in)
}

// putInode fills in the bytes of an inode.
func (v *Volume) putInode(raw []byte, in *Inode) error {
	if err := v.encodeInode(raw, in); err != nil {
		return err
	}
	v.sealInode(raw, in)
	return nil
}

// InitInode writes in, which was just allocated, over whatever stood there: all that Inode has no
// field for becomes zero. Errors: as WriteInode.
func (v *Volume) InitInode(ed Editor, in *Inode) error {
	b, off, err := v.InodeBlock(in.Ino)
	if err != nil {
		return err
	}
	buf, err := ed.Modify(b)
	if err != nil {
		return err
	}
	raw := buf.Data[off : off+int(v.InodeSize)]
	clear(raw)
	in.Where, in.Offset = b, off
	in.ExtraISize, in.InBody = 0, nil
	if v.InodeSize > inodeSizeGood {
		in.ExtraISize = v.extraISize()
		le.PutUint16(raw[iExtraISize:], in.ExtraISize)
		in.InBody = raw[inodeSizeGood+int(in.ExtraISize):]
	}
	if err := v.chargeNew(ed, in); err != nil {
		return err
	}
	return v.putInode(raw, in)
}

// extraISizeWanted is how much new inodes get if there is room: as far as i_projid.
const extraISizeWanted = iProjID + 4 - inodeSizeGood

// extraISize is the i_extra_isize of new inodes, which others get when they are written, too.
func (v *Volume) extraISize() uint16 {
	n := uint16(extraISizeWanted)
	if v.HasROCompat(ROCompatExtraIsize) {
		n = max(n, v.u16(sWantExtraISize), v.u16(sMinExtraISize))
	}
	// NB: words only, whatever the superblock says: nobody reads an inode with anything else.
	return min(n&^3, v.InodeSize-inodeSizeGood)
}

// extraISizeMin is the i_extra_isize that inodes should have at least, 0 if nobody says so.
func (v *Volume) extraISizeMin() uint16 {
	if !v.HasROCompat(ROCompatExtraIsize) {
		return 0
	}
	return min(v.u16(sMinExtraISize)&^3, v.InodeSize-inodeSizeGood)
}

// encodeInode is the inverse of decodeInode.
func (v *Volume) encodeInode(raw []byte, in *Inode) error {
	le.PutUint16(raw[iMode:], in.Mode)
	le.PutUint16(raw[iLinksCount:], uint16(in.Links))
	le.PutUint16(raw[iUID:], uint16(in.UID))
	le.PutUint16(raw[iUIDHigh:], uint16(in.UID>>16))
	le.PutUint16(raw[iGID:], uint16(in.GID))
	le.PutUint16(raw[iGIDHigh:], uint16(in.GID>>16))
	if err := v.encodeBlocks(raw, in); err != nil {
		return err
	}
	le.PutUint32(raw[iFlags:], in.Flags)
	le.PutUint32(raw[iSizeLo:], uint32(in.Size))
	if in.Type() == unix.S_IFREG || v.HasIncompat(IncompatLargedir) {
		le.PutUint32(raw[iSizeHigh:], uint32(in.Size>>32))
	}
	le.PutUint32(raw[iGeneration:], in.Generation)
	le.PutUint32(raw[iDtime:], in.Dtime)
	le.PutUint32(raw[iFileACLLo:], uint32(in.FileACL))
	if v.HasIncompat(Incompat64bit) {
		le.PutUint16(raw[iFileACLHi:], uint16(in.FileACL>>32))
	}
	copy(raw[iBlock:iBlock+len(in.IBlock)], in.IBlock[:])
	in.encodeTimes(raw)
	return nil
}

// encodeBlocks writes i_blocks: in units of 512 bytes as long as they fit, else in blocks.
func (v *Volume) encodeBlocks(raw []byte, in *Inode) error {
	n := in.Sectors
	in.Flags &^= FlagHugeFile
	switch {
	case n <= 1<<32-1:
	case !v.HasROCompat(ROCompatHugeFile):
		return unix.EFBIG
	case n >= 1<<48:
		n >>= v.BlockBits - 9
		in.Flags |= FlagHugeFile
	}
	le.PutUint32(raw[iBlocksLo:], uint32(n))
	if v.HasROCompat(ROCompatHugeFile) {
		le.PutUint16(raw[iBlocksHigh:], uint16(n>>32))
	}
	return nil
}

// encodeTimes is the inverse of decodeTimes.
func (in *Inode) encodeTimes(raw []byte) {
	in.putTime(raw, iAtime, iAtimeExtra, in.Atime)
	in.putTime(raw, iMtime, iMtimeExtra, in.Mtime)
	in.putTime(raw, iCtime, iCtimeExtra, in.Ctime)
	if in.has(iCrtime) {
		in.putTime(raw, iCrtime, iCrtimeExt, in.Crtime)
	}
	le.PutUint32(raw[iVersion:], uint32(in.Version))
	if in.has(iVersionHi) {
		le.PutUint32(raw[iVersionHi:], uint32(in.Version>>32))
	}
	if in.has(iProjID) {
		le.PutUint32(raw[iProjID:], in.ProjID)
	}
}

func (in *Inode) putTime(raw []byte, off, extra int, ts Timespec) {
	le.PutUint32(raw[off:], uint32(ts.Sec))
	if in.has(extra) {
		epoch := uint32((ts.Sec-int64(int32(ts.Sec)))>>32) & 3
		le.PutUint32(raw[extra:], ts.Nsec<<2|epoch)
	}
}

// Range of the times that an inode can hold, in seconds: 34 bits from -2^31 on with the extra
// fields, 32 bits without.
const (
	timeMin      = -1 << 31
	timeMax      = 1<<34 - 1<<31 - 1
	timeMaxShort = 1<<31 - 1
)

// ClampTime returns the time nearest to ts that inodes of this filesystem can hold.
func (v *Volume) ClampTime(ts Timespec) Timespec {
	latest := int64(timeMax)
	if v.InodeSize <= inodeSizeGood {
		latest, ts.Nsec = timeMaxShort, 0
	}
	switch {
	case ts.Sec < timeMin:
		return Timespec{Sec: timeMin}
	case ts.Sec > latest:
		return Timespec{Sec: latest}
	}
	return ts
}

// sealInode sets the checksum of an inode.
func (v *Volume) sealInode(raw []byte, in *Inode) {
	if !v.csummed() {
		return
	}
	le.PutUint16(raw[iChecksumLo:], 0)
	high := in.has(iChecksumHi - 2)
	if high {
		le.PutUint16(raw[iChecksumHi:], 0)
	}
	crc := crc32c(v.inodeSeed(in.Ino, in.Generation), raw)
	le.PutUint16(raw[iChecksumLo:], uint16(crc))
	if high {
		le.PutUint16(raw[iChecksumHi:], uint16(crc>>16))
	}
}
