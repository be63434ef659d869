package vfs_test

import (
	"bytes"
	"errors"
	"math/rand/v2"
	"slices"
	"testing"

	"golang.org/x/sys/unix"

	"asyncfsd/asyncq"
	"asyncfsd/blockdev"
	"asyncfsd/vfs/ext4"
)

// TestSimFaults runs the simulation on a device that fails now and then, and is well again as soon
// as somebody has noticed. An operation that fails has either happened or not; only of the data of
// one file, which is removed then, a part may be there. What power cuts leave, and the unmount, is
// as without faults. Once the log or what belongs into it could not be written, nothing is any
// more, and the run ends.
func TestSimFaults(t *testing.T) {
	seeds := simSeedList()
	total := 0
	forSimKinds(t, seeds[:(len(seeds)+4)/5], func(t *testing.T, r *simRun) {
		f := &simFaults{simRun: r, faults: rand.New(rand.NewPCG(r.rng.Uint64(), 29))}
		f.arm()
		for i := 0; i < *simOps && !f.aborted && !t.Failed(); i++ {
			f.operation()
		}
		r.b.fault.SetRules()
		total += r.b.fault.Injected()
		if !t.Failed() {
			r.cuts()
		}
		if t.Failed() {
			return
		}
		if r.b.fs.Unmount() == nil {
			fsckImage(t, r.b.whole(), "-fn", "after unmounting")
			r.promises = append(r.promises, promise{point: r.b.record.Now(),
				state: len(r.states) - 1})
		} else if !f.written {
			t.Error("the unmount failed, but nothing before it")
		}
		r.left(slices.Clone(r.b.whole()), r.b.record.Now(), "after unmounting")
	})
	if total == 0 {
		t.Error("nothing has failed")
	}
}

// simFaults is a simulation with a device that fails.
type simFaults struct {
	*simRun
	faults  *rand.Rand
	rule    blockdev.FaultRule
	noticed int // how many requests had failed when the rule was made
	// written says that something other than reading has failed: the journal may be aborted.
	written bool
	aborted bool // it is
}

// arm has a request that is to come fail, mostly one that reads, or several.
func (f *simFaults) arm() {
	f.rule = blockdev.FaultRule{Ops: blockdev.FaultOn(asyncq.OpRead), After: f.faults.IntN(5),
		Count: []int{1, 1, 2, -1}[f.faults.IntN(4)], Sectors: -1}
	if f.faults.IntN(8) == 0 {
		f.rule.Ops, f.rule.After = blockdev.FaultAll, f.faults.IntN(150)
		f.rule.Kind = []blockdev.FaultKind{blockdev.FaultFail,
			blockdev.FaultTorn}[f.faults.IntN(2)]
	}
	f.b.fault.SetRules(f.rule)
	f.noticed = f.b.fault.Injected()
}

// operation does one random operation, which may fail.
func (f *simFaults) operation() {
	before := f.states[len(f.states)-1]
	s, name, err := f.attempt()
	failed := f.b.fault.Injected() > f.noticed
	if failed {
		f.b.fault.SetRules()
	}
	f.written = f.written || failed && f.rule.Ops == blockdev.FaultAll
	f.aborted = f.written && (errors.Is(err, unix.EROFS) ||
		errors.Is(err, unix.EIO) && f.b.Fsync(0) != nil)
	switch {
	case err == nil && s != nil:
		f.states = append(f.states, s)
	case err == nil:
	case f.aborted && s != nil: // it may have got into the last transaction that counts
		s.partial = before.names[name]
		f.states = append(f.states, s)
	case f.aborted:
	case !failed || !errors.Is(err, unix.EIO):
		f.t.Errorf("operation %d on %s: %v", len(f.states), name, err)
	default:
		f.after(before, s, name)
	}
	if failed && !f.aborted {
		f.arm()
	}
}

// after finds out what an operation has done that would have led from one state to another, nil for
// the same, and has failed.
func (f *simFaults) after(before, s *simState, name string) {
	if s == nil {
		s = before.clone()
	}
	id, exists := before.names[name]
	s.partial = id
	f.states = append(f.states, s)
	if exists && s.names[name] == id && !bytes.Equal(s.data[id], before.data[id]) {
		s = s.clone()
		s.begun, s.partial = f.b.record.Now(), 0
		err := f.b.Unlink(ext4.RootIno, name)
		if f.aborted = f.written && err == unix.EROFS; f.aborted {
			return
		}
		check(f.t, err)
		delete(s.names, name)
		f.states = append(f.states, s)
	}
	f.data = nil
	last := len(f.states)
	done := f.matches(f.b, last-1, last-1, "f")
	if done == "" {
		return
	}
	undone := before.clone()
	undone.begun = f.b.record.Now()
	f.states = append(f.states, undone)
	if not := f.matches(f.b, last, last, "f"); not != "" {
		f.t.Errorf("operation on %s failed: it is neither done: %s\nnor not: %s", name, done, not)
	}
}
