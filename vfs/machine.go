package vfs

import (
	"errors"
	"log/slog"
	"math/rand/v2"

	"golang.org/x/sys/unix"

	"asyncfsd/asyncq"
	"asyncfsd/blockdev"
	"asyncfsd/vfs/ext4"
)

// errAhead is what the read-ahead source returns for a block that is not cached.
var errAhead = errors.New("vfs: not cached")

// attemptsMax ends an operation that is run again and again without getting anywhere: each
// attempt pins at least one more of the at most PinsMax blocks of a step, and the waits for a
// ticket and a buffer come on top. Reaching it is a bug, or an image made to provoke one.
const attemptsMax = 64 * blockdev.PinsMax

// FrontID is the number of a registered front.
type FrontID uint8

// Front is where operations come from and their results go.
type Front interface {
	// Reply takes the result of op, in slot s. It must not block, and calls FS.Done when it needs
	// the slot and its buffer no more.
	Reply(s asyncq.Slot, op *Op)
	// AddDirent appends a directory entry to payload at op.N and advances it; false if there is
	// no room. attr is nil but for OpReaddirPlus.
	AddDirent(op *Op, payload []byte, ent *ext4.Dirent, attr *Attr) bool
	// Held says that somebody behind the front still knows inode ino, by a handle or by number:
	// its data must stay though its last name is gone.
	Held(ino ext4.Ino) bool
}

// Config is what a filesystem is made of.
type Config struct {
	Loop   *asyncq.Loop
	Device blockdev.Device
	Volume *ext4.Volume
	Arena  *blockdev.Arena
	Log    *slog.Logger
	// NoACL hides POSIX ACLs.
	NoACL bool
	// MinixDF makes statfs count the whole device, as the minixdf option says.
	MinixDF bool
	// Override changes what Attr says of owner and mode.
	Override Override
	// Fakeroot has access(2) answered for everybody as for root.
	Fakeroot bool
	// Write has the filesystem written; nil is read-only.
	Write *WriteConfig
}

// Override replaces owners and permissions for all inodes: options uid=, gid=, umask=.
type Override struct {
	SetUID, SetGID bool
	UID, GID       uint32
	Umask          uint32
}

// FS is one mounted filesystem: the provider that owns the slots of its operations.
type FS struct {
	loop *asyncq.Loop
	id   asyncq.ProviderID
	// commits is the provider of CommitHandle.
	commits asyncq.ProviderID
	dev     blockdev.Device
	vol     *ext4.Volume
	arena   *blockdev.Arena
	cache   *blockdev.Cache
	log     *slog.Logger
	config  Config

	w      *writer // nil on a read-only mount
	ops    *asyncq.Blobs[Op]
	fronts []Front
	tx     Tx
	sector uint64 // granularity of data I/O, bytes
	// viaCache: blocks are smaller than sectors, so that data cannot be read in place.
	viaCache bool

	// Scratch of the running attempt.
	inode, child ext4.Inode
	// Of operations on two directories: the second one, and what its name stands for.
	inode2, child2, fresh ext4.Inode
	dirent2               ext4.Dirent
	dirent                ext4.Dirent
	aheadEnt              ext4.Dirent
	run                   ext4.Run
	scratch               [2][xattrMax]byte

	corruptions uint64
	// stallAt, in tests, says whether an access of op to block b is to stall.
	stallAt func(op *Op, b ext4.Block) bool
}

// New makes a filesystem over an opened volume. It registers its provider with the loop.
func New(c Config) (*FS, error) {
	cache, err := blockdev.NewCache(c.Loop, c.Device, c.Volume.BlockBits, c.Arena.CacheMem())
	if err != nil {
		return nil, err
	}
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	fs := &FS{loop: c.Loop, dev: c.Device, vol: c.Volume, arena: c.Arena, cache: cache,
		log: c.Log, config: c, ops: asyncq.NewBlobs[Op](c.Loop.Table),
		sector:   uint64(c.Device.SectorSize()),
		viaCache: int(c.Volume.BlockSize) < c.Device.SectorSize()}
	fs.tx.fs = fs
	fs.id = c.Loop.Register("vfs", fs)
	fs.commits = c.Loop.Register("commit", commits{fs})
	fs.AddFront(&publicFront{fs}) // publicID
	if c.Write != nil {
		if _, err := newWriter(fs, *c.Write); err != nil {
			return nil, err
		}
		if err := fs.w.cleanOrphans(); err != nil {
			if fs.w.mmp != nil {
				_ = fs.w.mmp.halt()
			}
			return nil, err
		}
	}
	return fs, nil
}

