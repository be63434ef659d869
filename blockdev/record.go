package blockdev

import (
	"math/rand/v2"
	"slices"

	"asyncfsd/asyncq"
)

// Record is a Device that passes requests on to another and keeps a log of everything that
// changes it, from which it makes the images that a power cut could have left.
//
// Fault model: a write or discard that was submitted may be on the disk or not, sector by sector,
// until a flush that was submitted after its completion has completed itself, or, for a write
// with FUA, until its own completion: then it is. One that has failed, or the rest of one that was
// cut short, may be there or not for good. Sectors are never torn, and what a request did not touch
// never changes. Of several writes to a sector any one may have survived, but none that is older
// than a durable one.
type Record struct {
	Device
	base     []byte
	log      []RecordEntry
	now      *int // counts submissions and completions: the points of time
	requests requests
}

// RecordEntry is one request that changed the device, or a flush.
type RecordEntry struct {
	Op  asyncq.IOOp
	FUA bool
	// Off and Len are the range in bytes; Data is what was written, nil but for writes.
	Off, Len int64
	Data     []byte
	// Begin and End are the points of its submission and of its completion; End is 0 while it
	// is under way.
	Begin, End int
	// Res is how it ended.
	Res int32
}

// NewRecord registers a wrapper of dev with l. base is what dev contains now; it is copied.
func NewRecord(l *asyncq.Loop, dev Device, base []byte) *Record {
	r := &Record{Device: dev, base: slices.Clone(base), now: new(int)}
	r.requests.id = l.Register("record", r)
	return r
}

// Share has r and other count the same points of time, before either is used: what is recorded of
// both can be cut off at the same point.
func (r *Record) Share(other *Record) { r.now = other.now }

// Submit notes a request and passes it on.
func (r *Record) Submit(io asyncq.IO) {
	if io.Op == asyncq.OpRead {
		r.Device.Submit(io)
		return
	}
	*r.now++
	e := RecordEntry{Op: io.Op, FUA: io.FUA, Off: io.Off, Len: length(&io), Begin: *r.now}
	if io.Op == asyncq.OpWrite {
		e.Data = slices.Clone(io.Buf)
	}
	r.log = append(r.log, e)
	inner := io
	inner.Token = r.requests.add(request{io: io, entry: len(r.log) - 1})
	r.Device.Submit(inner)
}

// Complete notes the end of a request and answers it.
func (r *Record) Complete(t asyncq.Token, res int32) {
	q, ok := r.requests.take(t)
	if !ok {
		return
	}
	*r.now++
	r.log[q.entry].End, r.log[q.entry].Res = *r.now, res
	r.Engine().Post(asyncq.Completion{Token: q.io.Token, Res: res})
}

// Resume is never called: the wrapper owns no slots.
func (r *Record) Resume(asyncq.Slot) {}

// Cancel is never called.
func (r *Record) Cancel(asyncq.Slot) {}

// Log returns what was recorded, in the order of submission.
func (r *Record) Log() []RecordEntry { return r.log }

// Now is the present point of time; the first is 0. Submissions and completions advance it.
func (r *Record) Now() int { return *r.now }

// Boundaries returns the points right after something has become durable: completions of flushes
// and of writes with FUA.
func (r *Record) Boundaries() (points []int) {
	for _, e := range r.log {
		if e.End != 0 && e.Res >= 0 && (e.Op == asyncq.OpFlush || e.FUA) {
			points = append(points, e.End)
		}
	}
	slices.Sort(points)
	return points
}

// Keep chooses whether one sector of a request that is not yet durable has survived: entry is the
// index in the log, sector counts within the request.
type Keep func(entry, sector int) bool

// KeepNone and KeepAll are the two extremes.
var (
	KeepNone Keep = func(int, int) bool { return false }
	KeepAll  Keep = func(int, int) bool { return true }
)

// KeepRandom chooses each sector by the seed, with its own odds for each request, so that whole
// requests survive or are lost often enough.
func KeepRandom(seed uint64) Keep {
	rng := rand.New(rand.NewPCG(seed, 0x6b656570))
	entry, odds := -1, 0
	return func(e, _ int) bool {
		if e != entry {
			entry, odds = e, rng.IntN(5)
		}
		return rng.IntN(4) < odds
	}
}

// Image returns what a power cut at a point leaves.
func (r *Record) Image(point int, keep Keep) []byte {
	image := slices.Clone(r.base)
	sector := int64(r.SectorSize())
	durable := r.durable(point)
	// NB: durable requests are not laid below all others: a later one may have been submitted,
	// and lost, before an earlier one became durable. The order of the log is that of the disk
	// as long as nobody has two writes to one sector under way, which is an error anyway.
	for i, e := range r.log {
		if e.Begin > point || e.Op == asyncq.OpFlush {
			continue
		}
		for s := int64(0); s < e.Len/sector; s++ {
			if durable[i] && e.did(s*sector) || keep(i, int(s)) {
				apply(image, &e, s*sector, sector)
			}
		}
	}
	return image
}

// durable says for each request whether it is on the disk for certain at a point.
func (r *Record) durable(point int) []bool {
	flushed := 0 // everything that completed before this point is
	for _, e := range r.log {
		if e.Op == asyncq.OpFlush && e.End != 0 && e.End <= point && e.Res >= 0 {
			flushed = max(flushed, e.Begin)
		}
	}
	all := make([]bool, len(r.log))
	for i, e := range r.log {
		all[i] = e.End != 0 && e.Res >= 0 && (e.End < flushed || e.FUA && e.End <= point)
	}
	return all
}

// did says whether the byte at of a request that went well was a part of what it did.
func (e *RecordEntry) did(at int64) bool { return e.Op == asyncq.OpDiscard || at < int64(e.Res) }

// apply lays n bytes of a request, from its byte at, onto an image.
func apply(image []byte, e *RecordEntry, at, n int64) {
	lo, hi := min(e.Off+at, int64(len(image))), min(e.Off+at+n, int64(len(image)))
	if e.Op == asyncq.OpDiscard {
		clear(image[lo:hi])
	} else {
		copy(image[lo:hi], e.Data[at:])
	}
}
