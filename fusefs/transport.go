package fusefs

import (
	"fmt"
	"log/slog"
	"os"
	"sync"
	"sync/atomic"
	"time"
	"unsafe"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"

	"asyncfsd/asyncq"
	"asyncfsd/blockdev"
	"asyncfsd/vfs"
	"asyncfsd/vfs/ext4"
)

// Sizes of what crosses /dev/fuse.
const (
	// writeHead is what precedes the data of a WRITE: struct fuse_in_header and fuse_write_in. A
	// request is received that much before the payload of a buffer, so that the data of a WRITE lie
	// on a page.
	writeHead = int(unsafe.Sizeof(fuse.WriteIn{}))
	// recvSpare is room beyond the largest WRITE, for requests with names and fixed parts.
	recvSpare = 4096
	// maxWrite is the largest WRITE in bytes, one full buffer. readOnlyMaxWrite is for mounts that
	// get none: the kernel wants room for it all the same.
	maxWrite, readOnlyMaxWrite = 1 << 20, 128 << 10
	// copyMax is the largest WRITE, in bytes, that is copied to a small buffer: cheaper than to
	// keep one of the few large ones busy for it.
	copyMax = 16 << 10
	// copySpare is how many small buffers copies leave: a write that begins or ends within a sector
	// needs a second buffer, which must not be held by others that wait for theirs.
	copySpare = 32
	// maxPages is the largest READ in pages: the payload buffers hold 1 MiB.
	maxPages = 256
	// requestsPerTurn bounds how many requests one turn of the loop takes in before completions
	// get their turn.
	requestsPerTurn = 64
)

// Config says how the kernel is to treat the filesystem.
type Config struct {
	Log *slog.Logger
	// EntryTimeout, AttrTimeout and NegativeTimeout are how long the kernel may use what it was
	// told of names, attributes and absent names. Nobody else writes to the image, so that long
	// ones are right.
	EntryTimeout, AttrTimeout, NegativeTimeout time.Duration
	// NoACL tells the kernel not to ask for POSIX ACLs.
	NoACL bool
	// OnlyRootAndOwner refuses everybody but root and the user of this process: allow_root, which
	// the kernel does not have.
	OnlyRootAndOwner bool
	// IDMapped lets the mount be idmapped where the kernel can do that. It has to check permissions
	// itself then, and tells of most requests only which process makes them.
	IDMapped bool
	// ReadOnly refuses what would change the filesystem.
	ReadOnly bool
	// WritebackCache has the kernel keep what is written in its page cache, and write it later.
	WritebackCache bool
	// Opens asks the kernel to send OPEN and OPENDIR, which can then be refused one by one (no
	// key). Without it these never leave the kernel.
	Opens bool
	// ColdOpens has every open forget what the kernel has cached of the file or directory, so that
	// reads are seen here and can set the time of access.
	ColdOpens bool
	// Rings, if not nil, has the kernel send requests over io_uring, if it can. It is the engine of
	// the loop; Possible is how many processors the machine may have, and the arena has
	// RingBuffers of them.
	Rings    Rings
	Possible int
}

// request is what the transport keeps of a request besides its Op. No pointers.
type request struct {
	opcode uint32
	cmd    uint32 // ioctl
	size   uint32 // room for the answer, where the request says so
	flags  uint32 // OPEN and CREATE: of open(2)
	entry  uint32 // the entry of a ring that it came by, and 1; 0 for /dev/fuse
	// reserved says that the slot is one of the reserved ones.
	reserved bool
}

// Transport serves one mount over /dev/fuse. It is the provider of its own readiness events, an
// Intaker of the loop and a Front of the filesystem.
type Transport struct {
	fs     *vfs.FS
	loop   *asyncq.Loop
	fd     int
	id     asyncq.ProviderID
	front  vfs.FrontID
	config Config
	log    *slog.Logger

	// count is how many requests there were; busy is told of the first busyCount since Calm.
	count atomic.Uint64
	calm  atomic.Uint64
	busy  chan struct{}

	reqs     *asyncq.Blobs[request]
	maxWrite uint32
	// hand is the buffer that the next request is received into, 0 if the last one went with a
	// WRITE and none was free yet.
	hand blockdev.BufID
	out  outBuffer
	// over is what there is of rings, nil for none; entry is the one (and 1) that the request in
	// hand came by, and its reply goes to.
	over  *overRing
	entry int
	// lookups says what the kernel knows. orphans are the inodes that wait for their eviction, and
	// evictsReserved how many evictions have a reserved slot.
	lookups        lookups
	orphan         func(ext4.Ino) bool // FS.Orphan
	orphans        []ext4.Ino
	evictsReserved int

	readable bool // the descriptor may have requests
	started  bool // INIT is done
	minor    uint32
	owner    uint32 // of this process
	// What was agreed on with the kernel: the long form of SETXATTR; that files opened for direct
	// I/O can be mapped.
	xattrExt, directMmap bool

	ready     chan struct{}
	readyOnce sync.Once
	err       error

	// Requests counts what was received, by opcode.
	Requests [64]uint64
}

