package vfs_test

import (
	"bytes"
	"flag"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"asyncfsd/asyncq"
	"asyncfsd/blockdev"
	"asyncfsd/internal/testenv"
	"asyncfsd/vfs"
	"asyncfsd/vfs/ext4"
	"asyncfsd/vfs/recovery"
)

// The simulation: device, table and filesystem on one goroutine, with completions in an order that
// is a function of the seed. Random operations are held against a model in memory. Then the power
// is cut at several points, and any subset of the sectors that were not durable survives, see
// blockdev.Record for the fault model. What is recovered from that must be clean for e2fsck, both
// after its own recovery and after ours, and be the state after some operation that is not earlier
// than the last one which fsync promised.
var (
	simSeed  = flag.Uint64("sim.seed", 0, "run this seed only")
	simSeeds = flag.Uint64("sim.seeds", 6, "how many seeds each kind of filesystem gets")
	simOps   = flag.Int("sim.ops", 120, "operations of one run")
	simCuts  = flag.Int("sim.cuts", 6, "power cuts of one run")
)

// memBed is a filesystem in memory.
type memBed struct {
	*vfs.Client
	loop   *asyncq.Loop
	fs     *vfs.FS
	record *blockdev.Record
	fault  *blockdev.Fault
	data   []byte
	// journal is the device of an external journal, nil without one. Its bytes lie behind data in
	// whatever is called an image here.
	journal *blockdev.Record
	log     []byte
}

// image is what a power cut at a point leaves.
func (b *memBed) image(point int, keep blockdev.Keep) []byte {
	image := b.record.Image(point, wholeSuper(b.record, keep))
	if b.journal != nil {
		image = append(image, b.journal.Image(point, keep)...)
	}
	return image
}

// boundaries are the points at which something has become durable.
func (b *memBed) boundaries() []int {
	points := b.record.Boundaries()
	if b.journal != nil {
		points = append(points, b.journal.Boundaries()...)
		slices.Sort(points)
	}
	return points
}

// whole is what is there now.
func (b *memBed) whole() []byte { return slices.Concat(b.data, b.log) }

// split parts an image into the filesystem and its external journal, which is nil if it has none.
func split(t testing.TB, image []byte) (data, log []byte) {
	t.Helper()
	vol, err := ext4.Open(bytes.NewReader(image), int64(len(image)), ext4.OpenOptions{})
	if err != nil || !recovery.External(vol) {
		return image, nil
	}
	size := int(vol.BlocksCount) << vol.BlockBits
	return image[:size:size], image[size:]
}

// memSetting is one way to run a filesystem in memory.
type memSetting struct {
	seed  uint64 // of the order of completions
	stall bool   // every block access stalls once
	slots int    // 0: asyncq.SlotsMax
	cache int    // blocks, 0: the fewest that do
	// commit is how old a transaction may get, in seconds.
	commit int
	sync   bool
	log    []byte               // the device of an external journal, nil without one
	faults []blockdev.FaultRule // from the first request of the mount on
	later  []blockdev.FaultRule // from when it is mounted
}

// openMem opens an image in memory for writing. Its completions come in the order of seed.
func openMem(data []byte, seed uint64, stall bool) (*memBed, error) {
	return openMemLog(data, nil, seed, stall)
}

// openMemLog is openMem with an external journal, or nil.
func openMemLog(data, log []byte, seed uint64, stall bool) (*memBed, error) {
	return memSetting{seed: seed, stall: stall, log: log}.open(data)
}

