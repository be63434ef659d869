package options

import (
	"errors"
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"
)

// row says what one option does: it sets something, is ignored, or is refused with a reason.
type row struct {
	arg     bool // needs a value
	mayArg  bool // may have one
	ignored bool
	refused string
	set     func(o *Options, value string) error
	// valid, of an option that is ignored, says what is wrong with its value.
	valid func(value string) error
}

// check looks at the value of an option that is ignored: a slip of the pen is worth a message
// even so.
func (r *row) check(value string, has bool) error {
	switch {
	case r.valid == nil:
		return nil
	case !has:
		return errNoValue
	}
	return r.valid(value)
}

var (
	errUnknown = errors.New("not known")
	errNoValue = errors.New("needs a value")
)

// table has every option there is, by name.
var table = map[string]row{}

// define adds an option to the table, once.
func define(name string, r row) {
	if _, ok := table[name]; ok {
		panic("options: " + name + " is defined twice")
	}
	table[name] = r
}

func flag(names string, set func(o *Options)) {
	for _, name := range strings.Fields(names) {
		define(name, row{set: func(o *Options, _ string) error { set(o); return nil }})
	}
}

func value(names string, set func(o *Options, v string) error) {
	for _, name := range strings.Fields(names) {
		define(name, row{arg: true, set: set})
	}
}

func ignore(names string) {
	for _, name := range strings.Fields(names) {
		define(name, row{ignored: true})
	}
}

// ignoreNumber is for options with a number that changes nothing here.
func ignoreNumber(names string) {
	for _, name := range strings.Fields(names) {
		define(name, row{ignored: true, valid: func(v string) error {
			n := uint32(0)
			return id(v, 0, &n)
		}})
	}
}

// ignoreWord is for options whose value is one of words, all of which ask for what is so.
func ignoreWord(name string, words ...string) {
	define(name, row{ignored: true, valid: func(v string) error {
		if slices.Contains(words, v) {
			return nil
		}
		return fmt.Errorf("must be %s", strings.Join(words, ", "))
	}})
}

func refuse(names, why string) {
	for _, name := range strings.Fields(names) {
		define(name, row{refused: why})
	}
}

func init() {
	initFilesystem()
	initWriting()
	initQuota()
	initFuse()
	initIgnored()
	refuse("dax", "there is no memory to map through FUSE")
	refuse("test_dummy_encryption", "for the kernel's own tests")
	refuse("bind rbind move", "not a filesystem to be mounted elsewhere")
}

// initIgnored has the harmless options: they ask for what is always so, or say something to
// mount(8) and fstab only.
func initIgnored() {
	ignore("defaults user users nouser owner group nofail auto noauto _netdev comment uhelper " +
		"silent loud mand nomand iversion noiversion i_version")
	ignore("user_xattr block_validity noblock_validity delalloc nodelalloc nodax " +
		"journal_checksum nojournal_checksum journal_async_commit nombcache no_mbcache " +
		"debug init_itable noinit_itable auto_da_alloc noauto_da_alloc " +
		"nobh bh nouid32 oldalloc orlov " +
		"dioread_lock dioread_nolock " +
		"mblk_io_submit nomblk_io_submit prefetch_block_bitmaps no_prefetch_block_bitmaps directio")
	ignoreNumber("stripe inode_readahead_blks max_batch_time " +
		"min_batch_time journal_ioprio max_dir_size_kb mb_optimize_scan")
	// An error of the device at data fails the call that wrote them, whatever is asked for.
	ignoreWord("data_err", "ignore", "abort")
	// libfuse's.
	ignore("kernel_cache auto_cache noauto_cache big_writes large_read hard_remove use_ino " +
		"readdir_ino splice_read no_splice_read splice_write no_splice_write splice_move " +
		"no_splice_move async_read sync_read nonempty intr noforget clone_fd")
	ignoreNumber("max_background congestion_threshold max_readahead max_write max_threads " +
		"max_idle_threads intr_signal remember ac_attr_timeout")
}

// initQuota has the options that say whose limits are enforced.
func initQuota() {
	flag("quota usrquota", func(o *Options) { o.UserQuota = true })
	flag("grpquota", func(o *Options) { o.GroupQuota = true })
	flag("prjquota", func(o *Options) { o.ProjectQuota = true })
	flag("noquota", func(o *Options) {
		o.UserQuota, o.GroupQuota, o.ProjectQuota = false, false, false
	})
}

