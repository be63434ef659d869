package blockdev

import (
	"fmt"
	"math/bits"

	"golang.org/x/sys/unix"

	"asyncfsd/asyncq"
)

// Checked remembers, beside a cached block, which structures in it were verified since it was
// read, so that checksums are computed once per read and not once per access. The cache clears
// it whenever the block's bytes come from the disk.
type Checked struct {
	// Kind is the role in which the block was verified, 0 for none; the filesystem's own codes.
	// A block used in another role is verified anew.
	Kind uint8
	// Items has bit i%64 set for verified item i of a table block; whole-block structures use
	// bit 0.
	Items uint64
}

// Limits of the cache.
const (
	// PinsMax is the most cached units one slot may have pinned: the most blocks that one step
	// of a filesystem operation touches (ext4.BlocksPerStep, 26), rounded up to the table's
	// WantsMax.
	PinsMax = asyncq.WantsMax
	// FramesMin is the smallest cache: two slots that have stalled (each holds up to PinsMax),
	// and as many frames again for what the running attempt touches and for read-ahead.
	FramesMin = 4 * PinsMax
)

type frameState uint8

const (
	frameEmpty frameState = iota
	frameReading
	frameValid
	frameFailed // the read failed; stays until the last pin is gone, so that all waiters see it
)

// frame is one unit of the cache. Flat and pointer-free.
type frame struct {
	unit    uint64 // which unit of the device
	waiting asyncq.WaitList
	gen     uint32 // guards the token of its read
	epoch   uint32 // attempt that touched it last: not evicted under its feet
	pins    uint16
	state   frameState
	ref     bool // clock bit
	errno   unix.Errno

	// What keeps a changed block here until it is in place; see cache_write.go.

	running bool   // changed by the running transaction
	closed  bool   // in the transaction that is being committed
	dirty   bool   // in a durable transaction, and not in place
	tid     uint32 // of the newest durable one, if dirty
	edited  uint32 // attempt that changed it last
}

// changed says that the frame holds what the device does not.
func (fr *frame) changed() bool { return fr.running || fr.closed || fr.dirty }

// Cache holds metadata blocks of one device, read on demand and evicted by clock. Bulk file data
// does not go through it. A unit is a filesystem block, or a sector where that is larger, so
// that O_DIRECT is possible on 4096-byte sectors with 1 KiB blocks. It is the provider of its
// own reads and belongs to the loop's thread.
//
// Invariants: a frame that is being read, is pinned, was changed and is not in place yet, or was
// touched by the running attempt is not evicted. Changed frames are at most a quarter (the owner of
// the transactions sees to that). Slots that have stalled hold at most Tickets × PinsMax pins, less
// than half of the
// frames, and read-ahead at most a quarter: there is always a frame to evict.
type Cache struct {
	loop   *asyncq.Loop
	table  *asyncq.Table
	dev    Device
	id     asyncq.ProviderID
	mem    []byte
	frames []frame
	// checked has subs entries per frame, one per filesystem block.
	checked   []Checked
	index     []int32 // open addressing, linear probing: frame + 1, 0 is empty
	indexMask uint64
	hand      int
	epoch     uint32
	ahead     int // frames being read with nobody waiting

	unitBits  uint8
	blockBits uint8

	running []Frame // frames of the running transaction
	closed  []Frame // frames of the one that is being committed
	dirty   int     // frames that are dirty

	tickets   int
	noTickets asyncq.WaitList

	// Hits and Misses count lookups since the start.
	Hits, Misses uint64
}