// AddFront registers a front before the loop runs or on its thread.
func (fs *FS) AddFront(f Front) FrontID {
	fs.fronts = append(fs.fronts, f)
	return FrontID(len(fs.fronts) - 1)
}

// Loop returns the loop the filesystem runs on.
func (fs *FS) Loop() *asyncq.Loop { return fs.loop }

// Volume returns the decoded superblock.
func (fs *FS) Volume() *ext4.Volume { return fs.vol }

// Arena returns the payload buffers.
func (fs *FS) Arena() *blockdev.Arena { return fs.arena }

// StatFS returns what statfs tells.
func (fs *FS) StatFS() ext4.StatFS {
	if fs.w != nil {
		return fs.w.space.StatFS(fs.config.MinixDF)
	}
	return fs.vol.StatFS(fs.config.MinixDF)
}

// Claim takes a slot for a new operation of front f, or returns asyncq.NoSlot when the table is
// full. The caller fills in the Op and calls Submit.
func (fs *FS) Claim(f FrontID) (asyncq.Slot, *Op) { return fs.claim(f, false) }

func (fs *FS) claim(f FrontID, reserved bool) (asyncq.Slot, *Op) {
	s := fs.loop.Table.Claim(fs.id, reserved)
	if s == asyncq.NoSlot {
		return s, nil
	}
	op := fs.ops.At(s)
	op.reset(f)
	return s, op
}

// reset empties what an operation reads before it writes it; the arrays need no clearing.
func (op *Op) reset(f FrontID) {
	op.Code, op.Front, op.Tag, op.Cred = OpNone, f, 0, Cred{}
	op.Node, op.Off, op.Size, op.Arg, op.NameLen = 0, 0, 0, 0, 0
	op.Node2, op.Off2, op.Len, op.Mode, op.Umask, op.Rdev, op.Valid = 0, 0, 0, 0, 0, 0, 0
	op.Name2Len = 0
	op.Errno, op.N, op.BufOff, op.Buf, op.Value, op.Attr = 0, 0, 0, 0, 0, Attr{}
	op.Killed = false
	op.restart()
}

// restart sets the cursors of op to the beginning.
func (op *Op) restart() {
	op.pos, op.attempts = op.Off, 0
	op.lookup2, op.empty, op.add = ext4.LookupCursor{}, ext4.LookupCursor{}, ext4.AddCursor{}
	op.lookup, op.xattr, op.seek = ext4.LookupCursor{}, ext4.XattrCursor{}, ext4.SeekCursor{}
	op.inflight, op.nruns, op.npins, op.ticket, op.more, op.ioErr = 0, 0, 0, false, false, 0
	op.moved, op.tid, op.phase, op.npieces, op.edge, op.victim, op.to = 0, 0, 0, 0, 0, 0, 0
	op.edges, op.zero = 0, [2]byteRange{}
	op.writes, op.sync, op.reading, op.locked, op.touch = false, false, false, false, false
	op.behind = false
}

// Abandon gives back a claimed slot that is not going to be submitted.
func (fs *FS) Abandon(s asyncq.Slot) { fs.loop.Table.Release(s) }

// Submit begins the operation in a claimed slot.
func (fs *FS) Submit(s asyncq.Slot) {
	op := fs.ops.At(s)
	op.pos = op.Off
	if fs.w != nil {
		op.tid = fs.w.committed
		if opTable[op.Code].credits > 0 {
			op.now, op.seed = now(), rand.Uint32()
		}
		if op.Code == OpEvict {
			fs.w.evicting++
		}
	}
	fs.loop.Table.Desc(s).Stage = stagePrepare
	fs.loop.Table.Queue(s)
}

