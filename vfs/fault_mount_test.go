package vfs_test

import (
	"bytes"
	"fmt"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"asyncfsd/blockdev"
	"asyncfsd/vfs"
	"asyncfsd/vfs/ext4"
)

// unfinished is a filesystem that crashed with much to do for the next mount: a journal to be
// replayed, files without a name to be freed, and one that was being cut. kept is what fsync
// promised.
func unfinished(t *testing.T) (image []byte, kept map[string][]byte) {
	b := must[*memBed](t)(openMem(formatted(t, 4<<20, "-t", "ext4", "-b", "1024", "-N", "256", "-J",
		"size=1"), 7, false))
	defer b.close()
	b.fs.AddFront(&holdingFront{nullFront{fs: b.fs}})
	kept = map[string][]byte{}
	for i := range 6 {
		name := fmt.Sprint("file", i)
		kept[name] = bytes.Repeat([]byte(name), 700*i+1)
		file := must[vfs.Attr](t)(b.Mknod(ext4.RootIno, name, unix.S_IFREG|0o644, 0))
		must[int](t)(b.WriteAt(file.Ino, kept[name], 0))
		check(t, b.Fsync(file.Ino))
	}
	for i := range 3 {
		name := fmt.Sprint("gone", i)
		file := must[vfs.Attr](t)(b.Mknod(ext4.RootIno, name, unix.S_IFREG|0o644, 0))
		for off := range int64(60) {
			must[int](t)(b.WriteAt(file.Ino, []byte("x"), off*2048))
		}
		check(t, b.Setxattr(file.Ino, "user.large", bytes.Repeat([]byte("v"), 600), 0))
		check(t, b.Unlink(ext4.RootIno, name))
	}
	check(t, b.Fsync(0))
	return b.record.Image(b.record.Now(), blockdev.KeepNone), kept
}

// missing says what of the promised files is not there, or not what it was.
func missing(b *memBed, kept map[string][]byte) string {
	for name, want := range kept {
		a, err := b.Lookup(ext4.RootIno, name)
		if err != nil {
			return fmt.Sprintf("%s: %v", name, err)
		}
		have := make([]byte, len(want))
		if n, err := b.Client.ReadAt(a.Ino, have, 0); int(a.Size) != len(want) || n != len(want) ||
			!bytes.Equal(have, want) {
			return fmt.Sprintf("%s: size %d, read %d: %v", name, a.Size, n, err)
		}
	}
	return ""
}

// TestFaultsMount fails the n-th request of a mount that has a journal to replay and orphans to
// free, n = 0, 1, 2 …: the mount works, or there is one line of an error, and the next one finds
// everything that was promised.
func TestFaultsMount(t *testing.T) {
	image, kept := unfinished(t)
	step := 1
	if testing.Short() {
		step = 7
	}
	for name, rule := range faultKinds {
		t.Run(name, func(t *testing.T) {
			mounted := 0
			for n := 0; ; n += step {
				rule.After = n
				worked, injected := faultMount(t, slices.Clone(image), rule, kept)
				if worked {
					mounted++
				}
				if !injected || t.Failed() {
					t.Logf("%d requests, %d mounts", n, mounted)
					return
				}
			}
		})
	}
}

// faultMount mounts and unmounts with one rule, and checks what it leaves.
func faultMount(t *testing.T, data []byte, rule blockdev.FaultRule, kept map[string][]byte) (
	worked, injected bool) {
	t.Helper()
	when := fmt.Sprintf("request %d failed", rule.After)
	b, err := memSetting{seed: 5, faults: []blockdev.FaultRule{rule}}.open(data)
	if worked = err == nil; worked {
		injected = b.fault.Injected() > 0
		b.fault.SetRules()
		if why := missing(b, kept); why != "" {
			t.Errorf("%s, mounted: %s", when, why)
		}
		if err := b.fs.Unmount(); err == nil {
			fsckImage(t, b.data, "-fn", when+", unmounted")
		}
		b.close()
	} else if injected = true; strings.Contains(err.Error(), "\n") || len(err.Error()) < 10 {
		t.Errorf("%s: mounting: %v", when, err)
	}
	faultKept(t, data, when, kept)
	return worked, injected
}

// faultKept mounts what there is, and wants it to be clean then, and what was promised to be there.
func faultKept(t *testing.T, data []byte, when string, kept map[string][]byte) {
	t.Helper()
	_, err := ext4.Open(bytes.NewReader(data), int64(len(data)), ext4.OpenOptions{})
	if err != nil && strings.Contains(err.Error(), "superblock: wrong checksum") {
		return // NB: a superblock may be torn, as the kernel's may, see wholeSuper
	}
	fsckImage(t, slices.Clone(data), "-fy", when)
	var b *memBed
	if b, err = openMem(data, 0, false); err != nil {
		t.Fatalf("%s, mounting again: %v", when, err)
	}
	if why := missing(b, kept); why != "" {
		t.Errorf("%s, mounted again: %s", when, why)
	}
	b.done(t, when+", unmounted again")
}

// TestFaultsUnmount fails the n-th request of an unmount that has much to do.
func TestFaultsUnmount(t *testing.T) {
	image, kept := unfinished(t)
	for name, rule := range faultKinds {
		t.Run(name, func(t *testing.T) {
			for n := 0; ; n++ {
				rule.After = n
				if !faultUnmount(t, slices.Clone(image), rule, kept) || t.Failed() {
					t.Logf("%d requests", n)
					return
				}
			}
		})
	}
}

func faultUnmount(t *testing.T, data []byte, rule blockdev.FaultRule, kept map[string][]byte) (
	injected bool) {
	t.Helper()
	when := fmt.Sprintf("request %d failed", rule.After)
	b := must[*memBed](t)(openMem(data, 5, false))
	b.fs.AddFront(&holdingFront{nullFront{fs: b.fs}})
	for _, name := range []string{"file0", "file1"} {
		a := must[vfs.Attr](t)(b.Lookup(ext4.RootIno, name))
		must[int](t)(b.WriteAt(a.Ino, bytes.Repeat([]byte("x"), 50_000), 100_000))
		check(t, b.Unlink(ext4.RootIno, name))
	}
	must[vfs.Attr](t)(b.Mkdir(ext4.RootIno, "dir", 0o755))
	still := map[string][]byte{}
	for name, text := range kept {
		if name != "file0" && name != "file1" {
			still[name] = text
		}
	}
	b.fault.SetRules(rule)
	err := b.fs.Unmount()
	injected = b.fault.Injected() > 0
	b.close()
	switch {
	case err == nil: // NB: an orphan that could not be freed is left to the next mount
		fsckImage(t, slices.Clone(data), "-fy", when)
	case !injected || strings.Contains(err.Error(), "\n"):
		t.Errorf("%s: unmounting: %v", when, err)
	}
	faultKept(t, data, when, still)
	return injected
}
