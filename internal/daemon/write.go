package daemon

import (
	"strings"

	"asyncfsd/internal/options"
	"asyncfsd/vfs"
	"asyncfsd/vfs/ext4"
	"asyncfsd/vfs/recovery"
)

// cannotWrite says why the filesystem can only be read, "" if it can be written.
func (i *Instance) cannotWrite() string {
	reasons := i.vol.ReadOnlyReasons()
	super := i.config.Options.Super
	switch {
	case !vfs.CanWrite:
		return "writing is not supported by this version"
	case i.dev.ReadOnly():
		return "the source cannot be written"
	case len(reasons) > 0:
		return "features that can only be read: " + strings.Join(reasons, ", ")
	case recovery.External(i.vol) && i.journal == nil:
		return "the journal is on another device, with UUID " + recovery.JournalUUID(i.vol) +
			": name it with journal_path="
	case i.journal != nil && i.journal.ReadOnly():
		return "the journal's device cannot be written"
	case super != 0 && super != ext4.SuperOffset:
		return "a backup superblock is in use (sb=)"
	}
	return ""
}

// writeConfig is what the filesystem has to know to be written. The journal was recovered.
func (i *Instance) writeConfig() (*vfs.WriteConfig, error) {
	o := i.config.Options
	var journal recovery.Storage
	if i.journal != nil {
		journal = i.journalStorage
	}
	log, err := recovery.OpenLog(i.storage, i.vol, journal)
	if err != nil {
		return nil, err
	}
	if (o.UserQuota || o.GroupQuota || o.ProjectQuota) && !i.vol.HasROCompat(ext4.ROCompatQuota) {
		i.log.Warn("there are no quota inodes, and so no limits", "source", i.config.Source)
	}
	d := i.vol.Defaults()
	w := &vfs.WriteConfig{Storage: i.storage, Log: log, MMP: i.mmp(),
		LogDevice: i.journal, LogStorage: journal,
		CommitSeconds: o.CommitSeconds, NoBarrier: !o.Barrier.Or(!d.NoBarrier),
		Discard: o.Discard.Or(d.Discard), Grpid: o.Grpid.Or(d.Grpid),
		ResUID: d.ResUID, ResGID: d.ResGID,
		Errors: errorsMode(o.Errors, d.Errors), Atime: atimeMode(o),
		NoDirAtime: o.NoDirAtime, LazyTime: o.LazyTime, Sync: o.Sync, DirSync: o.DirSync,
		LimitUsers: o.UserQuota, LimitGroups: o.GroupQuota, LimitProjects: o.ProjectQuota,
		Mountpoint: i.config.Mountpoint}
	if o.SetResUID {
		w.ResUID = o.ResUID
	}
	if o.SetResGID {
		w.ResGID = o.ResGID
	}
	return w, nil
}

// protect takes the filesystem by multiple mount protection, if it has that and something is going
// to be written, and keeps it until stop is called.
func (i *Instance) protect(dirty bool) (stop func() error, err error) {
	write := dirty || !i.config.Options.ReadOnly && i.cannotWrite() == ""
	if !i.vol.HasIncompat(ext4.IncompatMMP) || !write || i.dev.ReadOnly() {
		return func() error { return nil }, nil
	}
	i.protection, err = recovery.Protect(i.storage, i.vol, recovery.ProtectOptions{
		Source: i.config.Source, Tell: i.tell})
	if err != nil {
		return nil, err
	}
	i.closers = append(i.closers, func() { _ = i.unprotect() })
	return i.protection.Keep(), nil
}

// unprotect gives the filesystem back that protect has taken.
func (i *Instance) unprotect() error {
	p := i.protection
	i.protection = nil
	if p == nil {
		return nil
	}
	return p.Release()
}

// mmp is what multiple mount protection has written, nil without.
func (i *Instance) mmp() *ext4.MMP {
	if i.protection == nil {
		return nil
	}
	return &i.protection.MMP
}

// errorsMode is what errors= asks for, or else what the superblock says.
func errorsMode(option string, superblock uint16) vfs.ErrorsMode {
	switch {
	case option == "continue":
		return vfs.ErrorsContinue
	case option == "remount-ro":
		return vfs.ErrorsRemountRO
	case option == "panic":
		return vfs.ErrorsPanic
	case superblock == ext4.ErrorsRO:
		return vfs.ErrorsRemountRO
	case superblock == ext4.ErrorsPanic:
		return vfs.ErrorsPanic
	}
	return vfs.ErrorsContinue
}

func atimeMode(o *options.Options) vfs.AtimeMode {
	switch {
	case o.NoAtime:
		return vfs.AtimeNever
	case o.StrictAtime:
		return vfs.AtimeStrict
	}
	return vfs.AtimeRelative
}
