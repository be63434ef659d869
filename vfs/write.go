package vfs

import (
	"golang.org/x/sys/unix"

	"asyncfsd/asyncq"
	"asyncfsd/vfs/ext4"
)

// A write goes in rounds, each of at most runsMax runs of the device, of which at most piecesMax
// become part of the file only by it:
//
//	once: read the sectors of which only a part is written
//	find out what is behind the range; reserve blocks for holes, in memory
//	write the data, and zeros around it in blocks that are new
//	insert the reserved blocks, convert unwritten ones, set size and times: one transaction
//
// A crash before the transaction is durable leaves the blocks free: nobody ever sees what was in
// them before. Overwritten blocks only need the last step for the times.
//
// Small writes do the last step at once, and reply, see FS.follow.
const (
	writeBegin uint8 = iota
	writeMerge
	writeMap
	writePublish
)

// prepareWrite does the step that is next.
func prepareWrite(fs *FS, tx *Tx, op *Op) error {
	if err := fs.writable(tx, op); err != nil {
		return err
	}
	switch op.phase {
	case writePublish:
		return fs.publishWrite(tx, op)
	case inlineMoved:
		return fs.publishInline(tx, op, &fs.inode)
	}
	if op.phase == writeBegin {
		if err := fs.takePublic(tx, op); err != nil {
			return err
		}
		if err := fs.limitWrite(op); err != nil || op.Size == 0 {
			return err
		}
		bits := fs.vol.BlockBits
		first, last := ext4.Lblk(op.Off>>bits), ext4.Lblk((op.Off+uint64(op.Size)-1)>>bits)
		inline := fs.vol.MayInline(&fs.inode)
		if inline {
			first = 0
		}
		if err := tx.lockRange(op.Node, first, last); err != nil {
			return err
		}
		if inline {
			if done, err := fs.writeInline(tx, op); done || err != nil {
				return err
			}
		}
		if err := fs.growable(op.Off + uint64(op.Size)); err != nil {
			return err
		}
		op.pos = op.Off
		if edges, err := fs.readEdges(tx, op); err != nil || edges {
			return err
		}
	}
	if op.phase <= writeMerge {
		fs.merge(op)
	}
	err := fs.mapWrite(tx, op)
	if full(err) && fs.mayCut(op) { // a short write: what is there stays
		fs.syncWrite(op)
		return nil
	}
	return err
}

// mayCut says whether a write for which there is no more space may be a short one. The kernel does
// not look at the count of what comes from the page cache, and would take the rest for written; of
// an asynchronous direct write that is cut short it makes EIO. These get the error, whatever of
// them is written; of a direct write that fails in its first round nothing is.
func (fs *FS) mayCut(op *Op) bool {
	return op.pos > op.Off && op.Arg&(WriteCached|WriteDirect) == 0
}

// writable reads the inode of a file whose data are going to be changed.
func (fs *FS) writable(tx *Tx, op *Op) error {
	if err := fs.readable(tx, op.Node); err != nil {
		return err
	}
	in := &fs.inode
	if in.Flags&(ext4.FlagImmutable|ext4.FlagVerity) != 0 {
		return unix.EPERM
	}
	// NB: who may write only at the end was settled when the file was opened.
	if in.Flags&ext4.FlagAppend != 0 && op.Code == OpFallocate &&
		op.Arg&^uint32(unix.FALLOC_FL_KEEP_SIZE) != 0 {
		return unix.EPERM
	}
	return nil
}

// limitWrite finds out where an append goes, and cuts a write at the largest size of a file.
func (fs *FS) limitWrite(op *Op) error {
	in := &fs.inode
	if op.Arg&WriteAppend != 0 && op.Arg&WriteCached == 0 {
		op.Off = in.Size
	}
	most := fs.vol.SizeMax(in)
	if op.Size > 0 && op.Off >= most {
		return unix.EFBIG
	}
	op.Size = uint32(min(uint64(op.Size), most-op.Off))
	return nil
}

// growable refuses to let a file grow while it has blocks behind its end that could not be freed
// when it was cut: they would show again. The caller has a lock on where the file ends, so that
// nobody else is just freeing them.
func (fs *FS) growable(end uint64) error {
	in := &fs.inode
	if end > in.Size && (fs.w.uncut[in.Ino] || in.Links > 0 && fs.Orphan(in.Ino)) {
		return unix.EIO
	}
	return nil
}

