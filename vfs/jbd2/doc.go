// Package jbd2 reads and recovers the journal of ext3 and ext4 ("Journal (jbd2)" in the kernel's
// Documentation/filesystems/ext4). It knows no filesystem beyond numbers of blocks.
//
// The log is a ring of blocks. A transaction in it is a number of descriptor blocks, each followed
// by the blocks it describes, of revoke blocks, and a commit block. Recovery goes over it three
// times: Scan looks for the end, and for what is wrong; Replay collects the revoke records, then
// writes the blocks to where they belong. MarkEmpty ends it.
//
//  1. Nothing outside of the log is written before Scan has found the whole log good.
//  2. The log stays as it is until all that was replayed is on the disk. So a recovery that is cut
//     short can be run again from the beginning, with the same result.
//  3. Memory is bounded by the number of blocks in the log, see revokes, not by what they say; and
//     so is time: no pass looks at more blocks than the log has.
package jbd2
