package vfs_test

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"

	"golang.org/x/sys/unix"

	"asyncfsd/asyncq"
	"asyncfsd/blockdev"
	"asyncfsd/vfs"
	"asyncfsd/vfs/ext4"
)

// The concurrent simulation: several workers, each with files of its own in one directory, have
// operations under way at once, on a filesystem so small that blocks are used again all the time,
// and now and then there are none. Everything is a function of the seed: which worker goes on,
// which request completes, which slot runs. Each worker knows by itself what it must see, and what
// a power cut may leave of it; see simRun for that.

const (
	concWorkers = 5
	concFiles   = 5 // names of each worker
	concSize    = 60_000
	// concTurns is how many turns of the loop an operation may take.
	concTurns = 100_000
)

// concCall is an operation of a worker.
type concCall struct {
	fill      func(op *vfs.Op)
	data      []byte // payload
	submitted bool
	done      bool
	errno     unix.Errno
	n         int
	attr      vfs.Attr
	payload   []byte // what was read
}

// concFront begins the workers' operations and takes their results.
type concFront struct {
	fs    *vfs.FS
	id    vfs.FrontID
	calls map[asyncq.Slot]*concCall
	held  map[ext4.Ino]bool // files without a name that a worker has open
}

// Reply notes a result.
func (f *concFront) Reply(s asyncq.Slot, op *vfs.Op) {
	c := f.calls[s]
	delete(f.calls, s)
	c.done, c.errno, c.n, c.attr = true, op.Errno, int(op.N), op.Attr
	if op.Code == vfs.OpRead && op.Errno == 0 && op.N > 0 {
		c.payload = slices.Clone(f.fs.Arena().Payload(op.Buf)[op.BufOff:][:op.N])
	}
	f.fs.Done(s)
}

// AddDirent is never asked for.
func (f *concFront) AddDirent(*vfs.Op, []byte, *ext4.Dirent, *vfs.Attr) bool { return false }

// Held says what is open.
func (f *concFront) Held(ino ext4.Ino) bool { return f.held[ino] }

// begin submits a call, if there is room for it.
func (f *concFront) begin(c *concCall) bool {
	buf := blockdev.BufID(0)
	if len(c.data) > 0 {
		if buf = f.fs.Arena().Get(len(c.data)); buf == 0 {
			return false
		}
		copy(f.fs.Arena().Payload(buf), c.data)
	}
	s, op := f.fs.Claim(f.id)
	if s == asyncq.NoSlot {
		if buf != 0 {
			f.fs.Arena().Put(f.fs.Loop().Table, buf)
		}
		return false
	}
	c.fill(op)
	op.Buf, c.submitted = buf, true
	f.calls[s] = c
	f.fs.Submit(s)
	return true
}

// concRun is one run of the simulation.
type concRun struct {
	t       *testing.T
	b       *memBed
	rng     *rand.Rand
	front   *concFront
	workers []*concWorker
	// arg is that of all writes.
	arg uint32
	// faulty says that the device fails now and then.
	faulty bool
}

// concWorker is one worker: a goroutine that runs only when the scheduler waits for it.
type concWorker struct {
	*simRun       // its model
	run           *concRun
	number        int
	calls         []*concCall
	resume, yield chan struct{}
	over          bool
	// began is when the present operation did, lost that it has failed with the device: what it has
	// left nobody knows, and the worker has ended.
	began int
	lost  bool
	// open is a file without a name, and which one of the model. What is written to it may show in
	// the file that still has its name, after a power cut.
	open   ext4.Ino
	openID int
}

// do has calls done at once, and returns when all are.
func (w *concWorker) do(calls ...*concCall) {
	w.calls = calls
	w.yield <- struct{}{}
	<-w.resume
}

// one does one call.
func (w *concWorker) one(data []byte, fill func(op *vfs.Op)) *concCall {
	c := &concCall{fill: fill, data: data}
	w.do(c)
	return c
}

