package asyncq

import (
	"fmt"
	"math"
	"sync/atomic"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// AIO is the engine on Linux AIO, for where io_uring is not allowed: io_submit for requests, an
// eventfd for their completions, and one epoll for that, for wake-ups and for polled descriptors.
// It has no threads and allocates nothing per request.
//
// It does not block on O_DIRECT descriptors, with two exceptions: io_submit waits where the block
// layer's own queue is full, or where a filesystem has to look up or allocate blocks of an image
// file; and a discard, which AIO has not, is done at once. Without O_DIRECT, io_submit does the
// whole request before it returns.
//
// Measured on a loop device over RAM (QD32, 4k random reads, 2 CPUs): see engine_bench_test.go.
type AIO struct {
	ctx     uintptr // the kernel's name of the context: the address of its completion ring
	ring    *aioRing
	epfd    int
	readyfd int // eventfd that each completion signals
	wakefd  int
	waking  atomic.Bool
	closed  atomic.Bool
	files   []int // by FileID; -1 is free
	polls   []Token
	held    int // requests that io_submit has taken and that are not yet reaped
	queue   []iocb
	ptrs    [aioBatch]*iocb
	events  [pollsMax]unix.EpollEvent
	ioevs   [aioBatch]ioEvent
	posted  []Completion
}

const (
	aioBatch = 64 // requests per io_submit
	pollsMax = 16 // events taken from one epoll_wait

	cmdPread  = 0
	cmdPwrite = 1
	cmdFdsync = 3

	iocbFlagResfd = 1 << 0
	aioRingMagic  = 0xa10a10a1

	// What stands in the data of an epoll event: one of these, or the index of a poll.
	epollReady = -1
	epollWake  = -2
)

// iocb is struct iocb of include/uapi/linux/aio_abi.h as on little-endian machines.
type iocb struct {
	data    uint64
	key     uint32
	rwFlags uint32
	opcode  uint16
	reqPrio int16
	fd      uint32
	buf     uint64
	nbytes  uint64
	offset  int64
	_       uint64
	flags   uint32
	resfd   uint32
}

// ioEvent is struct io_event.
type ioEvent struct {
	data, obj uint64
	res, res2 int64
}

// aioRing is struct aio_ring: the header of the completion ring that the kernel maps into the
// process. Its layout is part of the ABI as libaio uses it, guarded by the magic number; the
// events follow.
type aioRing struct {
	id, nr, head, tail, magic, compat, incompat, headerLen uint32
}

const (
	_ = uint(unsafe.Sizeof(iocb{}) - 64)
	_ = uint(64 - unsafe.Sizeof(iocb{}))
	_ = uint(unsafe.Sizeof(ioEvent{}) - 32)
	_ = uint(32 - unsafe.Sizeof(ioEvent{}))
)

// NewAIO makes an engine for depth requests in the kernel at once; more wait in the engine.
// Errors: ENOSYS where the kernel has no AIO, EAGAIN where fs.aio-max-nr is used up.
func NewAIO(depth int) (*AIO, error) {
	a := &AIO{epfd: -1, readyfd: -1, wakefd: -1}
	_, _, errno := unix.Syscall(unix.SYS_IO_SETUP, uintptr(depth),
		uintptr(unsafe.Pointer(&a.ctx)), 0)
	if errno != 0 {
		return nil, errno
	}
	// The ring is the kernel's mapping, not Go memory; a direct conversion would look like an
	// invented pointer.
	ring := *(**aioRing)(unsafe.Pointer(&a.ctx))
	if ring.magic == aioRingMagic && ring.incompat == 0 {
		a.ring = ring
	}
	if err := a.setUpPoll(); err != nil {
		_ = a.Close()
		return nil, err
	}
	a.queue = make([]iocb, 0, 4*depth)
	a.posted = make([]Completion, 0, 4*depth)
	return a, nil
}

func (a *AIO) setUpPoll() (err error) {
	if a.epfd, err = unix.EpollCreate1(unix.EPOLL_CLOEXEC); err != nil {
		return fmt.Errorf("epoll: %w", err)
	}
	if a.readyfd, err = unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK); err != nil {
		return fmt.Errorf("eventfd: %w", err)
	}
	if a.wakefd, err = unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK); err != nil {
		return fmt.Errorf("eventfd: %w", err)
	}
	if err = a.watch(a.readyfd, epollReady); err != nil {
		return fmt.Errorf("epoll: %w", err)
	}
	if err = a.watch(a.wakefd, epollWake); err != nil {
		return fmt.Errorf("epoll: %w", err)
	}
	return nil
}

