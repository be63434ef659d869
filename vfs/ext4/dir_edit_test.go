package ext4

import (
	"bytes"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"asyncfsd/internal/testenv"
)

// dirBed is a directory that is edited, and a model of it. All its names are links to the two files
// of the test bed, so that e2fsck has little else to look at.
type dirBed struct {
	*bed
	dir   Ino
	model map[string]Ino
	names []string // those of the model
	// most is how many blocks a step has changed at most, without the directory's inode.
	most int
	// utf8 keeps to names that are text. Where text folds e2fsck has other hashes for the rest.
	utf8 bool
}

// dirChangedMax is what one AddEntry may change: what the daemon reserves for it.
const dirChangedMax = 30

var dirImages = []bedImage{
	{"ext4-4k", "-t ext4 -b 4096 -J size=4", 64},
	{"ext4-1k", "-t ext4 -b 1024 -J size=1", 40},
	{"ext4-64k", "-t ext4 -b 65536 -O ^has_journal", 256},
	{"ext4-nosum", "-t ext4 -b 1024 -O ^metadata_csum,^64bit,uninit_bg -J size=1", 40},
	{"ext3-1k", "-t ext3 -b 1024 -J size=1", 40},
	{"ext2-1k", "-t ext2 -b 1024 -O ^dir_index", 40},
	{"ext2-64k", "-t ext2 -b 65536 -O ^dir_index", 256},
	{"ext2-csum", "-t ext2 -b 1024 -O metadata_csum,large_file", 40},
	{"noindex-csum", "-t ext4 -b 1024 -O ^dir_index,^has_journal", 40},
	{"nofiletype", "-t ext4 -b 1024 -O ^filetype,^has_journal", 40},
	{"bigalloc", "-t ext4 -b 1024 -O bigalloc -C 16384 -J size=1", 128},
	{"casefold", "-t ext4 -b 1024 -O casefold -E encoding=utf8 -J size=1", 40},
	{"tea", "-t ext4 -b 1024 -J size=1", 40},
	{"legacy", "-t ext4 -b 1024 -J size=1", 40},
	{"large-dir", "-t ext4 -b 1024 -O large_dir,^has_journal", 100},
	{"inline", "-t ext4 -b 1024 -I 512 -O ^has_journal", 40},
}

func dirImageNamed(name string) bedImage {
	i := slices.IndexFunc(dirImages, func(img bedImage) bool { return img.name == name })
	return dirImages[i]
}

// newDirBed makes a filesystem with an empty directory.
func newDirBed(t testing.TB, img bedImage, seed int64) *dirBed {
	t.Helper()
	b := newBed(t, img, seed)
	if img.name == "tea" || img.name == "legacy" {
		cmd := "set_super_value def_hash_version " + img.name
		out, err := exec.Command("debugfs", "-w", "-R", cmd, b.path).CombinedOutput()
		if err != nil {
			t.Fatalf("debugfs: %s", out)
		}
		b = openBed(t, b.path, img.mib<<20, seed)
	}
	d := &dirBed{bed: b, model: map[string]Ino{}, utf8: img.name == "casefold"}
	var flags uint32
	if img.name == "casefold" {
		flags = FlagCasefold
	}
	d.dir = d.makeDir(RootIno, "dir", flags)
	return d
}

// edit runs fn on a directory as an operation does, see bed.step. At ErrContinue nothing may have
// been changed.
func (d *dirBed) edit(ino Ino, fn func(ed Editor, dir *Inode) error) error {
	d.t.Helper()
	if d.steps++; d.steps%16 == 0 {
		d.ed.space.Begin()
		d.ed.space.Close()
		d.ed.space.Release()
	}
	for stallAt := 1; ; {
		if !d.stalls {
			stallAt = 0
		}
		d.ed.Begin(stallAt)
		var in Inode
		err := d.v.ReadInode(d.ed, ino, &in)
		if err == nil {
			err = fn(d.ed, &in)
		}
		changed := len(d.ed.modified)
		if err == nil {
			err = d.v.WriteInode(d.ed, &in)
		}
		switch err {
		case nil:
			d.most = max(d.most, changed)
			return nil
		case errStalled:
			stallAt++
		case ErrContinue:
			if changed > 0 {
				d.t.Errorf("%d blocks are changed by a step that goes on", changed)
			}
			stallAt = 1
		default:
			d.ed.Rollback()
			return err
		}
		d.ed.Rollback()
	}
}

