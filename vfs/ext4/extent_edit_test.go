package ext4

import (
	"slices"
	"testing"

	"golang.org/x/sys/unix"
)

// inode reads a file's inode.
func (b *bed) inode(f *bedFile) (in Inode) {
	b.t.Helper()
	if err := b.v.ReadInode(b.ed.Edit, f.ino, &in); err != nil {
		b.t.Fatal(err)
	}
	return in
}

// nodes counts the nodes of an extent tree below node, and their entries, per depth.
func (b *bed) nodes(in *Inode, node []byte, depth int, end uint64, nodes, items *[6]int) {
	b.t.Helper()
	nodes[depth]++
	items[depth] += entries(node)
	for i := range entries(node) {
		if depth == 0 {
			break
		}
		next := end
		if i+1 < entries(node) {
			next = uint64(entryLblk(node, i+1))
		}
		_, child, err := b.v.treeChild(b.ed.Edit, in, node, i, depth-1, 0, next)
		if err != nil {
			b.t.Fatal(err)
		}
		b.nodes(in, child, depth-1, next, nodes, items)
	}
}

// tree verifies an extent tree and returns how many nodes and entries there are at each depth.
func (b *bed) tree(f *bedFile) (depth int, nodes, items [6]int) {
	b.t.Helper()
	in := b.inode(f)
	depth, err := b.v.treeRoot(&in)
	if err != nil {
		b.t.Fatal(err)
	}
	b.nodes(&in, in.IBlock[:], depth, lblkMax, &nodes, &items)
	sum := 0
	for _, n := range nodes[:depth] {
		sum += n
	}
	if have := int(in.Sectors>>(b.v.BlockBits-9)) - len(f.model); have != sum {
		b.t.Fatalf("the tree has %d nodes, i_blocks counts %d", sum, have)
	}
	return depth, nodes, items
}

// TestAppendFillsNodes appends extents that do not join: all nodes but the last are full.
func TestAppendFillsNodes(t *testing.T) {
	b := newBed(t, imageNamed("ext4-1k"), 3)
	f := b.files[0]
	const count, most = 1500, (1024 - extentEntrySize) / extentEntrySize
	for i := range count {
		b.insert(f, Lblk(2*i), 1, false, 0)
	}
	depth, nodes, items := b.tree(f)
	leaves := (count + most - 1) / most
	if depth != 2 || nodes[0] != leaves || nodes[1] != 1 || items[0] != count {
		t.Errorf("depth %d, nodes %v with entries %v", depth, nodes, items)
	}
	b.compare(f)
	for i := range count { // the holes are filled, and all of it joins, within each leaf
		b.insert(f, Lblk(2*i+1), 1, false, f.model[Lblk(2*i)].phys+1)
	}
	b.check()
}

// TestTreeDepths makes trees as deep as they can be, in several orders, and deeper.
func TestTreeDepths(t *testing.T) {
	orders := map[string]func(b *bed, n int) []int{
		"forward": func(_ *bed, n int) []int { return upTo(n) },
		"backward": func(_ *bed, n int) []int {
			list := upTo(n)
			slices.Reverse(list)
			return list
		},
		"random": func(b *bed, n int) []int { return b.rng.Perm(n) },
	}
	for name, order := range orders {
		t.Run(name, func(t *testing.T) {
			b := newBed(t, imageNamed("ext4-1k"), 4)
			b.v.nodeEntries = 5
			f := b.files[0]
			full := false
			for i, at := range order(b, 14000) {
				if full = !b.tryInsert(f, Lblk(3*at)); full {
					t.Logf("full with %d extents", i)
					break
				}
			}
			depth, nodes, items := b.tree(f)
			if !full || depth != extentDepthMax || name == "forward" && items[0] != 4*5*5*5*5*5 {
				t.Errorf("depth %d, nodes %v with entries %v", depth, nodes, items)
			}
			b.compare(f)
			for len(f.model) > 0 {
				from := Lblk(b.rng.Intn(3 * 14000))
				b.remove(f, from, from+Lblk(b.rng.Intn(9000)))
				b.tree(f)
				b.compare(f)
			}
			b.remove(f, 0, lblkMax)
			b.empty(f)
			b.v.nodeEntries = 0
			b.check()
		})
	}
}

func upTo(n int) (list []int) {
	for i := range n {
		list = append(list, i)
	}
	return list
}

