package ext4

import (
	"golang.org/x/sys/unix"
)

// ace is a decoded entry of an ACL.
type ace struct {
	tag, perm uint16
	id        uint32
}

// aclWriter appends entries in the form of the disk.
type aclWriter struct {
	dst []byte
	n   int
}

func (w *aclWriter) add(e ace) bool {
	size := aclShort
	if e.tag == aclTagUser || e.tag == aclTagGroup {
		size = aclLong
	}
	if w.n+size > len(w.dst) {
		return false
	}
	le.PutUint16(w.dst[w.n+aclTag:], e.tag)
	le.PutUint16(w.dst[w.n+aclPerm:], e.perm)
	if size == aclLong {
		le.PutUint32(w.dst[w.n+aclID:], e.id)
	}
	w.n += size
	return true
}

// EncodeACL converts an ACL from the form of setxattr to that of the disk, and returns the length
// of the latter, 0 for an ACL without entries. mode are the permission bits that it stands for, and
// equal says that it says nothing beyond them. Errors: EINVAL for what is not an ACL, ENOSPC if
// dst is too small, EOPNOTSUPP for another version.
func EncodeACL(dst, wire []byte) (n int, mode uint16, equal bool, err error) {
	switch {
	case len(wire) == 0:
		return 0, 0, true, nil
	case len(wire) < aclXattrHeader || (len(wire)-aclXattrHeader)%aclXattrEntry != 0:
		return 0, 0, false, unix.EINVAL
	case le32(wire, 0) != aclXattrVersion:
		return 0, 0, false, unix.EOPNOTSUPP
	case len(wire) == aclXattrHeader:
		return 0, 0, true, nil
	}
	w := aclWriter{dst: dst, n: aclHeader}
	le.PutUint32(dst, aclVersion1)
	var c aclChecker
	for p := wire[aclXattrHeader:]; len(p) > 0; p = p[aclXattrEntry:] {
		e := ace{le16(p, aclTag), le16(p, aclPerm), le32(p, aclID)}
		if !c.next(e) {
			return 0, 0, false, unix.EINVAL
		}
		if !w.add(e) {
			return 0, 0, false, unix.ENOSPC
		}
	}
	if !c.complete() {
		return 0, 0, false, unix.EINVAL
	}
	return w.n, c.mode, !c.extended, nil
}

// aclChecker checks that entries come in the order in which POSIX.1e has them: owner, named users,
// group, named groups, mask, others.
type aclChecker struct {
	last     uint16
	seen     uint16
	named    bool
	extended bool
	mode     uint16
}

func (c *aclChecker) next(e ace) bool {
	if e.perm&^7 != 0 || e.tag < c.last {
		return false
	}
	repeats := e.tag == aclTagUser || e.tag == aclTagGroup
	if e.tag == c.last && !repeats {
		return false
	}
	c.last = e.tag
	c.seen |= e.tag
	switch e.tag {
	case aclTagOwner:
		c.mode |= e.perm << 6
	case aclTagUser, aclTagGroup:
		c.named, c.extended = true, true
	case aclTagOwning:
		c.mode |= e.perm << 3
	case aclTagMask:
		c.mode = c.mode&^070 | e.perm<<3
		c.extended = true
	case aclTagOther:
		c.mode |= e.perm
	default:
		return false
	}
	return true
}

func (c *aclChecker) complete() bool {
	const needed = aclTagOwner | aclTagOwning | aclTagOther
	return c.seen&needed == needed && (!c.named || c.seen&aclTagMask != 0)
}

// eachACE visits the entries of an ACL on the disk, and may change their permissions.
func eachACE(disk []byte, visit func(tag uint16, perm []byte)) error {
	if len(disk) < aclHeader || le32(disk, aclVersion) != aclVersion1 {
		return unix.EIO
	}
	for p := disk[aclHeader:]; len(p) > 0; {
		size, _, ok := aclEntry(p)
		if !ok {
			return unix.EIO
		}
		visit(le16(p, aclTag), p[aclPerm:aclPerm+2])
		p = p[size:]
	}
	return nil
}

// readACL returns an ACL of an inode as it is on the disk, nil if it has none. It lies in scratch
// memory of the editor's Space.
func (v *Volume) readACL(ed Editor, in *Inode, index uint8) ([]byte, error) {
	dst := ed.Space().acl
	n, err := v.GetXattr(ed, in, index, nil, dst, &XattrCursor{})
	if err == unix.ENODATA {
		return nil, nil
	}
	return dst[:n], err
}

// InheritACL gives the new inode in the ACLs that the default ACL of its directory means for it,
// and takes from its mode what that, or without one the umask, takes. The caller writes in.
func (v *Volume) InheritACL(ed Editor, dir, in *Inode, umask uint16) error {
	disk, err := v.readACL(ed, dir, XattrIndexACLDefault)
	if err != nil {
		return err
	}
	if disk == nil {
		in.Mode &^= umask
		return nil
	}
	if in.IsDir() {
		if err := v.SetXattr(ed, in, XattrIndexACLDefault, nil, disk, 0); err != nil {
			return err
		}
	}
	masked := false
	if err := eachACE(disk, func(tag uint16, _ []byte) {
		masked = masked || tag == aclTagMask
	}); err != nil {
		return err
	}
	mode, extended := in.Mode, false
	limit := func(perm []byte, shift uint) {
		allowed := le.Uint16(perm) & (in.Mode >> shift) & 7
		le.PutUint16(perm, allowed)
		mode = mode&^(7<<shift) | allowed<<shift
	}
	err = eachACE(disk, func(tag uint16, perm []byte) {
		switch tag {
		case aclTagOwner:
			limit(perm, 6)
		case aclTagOwning:
			if !masked {
				limit(perm, 3)
			}
		case aclTagMask:
			limit(perm, 3)
			extended = true
		case aclTagOther:
			limit(perm, 0)
		default:
			extended = true
		}
	})
	in.Mode = mode
	if err != nil || !extended {
		return err
	}
	return v.SetXattr(ed, in, XattrIndexACLAccess, nil, disk, 0)
}

// ChmodACL makes the access ACL of an inode, if it has one, say what the new mode says. The caller
// writes in.
func (v *Volume) ChmodACL(ed Editor, in *Inode, mode uint16) error {
	disk, err := v.readACL(ed, in, XattrIndexACLAccess)
	if err != nil || disk == nil {
		return err
	}
	masked := false
	if err := eachACE(disk, func(tag uint16, _ []byte) {
		masked = masked || tag == aclTagMask
	}); err != nil {
		return err
	}
	err = eachACE(disk, func(tag uint16, perm []byte) {
		switch {
		case tag == aclTagOwner:
			le.PutUint16(perm, mode>>6&7)
		case tag == aclTagMask, tag == aclTagOwning && !masked:
			le.PutUint16(perm, mode>>3&7)
		case tag == aclTagOther:
			le.PutUint16(perm, mode&7)
		}
	})
	if err != nil {
		return err
	}
	return v.SetXattr(ed, in, XattrIndexACLAccess, nil, disk, 0)
}
