// Package options turns the words of a mount command into what they mean. It does no I/O.
//
// Options do not clobber one another: "kernel" and "fakeroot" stand for several others, but not
// against what is said by name; which of two that contradict each other comes last decides, as in
// mount(8).
package options

import (
	"fmt"
	"strings"
	"time"
)

// Options is everything that a mount can be told.
type Options struct {
	ReadOnly   bool
	NoRecovery bool
	// Offset, Partition and Super (byte offset of the superblock) say where the filesystem is.
	Offset    int64
	Partition int
	Super     int64
	// CacheSize is the size of the block cache in bytes.
	CacheSize int
	// IO is the engine: "auto", "uring" or "aio".
	IO string
	// Transport is how requests come: "auto", "dev" (/dev/fuse) or "uring" (FUSE over io_uring).
	Transport string
	// Journal is the device of an external journal, "" for none.
	Journal string

	MinixDF  bool
	NoACL    bool
	Fakeroot bool

	// What follows is for mounts that write.

	// Errors is what happens after an error: "continue", "remount-ro", "panic", or "" for what the
	// superblock says.
	Errors string
	// CommitSeconds is how long changes may stay out of the journal, 0 for the default.
	CommitSeconds int
	// Barrier, Discard and Grpid are flushes, discards of freed blocks, and new files that take
	// the group of their directory.
	Barrier, Discard, Grpid Choice
	// SetResUID and SetResGID say that ResUID and ResGID count: who may use reserved blocks.
	SetResUID, SetResGID bool
	ResUID, ResGID       uint32
	// UserQuota, GroupQuota and ProjectQuota have limits of quota inodes enforced.
	UserQuota, GroupQuota, ProjectQuota bool
	// StrictAtime has every read set the time of access, NoDirAtime none of a directory's.
	StrictAtime, NoDirAtime, LazyTime bool
	// Sync has changes durable before the call returns, DirSync those of directories.
	Sync, DirSync bool
	// NoLowLatency leaves idle CPUs to halt while requests come fast.
	NoLowLatency bool
	// WritebackCache has the kernel keep what is written and write it later.
	WritebackCache bool

	NoDev, NoSuid, NoExec, NoAtime             bool
	AllowOther, AllowRoot                      bool
	AutoUnmount                                bool
	SetUID, SetGID                             bool
	UID, GID, Umask                            uint32
	FSName, Subtype                            string
	MaxRead                                    uint32
	EntryTimeout, AttrTimeout, NegativeTimeout time.Duration

	// LockFile is made while the mount lives, and holds the daemon's process number.
	LockFile string
	// Log is the file that messages of the background daemon go to, "" for the system's log.
	Log string
	// SetUser is whom the daemon runs as (setuid=), "" for no change.
	SetUser string
	// Remount is for a mount that is there already: what can be changed of it is.
	Remount bool
	// DropPrivileges has the daemon give up all that root may do once it is mounted.
	DropPrivileges bool

	// What was said of devices, setuid and ACLs, until Finish knows what it means with kernel.
	kernel         bool
	dev, suid, acl Choice

	// Sloppy ignores what is not known, as mount -s wants it.
	Sloppy bool
	// Ignored are the options that were accepted and have no meaning here.
	Ignored []string
	// Notes are what whoever mounts should know of an option, a line each.
	Notes []string
}

// Choice is a yes, a no, or what the superblock says.
type Choice uint8

// The choices.
const (
	AsSuperblock Choice = iota
	Yes
	No
)

// Or returns what was chosen, or what the superblock says.
func (c Choice) Or(superblock bool) bool { return c == Yes || c == AsSuperblock && superblock }

// Defaults.
const (
	// CacheDefault is the block cache: the metadata of some 100,000 files.
	CacheDefault = 32 << 20
	// TimeoutDefault is how long the kernel may use what it knows: nobody else writes to the
	// image, so there is no reason to ask again.
	TimeoutDefault = 24 * time.Hour
)

// New returns the defaults: nodev and nosuid, as libfuse has it.
func New() *Options {
	return &Options{CacheSize: CacheDefault, IO: "auto", Transport: "auto", NoDev: true,
		NoSuid: true, Subtype: "asyncfsd", EntryTimeout: TimeoutDefault,
		AttrTimeout: TimeoutDefault, NegativeTimeout: TimeoutDefault}
}

// Add parses a comma-separated list of options, as -o gives it. A backslash protects a comma.
// The error names the option and what is wrong with it, in one line.
func (o *Options) Add(list string) error {
	for _, word := range split(list) {
		if word == "" {
			continue
		}
		name, value, has := strings.Cut(word, "=")
		if err := o.set(name, value, has); err != nil {
			return fmt.Errorf("option %q: %w", word, err)
		}
	}
	return nil
}

func split(list string) (words []string) {
	var word strings.Builder
	for i := 0; i < len(list); i++ {
		switch {
		case list[i] == '\\' && i+1 < len(list):
			i++
			word.WriteByte(list[i])
		case list[i] == ',':
			words = append(words, word.String())
			word.Reset()
		default:
			word.WriteByte(list[i])
		}
	}
	return append(words, word.String())
}

func (o *Options) set(name, value string, has bool) error {
	if strings.HasPrefix(name, "x-") || strings.HasPrefix(name, "X-") {
		return nil // for programs that read fstab
	}
	row, ok := table[name]
	switch {
	case !ok && o.Sloppy:
		o.Ignored = append(o.Ignored, name)
		return nil
	case !ok:
		return errUnknown
	case row.refused != "":
		return fmt.Errorf("%s", row.refused)
	case row.arg && (!has || value == ""):
		return errNoValue
	case !row.arg && !row.mayArg && !row.ignored && has:
		return fmt.Errorf("takes no value")
	case row.ignored:
		o.Ignored = append(o.Ignored, name)
		return row.check(value, has)
	}
	return row.set(o, value)
}

// Finish applies what depends on more than one option, after the last Add.
func (o *Options) Finish() error {
	// NB: mount(8) passes dev, suid and their opposites before all that is the filesystem's, so
	// that kernel does not undo what was said of them by name.
	o.NoDev, o.NoSuid, o.NoACL = !o.dev.Or(o.kernel), !o.suid.Or(o.kernel), o.acl == No
	o.kernel, o.dev, o.suid, o.acl = false, AsSuperblock, AsSuperblock, AsSuperblock
	if o.Fakeroot {
		o.NoDev, o.NoSuid = true, true
	}
	switch {
	case o.Offset != 0 && o.Partition != 0:
		return fmt.Errorf("options offset= and partition= exclude each other")
	case o.AllowOther && o.AllowRoot:
		return fmt.Errorf("options allow_other and allow_root exclude each other")
	}
	if o.NoRecovery {
		o.ReadOnly = true
	}
	return nil
}
