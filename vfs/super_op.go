package vfs

import "golang.org/x/sys/unix"

// labelMax is the length of a volume's name.
const labelMax = 16

// prepareSetlabel names the volume.
func prepareSetlabel(fs *FS, tx *Tx, op *Op) error {
	if op.NameLen > labelMax {
		return unix.EINVAL
	}
	if !op.Cred.IsRoot() {
		return unix.EPERM
	}
	if err := fs.vol.SetLabel(tx, op.Name()); err != nil {
		return err
	}
	op.sync = true
	fs.w.place = true // NB: for programs that look for labels on devices, soon after
	return nil
}

// prepareShutdown ends all writing as a crash would (EXT4_IOC_SHUTDOWN): at once, or after the log
// has everything that was done so far.
func prepareShutdown(fs *FS, _ *Tx, op *Op) error {
	w := fs.w
	if w == nil {
		return unix.EROFS
	}
	if !op.Cred.IsRoot() {
		return unix.EPERM
	}
	if op.Arg != goingNoLogFlush && w.cache.Running() > 0 {
		op.tid, op.sync = w.tid, true
		return nil
	}
	w.shutDown()
	return nil
}

// goingNoLogFlush is EXT4_GOING_FLAGS_NOLOGFLUSH: what is not in the log yet is lost.
const goingNoLogFlush = 2

// shutDown stops all reading and writing; the next mount recovers the log.
func (w *writer) shutDown() {
	w.down = true
	w.abort(unix.EIO)
}