// outBuffer is where small replies are put together: header and the largest fixed answer.
type outBuffer struct {
	header fuse.OutHeader
	body   [512]byte
}

// New makes the transport of a mount whose /dev/fuse descriptor is fd, non-blocking.
func New(fs *vfs.FS, fd int, c Config) (*Transport, error) {
	if err := unix.SetNonblock(fd, true); err != nil {
		return nil, fmt.Errorf("/dev/fuse: %w", err)
	}
	l := fs.Loop()
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	t := &Transport{fs: fs, loop: l, fd: fd, config: c, log: c.Log,
		reqs: asyncq.NewBlobs[request](l.Table), maxWrite: maxWrite, lookups: newLookups(),
		orphan: fs.Orphan,
		busy:   make(chan struct{}, 1),
		ready:  make(chan struct{}), readable: true, owner: uint32(os.Getuid())}
	if c.ReadOnly {
		t.maxWrite = readOnlyMaxWrite
	}
	// An encrypted file is refused at open, so that it must be asked for.
	t.config.Opens = c.Opens || fs.Volume().HasIncompat(ext4.IncompatEncrypt)
	t.id = l.Register("fuse", t)
	t.front = fs.AddFront(t)
	l.AddIntake(t)
	if c.Rings != nil {
		over, err := newOverRing(t, c.Rings, c.Possible)
		if err != nil {
			return nil, fmt.Errorf("/dev/fuse: %w", err)
		}
		t.over = over
		l.AddIntake(over)
	}
	l.Engine().Poll(fd, asyncq.MakeToken(t.id, 0, 0))
	return t, nil
}

// busyCount is after how many requests since Calm Busy speaks.
const busyCount = 64

// Count returns how many requests there were. Any goroutine may call it.
func (t *Transport) Count() uint64 { return t.count.Load() }

// Busy speaks once after some requests, and again only after Calm.
func (t *Transport) Busy() <-chan struct{} { return t.busy }

// Calm says that whoever listens to Busy wants to hear again.
func (t *Transport) Calm() { t.calm.Store(t.count.Load()) }

// counted counts a request.
func (t *Transport) counted() {
	if n := t.count.Add(1); n-t.calm.Load() == busyCount {
		select {
		case t.busy <- struct{}{}:
		default:
		}
	}
}

// Ready is closed when the kernel has begun to use the mount.
func (t *Transport) Ready() <-chan struct{} { return t.ready }

// Err returns what ended the transport, nil after an unmount. Valid after the loop's Run.
func (t *Transport) Err() error { return t.err }

// Complete notes that the descriptor has become readable.
func (t *Transport) Complete(_ asyncq.Token, res int32) {
	t.readable = true
	if res < 0 {
		t.stop(fmt.Errorf("polling /dev/fuse: %w", unix.Errno(-res)))
	}
}

// Resume is never called: slots belong to the filesystem.
func (t *Transport) Resume(asyncq.Slot) {}

// Cancel is never called.
func (t *Transport) Cancel(asyncq.Slot) {}

// Intake receives requests until none is left, there is no slot or buffer for another, or it had
// its share.
func (t *Transport) Intake() (more bool) {
	t.evict()
	for n := 0; t.canReceive(); n++ {
		if n == requestsPerTurn {
			return true
		}
		t.receive()
	}
	return false
}

// CanIntake says that Intake has something to do: slots and buffers may have become free since it
// stopped.
func (t *Transport) CanIntake() bool { return t.canReceive() || t.canEvict() }

// canReceive says that there may be a request, a slot for it, and a buffer, which it takes.
func (t *Transport) canReceive() bool {
	if !t.readable || t.loop.Table.Available() == 0 {
		return false
	}
	if t.hand == 0 {
		t.hand = t.fs.Arena().Get(int(t.maxWrite))
	}
	return t.hand != 0
}

// receive reads one request and dispatches it.
func (t *Transport) receive() {
	whole := t.fs.Arena().Whole(t.hand)
	recv := whole[blockdev.HeadRoom-writeHead:][:writeHead+int(t.maxWrite)+recvSpare]
	n, _, errno := unix.RawSyscall(unix.SYS_READ, uintptr(t.fd),
		uintptr(unsafe.Pointer(&recv[0])), uintptr(len(recv)))
	switch errno {
	case 0:
		t.dispatch(recv[:n])
	case unix.EAGAIN:
		t.readable = false
	case unix.EINTR, unix.ENOENT: // ENOENT: the request was taken back while we read it
	case unix.ENODEV: // unmounted
		t.stop(nil)
	default:
		t.stop(fmt.Errorf("reading /dev/fuse: %w", errno))
	}
}

