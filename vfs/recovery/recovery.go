// Package recovery makes a filesystem whose journal is dirty ready for a mount: it finds the log,
// replays it and the fast commits behind it, and says in the superblock that this is done.
//
// What is written follows the order of the kernel, so that recovery may be cut short anywhere and
// run again: the replayed blocks; the journal's superblock, which now says that the log is empty;
// the filesystem's superblock without needs_recovery. Each is on stable storage before the next.
//
// Fast commits are carried out in memory, and what they change is put into the log as the
// transaction that they were a substitute for. From its commit block on, they do not count any
// more; until then, they are as good as before.
package recovery

import (
	"errors"
	"fmt"
	"time"

	"asyncfsd/vfs/ext4"
	"asyncfsd/vfs/jbd2"
)

// Storage is a device for synchronous I/O. See jbd2.Storage.
type Storage = jbd2.Storage

// Options says what a mount allows.
type Options struct {
	// NoRecovery leaves the journal alone, and shows the filesystem as it is without it.
	NoRecovery bool
	// ReadOnly says that the storage cannot be written.
	ReadOnly bool
	// Journal is the device with the external journal, nil if none was given.
	Journal Storage
	// Super is the byte offset of the superblock that the mount uses, 0 for the primary one.
	Super int64
}

// Report says what Recover did.
type Report struct {
	// Replayed says that the journal was dirty, and has been replayed, or that there was an Errno:
	// the volume has to be opened again.
	Replayed bool
	// Skipped says that the journal is dirty, and was left so (NoRecovery).
	Skipped bool
	jbd2.Stats
	// FastCommits is how many fast commits were replayed, and FastTags how many changes in them.
	FastCommits, FastTags int
	// Errno is the error for which the filesystem had given its journal up, 0 if there was none.
	// The superblock says from now on that the filesystem has errors.
	Errno int
}

// String describes the replay in one line, for the log.
func (r Report) String() string {
	switch {
	case r.Skipped:
		return "journal not replayed: the last changes are missing"
	case !r.Replayed:
		return "journal clean"
	}
	s := fmt.Sprintf("journal replayed: transactions %d, blocks %d, revoked %d", r.Transactions,
		r.Blocks, r.Revoked)
	if r.FastCommits > 0 {
		s += fmt.Sprintf(", fast commits %d with %d changes", r.FastCommits, r.FastTags)
	}
	if r.Errno != 0 {
		s += fmt.Sprintf("; it was aborted with error %d before: check the filesystem", r.Errno)
	}
	return s
}

// ErrReadOnly says that the journal is dirty and cannot be replayed.
var ErrReadOnly = errors.New("the journal has to be replayed, which needs write access; " +
	"norecovery mounts without, as of before the last changes")

// NeedsRecovery says whether there is a journal that has to be replayed.
func NeedsRecovery(vol *ext4.Volume) bool {
	return vol.HasCompat(ext4.CompatHasJournal) && vol.NeedsRecovery()
}

// Recover replays the journal of the filesystem vol in dev, if it is dirty. If it is clean, it
// only checks it. Orphans are not dealt with. Errors are one line: ErrReadOnly, *jbd2.CorruptError,
// *jbd2.FeatureError, *ext4.CorruptError, those of the devices, or others with the reason. After an
// error the filesystem is not to be mounted; e2fsck may be able to repair it.
func Recover(dev Storage, vol *ext4.Volume, o Options) (Report, error) {
	if o.NoRecovery {
		return Report{Skipped: NeedsRecovery(vol)}, nil
	}
	if !vol.HasCompat(ext4.CompatHasJournal) {
		if vol.NeedsRecovery() {
			return Report{}, errors.New("the superblock says that the journal has to be " +
				"replayed, but there is no journal")
		}
		return Report{}, nil
	}
	if external(vol) && o.Journal == nil && !vol.NeedsRecovery() {
		return Report{}, nil // a read-only mount need not see it
	}
	c, err := find(dev, vol, o)
	if err != nil {
		return Report{}, err
	}
	log, err := jbd2.Open(c)
	if err != nil {
		return Report{}, err
	}
	if external(vol) && log.Users() != 1 {
		return Report{}, fmt.Errorf("the external journal is shared by %d filesystems",
			log.Users())
	}
	switch {
	case !vol.NeedsRecovery() && (log.Errno() == 0 || o.ReadOnly):
		return Report{}, nil
	case !vol.NeedsRecovery():
		// Whoever replayed it had not come so far when power failed.
		r := Report{Replayed: true, Errno: log.Errno()}
		return r, noteErrno(dev, vol, log, o)
	case o.ReadOnly:
		return Report{}, ErrReadOnly
	}
	return replay(dev, vol, c, log, o)
}

