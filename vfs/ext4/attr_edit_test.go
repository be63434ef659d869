package ext4

import (
	"bytes"
	"errors"
	"fmt"
	"maps"
	"math/rand"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"asyncfsd/internal/testenv"
)

// editTest runs changes on an image in memory. With inject set every change is first tried with a
// stall at its first access to a block, then at its second, and so on until it gets through; what
// a stalled attempt has done is undone as the daemon does it.
type editTest struct {
	t       testing.TB
	path    string
	f       *os.File
	v       *Volume
	ed      *Edit
	orphans *Orphans
	inject  bool
	stalls  int
	most    int // accesses of one change
}

var testNow = Timespec{Sec: 1_700_000_000, Nsec: 123_456_789}

// newEditTest makes a filesystem with mke2fs.
func newEditTest(t testing.TB, size string, args ...string) *editTest {
	t.Helper()
	testenv.NeedProgram(t, "mke2fs", "e2fsck")
	path := filepath.Join(t.TempDir(), "fs.img")
	args = append(append([]string{"-q", "-F"}, args...), path, size)
	if out, err := exec.Command("mke2fs", args...).CombinedOutput(); err != nil {
		t.Fatalf("mke2fs %v: %v\n%s", args, err, out)
	}
	return openEditTest(t, path)
}

// twin opens another copy of the image as it was at first, with stalls.
func (h *editTest) twin() *editTest {
	h.t.Helper()
	path := h.path + ".twin"
	copyImage(h.t, h.path, path)
	twin := openEditTest(h.t, path)
	twin.inject = true
	return twin
}

func copyImage(t testing.TB, from, to string) {
	t.Helper()
	if out, err := exec.Command("cp", "--sparse=always", from, to).CombinedOutput(); err != nil {
		t.Fatalf("cp: %s", out)
	}
}

func openEditTest(t testing.TB, path string) *editTest {
	t.Helper()
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	st, _ := f.Stat()
	v, err := Open(f, st.Size(), OpenOptions{})
	if err != nil {
		t.Fatal(err)
	}
	h := &editTest{t: t, path: path, f: f, v: v, ed: NewEdit(v, f, testNow)}
	if h.orphans, err = v.LoadOrphans(NewReaderSource(f, v.BlockBits)); err != nil {
		t.Fatal(err)
	}
	h.ed.space.Attach(h.orphans)
	q, err := v.LoadQuotas(h.ed)
	if err != nil {
		t.Fatal(err)
	}
	h.ed.space.UseQuotas(q)
	return h
}

// changeEdit stalls at access number at, and can undo everything.
type changeEdit struct {
	*Edit
	at, n   int
	before  map[Block][]byte // of blocks that were changed in this attempt; nil: not changed before
	was     map[Block]bool   // and whether they had been changed before the attempt
	forgot  int
	stalled bool
}

var errStallHere = errors.New("stall")

func newChangeEdit(e *Edit, at int) *changeEdit {
	return &changeEdit{Edit: e, at: at, before: map[Block][]byte{}, was: map[Block]bool{},
		forgot: len(e.Forgotten)}
}

func (s *changeEdit) stall() bool {
	s.n++
	s.stalled = s.stalled || s.at >= 0 && s.n > s.at
	return s.stalled
}

func (s *changeEdit) Block(b Block) (Buf, error) {
	if s.stall() {
		return Buf{}, errStallHere
	}
	return s.Edit.Block(b)
}

func (s *changeEdit) keep(b Block) error {
	if _, ok := s.before[b]; ok {
		return nil
	}
	buf, err := s.Edit.Block(b)
	if err != nil {
		return err
	}
	s.before[b] = bytes.Clone(buf.Data)
	_, s.was[b] = s.Edit.dirty[b]
	return nil
}

func (s *changeEdit) Modify(b Block) (Buf, error) {
	if s.stall() {
		return Buf{}, errStallHere
	}
	if err := s.keep(b); err != nil {
		return Buf{}, err
	}
	return s.Edit.Modify(b)
}

func (s *changeEdit) Fresh(b Block) (Buf, error) {
	if s.stall() {
		return Buf{}, errStallHere
	}
	if err := s.keep(b); err != nil {
		return Buf{}, err
	}
	if s.was[b] { // keep the memory of the block, as a cache does
		clear(s.Edit.dirty[b])
		return Buf{s.Edit.dirty[b], new(Checked)}, nil
	}
	return s.Edit.Fresh(b)
}

