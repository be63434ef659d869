package ext4

import (
	"encoding/binary"
	"fmt"
	"maps"
	"math/rand"
	"os"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"asyncfsd/internal/manifest"
)

var orphanImages = map[string][]string{
	"ext4":      {"-t", "ext4", "-b", "1024", "-N", "4000"},
	"4k":        {"-t", "ext4", "-b", "4096", "-N", "4000"},
	"ext3":      {"-t", "ext3", "-b", "1024", "-I", "128", "-N", "4000"},
	"file":      {"-t", "ext4", "-O", "orphan_file", "-b", "1024", "-N", "12000"},
	"file-4k":   {"-t", "ext4", "-O", "orphan_file", "-b", "4096", "-N", "4000"},
	"file-nc":   {"-t", "ext4", "-O", "orphan_file,^metadata_csum", "-b", "4096", "-N", "4000"},
	"nojournal": {"-t", "ext4", "-O", "^has_journal", "-b", "1024", "-N", "4000"},
}

// freeOrphan takes an inode out of the orphans and frees it.
func (h *editTest) freeOrphan(ino Ino) {
	h.t.Helper()
	h.must(func(ed Editor) error {
		var in Inode
		if err := h.v.ReadUnlinked(ed, ino, &in); err != nil {
			return err
		}
		if err := h.v.RemoveOrphan(ed, h.orphans, &in); err != nil {
			return err
		}
		in.Dtime = uint32(testNow.Sec)
		if err := h.v.WriteInode(ed, &in); err != nil {
			return err
		}
		return h.v.FreeInode(ed, &in)
	})
}

// churn adds and removes orphans, and leaves some.
func (h *editTest) churn(rng *rand.Rand, steps, most int) []Ino {
	var have []Ino
	for range steps {
		if len(have) == 0 || len(have) < most && rng.Intn(5) > 1 {
			have = append(have, h.newInode(unix.S_IFREG|0o600, 0, nil))
			continue
		}
		i := rng.Intn(len(have))
		h.freeOrphan(have[i])
		have = slices.Delete(have, i, i+1)
	}
	return have
}

func TestOrphans(t *testing.T) {
	for _, name := range slices.Sorted(maps.Keys(orphanImages)) {
		t.Run(name, func(t *testing.T) {
			h := newEditTest(t, "12M", orphanImages[name]...)
			h.must(func(ed Editor) error { return h.v.MountSuper(ed, name != "nojournal", "/") })
			have := h.churn(rand.New(rand.NewSource(1)), 300, 40)
			checkOrphans(t, h, have, name == "nojournal")
			twin := h.twin()
			twin.must(func(ed Editor) error {
				return twin.v.MountSuper(ed, name != "nojournal", "/")
			})
			twin.churn(rand.New(rand.NewSource(1)), 300, 40)
			sameResult(t, h, twin)
			if name != "nojournal" {
				othersFree(t, h, have)
			}
			for _, ino := range have {
				h.freeOrphan(ino)
			}
			fsck(t, h.write(), "-fn")
		})
	}
}

// checkOrphans compares what is known with what a mount finds.
func checkOrphans(t *testing.T, h *editTest, have []Ino, memory bool) {
	t.Helper()
	want := slices.Sorted(slices.Values(have))
	if list := slices.Sorted(slices.Values(h.orphans.List())); !slices.Equal(list, want) {
		t.Errorf("orphans are %v, want %v", list, want)
	}
	o, err := h.v.LoadOrphans(h.ed)
	list := o.List()
	if memory {
		want = nil
	}
	if slices.Sort(list); err != nil || !slices.Equal(list, want) {
		t.Errorf("the disk says %v, %v; want %v", list, err, want)
	}
	if o.count != len(want) || !memory && o.newest != h.orphans.newest {
		t.Errorf("loaded: %d, newest %d; want %d, %d", o.count, o.newest, len(want),
			h.orphans.newest)
	}
	if !slices.Equal(o.blocks, h.orphans.blocks) {
		t.Errorf("blocks of the file: %v, %v", o.blocks, h.orphans.blocks)
	}
	for _, ino := range have {
		if !h.orphans.Has(ino) {
			t.Errorf("inode %d is not known", ino)
		}
	}
}

// othersFree has e2fsck and the kernel free the orphans.
func othersFree(t *testing.T, h *editTest, have []Ino) {
	path := h.write()
	out := fsckRepair(t, path)
	for _, ino := range have {
		if !strings.Contains(out, fmt.Sprintf("inode %d (", ino)) {
			t.Errorf("e2fsck does not free inode %d:\n%s", ino, out)
		}
	}
	fsck(t, path, "-fn")
	path = h.write()
	mountLoop(t, path, "rw", func(string) {})
	fsck(t, path, "-fn")
}