// schedule runs the workers until all are over.
func (r *concRun) schedule(ops int) {
	for _, w := range r.workers {
		go func() {
			<-w.resume
			for i := 0; i < ops && !r.t.Failed() && !w.lost; i++ {
				w.began = r.b.record.Now()
				w.operation()
			}
			w.over = true
			w.yield <- struct{}{}
		}()
		w.turn()
	}
	for turns := 0; ; {
		var waiting []*concCall
		busy := false
		for _, w := range r.workers {
			for _, c := range w.calls {
				if !c.submitted {
					waiting = append(waiting, c)
				}
			}
			busy = busy || !w.over
		}
		if !busy {
			return
		}
		begun := len(waiting) > 0 && r.rng.IntN(3) > 0 &&
			r.front.begin(waiting[r.rng.IntN(len(waiting))])
		if !begun {
			check(r.t, r.b.loop.Step(false))
		}
		if turns++; turns > concTurns {
			r.t.Fatal("an operation waits for what never comes")
		}
		for _, i := range r.rng.Perm(len(r.workers)) {
			w := r.workers[i]
			if !w.over && !slices.ContainsFunc(w.calls, func(c *concCall) bool { return !c.done }) {
				turns = 0
				w.turn()
			}
		}
	}
}

// turn lets a worker go on until it waits for calls, or is over.
func (w *concWorker) turn() {
	w.calls = nil
	w.resume <- struct{}{}
	<-w.yield
}

// fail ends the run.
func (w *concWorker) fail(format string, args ...any) {
	if w.lost {
		return
	}
	w.t.Errorf("worker %d, operation %d: %s", w.number, len(w.states), fmt.Sprintf(format, args...))
}

// ok says whether a call went well; what else but a full filesystem, or a device that fails, may
// happen is a failure.
func (w *concWorker) ok(what string, c *concCall) bool {
	switch {
	case c.errno == 0 || c.errno == unix.ENOSPC:
	case w.run.faulty && (c.errno == unix.EIO || c.errno == unix.EROFS):
		w.lost = true
	default:
		w.fail("%s: %v", what, c.errno)
	}
	return c.errno == 0
}

// next begins a new state, which push makes the present one.
func (w *concWorker) next() *simState {
	s := w.states[len(w.states)-1].clone()
	s.begun, s.partial = w.b.record.Now(), 0
	return s
}

func (w *concWorker) push(s *simState) { w.states = append(w.states, s) }

// operation does a random one.
func (w *concWorker) operation() {
	s := w.next()
	name := fmt.Sprintf("w%d-%d", w.number, w.rng.IntN(concFiles))
	id, exists := s.names[name]
	switch k := w.rng.IntN(40); {
	case k < 2:
		w.everything()
	case k < 6:
		w.others(s)
	case k < 8:
		w.nameless(s)
	case !exists:
		w.create(s, name)
	case k < 12:
		w.write(s, id, 1)
	case k < 18:
		w.write(s, id, 2+w.rng.IntN(3))
	case k < 22:
		w.resize(s, id)
	case k < 25:
		w.unlink(s, name, id)
	case k < 28:
		w.rename(s, name, id)
	case k < 31:
		w.allocate(s, id)
	case k < 33:
		ino, value := w.inos[id], make([]byte, 1+w.rng.IntN(1<<(4+w.rng.IntN(9))))
		w.ok("setxattr", w.one(value, func(op *vfs.Op) {
			op.Code, op.Node, op.Size = vfs.OpSetxattr, ino, uint32(len(value))
			op.SetName([]byte("user.key"))
		}))
	case k < 36:
		w.read(s, id)
	default:
		state, data := w.touched[id], w.written[id]
		if w.ok("fsync", w.one(nil, syncOf(w.inos[id]))) {
			w.promises = append(w.promises, promise{w.b.record.Now(), state, id, data})
		}
	}
}