// open opens an image in memory for writing.
func (s memSetting) open(data []byte) (*memBed, error) {
	engine := asyncq.NewSim(s.seed)
	l := asyncq.New(asyncq.Config{Engine: engine, Seed: s.seed, Now: engine.Now, Slots: s.slots})
	b := &memBed{loop: l, data: data, log: s.log}
	b.fault = blockdev.NewFault(l, blockdev.NewMem(l, "mem", data, 512, false), s.seed, s.faults...)
	b.record = blockdev.NewRecord(l, b.fault, data)
	p, err := blockdev.NewProvider(l, b.record)
	if err != nil {
		return nil, err
	}
	storage := p.Sync()
	c := vfs.WriteConfig{Storage: storage, CommitSeconds: s.commit, Sync: s.sync}
	if s.log != nil {
		b.journal = blockdev.NewRecord(l, blockdev.NewMem(l, "log", s.log, 512, false), s.log)
		b.journal.Share(b.record)
		if p, err = blockdev.NewProvider(l, b.journal); err != nil {
			return nil, err
		}
		c.LogDevice, c.LogStorage = b.journal, p.Sync()
	}
	vol, err := ext4.Open(storage, int64(len(data)), ext4.OpenOptions{})
	if err != nil {
		return nil, err
	}
	report, err := recovery.Recover(storage, vol, recovery.Options{Journal: c.LogStorage})
	if err != nil {
		return nil, err
	}
	if report.Replayed {
		if vol, err = ext4.Open(storage, int64(len(data)), ext4.OpenOptions{}); err != nil {
			return nil, err
		}
	}
	if c.Log, err = recovery.OpenLog(storage, vol, c.LogStorage); err != nil {
		return nil, err
	}
	arena, err := blockdev.NewArena(max(vfs.WritableFrames, s.cache) << vol.BlockBits)
	if err != nil {
		return nil, err
	}
	b.fs, err = vfs.New(vfs.Config{Loop: l, Device: b.record, Volume: vol, Arena: arena, Write: &c})
	if err != nil {
		_ = arena.Close()
		return nil, err
	}
	if s.stall {
		b.fs.StallOnce()
	}
	b.Client = vfs.NewClient(b.fs)
	return b, nil
}

// close gives the memory back.
func (b *memBed) close() {
	b.fs.FreeMemory()
	_ = b.loop.Close()
}

// simState is what the model knows after an operation: names to files, and files to contents and
// attributes.
type simState struct {
	names map[string]int
	data  map[int][]byte
	attr  map[int]string // the one attribute, all of whose bytes are the same
	begun int            // point of the device's time at which the operation began
	// partial is a file that the operation before may have made longer by and by.
	partial int
}

// What names stand for that are no files.
const (
	simDir   = -1
	simOther = -2
)

func (s *simState) clone() *simState {
	c := &simState{names: map[string]int{}, data: map[int][]byte{}, attr: maps.Clone(s.attr)}
	for k, v := range s.names {
		c.names[k] = v
	}
	for k, v := range s.data {
		c.data[k] = v
	}
	return c
}

// promise says that from a point on no state before one may be seen, and of one file no data from
// before another.
type promise struct{ point, state, file, data int }

type simRun struct {
	t        *testing.T
	b        *memBed
	rng      *rand.Rand
	states   []*simState
	promises []promise
	touched  map[int]int // file to the last state that changed it
	written  map[int]int // file to the last state that changed its data, and maybe nothing else
	inos     map[int]ext4.Ino
	files    int
	data     map[int]int // file to the first state whose data may be seen, after a power cut
	small    bool        // sizes around those of data in inodes
	values   bool        // attributes of sizes that need inodes of their own
	owners   bool        // files change owners, which quotas count
	copies   bool        // ranges are copied from file to file
	behind   bool        // writes are replied to before their data are on the device
	erase    bool        // everything is written in place, and the log erased, now and then
}

// size makes up a number of bytes below n.
func (r *simRun) size(n int) int {
	if r.small && r.rng.IntN(8) > 0 {
		n /= 75
	}
	return r.rng.IntN(n)
}

func TestSim(t *testing.T) { forSimKinds(t, simSeedList(), simulate) }