// initWriting has the options of ext4(5) and mount(8) about writing.
func initWriting() {
	value("data", func(o *Options, v string) error {
		switch v {
		case "ordered", "writeback": // which promises less
		case "journal":
			o.Notes = append(o.Notes, "data=journal: data are written in place before the "+
				"journal tells of them, as with data=ordered")
		default:
			return fmt.Errorf("must be ordered, writeback or journal")
		}
		return nil
	})
	value("errors", func(o *Options, v string) error {
		if v != "continue" && v != "remount-ro" && v != "panic" {
			return fmt.Errorf("must be continue, remount-ro, panic")
		}
		o.Errors = v
		return nil
	})
	value("commit", func(o *Options, v string) error {
		n := uint32(0)
		if err := id(v, 0, &n); err != nil || n > commitMax {
			return fmt.Errorf("not a number of seconds")
		}
		o.CommitSeconds = int(n)
		return nil
	})
	define("barrier", row{mayArg: true, set: func(o *Options, v string) error {
		switch v {
		case "", "1":
			o.Barrier = Yes
		case "0":
			o.Barrier = No
		default:
			return fmt.Errorf("must be 0 or 1")
		}
		return nil
	}})
	flag("nobarrier", func(o *Options) { o.Barrier = No })
	flag("discard", func(o *Options) { o.Discard = Yes })
	flag("nodiscard", func(o *Options) { o.Discard = No })
	flag("grpid bsdgroups", func(o *Options) { o.Grpid = Yes })
	flag("nogrpid sysvgroups", func(o *Options) { o.Grpid = No })
	value("resuid", func(o *Options, v string) error {
		o.SetResUID = true
		return id(v, 10, &o.ResUID)
	})
	value("resgid", func(o *Options, v string) error {
		o.SetResGID = true
		return id(v, 10, &o.ResGID)
	})
	flag("noatime", func(o *Options) { o.NoAtime, o.StrictAtime = true, false })
	flag("atime relatime norelatime", func(o *Options) { o.NoAtime, o.StrictAtime = false, false })
	flag("strictatime", func(o *Options) { o.NoAtime, o.StrictAtime = false, true })
	flag("nostrictatime", func(o *Options) { o.StrictAtime = false })
	flag("nodiratime", func(o *Options) { o.NoDirAtime = true })
	flag("diratime", func(o *Options) { o.NoDirAtime = false })
	flag("lazytime", func(o *Options) { o.LazyTime = true })
	flag("nolazytime", func(o *Options) { o.LazyTime = false })
	flag("sync", func(o *Options) { o.Sync = true })
	flag("async", func(o *Options) { o.Sync = false })
	flag("dirsync", func(o *Options) { o.DirSync = true })
	flag("lowlatency", func(o *Options) { o.NoLowLatency = false })
	flag("nolowlatency", func(o *Options) { o.NoLowLatency = true })
	flag("writeback_cache", func(o *Options) { o.WritebackCache = true })
	flag("nowriteback_cache no_writeback_cache", func(o *Options) { o.WritebackCache = false })
}

// commitMax is the longest time between two commits, in seconds: an hour.
const commitMax = 3600

// initFilesystem has the options of ext4(5) and fuse2fs.
func initFilesystem() {
	flag("ro", func(o *Options) { o.ReadOnly = true })
	flag("rw", func(o *Options) { o.ReadOnly = false })
	flag("norecovery noload", func(o *Options) { o.NoRecovery = true })
	flag("minixdf", func(o *Options) { o.MinixDF = true })
	flag("bsddf", func(o *Options) { o.MinixDF = false })
	flag("acl", func(o *Options) { o.acl = Yes })
	flag("noacl", func(o *Options) { o.acl = No })
	flag("fakeroot", func(o *Options) { o.Fakeroot = true })
	flag("kernel", func(o *Options) { o.AllowOther, o.kernel = true, true })
	value("offset", func(o *Options, v string) error { return size(v, 1<<62, &o.Offset) })
	value("sb", func(o *Options, v string) error { // in units of 1 KiB
		n, err := strconv.ParseInt(v, 0, 64)
		if err != nil || n < 0 || n > 1<<52 {
			return fmt.Errorf("not a block number")
		}
		o.Super = n * 1024
		return nil
	})
	value("partition", func(o *Options, v string) error {
		n, err := strconv.ParseUint(v, 10, 16)
		if err != nil || n == 0 {
			return fmt.Errorf("not a partition number")
		}
		o.Partition = int(n)
		return nil
	})
	value("cache_size", func(o *Options, v string) error {
		n := int64(0)
		err := size(v, 1<<40, &n)
		o.CacheSize = int(n)
		return err
	})
	value("journal_path", func(o *Options, v string) error { o.Journal = v; return nil })
	value("journal_dev", func(o *Options, v string) error {
		o.Journal = v
		if n := uint32(0); id(v, 0, &n) == nil { // a device number, as the kernel takes it
			o.Journal = fmt.Sprintf("/dev/block/%d:%d", n>>8&0xfff, n&0xff|n>>12&0xfff00)
		}
		return nil
	})
	value("io", func(o *Options, v string) error {
		if v != "auto" && v != "uring" && v != "aio" {
			return fmt.Errorf("must be auto, uring or aio")
		}
		o.IO = v
		return nil
	})
	value("transport", func(o *Options, v string) error {
		if v != "auto" && v != "dev" && v != "uring" {
			return fmt.Errorf("must be auto, dev or uring")
		}
		o.Transport = v
		return nil
	})
	value("lockfile", func(o *Options, v string) error { o.LockFile = v; return nil })
	value("log", func(o *Options, v string) error { o.Log = v; return nil })
}

