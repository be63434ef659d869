package vfs

import "asyncfsd/vfs/ext4"

// tailsMax is how many files that are being appended to are remembered, 4 KiB each.
const tailsMax = 8

// tails are the last sectors of the latest writes that ended within one: an append goes on there,
// and need not read them first. What a tail holds is what the device has: whoever changes the
// sector has the lock of its block, and drops or replaces the tail.
type tails struct {
	list [tailsMax]tail
	next int // to be replaced
}

// tail is one sector, at byte pos of a file; ino 0 is none.
type tail struct {
	ino  ext4.Ino
	pos  uint64
	data [edgeTail]byte
}

// find returns what is in the sector at byte pos of a file, nil if that is not known.
func (t *tails) find(ino ext4.Ino, pos uint64) []byte {
	for i := range t.list {
		if l := &t.list[i]; l.ino == ino && l.pos == pos {
			return l.data[:]
		}
	}
	return nil
}

// drop forgets what is known of bytes [from, to) of a file.
func (t *tails) drop(ino ext4.Ino, from, to uint64) {
	for i := range t.list {
		if l := &t.list[i]; l.ino == ino && l.pos < to && l.pos+edgeTail > from {
			l.ino = 0
			t.next = i
		}
	}
}

// keepTail remembers the end of a write that is over, if it has got through, and was not one to the
// inode itself.
func (w *writer) keepTail(op *Op) {
	w.tails.drop(op.Node, op.Off, op.Off+uint64(op.Size))
	sector := w.fs.sector
	end := op.Off + uint64(op.Size)
	if op.Errno != 0 || op.ioErr != 0 || op.N != op.Size || op.phase != writeMap ||
		end&(sector-1) == 0 {
		return
	}
	l := &w.tails.list[w.tails.next]
	l.ino, l.pos = op.Node, end&^(sector-1)
	copy(l.data[:sector], w.fs.arena.Payload(op.Buf)[l.pos-op.Off&^(sector-1):])
	w.tails.next = (w.tails.next + 1) % tailsMax
}