// Resume goes on with an operation.
func (fs *FS) Resume(s asyncq.Slot) {
	op, d := fs.ops.At(s), fs.loop.Table.Desc(s)
	switch d.Stage {
	case stagePublic:
		fs.beginPublic(s, op)
	case stagePrepare:
		if d.Cancelled() {
			fs.finish(s, op, unix.ECANCELED)
			return
		}
		fs.attempt(s, op)
	case stageData:
		fs.dataDone(s, op)
	case stageDurable:
		fs.durable(s, op)
	}
	fs.cache.PassOn()
	fs.arena.PassOn(fs.loop.Table)
}

// attempt runs prepare once, from its top.
func (fs *FS) attempt(s asyncq.Slot, op *Op) {
	tx := &fs.tx
	tx.begin(s, op)
	if fs.w != nil && fs.w.down {
		fs.finish(s, op, unix.EIO)
		return
	}
	if op.attempts++; op.attempts > attemptsMax {
		fs.log.Error("operation makes no progress", "op", op.Code, "inode", op.Node)
		fs.finish(s, op, unix.EIO)
		return
	}
	op.nruns, op.more = 0, false
	err := fs.prepare(tx, op)
	if tx.stalled && err != asyncq.ErrStall {
		panic("vfs: " + op.Code.String() + " swallowed a stall")
	}
	if outstanding, _ := fs.loop.Table.Wants(s); outstanding > 0 {
		if tx.kind != wantBlock {
			op.attempts = 0 // NB: others may make it look again any number of times
		}
		fs.loop.Table.Park(s, tx.kind)
		return
	}
	if err == unix.ENOSPC && fs.w != nil && fs.w.evicting > 0 && op.Code != OpEvict {
		// NB: not for ever. Each eviction ends, and nobody can begin one without having deleted.
		fs.unpin(op)
		op.attempts = 0
		fs.loop.Table.Want(&fs.w.evicted, s)
		fs.loop.Table.Park(s, wantEvicted)
		return
	}
	switch err {
	case nil:
		fs.prepared(s, op)
	case asyncq.ErrStall: // injected
		fs.loop.Table.Queue(s)
	case ext4.ErrSpaceBusy:
		fs.unpin(op)
		fs.waitForFreed(s)
	case ext4.ErrContinue, errSearching:
		fs.unpin(op)
		op.attempts = 0
		fs.loop.Table.Queue(s)
	default:
		fs.fail(s, op, fs.errno(op, err))
	}
}

// fail ends an operation that cannot go on. What a copy has copied until then counts.
func (fs *FS) fail(s asyncq.Slot, op *Op, errno unix.Errno) {
	if op.Code == OpCopy && op.Value > 0 {
		errno = 0
	}
	fs.finish(s, op, errno)
}

// prepare runs the operation's function. What a writing one has changed is published if it got
// through, or to the end of a piece, and undone otherwise.
func (fs *FS) prepare(tx *Tx, op *Op) error {
	row := &opTable[op.Code]
	if row.prepare == nil {
		return unix.ENOSYS
	}
	if row.credits == 0 {
		return row.prepare(fs, tx, op)
	}
	if fs.w == nil {
		return unix.EROFS
	}
	credits := row.credits
	if fs.w.quotas != nil {
		credits += row.quota
	}
	if err := fs.w.admit(tx, credits); err != nil {
		return err
	}
	tx.beginEdits()
	err := row.prepare(fs, tx, op)
	// NB: blocks that were only wanted may be outstanding after a success, too; the attempt is
	// then run again.
	outstanding, _ := fs.loop.Table.Wants(tx.slot)
	if err != nil && err != ext4.ErrContinue || tx.stalled || outstanding > 0 {
		tx.rollback()
		return err
	}
	tx.publish()
	op.sync = op.sync || fs.w.c.synchronous(op.Code)
	return err
}

