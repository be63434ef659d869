package vfs

import (
	"golang.org/x/sys/unix"

	"asyncfsd/vfs/ext4"
)

// FreeMemory gives back what a filesystem that nobody uses any more has reserved: tests have
// thousands of them.
func (fs *FS) FreeMemory() {
	if w := fs.w; w != nil {
		_ = unix.Munmap(w.memory)
	}
	_ = fs.arena.Close()
}

// StallOnce makes every attempt stall at the first block that its operation has not yet stalled
// at since its cursor last moved, though the block may be there. It returns a count of the stalls.
func (fs *FS) StallOnce() *int {
	n := new(int)
	seen := map[*Op]map[ext4.Block]bool{}
	fs.stallAt = func(op *Op, b ext4.Block) bool {
		if seen[op] == nil {
			seen[op] = map[ext4.Block]bool{}
		}
		// Attempt 1 begins a step: it stalls at its first block, so that it comes here once.
		if op.attempts == 1 {
			clear(seen[op])
		}
		if seen[op][b] {
			return false
		}
		seen[op][b] = true
		*n++
		return true
	}
	return n
}

// Credits returns the most blocks that one step of each operation changes, with quotas.
func Credits() (list []int) {
	for _, row := range opTable {
		list = append(list, row.credits+row.quota)
	}
	return list
}

// EditsMax is the most blocks an attempt may change.
const EditsMax = editsMax

// Corruptions returns how many damaged structures operations have met.
func (fs *FS) Corruptions() uint64 { return fs.corruptions }
