package ext4

import (
	"errors"
	"strings"

	"golang.org/x/sys/unix"
)

// What a writer keeps in the superblock. The copies in other groups stay as mke2fs and resize2fs
// have left them: they are there for the layout, and the kernel does not touch them either.

// editSuper returns the superblock to be changed; sealSuper follows.
func (v *Volume) editSuper(ed Editor) ([]byte, error) { return v.superIn(ed.Modify) }

// readSuper returns the superblock as it is now, unlike Volume.Super.
func (v *Volume) readSuper(src Source) ([]byte, error) { return v.superIn(src.Block) }

func (v *Volume) superIn(get func(Block) (Buf, error)) ([]byte, error) {
	b, off := Block(v.superAt>>v.BlockBits), v.superAt&int64(v.BlockSize-1)
	buf, err := get(b)
	if err != nil {
		return nil, err
	}
	sb := buf.Data[off : off+SuperSize]
	if buf.Checked.Kind == kindSuper {
		return sb, nil
	}
	if le16(sb, sMagic) != superMagic || v.csummed() && superSum(sb) != le32(sb, sChecksum) {
		return nil, Corrupt("superblock", b, int(off), 0)
	}
	*buf.Checked = Checked{Kind: kindSuper}
	return sb, nil
}

func superSum(sb []byte) uint32 { return crc32c(^uint32(0), sb[:sChecksum]) }

// sealSuper sets the checksum of the superblock.
func (v *Volume) sealSuper(sb []byte) {
	if v.csummed() {
		le.PutUint32(sb[sChecksum:], superSum(sb))
	}
}

func putSuperTime(sb []byte, lo, hi int, ts Timespec) {
	le.PutUint32(sb[lo:], uint32(ts.Sec))
	sb[hi] = byte(ts.Sec >> 32)
}

// setSuperBits sets bits of a 32-bit field, and says whether any were not set.
func setSuperBits(sb []byte, off int, bits uint32) bool {
	was := le32(sb, off)
	le.PutUint32(sb[off:], was|bits)
	return was|bits != was
}

func clearSuperBits(sb []byte, off int, bits uint32) {
	le.PutUint32(sb[off:], le32(sb, off)&^bits)
}

// MountSuper says in the superblock that the filesystem is being written, mounted at path. With a
// journal a crash needs recovery, and the orphan file has to be looked through; without one the
// filesystem is not valid any more until UnmountSuper. Errors: those of ed; CorruptError.
func (v *Volume) MountSuper(ed Editor, journal bool, path string) error {
	sb, err := v.editSuper(ed)
	if err != nil {
		return err
	}
	if journal {
		setSuperBits(sb, sFeatureIncompat, IncompatRecover)
		if v.HasCompat(CompatOrphanFile) {
			setSuperBits(sb, sFeatureROCompat, ROCompatOrphanPresent)
		}
	} else {
		le.PutUint16(sb[sState:], le16(sb, sState)&^stateValid)
	}
	if le16(sb, sMaxMntCount) == 0 {
		le.PutUint16(sb[sMaxMntCount:], maxMntCount)
	}
	le.PutUint16(sb[sMntCount:], le16(sb, sMntCount)+1)
	putSuperTime(sb, sMtime, sMtimeHi, ed.Now())
	putSuperTime(sb, sWtime, sWtimeHi, ed.Now())
	if path != "" {
		putSuperText(sb[sLastMounted:sLastMounted+superPathSize-1], path)
	}
	v.sealSuper(sb)
	return nil
}

// putSuperText fills a field with a text and zeros.
func putSuperText(field []byte, text string) {
	clear(field[copy(field, text):])
}

// UnmountSuper is called when everything is in place: nothing is left to recover, and the sums
// over the groups are right again. It adds kbytes to what was ever written. A filesystem that was
// not valid when it was mounted, or that is marked to have errors, stays so. Errors: those of ed;
// CorruptError.
func (v *Volume) UnmountSuper(ed Editor, s *Space, kbytes uint64) error {
	empty, err := v.orphanFileEmpty(ed)
	if err != nil {
		return err
	}
	sb, err := v.editSuper(ed)
	if err != nil {
		return err
	}
	v.countSuper(sb, s)
	clearSuperBits(sb, sFeatureIncompat, IncompatRecover)
	if empty {
		clearSuperBits(sb, sFeatureROCompat, ROCompatOrphanPresent)
	}
	le.PutUint16(sb[sState:], le16(sb, sState)|v.u16(sState)&stateValid)
	le.PutUint64(sb[sKbytesWritten:], le.Uint64(sb[sKbytesWritten:])+kbytes)
	putSuperTime(sb, sWtime, sWtimeHi, ed.Now())
	v.sealSuper(sb)
	return nil
}

