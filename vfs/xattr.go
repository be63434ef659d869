package vfs

import (
	"golang.org/x/sys/unix"

	"asyncfsd/vfs/ext4"
)

// xattrMax is the largest extended attribute value (XATTR_SIZE_MAX), and list, in bytes.
const xattrMax = 64 << 10

// prepareGetxattr reads one attribute. Size 0 asks for the length only.
func prepareGetxattr(fs *FS, tx *Tx, op *Op) error {
	index, name, ok := ext4.XattrIndex(op.Name())
	isACL := ok && (index == ext4.XattrIndexACLAccess || index == ext4.XattrIndexACLDefault)
	if !ok || isACL && fs.config.NoACL {
		return unix.EOPNOTSUPP
	}
	if err := fs.readInode(tx, op.Node, &fs.inode); err != nil {
		return err
	}
	dst, err := fs.xattrDst(tx, op)
	if err != nil {
		return err
	}
	if isACL {
		return fs.getACL(tx, op, index, dst)
	}
	n, err := fs.vol.GetXattr(tx, &fs.inode, index, name, dst, &op.xattr)
	op.N, op.Value = uint32(min(n, len(dst))), uint64(n)
	return err
}

// xattrDst is the part of the payload that the answer may fill, empty for a size query.
func (fs *FS) xattrDst(tx *Tx, op *Op) ([]byte, error) {
	size := min(op.Size, xattrMax)
	if size == 0 {
		return nil, nil
	}
	if err := tx.Buffer(size); err != nil {
		return nil, err
	}
	return fs.arena.Payload(op.Buf)[:size], nil
}

// getACL converts an ACL from the disk's form to that of the system calls.
func (fs *FS) getACL(tx *Tx, op *Op, index uint8, dst []byte) error {
	n, err := fs.vol.GetXattr(tx, &fs.inode, index, nil, fs.scratch[0][:], &op.xattr)
	if err != nil {
		return err
	}
	m, err := ext4.ACLToXattr(fs.scratch[0][:n], fs.scratch[1][:])
	if err != nil {
		return err
	}
	op.Value = uint64(m)
	if len(dst) == 0 {
		return nil
	}
	if m > len(dst) {
		return unix.ERANGE
	}
	op.N = uint32(copy(dst, fs.scratch[1][:m]))
	return nil
}

// prepareListxattr lists the names. trusted.* is for root alone, as in the kernel.
func prepareListxattr(fs *FS, tx *Tx, op *Op) error {
	if err := fs.readInode(tx, op.Node, &fs.inode); err != nil {
		return err
	}
	dst, err := fs.xattrDst(tx, op)
	if err != nil {
		return err
	}
	n, err := fs.vol.ListXattr(tx, &fs.inode, dst, op.Cred.IsRoot())
	op.N, op.Value = uint32(min(n, len(dst))), uint64(n)
	return err
}
