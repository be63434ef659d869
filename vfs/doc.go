// Package vfs carries out filesystem operations as resumable continuations.
//
// A front (the FUSE transport, the Go client, a file handle of the public API) claims a slot of
// the descriptor table, fills in the Op of that slot and submits it. The operation's prepare
// function is ordinary sequential Go over a Tx. When a block is missing, Tx.Block hangs the slot
// on the block's wait list and returns asyncq.ErrStall; the error travels up, the slot is parked,
// and when the block has arrived the function is run again from its top. Bulk data follows in a
// stage of its own, straight between the device and the payload buffer.
//
//	front ─claim─► prepare ◄─┐ stall, or next piece
//	                  │ ─────┘
//	                  ▼ runs to read
//	                data ──► prepare (more pieces) or reply ──► front ──► slot free
//
// Invariants:
//  1. Everything here runs on the loop's thread; nothing blocks.
//  2. All that an operation keeps over a stall is in its Op, which has no pointers. prepare has no
//     other side effects than on its Op, through a cursor, and on the payload it is filling.
//  3. What an attempt waited for stays pinned until the operation gets past it: it finishes or
//     advances a cursor (ErrContinue). A slot holds at most blockdev.PinsMax pins, and holds any
//     only with a ticket of the cache. A slot that waits for a ticket or a buffer holds no pins.
//  4. A stall that prepare swallowed is a bug, and stops the program (machine.go).
package vfs
