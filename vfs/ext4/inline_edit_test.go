package ext4

import (
	"bytes"
	"fmt"
	"maps"
	"math/rand"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"golang.org/x/sys/unix"
)

var inlineImages = map[string][]string{
	"256":   {"-t", "ext4", "-b", "4096", "-O", "inline_data"},
	"512":   {"-t", "ext4", "-b", "1024", "-I", "512", "-O", "inline_data"},
	"1024":  {"-t", "ext4", "-b", "1024", "-I", "1024", "-O", "inline_data,^metadata_csum"},
	"4096":  {"-t", "ext4", "-b", "4096", "-I", "4096", "-N", "128", "-O", "inline_data"},
	"block": {"-t", "ext4", "-b", "1024", "-O", "inline_data,^extents,^64bit,^has_journal"},
}

// content reads the data of a file, wherever they are.
func (h *editTest) content(ino Ino) []byte {
	h.t.Helper()
	in := h.read(ino)
	data := make([]byte, in.Size)
	if in.Flags&FlagInlineData != 0 {
		n, err := h.v.InlineData(h.ed, in, data, 0)
		if err != nil || n != len(data) {
			h.t.Fatalf("inode %d: %d bytes of %d, %v", ino, n, len(data), err)
		}
		return data
	}
	for lblk := Lblk(0); uint64(lblk)<<h.v.BlockBits < in.Size; lblk++ {
		var run Run
		if err := h.v.Map(h.ed, in, lblk, 1, &run); err != nil {
			h.t.Fatal(err)
		}
		if run.State != RunMapped {
			continue
		}
		buf, err := h.ed.Block(run.Phys)
		if err != nil {
			h.t.Fatal(err)
		}
		copy(data[uint64(lblk)<<h.v.BlockBits:], buf.Data)
	}
	return data
}

// evict moves the data of a file to a block.
func (h *editTest) evict(ino Ino) {
	h.t.Helper()
	err := h.change(ino, func(ed Editor, in *Inode) error {
		old := make([]byte, h.v.BlockSize)
		n, err := h.v.EvictInline(ed, in, old)
		if err != nil || n == 0 {
			return err
		}
		b, got, err := h.v.AllocBlocks(ed, Alloc{Want: 1})
		if err != nil {
			return err
		}
		buf, err := ed.Fresh(b)
		if err != nil {
			return err
		}
		copy(buf.Data, old)
		in.Sectors += uint64(got) << (h.v.BlockBits - 9)
		return h.v.InsertRun(ed, in, 0, b, 1, false)
	})
	if err != nil {
		h.t.Fatal(err)
	}
}

// inlineSteps changes files at random as long as their data are inline, and keeps models of them.
func (h *editTest) inlineSteps(rng *rand.Rand, files []Ino, n int) (models [][]byte, full int) {
	h.t.Helper()
	for _, ino := range files {
		models = append(models, h.content(ino))
	}
	for range n {
		i := rng.Intn(len(files))
		in := h.read(files[i])
		if in.Flags&FlagInlineData == 0 && in.Size > 0 {
			continue
		}
		most, err := h.v.InlineMax(in)
		if err != nil {
			h.t.Fatal(err)
		}
		model := models[i]
		switch rng.Intn(6) {
		case 0:
			size := rng.Intn(most + 8)
			if err = h.change(files[i], func(ed Editor, in *Inode) error {
				if in.Flags&FlagInlineData == 0 {
					return ErrInlineFull
				}
				return h.v.TruncateInline(ed, in, uint64(size))
			}); err == nil {
				model = append(model, make([]byte, max(0, size-len(model)))...)[:size]
			}
		case 1:
			s := xattrStep{file: i, name: fmt.Sprint("user.", rng.Intn(2)),
				remove: rng.Intn(2) == 0, value: make([]byte, rng.Intn(60))}
			if err := s.apply(h, files); err != nil && err != unix.ENODATA && err != unix.ENOSPC {
				h.t.Fatal(err)
			}
		default:
			off := rng.Intn(min(most, len(model)+20) + 1)
			data := make([]byte, rng.Intn(min(most, 100)+8))
			rng.Read(data)
			if err = h.change(files[i], func(ed Editor, in *Inode) error {
				return h.v.WriteInline(ed, in, data, uint64(off))
			}); err == nil {
				end := max(len(model), off+len(data))
				model = append(model, make([]byte, end-len(model))...)
				copy(model[off:], data)
			}
		}
		models[i] = model
		if err == ErrInlineFull && h.read(files[i]).Flags&FlagInlineData != 0 {
			if full++; full%30 == 0 {
				h.evict(files[i])
			}
		} else if err != nil && err != ErrInlineFull {
			h.t.Fatal(err)
		}
		if have := h.content(files[i]); !bytes.Equal(have, model) {
			h.t.Fatalf("file %d is\n%x, want\n%x", i, have, model)
		}
	}
	return models, full
}

// TestInlineEdit changes small files, with and without stalls; e2fsck and the kernel look at them.
func TestInlineEdit(t *testing.T) {
	for _, name := range slices.Sorted(maps.Keys(inlineImages)) {
		t.Run(name, func(t *testing.T) {
			h, files := newXattrTest(t, inlineImages[name]...)
			models, full := h.inlineSteps(rand.New(rand.NewSource(1)), files, 1500)
			if full == 0 {
				t.Error("no file was ever full")
			}
			twin := h.twin()
			twin.inlineSteps(rand.New(rand.NewSource(1)), files, 1500)
			sameResult(t, h, twin)
			path := h.write()
			fsck(t, path, "-fn")
			mountLoop(t, path, "rw", func(dir string) {
				for i, want := range models {
					file := filepath.Join(dir, xattrFile(i))
					have, err := os.ReadFile(file)
					if err != nil || !bytes.Equal(have, want) {
						t.Errorf("the kernel reads %x, %v; want %x", have, err, want)
					}
					if err := os.WriteFile(file, append(want, want...), 0o600); err != nil {
						t.Error(err)
					}
				}
			})
			fsck(t, path, "-fn")
		})
	}
}

// TestInlineRefused covers what cannot be inline.
func TestInlineRefused(t *testing.T) {
	h, files := newXattrTest(t, inlineImages["256"]...)
	write := func(in *Inode, n int) error {
		return h.v.WriteInline(h.ed, in, make([]byte, n), 0)
	}
	h.evict(files[3])
	if err := write(h.read(files[3]), 1); err != ErrInlineFull {
		t.Errorf("a file with a block: %v", err)
	}
	empty := h.read(h.newInode(unix.S_IFREG|0o600, 0, nil))
	for _, flag := range []uint32{FlagEncrypt, FlagEAInode} {
		in := *empty
		in.Flags |= flag
		if err := write(&in, 1); err != ErrInlineFull {
			t.Errorf("flag %#x: %v", flag, err)
		}
	}
	if err := write(empty, 61+68); err != ErrInlineFull || empty.Flags&FlagInlineData != 0 {
		t.Errorf("129 bytes: %v", err)
	}
	if err := write(empty, 60+68); err != nil || empty.Flags&FlagInlineData == 0 {
		t.Errorf("128 bytes: %v", err)
	}
	if err := h.v.WriteInline(h.ed, empty, []byte{1}, 1<<64-1); err != ErrInlineFull {
		t.Errorf("beyond everything: %v", err)
	}
	other, _ := newXattrTest(t, "-t", "ext4", "-b", "4096")
	if n, err := other.v.InlineMax(other.read(other.lookup(xattrFile(0)))); n != 0 || err != nil {
		t.Errorf("without the feature there is room for %d, %v", n, err)
	}
}