// watch is edge-triggered: each signal of an eventfd is one event, and the eventfd need not be
// read.
func (a *AIO) watch(fd int, data int32) error {
	return unix.EpollCtl(a.epfd, unix.EPOLL_CTL_ADD, fd,
		&unix.EpollEvent{Events: unix.EPOLLIN | unix.EPOLLET, Fd: data})
}

// Name returns "aio".
func (a *AIO) Name() string { return "aio" }

// AddFile remembers fd.
func (a *AIO) AddFile(fd int) (FileID, error) {
	for i := range a.files {
		if a.files[i] < 0 {
			a.files[i] = fd
			return FileID(i), nil
		}
	}
	a.files = append(a.files, fd)
	return FileID(len(a.files) - 1), nil
}

// RemoveFile forgets a file.
func (a *AIO) RemoveFile(f FileID) { a.files[f] = -1 }

// AddBuffers does nothing: AIO has no registered buffers.
func (a *AIO) AddBuffers(...[]byte) {}

// Submit queues one request for the next Wait.
func (a *AIO) Submit(f FileID, io IO) {
	onHeap(io.Buf)
	if io.Op == OpDiscard {
		a.discard(a.files[f], io)
		return
	}
	cb := iocb{data: uint64(io.Token), fd: uint32(a.files[f]), flags: iocbFlagResfd,
		resfd: uint32(a.readyfd)}
	switch io.Op {
	case OpRead, OpWrite:
		if cb.opcode = cmdPread; io.Op == OpWrite {
			cb.opcode = cmdPwrite
		}
		if io.FUA {
			cb.rwFlags = rwDsync
		}
		cb.buf = uint64(uintptr(unsafe.Pointer(unsafe.SliceData(io.Buf))))
		cb.nbytes, cb.offset = uint64(len(io.Buf)), io.Off
	case OpFlush:
		cb.opcode = cmdFdsync
	}
	a.queue = append(a.queue, cb)
}

func (a *AIO) discard(fd int, io IO) {
	err := unix.Fallocate(fd, unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, io.Off, io.Len)
	a.answer(io.Token, err)
}

func (a *AIO) answer(t Token, err error) {
	errno, _ := err.(unix.Errno)
	a.Post(Completion{t, -int32(errno)})
}

// Poll watches fd for readability.
func (a *AIO) Poll(fd int, token Token) {
	a.polls = append(a.polls, token)
	if err := a.watch(fd, int32(len(a.polls)-1)); err != nil {
		a.answer(token, err)
	}
}

// Post queues a completion as if the kernel had answered.
func (a *AIO) Post(c Completion) { a.posted = append(a.posted, c) }

// flush hands queued requests to the kernel until it takes no more.
func (a *AIO) flush() {
	done := 0
	for done < len(a.queue) {
		n := min(len(a.queue)-done, aioBatch)
		for i := range n {
			a.ptrs[i] = &a.queue[done+i]
		}
		taken, _, errno := unix.Syscall(unix.SYS_IO_SUBMIT, a.ctx, uintptr(n),
			uintptr(unsafe.Pointer(&a.ptrs)))
		switch errno {
		case 0:
			done += int(taken)
			a.held += int(taken)
		case unix.EINTR:
		case unix.EAGAIN:
			a.queue = a.queue[:copy(a.queue, a.queue[done:])]
			return
		default:
			a.refused(&a.queue[done], errno)
			done++
		}
	}
	a.queue = a.queue[:0]
}

// refused answers a request that io_submit did not take. Kernels before 4.18, and files without
// an fsync of their own, refuse CMD_FDSYNC: then the loop has to wait for it. (Since 4.18 both
// files and block devices take it; the kernel's own workers carry it out.)
func (a *AIO) refused(cb *iocb, errno unix.Errno) {
	if cb.opcode == cmdFdsync && errno == unix.EINVAL {
		a.answer(Token(cb.data), unix.Fdatasync(int(cb.fd)))
		return
	}
	a.answer(Token(cb.data), errno)
}

