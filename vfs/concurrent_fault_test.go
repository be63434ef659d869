package vfs_test

import (
	"math/rand/v2"
	"slices"
	"testing"

	"asyncfsd/asyncq"
	"asyncfsd/blockdev"
)

// TestConcurrentFaults runs the concurrent simulation on a device that fails, once or for good, or
// does only a part of what it is told. No operation waits forever for what has failed. What a power
// cut leaves then is recovered clean, and holds what fsync promised; so does what the device has in
// the end, when it is well again.
func TestConcurrentFaults(t *testing.T) {
	seeds := simSeedList()
	seeds = seeds[:(len(seeds)+2)/3]
	injected := 0
	forConcKinds(t, seeds, func(t *testing.T, s memSetting, base []byte, journal bool) {
		rng := rand.New(rand.NewPCG(s.seed, uint64(len(base))))
		for range 1 + rng.IntN(2) {
			s.later = append(s.later, blockdev.FaultRule{
				Kind: []blockdev.FaultKind{blockdev.FaultFail, blockdev.FaultTorn,
					blockdev.FaultShort}[rng.IntN(3)],
				Ops: []blockdev.FaultOps{blockdev.FaultAll, blockdev.FaultOn(asyncq.OpRead),
					blockdev.FaultOn(asyncq.OpWrite),
					blockdev.FaultOn(asyncq.OpFlush)}[rng.IntN(4)],
				After: rng.IntN(400), Count: []int{1, 1, 3, -1}[rng.IntN(4)], Sectors: -1,
			})
		}
		r := concurrent(t, s, base)
		defer r.b.close()
		injected += r.b.fault.Injected()
		r.b.fault.SetRules()
		for _, w := range r.workers {
			w.release()
		}
		if !journal {
			_ = r.b.fs.Unmount()
			return
		}
		r.cuts()
		if r.b.fs.Unmount() == nil {
			fsckImage(t, r.b.data, "-fn", "after unmounting")
			for _, w := range r.workers {
				w.promises = append(w.promises,
					promise{point: r.b.record.Now(), state: len(w.states) - 1})
			}
		}
		r.left(slices.Clone(r.b.data), r.b.record.Now(), "after unmounting")
	})
	if injected == 0 {
		t.Error("nothing has failed")
	}
}
