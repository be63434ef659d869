package asyncq

import (
	"math"

	"golang.org/x/sys/unix"
)

// Locks is the provider of locks. An operation on one of its handles completes when the lock is
// held, and the lock is held until the descriptor is released: taking a lock is an asynchronous
// operation like any other, and nobody is blocked by one who waits for it.
//
// isRead asks for a shared lock. With a buffer the lock covers the bytes from offset that the
// buffer would hold; without one it covers everything: a mutex. Locks are granted in the order of
// arrival: a waiting exclusive lock holds back later shared ones, so that nobody starves.
type Locks struct {
	loop *Loop
	id   ProviderID
	ents []lockEntry // by slot: each slot holds or awaits at most one lock
	objs []lockObject
}

type lockEntry struct {
	next       Slot // in the object's queue
	held       bool
	queued     bool
	shared     bool
	object     uint32
	start, end int64 // [start, end)
}

// lockObject is the queue of all locks on one thing, held and awaited, in order of arrival.
type lockObject struct{ head, tail Slot }

// NewLocks makes a provider of objects locks, numbered from 0.
func NewLocks(l *Loop, objects int) *Locks {
	k := &Locks{loop: l, ents: make([]lockEntry, l.Table.Len()), objs: make([]lockObject, objects)}
	for i := range k.objs {
		k.objs[i] = lockObject{NoSlot, NoSlot}
	}
	k.id = l.Register("lock", k)
	return k
}

// Handle makes a handle for lock object.
func (k *Locks) Handle(object uint32) Handle { return k.loop.NewHandle(k.id, object) }

// Acquire asks for a lock on bytes [start, end) of object for slot s, on the loop's thread. It
// returns true when the lock is held now; otherwise s, which the caller parks, is queued when it
// is. Whoever acquired calls Unlock.
func (k *Locks) Acquire(s Slot, object uint32, start, end int64, shared bool) bool {
	e := &k.ents[s]
	if e.queued {
		panic("asyncq: a slot has one lock")
	}
	*e = lockEntry{NoSlot, false, true, shared, object, start, end}
	o := &k.objs[object]
	if o.tail == NoSlot {
		o.head = s
	} else {
		k.ents[o.tail].next = s
	}
	o.tail = s
	e.held = k.grantable(o, s)
	return e.held
}

// Held says whether slot s holds its lock.
func (k *Locks) Held(s Slot) bool { return k.ents[s].held }

// Unlock lets go of the lock of slot s, held or awaited, and queues the slots that have theirs
// now.
func (k *Locks) Unlock(s Slot) {
	e := &k.ents[s]
	if !e.queued {
		return
	}
	o := &k.objs[e.object]
	k.unlink(o, s)
	e.queued, e.held = false, false
	for w := o.head; w != NoSlot; w = k.ents[w].next {
		if we := &k.ents[w]; !we.held && k.grantable(o, w) {
			we.held = true
			k.loop.Table.Queue(w)
		}
	}
}

func (k *Locks) unlink(o *lockObject, s Slot) {
	prev := NoSlot
	for w := o.head; w != s; w = k.ents[w].next {
		prev = w
	}
	after := k.ents[s].next
	if prev == NoSlot {
		o.head = after
	} else {
		k.ents[prev].next = after
	}
	if o.tail == s {
		o.tail = prev
	}
}

// grantable says whether nothing in front of s in the queue conflicts with it. Looking at those
// that wait, too, is what keeps the order fair.
func (k *Locks) grantable(o *lockObject, s Slot) bool {
	e := &k.ents[s]
	for w := o.head; w != s; w = k.ents[w].next {
		we := &k.ents[w]
		if we.start < e.end && e.start < we.end && !(we.shared && e.shared) {
			return false
		}
	}
	return true
}

// Resume takes the lock of a public operation, or finishes it once it has it.
func (k *Locks) Resume(s Slot) {
	d := k.loop.Table.Desc(s)
	if d.Stage == 0 {
		d.Stage = 1
		start, end := int64(0), int64(math.MaxInt64)
		if m := k.loop.Memory(s); m != nil {
			start, end = d.Pos, d.Pos+int64(len(m))
		}
		if !k.Acquire(s, d.Object, start, end, d.IsRead) {
			k.loop.Table.Park(s, 0)
			return
		}
	}
	k.loop.Finish(s, 0, 0)
}

// Complete is never called: locks are granted inside the loop.
func (k *Locks) Complete(Token, int32) {}

// Cancel gives up waiting.
func (k *Locks) Cancel(s Slot) {
	if !k.ents[s].held {
		k.Unlock(s)
		k.loop.Finish(s, 0, unix.ECANCELED)
	}
}

// Released unlocks when the descriptor that holds the lock is released.
func (k *Locks) Released(s Slot) { k.Unlock(s) }
