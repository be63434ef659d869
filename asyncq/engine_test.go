package asyncq

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"asyncfsd/internal/testenv"
)

const engineDepth = 8

// realEngines are the engines that do I/O; both must pass the same tests.
var realEngines = []string{"uring", "aio"}

func newEngine(t testing.TB, kind string, depth int) Engine {
	t.Helper()
	e, _, err := NewEngine(kind, depth)
	if errors.Is(err, unix.ENOSYS) || errors.Is(err, unix.EPERM) || errors.Is(err, unix.EACCES) {
		testenv.Missing(t, "not allowed here: "+err.Error())
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := e.Close(); err != nil {
			t.Error(err)
		}
	})
	return e
}

// forEngines runs a test for each engine.
func forEngines(t *testing.T, depth int, f func(t *testing.T, e Engine)) {
	for _, kind := range realEngines {
		t.Run(kind, func(t *testing.T) { f(t, newEngine(t, kind, depth)) })
	}
}

// target is what an engine reads and writes in a test.
type target struct {
	name   string
	open   func(t *testing.T) string
	flags  int
	sector int
}

func tempFile(t *testing.T) string {
	path := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(path, make([]byte, targetSize), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func loopOf(sector int) func(t *testing.T) string {
	return func(t *testing.T) string {
		device, _ := testenv.LoopDevice(t, targetSize, sector)
		return device
	}
}

const targetSize = 1 << 20

var targets = []target{
	{"buffered file", tempFile, 0, 1},
	{"direct file", tempFile, unix.O_DIRECT, 4096},
	{"loop 512", loopOf(512), unix.O_DIRECT, 512},
	{"loop 4096", loopOf(4096), unix.O_DIRECT, 4096},
}

func openTarget(t *testing.T, e Engine, path string, flags int) FileID {
	t.Helper()
	fd, err := unix.Open(path, flags|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	id, err := e.AddFile(fd)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = e.Close()
		_ = unix.Close(fd)
	})
	return id
}

// pages returns n bytes at the start of a page.
func pages(t testing.TB, n int) []byte {
	t.Helper()
	mem, err := unix.Mmap(-1, 0, n, unix.PROT_READ|unix.PROT_WRITE,
		unix.MAP_PRIVATE|unix.MAP_ANONYMOUS)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = unix.Munmap(mem) })
	return mem
}

// collect waits for n completions, by their index.
func collect(t testing.TB, e Engine, n int) map[uint32]int32 {
	t.Helper()
	got := map[uint32]int32{}
	out := make([]Completion, 16)
	for begin := time.Now(); len(got) < n; {
		k, err := e.Wait(time.Second, out)
		if err != nil {
			t.Fatal(err)
		}
		for _, c := range out[:k] {
			if _, twice := got[c.Token.Index()]; twice {
				t.Fatalf("%#x completed twice", c.Token)
			}
			got[c.Token.Index()] = c.Res
		}
		if time.Since(begin) > 30*time.Second {
			t.Fatalf("%d of %d completions came", len(got), n)
		}
	}
	return got
}

// TestEngineData compares random requests, more at once than the queue holds, with a model.
func TestEngineData(t *testing.T) {
	for _, where := range targets {
		t.Run(where.name, func(t *testing.T) {
			path := where.open(t)
			forEngines(t, engineDepth, func(t *testing.T, e Engine) {
				id := openTarget(t, e, path, unix.O_RDWR|where.flags)
				engineData(t, e, id, max(where.sector, 512))
			})
		})
	}
}

