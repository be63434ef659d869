// Package blockdev holds what a filesystem reads and writes through: devices as providers of
// asynchronous I/O, wrappers of devices for tests, the buffers that are lent to them, and the
// cache of metadata blocks. Devices are File (a block device or an image file) and Mem (memory);
// Fault and Record wrap a Device. Provider gives a device to ordinary Go code through the public
// calls of asyncq, and Sync makes io.ReaderAt and io.WriterAt of it.
package blockdev

import (
	"unsafe"

	"golang.org/x/sys/unix"

	"asyncfsd/asyncq"
)

// Device is a block device or an image file as a provider of asynchronous I/O. All methods but
// the getters belong to the loop's thread. Every Submit is answered by exactly one completion
// on the device's engine, carrying the request's token; Submit itself never blocks and never
// fails.
//
// Alignment: Off, len(Buf) and the address of Buf are multiples of SectorSize, checked by the
// device (EINVAL as completion). Provider and Sync give access at any alignment.
//
// The end: where Size is not a multiple of SectorSize, a request may reach to the end of the last
// sector. What lies beyond Size reads as zeros and is not written.
type Device interface {
	// Submit queues one request. Off is relative to the filesystem's start (after offset= and
	// partition). A request beyond Size completes with EIO; a write to a read-only device
	// with EROFS. A flush covers the writes that completed before it was submitted.
	Submit(io asyncq.IO)
	// Engine returns the engine that carries the completions.
	Engine() asyncq.Engine
	// Size is the number of bytes from the filesystem's start to the end of device, file or
	// partition.
	Size() int64
	// SectorSize is the logical sector size in bytes: the granularity of O_DIRECT.
	SectorSize() int
	// ReadOnly says that writes are impossible.
	ReadOnly() bool
	// Name is the source as the user gave it, for messages.
	Name() string
	// Close releases the lock and the descriptor. Nothing may be in flight.
	Close() error
}

// length returns the number of bytes a request is about, 0 for a flush.
func length(io *asyncq.IO) int64 {
	switch io.Op {
	case asyncq.OpFlush:
		return 0
	case asyncq.OpDiscard:
		return io.Len
	}
	return int64(len(io.Buf))
}

// check holds a request against the contract of Device; 0 means that it may be carried out.
func check(io *asyncq.IO, dev Device) unix.Errno {
	if io.Op == asyncq.OpFlush {
		return 0
	}
	n, sector := length(io), int64(dev.SectorSize())
	end := roundUp(dev.Size(), sector)
	misaligned := (io.Off | n) & (sector - 1)
	if io.Op != asyncq.OpDiscard {
		misaligned |= int64(address(io.Buf)) & (sector - 1)
	}
	switch {
	case io.Off < 0 || n < 0 || misaligned != 0:
		return unix.EINVAL
	case io.Op != asyncq.OpRead && dev.ReadOnly():
		return unix.EROFS
	case io.Off > end || n > end-io.Off:
		return unix.EIO
	}
	return 0
}

func address(b []byte) uintptr { return uintptr(unsafe.Pointer(unsafe.SliceData(b))) }

// roundUp rounds n up to a multiple of align, a power of two.
func roundUp(n, align int64) int64 { return (n + align - 1) &^ (align - 1) }