// initFuse has the options of libfuse and of every mount.
func initFuse() {
	flag("dev", func(o *Options) { o.dev = Yes })
	flag("nodev", func(o *Options) { o.dev = No })
	flag("suid", func(o *Options) { o.suid = Yes })
	flag("nosuid", func(o *Options) { o.suid = No })
	flag("exec", func(o *Options) { o.NoExec = false })
	flag("noexec", func(o *Options) { o.NoExec = true })
	flag("allow_other", func(o *Options) { o.AllowOther = true })
	flag("allow_root", func(o *Options) { o.AllowRoot = true })
	flag("default_permissions", func(*Options) {}) // always, but for fakeroot
	flag("remount", func(o *Options) { o.Remount = true })
	flag("auto_unmount", func(o *Options) { o.AutoUnmount = true })
	value("fsname", func(o *Options, v string) error { o.FSName = v; return nil })
	value("subtype", func(o *Options, v string) error { o.Subtype = v; return nil })
	flag("drop_privileges", func(o *Options) { o.DropPrivileges = true })
	value("setuid", func(o *Options, v string) error { o.SetUser = v; return nil })
	value("uid", func(o *Options, v string) error { o.SetUID = true; return id(v, 10, &o.UID) })
	value("gid", func(o *Options, v string) error { o.SetGID = true; return id(v, 10, &o.GID) })
	value("umask", func(o *Options, v string) error {
		if err := id(v, 8, &o.Umask); err != nil || o.Umask > 0o777 {
			return fmt.Errorf("not an octal mask of permissions")
		}
		return nil
	})
	value("max_read", func(o *Options, v string) error {
		n := int64(0)
		err := size(v, math.MaxUint32, &n)
		o.MaxRead = uint32(n)
		return err
	})
	value("entry_timeout", func(o *Options, v string) error {
		return seconds(v, &o.EntryTimeout)
	})
	value("attr_timeout", func(o *Options, v string) error { return seconds(v, &o.AttrTimeout) })
	value("negative_timeout", func(o *Options, v string) error {
		return seconds(v, &o.NegativeTimeout)
	})
}

// size parses a number of bytes with an optional k, m or g.
func size(s string, most int64, to *int64) error {
	digits, shift := s, 0
	if n := len(s); n > 0 {
		if at := strings.IndexByte("kmgt", s[n-1]|0x20); at >= 0 {
			digits, shift = s[:n-1], 10*(at+1)
		}
	}
	n, err := strconv.ParseInt(digits, 0, 64)
	if err != nil || n < 0 || n > most>>shift {
		return fmt.Errorf("not a size in bytes (k, m, g may follow the number)")
	}
	*to = n << shift
	return nil
}

func id(s string, base int, to *uint32) error {
	n, err := strconv.ParseUint(s, base, 32)
	if err != nil {
		return fmt.Errorf("not a number")
	}
	*to = uint32(n)
	return nil
}

func seconds(s string, to *time.Duration) error {
	n, err := strconv.ParseFloat(s, 64)
	if err != nil || !(n >= 0) {
		return fmt.Errorf("not a number of seconds")
	}
	*to = time.Duration(min(n, 1e9) * float64(time.Second))
	return nil
}
