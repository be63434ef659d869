package asyncq

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"asyncfsd/internal/invariants"
)

// completionsMax is how many completions one turn of the loop takes from its engine: enough for
// every slot to have one, small enough for the array to stay in the cache.
const completionsMax = 256

// providersMax is how many providers a loop may have: what tokens have room for, less one number
// that engines use for themselves.
const providersMax = 255

// Intaker is a source of new operations, such as a transport. Intake claims slots for what has
// arrived until nothing is left or the table is full; it returns true when it stopped for
// another reason (fairness) and wants to be asked again without a wait. On the loop's thread.
type Intaker interface {
	Intake() (more bool)
}

// ReadyIntaker is an Intaker that may have stopped for want of a slot or a buffer. The loop asks
// it before it sleeps: what the running slots have just given back brings no completion.
type ReadyIntaker interface {
	Intaker
	// CanIntake says that there is work, and what it takes to begin it.
	CanIntake() bool
}

// Config describes a loop.
type Config struct {
	// Engine carries I/O. The loop closes it.
	Engine Engine
	// Slots is the number of transport slots; 0 means SlotsMax.
	Slots int
	// Seed other than 0 makes the order in which queued slots run a function of the seed.
	Seed uint64
	// Now is the clock of timers; nil means time.Now.
	Now func() time.Time
}

// Loop owns a table, its providers and an engine, and runs them on one thread, or with a Threaded
// engine on as many as that has parts: these take turns, and wait for completions of their own
// beside each other. In deterministic mode nobody calls Run: Wait and Release then turn the loop on
// the caller's own goroutine.
type Loop struct {
	Table  *Table
	engine Engine
	now    func() time.Time

	// own is held by the thread whose turn it is; everything but its completions is guarded by it.
	own      futex
	threads  []thread
	current  int      // the thread whose turn it is
	threaded Threaded // the engine, if it is one

	providers []Provider
	names     []string
	intakers  []Intaker
	readiers  []ReadyIntaker // those of intakers that are
	timer     *Timer

	running atomic.Bool // Run is on some goroutine
	stop    atomic.Bool
	called  atomic.Bool // something is in calls

	// mu guards what ordinary goroutines share with the loop: public slots, intake, results.
	// The loop holds it for a few instructions only.
	mu      sync.Mutex
	changed sync.Cond // a public slot finished or became free, a buffer came back
	turn    sync.Mutex
	calls   []call // what Start, Cancel and Release left for the loop
	taken   []call // the loop's half of the pair; swapped with calls
	handles []handle
	results []result
	err     error     // what made the engine unusable
	bufs    []*Buffer // per slot; the only pointers of the call layer
}

// thread is what each thread of a loop has for itself.
type thread struct {
	engine Engine // its part
	comps  [completionsMax]Completion
	err    error // what ended it
}

// call is a message from an ordinary goroutine to the loop.
type call struct {
	kind callKind
	id   DescID
}

type callKind uint8

const (
	callStart callKind = iota
	callCancel
	callRelease
)

// callsMax is the most messages under way: each public slot is started, cancelled once and
// released once.
const callsMax = 3 * SlotsPublic

type handle struct {
	provider ProviderID
	object   uint32
	open     bool
}

// New builds a loop. Providers and handles are registered next, then Run is called, or the loop
// is turned by Step, Wait and Release.
func New(c Config) *Loop {
	if c.Slots == 0 {
		c.Slots = SlotsMax
	}
	if c.Now == nil {
		c.Now = time.Now
	}
	var rng *rand.Rand
	if c.Seed != 0 {
		rng = rand.New(rand.NewPCG(c.Seed, 0x6173796e63667364))
	}
	l := &Loop{Table: newTable(c.Slots, rng), engine: c.Engine, now: c.Now}
	l.threads = []thread{{engine: c.Engine}}
	if l.threaded, _ = c.Engine.(Threaded); l.threaded != nil {
		l.threads = make([]thread, l.threaded.Threads())
		l.threads[0].engine = c.Engine // until it begins
	}
	l.changed.L = &l.mu
	l.bufs = make([]*Buffer, l.Table.Len())
	l.results = make([]result, l.Table.Len())
	l.calls = make([]call, 0, callsMax)
	l.taken = make([]call, 0, callsMax)
	l.handles = make([]handle, 1) // handle 0 is none
	l.Register("none", noProvider{})
	l.timer = newTimer(l)
	return l
}

// Engine returns the loop's engine.
func (l *Loop) Engine() Engine { return l.engine }

// Register adds a provider under a name used in messages and returns its number. Providers are
// registered before the loop runs, or on its thread, and never removed.
func (l *Loop) Register(name string, p Provider) ProviderID {
	if len(l.providers) == providersMax {
		panic("asyncq: too many providers")
	}
	l.providers = append(l.providers, p)
	l.names = append(l.names, name)
	return ProviderID(len(l.providers) - 1)
}

// AddIntake adds a source of new operations.
func (l *Loop) AddIntake(i Intaker) {
	l.intakers = append(l.intakers, i)
	if r, ok := i.(ReadyIntaker); ok {
		l.readiers = append(l.readiers, r)
	}
}

// Run turns the loop until Stop, on the calling goroutine, which stays bound to its thread.
// Public operations that are still pending afterwards go on when somebody waits for them.
func (l *Loop) Run() error {
	runtime.LockOSThread()
	l.running.Store(true)
	l.engine.Wake() // whoever turns the loop inline gives it up
	l.turn.Lock()
	// NB: in this order. Who wakes up after runEnds must find the turn free.
	defer l.runEnds()
	defer l.turn.Unlock()
	err := l.runThreads()
	if err != nil {
		err = fmt.Errorf("engine %s: %w", l.engine.Name(), err)
	}
	return err
}

