package vfs_test

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"asyncfsd/asyncq"
	"asyncfsd/blockdev"
	"asyncfsd/internal/testenv"
	"asyncfsd/vfs"
	"asyncfsd/vfs/ext4"
	"asyncfsd/vfs/recovery"
)

// mkfs makes an image of size bytes with mke2fs.
func mkfs(t testing.TB, size int64, args ...string) string {
	t.Helper()
	testenv.NeedProgram(t, "mke2fs", "e2fsck")
	path := filepath.Join(t.TempDir(), "image")
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(path, size); err != nil {
		t.Fatal(err)
	}
	args = append([]string{"-q", "-F", "-E", "root_owner=0:0"}, append(args, path)...)
	if out, err := exec.Command("mke2fs", args...).CombinedOutput(); err != nil {
		t.Fatalf("mke2fs: %v\n%s", err, out)
	}
	return path
}

// writeBed is an image that is written by this goroutine.
type writeBed struct {
	*vfs.Client
	t    testing.TB
	path string
	loop *asyncq.Loop
	fs   *vfs.FS
	dev  blockdev.Device
}

// openWrite opens an image for writing, its journal recovered.
func openWrite(t testing.TB, path string, s setting) *writeBed {
	t.Helper()
	engine, err := asyncq.NewUring(64)
	if err != nil {
		t.Fatal(err)
	}
	l := asyncq.New(asyncq.Config{Engine: engine, Slots: s.slots, Seed: s.seed})
	dev, err := blockdev.Open(path, engine, blockdev.Options{})
	if err != nil {
		t.Fatal(err)
	}
	b := &writeBed{t: t, path: path, loop: l, dev: dev}
	if s.wrap != nil {
		dev = s.wrap(dev)
	}
	p, err := blockdev.NewProvider(l, dev)
	if err != nil {
		t.Fatal(err)
	}
	storage := p.Sync()
	vol, err := ext4.Open(storage, dev.Size(), ext4.OpenOptions{})
	if err != nil {
		t.Fatal(err)
	}
	report, err := recovery.Recover(storage, vol, recovery.Options{})
	if err != nil {
		t.Fatal(err)
	}
	if report.Replayed {
		if vol, err = ext4.Open(storage, dev.Size(), ext4.OpenOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	var mmp *ext4.MMP
	if vol.HasIncompat(ext4.IncompatMMP) {
		p, err := recovery.Protect(storage, vol, recovery.ProtectOptions{Source: path,
			Sleep: func(time.Duration) {}})
		if err != nil {
			t.Fatal(err)
		}
		mmp = &p.MMP
	}
	log, err := recovery.OpenLog(storage, vol, nil)
	if err != nil {
		t.Fatal(err)
	}
	arena, err := blockdev.NewArena(max(s.cache, vfs.WritableFrames<<vol.BlockBits))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = arena.Close() })
	b.fs, err = vfs.New(vfs.Config{Loop: l, Device: dev, Volume: vol, Arena: arena,
		Write: &vfs.WriteConfig{Storage: storage, Log: log, MMP: mmp, LimitUsers: s.limits}})
	if err != nil {
		t.Fatal(err)
	}
	if s.stall {
		b.fs.StallOnce()
	}
	b.Client = vfs.NewClient(b.fs)
	return b
}

// close unmounts and checks the image.
func (b *writeBed) close() {
	b.t.Helper()
	if err := b.fs.Unmount(); err != nil {
		b.t.Fatal(err)
	}
	b.drop()
	fsck(b.t, b.path)
}

// drop gives everything back as a crash does.
func (b *writeBed) drop() {
	_ = b.loop.Close()
	_ = b.dev.Close()
}

func fsck(t testing.TB, path string) {
	t.Helper()
	out, err := exec.Command("e2fsck", "-fn", path).CombinedOutput()
	if err != nil {
		t.Fatalf("e2fsck: %v\n%s", err, out)
	}
}

var writeFeatures = map[string][]string{
	"ext4":       {"-t", "ext4"},
	"ext4-1k":    {"-t", "ext4", "-b", "1024"},
	"ext3":       {"-t", "ext3"},
	"ext2-1k":    {"-t", "ext2", "-b", "1024"},
	"old-csum":   {"-t", "ext4", "-O", "^metadata_csum,uninit_bg,^64bit"},
	"mmp":        {"-t", "ext4", "-O", "mmp", "-E", "mmp_update_interval=1"},
	"64k":        {"-t", "ext4", "-b", "65536"},
	"cluster":    {"-t", "ext4", "-O", "bigalloc", "-C", "65536"},
	"cluster-1k": {"-t", "ext4", "-b", "1024", "-O", "bigalloc", "-C", "16384"},
	"inline":     {"-t", "ext4", "-O", "inline_data", "-I", "1024"},
	"quota":      {"-t", "ext4", "-b", "1024", "-O", "quota,project"},
}

