package fusefs

import (
	"bytes"
	"testing"
	"unsafe"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"

	"asyncfsd/asyncq"
	"asyncfsd/blockdev"
)

// fakeRings is a kernel with two processors that takes commands down.
type fakeRings struct {
	commands []asyncq.Command
	notified []int
}

func (f *fakeRings) Threads() int                       { return 2 }
func (f *fakeRings) CPU(i int) int                      { return i }
func (f *fakeRings) AddFile(int) (asyncq.FileID, error) { return 0, nil }
func (f *fakeRings) Command(c asyncq.Command)           { f.commands = append(f.commands, c) }
func (f *fakeRings) Notify(i int)                       { f.notified = append(f.notified, i) }
func (f *fakeRings) last(t *testing.T) asyncq.Command {
	t.Helper()
	if len(f.commands) == 0 {
		t.Fatal("no command")
	}
	return f.commands[len(f.commands)-1]
}

// ringBed is a bed that offers FUSE over io_uring.
func ringBed(t *testing.T) (*bed, *fakeRings) {
	rings := &fakeRings{}
	return newBed(t, Config{ReadOnly: true, Rings: rings, Possible: 2},
		offersAll|fuse.CAP_OVER_IO_URING), rings
}

// hasFixed says whether the kernel sends the first part of a request apart from the others.
func hasFixed(opcode uint32) bool {
	switch opcode {
	case opLookup, opReadlink, opStatfs:
		return false
	}
	return true
}

// put has a request arrive in an entry, as the kernel puts it there.
func (b *bed) put(e int, opcode uint32, unique, node uint64, parts ...[]byte) {
	h, payload := b.over.header(e), b.over.whole(e)[blockdev.HeadRoom:]
	in := fuse.InHeader{Opcode: opcode, Unique: unique, NodeId: node}
	in.Length = uint32(unsafe.Sizeof(in))
	if len(parts) > 0 && hasFixed(opcode) {
		in.Length += uint32(copy(h.opIn[:], parts[0]))
		parts = parts[1:]
	}
	h.payloadSz, h.commitID = uint32(copy(payload, bytes.Join(parts, nil))), unique
	in.Length += h.payloadSz
	*(*fuse.InHeader)(unsafe.Pointer(&h.inOut)) = in
	b.over.Complete(asyncq.MakeToken(b.over.id, 0, uint32(e)), 0)
}

// answer turns the loop until the request in an entry is answered.
func (b *bed) answer(t *testing.T, rings *fakeRings, e int) ([]byte, unix.Errno) {
	t.Helper()
	before := len(rings.commands)
	for i := 0; len(rings.commands) == before; i++ {
		if i == 10000 {
			t.Fatal("no answer")
		}
		if err := b.loop.Step(i > 0 && b.loop.Table.InFlight() > 0); err != nil {
			t.Fatal(err)
		}
	}
	c, h := rings.last(t), b.over.header(e)
	out := (*fuse.OutHeader)(unsafe.Pointer(&h.inOut))
	if c.Op != cmdCommitAndFetch || c.Token.Index() != uint32(e) || c.Data[1] != h.commitID ||
		c.Data[2] != uint64(b.over.entries[e].qid) || out.Unique != h.commitID {
		t.Fatalf("command %+v for %+v", c, out)
	}
	if out.Status == 0 && int(out.Length) != headerSize+int(h.payloadSz) {
		t.Fatalf("%d bytes of payload, and length %d", h.payloadSz, out.Length)
	}
	return b.over.whole(e)[blockdev.HeadRoom:][:h.payloadSz], unix.Errno(-out.Status)
}

