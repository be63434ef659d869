package vfs

import (
	"asyncfsd/asyncq"
	"asyncfsd/vfs/ext4"
)

// CanWrite says whether filesystems can be mounted for writing.
const CanWrite = true

// ClaimReserved is Claim for what gives resources back (OpEvict): when the table is full it takes
// one of the reserved slots. The front bounds how many of those it has.
func (fs *FS) ClaimReserved(f FrontID) (asyncq.Slot, *Op) { return fs.claim(f, true) }

// held says that some front knows inode ino.
func (fs *FS) held(ino ext4.Ino) bool {
	for _, f := range fs.fronts {
		if f.Held(ino) {
			return true
		}
	}
	return false
}
