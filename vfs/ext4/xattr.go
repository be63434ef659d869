package ext4

import (
	"bytes"

	"golang.org/x/sys/unix"
)

// Name prefixes of extended attributes, as e_name_index has them ("Extended Attributes").
const (
	XattrIndexUser       = 1
	XattrIndexACLAccess  = 2
	XattrIndexACLDefault = 3
	XattrIndexTrusted    = 4
	XattrIndexSecurity   = 6
	xattrIndexSystem     = 7 // inline data; not to be seen
	XattrIndexHurd       = 10
)

// xattrPrefixes are the prefixes that can be seen, by index. The two ACLs are whole names.
var xattrPrefixes = [...]string{
	XattrIndexUser:       "user.",
	XattrIndexACLAccess:  "system.posix_acl_access",
	XattrIndexACLDefault: "system.posix_acl_default",
	XattrIndexTrusted:    "trusted.",
	XattrIndexSecurity:   "security.",
	XattrIndexHurd:       "gnu.",
}

func isACL(index uint8) bool {
	return index == XattrIndexACLAccess || index == XattrIndexACLDefault
}

// XattrIndex splits the name of an attribute into its prefix's index and the rest. ok is false
// for a name that ext4 cannot hold.
func XattrIndex(name []byte) (index uint8, suffix []byte, ok bool) {
	for i, prefix := range xattrPrefixes {
		if prefix == "" || len(name) < len(prefix) || string(name[:len(prefix)]) != prefix {
			continue
		}
		suffix = name[len(prefix):]
		if !isACL(uint8(i)) || len(suffix) == 0 {
			return uint8(i), suffix, true
		}
	}
	return 0, nil, false
}

// XattrCursor is how far a GetXattr is; its zero value is the beginning.
type XattrCursor struct {
	done uint32 // bytes of a value in an inode of its own that are in dst
}

// eaBlocksPerStep is how many blocks of a value in an inode of its own are read in one step.
const eaBlocksPerStep = 16

// xattrArea is a verified list of attributes: what an inode has in itself, or a block.
type xattrArea struct {
	data  []byte // offsets of values count from its beginning
	first int    // where the entries begin
	end   int    // where the four zero bytes behind them are
	where Block
	base  int // where in that block data begins
	ino   Ino
	// hashed: it is a block, whose entries have hashes, and an order.
	hashed bool
}

// xattrEntry is a decoded entry.
type xattrEntry struct {
	name  []byte
	index uint8
	offs  uint16
	inum  Ino
	size  uint32
	hash  uint32
	next  int // where the next one begins
}

// at decodes the entry at off of an area that has been checked.
func (a *xattrArea) at(off int) xattrEntry {
	p := a.data[off:]
	n := int(p[xeNameLen])
	return xattrEntry{name: p[xeName : xeName+n], index: p[xeNameIndex], offs: le16(p, xeValueOffs),
		inum: Ino(le32(p, xeValueInum)), size: le32(p, xeValueSize), hash: le32(p, xeHash),
		next: off + xattrEntrySize(n)}
}

func xattrEntrySize(nameLen int) int { return (xeName + nameLen + xePad - 1) &^ (xePad - 1) }

// value returns the value of an entry that has it in the area.
func (a *xattrArea) value(e *xattrEntry) []byte {
	if e.size == 0 {
		return nil
	}
	return a.data[e.offs:][:e.size]
}

// find looks for an attribute. Inside inodes entries are in no order; in blocks they are, but
// not in those that other programs wrote.
func (a *xattrArea) find(index uint8, name []byte) (e xattrEntry, ok bool) {
	for off := a.first; off < a.end; off = e.next {
		if e = a.at(off); e.index == index && bytes.Equal(e.name, name) {
			return e, true
		}
	}
	return e, false
}

// check verifies entries and values, and sets end. The names must end before the values begin.
func (v *Volume) checkXattrs(a *xattrArea) error {
	off := a.first
	for {
		if off+xattrEndBytes > len(a.data) {
			return a.corrupt("entries without an end", off)
		}
		if le32(a.data, off) == 0 {
			break
		}
		next := off + xattrEntrySize(int(a.data[off+xeNameLen]))
		if next+xattrEndBytes > len(a.data) {
			return a.corrupt("name beyond the end", off)
		}
		if bytes.IndexByte(a.data[off+xeName:][:a.data[off+xeNameLen]], 0) >= 0 {
			return a.corrupt("zero byte in a name", off)
		}
		off = next
	}
	a.end = off
	for off := a.first; off < a.end; {
		e := a.at(off)
		if what := v.checkXattrValue(a, &e); what != "" {
			return a.corrupt(what, off)
		}
		off = e.next
	}
	return nil
}

