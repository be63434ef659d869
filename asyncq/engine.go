package asyncq

import (
	"errors"
	"time"
)

// IOOp says what an I/O request does.
type IOOp uint8

// The operations a device understands.
const (
	OpRead    IOOp = iota // fill Buf from Off
	OpWrite               // write Buf at Off
	OpFlush               // make everything completed so far durable; Off and Buf unused
	OpDiscard             // the Len bytes at Off are no longer needed
)

// String returns the lower-case name of the operation.
func (op IOOp) String() string {
	switch op {
	case OpRead:
		return "read"
	case OpWrite:
		return "write"
	case OpFlush:
		return "flush"
	case OpDiscard:
		return "discard"
	}
	return "unknown"
}

// IO is one request to a device or an engine. It is passed by value and never kept beyond the
// completion that carries its Token.
type IO struct {
	Op  IOOp
	FUA bool // OpWrite only: durable before the completion
	// Off is the byte offset on the device (or in the file).
	Off int64
	// Len is the byte length of an OpDiscard; the others use len(Buf).
	Len int64
	// Buf is lent to the request until its completion has been reaped.
	Buf []byte
	// Token comes back in the completion.
	Token Token
}

// Token names the receiver of a completion: the provider in the top 8 bits, a 24-bit generation,
// and a 32-bit index that is the provider's own. A completion whose generation is not that of the
// thing it names is dropped by the provider.
type Token uint64

// MakeToken packs a token; generation is cut to 24 bits.
func MakeToken(p ProviderID, generation, index uint32) Token {
	return Token(p)<<56 | Token(generation&0xffffff)<<32 | Token(index)
}

// Provider returns the provider the completion goes to.
func (t Token) Provider() ProviderID { return ProviderID(t >> 56) }

// Generation returns the 24-bit generation.
func (t Token) Generation() uint32 { return uint32(t>>32) & 0xffffff }

// Index returns the provider's own index.
func (t Token) Index() uint32 { return uint32(t) }

// Completion is the end of one request: Res is the number of bytes moved (0 for flush and
// discard), for a poll the ready events, or a negative errno.
type Completion struct {
	Token Token
	Res   int32
}

// FileID names a descriptor registered with an engine.
type FileID int32

// ErrClosed is returned by an engine that has been closed.
var ErrClosed = errors.New("asyncq: closed")

// Engine is the one door through which a loop touches the outside. All methods but Wake belong
// to the loop's thread. Completions never run code: Wait hands them out as values, and the loop
// routes them to the provider in their token.
type Engine interface {
	// Name is how the engine is called in logs and options: "uring", "aio", "sim".
	Name() string
	// AddFile registers an open descriptor, which stays open until RemoveFile or Close.
	AddFile(fd int) (FileID, error)
	// RemoveFile forgets a file; nothing may be in flight on it. Also after Close.
	RemoveFile(f FileID)
	// AddBuffers tells the engine about memory that I/O is going to use often, so that it may
	// register (pin) it. It is a hint: an engine that cannot does nothing.
	AddBuffers(mem ...[]byte)
	// Submit queues one request. It does not block; what goes wrong comes as a completion.
	Submit(f FileID, io IO)
	// Poll queues a lasting watch for readability of fd; each readiness gives a completion
	// with the token and Res > 0. A negative Res ends the watch.
	Poll(fd int, token Token)
	// Post queues a completion as if the outside had answered. Wrappers use it.
	Post(c Completion)
	// Wait submits what is queued, waits until at least one completion is there or the timeout
	// passes (negative: no limit; zero: only looks), and stores completions in out. A signal
	// may end it early, with nothing.
	Wait(timeout time.Duration, out []Completion) (n int, err error)
	// Wake makes a Wait that is under way, or the next one, return. Any goroutine may call it.
	Wake()
	// Close waits for what the kernel still holds and frees everything.
	Close() error
}
