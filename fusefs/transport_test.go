package fusefs

import (
	"bytes"
	"encoding/binary"
	"testing"
	"time"
	"unsafe"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"

	"asyncfsd/asyncq"
	"asyncfsd/blockdev"
	"asyncfsd/vfs"
	"asyncfsd/vfs/ext4"
)

const offersAll = 1<<64 - 1

// TestInit has what is agreed on with a kernel that offers everything, and with an old one.
func TestInit(t *testing.T) {
	for _, c := range []struct {
		name    string
		config  Config
		offered uint64
		on, off uint64
		write   uint32
	}{
		{"writing", Config{}, offersAll,
			fuse.CAP_HANDLE_KILLPRIV_V2 | fuse.CAP_POSIX_ACL | fuse.CAP_DONT_MASK |
				fuse.CAP_PARALLEL_DIROPS | fuse.CAP_SETXATTR_EXT | fuse.CAP_MAX_PAGES |
				fuse.CAP_DIRECT_IO_ALLOW_MMAP,
			fuse.CAP_NO_OPEN_SUPPORT | fuse.CAP_NO_OPENDIR_SUPPORT | fuse.CAP_WRITEBACK_CACHE |
				fuse.CAP_ATOMIC_O_TRUNC | fuse.CAP_POSIX_LOCKS | fuse.CAP_FLOCK_LOCKS |
				fuse.CAP_CREATE_SUPP_GROUP | fuse.CAP_SECURITY_CTX, maxWrite},
		{"writeback", Config{WritebackCache: true}, offersAll, fuse.CAP_WRITEBACK_CACHE,
			fuse.CAP_NO_OPEN_SUPPORT, maxWrite},
		{"reading", Config{ReadOnly: true, WritebackCache: true, NoACL: true}, offersAll,
			fuse.CAP_NO_OPEN_SUPPORT | fuse.CAP_NO_OPENDIR_SUPPORT,
			fuse.CAP_WRITEBACK_CACHE | fuse.CAP_POSIX_ACL | fuse.CAP_DIRECT_IO_ALLOW_MMAP,
			readOnlyMaxWrite},
		{"old", Config{}, fuse.CAP_ASYNC_READ | fuse.CAP_MAX_PAGES, fuse.CAP_MAX_PAGES,
			fuse.CAP_SETXATTR_EXT | fuse.CAP_DIRECT_IO_ALLOW_MMAP, maxWrite},
	} {
		b := newBed(t, c.config, c.offered)
		init := fuse.InitIn{Major: 7, Minor: 31, Flags: uint32(c.offered),
			Flags2: uint32(c.offered >> 32)}
		body, errno := b.ask(opInit, 0, fixed(init))
		if errno != 0 || len(body) != int(unsafe.Sizeof(fuse.InitOut{})) {
			t.Fatalf("%s: %v, %d bytes", c.name, errno, len(body))
		}
		out := (*fuse.InitOut)(unsafe.Pointer(&body[0]))
		if have := out.Flags64(); have&c.on != c.on || have&c.off != 0 || have&^c.offered != 0 {
			t.Errorf("%s: %#x, want %#x and not %#x", c.name, have, c.on, c.off)
		}
		if out.MaxWrite != c.write || out.Minor != 31 || out.TimeGran != 1 {
			t.Errorf("%s: %+v", c.name, out)
		}
	}
}

// TestReadOnly has every request that changes something refused, whatever it is made of.
func TestReadOnly(t *testing.T) {
	b := newBed(t, Config{ReadOnly: true}, offersAll)
	for opcode := uint32(1); opcode < 64; opcode++ {
		want := unix.EROFS
		switch {
		case opsSyncMask>>opcode&1 != 0:
			want = 0
		case opsWriteMask>>opcode&1 == 0:
			continue
		}
		if _, errno := b.ask(opcode, fuse.FUSE_ROOT_ID); errno != want {
			t.Errorf("opcode %d: %v, want %v", opcode, errno, want)
		}
	}
	for _, cmd := range []uint32{fsIocSetFlags, fsIocSetXattr, fsIocSetLabel, fitrim,
		ext4Shutdown} {
		_, errno := b.ask(opIoctl, fuse.FUSE_ROOT_ID, fixed(fuse.IoctlIn{Cmd: cmd}))
		if errno != unix.EROFS {
			t.Errorf("ioctl %#x: %v", cmd, errno)
		}
	}
	if _, errno := b.ask(opOpen, fuse.FUSE_ROOT_ID, fixed(fuse.OpenIn{})); errno != unix.ENOSYS {
		t.Errorf("open: %v", errno)
	}
	if b.lookup(fuse.FUSE_ROOT_ID, "dir"); b.lookups.used != 0 {
		t.Error("lookups are counted")
	}
}

