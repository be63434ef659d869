package blockdev

import (
	"fmt"
	"os"

	"golang.org/x/sys/unix"

	"asyncfsd/asyncq"
)

// Sizes of the arena. The totals are what the memory of a mount with default options comes from
// (limit: 128 MiB resident): payload buffers 256 × 28 KiB = 7 MiB, 48 × 140 KiB = 6.6 MiB,
// 36 × 1,036 KiB = 36 MiB, and the block cache (cache_size=, 32 MiB): 82 MiB.
const (
	// HeadRoom precedes every payload, for a transport's headers: the payload itself starts on a
	// page, so that a FUSE_WRITE received at payload − 80 needs no copy for O_DIRECT, and a
	// reply leaves from payload − 16 in one piece.
	HeadRoom = 4096
	// TailRoom lets a read be widened to whole sectors (of 4096 bytes) at both ends. With
	// HeadRoom it also keeps large payloads from lying 1 MiB apart, which cost 1.36× at depth
	// 32 (cache-set aliasing).
	TailRoom = 8192

	smallSize, smallCount   = 16 << 10, 256
	mediumSize, mediumCount = 128 << 10, 48
	largeSize, largeCount   = 1 << 20, 36

	// PayloadMax is the largest payload a buffer takes, in bytes.
	PayloadMax = largeSize

	// ownPinned is how much of each of a transport's own buffers is registered: what small
	// requests use. The rest costs memory only when it is used.
	ownPinned = 128 << 10
	// ownLarge is how many large buffers there are besides those of a transport's own.
	ownLarge = 8
)

// BufID names a payload buffer; 0 is none.
type BufID uint32

// Arena is one mapping off the Go heap that holds the payload buffers and the block cache. It
// belongs to the loop's thread.
type Arena struct {
	mem     []byte
	shared  int         // how much of mem does not belong to a transport
	classes [4]bufClass // the last one are the transport's own
	cache   []byte
}

// classOwn is the index of the class of a transport's own buffers.
const classOwn = 3

type bufClass struct {
	mem    []byte
	size   int
	free   []uint32 // stack: the last one freed is the first one used, to stay small and warm
	stride int
	// waiting are the slots that need a buffer of this class.
	waiting asyncq.WaitList
}

// NewArena maps the arena with room for a block cache of cacheBytes.
func NewArena(cacheBytes int) (*Arena, error) { return NewArenaOwn(cacheBytes, 0) }

// NewArenaOwn is NewArena with own buffers that are a transport's for ever, each for the largest
// payload; there are fewer large ones then for everybody.
func NewArenaOwn(cacheBytes, own int) (*Arena, error) {
	specs := [4][2]int{
		{smallSize, smallCount}, {mediumSize, mediumCount}, {largeSize, largeCount},
		{largeSize, own},
	}
	if own > 0 {
		specs[classOwn-1][1] = ownLarge
	}
	page := os.Getpagesize()
	cacheBytes = (cacheBytes + page - 1) &^ (page - 1)
	total := cacheBytes
	for _, s := range specs {
		total += (s[0] + HeadRoom + TailRoom) * s[1]
	}
	mem, err := unix.Mmap(-1, 0, total, unix.PROT_READ|unix.PROT_WRITE,
		unix.MAP_PRIVATE|unix.MAP_ANONYMOUS)
	if err != nil {
		return nil, fmt.Errorf("reserving %d MiB of buffers: %w", total>>20, err)
	}
	a := &Arena{mem: mem, cache: mem[:cacheBytes:cacheBytes]}
	rest := mem[cacheBytes:]
	for i, s := range specs {
		c := &a.classes[i]
		c.size, c.stride = s[0], s[0]+HeadRoom+TailRoom
		c.mem, rest = rest[:c.stride*s[1]], rest[c.stride*s[1]:]
		if i == classOwn {
			break
		}
		a.shared = total - len(rest)
		c.free = make([]uint32, 0, s[1])
		for j := s[1]; j > 0; j-- {
			c.free = append(c.free, uint32(j-1))
		}
	}
	return a, nil
}

// Busy returns the memory that much I/O goes to, for registration with an engine.
func (a *Arena) Busy() [][]byte {
	all := [][]byte{a.mem[:a.shared]}
	for i := range len(a.classes[classOwn].mem) / max(1, a.classes[classOwn].stride) {
		all = append(all, a.Whole(a.Own(i))[:HeadRoom+ownPinned+TailRoom])
	}
	return all
}

// Own returns the buffer i of a transport's own. Put leaves it alone.
func (a *Arena) Own(i int) BufID { return (classOwn+1)<<24 | BufID(i) }

// CacheMem returns the part reserved for the block cache.
func (a *Arena) CacheMem() []byte { return a.cache }

// Get takes a buffer whose payload holds n bytes (plus TailRoom). It returns 0 if none is free;
// the slot then waits on Waiting(n). n is at most PayloadMax.
func (a *Arena) Get(n int) BufID {
	i := a.class(n)
	c := &a.classes[i]
	if len(c.free) == 0 {
		return 0
	}
	top := len(c.free) - 1
	j := c.free[top]
	c.free = c.free[:top]
	return BufID(i+1)<<24 | BufID(j)
}

// Free returns how many buffers for n bytes are free.
func (a *Arena) Free(n int) int { return len(a.classes[a.class(n)].free) }

// Waiting is the list of slots that wait for a buffer of n bytes.
func (a *Arena) Waiting(n int) *asyncq.WaitList { return &a.classes[a.class(n)].waiting }

// Put gives a buffer back and wakes the slot that has waited longest for its class.
func (a *Arena) Put(t *asyncq.Table, id BufID) {
	if id>>24-1 == classOwn {
		return
	}
	c := &a.classes[id>>24-1]
	c.free = append(c.free, uint32(id&0xffffff))
	t.Wake(&c.waiting, 0)
}

// PassOn wakes the next slots that wait for buffers which are free: who was woken for one before
// may have ended without taking it.
func (a *Arena) PassOn(t *asyncq.Table) {
	for i := range a.classes[:classOwn] {
		if c := &a.classes[i]; len(c.free) > 0 {
			t.Wake(&c.waiting, 0)
		}
	}
}

// Payload returns the payload of a buffer: page-aligned, TailRoom included.
func (a *Arena) Payload(id BufID) []byte { return a.Whole(id)[HeadRoom:] }

// Whole returns a buffer from its head room on; the payload starts at HeadRoom.
func (a *Arena) Whole(id BufID) []byte {
	c := &a.classes[id>>24-1]
	off := int(id&0xffffff) * c.stride
	return c.mem[off : off+c.stride : off+c.stride]
}

// Close unmaps the arena; nothing may be in flight.
func (a *Arena) Close() error { return unix.Munmap(a.mem) }

func (a *Arena) class(n int) int {
	for i := range a.classes[:classOwn] {
		if n <= a.classes[i].size {
			return i
		}
	}
	panic(fmt.Sprintf("blockdev: a payload of %d bytes", n))
}
