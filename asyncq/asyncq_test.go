package asyncq

import (
	"errors"
	"math/rand/v2"
	"os"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// newSim makes a loop in deterministic mode; the test's goroutine turns it.
func newSim(t *testing.T, seed uint64) *Loop {
	t.Helper()
	e := NewSim(seed)
	l := New(Config{Engine: e, Slots: 8, Seed: seed, Now: e.Now})
	t.Cleanup(func() { _ = l.Close() })
	return l
}

// newRunning makes a loop that runs on a thread of its own, on io_uring where allowed.
func newRunning(t *testing.T) *Loop {
	t.Helper()
	var e Engine = NewSim(0)
	if u, err := NewUring(64); err == nil {
		e = u
	}
	l := New(Config{Engine: e, Slots: 8})
	var wg sync.WaitGroup
	wg.Add(1)
	go func() {
		defer wg.Done()
		if err := l.Run(); err != nil {
			t.Error(err)
		}
	}()
	t.Cleanup(func() {
		l.Stop()
		wg.Wait()
		_ = l.Close()
	})
	return l
}

func mustStart(t *testing.T, l *Loop, h Handle, off int64, read bool, b *Buffer) DescID {
	t.Helper()
	id, err := l.Start(h, off, read, b)
	if err != nil {
		t.Fatal(err)
	}
	return id
}

func TestManualLifeCycle(t *testing.T) {
	for seed := range uint64(20) {
		l := newSim(t, seed+1)
		m := NewManual(l)
		h := m.Handle()
		b := NewBuffer(make([]byte, 16))
		id := mustStart(t, l, h, 5, true, b)
		if _, err := b.Bytes(); err != unix.EBUSY {
			t.Fatalf("lent buffer: %v", err)
		}
		if err := l.Cancel(id); err != nil {
			t.Fatal(err)
		}
		if err := l.Step(false); err != nil {
			t.Fatal(err)
		}
		if _, err := b.Bytes(); err != unix.EBUSY {
			t.Fatalf("a cancelled operation keeps its buffer until it is answered: %v", err)
		}
		m.Finish(id, 7)
		st := make([]State, 1)
		if n, err := l.Wait([]DescID{id}, st); n != 1 || err != nil || st[0] != Done {
			t.Fatalf("wait: %d %v %v", n, err, st[0])
		}
		m.Finish(id, 9) // a second completion of the same operation is dropped
		if err := l.Step(false); err != nil {
			t.Fatal(err)
		}
		if _, err := b.Bytes(); err != nil {
			t.Fatal(err)
		}
		if n, err := l.Release(id); n != 7 || err != nil {
			t.Fatalf("release: %d %v", n, err)
		}
		if _, err := l.Release(id); err != unix.EBADF {
			t.Fatalf("second release: %v", err)
		}
		if err := l.Cancel(id); err != unix.EBADF {
			t.Fatalf("cancel after release: %v", err)
		}
	}
}

func TestLateCompletionForRecycledSlot(t *testing.T) {
	l := newSim(t, 3)
	m := NewManual(l)
	first := mustStart(t, l, m.Handle(), 0, true, nil)
	m.Finish(first, 1)
	if _, err := l.Release(first); err != nil {
		t.Fatal(err)
	}
	second := mustStart(t, l, m.Handle(), 0, true, nil)
	if second.Slot() != first.Slot() || second == first {
		t.Fatalf("want the same slot in another generation: %x %x", first, second)
	}
	m.Finish(first, 99) // late: must not complete the second
	m.Finish(second, 2)
	if n, err := l.Release(second); n != 2 || err != nil {
		t.Fatalf("release: %d %v", n, err)
	}
}

func TestStartErrors(t *testing.T) {
	l := newSim(t, 1)
	if _, err := l.Start(0, 0, true, nil); err != unix.EBADF {
		t.Fatal(err)
	}
	h := NewManual(l).Handle()
	if err := l.CloseHandle(h); err != nil {
		t.Fatal(err)
	}
	if _, err := l.Start(h, 0, true, nil); err != unix.EBADF {
		t.Fatal(err)
	}
	if _, err := l.Wait(nil, nil); err != unix.EINVAL {
		t.Fatal(err)
	}
	if _, err := l.Wait([]DescID{12345}, make([]State, 1)); err != unix.EBADF {
		t.Fatal(err)
	}
}

// TestFullTableDrains starts more operations than there are descriptors: Start blocks and goes on
// as others are released.
func TestFullTableDrains(t *testing.T) {
	l := newRunning(t)
	h := l.Timer().Handle()
	var wg sync.WaitGroup
	for range 4 * SlotsPublic {
		wg.Add(1)
		go func() {
			defer wg.Done()
			id, err := l.Start(h, int64(time.Millisecond), true, nil)
			if err == nil {
				_, err = l.Release(id)
			}
			if err != nil {
				t.Error(err)
			}
		}()
	}
	wg.Wait()
}

func TestStartBlocksOnLentBuffer(t *testing.T) {
	l := newRunning(t)
	h := l.Timer().Handle()
	b := NewBuffer(make([]byte, 8))
	begin := time.Now()
	first := mustStart(t, l, h, int64(30*time.Millisecond), true, b)
	second := mustStart(t, l, h, 0, true, b)
	if d := time.Since(begin); d < 30*time.Millisecond {
		t.Errorf("Start took a lent buffer after %v", d)
	}
	for _, id := range []DescID{first, second} {
		if _, err := l.Release(id); err != nil {
			t.Error(err)
		}
	}
}

// TestWaitSubset: waiting for a slow operation does not keep a fast one from completing.
func TestWaitSubset(t *testing.T) {
	l := newRunning(t)
	h := l.Timer().Handle()
	slow := mustStart(t, l, h, int64(time.Hour), true, nil)
	waited := make(chan error)
	go func() {
		_, err := l.Wait([]DescID{slow}, make([]State, 1))
		waited <- err
	}()
	fast := mustStart(t, l, h, int64(time.Millisecond), true, nil)
	st := make([]State, 2)
	if n, err := l.Wait([]DescID{slow, fast}, st); n != 1 || err != nil || st[1] != Done {
		t.Fatalf("wait: %d %v %v", n, err, st)
	}
	if err := l.Cancel(slow); err != nil {
		t.Fatal(err)
	}
	if err := <-waited; err != nil {
		t.Fatal(err)
	}
	if _, err := l.Release(slow); err != unix.ECANCELED {
		t.Fatalf("cancelled timer: %v", err)
	}
	if _, err := l.Release(fast); err != nil {
		t.Fatal(err)
	}
}

func TestTimerOrder(t *testing.T) {
	l := newSim(t, 7)
	h := l.Timer().Handle()
	rng := rand.New(rand.NewPCG(1, 2))
	delays := map[DescID]time.Duration{}
	for range 40 {
		d := time.Duration(rng.IntN(1000)) * time.Second
		delays[mustStart(t, l, h, int64(d), true, nil)] = d
	}
	last := time.Duration(0)
	for len(delays) > 0 {
		ids, st := []DescID{}, make([]State, 40)
		for id := range delays {
			ids = append(ids, id)
		}
		if _, err := l.Wait(ids, st); err != nil {
			t.Fatal(err)
		}
		at := time.Duration(-1)
		for i, id := range ids {
			if st[i] != Done {
				continue
			}
			if at >= 0 && delays[id] != at {
				t.Fatalf("timers of %v and %v ended together", at, delays[id])
			}
			at = delays[id]
			delete(delays, id)
			if _, err := l.Release(id); err != nil {
				t.Fatal(err)
			}
		}
		if at < last {
			t.Fatalf("timer of %v ended after one of %v", at, last)
		}
		last = at
	}
}

// TestLocksModel takes and releases random locks and compares who holds what with a model:
// no conflict is ever granted, nothing grantable waits, and all end.
func TestLocksModel(t *testing.T) {
	for seed := range uint64(50) {
		l := newSim(t, seed+1)
		k := NewLocks(l, 2)
		rng := rand.New(rand.NewPCG(seed, 1))
		hs := []Handle{k.Handle(0), k.Handle(1)}
		type lk struct {
			obj        int
			start, end int64
			shared     bool
		}
		all := map[DescID]lk{}
		order := []DescID{}
		for range 200 {
			if len(order) < 20 && rng.IntN(3) > 0 {
				o, n := rng.IntN(2), rng.IntN(4)+1
				off, shared := int64(rng.IntN(8)), rng.IntN(2) == 0
				id := mustStart(t, l, hs[o], off, shared, NewBuffer(make([]byte, n)))
				all[id] = lk{o, off, off + int64(n), shared}
				order = append(order, id)
			}
			for range 4 {
				if err := l.Step(false); err != nil {
					t.Fatal(err)
				}
			}
			for i, id := range order {
				granted := true
				for _, before := range order[:i] {
					a, b := all[before], all[id]
					if a.obj == b.obj && a.start < b.end && b.start < a.end &&
						!(a.shared && b.shared) {
						granted = false
					}
				}
				if r := l.result(id); r.done != granted {
					t.Fatalf("seed %d: lock %d of %v: held %v, model %v", seed, i, all[id],
						r.done, granted)
				}
			}
			if len(order) > 0 && rng.IntN(2) == 0 {
				i := rng.IntN(len(order))
				id := order[i]
				if !l.result(id).done {
					if err := l.Cancel(id); err != nil {
						t.Fatal(err)
					}
				}
				if _, err := l.Release(id); err != nil && err != unix.ECANCELED {
					t.Fatal(err)
				}
				order = append(order[:i:i], order[i+1:]...)
			}
		}
	}
}

func TestSeedDecidesOrder(t *testing.T) {
	run := func(seed uint64) (order []DescID) {
		l := newSim(t, seed)
		m := NewManual(l)
		ids := []DescID{}
		for range 10 {
			ids = append(ids, mustStart(t, l, m.Handle(), 0, true, nil))
		}
		for _, id := range ids {
			m.Finish(id, 0)
		}
		for len(order) < len(ids) {
			if err := l.Step(false); err != nil {
				t.Fatal(err)
			}
			for _, id := range ids {
				if r := l.result(id); r != nil && r.done {
					order = append(order, id)
					if _, err := l.Release(id); err != nil {
						t.Fatal(err)
					}
				}
			}
		}
		return order
	}
	same := func(a, b []DescID) bool {
		for i := range a {
			if a[i] != b[i] {
				return false
			}
		}
		return true
	}
	if !same(run(5), run(5)) {
		t.Error("the same seed gave two orders")
	}
	if same(run(5), run(6)) && same(run(6), run(7)) {
		t.Error("three seeds gave one order")
	}
}

type badBlob struct {
	n int
	p *int
}

func TestBlobsRefusePointers(t *testing.T) {
	defer func() {
		if recover() == nil {
			t.Error("a blob with a pointer was accepted")
		}
	}()
	NewBlobs[badBlob](newTable(1, nil))
}

func TestTableExhaustion(t *testing.T) {
	tab := newTable(4, nil)
	got := []Slot{}
	for s := tab.Claim(1, false); s != NoSlot; s = tab.Claim(1, false) {
		got = append(got, s)
	}
	if len(got) != 4 || tab.Available() != 0 {
		t.Fatalf("claimed %d, available %d", len(got), tab.Available())
	}
	for range SlotsReserved {
		if tab.Claim(1, true) == NoSlot {
			t.Fatal("a reserved slot is missing")
		}
	}
	if tab.Claim(1, true) != NoSlot {
		t.Fatal("more slots than there are")
	}
	tok := tab.Token(1, got[0])
	tab.Release(got[0])
	if _, ok := tab.Lookup(tok); ok {
		t.Fatal("a token outlived its slot")
	}
	if _, ok := tab.Lookup(MakeToken(1, 1, 1<<30)); ok {
		t.Fatal("a token beyond the table resolved")
	}
}

// TestUringFile reads and writes a file through the engine alone.
func TestUringFile(t *testing.T) {
	u, err := NewUring(8)
	if errors.Is(err, unix.ENOSYS) || errors.Is(err, unix.EPERM) {
		t.Skip("io_uring is not allowed here: ", err)
	}
	if err != nil {
		t.Fatal(err)
	}
	defer u.Close()
	f, err := os.CreateTemp(t.TempDir(), "")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	id, err := u.AddFile(int(f.Fd()))
	if err != nil {
		t.Fatal(err)
	}
	const n = 100 // more than the queue holds
	bufs := make([]byte, 512*n)
	u.AddBuffers(bufs[:4096])
	for i := range bufs {
		bufs[i] = byte(i / 512)
	}
	drain := func(want int) {
		out := make([]Completion, 16)
		for got := 0; got < want; {
			k, err := u.Wait(-1, out)
			if err != nil {
				t.Fatal(err)
			}
			for _, c := range out[:k] {
				if c.Res < 0 || c.Token.Index() < n && c.Res != 512 {
					t.Fatalf("completion %x: %d", c.Token, c.Res)
				}
			}
			got += k
		}
	}
	for i := range n {
		u.Submit(id, IO{Op: OpWrite, Off: int64(i) * 512, Buf: bufs[i*512 : (i+1)*512],
			FUA: i%7 == 0, Token: MakeToken(1, 1, uint32(i))})
	}
	u.Submit(id, IO{Op: OpFlush, Token: MakeToken(1, 1, n)})
	drain(n + 1)
	got := make([]byte, len(bufs))
	for i := range n {
		u.Submit(id, IO{Op: OpRead, Off: int64(i) * 512, Buf: got[i*512 : (i+1)*512],
			Token: MakeToken(1, 1, uint32(i))})
	}
	drain(n)
	if string(got) != string(bufs) {
		t.Fatal("read back other bytes")
	}
	u.Wake()
	begin := time.Now()
	if k, err := u.Wait(time.Hour, make([]Completion, 1)); k != 0 || err != nil {
		t.Fatalf("woken: %d %v", k, err)
	}
	if k, err := u.Wait(20*time.Millisecond, make([]Completion, 1)); k != 0 || err != nil {
		t.Fatalf("timeout: %d %v", k, err)
	}
	if d := time.Since(begin); d < 20*time.Millisecond || d > 10*time.Second {
		t.Fatalf("timeout after %v", d)
	}
}