// TestOverRing has requests answered over a ring as they are by /dev/fuse.
func TestOverRing(t *testing.T) {
	plain := newBed(t, Config{ReadOnly: true}, offersAll)
	b, rings := ringBed(t)
	if n := RingBuffers(2); len(rings.commands) != n/2 || b.over.outbox[1].n != n/2 ||
		len(rings.notified) != 1 || rings.commands[0].Op != cmdRegister {
		t.Fatalf("%d entries registered, %d left to the other thread, which was told %d times",
			len(rings.commands), b.over.outbox[1].n, len(rings.notified))
	}
	const root = fuse.FUSE_ROOT_ID
	file := plain.lookup(root, "file")
	for i, r := range []struct {
		opcode uint32
		node   uint64
		parts  [][]byte
	}{
		{opLookup, root, [][]byte{cstring("file")}},
		{opLookup, root, [][]byte{cstring("no such file")}},
		{opGetattr, file, [][]byte{le32(0, 0, 0, 0)}},
		{opRead, file, [][]byte{fixed(fuse.ReadIn{Size: 4096})}},
		{opRead, file, [][]byte{fixed(fuse.ReadIn{Offset: 777, Size: 5000})}},
		{opRead, file, [][]byte{fixed(fuse.ReadIn{Offset: 1 << 40, Size: 4096})}},
		{opReaddir, root, [][]byte{fixed(fuse.ReadIn{Size: 4096})}},
		{opReaddirplus, root, [][]byte{fixed(fuse.ReadIn{Size: 4096})}},
		{opListxattr, file, [][]byte{le32(0, 0)}},
		{opListxattr, file, [][]byte{le32(4096, 0)}},
		{opStatfs, root, nil},
		{opOpendir, root, [][]byte{le32(0, 0)}},
		{opMkdir, root, [][]byte{le32(0o755, 0), cstring("x")}},
		{opRead, root, [][]byte{fixed(fuse.ReadIn{Size: 4096})}},
	} {
		want, wantErr := plain.ask(r.opcode, r.node, r.parts...)
		e := 2 * i // an entry of the first processor
		b.put(e, r.opcode, uint64(100+2*i), r.node, r.parts...)
		if got, errno := b.answer(t, rings, e); errno != wantErr || !bytes.Equal(got, want) {
			t.Errorf("opcode %d of %d: %v, %d bytes; by /dev/fuse %v, %d bytes", r.opcode, r.node,
				errno, len(got), wantErr, len(want))
		}
	}
	if n := b.loop.Table.InFlight(); n != 0 {
		t.Errorf("%d slots are taken", n)
	}
}

// TestOverRingEnds has what else can happen to an entry.
func TestOverRingEnds(t *testing.T) {
	b, rings := ringBed(t)
	// A FORGET by a ring waits for a reply.
	b.put(0, opForget, 2, fuse.FUSE_ROOT_ID, make([]byte, 8))
	if _, errno := b.answer(t, rings, 0); errno != 0 {
		t.Errorf("forget: %v", errno)
	}
	// A request that cannot be one.
	b.put(2, opLookup, 4, fuse.FUSE_ROOT_ID, cstring("file"))
	b.over.header(2).payloadSz = blockdev.PayloadMax + 1
	if _, errno := b.answer(t, rings, 2); errno != unix.EIO {
		t.Errorf("malformed: %v", errno)
	}
	b.put(2, opLookup, 4, fuse.FUSE_ROOT_ID, cstring("file"))
	b.over.header(2).payloadSz = 60
	if _, errno := b.answer(t, rings, 2); errno != unix.EIO {
		t.Errorf("malformed: %v", errno)
	}
	// The reply of an entry that belongs to another processor is left to its thread.
	left := b.over.outbox[1].n
	b.put(1, opStatfs, 6, fuse.FUSE_ROOT_ID)
	before := len(rings.commands)
	for range 10 {
		if err := b.loop.Step(false); err != nil {
			t.Fatal(err)
		}
	}
	if b.over.outbox[1].n != left+1 || len(rings.commands) != before {
		t.Errorf("%d commands left, %d submitted", b.over.outbox[1].n-left,
			len(rings.commands)-before)
	}
	// The end of the mount, and what should not happen.
	live := b.over.live
	for _, errno := range []unix.Errno{unix.ENOTCONN, unix.EINVAL} {
		b.over.Complete(asyncq.MakeToken(b.over.id, 0, 4), -int32(errno))
	}
	if b.over.live != live-2 {
		t.Errorf("%d entries live, %d before", b.over.live, live)
	}
}

// TestOverRingFull has requests that find no slot wait for one.
func TestOverRingFull(t *testing.T) {
	b, rings := ringBed(t)
	var slots []asyncq.Slot
	for b.loop.Table.Available() > 0 {
		slots = append(slots, b.loop.Table.Claim(0, false))
	}
	b.put(0, opStatfs, 2, fuse.FUSE_ROOT_ID)
	before := len(rings.commands)
	if err := b.loop.Step(false); err != nil {
		t.Fatal(err)
	}
	if b.over.CanIntake() || b.over.starved.n != 1 || len(rings.commands) != before {
		t.Errorf("%d requests wait", b.over.starved.n)
	}
	for _, s := range slots {
		b.loop.Table.Release(s)
	}
	if !b.over.CanIntake() {
		t.Error("the loop would sleep")
	}
	if _, errno := b.answer(t, rings, 0); errno != 0 {
		t.Errorf("statfs: %v", errno)
	}
}