// tryInsert inserts one block; false if the tree is full.
func (b *bed) tryInsert(f *bedFile, lblk Lblk) bool {
	b.t.Helper()
	var phys Block
	err := b.step(f, func(ed Editor, in *Inode) (err error) {
		if phys, _, err = b.v.AllocBlocks(ed, Alloc{Want: 1}); err != nil {
			return err
		}
		in.Sectors += b.v.clusterSectors()
		return b.v.InsertRun(ed, in, lblk, phys, 1, false)
	})
	if err != nil && err != unix.EFBIG {
		b.t.Fatal(err)
	}
	if err == nil {
		f.model[lblk] = mappedBlock{phys, false}
	}
	return err == nil
}

// TestLargestExtents inserts and converts extents of all lengths around the largest.
func TestLargestExtents(t *testing.T) {
	b := newBed(t, bedImage{"large", "-t ext4 -b 1024 -O ^has_journal", 128}, 5)
	v, f := b.v, b.files[0]
	insert := func(lblk Lblk, phys Block, n uint32, unwritten bool) {
		b.must(f, func(ed Editor, in *Inode) error {
			return v.InsertRun(ed, in, lblk, phys, n, unwritten)
		})
		for i := range n {
			f.model[lblk+Lblk(i)] = mappedBlock{phys + Block(i), unwritten}
		}
		b.compare(f)
	}
	convert := func(lblk Lblk, n uint32, written bool) {
		b.must(f, func(ed Editor, in *Inode) error {
			return v.ConvertRun(ed, in, lblk, n, written)
		})
		for i := range n {
			m := f.model[lblk+Lblk(i)]
			m.unwritten = !written
			f.model[lblk+Lblk(i)] = m
		}
		b.compare(f)
	}
	count := func(want int) {
		t.Helper()
		in := b.inode(f)
		if _, _, items := b.rawTree(&in); items[0] != want {
			t.Errorf("%d extents, not %d", items[0], want)
		}
	}
	// Nothing here is allocated; blocks are only mapped.
	insert(100, 20000, 32768, true) // too many for one unwritten extent
	count(2)
	convert(100, 32767, true)
	convert(32867, 1, true)
	count(1)
	convert(100, 32768, false)
	count(2)
	convert(32867, 1, true)
	convert(101, 32766, true)
	count(2) // one unwritten block, and 32767 written ones
	convert(100, 1, true)
	count(1)
	insert(32868, 52768, 10, false) // no room in the first
	count(2)
	insert(99, 19999, 1, false)
	count(3)
	insert(32878, 52778, 32758, false)
	count(3)
	insert(lblkMax-32768, 90000, 32768, false)
	count(4)
}

// rawTree is tree without i_blocks.
func (b *bed) rawTree(in *Inode) (depth int, nodes, items [6]int) {
	depth, err := b.v.treeRoot(in)
	if err != nil {
		b.t.Fatal(err)
	}
	b.nodes(in, in.IBlock[:], depth, lblkMax, &nodes, &items)
	return depth, nodes, items
}

