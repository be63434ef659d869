package vfs

import (
	"golang.org/x/sys/unix"

	"asyncfsd/blockdev"
	"asyncfsd/vfs/ext4"
)

// As returns a client that does everything on behalf of somebody else than root.
func (c *Client) As(cred Cred) *Client {
	return &Client{fs: c.fs, cred: cred, of: c.owner()}
}

// Mknod makes a file of any type but a directory or a symbolic link.
func (c *Client) Mknod(dir ext4.Ino, name string, mode, rdev uint32) (Attr, error) {
	return c.make(OpMknod, dir, name, func(op *Op) { op.Mode, op.Rdev = mode, rdev })
}

// Mkdir makes a directory.
func (c *Client) Mkdir(dir ext4.Ino, name string, mode uint32) (Attr, error) {
	return c.make(OpMkdir, dir, name, func(op *Op) { op.Mode = mode })
}

// Symlink makes a symbolic link.
func (c *Client) Symlink(dir ext4.Ino, name, target string) (Attr, error) {
	call := &clientCall{code: OpSymlink, node: dir, name: name, src: []byte(target)}
	err := c.do(call)
	return call.attr, err
}

// Link gives an inode another name.
func (c *Client) Link(ino, dir ext4.Ino, name string) error {
	_, err := c.make(OpLink, ino, name, func(op *Op) { op.Node2 = dir })
	return err
}

func (c *Client) make(code Code, node ext4.Ino, name string, fill func(op *Op)) (Attr, error) {
	call := &clientCall{code: code, node: node, name: name, fill: fill}
	err := c.do(call)
	return call.attr, err
}

// Unlink takes a name away from a file that is no directory.
func (c *Client) Unlink(dir ext4.Ino, name string) error {
	_, err := c.make(OpUnlink, dir, name, nil)
	return err
}

// Rmdir removes an empty directory.
func (c *Client) Rmdir(dir ext4.Ino, name string) error {
	_, err := c.make(OpRmdir, dir, name, nil)
	return err
}

// Rename moves a name; flags are RENAME_NOREPLACE and its like.
func (c *Client) Rename(dir ext4.Ino, name string, dir2 ext4.Ino, name2 string,
	flags uint32) error {
	if len(name2) > 255 {
		return unix.ENAMETOOLONG
	}
	_, err := c.make(OpRename, dir, name, func(op *Op) {
		op.Node2, op.Arg = dir2, flags
		op.SetName2([]byte(name2))
	})
	return err
}

// Setattr changes the attributes that valid names.
func (c *Client) Setattr(ino ext4.Ino, valid uint32, set Attr) (Attr, error) {
	return c.make(OpSetattr, ino, "", func(op *Op) { op.Valid, op.Set = valid, set })
}

// Truncate sets the size of a file.
func (c *Client) Truncate(ino ext4.Ino, size uint64) error {
	_, err := c.Setattr(ino, SetSize, Attr{Size: size})
	return err
}

// WriteAt writes file data at off. A full filesystem gives a short count with ENOSPC.
func (c *Client) WriteAt(ino ext4.Ino, p []byte, off int64) (n int, err error) {
	return c.write(ino, p, off, 0)
}

// WriteBehind is WriteAt, but it may return before the data are on the device, in pieces of at most
// blockdev.PayloadMax bytes. If they cannot be written the filesystem becomes read-only.
func (c *Client) WriteBehind(ino ext4.Ino, p []byte, off int64) (n int, err error) {
	return c.write(ino, p, off, WriteBehind)
}

func (c *Client) write(ino ext4.Ino, p []byte, off int64, arg uint32) (n int, err error) {
	for n < len(p) && err == nil {
		call := &clientCall{code: OpWrite, node: ino, off: uint64(off) + uint64(n), arg: arg,
			src: p[n:min(len(p), n+blockdev.PayloadMax)]}
		err = c.do(call)
		n += call.n
	}
	return n, err
}

// CopyRange copies n bytes from a place in one file to one in another, or less if the file ends.
func (c *Client) CopyRange(to ext4.Ino, at uint64, from ext4.Ino, off, n uint64) (copied uint64,
	err error) {
	for copied < n && err == nil {
		call := &clientCall{code: OpCopy, node: to, fill: func(op *Op) {
			op.Off, op.Node2, op.Off2, op.Len = at+copied, from, off+copied, n-copied
		}}
		err = c.do(call)
		copied += call.value
		if call.value == 0 {
			break
		}
	}
	return copied, err
}

// Fallocate allocates, punches or zeroes a range.
func (c *Client) Fallocate(ino ext4.Ino, mode uint32, off, length uint64) error {
	_, err := c.make(OpFallocate, ino, "", func(op *Op) {
		op.Off, op.Len, op.Arg = off, length, mode
	})
	return err
}

// Fsync returns when all changes to an inode are durable; ino 0 stands for everything.
func (c *Client) Fsync(ino ext4.Ino) error {
	_, err := c.make(OpFsync, ino, "", nil)
	return err
}

// Setxattr sets an extended attribute by its full name.
func (c *Client) Setxattr(ino ext4.Ino, name string, value []byte, flags uint32) error {
	call := &clientCall{code: OpSetxattr, node: ino, name: name, src: value,
		fill: func(op *Op) { op.Arg = flags }}
	return c.do(call)
}

// Removexattr removes an extended attribute.
func (c *Client) Removexattr(ino ext4.Ino, name string) error {
	_, err := c.make(OpRemovexattr, ino, name, nil)
	return err
}

// Fdatasync is Fsync for what it takes to read the data again.
func (c *Client) Fdatasync(ino ext4.Ino) error {
	_, err := c.make(OpFsync, ino, "", func(op *Op) { op.Arg = 1 })
	return err
}

// Checkpoint has everything written in place, and the log erased as how says (Checkpoint*).
func (c *Client) Checkpoint(how uint32) error {
	_, err := c.make(OpCheckpoint, 0, "", func(op *Op) { op.Arg = how })
	return err
}
