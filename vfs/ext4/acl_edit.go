package ext4

import "golang.org/x/sys/unix"

const (
	aclPermMax = 7
	// modeACL are the bits of a mode that an ACL has entries for.
	modeACL = 0o777
)

// EncodeACL converts an ACL from its form in setxattr to that on the disk, in dst, and returns its
// length there: 0 for an ACL without entries, which stands for none. mode are the permissions that
// it gives owner, group (or, if there is a mask, the mask) and others; equal says that it gives
// nothing else, so that as an access ACL it need not be stored. Errors: EINVAL for what is not a
// valid ACL, EOPNOTSUPP for another version, ENOSPC if dst is too small.
func EncodeACL(dst, wire []byte) (n int, mode uint16, equal bool, err error) {
	if len(wire) == 0 {
		return 0, 0, false, nil
	}
	if len(wire) < aclXattrHeader {
		return 0, 0, false, unix.EINVAL
	}
	if le32(wire, 0) != aclXattrVersion {
		return 0, 0, false, unix.EOPNOTSUPP
	}
	wire = wire[aclXattrHeader:]
	switch {
	case len(wire)%aclXattrEntry != 0:
		return 0, 0, false, unix.EINVAL
	case len(wire) == 0:
		return 0, 0, false, nil
	case len(dst) < aclHeader:
		return 0, 0, false, unix.ENOSPC
	}
	le.PutUint32(dst[aclVersion:], aclVersion1)
	n = aclHeader
	var order aclOrder
	for ; len(wire) > 0; wire = wire[aclXattrEntry:] {
		id := le32(wire, aclID)
		if !order.next(le16(wire, aclTag), le16(wire, aclPerm), id) {
			return 0, 0, false, unix.EINVAL
		}
		size := aclShort
		if aclNamed(le16(wire, aclTag)) {
			size = aclLong
		}
		if len(dst) < n+size {
			return 0, 0, false, unix.ENOSPC
		}
		copy(dst[n:n+size], wire) // tag, permissions and id are the same in both
		n += size
	}
	if !order.complete() {
		return 0, 0, false, unix.EINVAL
	}
	mode, equal, err = aclMode(dst[:n])
	return n, mode, equal, err
}

// aclNamed says whether entries with that tag are about a named user or group.
func aclNamed(tag uint16) bool { return tag == aclTagUser || tag == aclTagGroup }

// aclOrder checks that the entries of an ACL come in their order: owner, named users, owning
// group, named groups, mask, others. The mask may only be missing if there is no named entry.
type aclOrder struct {
	last  uint16 // tag of the entry before
	named bool
}

// next says whether an entry may follow.
func (o *aclOrder) next(tag, perm uint16, id uint32) bool {
	last := o.last
	o.last = tag
	o.named = o.named || aclNamed(tag)
	if perm > aclPermMax || aclNamed(tag) && id == aclNoID {
		return false
	}
	switch tag {
	case aclTagOwner:
		return last == 0
	case aclTagUser, aclTagOwning:
		return last == aclTagOwner || last == aclTagUser
	case aclTagGroup, aclTagMask:
		return last == aclTagOwning || last == aclTagGroup
	case aclTagOther:
		return last == aclTagMask || last == aclTagOwning && !o.named
	}
	return false
}

// complete says whether nothing is missing at the end.
func (o *aclOrder) complete() bool { return o.last == aclTagOther }

// aclMode returns the permissions that an ACL gives, and whether it gives nothing else.
func aclMode(acl []byte) (mode uint16, equal bool, err error) {
	equal = true
	mask := -1
	err = eachACL(acl, func(tag uint16, entry []byte) {
		perm := le16(entry, aclPerm) & aclPermMax
		switch tag {
		case aclTagOwner:
			mode |= perm << 6
		case aclTagOwning:
			mode |= perm << 3
		case aclTagOther:
			mode |= perm
		case aclTagMask:
			mask, equal = int(perm), false
		default:
			equal = false
		}
	})
	if mask >= 0 {
		mode = mode&^0o070 | uint16(mask)<<3
	}
	return mode, equal, err
}

