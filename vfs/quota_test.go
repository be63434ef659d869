package vfs_test

import (
	"bytes"
	"testing"

	"golang.org/x/sys/unix"

	"asyncfsd/internal/testenv"
	"asyncfsd/vfs"
	"asyncfsd/vfs/ext4"
)

// TestQuotaCredits has the most blocks that a step changes be what an attempt may change.
func TestQuotaCredits(t *testing.T) {
	for code, n := range vfs.Credits() {
		if n > vfs.EditsMax {
			t.Errorf("%v may change %d blocks, at most %d", vfs.Code(code), n, vfs.EditsMax)
		}
	}
}

// TestWriteQuota has a user go to the limits, and root beyond them.
func TestWriteQuota(t *testing.T) {
	const user = 5000
	path := mkfs(t, 64<<20, "-t", "ext4", "-b", "1024", "-O", "quota,project")
	b := openWrite(t, path, setting{})
	mine := b.As(vfs.Cred{UID: user, GID: user, PID: 1})
	a := must[vfs.Attr](t)(mine.Mkdir(ext4.RootIno, "dir", 0o755))
	b.close()
	testenv.SetLimits(t, path, testenv.QuotaUsers, user,
		testenv.Limits{InodesHard: 4, BlocksHard: 100})
	testenv.SetLimits(t, path, testenv.QuotaGroups, user, testenv.Limits{BlocksHard: 1})

	for _, s := range []setting{{}, {stall: true, seed: 3}} {
		s.limits = true
		b = openWrite(t, path, s)
		mine = b.As(vfs.Cred{UID: user, GID: user, PID: 1})
		f := must[vfs.Attr](t)(mine.Mknod(a.Ino, "f", unix.S_IFREG|0o644, 0))
		data := bytes.Repeat([]byte("q"), 200<<10)
		n, err := mine.WriteAt(f.Ino, data, 0)
		if n != 99<<10 || err != unix.EDQUOT {
			t.Errorf("wrote %d bytes: %v", n, err)
		}
		if n, err := mine.WriteAt(f.Ino, data[:50], 0); n != 50 || err != nil {
			t.Errorf("overwrote %d bytes: %v", n, err)
		}
		if err := mine.Fallocate(f.Ino, 0, 1<<20, 1024); err != unix.EDQUOT {
			t.Errorf("fallocate: %v", err)
		}
		_, err = mine.Mkdir(a.Ino, "d", 0o755)
		if err != unix.EDQUOT {
			t.Errorf("mkdir without blocks: %v", err)
		}
		check(t, mine.Truncate(f.Ino, 50<<10))
		if n, err := mine.WriteAt(f.Ino, data[:49<<10], 50<<10); n != 49<<10 || err != nil {
			t.Errorf("wrote %d bytes where there is room again: %v", n, err)
		}
		if n, err := b.WriteAt(f.Ino, data, 0); n != len(data) || err != nil {
			t.Errorf("root wrote %d bytes: %v", n, err)
		}
		g := must[vfs.Attr](t)(mine.Mknod(a.Ino, "g", unix.S_IFREG|0o644, 0))
		must[vfs.Attr](t)(mine.Mknod(a.Ino, "h", unix.S_IFREG|0o644, 0))
		if _, err := mine.Mknod(a.Ino, "i", unix.S_IFREG|0o644, 0); err != unix.EDQUOT {
			t.Errorf("one inode too many: %v", err)
		}
		must[vfs.Attr](t)(b.Setattr(g.Ino, vfs.SetUID, vfs.Attr{UID: 0}))
		must[vfs.Attr](t)(mine.Mknod(a.Ino, "i", unix.S_IFREG|0o644, 0))
		for _, name := range []string{"f", "g", "h", "i"} {
			check(t, b.Unlink(a.Ino, name))
		}
		b.close()
	}
}

// TestQuotaNoAllocations wants a write that is counted to leave the heap alone once it is warm.
func TestQuotaNoAllocations(t *testing.T) {
	path := mkfs(t, 64<<20, "-t", "ext4", "-b", "4096", "-O", "quota,project")
	b := openWrite(t, path, setting{limits: true})
	defer b.close()
	mine := b.As(vfs.Cred{UID: 7, GID: 8, PID: 1})
	file := must[vfs.Attr](t)(mine.Mknod(ext4.RootIno, "file", unix.S_IFREG|0o644, 0))
	must[int](t)(mine.WriteAt(file.Ino, make([]byte, 1<<20), 0))
	f := &nullFront{fs: b.fs}
	f.id = b.fs.AddFront(f)
	off := uint64(1 << 20)
	write := func(op *vfs.Op) {
		op.Code, op.Node, op.Off, op.Size = vfs.OpWrite, file.Ino, off, 4096
		op.Cred = vfs.Cred{UID: 7, GID: 8}
		op.Buf = b.fs.Arena().Get(4096)
		off += 4096
	}
	f.run(t, b.loop, write)
	if n := testing.AllocsPerRun(200, func() { f.run(t, b.loop, write) }); n != 0 {
		t.Errorf("%v allocations", n)
	}
	if f.failed > 0 {
		t.Errorf("%d operations failed", f.failed)
	}
}