// Which edges of a write are parts of sectors that hold something else, too.
const (
	edgeHead = 1 << iota
	edgeLast
)

// edgeTail is where in the second buffer the last sector of a write lies; the first is at 0.
const edgeTail = 4096

// readEdges reads the sectors of existing blocks of which the write has only a part, unless they
// are known. It says whether there are any to be read.
func (fs *FS) readEdges(tx *Tx, op *Op) (bool, error) {
	sector := fs.sector
	end := op.Off + uint64(op.Size)
	op.edges, op.nruns = 0, 0
	for i, pos := range [2]uint64{op.Off, end} {
		if pos&(sector-1) == 0 {
			continue
		}
		lblk := ext4.Lblk(pos >> fs.vol.BlockBits)
		if err := fs.vol.Map(tx, &fs.inode, lblk, 1, &fs.run); err != nil {
			return false, err
		}
		if fs.run.State != ext4.RunMapped {
			continue
		}
		if op.edge == 0 {
			if err := tx.bufferInto(&op.edge, edgeTail+uint32(sector)); err != nil {
				return false, err
			}
		}
		within := pos & uint64(fs.vol.BlockSize-1) &^ (sector - 1)
		op.edges |= 1 << i
		if known := fs.w.tails.find(op.Node, pos&^(sector-1)); known != nil {
			copy(fs.arena.Payload(op.edge)[i*edgeTail:], known[:sector])
			continue
		}
		op.runs[op.nruns] = dataRun{off: int64(uint64(fs.run.Phys)<<fs.vol.BlockBits + within),
			at: uint32(i * edgeTail), length: uint32(sector), kind: runEdge}
		op.nruns++
	}
	if op.nruns == 0 {
		return false, nil
	}
	op.writes, op.more, op.phase = false, true, writeMerge
	return true, nil
}

// merge puts the data where they lie in their sectors, and completes the first and the last sector
// with what was read of them, or with zeros. It may happen again after a stall: BufOff remembers
// that data have moved.
func (fs *FS) merge(op *Op) {
	payload := fs.arena.Payload(op.Buf)
	sector := uint32(fs.sector)
	head := uint32(op.Off) & (sector - 1)
	if head != op.BufOff {
		copy(payload[head:], payload[op.BufOff:op.BufOff+op.Size])
		op.BufOff = head
	}
	clear(payload[:head])
	if op.edges&edgeHead != 0 {
		copy(payload[:head], fs.arena.Payload(op.edge))
	}
	end := head + op.Size
	low := end &^ (sector - 1)
	if end == low {
		return
	}
	clear(payload[end : low+sector])
	if op.edges&edgeLast != 0 {
		copy(payload[end:low+sector], fs.arena.Payload(op.edge)[edgeTail+end-low:])
	}
}

// mapWrite plans a round from op.pos on.
func (fs *FS) mapWrite(tx *Tx, op *Op) error {
	end := op.Off + uint64(op.Size)
	op.nruns, op.npieces = 0, 0
	pos := op.pos
	for pos < end && op.nruns < runsMax-3 && op.npieces < piecesMax {
		n, err := fs.mapPiece(tx, op, pos, end)
		// NB: a direct write that fails in its first round leaves nothing behind, see mayCut.
		if full(err) && pos > op.pos && (op.pos > op.Off || op.Arg&WriteDirect == 0) {
			break
		}
		if err != nil {
			op.npieces = 0 // what was reserved is undone with the attempt
			return err
		}
		pos += n
	}
	op.roundEnd, op.writes = pos, true
	// NB: a later round must not fail with changes made, for then the write is a short one.
	if pos == end && op.pos == op.Off && fs.w.mayFollow(op, &fs.inode) {
		if err := fs.publishWrite(tx, op); err != nil {
			op.npieces = 0 // as above
			return err
		}
		op.behind = true
		return nil
	}
	op.more, op.phase = true, writePublish
	return nil
}

// full says whether an error is that there is no more space, for anybody or for an owner.
func full(err error) bool { return err == unix.ENOSPC || err == unix.EDQUOT }