// TestMalformed has requests that are too short, and names that are too long, answered.
func TestMalformed(t *testing.T) {
	b := newBed(t, Config{}, offersAll)
	for opcode := uint32(1); opcode < 70; opcode++ {
		switch opcode {
		case opForget, opBatchForget:
			b.post(opcode, fuse.FUSE_ROOT_ID)
		case opInterrupt:
		default:
			_, errno := b.ask(opcode, fuse.FUSE_ROOT_ID)
			if opcode >= 64 && errno != unix.ENOSYS {
				t.Errorf("opcode %d: %v", opcode, errno)
			}
		}
	}
	_, errno := b.ask(opMkdir, fuse.FUSE_ROOT_ID, le32(0, 0), cstring(longName+"x"))
	if errno != unix.ENAMETOOLONG {
		t.Errorf("mkdir: %v", errno)
	}
	if _, errno := b.ask(opUnlink, 1<<32, cstring("x")); errno != unix.ESTALE {
		t.Errorf("node beyond 32 bits: %v", errno)
	}
	if n := b.loop.Table.InFlight(); n != 0 {
		t.Errorf("%d slots are taken", n)
	}
}

// TestOpen has the flags that files are opened with.
func TestOpen(t *testing.T) {
	const direct = fuse.FOPEN_DIRECT_IO | fuse.FOPEN_PARALLEL_DIRECT_WRITES
	for _, offered := range []uint64{offersAll, fuse.CAP_MAX_PAGES} {
		b := newBed(t, Config{}, offered)
		file := b.lookup(b.lookup(fuse.FUSE_ROOT_ID, "sizes"), "100001")
		for _, flags := range []uint32{unix.O_RDONLY, unix.O_RDWR, unix.O_WRONLY | unix.O_DIRECT,
			unix.O_DIRECT} {
			body, errno := b.ask(opOpen, file, fixed(fuse.OpenIn{Flags: flags}))
			if errno != 0 {
				t.Fatalf("open %#x: %v", flags, errno)
			}
			out := (*fuse.OpenOut)(unsafe.Pointer(&body[0]))
			want := uint32(fuse.FOPEN_KEEP_CACHE | fuse.FOPEN_NOFLUSH)
			if flags&unix.O_DIRECT != 0 && offered == offersAll {
				want |= direct
			}
			if out.OpenFlags != want {
				t.Errorf("open %#x: flags %#x, want %#x", flags, out.OpenFlags, want)
			}
		}
		body, errno := b.ask(opOpendir, fuse.FUSE_ROOT_ID, fixed(fuse.OpenIn{}))
		if errno != 0 || (*fuse.OpenOut)(unsafe.Pointer(&body[0])).OpenFlags !=
			fuse.FOPEN_KEEP_CACHE|fuse.FOPEN_CACHE_DIR {
			t.Errorf("opendir: % x, %v", body, errno)
		}
		if _, errno := b.ask(opRelease, file); errno != 0 {
			t.Errorf("release: %v", errno)
		}
	}
}

func TestMayOpen(t *testing.T) {
	for _, c := range []struct {
		attr, flags uint32
		want        unix.Errno
	}{
		{0, unix.O_RDWR, 0},
		{ext4.FlagEncrypt, unix.O_RDONLY, unix.ENOKEY},
		{ext4.FlagImmutable, unix.O_RDONLY, 0},
		{ext4.FlagImmutable, unix.O_WRONLY | unix.O_APPEND, unix.EPERM},
		{ext4.FlagAppend, unix.O_RDONLY, 0},
		{ext4.FlagAppend, unix.O_RDWR, unix.EPERM},
		{ext4.FlagAppend, unix.O_WRONLY | unix.O_APPEND, 0},
	} {
		if have := mayOpen(c.attr, c.flags); have != c.want {
			t.Errorf("%#x %#x: %v, want %v", c.attr, c.flags, have, c.want)
		}
	}
}