func (d *dirBed) mustEdit(ino Ino, fn func(ed Editor, dir *Inode) error) {
	d.t.Helper()
	if err := d.edit(ino, fn); err != nil {
		d.t.Fatal(err)
	}
}

// makeDir makes a directory.
func (d *dirBed) makeDir(parent Ino, name string, flags uint32) (ino Ino) {
	d.t.Helper()
	var cur AddCursor
	d.mustEdit(parent, func(ed Editor, dir *Inode) (err error) {
		if ino, err = d.v.AllocInode(ed, dir, true); err != nil {
			return err
		}
		in := Inode{Ino: ino, Mode: unix.S_IFDIR | 0o755, Links: 2, Flags: flags}
		if d.v.HasIncompat(IncompatExtents) {
			in.Flags |= FlagExtents
		}
		EmptyMapping(&in)
		if err := d.v.InitInode(ed, &in); err != nil {
			return err
		}
		if err := d.v.InitDir(ed, &in, parent); err != nil {
			return err
		}
		if err := d.v.WriteInode(ed, &in); err != nil {
			return err
		}
		dir.Links++
		return d.v.AddEntry(ed, dir, []byte(name), ino, FileType(in.Mode), &cur)
	})
	return ino
}

// add adds a name; an error is returned after it has been undone.
func (d *dirBed) add(name string, ino Ino) error {
	d.t.Helper()
	var cur AddCursor
	err := d.edit(d.dir, func(ed Editor, dir *Inode) error {
		return d.v.AddEntry(ed, dir, []byte(name), ino, fileTypeRegular, &cur)
	})
	if err == nil {
		d.model[name] = ino
		d.names = append(d.names, name)
	}
	return err
}

// remove removes the name with an index in d.names.
func (d *dirBed) remove(i int) {
	d.t.Helper()
	name := d.names[i]
	var cur LookupCursor
	d.mustEdit(d.dir, func(ed Editor, dir *Inode) error {
		ino, kind, err := d.v.RemoveEntry(ed, dir, []byte(name), &cur)
		if err == nil && (ino != d.model[name] ||
			d.v.HasIncompat(IncompatFiletype) && kind != fileTypeRegular) {
			d.t.Fatalf("%q stood for inode %d of type %d", name, ino, kind)
		}
		return err
	})
	delete(d.model, name)
	d.names[i] = d.names[len(d.names)-1]
	d.names = d.names[:len(d.names)-1]
}

// set lets the name with an index in d.names stand for the other file.
func (d *dirBed) set(i int) {
	d.t.Helper()
	name := d.names[i]
	ino := d.files[0].ino + d.files[1].ino - d.model[name]
	var cur LookupCursor
	d.mustEdit(d.dir, func(ed Editor, dir *Inode) error {
		return d.v.SetEntry(ed, dir, []byte(name), ino, fileTypeRegular, &cur)
	})
	d.model[name] = ino
}

// file chooses one of the two files.
func (d *dirBed) file() Ino { return d.files[d.rng.Intn(2)].ino }

// name makes up a name that the directory does not have.
func (d *dirBed) name() string {
	for {
		n := 1 + d.rng.Intn(20)
		if d.rng.Intn(4) == 0 {
			n = 1 + d.rng.Intn(nameMax)
		}
		name := d.anyName(n)
		if name == "." || name == ".." {
			continue
		}
		if err := d.lookup(name, new(Dirent)); err == unix.ENOENT {
			return name
		} else if err != nil {
			d.t.Fatal(err)
		}
	}
}

