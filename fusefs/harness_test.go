package fusefs

import (
	"bytes"
	"encoding/binary"
	"os"
	"testing"
	"time"
	"unsafe"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"

	"asyncfsd/asyncq"
	"asyncfsd/blockdev"
	"asyncfsd/internal/manifest"
	"asyncfsd/vfs"
	"asyncfsd/vfs/ext4"
)

const imagesDir = "../testdata/images"

// bed is a transport whose kernel is the test: it speaks FUSE over a socket that keeps messages
// apart, as /dev/fuse does.
type bed struct {
	*Transport
	t      testing.TB
	kernel int
	unique uint64
}

// newBed serves a test image, with what the kernel offers at INIT.
func newBed(t testing.TB, c Config, offered uint64) *bed {
	t.Helper()
	engine, err := asyncq.NewUring(64)
	if err != nil {
		t.Fatal(err)
	}
	loop := asyncq.New(asyncq.Config{Engine: engine})
	fs := openImage(t, loop, engine)
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	for _, fd := range pair {
		// Room for one WRITE, where that is allowed.
		_ = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_SNDBUFFORCE, 4<<20)
	}
	b := &bed{t: t, kernel: pair[1]}
	if b.Transport, err = New(fs, pair[0], c); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = unix.Close(pair[0])
		if b.kernel >= 0 {
			_ = unix.Close(b.kernel)
		}
	})
	init := fuse.InitIn{Major: 7, Minor: 45, MaxReadAhead: 128 << 10, Flags: uint32(offered),
		Flags2: uint32(offered >> 32)}
	if _, errno := b.ask(opInit, 0, bytesOf(&init)[unsafe.Sizeof(init.InHeader):]); errno != 0 {
		t.Fatalf("init: %v", errno)
	}
	return b
}

func openImage(t testing.TB, loop *asyncq.Loop, engine asyncq.Engine) *vfs.FS {
	t.Helper()
	all, err := manifest.Images(imagesDir)
	if err != nil {
		t.Fatal(err)
	}
	img, ok := manifest.Find(all, "ext4-4k")
	if !ok {
		t.Fatal("no image")
	}
	path := manifest.Unpack(t, img)
	dev, err := blockdev.Open(path, engine, blockdev.Options{ReadOnly: true})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = loop.Close()
		_ = dev.Close()
	})
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	vol, err := ext4.Open(f, dev.Size(), ext4.OpenOptions{})
	if err != nil {
		t.Fatal(err)
	}
	arena, err := blockdev.NewArenaOwn(8<<20, RingBuffers(2))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = arena.Close() })
	fs, err := vfs.New(vfs.Config{Loop: loop, Device: dev, Volume: vol, Arena: arena})
	if err != nil {
		t.Fatal(err)
	}
	return fs
}

// bytesOf is a structure as it lies in memory.
func bytesOf[T any](v *T) []byte {
	return unsafe.Slice((*byte)(unsafe.Pointer(v)), unsafe.Sizeof(*v))
}

// rawRequest puts a request together, 8-aligned as the transport has them.
func rawRequest(opcode uint32, unique, node uint64, parts ...[]byte) []byte {
	body := bytes.Join(parts, nil)
	h := fuse.InHeader{Length: uint32(unsafe.Sizeof(fuse.InHeader{})) + uint32(len(body)),
		Opcode: opcode, Unique: unique, NodeId: node}
	words := make([]uint64, (int(h.Length)+7)/8)
	req := unsafe.Slice((*byte)(unsafe.Pointer(unsafe.SliceData(words))), h.Length)
	copy(req[copy(req, bytesOf(&h)):], body)
	return req
}

// post sends a request without waiting for its reply.
func (b *bed) post(opcode uint32, node uint64, parts ...[]byte) {
	b.t.Helper()
	b.unique += 2
	req := rawRequest(opcode, b.unique, node, parts...)
	if _, err := unix.Write(b.kernel, req); err != nil {
		b.t.Fatalf("sending %d bytes: %v", len(req), err)
	}
}

// ask sends a request and turns the loop until its reply is there.
func (b *bed) ask(opcode uint32, node uint64, parts ...[]byte) ([]byte, unix.Errno) {
	b.t.Helper()
	b.post(opcode, node, parts...)
	unique, body, errno := b.await()
	if unique != b.unique {
		b.t.Fatalf("reply to %d, want %d", unique, b.unique)
	}
	return body, errno
}

// await turns the loop until a reply comes.
func (b *bed) await() (unique uint64, body []byte, errno unix.Errno) {
	b.t.Helper()
	buf := make([]byte, 2<<20)
	for end := time.Now().Add(10 * time.Second); ; {
		n, _, err := unix.Recvfrom(b.kernel, buf, unix.MSG_DONTWAIT)
		if err == nil {
			if n < headerSize || int(binary.LittleEndian.Uint32(buf)) != n {
				b.t.Fatalf("malformed reply: % x", buf[:min(n, headerSize)])
			}
			status := int32(binary.LittleEndian.Uint32(buf[4:]))
			return binary.LittleEndian.Uint64(buf[8:]), buf[headerSize:n], unix.Errno(-status)
		}
		if time.Now().After(end) {
			b.t.Fatalf("no reply: %v", err)
		}
		b.turn()
	}
}

// turn turns the loop once. Nothing tells the test's loop of what comes on the socket.
func (b *bed) turn() {
	b.t.Helper()
	b.readable = true
	if err := b.loop.Step(false); err != nil {
		b.t.Fatal(err)
	}
}

// lookup asks for a name, and returns its node.
func (b *bed) lookup(dir uint64, name string) uint64 {
	b.t.Helper()
	body, errno := b.ask(opLookup, dir, cstring(name))
	if errno != 0 {
		b.t.Fatalf("lookup of %s: %v", name, errno)
	}
	return (*fuse.EntryOut)(unsafe.Pointer(&body[0])).NodeId
}

func cstring(s string) []byte { return append([]byte(s), 0) }