// forSimKinds runs something on each kind of filesystem with each of some seeds.
func forSimKinds(t *testing.T, seeds []uint64, run func(t *testing.T, r *simRun)) {
	kinds := map[string][]string{
		"ext4-1k": {"-t", "ext4", "-b", "1024", "-J", "size=1"},
		"ext4":    {"-t", "ext4", "-b", "4096", "-J", "size=4"},
		"ext3-1k": {"-t", "ext3", "-b", "1024", "-J", "size=1"},
		"inline":  {"-t", "ext4", "-b", "1024", "-I", "512", "-O", "inline_data", "-J", "size=1"},
		"copy":    {"-t", "ext4", "-b", "1024", "-J", "size=1"},
		"copy-inline": {"-t", "ext4", "-b", "1024", "-I", "512", "-O", "inline_data", "-J",
			"size=1"},
		"behind":    {"-t", "ext4", "-b", "1024", "-J", "size=1"},
		"behind-4k": {"-t", "ext4", "-b", "4096", "-J", "size=4"},
		"behind-cluster": {"-t", "ext4", "-b", "1024", "-O", "bigalloc,quota", "-C", "16384", "-J",
			"size=1"},
		"erase":  {"-t", "ext4", "-b", "1024", "-J", "size=1"},
		"quota":  {"-t", "ext4", "-b", "1024", "-O", "quota,project", "-J", "size=1"},
		"values": {"-t", "ext4", "-b", "1024", "-O", "ea_inode,quota", "-J", "size=1"},
		"old": {"-t", "ext4", "-b", "1024", "-O", "^metadata_csum,uninit_bg,^64bit", "-J",
			"size=1"},
		"cluster": {"-t", "ext4", "-b", "4096", "-O", "bigalloc", "-C", "16384", "-J", "size=4"},
		"cluster-1k": {"-t", "ext4", "-b", "1024", "-O", "bigalloc,quota", "-C", "16384", "-J",
			"size=1"},
	}
	bases := map[string][]byte{"external-1k": externalImage(t, "1024", 1100<<10),
		"external":       externalImage(t, "4096", 5<<20),
		"external-erase": externalImage(t, "1024", 1100<<10)}
	for name, args := range kinds {
		bases[name] = must[[]byte](t)(os.ReadFile(mkfs(t, 24<<20, args...)))
	}
	for name, base := range bases {
		for _, seed := range seeds {
			t.Run(fmt.Sprintf("%s/%d", name, seed), func(t *testing.T) {
				r := openSimRun(t, slices.Clone(base), seed, name)
				defer r.b.close()
				run(t, r)
			})
		}
	}
}

func newSimRun(t *testing.T, b *memBed, seed uint64) *simRun {
	return &simRun{t: t, b: b, rng: rand.New(rand.NewPCG(seed, 3)), touched: map[int]int{},
		written: map[int]int{}, inos: map[int]ext4.Ino{},
		states: []*simState{{names: map[string]int{}, data: map[int][]byte{},
			attr: map[int]string{}}}}
}

// simSeedList is what seeds to run: those that once found something come last.
func simSeedList() (list []uint64) {
	if *simSeed != 0 {
		return []uint64{*simSeed}
	}
	for seed := uint64(1); seed <= *simSeeds; seed++ {
		list = append(list, seed)
	}
	for _, seed := range []uint64{18, 26, 42, 120, 188} {
		if seed > *simSeeds {
			list = append(list, seed)
		}
	}
	return list
}

// externalImage is an empty filesystem with the device of its journal, of size bytes, behind it.
func externalImage(t *testing.T, block string, size int64) []byte {
	t.Helper()
	testenv.NeedProgram(t, "debugfs")
	const uuid = "11111111-2222-3333-4444-555555555555"
	log := must[[]byte](t)(os.ReadFile(mkfs(t, size, "-b", block, "-O", "journal_dev", "-U",
		uuid)))
	path := mkfs(t, 24<<20, "-t", "ext4", "-b", block, "-O", "^has_journal")
	// NB: mke2fs wants a block device, and so root.
	for _, command := range []string{"feature has_journal", "ssv journal_uuid " + uuid} {
		out, err := exec.Command("debugfs", "-w", "-R", command, path).CombinedOutput()
		if err != nil {
			t.Fatalf("debugfs: %v: %s", err, out)
		}
	}
	data := must[[]byte](t)(os.ReadFile(path))
	vol := must[*ext4.Volume](t)(ext4.Open(bytes.NewReader(data), int64(len(data)),
		ext4.OpenOptions{}))
	super := log[max(2048, 1<<vol.BlockBits):] // of jbd2
	super[0x43] = 1                            // s_nr_users
	copy(super[0x100:], vol.UUID[:])           // s_users
	return append(data, log...)
}