// TestMappingErrors wants errors, and nothing changed by them.
func TestMappingErrors(t *testing.T) {
	tree, list, big := newBed(t, imageNamed("ext4-1k"), 6), newBed(t, imageNamed("ext3-1k"), 6),
		newBed(t, imageNamed("bigalloc"), 6)
	last := Lblk(list.v.mapBlocks())
	for _, b := range []*bed{tree, list} {
		b.insert(b.files[0], 5, 5, false, 0)
	}
	corrupt := unix.EUCLEAN
	for _, c := range []struct {
		b    *bed
		want error
		fn   func(v *Volume, ed Editor, in *Inode) error
	}{
		{tree, unix.EFBIG, inserts(lblkMax, 9000, 1, false)},
		{tree, unix.EFBIG, inserts(lblkMax-5, 9000, 6, false)},
		{tree, unix.EINVAL, inserts(0, 9000, 0, false)},
		{tree, unix.EINVAL, inserts(20, 9000, 32769, false)},
		{tree, unix.EINVAL, inserts(20, 0, 1, false)},
		{tree, unix.EINVAL, inserts(20, tree.v.BlocksCount-1, 2, false)},
		{tree, corrupt, inserts(9, 9000, 1, false)},
		{tree, corrupt, inserts(4, 9000, 2, false)},
		{tree, corrupt, converts(4, 1)},
		{tree, corrupt, converts(9, 2)},
		{tree, corrupt, converts(10, 1)},
		{tree, unix.EINVAL, converts(5, 0)},
		{list, unix.EOPNOTSUPP, converts(5, 1)},
		{list, unix.EOPNOTSUPP, inserts(20, 9000, 1, true)},
		{list, corrupt, inserts(9, 9000, 1, false)},
		{list, corrupt, inserts(4, 9000, 2, false)},
		{list, unix.EINVAL, inserts(10, 9000, 3, false)},
		{list, unix.EFBIG, inserts(last, 9000, 1, false)},
		{list, unix.EINVAL, inserts(last-1, 9000, 2, false)},
		{big, unix.EOPNOTSUPP, noExtents(inserts(0, 9000, 1, false))},
		{big, unix.EOPNOTSUPP, noExtents(removes(0, 10))},
		{tree, unix.EINVAL, inlined(removes(0, 10))},
		{tree, unix.EINVAL, inlined(inserts(20, 9000, 1, false))},
		{tree, corrupt, noExtents(removes(0, 10))}, // a header is no pointer
	} {
		before := c.b.ed.space.freeClusters
		err := c.b.step(c.b.files[0], func(ed Editor, in *Inode) error {
			return c.fn(c.b.v, ed, in)
		})
		if errnoOf(err) != c.want {
			t.Errorf("%v, not %v", err, c.want)
		}
		if c.b.ed.space.freeClusters != before {
			t.Errorf("%v: the number of free clusters has changed", c.want)
		}
	}
	for _, b := range []*bed{tree, list} {
		b.check()
	}
	in := list.inode(list.files[0])
	for lblk, want := range map[Lblk]uint32{0: 12, 11: 1, 12: 256, 267: 1, 268: 256, last - 1: 1,
		last: 0, lblkMax: 0} {
		if have := list.v.InsertMax(&in, lblk); have != want {
			t.Errorf("InsertMax(%d): %d, not %d", lblk, have, want)
		}
	}
}

type editFunc = func(v *Volume, ed Editor, in *Inode) error

func inserts(lblk Lblk, phys Block, n uint32, unwritten bool) editFunc {
	return func(v *Volume, ed Editor, in *Inode) error {
		return v.InsertRun(ed, in, lblk, phys, n, unwritten)
	}
}

func converts(lblk Lblk, n uint32) editFunc {
	return func(v *Volume, ed Editor, in *Inode) error {
		return v.ConvertRun(ed, in, lblk, n, true)
	}
}

func removes(from, to Lblk) editFunc {
	return func(v *Volume, ed Editor, in *Inode) error {
		_, err := v.RemoveRuns(ed, in, from, to)
		return err
	}
}

func noExtents(fn editFunc) editFunc {
	return func(v *Volume, ed Editor, in *Inode) error {
		in.Flags &^= FlagExtents
		return fn(v, ed, in)
	}
}

func inlined(fn editFunc) editFunc {
	return func(v *Volume, ed Editor, in *Inode) error {
		in.Flags |= FlagInlineData
		return fn(v, ed, in)
	}
}

// TestRemoveForgets wants all blocks of a directory to be forgotten by the log, a bounded number at
// a time, and of a file those of its mapping alone.
func TestRemoveForgets(t *testing.T) {
	for _, name := range []string{"ext4-1k", "ext3-1k", "bigalloc"} {
		for _, dir := range []bool{false, true} {
			b := newBed(t, imageNamed(name), 7)
			f := b.files[0]
			b.must(f, func(_ Editor, in *Inode) error {
				if dir {
					in.Mode = in.Mode&^unix.S_IFMT | unix.S_IFDIR
				}
				return nil
			})
			b.v.nodeEntries = 6
			free := b.ed.space.freeClusters
			for i := range 60 {
				b.insert(f, Lblk(20*i), 17, false, 0)
			}
			gone := map[Block]bool{}
			for _, m := range f.model {
				gone[m.phys] = true
			}
			data := len(gone)
			b.remove(f, 0, lblkMax)
			b.empty(f)
			seen := 0
			for _, p := range b.ed.Forgotten {
				if gone[p] {
					seen++
				}
			}
			if want := map[bool]int{false: 0, true: data}[dir]; seen != want ||
				len(b.ed.Forgotten) <= want {
				t.Errorf("%s: %d blocks of data of %d were forgotten, %d in all", name, seen, data,
					len(b.ed.Forgotten))
			}
			if b.ed.space.freeClusters != free {
				t.Errorf("%s: %d clusters are free, not %d", name, b.ed.space.freeClusters, free)
			}
		}
	}
}