// anyName makes up a name of at most n bytes.
func (d *dirBed) anyName(n int) string {
	if d.rng.Intn(4) == 0 {
		const runes = "aAéÉßſẞİiŞşΣσςЖжﬃ한\u0345\u00ad"
		list, name := []rune(runes), ""
		for n -= 3; len(name) < n || name == ""; {
			name += string(list[d.rng.Intn(len(list))])
		}
		return name
	}
	name := make([]byte, max(n, 1))
	for i := range name {
		if name[i] = byte(1 + d.rng.Intn(255)); name[i] == '/' || d.utf8 && name[i] > 126 {
			name[i] = 'a'
		}
	}
	return string(name)
}

// lookup finds a name.
func (d *dirBed) lookup(name string, ent *Dirent) error {
	tr := &dirReader{t: d.t, v: d.v, src: d.ed.Edit}
	return tr.lookup(d.inode(d.dir), []byte(name), ent)
}

func (d *dirBed) inode(ino Ino) *Inode {
	d.t.Helper()
	in := new(Inode)
	if err := d.v.ReadInode(d.ed.Edit, ino, in); err != nil {
		d.t.Fatal(err)
	}
	return in
}

// churn changes the directory at random; of 20 steps grow add a name.
func (d *dirBed) churn(steps, grow int) {
	d.t.Helper()
	for range steps {
		switch k := d.rng.Intn(20); {
		case k < grow || len(d.names) == 0:
			if err := d.add(d.name(), d.file()); err != nil {
				d.t.Fatal(err)
			}
		case k == 19:
			d.set(d.rng.Intn(len(d.names)))
		default:
			d.remove(d.rng.Intn(len(d.names)))
		}
	}
}

// compare reads the directory, and wants it to be like the model.
func (d *dirBed) compare() {
	d.t.Helper()
	tr, in := &dirReader{t: d.t, v: d.v, src: d.ed.Edit}, d.inode(d.dir)
	list, err := tr.readDir(in)
	if err != nil {
		d.t.Fatal(err)
	}
	seen := map[string]Ino{}
	for i := range list {
		ent := &list[i]
		name := string(ent.Name)
		if _, ok := seen[name]; ok {
			d.t.Fatalf("%q is there twice", name)
		}
		seen[name] = ent.Ino
		var found Dirent
		if err := tr.lookup(in, ent.Name, &found); err != nil || found.Ino != ent.Ino {
			d.t.Fatalf("%q: %v, inode %d, not %d", name, err, found.Ino, ent.Ino)
		}
	}
	if seen["."] != d.dir || seen[".."] != RootIno {
		d.t.Fatalf("\".\" is %d and \"..\" %d", seen["."], seen[".."])
	}
	delete(seen, ".")
	delete(seen, "..")
	if !maps.Equal(seen, d.model) {
		d.t.Fatalf("%d names are there, not %d, or others", len(seen), len(d.model))
	}
	d.emptiness()
}

// emptiness wants DirEmpty to know whether the directory is empty.
func (d *dirBed) emptiness() {
	d.t.Helper()
	in := d.inode(d.dir)
	var cur LookupCursor
	err := d.v.DirEmpty(d.ed.Edit, in, &cur)
	for err == ErrContinue {
		err = d.v.DirEmpty(d.ed.Edit, in, &cur)
	}
	if len(d.model) == 0 && err != nil || len(d.model) > 0 && err != unix.ENOTEMPTY {
		d.t.Fatalf("DirEmpty says %v with %d names", err, len(d.model))
	}
}

// verify compares with the model, writes the image and has e2fsck check it.
func (d *dirBed) verify() {
	d.t.Helper()
	d.compare()
	links := map[Ino]uint32{}
	for _, ino := range d.model {
		links[ino]++
	}
	for _, f := range d.files {
		d.must(f, func(_ Editor, in *Inode) error {
			in.Links = 1 + links[f.ino]
			return nil
		})
	}
	d.check()
	if d.most > dirChangedMax {
		d.t.Errorf("a step changes %d blocks", d.most)
	}
}

