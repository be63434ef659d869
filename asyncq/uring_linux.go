package asyncq

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"sync/atomic"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Uring is the engine on io_uring: one submission and completion ring, files and buffers
// registered where the kernel allows it, and one io_uring_enter that submits everything queued
// and waits. It allocates nothing per request.
//
// Flags: SUBMIT_ALL, COOP_TASKRUN with TASKRUN_FLAG, and CLAMP. SINGLE_ISSUER with DEFER_TASKRUN
// tie a ring to one thread, which the inline mode of Loop has not; see Rings.
//
// Threads: what the kernel cannot do without blocking (fsync, fallocate, and reads and writes
// where the filesystem has to allocate or to wait) it hands to workers of the process. Their
// number is bounded by workersMax and its like, whatever is in flight.
type Uring struct {
	fd      int
	sqMem   []byte
	sqeMem  []byte
	sq      subQueue
	cq      compQueue
	wakefd  int
	waking  atomic.Bool  // a wake-up is on its way; saves the write
	files   []int        // by FileID; -1 is free
	fixed   bool         // files are registered
	bufs    []unix.Iovec // registered buffers
	polls   []watch
	held    int // requests submitted or queued, and not yet reaped
	posted  []Completion
	backlog []sqe // what found the submission queue full
	// wide says that entries have 128 bytes, as commands need. commander is the provider of
	// commands, 0 without any: they last until the file has something to say, and are not held.
	wide      bool
	commander ProviderID
	args      kernelArgs
	closed    atomic.Bool
	// Raw makes the wait a raw system call, for at most rawMax: the runtime is not told, which
	// saves 3 µs of 19 per request at depth 1. Only for a thread that does nothing but run a loop,
	// with a spare GOMAXPROCS for everything else.
	Raw bool
}

// watch is a lasting poll; its index stands in the user data of the entry. 0 is the wake-up.
type watch struct {
	fd    int
	token Token
}

// kernelArgs is what system calls get the address of by way of an integer, which the garbage
// collector does not see. NB: on the heap, as a part of Uring, because stacks move.
type kernelArgs struct {
	wait   getEventsArg
	ts     unix.Timespec
	fd     int32
	update filesUpdate
}

// filesUpdate is struct io_uring_files_update.
type filesUpdate struct {
	offset, _ uint32
	fds       uint64
}

type subQueue struct {
	head, tail *uint32
	flags      *uint32
	mask       uint32
	entries    uint32
	sqes       []sqeHalf
	shift      uint8  // log2 of the halves of an entry
	next       uint32 // our tail, published at the next enter
}

type compQueue struct {
	head, tail *uint32
	mask       uint32
	cqes       []cqe
}

// sqe is an entry of the submission queue. Its second half is written only where the ring has it.
type sqe struct {
	sqeHalf
	more uint64 // cmd[16:24]
}

// sqeHalf is struct io_uring_sqe.
type sqeHalf struct {
	opcode   uint8
	flags    uint8
	ioprio   uint16
	fd       int32
	off      uint64
	addr     uint64
	len      uint32
	opFlags  uint32
	userData uint64
	bufIndex uint16
	_        [6]byte
	cmd      [2]uint64
}

// cqe is struct io_uring_cqe.
type cqe struct {
	userData uint64
	res      int32
	flags    uint32
}

const (
	_ = uint(unsafe.Sizeof(sqeHalf{}) - 64)
	_ = uint(64 - unsafe.Sizeof(sqeHalf{}))
	_ = uint(unsafe.Sizeof(cqe{}) - 16)
	_ = uint(16 - unsafe.Sizeof(cqe{}))
)

