package fusefs

import (
	"math"

	"asyncfsd/vfs/ext4"
)

// lookups counts, for every inode that the kernel knows, how often it was told of it: an inode
// without names lives until the kernel has forgotten all of them.
//
// It is an open-addressed table without pointers: linear probing, at most three quarters full, and
// removal by shifting back, so that there are no tombstones.
type lookups struct {
	table []lookup // its length is a power of two
	used  int
	shift uint8 // 64 - log2 of the length
}

type lookup struct {
	ino ext4.Ino // 0 is a free place
	// n is the count. NB: at its largest value it stands for that many and more. The kernel
	// forgets an inode by the whole count at once, which is then no less, so that nothing is
	// lost.
	n uint32
}

// lookupsMin is the number of places to begin with: 8 KiB.
const lookupsMin = 1 << 10

func newLookups() lookups {
	return lookups{table: make([]lookup, lookupsMin), shift: 64 - 10}
}

// home is where an inode is looked for first: neighbouring numbers are spread.
func (l *lookups) home(ino ext4.Ino) int {
	return int(uint64(ino) * 0x9e3779b97f4a7c15 >> l.shift)
}

// find returns the place of an inode, or the free one where it would be.
func (l *lookups) find(ino ext4.Ino) int {
	mask := len(l.table) - 1
	i := l.home(ino)
	for l.table[i].ino != ino && l.table[i].ino != 0 {
		i = (i + 1) & mask
	}
	return i
}

// has says whether the kernel knows an inode.
func (l *lookups) has(ino ext4.Ino) bool {
	return ino != 0 && l.table[l.find(ino)].ino == ino
}

// add counts one more. ino is not 0.
func (l *lookups) add(ino ext4.Ino) {
	e := &l.table[l.find(ino)]
	if e.ino == ino {
		if e.n != math.MaxUint32 {
			e.n++
		}
		return
	}
	if (l.used+1)*4 > len(l.table)*3 {
		l.grow()
		e = &l.table[l.find(ino)]
	}
	*e = lookup{ino, 1}
	l.used++
}

// forget takes n off an inode's count, and says whether that was the last.
func (l *lookups) forget(ino ext4.Ino, n uint64) bool {
	i := l.find(ino)
	e := &l.table[i]
	switch {
	case ino == 0 || e.ino != ino || n == 0:
		return false
	case n >= uint64(e.n):
		l.remove(i)
		return true
	case e.n != math.MaxUint32:
		e.n -= uint32(n)
	}
	return false
}

// remove frees place i, and moves back those behind it that would have liked it better.
func (l *lookups) remove(i int) {
	mask := len(l.table) - 1
	for j := (i + 1) & mask; l.table[j].ino != 0; j = (j + 1) & mask {
		// The one at j may go to i unless its home lies behind i, up to j.
		if (j-l.home(l.table[j].ino))&mask >= (j-i)&mask {
			l.table[i] = l.table[j]
			i = j
		}
	}
	l.table[i] = lookup{}
	l.used--
}

// grow doubles the table. NB: a million inodes take some 10 ms, once.
func (l *lookups) grow() {
	old := l.table
	l.table = make([]lookup, 2*len(old))
	l.shift--
	for _, e := range old {
		if e.ino != 0 {
			l.table[l.find(e.ino)] = e
		}
	}
}
