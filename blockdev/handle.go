package blockdev

import (
	"golang.org/x/sys/unix"

	"asyncfsd/asyncq"
)

// Provider gives a Device to ordinary Go code through the public calls of asyncq: Start on its
// handle reads or writes at any offset with any buffer, and without a buffer it flushes.
//
// Where offset and memory are aligned, whole sectors move in place; all else goes through bounce
// buffers, and sectors that are written in part are read first. Such a read-modify-write excludes
// all other writes through this provider, which would otherwise lose bytes of the same sector;
// writes to the Device by other ways are the caller's to keep apart.
//
// A read that meets the end of the device is cut short there, and returns 0 bytes beyond it. A
// write is cut short likewise and ends with ENOSPC. Cancel takes effect between two pieces, or
// at once while the operation waits for a bounce buffer; what the kernel holds is waited for.
type Provider struct {
	loop   *asyncq.Loop
	table  *asyncq.Table
	dev    Device
	id     asyncq.ProviderID
	handle asyncq.Handle
	sector int64
	ops    *asyncq.Blobs[access]

	bounce  []byte
	free    []int32
	waiting asyncq.WaitList // for a bounce buffer

	writers int  // pieces in place that are being written
	rmw     bool // a read-modify-write is under way, alone
	blocked asyncq.WaitList
}

const (
	bounceSize  = 64 << 10
	bounceCount = 8
	// pieceMax bounds what is moved in place by one request.
	pieceMax = 1 << 20
)

// The stages of an operation: what it waits for when it is resumed.
const (
	accessStart   asyncq.Stage = iota // nothing
	accessPick                        // a turn to begin the next piece
	accessFlushed                     // the flush
	accessPlace                       // a piece moved in place
	accessBounced                     // a piece moved to or from the bounce buffer
	accessFilled                      // the old contents of sectors that are written in part
)

// access is one operation of a Provider.
type access struct {
	res    int32 // of the last request
	bounce int32 // buffer + 1, 0 is none
	shared bool  // counts among writers
	alone  bool  // owns rmw
	size   int64 // bytes to move, already cut at the end of the device
	short  bool  // it was cut
	// The piece: bytes [at, at+n) of the device, within whole sectors [low, low+span).
	at, n, low, span int64
	old              int64 // how much of span has been read for a read-modify-write
}

// NewProvider registers a provider for dev with l. EINVAL: the sectors are larger than 64 KiB.
func NewProvider(l *asyncq.Loop, dev Device) (*Provider, error) {
	if dev.SectorSize() > bounceSize {
		return nil, unix.EINVAL
	}
	mem, err := mmapAnonymous(bounceSize * bounceCount)
	if err != nil {
		return nil, err
	}
	p := &Provider{loop: l, table: l.Table, dev: dev, sector: int64(dev.SectorSize()),
		ops: asyncq.NewBlobs[access](l.Table), bounce: mem}
	for i := range int32(bounceCount) {
		p.free = append(p.free, bounceCount-1-i)
	}
	p.id = l.Register("device", p)
	p.handle = l.NewHandle(p.id, 0)
	return p, nil
}

// Handle is what Start takes.
func (p *Provider) Handle() asyncq.Handle { return p.handle }

// Device returns the device.
func (p *Provider) Device() Device { return p.dev }

// Close frees the bounce buffers; no operation may be under way.
func (p *Provider) Close() error {
	_ = p.loop.CloseHandle(p.handle)
	return unix.Munmap(p.bounce)
}

// Resume goes on with an operation.
func (p *Provider) Resume(s asyncq.Slot) {
	d, a := p.table.Desc(s), p.ops.At(s)
	switch d.Stage {
	case accessStart:
		*a = access{}
		if errno, begun := p.begin(s, d, a); !begun {
			p.end(s, d, a, errno)
			return
		} else if d.Stage == accessFlushed {
			return
		}
	case accessFlushed:
		p.end(s, d, a, failure(a.res))
		return
	case accessFilled:
		if errno := p.filled(s, d, a); errno != 0 {
			p.end(s, d, a, errno)
		}
		return
	case accessPlace, accessBounced:
		if errno := p.moved(s, d, a); errno != 0 {
			p.end(s, d, a, errno)
			return
		}
	}
	p.next(s, d, a)
}