// mapPiece plans what can be written in one run from pos on, and returns its length in bytes.
func (fs *FS) mapPiece(tx *Tx, op *Op, pos, end uint64) (uint64, error) {
	bits, size := fs.vol.BlockBits, uint64(fs.vol.BlockSize)
	lblk, within := ext4.Lblk(pos>>bits), pos&(size-1)
	want := uint32((within + end - pos + size - 1) >> bits)
	in := &fs.inode
	if err := fs.vol.Map(tx, in, lblk, want, &fs.run); err != nil {
		return 0, err
	}
	phys, n := fs.run.Phys, fs.run.Len
	fresh := fs.run.State != ext4.RunMapped
	if fresh {
		p := &op.pieces[op.npieces]
		*p = piece{lblk: lblk, phys: phys, n: n, convert: true}
		if fs.run.State == ext4.RunHole {
			if err := fs.reserve(tx, op, lblk, n, p); err != nil {
				return 0, err
			}
			phys, n = p.phys, p.n
		}
		op.npieces++
	}
	bytes := min(uint64(n)<<bits-within, end-pos)
	fs.planRuns(op, uint64(phys)<<bits, pos, bytes, fresh)
	return bytes, nil
}

// reserve finds blocks for a hole of n blocks at lblk: reserved ones, or with bigalloc those of a
// cluster that the file has already.
func (fs *FS) reserve(tx *Tx, op *Op, lblk ext4.Lblk, n uint32, p *piece) error {
	in, v := &fs.inode, fs.vol
	b, n, owned, err := v.HolePlace(tx, in, lblk, min(n, v.InsertMax(in, lblk)))
	if err != nil {
		return err
	}
	goal, within := ext4.Block(0), v.InCluster(lblk)
	if op.npieces > 0 { // behind what this round has reserved, if that is next to it
		if last := &op.pieces[op.npieces-1]; last.lblk+ext4.Lblk(last.n) == lblk {
			goal = last.phys + ext4.Block(last.n)
			if within > 0 && !owned { // the rest of its cluster
				b, n, owned = goal, min(n, 1<<v.ClusterBits-within), true
			}
		}
	}
	if owned {
		*p = piece{lblk: lblk, phys: b, n: n, owned: true}
		return nil
	}
	if goal == 0 {
		if goal, err = v.Goal(tx, in, lblk); err != nil {
			return err
		}
	}
	want, err := fs.allowed(tx, op, in, within+n)
	if err != nil {
		return err
	}
	b, got, err := v.ReserveBlocks(tx, in, ext4.Alloc{Goal: goal, Want: want})
	if err != nil {
		return err
	}
	*p = piece{lblk: lblk, phys: b + ext4.Block(within), n: min(n, got-within)}
	return nil
}

// allowed returns how many of n blocks, from the beginning of a cluster on, the owner of a file may
// have besides those that the round has reserved. They are counted when the round is over.
func (fs *FS) allowed(tx *Tx, op *Op, in *ext4.Inode, n uint32) (uint32, error) {
	if fs.w.quotas == nil {
		return n, nil
	}
	room, err := fs.vol.QuotaRoom(tx, in)
	if err != nil {
		return 0, err
	}
	room >>= fs.vol.BlockBits
	mask := uint64(1)<<fs.vol.ClusterBits - 1
	for _, p := range op.pieces[:op.npieces] {
		if !p.convert && !p.owned {
			n := uint64(fs.vol.InCluster(p.lblk)) + uint64(p.n)
			room -= min(room, (n+mask)&^mask)
		}
	}
	if room &^= mask; room == 0 {
		return 0, unix.EDQUOT
	}
	return uint32(min(uint64(n), room)), nil
}

// planRuns plans the writing of bytes from pos of the file on to the blocks at byte at of the
// device. In fresh blocks everything else becomes zeros.
func (fs *FS) planRuns(op *Op, at, pos, bytes uint64, fresh bool) {
	size, sector := uint64(fs.vol.BlockSize), fs.sector
	within := pos & (size - 1)
	low := within &^ (sector - 1)
	high := (within + bytes + sector - 1) &^ (sector - 1)
	if fresh && low > 0 {
		fs.addRun(op, dataRun{off: int64(at), length: uint32(low), kind: runZeros})
	}
	from := pos - within + low - (op.Off &^ (sector - 1))
	fs.addRun(op, dataRun{off: int64(at + low), at: uint32(from), length: uint32(high - low)})
	if rest := -high & (size - 1); fresh && rest > 0 {
		fs.addRun(op, dataRun{off: int64(at + high), length: uint32(rest), kind: runZeros})
	}
}

func (fs *FS) addRun(op *Op, r dataRun) {
	op.runs[op.nruns] = r
	op.nruns++
}