// runThreads turns the loop on all its threads, the calling one and as many as the engine asks for.
func (l *Loop) runThreads() error {
	e := l.threaded
	if e == nil {
		return l.serve(0, func() bool { return true })
	}
	for !e.Quiet(0) {
		if err := l.step(0, true); err != nil {
			return err
		}
	}
	var begun, ended sync.WaitGroup
	run := func(i int) {
		th := &l.threads[i]
		th.engine, th.err = e.Begin(i)
		begun.Done()
		if begun.Wait(); th.err == nil {
			th.err = l.serve(i, func() bool { return e.Quiet(i) })
		}
		e.End(i)
		if th.err != nil {
			l.Stop()
		}
	}
	begun.Add(len(l.threads))
	for i := range l.threads[1:] {
		ended.Go(func() {
			runtime.LockOSThread()
			run(i + 1)
		})
	}
	run(0)
	ended.Wait()
	l.enter(0) // which has no part any more: what is to come is the caller's
	l.own.unlock()
	var err error
	for i := range l.threads {
		err = errors.Join(err, l.threads[i].err)
		l.threads[i].engine = nil
	}
	l.threads[0].engine = e
	return err
}

// serve turns the loop on thread i until Stop, and until nothing is under way in its engine.
func (l *Loop) serve(i int, quiet func() bool) error {
	for !l.stop.Load() || !quiet() {
		if err := l.step(i, true); err != nil {
			return err
		}
	}
	return nil
}

// runEnds tells those who sleep in Wait that they have to turn the loop themselves now.
func (l *Loop) runEnds() {
	l.mu.Lock()
	l.running.Store(false)
	l.changed.Broadcast()
	l.mu.Unlock()
}

// Stop makes Run return soon. Any goroutine may call it.
func (l *Loop) Stop() {
	l.stop.Store(true)
	l.engine.Wake()
}

// Step is one turn: take in new work, run everything that can run, reap completions, and run what
// they have resumed. With block it waits until there is something to do.
func (l *Loop) Step(block bool) error { return l.step(0, block) }

// step is Step on thread i. Only in its wait does it not hold the loop.
func (l *Loop) step(i int, block bool) error {
	th := &l.threads[i]
	l.enter(i)
	more := l.pass()
	timeout := time.Duration(0)
	if block && !more && l.idle() {
		timeout = l.timer.timeout()
	}
	l.own.unlock()
	n, err := th.engine.Wait(timeout, th.comps[:])
	l.enter(i)
	defer l.own.unlock()
	if err != nil {
		return err
	}
	for i := range n {
		c := th.comps[i]
		l.providers[c.Token.Provider()].Complete(c.Token, c.Res)
	}
	l.timer.expire()
	l.pass()
	if invariants.Enabled {
		l.Table.verify()
	}
	return nil
}

// enter gives thread i the turn.
func (l *Loop) enter(i int) {
	l.own.lock()
	if l.current = i; l.threaded != nil {
		l.threaded.Enter(i)
	}
}

// Thread returns the number of the thread whose turn it is, 0 for that of Run.
func (l *Loop) Thread() int { return l.current }

// pass takes in new work and runs everything that can run.
func (l *Loop) pass() (more bool) {
	more = l.takeIn()
	l.runQueued()
	return more
}

// idle says that nothing can be done before something comes from outside.
func (l *Loop) idle() bool {
	// NB: Stop ends Run. Who turns the loop afterwards waits all the same.
	if l.Table.runCount > 0 || l.called.Load() || l.stop.Load() && l.running.Load() {
		return false
	}
	for _, r := range l.readiers {
		if r.CanIntake() {
			return false
		}
	}
	return true
}

func (l *Loop) takeIn() (more bool) {
	if l.called.Swap(false) {
		l.takeCalls()
	}
	for _, i := range l.intakers {
		more = i.Intake() || more
	}
	return more
}

// runQueued resumes slots until none is queued. It terminates because a slot that makes no
// progress parks.
func (l *Loop) runQueued() {
	for {
		s, ok := l.Table.next()
		if !ok {
			return
		}
		l.providers[l.Table.descs[s].owner].Resume(s)
		if l.Table.running != NoSlot {
			panic("asyncq: provider " + l.names[l.Table.descs[s].owner] + " left a slot running")
		}
	}
}

// takeCalls carries out what Start, Cancel and Release left for the loop.
func (l *Loop) takeCalls() {
	l.mu.Lock()
	l.calls, l.taken = l.taken[:0], l.calls
	n := 0
	for _, c := range l.taken {
		// NB: a slot that was finished may belong to another Start by now; only results, which
		// are guarded by mu, tell.
		r := &l.results[c.id.Slot()]
		if r.gen == c.id.gen() && (c.kind != callCancel || r.live && !r.done) {
			l.taken[n] = c
			n++
		}
	}
	l.taken = l.taken[:n]
	l.mu.Unlock()
	for _, c := range l.taken {
		s := c.id.Slot()
		d := &l.Table.descs[s]
		switch c.kind {
		case callStart:
			l.Table.Queue(s)
		case callCancel:
			if d.cancelled = true; d.state == Parked {
				l.providers[d.owner].Cancel(s)
			}
		case callRelease:
			l.released(s)
		}
	}
}

// Close stops the engine. Run has returned, or was never called.
func (l *Loop) Close() error { return l.engine.Close() }

// Releaser is a provider whose finished operations hold something, such as a lock, until they
// are released. Released runs on the loop's thread.
type Releaser interface {
	Provider
	Released(s Slot)
}

// noProvider takes completions that nobody waits for (provider 0): wake-ups and cancellations.
type noProvider struct{}

func (noProvider) Resume(Slot)           {}
func (noProvider) Complete(Token, int32) {}
func (noProvider) Cancel(Slot)           {}
