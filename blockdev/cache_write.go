package blockdev

import (
	"fmt"
	"slices"
)

// The life of a changed block:
//
//	clean ─Edit→ running ─CloseRunning→ closed ─Committed→ dirty ─Collect, Placed→ clean
//
// A block can be in several of these states at once: it is changed again while its older contents
// are being committed. Only what is in no transaction that is still running or being committed is
// collected, so that what is written in place is always durable in the log before. Without a log
// the commit in between is empty.

// Writable says whether blocks can be changed: a unit must be one block, since its neighbours in
// the same sector may be file data, which the cache does not see.
func (c *Cache) Writable() bool { return c.unitBits == c.blockBits }

// Fresh returns a frame with zeros for block b without reading it. ok is false if the block is
// being read just now: Fetch then waits for that. existed says that the block was cached.
func (c *Cache) Fresh(b uint64) (data []byte, checked *Checked, ok, existed bool) {
	f := c.find(b)
	if f != NoFrame && c.frames[f].state != frameValid {
		return nil, nil, false, true
	}
	if existed = f != NoFrame; !existed {
		f = c.evict()
		fr := &c.frames[f]
		fr.unit, fr.state = b, frameValid
		c.insert(f)
		c.checked[f] = Checked{}
	}
	fr := &c.frames[f]
	fr.ref, fr.epoch = true, c.epoch
	off := int(f) << c.unitBits
	return c.mem[off : off+1<<c.unitBits : off+1<<c.unitBits], &c.checked[f], true, existed
}

// First says that the running attempt has not changed block b yet, which it is going to.
func (c *Cache) First(b uint64) bool {
	fr := &c.frames[c.find(b)]
	if fr.edited == c.epoch {
		return false
	}
	fr.edited = c.epoch
	return true
}

// Discard drops a block that Fresh made, whose attempt is undone.
func (c *Cache) Discard(b uint64) {
	if f := c.find(b); f != NoFrame && !c.frames[f].changed() && c.frames[f].pins == 0 {
		c.forget(f)
	}
}

// Edited makes block b, changed by an attempt that has succeeded, part of the running transaction.
func (c *Cache) Edited(b uint64) {
	f := c.find(b)
	if fr := &c.frames[f]; !fr.running {
		fr.running = true
		c.running = append(c.running, f)
	}
}

// InRunning says whether the running transaction has block b.
func (c *Cache) InRunning(b uint64) bool {
	f := c.find(b)
	return f != NoFrame && c.frames[f].running
}

// Running is the number of blocks of the running transaction.
func (c *Cache) Running() int { return len(c.running) }

// Dirty is the number of blocks that wait to be written in place.
func (c *Cache) Dirty() int { return c.dirty }

// Frames is the number of blocks that the cache holds.
func (c *Cache) Frames() int { return len(c.frames) }

// CloseRunning makes the running transaction the one that is being committed.
func (c *Cache) CloseRunning() {
	if len(c.closed) != 0 {
		panic("blockdev: a transaction is being committed already")
	}
	c.running, c.closed = c.closed, c.running
	for _, f := range c.closed {
		c.frames[f].running, c.frames[f].closed = false, true
	}
}

// Closed returns the number of the i'th block of the transaction that is being committed, and its
// contents, right after CloseRunning.
func (c *Cache) Closed(i int) (b uint64, data []byte) {
	f := c.closed[i]
	off := int(f) << c.unitBits
	return c.frames[f].unit, c.mem[off : off+1<<c.unitBits]
}

// ClosedLen is how many blocks the transaction that is being committed has.
func (c *Cache) ClosedLen() int { return len(c.closed) }

// Committed says that the transaction being committed is durable as number tid.
func (c *Cache) Committed(tid uint32) {
	for _, f := range c.closed {
		fr := &c.frames[f]
		if !fr.dirty {
			c.dirty++
		}
		fr.closed, fr.dirty, fr.tid = false, true, tid
	}
	c.closed = c.closed[:0]
}

// Revoked says that block b was freed by a durable transaction: it need not be written in place.
func (c *Cache) Revoked(b uint64) {
	f := c.find(b)
	if f == NoFrame || c.frames[f].running || c.frames[f].closed {
		return
	}
	fr := &c.frames[f]
	if fr.dirty {
		fr.dirty = false
		c.dirty--
	}
	if fr.state == frameValid && fr.pins == 0 && fr.epoch != c.epoch {
		c.forget(f)
	}
}

// Collect lists at most limit dirty frames that may be written in place and were committed up to
// transaction tid, in the order of their blocks, appended to list.
func (c *Cache) Collect(tid uint32, limit int, list []Frame) []Frame {
	for i := range c.frames {
		fr := &c.frames[i]
		if fr.dirty && !fr.running && !fr.closed && int32(fr.tid-tid) <= 0 {
			list = append(list, Frame(i))
		}
	}
	slices.SortFunc(list, func(a, b Frame) int {
		return int(int64(c.frames[a].unit) - int64(c.frames[b].unit))
	})
	return list[:min(limit, len(list))]
}

// FrameBlock returns the number and the contents of the block in a frame.
func (c *Cache) FrameBlock(f Frame) (b uint64, data []byte) {
	off := int(f) << c.unitBits
	return c.frames[f].unit, c.mem[off : off+1<<c.unitBits]
}

// Placed says that a collected frame's contents, as they were then, are in place.
func (c *Cache) Placed(f Frame) {
	fr := &c.frames[f]
	if !fr.dirty {
		panic(fmt.Sprintf("blockdev: block %d was written in place, but is not dirty", fr.unit))
	}
	fr.dirty = false
	c.dirty--
}

// Oldest returns the oldest transaction with a block that is not in place. ok is false if there is
// none.
func (c *Cache) Oldest() (tid uint32, ok bool) {
	for i := range c.frames {
		if fr := &c.frames[i]; fr.dirty && (!ok || int32(fr.tid-tid) < 0) {
			tid, ok = fr.tid, true
		}
	}
	return tid, ok
}
