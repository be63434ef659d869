package vfs

import (
	"time"

	"golang.org/x/sys/unix"

	"asyncfsd/asyncq"
	"asyncfsd/blockdev"
	"asyncfsd/vfs/ext4"
	"asyncfsd/vfs/jbd2"
)

// writerStage is where the writer's machine is; see writer.
type writerStage uint8

const (
	writerIdle    writerStage = iota
	writerLogged              // the log blocks are written, with zeros for the last
	writerFlushed             // and flushed
	writerSealed              // the commit block is written
	writerReaders             // readers of what was freed are gone
	writerDiscard             // the device knows of some of it
	writerPlaced              // blocks are in place
	writerSettled             // and flushed
	writerTail                // the log's new tail is written
	writerErase               // blocks of the empty log are erased
	writerErased              // all of them, and that is flushed
)

// Resume goes on with the machine until it has to wait.
func (w *writer) Resume(asyncq.Slot) {
	for w.step() {
	}
}

// step does one step, and returns false when the slot is parked.
func (w *writer) step() bool {
	if w.ioErr != 0 && w.aborted == 0 {
		w.abort(w.ioErr)
	}
	if w.aborted != 0 && (w.stage == writerLogged || w.stage == writerFlushed) {
		// NB: with a commit block, recovery would take what is in the log for whole.
		w.stage = writerSealed
	}
	switch w.stage {
	case writerIdle:
		return w.choose()
	case writerLogged:
		if w.await(&w.behind[1-w.parity]) { // data that it tells of
			return false
		}
		// NB: the data that the transaction tells of, too, on whatever device they are.
		return w.flush(writerFlushed, true)
	case writerFlushed:
		w.stage = writerSealed
		return w.submitCommit()
	case writerSealed:
		w.sealed()
	case writerReaders:
		return w.release()
	case writerDiscard:
		return w.freed()
	case writerPlaced:
		return w.inPlace()
	case writerSettled:
		return w.settled()
	case writerTail:
		w.stage = writerIdle
		w.wakeRoom()
	case writerErase:
		return w.erase()
	case writerErased:
		return w.erased()
	}
	return true
}

// park ends the step: the slot goes on when what is in flight has completed.
func (w *writer) park() bool {
	w.fs.loop.Table.Park(w.slot, wantJournal)
	return false
}

// choose looks at what there is to do.
func (w *writer) choose() bool {
	running := w.cache.Running()
	interval := time.Duration(w.c.CommitSeconds) * time.Second
	due := running > 0 && time.Since(w.began) >= interval
	// blocked: what is to go in place is part of the running transaction.
	blocked := !w.progress && w.cache.Dirty() > 0 &&
		(w.place && w.tight() || w.log == nil && !w.durable.Empty())
	switch {
	case w.aborted != 0:
		if w.unmounting && w.following() == 0 {
			w.finished()
		}
		return w.park()
	case running > 0 && (due || w.unmounting || int32(w.wanted-w.tid) >= 0 || blocked ||
		w.checkpoint.wanted):
		return w.close()
	case w.cache.Dirty() > 0 && (w.progress || running == 0) &&
		(w.place || w.unmounting || w.tight() || w.log == nil || w.checkpoint.wanted):
		return w.writePlaces()
	case w.checkpoint.wanted && running == 0 && w.cache.Dirty() == 0:
		return w.empty()
	}
	w.place = false
	if running == 0 && w.cache.Dirty() == 0 {
		if w.wanted = w.tid - 1; w.unmounting && w.pending+w.following() == 0 {
			w.finished()
		}
		w.fs.loop.Table.WakeAll(&w.durable, 0)
	}
	w.wakeRoom()
	w.fs.loop.Table.Park(w.slot, wantJournal)
	if running > 0 {
		w.fs.loop.Timer().After(w.slot, max(0, interval-time.Since(w.began)))
	}
	return false
}

// finished tells Unmount, which turns the loop, that there is nothing left to do.
func (w *writer) finished() {
	w.done = true
	w.fs.loop.Engine().Wake()
}