// The part of the io_uring ABI (include/uapi/linux/io_uring.h) that is used here.
const (
	opFsync      = 3
	opReadFixed  = 4
	opWriteFixed = 5
	opPollAdd    = 6
	opFallocate  = 17
	opRead       = 22
	opWrite      = 23
	opCommand    = 46

	sqeFixedFile   = 1 << 0
	pollAddMulti   = 1 << 0
	fsyncDatasync  = 1 << 0
	cqeMore        = 1 << 1
	enterGetEvents = 1 << 0
	enterExtArg    = 1 << 3

	setupCQSize   = 1 << 3
	setupClamp    = 1 << 4
	setupSubmit   = 1 << 7
	setupCoop     = 1 << 8
	setupTaskFlag = 1 << 9
	setupSQE128   = 1 << 10
	setupSingle   = 1 << 12
	setupDefer    = 1 << 13
	// setupShared is for a ring that any thread may use, one at a time. setupThread is for one that
	// belongs to the thread that makes it, and takes commands.
	setupShared   = setupCoop
	setupThread   = setupSingle | setupDefer | setupSQE128
	sqOverflow    = 1 << 1
	sqTaskRun     = 1 << 2
	featSingleMap = 1 << 0
	featNoDrop    = 1 << 1
	featExtArg    = 1 << 8

	offSQRing = 0
	offSQEs   = 0x10000000

	regBuffers     = 0
	unregBuffers   = 1
	regFiles       = 2
	unregFiles     = 3
	regFilesUpdate = 6
	regWorkersMax  = 19

	filesMax = 16
	// providerPoll is the provider in the user data of polls; no real one has its number.
	providerPoll = 255
	// Workers for files and block devices, and for anything else.
	workersMax, workersThreadMax, workersUnboundMax = 4, 1, 1

	// rawMax is how long a raw wait may last. The runtime takes its thread for a running one and
	// looks after it: 200 context switches a second in an idle daemon. It knows of longer waits,
	// and there are none.
	rawMax = 2 * time.Millisecond

	rwDsync    = 2 // RWF_DSYNC
	iovecBytes = 1 << 30
)

// rwOpcodes is indexed by read or write, and by whether the buffer is registered.
var rwOpcodes = [2][2]uint8{OpRead: {opRead, opReadFixed}, OpWrite: {opWrite, opWriteFixed}}

type uringParams struct {
	sqEntries, cqEntries, flags, sqThreadCPU, sqThreadIdle, features, wqFD uint32
	_                                                                      [3]uint32
	sqOff                                                                  sqOffsets
	cqOff                                                                  cqOffsets
}

type sqOffsets struct {
	head, tail, ringMask, ringEntries, flags, dropped, array, _ uint32
	_                                                           uint64
}

type cqOffsets struct {
	head, tail, ringMask, ringEntries, overflow, cqes, flags, _ uint32
	_                                                           uint64
}

type getEventsArg struct {
	sigmask   uint64
	sigmaskSz uint32
	_         uint32
	ts        uint64
}

// NewUring makes a ring for about depth requests between two waits (1 to 4096). Errors: ENOSYS,
// EPERM or EACCES where io_uring is not allowed, ENOMEM.
func NewUring(depth int) (*Uring, error) { return newUring(depth, setupShared) }

func newUring(depth int, kind uint32) (*Uring, error) {
	p := uringParams{flags: setupCQSize | setupClamp | setupSubmit | setupTaskFlag | kind}
	p.cqEntries = uint32(4 * depth)
	fd, _, errno := unix.Syscall(unix.SYS_IO_URING_SETUP, uintptr(depth),
		uintptr(unsafe.Pointer(&p)), 0)
	if errno != 0 {
		return nil, errno
	}
	u := &Uring{fd: int(fd), wakefd: -1, wide: kind&setupSQE128 != 0}
	unix.CloseOnExec(u.fd)
	const need = featSingleMap | featNoDrop | featExtArg
	if p.features&need != need {
		_ = u.Close()
		return nil, fmt.Errorf("io_uring lacks features %#x: %w", need&^p.features, unix.ENOSYS)
	}
	if err := u.mapRings(&p); err != nil {
		_ = u.Close()
		return nil, err
	}
	if err := u.setUpWake(); err != nil {
		_ = u.Close()
		return nil, err
	}
	u.registerFiles()
	workers := [2]uint32{workersMax, workersUnboundMax}
	if u.wide { // there are several such rings
		workers[0] = workersThreadMax
	}
	u.register(regWorkersMax, unsafe.Pointer(&workers), 2)
	u.posted = make([]Completion, 0, 4*depth)
	u.backlog = make([]sqe, 0, 4*depth)
	return u, nil
}