// Forget does not drop the block, which could not be undone otherwise.
func (s *changeEdit) Forget(b Block) { s.Forgotten = append(s.Forgotten, b) }

func (s *changeEdit) undo() {
	for b, data := range s.before {
		if d, ok := s.Edit.dirty[b]; ok {
			copy(d, data)
		}
		if !s.was[b] {
			delete(s.Edit.dirty, b)
		}
	}
	s.Forgotten = s.Forgotten[:s.forgot]
}

// memory is what is known in memory, to be compared.
func (h *editTest) memory() string {
	s := h.ed.space
	var b strings.Builder
	fmt.Fprintln(&b, s.freeClusters, s.freeInodes, s.busyClusters)
	for i := range s.groups {
		fmt.Fprintln(&b, s.groups[i].freeClusters, s.groups[i].freeInodes, s.groups[i].dirs)
	}
	list := []orphan{}
	for _, e := range h.orphans.table {
		if e.ino != 0 {
			list = append(list, e)
		}
	}
	slices.SortFunc(list, func(a, b orphan) int { return int(a.ino) - int(b.ino) })
	fmt.Fprintln(&b, list, h.orphans.newest, h.orphans.count, h.orphans.blocks)
	return b.String()
}

// do runs one change; an error undoes it.
func (h *editTest) do(change func(ed Editor) error) error {
	h.t.Helper()
	at := -1
	if h.inject {
		at = 0
	}
	for ; ; at++ {
		seed := h.ed.seed
		before := ""
		if h.inject {
			before = h.memory()
		}
		s := newChangeEdit(h.ed, at)
		h.ed.space.Begin()
		h.orphans.Begin()
		err := change(s)
		if err == nil && !s.stalled {
			h.most = max(h.most, s.n)
			return nil
		}
		s.undo()
		h.ed.seed = seed
		h.ed.space.Rollback()
		h.orphans.Rollback()
		if after := h.memory(); h.inject && before != after {
			h.t.Fatalf("an attempt was not undone in memory:\n%s\n%s", before, after)
		}
		if !s.stalled {
			return err
		}
		if err != errStallHere {
			h.t.Fatalf("stalled at access %d, but the error is %v", at, err)
		}
		h.stalls++
	}
}

// freeGone frees the inodes of values that the last change has left, as the daemon does.
func (h *editTest) freeGone() {
	h.t.Helper()
	for _, ino := range slices.Clone(h.ed.space.Gone()) {
		for to := Lblk(1<<32 - 1); to > 0; {
			next := to
			err := h.change(ino, func(ed Editor, in *Inode) (err error) {
				if next, err = h.v.RemoveRuns(ed, in, 0, to); err == nil {
					next = 0
				} else if err == ErrContinue {
					err = nil
				}
				return err
			})
			if err != nil {
				h.t.Fatal(err)
			}
			to = next
		}
		h.freeOrphan(ino)
	}
	h.ed.space.Begin()
	h.ed.space.Close()
	h.ed.space.Release()
}

// must is do for what has to succeed.
func (h *editTest) must(change func(ed Editor) error) {
	h.t.Helper()
	if err := h.do(change); err != nil {
		h.t.Fatal(err)
	}
}

// newFile makes an inode; named ones are entered nowhere, which e2fsck would find, so that most
// tests give them a name with debugfs afterwards, or make files with mke2fs -d.
func (h *editTest) newInode(mode uint16, links uint32, set func(in *Inode)) Ino {
	h.t.Helper()
	var ino Ino
	h.must(func(ed Editor) error {
		var root Inode
		if err := h.v.ReadInode(ed, RootIno, &root); err != nil {
			return err
		}
		var err error
		if ino, err = h.v.AllocInode(ed, &root, mode&unix.S_IFMT == unix.S_IFDIR); err != nil {
			return err
		}
		in := Inode{Ino: ino, Mode: mode, Links: links, Atime: testNow, Mtime: testNow,
			Ctime: testNow, Crtime: testNow, Generation: ed.Random()}
		if h.v.HasIncompat(IncompatExtents) {
			in.Flags |= FlagExtents
		}
		EmptyMapping(&in)
		if set != nil {
			set(&in)
		}
		if err := h.v.InitInode(ed, &in); err != nil {
			return err
		}
		if links == 0 {
			if err := h.v.AddOrphan(ed, h.orphans, &in); err != nil {
				return err
			}
		}
		return h.v.WriteInode(ed, &in)
	})
	return ino
}

