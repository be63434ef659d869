package blockdev

import (
	"fmt"
	"os"

	"golang.org/x/sys/unix"

	"asyncfsd/asyncq"
)

// Options of Open.
type Options struct {
	// ReadOnly opens the source for reading only. Any number of read-only users may have a
	// source; one that may write has it alone.
	ReadOnly bool
	// MustWrite makes it an error that the source cannot be written. Without it (and without
	// ReadOnly) Open falls back to reading, which Notes then tells.
	MustWrite bool
	// Offset is where the filesystem begins, in bytes from the start of the source.
	Offset int64
	// Partition is the number of the partition that holds the filesystem, counted as Linux
	// does: MBR 1 to 4, logical ones from 5; GPT by entry. 0 is the whole source.
	Partition int
	// NoLock leaves the source unlocked, for a caller that has locked it already.
	NoLock bool
	// Buffered goes through the kernel's page cache even where O_DIRECT is possible.
	Buffered bool
}

// File is a Device over a block device or an image file, through an engine.
//
// It is opened O_DIRECT. Where that is impossible (the filesystem has no direct I/O, or the start
// of the range is not on a sector) it goes through the page cache, where a request may block the
// loop for as long as the kernel reads: Direct tells, and so does a note.
type File struct {
	name   string
	engine asyncq.Engine
	id     asyncq.FileID
	added  bool
	fd     int
	// plain is a second descriptor without O_DIRECT for the last, partial sector; fd itself
	// where that is not direct, or where the size is a multiple of the sector.
	plain    int
	block    bool
	direct   bool
	readOnly bool
	locked   bool
	start    int64 // of the range on the source
	size     int64 // of the range
	sector   int
	notes    []string
}

// OpenError says in one line why a source cannot be used.
type OpenError struct {
	// Path is the source as the user gave it.
	Path string
	// What is wrong, for people.
	What string
	// Errno is the kind of error, for programs.
	Errno unix.Errno
}

// Error returns "PATH: what is wrong".
func (e *OpenError) Error() string { return e.Path + ": " + e.What }

// Unwrap returns the errno.
func (e *OpenError) Unwrap() error { return e.Errno }

func (f *File) fail(errno unix.Errno, format string, args ...any) error {
	return &OpenError{f.name, fmt.Sprintf(format, args...), errno}
}

// sys is fail with the errno's own words.
func (f *File) sys(what string, err error) error {
	errno, ok := err.(unix.Errno)
	if !ok {
		errno = unix.EIO
	}
	if what != "" {
		what += ": "
	}
	return &OpenError{f.name, what + err.Error(), errno}
}

// Open opens and locks path, a block device or an image file (/dev/fd/N too), for I/O through
// engine. The Device is a *File. Every error is an *OpenError, of one line: ENOENT, EACCES and
// the like as open(2) has them; EISDIR and ENOTBLK for what is neither file nor block device;
// EBUSY for a source that is in use; EINVAL for an empty source or a bad range; ENXIO for a
// partition that does not exist; EROFS for MustWrite on a read-only device.
func Open(path string, engine asyncq.Engine, o Options) (Device, error) {
	f := &File{name: path, engine: engine, fd: -1, plain: -1}
	if err := f.open(o); err != nil {
		_ = f.Close()
		return nil, err
	}
	return f, nil
}

func (f *File) open(o Options) error {
	if err := f.checkKind(); err != nil {
		return err
	}
	if err := f.openLocked(o); err != nil {
		return err
	}
	if err := f.findRange(o); err != nil {
		return err
	}
	if err := f.findAlignment(o); err != nil {
		return err
	}
	var err error
	if f.id, err = f.engine.AddFile(f.fd); err != nil {
		return f.sys("", err)
	}
	f.added = true
	return nil
}

// checkKind refuses what is neither a file nor a block device before it is opened: opening a
// pipe blocks, and opening some character devices has effects.
func (f *File) checkKind() error {
	var st unix.Stat_t
	if err := unix.Stat(f.name, &st); err != nil {
		return f.sys("", err)
	}
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFREG:
	case unix.S_IFBLK:
		f.block = true
	case unix.S_IFDIR:
		return f.fail(unix.EISDIR, "is a directory, not an image or a block device")
	case unix.S_IFCHR:
		return f.fail(unix.ENOTBLK, "is a character device, not an image or a block device")
	default:
		return f.fail(unix.ENOTBLK, "is not an image or a block device")
	}
	return nil
}

// findRange settles where on the source the filesystem lies, while reads still go through the
// page cache and so may have any alignment.
func (f *File) findRange(o Options) error {
	total, err := f.sourceSize()
	if err != nil {
		return err
	}
	f.start, f.size = o.Offset, total-o.Offset
	switch {
	case total == 0:
		return f.fail(unix.EINVAL, "is empty")
	case o.Offset < 0:
		return f.fail(unix.EINVAL, "offset %d is negative", o.Offset)
	case o.Offset >= total:
		return f.fail(unix.EINVAL, "offset %d is beyond the end at byte %d", o.Offset, total)
	case o.Partition < 0:
		return f.fail(unix.EINVAL, "partition %d: partitions are counted from 1", o.Partition)
	case o.Partition > 0 && o.Offset > 0:
		return f.fail(unix.EINVAL, "either a partition or an offset, not both")
	case o.Partition > 0:
		p, err := f.partition(o.Partition, total)
		f.start, f.size = p.Start, p.Size
		return err
	}
	return nil
}

