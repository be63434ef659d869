package asyncq

import (
	"math/rand/v2"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// Sim is the engine of deterministic runs and of devices in memory: it carries no I/O of its own
// and hands out what was posted. With a seed it does so one completion at a time in an order that
// is a function of the seed, on a clock that moves only when there is nothing else to do; with
// seed 0 in the order of posting, on the real clock.
type Sim struct {
	mu      sync.Mutex
	posted  sync.Cond
	pending []Completion
	woken   bool
	rng     *rand.Rand
	clock   time.Time
}

// NewSim makes a Sim engine.
func NewSim(seed uint64) *Sim {
	e := &Sim{clock: time.Unix(1_000_000_000, 0)}
	e.posted.L = &e.mu
	if seed != 0 {
		e.rng = rand.New(rand.NewPCG(seed, 0x73696d))
	}
	return e
}

// Name returns "sim".
func (e *Sim) Name() string { return "sim" }

// Now is the engine's clock, for Config.Now.
func (e *Sim) Now() time.Time {
	if e.rng == nil {
		return time.Now()
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.clock
}

// AddFile refuses: there are no files in a simulation.
func (e *Sim) AddFile(int) (FileID, error) { return -1, unix.ENOTSUP }

// RemoveFile does nothing.
func (e *Sim) RemoveFile(FileID) {}

// AddBuffers does nothing.
func (e *Sim) AddBuffers(...[]byte) {}

// Submit answers EBADF: devices of a simulation answer by Post.
func (e *Sim) Submit(_ FileID, io IO) { e.Post(Completion{io.Token, -int32(unix.EBADF)}) }

// Poll answers ENOTSUP.
func (e *Sim) Poll(_ int, token Token) { e.Post(Completion{token, -int32(unix.ENOTSUP)}) }

// Post queues a completion. Unlike other engines' it may be called from any goroutine.
func (e *Sim) Post(c Completion) {
	e.mu.Lock()
	e.pending = append(e.pending, c)
	e.posted.Signal()
	e.mu.Unlock()
}

// Wake makes Wait return.
func (e *Sim) Wake() {
	e.mu.Lock()
	e.woken = true
	e.posted.Signal()
	e.mu.Unlock()
}

// Wait hands out completions. NB: a seeded run that waits for ever without anything posted
// has lost a wake-up, unless other goroutines take part; it then sleeps, and the test times out.
func (e *Sim) Wait(timeout time.Duration, out []Completion) (int, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if timeout > 0 && len(e.pending) == 0 && !e.woken {
		e.sleep(timeout)
	}
	for timeout < 0 && len(e.pending) == 0 && !e.woken {
		e.posted.Wait()
	}
	e.woken = false
	if e.rng != nil && len(e.pending) > 0 {
		i, last := e.rng.IntN(len(e.pending)), len(e.pending)-1
		out[0] = e.pending[i]
		e.pending[i] = e.pending[last]
		e.pending = e.pending[:last]
		return 1, nil
	}
	n := copy(out, e.pending)
	e.pending = e.pending[:copy(e.pending, e.pending[n:])]
	return n, nil
}

// sleep passes time: the virtual clock at once, the real one by waiting for a post.
func (e *Sim) sleep(d time.Duration) {
	if e.rng != nil {
		e.clock = e.clock.Add(d)
		return
	}
	t := time.AfterFunc(d, e.Wake)
	defer t.Stop()
	for len(e.pending) == 0 && !e.woken {
		e.posted.Wait()
	}
}

// Close drops what is pending.
func (e *Sim) Close() error { return nil }