// synchronous says whether an operation is durable before the reply because of how the filesystem
// is mounted. The kernel says it of each WRITE.
func (c *WriteConfig) synchronous(code Code) bool {
	switch code {
	case OpMknod, OpMkdir, OpSymlink, OpLink, OpUnlink, OpRmdir, OpRename:
		return c.Sync || c.DirSync
	case OpSetattr, OpFallocate, OpCopy, OpSetxattr, OpRemovexattr, OpSetflags, OpSetproject:
		return c.Sync
	}
	return false
}

// errSearching says that a search has advanced its cursor as far as one step may go: what the
// attempt has changed is undone, and it is run again.
var errSearching = errors.New("vfs: searching")

// searching is the error of a search in a directory, which comes before or among changes.
func searching(err error) error {
	if err == ext4.ErrContinue {
		return errSearching
	}
	return err
}

// waitForFreed parks a slot until what was freed can be used.
func (fs *FS) waitForFreed(s asyncq.Slot) {
	w := fs.w
	fs.loop.Table.Want(&w.room, s)
	fs.loop.Table.Park(s, wantJournal)
	w.request(w.tid)
}

// prepared goes from prepare to data, or replies.
func (fs *FS) prepared(s asyncq.Slot, op *Op) {
	fs.unpin(op)
	op.attempts = 0
	switch {
	case op.behind:
		fs.follow(s, op)
	case op.nruns > 0:
		fs.startData(s, op)
	case op.more:
		fs.loop.Table.Queue(s)
	case op.sync:
		fs.durable(s, op)
	default:
		fs.finish(s, op, 0)
	}
}

// durable replies when the operation's transaction is durable.
//
// NB: a transaction that is being committed already may have flushed the device too early for data
// that were overwritten since: where they did not change the inode again, as in one tick of the
// clock, they belong to no later one. Then there is a flush of their own.
func (fs *FS) durable(s asyncq.Slot, op *Op) {
	w, d := fs.w, fs.loop.Table.Desc(s)
	if d.Stage != stageDurable {
		op.late = op.tid != w.tid && op.Code != OpShutdown
	}
	switch {
	case op.late && w.isDurable(op.tid): // as it is when nothing but data has changed
		fs.flush(s, op)
	case w.isDurable(op.tid):
		if op.Code == OpShutdown {
			w.shutDown()
		}
		fs.finish(s, op, 0)
	case w.aborted != 0:
		fs.finish(s, op, unix.EIO)
	default:
		d.Stage = stageDurable
		fs.loop.Table.Want(&w.durable, s)
		fs.loop.Table.Park(s, wantJournal)
		w.request(op.tid)
	}
}

// memory is what a run of data is read into or written from.
func (fs *FS) memory(op *Op, r *dataRun) []byte {
	switch r.kind {
	case runEdge:
		return fs.arena.Payload(op.edge)[r.at : r.at+r.length]
	case runZeros:
		return fs.w.zeros[:r.length]
	}
	return fs.arena.Payload(op.Buf)[r.at : r.at+r.length]
}

// startData reads the runs that prepare found into the payload, or writes them.
func (fs *FS) startData(s asyncq.Slot, op *Op) {
	io := asyncq.OpRead
	if op.writes {
		io = asyncq.OpWrite
	}
	if fs.w != nil {
		fs.w.beginData(op)
	}
	tok := fs.loop.Table.Token(fs.id, s)
	op.inflight, op.ioErr = uint16(op.nruns), 0
	fs.loop.Table.Desc(s).Stage = stageData
	fs.loop.Table.Park(s, wantData)
	for i := range op.nruns {
		r := &op.runs[i]
		if r.kind == runDiscard {
			fs.dev.Submit(asyncq.IO{Op: asyncq.OpDiscard, Off: r.off, Token: tok,
				Len: int64(r.blocks) << fs.vol.BlockBits})
			continue
		}
		fs.dev.Submit(asyncq.IO{Op: io, Off: r.off, Buf: fs.memory(op, r), Token: tok})
	}
}