// TestHeld counts what the kernel is told and forgets.
func TestHeld(t *testing.T) {
	b := newBed(t, Config{}, offersAll)
	dir := b.lookup(fuse.FUSE_ROOT_ID, "dir")
	ino := nodeToIno(dir)
	b.lookup(fuse.FUSE_ROOT_ID, "dir")
	if !b.Held(ino) || !b.Held(ext4.RootIno) || b.lookups.used != 1 {
		t.Fatal("a lookup was not counted")
	}
	if body, errno := b.ask(opLookup, dir, cstring("absent")); errno != 0 || b.lookups.used != 1 {
		t.Errorf("an absent name: % x, %v, %d", body, errno, b.lookups.used)
	}
	b.post(opForget, dir, le64(1))
	b.lookup(fuse.FUSE_ROOT_ID, "sizes") // replies come in order
	if !b.Held(ino) {
		t.Error("forgotten too early")
	}
	sizes := b.lookup(fuse.FUSE_ROOT_ID, "sizes")
	b.post(opBatchForget, 0, le32(3, 0), le64(dir, 1, sizes, 2, 4711, 1))
	b.ask(opStatfs, fuse.FUSE_ROOT_ID)
	if b.Held(ino) || b.lookups.used != 0 {
		t.Errorf("%d are left", b.lookups.used)
	}
}

// readdirplus asks for a piece of a directory, and returns the nodes in it.
func readdirplus(t *testing.T, b *bed, dir uint64) (nodes []uint64) {
	body, errno := b.ask(opReaddirplus, dir, fixed(fuse.ReadIn{Size: 16 << 10}))
	if errno != 0 {
		t.Fatal(errno)
	}
	entry := int(unsafe.Sizeof(fuse.EntryOut{}))
	for len(body) > 0 {
		if node := binary.LittleEndian.Uint64(body); node != 0 {
			nodes = append(nodes, node)
		}
		name := binary.LittleEndian.Uint32(body[entry+16:])
		body = body[entry+(direntSize+int(name)+7)&^7:]
	}
	return nodes
}

// TestHeldReaddirplus has entries of directories counted, but for "." and "..".
func TestHeldReaddirplus(t *testing.T) {
	b := newBed(t, Config{}, offersAll)
	dir := b.lookup(fuse.FUSE_ROOT_ID, "dir")
	nodes := readdirplus(t, b, dir)
	if len(nodes) < 50 || b.lookups.used != len(nodes)+1 {
		t.Fatalf("%d entries, %d counted", len(nodes), b.lookups.used)
	}
	for _, node := range nodes {
		b.post(opForget, node, le64(1))
		b.turn()
	}
	b.ask(opStatfs, fuse.FUSE_ROOT_ID)
	if b.lookups.used != 1 {
		t.Errorf("%d are left", b.lookups.used)
	}
}

// TestNotTaken has replies that the kernel does not take: nothing of them is counted, and what has
// no name is evicted.
func TestNotTaken(t *testing.T) {
	b := newBed(t, Config{}, offersAll)
	dir := b.lookup(fuse.FUSE_ROOT_ID, "dir")
	var orphans []ext4.Ino
	b.orphan = func(ino ext4.Ino) bool {
		orphans = append(orphans, ino)
		return false
	}
	b.post(opLookup, fuse.FUSE_ROOT_ID, cstring("sizes"))
	b.post(opReaddirplus, dir, fixed(fuse.ReadIn{Size: 16 << 10}))
	_ = unix.Shutdown(b.kernel, unix.SHUT_RD)
	b.turn()
	for end := time.Now().Add(10 * time.Second); b.loop.Table.InFlight() > 0; b.turn() {
		if time.Now().After(end) {
			t.Fatal("still under way")
		}
	}
	if b.loop.Table.InFlight() != 0 || b.lookups.used != 1 || len(orphans) < 50 {
		t.Errorf("%d in flight, %d counted, %d looked at", b.loop.Table.InFlight(),
			b.lookups.used, len(orphans))
	}
}