// tight says that log or cache have less room than half of what they may have.
func (w *writer) tight() bool {
	return w.log != nil && w.log.Free() < w.log.Capacity()/2 ||
		w.cache.Dirty() > w.cache.Frames()/8
}

func (w *writer) wakeRoom() { w.fs.loop.Table.WakeAll(&w.room, 0) }

// close ends the running transaction and begins to write it to the log.
func (w *writer) close() bool {
	w.cache.CloseRunning()
	w.revokes, w.revoking = w.revoking[:0], w.revokes
	w.space.Close()
	w.parity = 1 - w.parity
	w.committing, w.began = w.tid, time.Time{}
	w.progress = true
	w.commits++
	if w.log == nil {
		w.tid++
		w.stage = writerSealed
		return true
	}
	t := time.Now()
	n := w.log.Encode(w.mem, w.cache.ClosedLen(), func(i int) jbd2.Entry {
		b, data := w.cache.Closed(i)
		return jbd2.Entry{Block: ext4.Block(b), Data: data}
	}, w.revoking, uint64(t.Unix()), uint32(t.Nanosecond()))
	w.pieces = w.pieces[:0]
	for at := 0; at < n; {
		p := w.log.Piece(at, n)
		w.pieces = append(w.pieces, p)
		at += p.Len >> w.fs.vol.BlockBits
	}
	w.pieces = append(w.pieces, w.log.Piece(n-1, n))
	w.hideCommit()
	w.log.Advance(n)
	w.tid = uint32(w.log.Tid())
	w.stage = writerLogged
	w.wakeRoom()
	for _, p := range w.pieces[:len(w.pieces)-1] {
		w.submit(w.logDev, asyncq.OpWrite, p.Off, w.mem[p.At:p.At+p.Len], false)
	}
	return w.park()
}

// submit sends one request of the machine to a device.
func (w *writer) submit(dev blockdev.Device, op asyncq.IOOp, off int64, buf []byte, fua bool) {
	w.inflight++
	if dev == w.fs.dev {
		w.written += uint64(len(buf))
	}
	w.unwritten += int64(len(buf))
	dev.Submit(asyncq.IO{Op: op, Off: off, Buf: buf, FUA: fua,
		Token: w.fs.loop.Table.Token(w.id, w.slot)})
}

// submitDiscard sends one discard of the machine to a device.
func (w *writer) submitDiscard(dev blockdev.Device, off, n int64) {
	w.inflight++
	dev.Submit(asyncq.IO{Op: asyncq.OpDiscard, Off: off, Len: n,
		Token: w.fs.loop.Table.Token(w.id, w.slot)})
}

// flush makes what was written in place durable, unless barriers are off, and goes on at stage
// next. With logToo it does the same for the log.
func (w *writer) flush(next writerStage, logToo bool) bool {
	w.stage = next
	if w.c.NoBarrier {
		return true
	}
	w.submit(w.fs.dev, asyncq.OpFlush, 0, nil, false)
	if logToo && w.logDev != w.fs.dev {
		w.submit(w.logDev, asyncq.OpFlush, 0, nil, false)
	}
	return w.park()
}

// hideCommit puts zeros in place of the commit block, all of which but the first sector are zeros
// anyway, so that only that sector has to change when the commit block is written.
//
// NB: a commit block that was torn, with what was in the log before behind its first sector, would
// have a wrong checksum: not the end of the log, but damage, for e2fsck and the kernel as well.
func (w *writer) hideCommit() {
	commit := w.commitBlock()
	w.commitSector = [512]byte(commit)
	clear(commit[:512])
}

func (w *writer) commitBlock() []byte {
	p := w.pieces[len(w.pieces)-1]
	return w.mem[p.At : p.At+p.Len]
}

