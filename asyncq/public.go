package asyncq

import (
	"fmt"

	"golang.org/x/sys/unix"
)

// NewHandle makes a handle for object of provider p: providers call it for what they offer.
func (l *Loop) NewHandle(p ProviderID, object uint32) Handle {
	l.mu.Lock()
	defer l.mu.Unlock()
	for i := 1; i < len(l.handles); i++ {
		if !l.handles[i].open {
			l.handles[i] = handle{p, object, true}
			return Handle(i)
		}
	}
	l.handles = append(l.handles, handle{p, object, true})
	return Handle(len(l.handles) - 1)
}

// CloseHandle forgets a handle. Operations started on it go on.
func (l *Loop) CloseHandle(h Handle) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if h == 0 || int(h) >= len(l.handles) || !l.handles[h].open {
		return unix.EBADF
	}
	l.handles[h].open = false
	return nil
}

// Start begins an operation on a handle: it reads into, or writes from, buffer at offset, in
// the meaning that the handle's provider gives to these. It returns once the operation is queued
// and the buffer is locked; until then it may block, for a free descriptor or for a buffer that
// another operation has. buffer may be nil where the provider moves no bytes (a lock, a timer).
// The buffer is out of reach until the operation completes. EBADF: no such handle.
func (l *Loop) Start(h Handle, offset int64, isRead bool, buffer *Buffer) (DescID, error) {
	l.mu.Lock()
	for {
		if h == 0 || int(h) >= len(l.handles) || !l.handles[h].open {
			l.mu.Unlock()
			return 0, unix.EBADF
		}
		if l.Table.public != NoSlot && (buffer == nil || !buffer.lent) {
			break
		}
		if err := l.await(); err != nil {
			l.mu.Unlock()
			return 0, err
		}
	}
	s := l.Table.public
	l.Table.public = l.Table.descs[s].next
	l.Table.claim(s, l.handles[h].provider)
	d := &l.Table.descs[s]
	d.Object, d.Pos, d.IsRead = l.handles[h].object, offset, isRead
	l.results[s] = result{gen: d.gen, live: true}
	if buffer != nil {
		buffer.lent, buffer.loop = true, l
		l.bufs[s] = buffer
	}
	id := l.Table.ID(s)
	l.send(callStart, id)
	l.mu.Unlock()
	l.engine.Wake()
	return id, nil
}

// Wait blocks until at least one of the operations ids has completed, stores the state of each
// in statuses (as long as ids), and returns how many have completed. Any number of goroutines
// may wait for any subsets at once; nobody's waiting delays another operation's completion.
// EBADF: one of ids was released or never existed; EINVAL: statuses is too short or ids empty.
func (l *Loop) Wait(ids []DescID, statuses []State) (int, error) {
	if len(ids) == 0 || len(statuses) < len(ids) {
		return 0, unix.EINVAL
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	for {
		n := 0
		for i, id := range ids {
			r := l.result(id)
			if r == nil {
				return 0, unix.EBADF
			}
			statuses[i] = Parked
			if r.done {
				statuses[i] = Done
				n++
			}
		}
		if n > 0 {
			return n, nil
		}
		if err := l.await(); err != nil {
			return 0, err
		}
	}
}

// Cancel asks that an operation end early. It does not wait: the operation completes with
// ECANCELED, or as it would have, and keeps its descriptor and its buffer until then (the kernel
// may still be writing into it). EBADF: no such operation.
func (l *Loop) Cancel(id DescID) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	r := l.result(id)
	if r == nil {
		return unix.EBADF
	}
	if !r.done && !r.cancelled {
		r.cancelled = true
		l.send(callCancel, id)
		l.engine.Wake()
	}
	return nil
}

