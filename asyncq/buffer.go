package asyncq

import (
	"unsafe"

	"golang.org/x/sys/unix"
)

// Buffer wraps memory that is going to be lent to operations. Any memory does (no special
// allocator is asked of the user), but the slice handed to NewBuffer is the Buffer's from then
// on: while an operation has it, the API gives no way to reach the bytes, so that neither the
// kernel nor the program can change them under the other.
type Buffer struct {
	mem []byte
	// lent is guarded by Loop.mu of the loop that has the buffer; a Buffer is used with one
	// loop at a time.
	lent bool
	loop *Loop
}

// NewBuffer wraps mem. Memory aligned to the device's sectors is read and written in place,
// other memory through a bounce buffer.
func NewBuffer(mem []byte) *Buffer { return &Buffer{mem: mem} }

// Len returns the buffer's size in bytes.
func (b *Buffer) Len() int { return len(b.mem) }

// Bytes returns the memory, or EBUSY while the buffer is lent to an operation.
func (b *Buffer) Bytes() ([]byte, error) {
	if l := b.loop; l != nil {
		l.mu.Lock()
		defer l.mu.Unlock()
		if b.lent {
			return nil, unix.EBUSY
		}
	}
	return b.mem, nil
}

// Aligned says whether the memory and its length are multiples of align, a power of two.
func (b *Buffer) Aligned(align int) bool {
	p := uintptr(unsafe.Pointer(unsafe.SliceData(b.mem)))
	return (p|uintptr(len(b.mem)))&uintptr(align-1) == 0
}

// Memory returns the bytes lent to the running operation in slot s, nil if it has none. On the
// loop's thread, by the slot's owner.
func (l *Loop) Memory(s Slot) []byte {
	if b := l.bufs[s]; b != nil {
		return b.mem
	}
	return nil
}

// heapSink is never set; that the compiler cannot know it keeps buffers off the stack.
var (
	heapSink  *byte
	heapNever bool
)

// onHeap makes the compiler see that the memory of an I/O request outlives the call: the kernel
// knows it by address only, and a goroutine's stack, where it could lie otherwise, moves.
func onHeap(mem []byte) {
	if heapNever {
		heapSink = unsafe.SliceData(mem)
	}
}
