package blockdev

import "asyncfsd/asyncq"

// Device is a block device or an image file as a provider of asynchronous I/O. All methods but
// the getters belong to the loop's thread. Every Submit is answered by exactly one completion
// on the device's engine, carrying the request's token; Submit itself never blocks and never
// fails.
//
// Alignment: Off, len(Buf) and the address of Buf are multiples of SectorSize, checked by the
// device (EINVAL as completion). ReadAt-style access at any alignment is built on top.
type Device interface {
	// Submit queues one request. Off is relative to the filesystem's start (after offset= and
	// partition). A request beyond Size completes with EIO; a write to a read-only device
	// with EROFS.
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
