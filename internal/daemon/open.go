// Package daemon puts the layers together: it opens a source, recovers its journal, mounts it and
// serves the mount until it is unmounted.
package daemon

import (
	"errors"
	"fmt"
	"log/slog"

	"golang.org/x/sys/unix"

	"asyncfsd/asyncq"
	"asyncfsd/blockdev"
	"asyncfsd/fusefs"
	"asyncfsd/internal/options"
	"asyncfsd/vfs"
	"asyncfsd/vfs/ext4"
	"asyncfsd/vfs/recovery"
)

// Exit codes, as mount(8) has them.
const (
	ExitUsage  = 1
	ExitSystem = 2
	ExitMount  = 32
)

// Error is a failure with the exit code it leads to.
type Error struct {
	Code int
	Err  error
}

// Error returns the reason, one line.
func (e *Error) Error() string { return e.Err.Error() }

// Unwrap returns the reason.
func (e *Error) Unwrap() error { return e.Err }

func fail(code int, err error) error {
	if err == nil {
		return nil
	}
	return &Error{code, err}
}

// engineDepth is how many requests the ring takes between two waits: one for each slot of a
// transport. More are queued in pieces.
const engineDepth = asyncq.SlotsMax

// Config says what to mount, and how.
type Config struct {
	Source     string
	Mountpoint string
	Options    *options.Options
	Log        *slog.Logger
	// Notice, if not nil, takes the lines that whoever mounts should see at once, besides Log.
	Notice func(line string)
}

// Instance is an opened filesystem.
type Instance struct {
	config Config
	log    *slog.Logger
	engine asyncq.Engine
	// rings is the engine if requests can come over io_uring, on a machine that may have possible
	// processors; else nil.
	rings    *asyncq.Rings
	possible int
	loop     *asyncq.Loop
	dev      blockdev.Device
	arena    *blockdev.Arena
	vol      *ext4.Volume
	fs       *vfs.FS
	// storage is dev for code that may block. readOnly says that nothing is to be written, whatever
	// was asked for.
	storage *blockdev.Sync
	// journal is the device of an external journal, nil without, and journalStorage the same for
	// code that may block.
	journal        blockdev.Device
	journalStorage *blockdev.Sync
	readOnly       bool
	replayed       bool // the journal was
	// protection is multiple mount protection until the mount keeps it, nil without.
	protection *recovery.Protection
	// closers undo what was opened, the last first.
	closers []func()
}

// FS returns the filesystem.
func (i *Instance) FS() *vfs.FS { return i.fs }

// Open opens the source and everything below the transport. Errors are *Error.
func Open(c Config) (*Instance, error) {
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	i := &Instance{config: c, log: c.Log}
	release, err := Lock(c.Options.LockFile)
	if err != nil {
		return nil, err
	}
	i.closers = append(i.closers, release)
	if err := i.open(); err != nil {
		i.Close()
		return nil, err
	}
	return i, nil
}

func (i *Instance) open() error {
	o := i.config.Options
	if err := i.openEngine(); err != nil {
		return err
	}
	i.loop = asyncq.New(asyncq.Config{Engine: i.engine})
	i.closers = append(i.closers, func() {
		_ = i.loop.Close()
		if i.dev != nil {
			_ = i.dev.Close()
		}
	})
	for _, note := range o.Notes {
		i.tell(note)
	}
	// NB: readers do not exclude each other, so a source that is only read is opened for writing
	// only when its journal has to be replayed.
	i.readOnly = o.ReadOnly || !vfs.CanWrite
	if err := i.openSource(i.readOnly); err != nil {
		return err
	}
	if err := i.openVolume(); err != nil {
		return i.about(err)
	}
	own := 0
	if i.rings != nil {
		own = fusefs.RingBuffers(i.possible)
	}
	var err error
	if i.arena, err = blockdev.NewArenaOwn(i.cacheSize(), own); err != nil {
		return fail(ExitSystem, err)
	}
	i.closers = append(i.closers, func() { _ = i.arena.Close() })
	i.engine.AddBuffers(i.arena.Busy()...)
	return i.openFS()
}