func engineData(t *testing.T, e Engine, id FileID, sector int) {
	const parts, partSize = 64, targetSize / 64 // one request at a time in each part
	model := make([]byte, targetSize)
	mem := pages(t, targetSize)
	e.AddBuffers(mem[:targetSize/2])
	rng := rand.New(rand.NewPCG(1, uint64(sector)))
	e.Submit(id, IO{Op: OpDiscard, Len: targetSize})
	if res := collect(t, e, 1)[0]; res != 0 {
		t.Fatalf("discard: %d", res)
	}
	for round := range 40 {
		want := map[uint32]int32{}
		reads := map[int][2]int{}
		for p := range parts {
			off := rng.IntN(partSize / sector)
			n := (rng.IntN(partSize/sector-off) + 1) * sector
			off = p*partSize + off*sector
			io := IO{Op: OpRead, Off: int64(off), Buf: mem[off : off+n],
				Token: MakeToken(1, uint32(round), uint32(p))}
			want[uint32(p)] = int32(n)
			switch rng.IntN(8) {
			case 0:
				io.Op, io.Buf, want[uint32(p)] = OpFlush, nil, 0
			case 1:
				io.Op, io.Buf, io.Len, want[uint32(p)] = OpDiscard, nil, int64(n), 0
				clear(model[off : off+n])
			case 2, 3, 4:
				io.Op, io.FUA = OpWrite, rng.IntN(3) == 0
				for i := range io.Buf {
					io.Buf[i] = byte(rng.Uint32())
				}
				copy(model[off:], io.Buf)
			default:
				clear(io.Buf)
				reads[p] = [2]int{off, off + n}
			}
			e.Submit(id, io)
		}
		for i, res := range collect(t, e, parts) {
			if res != want[i] {
				t.Fatalf("round %d, request %d: %d, want %d", round, i, res, want[i])
			}
		}
		for p, r := range reads {
			if !bytes.Equal(mem[r[0]:r[1]], model[r[0]:r[1]]) {
				t.Fatalf("round %d: part %d at %d reads other bytes", round, p, r[0])
			}
		}
	}
}

func TestEngineErrors(t *testing.T) {
	path := tempFile(t)
	forEngines(t, engineDepth, func(t *testing.T, e Engine) {
		ro := openTarget(t, e, path, unix.O_RDONLY)
		direct := openTarget(t, e, path, unix.O_RDONLY|unix.O_DIRECT)
		gone := openTarget(t, e, path, unix.O_RDONLY)
		e.RemoveFile(gone)
		mem := pages(t, 8192)
		requests := []struct {
			file FileID
			io   IO
			want int32
		}{
			{ro, IO{Op: OpWrite, Buf: mem[:512]}, -int32(unix.EBADF)},
			{ro, IO{Op: OpDiscard, Len: 512}, -int32(unix.EBADF)},
			{ro, IO{Op: OpRead, Off: targetSize - 100, Buf: mem[:512]}, 100},
			{ro, IO{Op: OpRead, Off: targetSize, Buf: mem[:512]}, 0},
			{ro, IO{Op: OpRead, Off: -1, Buf: mem[:512]}, -int32(unix.EINVAL)},
			{ro, IO{Op: OpFlush}, 0},
			{direct, IO{Op: OpRead, Off: 1, Buf: mem[:4096]}, -int32(unix.EINVAL)},
			{direct, IO{Op: OpRead, Buf: mem[1:4097]}, -int32(unix.EINVAL)},
			{gone, IO{Op: OpRead, Buf: mem[:512]}, -int32(unix.EBADF)},
		}
		for i, r := range requests {
			r.io.Token = MakeToken(1, 0, uint32(i))
			e.Submit(r.file, r.io)
		}
		e.Post(Completion{MakeToken(1, 0, uint32(len(requests))), 77})
		got := collect(t, e, len(requests)+1)
		for i, r := range requests {
			// A descriptor that is not writable: io_uring and AIO say EBADF; alignment of
			// memory is not demanded by every filesystem.
			if res := got[uint32(i)]; res != r.want && i != 7 {
				t.Errorf("%v at %d: %d, want %d", r.io.Op, r.io.Off, res, r.want)
			}
		}
		if got[uint32(len(requests))] != 77 {
			t.Error("what was posted did not come")
		}
		if again := openTarget(t, e, path, unix.O_RDONLY); again != gone {
			t.Errorf("file %d was removed, the next one is %d", gone, again)
		}
	})
}

func TestEngineWaitAndWake(t *testing.T) {
	forEngines(t, engineDepth, func(t *testing.T, e Engine) {
		out := make([]Completion, 4)
		wait := func(what string, timeout, least, most time.Duration) {
			t.Helper()
			begin := time.Now()
			n, err := e.Wait(timeout, out)
			for range 10 { // signals
				if d := time.Since(begin); n == 0 && err == nil && d < least {
					n, err = e.Wait(timeout-d, out)
				}
			}
			d := time.Since(begin)
			if n != 0 || err != nil || d < least || d > most {
				t.Fatalf("%s: %d completions, %v, after %v", what, n, err, d)
			}
		}
		wait("a look", 0, 0, time.Second)
		wait("a timeout", 20*time.Millisecond, 20*time.Millisecond, 5*time.Second)
		for range 3 {
			e.Wake()
			e.Wake()
			wait("woken before", time.Hour, 0, 5*time.Second)
			wait("one wake-up is one", 10*time.Millisecond, 10*time.Millisecond, 5*time.Second)
		}
		for range 100 {
			go func() {
				time.Sleep(time.Duration(rand.IntN(200)) * time.Microsecond)
				e.Wake()
			}()
			wait("woken meanwhile", time.Hour, 0, 5*time.Second)
		}
	})
}

