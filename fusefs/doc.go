// Package fusefs is the FUSE front of a filesystem: it receives requests from the kernel into
// slots of the descriptor table, turns wire form into operations of package vfs and back, and
// replies straight from page-aligned buffers.
//
// The wire types come from go-fuse's fuse package. Its server is not used: it has a goroutine per
// request and synchronous handlers.
//
// Invariants:
//  1. Everything but New, Ready and Stop runs on the loop's thread.
//  2. A request is read only when a slot is free for it, so that a full table stops the intake
//     and the kernel queues what is left.
//  3. Every request but FORGET, BATCH_FORGET and INTERRUPT gets exactly one reply.
package fusefs
