package asyncq

import (
	"time"

	"golang.org/x/sys/unix"
)

// Timer is the provider of delays. A public operation on its handle completes offset
// nanoseconds after its start; slots of other providers are queued again by After. It is a
// binary heap over fixed arrays: no allocation, no goroutine, no runtime timer.
type Timer struct {
	loop *Loop
	id   ProviderID
	heap []timerEntry
	pos  []int32 // by slot: index in heap + 1, 0 if not there
}

type timerEntry struct {
	at   int64 // nanoseconds of the loop's clock
	slot Slot
}

func newTimer(l *Loop) *Timer {
	n := l.Table.Len()
	t := &Timer{loop: l, heap: make([]timerEntry, 0, n), pos: make([]int32, n)}
	t.id = l.Register("timer", t)
	return t
}

// Timer returns the loop's timer provider.
func (l *Loop) Timer() *Timer { return l.timer }

// Handle makes a handle on which Start begins a delay of offset nanoseconds.
func (t *Timer) Handle() Handle { return t.loop.NewHandle(t.id, 0) }

// After queues slot s, which its owner parks, when d has passed.
func (t *Timer) After(s Slot, d time.Duration) {
	if t.pos[s] != 0 {
		panic("asyncq: a slot has one timer")
	}
	t.heap = append(t.heap, timerEntry{t.loop.now().Add(d).UnixNano(), s})
	t.pos[s] = int32(len(t.heap))
	t.up(len(t.heap) - 1)
}

// Stop takes back the timer of slot s and says whether it was still running.
func (t *Timer) Stop(s Slot) bool {
	i := int(t.pos[s]) - 1
	if i < 0 {
		return false
	}
	last := len(t.heap) - 1
	t.swap(i, last)
	t.heap = t.heap[:last]
	t.pos[s] = 0
	if i < last {
		t.down(i)
		t.up(i)
	}
	return true
}

// Resume begins a public delay, or ends it when its time has come.
func (t *Timer) Resume(s Slot) {
	d := t.loop.Table.Desc(s)
	switch {
	case d.Cancelled():
		t.loop.Finish(s, 0, unix.ECANCELED)
	case d.Stage == 0:
		d.Stage = 1
		t.After(s, time.Duration(d.Pos))
		t.loop.Table.Park(s, 0)
	default:
		t.loop.Finish(s, 0, 0)
	}
}

// Complete is never called: timers end by the clock.
func (t *Timer) Complete(Token, int32) {}

// Cancel ends a public delay at once.
func (t *Timer) Cancel(s Slot) {
	if t.Stop(s) {
		t.loop.Finish(s, 0, unix.ECANCELED)
	}
}

// timeout is how long the loop may sleep: negative without any timer.
func (t *Timer) timeout() time.Duration {
	if len(t.heap) == 0 {
		return -1
	}
	return max(0, time.Duration(t.heap[0].at-t.loop.now().UnixNano()))
}

// expire queues every slot whose time has come.
func (t *Timer) expire() {
	if len(t.heap) == 0 {
		return
	}
	now := t.loop.now().UnixNano()
	for len(t.heap) > 0 && t.heap[0].at <= now {
		s := t.heap[0].slot
		t.Stop(s)
		t.loop.Table.Queue(s)
	}
}

func (t *Timer) swap(i, j int) {
	t.heap[i], t.heap[j] = t.heap[j], t.heap[i]
	t.pos[t.heap[i].slot], t.pos[t.heap[j].slot] = int32(i+1), int32(j+1)
}

func (t *Timer) up(i int) {
	for i > 0 && t.heap[i].at < t.heap[(i-1)/2].at {
		t.swap(i, (i-1)/2)
		i = (i - 1) / 2
	}
}

func (t *Timer) down(i int) {
	for {
		least := i
		for c := 2*i + 1; c <= 2*i+2 && c < len(t.heap); c++ {
			if t.heap[c].at < t.heap[least].at {
				least = c
			}
		}
		if least == i {
			return
		}
		t.swap(i, least)
		i = least
	}
}
