package blockdev

import (
	"bytes"
	"errors"
	"io"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	"pgregory.net/rapid"

	"asyncfsd/asyncq"
)

func newProvider(t testing.TB, l *asyncq.Loop, dev Device) *Provider {
	t.Helper()
	p, err := NewProvider(l, dev)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = p.Close() })
	return p
}

// TestProviderModel starts operations at any alignment, many at once, on bytes that do not
// overlap but share sectors, over a device that is late and short at random, and compares with a
// model.
func TestProviderModel(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		seed := rapid.Uint64Range(1, 1<<32).Draw(rt, "seed")
		sector := rapid.SampledFrom([]int{512, 4096}).Draw(rt, "sector")
		size := rapid.IntRange(1, 300<<10).Draw(rt, "size")
		model := random(seed, size)
		r := simRig(t, seed)
		mem := NewMem(r.loop, "mem", bytes.Clone(model), sector, false)
		dev := NewFault(r.loop, mem, seed,
			FaultRule{Kind: FaultDelay, Off: 8192, Len: 64 << 10, Count: -1, Turns: 20},
			FaultRule{Kind: FaultShort, Ops: FaultOn(asyncq.OpRead, asyncq.OpWrite), Count: -1,
				Sectors: -1, Off: 128 << 10, Len: 1 << 20})
		p := newProvider(t, r.loop, dev)
		arena := pages(t, 512<<10)
		for range rapid.IntRange(1, 4).Draw(rt, "rounds") {
			providerRound(rt, r.loop, p, model, arena)
		}
		if !bytes.Equal(mem.Bytes(), model) {
			rt.Fatal("the device holds other bytes than the model")
		}
		if len(p.free) != bounceCount || p.writers != 0 || p.rmw {
			rt.Fatalf("left over: %d buffers free, %d writers, rmw %v", len(p.free), p.writers,
				p.rmw)
		}
		_ = r.loop.Close()
	})
}

func providerRound(rt *rapid.T, l *asyncq.Loop, p *Provider, model, arena []byte) {
	type op struct {
		id   asyncq.DescID
		off  int
		buf  []byte
		read bool
	}
	var ops []op
	used := 0 // of arena
	for off := 0; off < len(model)+100 && len(ops) < 30; {
		off += rapid.SampledFrom([]int{0, 0, 1, 100, 511, 4000}).Draw(rt, "gap")
		lengths := []int{0, 1, 100, 512, 513, 4096, 5000, 70_000, 140_000}
		n := rapid.SampledFrom(lengths).Draw(rt, "n")
		used += rapid.SampledFrom([]int{0, 1, 512}).Draw(rt, "align")
		if n > len(arena)-used {
			break
		}
		o := op{off: off, buf: arena[used : used+n : used+n], read: rapid.Bool().Draw(rt, "read")}
		if used += n; rapid.Bool().Draw(rt, "page") {
			used = int(roundUp(int64(used), 4096))
		}
		if !o.read {
			copy(o.buf, random(uint64(off+n), n))
			if off < len(model) {
				copy(model[off:], o.buf)
			}
		}
		var err error
		o.id, err = l.Start(p.Handle(), int64(off), o.read, asyncq.NewBuffer(o.buf))
		if err != nil {
			rt.Fatal(err)
		}
		ops = append(ops, o)
		off += n
	}
	for _, o := range ops {
		want := min(len(o.buf), max(0, len(model)-o.off))
		n, err := l.Release(o.id)
		if n != want || o.read && err != nil ||
			!o.read && (want < len(o.buf)) != (err == unix.ENOSPC) {
			rt.Fatalf("read %v of %d at %d: %d, %v; want %d", o.read, len(o.buf), o.off, n, err,
				want)
		}
		if o.read && n > 0 && !bytes.Equal(o.buf[:n], model[o.off:o.off+n]) {
			rt.Fatalf("%d bytes at %d read other bytes", n, o.off)
		}
	}
}

// TestProviderErrors: each request fails in turn; the operation tells, and leaves nothing behind.
func TestProviderErrors(t *testing.T) {
	for _, isRead := range []bool{true, false} {
		failed := 0
		for nth := 0; ; nth++ {
			r := simRig(t, uint64(nth+1))
			dev := NewFault(r.loop, NewMem(r.loop, "mem", make([]byte, 1<<20), 512, false), 1,
				FaultRule{Kind: FaultFail, After: nth, Errno: unix.ENODATA})
			p := newProvider(t, r.loop, dev)
			id, err := r.loop.Start(p.Handle(), 100, isRead,
				asyncq.NewBuffer(make([]byte, 200_000)))
			if err != nil {
				t.Fatal(err)
			}
			n, err := r.loop.Release(id)
			if len(p.free) != bounceCount || p.writers != 0 || p.rmw {
				t.Fatalf("left over: %d buffers free, %d writers", len(p.free), p.writers)
			}
			if err == nil && n == 200_000 {
				break
			}
			if failed++; err != unix.ENODATA || n >= 200_000 {
				t.Fatalf("failure %d: %d, %v", nth, n, err)
			}
		}
		if failed < 4 {
			t.Errorf("read %v: only %d requests", isRead, failed)
		}
	}
}