// TestEnginePoll: a watch lasts, also when its completions found no room, and also beside a
// stream of others.
func TestEnginePoll(t *testing.T) {
	forEngines(t, 1, func(t *testing.T, e Engine) {
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		var fds [2]int
		if err := unix.Pipe2(fds[:], unix.O_CLOEXEC|unix.O_NONBLOCK); err != nil {
			t.Fatal(err)
		}
		token := MakeToken(9, 8, 7)
		e.Poll(fds[0], token)
		out, buf := make([]Completion, 3), make([]byte, 64)
		for round := range 20 {
			for range 1 + 10*(round%2) {
				if _, err := unix.Write(fds[1], buf[:1]); err != nil {
					t.Fatal(err)
				}
				if round%2 == 1 {
					runtime.Gosched()
				}
			}
			seen := false
			for turn := 0; !seen; turn++ {
				e.Post(Completion{MakeToken(1, 1, 1), 5})
				n, err := e.Wait(10*time.Millisecond, out)
				if err != nil || turn == 100 {
					t.Fatalf("round %d: the watch does not tell: %v", round, err)
				}
				for _, c := range out[:n] {
					seen = seen || c.Token == token && c.Res&unix.POLLIN != 0
				}
			}
			for {
				if _, err := unix.Read(fds[0], buf); err != nil {
					break
				}
			}
			for n := 1; n > 0; { // what is left of this round
				var err error
				if n, err = e.Wait(time.Millisecond, out); err != nil {
					t.Fatal(err)
				}
			}
		}
		_ = unix.Close(fds[1])
		_ = unix.Close(fds[0])
		if e.Name() == "aio" { // epoll refuses files
			f, err := os.Open("/dev/null")
			if err != nil {
				t.Fatal(err)
			}
			defer f.Close()
			e.Poll(int(f.Fd()), token)
			if n, err := e.Wait(time.Second, out); n != 1 || err != nil || out[0].Res >= 0 {
				t.Fatalf("poll of a file: %v %v", out[:n], err)
			}
		}
	})
}

// TestEngineClose: after Close the kernel touches no buffer any more.
func TestEngineClose(t *testing.T) {
	for _, kind := range realEngines {
		t.Run(kind, func(t *testing.T) {
			const n, size = 64, 1 << 20
			device, _ := testenv.LoopDevice(t, n*size, 512)
			mem := pages(t, n*size)
			for round := range 5 {
				e := newEngine(t, kind, 256)
				id := openTarget(t, e, device, unix.O_RDONLY|unix.O_DIRECT)
				if round%2 == 0 {
					e.AddBuffers(mem)
				}
				for i := range n {
					e.Submit(id, IO{Op: OpRead, Off: int64(i) * size,
						Buf: mem[i*size : (i+1)*size], Token: MakeToken(1, 0, uint32(i))})
				}
				if round > 1 { // else nothing has been submitted yet
					if _, err := e.Wait(0, make([]Completion, 1)); err != nil {
						t.Fatal(err)
					}
				}
				if err := e.Close(); err != nil {
					t.Fatal(err)
				}
				for i := range mem {
					mem[i] = 0xee
				}
				time.Sleep(20 * time.Millisecond)
				if i := bytes.IndexByte(mem, 0); i >= 0 {
					t.Fatalf("round %d: byte %d changed after Close", round, i)
				}
			}
		})
	}
}

