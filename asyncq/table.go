package asyncq

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"reflect"

	"golang.org/x/sys/unix"
)

// Limits of the table. Every one is a constant; a full table stops the intake of new work and
// always drains, because what a running operation needs to finish is reserved.
const (
	// SlotsMax is the default number of slots for a transport's requests: the kernel's FUSE
	// keeps at most max_background (256, see fusefs) asynchronous requests in flight.
	SlotsMax = 256
	// SlotsReserved are slots that only FORGET and its like and background machinery may claim,
	// so that a full table drains: forget 1 + interrupt 1 + destroy 1 + commit 1 + checkpoint 1
	// + orphan clean-up 1 + multiple mount protection 1 + spare 1.
	SlotsReserved = 8
	// SlotsPublic are the slots of Start: ordinary Go code, mount-time reads, tools.
	SlotsPublic = 64
	// WantsMax is the most wants one slot can have outstanding: blocks fetched in parallel by
	// one park (see vfs) and the odd lock or buffer.
	WantsMax = 32
)

// ErrStall is what a provider returns up its call stack when something it needs is not there
// yet: the attempt ends, the slot is parked, and it is run again once the want was met.
var ErrStall = errors.New("asyncq: stalled")

// node hangs one want of a slot on a wait list.
type node struct {
	next uint32 // 1-based index of the next node on the list, 0 at the end
	slot Slot
}

// WaitList is a queue of slots that wait for one thing: a block, a lock, a buffer. Its nodes are
// the table's, so that it needs no memory of its own; the zero value is empty.
type WaitList struct{ head, tail uint32 }

// Empty says whether nobody waits.
func (l *WaitList) Empty() bool { return l.head == 0 }

// Table is the fixed array of descriptors with its free list and run queue. Except for the
// public slots, whose claim and release are guarded by Loop, it belongs to the loop's thread.
type Table struct {
	descs []Desc
	nodes []node

	free      Slot // head of the free list of transport slots
	freeCount int
	public    Slot // head of the free list of public slots, guarded by Loop.mu
	reserved  int  // how many free slots are left to those that may use the reserved ones

	running  Slot   // the slot whose Resume is on the stack and has not ended its attempt
	run      []Slot // ring of queued slots
	runHead  int
	runCount int
	rng      *rand.Rand // chooses among queued slots in deterministic mode, else nil
}

func newTable(slots int, rng *rand.Rand) *Table {
	total := slots + SlotsReserved + SlotsPublic
	t := &Table{
		descs: make([]Desc, total), nodes: make([]node, total*WantsMax),
		run: make([]Slot, total), free: NoSlot, public: NoSlot, running: NoSlot, rng: rng,
		reserved: SlotsReserved,
	}
	for i := total - 1; i >= 0; i-- {
		d := &t.descs[i]
		d.gen = 1
		if d.public = i >= slots+SlotsReserved; d.public {
			d.next, t.public = t.public, Slot(i)
		} else {
			d.next, t.free = t.free, Slot(i)
			t.freeCount++
		}
	}
	return t
}

// Len returns the number of descriptors, free ones included: the size of a Blobs array.
func (t *Table) Len() int { return len(t.descs) }

// Desc returns the descriptor of a claimed slot.
func (t *Table) Desc(s Slot) *Desc { return &t.descs[s] }

// ID returns the identity of the operation in slot s.
func (t *Table) ID(s Slot) DescID { return makeDescID(t.descs[s].gen, s) }

// Token returns a token that names slot s of provider p, for requests on the slot's behalf.
func (t *Table) Token(p ProviderID, s Slot) Token {
	return MakeToken(p, t.descs[s].gen, uint32(s))
}

// Lookup resolves a token made by Token; ok is false if the slot has been recycled since.
func (t *Table) Lookup(tok Token) (s Slot, ok bool) {
	i := tok.Index()
	if int(i) >= len(t.descs) {
		return NoSlot, false
	}
	d := &t.descs[i]
	return Slot(i), d.gen == tok.Generation() && d.state != Free
}