// NewCache makes a cache of blocks of 1<<blockBits bytes of dev in mem, page-aligned. EINVAL if
// mem has room for less than FramesMin units.
func NewCache(l *asyncq.Loop, dev Device, blockBits uint8, mem []byte) (*Cache, error) {
	unitBits := max(blockBits, uint8(bits.TrailingZeros(uint(dev.SectorSize()))))
	n := len(mem) >> unitBits
	if n < FramesMin {
		return nil, fmt.Errorf("cache_size: %d KiB is too small for blocks of %d bytes, the least "+
			"is %d KiB: %w", len(mem)>>10, 1<<unitBits, FramesMin<<unitBits>>10, unix.EINVAL)
	}
	size := 1 << bits.Len(uint(2*n-1))
	c := &Cache{loop: l, table: l.Table, dev: dev, mem: mem, frames: make([]frame, n),
		checked: make([]Checked, n<<(unitBits-blockBits)), index: make([]int32, size),
		indexMask: uint64(size - 1), unitBits: unitBits, blockBits: blockBits,
		running: make([]Frame, 0, n), closed: make([]Frame, 0, n),
		tickets: n / (2 * PinsMax)}
	c.id = l.Register("block cache", c)
	return c, nil
}

// Frame names a cached unit while it is pinned or touched by the running attempt.
type Frame int32

// NoFrame is the nil of frames.
const NoFrame = Frame(-1)

// Begin starts an attempt: what it touches from here on stays until the next Begin.
func (c *Cache) Begin() { c.epoch++ }

// Ticket takes the right to stall with pins, or hangs slot s on the list of those who wait for
// one and returns false.
func (c *Cache) Ticket(s asyncq.Slot) bool {
	if c.tickets == 0 {
		c.table.Want(&c.noTickets, s)
		return false
	}
	c.tickets--
	return true
}

// PutTicket gives the right back.
func (c *Cache) PutTicket() {
	c.tickets++
	c.PassOn()
}

// PassOn wakes the next slot that waits for a ticket, if there is one: who was woken for it before
// may have ended, or stopped elsewhere, without taking it.
func (c *Cache) PassOn() {
	if c.tickets > 0 {
		c.table.Wake(&c.noTickets, 0)
	}
}

// Get returns block b if it is cached. ok is false if it must be fetched; err is the errno with
// which its read has just failed.
func (c *Cache) Get(b uint64) (data []byte, checked *Checked, ok bool, err error) {
	f := c.find(b >> (c.unitBits - c.blockBits))
	if f == NoFrame || c.frames[f].state == frameReading {
		return nil, nil, false, nil
	}
	fr := &c.frames[f]
	if fr.state == frameFailed {
		return nil, nil, true, fr.errno
	}
	c.Hits++
	fr.ref, fr.epoch = true, c.epoch
	sub := int(b & (1<<(c.unitBits-c.blockBits) - 1))
	off := int(f)<<c.unitBits + sub<<c.blockBits
	end := off + 1<<c.blockBits
	return c.mem[off:end:end], &c.checked[int(f)<<(c.unitBits-c.blockBits)+sub], true, nil
}

// Fetch makes sure that block b is being read, and hangs slot s on it. It returns the frame,
// pinned for the slot, or NoFrame when the slot has no room for another want.
func (c *Cache) Fetch(b uint64, s asyncq.Slot) Frame {
	unit := b >> (c.unitBits - c.blockBits)
	f := c.find(unit)
	if _, room := c.table.Wants(s); room == 0 || f != NoFrame && c.frames[f].state != frameReading {
		return NoFrame
	}
	if f == NoFrame {
		c.Misses++
		f = c.evict()
		c.read(f, unit)
	} else if c.frames[f].waiting.Empty() {
		c.ahead-- // it was read-ahead until now
	}
	c.table.Want(&c.frames[f].waiting, s)
	c.frames[f].pins++
	return f
}

// Ahead begins to read block b if it is not cached and there is room: a hint, nothing waits.
func (c *Cache) Ahead(b uint64) {
	unit := b >> (c.unitBits - c.blockBits)
	if c.ahead >= len(c.frames)/4 || c.find(unit) != NoFrame {
		return
	}
	c.ahead++
	c.read(c.evict(), unit)
}