func syncOf(ino ext4.Ino) func(op *vfs.Op) {
	return func(op *vfs.Op) { op.Code, op.Node = vfs.OpFsync, ino }
}

// everything makes durable what all workers have done so far.
func (w *concWorker) everything() {
	var states []int
	for _, o := range w.run.workers {
		states = append(states, len(o.states)-1)
	}
	if w.ok("sync", w.one(nil, syncOf(0))) {
		for i, o := range w.run.workers {
			o.promises = append(o.promises, promise{point: w.b.record.Now(), state: states[i]})
		}
	}
}

// others makes or removes a directory or a long symbolic link: blocks that are metadata.
func (w *concWorker) others(s *simState) {
	name := fmt.Sprintf("w%d-x%d", w.number, w.rng.IntN(3))
	id, exists := s.names[name]
	isDir := w.rng.IntN(2) == 0
	var target []byte
	if !exists && !isDir {
		target = bytes.Repeat([]byte("t"), 100+w.rng.IntN(800))
	}
	c := w.one(target, func(op *vfs.Op) {
		op.Node, op.Mode = ext4.RootIno, 0o755
		op.SetName([]byte(name))
		switch {
		case exists && id == simDir:
			op.Code = vfs.OpRmdir
		case exists:
			op.Code = vfs.OpUnlink
		case isDir:
			op.Code = vfs.OpMkdir
		default:
			op.Code, op.Size = vfs.OpSymlink, uint32(len(target))
		}
	})
	if !w.ok("other "+name, c) {
		return
	}
	switch {
	case exists:
		delete(s.names, name)
	case isDir:
		s.names[name] = simDir
	default:
		s.names[name] = simOther
	}
	w.push(s)
}

func (w *concWorker) create(s *simState, name string) {
	c := w.one(nil, func(op *vfs.Op) {
		op.Code, op.Node, op.Mode = vfs.OpMknod, ext4.RootIno, unix.S_IFREG|0o644
		op.SetName([]byte(name))
	})
	if !w.ok("create "+name, c) {
		return
	}
	w.files++
	w.inos[w.files] = c.attr.Ino
	s.names[name], s.data[w.files] = w.files, nil
	w.touched[w.files] = len(w.states)
	w.push(s)
}

// attr is what stat says of a file.
func (w *concWorker) attr(ino ext4.Ino) vfs.Attr {
	c := w.one(nil, func(op *vfs.Op) { op.Code, op.Node = vfs.OpGetattr, ino })
	w.ok("getattr", c)
	return c.attr
}

// write writes n pieces of a file at once, which do not overlap, and may have it made durable in
// the middle.
func (w *concWorker) write(s *simState, id, n int) {
	ino, state, data := w.inos[id], w.touched[id], w.written[id]
	before := w.attr(ino)
	s.begun = w.b.record.Now()
	calls := make([]*concCall, n)
	offs := make([]int, n)
	each := concSize / n
	for i := range calls {
		offs[i] = i*each + w.rng.IntN(each-1)
		if end := len(s.data[id]); w.rng.IntN(3) == 0 && end >= i*each && end < (i+1)*each-1 {
			offs[i] = end
		}
		size := min(1+w.rng.IntN(9000), (i+1)*each-offs[i])
		off := uint64(offs[i])
		calls[i] = &concCall{data: bytes.Repeat([]byte{byte(1 + w.rng.IntN(255))}, size),
			fill: func(op *vfs.Op) {
				op.Code, op.Node, op.Off, op.Size = vfs.OpWrite, ino, off, uint32(size)
				op.Arg = w.run.arg
			}}
	}
	all := slices.Clone(calls)
	if w.rng.IntN(3) == 0 {
		all = append(all, &concCall{fill: syncOf(ino)})
	}
	w.do(all...)
	if len(all) > n && w.ok("fsync", all[n]) {
		w.promises = append(w.promises, promise{w.b.record.Now(), state, id, data})
	}
	for i, c := range calls {
		w.ok("write", c)
		calls[i].data = c.data[:c.n]
	}
	w.written[id] = len(w.states) + 1<<n - 2
	if w.attr(ino) != before {
		w.touched[id] = w.written[id]
	}
	w.subsets(s, id, calls, offs)
}