func features(t *testing.T, test func(t *testing.T, args []string)) {
	for name, args := range writeFeatures {
		t.Run(name, func(t *testing.T) { test(t, args) })
	}
}

func must[T any](t testing.TB) func(v T, err error) T {
	return func(v T, err error) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
}

func check(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// TestWriteEmpty mounts and unmounts.
func TestWriteEmpty(t *testing.T) {
	features(t, func(t *testing.T, args []string) {
		path := mkfs(t, 256<<20, args...)
		openWrite(t, path, setting{}).close()
		openWrite(t, path, setting{}).close()
	})
}

// TestWriteFiles makes, writes, reads, renames and removes files and directories.
func TestWriteFiles(t *testing.T) {
	features(t, func(t *testing.T, args []string) {
		path := mkfs(t, 256<<20, args...)
		for _, s := range []setting{{}, {stall: true, seed: 1, slots: 1}} {
			b := openWrite(t, path, s)
			name := fmt.Sprint("dir", s.slots)
			dir := must[vfs.Attr](t)(b.Mkdir(ext4.RootIno, name, 0o755))
			writeTree(t, b, dir.Ino)
			b.close()
			b = openWrite(t, path, s)
			readTree(t, b, must[vfs.Attr](t)(b.Resolve(name)).Ino)
			b.close()
		}
	})
}

// content is what file i of a tree holds.
func content(i int) []byte {
	rng := rand.New(rand.NewPCG(uint64(i), 7))
	p := make([]byte, []int{0, 1, 511, 512, 4096, 5000, 70000, 1 << 20, 3<<20 + 17}[i%9])
	for j := range p {
		p[j] = byte(rng.Uint32())
	}
	return p
}

const treeFiles = 60

func writeTree(t *testing.T, b *writeBed, dir ext4.Ino) {
	t.Helper()
	for i := range treeFiles {
		f := must[vfs.Attr](t)(b.Mknod(dir, fmt.Sprint("file", i), unix.S_IFREG|0o644, 0))
		data := content(i)
		for off := 0; off < len(data); {
			n := min(len(data)-off, 1+i*977)
			must[int](t)(b.WriteAt(f.Ino, data[off:off+n], int64(off)))
			off += n
		}
	}
	for i := 0; i < treeFiles; i += 3 {
		check(t, b.Rename(dir, fmt.Sprint("file", i), dir, fmt.Sprint("renamed", i), 0))
	}
	for i := 1; i < treeFiles; i += 3 {
		check(t, b.Unlink(dir, fmt.Sprint("file", i)))
	}
	must[vfs.Attr](t)(b.Symlink(dir, "short", "target"))
	must[vfs.Attr](t)(b.Symlink(dir, "long", string(bytes.Repeat([]byte("x"), 300))))
	must[vfs.Attr](t)(b.Mkdir(dir, "sub", 0o700))
	must[vfs.Attr](t)(b.Mkdir(dir, "gone", 0o700))
	if err := b.Rmdir(dir, "gone"); err != nil {
		t.Fatal(err)
	}
	if err := b.Unlink(dir, "sub"); err != unix.EISDIR {
		t.Errorf("unlink of a directory: %v", err)
	}
}

func readTree(t *testing.T, b *writeBed, dir ext4.Ino) {
	t.Helper()
	var names []string
	for _, e := range must[[]vfs.Dirent](t)(b.ReadDir(dir)) {
		names = append(names, e.Name)
	}
	for i := range treeFiles {
		name := fmt.Sprint("file", i)
		if i%3 == 0 {
			name = fmt.Sprint("renamed", i)
		}
		if there := slices.Contains(names, name); there != (i%3 != 1) {
			t.Errorf("%s: there is %v", name, there)
			continue
		}
		if i%3 == 1 {
			continue
		}
		a := must[vfs.Attr](t)(b.Lookup(dir, name))
		want := content(i)
		got := make([]byte, len(want)+10)
		n, _ := b.Client.ReadAt(a.Ino, got, 0)
		if a.Size != uint64(len(want)) || !bytes.Equal(got[:n], want) {
			t.Errorf("%s: %d bytes differ from %d", name, a.Size, len(want))
		}
	}
}

// model is a file in memory, against which random operations are checked.
type model struct{ data []byte }

func (m *model) grow(n int) {
	if n > len(m.data) {
		m.data = append(m.data, make([]byte, n-len(m.data))...)
	}
}

// TestWriteRandom does random writes, truncations and allocations in one file.
func TestWriteRandom(t *testing.T) {
	features(t, func(t *testing.T, args []string) {
		path := mkfs(t, 256<<20, args...)
		for seed := range uint64(2) {
			randomFile(t, path, seed)
		}
	})
}

func randomFile(t *testing.T, path string, seed uint64) {
	t.Helper()
	b := openWrite(t, path, setting{seed: seed + 1, stall: seed == 1})
	name := fmt.Sprint("random", seed)
	f := must[vfs.Attr](t)(b.Mknod(ext4.RootIno, name, unix.S_IFREG|0o644, 0))
	rng := rand.New(rand.NewPCG(seed, 1))
	const most = 2 << 20
	var m model
	for i := range 400 {
		off, n := rng.IntN(most), 1+rng.IntN(1<<(4+rng.IntN(14)))
		var err error
		switch rng.IntN(8) {
		case 0:
			err = b.Truncate(f.Ino, uint64(off))
			m.grow(off)
			m.data = m.data[:off]
		case 1:
			err = b.Fallocate(f.Ino, unix.FALLOC_FL_KEEP_SIZE|unix.FALLOC_FL_PUNCH_HOLE,
				uint64(off), uint64(n))
			if off < len(m.data) {
				clear(m.data[off:min(off+n, len(m.data))])
			}
		case 2:
			err = b.Fallocate(f.Ino, 0, uint64(off), uint64(n))
			if err == nil {
				m.grow(off + n)
			} else if errors.Is(err, unix.EOPNOTSUPP) {
				err = nil
			}
		default:
			p := make([]byte, n)
			for j := range p {
				p[j] = byte(rng.Uint32())
			}
			_, err = b.WriteAt(f.Ino, p, int64(off))
			m.grow(off + n)
			copy(m.data[off:], p)
		}
		if err != nil {
			t.Fatalf("seed %d, operation %d: %v", seed, i, err)
		}
		if i%20 == 19 {
			sameData(t, b, f.Ino, m.data, i)
		}
	}
	b.close()
	b = openWrite(t, path, setting{})
	sameData(t, b, f.Ino, m.data, -1)
	b.close()
}

func sameData(t *testing.T, b *writeBed, ino ext4.Ino, want []byte, step int) {
	t.Helper()
	a := must[vfs.Attr](t)(b.Getattr(ino))
	got := make([]byte, len(want))
	n, _ := b.Client.ReadAt(ino, got, 0)
	if a.Size != uint64(len(want)) || n != len(want) {
		t.Fatalf("step %d: size %d, read %d, should be %d", step, a.Size, n, len(want))
	}
	for i := range got {
		if got[i] != want[i] {
			t.Fatalf("step %d: byte %d is %#x, should be %#x", step, i, got[i], want[i])
		}
	}
}

// TestWriteChown has whatever is no directory lose setuid and setgid with its owner.
func TestWriteChown(t *testing.T) {
	b := openWrite(t, mkfs(t, 64<<20, "-t", "ext4"), setting{})
	for name, kind := range map[string]uint32{"file": unix.S_IFREG, "fifo": unix.S_IFIFO,
		"socket": unix.S_IFSOCK, "char": unix.S_IFCHR, "block": unix.S_IFBLK,
		"dir": unix.S_IFDIR} {
		var a vfs.Attr
		if kind == unix.S_IFDIR {
			a = must[vfs.Attr](t)(b.Mkdir(ext4.RootIno, name, 0o6555))
		} else {
			a = must[vfs.Attr](t)(b.Mknod(ext4.RootIno, name, kind|0o6555, 0))
		}
		want := kind | 0o555
		if kind == unix.S_IFDIR {
			want = a.Mode
		}
		a = must[vfs.Attr](t)(b.Setattr(a.Ino, vfs.SetGID, vfs.Attr{GID: 5}))
		if a.Mode != want || a.GID != 5 {
			t.Errorf("%s: mode %#o, group %d; should be %#o", name, a.Mode, a.GID, want)
		}
	}
	b.close()
}

// write writes zeros, as how says (Write*), and waits for the reply.
func (f *nullFront) write(t testing.TB, l *asyncq.Loop, ino ext4.Ino, how uint32, off uint64,
	size int) {
	f.run(t, l, func(op *vfs.Op) {
		op.Code, op.Node, op.Arg, op.Off = vfs.OpWrite, ino, how, off
		op.Size, op.Buf = uint32(size), f.fs.Arena().Get(size)
		clear(f.fs.Arena().Payload(op.Buf)[:size])
	})
}

// TestWriteFull fills a filesystem: the count of a write is what there is of it, or it fails as a
// whole where the kernel would not look at the count.
func TestWriteFull(t *testing.T) {
	b := must[*memBed](t)(openMem(must[[]byte](t)(os.ReadFile(mkfs(t, 8<<20, "-t", "ext4"))), 1,
		true))
	defer b.close()
	file := must[vfs.Attr](t)(b.Mknod(ext4.RootIno, "file", unix.S_IFREG|0o644, 0))
	const size = 300_000 // of which the last one does not fit
	for _, c := range []struct {
		how    uint32
		sparse uint64 // size of the file before
		short  bool
	}{
		{0, 0, true}, {0, 8 << 20, true}, {vfs.WriteCached, 0, false},
		{vfs.WriteCached, 8 << 20, false}, {vfs.WriteDirect, 8 << 20, false},
		{vfs.WriteDirect, 0, false}, // in one round, so that there is nothing of it
	} {
		check(t, b.Truncate(file.Ino, 0))
		check(t, b.Truncate(file.Ino, c.sparse))
		f := &nullFront{fs: b.fs}
		f.id = b.fs.AddFront(f)
		for off := uint64(0); off+size < 8<<20; off += size {
			f.write(t, b.loop, file.Ino, c.how, off, size)
		}
		if short := f.bytes%size != 0; f.failed == 0 || short != c.short {
			t.Errorf("%+v: %d of %d writes failed, %d bytes", c, f.failed, f.replies, f.bytes)
		}
		have := must[vfs.Attr](t)(b.Getattr(file.Ino)).Size
		if c.sparse == 0 && c.how != vfs.WriteCached && have != f.bytes {
			t.Errorf("%+v: %d bytes, the file has %d", c, f.bytes, have)
		}
	}
	check(t, b.fs.Unmount())
	fsckImage(t, b.data, "-fn", "after unmounting")
}

// TestReserved fills a filesystem as an ordinary user: what is kept for root is there for root's
// directories and attributes as well as for data.
func TestReserved(t *testing.T) {
	image := must[[]byte](t)(os.ReadFile(mkfs(t, 16<<20, "-t", "ext4", "-m", "10")))
	b := must[*memBed](t)(openMem(image, 1, true))
	defer b.close()
	user := b.As(vfs.Cred{UID: 1000, GID: 1000})
	file := must[vfs.Attr](t)(user.Mknod(ext4.RootIno, "file", unix.S_IFREG|0o644, 0))
	if _, err := user.WriteAt(file.Ino, make([]byte, 16<<20), 0); err != unix.ENOSPC {
		t.Fatalf("filling: %v", err)
	}
	value := bytes.Repeat([]byte("v"), 700) // a block of its own
	for _, who := range []struct {
		name string
		c    *vfs.Client
		want error
	}{{"user", user, unix.ENOSPC}, {"root", b.Client, nil}} {
		var dir vfs.Attr
		for what, do := range map[string]func() error{
			"mkdir": func() (err error) {
				dir, err = who.c.Mkdir(ext4.RootIno, who.name, 0o755)
				return err
			},
			"symlink": func() error {
				_, err := who.c.Symlink(ext4.RootIno, who.name+"l", string(value[:200]))
				return err
			},
			"setxattr": func() error { return who.c.Setxattr(file.Ino, "user.a", value, 0) },
		} {
			err := do()
			if err != nil && err != unix.ENOSPC || (err == nil) != (who.want == nil) {
				t.Errorf("%s as %s: %v, want %v", what, who.name, err, who.want)
			}
		}
		for i := range 100 { // a directory that grows
			if dir.Ino != 0 {
				name := fmt.Sprintf("%0200d", i)
				must[vfs.Attr](t)(who.c.Mknod(dir.Ino, name, unix.S_IFREG|0o644, 0))
			}
		}
	}
	check(t, b.fs.Unmount())
	fsckImage(t, b.data, "-fn", "after unmounting")
}

// TestShortSync cuts the power after a synchronous write that was a short one: what it has told of
// is there.
func TestShortSync(t *testing.T) {
	b := must[*memBed](t)(openMem(must[[]byte](t)(os.ReadFile(mkfs(t, 8<<20, "-t", "ext4"))), 1,
		true))
	defer b.close()
	file := must[vfs.Attr](t)(b.Mknod(ext4.RootIno, "file", unix.S_IFREG|0o644, 0))
	f := &nullFront{fs: b.fs}
	f.id = b.fs.AddFront(f)
	const size = 300_000
	for off := uint64(0); f.bytes == off; off += size {
		f.write(t, b.loop, file.Ino, vfs.WriteSync, off, size)
	}
	after := must[*memBed](t)(openMem(b.record.Image(b.record.Now(), blockdev.KeepNone), 1, false))
	defer after.close()
	have := must[vfs.Attr](t)(after.Getattr(file.Ino)).Size
	if f.bytes%size == 0 || have != f.bytes {
		t.Errorf("%d bytes were written, %d are there", f.bytes, have)
	}
	check(t, after.fs.Unmount())
	check(t, b.fs.Unmount())
}
