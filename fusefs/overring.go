package fusefs

import (
	"unsafe"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"

	"asyncfsd/asyncq"
	"asyncfsd/blockdev"
)

// FUSE over io_uring (Linux 6.14, Documentation/filesystems/fuse/fuse-io-uring.rst). The kernel has
// a queue for each processor, and puts a request into that of its caller. A queue has entries, each
// with a buffer of ours and a command that waits in one of our rings: a request completes the
// command; the reply is the next command, which then waits for another request. So the entries of
// a queue belong to the thread that is bound to its processor, and no other one submits their
// commands: the kernel copies in the thread that did.
//
// INIT, FORGET and INTERRUPT still come by /dev/fuse. The kernel uses the rings as soon as every
// queue has an entry; if one is refused, it goes on without them.

const (
	// ringEntriesAll and ringEntriesMin are how many requests can be in flight: all queues share
	// the first, and each has the second at least. An entry needs 1 MiB of address space, resident
	// as far as it was used, the last used entry first.
	ringEntriesAll, ringEntriesMin = 48, 6
	// The commands of FUSE, enum fuse_uring_cmd.
	cmdRegister, cmdCommitAndFetch = 1, 2
	// iovecAt is where in the head room of a buffer the two iovecs of its entry are.
	iovecAt = 1024
)

// ringHeader is struct fuse_uring_req_header. It is at the start of an entry's buffer.
type ringHeader struct {
	inOut     [128]byte // struct fuse_in_header, or fuse_out_header
	opIn      [128]byte // the fixed part of the request
	_         uint64    // struct fuse_uring_ent_in_out: flags
	commitID  uint64
	payloadSz uint32
	_         uint32
	_         uint64
}

const (
	_ = uint(unsafe.Sizeof(ringHeader{}) - 288)
	_ = uint(288 - unsafe.Sizeof(ringHeader{}))
)

// Rings is what FUSE over io_uring needs of the loop's engine: asyncq.Rings.
type Rings interface {
	// Threads returns how many threads the loop has, CPU the processor of thread i.
	Threads() int
	CPU(i int) int
	// AddFile registers a descriptor, before the loop runs.
	AddFile(fd int) (asyncq.FileID, error)
	// Command queues a command for the thread whose turn it is.
	Command(c asyncq.Command)
	// Notify has thread i turn.
	Notify(i int)
}

// overRing is what a Transport has of rings. It is the provider of the commands.
type overRing struct {
	t       *Transport
	rings   Rings
	id      asyncq.ProviderID
	file    asyncq.FileID // /dev/fuse
	entries []ringEntry
	// By thread: requests that have arrived, and commands that other threads have left.
	arrived, outbox []fifo
	// starved are requests that found no slot; whoever frees one takes them.
	starved fifo
	live    int // entries that the kernel has
}

type ringEntry struct {
	qid        uint16
	thread     uint8
	registered bool
	commitID   uint64
}

// fifo is a queue of entries with room for all of them.
type fifo struct {
	all     []uint16
	head, n int
}

func (q *fifo) push(e int) {
	q.all[(q.head+q.n)%len(q.all)] = uint16(e)
	q.n++
}

func (q *fifo) pop() int {
	e := q.all[q.head]
	q.head = (q.head + 1) % len(q.all)
	q.n--
	return int(e)
}

// RingBuffers returns how many buffers of its own a transport with rings needs on a machine that
// may have so many processors.
func RingBuffers(possible int) int {
	return possible * max(ringEntriesAll/possible, ringEntriesMin)
}

// newOverRing prepares the entries of all queues. The arena has RingBuffers(possible) of its own.
func newOverRing(t *Transport, rings Rings, possible int) (*overRing, error) {
	n := RingBuffers(possible)
	file, err := rings.AddFile(t.fd)
	if err != nil {
		return nil, err
	}
	o := &overRing{t: t, rings: rings, file: file, entries: make([]ringEntry, n),
		arrived: make([]fifo, rings.Threads()), outbox: make([]fifo, rings.Threads())}
	o.starved.all = make([]uint16, n)
	for i := range rings.Threads() {
		o.arrived[i].all, o.outbox[i].all = make([]uint16, n), make([]uint16, n)
	}
	for i := range o.entries {
		e := &o.entries[i]
		e.qid = uint16(i % possible)
		for j := range rings.Threads() { // a processor that is not ours is the first thread's
			if rings.CPU(j) == int(e.qid) {
				e.thread = uint8(j)
			}
		}
		whole := o.whole(i)
		iov := (*[2]unix.Iovec)(unsafe.Pointer(&whole[iovecAt]))
		iov[0] = unix.Iovec{Base: &whole[0], Len: uint64(unsafe.Sizeof(ringHeader{}))}
		iov[1] = unix.Iovec{Base: &whole[blockdev.HeadRoom], Len: maxPages * 4096}
	}
	o.id = t.loop.Register("fuse over io_uring", o)
	return o, nil
}