// subsets pushes the states that a power cut in the middle of several writes may leave: any of them
// is done, and of the last one a part. The last state has them all.
func (w *concWorker) subsets(s *simState, id int, calls []*concCall, offs []int) {
	for set := 1; set < 1<<len(calls); set++ {
		t := s.clone()
		t.begun, t.partial = s.begun, id
		all := slices.Clone(s.data[id])
		for i, c := range calls {
			if set>>i&1 == 0 || len(c.data) == 0 {
				continue
			}
			if end := offs[i] + len(c.data); end > len(all) {
				all = append(all, make([]byte, end-len(all))...)
			}
			copy(all[offs[i]:], c.data)
		}
		t.data[id] = all
		w.push(t)
	}
}

func (w *concWorker) resize(s *simState, id int) {
	size := w.rng.IntN(concSize)
	if w.rng.IntN(3) == 0 {
		size = 0
	}
	ino := w.inos[id]
	c := w.one(nil, func(op *vfs.Op) {
		op.Code, op.Node, op.Valid, op.Set.Size = vfs.OpSetattr, ino, vfs.SetSize, uint64(size)
	})
	if !w.ok("truncate", c) {
		return
	}
	p := make([]byte, size)
	copy(p, s.data[id])
	s.data[id] = p
	w.touched[id], w.written[id] = len(w.states), len(w.states)
	w.push(s)
}

// unlink takes the name of a file away, which may stay open.
func (w *concWorker) unlink(s *simState, name string, id int) {
	hold := w.open == 0 && w.rng.IntN(2) == 0
	if hold {
		w.open, w.openID = w.inos[id], id
		w.run.front.held[w.open] = true
	}
	c := w.one(nil, func(op *vfs.Op) {
		op.Code, op.Node = vfs.OpUnlink, ext4.RootIno
		op.SetName([]byte(name))
	})
	if w.ok("unlink", c) {
		delete(s.names, name)
		w.push(s)
	}
}

// nameless uses the open file without a name, or closes it.
func (w *concWorker) nameless(s *simState) {
	ino, id := w.open, w.openID
	if ino == 0 {
		return
	}
	if w.rng.IntN(3) == 0 {
		w.release()
		return
	}
	p := bytes.Repeat([]byte{byte(1 + w.rng.IntN(255))}, 1+w.rng.IntN(5000))
	off := len(s.data[id])
	c := w.one(p, func(op *vfs.Op) {
		op.Code, op.Node, op.Off, op.Size = vfs.OpWrite, ino, uint64(off), uint32(len(p))
		op.Arg = w.run.arg
	})
	w.ok("write without a name", c)
	s.data[id] = append(slices.Clone(s.data[id]), p[:c.n]...)
	w.push(s)
	w.compare(ino, s.data[id])
}

// release closes the file without a name.
func (w *concWorker) release() {
	if w.open != 0 {
		w.run.front.held[w.open] = false
		w.b.fs.Evict(w.open) // NB: as good as never there is no slot; then the unmount does it
	}
	w.open = 0
}

func (w *concWorker) rename(s *simState, name string, id int) {
	to := fmt.Sprintf("w%d-%d", w.number, w.rng.IntN(concFiles))
	c := w.one(nil, func(op *vfs.Op) {
		op.Code, op.Node, op.Node2 = vfs.OpRename, ext4.RootIno, ext4.RootIno
		op.SetName([]byte(name))
		op.SetName2([]byte(to))
	})
	if !w.ok("rename", c) || to == name {
		return
	}
	delete(s.names, name)
	s.names[to] = id
	w.touched[id] = len(w.states)
	w.push(s)
}