func failure(res int32) unix.Errno {
	if res < 0 {
		return unix.Errno(-res)
	}
	return 0
}

// begin checks a new operation; begun is false if it is over already.
func (p *Provider) begin(s asyncq.Slot, d *asyncq.Desc, a *access) (errno unix.Errno, begun bool) {
	mem, size := p.loop.Memory(s), p.dev.Size()
	switch {
	case d.Cancelled():
		return unix.ECANCELED, false
	case mem == nil && !d.IsRead:
		d.Stage = accessFlushed
		p.submit(s, asyncq.IO{Op: asyncq.OpFlush})
		return 0, true
	case d.Pos < 0:
		return unix.EINVAL, false
	case !d.IsRead && p.dev.ReadOnly():
		return unix.EROFS, false
	}
	a.size = min(int64(len(mem)), max(0, size-d.Pos))
	a.short = a.size < int64(len(mem))
	d.Stage = accessPick
	return 0, true
}

// next begins the next piece, or ends the operation after the last.
func (p *Provider) next(s asyncq.Slot, d *asyncq.Desc, a *access) {
	left := a.size - d.Bytes
	switch {
	case left == 0 && a.short && !d.IsRead:
		p.end(s, d, a, unix.ENOSPC)
	case left == 0:
		p.end(s, d, a, 0)
	case d.Cancelled():
		p.end(s, d, a, unix.ECANCELED)
	default:
		d.Stage = accessPick
		mem := p.loop.Memory(s)[d.Bytes:a.size]
		if left >= p.sector && (uint64(d.Pos)|uint64(address(mem)))&uint64(p.sector-1) == 0 {
			p.place(s, d, a, mem[:min(left, pieceMax)&^(p.sector-1)])
		} else {
			p.bounced(s, d, a, left)
		}
	}
}

// place moves a piece in place.
func (p *Provider) place(s asyncq.Slot, d *asyncq.Desc, a *access, mem []byte) {
	op := asyncq.OpRead
	if !d.IsRead {
		if p.rmw || !p.blocked.Empty() && !a.shared {
			p.wait(&p.blocked, s)
			return
		}
		op, a.shared = asyncq.OpWrite, true
		p.writers++
	}
	d.Stage, a.at, a.n, a.low = accessPlace, d.Pos, int64(len(mem)), d.Pos
	p.submit(s, asyncq.IO{Op: op, Off: d.Pos, Buf: mem})
}

// bounced moves a piece through a bounce buffer.
func (p *Provider) bounced(s asyncq.Slot, d *asyncq.Desc, a *access, left int64) {
	mask := p.sector - 1
	a.at, a.low = d.Pos, d.Pos&^mask
	a.n = min(left, bounceSize-(a.at-a.low))
	if a.n < left && !d.IsRead {
		a.n = (a.at+a.n)&^mask - a.at // so that only the ends of the whole are read first
	}
	a.span = roundUp(a.at+a.n, p.sector) - a.low
	partial := !d.IsRead && a.span != a.n
	if !d.IsRead && (p.rmw || partial && p.writers > 0 || !partial && !p.blocked.Empty()) {
		p.wait(&p.blocked, s)
		return
	}
	if a.bounce == 0 {
		if len(p.free) == 0 {
			p.wait(&p.waiting, s)
			return
		}
		a.bounce = p.free[len(p.free)-1] + 1
		p.free = p.free[:len(p.free)-1]
	}
	switch {
	case d.IsRead:
		d.Stage = accessBounced
		p.submit(s, asyncq.IO{Op: asyncq.OpRead, Off: a.low, Buf: p.window(a)})
	case partial:
		d.Stage, p.rmw, a.alone, a.old = accessFilled, true, true, 0
		p.submit(s, asyncq.IO{Op: asyncq.OpRead, Off: a.low, Buf: p.window(a)})
	default:
		a.shared = true
		p.writers++
		p.writeBounce(s, d, a)
	}
}