// TestCheckpoint cuts the power at each point at which the log has just forgotten transactions:
// their blocks have to be in place by then, durably, whatever device the log is on.
func TestCheckpoint(t *testing.T) {
	for name, base := range map[string][]byte{
		"internal": must[[]byte](t)(os.ReadFile(mkfs(t, 24<<20, "-t", "ext4", "-b", "1024", "-J",
			"size=1"))),
		"external": externalImage(t, "1024", 1100<<10),
	} {
		t.Run(name, func(t *testing.T) { checkpoints(t, base) })
	}
}

func checkpoints(t *testing.T, image []byte) {
	r := openSimRun(t, image, 1, "")
	for range 700 {
		r.operation()
		if s := r.states[len(r.states)-1]; len(r.states)%3 == 0 && len(s.data) > 0 {
			check(t, r.sync(1, true))
		}
	}
	log := r.b.record
	if r.b.journal != nil {
		log = r.b.journal
	}
	n := 0
	for _, e := range log.Log() {
		if e.FUA && bytes.HasPrefix(e.Data, []byte(jbd2Super)) {
			n++
			r.cut(e.End, blockdev.KeepNone)
		}
	}
	if n < 3 {
		t.Errorf("the log has forgotten something only %d times", n)
	}
	t.Logf("%d times", n)
}

// openSimRun begins a simulation on an image, which may have an external journal behind it.
func openSimRun(t *testing.T, image []byte, seed uint64, kind string) *simRun {
	t.Helper()
	data, log := split(t, image)
	b, err := openMemLog(data, log, seed, seed%3 == 0)
	if err != nil {
		t.Fatal(err)
	}
	r := newSimRun(t, b, seed)
	r.small, r.values = kind == "inline" || kind == "copy-inline", kind == "values"
	r.copies = strings.HasPrefix(kind, "copy")
	r.behind = strings.HasPrefix(kind, "behind")
	r.erase = strings.HasSuffix(kind, "erase")
	r.owners = r.values || kind == "quota" || kind == "cluster-1k"
	return r
}

func simulate(t *testing.T, r *simRun) {
	for range *simOps {
		r.operation()
		if t.Failed() {
			return
		}
	}
	r.cuts()
	if t.Failed() {
		return
	}
	if err := r.b.fs.Unmount(); err != nil {
		t.Fatal(err)
	}
	fsckImage(t, r.b.whole(), "-fn", "after unmounting")
}

// cuts cuts the power at several points.
func (r *simRun) cuts() {
	b := r.b
	end, points := b.record.Now(), b.boundaries()
	for range *simCuts {
		point := r.rng.IntN(end + 1)
		if len(points) > 0 && r.rng.IntN(2) == 0 {
			point = points[r.rng.IntN(len(points))]
		}
		keep := blockdev.KeepRandom(r.rng.Uint64())
		switch r.rng.IntN(4) {
		case 0:
			keep = blockdev.KeepNone
		case 1:
			keep = blockdev.KeepAll
		}
		r.cut(point, keep)
		if r.t.Failed() {
			return
		}
	}
}

// name picks one of a few names, in one of two directories' worth.
func (r *simRun) name() string { return fmt.Sprint("f", r.rng.IntN(12)) }

// operation does one random operation on the filesystem and on the model.
func (r *simRun) operation() {
	s, name, err := r.attempt()
	if err != nil {
		r.t.Fatalf("operation %d on %s: %v", len(r.states), name, err)
	}
	if s != nil {
		r.states = append(r.states, s)
	}
}