// openFS makes the filesystem: one that can be written if that was asked for and is possible.
func (i *Instance) openFS() error {
	o := i.config.Options
	c := vfs.Config{Loop: i.loop, Device: i.dev, Volume: i.vol, Arena: i.arena,
		Log: i.log, NoACL: o.NoACL, MinixDF: o.MinixDF, Fakeroot: o.Fakeroot,
		Override: vfs.Override{SetUID: o.SetUID, SetGID: o.SetGID, UID: o.UID, GID: o.GID,
			Umask: o.Umask}}
	why := i.cannotWrite()
	if !o.ReadOnly && why == "" {
		var err error
		if c.Write, err = i.writeConfig(); err == nil {
			i.fs, err = vfs.New(c)
		}
		if err == nil {
			i.protection = nil // the mount's now
			return nil
		}
		if errors.Is(err, unix.EINVAL) { // cache_size=
			return fail(ExitUsage, err)
		}
		why = err.Error()
	}
	i.readOnly = true
	if !o.ReadOnly {
		i.tell("mounted read-only: " + why)
	} else if i.replayed && why == "" {
		if err := i.freeOrphans(c); err != nil {
			return i.about(err)
		}
	}
	err := i.unprotect()
	if err != nil {
		return i.about(err)
	}
	c.Write, c.Volume = nil, i.vol
	i.fs, err = vfs.New(c)
	if errors.Is(err, unix.EINVAL) {
		return fail(ExitUsage, err)
	}
	return fail(ExitSystem, err)
}

// freeOrphans ends what a crash has left half done, deleted files and truncations, before a mount
// that only reads, but has replayed the journal: as the kernel does. Where that cannot be the next
// mount does it.
func (i *Instance) freeOrphans(c vfs.Config) (err error) {
	if i.vol.LastOrphan() == 0 && !i.vol.HasROCompat(ext4.ROCompatOrphanPresent) {
		return nil
	}
	if c.Write, err = i.writeConfig(); err != nil {
		return err
	}
	fs, err := vfs.New(c)
	if err != nil {
		i.log.Warn("deleted files are left to the next mount", "source", i.config.Source,
			"err", err)
		return nil
	}
	i.protection = nil // given back by the unmount
	if err := fs.Unmount(); err != nil {
		return err
	}
	i.vol, err = ext4.Open(i.storage, i.dev.Size(), ext4.OpenOptions{})
	return err
}

// cacheSize is what cache_size= says. The default grows for blocks so large that it would hold too
// few to write.
func (i *Instance) cacheSize() int {
	size := i.config.Options.CacheSize
	if size == options.CacheDefault && !i.readOnly {
		size = max(size, vfs.WritableFrames<<i.vol.BlockBits)
	}
	return size
}

// tell passes on what whoever mounts should know.
func (i *Instance) tell(line string) {
	i.log.Info(line, "source", i.config.Source)
	if i.config.Notice != nil {
		i.config.Notice(i.config.Source + ": " + line)
	}
}

// about puts the source before an error that does not name it.
func (i *Instance) about(err error) error {
	var e *Error
	var named *blockdev.OpenError
	code := ExitMount
	if errors.As(err, &e) {
		code = e.Code
	}
	if errors.As(err, &named) {
		return fail(code, err)
	}
	return fail(code, fmt.Errorf("%s: %w", i.config.Source, err))
}

// openSource opens the device with the filesystem, in place of an earlier opening.
func (i *Instance) openSource(readOnly bool) error {
	if i.dev != nil {
		_ = i.dev.Close()
		i.dev = nil
	}
	o := i.config.Options
	dev, err := i.openDevice(i.config.Source, blockdev.Options{ReadOnly: readOnly,
		Offset: o.Offset, Partition: o.Partition})
	if err != nil {
		return err
	}
	i.dev = dev
	i.storage, err = i.sync(dev)
	return err
}