// TestOrphanFileFull fills the file: what comes then goes to the list.
func TestOrphanFileFull(t *testing.T) {
	h := newEditTest(t, "12M", orphanImages["file"]...)
	room := uint32(0)
	for _, b := range h.orphans.blocks {
		room += b.free
	}
	if room == 0 || room > 10000 {
		t.Fatalf("room for %d", room)
	}
	var have []Ino
	for range room + 5 {
		have = append(have, h.newInode(unix.S_IFREG|0o600, 0, nil))
	}
	if h.orphans.newest != have[len(have)-1] {
		t.Errorf("newest is %d", h.orphans.newest)
	}
	checkOrphans(t, h, have, false)
	h.freeOrphan(have[0])
	have[0] = h.newInode(unix.S_IFREG|0o600, 0, nil)
	if h.orphans.find(have[0]).place < 0 {
		t.Error("a free entry is not used again")
	}
	for _, i := range rand.New(rand.NewSource(1)).Perm(len(have)) {
		h.freeOrphan(have[i])
	}
	checkOrphans(t, h, nil, false)
	fsck(t, h.write(), "-fn")
}

// TestBrokenOrphans loads damaged lists and files: what is sound is found, nothing loops.
func TestBrokenOrphans(t *testing.T) {
	h := newEditTest(t, "12M", orphanImages["ext3"]...)
	have := h.churn(rand.New(rand.NewSource(1)), 100, 40)
	list := h.orphans.List()
	third := list[2]
	for name, next := range map[string]uint32{"loop": uint32(list[1]), "itself": uint32(third),
		"reserved": 8, "outside": 1 << 30, "free": uint32(h.v.InodesCount)} {
		image := h.twin()
		image.inject = false
		image.ed = h.ed
		saved := h.read(third).Dtime
		image.must(func(ed Editor) error {
			return h.v.relinkOrphan(ed, third, Ino(next))
		})
		o, err := h.v.LoadOrphans(h.ed)
		found := o.List()
		if _, ok := err.(*CorruptError); !ok || !slices.Equal(found, list[:3]) {
			t.Errorf("%s: %v, %v", name, found, err)
		}
		if o.count != 3 || o.find(third).next != 0 {
			t.Errorf("%s: the list does not end at the damage", name)
		}
		h.must(func(ed Editor) error { return h.v.relinkOrphan(ed, third, Ino(saved)) })
	}
	if o, err := h.v.LoadOrphans(h.ed); err != nil || !slices.Equal(o.List(), list) {
		t.Errorf("%v, %v of %d", o.List(), err, len(have))
	}
}

func TestBrokenOrphanFile(t *testing.T) {
	h := newEditTest(t, "12M", orphanImages["file"]...)
	h.churn(rand.New(rand.NewSource(1)), 20, 40)
	b := h.orphans.blocks[0].where
	data := h.ed.dirty[b]
	binary.LittleEndian.PutUint32(data[4*200:], 3) // a reserved inode
	h.v.sealOrphanBlock(h.orphans, 0, data)
	count := h.orphans.count
	o, err := h.v.LoadOrphans(h.ed)
	if _, ok := err.(*CorruptError); !ok || o.count != count || len(o.blocks) == 0 {
		t.Errorf("%v, %v, %d blocks", o.List(), err, len(o.blocks))
	}
	data[0] ^= 1
	o, err = h.v.LoadOrphans(h.ed)
	if _, ok := err.(*CorruptError); !ok || o.count != 0 || len(o.blocks) != 0 {
		t.Errorf("%v, %v, %d blocks", o.List(), err, len(o.blocks))
	}
}

// TestOrphanImages loads what the kernel has left.
func TestOrphanImages(t *testing.T) {
	images, err := manifest.Images(imagesDir)
	if err != nil {
		t.Fatal(err)
	}
	for _, img := range images {
		if img.MountError != "" || img.Corrupt != "" || img.Offset != 0 || img.Source == "" ||
			!img.Dirty && !strings.Contains(img.Name, "orphan") {
			continue
		}
		v, f := openImage(t, img)
		o, err := v.LoadOrphans(NewReaderSource(f, v.BlockBits))
		list := o.List()
		if err != nil {
			t.Errorf("%s: %v", img.Name, err)
		}
		if len(list) > 0 {
			t.Logf("%s: %v, %d blocks of a file", img.Name, list, len(o.blocks))
		}
		if v.HasCompat(CompatOrphanFile) && len(o.blocks) == 0 {
			t.Errorf("%s: no blocks of the file", img.Name)
		}
		f.Close()
		os.Remove(f.Name())
	}
}

// TestOrphanTable compares the table with a map, through growth and rollback.
func TestOrphanTable(t *testing.T) {
	rng := rand.New(rand.NewSource(1))
	o := newOrphans()
	model := map[Ino]orphan{}
	for range 300 {
		undo := maps.Clone(model)
		o.Begin()
		for range rng.Intn(40) {
			ino := Ino(rng.Intn(6000) + 1)
			o.note(ino, -1)
			if o.Has(ino) {
				o.drop(ino)
				delete(model, ino)
			} else {
				model[ino] = orphan{ino: ino, place: int32(rng.Intn(100))}
				o.insert(model[ino])
			}
		}
		if rng.Intn(3) == 0 {
			o.Rollback()
			model = undo
		}
		if o.count != len(model) {
			t.Fatalf("%d entries, want %d", o.count, len(model))
		}
		for ino, e := range model {
			if have := o.find(ino); have == nil || *have != e {
				t.Fatalf("inode %d: %v, want %v", ino, have, e)
			}
		}
	}
}