// levels is how many levels of index blocks the directory has.
func (d *dirBed) levels() int {
	d.t.Helper()
	in := d.inode(d.dir)
	if !d.v.indexed(in) {
		return 0
	}
	var p dxPath
	if err := d.v.dxOpen(d.ed.Edit, in, &p); err != nil {
		d.t.Fatal(err)
	}
	return p.depth
}

// TestDirChurn adds and removes names at random on filesystems of all kinds.
func TestDirChurn(t *testing.T) {
	for _, img := range dirImages {
		if img.name == "inline" {
			continue
		}
		t.Run(img.name, func(t *testing.T) {
			d := newDirBed(t, img, 1)
			d.verify()
			steps := 1500
			if d.utf8 { // folding takes its time
				steps = 200
			}
			for _, grow := range []int{18, 14, 8, 2} {
				d.churn(steps, grow)
				d.verify()
			}
			for len(d.names) > 0 {
				d.remove(0)
			}
			d.verify()
			d.churn(50, 18)
			d.verify()
		})
	}
}

// TestDirStalls stalls each step at each of its accesses to blocks, and wants the same as without.
func TestDirStalls(t *testing.T) {
	for _, name := range []string{"ext4-1k", "ext3-1k", "ext2-1k", "bigalloc"} {
		t.Run(name, func(t *testing.T) {
			img := dirImageNamed(name)
			plain := newDirBed(t, img, 2)
			if err := plain.ed.WriteTo(plain.img); err != nil {
				t.Fatal(err)
			}
			var beds [2]*dirBed
			for i := range beds {
				beds[i] = &dirBed{bed: openBed(t, plain.path, img.mib<<20, 2), dir: plain.dir,
					model: map[string]Ino{}}
				beds[i].stalls = i == 1
				beds[i].churn(600, 18)
				beds[i].churn(200, 8)
				beds[i].compare()
			}
			have, want := beds[1].ed.space.freeClusters, beds[0].ed.space.freeClusters
			if have != want {
				t.Errorf("%d clusters are free, not %d", have, want)
			}
			sameChanges(t, beds[1].ed.Changed(), beds[0].ed.Changed())
		})
	}
}

// collisions returns names that share their hashes with others, neighbours with neighbours.
func collisions(h *hasher, n int) (names []string) {
	const tries = 1 << 21
	hashes := make([]uint64, tries)
	name := func(i uint64) []byte { return fmt.Appendf(nil, "%x", i*0x9e3779b97f4a7c15) }
	for i := range hashes {
		major, _ := h.name(name(uint64(i)))
		hashes[i] = uint64(major)<<32 | uint64(i)
	}
	slices.Sort(hashes)
	add := func(i int) { names = append(names, string(name(hashes[i]&0xffffffff))) }
	for i := 1; i < len(hashes) && len(names) < n; i++ {
		if hashes[i]>>32 != hashes[i-1]>>32 {
			continue
		}
		if i < 2 || hashes[i]>>32 != hashes[i-2]>>32 {
			add(i - 1)
		}
		add(i)
	}
	return names
}

// TestDirCollisions fills directories with names that have the same hash, which cross from leaf to
// leaf.
func TestDirCollisions(t *testing.T) {
	for _, name := range []string{"ext4-1k", "tea", "legacy"} {
		t.Run(name, func(t *testing.T) {
			d := newDirBed(t, dirImageNamed(name), 3)
			h, ok := d.v.hasher(d.v.DefHashVersion)
			if !ok {
				t.Fatal("no hash")
			}
			names := collisions(&h, 3000)
			if len(names) < 1500 {
				t.Fatalf("only %d names collide", len(names))
			}
			d.rng.Shuffle(len(names), func(i, j int) { names[i], names[j] = names[j], names[i] })
			for _, name := range names {
				if err := d.add(name, d.file()); err != nil {
					t.Fatal(err)
				}
			}
			if n := d.chains(); n < 10 {
				t.Errorf("only %d leaves go on with the hash of the one before", n)
			}
			d.verify()
			for len(d.names) > 100 {
				d.remove(d.rng.Intn(len(d.names)))
			}
			d.verify()
		})
	}
}