// checkXattrValue says what is wrong with the place of a value, "" if nothing is.
func (v *Volume) checkXattrValue(a *xattrArea, e *xattrEntry) string {
	padded := (uint64(e.size) + xePad - 1) &^ (xePad - 1)
	switch {
	case e.size > xattrSizeMax:
		return "value too large"
	case e.inum != 0 && !v.HasIncompat(IncompatEAInode):
		return "value in an inode without the feature ea_inode"
	case e.inum != 0 && (e.inum < v.FirstInode || e.inum > v.InodesCount):
		return "inode number of a value"
	case e.inum != 0 || e.size == 0:
		return ""
	case int(e.offs) < a.end+xattrEndBytes || uint64(e.offs)+padded > uint64(len(a.data)):
		return "value outside of its place"
	}
	return ""
}

func (a *xattrArea) corrupt(what string, off int) error {
	return Corrupt("extended attributes: "+what, a.where, a.base+off, a.ino)
}

// xattrBody returns the attributes inside an inode; none if the magic number is not there.
func (v *Volume) xattrBody(in *Inode) (a xattrArea, err error) {
	// NB: without extra fields the space may hold anything.
	if in.ExtraISize == 0 || len(in.InBody) < xiSize || le32(in.InBody, xiMagic) != xattrMagic {
		return a, nil
	}
	a = xattrArea{data: in.InBody[xiSize:], where: in.Where, ino: in.Ino,
		base: in.Offset + inodeSizeGood + int(in.ExtraISize) + xiSize}
	return a, v.checkXattrs(&a)
}

// xattrBlock returns the attributes in the block of an inode; none if it has no such block.
func (v *Volume) xattrBlock(src Source, in *Inode) (a xattrArea, err error) {
	if in.FileACL == 0 {
		return a, nil
	}
	if !v.checkBlock(in.FileACL, 1) {
		return a, Corrupt("i_file_acl points outside", in.Where, in.Offset+iFileACLLo, in.Ino)
	}
	buf, err := src.Block(in.FileACL)
	if err != nil {
		return a, err
	}
	a = xattrArea{data: buf.Data, first: xhSize, where: in.FileACL, ino: in.Ino, hashed: true}
	if le32(a.data, xhMagic) != xattrMagic || le32(a.data, xhBlocks) != 1 {
		return a, a.corrupt("header", 0)
	}
	if !v.xattrSumOK(buf, in.FileACL) {
		return a, a.corrupt("checksum", xhChecksum)
	}
	return a, v.checkXattrs(&a)
}

// xattrSumOK verifies the checksum of an attribute block, once per read.
func (v *Volume) xattrSumOK(buf Buf, b Block) bool {
	if !v.csummed() || *buf.Checked == (Checked{Kind: kindXattr, Items: 1}) {
		return true
	}
	if v.xattrSum(buf.Data, b) != le32(buf.Data, xhChecksum) {
		return false
	}
	*buf.Checked = Checked{Kind: kindXattr, Items: 1}
	return true
}

// xattrSum is the checksum of an attribute block.
func (v *Volume) xattrSum(data []byte, b Block) uint32 {
	crc := crc32c32(crc32c32(v.CsumSeed, uint32(b)), uint32(b>>32))
	crc = crc32cZeros(crc32c(crc, data[:xhChecksum]), 4)
	return crc32c(crc, data[xhChecksum+4:])
}

// GetXattr copies the value of an attribute to dst and returns its length; with an empty dst it
// only tells the length. dst must keep its bytes from call to call while cur advances. ACLs come
// in the form of the disk, see ACLToXattr. Errors: ENODATA; ERANGE if dst is too small, or the
// name too long; EINVAL for a prefix alone; ErrContinue after cur has been advanced; those of src;
// CorruptError.
func (v *Volume) GetXattr(src Source, in *Inode, index uint8, name, dst []byte,
	cur *XattrCursor) (int, error) {
	switch {
	case len(name) > xattrNameMax:
		return 0, unix.ERANGE
	case len(name) == 0 && !isACL(index):
		return 0, unix.EINVAL
	}
	a, err := v.xattrBody(in)
	if err != nil {
		return 0, err
	}
	e, ok := a.find(index, name)
	if !ok {
		if a, err = v.xattrBlock(src, in); err != nil {
			return 0, err
		}
		if e, ok = a.find(index, name); !ok {
			return 0, unix.ENODATA
		}
	}
	switch {
	case len(dst) == 0:
	case int(e.size) > len(dst):
		return 0, unix.ERANGE
	case e.inum != 0:
		err = v.eaValue(src, in, &e, dst[:e.size], cur)
	default:
		copy(dst, a.value(&e))
	}
	return int(e.size), err
}

// eaValue reads a value that has an inode of its own.
func (v *Volume) eaValue(src Source, owner *Inode, e *xattrEntry, dst []byte,
	cur *XattrCursor) error {
	var ea Inode
	if err := v.eaInode(src, owner, e, &ea); err != nil {
		return err
	}
	for size := uint32(len(dst)); cur.done < size; {
		lblk := cur.done >> v.BlockBits
		data, err := v.eaBlock(src, &ea, lblk, size)
		if err != nil {
			return err
		}
		cur.done += uint32(copy(dst[cur.done:], data))
		// Every step ends at a multiple, so that a stall does not make it longer.
		if (lblk+1)%eaBlocksPerStep == 0 && cur.done < size {
			return ErrContinue
		}
	}
	return v.checkEAHash(owner, e, &ea, dst)
}

