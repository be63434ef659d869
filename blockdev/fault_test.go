package blockdev

import (
	"bytes"
	"testing"

	"golang.org/x/sys/unix"

	"asyncfsd/asyncq"
)

func faulty(t *testing.T, seed uint64, rules ...FaultRule) (*rig, *Fault, *Mem) {
	r := simRig(t, seed)
	mem := NewMem(r.loop, "mem", random(1, 64<<10), 512, false)
	return r, NewFault(r.loop, mem, seed, rules...), mem
}

func TestFaultFail(t *testing.T) {
	r, dev, mem := faulty(t, 1,
		FaultRule{Ops: FaultOn(asyncq.OpWrite), After: 2, Count: 2, Errno: unix.ENOSPC},
		FaultRule{Ops: FaultOn(asyncq.OpFlush), Count: -1})
	before := bytes.Clone(mem.Bytes())
	buf := pages(t, 4096)
	for i, want := range []int32{4096, 4096, -int32(unix.ENOSPC), -int32(unix.ENOSPC), 4096} {
		res := r.do(dev, asyncq.IO{Op: asyncq.OpWrite, Off: int64(i) * 4096, Buf: buf})
		if res != want {
			t.Errorf("write %d: %d, want %d", i, res, want)
		}
		changed := !bytes.Equal(mem.Bytes()[i*4096:][:4096], before[i*4096:][:4096])
		if changed != (want > 0) {
			t.Errorf("write %d: changed %v", i, changed)
		}
		if res := r.do(dev, asyncq.IO{Op: asyncq.OpFlush}); res != -int32(unix.EIO) {
			t.Errorf("flush %d: %d", i, res)
		}
		if res := r.do(dev, asyncq.IO{Buf: buf}); res != 4096 {
			t.Errorf("read %d: %d", i, res)
		}
		clear(buf)
	}
	if dev.Seen(asyncq.OpWrite) != 5 || dev.Seen(asyncq.OpFlush) != 5 || dev.Injected() != 7 {
		t.Errorf("seen %d and %d, injected %d", dev.Seen(asyncq.OpWrite), dev.Seen(asyncq.OpFlush),
			dev.Injected())
	}
}

func TestFaultPartial(t *testing.T) {
	for _, kind := range []FaultKind{FaultShort, FaultTorn, FaultLost} {
		for sectors := range 10 {
			rule := FaultRule{Kind: kind, Sectors: sectors, Off: 4096, Len: 512}
			r, dev, mem := faulty(t, 1, rule)
			before := bytes.Clone(mem.Bytes())
			buf := pages(t, 4096)
			if res := r.do(dev, asyncq.IO{Op: asyncq.OpWrite, Off: 8192, Buf: buf}); res != 4096 {
				t.Fatalf("a write elsewhere: %d", res)
			}
			clear(before[8192:12288])
			moved, want := min(sectors, 8)*512, int32(0)
			switch kind {
			case FaultShort:
				moved = max(moved, 512)
				want = int32(moved)
			case FaultTorn:
				want = -int32(unix.EIO)
			case FaultLost:
				moved, want = 0, 4096
			}
			if res := r.do(dev, asyncq.IO{Op: asyncq.OpWrite, Off: 4096, Buf: buf}); res != want {
				t.Errorf("kind %d, %d sectors: %d, want %d", kind, sectors, res, want)
			}
			clear(before[4096 : 4096+moved])
			if !bytes.Equal(mem.Bytes(), before) {
				t.Errorf("kind %d, %d sectors: other bytes", kind, sectors)
			}
			if n := dev.requests.live(); n != 0 {
				t.Errorf("%d requests are left", n)
			}
		}
	}
}

// TestFaultDelay: late requests overtake each other, and all are answered, rightly.
func TestFaultDelay(t *testing.T) {
	overtaken := 0
	for seed := range uint64(10) {
		r, dev, mem := faulty(t, seed+1, FaultRule{Kind: FaultDelay, Count: -1, Turns: 50})
		buf := pages(t, 64<<10)
		for i := range 16 {
			r.submit(dev, i, asyncq.IO{Off: int64(i) * 4096, Buf: buf[i*4096:][:4096]})
		}
		last := uint32(0)
		for n := 1; n <= 16; n++ {
			for i, res := range r.answers(1) {
				if res != 4096 {
					t.Fatalf("request %d: %d", i, res)
				}
				if i < last {
					overtaken++
				}
				last = i
			}
		}
		if !bytes.Equal(buf, mem.Bytes()) {
			t.Error("other bytes")
		}
	}
	if overtaken == 0 {
		t.Error("everything came in order")
	}
}