// chains counts the leaves that go on with the last hash of the one before.
func (d *dirBed) chains() (n int) {
	d.t.Helper()
	var p dxPath
	in := d.inode(d.dir)
	if err := d.v.dxOpen(d.ed.Edit, in, &p); err != nil {
		d.t.Fatal(err)
	}
	if err := d.v.dxDescend(d.ed.Edit, in, 0, &p); err != nil {
		d.t.Fatal(err)
	}
	for {
		hash, ok, err := d.v.dxNext(d.ed.Edit, in, &p)
		if err != nil {
			d.t.Fatal(err)
		}
		if !ok {
			return n
		}
		n += int(hash & 1)
	}
}

// TestDirDeep lets the index grow to as many levels as it may have, and wants ENOSPC then where it
// may have only two.
func TestDirDeep(t *testing.T) {
	for name, levels := range map[string]int{"ext4-1k": 2, "large-dir": 3} {
		t.Run(name, func(t *testing.T) {
			img := dirImageNamed(name)
			img.mib = 100
			d := newDirBed(t, img, 4)
			var err error
			for i := 0; err == nil && d.levels() < 3; i++ {
				name := fmt.Sprintf("%08d%s", i, strings.Repeat("x", nameMax-8))
				err = d.add(name, d.files[i&1].ino)
			}
			if have := d.levels(); have != levels {
				t.Fatalf("%d levels: %v", have, err)
			}
			if levels == 2 && err != unix.ENOSPC {
				t.Fatal(err)
			}
			t.Logf("%d names, %d blocks changed at most", len(d.names), d.most)
			d.verify()
			d.churn(300, 2)
			d.verify()
		})
	}
}

// TestDirFull adds names until nothing is free, and wants what failed to leave nothing behind.
func TestDirFull(t *testing.T) {
	for _, name := range []string{"ext4-1k", "ext2-csum"} {
		t.Run(name, func(t *testing.T) {
			img := dirImageNamed(name)
			img.mib = 1
			d := newDirBed(t, img, 5)
			failed := 0
			for i := 0; failed < 40; i++ {
				name := fmt.Sprintf("%08d%s", i, strings.Repeat("x", nameMax-8))
				switch err := d.add(name, d.file()); err {
				case nil:
				case unix.ENOSPC:
					failed++
				default:
					t.Fatal(err)
				}
			}
			d.verify()
			for len(d.names) > 0 {
				d.remove(len(d.names) - 1)
			}
			d.verify()
		})
	}
}

// TestDirMove moves directories from one parent to another, also such as have an index.
func TestDirMove(t *testing.T) {
	for _, name := range []string{"ext4-1k", "ext3-1k", "ext2-64k"} {
		t.Run(name, func(t *testing.T) {
			d := newDirBed(t, dirImageNamed(name), 6)
			d.churn(300, 18)
			other := d.makeDir(RootIno, "other", 0)
			var cur AddCursor
			d.mustEdit(other, func(ed Editor, dir *Inode) error {
				dir.Links++
				return d.v.AddEntry(ed, dir, []byte("moved"), d.dir, fileTypeDir, &cur)
			})
			d.mustEdit(RootIno, func(ed Editor, dir *Inode) error {
				dir.Links--
				_, _, err := d.v.RemoveEntry(ed, dir, []byte("dir"), new(LookupCursor))
				return err
			})
			d.mustEdit(d.dir, func(ed Editor, dir *Inode) error {
				return d.v.SetEntry(ed, dir, dots, other, fileTypeDir, new(LookupCursor))
			})
			var ent Dirent
			if err := d.lookup("..", &ent); err != nil || ent.Ino != other {
				t.Fatalf("%v, %d", err, ent.Ino)
			}
			for _, f := range d.files {
				n := uint32(0)
				for _, name := range d.names {
					var ent Dirent
					if err := d.lookup(name, &ent); err != nil {
						t.Fatal(err)
					}
					if ent.Ino == f.ino {
						n++
					}
				}
				d.must(f, func(_ Editor, in *Inode) error {
					in.Links = 1 + n
					return nil
				})
			}
			d.check()
		})
	}
}