// openJournal opens the device of an external journal, if one was given.
func (i *Instance) openJournal() error {
	path := i.config.Options.Journal
	if path == "" {
		return nil
	}
	dev, err := i.openDevice(path, blockdev.Options{})
	if err != nil {
		return err
	}
	i.closers = append(i.closers, func() { _ = dev.Close() })
	i.journal = dev
	i.journalStorage, err = i.sync(dev)
	return err
}

func (i *Instance) openDevice(path string, o blockdev.Options) (blockdev.Device, error) {
	dev, err := blockdev.Open(path, i.engine, o)
	if err != nil {
		return nil, fail(ExitMount, err)
	}
	if f, ok := dev.(*blockdev.File); ok {
		for _, note := range f.Notes() {
			i.log.Info(note, "source", path)
		}
	}
	return dev, nil
}

// openVolume reads the superblock and recovers the journal.
func (i *Instance) openVolume() (err error) {
	o := i.config.Options
	super := ext4.OpenOptions{Super: o.Super}
	if i.vol, err = ext4.Open(i.storage, i.dev.Size(), super); err != nil {
		return err
	}
	dirty := recovery.NeedsRecovery(i.vol) && !o.NoRecovery
	how := recovery.Options{NoRecovery: o.NoRecovery, Super: o.Super}
	if dirty && i.readOnly {
		if err := i.openSource(false); err != nil {
			return err
		}
	}
	if recovery.External(i.vol) && (dirty || !i.readOnly) {
		if err := i.openJournal(); err != nil {
			return err
		}
	}
	if i.journal != nil {
		how.Journal = i.journalStorage
	}
	how.ReadOnly = dirty && (i.dev.ReadOnly() || i.journal != nil && i.journal.ReadOnly())
	stop, err := i.protect(dirty)
	if err != nil {
		return err
	}
	report, err := recovery.Recover(i.storage, i.vol, how)
	if e := stop(); err == nil {
		err = e
	}
	if err != nil {
		return err
	}
	switch {
	case report.Skipped:
		i.tell(report.String())
	case report.Replayed:
		i.log.Info(report.String(), "source", i.config.Source)
	}
	if i.replayed = report.Replayed; i.replayed {
		if i.vol, err = ext4.Open(i.storage, i.dev.Size(), super); err != nil {
			return fmt.Errorf("after the replay of the journal: %w", err)
		}
	}
	return i.inspect()
}

// sync gives a device to code that may block.
func (i *Instance) sync(dev blockdev.Device) (*blockdev.Sync, error) {
	p, err := blockdev.NewProvider(i.loop, dev)
	if err != nil {
		return nil, fail(ExitSystem, err)
	}
	return p.Sync(), nil
}

// inspect looks at what a mount has to know of the filesystem beyond its superblock.
func (i *Instance) inspect() error {
	src := ext4.NewReaderSource(i.storage, i.vol.BlockBits)
	var in ext4.Inode
	if err := i.vol.ReadInode(src, ext4.RootIno, &in); err != nil {
		return fmt.Errorf("the root directory cannot be read: %w", err)
	}
	if !in.IsDir() {
		return errors.New("the root is not a directory")
	}
	journal := uint64(0)
	if ino := i.vol.JournalInode(); ino != 0 && i.vol.HasCompat(ext4.CompatHasJournal) {
		if err := i.vol.ReadInode(src, ino, &in); err == nil {
			journal = in.Size >> i.vol.BlockBits
		}
	}
	i.vol.SetOverhead(journal)
	for _, warning := range i.vol.Warnings {
		i.log.Warn(warning, "source", i.config.Source)
	}
	if i.vol.HasErrors() {
		i.tell("the filesystem has errors: check it with e2fsck")
	}
	return nil
}

// Close gives back everything that Open took. The loop does not run.
func (i *Instance) Close() {
	for n := len(i.closers); n > 0; n-- {
		i.closers[n-1]()
	}
	i.closers = nil
}