// TestEvict has orphans evicted when they are forgotten, with a full table too.
func TestEvict(t *testing.T) {
	b := newBed(t, Config{}, offersAll)
	b.orphan = func(ino ext4.Ino) bool { return ino >= 1000 }
	var slots []asyncq.Slot
	for b.loop.Table.Available() > 0 {
		s, _ := b.fs.Claim(b.front)
		slots = append(slots, s)
	}
	for ino := ext4.Ino(999); ino < 1010; ino++ {
		b.told(ino)
		b.told(ino)
		b.forgotten(ino, 2)
	}
	if len(b.orphans) != 9 || b.evictsReserved != 1 {
		t.Fatalf("%d wait, %d reserved slots", len(b.orphans), b.evictsReserved)
	}
	b.told(1005) // by its number, in the meantime
	for i := 0; len(b.orphans) > 0 || b.evictsReserved > 0; i++ {
		if i > 100 {
			t.Fatalf("%d still wait", len(b.orphans))
		}
		if !b.CanIntake() && b.evictsReserved == 0 {
			t.Error("the loop would sleep")
		}
		b.turn()
	}
	for _, s := range slots {
		b.fs.Abandon(s)
	}
	if n := b.loop.Table.InFlight(); n != 0 {
		t.Errorf("%d slots are taken", n)
	}
}

// TestKeep has payloads copied or handed over, and intake stop when no buffer is left.
func TestKeep(t *testing.T) {
	b := newBed(t, Config{}, offersAll)
	arena, table := b.fs.Arena(), b.loop.Table
	b.readable = true
	var ops []*vfs.Op
	keep := func(code vfs.Code, data []byte) *vfs.Op {
		op := &vfs.Op{Code: code}
		whole := arena.Whole(b.hand)
		n := copy(whole[blockdev.HeadRoom+3:], data)
		from := whole[blockdev.HeadRoom+3:][:n]
		if code == vfs.OpWrite {
			copy(whole[blockdev.HeadRoom:], data)
			from = whole[blockdev.HeadRoom:][:n]
		}
		b.keep(op, from)
		if have := arena.Payload(op.Buf)[:n]; !bytes.Equal(have, data) {
			t.Errorf("%v of %d bytes: %.10q", code, n, have)
		}
		ops = append(ops, op)
		return op
	}
	large := bytes.Repeat([]byte("0123456789abcdef"), maxWrite/16)
	for _, n := range []int{0, 1, copyMax} {
		if keep(vfs.OpWrite, large[:n]); b.hand == 0 {
			t.Errorf("a write of %d bytes took the buffer in hand", n)
		}
	}
	if keep(vfs.OpSetxattr, large[:valueMax]); b.hand == 0 {
		t.Error("a value took the buffer in hand")
	}
	for _, n := range []int{copyMax + 1, maxWrite} {
		hand := b.hand
		if op := keep(vfs.OpWrite, large[:n]); op.Buf != hand || b.hand != 0 {
			t.Errorf("a write of %d bytes was copied", n)
		}
		if !b.canReceive() {
			t.Error("no further buffer")
		}
	}
	for arena.Free(copyMax) > copySpare {
		keep(vfs.OpWrite, large[:1])
	}
	if keep(vfs.OpSymlink, large[:100]); b.hand != 0 {
		t.Error("the last small buffers were taken")
	}
	for b.canReceive() {
		keep(vfs.OpWrite, large)
	}
	b.post(opStatfs, fuse.FUSE_ROOT_ID)
	if b.turn(); b.readable != true || b.CanIntake() {
		t.Error("intake goes on without a buffer")
	}
	for _, op := range ops {
		arena.Put(table, op.Buf)
	}
	if !b.CanIntake() {
		t.Error("the loop would sleep")
	}
	if _, _, errno := b.await(); errno != 0 {
		t.Error(errno)
	}
}