func (w *writer) submitCommit() bool {
	p := w.pieces[len(w.pieces)-1]
	copy(w.commitBlock(), w.commitSector[:])
	w.submit(w.logDev, asyncq.OpWrite, p.Off, w.mem[p.At:p.At+p.Len], !w.c.NoBarrier)
	return w.park()
}

// sealed is reached when a transaction is durable. Without a log that is the case only when its
// blocks are in place.
func (w *writer) sealed() {
	if w.aborted == 0 {
		w.cache.Committed(w.committing)
		if w.log != nil {
			w.committed = w.committing
		}
		for _, b := range w.revoking {
			w.cache.Revoked(uint64(b))
		}
	}
	w.revoking = w.revoking[:0]
	w.fs.loop.Table.WakeAll(&w.durable, 0)
	w.stage = writerReaders
}

// release makes what the transaction freed available, once nobody reads it any more.
func (w *writer) release() bool {
	if w.await(&w.readers[1-w.parity]) {
		return false
	}
	w.discardGroup, w.discardBit = 0, 0
	w.stage = writerDiscard
	return true
}

// freed tells the device of what the transaction freed, and has it used again.
func (w *writer) freed() bool {
	if w.c.Discard && w.aborted == 0 && w.discard() {
		return w.park()
	}
	if w.aborted == 0 {
		w.space.Release()
	}
	w.stage = writerIdle
	w.wakeRoom()
	return true
}

// writePlaces begins to write committed blocks in place, in the order of their numbers, neighbours
// in one request.
func (w *writer) writePlaces() bool {
	limit := min(collectMax, len(w.mem)>>w.fs.vol.BlockBits)
	w.collected = w.cache.Collect(w.committing, limit, w.collected[:0])
	w.progress = len(w.collected) > 0
	size := int(w.fs.vol.BlockSize)
	w.stage = writerPlaced
	if !w.progress {
		return true
	}
	first, at := uint64(0), 0
	send := func(end int) {
		if end > at {
			w.submit(w.fs.dev, asyncq.OpWrite, int64(first)<<w.fs.vol.BlockBits, w.mem[at:end],
				false)
		}
		at = end
	}
	for i, f := range w.collected {
		b, data := w.cache.FrameBlock(f)
		if end := i * size; end == at || b != first+uint64((end-at)/size) {
			send(end)
			first = b
		}
		copy(w.mem[i*size:], data)
		w.placed++
	}
	send(len(w.collected) * size)
	return w.park()
}

// inPlace takes the blocks that were written for clean.
func (w *writer) inPlace() bool {
	if w.aborted == 0 {
		for _, f := range w.collected {
			w.cache.Placed(f)
		}
	}
	return w.flush(writerSettled, false)
}

// settled advances the tail of the log as far as blocks are in place and flushed.
func (w *writer) settled() bool {
	w.stage = writerTail
	oldest, ok := w.cache.Oldest()
	if !ok {
		oldest = w.committing + 1
	}
	switch {
	case w.aborted != 0:
		return true
	case w.log == nil:
		w.committed = oldest - 1
		w.fs.loop.Table.WakeAll(&w.durable, 0)
		return true
	case !w.log.TailTo(jbd2.Tid(oldest)):
		return true
	}
	sector := w.mem[:max(w.logDev.SectorSize(), jbd2.SuperSize)]
	if w.log.SuperOffset()&int64(len(sector)-1) != 0 {
		panic("vfs: the journal's superblock is not on a sector of its own")
	}
	clear(sector)
	w.log.Super(sector, false)
	w.submit(w.logDev, asyncq.OpWrite, w.log.SuperOffset(), sector, !w.c.NoBarrier)
	return w.park()
}

// abort is the one way into the state in which nothing is written any more: the log or a block
// could not be written. What is durable stays, and the next mount recovers it.
func (w *writer) abort(errno unix.Errno) {
	w.aborted = errno
	w.fs.log.Error("writing failed: the filesystem is read-only from now on",
		"device", w.fs.dev.Name(), "errno", errno)
	w.fs.loop.Table.WakeAll(&w.durable, 0)
	w.endCheckpoint()
}
