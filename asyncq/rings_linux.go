package asyncq

import (
	"fmt"
	"os"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

// Threaded is an engine that gives each thread of a loop a part of its own. What is submitted and
// posted goes to the part of the thread whose turn it is, and completes there. While no thread has
// begun it is an engine like any other.
type Threaded interface {
	Engine
	// Threads returns how many threads there are to be.
	Threads() int
	// Begin makes the part of thread i, on that thread, which is bound to its processor.
	Begin(i int) (Engine, error)
	// Enter says that thread i has the turn.
	Enter(i int)
	// Quiet says that nothing is under way in the part of thread i, on that thread; before all
	// have begun, that nothing is under way at all.
	Quiet(i int) bool
	// End gives up the part of thread i, which is quiet, on that thread.
	End(i int)
}

// Rings is the engine on several io_uring rings: one for each thread of a loop, each thread bound
// to one processor. A transport that gets its requests on the processor of their callers needs it,
// so that none has to wake another processor.
//
// The rings of the threads have SINGLE_ISSUER and DEFER_TASKRUN: completions do not interrupt a
// thread that waits for several. So they are made on their threads; another ring, base, is for what
// is done before and after, on no thread in particular. Files and buffers are registered with all.
type Rings struct {
	base  *Uring
	depth int
	cpus  []int
	rings []atomic.Pointer[Uring] // by thread, nil before Begin
	cur   *Uring
	// What every ring has to be told.
	files []int // by FileID; -1 is free
	bufs  [][]byte
	polls []watch
	raw   bool
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

// NewRings makes an engine of rings for about depth requests each: one for each of cpus (1 to
// RingsMax of them). Errors are those of NewUring.
func NewRings(depth int, cpus []int) (*Rings, error) {
	// Whether there can be such rings turns out now, and not when the mount is there.
	trial, err := newUring(depth, setupThread)
	if err != nil {
		return nil, err
	}
	_ = trial.Close()
	base, err := NewUring(depth)
	if err != nil {
		return nil, err
	}
	return &Rings{base: base, cur: base, depth: depth, cpus: cpus,
		rings: make([]atomic.Pointer[Uring], len(cpus))}, nil
}

// Name returns "uring".
func (r *Rings) Name() string { return r.base.Name() }

// Threads returns the number of processors.
func (r *Rings) Threads() int { return len(r.cpus) }

// CPU returns the processor of thread i.
func (r *Rings) CPU(i int) int { return r.cpus[i] }

// SetRaw sets Uring.Raw of the threads' rings.
func (r *Rings) SetRaw() { r.raw = true }

// Begin makes the ring of thread i. A processor that has been taken away from the process since
// does without its thread being bound.
func (r *Rings) Begin(i int) (Engine, error) {
	var set unix.CPUSet
	set.Set(r.cpus[i])
	_ = unix.SchedSetaffinity(0, &set)
	u, err := newUring(r.depth, setupThread)
	if err != nil {
		return nil, err
	}
	u.Raw = r.raw
	for _, fd := range r.files {
		if _, err := u.AddFile(fd); err != nil {
			_ = u.Close()
			return nil, err
		}
	}
	if len(r.bufs) > 0 {
		u.AddBuffers(r.bufs...)
	}
	for _, p := range r.polls {
		u.Poll(p.fd, p.token)
	}
	r.rings[i].Store(u)
	return u, nil
}

// Enter says that thread i has the turn.
func (r *Rings) Enter(i int) { r.cur = r.ring(i) }

// ring is the ring of thread i, or base.
func (r *Rings) ring(i int) *Uring {
	if u := r.rings[i].Load(); u != nil {
		return u
	}
	return r.base
}

// Quiet says that the ring of thread i has nothing under way but commands.
func (r *Rings) Quiet(i int) bool { return r.ring(i).quiet() }

// End closes the ring of thread i. NB: on that thread, as everything that is done to such a ring;
// otherwise its files stay registered, and open, for some time.
func (r *Rings) End(i int) {
	if u := r.rings[i].Swap(nil); u != nil {
		_ = u.Close()
	}
}

// Command queues a command on the ring of the thread whose turn it is, which has begun.
func (r *Rings) Command(c Command) { r.cur.Command(c) }

// Notify makes thread i look at what was left for it, if it has begun; otherwise it does so by
// itself. Any thread may call it.
func (r *Rings) Notify(i int) {
	if u := r.rings[i].Load(); u != nil {
		u.Wake()
	}
}

// AddFile registers fd. No thread has begun.
func (r *Rings) AddFile(fd int) (FileID, error) {
	f, err := r.base.AddFile(fd)
	if err == nil {
		r.files = append(r.files[:f], fd)
	}
	return f, err
}

// RemoveFile forgets a file. All threads have ended.
func (r *Rings) RemoveFile(f FileID) { r.base.RemoveFile(f) }

// AddBuffers registers memory. No thread has begun.
func (r *Rings) AddBuffers(mem ...[]byte) {
	r.base.AddBuffers(mem...)
	r.bufs = append(r.bufs, mem...)
}

// Submit queues one request on the ring of the thread whose turn it is. A flush while there is none
// is done at once: who waits on base may block, and the worker that would do it stays for 5 s.
func (r *Rings) Submit(f FileID, io IO) {
	if r.cur == r.base && io.Op == OpFlush {
		errno, _ := unix.Fdatasync(r.files[f]).(unix.Errno)
		r.base.Post(Completion{io.Token, -int32(errno)})
		return
	}
	r.cur.Submit(f, io)
}

// Poll has all threads watch fd, once they have begun: one that is asked for something finds what
// came before that.
func (r *Rings) Poll(fd int, token Token) { r.polls = append(r.polls, watch{fd, token}) }

// Post queues a completion for the thread whose turn it is.
func (r *Rings) Post(c Completion) { r.cur.Post(c) }

// Wait waits on base: no thread has begun, or all have ended.
func (r *Rings) Wait(timeout time.Duration, out []Completion) (int, error) {
	return r.base.Wait(timeout, out)
}

// Wake wakes all threads, and who waits on base.
func (r *Rings) Wake() {
	r.base.Wake()
	for i := range r.rings {
		r.Notify(i)
	}
}

// Close closes base. All threads have ended.
func (r *Rings) Close() error { return r.base.Close() }