// sourceSize returns the size of the whole source in bytes.
func (f *File) sourceSize() (int64, error) {
	if f.block {
		n, err := ioctlUint64(f.fd, unix.BLKGETSIZE64)
		if err != nil {
			return 0, f.sys("its size", err)
		}
		return int64(n), nil
	}
	var st unix.Stat_t
	if err := unix.Fstat(f.fd, &st); err != nil {
		return 0, f.sys("its size", err)
	}
	return st.Size, nil
}

// partition finds a partition in the source's table.
func (f *File) partition(number int, total int64) (Partition, error) {
	sector := int64(0)
	if f.block {
		n, err := unix.IoctlGetInt(f.fd, unix.BLKSSZGET)
		if err != nil {
			return Partition{}, f.sys("its sector size", err)
		}
		sector = int64(n)
	}
	all, err := ReadPartitions(fdReader(f.fd), total, sector)
	if err != nil {
		return Partition{}, f.fail(unix.ENXIO, "%v", err)
	}
	for _, p := range all {
		if p.Number == number {
			return p, nil
		}
	}
	return Partition{}, f.fail(unix.ENXIO, "no partition %d, %s", number, listPartitions(all))
}

// fdReader reads a descriptor at offsets.
type fdReader int

// ReadAt is pread.
func (r fdReader) ReadAt(p []byte, off int64) (int, error) {
	return preadFull(int(r), p, off)
}

// Submit queues one request.
func (f *File) Submit(io asyncq.IO) {
	errno := check(&io, f)
	n := length(&io)
	switch {
	case errno != 0:
		f.answer(io.Token, 0, errno)
	case n == 0 && (io.Op != asyncq.OpFlush || f.readOnly):
		f.answer(io.Token, 0, 0)
	case io.Op != asyncq.OpFlush && io.Off+n > f.size:
		f.submitTail(io, n)
	default:
		io.Off += f.start
		f.engine.Submit(f.id, io)
	}
}

func (f *File) answer(t asyncq.Token, n int, errno unix.Errno) {
	res := int32(n)
	if errno != 0 {
		res = -int32(errno)
	}
	f.engine.Post(asyncq.Completion{Token: t, Res: res})
}

// submitTail carries out a request that touches the partial sector at the end, at once and
// through the page cache: O_DIRECT cannot write less than a sector without growing the file. It
// blocks the loop, but only at the end of an image whose size is odd.
func (f *File) submitTail(io asyncq.IO, n int64) {
	inside := max(0, f.size-io.Off)
	var err error
	switch io.Op {
	case asyncq.OpRead:
		_, err = preadFull(f.plain, io.Buf[:inside], f.start+io.Off)
		clear(io.Buf[inside:])
	case asyncq.OpWrite:
		err = pwriteFull(f.plain, io.Buf[:inside], f.start+io.Off)
		if err == nil && io.FUA {
			err = unix.Fdatasync(f.plain)
		}
	case asyncq.OpDiscard:
		n = 0 // a hint, and not worth it for one sector more
	}
	errno, known := err.(unix.Errno)
	if err != nil && !known {
		errno = unix.EIO // the file has become shorter
	}
	f.answer(io.Token, int(n), errno)
}

// Engine returns the engine that carries the completions.
func (f *File) Engine() asyncq.Engine { return f.engine }

// Size is the size of the range in bytes.
func (f *File) Size() int64 { return f.size }

// SectorSize is the granularity of O_DIRECT, 512 without it.
func (f *File) SectorSize() int { return f.sector }

// ReadOnly says that writes are impossible.
func (f *File) ReadOnly() bool { return f.readOnly }

// Name is the source as the user gave it.
func (f *File) Name() string { return f.name }

// Direct says that I/O goes past the page cache, and that Submit therefore never blocks.
func (f *File) Direct() bool { return f.direct }

// IsBlock says that the source is a block device.
func (f *File) IsBlock() bool { return f.block }

// Notes are lines that tell where Open had to do with less than was asked: read-only instead of
// read-write, buffered instead of direct.
func (f *File) Notes() []string { return f.notes }

func (f *File) note(format string, args ...any) {
	f.notes = append(f.notes, f.name+": "+fmt.Sprintf(format, args...))
}

// Close releases lock and descriptors.
func (f *File) Close() error {
	if f.added {
		f.engine.RemoveFile(f.id)
	}
	if f.plain >= 0 && f.plain != f.fd {
		_ = unix.Close(f.plain)
	}
	if f.fd < 0 {
		return nil
	}
	if f.locked {
		// NB: not left to close, because an engine may hold on to the open file for a while.
		_ = unix.Flock(f.fd, unix.LOCK_UN)
	}
	err := unix.Close(f.fd)
	f.added, f.fd, f.plain = false, -1, -1
	return os.NewSyscallError("close", err)
}