// eaInode reads the inode that holds a value. What has the mark of such an inode, and the right
// size, is one.
func (v *Volume) eaInode(src Source, owner *Inode, e *xattrEntry, ea *Inode) error {
	if e.inum == owner.Ino {
		return Corrupt("extended attributes: value in the inode it belongs to", owner.Where,
			owner.Offset, owner.Ino)
	}
	err := v.ReadInode(src, e.inum, ea)
	if err == unix.ESTALE {
		return Corrupt("extended attributes: value in a free inode", owner.Where, owner.Offset,
			owner.Ino)
	}
	if err != nil {
		return err
	}
	if ea.Flags&FlagEAInode == 0 || ea.Type() != unix.S_IFREG || ea.Size != uint64(e.size) ||
		ea.FileACL != 0 || ea.Flags&(FlagInlineData|FlagEncrypt) != 0 {
		return Corrupt("extended attributes: inode of a value", ea.Where, ea.Offset, ea.Ino)
	}
	return nil
}

// eaBlock returns what one block holds of a value of size bytes.
func (v *Volume) eaBlock(src Source, ea *Inode, lblk, size uint32) ([]byte, error) {
	var run Run
	limit := eaBlocksPerStep - lblk%eaBlocksPerStep
	left := (size-1)>>v.BlockBits - lblk + 1
	if err := v.Map(src, ea, Lblk(lblk), min(limit, left), &run); err != nil {
		return nil, err
	}
	if run.State != RunMapped {
		return nil, Corrupt("extended attributes: hole in a value", ea.Where, ea.Offset, ea.Ino)
	}
	for i := range run.Len {
		src.Want(run.Phys + Block(i))
	}
	buf, err := src.Block(run.Phys)
	if err != nil {
		return nil, err
	}
	return buf.Data[:min(v.BlockSize, size-lblk<<v.BlockBits)], nil
}

// checkEAHash compares a value in an inode of its own with the two hashes kept of it: the inode
// has that of the value in place of its access time, the entry that of name and value.
func (v *Volume) checkEAHash(owner *Inode, e *xattrEntry, ea *Inode, value []byte) error {
	kept := uint32(ea.Atime.Sec)
	// Lustre, which had such inodes first, kept no hashes, but named the owner.
	if e.hash != kept && uint32(ea.Mtime.Sec) == uint32(owner.Ino) &&
		ea.Generation == owner.Generation {
		return nil
	}
	hash := crc32c(v.CsumSeed, value)
	if hash != kept || e.hash != xattrHash(e.name, hash, true) &&
		e.hash != xattrHash(e.name, hash, false) {
		return Corrupt("extended attributes: hash of a value", ea.Where, ea.Offset, ea.Ino)
	}
	return nil
}

// xattrHash is e_hash of an entry whose value has the hash value: of the name's characters, then
// of one word. Early kernels took the characters as signed.
func xattrHash(name []byte, value uint32, unsigned bool) uint32 {
	hash := xattrNameHash(name, unsigned)
	return hash<<16 ^ hash>>16 ^ value
}

func xattrNameHash(name []byte, unsigned bool) (hash uint32) {
	for _, b := range name {
		hash = hash<<5 ^ hash>>27 ^ char(b, unsigned)
	}
	return hash
}

// ListXattr writes the names of the attributes, each with a zero byte behind it, to dst and
// returns their length; with an empty dst it only tells the length. Names of the prefix trusted
// are listed on demand. Errors: ERANGE if dst is too small, those of src, CorruptError.
func (v *Volume) ListXattr(src Source, in *Inode, dst []byte, trusted bool) (int, error) {
	body, err := v.xattrBody(in)
	if err != nil {
		return 0, err
	}
	block, err := v.xattrBlock(src, in)
	if err != nil {
		return 0, err
	}
	n, err := body.list(dst, 0, trusted)
	if err != nil {
		return 0, err
	}
	return block.list(dst, n, trusted)
}

// list appends the names of an area to the n bytes in dst.
func (a *xattrArea) list(dst []byte, n int, trusted bool) (int, error) {
	query := len(dst) == 0
	var e xattrEntry
	for off := a.first; off < a.end; off = e.next {
		e = a.at(off)
		if int(e.index) >= len(xattrPrefixes) || xattrPrefixes[e.index] == "" ||
			e.index == XattrIndexTrusted && !trusted {
			continue
		}
		prefix := xattrPrefixes[e.index]
		size := len(prefix) + len(e.name) + 1
		if !query {
			if size > len(dst)-n {
				return 0, unix.ERANGE
			}
			at := n + copy(dst[n:], prefix)
			dst[at+copy(dst[at:], e.name)] = 0
		}
		n += size
	}
	return n, nil
}