// noteErrno notes in the superblock that the journal was given up, and has the journal forget it
// then.
func noteErrno(dev Storage, vol *ext4.Volume, log *jbd2.Log, o Options) error {
	if err := finish(dev, vol, true, o); err != nil {
		return err
	}
	return log.ClearErrno()
}

// replay does what the package comment says.
func replay(dev Storage, vol *ext4.Volume, c jbd2.Config, log *jbd2.Log, o Options) (Report,
	error) {
	r := Report{Replayed: true, Errno: log.Errno()}
	if err := log.Scan(); err != nil {
		return r, err
	}
	fc, err := scanFastCommits(vol, log)
	if err != nil {
		return r, err
	}
	if r.Stats, err = log.Replay(); err != nil {
		return r, err
	}
	if fc != nil && fc.Commits > 0 {
		r.FastCommits, r.FastTags = fc.Commits, fc.Tags
		if log, err = replayFast(dev, c, log, fc, o); err != nil {
			return r, fmt.Errorf("replaying the fast commits: %w", err)
		}
	}
	if err := log.MarkEmpty(); err != nil {
		return r, err
	}
	if r.Errno != 0 {
		return r, noteErrno(dev, vol, log, o)
	}
	return r, finish(dev, vol, false, o)
}

// scanFastCommits returns the fast commits to the transaction behind the log, nil if the journal
// has no room for any.
func scanFastCommits(vol *ext4.Volume, log *jbd2.Log) (*ext4.FastCommits, error) {
	if log.FastCommits() == 0 {
		return nil, nil
	}
	return vol.ScanFastCommits(log.FastCommits(), log.ReadFastCommit, uint32(log.Next()))
}

// replayFast carries the fast commits out, once the log has been replayed, and returns the log as
// it is then, replayed again.
func replayFast(dev Storage, c jbd2.Config, log *jbd2.Log, fc *ext4.FastCommits, o Options) (
	*jbd2.Log, error) {
	vol, err := ext4.Open(dev, dev.Size(), ext4.OpenOptions{Super: o.Super})
	if err != nil {
		return nil, err
	}
	now := time.Now()
	changed, err := fc.Replay(vol, dev, vol.ClampTime(ext4.Timespec{Sec: now.Unix(),
		Nsec: uint32(now.Nanosecond())}))
	if err != nil {
		return nil, err
	}
	entry := func(i int) jbd2.Entry { return jbd2.Entry(changed[i]) }
	logged, err := log.Append(len(changed), entry, uint64(now.Unix()), uint32(now.Nanosecond()))
	if err != nil {
		return nil, err
	}
	if logged {
		if log, err = jbd2.Open(c); err == nil {
			err = log.Scan()
		}
		if err != nil {
			return nil, err
		}
		_, err = log.Replay()
		return log, err
	}
	// NB: this is not safe from a crash in the middle, but what the kernel does each time.
	for _, b := range changed {
		if _, err := dev.WriteAt(b.Data, int64(b.Block)<<vol.BlockBits); err != nil {
			return nil, err
		}
	}
	return log, dev.Flush()
}

// OpenLog opens the journal for writing, once Recover has left it empty; nil if there is none.
// journal is the device of an external one. Errors are those of Recover.
func OpenLog(dev Storage, vol *ext4.Volume, journal Storage) (*jbd2.Log, error) {
	if !vol.HasCompat(ext4.CompatHasJournal) {
		return nil, nil
	}
	c, err := find(dev, vol, Options{Journal: journal})
	if err != nil {
		return nil, err
	}
	log, err := jbd2.Open(c)
	if err != nil {
		return nil, err
	}
	if user := log.UserUUID(); external(vol) && user != vol.UUID {
		return nil, fmt.Errorf("the external journal belongs to a filesystem with UUID %s",
			uuidString(user))
	}
	if log.Empty() {
		return log, nil
	}
	// Nobody needs what is in it: the superblock says so. As the kernel, go on behind it.
	if err := log.Scan(); err != nil {
		return nil, err
	}
	return log, log.MarkEmpty()
}
