package asyncq

import (
	"sync/atomic"
	"unsafe"

	"golang.org/x/sys/unix"
)

// futex is the lock that the threads of a loop pass around. It is held while one of them works on
// what they share, for microseconds, and never over a system call that could sleep.
//
// A sync.Mutex parks the goroutine instead, and it takes 9–16 µs to put one that is locked to its
// thread on again.
type futex struct {
	word atomic.Uint32 // 0 free, 1 held, 2 held and somebody sleeps
}

// spins is how often a held futex is looked at before the thread sleeps: about a microsecond.
const spins = 200

const (
	futexWait = 0 | 128 // FUTEX_WAIT, FUTEX_PRIVATE_FLAG
	futexWake = 1 | 128
)

func (f *futex) lock() {
	for range spins {
		if f.word.Load() == 0 && f.word.CompareAndSwap(0, 1) {
			return
		}
	}
	for f.word.Swap(2) != 0 {
		// NB: not raw, unlike the wait for completions: the collector may want to stop the world,
		// or the thread that has the lock may need what lets this one run, and neither comes
		// through to a loop of raw system calls.
		_, _, _ = unix.Syscall6(unix.SYS_FUTEX, uintptr(unsafe.Pointer(&f.word)), futexWait, 2,
			0, 0, 0)
	}
}

func (f *futex) unlock() {
	if f.word.Swap(0) == 2 {
		_, _, _ = unix.RawSyscall6(unix.SYS_FUTEX, uintptr(unsafe.Pointer(&f.word)), futexWake, 1,
			0, 0, 0)
	}
}
