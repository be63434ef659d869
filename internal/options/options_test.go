package options

import (
	"fmt"
	"reflect"
	"strings"
	"testing"
	"time"
)

// parse returns what the lists mean.
func parse(t *testing.T, lists ...string) *Options {
	t.Helper()
	o := New()
	for _, list := range lists {
		if err := o.Add(list); err != nil {
			t.Fatalf("%s: %v", list, err)
		}
	}
	if err := o.Finish(); err != nil {
		t.Fatalf("%v: %v", lists, err)
	}
	return o
}

// meaning is a list of options, and everything in which it differs from the defaults.
type meaning struct {
	list string
	want func(o *Options)
}

func checkMeaning(t *testing.T, cases []meaning) {
	t.Helper()
	for _, c := range cases {
		want := New()
		c.want(want)
		if have := parse(t, c.list); !reflect.DeepEqual(have, want) {
			t.Errorf("%q:\n%+v, want\n%+v", c.list, have, want)
		}
	}
}

func TestMeaning(t *testing.T) {
	checkMeaning(t, []meaning{
		{"", func(*Options) {}},
		{",,", func(*Options) {}},
		{"rw", func(*Options) {}},
		{"ro", func(o *Options) { o.ReadOnly = true }},
		{"ro,rw", func(*Options) {}},
		{"rw,ro", func(o *Options) { o.ReadOnly = true }},
		{"norecovery", func(o *Options) { o.NoRecovery, o.ReadOnly = true, true }},
		{"noload,rw", func(o *Options) { o.NoRecovery, o.ReadOnly = true, true }},
		{"offset=1048576", func(o *Options) { o.Offset = 1 << 20 }},
		{"offset=1m", func(o *Options) { o.Offset = 1 << 20 }},
		{"offset=0x100000", func(o *Options) { o.Offset = 1 << 20 }},
		{"partition=2", func(o *Options) { o.Partition = 2 }},
		{"sb=32768", func(o *Options) { o.Super = 32 << 20 }},
		{"cache_size=64k", func(o *Options) { o.CacheSize = 64 << 10 }},
		{"cache_size=8M", func(o *Options) { o.CacheSize = 8 << 20 }},
		{"cache_size=1g", func(o *Options) { o.CacheSize = 1 << 30 }},
		{"io=aio", func(o *Options) { o.IO = "aio" }},
		{"journal_path=/dev/sdb", func(o *Options) { o.Journal = "/dev/sdb" }},
		{"journal_dev=/dev/sdb", func(o *Options) { o.Journal = "/dev/sdb" }},
		{"journal_dev=0x700003", func(o *Options) { o.Journal = "/dev/block/0:1795" }},
		{"journal_dev=2065", func(o *Options) { o.Journal = "/dev/block/8:17" }},
		{"minixdf", func(o *Options) { o.MinixDF = true }},
		{"minixdf,bsddf", func(*Options) {}},
		{"noacl", func(o *Options) { o.NoACL = true }},
		{"noacl,acl", func(*Options) {}},
		{"fakeroot", func(o *Options) { o.Fakeroot = true }},
		{"dev,suid", func(o *Options) { o.NoDev, o.NoSuid = false, false }},
		{"remount,ro", func(o *Options) { o.Remount, o.ReadOnly = true, true }},
		{"dev,suid,nodev", func(o *Options) { o.NoSuid = false }},
		{"noexec,exec", func(*Options) {}},
		{"noexec", func(o *Options) { o.NoExec = true }},
		{"noatime", func(o *Options) { o.NoAtime = true }},
		{"allow_root", func(o *Options) { o.AllowRoot = true }},
		{"auto_unmount", func(o *Options) { o.AutoUnmount = true }},
		{"uid=1000,gid=0", func(o *Options) {
			o.SetUID, o.UID, o.SetGID = true, 1000, true
		}},
		{"umask=022", func(o *Options) { o.Umask = 0o22 }},
		{"fsname=/dev/sda,subtype=x", func(o *Options) { o.FSName, o.Subtype = "/dev/sda", "x" }},
		{`fsname=a\,b\\c,ro`, func(o *Options) { o.FSName, o.ReadOnly = `a,b\c`, true }},
		{"max_read=65536", func(o *Options) { o.MaxRead = 65536 }},
		{"entry_timeout=1.5", func(o *Options) { o.EntryTimeout = 1500 * time.Millisecond }},
		{"attr_timeout=0", func(o *Options) { o.AttrTimeout = 0 }},
		{"negative_timeout=1e12", func(o *Options) { o.NegativeTimeout = 1e9 * time.Second }},
		{"lockfile=/l,log=/tmp/l", func(o *Options) { o.LockFile, o.Log = "/l", "/tmp/l" }},
		{"setuid=nobody,drop_privileges", func(o *Options) {
			o.SetUser, o.DropPrivileges = "nobody", true
		}},
		{"x-systemd.automount,X-mount.mkdir=0755", func(*Options) {}},
		{"default_permissions", func(*Options) {}},
	})
}

