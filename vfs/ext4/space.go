package ext4

import (
	"math/bits"

	"golang.org/x/sys/unix"
)

// Space is what a writer knows in memory of free blocks and inodes: the counts of each group, and
// the clusters that look free in the bitmaps but must not be used.
//
// Changes are undone with the attempt that made them: Begin starts one, Rollback undoes it, and
// what is not rolled back stays.
type Space struct {
	v      *Volume
	groups []groupSpace
	// free are the sums over the groups, as the descriptors say.
	freeClusters, freeInodes int64
	busyClusters             [busySets]int64
	// Root says that what is allocated is for root, or whom else reserved blocks are for.
	Root bool
	// keep is how many clusters only root may use (s_r_blocks_count).
	keep int64
	// keepTrees is how many clusters only Alloc.Tree may use, not even root's data.
	keepTrees int64
	// pages are bitmaps of busy clusters, a group's worth of bits each. A page is on loan to one
	// group for one set, or on the list of free ones.
	pages     [][]uint64
	freePages []uint16
	// freed is the set that takes what is freed now.
	freed BusySet
	undo  []spaceUndo
	// windows are parts of BusyReserved, of windowBlocks blocks, see ReserveBlocks.
	windows      [windowsMax]window
	windowBlocks int64
	// Scratch for splitting a leaf of a directory: its entries and its contents; and for an
	// attribute block in the making.
	leafEntries []leafEntry
	block       []byte
	acl         []byte // an ACL that is being inherited or changed
	attrs       xattrSpace
	quotas      *Quotas // nil if nobody counts
}

// BusySet is a set of clusters that must not be allocated though the bitmaps show them free.
type BusySet uint8

// The sets of busy clusters.
const (
	// BusyReserved: data is being written there, and is going to be published.
	BusyReserved BusySet = iota
	// busyFreed0 and busyFreed1: freed by a transaction that is not durable yet, or that somebody
	// may still read. The running transaction fills one while the other one is on its way.
	busyFreed0
	busyFreed1
	busySets = 3
)

// groupSpace is the summary of one group.
type groupSpace struct {
	freeClusters uint32 // as the descriptor says
	freeInodes   uint32
	dirs         uint32
	// longest is an upper bound of the length of free runs in the group that are not busy.
	longest uint32
	// busy are 1-based indexes of pages.
	busy [busySets]uint16
}

// busyPagesMax bounds the memory of busy sets: 1024 pages are 4 MiB with blocks of 4 KiB. A
// transaction that would need more groups has to be committed first (ErrSpaceBusy).
const busyPagesMax = 1024

// ErrSpaceBusy says that there may be space once the running transaction is durable.
var ErrSpaceBusy = unix.EUSERS

type undoKind uint8

const (
	undoClusters undoKind = iota
	undoInodes
	undoDirs
	undoBusy
	undoWindow
)

// spaceUndo is what Rollback needs of one change.
type spaceUndo struct {
	kind  undoKind
	set   BusySet
	on    bool // bits were set, not cleared
	group Group
	first uint32
	n     int32 // delta, or length of the range
	// window is what window number first was.
	window window
}

// undoMax is the capacity made ready for the changes of one step.
const undoMax = 1024

// NewSpace starts from the group descriptors as of Open.
func NewSpace(v *Volume) *Space {
	s := &Space{v: v, groups: make([]groupSpace, v.GroupsCount),
		undo: make([]spaceUndo, 0, undoMax), freed: busyFreed0,
		keep:        int64(v.reservedBlocks() >> v.ClusterBits),
		keepTrees:   int64(v.treeClusters()),
		leafEntries: make([]leafEntry, 0, v.BlockSize/deSizeMin), block: make([]byte, v.BlockSize),
		acl: make([]byte, v.aclSizeMax())}
	copy(s.groups, v.groups)
	for i := range s.groups {
		g := &s.groups[i]
		g.longest = g.freeClusters
		s.freeClusters += int64(g.freeClusters)
		s.freeInodes += int64(g.freeInodes)
	}
	return s
}

// reservedBlocks is s_r_blocks_count.
func (v *Volume) reservedBlocks() uint64 {
	n := uint64(v.u32(sRBlocksCountLo))
	if v.HasIncompat(Incompat64bit) {
		n |= uint64(v.u32(sRBlocksCountHi)) << 32
	}
	return n
}

// treeClusters is how many clusters are kept for mappings by extents: the kernel's default of its
// reserved_clusters. Block maps need none: all they are made of is allocated with the data.
func (v *Volume) treeClusters() uint64 {
	if !v.HasIncompat(IncompatExtents) {
		return 0
	}
	return min(uint64(v.BlocksCount)>>v.ClusterBits/50, reservedClustersMax)
}

