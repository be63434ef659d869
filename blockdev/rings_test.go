package blockdev

import (
	"bytes"
	"math/rand/v2"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"

	"asyncfsd/asyncq"
)

// TestRings has goroutines read and write through a loop of several threads, each with a ring of
// its own, and through the same engine before and after that.
func TestRings(t *testing.T) {
	cpus, err := asyncq.AllowedCPUs()
	if err != nil {
		t.Fatal(err)
	}
	if len(cpus) == 1 {
		cpus = append(cpus, cpus[0]) // two threads there, too
	}
	cpus = cpus[:min(len(cpus), asyncq.RingsMax)]
	t.Run("one", func(t *testing.T) { testRings(t, cpus[:1]) })
	t.Run("all", func(t *testing.T) { testRings(t, cpus) })
}

func testRings(t *testing.T, cpus []int) {
	rings, err := asyncq.NewRings(64, cpus)
	if err != nil {
		t.Fatal(err)
	}
	rings.SetRaw()
	const writers, size = 8, 1 << 20
	model := random(1, writers*size)
	loop := asyncq.New(asyncq.Config{Engine: rings})
	dev, err := Open(imageOf(t, model), rings, Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer dev.Close()
	defer loop.Close()
	p, err := NewProvider(loop, dev)
	if err != nil {
		t.Fatal(err)
	}
	s := p.Sync()
	whole := func(when string) {
		t.Helper()
		got := make([]byte, len(model))
		if _, err := s.ReadAt(got, 0); err != nil || !bytes.Equal(got, model) {
			t.Errorf("%s: other bytes: %v", when, err)
		}
		if err := s.Flush(); err != nil {
			t.Errorf("%s: %v", when, err)
		}
	}
	whole("before")
	over := make(chan error)
	go func() { over <- loop.Run() }()
	stop := collect()
	readAndWrite(t, s, model, writers)
	stop()
	whole("while it runs")
	loop.Stop()
	if err := <-over; err != nil {
		t.Error(err)
	}
	whole("after")
}

// collect has the collector stop all threads again and again until stop is called: those that wait
// for each other, too.
func collect() (stop func()) {
	var over atomic.Bool
	var done sync.WaitGroup
	done.Go(func() {
		for !over.Load() {
			runtime.GC()
		}
	})
	return func() {
		over.Store(true)
		done.Wait()
	}
}

// readAndWrite has each of so many goroutines read and write a part of its own.
func readAndWrite(t *testing.T, s *Sync, model []byte, writers int) {
	size := len(model) / writers
	var all sync.WaitGroup
	for w := range writers {
		all.Go(func() {
			rng := rand.New(rand.NewPCG(uint64(w), 2))
			mine := model[w*size:][:size]
			for range 300 {
				off, n := rng.IntN(size-16384), 1+rng.IntN(16384)
				if rng.IntN(2) == 0 {
					copy(mine[off:], random(rng.Uint64(), n))
					if _, err := s.WriteAt(mine[off:][:n], int64(w*size+off)); err != nil {
						t.Error(err)
					}
					continue
				}
				got := make([]byte, n)
				if _, err := s.ReadAt(got, int64(w*size+off)); err != nil ||
					!bytes.Equal(got, mine[off:][:n]) {
					t.Errorf("%d bytes at %d of writer %d: %v", n, off, w, err)
				}
			}
		})
	}
	all.Wait()
}
