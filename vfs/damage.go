package vfs

import (
	"golang.org/x/sys/unix"

	"asyncfsd/vfs/ext4"
)

// damage is what is to be recorded in the superblock at the end.
type damage struct {
	count           uint32
	first, last     ext4.ErrorRecord
	firstOp, lastOp Code
}

// damaged notes that a structure on the disk is not what it should be, and does what errors= says:
// goes on, writes nothing any more, or ends everything.
func (w *writer) damaged(op *Op, err *ext4.CorruptError) {
	d := &w.damage
	d.last, d.lastOp = ext4.ErrorRecord{When: now(), Ino: err.Ino, Block: err.Where,
		Err: err}, op.Code
	if d.count == 0 {
		d.first, d.firstOp = d.last, d.lastOp
	}
	d.count++
	switch {
	case w.aborted != 0:
	case w.c.Errors == ErrorsRemountRO:
		w.abort(unix.EUCLEAN)
	case w.c.Errors == ErrorsPanic:
		w.shutDown()
	}
}

// record writes down, at the end, what damage was found, and why the journal was given up. What
// cannot be written any more is left out: the log says what happened.
func (w *writer) record() {
	if w.mmp != nil && w.mmp.lost {
		return // it is somebody else's superblock
	}
	if w.aborted != 0 && !w.down {
		if w.damage.count == 0 {
			r := ext4.ErrorRecord{When: now(), Err: w.aborted}
			w.damage = damage{1, r, r, OpWrite, OpWrite}
		}
		if w.log != nil {
			w.log.SetErrno(int(w.aborted))
			_ = w.writeLogSuper(false)
		}
	}
	if d := &w.damage; d.count > 0 {
		d.first.Where, d.last.Where = d.firstOp.String(), d.lastOp.String()
		_ = w.editSuper(func(ed ext4.Editor) error {
			return w.fs.vol.ErrorSuper(ed, w.damage.count, w.damage.first, w.damage.last)
		})
	}
}