// countSuper brings the sums up to date, which are not kept in the superblock while mounted: every
// transaction would have to write it.
func (v *Volume) countSuper(sb []byte, s *Space) {
	blocks := uint64(s.freeClusters) << v.ClusterBits
	le.PutUint32(sb[sFreeBlocksLo:], uint32(blocks))
	if v.HasIncompat(Incompat64bit) {
		le.PutUint32(sb[sFreeBlocksHi:], uint32(blocks>>32))
	}
	le.PutUint32(sb[sFreeInodes:], uint32(s.freeInodes))
}

// SetLabel names the volume; at most 16 bytes. Errors: those of ed; CorruptError.
func (v *Volume) SetLabel(ed Editor, label []byte) error {
	sb, err := v.editSuper(ed)
	if err != nil {
		return err
	}
	putSuperText(sb[sVolumeName:sVolumeName+superNameSize], string(label))
	v.sealSuper(sb)
	v.Label = string(label)
	return nil
}

// ErrorRecord is what the superblock remembers of damage that was found.
type ErrorRecord struct {
	When  Timespec
	Ino   Ino
	Block Block
	// Where is what was being done, in 31 bytes; Err is what was wrong.
	Where string
	Err   error
}

// ErrorSuper records n errors, of which the first and the last are given, for e2fsck and the next
// mount. Errors: those of ed; CorruptError of the superblock itself.
func (v *Volume) ErrorSuper(ed Editor, n uint32, first, last ErrorRecord) error {
	sb, err := v.editSuper(ed)
	if err != nil {
		return err
	}
	le.PutUint16(sb[sState:], le16(sb, sState)|stateErrors)
	count := le32(sb, sErrorCount)
	if count == 0 {
		putSuperTime(sb, sFirstErrorTime, sFirstErrorTimeHi, first.When)
		le.PutUint32(sb[sFirstErrorIno:], uint32(first.Ino))
		le.PutUint64(sb[sFirstErrorBlock:], uint64(first.Block))
		putSuperText(sb[sFirstErrorFunc:sFirstErrorFunc+superFuncSize-1], first.Where)
		le.PutUint32(sb[sFirstErrorLine:], 0)
		sb[sFirstErrorErrcode] = errcode(first.Err)
	}
	putSuperTime(sb, sLastErrorTime, sLastErrorTimeHi, last.When)
	le.PutUint32(sb[sLastErrorIno:], uint32(last.Ino))
	le.PutUint64(sb[sLastErrorBlock:], uint64(last.Block))
	putSuperText(sb[sLastErrorFunc:sLastErrorFunc+superFuncSize-1], last.Where)
	le.PutUint32(sb[sLastErrorLine:], 0)
	sb[sLastErrorErrcode] = errcode(last.Err)
	le.PutUint32(sb[sErrorCount:], uint32(min(uint64(count)+uint64(n), 1<<32-1)))
	v.sealSuper(sb)
	return nil
}

// Values of s_last_error_errcode that stand for no errno.
const (
	errcodeUnknown   = 1
	errcodeBadCRC    = 4
	errcodeCorrupted = 5
)

// errcodes are the values of s_last_error_errcode for errnos ("Super Block").
var errcodes = map[unix.Errno]byte{unix.EIO: 2, unix.ENOMEM: 3, unix.ENOSPC: 6, unix.ENOKEY: 7,
	unix.EROFS: 8, unix.EFBIG: 9, unix.EEXIST: 10, unix.ERANGE: 11, unix.EOVERFLOW: 12,
	unix.EBUSY: 13, unix.ENOTDIR: 14, unix.ENOTEMPTY: 15, unix.ESHUTDOWN: 16, unix.EFAULT: 17}

func errcode(err error) byte {
	var corrupt *CorruptError
	var errno unix.Errno
	switch {
	case errors.As(err, &corrupt) && strings.HasSuffix(corrupt.What, "checksum"):
		return errcodeBadCRC
	case errors.As(err, &corrupt):
		return errcodeCorrupted
	case errors.As(err, &errno) && errcodes[errno] != 0:
		return errcodes[errno]
	}
	return errcodeUnknown
}

// wantFeature sets a compatible feature that something written from now on makes use of. A
// filesystem of the first revision, which had no such fields, becomes one of the second.
//
// NB: Volume.Compat is of the time of Open; the superblock is looked at instead.
func (v *Volume) wantFeature(ed Editor, compat uint32) error {
	if v.HasCompat(compat) {
		return nil
	}
	sb, err := v.readSuper(ed)
	if err != nil {
		return err
	}
	if le32(sb, sRevLevel) >= revDynamic && le32(sb, sFeatureCompat)&compat != 0 {
		return nil
	}
	if sb, err = v.editSuper(ed); err != nil {
		return err
	}
	if le32(sb, sRevLevel) < revDynamic {
		le.PutUint32(sb[sRevLevel:], revDynamic)
		le.PutUint32(sb[sFirstIno:], uint32(v.FirstInode))
		le.PutUint16(sb[sInodeSize:], v.InodeSize)
	}
	setSuperBits(sb, sFeatureCompat, compat)
	v.sealSuper(sb)
	return nil
}
