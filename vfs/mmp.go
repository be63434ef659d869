package vfs

import (
	"fmt"
	"time"

	"golang.org/x/sys/unix"

	"asyncfsd/asyncq"
	"asyncfsd/vfs/ext4"
)

// mmp keeps the block of multiple mount protection up to date while a filesystem is written. It is
// the provider that owns the machine's slot.
//
// The machine is, in straight lines:
//
//	for {
//		read the block
//		if it is not what was written last: somebody else writes to the filesystem, so give up
//		write it with the next number
//		wait for the rest of the interval between two updates
//	}
//
// NB: the kernel reads the block only if an update was late, and would not notice before.
type mmp struct {
	w     *writer
	id    asyncq.ProviderID
	slot  asyncq.Slot
	stage mmpStage
	// last is what stands on the disk; after a write that failed it may as well be next.
	last, next ext4.MMP
	at         int64
	mem        []byte // the block
	began      time.Time
	took       time.Duration // the last update
	res        int32         // of the request under way
	failing    bool          // the last update failed
	over, lost bool
}

type mmpStage uint8

const (
	mmpWaiting mmpStage = iota
	mmpReading
	mmpWriting
)

// newMMP begins with what the mount has written. mem is for a block.
func newMMP(w *writer, first ext4.MMP, mem []byte) (*mmp, error) {
	b, err := w.fs.vol.MMPBlock()
	if err != nil {
		return nil, err
	}
	m := &mmp{w: w, last: first, next: first, mem: mem, at: int64(b) << w.fs.vol.BlockBits}
	m.id = w.fs.loop.Register("mmp", m)
	m.slot = w.fs.loop.Table.Keep(m.id)
	w.fs.loop.Table.Queue(m.slot)
	return m, nil
}

// Resume goes on when the interval is over, or when a request has completed.
func (m *mmp) Resume(asyncq.Slot) {
	switch {
	case m.over:
		m.stage = mmpWaiting
		m.w.fs.loop.Table.Park(m.slot, wantTime)
	case m.stage == mmpWaiting:
		m.began = time.Now()
		m.submit(asyncq.OpRead, mmpReading)
	case m.res != int32(len(m.mem)):
		m.failed()
	case m.stage == mmpReading:
		m.compare()
	default:
		m.last, m.failing = m.next, false
		m.took = time.Since(m.began)
		m.sleep()
	}
}

func (m *mmp) submit(op asyncq.IOOp, stage mmpStage) {
	t := m.w.fs.loop.Table
	m.stage = stage
	m.w.fs.dev.Submit(asyncq.IO{Op: op, Off: m.at, Buf: m.mem, Token: t.Token(m.id, m.slot)})
	t.Park(m.slot, wantData)
}

// sleep waits until the next update is due.
func (m *mmp) sleep() {
	m.stage = mmpWaiting
	l := m.w.fs.loop
	l.Table.Park(m.slot, wantTime)
	l.Timer().After(m.slot, max(0, m.w.fs.vol.MMPInterval()-time.Since(m.began)))
}

// failed says once that the block cannot be updated, and tries again at the next interval: others
// may come to think that nobody has the filesystem, and then the comparison tells.
func (m *mmp) failed() {
	if !m.failing {
		m.w.fs.log.Error("the block of multiple mount protection cannot be updated",
			"device", m.w.fs.dev.Name(), "result", m.res)
	}
	m.failing = true
	m.sleep()
}

// compare writes the next number if the block is still ours.
func (m *mmp) compare() {
	if !m.ours() {
		m.give()
		m.w.fs.loop.Table.Park(m.slot, wantTime)
		return
	}
	m.next = m.last.Next(now(), m.took)
	m.next.Encode(m.w.fs.vol, m.mem)
	m.submit(asyncq.OpWrite, mmpWriting)
}

// ours says whether the block in memory is one that was written here.
func (m *mmp) ours() bool {
	have, err := m.w.fs.vol.DecodeMMP(m.mem)
	if err != nil || have != m.last && have != m.next {
		m.lost = true
		m.w.fs.log.Error("somebody else has the filesystem (multiple mount protection)",
			"device", m.w.fs.dev.Name(), "node", have.NodeName(), "as", have.DeviceName(),
			"err", err)
		return false
	}
	m.last = have
	return true
}

// give up what somebody else has: from here on nothing is written.
func (m *mmp) give() {
	m.over, m.stage = true, mmpWaiting
	if m.w.aborted == 0 {
		m.w.abort(unix.EBUSY)
	}
}

// Complete takes the result of the request under way.
func (m *mmp) Complete(t asyncq.Token, res int32) {
	if s, ok := m.w.fs.loop.Table.Lookup(t); ok && s == m.slot {
		m.res = res
		m.w.fs.loop.Table.Queue(s)
	}
}

// Cancel does nothing: the machine ends with the mount.
func (m *mmp) Cancel(asyncq.Slot) {}

// end stops the machine, and says on the disk that the filesystem is nobody's. The loop does not
// run.
func (m *mmp) end() error {
	if err := m.halt(); err != nil || m.lost {
		return err
	}
	c := m.w.c.Storage
	_, err := c.ReadAt(m.mem, m.at)
	if err == nil && !m.ours() {
		return fmt.Errorf("somebody else has the filesystem: %w", unix.EBUSY)
	}
	if err == nil {
		m.last.Seq, m.last.Time = ext4.MMPClean, uint64(now().Sec)
		m.last.Encode(m.w.fs.vol, m.mem)
		_, err = c.WriteAt(m.mem, m.at)
	}
	if err == nil {
		err = c.Flush()
	}
	if err != nil {
		return fmt.Errorf("the block of multiple mount protection: %w", err)
	}
	return nil
}

// halt ends the updates.
func (m *mmp) halt() error {
	m.over = true
	m.w.fs.loop.Timer().Stop(m.slot)
	for m.stage != mmpWaiting {
		if err := m.w.fs.loop.Step(true); err != nil {
			return err
		}
	}
	return nil
}