func (u *Uring) mapRings(p *uringParams) (err error) {
	ring := max(p.sqOff.array+4*p.sqEntries, p.cqOff.cqes+16*p.cqEntries)
	const prot, flags = unix.PROT_READ | unix.PROT_WRITE, unix.MAP_SHARED | unix.MAP_POPULATE
	if u.sqMem, err = unix.Mmap(u.fd, offSQRing, int(ring), prot, flags); err != nil {
		return fmt.Errorf("mapping the io_uring ring: %w", err)
	}
	shift := uint8(0)
	if u.wide {
		shift = 1
	}
	halves := p.sqEntries << shift
	if u.sqeMem, err = unix.Mmap(u.fd, offSQEs, int(64*halves), prot, flags); err != nil {
		return fmt.Errorf("mapping the io_uring entries: %w", err)
	}
	at := func(off uint32) *uint32 { return (*uint32)(unsafe.Pointer(&u.sqMem[off])) }
	u.sq = subQueue{head: at(p.sqOff.head), tail: at(p.sqOff.tail), flags: at(p.sqOff.flags),
		mask: *at(p.sqOff.ringMask), entries: p.sqEntries, shift: shift,
		sqes: unsafe.Slice((*sqeHalf)(unsafe.Pointer(&u.sqeMem[0])), halves)}
	u.cq = compQueue{head: at(p.cqOff.head), tail: at(p.cqOff.tail), mask: *at(p.cqOff.ringMask),
		cqes: unsafe.Slice((*cqe)(unsafe.Pointer(&u.sqMem[p.cqOff.cqes])), p.cqEntries)}
	// Entry i of the queue is always sqe i: the indirection array is filled once.
	array := unsafe.Slice(at(p.sqOff.array), p.sqEntries)
	for i := range array {
		array[i] = uint32(i)
	}
	return nil
}

func (u *Uring) setUpWake() (err error) {
	u.wakefd, err = unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK)
	if err != nil {
		return fmt.Errorf("eventfd: %w", err)
	}
	u.Poll(u.wakefd, 0)
	return nil
}

// registerFiles makes an empty table of registered files, or leaves files unregistered.
func (u *Uring) registerFiles() {
	fds := [filesMax]int32{}
	for i := range fds {
		fds[i] = -1
	}
	u.fixed = u.register(regFiles, unsafe.Pointer(&fds), filesMax) == 0
}

func (u *Uring) register(op uintptr, arg unsafe.Pointer, n uintptr) unix.Errno {
	_, _, errno := unix.Syscall6(unix.SYS_IO_URING_REGISTER, uintptr(u.fd), op, uintptr(arg), n,
		0, 0)
	return errno
}

// Name returns "uring".
func (u *Uring) Name() string { return "uring" }

// AddFile registers fd. At most 16 files.
func (u *Uring) AddFile(fd int) (FileID, error) {
	i := slices.Index(u.files, -1)
	if i < 0 {
		if i = len(u.files); i == filesMax {
			return -1, unix.EMFILE
		}
		u.files = append(u.files, -1)
	}
	if errno := u.setFile(i, fd); errno != 0 {
		return -1, fmt.Errorf("registering a file with io_uring: %w", errno)
	}
	u.files[i] = fd
	return FileID(i), nil
}

// setFile puts fd, or -1, into the table of registered files.
func (u *Uring) setFile(i, fd int) unix.Errno {
	if !u.fixed {
		return 0
	}
	u.args.fd = int32(fd)
	u.args.update = filesUpdate{offset: uint32(i),
		fds: uint64(uintptr(unsafe.Pointer(&u.args.fd)))}
	return u.register(regFilesUpdate, unsafe.Pointer(&u.args.update), 1)
}

// RemoveFile takes a file out of the table of registered files.
func (u *Uring) RemoveFile(f FileID) {
	if u.closed.Load() {
		return
	}
	u.setFile(int(f), -1)
	u.files[f] = -1
}

