package vfs_test

import (
	"bytes"
	"errors"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"asyncfsd/asyncq"
	"asyncfsd/blockdev"
	"asyncfsd/vfs"
	"asyncfsd/vfs/ext4"
)

// holdDevice keeps back the writes of data that begin with a mark, until they are let go.
type holdDevice struct {
	blockdev.Device
	held []asyncq.IO
	mark []byte
	// due has the loop's thread let go of them.
	due    atomic.Bool
	landed bool
}

// Intake lets go of what is held back, once that is due.
func (d *holdDevice) Intake() (more bool) {
	if d.due.Swap(false) {
		d.land(0)
		d.landed = true
	}
	return false
}

// CanIntake says whether it is.
func (d *holdDevice) CanIntake() bool { return d.due.Load() }

func (d *holdDevice) Submit(io asyncq.IO) {
	if io.Op == asyncq.OpWrite && d.mark != nil && bytes.HasPrefix(io.Buf, d.mark) {
		d.held = append(d.held, io)
		return
	}
	d.Device.Submit(io)
}

// land lets go of what is held back; with an errno it has failed instead.
func (d *holdDevice) land(errno unix.Errno) {
	d.mark = nil
	for _, io := range d.held {
		if errno != 0 {
			d.Engine().Post(asyncq.Completion{Token: io.Token, Res: -int32(errno)})
		} else {
			d.Device.Submit(io)
		}
	}
	d.held = nil
}

// behindBed has one file, to which data were written that are held back.
type behindBed struct {
	*writeBed
	*concFront
	dev  *holdDevice
	file ext4.Ino
	data []byte
}

func openBehind(t *testing.T, path string) *behindBed {
	h := &behindBed{dev: &holdDevice{}, data: bytes.Repeat([]byte("behind"), 1000)}
	h.writeBed = openWrite(t, path, setting{wrap: func(dev blockdev.Device) blockdev.Device {
		h.dev.Device = dev
		return h.dev
	}})
	h.concFront = &concFront{fs: h.writeBed.fs, calls: map[asyncq.Slot]*concCall{},
		held: map[ext4.Ino]bool{}}
	h.id = h.writeBed.fs.AddFront(h.concFront)
	h.file = h.mknod("file")
	h.dev.mark = h.data[:6]
	if n, err := h.WriteBehind(h.file, h.data, 0); n != len(h.data) || err != nil {
		t.Fatal(n, err)
	}
	if len(h.dev.held) == 0 {
		t.Fatal("the reply has waited for the data")
	}
	return h
}

func (h *behindBed) mknod(name string) ext4.Ino {
	return must[vfs.Attr](h.t)(h.Mknod(ext4.RootIno, name, unix.S_IFREG|0o644, 0)).Ino
}

// settle turns the loop for a while.
func (h *behindBed) settle() {
	for range 30 {
		check(h.t, h.loop.Step(false))
		time.Sleep(time.Millisecond)
	}
}

// finish turns the loop until a call is done, and wants it to have got through.
func (h *behindBed) finish(call *concCall) {
	h.t.Helper()
	for end := time.Now().Add(30 * time.Second); !call.done && time.Now().Before(end); {
		check(h.t, h.loop.Step(false))
		time.Sleep(100 * time.Microsecond)
	}
	if !call.done || call.errno != 0 {
		h.t.Errorf("done %v, %v", call.done, call.errno)
	}
}

// TestBehind replies to a write whose data are held back. Whoever has to wait for them waits, and
// nobody else.
func TestBehind(t *testing.T) {
	for what, c := range map[string]struct {
		waits bool
		fill  func(h *behindBed, op *vfs.Op)
	}{
		"attributes": {false, func(h *behindBed, op *vfs.Op) {
			op.Code, op.Node = vfs.OpGetattr, h.file
		}},
		"new times": {false, func(h *behindBed, op *vfs.Op) {
			op.Code, op.Node, op.Valid = vfs.OpSetattr, h.file, vfs.SetMtimeNow
		}},
		"another write": {false, func(h *behindBed, op *vfs.Op) {
			op.Code, op.Node, op.Off, op.Size = vfs.OpWrite, h.file, 8192, 100
		}},
		"a write to the same block": {true, func(h *behindBed, op *vfs.Op) {
			op.Code, op.Node, op.Off, op.Size = vfs.OpWrite, h.file, 6000, 100
		}},
		"a read": {true, func(h *behindBed, op *vfs.Op) {
			op.Code, op.Node, op.Size = vfs.OpRead, h.file, 6000
		}},
		"a copy": {true, func(h *behindBed, op *vfs.Op) {
			op.Code, op.Node, op.Node2, op.Len = vfs.OpCopy, h.mknod("copy"), h.file, 10
		}},
		"fsync": {true, func(h *behindBed, op *vfs.Op) {
			op.Code, op.Node = vfs.OpFsync, h.file
		}},
		"sync": {true, func(_ *behindBed, op *vfs.Op) { op.Code = vfs.OpFsync }},
		"fsync of another file": {true, func(h *behindBed, op *vfs.Op) { // of the same transaction
			op.Code, op.Node = vfs.OpFsync, h.mknod("other")
		}},
		"truncation": {true, func(h *behindBed, op *vfs.Op) {
			op.Code, op.Node, op.Valid = vfs.OpSetattr, h.file, vfs.SetSize
		}},
		"hole": {true, func(h *behindBed, op *vfs.Op) {
			op.Code, op.Node, op.Len = vfs.OpFallocate, h.file, 4096
			op.Arg = unix.FALLOC_FL_KEEP_SIZE | unix.FALLOC_FL_PUNCH_HOLE
		}},
	} {
		t.Run(what, func(t *testing.T) {
			h := openBehind(t, mkfs(t, 64<<20, "-t", "ext4"))
			defer h.close()
			var op vfs.Op
			c.fill(h, &op)
			call := &concCall{fill: func(to *vfs.Op) {
				op.Front = to.Front
				*to = op
			}}
			if op.Code == vfs.OpWrite {
				call.data = make([]byte, op.Size)
			}
			if !h.begin(call) {
				t.Fatal("no slot")
			}
			if !c.waits {
				h.finish(call)
			} else if h.settle(); call.done {
				t.Error("it has not waited")
			}
			h.dev.land(0)
			h.finish(call)
			if op.Code == vfs.OpRead && !bytes.Equal(call.payload, h.data) {
				t.Error("other data")
			}
		})
	}
}

