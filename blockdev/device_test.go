package blockdev

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"asyncfsd/asyncq"
	"asyncfsd/internal/testenv"
)

// rig is a loop with a device, turned by the test itself, and a provider that notes completions.
type rig struct {
	t    testing.TB
	loop *asyncq.Loop
	id   asyncq.ProviderID
	got  map[uint32]int32
	dev  Device
}

func newRig(t testing.TB, engine asyncq.Engine, seed uint64) *rig {
	t.Helper()
	c := asyncq.Config{Engine: engine, Slots: 16, Seed: seed}
	if s, ok := engine.(*asyncq.Sim); ok {
		c.Now = s.Now
	}
	r := &rig{t: t, loop: asyncq.New(c), got: map[uint32]int32{}}
	r.id = r.loop.Register("test", r)
	t.Cleanup(func() {
		if err := r.loop.Close(); err != nil {
			t.Error(err)
		}
		if r.dev != nil {
			if err := r.dev.Close(); err != nil {
				t.Error(err)
			}
		}
	})
	return r
}

func simRig(t testing.TB, seed uint64) *rig { return newRig(t, asyncq.NewSim(seed), seed) }

func (r *rig) Resume(asyncq.Slot) {}

func (r *rig) Cancel(asyncq.Slot) {}

func (r *rig) Complete(tok asyncq.Token, res int32) {
	if _, twice := r.got[tok.Index()]; twice {
		r.t.Fatalf("request %d was answered twice", tok.Index())
	}
	r.got[tok.Index()] = res
}

// submit sends a request as number i.
func (r *rig) submit(dev Device, i int, io asyncq.IO) {
	io.Token = asyncq.MakeToken(r.id, 0, uint32(i))
	dev.Submit(io)
}

// answers turns the loop until n requests were answered, and forgets them.
func (r *rig) answers(n int) map[uint32]int32 {
	r.t.Helper()
	for turn := 0; len(r.got) < n; turn++ {
		if err := r.loop.Step(true); err != nil {
			r.t.Fatal(err)
		}
		if turn > 1_000_000 {
			r.t.Fatalf("%d of %d requests were answered", len(r.got), n)
		}
	}
	got := r.got
	r.got = map[uint32]int32{}
	return got
}

// do sends one request and waits for it.
func (r *rig) do(dev Device, io asyncq.IO) int32 {
	r.t.Helper()
	r.submit(dev, 0, io)
	return r.answers(1)[0]
}

// pages returns n bytes at the start of a page.
func pages(t testing.TB, n int) []byte {
	t.Helper()
	mem, err := mmapAnonymous(max(n, 1))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = unix.Munmap(mem) })
	return mem[:n]
}

func random(seed uint64, n int) []byte {
	b := make([]byte, n)
	rng := rand.New(rand.NewPCG(seed, 3))
	for i := range b {
		b[i] = byte(rng.Uint32())
	}
	return b
}

func realEngine(t testing.TB, kind string) asyncq.Engine {
	t.Helper()
	e, _, err := asyncq.NewEngine(kind, 8)
	if err != nil {
		testenv.Missing(t, err.Error())
	}
	return e
}

// bed is a kind of device in the table of tests.
type bed struct {
	name   string
	sector int
	make   func(t *testing.T, contents []byte, o Options) *rig
}

// fileBed makes a device over an image file.
func fileBed(kind string, o Options) func(*testing.T, []byte, Options) *rig {
	return func(t *testing.T, contents []byte, with Options) *rig {
		path := filepath.Join(t.TempDir(), "image")
		if err := os.WriteFile(path, contents, 0o600); err != nil {
			t.Fatal(err)
		}
		o.ReadOnly = with.ReadOnly
		return openRig(t, kind, path, o)
	}
}

func loopBed(kind string, sector int) func(*testing.T, []byte, Options) *rig {
	return func(t *testing.T, contents []byte, with Options) *rig {
		if len(contents)%sector != 0 {
			t.Skip("a loop device has whole sectors")
		}
		device, _ := testenv.LoopDevice(t, int64(len(contents)), sector)
		if err := os.WriteFile(device, contents, 0o600); err != nil {
			t.Fatal(err)
		}
		r := openRig(t, kind, device, with)
		if f := r.dev.(*File); !f.Direct() || !f.IsBlock() || f.SectorSize() != sector {
			t.Fatalf("direct %v, block %v, sector %d", f.Direct(), f.IsBlock(), f.SectorSize())
		}
		return r
	}
}