// attempt does one random operation on the filesystem, and returns the state after it, nil if it
// changes none, and the name that it was about.
func (r *simRun) attempt() (s *simState, name string, err error) {
	s = r.states[len(r.states)-1].clone()
	s.begun = r.b.record.Now()
	name = r.name()
	id, exists := s.names[name]
	if r.erase && r.rng.IntN(8) == 0 {
		return nil, name, r.erased()
	}
	switch k := r.rng.IntN(20); {
	case k < 2 || !exists && k < 12:
		err = r.create(s, name, exists)
	case !exists:
		return nil, name, nil
	case r.values && k < 6:
		err = r.setAttr(s, id)
	case r.owners && k < 7:
		owner := vfs.Attr{UID: r.rng.Uint32N(1 << 20), GID: r.rng.Uint32N(5)}
		_, err = r.b.Setattr(r.inos[id], vfs.SetUID|vfs.SetGID, owner)
	case k < 9 && r.copies:
		err = r.copyRange(s, id)
	case k < 9:
		err = r.write(s, id)
	case k < 11:
		size := r.size(40000)
		err = r.b.Truncate(r.inos[id], uint64(size))
		p := make([]byte, size)
		copy(p, s.data[id])
		s.data[id] = p
		r.touched[id] = len(r.states)
	case k < 13:
		err = r.b.Unlink(ext4.RootIno, name)
		delete(s.names, name)
	case k < 15:
		to := r.name()
		err = r.b.Rename(ext4.RootIno, name, ext4.RootIno, to, 0)
		if to != name {
			delete(s.names, name)
			s.names[to] = id
			r.touched[id] = len(r.states)
		}
	case k < 16:
		off, n := r.size(40000), 1+r.size(20000)
		err = r.b.Fallocate(r.inos[id], unix.FALLOC_FL_KEEP_SIZE|unix.FALLOC_FL_PUNCH_HOLE,
			uint64(off), uint64(n))
		p := slices.Clone(s.data[id])
		if off < len(p) {
			clear(p[off:min(off+n, len(p))])
		}
		s.data[id] = p
		r.touched[id] = len(r.states)
	default:
		return nil, name, r.sync(id, k < 18)
	}
	return s, name, err
}

func (r *simRun) create(s *simState, name string, exists bool) error {
	a, err := r.b.Mknod(ext4.RootIno, name, unix.S_IFREG|0o644, 0)
	if exists {
		if err != unix.EEXIST {
			return fmt.Errorf("create of %s, which exists: %w", name, err)
		}
		return nil
	}
	if err != nil {
		return err
	}
	r.files++
	r.inos[r.files] = a.Ino
	s.names[name], s.data[r.files] = r.files, nil
	r.touched[r.files] = len(r.states)
	return nil
}

func (r *simRun) write(s *simState, id int) error {
	off, n := r.size(30000), 1+r.size(9000)
	if r.rng.IntN(2) == 0 {
		off = len(s.data[id])
	}
	p := bytes.Repeat([]byte{byte(1 + len(r.states)%255)}, n)
	before, err := r.b.Getattr(r.inos[id])
	if err != nil {
		return err
	}
	write := r.b.WriteAt
	if r.behind {
		write = r.b.WriteBehind
	}
	_, err = write(r.inos[id], p, int64(off))
	all := make([]byte, max(len(s.data[id]), off+n))
	copy(all, s.data[id])
	copy(all[off:], p)
	s.data[id] = all
	r.wrote(id, before)
	return err
}

// wrote notes that the data of a file have been written over, and before that it had some
// attributes. If it still has, in one tick of the clock, no transaction knows of it.
func (r *simRun) wrote(id int, before vfs.Attr) {
	r.written[id] = len(r.states)
	if a, err := r.b.Getattr(r.inos[id]); err != nil || a != before {
		r.touched[id] = len(r.states)
	}
}