func (o *overRing) whole(e int) []byte {
	arena := o.t.fs.Arena()
	return arena.Whole(arena.Own(e))
}

func (o *overRing) header(e int) *ringHeader {
	return (*ringHeader)(unsafe.Pointer(&o.whole(e)[0]))
}

// register offers all entries to the kernel, once it has the answer to INIT.
func (o *overRing) register() {
	for e := range o.entries {
		o.command(e)
	}
}

// command has the command of an entry submitted by its thread.
func (o *overRing) command(e int) {
	thread := int(o.entries[e].thread)
	if thread == o.t.loop.Thread() {
		o.submit(e)
		return
	}
	o.outbox[thread].push(e)
	if o.outbox[thread].n == 1 {
		o.rings.Notify(thread)
	}
}

// submit queues the command of an entry on the ring of the thread whose turn it is.
func (o *overRing) submit(e int) {
	ent := &o.entries[e]
	c := asyncq.Command{File: o.file, Op: cmdCommitAndFetch,
		Data:  [3]uint64{0, ent.commitID, uint64(ent.qid)},
		Token: asyncq.MakeToken(o.id, 0, uint32(e))}
	if !ent.registered {
		ent.registered = true
		o.live++
		c.Op, c.Mem, c.Len = cmdRegister, unsafe.Pointer(&o.whole(e)[iovecAt]), 2
	}
	o.rings.Command(c)
}

// Complete notes a request, or the end of an entry: the mount is gone, or the kernel does not
// want it.
func (o *overRing) Complete(tok asyncq.Token, res int32) {
	e := int(tok.Index())
	if res == 0 {
		o.arrived[o.t.loop.Thread()].push(e)
		return
	}
	o.live--
	switch errno := unix.Errno(-res); errno {
	case unix.ENOTCONN, unix.ECONNABORTED, unix.ECANCELED: // unmounted
	default:
		o.t.log.Error("FUSE over io_uring: the kernel has given up an entry", "errno", errno,
			"queue", o.entries[e].qid)
	}
}

// Resume is never called: slots belong to the filesystem.
func (o *overRing) Resume(asyncq.Slot) {}

// Cancel is never called.
func (o *overRing) Cancel(asyncq.Slot) {}

// Intake submits what other threads have left for this one, and begins the requests that have
// arrived for it.
func (o *overRing) Intake() (more bool) {
	thread := o.t.loop.Thread()
	for out := &o.outbox[thread]; out.n > 0; {
		o.submit(out.pop())
	}
	for _, q := range [2]*fifo{&o.starved, &o.arrived[thread]} {
		for q.n > 0 && o.t.loop.Table.Available() > 0 {
			o.begin(q.pop())
		}
	}
	for mine := &o.arrived[thread]; mine.n > 0; {
		o.starved.push(mine.pop())
	}
	return false
}

// CanIntake says that a request could be begun.
func (o *overRing) CanIntake() bool {
	return o.starved.n > 0 && o.t.loop.Table.Available() > 0
}

// begin dispatches the request in an entry. Header and fixed part go before the payload, so that
// it lies there as it would if it had been read from /dev/fuse.
func (o *overRing) begin(e int) {
	h, whole := o.header(e), o.whole(e)
	length := int((*fuse.InHeader)(unsafe.Pointer(&h.inOut)).Length)
	const head = int(unsafe.Sizeof(fuse.InHeader{}))
	payload := int(h.payloadSz)
	fixed := length - head - payload
	o.entries[e].commitID = h.commitID
	if payload > blockdev.PayloadMax || fixed < 0 || fixed > len(h.opIn) {
		o.t.log.Error("malformed request", "bytes", length, "payload", payload)
		o.reply(e, &fuse.OutHeader{Status: -int32(unix.EIO), Unique: h.commitID}, nil)
		return
	}
	start := blockdev.HeadRoom - head - fixed
	copy(whole[start:], h.inOut[:head])
	copy(whole[start+head:], h.opIn[:fixed])
	o.t.entry = e + 1
	o.t.dispatch(whole[start : blockdev.HeadRoom+payload])
	o.t.entry = 0
}

// reply answers the request in an entry.
func (o *overRing) reply(e int, header *fuse.OutHeader, body []byte) {
	h := o.header(e)
	*(*fuse.OutHeader)(unsafe.Pointer(&h.inOut)) = *header
	h.payloadSz = uint32(len(body))
	copy(o.whole(e)[blockdev.HeadRoom:], body) // NB: nothing to do for data that are there already
	o.command(e)
}
