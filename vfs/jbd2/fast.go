package jbd2

import "fmt"

// FastCommits returns the number of blocks for fast commits, 0 if the journal has no such feature.
func (l *Log) FastCommits() int {
	if l.Empty() || l.fcFirst >= l.fcEnd {
		return 0
	}
	return int(l.fcEnd - l.fcFirst)
}

// ReadFastCommit reads block i of those for fast commits into p.
func (l *Log) ReadFastCommit(i int, p []byte) error {
	_, err := l.c.Log.ReadAt(p, l.offset(l.fcFirst+LogBlock(i)))
	if err != nil {
		return fmt.Errorf("reading log block %d: %w", l.fcFirst+LogBlock(i), err)
	}
	return nil
}

// Append adds a transaction of n blocks to a log that was replayed: number Next, which takes the
// place of the fast commits to it. Those before it are forgotten, so that there is room. It is on
// stable storage when Append returns; then the log is to be opened anew. ok is false, and nothing
// was written, if the log is of a kind that is only read here, or too small. sec and nsec are the
// time of the commit. Errors: those of the device.
func (l *Log) Append(n int, entry func(i int) Entry, sec uint64, nsec uint32) (ok bool, err error) {
	w := &Writer{l: l, next: l.info.end, head: l.info.head}
	need := w.Need(n, 0)
	if l.Empty() || l.u32(hBlocktype) != blockSuperV2 || l.csumV1() || l.has(incompatCsumV2) ||
		need >= w.Capacity() {
		return false, nil
	}
	buf := make([]byte, need<<l.c.BlockBits)
	w.Encode(buf, n, entry, nil, sec, nsec)
	// The log is empty from here on, but begins where the new transaction is going to be, and
	// with its number: the fast commits still count.
	be.PutUint32(l.super[sSequence:], uint32(w.next))
	be.PutUint32(l.super[sStart:], uint32(w.head))
	if err := l.writeSuper(); err != nil {
		return false, err
	}
	for at := 0; at < need; {
		end := need - 1
		if at == end { // the commit block, when all others are there
			if err := l.c.Log.Flush(); err != nil {
				return false, fmt.Errorf("writing the log: %w", err)
			}
			end = need
		}
		p := w.Piece(at, end)
		if _, err := l.c.Log.WriteAt(buf[p.At:p.At+p.Len], p.Off); err != nil {
			return false, fmt.Errorf("writing the log: %w", err)
		}
		at += p.Len >> l.c.BlockBits
	}
	if err := l.c.Log.Flush(); err != nil {
		return false, fmt.Errorf("writing the log: %w", err)
	}
	return true, nil
}
