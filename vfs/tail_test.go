package vfs_test

import (
	"bytes"
	"fmt"
	"testing"

	"golang.org/x/sys/unix"

	"asyncfsd/asyncq"
	"asyncfsd/blockdev"
	"asyncfsd/vfs"
	"asyncfsd/vfs/ext4"
)

// countReads counts the reads of one sector.
type countReads struct {
	blockdev.Device
	n int
}

func (d *countReads) Submit(io asyncq.IO) {
	if io.Op == asyncq.OpRead && len(io.Buf) == d.SectorSize() {
		d.n++
	}
	d.Device.Submit(io)
}

// TestTail appends after something else has changed the sector in which the file ends: what was
// remembered of it must not come back.
func TestTail(t *testing.T) {
	const end = 700
	dev := &countReads{}
	b := openWrite(t, mkfs(t, 64<<20, "-t", "ext4", "-b", "1024"), setting{
		wrap: func(d blockdev.Device) blockdev.Device {
			dev.Device = d
			return dev
		}})
	defer b.close()
	write := func(ino ext4.Ino, data string, n, at int) {
		must[int](t)(b.WriteBehind(ino, bytes.Repeat([]byte(data), n), int64(at)))
	}
	number := 0
	for what, change := range map[string]func(ino ext4.Ino, model []byte) []byte{
		"nothing": func(_ ext4.Ino, model []byte) []byte { return model },
		"write": func(ino ext4.Ino, model []byte) []byte {
			write(ino, "w", end, 0)
			return bytes.Repeat([]byte("w"), end)
		},
		"write within": func(ino ext4.Ino, model []byte) []byte {
			write(ino, "w", 20, 600)
			copy(model[600:620], bytes.Repeat([]byte("w"), 20))
			return model
		},
		"shorter": func(ino ext4.Ino, model []byte) []byte {
			check(t, b.Truncate(ino, 600))
			check(t, b.Truncate(ino, end))
			clear(model[600:])
			return model
		},
		"hole": func(ino ext4.Ino, model []byte) []byte {
			mode := uint32(unix.FALLOC_FL_KEEP_SIZE | unix.FALLOC_FL_PUNCH_HOLE)
			check(t, b.Fallocate(ino, mode, 550, 50))
			clear(model[550:600])
			return model
		},
		"zeros": func(ino ext4.Ino, model []byte) []byte {
			mode := uint32(unix.FALLOC_FL_KEEP_SIZE | unix.FALLOC_FL_ZERO_RANGE)
			check(t, b.Fallocate(ino, mode, 550, 50))
			clear(model[550:600])
			return model
		},
		"copy": func(ino ext4.Ino, model []byte) []byte {
			must[uint64](t)(b.CopyRange(ino, 600, ino, 0, 50))
			copy(model[600:650], model[:50])
			return model
		},
	} {
		number++
		name := fmt.Sprint("file", number)
		ino := must[vfs.Attr](t)(b.Mknod(ext4.RootIno, name, unix.S_IFREG|0o644, 0)).Ino
		write(ino, "a", end, 0)
		model := change(ino, bytes.Repeat([]byte("a"), end))
		check(t, b.Fsync(ino))
		before := dev.n
		write(ino, "b", 10, end)
		if what == "nothing" && dev.n != before {
			t.Error("the sector was read that was written just before")
		}
		model = append(model, bytes.Repeat([]byte("b"), 10)...)
		data := make([]byte, len(model))
		must[int](t)(b.Client.ReadAt(ino, data, 0))
		if !bytes.Equal(data, model) {
			t.Errorf("%s: other data", what)
		}
	}
}

// TestTailNewFile gives a new file the inode number of one whose end is remembered.
func TestTailNewFile(t *testing.T) {
	b := openWrite(t, mkfs(t, 8<<20, "-t", "ext4", "-b", "1024"), setting{})
	defer b.close()
	create := func() ext4.Ino {
		return must[vfs.Attr](t)(b.Mknod(ext4.RootIno, "file", unix.S_IFREG|0o644, 0)).Ino
	}
	old := create()
	must[int](t)(b.WriteAt(old, bytes.Repeat([]byte("old"), 200), 0))
	for ino := old + 1; ino != old; {
		check(t, b.Unlink(ext4.RootIno, "file"))
		check(t, b.Fsync(0))
		ino = create()
		if ino != old {
			continue
		}
		must[int](t)(b.WriteAt(ino, []byte("new"), 0))
		must[int](t)(b.WriteAt(ino, []byte("new"), 590))
		data := make([]byte, 593)
		must[int](t)(b.Client.ReadAt(ino, data, 0))
		if bytes.Contains(data, []byte("old")) {
			t.Error("what another file ended with is there")
		}
	}
}