// publishWrite makes what a round has written part of the file.
func (fs *FS) publishWrite(tx *Tx, op *Op) error {
	in := &fs.inode
	for _, p := range op.pieces[:op.npieces] {
		if err := fs.publishPiece(tx, in, &p); err != nil {
			return err
		}
	}
	grown := op.roundEnd > in.Size
	in.Size = max(in.Size, op.roundEnd)
	killed, err := fs.killPrivileges(tx, in, op.Arg&WriteKillSuidgid != 0)
	if err != nil {
		return err
	}
	t := fs.vol.ClampTime(op.now)
	if grown || killed || op.npieces > 0 || in.Mtime != t || in.Ctime != t {
		fs.modified(in, op.now)
		if err := fs.write(tx, in); err != nil {
			return err
		}
	}
	// Nothing below fails: the round is over.
	op.npieces, op.Killed = 0, op.Killed || killed
	op.pos, op.N = op.roundEnd, uint32(op.roundEnd-op.Off)
	op.phase = writeMap
	if op.pos < op.Off+uint64(op.Size) {
		return ext4.ErrContinue
	}
	fs.syncWrite(op)
	return nil
}

// syncWrite has the reply wait until a write is durable, if it is a synchronous one.
func (fs *FS) syncWrite(op *Op) {
	if op.sync = op.Arg&WriteSync != 0 || fs.inode.Flags&ext4.FlagSync != 0; op.sync {
		fs.syncAfter(op) // NB: this write may have changed nothing but data, an earlier one more
	}
}

func (fs *FS) publishPiece(tx *Tx, in *ext4.Inode, p *piece) error {
	if p.convert {
		return fs.vol.ConvertRun(tx, in, p.lblk, p.n, true)
	}
	if !p.owned {
		if err := fs.vol.PublishBlocks(tx, in, p.phys, p.n); err != nil {
			return err
		}
	}
	return fs.vol.InsertRun(tx, in, p.lblk, p.phys, p.n, false)
}

// killPrivileges takes from a file what a change of its data or owner ends: capabilities, and if
// asked for the setuid bit and the setgid bit of what its group may execute. Devices, sockets and
// FIFOs lose these bits too, only directories keep them.
func (fs *FS) killPrivileges(tx *Tx, in *ext4.Inode, suidgid bool) (bool, error) {
	killed := false
	if suidgid && !in.IsDir() {
		mode := in.Mode &^ unix.S_ISUID
		if mode&unix.S_IXGRP != 0 {
			mode &^= unix.S_ISGID
		}
		killed, in.Mode = mode != in.Mode, mode
	}
	if in.FileACL == 0 && len(in.InBody) < 4 {
		return killed, nil
	}
	err := fs.vol.RemoveXattr(tx, in, ext4.XattrIndexSecurity, capability)
	switch err {
	case nil:
		return true, nil
	case unix.ENODATA:
		return killed, nil
	}
	return killed, err
}

var capability = []byte("capability")

// unreserve gives back what an operation has reserved and not published.
func (w *writer) unreserve(op *Op) {
	for _, p := range op.pieces[:op.npieces] {
		if !p.convert && !p.owned {
			w.fs.vol.UnreserveBlocks(w.space, p.phys, p.n)
		}
	}
	op.npieces = 0
}

// over ends what an operation holds of the writer: whether it went well or not.
func (w *writer) over(s asyncq.Slot, op *Op) {
	w.endData(op)
	switch op.Code {
	case OpWrite:
		w.keepTail(op)
	case OpEvict:
		w.tails.drop(op.Node, 0, ^uint64(0))
	}
	w.unlockRange(s, op)
	w.space.Begin()
	w.unreserve(op)
	if op.edge != 0 {
		w.fs.arena.Put(w.fs.loop.Table, op.edge)
		op.edge = 0
	}
	if op.Code == OpEvict {
		w.evicting--
		w.fs.loop.Table.WakeAll(&w.evicted, 0)
	}
	if op.Errno == 0 && (op.Code == OpSetattr && op.phase == truncFree || op.Code == OpEvict) {
		delete(w.uncut, op.Node)
	}
	switch {
	case op.victim != 0 && op.Errno == 0:
		w.fs.evict(op.victim)
	case op.Code == OpSetattr && op.phase == truncFree && op.Errno != 0 && w.aborted == 0:
		w.uncut[op.Node] = true // the size has changed: what is behind it goes
		w.evictions = append(w.evictions, op.Node)
		w.nextEviction()
	case w.aborted == 0: // inodes of values that attributes have left
		w.nextEviction()
	}
}