// AddBuffers registers mem, so that the kernel need not pin its pages for every request (12
// against 21 µs per 4k read at depth 1). Registered memory counts against RLIMIT_MEMLOCK of the
// user, unless it has CAP_IPC_LOCK: of several calls, those beyond the limit leave their memory
// unregistered, and requests that use it go the slower way. Nothing may be in flight.
func (u *Uring) AddBuffers(mem ...[]byte) {
	before := slices.Clone(u.bufs)
	for _, m := range mem {
		for len(m) > 0 {
			n := min(len(m), iovecBytes)
			u.bufs = append(u.bufs, unix.Iovec{Base: &m[0], Len: uint64(n)})
			m = m[n:]
		}
	}
	slices.SortFunc(u.bufs, func(a, b unix.Iovec) int {
		return cmp.Compare(uintptr(unsafe.Pointer(a.Base)), uintptr(unsafe.Pointer(b.Base)))
	})
	if len(before) > 0 {
		u.register(unregBuffers, nil, 0)
	}
	if u.registerBuffers() {
		return
	}
	if u.bufs = before; len(before) > 0 && !u.registerBuffers() {
		u.bufs = nil
	}
}

func (u *Uring) registerBuffers() bool {
	return len(u.bufs) > 0 &&
		u.register(regBuffers, unsafe.Pointer(&u.bufs[0]), uintptr(len(u.bufs))) == 0
}

// BuffersRegistered returns how many bytes AddBuffers could register.
func (u *Uring) BuffersRegistered() (n int) {
	for _, b := range u.bufs {
		n += int(b.Len)
	}
	return n
}

// fixedBuffer returns the index of the registered buffer that holds mem, or -1.
func (u *Uring) fixedBuffer(addr uintptr, n int) int {
	low, high := 0, len(u.bufs) // the first that begins behind addr is among [low, high]
	for low < high {
		mid := (low + high) / 2
		if uintptr(unsafe.Pointer(u.bufs[mid].Base)) <= addr {
			low = mid + 1
		} else {
			high = mid
		}
	}
	if low--; low < 0 {
		return -1
	}
	base := uintptr(unsafe.Pointer(u.bufs[low].Base))
	if addr+uintptr(n) <= base+uintptr(u.bufs[low].Len) {
		return low
	}
	return -1
}

// Submit queues one request.
func (u *Uring) Submit(f FileID, io IO) {
	onHeap(io.Buf)
	if io.Off < 0 { // which io_uring takes for the file's own position
		u.Post(Completion{io.Token, -int32(unix.EINVAL)})
		return
	}
	e := sqeHalf{off: uint64(io.Off), userData: uint64(io.Token)}
	u.aim(&e, f)
	switch io.Op {
	case OpRead, OpWrite:
		addr := uintptr(unsafe.Pointer(unsafe.SliceData(io.Buf)))
		e.addr, e.len = uint64(addr), uint32(len(io.Buf))
		i := u.fixedBuffer(addr, len(io.Buf))
		e.bufIndex = uint16(max(i, 0))
		e.opcode = rwOpcodes[io.Op][min(i, 0)+1]
		if io.FUA {
			e.opFlags = rwDsync
		}
	case OpFlush:
		e.opcode, e.off, e.opFlags = opFsync, 0, fsyncDatasync
	case OpDiscard:
		e.opcode, e.addr = opFallocate, uint64(io.Len)
		e.len = unix.FALLOC_FL_PUNCH_HOLE | unix.FALLOC_FL_KEEP_SIZE
	}
	u.held++
	u.push(sqe{sqeHalf: e})
}

// aim points an entry at a file.
func (u *Uring) aim(e *sqeHalf, f FileID) {
	if e.fd = int32(f); u.fixed {
		e.flags = sqeFixedFile
	} else {
		e.fd = int32(u.files[f])
	}
}

// Command is an IORING_OP_URING_CMD: a request in the language of the file that it goes to.
type Command struct {
	File FileID
	Op   uint32
	Mem  unsafe.Pointer // what it points to is not on the Go heap, and lasts as long as the command
	Len  uint32
	Data [3]uint64
	// Token comes back in the completion. All commands of a ring are of one provider.
	Token Token
}

// Command queues one command, on a ring that NewRings has made. It may last as long as the ring.
func (u *Uring) Command(c Command) {
	u.commander = c.Token.Provider()
	e := sqeHalf{opcode: opCommand, off: uint64(c.Op), addr: uint64(uintptr(c.Mem)), len: c.Len,
		userData: uint64(c.Token), cmd: [2]uint64{c.Data[0], c.Data[1]}}
	u.aim(&e, c.File)
	u.push(sqe{e, c.Data[2]})
}