// TestKernelReadsDir has the kernel read directories that were edited here, and change them.
func TestKernelReadsDir(t *testing.T) {
	testenv.NeedRoot(t)
	for _, name := range []string{"ext4-4k", "ext4-1k", "ext4-nosum", "ext3-1k", "ext2-1k",
		"legacy", "large-dir"} {
		t.Run(name, func(t *testing.T) {
			d := newDirBed(t, dirImageNamed(name), 7)
			d.churn(3000, 15)
			d.verify()
			d.mounted("rw", func(dir string) {
				dir = filepath.Join(dir, "dir")
				d.kernelReads(dir)
				for i, name := range d.names {
					if i%3 == 0 {
						if err := os.Remove(filepath.Join(dir, name)); err != nil {
							t.Fatal(err)
						}
						continue
					}
					to := filepath.Join(dir, fmt.Sprint("new name ", i))
					if err := os.Rename(filepath.Join(dir, name), to); err != nil {
						t.Fatal(err)
					}
				}
			})
			d.fsck()
		})
	}
}

// kernelReads compares what the kernel lists and finds with the model.
func (d *dirBed) kernelReads(dir string) {
	d.t.Helper()
	list, err := os.ReadDir(dir)
	if err != nil {
		d.t.Fatal(err)
	}
	if len(list) != len(d.model) {
		d.t.Fatalf("the kernel lists %d names, not %d", len(list), len(d.model))
	}
	for name, ino := range d.model {
		var st unix.Stat_t
		if err := unix.Lstat(filepath.Join(dir, name), &st); err != nil || st.Ino != uint64(ino) {
			d.t.Fatalf("%q: %v, inode %d, not %d", name, err, st.Ino, ino)
		}
	}
}

// TestDirRefused wants names to be refused that cannot be added.
func TestDirRefused(t *testing.T) {
	d := newDirBed(t, dirImageNamed("ext4-1k"), 8)
	if err := d.add(strings.Repeat("x", nameMax+1), d.file()); err != unix.ENAMETOOLONG {
		t.Error(err)
	}
	before := d.ed.Changed()
	for i := range before {
		before[i].Data = bytes.Clone(before[i].Data)
	}
	err := d.edit(d.dir, func(ed Editor, dir *Inode) error {
		dir.Flags |= FlagEncrypt
		return d.v.AddEntry(ed, dir, []byte("name"), d.file(), fileTypeRegular, new(AddCursor))
	})
	if err != unix.ENOKEY {
		t.Error(err)
	}
	err = d.edit(d.dir, func(ed Editor, dir *Inode) error {
		_, _, err := d.v.RemoveEntry(ed, dir, []byte("name"), new(LookupCursor))
		return err
	})
	if err != unix.ENOENT {
		t.Error(err)
	}
	sameChanges(t, d.ed.Changed(), before)
}

// newInlineBed makes a filesystem with an empty inline directory.
func newInlineBed(t testing.TB, seed int64) *dirBed {
	t.Helper()
	testenv.NeedProgram(t, "debugfs")
	img := dirImageNamed("inline")
	b := newBed(t, img, seed)
	// The files, which were made before, are not inline.
	for _, cmd := range []string{"feature inline_data", "mkdir dir"} {
		out, err := exec.Command("debugfs", "-w", "-R", cmd, b.path).CombinedOutput()
		if err != nil {
			t.Fatalf("debugfs: %s", out)
		}
	}
	d := &dirBed{bed: openBed(t, b.path, img.mib<<20, seed), model: map[string]Ino{}}
	var ent Dirent
	tr := &dirReader{t: t, v: d.v, src: d.ed.Edit}
	if err := tr.lookup(d.inode(RootIno), []byte("dir"), &ent); err != nil {
		t.Fatal(err)
	}
	if d.dir = ent.Ino; d.inode(d.dir).Flags&FlagInlineData == 0 {
		t.Skip("debugfs makes no inline directories")
	}
	return d
}