// Claim takes a free slot for owner, or returns NoSlot when only the reserved ones are left:
// the caller stops its intake until slots are free again. With reserved set it may use those.
func (t *Table) Claim(owner ProviderID, reserved bool) Slot {
	if t.freeCount <= t.reserved && !reserved || t.free == NoSlot {
		return NoSlot
	}
	s := t.free
	t.free = t.descs[s].next
	t.freeCount--
	t.claim(s, owner)
	return s
}

// Keep takes one of the reserved slots for background machinery that never gives it back.
func (t *Table) Keep(owner ProviderID) Slot {
	t.reserved--
	return t.Claim(owner, true)
}

// Available returns how many transport slots can be claimed.
func (t *Table) Available() int { return max(0, t.freeCount-t.reserved) }

// InFlight returns how many transport slots are claimed.
func (t *Table) InFlight() int { return len(t.descs) - SlotsPublic - t.freeCount }

func (t *Table) claim(s Slot, owner ProviderID) {
	d := &t.descs[s]
	t.expect(d, Free)
	*d = Desc{gen: d.gen, next: NoSlot, state: Claimed, owner: owner, public: d.public}
}

// Queue puts a claimed, running or parked slot on the run queue.
func (t *Table) Queue(s Slot) {
	d := &t.descs[s]
	if d.state == Free || d.state == Queued || d.state == Done {
		panic(fmt.Sprintf("asyncq: queue of a %v slot", d.state))
	}
	t.leaves(s)
	d.state = Queued
	t.run[(t.runHead+t.runCount)%len(t.run)] = s
	t.runCount++
}

// next takes a slot off the run queue: the oldest, or a random one in deterministic mode.
func (t *Table) next() (Slot, bool) {
	if t.runCount == 0 {
		return NoSlot, false
	}
	if t.rng != nil {
		i := (t.runHead + t.rng.IntN(t.runCount)) % len(t.run)
		t.run[t.runHead], t.run[i] = t.run[i], t.run[t.runHead]
	}
	s := t.run[t.runHead]
	if t.runHead++; t.runHead == len(t.run) {
		t.runHead = 0
	}
	t.runCount--
	d := &t.descs[s]
	t.expect(d, Queued)
	if d.wants != 0 {
		panic("asyncq: a slot runs with wants outstanding")
	}
	d.state = Running
	t.running = s
	d.nodes = 0
	return s, true
}

// Want hangs slot s on list l as one more want of its running attempt; the slot is queued again
// when all its wants are met. Park ends the attempt. It returns false when the slot has WantsMax
// wants already: the caller parks with what it has.
func (t *Table) Want(l *WaitList, s Slot) bool {
	d := &t.descs[s]
	if d.nodes == WantsMax {
		return false
	}
	n := uint32(s)*WantsMax + uint32(d.nodes) + 1
	d.nodes++
	d.wants++
	t.nodes[n-1] = node{slot: s}
	if l.tail == 0 {
		l.head = n
	} else {
		t.nodes[l.tail-1].next = n
	}
	l.tail = n
	return true
}

// Wants returns how many wants of slot s are outstanding, and room how many more it may have.
func (t *Table) Wants(s Slot) (outstanding, room int) {
	d := &t.descs[s]
	return int(d.wants), WantsMax - int(d.nodes)
}

// Park ends the running attempt of slot s: it sleeps until its wants are met, or, if it has
// none, until a completion that names it queues it. kind is for statistics and messages.
func (t *Table) Park(s Slot, kind uint8) {
	d := &t.descs[s]
	t.expect(d, Running)
	t.leaves(s)
	d.state = Parked
	d.ParkedOn = kind
	d.Status = 0
	if d.nodes > 0 && d.wants == 0 {
		t.Queue(s) // all wants were met while the attempt was still running
	}
}

// Wake meets the want of the first slot on l, if any, and returns it.
func (t *Table) Wake(l *WaitList, status unix.Errno) (Slot, bool) {
	if l.head == 0 {
		return NoSlot, false
	}
	n := &t.nodes[l.head-1]
	if l.head = n.next; l.head == 0 {
		l.tail = 0
	}
	t.met(n.slot, status)
	return n.slot, true
}

// WakeAll meets the wants of all slots on l and empties it.
func (t *Table) WakeAll(l *WaitList, status unix.Errno) {
	for !l.Empty() {
		t.Wake(l, status)
	}
}

