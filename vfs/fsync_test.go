package vfs_test

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"testing"

	"golang.org/x/sys/unix"

	"asyncfsd/asyncq"
	"asyncfsd/blockdev"
	"asyncfsd/internal/testenv"
	"asyncfsd/vfs"
	"asyncfsd/vfs/ext4"
)

// begin begins one operation and does not wait for it.
func (f *nullFront) begin(t testing.TB, fill func(op *vfs.Op)) {
	s, op := f.fs.Claim(f.id)
	if s == asyncq.NoSlot {
		t.Fatal("no slot")
	}
	fill(op)
	f.fs.Submit(s)
}

// TestFsyncDuringCommit overwrites data while the transaction that the file belongs to is being
// committed, in the same tick of the clock, so that the inode is not changed again. The commit's
// own flush may have been too early for them: fsync has to see to that.
func TestFsyncDuringCommit(t *testing.T) {
	base, err := os.ReadFile(mkfs(t, 8<<20, "-t", "ext4", "-b", "1024", "-J", "size=1"))
	if err != nil {
		t.Fatal(err)
	}
	for steps := range 100 {
		fsyncDuringCommit(t, slices.Clone(base), uint64(steps+1), steps)
	}
}

func fsyncDuringCommit(t *testing.T, data []byte, seed uint64, steps int) {
	b := must[*memBed](t)(openMem(data, seed, false))
	defer b.close()
	f := &nullFront{fs: b.fs}
	f.id = b.fs.AddFront(f)
	file := must[vfs.Attr](t)(b.Mknod(ext4.RootIno, "file", unix.S_IFREG|0o644, 0))
	must[int](t)(b.WriteAt(file.Ino, make([]byte, 4096), 0))
	sync := func(op *vfs.Op) { op.Code, op.Node = vfs.OpFsync, file.Ino }
	f.begin(t, sync)
	for range steps {
		check(t, b.loop.Step(false))
	}
	f.begin(t, func(op *vfs.Op) {
		op.Code, op.Node, op.Size, op.Buf = vfs.OpWrite, file.Ino, 4096, b.fs.Arena().Get(4096)
		copy(b.fs.Arena().Payload(op.Buf), bytes.Repeat([]byte("2"), 4096))
	})
	for !f.written {
		check(t, b.loop.Step(false))
	}
	f.begin(t, sync)
	for f.replies < 3 {
		check(t, b.loop.Step(false))
	}
	image := b.record.Image(b.record.Now(), blockdev.KeepNone)
	if !bytes.Contains(image, bytes.Repeat([]byte("2"), 4096)) {
		t.Errorf("after %d steps: what was written before fsync is not durable", steps)
	}
	check(t, b.fs.Unmount())
}

// TestOrphanTail mounts after a crash in the middle of a truncation, and has the file grow at once:
// what was behind its end must not come back.
func TestOrphanTail(t *testing.T) {
	testenv.NeedProgram(t, "debugfs")
	dir := t.TempDir()
	old := bytes.Repeat([]byte("o"), 300_000)
	check(t, os.WriteFile(filepath.Join(dir, "file"), old, 0o600))
	check(t, os.WriteFile(filepath.Join(dir, "other"), old, 0o600))
	path := mkfs(t, 8<<20, "-t", "ext4", "-b", "1024", "-J", "size=1", "-d", dir)
	for _, command := range []string{"sif file size 1024", "sif other size 1024",
		"sif <12> dtime 13", "ssv last_orphan 12"} {
		out, err := exec.Command("debugfs", "-w", "-R", command, path).CombinedOutput()
		if err != nil {
			t.Fatalf("%v: %s", err, out)
		}
	}
	b := must[*memBed](t)(openMem(must[[]byte](t)(os.ReadFile(path)), 1, false))
	defer b.close()
	for _, name := range []string{"file", "other"} {
		a := must[vfs.Attr](t)(b.Lookup(ext4.RootIno, name))
		check(t, b.Truncate(a.Ino, 200_000))
		data := make([]byte, 200_000)
		must[int](t)(b.Client.ReadAt(a.Ino, data, 0))
		if i := bytes.IndexByte(data[1024:], 'o'); i >= 0 {
			t.Errorf("%s has old data at %d", name, 1024+i)
		}
	}
	check(t, b.fs.Unmount())
	fsckImage(t, b.data, "-fn", "after unmounting")
}

// holdingFront holds every inode, as the kernel does those that are open.
type holdingFront struct{ nullFront }

func (f *holdingFront) Held(ext4.Ino) bool { return true }

// TestUnmountFreesHeld unmounts while a file without a name is held whose blocks take many steps to
// be freed: nothing of it may be left.
func TestUnmountFreesHeld(t *testing.T) {
	base := must[[]byte](t)(os.ReadFile(mkfs(t, 8<<20, "-t", "ext4", "-b", "1024", "-J", "size=1",
		"-N", "4096")))
	for _, stall := range []bool{false, true} {
		b := must[*memBed](t)(openMem(slices.Clone(base), 1, stall))
		defer b.close()
		b.fs.AddFront(&holdingFront{nullFront{fs: b.fs}})
		for i := range 3 {
			name := fmt.Sprint("file", i)
			file := must[vfs.Attr](t)(b.Mknod(ext4.RootIno, name, unix.S_IFREG|0o644, 0))
			for off := range int64(300) {
				must[int](t)(b.WriteAt(file.Ino, []byte("x"), off*2048))
			}
			check(t, b.Unlink(ext4.RootIno, name))
		}
		check(t, b.Fsync(0))
		for ino := ext4.Ino(20); ino < 4096; ino += 4 {
			_, _ = b.Getattr(ino) // so that nothing else is cached
		}
		b.fault.SetRules(blockdev.FaultRule{Kind: blockdev.FaultDelay, Count: -1, Turns: 500,
			Ops: blockdev.FaultOn(asyncq.OpRead)})
		check(t, b.fs.Unmount())
		fsckImage(t, b.data, "-fn", "after unmounting")
	}
}
