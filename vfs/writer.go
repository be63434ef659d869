package vfs

import (
	"errors"
	"fmt"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"asyncfsd/asyncq"
	"asyncfsd/blockdev"
	"asyncfsd/vfs/ext4"
	"asyncfsd/vfs/jbd2"
)

// writer is what a filesystem that is written has: the running transaction, and the machine that
// commits it and writes its blocks in place. It is the provider that owns the machine's slot.
//
// The machine is, in straight lines:
//
//	for {
//		wait until there is something to do, or the commit interval has passed
//		if the running transaction is to be committed {
//			copy it to the log's staging memory; from here on there is a new running one
//			write its log blocks, the last as zeros; flush; write the commit block durably
//			its blocks may go in place; wake those who wait for it
//			wait until no reader that began before its end is left; what it freed is free
//		}
//		if the log or the cache is getting full {
//			write committed blocks in place, in order; flush
//			advance the log's tail, durably
//		}
//		if a checkpoint is wanted and the log is empty: erase it
//	}
//
// Invariants: one transaction is committed at a time, and nothing is written in place meanwhile. A
// block goes in place only if no transaction that is not durable holds it. Blocks are free for
// others only when the transaction that freed them is durable.
type writer struct {
	fs      *FS
	c       WriteConfig
	cache   *blockdev.Cache
	space   *ext4.Space
	orphans *ext4.Orphans
	quotas  *ext4.Quotas // nil without quota inodes
	log     *jbd2.Writer // nil without a journal
	// logDev is where the log is: the filesystem's device, or an external journal.
	logDev blockdev.Device

	id    asyncq.ProviderID
	slot  asyncq.Slot
	stage writerStage
	// inflight requests of the machine, and the first error among them.
	inflight int
	ioErr    unix.Errno
	// unwritten is how many bytes of the requests in flight have not been written yet.
	unwritten int64
	// mem holds the log blocks of the transaction that is committed, or blocks on their way in
	// place; zeros is what holes in partly written blocks are filled with.
	mem, zeros []byte
	memory     []byte // both
	pieces     []jbd2.Piece
	collected  []blockdev.Frame
	// commitSector is the first sector of the commit block that is going to be written.
	commitSector [512]byte

	tid        uint32 // of the running transaction
	committing uint32
	committed  uint32 // the newest durable one
	began      time.Time
	wanted     uint32 // a commit of this transaction was asked for
	place      bool   // everything committed is to go in place
	progress   bool   // the last round of writing in place wrote something
	unmounting bool
	done       bool

	revokes, revoking []ext4.Block
	durable           asyncq.WaitList // for a commit
	evicted           asyncq.WaitList // for an eviction to end, of which evicting are under way
	evicting          int
	room              asyncq.WaitList // for space in transaction, log or cache, or for free blocks
	checkpoint        checkpoint

	// readers counts data I/O under way by the parity of the transaction it began in.
	readers [2]int
	parity  uint8
	// behind counts, likewise, the writes that have been replied to and whose data are on their
	// way; follows is how many there ever were.
	behind  [2]int
	follows uint64
	// awaited is the count that has to become 0 before the machine goes on, nil for none.
	awaited *int

	front     FrontID    // of evictions and of times of access
	evictions []ext4.Ino // inodes to be freed that wait for a slot
	// uncut are files whose truncation has failed: they must not grow before what lies behind their
	// end is freed.
	uncut     map[ext4.Ino]bool
	pending   int // operations of front that are under way
	locks     []rangeLock
	rangeWait [16]asyncq.WaitList
	tails     tails
	aborted   unix.Errno
	down      bool // shut down: reads fail, too
	damage    damage
	mmp       *mmp // nil without multiple mount protection
	// Where the discards of what a transaction has freed are.
	discardGroup ext4.Group
	discardBit   uint32
	// synced is, by a hash of the inode number, the newest transaction that changed such an inode.
	synced [syncedSize]uint32
	// Commits and Placed count for statistics.
	commits, placed uint64
	written         uint64 // bytes, for s_kbytes_written
}