// quiet says that everything submitted but commands was reaped.
func (u *Uring) quiet() bool { return u.held == 0 && len(u.posted) == 0 }

// Poll watches fd for readability.
func (u *Uring) Poll(fd int, token Token) {
	u.polls = append(u.polls, watch{fd, token})
	u.armPoll(len(u.polls) - 1)
}

func (u *Uring) armPoll(i int) {
	u.push(sqe{sqeHalf: sqeHalf{opcode: opPollAdd, fd: int32(u.polls[i].fd), len: pollAddMulti,
		opFlags: unix.POLLIN, userData: uint64(MakeToken(providerPoll, 0, uint32(i)))}})
}

// push puts an entry into the submission queue, which is flushed when it is full.
func (u *Uring) push(e sqe) {
	if u.sq.next-atomic.LoadUint32(u.sq.head) == u.sq.entries {
		if _, errno := u.enter(0, nil, u.Raw); errno != 0 ||
			u.sq.next-atomic.LoadUint32(u.sq.head) == u.sq.entries {
			u.backlog = append(u.backlog, e)
			return
		}
	}
	u.put(e)
}

// put puts an entry where there is room for it.
func (u *Uring) put(e sqe) {
	i := u.sq.next & u.sq.mask << u.sq.shift
	u.sq.sqes[i] = e.sqeHalf
	if u.wide {
		// NB: only these 8 bytes of the second half are read, by commands.
		*(*uint64)(unsafe.Pointer(&u.sq.sqes[i+1])) = e.more
	}
	u.sq.next++
}

// Post queues a completion as if the kernel had answered.
func (u *Uring) Post(c Completion) { u.posted = append(u.posted, c) }

// enter publishes the queued entries, submits them, and with wait > 0 sleeps for completions. With
// raw the runtime is not told.
func (u *Uring) enter(wait uintptr, arg *getEventsArg, raw bool) (int, unix.Errno) {
	atomic.StoreUint32(u.sq.tail, u.sq.next)
	submit := u.sq.next - atomic.LoadUint32(u.sq.head)
	flags, size := uintptr(enterGetEvents), uintptr(0)
	if arg != nil {
		flags |= enterExtArg
		size = unsafe.Sizeof(*arg)
	}
	var n uintptr
	var errno unix.Errno
	if raw {
		n, _, errno = unix.RawSyscall6(unix.SYS_IO_URING_ENTER, uintptr(u.fd), uintptr(submit),
			wait, flags, uintptr(unsafe.Pointer(arg)), size)
	} else {
		n, _, errno = unix.Syscall6(unix.SYS_IO_URING_ENTER, uintptr(u.fd), uintptr(submit),
			wait, flags, uintptr(unsafe.Pointer(arg)), size)
	}
	return int(n), errno
}

// Wait submits, sleeps and reaps. With nothing to submit, a look at the queue is no system call.
func (u *Uring) Wait(timeout time.Duration, out []Completion) (int, error) {
	u.drainBacklog()
	if n, woken := u.reap(out); n > 0 || woken {
		if u.sq.next != *u.sq.tail {
			_, errno := u.enter(0, nil, u.Raw)
			return n, transient(errno)
		}
		return n, nil
	}
	if timeout == 0 && u.sq.next == atomic.LoadUint32(u.sq.head) &&
		atomic.LoadUint32(u.sq.flags)&(sqOverflow|sqTaskRun) == 0 {
		return 0, nil
	}
	if timeout == 0 || len(u.backlog) > 0 {
		n, _, err := u.sleep(0, 0, u.Raw, out)
		return n, err
	}
	raw := u.Raw
	if raw && (timeout < 0 || timeout > rawMax) {
		if n, woken, err := u.sleep(1, rawMax, true, out); n > 0 || woken || err != nil {
			return n, err
		}
		raw = false
	}
	n, _, err := u.sleep(1, timeout, raw, out)
	return n, err
}