// change runs a change of one inode, and writes it.
func (h *editTest) change(ino Ino, change func(ed Editor, in *Inode) error) error {
	h.t.Helper()
	return h.do(func(ed Editor) error {
		var in Inode
		if err := h.v.ReadUnlinked(ed, ino, &in); err != nil {
			return err
		}
		if err := change(ed, &in); err != nil {
			return err
		}
		return h.v.WriteInode(ed, &in)
	})
}

// read decodes an inode as it is now.
func (h *editTest) read(ino Ino) *Inode {
	h.t.Helper()
	in := new(Inode)
	if err := h.v.ReadUnlinked(h.ed, ino, in); err != nil {
		h.t.Fatal(err)
	}
	return in
}

// write writes everything to a new image, the sums in the superblock included, and returns its
// path.
func (h *editTest) write() string {
	h.t.Helper()
	h.must(func(ed Editor) error { return h.v.UnmountSuper(ed, ed.Space(), 0) })
	path := h.path + fmt.Sprintf(".%d", rand.Int())
	copyImage(h.t, h.path, path)
	to, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		h.t.Fatal(err)
	}
	defer to.Close()
	if err := h.ed.WriteTo(to); err != nil {
		h.t.Fatal(err)
	}
	return path
}

// fsck runs e2fsck, which must find nothing, and returns what it says.
func fsck(t testing.TB, path string, flags string) string {
	t.Helper()
	out, err := exec.Command("e2fsck", flags, path).CombinedOutput()
	if err != nil {
		t.Fatalf("e2fsck %s %s: %v\n%s", flags, path, err, out)
	}
	return string(out)
}

// fsckRepair has e2fsck free what a crash has left.
func fsckRepair(t testing.TB, path string) string {
	t.Helper()
	out, err := exec.Command("e2fsck", "-fy", path).CombinedOutput()
	var exit *exec.ExitError
	if err != nil && !(errors.As(err, &exit) && exit.ExitCode() == 1) {
		t.Fatalf("e2fsck -fy %s: %v\n%s", path, err, out)
	}
	return string(out)
}

// debugfs runs commands, and returns their output.
func debugfs(t testing.TB, path string, commands ...string) string {
	t.Helper()
	testenv.NeedProgram(t, "debugfs")
	cmd := exec.Command("debugfs", "-w", "-f", "-", path)
	cmd.Stdin = strings.NewReader(strings.Join(commands, "\n") + "\n")
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("debugfs: %v\n%s", err, out)
	}
	return string(out)
}

// mountLoop mounts an image with the kernel for as long as use runs.
func mountLoop(t testing.TB, path, options string, use func(dir string)) {
	t.Helper()
	testenv.NeedRoot(t)
	dir := filepath.Join(t.TempDir(), "mnt")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	out, err := exec.Command("mount", "-t", "ext4", "-o", "loop,"+options, path, dir).
		CombinedOutput()
	if err != nil {
		t.Fatalf("mount %s: %v: %s", path, err, out)
	}
	defer func() {
		if out, err := exec.Command("umount", dir).CombinedOutput(); err != nil {
			t.Errorf("umount: %v: %s", err, out)
		}
	}()
	use(dir)
}

// sameResult compares the results of two runs of one scenario.
func sameResult(t testing.TB, a, b *editTest) {
	t.Helper()
	if !slices.Equal(slices.Sorted(maps.Keys(a.ed.dirty)), slices.Sorted(maps.Keys(b.ed.dirty))) {
		t.Errorf("other blocks were changed with stalls than without")
	}
	for block, data := range a.ed.dirty {
		if !bytes.Equal(data, b.ed.dirty[block]) {
			t.Errorf("block %d is different with stalls", block)
		}
	}
	if !reflect.DeepEqual(a.ed.Forgotten, b.ed.Forgotten) {
		t.Errorf("other blocks were forgotten: %v, %v", a.ed.Forgotten, b.ed.Forgotten)
	}
	if b.stalls == 0 {
		t.Error("nothing stalled")
	}
}
