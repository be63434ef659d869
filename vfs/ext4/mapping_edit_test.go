package ext4

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"asyncfsd/internal/testenv"
)

// errStalled is what a block access that stalls returns here.
var errStalled = errors.New("stalled")

// stallEdit is an Edit whose changes since Begin can be undone, and which stalls at a chosen access
// to a block.
type stallEdit struct {
	*Edit
	undo map[Block]undoBlock
	// stallAt is the access that stalls, from 1; accesses counts them since Begin.
	stallAt, accesses int
	forgotten         int
	modified          map[Block]bool
}

// undoBlock is a block as it was: the memory it has, and what stood there; nil if it was not
// changed yet.
type undoBlock struct {
	data, was []byte
	dirty     bool
}

func (e *stallEdit) Begin(stallAt int) {
	e.undo, e.modified = map[Block]undoBlock{}, map[Block]bool{}
	e.stallAt, e.accesses, e.forgotten = stallAt, 0, len(e.Forgotten)
	e.space.Begin()
}

func (e *stallEdit) Rollback() {
	for b, u := range e.undo {
		delete(e.dirty, b)
		copy(u.data, u.was)
		if u.dirty {
			e.dirty[b] = u.data
		}
	}
	e.Forgotten = e.Forgotten[:e.forgotten]
	e.space.Rollback()
}

func (e *stallEdit) access() error {
	if e.accesses++; e.accesses == e.stallAt {
		return errStalled
	}
	return nil
}

// keep remembers a block before its first change.
func (e *stallEdit) keep(b Block, data []byte) {
	if _, ok := e.undo[b]; !ok {
		_, dirty := e.dirty[b]
		e.undo[b] = undoBlock{data, append([]byte(nil), data...), dirty}
	}
}

func (e *stallEdit) Block(b Block) (Buf, error) {
	if err := e.access(); err != nil {
		return Buf{}, err
	}
	return e.Edit.Block(b)
}

func (e *stallEdit) Modify(b Block) (Buf, error) {
	if err := e.access(); err != nil {
		return Buf{}, err
	}
	buf, err := e.Edit.Block(b)
	if err != nil {
		return buf, err
	}
	e.keep(b, buf.Data)
	e.modified[b] = true
	return e.Edit.Modify(b)
}

func (e *stallEdit) Fresh(b Block) (Buf, error) {
	e.keep(b, e.dirty[b])
	e.modified[b] = true
	return e.Edit.Fresh(b)
}

func (e *stallEdit) Forget(b Block) {
	e.keep(b, e.dirty[b])
	e.Edit.Forget(b)
}

// Bounds of one step that the comments of InsertRun and RemoveRuns promise, with the inode.
const (
	changedMax = 25
	forgetMax  = 64
)

// mappedBlock is what a model knows of a block.
type mappedBlock struct {
	phys      Block
	unwritten bool
}

// bedFile is a file of a test bed, and its model.
type bedFile struct {
	name  string
	ino   Ino
	model map[Lblk]mappedBlock
}

// bed is a filesystem made for a test, with files whose mappings are edited.
type bed struct {
	t     testing.TB
	v     *Volume
	path  string
	img   *os.File
	ed    *stallEdit
	rng   *rand.Rand
	files []*bedFile
	// stalls: each step stalls at its first access, then at its second and so on.
	stalls bool
	steps  int
}

// bedImage says how mke2fs makes a filesystem.
type bedImage struct {
	name string
	args string
	mib  int64
}

var bedImages = []bedImage{
	{"ext4-4k", "-t ext4 -b 4096 -J size=4", 64},
	{"ext4-1k", "-t ext4 -b 1024 -J size=1", 40},
	{"ext4-64k", "-t ext4 -b 65536 -O ^has_journal", 256},
	{"ext4-nosum", "-t ext4 -b 1024 -O ^metadata_csum,^64bit,uninit_bg -J size=1", 40},
	{"ext3-1k", "-t ext3 -b 1024 -J size=1", 40},
	{"ext2-4k", "-t ext2 -b 4096", 64},
	{"ext2-csum", "-t ext2 -b 1024 -O metadata_csum,large_file", 40},
	{"bigalloc", "-t ext4 -b 1024 -O bigalloc -C 16384 -J size=1", 128},
	{"groups", "-t ext4 -b 1024 -g 512 -O ^has_journal", 24},
	{"groups-ext2", "-t ext2 -b 1024 -g 512 -O ^resize_inode", 24},
	{"bigalloc-4k", "-t ext4 -b 4096 -O bigalloc -C 16384 -J size=4", 128},
}

var bedNames = []string{"f", "g"}