// allocate punches a hole, zeroes a range or allocates one.
func (w *concWorker) allocate(s *simState, id int) {
	off, n := w.rng.IntN(concSize), 1+w.rng.IntN(20000)
	mode := []uint32{unix.FALLOC_FL_KEEP_SIZE | unix.FALLOC_FL_PUNCH_HOLE,
		unix.FALLOC_FL_KEEP_SIZE | unix.FALLOC_FL_ZERO_RANGE, 0}[w.rng.IntN(3)]
	ino := w.inos[id]
	c := w.one(nil, func(op *vfs.Op) {
		op.Code, op.Node, op.Arg = vfs.OpFallocate, ino, mode
		op.Off, op.Len = uint64(off), uint64(n)
	})
	if c.errno == unix.EOPNOTSUPP { // a block map
		return
	}
	w.ok("fallocate", c)
	p := slices.Clone(s.data[id])
	if size := int(w.attr(ino).Size); mode == 0 && size > len(p) { // also a part of it
		p = append(p, make([]byte, size-len(p))...)
	} else if mode != 0 && off < len(p) && c.errno == 0 {
		clear(p[off:min(off+n, len(p))])
	} else if mode != 0 && c.errno != 0 { // any part of it
		p = w.contents(ino, len(p))
	}
	s.data[id], s.partial = p, id
	w.touched[id], w.written[id] = len(w.states), len(w.states)
	w.push(s)
}

// contents reads n bytes of a file.
func (w *concWorker) contents(ino ext4.Ino, n int) []byte {
	if n == 0 {
		return nil
	}
	c := w.one(nil, func(op *vfs.Op) {
		op.Code, op.Node, op.Size = vfs.OpRead, ino, uint32(n)
	})
	w.ok("read", c)
	return c.payload
}

func (w *concWorker) read(s *simState, id int) { w.compare(w.inos[id], s.data[id]) }

// compare reads a file.
func (w *concWorker) compare(ino ext4.Ino, want []byte) {
	have := w.contents(ino, concSize+20000)
	if bytes.Equal(have, want) {
		return
	}
	// A write that was replied to before may have failed since: then fsync says so.
	if w.run.faulty && w.run.arg == vfs.WriteBehind && !w.ok("fsync", w.one(nil, syncOf(ino))) {
		return
	}
	at := 0
	for at < min(len(have), len(want)) && have[at] == want[at] {
		at++
	}
	w.fail("inode %d has %d bytes instead of %d, different from byte %d on", ino, len(have),
		len(want), at)
}

// cut checks what a power cut leaves of every worker's files.
func (r *concRun) cut(point int, keep blockdev.Keep) {
	r.left(r.b.image(point, keep), point, fmt.Sprint("power cut at ", point))
}

// left checks what there is of every worker's files in what a point has left.
func (r *concRun) left(image []byte, point int, when string) {
	cutAgain(r.t, image, r.rng, when, func(b *memBed, when string) {
		for _, w := range r.workers {
			if w.lost && w.began <= point {
				continue
			}
			first, last := w.between(point)
			if why := w.matches(b, first, last, fmt.Sprintf("w%d-", w.number)); why != "" {
				r.t.Errorf("%s, worker %d: none of the states %d to %d: %s", when, w.number, first,
					last, why)
			}
		}
	})
}

// concKinds are the filesystems.
var concKinds = map[string][]string{
	"ext4-1k":    {"-t", "ext4", "-b", "1024", "-J", "size=1"},
	"ext4-2k":    {"-t", "ext4", "-b", "2048", "-J", "size=2"},
	"ext4-4k":    {"-t", "ext4", "-b", "4096", "-J", "size=4"},
	"ext3-1k":    {"-t", "ext3", "-b", "1024", "-J", "size=1"},
	"no-journal": {"-t", "ext4", "-b", "1024", "-O", "^has_journal"},
	"bigalloc":   {"-t", "ext4", "-b", "1024", "-J", "size=1", "-O", "bigalloc", "-C", "4096"},
	"inline": {"-t", "ext4", "-b", "1024", "-J", "size=1", "-O", "inline_data,ea_inode", "-I",
		"512"},
	"quota": {"-t", "ext4", "-b", "1024", "-J", "size=1", "-O", "quota,project", "-E",
		"quotatype=usrquota:grpquota:prjquota"},
}

