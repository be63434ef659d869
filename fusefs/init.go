package fusefs

import (
	"unsafe"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"
)

// What is asked of the kernel where it offers it. Nobody else writes to the image: the kernel's
// caches may be used to the full.
const (
	wantFlags = fuse.CAP_ASYNC_READ | fuse.CAP_EXPORT_SUPPORT | fuse.CAP_BIG_WRITES |
		fuse.CAP_DONT_MASK | fuse.CAP_IOCTL_DIR | fuse.CAP_READDIRPLUS |
		fuse.CAP_READDIRPLUS_AUTO | fuse.CAP_ASYNC_DIO | fuse.CAP_PARALLEL_DIROPS |
		fuse.CAP_MAX_PAGES | fuse.CAP_CACHE_SYMLINKS | fuse.CAP_EXPLICIT_INVAL_DATA |
		fuse.CAP_HANDLE_KILLPRIV_V2 | fuse.CAP_SETXATTR_EXT | fuse.CAP_INIT_EXT
	// wantReading is for mounts that only read: an open that never leaves the kernel is cheaper,
	// and has nothing to tell.
	wantReading = fuse.CAP_NO_OPENDIR_SUPPORT | fuse.CAP_NO_OPEN_SUPPORT
	// wantWriting: an inode is known to be in use by its lookups, and locks are the kernel's.
	// NB: without CAP_ATOMIC_O_TRUNC a truncating open comes as OPEN and SETATTR.
	wantWriting = fuse.CAP_DIRECT_IO_ALLOW_MMAP
	// maxBackground is how many asynchronous requests (direct I/O, readahead) the kernel keeps
	// in flight; its default of 12 would throttle depth 32. One slot each: asyncq.SlotsMax.
	maxBackground = 256
	// readahead is asked for; the kernel caps it at what it offered (128 KiB by default).
	readahead = maxPages * 4096
	minorMin  = 31 // Linux 5.4: all that is used below exists or is negotiated
)

// init answers INIT: the first request of a mount.
func (t *Transport) initialise(req []byte) {
	// NB: old kernels send a shorter InitIn; Flags2 and what follows are then absent.
	const short = int(unsafe.Offsetof(fuse.InitIn{}.Flags2))
	if len(req) < short {
		t.fail(in[fuse.InHeader](req).Unique, unix.EINVAL)
		return
	}
	var init fuse.InitIn
	copy(unsafe.Slice((*byte)(unsafe.Pointer(&init)), unsafe.Sizeof(init)), req)
	t.log.Debug("init", "minor", init.Minor, "flags", init.Flags, "flags2", init.Flags2)
	if init.Major != 7 || init.Minor < minorMin {
		t.log.Error("the kernel's FUSE protocol is too old", "major", init.Major,
			"minor", init.Minor)
		t.fail(init.Unique, unix.EPROTO)
		return
	}
	flags := t.wants() & init.Flags64()
	t.xattrExt = flags&fuse.CAP_SETXATTR_EXT != 0
	t.directMmap = flags&fuse.CAP_DIRECT_IO_ALLOW_MMAP != 0
	out := body[fuse.InitOut](t)
	*out = fuse.InitOut{Major: 7, Minor: min(init.Minor, 45), MaxReadAhead: readahead,
		Flags: uint32(flags), Flags2: uint32(flags >> 32), MaxBackground: maxBackground,
		CongestionThreshold: maxBackground * 3 / 4, MaxWrite: t.maxWrite, TimeGran: 1,
		MaxPages: maxPages}
	t.minor = init.Minor
	t.reply(init.Unique, int(unsafe.Sizeof(*out)))
	t.started = true
	switch {
	case flags&fuse.CAP_OVER_IO_URING != 0:
		t.log.Debug("requests come over io_uring")
		t.over.register()
	case t.over != nil:
		t.log.Warn("the kernel does not offer FUSE over io_uring")
	}
	t.readyOnce.Do(func() { close(t.ready) })
}

// wants is what this mount asks of the kernel.
func (t *Transport) wants() uint64 {
	flags := uint64(wantFlags)
	if t.over != nil {
		flags |= fuse.CAP_OVER_IO_URING
	}
	if !t.config.NoACL {
		flags |= fuse.CAP_POSIX_ACL
	}
	if t.config.IDMapped {
		flags |= fuse.CAP_ALLOW_IDMAP
	}
	if t.config.ReadOnly {
		return flags | wantReading
	}
	if t.config.WritebackCache {
		flags |= fuse.CAP_WRITEBACK_CACHE
	}
	return flags | wantWriting
}