// newBed makes a filesystem with empty files.
func newBed(t testing.TB, img bedImage, seed int64) *bed {
	t.Helper()
	testenv.NeedProgram(t, "mke2fs", "e2fsck")
	dir := t.TempDir()
	src := filepath.Join(dir, "files")
	if err := os.Mkdir(src, 0o755); err != nil {
		t.Fatal(err)
	}
	for _, name := range bedNames {
		if err := os.WriteFile(filepath.Join(src, name), nil, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	path := filepath.Join(dir, "img")
	args := append(strings.Fields(img.args), "-q", "-F", "-N", "64", "-d", src, path,
		fmt.Sprintf("%dM", img.mib))
	if out, err := exec.Command("mke2fs", args...).CombinedOutput(); err != nil {
		t.Fatalf("mke2fs %q: %s", args, out)
	}
	return openBed(t, path, img.mib<<20, seed)
}

// openBed opens what newBed has made.
func openBed(t testing.TB, path string, size, seed int64) *bed {
	t.Helper()
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	v, err := Open(f, size, OpenOptions{})
	if err != nil {
		t.Fatal(err)
	}
	b := &bed{t: t, v: v, path: path, img: f, rng: rand.New(rand.NewSource(seed)),
		ed: &stallEdit{Edit: NewEdit(v, f, Timespec{Sec: 1700000000})}}
	var root Inode
	if err := v.ReadInode(b.ed, RootIno, &root); err != nil {
		t.Fatal(err)
	}
	for _, name := range bedNames {
		var ent Dirent
		if err := v.Lookup(b.ed, &root, []byte(name), new(LookupCursor), &ent); err != nil {
			t.Fatal(err)
		}
		b.files = append(b.files, &bedFile{name, ent.Ino, map[Lblk]mappedBlock{}})
	}
	return b
}

// step runs fn as an operation does: from its top until it does not stall, and what it did before
// is undone. The inode is written if it succeeds. ErrContinue is a success.
func (b *bed) step(f *bedFile, fn func(ed Editor, in *Inode) error) error {
	b.t.Helper()
	if b.steps++; b.steps%16 == 0 {
		b.ed.space.Begin()
		b.ed.space.Close()
		b.ed.space.Release()
	}
	for stallAt := 1; ; stallAt++ {
		if !b.stalls {
			stallAt = 0
		}
		b.ed.Begin(stallAt)
		var in Inode
		err := b.v.ReadInode(b.ed, f.ino, &in)
		if err == nil {
			if err = fn(b.ed, &in); err == nil || err == ErrContinue {
				if werr := b.v.WriteInode(b.ed, &in); werr != nil {
					err = werr
				}
			}
		}
		switch err {
		case errStalled:
			b.ed.Rollback()
			continue
		case nil, ErrContinue:
			forgotten := len(b.ed.Forgotten) - b.ed.forgotten
			if len(b.ed.modified) > changedMax || forgotten > forgetMax {
				b.t.Errorf("a step changes %d blocks and frees %d of metadata", len(b.ed.modified),
					forgotten)
			}
		default:
			b.ed.Rollback()
		}
		return err
	}
}

// must is step for what has to succeed.
func (b *bed) must(f *bedFile, fn func(ed Editor, in *Inode) error) {
	b.t.Helper()
	if err := b.step(f, fn); err != nil {
		b.t.Fatal(err)
	}
}

// insert fills a hole of at most n blocks at lblk, and returns how many it took; 0 if there is no
// hole.
func (b *bed) insert(f *bedFile, lblk Lblk, n uint32, unwritten bool, goal Block) uint32 {
	b.t.Helper()
	v, mask := b.v, Lblk(1)<<b.v.ClusterBits-1
	var phys Block
	var got uint32
	b.must(f, func(ed Editor, in *Inode) error {
		got = min(n, v.InsertMax(in, lblk))
		for i := range got {
			if _, ok := f.model[lblk+Lblk(i)]; ok {
				got = i
				break
			}
		}
		if got == 0 {
			return nil
		}
		at, ok, err := v.ClusterMapped(ed, in, lblk)
		if err != nil {
			return err
		}
		if ok {
			phys, got = at, min(got, uint32(mask-lblk&mask+1))
			return v.InsertRun(ed, in, lblk, phys, got, unwritten)
		}
		got = b.wholeClusters(f, lblk, got)
		at = goal
		if at == 0 {
			if at, err = v.Goal(ed, in, lblk); err != nil {
				return err
			}
		}
		ed.Space().Root = true
		p, count, err := v.AllocBlocks(ed, Alloc{Goal: at, Want: got + uint32(lblk&mask)})
		if err != nil {
			return err
		}
		in.Sectors += uint64(count) << (v.BlockBits - 9)
		phys, got = p+Block(lblk&mask), min(got, count-uint32(lblk&mask))
		return v.InsertRun(ed, in, lblk, phys, got, unwritten)
	})
	for i := range got {
		f.model[lblk+Lblk(i)] = mappedBlock{phys + Block(i), unwritten}
	}
	return got
}

// wholeClusters is how many of n blocks from lblk on lie in clusters in which nothing is mapped.
func (b *bed) wholeClusters(f *bedFile, lblk Lblk, n uint32) uint32 {
	mask := Lblk(1)<<b.v.ClusterBits - 1
	for i := range (lblk + Lblk(n) - 1) | mask - lblk + 1 {
		if _, ok := f.model[lblk+i]; ok {
			return min(n, uint32((lblk+i)&^mask-lblk))
		}
	}
	return n
}

// convert changes the state of a random part of the extent that lblk lies in.
func (b *bed) convert(f *bedFile, lblk Lblk) {
	b.t.Helper()
	v := b.v
	length := 1 + b.rng.Intn(20)
	var n uint32
	var state RunState
	b.must(f, func(ed Editor, in *Inode) error {
		var run Run
		if err := v.Map(ed, in, lblk, uint32(length), &run); err != nil || run.State == RunHole {
			return err
		}
		n, state = run.Len, run.State
		return v.ConvertRun(ed, in, lblk, n, state == RunUnwritten)
	})
	for i := range n {
		m := f.model[lblk+Lblk(i)]
		m.unwritten = state == RunMapped
		f.model[lblk+Lblk(i)] = m
	}
}

// remove removes [from, to) in as many steps as it takes.
func (b *bed) remove(f *bedFile, from, to Lblk) {
	b.t.Helper()
	for next := to; ; {
		was := next
		err := b.step(f, func(ed Editor, in *Inode) (err error) {
			next, err = b.v.RemoveRuns(ed, in, from, was)
			return err
		})
		if err != nil && err != ErrContinue {
			b.t.Fatal(err)
		}
		if err == nil && next != from || err != nil && (next >= was || next < from) {
			b.t.Fatalf("removing [%d, %d): from %d to %d, %v", from, to, was, next, err)
		}
		for lblk := range f.model {
			if lblk >= next && lblk < was {
				delete(f.model, lblk)
			}
		}
		if err == nil {
			return
		}
	}
}

// blocksMax is how many blocks a file may have.
func (b *bed) blocksMax() uint64 {
	var in Inode
	if err := b.v.ReadInode(b.ed.Edit, b.files[0].ino, &in); err != nil {
		b.t.Fatal(err)
	}
	return b.v.SizeMax(&in) >> b.v.BlockBits
}

// compare compares a file's mapping with the model, all of it.
func (b *bed) compare(f *bedFile) {
	b.t.Helper()
	var in Inode
	if err := b.v.ReadInode(b.ed.Edit, f.ino, &in); err != nil {
		b.t.Fatal(err)
	}
	seen := 0
	for at := uint64(0); at < lblkMax; {
		var run Run
		if err := b.v.Map(b.ed.Edit, &in, Lblk(at), uint32(lblkMax-at), &run); err != nil {
			b.t.Fatal(err)
		}
		for i := range run.Len {
			if run.State == RunHole {
				break
			}
			want := mappedBlock{run.Phys + Block(i), run.State == RunUnwritten}
			if have, ok := f.model[Lblk(at)+Lblk(i)]; !ok || have != want {
				b.t.Fatalf("%s: block %d is mapped as %v; the model has %v %v", f.name,
					at+uint64(i), want, have, ok)
			}
			seen++
		}
		at += uint64(run.Len)
	}
	if seen != len(f.model) {
		b.t.Fatalf("%s: %d blocks are mapped, the model has %d", f.name, seen, len(f.model))
	}
}

// check compares all files with their models, writes the image and has e2fsck check it.
func (b *bed) check() {
	b.t.Helper()
	for _, f := range b.files {
		b.compare(f)
		b.must(f, func(ed Editor, in *Inode) error {
			in.Size = 0
			for lblk, m := range f.model {
				if !m.unwritten || in.Flags&FlagExtents == 0 {
					in.Size = max(in.Size, (uint64(lblk)+1)<<b.v.BlockBits)
				}
			}
			return nil
		})
	}
	if err := b.v.UnmountSuper(b.ed.Edit, b.ed.space, 0); err != nil {
		b.t.Fatal(err)
	}
	if err := b.ed.WriteTo(b.img); err != nil {
		b.t.Fatal(err)
	}
	b.fsck()
}

func (b *bed) fsck() {
	b.t.Helper()
	if out, err := exec.Command("e2fsck", "-fn", b.path).CombinedOutput(); err != nil {
		kept := filepath.Join(os.TempDir(), "bed.img")
		b.t.Fatalf("e2fsck: %v (image kept as %s: %v)\n%s", err, kept, os.Rename(b.path, kept), out)
	}
}

// somewhere is a random block, near others most of the time.
func (b *bed) somewhere(limit uint64) Lblk {
	switch b.rng.Intn(10) {
	case 0:
		return Lblk(b.rng.Int63n(int64(limit)))
	case 1:
		return Lblk(limit - 1 - uint64(b.rng.Intn(100)))
	case 2, 3:
		return Lblk(b.rng.Intn(20))
	case 4:
		return Lblk(b.rng.Int63n(min(int64(limit), 300000)))
	}
	return Lblk(b.rng.Intn(3000))
}

// churn changes the files at random.
func (b *bed) churn(steps int) {
	b.t.Helper()
	limit := b.blocksMax()
	var in Inode
	if err := b.v.ReadInode(b.ed.Edit, b.files[0].ino, &in); err != nil {
		b.t.Fatal(err)
	}
	extents := in.Flags&FlagExtents != 0
	for range steps {
		f, lblk := b.files[b.rng.Intn(2)], b.somewhere(limit)
		switch k := b.rng.Intn(20); {
		case k < 11:
			n, goal := uint32(1+b.rng.Intn(6)), Block(0)
			if b.rng.Intn(8) == 0 {
				n = uint32(1 + b.rng.Intn(200))
			}
			if b.rng.Intn(2) == 0 {
				goal = Block(b.rng.Int63n(int64(b.v.BlocksCount)))
			}
			n = uint32(min(uint64(n), limit-uint64(lblk)))
			b.insert(f, lblk, n, extents && b.rng.Intn(2) == 0, goal)
		case k < 17 && extents:
			b.convert(f, lblk)
		default:
			to := uint64(lblk) + uint64(1+b.rng.Intn(60))
			if b.rng.Intn(20) == 0 {
				to = uint64(lblk) + uint64(b.rng.Int63n(int64(limit)))
			}
			b.remove(f, lblk, Lblk(min(to, lblkMax)))
		}
	}
}

// TestMappingChurn changes mappings at random on filesystems of all kinds.
func TestMappingChurn(t *testing.T) {
	for _, img := range bedImages {
		t.Run(img.name, func(t *testing.T) {
			b := newBed(t, img, 1)
			for range 6 {
				b.churn(2500)
				b.check()
			}
			for _, f := range b.files {
				b.remove(f, 0, lblkMax)
				b.empty(f)
			}
			b.check()
		})
	}
}

// empty wants a file to have no blocks, and a root without anything.
func (b *bed) empty(f *bedFile) {
	b.t.Helper()
	var in, want Inode
	if err := b.v.ReadInode(b.ed.Edit, f.ino, &in); err != nil {
		b.t.Fatal(err)
	}
	want.Flags = in.Flags
	EmptyMapping(&want)
	if in.IBlock != want.IBlock || in.Sectors != 0 {
		b.t.Errorf("%s: %d sectors, i_block % x", f.name, in.Sectors, in.IBlock)
	}
}

// TestMappingStalls stalls each step at each of its accesses to blocks, and wants the same as
// without.
func TestMappingStalls(t *testing.T) {
	for _, name := range []string{"ext4-1k", "ext3-1k", "bigalloc"} {
		img := imageNamed(name)
		t.Run(img.name, func(t *testing.T) {
			plain := newBed(t, img, 2)
			stalling := openBed(t, plain.path, img.mib<<20, 2)
			stalling.stalls = true
			for _, b := range []*bed{plain, stalling} {
				b.v.nodeEntries = 8
				b.churn(1000)
				for _, f := range b.files {
					b.compare(f)
				}
			}
			have, want := stalling.ed.space.freeClusters, plain.ed.space.freeClusters
			if have != want {
				t.Errorf("%d clusters are free, not %d", have, want)
			}
			sameChanges(t, stalling.ed.Changed(), plain.ed.Changed())
		})
	}
}

func imageNamed(name string) bedImage {
	for _, img := range bedImages {
		if img.name == name {
			return img
		}
	}
	panic(name)
}

func sameChanges(t *testing.T, have, want []Changed) {
	t.Helper()
	if len(have) != len(want) {
		t.Fatalf("%d blocks have changed, not %d", len(have), len(want))
	}
	for i := range have {
		if have[i].Block != want[i].Block || !bytes.Equal(have[i].Data, want[i].Data) {
			t.Fatalf("block %d differs (or is block %d)", have[i].Block, want[i].Block)
		}
	}
}