// keep gives op the payload data, which lies in the request that was received: in the buffer in
// hand, which goes with it, or in a smaller one that it is copied to. It leaves op.Size alone. What
// came by a ring stays in the ring's buffer, if the reply waits for it.
func (t *Transport) keep(op *vfs.Op, data []byte) {
	arena := t.fs.Arena()
	small := op.Code != vfs.OpWrite || len(data) <= copyMax
	behind := op.Code == vfs.OpWrite && op.Arg&vfs.WriteBehind != 0
	if t.entry != 0 {
		small = behind
	}
	if small = small && arena.Free(len(data)) > copySpare; !small && behind {
		op.Arg &^= vfs.WriteBehind // it would keep a buffer that others need
	}
	switch {
	case small:
		op.Buf = arena.Get(len(data))
	case t.entry != 0:
		op.Buf = arena.Own(t.entry - 1)
	default:
		op.Buf, t.hand = t.hand, 0
	}
	// NB: the data of a WRITE may be in the buffer in hand already; copy sees that and returns.
	copy(arena.Payload(op.Buf), data)
}

// stop ends the loop: the mount is gone.
func (t *Transport) stop(err error) {
	t.readable = false
	if t.err == nil {
		t.err = err
	}
	t.loop.Stop()
}

// send sends one reply, and says whether the kernel took it; one by a ring it takes, or the mount
// is gone.
func (t *Transport) send(p []byte) (taken bool) {
	if t.entry == 0 {
		return t.write(p)
	}
	t.over.reply(t.entry-1, in[fuse.OutHeader](p), p[headerSize:])
	return true
}

// write writes a reply, or a notification. It does not block: /dev/fuse takes it or refuses it.
func (t *Transport) write(p []byte) (taken bool) {
	for {
		_, _, errno := unix.RawSyscall(unix.SYS_WRITE, uintptr(t.fd),
			uintptr(unsafe.Pointer(&p[0])), uintptr(len(p)))
		switch errno {
		case 0:
			return true
		case unix.EINTR:
			continue
		case unix.ENOENT: // the caller was killed in the meantime
		case unix.ENODEV, unix.EPERM: // the connection was aborted
			t.stop(nil)
		default:
			t.log.Error("reply refused by the kernel", "errno", errno, "bytes", len(p))
		}
		return false
	}
}

// reply sends the first n bytes of t.out.body.
func (t *Transport) reply(unique uint64, n int) (taken bool) {
	t.out.header = fuse.OutHeader{Length: uint32(headerSize + n), Unique: unique}
	return t.send(unsafe.Slice((*byte)(unsafe.Pointer(&t.out)), headerSize+n))
}

// fail sends an errno; 0 is a success without a body.
func (t *Transport) fail(unique uint64, errno unix.Errno) {
	t.out.header = fuse.OutHeader{Length: uint32(headerSize), Status: -int32(errno), Unique: unique}
	t.send(unsafe.Slice((*byte)(unsafe.Pointer(&t.out)), headerSize))
}

// attrsChanged has the kernel ask anew for the attributes of an inode, if it knows it.
func (t *Transport) attrsChanged(ino ext4.Ino) {
	out := body[fuse.NotifyInvalInodeOut](t)
	// NB: an offset below 0 leaves the cached data alone.
	*out = fuse.NotifyInvalInodeOut{Ino: inoToNode(ino), Off: -1}
	n := headerSize + int(unsafe.Sizeof(*out))
	t.out.header = fuse.OutHeader{Length: uint32(n), Status: -fuse.NOTIFY_INVAL_INODE}
	t.write(unsafe.Slice((*byte)(unsafe.Pointer(&t.out)), n))
}

const headerSize = int(unsafe.Sizeof(fuse.OutHeader{}))

// body returns t.out's body, zeroed, as a T.
func body[T any](t *Transport) *T {
	p := (*T)(unsafe.Pointer(&t.out.body))
	var zero T
	*p = zero
	return p
}

// in returns the request as a T, or nil if it is too short to be one.
func in[T any](req []byte) *T {
	if len(req) < int(unsafe.Sizeof(*new(T))) {
		return nil
	}
	return (*T)(unsafe.Pointer(&req[0]))
}

// rest returns what follows the fixed part T of a request.
func rest[T any](req []byte) []byte { return req[unsafe.Sizeof(*new(T)):] }