func openRig(t *testing.T, kind, path string, o Options) *rig {
	t.Helper()
	r := newRig(t, realEngine(t, kind), 0)
	dev, err := Open(path, r.loop.Engine(), o)
	if err != nil {
		t.Fatal(err)
	}
	r.dev = dev
	return r
}

func memBed(sector int, seed uint64) func(*testing.T, []byte, Options) *rig {
	return func(t *testing.T, contents []byte, with Options) *rig {
		r := simRig(t, seed)
		r.dev = NewMem(r.loop, "mem", bytes.Clone(contents), sector, with.ReadOnly)
		return r
	}
}

func beds() (all []bed) {
	for _, kind := range []string{"uring", "aio"} {
		all = append(all,
			bed{kind + " file", 512, fileBed(kind, Options{})},
			bed{kind + " file buffered", 512, fileBed(kind, Options{Buffered: true})},
			bed{kind + " loop 512", 512, loopBed(kind, 512)},
			bed{kind + " loop 4096", 4096, loopBed(kind, 4096)})
	}
	for seed := range uint64(3) {
		all = append(all, bed{fmt.Sprint("mem 512 seed ", seed), 512, memBed(512, seed)},
			bed{fmt.Sprint("mem 4096 seed ", seed), 4096, memBed(4096, seed)})
	}
	return all
}

// forBeds runs a test on every kind of device, of size bytes of random contents.
func forBeds(t *testing.T, size int, o Options, f func(t *testing.T, r *rig, model []byte)) {
	contents := random(1, size)
	for _, b := range beds() {
		t.Run(b.name, func(t *testing.T) { f(t, b.make(t, contents, o), bytes.Clone(contents)) })
	}
}

// TestDeviceData compares random requests, many at once, with a model.
func TestDeviceData(t *testing.T) {
	forBeds(t, 1<<20, Options{}, func(t *testing.T, r *rig, model []byte) {
		if r.dev.Size() != 1<<20 || r.dev.ReadOnly() {
			t.Fatalf("size %d, read-only %v", r.dev.Size(), r.dev.ReadOnly())
		}
		const parts = 32
		part, sector := len(model)/parts, r.dev.SectorSize()
		mem := pages(t, len(model))
		r.loop.Engine().AddBuffers(mem[len(mem)/2:])
		rng := rand.New(rand.NewPCG(2, 2))
		for round := range 20 {
			reads := map[int]int{}
			for p := range parts {
				off := rng.IntN(part / sector)
				n := (rng.IntN(part/sector-off) + 1) * sector
				off = p*part + off*sector
				io := asyncq.IO{Off: int64(off), Buf: mem[off : off+n]}
				switch rng.IntN(6) {
				case 0:
					io.Op = asyncq.OpFlush
				case 1, 2:
					io.Op, io.FUA = asyncq.OpWrite, rng.IntN(2) == 0
					copy(io.Buf, random(rng.Uint64(), n))
					copy(model[off:], io.Buf)
				case 3:
					io.Op, io.Buf, io.Len = asyncq.OpDiscard, nil, int64(n)
					clear(model[off : off+n])
				default:
					reads[off] = off + n
				}
				r.submit(r.dev, p, io)
			}
			for i, res := range r.answers(parts) {
				if res < 0 {
					t.Fatalf("round %d, request %d: %v", round, i, unix.Errno(-res))
				}
			}
			for from, to := range reads {
				if !bytes.Equal(mem[from:to], model[from:to]) {
					t.Fatalf("round %d: other bytes at %d to %d", round, from, to)
				}
			}
		}
	})
}