const (
	syncedSize = 4096
	// framesPerEdits: the running transaction may have an eighth of the cache, and needs room for
	// the largest step.
	framesPerEdits = 8
	// stagingMax bounds the memory of a commit: 4 MiB, or what the largest step takes twice over.
	stagingMax   = 4 << 20
	stagingSpare = 16 // descriptor, revoke and commit blocks of a transaction of two steps
	// collectMax is how many blocks are written in place by one round.
	collectMax = 1024
	zerosSize  = 64 << 10
)

// WritableFrames is the least number of blocks a cache must hold to write.
const WritableFrames = framesPerEdits * editsMax

func newWriter(fs *FS, c WriteConfig) (*writer, error) {
	if !fs.cache.Writable() {
		return nil, fmt.Errorf("blocks of %d bytes on sectors of %d can only be read",
			fs.vol.BlockSize, fs.sector)
	}
	if fs.cache.Frames() < WritableFrames {
		return nil, fmt.Errorf("cache_size: %d blocks of %d bytes are too few to write, the least "+
			"is %d: %w", fs.cache.Frames(), fs.vol.BlockSize, WritableFrames, unix.EINVAL)
	}
	if c.LogDevice == nil {
		c.LogDevice, c.LogStorage = fs.dev, c.Storage
	}
	size := int(fs.vol.BlockSize)
	if sector := c.LogDevice.SectorSize(); sector > size {
		return nil, fmt.Errorf("a journal with blocks of %d bytes on sectors of %d can only be "+
			"replayed", size, sector)
	}
	staging := max(stagingMax, (2*editsMax+stagingSpare)*size)
	mem, err := unix.Mmap(-1, 0, staging+zerosSize+size, unix.PROT_READ|unix.PROT_WRITE,
		unix.MAP_PRIVATE|unix.MAP_ANONYMOUS)
	if err != nil {
		return nil, fmt.Errorf("reserving %d MiB for the journal: %w", staging>>20, err)
	}
	if c.CommitSeconds == 0 {
		c.CommitSeconds = 5
	}
	w := &writer{fs: fs, c: c, cache: fs.cache, logDev: c.LogDevice,
		space: ext4.NewSpace(fs.vol), tid: 1,
		mem: mem[:staging:staging], zeros: mem[staging:][:zerosSize], memory: mem,
		pieces:    make([]jbd2.Piece, 0, 64),
		collected: make([]blockdev.Frame, 0, fs.cache.Frames()),
		revokes:   make([]ext4.Block, 0, 1024), revoking: make([]ext4.Block, 0, 1024),
		locks: make([]rangeLock, 0, fs.loop.Table.Len()), uncut: map[ext4.Ino]bool{}}
	if c.Log != nil {
		w.log, err = c.Log.NewWriter(fs.vol.HasIncompat(ext4.Incompat64bit),
			fs.vol.HasROCompat(ext4.ROCompatMetadataCsum))
		if err != nil {
			return nil, err
		}
		w.tid = uint32(w.log.Tid())
	}
	w.committed, w.wanted = w.tid-1, w.tid-1
	w.front = fs.AddFront(&evictFront{fs})
	if err := w.loadOrphans(); err != nil {
		return nil, err
	}
	w.space.Attach(w.orphans)
	if err := w.loadQuotas(); err != nil {
		return nil, err
	}
	w.evictions = w.orphans.List()
	fs.dev.Engine().AddBuffers(mem)
	w.id = fs.loop.Register("journal", w)
	w.slot = fs.loop.Table.Keep(w.id)
	fs.tx.edits.images = make([]byte, editsMax*size)
	fs.loop.Table.Queue(w.slot) // the machine's first look at what there is to do
	fs.w = w
	if err := w.begin(); err != nil || c.MMP == nil {
		return w, err
	}
	w.mmp, err = newMMP(w, *c.MMP, mem[staging+zerosSize:])
	return w, err
}

// loadOrphans reads what the last mount has left to be freed. As with the kernel, damage there does
// not keep a filesystem from being mounted that is to go on after errors.
func (w *writer) loadOrphans() (err error) {
	w.orphans, err = w.fs.vol.LoadOrphans(ext4.NewReaderSource(w.c.Storage, w.fs.vol.BlockBits))
	var corrupt *ext4.CorruptError
	if errors.As(err, &corrupt) && w.c.Errors == ErrorsContinue {
		w.fs.log.Error("not all orphans are known; e2fsck finds them", "error", err)
		r := ext4.ErrorRecord{When: now(), Ino: corrupt.Ino, Block: corrupt.Where, Err: err}
		w.damage = damage{1, r, r, OpEvict, OpEvict}
		return nil
	}
	return err
}