// TestEngineThreads: flushes and writes into holes of a file, which the kernel cannot do without
// blocking, must not cost a thread each.
func TestEngineThreads(t *testing.T) {
	forEngines(t, 256, func(t *testing.T, e Engine) {
		path := filepath.Join(t.TempDir(), "holes")
		if err := os.WriteFile(path, nil, 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Truncate(path, 64<<20); err != nil {
			t.Fatal(err)
		}
		id := openTarget(t, e, path, unix.O_RDWR|unix.O_DIRECT)
		mem := pages(t, 4096)
		before := threads(t)
		const n = 256
		for i := range n {
			io := IO{Op: OpWrite, Off: int64(i) * 128 << 10, Buf: mem, FUA: i%2 == 0,
				Token: MakeToken(1, 0, uint32(i))}
			if i%8 == 0 {
				io.Op = OpFlush
			}
			e.Submit(id, io)
		}
		most, left := 0, n
		for out := make([]Completion, 4); left > 0; {
			k, err := e.Wait(-1, out)
			if err != nil {
				t.Fatal(err)
			}
			left -= k
			most = max(most, threads(t))
		}
		t.Logf("%d threads before, at most %d", before, most)
		if most > before+workersMax+workersUnboundMax {
			t.Errorf("%d threads with %d requests in flight, %d before", most, n, before)
		}
	})
}

func threads(t *testing.T) int {
	all, err := os.ReadDir("/proc/self/task")
	if err != nil {
		t.Fatal(err)
	}
	return len(all)
}

func TestEngineAllocs(t *testing.T) {
	path := tempFile(t)
	forEngines(t, 64, func(t *testing.T, e Engine) {
		id := openTarget(t, e, path, unix.O_RDWR|unix.O_DIRECT)
		mem := pages(t, 64<<10)
		e.AddBuffers(mem)
		out := make([]Completion, 64)
		turn := func() {
			for i := range 16 {
				e.Submit(id, IO{Op: IOOp(i % 2), Off: int64(i) * 4096, Buf: mem[i*4096:][:4096],
					Token: MakeToken(1, 0, uint32(i))})
			}
			e.Post(Completion{Token: 1})
			for left := 17; left > 0; {
				n, err := e.Wait(time.Second, out)
				if err != nil {
					t.Fatal(err)
				}
				left -= n
			}
		}
		turn()
		if n := testing.AllocsPerRun(100, turn); n != 0 {
			t.Errorf("%v allocations per turn", n)
		}
	})
}

func TestNewEngineKinds(t *testing.T) {
	if _, _, err := NewEngine("threads", 8); !errors.Is(err, unix.EINVAL) {
		t.Errorf("an unknown kind: %v", err)
	}
	for _, kind := range EngineKinds {
		e, why, err := NewEngine(kind, 8)
		if err != nil {
			t.Logf("%s: %v", kind, err)
			continue
		}
		if kind != "auto" && (e.Name() != kind || why != "") {
			t.Errorf("%s made %s, %q", kind, e.Name(), why)
		}
		if err := e.Close(); err != nil {
			t.Error(err)
		}
		if err := e.Close(); err != nil {
			t.Errorf("closed twice: %v", err)
		}
	}
}

// BenchmarkEngineRead is 4k random reads from a loop device over memory.
func BenchmarkEngineRead(b *testing.B) {
	for _, kind := range realEngines {
		for _, depth := range []int{1, 32} {
			b.Run(fmt.Sprintf("%s/depth=%d", kind, depth), func(b *testing.B) {
				benchmarkRead(b, kind, depth)
			})
		}
	}
}

func benchmarkRead(b *testing.B, kind string, depth int) {
	const size = 256 << 20
	device, file := testenv.LoopDevice(b, size, 512, "--direct-io=off")
	if err := os.WriteFile(file, bytes.Repeat([]byte{1}, size), 0o600); err != nil {
		b.Fatal(err)
	}
	e := newEngine(b, kind, 256)
	fd, err := unix.Open(device, unix.O_RDONLY|unix.O_DIRECT|unix.O_CLOEXEC, 0)
	if err != nil {
		b.Fatal(err)
	}
	defer unix.Close(fd)
	defer e.Close()
	id, err := e.AddFile(fd)
	if err != nil {
		b.Fatal(err)
	}
	mem := pages(b, depth*4096)
	e.AddBuffers(mem)
	rng := rand.New(rand.NewPCG(1, 2))
	out := make([]Completion, 64)
	submit := func(i uint32) {
		e.Submit(id, IO{Off: int64(rng.IntN(size/4096)) * 4096, Buf: mem[i*4096:][:4096],
			Token: MakeToken(1, 0, i)})
	}
	b.ReportAllocs()
	b.ResetTimer()
	for i := range depth {
		submit(uint32(i))
	}
	for done := 0; done < b.N; {
		n, err := e.Wait(-1, out)
		if err != nil {
			b.Fatal(err)
		}
		for _, c := range out[:n] {
			if c.Res != 4096 {
				b.Fatal(c.Res)
			}
			submit(c.Token.Index())
		}
		done += n
	}
}