// copyRange copies between any two files. Every other time, and where the source is empty, it is a
// write, for otherwise there would be nothing to copy.
func (r *simRun) copyRange(s *simState, id int) error {
	from := s.names[r.name()]
	if len(s.data[from]) == 0 || r.rng.IntN(2) == 0 {
		return r.write(s, id)
	}
	data := s.data[from]
	at, off := r.size(30000), r.rng.IntN(len(data))
	n := min(1+r.size(9000), len(data)-off)
	if from == id { // ranges of one file must not overlap, which the kernel sees to
		at = max(at, off+n)
	}
	before, err := r.b.Getattr(r.inos[id])
	if err != nil {
		return err
	}
	copied, err := r.b.CopyRange(r.inos[id], uint64(at), r.inos[from], uint64(off), uint64(n))
	if err == nil && copied != uint64(n) {
		err = fmt.Errorf("copied %d of %d bytes", copied, n)
	}
	all := make([]byte, max(len(s.data[id]), at+n))
	copy(all, s.data[id])
	copy(all[at:], data[off:off+n])
	s.data[id] = all
	r.wrote(id, before)
	return err
}

// setAttr sets or removes the attribute of a file; equal values come up often.
func (r *simRun) setAttr(s *simState, id int) error {
	r.touched[id] = len(r.states)
	if _, ok := s.attr[id]; ok && r.rng.IntN(3) == 0 {
		delete(s.attr, id)
		return r.b.Removexattr(r.inos[id], simAttr)
	}
	s.attr[id] = strings.Repeat(string(rune('a'+r.rng.IntN(3))), 1+r.rng.IntN(3)*3000)
	return r.b.Setxattr(r.inos[id], simAttr, []byte(s.attr[id]), 0)
}

const simAttr = "user.attribute"

// sync has one file or everything made durable, and notes what that promises.
func (r *simRun) sync(id int, everything bool) error {
	ino, state := r.inos[id], r.touched[id]
	if everything {
		ino, state = 0, len(r.states)-1
	}
	if err := r.b.Fsync(ino); err != nil {
		return err
	}
	r.promises = append(r.promises, promise{r.b.record.Now(), state, id, r.written[id]})
	return nil
}

// erased has everything written in place, and the log erased in one of the ways there are.
func (r *simRun) erased() error {
	how := []uint32{0, vfs.CheckpointDiscard, vfs.CheckpointZero}[r.rng.IntN(3)]
	if err := r.b.Checkpoint(how); err != nil {
		return err
	}
	r.promises = append(r.promises, promise{point: r.b.record.Now(), state: len(r.states) - 1})
	return nil
}

// wholeSuper has the two sectors of the superblock survive together: a superblock that is torn
// fails its checksum, and has to be repaired by e2fsck. The kernel writes it in the same way;
// devices that could tear it, within 4 KiB, are rare.
func wholeSuper(record *blockdev.Record, keep blockdev.Keep) blockdev.Keep {
	first := false
	return func(entry, sector int) bool {
		off := record.Log()[entry].Off + int64(sector)*512
		if off != ext4.SuperOffset+512 {
			first = keep(entry, sector)
		}
		return first
	}
}

// cut checks what a power cut leaves.
func (r *simRun) cut(point int, keep blockdev.Keep) {
	r.left(r.b.image(point, keep), point, fmt.Sprint("power cut at ", point))
}

// left checks what a point has left.
func (r *simRun) left(image []byte, point int, when string) {
	first, last := r.between(point)
	cutAgain(r.t, image, r.rng, when, func(b *memBed, when string) {
		if why := r.matches(b, first, last, "f"); why != "" {
			r.t.Errorf("%s: none of the states %d to %d: %s", when, first, last, why)
		}
	})
}