// TestProviderCancel cancels operations at random; what was not cancelled ends as always, and
// whatever waited for a buffer or a turn goes on.
func TestProviderCancel(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		r := simRig(t, rapid.Uint64Range(1, 1<<32).Draw(rt, "seed"))
		p := newProvider(t, r.loop, NewMem(r.loop, "mem", make([]byte, 1<<20), 512, false))
		ids := []asyncq.DescID{}
		for i := range 40 {
			id, err := r.loop.Start(p.Handle(), int64(i*777), rapid.Bool().Draw(rt, "read"),
				asyncq.NewBuffer(make([]byte, rapid.SampledFrom([]int{10, 100_000}).Draw(rt, "n"))))
			if err != nil {
				rt.Fatal(err)
			}
			ids = append(ids, id)
		}
		cancelled := map[asyncq.DescID]bool{}
		for _, id := range ids {
			for range rapid.IntRange(0, 5).Draw(rt, "steps") {
				if err := r.loop.Step(false); err != nil {
					rt.Fatal(err)
				}
			}
			if rapid.Bool().Draw(rt, "cancel") {
				cancelled[id] = true
				if err := r.loop.Cancel(id); err != nil {
					rt.Fatal(err)
				}
			}
		}
		for _, id := range ids {
			_, err := r.loop.Release(id)
			if err != nil && (err != unix.ECANCELED || !cancelled[id]) {
				rt.Fatal(err)
			}
		}
		if len(p.free) != bounceCount || p.writers != 0 || p.rmw {
			rt.Fatalf("left over: %d buffers free, %d writers", len(p.free), p.writers)
		}
		_ = r.loop.Close()
	})
}

// TestProviderCancelWaits: a cancelled operation keeps its buffer until the device has answered.
func TestProviderCancelWaits(t *testing.T) {
	r := simRig(t, 1)
	dev := NewFault(r.loop, NewMem(r.loop, "mem", make([]byte, 1<<20), 512, false), 1,
		FaultRule{Kind: FaultDelay, Turns: 1000})
	p := newProvider(t, r.loop, dev)
	b := asyncq.NewBuffer(pages(t, 4096))
	id, err := r.loop.Start(p.Handle(), 0, true, b)
	if err != nil {
		t.Fatal(err)
	}
	if err = r.loop.Cancel(id); err != nil {
		t.Fatal(err)
	}
	for range 5 {
		if err = r.loop.Step(false); err != nil {
			t.Fatal(err)
		}
	}
	if _, err = b.Bytes(); dev.Seen(asyncq.OpRead) == 1 && err != unix.EBUSY {
		t.Errorf("the buffer came back before the device answered: %v", err)
	}
	if n, err := r.loop.Release(id); dev.Seen(asyncq.OpRead) == 1 && (n != 4096 || err != nil) {
		t.Errorf("release: %d, %v", n, err)
	}
}

func TestProviderMisuse(t *testing.T) {
	r := simRig(t, 1)
	ro := newProvider(t, r.loop, NewMem(r.loop, "mem", make([]byte, 4096), 512, true))
	do := func(off int64, isRead bool, b *asyncq.Buffer) (int, error) {
		id, err := r.loop.Start(ro.Handle(), off, isRead, b)
		if err != nil {
			t.Fatal(err)
		}
		return r.loop.Release(id)
	}
	for _, c := range []struct {
		off    int64
		isRead bool
		buf    *asyncq.Buffer
		n      int
		err    error
	}{
		{0, false, asyncq.NewBuffer(make([]byte, 5)), 0, unix.EROFS},
		{-1, true, asyncq.NewBuffer(make([]byte, 5)), 0, unix.EINVAL},
		{4094, true, asyncq.NewBuffer(make([]byte, 5)), 2, nil},
		{1 << 62, true, asyncq.NewBuffer(make([]byte, 5)), 0, nil},
		{0, true, nil, 0, nil},
		{0, false, nil, 0, nil},
	} {
		if n, err := do(c.off, c.isRead, c.buf); n != c.n || !errors.Is(err, c.err) {
			t.Errorf("read %v at %d: %d, %v; want %d, %v", c.isRead, c.off, n, err, c.n, c.err)
		}
	}
	wide := NewMem(r.loop, "mem", nil, 128<<10, false)
	if _, err := NewProvider(r.loop, wide); err != unix.EINVAL {
		t.Errorf("sectors of 128 KiB: %v", err)
	}
}

// TestSync reads and writes by the interfaces of package io, without and with a running loop.
func TestSync(t *testing.T) {
	forBeds(t, 200_000-200_000%4096, Options{}, func(t *testing.T, r *rig, model []byte) {
		s := newProvider(t, r.loop, r.dev).Sync()
		if s.Size() != int64(len(model)) || s.ReadOnly() || s.Name() != r.dev.Name() {
			t.Fatal(s.Size(), s.ReadOnly(), s.Name())
		}
		use := func() {
			t.Helper()
			got, err := io.ReadAll(io.NewSectionReader(s, 0, s.Size()))
			if err != nil || !bytes.Equal(got, model) {
				t.Fatalf("%d bytes, or other ones: %v", len(got), err)
			}
			data := random(uint64(len(got)), 10_001)
			if n, err := s.WriteAt(data, 99_999); n != len(data) || err != nil {
				t.Fatal(n, err)
			}
			copy(model[99_999:], data)
			if err = s.Flush(); err != nil {
				t.Fatal(err)
			}
			if n, err := s.ReadAt(data, s.Size()-5); n != 5 || err != io.EOF {
				t.Fatal(n, err)
			}
			if n, err := s.WriteAt(data[:10], s.Size()-5); n != 5 || err != unix.ENOSPC {
				t.Fatal(n, err)
			}
			copy(model[len(model)-5:], data)
			clear(data)
			if n, err := s.ReadAt(data, 99_999); n != len(data) || err != nil ||
				!bytes.Equal(data, model[99_999:][:len(data)]) {
				t.Fatal(n, err)
			}
		}
		use()
		if _, sim := r.loop.Engine().(*asyncq.Sim); sim {
			return
		}
		done := make(chan error)
		go func() { done <- r.loop.Run() }()
		time.Sleep(time.Millisecond)
		use()
		r.loop.Stop()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}
