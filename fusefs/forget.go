package fusefs

import (
	"unsafe"

	"github.com/hanwen/go-fuse/v2/fuse"

	"asyncfsd/asyncq"
	"asyncfsd/blockdev"
	"asyncfsd/vfs"
	"asyncfsd/vfs/ext4"
)

// What the kernel knows of: nodeid is the inode number, and its lookups are counted. An inode that
// has lost its last name while it was known is freed when it is forgotten: by OpEvict, the one
// operation that the transport begins by itself.

// evictsReserved is how many of the table's reserved slots evictions may have when it is full: what
// asyncq.SlotsReserved counts for "forget". The others wait in Transport.orphans.
const evictsReserved = 1

// Held says whether the kernel knows an inode. The root it always does.
func (t *Transport) Held(ino ext4.Ino) bool {
	return ino == ext4.RootIno || t.lookups.has(ino)
}

// told counts a lookup of an inode, of which the kernel has just been told.
func (t *Transport) told(ino ext4.Ino) {
	if !t.config.ReadOnly && ino != 0 { // a mount that only reads deletes nothing
		t.lookups.add(ino)
	}
}

// forgotten takes n lookups of an inode back.
func (t *Transport) forgotten(ino ext4.Ino, n uint64) {
	if !t.config.ReadOnly && t.lookups.forget(ino, n) {
		t.unknown(ino)
	}
}

// unknown has an inode that the kernel does not know evicted if it has no name any more.
func (t *Transport) unknown(ino ext4.Ino) {
	if t.orphan(ino) {
		t.orphans = append(t.orphans, ino)
		t.evict()
	}
}

// canEvict says that an eviction waits, and that there is a slot for it.
func (t *Transport) canEvict() bool {
	return len(t.orphans) > 0 &&
		(t.loop.Table.Available() > 0 || t.evictsReserved < evictsReserved)
}

// evict begins the evictions that wait, as far as there are slots. What the kernel has learnt of
// again in the meantime, by its number, stays.
func (t *Transport) evict() {
	for t.canEvict() {
		last := len(t.orphans) - 1
		ino := t.orphans[last]
		if t.Held(ino) || !t.orphan(ino) {
			t.orphans = t.orphans[:last]
			continue
		}
		reserved := t.loop.Table.Available() == 0
		s, op := t.fs.ClaimReserved(t.front)
		if s == asyncq.NoSlot {
			return
		}
		t.orphans = t.orphans[:last]
		if reserved {
			t.evictsReserved++
		}
		*t.reqs.At(s) = request{opcode: opForget, reserved: reserved}
		op.Code, op.Node = vfs.OpEvict, ino
		t.fs.Submit(s)
	}
}

// evicted ends an eviction; there is nobody to tell.
func (t *Transport) evicted(s asyncq.Slot) {
	if t.reqs.At(s).reserved {
		t.evictsReserved--
	}
	t.fs.Done(s)
	t.evict()
}

// forgetOne is struct fuse_forget_one.
type forgetOne struct{ Node, Nlookup uint64 }

// forget takes in FORGET and BATCH_FORGET, which have no reply.
func (t *Transport) forget(h *fuse.InHeader, req []byte) {
	if h.Opcode == opForget {
		if a := in[fuse.ForgetIn](req); a != nil {
			t.forgotten(nodeToIno(a.NodeId), a.Nlookup)
		}
		return
	}
	type batchIn struct {
		fuse.InHeader
		count, _ uint32
	}
	a := in[batchIn](req)
	if a == nil {
		return
	}
	list := rest[batchIn](req)
	for range min(uint64(a.count), uint64(len(list))/uint64(unsafe.Sizeof(forgetOne{}))) {
		one := in[forgetOne](list)
		t.forgotten(nodeToIno(one.Node), one.Nlookup)
		list = rest[forgetOne](list)
	}
}

// untold takes back the lookups of a READDIRPLUS that the kernel did not take: they were counted
// when the entries were put together.
func (t *Transport) untold(op *vfs.Op) {
	const entrySize, fixed = int(unsafe.Sizeof(fuse.EntryOut{})), direntSize
	if op.Buf == 0 || t.config.ReadOnly {
		return
	}
	p := t.fs.Arena().Whole(op.Buf)[blockdev.HeadRoom+int(op.BufOff):][:op.N]
	for len(p) >= entrySize+fixed {
		node := in[fuse.EntryOut](p).NodeId
		name := *in[uint32](p[entrySize+16:]) // namelen of struct fuse_dirent
		if node != 0 {
			t.forgotten(nodeToIno(node), 1)
		}
		p = p[min(len(p), entrySize+(fixed+int(name)+7)&^7):]
	}
}
