package vfs

import (
	"time"

	"golang.org/x/sys/unix"

	"asyncfsd/asyncq"
	"asyncfsd/vfs/ext4"
)

// atimeAge is how old, in seconds, the time of the last access may get in relatime mode.
const atimeAge = 24 * 60 * 60

// staleAtime says whether an access sets the inode's time of the last access.
func (fs *FS) staleAtime(in *ext4.Inode) bool {
	w := fs.w
	if w == nil || w.aborted != 0 || w.c.Atime == AtimeNever || in.Flags&ext4.FlagNoatime != 0 ||
		in.IsDir() && w.c.NoDirAtime {
		return false
	}
	return w.c.Atime == AtimeStrict || !in.Mtime.Before(in.Atime) ||
		!in.Ctime.Before(in.Atime) || time.Now().Unix()-in.Atime.Sec >= atimeAge
}

// access has the time of the last access set after a read, by an operation of its own: the read
// need not wait for it. Without a free slot it is left out.
func (fs *FS) access(op *Op) {
	s, touch := fs.Claim(fs.w.front)
	if s == asyncq.NoSlot {
		return
	}
	touch.Code, touch.Node = OpTouch, op.Node
	if op.Code == OpCopy {
		touch.Node = op.Node2
	}
	fs.w.pending++
	fs.Submit(s)
}

func prepareTouch(fs *FS, tx *Tx, op *Op) error {
	in := &fs.inode
	if err := fs.readInode(tx, op.Node, in); err != nil {
		return err
	}
	if !fs.staleAtime(in) {
		return unix.ESTALE
	}
	in.Atime = fs.vol.ClampTime(op.now)
	return fs.vol.WriteInode(tx, in)
}
