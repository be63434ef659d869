package ext4

import (
	"golang.org/x/sys/unix"
)

// Type returns the file type bits of the mode (unix.S_IFMT).
func (in *Inode) Type() uint32 { return uint32(in.Mode) & unix.S_IFMT }

// IsDir says whether the inode is a directory.
func (in *Inode) IsDir() bool { return in.Type() == unix.S_IFDIR }

// Rdev returns the device number of a device node in the kernel's 32-bit form: old numbers (8 and
// 8 bits) stand in i_block[0], others (12 and 20 bits) in i_block[1].
func (in *Inode) Rdev() uint32 {
	var major, minor uint32
	if v := le.Uint32(in.IBlock[:]); v != 0 {
		major, minor = v>>8&0xff, v&0xff
	} else {
		v = le.Uint32(in.IBlock[4:])
		major, minor = v>>8&0xfff, v&0xff|v>>12&0xfff00
	}
	return minor&0xff | major<<8 | minor&^0xff<<12
}

// SetRdev is the inverse of Rdev: small numbers in the old form, as the kernel writes them.
func (in *Inode) SetRdev(rdev uint32) {
	major, minor := rdev>>8&0xfff, rdev&0xff|rdev>>12&0xfff00
	if major < 256 && minor < 256 {
		le.PutUint32(in.IBlock[:], major<<8|minor)
		return
	}
	le.PutUint32(in.IBlock[4:], minor&0xff|major<<8|minor&^0xff<<12)
}

// SizeMax is the largest size that a file can have, in bytes. The kernel refuses inodes that are
// larger than what it computes in the same way.
func (v *Volume) SizeMax(in *Inode) uint64 {
	if !v.HasROCompat(ROCompatLargeFile) {
		return 1<<31 - 1
	}
	limit := uint64(1<<48 - 1) // blocks that i_blocks can count
	if !v.HasROCompat(ROCompatHugeFile) {
		limit = (1<<32 - 1) >> (v.BlockBits - 9)
	}
	if in.Flags&FlagExtents != 0 || in.Flags&FlagInlineData != 0 && v.HasIncompat(IncompatExtents) {
		return min(limit, lblkMax) << v.BlockBits
	}
	return v.mapBlocksIn(limit) << v.BlockBits
}

// HasMapping says whether i_block maps blocks, and does not hold something else.
func (v *Volume) HasMapping(in *Inode) bool {
	switch in.Type() {
	case unix.S_IFREG, unix.S_IFDIR:
		return in.Flags&FlagInlineData == 0
	case unix.S_IFLNK:
		return in.Flags&FlagInlineData == 0 && !v.fastSymlink(in)
	}
	return false
}

// InodeBlock returns the block and the byte offset in it at which inode ino stands. ESTALE: there
// is no such inode.
func (v *Volume) InodeBlock(ino Ino) (Block, int, error) {
	if ino == 0 || ino > v.InodesCount {
		return 0, 0, unix.ESTALE
	}
	index := uint32(ino-1) % v.InodesPerGroup
	per := v.inodesPerBlock()
	b := v.itable[uint32(ino-1)/v.InodesPerGroup] + Block(index/per)
	return b, int(index%per) * int(v.InodeSize), nil
}

// ReadInode reads inode ino. ESTALE: it is free, or out of range. Errors of src, CorruptError.
func (v *Volume) ReadInode(src Source, ino Ino, in *Inode) error {
	return v.readInode(src, ino, in, false)
}

// ReadUnlinked is ReadInode for an inode that is known to be an orphan, or is being replayed: it
// may have no links, and be taken apart or put together but in part.
func (v *Volume) ReadUnlinked(src Source, ino Ino, in *Inode) error {
	return v.readInode(src, ino, in, true)
}

func (v *Volume) readInode(src Source, ino Ino, in *Inode, unlinked bool) error {
	b, off, err := v.InodeBlock(ino)
	if err != nil {
		return err
	}
	buf, err := src.Block(b)
	if err != nil {
		return err
	}
	raw := buf.Data[off : off+int(v.InodeSize)]
	if le.Uint16(raw[iLinksCount:]) == 0 && !unlinked {
		return unix.ESTALE
	}
	in.Ino, in.Where, in.Offset = ino, b, off
	if err := v.decodeInode(buf.Checked, raw, in); err != nil || unlinked {
		return err
	}
	return v.checkInode(in)
}

// checkInode verifies what an inode holds besides its fields. The kernel does so when it reads
// one, too: a file whose attributes or root of blocks are not sound cannot even be looked at.
func (v *Volume) checkInode(in *Inode) error {
	if in.FileACL != 0 && !v.checkBlock(in.FileACL, 1) {
		return Corrupt("i_file_acl points outside", in.Where, in.Offset+iFileACLLo, in.Ino)
	}
	if in.Flags&FlagInlineData != 0 {
		_, _, err := v.inlineRest(in)
		return err
	}
	if _, err := v.xattrBody(in); err != nil {
		return err
	}
	switch {
	case in.Type() == unix.S_IFLNK && v.fastSymlink(in):
		return v.checkFastSymlink(in)
	case !v.HasMapping(in):
		return nil
	case in.Flags&FlagExtents != 0:
		return v.checkRoot(in)
	}
	return v.checkDirect(in)
}

