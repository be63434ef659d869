package asyncq

import (
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// Threaded is an engine that has a part of its own for each thread of a loop. What is submitted
// and posted goes to the part of the thread whose turn it is, and completes there.
type Threaded interface {
	Engine
	// Parts returns the number of parts, Part the engine of thread i; 0 is the thread of Loop.Run.
	Parts() int
	Part(i int) Engine
	// Enter says that thread i has the turn.
	Enter(i int)
	// Bind binds the calling thread, which is thread i, to its processor.
	Bind(i int)
	// Quiet says that nothing is under way in part i. On its thread.
	Quiet(i int) bool
}

// Rings is the engine on several io_uring rings: one for each thread of a loop, each thread bound
// to one processor. A transport that gets its requests on the processor of their callers needs it,
// so that none has to wake another processor. Files and buffers are registered with all of them.
type Rings struct {
	rings []*Uring
	cpus  []int
	cur   *Uring
}

// RingsMax is the most threads a loop has.
const RingsMax = 8

// AllowedCPUs returns the processors that this process may run on, ascending.
func AllowedCPUs() (cpus []int, err error) {
	var set unix.CPUSet
	if err := unix.SchedGetaffinity(0, &set); err != nil {
		return nil, err
	}
	for i := 0; len(cpus) < set.Count(); i++ {
		if set.IsSet(i) {
			cpus = append(cpus, i)
		}
	}
	return cpus, nil
}

// PossibleCPUs returns how many processors the machine may ever have: the highest number and one.
func PossibleCPUs() (int, error) {
	text, err := os.ReadFile("/sys/devices/system/cpu/possible")
	if err != nil {
		return 0, err
	}
	list := strings.TrimSpace(string(text))
	last, err := strconv.Atoi(list[strings.LastIndexAny(list, "-,")+1:])
	if err != nil || last < 0 {
		return 0, fmt.Errorf("possible CPUs %q: %w", list, unix.EINVAL)
	}
	return last + 1, nil
}

// NewRings makes a ring of about depth requests for each of cpus (1 to RingsMax of them). Errors
// are those of NewUring.
func NewRings(depth int, cpus []int) (*Rings, error) {
	r := &Rings{cpus: cpus}
	for range cpus {
		u, err := newUring(depth, true)
		if err != nil {
			_ = r.Close()
			return nil, err
		}
		r.rings = append(r.rings, u)
	}
	r.cur = r.rings[0]
	return r, nil
}

// Name returns "uring".
func (r *Rings) Name() string { return r.rings[0].Name() }

// Parts returns the number of rings.
func (r *Rings) Parts() int { return len(r.rings) }

// Part returns ring i.
func (r *Rings) Part(i int) Engine { return r.rings[i] }

// Enter says that thread i has the turn.
func (r *Rings) Enter(i int) { r.cur = r.rings[i] }

// Bind binds the calling thread to processor i of those that NewRings was told. One that has been
// taken away from the process meanwhile does without.
func (r *Rings) Bind(i int) {
	var set unix.CPUSet
	set.Set(r.cpus[i])
	_ = unix.SchedSetaffinity(0, &set)
}

// CPU returns the processor of thread i.
func (r *Rings) CPU(i int) int { return r.cpus[i] }

// Quiet says that ring i has nothing under way but commands.
func (r *Rings) Quiet(i int) bool { return r.rings[i].quiet() }

// SetRaw sets Uring.Raw of all rings.
func (r *Rings) SetRaw() {
	for _, u := range r.rings {
		u.Raw = true
	}
}

// Current returns the ring of the thread whose turn it is.
func (r *Rings) Current() *Uring { return r.cur }

// Notify makes thread i look at what was left for it. Any thread may call it.
func (r *Rings) Notify(i int) { r.rings[i].Wake() }

// AddFile registers fd with all rings.
func (r *Rings) AddFile(fd int) (f FileID, err error) {
	for i, u := range r.rings {
		f, err = u.AddFile(fd)
		if err != nil {
			for _, done := range r.rings[:i] {
				done.RemoveFile(f)
			}
			return -1, err
		}
	}
	return f, nil
}

// RemoveFile takes a file out of all rings.
func (r *Rings) RemoveFile(f FileID) {
	for _, u := range r.rings {
		u.RemoveFile(f)
	}
}

// AddBuffers registers memory with all rings.
func (r *Rings) AddBuffers(mem ...[]byte) {
	for _, u := range r.rings {
		u.AddBuffers(mem...)
	}
}

// Submit queues one request on the ring of the thread whose turn it is.
func (r *Rings) Submit(f FileID, io IO) { r.cur.Submit(f, io) }

// Poll has the first thread watch fd.
func (r *Rings) Poll(fd int, token Token) { r.rings[0].Poll(fd, token) }

// Post queues a completion for the thread whose turn it is.
func (r *Rings) Post(c Completion) { r.cur.Post(c) }

// Wait waits on the first ring.
func (r *Rings) Wait(timeout time.Duration, out []Completion) (int, error) {
	return r.rings[0].Wait(timeout, out)
}

// Wake wakes the first thread.
func (r *Rings) Wake() { r.rings[0].Wake() }

// Close closes all rings.
func (r *Rings) Close() (err error) {
	for _, u := range r.rings {
		err = errors.Join(err, u.Close())
	}
	return err
}
