package blockdev

import (
	"fmt"
	"io"
	"unsafe"

	"golang.org/x/sys/unix"
)

const (
	// sectorMin is the unit of everything that has no sectors of its own.
	sectorMin = 512
	// sectorMax is the largest sector for which the arena's buffers have room (TailRoom).
	sectorMax = 4096
)

// findAlignment chooses between O_DIRECT and the page cache, and the sector size.
func (f *File) findAlignment(o Options) error {
	if f.sector = sectorMin; !o.Buffered {
		sector, err := f.directSector()
		switch {
		case err != nil:
			f.note("no direct I/O (%v), going through the page cache", err)
		case f.start%int64(sector) != 0:
			f.note("byte %d is not on a sector of %d bytes: no direct I/O, going through the "+
				"page cache", f.start, sector)
		default:
			f.direct, f.sector = true, sector
		}
	}
	if err := f.setDirect(f.direct); err != nil {
		return f.sys("direct I/O", err)
	}
	if f.plain = f.fd; f.direct && f.size%int64(f.sector) != 0 {
		f.openPlain()
	}
	return nil
}

// openPlain opens the source once more for its last, partial sector. Where that is not possible
// everything goes through the page cache.
func (f *File) openPlain() {
	flags := unix.O_RDWR
	if f.readOnly {
		flags = unix.O_RDONLY
	}
	fd, err := unix.Open(fmt.Sprintf("/proc/self/fd/%d", f.fd), flags|unix.O_CLOEXEC, 0)
	if err == nil {
		f.plain = fd
		return
	}
	f.note("its size is no multiple of %d and it cannot be opened twice (%v): no direct I/O, "+
		"going through the page cache", f.sector, err)
	f.direct, f.sector = false, sectorMin
	_ = f.setDirect(false)
}

func (f *File) setDirect(on bool) error {
	flags, err := unix.FcntlInt(uintptr(f.fd), unix.F_GETFL, 0)
	if err != nil {
		return err
	}
	if flags &^= unix.O_DIRECT; on {
		flags |= unix.O_DIRECT
	}
	_, err = unix.FcntlInt(uintptr(f.fd), unix.F_SETFL, flags)
	return err
}

// directSector returns the alignment that O_DIRECT wants for offset, length and memory. What the
// kernel says is tried out, because not every filesystem says it right, or at all. It leaves the
// descriptor in whatever mode.
func (f *File) directSector() (int, error) {
	sector := sectorMin
	if f.block {
		n, err := unix.IoctlGetInt(f.fd, unix.BLKSSZGET)
		if err != nil {
			return 0, err
		}
		sector = max(n, sectorMin)
	} else if n, known := f.statAlign(); known {
		if n == 0 {
			return 0, unix.EOPNOTSUPP
		}
		sector = max(n, sectorMin)
	}
	if err := f.setDirect(true); err != nil {
		return 0, err
	}
	mem, err := mmapAnonymous(sectorMax)
	if err != nil {
		return 0, err
	}
	defer func() { _ = unix.Munmap(mem) }()
	for ; sector <= sectorMax; sector *= 2 {
		_, err = preadFull(f.fd, mem[:sector], f.start&^int64(sector-1))
		if err == nil || err == io.ErrUnexpectedEOF {
			return sector, nil
		}
		if err != unix.EINVAL {
			return 0, err
		}
	}
	return 0, unix.EINVAL
}

// statAlign asks the kernel (6.1 and later) for the alignment of direct I/O on a file; 0 means
// that the file has none.
func (f *File) statAlign() (align int, known bool) {
	var st unix.Statx_t
	err := unix.Statx(f.fd, "", unix.AT_EMPTY_PATH, unix.STATX_DIOALIGN, &st)
	if err != nil || st.Mask&unix.STATX_DIOALIGN == 0 {
		return 0, false
	}
	if st.Dio_offset_align == 0 {
		return 0, true
	}
	return int(max(st.Dio_offset_align, st.Dio_mem_align)), true
}

func mmapAnonymous(n int) ([]byte, error) {
	return unix.Mmap(-1, 0, n, unix.PROT_READ|unix.PROT_WRITE,
		unix.MAP_PRIVATE|unix.MAP_ANONYMOUS)
}

// ioctlUint64 is for the requests that store a 64-bit number.
func ioctlUint64(fd int, request uintptr) (n uint64, err error) {
	_, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), request,
		uintptr(unsafe.Pointer(&n)))
	if errno != 0 {
		return 0, errno
	}
	return n, nil
}

// preadFull reads all of p. io.ErrUnexpectedEOF: the file ends before.
func preadFull(fd int, p []byte, off int64) (n int, err error) {
	for n < len(p) {
		k, err := unix.Pread(fd, p[n:], off+int64(n))
		switch {
		case err == unix.EINTR:
		case err != nil:
			return n, err
		case k == 0:
			return n, io.ErrUnexpectedEOF
		default:
			n += k
		}
	}
	return n, nil
}

// pwriteFull writes all of p.
func pwriteFull(fd int, p []byte, off int64) error {
	for len(p) > 0 {
		k, err := unix.Pwrite(fd, p, off)
		switch {
		case err == unix.EINTR:
		case err != nil:
			return err
		case k == 0:
			return unix.EIO
		default:
			p, off = p[k:], off+int64(k)
		}
	}
	return nil
}