// window is the part of the bounce buffer that the piece uses.
func (p *Provider) window(a *access) []byte {
	return p.bounce[int(a.bounce-1)*bounceSize:][:a.span:a.span]
}

// filled goes on when old contents of the sectors have come, all of them or the first.
func (p *Provider) filled(s asyncq.Slot, d *asyncq.Desc, a *access) unix.Errno {
	if a.res < 0 {
		return unix.Errno(-a.res)
	}
	n := int64(a.res) &^ (p.sector - 1)
	if n == 0 {
		return unix.EIO
	}
	if a.old += n; a.old >= a.span {
		p.writeBounce(s, d, a)
		return 0
	}
	p.submit(s, asyncq.IO{Op: asyncq.OpRead, Off: a.low + a.old, Buf: p.window(a)[a.old:]})
	return 0
}

func (p *Provider) writeBounce(s asyncq.Slot, d *asyncq.Desc, a *access) {
	d.Stage = accessBounced
	w := p.window(a)
	copy(w[a.at-a.low:][:a.n], p.loop.Memory(s)[d.Bytes:])
	p.submit(s, asyncq.IO{Op: asyncq.OpWrite, Off: a.low, Buf: w})
}

// moved accounts for a piece whose request has been answered. A request may move less than was
// asked; whole sectors count, and one that moves nothing is an error.
func (p *Provider) moved(s asyncq.Slot, d *asyncq.Desc, a *access) unix.Errno {
	if a.res < 0 {
		return unix.Errno(-a.res)
	}
	n := min(a.n, int64(a.res)&^(p.sector-1)-(a.at-a.low))
	if n <= 0 {
		return unix.EIO
	}
	if d.IsRead && d.Stage == accessBounced {
		copy(p.loop.Memory(s)[d.Bytes:][:n], p.window(a)[a.at-a.low:])
	}
	d.Bytes += n
	d.Pos += n
	p.yield(a)
	return 0
}

func (p *Provider) submit(s asyncq.Slot, io asyncq.IO) {
	io.Token = p.table.Token(p.id, s)
	p.dev.Submit(io)
	p.table.Park(s, 0)
}

func (p *Provider) wait(l *asyncq.WaitList, s asyncq.Slot) {
	p.table.Want(l, s)
	p.table.Park(s, 0)
	if l != &p.waiting {
		p.offerBounce()
	}
}

// offerBounce wakes who waits for a bounce buffer while there is one. NB: also when nothing was
// given back just now. One that was woken for a buffer and then did not take it, because it was
// cancelled or has to wait for a write, must pass the wake-up on.
func (p *Provider) offerBounce() {
	if len(p.free) > 0 {
		p.table.Wake(&p.waiting, 0)
	}
}

// yield gives back what the piece had.
func (p *Provider) yield(a *access) {
	if a.bounce != 0 {
		p.free = append(p.free, a.bounce-1)
		a.bounce = 0
	}
	p.offerBounce()
	if a.shared {
		a.shared = false
		p.writers--
	}
	if a.alone {
		a.alone, p.rmw = false, false
	}
	if !p.rmw && p.writers == 0 {
		p.table.WakeAll(&p.blocked, 0)
	}
}

func (p *Provider) end(s asyncq.Slot, d *asyncq.Desc, a *access, errno unix.Errno) {
	p.yield(a)
	p.loop.Finish(s, d.Bytes, errno)
}

// Complete records the result of a request and queues its operation.
func (p *Provider) Complete(t asyncq.Token, res int32) {
	if s, ok := p.table.Lookup(t); ok && p.table.Desc(s).State() == asyncq.Parked {
		p.ops.At(s).res = res
		p.table.Queue(s)
	}
}

// Cancel ends an operation that waits for a bounce buffer or for other writes.
func (p *Provider) Cancel(s asyncq.Slot) {
	if p.table.Unwant(&p.waiting, s) || p.table.Unwant(&p.blocked, s) {
		p.end(s, p.table.Desc(s), p.ops.At(s), unix.ECANCELED)
	}
}