// TestDeviceEnd: a size that is no multiple of the sector.
func TestDeviceEnd(t *testing.T) {
	const size = 64<<10 + 700
	forBeds(t, size, Options{}, func(t *testing.T, r *rig, model []byte) {
		if r.dev.Size() != size {
			t.Fatalf("size %d", r.dev.Size())
		}
		sector := int64(r.dev.SectorSize())
		end := roundUp(size, sector)
		mem := pages(t, 32<<10)
		n := int(end - 48<<10)
		read := func() {
			t.Helper()
			for i := range mem {
				mem[i] = 0xcc
			}
			read := mem[:n-n%4096]
			if res := r.do(r.dev, asyncq.IO{Off: 48 << 10, Buf: read}); int(res) != len(read) {
				t.Fatalf("read before the end: %d", res)
			}
			last := int64(n) - int64(n)%sector - sector
			off := 48<<10 + last
			tail := mem[last:][:sector]
			if res := r.do(r.dev, asyncq.IO{Off: off, Buf: tail}); int64(res) != sector {
				t.Fatalf("read of the last sector: %d", res)
			}
			want := make([]byte, sector)
			copy(want, model[off:])
			if !bytes.Equal(tail, want) {
				t.Fatal("the last sector reads other bytes")
			}
		}
		read()
		copy(mem, random(7, int(4*sector)))
		off := end - 2*sector
		io := asyncq.IO{Op: asyncq.OpWrite, Off: off, Buf: mem[:2*sector], FUA: true}
		if res := r.do(r.dev, io); int64(res) != 2*sector {
			t.Fatalf("write of the last sectors: %d", res)
		}
		copy(model[off:], mem[:2*sector])
		read()
		if f, ok := r.dev.(*File); ok {
			got, err := os.ReadFile(f.Name())
			if err != nil || !bytes.Equal(got, model) {
				t.Fatalf("the file has %d bytes, or other ones: %v", len(got), err)
			}
		}
	})
}

func TestDeviceRefuses(t *testing.T) {
	for _, ro := range []bool{false, true} {
		forBeds(t, 64<<10, Options{ReadOnly: ro}, func(t *testing.T, r *rig, model []byte) {
			mem := pages(t, 128<<10)
			sector := r.dev.SectorSize()
			eio, einval, erofs := -int32(unix.EIO), -int32(unix.EINVAL), -int32(unix.EROFS)
			io := func(op asyncq.IOOp, off int64, buf []byte, n int64) asyncq.IO {
				return asyncq.IO{Op: op, Off: off, Buf: buf, Len: n}
			}
			tests := []struct {
				io   asyncq.IO
				want int32
			}{
				{io(asyncq.OpRead, 64<<10, mem[:4096], 0), eio},
				{io(asyncq.OpRead, 60<<10, mem[:8192], 0), eio},
				{io(asyncq.OpRead, 1<<62, mem[:4096], 0), eio},
				{io(asyncq.OpRead, 0, mem, 0), eio},
				{io(asyncq.OpRead, -4096, mem[:4096], 0), einval},
				{io(asyncq.OpRead, 1, mem[:4096], 0), einval},
				{io(asyncq.OpRead, 0, mem[:100], 0), einval},
				{io(asyncq.OpRead, 0, mem[16:16+sector], 0), einval},
				{io(asyncq.OpRead, 0, nil, 0), 0},
				{io(asyncq.OpWrite, 0, mem[:4096], 0), 4096},
				{io(asyncq.OpWrite, 64<<10, mem[:4096], 0), eio},
				{io(asyncq.OpDiscard, 0, nil, 4096), 0},
				{io(asyncq.OpDiscard, 0, nil, -4096), einval},
				{io(asyncq.OpDiscard, 4096, nil, 1<<62), eio},
				{io(asyncq.OpFlush, 12345, nil, 0), 0},
			}
			for _, c := range tests {
				changes := c.io.Op == asyncq.OpWrite || c.io.Op == asyncq.OpDiscard
				if ro && changes && c.want != einval {
					c.want = erofs
				}
				if res := r.do(r.dev, c.io); res != c.want {
					t.Errorf("%v of %d at %d: %d, want %d", c.io.Op, length(&c.io), c.io.Off, res,
						c.want)
				}
			}
			if ro {
				if res := r.do(r.dev, asyncq.IO{Buf: mem[:64<<10]}); res != 64<<10 ||
					!bytes.Equal(mem[:64<<10], model) {
					t.Error("a read-only device has changed")
				}
			}
		})
	}
}