// Wait submits, sleeps and reaps. Completions are taken from the ring without a system call;
// polled descriptors are looked at on every turn, so that a stream of completions does not keep
// them waiting.
func (a *AIO) Wait(timeout time.Duration, out []Completion) (int, error) {
	a.flush()
	n := a.reap(out)
	ms := milliseconds(timeout)
	switch {
	case n == len(out) || n > 0 && len(a.polls) == 0:
		return n, nil
	case n > 0:
		ms = 0
	case len(a.queue) > 0 && a.held == 0 && ms != 0:
		ms = 1 // the kernel is out of memory: there is nothing to wait for
	case ms == 0 && len(a.polls) == 0 && !a.waking.Load():
		return 0, nil
	}
	for {
		k, woken, err := a.poll(ms, out[n:])
		if err != nil {
			return n, err
		}
		if n += k; n < len(out) {
			n += a.reap(out[n:])
		}
		// An event for completions that were reaped before it came is no reason to return.
		if n > 0 || woken || ms >= 0 {
			return n, nil
		}
	}
}

// milliseconds rounds up, so that a Wait never ends before its time.
func milliseconds(d time.Duration) int {
	if d < 0 {
		return -1
	}
	return int(min((d+time.Millisecond-1)/time.Millisecond, math.MaxInt32))
}

// poll sleeps for events and stores those of polled descriptors in out.
func (a *AIO) poll(ms int, out []Completion) (n int, woken bool, err error) {
	k, err := unix.EpollWait(a.epfd, a.events[:min(pollsMax, len(out))], ms)
	if err == unix.EINTR {
		return 0, true, nil
	}
	if err != nil {
		return 0, false, fmt.Errorf("epoll: %w", err)
	}
	for _, e := range a.events[:k] {
		switch e.Fd {
		case epollReady:
		case epollWake:
			a.waking.Store(false)
			woken = true
		default:
			out[n] = Completion{a.polls[e.Fd], int32(e.Events)}
			n++
		}
	}
	return n, woken, nil
}

// reap moves completions to out.
func (a *AIO) reap(out []Completion) int {
	n := copy(out, a.posted)
	a.posted = a.posted[:copy(a.posted, a.posted[n:])]
	if n == len(out) || a.held == 0 {
		return n
	}
	before := n
	if a.ring != nil {
		n += a.reapRing(out[n:])
	} else {
		n += a.getEvents(out[n:])
	}
	a.held -= n - before
	return n
}

// reapRing takes completions from the mapped ring.
func (a *AIO) reapRing(out []Completion) (n int) {
	r := a.ring
	events := unsafe.Slice((*ioEvent)(unsafe.Add(unsafe.Pointer(r), r.headerLen)), r.nr)
	head := r.head
	tail := atomic.LoadUint32(&r.tail)
	for head != tail && n < len(out) {
		e := &events[head]
		out[n] = Completion{Token(e.data), int32(e.res)}
		n++
		if head++; head == r.nr {
			head = 0
		}
	}
	if n > 0 {
		atomic.StoreUint32(&r.head, head)
	}
	return n
}

// getEvents asks the kernel for completions.
func (a *AIO) getEvents(out []Completion) int {
	k, _, errno := unix.Syscall6(unix.SYS_IO_GETEVENTS, a.ctx, 0,
		uintptr(min(len(out), aioBatch)), uintptr(unsafe.Pointer(&a.ioevs)), 0, 0)
	if errno != 0 {
		return 0
	}
	for i, e := range a.ioevs[:k] {
		out[i] = Completion{Token(e.data), int32(e.res)}
	}
	return int(k)
}

// Wake makes Wait return.
func (a *AIO) Wake() {
	if a.waking.Swap(true) {
		return
	}
	one := [8]byte{1}
	_, _ = unix.Write(a.wakefd, one[:])
}

// Close frees the context when everything submitted has ended.
func (a *AIO) Close() error {
	if a.closed.Swap(true) {
		return nil
	}
	var out [64]Completion
	a.posted = a.posted[:0]
	var err error
	for a.held+len(a.queue) > 0 && err == nil {
		_, err = a.Wait(-1, out[:])
	}
	// It waits for what is still under way.
	_, _, errno := unix.Syscall(unix.SYS_IO_DESTROY, a.ctx, 0, 0)
	if errno != 0 && err == nil {
		err = errno
	}
	for _, fd := range []int{a.epfd, a.readyfd, a.wakefd} {
		if fd >= 0 {
			_ = unix.Close(fd)
		}
	}
	return err
}
