package blockdev

import "asyncfsd/asyncq"

// Mem is a Device in memory, for tests and simulations: on a seeded Sim engine its completions
// come in an order that is a function of the seed. It moves the bytes when a request completes
// and not when it is submitted, so that code which touches a lent buffer, or looks at it too
// early, is found out.
type Mem struct {
	engine   asyncq.Engine
	name     string
	data     []byte
	size     int64
	sector   int
	readOnly bool
	requests requests
}

// NewMem registers a device of the bytes of data (the device uses data itself) with l. sector is
// a power of two from 512 on.
func NewMem(l *asyncq.Loop, name string, data []byte, sector int, readOnly bool) *Mem {
	m := &Mem{engine: l.Engine(), name: name, data: data, size: int64(len(data)), sector: sector,
		readOnly: readOnly}
	m.requests.id = l.Register(name, m)
	return m
}

// Submit queues one request.
func (m *Mem) Submit(io asyncq.IO) {
	if errno := check(&io, m); errno != 0 {
		m.engine.Post(asyncq.Completion{Token: io.Token, Res: -int32(errno)})
		return
	}
	m.engine.Post(asyncq.Completion{Token: m.requests.add(request{io: io})})
}

// Complete carries a request out and answers it.
func (m *Mem) Complete(t asyncq.Token, _ int32) {
	r, ok := m.requests.take(t)
	if !ok {
		return
	}
	n := 0
	switch io := &r.io; io.Op {
	case asyncq.OpRead:
		clear(io.Buf)
		if io.Off < m.size {
			copy(io.Buf, m.data[io.Off:m.size])
		}
		n = len(io.Buf)
	case asyncq.OpWrite:
		if io.Off < m.size {
			copy(m.data[io.Off:m.size], io.Buf)
		}
		n = len(io.Buf)
	case asyncq.OpDiscard:
		clear(m.data[min(io.Off, m.size):min(io.Off+io.Len, m.size)])
	}
	m.engine.Post(asyncq.Completion{Token: r.io.Token, Res: int32(n)})
}

// Resume is never called: the device owns no slots.
func (m *Mem) Resume(asyncq.Slot) {}

// Cancel is never called.
func (m *Mem) Cancel(asyncq.Slot) {}

// Bytes returns the contents. They are the device's own: nothing may be in flight.
func (m *Mem) Bytes() []byte { return m.data[:m.size] }

// Engine returns the loop's engine.
func (m *Mem) Engine() asyncq.Engine { return m.engine }

// Size is the size in bytes.
func (m *Mem) Size() int64 { return m.size }

// SectorSize is the sector size in bytes.
func (m *Mem) SectorSize() int { return m.sector }

// ReadOnly says that writes are refused.
func (m *Mem) ReadOnly() bool { return m.readOnly }

// Name is the name given to NewMem.
func (m *Mem) Name() string { return m.name }

// Close does nothing.
func (m *Mem) Close() error { return nil }

// requests are the requests that a wrapper or a device in memory has under way under tokens of
// its own.
type requests struct {
	id   asyncq.ProviderID
	all  []request
	free []uint32
}

type request struct {
	io    asyncq.IO
	gen   uint32
	live  bool
	fault faultAction // of a Fault
	turns int         // of a Fault: how often its own completion still goes round
	entry int         // of a Record: index into its log
}

// add remembers a request and returns the token under which take finds it.
func (q *requests) add(r request) asyncq.Token {
	if len(q.free) == 0 {
		q.free = append(q.free, uint32(len(q.all)))
		q.all = append(q.all, request{})
	}
	i := q.free[len(q.free)-1]
	q.free = q.free[:len(q.free)-1]
	r.gen, r.live = q.all[i].gen+1, true
	q.all[i] = r
	return asyncq.MakeToken(q.id, r.gen, i)
}

// take ends a request.
func (q *requests) take(t asyncq.Token) (request, bool) {
	i := t.Index()
	if int(i) >= len(q.all) {
		return request{}, false
	}
	r := q.all[i]
	if !r.live || r.gen&0xffffff != t.Generation() {
		return request{}, false
	}
	q.all[i] = request{gen: r.gen}
	q.free = append(q.free, i)
	return r, true
}

// live returns how many requests are under way.
func (q *requests) live() int { return len(q.all) - len(q.free) }