// TestMeaningWriting has the options of mounts that write.
func TestMeaningWriting(t *testing.T) {
	checkMeaning(t, []meaning{
		{"data=ordered,data=writeback", func(*Options) {}},
		{"errors=panic,errors=remount-ro", func(o *Options) { o.Errors = "remount-ro" }},
		{"commit=30", func(o *Options) { o.CommitSeconds = 30 }},
		{"commit=30,commit=0", func(*Options) {}},
		{"barrier", func(o *Options) { o.Barrier = Yes }},
		{"barrier=1", func(o *Options) { o.Barrier = Yes }},
		{"barrier=1,barrier=0", func(o *Options) { o.Barrier = No }},
		{"barrier=1,nobarrier", func(o *Options) { o.Barrier = No }},
		{"discard", func(o *Options) { o.Discard = Yes }},
		{"discard,nodiscard", func(o *Options) { o.Discard = No }},
		{"grpid", func(o *Options) { o.Grpid = Yes }},
		{"bsdgroups,sysvgroups", func(o *Options) { o.Grpid = No }},
		{"resuid=0,resgid=100", func(o *Options) {
			o.SetResUID, o.SetResGID, o.ResGID = true, true, 100
		}},
		{"quota", func(o *Options) { o.UserQuota = true }},
		{"usrquota,noquota,grpquota", func(o *Options) { o.GroupQuota = true }},
		{"usrquota,prjquota", func(o *Options) { o.UserQuota, o.ProjectQuota = true, true }},
		{"strictatime", func(o *Options) { o.StrictAtime = true }},
		{"noatime,relatime", func(*Options) {}},
		{"strictatime,noatime", func(o *Options) { o.NoAtime = true }},
		{"noatime,strictatime,nodiratime", func(o *Options) {
			o.StrictAtime, o.NoDirAtime = true, true
		}},
		{"strictatime,atime,nodiratime,diratime", func(*Options) {}},
		{"lazytime", func(o *Options) { o.LazyTime = true }},
		{"sync,dirsync", func(o *Options) { o.Sync, o.DirSync = true, true }},
		{"sync,async", func(*Options) {}},
		{"writeback_cache", func(o *Options) { o.WritebackCache = true }},
		{"data=journal", func(o *Options) {
			o.Notes = []string{"data=journal: data are written in place before the journal " +
				"tells of them, as with data=ordered"}
		}},
	})
}

// TestNoClobber has options that stand for others before and after those.
func TestNoClobber(t *testing.T) {
	kernel := func(o *Options) {
		o.AllowOther, o.NoDev, o.NoSuid, o.NoACL = true, false, false, false
	}
	for _, c := range []struct {
		list string
		want func(o *Options)
	}{
		{"kernel", kernel},
		{"ro,noacl,kernel,noexec", func(o *Options) {
			kernel(o)
			o.ReadOnly, o.NoExec, o.NoACL = true, true, true
		}},
		{"kernel,nodev,noacl", func(o *Options) { kernel(o); o.NoDev, o.NoACL = true, true }},
		// As mount(8) orders them, whichever was given first.
		{"nosuid,kernel", func(o *Options) { kernel(o); o.NoSuid = true }},
		{"nodev,dev,kernel,nosuid,suid", kernel},
		// Whatever else is said: with fakeroot, files of an untrusted image have no power.
		{"fakeroot,kernel", func(o *Options) {
			kernel(o)
			o.Fakeroot, o.NoDev, o.NoSuid = true, true, true
		}},
		{"kernel,dev,suid,fakeroot,dev", func(o *Options) {
			kernel(o)
			o.Fakeroot, o.NoDev, o.NoSuid = true, true, true
		}},
	} {
		want := New()
		c.want(want)
		if have := parse(t, c.list); !reflect.DeepEqual(have, want) {
			t.Errorf("%q:\n%+v, want\n%+v", c.list, have, want)
		}
		// The same words in one -o each.
		if have := parse(t, strings.Split(c.list, ",")...); !reflect.DeepEqual(have, want) {
			t.Errorf("%q, one at a time:\n%+v, want\n%+v", c.list, have, want)
		}
	}
}