// allocations is how many allocations a request takes, from its reception to its reply.
func (b *bed) allocations(req []byte) float64 {
	buf := make([]byte, maxPages*4096+4096)
	return testing.AllocsPerRun(100, func() {
		if _, err := unix.Write(b.kernel, req); err != nil {
			b.t.Fatal(err)
		}
		for {
			b.turn()
			// NB: not Recvfrom, which allocates an address.
			n, _, errno := unix.RawSyscall6(unix.SYS_RECVFROM, uintptr(b.kernel),
				uintptr(unsafe.Pointer(&buf[0])), uintptr(len(buf)), unix.MSG_DONTWAIT, 0, 0)
			if errno == unix.EAGAIN {
				continue // it waits for the disk
			}
			if status := int32(binary.LittleEndian.Uint32(buf[4:])); errno != 0 ||
				int(n) < headerSize || status < 0 && status != -int32(unix.EROFS) {
				b.t.Fatal(n, errno, status)
			}
			return
		}
	})
}

// TestReadAllocations wants the requests that a mount for reading is made of to leave the heap
// alone.
func TestReadAllocations(t *testing.T) {
	b := newBed(t, Config{}, offersAll)
	dir := b.lookup(fuse.FUSE_ROOT_ID, "dir")
	file := b.lookup(b.lookup(fuse.FUSE_ROOT_ID, "sizes"), "100001")
	link := b.lookup(b.lookup(fuse.FUSE_ROOT_ID, "links"), "good")
	read := func(size uint32) []byte { return fixed(fuse.ReadIn{Offset: 4096, Size: size}) }
	for _, c := range []struct {
		what   string
		opcode uint32
		node   uint64
		body   []byte
	}{
		{"lookup", opLookup, dir, cstring("name-077")},
		{"lookup of nothing", opLookup, dir, cstring("no such name")},
		{"getattr", opGetattr, file, fixed(fuse.GetAttrIn{})},
		{"read of 4 KiB", opRead, file, read(4096)},
		{"read of 64 KiB", opRead, file, read(64 << 10)},
		{"readlink", opReadlink, link, nil},
		{"readdir", opReaddir, dir, fixed(fuse.ReadIn{Size: 4096})},
		{"readdirplus", opReaddirplus, dir, fixed(fuse.ReadIn{Size: 4096})},
	} {
		if n := b.allocations(rawRequest(c.opcode, 2, c.node, c.body)); n != 0 {
			t.Errorf("%s: %v allocations", c.what, n)
		}
		if b.Requests[c.opcode] == 0 {
			t.Errorf("%s: not received", c.what)
		}
	}
}

// TestWriteAllocations wants a WRITE to leave the heap alone.
func TestWriteAllocations(t *testing.T) {
	b := newBed(t, Config{}, offersAll)
	file := b.lookup(b.lookup(fuse.FUSE_ROOT_ID, "sizes"), "100001")
	for _, size := range []int{512, copyMax + 4096, maxWrite} {
		req := rawRequest(opWrite, 2, file, fixed(fuse.WriteIn{Size: uint32(size)}),
			make([]byte, size))
		if n := b.allocations(req); n != 0 {
			t.Errorf("%d bytes: %v allocations", size, n)
		}
	}
	if b.Requests[opWrite] == 0 {
		t.Error("not a write")
	}
}

// TestReplies has the form of the replies to what changes something.
func TestReplies(t *testing.T) {
	b := newBed(t, Config{}, offersAll)
	attr := vfs.Attr{Ino: 77, Mode: unix.S_IFREG | 0o644, Nlink: 1, Generation: 5}
	entry, open := int(unsafe.Sizeof(fuse.EntryOut{})), int(unsafe.Sizeof(fuse.OpenOut{}))
	for _, c := range []struct {
		opcode uint32
		size   int
		first  uint64 // of the body
		told   bool
	}{
		{opSetattr, int(unsafe.Sizeof(fuse.AttrOut{})), 0, false},
		{opMknod, entry, 77, true}, {opMkdir, entry, 77, true}, {opSymlink, entry, 77, true},
		{opLink, entry, 77, true}, {opCreate, entry + open, 77, true},
		{opTmpfile, entry + open, 77, true},
		{opUnlink, 0, 0, false}, {opRmdir, 0, 0, false}, {opRename, 0, 0, false},
		{opRename2, 0, 0, false}, {opFsync, 0, 0, false}, {opFsyncdir, 0, 0, false},
		{opSyncfs, 0, 0, false}, {opFallocate, 0, 0, false}, {opSetxattr, 0, 0, false},
		{opRemovexattr, 0, 0, false},
		{opWrite, 8, 4096, false}, {opCopyFileRange, 8, 99, false},
		{opCopyFileRange64, 8, 99, false},
	} {
		s, op := b.fs.Claim(b.front)
		op.Tag, op.Attr, op.N, op.Value = 1000, attr, 4096, 99
		*b.reqs.At(s) = request{opcode: c.opcode, flags: unix.O_RDWR}
		b.Reply(s, op)
		unique, body, errno := b.await()
		if unique != 1000 || errno != 0 || len(body) != c.size {
			t.Errorf("opcode %d: %v, %d bytes, want %d", c.opcode, errno, len(body), c.size)
			continue
		}
		if c.first != 0 && binary.LittleEndian.Uint64(body) != c.first {
			t.Errorf("opcode %d: % x", c.opcode, body[:8])
		}
		if c.size == entry+open && binary.LittleEndian.Uint32(body[entry+8:]) == 0 {
			t.Errorf("opcode %d: no open flags", c.opcode)
		}
		if told := b.lookups.forget(77, 1); told != c.told {
			t.Errorf("opcode %d: counted %v, want %v", c.opcode, told, c.told)
		}
	}
}