// decodeInode decodes raw, whose checksum is verified once per read of its block.
func (v *Volume) decodeInode(checked *Checked, raw []byte, in *Inode) error {
	in.Generation, in.Dtime = le.Uint32(raw[iGeneration:]), le.Uint32(raw[iDtime:])
	in.ExtraISize = 0
	if v.InodeSize > inodeSizeGood {
		in.ExtraISize = le.Uint16(raw[iExtraISize:])
		if in.ExtraISize > v.InodeSize-inodeSizeGood || in.ExtraISize%4 != 0 {
			return Corrupt("i_extra_isize", in.Where, in.Offset+iExtraISize, in.Ino)
		}
	}
	if v.csummed() && !v.inodeSumOK(checked, raw, in) {
		return Corrupt("inode checksum", in.Where, in.Offset, in.Ino)
	}
	in.Mode, in.Links = le.Uint16(raw[iMode:]), uint32(le.Uint16(raw[iLinksCount:]))
	in.UID = uint32(le.Uint16(raw[iUID:])) | uint32(le.Uint16(raw[iUIDHigh:]))<<16
	in.GID = uint32(le.Uint16(raw[iGID:])) | uint32(le.Uint16(raw[iGIDHigh:]))<<16
	in.Flags = le.Uint32(raw[iFlags:])
	in.Size = uint64(le.Uint32(raw[iSizeLo:]))
	if in.Type() == unix.S_IFREG || v.HasIncompat(IncompatLargedir) {
		in.Size = get64(raw, iSizeLo, iSizeHigh)
	}
	if in.Size > uint64(lblkMax)<<v.BlockBits {
		return Corrupt("i_size", in.Where, in.Offset+iSizeHigh, in.Ino)
	}
	v.decodeBlocks(raw, in)
	in.FileACL = Block(le.Uint32(raw[iFileACLLo:]))
	if v.HasIncompat(Incompat64bit) {
		in.FileACL |= Block(le.Uint16(raw[iFileACLHi:])) << 32
	}
	copy(in.IBlock[:], raw[iBlock:])
	in.decodeTimes(raw)
	in.InBody = nil
	if v.InodeSize > inodeSizeGood {
		in.InBody = raw[inodeSizeGood+in.ExtraISize:]
	}
	return nil
}

// decodeBlocks decodes i_blocks, after the flags.
func (v *Volume) decodeBlocks(raw []byte, in *Inode) {
	in.Sectors = uint64(le.Uint32(raw[iBlocksLo:]))
	if v.HasROCompat(ROCompatHugeFile) {
		in.Sectors |= uint64(le.Uint16(raw[iBlocksHigh:])) << 32
		if in.Flags&FlagHugeFile != 0 {
			in.Sectors <<= v.BlockBits - 9
		}
	}
}

// decodeTimes decodes what lies in and behind the part that i_extra_isize makes valid ("Inode
// Timestamps"): two more bits of seconds and the nanoseconds, a 64-bit version, the project.
func (in *Inode) decodeTimes(raw []byte) {
	in.Atime = in.time(raw, iAtime, iAtimeExtra)
	in.Mtime = in.time(raw, iMtime, iMtimeExtra)
	in.Ctime = in.time(raw, iCtime, iCtimeExtra)
	in.Crtime = Timespec{}
	if in.has(iCrtime) {
		in.Crtime = in.time(raw, iCrtime, iCrtimeExt)
	}
	in.Version = uint64(le.Uint32(raw[iVersion:]))
	if in.has(iVersionHi) {
		in.Version |= uint64(le.Uint32(raw[iVersionHi:])) << 32
	}
	in.ProjID = 0
	if in.has(iProjID) {
		in.ProjID = le.Uint32(raw[iProjID:])
	}
}

// HoldsProject says whether the inode has room for a project's number.
func (in *Inode) HoldsProject() bool { return in.has(iProjID) }

// has says whether the 32-bit extra field at off is within i_extra_isize.
func (in *Inode) has(off int) bool { return off+4 <= inodeSizeGood+int(in.ExtraISize) }

func (in *Inode) time(raw []byte, off, extra int) Timespec {
	ts := Timespec{Sec: int64(int32(le.Uint32(raw[off:])))}
	if in.has(extra) {
		x := le.Uint32(raw[extra:])
		ts.Sec += int64(x&3) << 32
		ts.Nsec = x >> 2
	}
	return ts
}

// inodeSumOK verifies the checksum of an inode: of all its bytes, with the checksum's own as zeros.
func (v *Volume) inodeSumOK(checked *Checked, raw []byte, in *Inode) bool {
	item := uint(in.Offset / int(v.InodeSize))
	// NB: a block of 64 KiB has more inodes than Items has bits; the rest are verified each time.
	remember := item < 64
	if checked.Kind != kindInodes {
		*checked = Checked{Kind: kindInodes}
	}
	if remember && checked.Items&(1<<item) != 0 {
		return true
	}
	crc := crc32c(v.inodeSeed(in.Ino, in.Generation), raw[:iChecksumLo])
	crc = crc32c(crc32cZeros(crc, 2), raw[iChecksumLo+2:inodeSizeGood])
	have, mask := uint32(le.Uint16(raw[iChecksumLo:])), uint32(0xffff)
	if v.InodeSize > inodeSizeGood {
		if in.ExtraISize >= iChecksumHi+2-inodeSizeGood {
			crc = crc32cZeros(crc32c(crc, raw[inodeSizeGood:iChecksumHi]), 2)
			crc = crc32c(crc, raw[iChecksumHi+2:])
			have |= uint32(le.Uint16(raw[iChecksumHi:])) << 16
			mask = ^uint32(0)
		} else {
			crc = crc32c(crc, raw[inodeSizeGood:])
		}
	}
	if crc&mask != have {
		return false
	}
	if remember {
		checked.Items |= 1 << item
	}
	return true
}