// TestDirInline changes inline directories until they have no room any more, and get a block.
func TestDirInline(t *testing.T) {
	d := newInlineBed(t, 9)
	for i := range 12 {
		d.stalls = i%4 == 0
		d.dir = d.makeDir(RootIno, fmt.Sprint("dir", i), 0)
		d.model, d.names = map[string]Ino{}, nil
		if dir := d.inode(d.dir); dir.Flags&FlagInlineData == 0 || dir.Size != inlineBlockSize {
			t.Fatalf("a new directory is not inline: flags %#x, %d bytes", dir.Flags, dir.Size)
		}
		d.changeInline(i)
		if i%3 == 0 {
			d.churn(100, 2)
		}
		d.moveInline()
		d.verify()
		if os.Getuid() == 0 {
			d.mounted("ro", func(mnt string) {
				d.kernelReads(filepath.Join(mnt, fmt.Sprint("dir", i)))
			})
		}
		for len(d.names) > 0 {
			d.remove(0)
		}
		d.verify()
	}
}

// changeInline changes the directory until it has a block, which must be for want of room.
func (d *dirBed) changeInline(step int) {
	d.t.Helper()
	grown := false
	dir := fmt.Sprint("dir", step)
	for d.inode(d.dir).Flags&FlagInlineData != 0 {
		if k := d.rng.Intn(8); k == 0 && len(d.names) > 0 {
			d.set(d.rng.Intn(len(d.names)))
		} else if k < 3 && len(d.names) > 0 {
			d.remove(d.rng.Intn(len(d.names)))
		} else {
			name := fmt.Sprint(d.steps, d.anyName(1+d.rng.Intn(6)))
			if err := d.add(name, d.file()); err != nil {
				d.t.Fatal(err)
			}
		}
		in := d.inode(d.dir)
		if in.Flags&FlagInlineData != 0 && in.Size > inlineBlockSize {
			if grown = true; int(in.Size)-inlineBlockSize < 300 {
				d.t.Fatalf("grown to %d bytes only", in.Size)
			}
		}
		if d.steps%(20+step) > 0 {
			continue
		}
		d.verify()
		if os.Getuid() == 0 {
			d.mounted("ro", func(mnt string) { d.kernelReads(filepath.Join(mnt, dir)) })
		}
	}
	if !grown {
		d.t.Error("the directory has not grown in its inode")
	}
	if dir := d.inode(d.dir); dir.Size != uint64(d.v.BlockSize) {
		d.t.Errorf("%d bytes in its block", dir.Size)
	}
}

// moveInline has ".." stand for another directory, and back.
func (d *dirBed) moveInline() {
	d.t.Helper()
	t, dots := d.t, []byte("..")
	d.mustEdit(d.dir, func(ed Editor, dir *Inode) error {
		return d.v.SetEntry(ed, dir, dots, d.files[0].ino, fileTypeDir, new(LookupCursor))
	})
	var ent Dirent
	if err := d.lookup("..", &ent); err != nil || ent.Ino != d.files[0].ino {
		t.Errorf("%v, %d", err, ent.Ino)
	}
	d.mustEdit(d.dir, func(ed Editor, dir *Inode) error {
		return d.v.SetEntry(ed, dir, dots, RootIno, fileTypeDir, new(LookupCursor))
	})
}

// root returns the first block of the directory, to be changed.
func (d *dirBed) root() []byte {
	d.t.Helper()
	b, err := d.v.dirBlock(d.ed.Edit, d.inode(d.dir), 0)
	if err != nil {
		d.t.Fatal(err)
	}
	buf, err := d.ed.Edit.Modify(b.where)
	if err != nil {
		d.t.Fatal(err)
	}
	return buf.Data
}

