package ext4

import (
	"fmt"
	"math/rand"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"
)

// quotaImages are filesystems with quota files whose blocks lie differently.
var quotaImages = map[string][]string{
	"1k":     {"-t", "ext4", "-b", "1024", "-O", "quota,project"},
	"4k":     {"-t", "ext4", "-b", "4096", "-O", "quota,project"},
	"64k":    {"-t", "ext4", "-b", "65536", "-O", "quota,^has_journal"},
	"maps":   {"-t", "ext3", "-b", "1024", "-O", "quota"},
	"128":    {"-t", "ext4", "-b", "1024", "-I", "128", "-O", "quota"},
	"values": {"-t", "ext4", "-b", "1024", "-I", "128", "-O", "quota,ea_inode"},
}

const quotaFiles = 150

// newQuotaTest makes a filesystem with files of different sizes.
func newQuotaTest(t *testing.T, args ...string) (*editTest, []Ino) {
	t.Helper()
	tree := t.TempDir()
	for i := range quotaFiles {
		file := filepath.Join(tree, quotaName(i))
		if err := os.WriteFile(file, make([]byte, i*100), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	h := newEditTest(t, "64M", append(args, "-d", tree)...)
	fsckRepair(t, h.path) // mke2fs does not count what it copies
	h = openEditTest(t, h.path)
	return h, quotaInodes(h)
}

func quotaInodes(h *editTest) (list []Ino) {
	for i := range quotaFiles {
		list = append(list, h.lookup(quotaName(i)))
	}
	return list
}

func quotaName(i int) string { return fmt.Sprint("file", i) }

// quotaID makes up an id: few that share all indexes, many that share none.
func quotaID(rng *rand.Rand) uint32 {
	switch rng.Intn(4) {
	case 0:
		return uint32(rng.Intn(40))
	case 1:
		return uint32(1 + rng.Intn(3)<<(8*rng.Intn(4)))
	case 2:
		return ^uint32(1) - uint32(rng.Intn(300))
	}
	return rng.Uint32() &^ 1
}

// chown gives a file a random owner.
func (h *editTest) chown(rng *rand.Rand, ino Ino) {
	h.t.Helper()
	uid, gid, project := quotaID(rng), quotaID(rng), quotaID(rng)
	if err := h.change(ino, func(_ Editor, in *Inode) error {
		in.UID, in.GID = uid, gid
		if h.v.HasROCompat(ROCompatProject) {
			in.ProjID = project
		}
		return nil
	}); err != nil {
		h.t.Fatal(err)
	}
}

// TestQuotaOwners gives files other owners. Entries of those who have nothing any more are taken
// out of the files as the kernel does it, which leaves free blocks, and leaves with room: e2fsck
// must count the same all the time.
func TestQuotaOwners(t *testing.T) {
	for name, args := range quotaImages {
		t.Run(name, func(t *testing.T) {
			rng := rand.New(rand.NewSource(5))
			h, files := newQuotaTest(t, args...)
			if name == "values" {
				h.quotaValues(files)
				files = files[:28]
			}
			for round := range 4 {
				if round > 0 {
					h.deleteUnused()
					h.ed.space.UseQuotas(must(h.v.LoadQuotas(h.ed)))
				}
				for i, ino := range files {
					if h.inject = i%10 == round; rng.Intn(3) > 0 {
						h.chown(rng, ino)
					}
				}
				fsck(t, h.write(), "-fn")
			}
			f := h.quotaTree(QuotaUser)
			if n := f.in.Size >> quotaBlockBits; n > 400 {
				t.Errorf("%d blocks: what became free is not used again", n)
			}
		})
	}
}

// TestQuotaKernel has the kernel change owners in between.
func TestQuotaKernel(t *testing.T) {
	rng := rand.New(rand.NewSource(6))
	h, files := newQuotaTest(t, quotaImages["1k"]...)
	for _, ino := range files {
		h.chown(rng, ino)
	}
	path := h.write()
	probe := filepath.Join(t.TempDir(), "mnt")
	out, err := exec.Command("mount", "-m", "-o", "loop", path, probe).CombinedOutput()
	if err != nil {
		t.Skipf("the kernel does not know quota inodes: %s", out)
	}
	if err := unix.Unmount(probe, 0); err != nil {
		t.Fatal(err)
	}
	mountLoop(t, path, "rw,usrquota,grpquota,prjquota", func(dir string) {
		for i := range quotaFiles {
			uid := int(quotaID(rng))
			if i%4 > 0 {
				uid = 0
			}
			if err := unix.Chown(filepath.Join(dir, quotaName(i)), uid, 0); err != nil {
				t.Fatal(err)
			}
		}
	})
	fsck(t, path, "-fn")
	h = openEditTest(t, path)
	for _, ino := range quotaInodes(h) {
		h.chown(rng, ino)
	}
	fsck(t, h.write(), "-fn")
}

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

// quotaTree opens a quota file.
func (h *editTest) quotaTree(t QuotaType) (f quotaTree) {
	h.t.Helper()
	if err := h.v.openQuota(h.ed, &f, t, h.v.quotaInode(t)); err != nil {
		h.t.Fatal(err)
	}
	return f
}

// deleteUnused takes out the entries of those who have nothing.
func (h *editTest) deleteUnused() {
	for t := range quotaTypes {
		if h.v.quotaInode(t) != 0 {
			f := h.quotaTree(t)
			h.deleteBelow(&f, quotaRoot, 0, 0)
		}
	}
}

// deleteBelow takes out what is unused below an index for ids that begin with high, and says
// whether that is empty then.
func (h *editTest) deleteBelow(f *quotaTree, n, high uint32, depth int) (empty bool) {
	p := must(f.edit(h.ed, n))
	for i := range quotaBlockSize / 4 {
		below := le32(p.data, 4*i)
		if below == 0 {
			continue
		}
		gone, id := false, high<<8|uint32(i)
		if depth == quotaDepth-1 {
			gone = h.deleteEntry(f, below, id)
		} else if gone = h.deleteBelow(f, below, id, depth+1); gone {
			h.freeQuotaBlock(f, below)
		}
		if gone {
			le.PutUint32(p.data[4*i:], 0)
		}
	}
	return allZero(p.data) && n != quotaRoot
}

func (h *editTest) freeQuotaBlock(f *quotaTree, n uint32) {
	header, p := must(f.edit(h.ed, 0)), must(f.edit(h.ed, n))
	clear(p.data)
	le.PutUint32(p.data[qdNextFree:], le32(header.data, qhFreeBlk))
	le.PutUint32(header.data[qhFreeBlk:], n)
}

// deleteEntry takes the entry of an id out of its leaf, if it is unused.
func (h *editTest) deleteEntry(f *quotaTree, leaf, id uint32) (gone bool) {
	header, p := must(f.edit(h.ed, 0)), must(f.edit(h.ed, leaf))
	for off := qdSize; off+qeSize <= quotaBlockSize; off += qeSize {
		e := p.data[off : off+qeSize]
		if allZero(e) || le32(e, qeID) != id || id == 0 || !allZero(e[qeCurInodes:qeBHardLimit]) ||
			!allZero(e[qeCurSpace:qeBTime]) {
			continue
		}
		clear(e)
		gone = true
		count := le16(p.data, qdEntries) - 1
		le.PutUint16(p.data[qdEntries:], count)
		first := le32(header.data, qhFreeEntry)
		switch count {
		case 0:
			h.unlist(f, &header, &p)
			h.freeQuotaBlock(f, leaf)
		case quotaEntriesMax - 1:
			if first != 0 {
				le.PutUint32(must(f.edit(h.ed, first)).data[qdPrevFree:], leaf)
			}
			le.PutUint32(p.data[qdNextFree:], first)
			le.PutUint32(header.data[qhFreeEntry:], leaf)
		}
	}
	return gone
}

// unlist takes a leaf off the list of those with room, wherever it stands there.
func (h *editTest) unlist(f *quotaTree, header, p *quotaPart) {
	next, prev := le32(p.data, qdNextFree), le32(p.data, qdPrevFree)
	if next != 0 {
		le.PutUint32(must(f.edit(h.ed, next)).data[qdPrevFree:], prev)
	}
	if prev != 0 {
		le.PutUint32(must(f.edit(h.ed, prev)).data[qdNextFree:], next)
	} else {
		le.PutUint32(header.data[qhFreeEntry:], next)
	}
}

// quotaValues gives files attributes with values in inodes of their own, and takes some away.
func (h *editTest) quotaValues(files []Ino) {
	h.t.Helper()
	for i, ino := range files[:30] {
		for k := range 3 {
			s := xattrStep{name: fmt.Sprint("user.", k), value: make([]byte, 1000+i*100)}
			if err := s.apply(h, []Ino{ino}); err != nil {
				h.t.Fatal(err)
			}
			if (i+k)%3 == 0 {
				s.remove = true
				if err := s.apply(h, []Ino{ino}); err != nil {
					h.t.Fatal(err)
				}
			}
		}
		h.chown(rand.New(rand.NewSource(int64(i))), ino)
	}
	for i := 28; i < quotaFiles; i++ {
		h.delete(quotaName(i))
	}
	fsck(h.t, h.write(), "-fn")
}

// limits sets those of an id: inodes hard and soft, blocks of 1 KiB hard and soft.
func (h *editTest) limits(t QuotaType, id uint32, ihard, isoft, bhard, bsoft uint64) {
	h.t.Helper()
	h.must(func(ed Editor) error {
		e, err := h.quotaEntry(ed, t, id)
		if err != nil {
			return err
		}
		le.PutUint64(e[qeIHardLimit:], ihard)
		le.PutUint64(e[qeISoftLimit:], isoft)
		le.PutUint64(e[qeBHardLimit:], bhard)
		le.PutUint64(e[qeBSoftLimit:], bsoft)
		return nil
	})
}

// quotaEntry returns the entry of an id, which is made if there is none.
func (h *editTest) quotaEntry(ed Editor, t QuotaType, id uint32) ([]byte, error) {
	hint, err := h.v.findQuota(ed, t, id)
	if err == nil && hint.block == 0 {
		hint, err = h.v.addQuota(ed, t, id)
	}
	if err != nil {
		return nil, err
	}
	buf, err := ed.Modify(hint.block)
	if err != nil {
		return nil, err
	}
	return buf.Data[hint.off : hint.off+qeSize], nil
}

// quotaGraceTest is what mke2fs gives for grace, in seconds, and quotaUser an id.
const quotaGraceTest, quotaUser = 7 * 24 * 3600, 1000

type quotaStep struct {
	what          string
	bytes, inodes int64
	exempt        bool
	later         int64 // seconds since the step before
	want          error
	room          uint64 // bytes that are left afterwards
}

var quotaLimits = []struct {
	what                       string
	ihard, isoft, bhard, bsoft uint64
	steps                      []quotaStep
}{
	{what: "none", steps: []quotaStep{
		{what: "much", bytes: 1 << 40, inodes: 1 << 20, room: 1<<63 - 1 - 1<<40},
	}},
	{what: "hard", ihard: 2, bhard: 10, steps: []quotaStep{
		{what: "within", bytes: 10000, inodes: 1, room: 240},
		{what: "blocks", bytes: 241, want: unix.EDQUOT, room: 240},
		{what: "to the limit", bytes: 240, inodes: 1, room: 0},
		{what: "inodes", inodes: 1, want: unix.EDQUOT, room: 0},
		{what: "root", bytes: 1000, inodes: 3, exempt: true, room: 0},
		{what: "more above it", bytes: 1, want: unix.EDQUOT, room: 0},
		{what: "less", bytes: -2000, inodes: -3, room: 1000},
		{what: "below it again", bytes: 1000, room: 0},
	}},
	{what: "soft blocks", bhard: 100, bsoft: 10, steps: []quotaStep{
		{what: "within", bytes: 10240, inodes: 1, room: 92160},
		{what: "above", bytes: 1024, room: 91136},
		{what: "in time", bytes: 1024, later: quotaGraceTest - 1, room: 90112},
		{what: "too late", bytes: 1, later: 1, want: unix.EDQUOT, room: 0},
		{what: "too late for root", bytes: 10, exempt: true, room: 0},
		{what: "less", bytes: -2058, room: 92160},
		{what: "time starts again", bytes: 1024, room: 91136},
		{what: "in time again", bytes: 90000, later: quotaGraceTest - 1, room: 1136},
		{what: "hard", bytes: 1137, want: unix.EDQUOT, room: 1136},
	}},
	{what: "soft inodes", isoft: 1, steps: []quotaStep{
		{what: "within", inodes: 1, room: 1<<63 - 1},
		{what: "above", inodes: 1, room: 1<<63 - 1},
		{what: "too late", inodes: 1, later: quotaGraceTest, want: unix.EDQUOT, room: 1<<63 - 1},
		{what: "blocks are not limited", bytes: 1 << 20, room: 1<<63 - 1 - 1<<20},
		{what: "less", inodes: -1, room: 1<<63 - 1 - 1<<20},
		{what: "again", inodes: 1, room: 1<<63 - 1 - 1<<20},
	}},
}

// TestQuotaLimits goes to the limits of blocks and inodes, and beyond them where that is allowed.
func TestQuotaLimits(t *testing.T) {
	for _, c := range quotaLimits {
		h := newEditTest(t, "8M", "-t", "ext4", "-b", "1024", "-O", "quota,project")
		h.inject = true
		q := h.ed.space.Quotas()
		q.Limit(QuotaGroup)
		h.limits(QuotaGroup, quotaUser, c.ihard, c.isoft, c.bhard, c.bsoft)
		h.limits(QuotaUser, quotaUser, 1, 1, 1, 1) // is not enforced
		for _, s := range c.steps {
			h.ed.now.Sec += s.later
			q.Exempt(s.exempt)
			err := h.do(func(ed Editor) error {
				if err := h.v.charge(ed, QuotaUser, quotaUser, s.bytes, s.inodes); err != nil {
					return err
				}
				return h.v.charge(ed, QuotaGroup, quotaUser, s.bytes, s.inodes)
			})
			if err != s.want {
				t.Errorf("%s, %s: %v, want %v", c.what, s.what, err, s.want)
			}
			q.Exempt(false)
			in := Inode{UID: quotaUser, GID: quotaUser}
			if room := must(h.v.QuotaRoom(h.ed, &in)); room != s.room {
				t.Errorf("%s, %s: room for %d bytes, want %d", c.what, s.what, room, s.room)
			}
			q.Exempt(true)
			if room := must(h.v.QuotaRoom(h.ed, &in)); room != 1<<63-1 {
				t.Errorf("%s, %s: root has room for %d bytes", c.what, s.what, room)
			}
		}
	}
}

// TestQuotaUnused has id 0, whose entry is all zeros when it has nothing.
func TestQuotaUnused(t *testing.T) {
	h := newEditTest(t, "8M", "-t", "ext4", "-b", "1024", "-O", "quota,project")
	e := must(h.quotaEntry(h.ed, QuotaUser, 0))
	bytes, inodes := int64(le.Uint64(e[qeCurSpace:])), int64(le.Uint64(e[qeCurInodes:]))
	if bytes == 0 || inodes == 0 {
		t.Fatal("root has nothing")
	}
	for range 2 {
		h.must(func(ed Editor) error { return h.v.charge(ed, QuotaUser, 0, -bytes, -inodes) })
		h.ed.space.UseQuotas(must(h.v.LoadQuotas(h.ed)))
		if hint := must(h.v.findQuota(h.ed, QuotaUser, 0)); hint.block == 0 {
			t.Error("the entry is gone")
		}
		h.must(func(ed Editor) error { return h.v.charge(ed, QuotaUser, 0, bytes, inodes) })
	}
	fsck(t, h.write(), "-fn")
}

// TestQuotaDamage changes bytes of the quota files: what cannot be right is found, and nothing
// panics.
func TestQuotaDamage(t *testing.T) {
	h, files := newQuotaTest(t, quotaImages["1k"]...)
	rng := rand.New(rand.NewSource(7))
	for _, ino := range files {
		h.chown(rng, ino)
	}
	f := h.quotaTree(QuotaUser)
	damage := func(n uint32, off int, value uint32) error {
		p := must(f.edit(h.ed, n))
		was := le32(p.data, off)
		le.PutUint32(p.data[off:], value)
		q, err := h.v.LoadQuotas(h.ed)
		if err == nil {
			h.ed.space.UseQuotas(q)
			for _, ino := range files[:20] {
				uid := quotaID(rng)
				err = h.do(func(ed Editor) error {
					in := *h.read(ino)
					in.UID = uid
					return h.v.WriteInode(ed, &in)
				})
				if err != nil {
					break
				}
			}
		}
		le.PutUint32(must(f.edit(h.ed, n)).data[off:], was)
		return err
	}
	for _, c := range []struct {
		off   int
		value uint32
	}{{qhMagic, 0}, {qhVersion, 0}, {qhBlocks, 0}, {qhBlocks, 1 << 30}, {qhFreeBlk, 1},
		{qhFreeBlk, 1 << 20}, {qhFreeEntry, 1}, {qhFreeEntry, 1 << 20}} {
		if _, ok := damage(0, c.off, c.value).(*CorruptError); !ok {
			t.Errorf("header with %#x at %#x is taken", c.value, c.off)
		}
	}
	for i := range 300 {
		n := uint32(rng.Intn(int(f.in.Size >> quotaBlockBits)))
		err := damage(n, 4*rng.Intn(quotaBlockSize/4), []uint32{1, uint32(n), 3, 1 << 31}[i%4])
		if _, ok := err.(*CorruptError); err != nil && !ok {
			t.Errorf("damage of block %d: %v", n, err)
		}
	}
}