// Begin starts an attempt.
func (s *Space) Begin() {
	s.undo = s.undo[:0]
	s.attrs.begin()
	if s.quotas != nil {
		s.quotas.begin()
	}
}

// Rollback undoes all changes since Begin.
func (s *Space) Rollback() {
	for i := len(s.undo) - 1; i >= 0; i-- {
		u := s.undo[i]
		switch u.kind {
		case undoWindow:
			w := &s.windows[u.first]
			s.windowBlocks += int64(u.window.end-u.window.next) - int64(w.end-w.next)
			*w = u.window
		case undoClusters:
			s.addClusters(u.group, -u.n)
		case undoInodes:
			s.addInodes(u.group, -u.n)
		case undoDirs:
			s.groups[u.group].dirs -= uint32(u.n)
		case undoBusy:
			s.setBusy(u.set, u.group, u.first, uint32(u.n), !u.on)
		}
		s.groups[u.group].longest = s.groups[u.group].freeClusters
	}
	s.undo = s.undo[:0]
	s.attrs.rollback()
	if s.quotas != nil {
		s.quotas.rollback()
	}
}

func (s *Space) addClusters(g Group, n int32) {
	s.groups[g].freeClusters += uint32(n)
	s.freeClusters += int64(n)
}

func (s *Space) addInodes(g Group, n int32) {
	s.groups[g].freeInodes += uint32(n)
	s.freeInodes += int64(n)
}

// Clusters notes that the descriptor of a group counts n more free clusters.
func (s *Space) clusters(g Group, n int32) {
	s.addClusters(g, n)
	s.undo = append(s.undo, spaceUndo{kind: undoClusters, group: g, n: n})
}

func (s *Space) inodes(g Group, n int32) {
	s.addInodes(g, n)
	s.undo = append(s.undo, spaceUndo{kind: undoInodes, group: g, n: n})
}

func (s *Space) dirs(g Group, n int32) {
	s.groups[g].dirs += uint32(n)
	s.undo = append(s.undo, spaceUndo{kind: undoDirs, group: g, n: n})
}

// busy adds clusters of a group to a set. ErrSpaceBusy: there is no memory for it.
func (s *Space) busy(set BusySet, g Group, first, n uint32) error {
	if s.groups[g].busy[set] == 0 && !s.lend(set, g) {
		return ErrSpaceBusy
	}
	s.setBusy(set, g, first, n, true)
	s.undo = append(s.undo, spaceUndo{kind: undoBusy, set: set, on: true, group: g, first: first,
		n: int32(n)})
	return nil
}

// unbusy takes clusters of a group out of a set.
func (s *Space) unbusy(set BusySet, g Group, first, n uint32) {
	s.setBusy(set, g, first, n, false)
	s.undo = append(s.undo, spaceUndo{kind: undoBusy, set: set, group: g, first: first,
		n: int32(n)})
}

// isBusy says whether a cluster of a group is in a set.
func (s *Space) isBusy(set BusySet, g Group, i uint32) bool {
	page := s.groups[g].busy[set]
	return page != 0 && s.pages[page-1][i/64]&(1<<(i%64)) != 0
}

// lend gives a group a page for a set.
func (s *Space) lend(set BusySet, g Group) bool {
	n := len(s.freePages)
	switch {
	case n > 0:
		s.groups[g].busy[set] = s.freePages[n-1]
		s.freePages = s.freePages[:n-1]
	case len(s.pages) < busyPagesMax:
		s.pages = append(s.pages, make([]uint64, (s.v.ClustersPerGroup+63)/64))
		s.groups[g].busy[set] = uint16(len(s.pages))
	default:
		return false
	}
	return true
}

// setBusy sets or clears bits. The page of a group stays on loan until Release, and that of the
// reserved until it is needed elsewhere: groups that are written to are few.
func (s *Space) setBusy(set BusySet, g Group, first, n uint32, on bool) {
	page := s.pages[s.groups[g].busy[set]-1]
	for i := first; i < first+n; {
		w, bit := i/64, i%64
		count := min(64-bit, first+n-i)
		mask := (^uint64(0) >> (64 - count)) << bit
		if on {
			page[w] |= mask
		} else {
			page[w] &^= mask
		}
		i += count
	}
	if on {
		s.busyClusters[set] += int64(n)
	} else {
		s.busyClusters[set] -= int64(n)
		s.groups[g].longest = s.groups[g].freeClusters
	}
}

// Close is told when the running transaction is closed: what is freed from now on belongs to the
// next one. The set that it takes must have been released.
func (s *Space) Close() {
	s.freed = busyFreed0 + busyFreed1 - s.freed
	if s.busyClusters[s.freed] != 0 {
		panic("ext4: the busy set of a transaction was not released")
	}
}

