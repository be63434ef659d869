package vfs

import (
	"asyncfsd/asyncq"
)

// prepareFsync replies when all changes to an inode, or to everything, are durable: it waits for a
// commit, or only flushes the device where nothing but data has changed.
func prepareFsync(fs *FS, tx *Tx, op *Op) error {
	w := fs.w
	if w == nil {
		return nil
	}
	if err := fs.awaitSynced(tx, op); err != nil {
		return err
	}
	fs.syncAfter(op)
	if op.Node == 0 {
		op.tid = w.tid
		if w.cache.Running() == 0 {
			op.tid--
		}
	}
	op.sync = true
	return nil
}

// syncAfter has the operation reply when all changes to its inode so far are durable.
func (fs *FS) syncAfter(op *Op) { op.tid = fs.w.changedIn(op.Node) }

// flush makes the data that an operation or its forerunners have written durable, and replies.
func (fs *FS) flush(s asyncq.Slot, op *Op) {
	if fs.w.c.NoBarrier {
		fs.finish(s, op, 0)
		return
	}
	op.inflight, op.ioErr, op.nruns, op.sync, op.more = 1, 0, 0, false, false
	fs.loop.Table.Desc(s).Stage = stageData
	fs.loop.Table.Park(s, wantData)
	fs.dev.Submit(asyncq.IO{Op: asyncq.OpFlush, Token: fs.loop.Table.Token(fs.id, s)})
}
