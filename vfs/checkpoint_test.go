package vfs_test

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"asyncfsd/blockdev"
	"asyncfsd/internal/testenv"
	"asyncfsd/vfs"
	"asyncfsd/vfs/ext4"
)

// logOf returns what the journal's inode of an image holds.
func logOf(t *testing.T, image []byte) []byte {
	testenv.NeedProgram(t, "debugfs")
	path := filepath.Join(t.TempDir(), "image")
	check(t, os.WriteFile(path, image, 0o600))
	return must[[]byte](t)(exec.Command("debugfs", "-R", "cat <8>", path).Output())
}

// TestErase erases the log between changes, with others under way, and has crashes after it. It
// hung when a slot that was woken for a ticket of the cache left it, and the others asleep.
func TestErase(t *testing.T) {
	path := mkfs(t, 16<<20, "-t", "ext4", "-b", "1024", "-J", "size=2")
	base := must[[]byte](t)(os.ReadFile(path))
	for seed := range uint64(8) {
		b := must[*memBed](t)(openMem(bytes.Clone(base), seed, seed%2 > 0))
		f := &nullFront{fs: b.fs}
		f.id = b.fs.AddFront(f)
		begun := 0
		change := func() {
			f.begin(t, func(op *vfs.Op) {
				op.Code, op.Node, op.Mode = vfs.OpMknod, ext4.RootIno, unix.S_IFREG|0o644
				op.SetName([]byte(fmt.Sprint("secret", begun)))
			})
			begun++
		}
		for round := range 3 {
			for range 40 {
				change()
			}
			f.begin(t, func(op *vfs.Op) {
				op.Code, op.Arg = vfs.OpCheckpoint, vfs.CheckpointZero
			})
			begun++
			for range 10 * round { // these wait, or are done before
				change()
			}
			for f.replies < begun {
				check(t, b.loop.Step(false))
			}
			if f.failed > 0 {
				t.Fatalf("seed %d: %d operations failed", seed, f.failed)
			}
		}
		check(t, b.Checkpoint(vfs.CheckpointZero))
		image := b.record.Image(b.record.Now(), blockdev.KeepNone)
		if log := logOf(t, image); len(log) != 2<<20 || bytes.Count(log[1024:], []byte{0}) !=
			len(log)-1024 {
			t.Errorf("seed %d: the log is not empty", seed)
		}
		fsckImage(t, image, "-fn", "after a crash behind a checkpoint")
		must[vfs.Attr](t)(b.Mknod(ext4.RootIno, "later", unix.S_IFREG|0o644, 0))
		f.run(t, b.loop, func(op *vfs.Op) { op.Code = vfs.OpFsync })
		image = b.record.Image(b.record.Now(), blockdev.KeepNone)
		after := must[*memBed](t)(openMem(image, 1, false))
		must[vfs.Attr](t)(after.Lookup(ext4.RootIno, "later"))
		check(t, after.fs.Unmount())
		after.close()
		check(t, b.fs.Unmount())
		fsckImage(t, b.data, "-fn", "after unmounting")
		b.close()
	}
}

// TestEraseRefused has what cannot be done.
func TestEraseRefused(t *testing.T) {
	for _, journal := range []bool{true, false} {
		args := []string{"-t", "ext4"}
		if !journal {
			args = append(args, "-O", "^has_journal")
		}
		image := must[[]byte](t)(os.ReadFile(mkfs(t, 8<<20, args...)))
		b := must[*memBed](t)(openMem(image, 1, false))
		for _, c := range []struct {
			uid, how uint32
			want     unix.Errno
		}{
			{1, vfs.CheckpointDryRun, unix.EPERM},
			{0, vfs.CheckpointDryRun | vfs.CheckpointZero, 0},
			{0, vfs.CheckpointDiscard | vfs.CheckpointZero, unix.EINVAL},
			{0, 8, unix.EINVAL},
			{0, 0, map[bool]unix.Errno{false: unix.ENODEV}[journal]},
		} {
			got := b.As(vfs.Cred{UID: c.uid, GID: c.uid}).Checkpoint(c.how)
			if got == nil {
				got = unix.Errno(0)
			}
			if got != c.want {
				t.Errorf("journal %t: %d as %d: %v, want %v", journal, c.how, c.uid, got, c.want)
			}
		}
		check(t, b.fs.Unmount())
		b.close()
	}
}
