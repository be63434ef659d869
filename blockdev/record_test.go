package blockdev

import (
	"bytes"
	"slices"
	"testing"

	"golang.org/x/sys/unix"
	"pgregory.net/rapid"

	"asyncfsd/asyncq"
)

func recorded(t testing.TB, seed uint64, size int) (*rig, *Record, *Mem) {
	r := simRig(t, seed)
	mem := NewMem(r.loop, "mem", random(1, size), 512, false)
	return r, NewRecord(r.loop, mem, mem.Bytes()), mem
}

// fill returns n sectors full of b at the start of a page.
func fill(t testing.TB, n int, b byte) []byte {
	mem := pages(t, n*512)
	for i := range mem {
		mem[i] = b
	}
	return mem
}

// TestRecordStory follows one device through time.
func TestRecordStory(t *testing.T) {
	r, dev, mem := recorded(t, 1, 8192)
	base := bytes.Clone(mem.Bytes())
	write := func(sector, n int, b byte, fua bool) {
		t.Helper()
		res := r.do(dev, asyncq.IO{Op: asyncq.OpWrite, Off: int64(sector) * 512,
			Buf: fill(t, n, b), FUA: fua})
		if res != int32(n)*512 {
			t.Fatal(res)
		}
	}
	expect := func(what string, image []byte, sectors ...byte) {
		t.Helper()
		want := bytes.Clone(base)
		for i, b := range sectors {
			if b != 0 {
				copy(want[i*512:(i+1)*512], bytes.Repeat([]byte{b}, 512))
			}
		}
		if !bytes.Equal(image, want) {
			t.Errorf("%s: other bytes", what)
		}
	}
	write(0, 2, 'a', false)
	now := dev.Now()
	expect("nothing flushed", dev.Image(now, KeepNone))
	expect("all kept", dev.Image(now, KeepAll), 'a', 'a')
	expect("a sector kept", dev.Image(now, func(_, s int) bool { return s == 1 }), 0, 'a')
	write(3, 1, 'f', true)
	expect("FUA", dev.Image(dev.Now(), KeepNone), 0, 0, 0, 'f')
	if res := r.do(dev, asyncq.IO{Op: asyncq.OpFlush}); res != 0 {
		t.Fatal(res)
	}
	expect("flushed", dev.Image(dev.Now(), KeepNone), 'a', 'a', 0, 'f')
	write(1, 2, 'b', false)
	r.submit(dev, 0, asyncq.IO{Op: asyncq.OpFlush})
	expect("a flush under way", dev.Image(dev.Now(), KeepNone), 'a', 'a', 0, 'f')
	r.answers(1)
	expect("flushed again", dev.Image(dev.Now(), KeepNone), 'a', 'b', 'b', 'f')
	expect("back in time", dev.Image(now, KeepAll), 'a', 'a')
	if res := r.do(dev, asyncq.IO{Op: asyncq.OpDiscard, Off: 512, Len: 512}); res != 0 {
		t.Fatal(res)
	}
	expect("discard lost", dev.Image(dev.Now(), KeepNone), 'a', 'b', 'b', 'f')
	clear(base[512:1024])
	expect("discard kept", dev.Image(dev.Now(), KeepAll), 'a', 0, 'b', 'f')
	if b := dev.Boundaries(); len(b) != 3 || !slices.IsSorted(b) {
		t.Errorf("boundaries %v", b)
	}
}

// TestRecordFailed: a write or flush that failed makes nothing durable.
func TestRecordFailed(t *testing.T) {
	r := simRig(t, 1)
	mem := NewMem(r.loop, "mem", make([]byte, 4096), 512, false)
	bad := NewFault(r.loop, mem, 1, FaultRule{Ops: FaultOn(asyncq.OpFlush)},
		FaultRule{Ops: FaultOn(asyncq.OpWrite), After: 1})
	dev := NewRecord(r.loop, bad, mem.Bytes())
	w := asyncq.IO{Op: asyncq.OpWrite, Buf: fill(t, 1, 'x'), FUA: false}
	if res := r.do(dev, w); res != 512 {
		t.Fatal(res)
	}
	if res := r.do(dev, asyncq.IO{Op: asyncq.OpFlush}); res != -int32(unix.EIO) {
		t.Fatal(res)
	}
	w.Off, w.FUA = 512, true
	if res := r.do(dev, w); res != -int32(unix.EIO) {
		t.Fatal(res)
	}
	if image := dev.Image(dev.Now(), KeepNone); !bytes.Equal(image, make([]byte, 4096)) {
		t.Error("what failed is durable")
	}
	if len(dev.Boundaries()) != 0 {
		t.Errorf("boundaries %v", dev.Boundaries())
	}
}

// TestRecordModel: each sector of a crash image has its durable value or a later one, by a model
// that keeps the possible values of each sector.
func TestRecordModel(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		const sectors = 8
		seed := rapid.Uint64Range(1, 1<<32).Draw(rt, "seed")
		r, dev, mem := recorded(t, seed, sectors*512)
		possible := make([][][]byte, sectors) // the first is the durable one
		for i := range possible {
			possible[i] = [][]byte{bytes.Clone(mem.Bytes()[i*512:][:512])}
		}
		settle := func(i int) { possible[i] = possible[i][len(possible[i])-1:] }
		for step := range rapid.IntRange(1, 30).Draw(rt, "steps") {
			if rapid.IntRange(0, 4).Draw(rt, "flush") == 0 {
				r.do(dev, asyncq.IO{Op: asyncq.OpFlush})
				for i := range possible {
					settle(i)
				}
				continue
			}
			at := rapid.IntRange(0, sectors-1).Draw(rt, "at")
			n := rapid.IntRange(1, sectors-at).Draw(rt, "n")
			fua := rapid.IntRange(0, 4).Draw(rt, "fua") == 0
			buf := fill(t, n, byte(step+1))
			r.do(dev, asyncq.IO{Op: asyncq.OpWrite, Off: int64(at) * 512, Buf: buf, FUA: fua})
			for i := at; i < at+n; i++ {
				possible[i] = append(possible[i], bytes.Clone(buf[:512]))
				if fua {
					settle(i)
				}
			}
		}
		for k := range uint64(5) {
			image := dev.Image(dev.Now(), KeepRandom(seed+k))
			for i, values := range possible {
				if !slices.ContainsFunc(values, func(v []byte) bool {
					return bytes.Equal(v, image[i*512:][:512])
				}) {
					rt.Fatalf("sector %d holds what it cannot", i)
				}
			}
		}
		if !bytes.Equal(dev.Image(dev.Now(), KeepAll), mem.Bytes()) {
			rt.Fatal("all kept is not what the device holds")
		}
		_ = r.loop.Close()
	})
}