// loadQuotas has what everybody uses counted, if the filesystem has quota inodes.
func (w *writer) loadQuotas() error {
	q, err := w.fs.vol.LoadQuotas(ext4.NewReaderSource(w.c.Storage, w.fs.vol.BlockBits))
	if q == nil || err != nil {
		return err
	}
	for t, limit := range [...]bool{ext4.QuotaUser: w.c.LimitUsers,
		ext4.QuotaGroup: w.c.LimitGroups, ext4.QuotaProject: w.c.LimitProjects} {
		if limit {
			q.Limit(ext4.QuotaType(t))
		}
	}
	w.space.UseQuotas(q)
	w.quotas = q
	return nil
}

// txMax is the most blocks the running transaction may have.
func (w *writer) txMax() int {
	n := w.cache.Frames() / framesPerEdits
	if w.log != nil {
		n = min(n, w.log.Capacity()/4)
	}
	return n
}

// begin says on the disk that the filesystem is being written: first that the log counts, then
// where it begins.
func (w *writer) begin() error {
	err := w.editSuper(func(ed ext4.Editor) error {
		return w.fs.vol.MountSuper(ed, w.log != nil, w.c.Mountpoint)
	})
	if err != nil || w.log == nil {
		return err
	}
	return w.writeLogSuper(false)
}

// end says on the disk that everything is in place.
func (w *writer) end() error {
	if w.log != nil {
		if err := w.writeLogSuper(true); err != nil {
			return err
		}
	}
	return w.editSuper(func(ed ext4.Editor) error {
		return w.fs.vol.UnmountSuper(ed, w.space, w.written>>10)
	})
}

// editSuper changes the superblock in place, before or after the loop runs.
func (w *writer) editSuper(change func(ed ext4.Editor) error) error {
	ed := ext4.NewEdit(w.fs.vol, w.c.Storage, now())
	if err := change(ed); err != nil {
		return fmt.Errorf("superblock: %w", err)
	}
	if err := ed.WriteTo(w.c.Storage); err != nil {
		return fmt.Errorf("writing the superblock: %w", err)
	}
	return w.c.Storage.Flush()
}

func (w *writer) writeLogSuper(clean bool) error {
	var super [jbd2.SuperSize]byte
	w.log.Super(super[:], clean)
	if _, err := w.c.LogStorage.WriteAt(super[:], w.log.SuperOffset()); err != nil {
		return fmt.Errorf("writing the journal's superblock: %w", err)
	}
	return w.c.LogStorage.Flush()
}

// now is the time of day, in the steps in which the kernel's ext4 sees it: a file that is written
// all the time need not have its inode changed more often.
func now() ext4.Timespec {
	// NB: raw, since the runtime's bookkeeping around a system call costs more than this one.
	var t unix.Timespec
	_, _, errno := unix.RawSyscall(unix.SYS_CLOCK_GETTIME, unix.CLOCK_REALTIME_COARSE,
		uintptr(unsafe.Pointer(&t)), 0)
	if errno != 0 {
		return ext4.Timespec{Sec: time.Now().Unix()}
	}
	return ext4.Timespec{Sec: t.Sec, Nsec: uint32(t.Nsec)}
}

func (w *writer) runningTid() uint32 { return w.tid }

// changed notes that an inode is part of the running transaction, for fsync.
func (w *writer) changed(ino ext4.Ino) { w.synced[syncedIndex(ino)] = w.tid }

// changedIn returns a transaction whose being durable makes all changes to an inode durable. Two
// inodes may share an entry: then it is later than need be.
func (w *writer) changedIn(ino ext4.Ino) uint32 {
	tid := w.synced[syncedIndex(ino)]
	if int32(tid-w.tid) > 0 { // NB: half of all numbers ago, or none since the mount
		return w.committed
	}
	return tid
}

func syncedIndex(ino ext4.Ino) uint32 { return uint32(ino) * 0x9e3779b1 >> 20 % syncedSize }

// isDurable says whether transaction tid is.
func (w *writer) isDurable(tid uint32) bool { return int32(tid-w.committed) <= 0 }