// Release waits until the operation has completed, gives its descriptor back, and returns the
// bytes it moved over its lifetime and the error that ended it, if any. What a finished
// operation holds (a lock) is let go. EBADF: no such operation.
func (l *Loop) Release(id DescID) (bytes int, err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for {
		r := l.result(id)
		if r == nil {
			return 0, unix.EBADF
		}
		if r.done {
			break
		}
		if err := l.await(); err != nil {
			return 0, err
		}
	}
	s := id.Slot()
	r := &l.results[s]
	r.live = false
	if r.holds {
		l.send(callRelease, id)
		l.engine.Wake()
	} else {
		l.freePublic(s)
	}
	if r.err != 0 {
		return int(r.bytes), r.err
	}
	return int(r.bytes), nil
}

// result is what ordinary goroutines may know of a public operation; guarded by Loop.mu, since
// the descriptor itself is the loop thread's.
type result struct {
	gen       uint32
	live      bool // started and not yet released
	done      bool
	cancelled bool
	holds     bool // the provider is a Releaser
	err       unix.Errno
	bytes     int64
}

// result resolves the id of a live public operation.
func (l *Loop) result(id DescID) *result {
	s := id.Slot()
	if int(s) >= len(l.results) {
		return nil
	}
	if r := &l.results[s]; r.live && r.gen == id.gen() {
		return r
	}
	return nil
}

// send leaves a message for the loop; l.mu is held, and the caller wakes the engine.
func (l *Loop) send(kind callKind, id DescID) {
	l.calls = append(l.calls, call{kind, id})
	l.called.Store(true)
}

// freePublic puts a slot that was finished and released back on the list; l.mu is held.
func (l *Loop) freePublic(s Slot) {
	l.Table.descs[s].next, l.Table.public = l.Table.public, s
	l.changed.Broadcast()
}

// await sleeps until something changed, with l.mu held on entry and exit. When nobody runs the
// loop it turns it, which is what makes a program with one goroutine deterministic.
func (l *Loop) await() error {
	if l.err != nil {
		return l.err
	}
	// NB: whoever cannot take the turn must sleep on changed and not on the turn: Run may have
	// taken it since, and keeps it.
	if l.running.Load() || !l.turn.TryLock() {
		l.changed.Wait()
		return l.err
	}
	l.mu.Unlock()
	err := l.Step(true)
	l.turn.Unlock()
	l.mu.Lock()
	if err != nil {
		l.err = err
	}
	l.changed.Broadcast() // also: somebody else may have to take the turn
	return l.err
}

// Finish ends the operation in public slot s: bytes were moved over its lifetime, err is 0 or
// what stopped it. Its buffer goes back to the user. Only the owner calls it.
func (l *Loop) Finish(s Slot, bytes int64, err unix.Errno) {
	d := &l.Table.descs[s]
	if !d.public || d.state != Running && d.state != Parked || d.wants != 0 {
		panic(fmt.Sprintf("asyncq: finish of a %v slot with %d wants", d.state, d.wants))
	}
	_, holds := l.providers[d.owner].(Releaser)
	l.mu.Lock()
	defer l.mu.Unlock()
	r := &l.results[s]
	r.done, r.bytes, r.err, r.holds = true, bytes, err, holds && err == 0
	if r.holds {
		l.Table.leaves(s)
		d.state = Done
	} else {
		l.Table.recycle(s)
	}
	if b := l.bufs[s]; b != nil {
		l.bufs[s] = nil
		b.lent = false
	}
	l.changed.Broadcast()
}

// released ends a slot whose provider held something for it.
func (l *Loop) released(s Slot) {
	l.providers[l.Table.descs[s].owner].(Releaser).Released(s)
	l.Table.recycle(s)
	l.mu.Lock()
	l.freePublic(s)
	l.mu.Unlock()
}

// Await blocks the calling goroutine until done says so; the loop's thread uses Locked to do
// what makes it true. done is called with the loop's lock held and must be short. It is for
// fronts that serve goroutines by other means than descriptors.
func (l *Loop) Await(done func() bool) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	for !done() {
		if err := l.await(); err != nil {
			return err
		}
	}
	return nil
}

// Locked runs f with the lock that Await's condition sees, and wakes those who await.
func (l *Loop) Locked(f func()) {
	l.mu.Lock()
	f()
	l.changed.Broadcast()
	l.mu.Unlock()
}