// TestDirBadIndex wants an index that cannot be used to be given up, unless there are checksums.
func TestDirBadIndex(t *testing.T) {
	for name, lost := range map[string]bool{"ext3-1k": false, "ext4-1k": true} {
		t.Run(name, func(t *testing.T) {
			d := newDirBed(t, dirImageNamed(name), 10)
			d.churn(400, 18)
			data := d.root()
			data[dxHashVersion] = 77
			d.v.sealIndex(d.inode(d.dir), data)
			err := d.add("one more", d.file())
			if lost {
				if _, ok := err.(*CorruptError); !ok {
					t.Fatal(err)
				}
				return
			}
			if err != nil || d.inode(d.dir).Flags&FlagIndex != 0 {
				t.Fatal(err, "or there is still an index")
			}
			d.churn(400, 12)
			d.verify()
		})
	}
}

// TestDirUnverified wants nothing to be changed in blocks whose checksum is wrong.
func TestDirUnverified(t *testing.T) {
	d := newDirBed(t, dirImageNamed("ext4-1k"), 11)
	d.churn(300, 18)
	corrupt := func(what string, fn func(ed Editor, dir *Inode) error) {
		t.Helper()
		if err, ok := d.edit(d.dir, fn).(*CorruptError); !ok {
			t.Errorf("%s: %v", what, err)
		}
		if n := len(d.ed.modified); n > 0 {
			t.Errorf("%s: %d blocks changed", what, n)
		}
	}
	data := d.root()
	limit := data[dxInfo+dxInfoSize+dxclLimit:][:2]
	was := le.Uint16(limit)
	for _, bad := range []uint16{0, was + 1, was - 1, 65535} {
		le.PutUint16(limit, bad)
		corrupt("..", func(ed Editor, dir *Inode) error {
			return d.v.SetEntry(ed, dir, dots, RootIno, fileTypeDir, new(LookupCursor))
		})
		corrupt("add", func(ed Editor, dir *Inode) error {
			return d.v.AddEntry(ed, dir, []byte("x"), RootIno, fileTypeDir, new(AddCursor))
		})
	}
	le.PutUint16(limit, was)
	var ent Dirent
	if err := d.lookup(d.names[0], &ent); err != nil {
		t.Fatal(err)
	}
	buf, err := d.ed.Edit.Modify(ent.where)
	if err != nil {
		t.Fatal(err)
	}
	buf.Data[len(buf.Data)-1]++
	corrupt("remove", func(ed Editor, dir *Inode) error {
		_, _, err := d.v.RemoveEntry(ed, dir, []byte(d.names[0]), new(LookupCursor))
		return err
	})
	buf.Data[len(buf.Data)-1]--
	d.remove(0)
	d.verify()
}

// TestDirAllocates wants no memory allocated by adding and removing names.
func TestDirAllocates(t *testing.T) {
	for _, name := range []string{"ext4-1k", "ext4-4k", "ext3-1k", "ext2-1k"} {
		d := newDirBed(t, dirImageNamed(name), 12)
		d.churn(200, 18)
		ed := &heldEdit{d.ed.Edit, map[Block]Buf{}}
		var in Inode
		entry := make([]byte, 100)
		i := byte(0)
		step := func() {
			ed.space.Begin()
			entry[0] = 'a' + i
			i++
			var add AddCursor
			err := d.v.ReadInode(ed, d.dir, &in)
			if err == nil {
				err = d.v.AddEntry(ed, &in, entry, d.dir, fileTypeDir, &add)
			}
			if i%3 == 0 {
				var cur LookupCursor
				if err == nil {
					err = d.v.SetEntry(ed, &in, entry, d.dir, fileTypeDir, &cur)
				}
				if err == nil {
					_, _, err = d.v.RemoveEntry(ed, &in, entry, &cur)
				}
			}
			if err == nil {
				err = d.v.WriteInode(ed, &in)
			}
			if err != nil {
				t.Fatal(err)
			}
		}
		step()
		// A new block of the directory is one in the memory of the Edit: a tenth is rounded down.
		if n := testing.AllocsPerRun(100, step); n != 0 {
			t.Errorf("%s: %v allocations", name, n)
		}
	}
}