// sleep submits, waits for so many completions and reaps. A timeout of 0 or less is none.
func (u *Uring) sleep(wait uintptr, timeout time.Duration, raw bool, out []Completion) (n int,
	woken bool, err error) {
	var arg *getEventsArg
	if timeout > 0 {
		arg = &u.args.wait
		u.args.ts = unix.NsecToTimespec(int64(timeout))
		arg.ts = uint64(uintptr(unsafe.Pointer(&u.args.ts)))
	}
	_, errno := u.enter(wait, arg, raw)
	if err := transient(errno); err != nil {
		return 0, false, err
	}
	n, woken = u.reap(out)
	return n, woken, nil
}

// transient maps the errors after which the loop just goes on: EINTR (the collector stops a raw
// waiter by a signal), ETIME, and EBUSY or EAGAIN, which mean: reap first.
func transient(errno unix.Errno) error {
	switch errno {
	case 0, unix.EINTR, unix.ETIME, unix.EAGAIN, unix.EBUSY:
		return nil
	}
	return errno
}

func (u *Uring) drainBacklog() {
	n := 0
	for n < len(u.backlog) && u.sq.next-atomic.LoadUint32(u.sq.head) < u.sq.entries {
		u.put(u.backlog[n])
		n++
	}
	u.backlog = u.backlog[:copy(u.backlog, u.backlog[n:])]
}

// reap moves completions to out. A wake-up is not one, but it must keep Wait from sleeping.
func (u *Uring) reap(out []Completion) (n int, woken bool) {
	n = copy(out, u.posted)
	u.posted = u.posted[:copy(u.posted, u.posted[n:])]
	head := *u.cq.head
	tail := atomic.LoadUint32(u.cq.tail)
	for head != tail && n < len(out) {
		c := u.cq.cqes[head&u.cq.mask]
		head++
		if p := Token(c.userData).Provider(); p != providerPoll {
			if p != u.commander || p == 0 {
				u.held--
			}
			out[n] = Completion{Token(c.userData), c.res}
			n++
			continue
		}
		i := int(Token(c.userData).Index())
		if i == 0 {
			u.woken()
			woken = true
		} else {
			out[n] = Completion{u.polls[i].token, c.res}
			n++
		}
		// The kernel ends a watch by itself when it finds no room for a completion.
		if c.flags&cqeMore == 0 && (c.res >= 0 || i == 0) {
			u.armPoll(i)
		}
	}
	atomic.StoreUint32(u.cq.head, head)
	return n, woken
}

func (u *Uring) woken() {
	var buf [8]byte
	_, _ = unix.Read(u.wakefd, buf[:]) // EAGAIN: another completion has emptied it already
	// NB: only after the read. A Wake in between writes nothing, but the loop looks at what it
	// was woken for before it sleeps again; the other way round, its event could be lost.
	u.waking.Store(false)
}

// Wake makes Wait return.
func (u *Uring) Wake() {
	if u.waking.Swap(true) {
		return
	}
	one := [8]byte{1}
	_, _ = unix.Write(u.wakefd, one[:])
}

// Close frees the ring when everything submitted has ended, because the kernel may write into
// the buffers until then. NB: closing the descriptor alone would not wait; and files that stayed
// registered would stay open, with their locks, until the kernel takes the ring apart some time
// later.
func (u *Uring) Close() error {
	if u.closed.Swap(true) {
		return nil
	}
	err := u.finish()
	if len(u.bufs) > 0 {
		u.register(unregBuffers, nil, 0)
	}
	if u.fixed {
		u.register(unregFiles, nil, 0)
	}
	if u.sqMem != nil {
		_ = unix.Munmap(u.sqMem)
	}
	if u.sqeMem != nil {
		_ = unix.Munmap(u.sqeMem)
	}
	if u.wakefd >= 0 {
		_ = unix.Close(u.wakefd)
	}
	return errors.Join(err, unix.Close(u.fd))
}

// finish waits for all requests.
func (u *Uring) finish() error {
	var out [64]Completion
	u.posted = u.posted[:0]
	for u.held > 0 {
		if _, err := u.Wait(-1, out[:]); err != nil {
			return fmt.Errorf("%d requests in flight at the end: %w", u.held, err)
		}
	}
	return nil
}