// Complete counts down the data I/O of a slot. A short read inside the device is an error of
// the device.
func (fs *FS) Complete(t asyncq.Token, res int32) {
	s, ok := fs.loop.Table.Lookup(t)
	if !ok {
		return
	}
	op := fs.ops.At(s)
	switch {
	case res < 0:
		op.ioErr = unix.Errno(-res)
	default:
		op.moved += uint32(res)
	}
	if op.inflight--; op.inflight == 0 {
		fs.loop.Table.Queue(s)
	}
}

// dataDone looks at the data that has arrived, and replies or goes on with the next piece.
func (fs *FS) dataDone(s asyncq.Slot, op *Op) {
	want := uint32(0)
	for i := range op.nruns {
		want += op.runs[i].length
	}
	moved := op.moved
	op.moved = 0
	if fs.w != nil {
		fs.w.endData(op)
	}
	if op.ioErr != 0 {
		fs.log.Error("data I/O failed", "device", fs.dev.Name(), "op", op.Code, "inode", op.Node,
			"errno", op.ioErr)
	} else if moved != want {
		fs.log.Error("short data I/O", "device", fs.dev.Name(), "op", op.Code, "inode", op.Node)
		op.ioErr = unix.EIO
	}
	switch {
	case op.behind:
		fs.landed(s, op)
	case op.ioErr != 0:
		fs.fail(s, op, op.ioErr)
	case op.more:
		fs.loop.Table.Desc(s).Stage = stagePrepare
		fs.attempt(s, op)
	case op.sync:
		fs.durable(s, op)
	default:
		fs.finish(s, op, 0)
	}
}

// Cancel lets an operation that has I/O under way end by itself; the mark on its descriptor
// ends it at the next attempt.
func (fs *FS) Cancel(asyncq.Slot) {}

// finish hands the result of an operation to its front, which calls Done.
func (fs *FS) finish(s asyncq.Slot, op *Op, errno unix.Errno) {
	fs.unpin(op)
	op.Errno = errno
	if fs.w != nil {
		fs.w.over(s, op)
		if op.touch && errno == 0 {
			fs.access(op)
		}
	}
	fs.fronts[op.Front].Reply(s, op)
}

// Done frees the slot and the buffer of an operation that has been replied to. One whose data are
// on their way keeps both until they have landed.
func (fs *FS) Done(s asyncq.Slot) {
	op := fs.ops.At(s)
	if op.behind {
		return
	}
	fs.dropBuffer(op)
	fs.loop.Table.Release(s)
}

func (fs *FS) dropBuffer(op *Op) {
	if op.Buf != 0 {
		fs.arena.Put(fs.loop.Table, op.Buf)
		op.Buf = 0
	}
}

// unpin gives back the pins and the ticket of an operation that got past what it waited for.
func (fs *FS) unpin(op *Op) {
	for _, f := range op.pins[:op.npins] {
		fs.cache.Unpin(f)
	}
	op.npins = 0
	if op.ticket {
		op.ticket = false
		fs.cache.PutTicket()
	}
}

// errno maps an error of prepare to what the user sees. Corruption is counted and logged.
func (fs *FS) errno(op *Op, err error) unix.Errno {
	if errno, ok := err.(unix.Errno); ok {
		return errno
	}
	var corrupt *ext4.CorruptError
	if errors.As(err, &corrupt) {
		if fs.corruptions++; fs.corruptions <= corruptionsLogged {
			fs.log.Error(err.Error(), "device", fs.dev.Name(), "op", op.Code, "inode", op.Node)
		}
		if fs.w != nil {
			fs.w.damaged(op, corrupt)
		}
		return unix.EUCLEAN
	}
	fs.log.Error("operation failed", "op", op.Code, "inode", op.Node, "err", err)
	return unix.EIO
}

// corruptionsLogged bounds the log: a damaged image can give one error per access.
const corruptionsLogged = 100