// touched is told when blocks became part of the running transaction.
func (w *writer) touched() {
	if w.began.IsZero() {
		w.began = time.Now()
		w.kick()
	}
}

// request has transaction tid committed soon.
func (w *writer) request(tid uint32) {
	if int32(tid-w.wanted) > 0 {
		w.wanted = tid
	}
	w.kick()
}

// kick has the machine look at what there is to do.
func (w *writer) kick() {
	t := w.fs.loop.Table
	if w.stage == writerIdle && t.Desc(w.slot).State() == asyncq.Parked {
		w.fs.loop.Timer().Stop(w.slot)
		t.Queue(w.slot)
	}
}

// admit makes sure that the running transaction has room for another step that changes at most
// credits blocks, or has the slot wait for it.
func (w *writer) admit(tx *Tx, credits int) error {
	if w.down {
		return unix.EIO
	}
	if w.aborted != 0 {
		return unix.EROFS
	}
	running, need := w.cache.Running()+credits, 0
	if w.log != nil {
		need = w.log.Need(running, len(w.revokes)+revokesPerStep)
	}
	switch {
	case w.checkpoint.wanted:
	case running > w.txMax() || need > len(w.mem)>>w.fs.vol.BlockBits:
		w.request(w.tid)
	case w.log != nil && w.log.Free() < 2*need:
	case w.cache.Dirty()+running > w.cache.Frames()/4:
	default:
		return nil
	}
	w.place = true
	w.kick()
	return tx.stallOn(&w.room, wantJournal)
}

// beginData and endData enclose data I/O: what it uses must not be given to others meanwhile.
func (w *writer) beginData(op *Op) {
	op.reading, op.parity = true, w.parity
	w.readers[w.parity]++
}

func (w *writer) endData(op *Op) {
	if !op.reading {
		return
	}
	op.reading = false
	w.less(&w.readers[op.parity])
}

// await parks the machine until a count is 0, and says whether it is not.
func (w *writer) await(count *int) bool {
	if *count == 0 {
		return false
	}
	w.awaited = count
	w.park()
	return true
}

// less counts down what the machine may wait for.
func (w *writer) less(count *int) {
	if *count--; *count == 0 && w.awaited == count {
		w.awaited = nil
		w.fs.loop.Table.Queue(w.slot)
	}
}

// Complete counts down the machine's requests.
func (w *writer) Complete(t asyncq.Token, res int32) {
	if s, ok := w.fs.loop.Table.Lookup(t); !ok || s != w.slot {
		return
	}
	switch {
	case res > 0:
		w.unwritten -= int64(res) // NB: a discard moves nothing
	case res == 0:
	case w.stage == writerDiscard: // a hint: what the device cannot do is not asked for again
		w.c.Discard = false
	case w.stage == writerErase && w.checkpoint.how&CheckpointDiscard != 0:
		w.checkpoint.err = unix.Errno(-res)
	case w.ioErr == 0:
		w.ioErr = unix.Errno(-res)
	}
	if w.inflight--; w.inflight == 0 {
		if w.unwritten != 0 && w.ioErr == 0 {
			w.ioErr = unix.EIO // a short write
		}
		w.unwritten = 0
		w.fs.loop.Table.Queue(w.slot)
	}
}

// Cancel does nothing: the machine ends with the mount.
func (w *writer) Cancel(asyncq.Slot) {}

// Unmount frees what only the kernel held, commits and writes everything in place, and says so on
// the disk. The loop does not run, and no operation is under way. After an error the journal, or
// e2fsck, has to bring the filesystem in order.
func (fs *FS) Unmount() error {
	w := fs.w
	if w == nil {
		return nil
	}
	err := w.unmount()
	if w.mmp != nil {
		if e := w.mmp.end(); err == nil {
			err = e
		}
	}
	return err
}

func (w *writer) unmount() error {
	w.unmounting = true
	w.evictions = append(w.evictions[:0], w.orphans.List()...)
	w.nextEviction()
	w.kick()
	for !w.done {
		if err := w.fs.loop.Step(true); err != nil {
			return err
		}
	}
	if w.down {
		w.record()
		return nil // as asked for: the next mount recovers
	}
	if w.aborted != 0 {
		w.record()
		return fmt.Errorf("not everything could be written: %w", w.aborted)
	}
	err := w.end()
	w.record()
	return err
}