// TestReplyIoctl has the answers of ioctls that change something, and the note to the kernel that
// goes before them.
func TestReplyIoctl(t *testing.T) {
	b := newBed(t, Config{}, offersAll)
	for _, c := range []struct {
		cmd    uint32
		code   vfs.Code
		want   []byte
		noting bool
	}{
		{fsIocSetFlags, vfs.OpSetflags, nil, true},
		{fsIocSetXattr, vfs.OpSetproject, nil, true},
		{fsIocSetLabel, vfs.OpSetlabel, nil, false},
		{ext4Shutdown, vfs.OpShutdown, nil, false},
		{fitrim, vfs.OpTrim, le64(1, 99, 3), false},
	} {
		s, op := b.fs.Claim(b.front)
		op.Tag, op.Code, op.Node, op.Value, op.Off, op.Off2 = 1000, c.code, 2, 99, 1, 3
		*b.reqs.At(s) = request{opcode: opIoctl, cmd: c.cmd, size: 24}
		b.Reply(s, op)
		if c.noting {
			unique, body, errno := b.await()
			if unique != 0 || int32(errno) != -2 || !bytes.Equal(body, le64(1, 1<<64-1, 0)) {
				t.Errorf("%#x: note %d, %d, % x", c.cmd, unique, errno, body)
			}
		}
		_, body, errno := b.await()
		if errno != 0 || !bytes.Equal(body, append(make([]byte, 16), c.want...)) {
			t.Errorf("%#x: %v, % x", c.cmd, errno, body)
		}
	}
}

// FuzzRequest has any bytes for a request: it must not fall over, and not lose a slot.
func FuzzRequest(f *testing.F) {
	f.Add(uint32(opRename2), fixed(fuse.RenameIn{}))
	f.Add(uint32(opSymlink), []byte("a\x00b\x00"))
	f.Add(uint32(opIoctl), fixed(fuse.IoctlIn{Cmd: fitrim}))
	f.Add(uint32(opSetxattr), append(fixed(fuse.SetXAttrIn{Size: 1}), 'a', 0, 'b'))
	f.Add(uint32(opWrite), append(fixed(fuse.WriteIn{Size: 1}), 'a'))
	tr := &Transport{xattrExt: true}
	f.Fuzz(func(t *testing.T, opcode uint32, body []byte) {
		req := rawRequest(opcode, 2, fuse.FUSE_ROOT_ID, body)
		op, r := &vfs.Op{}, &request{opcode: opcode}
		if opcode < 64 && changes(opcode) {
			data, errno := tr.decodeWrite(op, r, req)
			has := op.Code == vfs.OpWrite || op.Code == vfs.OpSymlink || op.Code == vfs.OpSetxattr
			if errno == 0 && has != (data != nil) {
				t.Errorf("%v with data %v", op.Code, data)
			}
			if errno == 0 && data != nil && len(data) != int(op.Size) {
				t.Errorf("%v: size %d of %d", op.Code, op.Size, len(data))
			}
			return
		}
		decode(op, r, req)
	})
}
