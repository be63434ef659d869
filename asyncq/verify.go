package asyncq

import "fmt"

// verify checks, between two turns of a loop, that every transport slot is in exactly one place:
// on the free list, on the run queue, or parked. It stops the program if not. Expensive: for
// builds with the invariants tag.
func (t *Table) verify() {
	free := 0
	for s := t.free; s != NoSlot; s = t.descs[s].next {
		if d := &t.descs[s]; d.state != Free || d.public || d.wants != 0 {
			panic(fmt.Sprintf("asyncq: slot %d is on the free list, but %v", s, d.state))
		}
		if free++; free > len(t.descs) {
			panic("asyncq: the free list has a loop")
		}
	}
	if free != t.freeCount {
		panic(fmt.Sprintf("asyncq: %d slots are free, counted %d", free, t.freeCount))
	}
	last := Slot(len(t.descs) - SlotsPublic) // public slots are claimed and freed under Loop.mu
	queued := 0
	for i := range t.runCount {
		s := t.run[(t.runHead+i)%len(t.run)]
		if t.descs[s].state != Queued {
			panic(fmt.Sprintf("asyncq: slot %d is on the run queue, but %v", s, t.descs[s].state))
		}
		if s < last {
			queued++
		}
	}
	var in [Done + 1]int
	for i := range t.descs[:last] {
		d := &t.descs[i]
		in[d.state]++
		if uint16(d.nodes) < d.wants {
			panic(fmt.Sprintf("asyncq: slot %d has %d wants on %d nodes", i, d.wants, d.nodes))
		}
	}
	if in[Free] != free || in[Queued] != queued || in[Running] != 0 {
		panic(fmt.Sprintf("asyncq: states %v, %d free, %d queued", in, free, queued))
	}
}