// concSizes are how large they are, in KiB: a little more than twice the journal, since mke2fs
// makes none in less.
var concSizes = map[string]int64{"ext4-1k": 2200, "ext4-2k": 4400, "ext4-4k": 8800,
	"ext3-1k": 2200, "no-journal": 1100, "bigalloc": 3000, "inline": 2300, "quota": 2300}

// TestConcurrent runs the concurrent simulation. The size of the cache, the number of slots,
// whether every access stalls once, and whether writes wait for the device, are functions of the
// seed, too.
func TestConcurrent(t *testing.T) {
	forConcKinds(t, simSeedList(), func(t *testing.T, s memSetting, base []byte, journal bool) {
		r := concurrent(t, s, base)
		defer r.b.close()
		for _, w := range r.workers {
			if last := len(w.states) - 1; !t.Failed() {
				w.data = nil
				if why := w.matches(r.b, last, last, fmt.Sprintf("w%d-", w.number)); why != "" {
					t.Errorf("worker %d, in the end: %s", w.number, why)
				}
			}
			w.release()
		}
		if journal {
			r.cuts()
		}
		if !t.Failed() {
			check(t, r.b.fs.Unmount())
			fsckImage(t, r.b.data, "-fn", "after unmounting")
		}
	})
}

// forConcKinds runs something on each kind of filesystem with each of some seeds.
func forConcKinds(t *testing.T, seeds []uint64, run func(t *testing.T, s memSetting, base []byte,
	journal bool)) {
	for name, args := range concKinds {
		base := formatted(t, concSizes[name]<<10, append(args, "-N", "64", "-m", "0")...)
		for _, seed := range seeds {
			t.Run(fmt.Sprintf("%s/%d", name, seed), func(t *testing.T) {
				run(t, memSetting{seed: seed, stall: seed%3 == 0, slots: []int{0, 3, 16}[seed%3],
					cache: []int{0, 4096}[seed%2], sync: seed%11 == 0}, slices.Clone(base),
					name != "no-journal")
			})
		}
	}
}

// concurrent runs the workers on a filesystem. The caller closes it.
func concurrent(t *testing.T, setting memSetting, data []byte) *concRun {
	t.Helper()
	b := must[*memBed](t)(setting.open(data))
	b.fault.SetRules(setting.later...)
	r := &concRun{t: t, b: b, rng: rand.New(rand.NewPCG(setting.seed, 17)),
		faulty: len(setting.later) > 0, front: &concFront{fs: b.fs,
			calls: map[asyncq.Slot]*concCall{}, held: map[ext4.Ino]bool{}}}
	if setting.seed%4 >= 2 {
		r.arg = vfs.WriteBehind
	}
	r.front.id = b.fs.AddFront(r.front)
	for i := range concWorkers {
		w := &concWorker{simRun: newSimRun(t, b, setting.seed*100+uint64(i)), run: r, number: i,
			resume: make(chan struct{}), yield: make(chan struct{})}
		r.workers = append(r.workers, w)
	}
	r.schedule(*simOps / 2)
	return r
}

// cuts cuts the power at several points.
func (r *concRun) cuts() {
	points := r.b.record.Boundaries()
	for i := 0; i < *simCuts && !r.t.Failed(); i++ {
		point := r.rng.IntN(r.b.record.Now() + 1)
		if len(points) > 0 && i%2 == 0 {
			point = points[r.rng.IntN(len(points))]
		}
		keep := []blockdev.Keep{blockdev.KeepNone, blockdev.KeepAll,
			blockdev.KeepRandom(r.rng.Uint64())}[i%3]
		r.cut(point, keep)
	}
}
