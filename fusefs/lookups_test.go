package fusefs

import (
	"math"
	"math/rand/v2"
	"testing"

	"asyncfsd/vfs/ext4"
)

// TestLookups compares the table with a map, over a few numbers, so that they collide and come and
// go, and over many, so that it grows.
func TestLookups(t *testing.T) {
	for _, inodes := range []int{3, 700, 5000} {
		rng := rand.New(rand.NewPCG(1, uint64(inodes)))
		l, model := newLookups(), map[ext4.Ino]uint64{}
		for range 60 * inodes {
			ino := ext4.Ino(1 + rng.IntN(inodes))
			if rng.IntN(2) == 0 {
				l.add(ino)
				model[ino]++
				continue
			}
			n := uint64(rng.IntN(4))
			was := model[ino]
			model[ino] -= min(n, was)
			if gone := l.forget(ino, n); gone != (was > 0 && n >= was) {
				t.Fatalf("forget of %d of %d: gone %v", n, was, gone)
			}
			if model[ino] == 0 {
				delete(model, ino)
			}
		}
		if l.used != len(model) {
			t.Errorf("%d entries, want %d", l.used, len(model))
		}
		for ino := ext4.Ino(1); int(ino) <= inodes; ino++ {
			if l.has(ino) != (model[ino] > 0) {
				t.Errorf("inode %d: %v, want %d", ino, l.has(ino), model[ino])
			}
		}
		for ino, n := range model {
			if !l.has(ino) || l.forget(ino, n-1) || !l.forget(ino, 1) || l.has(ino) {
				t.Errorf("inode %d is not there %d times", ino, n)
			}
		}
		if l.used != 0 {
			t.Errorf("%d entries are left", l.used)
		}
	}
}

// TestLookupsFull has every place of the table taken in turn by colliding inodes, across its end.
func TestLookupsFull(t *testing.T) {
	l := newLookups()
	home := len(l.table) - 3
	var list []ext4.Ino
	for ino := ext4.Ino(1); len(list) < 8; ino++ {
		if l.home(ino) == home {
			list = append(list, ino)
			l.add(ino)
		}
	}
	for i, gone := range list {
		if !l.forget(gone, 1) {
			t.Errorf("inode %d was not there", gone)
		}
		for _, ino := range list[i+1:] {
			if !l.has(ino) {
				t.Errorf("inode %d went with %d", ino, gone)
			}
		}
	}
}

// TestLookupsMany has a count that does not fit.
func TestLookupsMany(t *testing.T) {
	l := newLookups()
	l.add(7)
	l.table[l.find(7)].n = math.MaxUint32 - 1
	l.add(7)
	l.add(7) // 2^32, counted as one less
	if l.forget(7, 5) || !l.has(7) {
		t.Error("forgotten too early")
	}
	if !l.forget(7, 1<<32-5) && !l.forget(7, 1<<32) {
		t.Error("never forgotten")
	}
}

func TestLookupsNone(t *testing.T) {
	l := newLookups()
	if l.has(0) || l.has(1) || l.forget(0, 1) || l.forget(1, 1) {
		t.Error("something in an empty table")
	}
}

func BenchmarkLookups(b *testing.B) {
	l := newLookups()
	for ino := ext4.Ino(1); ino < 100_000; ino++ {
		l.add(ino)
	}
	b.ReportAllocs()
	for i := 0; b.Loop(); i++ {
		ino := ext4.Ino(i*7919%99_999 + 1)
		l.add(ino)
		l.forget(ino, 1)
	}
}