// TestMappingKept fills a filesystem as root: what is kept for mappings is not for data, but splits
// of nodes have it.
func TestMappingKept(t *testing.T) {
	b := newBed(t, imageNamed("groups"), 8)
	f, g, space := b.files[0], b.files[1], b.ed.space
	keep := int64(b.v.BlocksCount) / 50
	for i := range Lblk(4) { // all that fits into the inode
		b.insert(g, 20*i, 9, false, 0)
	}
	at := Lblk(0)
	for ; b.fill(f, at); at += 2 {
	}
	// A node may have gone with the last block.
	if free := space.freeClusters; free > keep || free < keep-4 {
		t.Errorf("%d clusters are left of the %d that are kept", free, keep)
	}
	free := space.freeClusters
	b.remove(g, 3, 5)
	if space.freeClusters != free+2-1 {
		t.Errorf("a hole of two blocks has taken no node: %d, %d before", space.freeClusters, free)
	}
	space.Begin()
	space.Close()
	space.Release() // what the hole has freed
	for ; b.fill(f, at); at += 2 {
	}
	for i, a := range []Alloc{{Want: 1}, {Want: 1}, {Want: 1, Reserve: true}} {
		space.Root = i > 0
		space.Begin()
		if _, _, err := b.v.AllocBlocks(b.ed, a); err != unix.ENOSPC {
			t.Errorf("%+v: %v", a, err)
		}
		space.Rollback()
	}
	b.check()
	space.Begin()
	n, err := int64(0), error(nil)
	for left := space.freeClusters; err == nil && n <= left; n++ {
		_, _, err = b.v.AllocBlocks(b.ed, Alloc{Want: 1, Tree: true})
	}
	if n--; err != unix.ENOSPC || n < keep-4 || space.freeClusters != 0 {
		t.Errorf("%d clusters for mappings, %d left: %v", n, space.freeClusters, err)
	}
}

// TestMappingFull fills a filesystem to the last block, which splits of nodes then miss.
func TestMappingFull(t *testing.T) {
	for _, name := range []string{"groups", "groups-ext2"} {
		b := newBed(t, imageNamed(name), 8)
		f, g, failed := b.files[0], b.files[1], 0
		b.ed.space.keepTrees = 0 // nothing is kept for them
		for i := range Lblk(4) { // all that fits into the inode
			b.insert(g, 20*i, 9, false, 0)
		}
		for at := Lblk(0); failed < 50; at += 2 {
			n, free := len(f.model), b.ed.space.freeClusters
			if b.fill(f, at) {
				continue
			}
			failed++
			if b.ed.space.freeClusters != free || len(f.model) != n {
				t.Fatal("an insertion that has failed left something behind")
			}
		}
		if failed < 25 || b.ed.space.freeClusters > 10 {
			t.Errorf("%d failures, %d clusters free", failed, b.ed.space.freeClusters)
		}
		if name == "groups" {
			b.drain(f)
			if err := b.step(g, func(ed Editor, in *Inode) error {
				_, err := b.v.RemoveRuns(ed, in, 3, 5)
				return err
			}); err != unix.ENOSPC {
				t.Errorf("a hole in an extent, without space: %v", err)
			}
			b.remove(f, 1000, 1001)
			b.ed.space.Begin()
			b.ed.space.Close()
			b.ed.space.Release()
		}
		b.remove(g, 3, 5)
		b.check()
	}
}

// drain takes the last free blocks, which single insertions could not use.
func (b *bed) drain(f *bedFile) {
	b.t.Helper()
	for at := Lblk(1); b.ed.space.freeClusters > 0; at += 2 {
		if b.fill(f, at); at > 1<<17 {
			b.t.Fatalf("%d clusters stay free", b.ed.space.freeClusters)
		}
	}
}