// met counts one want of s as met, and queues s after the last.
func (t *Table) met(s Slot, status unix.Errno) {
	d := &t.descs[s]
	if d.wants == 0 {
		panic("asyncq: a want was met twice")
	}
	d.wants--
	if status != 0 && d.Status == 0 {
		d.Status = status
	}
	if d.wants == 0 && d.state == Parked {
		t.Queue(s)
	}
}

// First returns the slot that has waited longest on l.
func (t *Table) First(l *WaitList) (Slot, bool) {
	if l.head == 0 {
		return NoSlot, false
	}
	return t.nodes[l.head-1].slot, true
}

// Next returns the slot that waits on l behind s.
func (t *Table) Next(l *WaitList, s Slot) (Slot, bool) {
	for n := l.head; n != 0; n = t.nodes[n-1].next {
		if t.nodes[n-1].slot == s && t.nodes[n-1].next != 0 {
			return t.nodes[t.nodes[n-1].next-1].slot, true
		}
	}
	return NoSlot, false
}

// Unwant takes slot s off list l without waking it, and says whether it was there. The caller
// then finishes the slot or queues it.
func (t *Table) Unwant(l *WaitList, s Slot) bool {
	prev := uint32(0)
	for n := l.head; n != 0; prev, n = n, t.nodes[n-1].next {
		if t.nodes[n-1].slot != s {
			continue
		}
		after := t.nodes[n-1].next
		if prev == 0 {
			l.head = after
		} else {
			t.nodes[prev-1].next = after
		}
		if l.tail == n {
			l.tail = prev
		}
		t.descs[s].wants--
		return true
	}
	return false
}

// Release frees a transport slot whose operation is over: replied to, with nothing in flight.
func (t *Table) Release(s Slot) {
	d := &t.descs[s]
	if d.wants != 0 || d.public || d.state != Running && d.state != Claimed {
		panic(fmt.Sprintf("asyncq: release of a %v slot with %d wants", d.state, d.wants))
	}
	t.recycle(s)
	d.next, t.free = t.free, s
	t.freeCount++
}

// recycle makes every DescID and Token of slot s stale.
func (t *Table) recycle(s Slot) {
	t.leaves(s)
	d := &t.descs[s]
	d.state = Free
	if d.gen = (d.gen + 1) & 0xffffff; d.gen == 0 {
		d.gen = 1
	}
}

// leaves notes that the attempt of slot s is over, if it is the one that runs.
func (t *Table) leaves(s Slot) {
	if t.running == s {
		t.running = NoSlot
	}
}

func (t *Table) expect(d *Desc, want State) {
	if d.state != want {
		panic(fmt.Sprintf("asyncq: descriptor is %v, expected %v", d.state, want))
	}
}

// Blobs is an array of frozen operation state beside the table: At(slot) is all that an operation
// keeps over a stall. T holds no pointers, so that a parked operation costs the collector
// nothing.
type Blobs[T any] struct{ all []T }

// NewBlobs makes one T per descriptor of t. It panics when T contains pointers.
func NewBlobs[T any](t *Table) *Blobs[T] {
	if typ := reflect.TypeFor[T](); hasPointers(typ) {
		panic(fmt.Sprintf("asyncq: blob type %v contains pointers", typ))
	}
	return &Blobs[T]{all: make([]T, t.Len())}
}

// At returns the blob of slot s.
func (b *Blobs[T]) At(s Slot) *T { return &b.all[s] }

func hasPointers(t reflect.Type) bool {
	switch t.Kind() {
	case reflect.Array:
		return t.Len() > 0 && hasPointers(t.Elem())
	case reflect.Struct:
		for i := range t.NumField() {
			if hasPointers(t.Field(i).Type) {
				return true
			}
		}
		return false
	case reflect.Bool, reflect.Int, reflect.Int8, reflect.Int16, reflect.Int32, reflect.Int64,
		reflect.Uint, reflect.Uint8, reflect.Uint16, reflect.Uint32, reflect.Uint64,
		reflect.Uintptr, reflect.Float32, reflect.Float64:
		return false
	}
	return true
}
