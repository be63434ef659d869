package blockdev

import (
	"math/rand/v2"

	"golang.org/x/sys/unix"

	"asyncfsd/asyncq"
)

// FaultKind says what goes wrong with a request.
type FaultKind uint8

// The faults a Fault can inject.
const (
	// FaultFail: the device does nothing and answers Errno.
	FaultFail FaultKind = iota
	// FaultShort: only the first sectors are moved, and the answer says how many bytes.
	FaultShort
	// FaultTorn: only the first sectors are moved, and the answer is Errno.
	FaultTorn
	// FaultLost: a write, flush or discard does nothing, but the answer is that of success.
	FaultLost
	// FaultDelay: the request reaches the device late.
	FaultDelay
)

// FaultOps is a set of operations.
type FaultOps uint8

// FaultAll is the set of all operations.
const FaultAll = ^FaultOps(0)

// FaultOn returns the set of ops.
func FaultOn(ops ...asyncq.IOOp) (set FaultOps) {
	for _, op := range ops {
		set |= 1 << op
	}
	return set
}

// FaultRule says which requests go wrong, and how. The first rule that matches a request counts
// it, and decides.
type FaultRule struct {
	Kind FaultKind
	// Ops are the operations it is about; 0 is FaultAll.
	Ops FaultOps
	// Off and Len limit it to requests that touch this range of bytes; Len 0 is everything.
	Off, Len int64
	// After lets that many matching requests pass unharmed.
	After int
	// Count is how many of the following ones go wrong; 0 is one, negative is all.
	Count int
	// Errno is the answer of FaultFail and FaultTorn; 0 is EIO.
	Errno unix.Errno
	// Sectors is how many sectors FaultShort and FaultTorn move; negative leaves it to the
	// seed, from none to all but one. A short request always moves at least one.
	Sectors int
	// Turns is for how many turns of the loop FaultDelay holds a request back at most; the seed
	// chooses.
	Turns int

	seen int
}

// Fault is a Device that passes requests on to another and makes some of them go wrong.
type Fault struct {
	Device
	rules    []FaultRule
	rng      *rand.Rand
	seen     [4]int
	injected int
	requests requests
}

// NewFault registers a wrapper of dev with l.
func NewFault(l *asyncq.Loop, dev Device, seed uint64, rules ...FaultRule) *Fault {
	f := &Fault{Device: dev, rng: rand.New(rand.NewPCG(seed, 0x6661756c74))}
	f.requests.id = l.Register("fault", f)
	f.SetRules(rules...)
	return f
}

// SetRules replaces the rules and starts their counts anew.
func (f *Fault) SetRules(rules ...FaultRule) { f.rules = append([]FaultRule(nil), rules...) }

// Seen returns how many requests of kind op came through.
func (f *Fault) Seen(op asyncq.IOOp) int { return f.seen[op] }

// Injected returns how many requests went wrong; delays do not count.
func (f *Fault) Injected() int { return f.injected }

// faultAction is what becomes of one request.
type faultAction struct {
	held  bool // goes round before it reaches the device
	errno unix.Errno
}

// Submit passes a request on, or on its way into trouble.
func (f *Fault) Submit(io asyncq.IO) {
	f.seen[io.Op]++
	r := f.match(&io)
	if r == nil {
		f.Device.Submit(io)
		return
	}
	if r.Kind != FaultDelay {
		f.injected++
	}
	errno := r.Errno
	if errno == 0 {
		errno = unix.EIO
	}
	switch r.Kind {
	case FaultFail:
		f.answer(io.Token, -int32(errno))
	case FaultShort:
		f.prefix(&io, r.Sectors, 1)
		f.Device.Submit(io)
	case FaultTorn:
		f.tear(io, r.Sectors, errno)
	case FaultLost:
		n := len(io.Buf)
		if io.Op == asyncq.OpFlush || io.Op == asyncq.OpDiscard {
			n = 0
		}
		f.answer(io.Token, int32(n))
	case FaultDelay:
		f.answer(f.requests.add(request{io: io, fault: faultAction{held: true},
			turns: f.rng.IntN(r.Turns + 1)}), 0)
	}
}

// match finds the rule that decides on a request.
func (f *Fault) match(io *asyncq.IO) *FaultRule {
	for i := range f.rules {
		r := &f.rules[i]
		if r.Ops != 0 && r.Ops&FaultOn(io.Op) == 0 ||
			r.Len > 0 && (io.Off >= r.Off+r.Len || io.Off+length(io) <= r.Off) {
			continue
		}
		r.seen++
		if r.seen > r.After && (r.Count < 0 || r.seen <= r.After+max(r.Count, 1)) {
			return r
		}
		return nil
	}
	return nil
}

// prefix cuts a request down to its first sectors, to least at least.
func (f *Fault) prefix(io *asyncq.IO, sectors, least int) {
	all := int(length(io)) / f.SectorSize()
	if sectors < 0 {
		sectors = f.rng.IntN(max(all, 1))
	}
	n := min(max(sectors, least), all) * f.SectorSize()
	if io.Op == asyncq.OpDiscard {
		io.Len = int64(n)
	} else {
		io.Buf = io.Buf[:n]
	}
}

// tear has the first sectors moved and answers only then: the buffer is lent until it is over.
func (f *Fault) tear(io asyncq.IO, sectors int, errno unix.Errno) {
	inner := io
	f.prefix(&inner, sectors, 0)
	if length(&inner) == 0 {
		f.answer(io.Token, -int32(errno))
		return
	}
	inner.Token = f.requests.add(request{io: io, fault: faultAction{errno: errno}})
	f.Device.Submit(inner)
}

func (f *Fault) answer(t asyncq.Token, res int32) {
	f.Engine().Post(asyncq.Completion{Token: t, Res: res})
}

// Complete goes on with a request that is held back, or ends one that was torn.
func (f *Fault) Complete(t asyncq.Token, _ int32) {
	r, ok := f.requests.take(t)
	switch {
	case !ok:
	case !r.fault.held:
		f.answer(r.io.Token, -int32(r.fault.errno))
	case r.turns > 0:
		r.turns--
		f.answer(f.requests.add(r), 0)
	default:
		f.Device.Submit(r.io)
	}
}

// Resume is never called: the wrapper owns no slots.
func (f *Fault) Resume(asyncq.Slot) {}

// Cancel is never called.
func (f *Fault) Cancel(asyncq.Slot) {}