// cutAgain has e2fsck and ourselves recover what a power cut has left, and cuts the power again
// while we do that, or while we unmount. look looks at what is there then.
func cutAgain(t *testing.T, image []byte, rng *rand.Rand, when string,
	look func(b *memBed, when string)) {
	t.Helper()
	for try := range 2 {
		fsckImage(t, slices.Clone(image), "-fy", when)
		data, log := split(t, image)
		b, err := openMemLog(data, log, rng.Uint64(), false)
		if err != nil {
			t.Fatalf("%s: %v", when, err)
		}
		look(b, when)
		b.done(t, when+", recovered here")
		point := rng.IntN(b.record.Now() + 1)
		image = b.image(point, blockdev.KeepRandom(rng.Uint64()))
		when += fmt.Sprintf(", cut %d at %d of the next mount", try+2, point)
	}
}

// between says which states a power cut may leave, and notes which data.
func (r *simRun) between(point int) (first, last int) {
	first, last = 0, len(r.states)-1
	r.data = map[int]int{}
	for _, p := range r.promises {
		if p.point <= point {
			first = max(first, p.state)
			r.data[p.file] = max(r.data[p.file], p.data)
		}
	}
	for last > first && r.states[last].begun > point {
		last--
	}
	return first, last
}

// matches says why what b shows is no state from first to last.
func (r *simRun) matches(b *memBed, first, last int, prefix string) (why string) {
	entries, err := b.ReadDir(ext4.RootIno)
	if err != nil {
		return err.Error()
	}
	have, attr := map[string][]byte{}, map[string]string{}
	for _, e := range entries {
		if e.Type != ext4.FileType(unix.S_IFREG) && strings.HasPrefix(e.Name, prefix) {
			have[e.Name] = nil
		} else if strings.HasPrefix(e.Name, prefix) {
			a, err := b.Getattr(e.Ino)
			if err != nil {
				return err.Error()
			}
			p := make([]byte, a.Size)
			if n, err := b.Client.ReadAt(e.Ino, p, 0); n != len(p) {
				return fmt.Sprintf("%s: read %d of %d: %v", e.Name, n, len(p), err)
			}
			have[e.Name] = p
			value, err := b.Getxattr(e.Ino, simAttr)
			if err != nil && err != unix.ENODATA {
				return fmt.Sprintf("%s: attribute: %v", e.Name, err)
			}
			attr[e.Name] = string(value)
		}
	}
	for i := last; i >= first; i-- {
		reason := r.matchesState(have, attr, i, first, last)
		if reason == "" {
			return ""
		}
		why += fmt.Sprintf("\n\t%d: %s", i, reason)
	}
	return why
}

// matchesState compares with the names, sizes and attributes of a state. Data that are overwritten
// in place may be of any state in question.
func (r *simRun) matchesState(have map[string][]byte, attr map[string]string, state, first,
	last int) string {
	s := r.states[state]
	if len(have) != len(s.names) {
		return fmt.Sprintf("%d names instead of %d", len(have), len(s.names))
	}
	for name, id := range s.names {
		p, ok := have[name]
		if !ok {
			return name + " is missing"
		}
		if id == simDir || id == simOther {
			continue
		}
		if len(p) != len(s.data[id]) && !r.partly(id, len(p), state, last) {
			return fmt.Sprintf("%s has %d bytes instead of %d", name, len(p), len(s.data[id]))
		}
		if a := attr[name]; a != s.attr[id] {
			return fmt.Sprintf("%s has %.1q of %d bytes instead of %.1q of %d", name, a, len(a),
				s.attr[id], len(s.attr[id]))
		}
	bytes:
		for i, x := range p {
			for k := max(first, r.data[id]); k <= last; k++ {
				d := r.states[k].data[id]
				if i < len(d) && d[i] == x || i >= len(d) && x == 0 {
					continue bytes
				}
			}
			return fmt.Sprintf("%s: byte %d is %d, which it never was", name, i, x)
		}
	}
	return ""
}

// partly says whether the operation behind a state, if it is in question, may have got a file as
// far as size.
func (r *simRun) partly(id, size, state, last int) bool {
	if state == last || r.states[state+1].partial != id {
		return false
	}
	return size > len(r.states[state].data[id]) && size < len(r.states[state+1].data[id])
}
