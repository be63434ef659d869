package vfs

import (
	"asyncfsd/blockdev"
	"asyncfsd/vfs/ext4"
	"asyncfsd/vfs/jbd2"
)

// ErrorsMode says what happens after damage was found or writing has failed (errors=).
type ErrorsMode uint8

// The modes.
const (
	ErrorsContinue ErrorsMode = iota
	ErrorsRemountRO
	ErrorsPanic
)

// AtimeMode says when a read sets the time of the last access.
type AtimeMode uint8

// The modes.
const (
	AtimeRelative AtimeMode = iota
	AtimeNever
	AtimeStrict
)

// WriteConfig is what a filesystem that is written has beyond Config.
type WriteConfig struct {
	// Storage is the device for what happens before and after the loop runs.
	Storage jbd2.Storage
	// Log is the journal, recovered and empty; nil if the filesystem has none.
	Log *jbd2.Log
	// LogDevice is the device on which the log is, on the same engine, and LogStorage the same for
	// what happens before and after the loop runs; nil if the log is in the filesystem itself.
	LogDevice  blockdev.Device
	LogStorage jbd2.Storage
	// MMP is what stands in the block of multiple mount protection, which the caller has written:
	// from then on the mount keeps it up to date, and gives the filesystem back at its end. nil if
	// there is none.
	MMP *ext4.MMP
	// CommitSeconds is how old the running transaction may get; 0 means 5.
	CommitSeconds int
	// NoBarrier leaves out flushes: a power cut may then damage the filesystem.
	NoBarrier bool
	// Discard tells the device of blocks that were freed, once that is durable.
	Discard bool
	Errors  ErrorsMode
	Atime   AtimeMode
	// NoDirAtime leaves the time of access of directories alone; LazyTime lets times stay in memory
	// until something else changes the inode.
	NoDirAtime, LazyTime bool
	// Sync has changes durable before the reply, DirSync those of directories.
	Sync, DirSync bool
	// Grpid has new files take the group of their directory, whatever its mode.
	Grpid bool
	// ResUID and ResGID may use reserved blocks as root does.
	ResUID, ResGID uint32
	// LimitUsers, LimitGroups and LimitProjects have the limits of the filesystem's quotas
	// enforced, as far as it has such quotas. What everybody uses is counted anyway.
	LimitUsers, LimitGroups, LimitProjects bool
	// Mountpoint is recorded in the superblock.
	Mountpoint string
}

// Orphan says that an inode has no name any more and is to be freed when nobody holds it.
func (fs *FS) Orphan(ino ext4.Ino) bool {
	return fs.w != nil && fs.w.orphans.Has(ino)
}
