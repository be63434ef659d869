package ext4

import (
	"encoding/binary"

	"golang.org/x/sys/unix"
)

// Form of an ACL in the system calls, struct posix_acl_xattr_header and its entries: a version
// of four bytes, then tag, permissions and a 32-bit id for each entry.
const (
	aclXattrVersion = 2
	aclXattrHeader  = 4
	aclXattrEntry   = 8
	aclNoID         = 0xffffffff
)

// ACLToXattr converts an ACL from its form on the disk to that of getxattr, and returns the
// length of the latter, at most twice that of the former. Errors: EINVAL for what is not an
// ACL, ENODATA for one without entries, ERANGE if out is too small.
func ACLToXattr(disk, out []byte) (int, error) {
	if len(disk) < aclHeader || le32(disk, aclVersion) != aclVersion1 {
		return 0, unix.EINVAL
	}
	if len(disk) == aclHeader {
		return 0, unix.ENODATA
	}
	if len(out) < aclXattrHeader {
		return 0, unix.ERANGE
	}
	binary.LittleEndian.PutUint32(out, aclXattrVersion)
	n := aclXattrHeader
	for in := disk[aclHeader:]; len(in) > 0; n += aclXattrEntry {
		size, id, ok := aclEntry(in)
		if !ok {
			return 0, unix.EINVAL
		}
		if len(out) < n+aclXattrEntry {
			return 0, unix.ERANGE
		}
		copy(out[n:], in[:aclID]) // tag and permissions are the same in both
		binary.LittleEndian.PutUint32(out[n+aclID:], id)
		in = in[size:]
	}
	return n, nil
}

// aclEntry returns the size of the entry that in begins with, and its id.
func aclEntry(in []byte) (size int, id uint32, ok bool) {
	if len(in) < aclShort {
		return 0, 0, false
	}
	switch le16(in, aclTag) {
	case aclTagOwner, aclTagOwning, aclTagMask, aclTagOther:
		return aclShort, aclNoID, true
	case aclTagUser, aclTagGroup:
		if len(in) < aclLong {
			return 0, 0, false
		}
		return aclLong, le32(in, aclID), true
	}
	return 0, 0, false
}
