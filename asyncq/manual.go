package asyncq

import "golang.org/x/sys/unix"

// Manual is the test provider: an operation on its handle completes when the test says so, with
// what it says.
type Manual struct {
	loop *Loop
	id   ProviderID
}

// NewManual registers a manual provider with l.
func NewManual(l *Loop) *Manual {
	m := &Manual{loop: l}
	m.id = l.Register("manual", m)
	return m
}

// Handle makes a handle on which operations wait for Finish.
func (m *Manual) Handle() Handle { return m.loop.NewHandle(m.id, 0) }

// Finish completes operation id with res: bytes moved or a negative errno. It may come before
// the operation has parked, twice, or after its release; only the first in time counts. Any
// goroutine may call it on a loop whose engine is Sim.
func (m *Manual) Finish(id DescID, res int32) {
	m.loop.engine.Post(Completion{MakeToken(m.id, id.gen(), uint32(id.Slot())), res})
}

// Resume parks a new operation, and finishes one whose completion has come.
func (m *Manual) Resume(s Slot) {
	d := m.loop.Table.Desc(s)
	if d.Stage == 0 {
		d.Stage = 1
		m.loop.Table.Park(s, 0)
		return
	}
	m.loop.Finish(s, d.Bytes, d.Status)
}

// Complete records the result and queues the operation.
func (m *Manual) Complete(t Token, res int32) {
	s, ok := m.loop.Table.Lookup(t)
	if !ok {
		return
	}
	d := m.loop.Table.Desc(s)
	if d.State() != Parked {
		return
	}
	if res < 0 {
		d.Status = unix.Errno(-res)
	} else {
		d.Bytes = int64(res)
	}
	m.loop.Table.Queue(s)
}

// Cancel leaves the operation as it is: like a kernel that holds the buffer, the test answers in
// its own time.
func (m *Manual) Cancel(Slot) {}