// TestIgnored has what people copy from fstab.
func TestIgnored(t *testing.T) {
	for _, list := range []string{
		"defaults,user,users,nouser,owner,group,nofail,auto,noauto,_netdev,comment=x,uhelper=y",
		"user_xattr,noblock_validity,nodelalloc,kernel_cache,directio",
		"journal_checksum,journal_async_commit,data_err=abort,stripe=16,delalloc",
		"max_dir_size_kb=128,auto_da_alloc,iversion",
		"big_writes,use_ino,max_background=64,clone_fd",
	} {
		o := parse(t, list)
		if n := len(strings.Split(list, ",")); len(o.Ignored) != n {
			t.Errorf("%s: %d of %d ignored: %v", list, len(o.Ignored), n, o.Ignored)
		}
		o.Ignored = nil
		if !reflect.DeepEqual(o, New()) {
			t.Errorf("%s: %+v", list, o)
		}
	}
}

func TestRefused(t *testing.T) {
	const size = "not a size in bytes (k, m, g may follow the number)"
	for list, why := range map[string]string{
		"foo":                     "not known",
		"foo=bar":                 "not known",
		"data=unordered":          "must be ordered, writeback or journal",
		"errors=explode":          "must be continue, remount-ro, panic",
		"data=":                   "needs a value",
		"barrier=2":               "must be 0 or 1",
		"nobarrier=1":             "takes no value",
		"resuid=root":             "not a number",
		"commit=soon":             "not a number of seconds",
		"commit=100000":           "not a number of seconds",
		"commit":                  "needs a value",
		"dax":                     "there is no memory to map through FUSE",
		"offset":                  "needs a value",
		"offset=":                 "needs a value",
		"ro=1":                    "takes no value",
		"offset=-1":               size,
		"cache_size=99999999999g": size,
		"partition=0":             "not a partition number",
		"sb=x":                    "not a block number",
		"io=spdk":                 "must be auto, uring or aio",
		"uid=root":                "not a number",
		"uid=4294967296":          "not a number",
		"umask=8":                 "not an octal mask of permissions",
		"umask=1000":              "not an octal mask of permissions",
		"attr_timeout=nan":        "not a number of seconds",
		"entry_timeout=-1":        "not a number of seconds",
	} {
		want := fmt.Sprintf("option %q: %s", list, why)
		if err := New().Add("ro," + list + ",rw"); err == nil || err.Error() != want {
			t.Errorf("%v, want %s", err, want)
		}
	}
	for _, list := range []string{"offset=1m,partition=1", "allow_other,allow_root"} {
		o := New()
		if err := o.Add(list); err != nil {
			t.Fatal(err)
		}
		if err := o.Finish(); err == nil || strings.Contains(err.Error(), "\n") {
			t.Errorf("%q: %v", list, err)
		}
	}
}

// TestSloppy ignores what is unknown, and nothing else.
func TestSloppy(t *testing.T) {
	o := New()
	o.Sloppy = true
	if err := o.Add("foo,bar=1,ro"); err != nil || !o.ReadOnly || len(o.Ignored) != 2 {
		t.Errorf("%+v, %v", o, err)
	}
	if err := o.Add("offset=x"); err == nil {
		t.Error("a bad value was accepted")
	}
}

// TestTable has, for every option there is, that it does not fall over on any kind of value.
func TestTable(t *testing.T) {
	if len(table) < 100 {
		t.Fatalf("only %d options", len(table))
	}
	for name := range table {
		for _, v := range []string{"", "=", "=0", "=x", "=99999999999999999999", "=-1", "=k"} {
			err := New().Add(name + v)
			if err != nil && !strings.HasPrefix(err.Error(), "option \""+name) {
				t.Errorf("%s%s: %v does not name the option", name, v, err)
			}
		}
	}
}