// fill inserts a block, if there is space.
func (b *bed) fill(f *bedFile, lblk Lblk) bool {
	b.t.Helper()
	var phys Block
	err := b.step(f, func(ed Editor, in *Inode) (err error) {
		ed.Space().Root = true
		if phys, _, err = b.v.AllocBlocks(ed, Alloc{Want: 1}); err != nil {
			return err
		}
		in.Sectors += b.v.clusterSectors()
		return b.v.InsertRun(ed, in, lblk, phys, 1, false)
	})
	if err != nil && err != unix.ENOSPC && err != ErrSpaceBusy {
		b.t.Fatal(err)
	}
	if err == nil {
		f.model[lblk] = mappedBlock{phys, false}
	}
	return err == nil
}

// heldEdit is an Editor as the daemon's: blocks are in memory, and allocate none.
type heldEdit struct {
	*Edit
	held map[Block]Buf
}

func (e *heldEdit) Block(b Block) (Buf, error) {
	if buf, ok := e.held[b]; ok {
		return buf, nil
	}
	buf, err := e.Edit.Modify(b)
	if err == nil {
		e.held[b] = buf
	}
	return buf, err
}

func (e *heldEdit) Modify(b Block) (Buf, error) { return e.Block(b) }

func (e *heldEdit) Fresh(b Block) (Buf, error) {
	buf, err := e.Edit.Fresh(b)
	e.held[b] = buf
	return buf, err
}

// appender appends blocks to a file which do not join, or are preallocated and become written.
func appender(t testing.TB, name string, convert bool) (step func()) {
	b := newBed(t, imageNamed(name), 10)
	v, ed := b.v, &heldEdit{b.ed.Edit, map[Block]Buf{}}
	var at Lblk
	var in Inode
	fail := func(err error) {
		if err != nil {
			t.Fatal(err)
		}
	}
	fail(v.ReadInode(ed, b.files[0].ino, &in))
	if convert {
		p, n, err := v.AllocBlocks(ed, Alloc{Want: 4000})
		fail(err)
		fail(v.InsertRun(ed, &in, 0, p, n, true))
		fail(v.WriteInode(ed, &in))
	}
	return func() {
		ed.space.Begin()
		fail(v.ReadInode(ed, b.files[0].ino, &in))
		if convert {
			fail(v.ConvertRun(ed, &in, at, 1, true))
			at++
		} else {
			goal, err := v.Goal(ed, &in, at)
			fail(err)
			p, n, err := v.AllocBlocks(ed, Alloc{Goal: goal, Want: 1})
			fail(err)
			fail(v.InsertRun(ed, &in, at, p, n, false))
			at += 2
		}
		fail(v.WriteInode(ed, &in))
	}
}

// TestAppendAllocates wants no memory allocated by appending, nodes apart, nor by a truncation.
func TestAppendAllocates(t *testing.T) {
	for _, name := range []string{"ext4-4k", "ext3-1k"} {
		for _, convert := range []bool{false, name == "ext4-4k"} {
			step := appender(t, name, convert)
			for range 50 {
				step()
			}
			if n := testing.AllocsPerRun(50, step); n != 0 {
				t.Errorf("%s, convert %v: %v allocations", name, convert, n)
			}
		}
	}
	b := newBed(t, imageNamed("ext4-1k"), 11)
	f := b.files[0]
	for i := range Lblk(800) {
		b.insert(f, 2*i, 1, false, 0)
	}
	ed := &heldEdit{b.ed.Edit, map[Block]Buf{}}
	in := b.inode(f)
	to := Lblk(1600)
	b.ed.space.Begin()
	ed.space.Close()
	remove := func() {
		ed.space.Begin()
		if _, err := b.v.RemoveRuns(ed, &in, to-10, to); err != nil {
			t.Fatal(err)
		}
		to -= 10
	}
	remove()
	if n := testing.AllocsPerRun(10, remove); n != 0 {
		t.Errorf("a truncation: %v allocations", n)
	}
}

// BenchmarkAppend measures what a small write to the end of a file costs here.
func BenchmarkAppend(b *testing.B) {
	for name, convert := range map[string]bool{"insert": false, "convert": true} {
		b.Run(name, func(b *testing.B) {
			step, left := func() {}, 0
			for b.Loop() {
				if left == 0 {
					b.StopTimer()
					step, left = appender(b, "ext4-4k", convert), 4000
					b.StartTimer()
				}
				step()
				left--
			}
		})
	}
}