// Unpin gives a pin back.
func (c *Cache) Unpin(f Frame) {
	fr := &c.frames[f]
	if fr.pins == 0 {
		panic("blockdev: unpin of a frame without pins")
	}
	if fr.pins--; fr.pins == 0 && fr.state == frameFailed {
		c.forget(f)
	}
}

// read begins to fill an empty frame.
func (c *Cache) read(f Frame, unit uint64) {
	fr := &c.frames[f]
	fr.unit, fr.state, fr.ref, fr.epoch = unit, frameReading, true, c.epoch
	c.insert(f)
	off := int(f) << c.unitBits
	c.dev.Submit(asyncq.IO{Op: asyncq.OpRead, Off: int64(unit << c.unitBits),
		Buf:   c.mem[off : off+1<<c.unitBits],
		Token: asyncq.MakeToken(c.id, fr.gen, uint32(f))})
}

// Complete ends the read of a frame and queues the slots that wait for it.
func (c *Cache) Complete(t asyncq.Token, res int32) {
	f := Frame(t.Index())
	fr := &c.frames[f]
	if fr.gen&0xffffff != t.Generation() || fr.state != frameReading {
		return
	}
	if fr.waiting.Empty() {
		c.ahead--
	}
	subs := 1 << (c.unitBits - c.blockBits)
	clear(c.checked[int(f)*subs : int(f+1)*subs])
	fr.state = frameValid
	if res != 1<<c.unitBits {
		fr.state, fr.errno = frameFailed, unix.EIO
		if res < 0 {
			fr.errno = unix.Errno(-res)
		}
	}
	c.table.WakeAll(&fr.waiting, 0)
	if fr.state == frameFailed && fr.pins == 0 {
		c.forget(f)
	}
}

// Resume is never called: the cache owns no slots.
func (c *Cache) Resume(asyncq.Slot) {}

// Cancel is never called.
func (c *Cache) Cancel(asyncq.Slot) {}

// evict empties the next frame by the clock.
func (c *Cache) evict() Frame {
	for range 3 * len(c.frames) {
		f := Frame(c.hand)
		if c.hand++; c.hand == len(c.frames) {
			c.hand = 0
		}
		fr := &c.frames[f]
		switch {
		case fr.state == frameEmpty:
			return f
		case fr.pins > 0 || fr.state == frameReading || fr.epoch == c.epoch || fr.changed():
		case fr.ref:
			fr.ref = false
		default:
			c.forget(f)
			return f
		}
	}
	panic("blockdev: every frame of the cache is pinned; the sum of pins is wrong")
}

// forget takes a frame out of the index.
func (c *Cache) forget(f Frame) {
	c.remove(f)
	fr := &c.frames[f]
	*fr = frame{gen: fr.gen + 1}
}

func (c *Cache) slotOf(unit uint64) uint64 {
	return (unit * 0x9e3779b97f4a7c15 >> 20) & c.indexMask
}

func (c *Cache) find(unit uint64) Frame {
	for i := c.slotOf(unit); c.index[i] != 0; i = (i + 1) & c.indexMask {
		if f := Frame(c.index[i] - 1); c.frames[f].unit == unit {
			return f
		}
	}
	return NoFrame
}

func (c *Cache) insert(f Frame) {
	i := c.slotOf(c.frames[f].unit)
	for c.index[i] != 0 {
		i = (i + 1) & c.indexMask
	}
	c.index[i] = int32(f) + 1
}

// remove deletes by shifting back what follows, so that probes never meet a tombstone.
func (c *Cache) remove(f Frame) {
	i := c.slotOf(c.frames[f].unit)
	for c.index[i] != int32(f)+1 {
		i = (i + 1) & c.indexMask
	}
	for j := i; ; {
		j = (j + 1) & c.indexMask
		if c.index[j] == 0 {
			c.index[i] = 0
			return
		}
		home := c.slotOf(c.frames[c.index[j]-1].unit)
		if (j-home)&c.indexMask >= (j-i)&c.indexMask {
			c.index[i] = c.index[j]
			i = j
		}
	}
}