// eachACL calls f for the entries of an ACL in the form of the disk. EINVAL: it is none.
func eachACL(acl []byte, f func(tag uint16, entry []byte)) error {
	if len(acl) < aclHeader || le32(acl, aclVersion) != aclVersion1 {
		return unix.EINVAL
	}
	for in := acl[aclHeader:]; len(in) > 0; {
		size, _, ok := aclEntry(in)
		if !ok {
			return unix.EINVAL
		}
		f(le16(in, aclTag), in[:size])
		in = in[size:]
	}
	return nil
}

// limitACL gives an ACL at most the permissions that mode has, and returns what is left of them:
// the mask stands for the group if there is one.
func limitACL(acl []byte, mode uint16) (uint16, error) {
	have, _, err := aclMode(acl)
	if err != nil {
		return 0, err
	}
	mode &= have
	return mode, applyMode(acl, mode)
}

// applyMode sets the permissions of an ACL to those of a mode.
func applyMode(acl []byte, mode uint16) error {
	masked := false
	err := eachACL(acl, func(tag uint16, _ []byte) { masked = masked || tag == aclTagMask })
	if err != nil {
		return err
	}
	return eachACL(acl, func(tag uint16, entry []byte) {
		perm := le16(entry, aclPerm)
		switch {
		case tag == aclTagOwner:
			perm = mode >> 6 & aclPermMax
		case tag == aclTagMask || tag == aclTagOwning && !masked:
			perm = mode >> 3 & aclPermMax
		case tag == aclTagOther:
			perm = mode & aclPermMax
		}
		le.PutUint16(entry[aclPerm:], perm)
	})
}

// aclSizeMax is how large an ACL can be on the disk.
func (v *Volume) aclSizeMax() int {
	if v.HasIncompat(IncompatEAInode) {
		return xattrSizeMaxSet
	}
	return int(v.BlockSize)
}

// readACL copies an ACL of an inode, in the form of the disk, to memory that lasts until the next
// one; nil if there is none.
func (v *Volume) readACL(ed Editor, in *Inode, index uint8) ([]byte, error) {
	acl := ed.Space().acl
	var cur XattrCursor
	n, err := v.GetXattr(ed, in, index, nil, acl, &cur)
	for err == ErrContinue { // 64 blocks at most
		n, err = v.GetXattr(ed, in, index, nil, acl, &cur)
	}
	if err == unix.ENODATA || err == nil && n == aclHeader {
		return nil, nil
	}
	return acl[:n], err
}

// InheritACL completes the mode of a new inode in directory dir, whose permissions are those asked
// for. Where dir has no default ACL the umask is taken off; where it has one, that is the new
// inode's ACL, as far as the mode allows it, and the default ACL of a new directory. The caller
// writes the inode. Errors: EINVAL if what dir has is no ACL; those of SetXattr.
func (v *Volume) InheritACL(ed Editor, dir *Inode, in *Inode, umask uint16) error {
	if in.Type() == unix.S_IFLNK {
		return nil
	}
	acl, err := v.readACL(ed, dir, XattrIndexACLDefault)
	if err != nil {
		return err
	}
	if acl == nil {
		in.Mode &^= umask & modeACL
		return nil
	}
	if in.IsDir() {
		if err := v.SetXattr(ed, in, XattrIndexACLDefault, nil, acl, 0); err != nil {
			return err
		}
	}
	mode, err := limitACL(acl, in.Mode&modeACL)
	if err != nil {
		return err
	}
	in.Mode = in.Mode&^modeACL | mode
	if _, equal, err := aclMode(acl); equal || err != nil {
		return err
	}
	return v.SetXattr(ed, in, XattrIndexACLAccess, nil, acl, 0)
}

// ChmodACL brings the access ACL of an inode, if it has one, in line with a new mode. The caller
// writes the inode. Errors: EINVAL if what is there is no ACL; those of SetXattr.
func (v *Volume) ChmodACL(ed Editor, in *Inode, mode uint16) error {
	if in.Type() == unix.S_IFLNK {
		return nil
	}
	acl, err := v.readACL(ed, in, XattrIndexACLAccess)
	if acl == nil || err != nil {
		return err
	}
	if err := applyMode(acl, mode); err != nil {
		return err
	}
	if _, equal, err := aclMode(acl); err != nil {
		return err
	} else if equal { // the mode says it all
		return v.RemoveXattr(ed, in, XattrIndexACLAccess, nil)
	}
	return v.SetXattr(ed, in, XattrIndexACLAccess, nil, acl, 0)
}
