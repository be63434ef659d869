package asyncq

import "golang.org/x/sys/unix"

// Slot is the index of a descriptor in the table. It names a descriptor only while the caller
// knows that it is claimed; what may outlive the claim (user code, the kernel) holds a DescID.
type Slot uint32

// NoSlot is the nil of slots.
const NoSlot = ^Slot(0)

// DescID is the identity of one operation: the slot and the slot's generation. A DescID that
// was released never becomes valid again within 2^24 reuses of its slot.
type DescID uint64

func makeDescID(gen uint32, s Slot) DescID { return DescID(gen)<<32 | DescID(s) }

// Slot returns the table index.
func (id DescID) Slot() Slot { return Slot(uint32(id)) }

func (id DescID) gen() uint32 { return uint32(id >> 32) }

// Stage is the point at which an operation goes on when it is resumed. Stage 0 is its start; the
// others are the owner's own.
type Stage uint8

// State is where a descriptor is in its life.
type State uint8

// The states of a descriptor. The only transitions are
//
//	Free → Claimed → Queued → Running → Parked → Queued …
//	                             └────→ Done → Free
//
// and table.go asserts each of them.
const (
	Free    State = iota // on the free list
	Claimed              // being filled in by a transport or by Start
	Queued               // on the run queue
	Running              // its owner's Resume is on the stack
	Parked               // waits for its wants, or for a completion that names it
	Done                 // finished; result is there, waits for Release
)

// String returns the name of the state in lower case.
func (s State) String() string {
	names := [...]string{"free", "claimed", "queued", "running", "parked", "done"}
	if int(s) < len(names) {
		return names[s]
	}
	return "invalid"
}

// ProviderID is the number under which a provider was registered.
type ProviderID uint8

// Handle names something that operations can be started on: a device, a lock, a timer, a file.
// Zero is no handle.
type Handle uint32

// Provider is the implementation behind handles. The set is fixed when the loop is built; all
// methods run on the loop's thread, must not block, and are the only code that ever runs on
// behalf of an operation: there are no callbacks.
type Provider interface {
	// Resume goes on with slot s, which the provider owns, at the slot's stage: stage 0 begins
	// it. Before it returns it has parked the slot, finished it, or queued it again.
	Resume(s Slot)
	// Complete takes a completion whose token names this provider. It records the result and
	// queues what waited for it; it never resumes an operation itself, so that one completion
	// cannot keep others from landing.
	Complete(t Token, res int32)
	// Cancel asks that parked slot s end soon. The provider finishes it with ECANCELED if
	// nothing outside holds its buffer, and lets it end by itself otherwise.
	Cancel(s Slot)
}

// Desc is an asynchronous descriptor: flat and pointer-free, so that the garbage collector never
// looks into the table. What the owner must keep over a stall (the frozen blob of the operation)
// stands in a Blobs array beside it, under the same index.
type Desc struct {
	gen   uint32
	next  Slot
	state State
	// Stage is the owner's; Resume switches on it.
	Stage Stage
	owner ProviderID
	// IsRead and Pos are those of Start. Pos advances with the bytes moved.
	IsRead    bool
	public    bool
	cancelled bool
	wants     uint16 // completions that must arrive before the slot is queued again
	nodes     uint8  // want nodes of the slot in use
	// ParkedOn is the kind of want the slot was last parked on, for statistics and messages.
	ParkedOn uint8
	// Status is the first error among the wants of the last park, or of the operation.
	Status unix.Errno
	// Object is the provider's handle: what the public Handle stands for.
	Object uint32
	Pos    int64
	// Bytes counts what the operation has moved over its lifetime.
	Bytes int64
}

// State returns where the descriptor is in its life.
func (d *Desc) State() State { return d.state }

// Cancelled says whether somebody asked to end the operation early.
func (d *Desc) Cancelled() bool { return d.cancelled }