// Release makes what the transaction closed last has freed available.
func (s *Space) Release() {
	set := busyFreed0 + busyFreed1 - s.freed
	if s.busyClusters[set] == 0 {
		return
	}
	for i := range s.groups {
		g := &s.groups[i]
		if g.busy[set] == 0 {
			continue
		}
		clear(s.pages[g.busy[set]-1])
		s.freePages = append(s.freePages, g.busy[set])
		g.busy[set] = 0
		g.longest = g.freeClusters
	}
	s.busyClusters[set] = 0
}

// FreedPending says whether clusters wait for a transaction to be durable.
func (s *Space) FreedPending() bool {
	return s.busyClusters[busyFreed0]+s.busyClusters[busyFreed1] > 0
}

// Available is how many clusters can be allocated now.
func (s *Space) available() int64 {
	n := s.freeClusters
	for _, b := range s.busyClusters {
		n -= b
	}
	return n
}

// room is how many clusters there are for data.
func (s *Space) room(root bool) int64 {
	n := s.available() - s.keepTrees
	if !root {
		n -= s.keep
	}
	return n
}

// Ample says that so much is free that it does not matter who wants some: one request of anybody
// leaves what is kept for root.
func (s *Space) Ample() bool { return s.room(false) > ampleClusters }

// ampleClusters is more than one request can want.
const ampleClusters = 1 << 16

// full returns the error for a request that cannot be met.
func (s *Space) full() error {
	if s.FreedPending() {
		return ErrSpaceBusy
	}
	return unix.ENOSPC
}

// busyWord returns the busy bits of word w of a group.
func (s *Space) busyWord(g *groupSpace, w uint32) (x uint64) {
	for _, p := range g.busy {
		if p != 0 {
			x |= s.pages[p-1][w]
		}
	}
	return x
}

// word returns the bits of a bitmap that are set, or busy.
func (s *Space) word(g *groupSpace, bitmap []byte, w uint32) uint64 {
	return le.Uint64(bitmap[8*w:]) | s.busyWord(g, w)
}

// nextBit returns the first bit from i on, below end, that is set or clear as asked; end if none.
func (s *Space) nextBit(g *groupSpace, bitmap []byte, i, end uint32, set bool) uint32 {
	for i < end {
		x := s.word(g, bitmap, i/64)
		if !set {
			x = ^x
		}
		if x >>= i % 64; x != 0 {
			return min(i+uint32(bits.TrailingZeros64(x)), end)
		}
		i = i&^63 + 64
	}
	return end
}

// FreedRun returns the first run of clusters, from group g and bit i on, of what the transaction
// closed last has freed, and where the search goes on. n is 0 at the end.
func (s *Space) FreedRun(g Group, i uint32) (first uint32, n uint32, group Group) {
	set := busyFreed0 + busyFreed1 - s.freed
	for ; g < s.v.GroupsCount; g, i = g+1, 0 {
		p := s.groups[g].busy[set]
		if p == 0 {
			continue
		}
		page, end := s.pages[p-1], s.v.clustersIn(g)
		for i < end && page[i/64]>>(i%64)&1 == 0 {
			if page[i/64]>>(i%64) == 0 {
				i = i&^63 + 64
			} else {
				i++
			}
		}
		if i >= end {
			continue
		}
		for first = i; i < end && page[i/64]>>(i%64)&1 == 1; i++ {
		}
		return first, i - first, g
	}
	return 0, 0, g
}

// ClusterBlock returns the first block of a cluster of a group.
func (v *Volume) ClusterBlock(g Group, i uint32) Block {
	return v.groupFirst(g) + Block(i)<<v.ClusterBits
}

// ReserveFree reserves the first run of at least least free clusters from block b on, at most to
// the end of b's group, so that nobody takes it while it is being discarded. n is 0 if the group
// has no more; next is where the search goes on.
func (v *Volume) ReserveFree(ed Editor, b Block, least uint32) (at Block, n uint32, next Block,
	err error) {
	g := v.groupOf(b)
	next = v.groupFirst(g) + Block(v.BlocksPerGroup)
	s := ed.Space()
	if s.groups[g].freeClusters < least {
		return 0, 0, next, nil
	}
	bitmap, err := v.searchable(ed, g)
	if err != nil {
		return 0, 0, 0, err
	}
	gs, end := &s.groups[g], v.clustersIn(g)
	i := v.clusterOf(b)
	if g == 0 && v.FirstDataBlock == 0 {
		i = max(i, 1)
	}
	for i < end {
		i = s.nextBit(gs, bitmap, i, end, false)
		j := s.nextBit(gs, bitmap, i, end, true)
		if j-i >= least && j > i {
			return v.ClusterBlock(g, i), (j - i) << v.ClusterBits, v.ClusterBlock(g, j),
				s.busy(BusyReserved, g, i, j-i)
		}
		i = j
	}
	return 0, 0, next, nil
}