// TestBehindPatience has a write wait for data on their way while thousands of others come and go,
// each of which makes it look again.
func TestBehindPatience(t *testing.T) {
	h := openBehind(t, mkfs(t, 64<<20, "-t", "ext4"))
	defer h.close()
	call := &concCall{data: make([]byte, 100), fill: func(op *vfs.Op) {
		op.Code, op.Node, op.Off, op.Size = vfs.OpWrite, h.file, 6000, 100
	}}
	h.begin(call)
	for range 64*blockdev.PinsMax + 10 {
		must[int](t)(h.WriteAt(h.file, []byte("other"), 8192))
	}
	h.dev.land(0)
	h.finish(call)
}

// TestBehindFails has data that were replied to fail. They are not part of the file after the
// next mount, and until then everybody is told that nothing is written any more.
func TestBehindFails(t *testing.T) {
	path := mkfs(t, 64<<20, "-t", "ext4")
	h := openBehind(t, path)
	h.dev.land(unix.EIO)
	if err := h.Fsync(h.file); !errors.Is(err, unix.EIO) {
		t.Errorf("fsync: %v", err)
	}
	if _, err := h.WriteAt(h.file, h.data, 0); !errors.Is(err, unix.EROFS) {
		t.Errorf("writing afterwards: %v", err)
	}
	if err := h.writeBed.fs.Unmount(); !errors.Is(err, unix.EIO) {
		t.Errorf("unmounting: %v", err)
	}
	h.drop()
	b := openWrite(t, path, setting{})
	defer b.close()
	if a, err := b.Lookup(ext4.RootIno, "file"); err == nil && a.Size > 0 {
		t.Errorf("%d bytes that were never written", a.Size)
	}
}

// overwrite replies to a write, held back, of data that begin with a mark, right after everything
// was made durable: mostly in the same tick of the clock, so that no transaction knows of it.
func (h *behindBed) overwrite(mark string) {
	data := bytes.Repeat([]byte(mark), 1000)
	must[int](h.t)(h.WriteAt(h.file, data, 0))
	check(h.t, h.Fsync(h.file))
	h.dev.mark = []byte(mark)
	must[int](h.t)(h.WriteBehind(h.file, data, 0))
}

// TestBehindFsync wants fsync to wait for data that no transaction waits for.
func TestBehindFsync(t *testing.T) {
	h := openBehind(t, mkfs(t, 64<<20, "-t", "ext4"))
	defer h.close()
	for range 8 {
		h.dev.land(0)
		h.overwrite("over")
		call := &concCall{fill: func(op *vfs.Op) { op.Code, op.Node = vfs.OpFsync, h.file }}
		h.begin(call)
		if h.settle(); call.done {
			t.Error("fsync has not waited")
		}
		h.dev.land(0)
		h.finish(call)
	}
}

// TestBehindUnmount unmounts while data are on their way that no transaction tells of.
func TestBehindUnmount(t *testing.T) {
	for range 4 {
		path := mkfs(t, 64<<20, "-t", "ext4")
		h := openBehind(t, path)
		h.dev.land(0)
		h.overwrite("over")
		h.loop.AddIntake(h.dev)
		time.AfterFunc(20*time.Millisecond, func() {
			h.dev.due.Store(true)
			h.loop.Engine().Wake()
		})
		h.close()
		if !h.dev.landed {
			t.Fatal("the unmount has not waited")
		}
	}
}
