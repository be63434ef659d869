package ext4

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"asyncfsd/internal/testenv"
)

// superFields returns what dumpe2fs says of the superblock, by field.
func superFields(t *testing.T, path string) map[string]string {
	t.Helper()
	testenv.NeedProgram(t, "dumpe2fs")
	cmd := exec.Command("dumpe2fs", "-h", path)
	cmd.Env = append(os.Environ(), "TZ=UTC", "LC_ALL=C")
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("dumpe2fs: %v", err)
	}
	fields := map[string]string{}
	for _, m := range regexp.MustCompile(`(?m)^([^:\n]+):\s+(.*)$`).FindAllStringSubmatch(
		string(out), -1) {
		fields[m[1]] = m[2]
	}
	return fields
}

// writeNow writes the image as it is now, mounted or not.
func (h *editTest) writeNow() string {
	h.t.Helper()
	path := filepath.Join(h.t.TempDir(), "now.img")
	copyImage(h.t, h.path, path)
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		h.t.Fatal(err)
	}
	defer f.Close()
	if err := h.ed.WriteTo(f); err != nil {
		h.t.Fatal(err)
	}
	return path
}

func TestMountSuper(t *testing.T) {
	for name, args := range map[string][]string{
		"journal":   {"-t", "ext4", "-b", "4096", "-O", "orphan_file"},
		"1k":        {"-t", "ext4", "-b", "1024"},
		"nojournal": {"-t", "ext4", "-b", "2048", "-O", "^has_journal"},
		"ext2":      {"-t", "ext2", "-b", "1024"},
		"old":       {"-t", "ext2", "-b", "1024", "-r", "0", "-O", "none"},
	} {
		t.Run(name, func(t *testing.T) { testMountSuper(t, args) })
	}
}

func testMountSuper(t *testing.T, args []string) {
	h := newEditTest(t, "12M", args...)
	journal := h.v.HasCompat(CompatHasJournal)
	was := superFields(t, h.path)
	h.inject = true
	h.must(func(ed Editor) error { return h.v.MountSuper(ed, journal, "/mnt/some where") })
	mounted := superFields(t, h.writeNow())
	want := map[string]string{"Mount count": "1", "Last mounted on": "/mnt/some where",
		"Last mount time": "Tue Nov 14 22:13:20 2023", "Filesystem state": "clean"}
	if !journal {
		want["Filesystem state"] = "not clean"
	}
	expectFields(t, mounted, want)
	for feature, on := range map[string]bool{"needs_recovery": journal,
		"orphan_present": journal && h.v.HasCompat(CompatOrphanFile)} {
		if strings.Contains(mounted["Filesystem features"], feature) != on {
			t.Errorf("%s must be %v: %s", feature, on, mounted["Filesystem features"])
		}
	}
	if v := h.reopened(); v.NeedsRecovery() != journal || v.Clean() != journal {
		t.Errorf("needs recovery: %v, clean: %v", v.NeedsRecovery(), v.Clean())
	}
	h.ed.now.Sec++
	h.must(func(ed Editor) error { return h.v.UnmountSuper(ed, ed.Space(), 12345) })
	path := h.writeNow()
	after := superFields(t, path)
	want["Filesystem state"] = "clean"
	want["Last write time"] = "Tue Nov 14 22:13:21 2023"
	for _, same := range []string{"Filesystem features", "Free blocks", "Free inodes"} {
		want[same] = was[same]
	}
	expectFields(t, after, want)
	kbytes := h.reopened().Super[sKbytesWritten:]
	if n := le.Uint64(kbytes) - le.Uint64(h.v.Super[sKbytesWritten:]); n != 12345 {
		t.Errorf("kbytes written: %d more", n)
	}
	fsck(t, path, "-fn")
	mountLoop(t, path, "rw", func(string) {})
	if count := superFields(t, path)["Mount count"]; count != "2" {
		t.Errorf("the kernel counts %s mounts", count)
	}
	fsck(t, path, "-fn")
}

// reopened opens the filesystem as it is now.
func (h *editTest) reopened() *Volume {
	h.t.Helper()
	f, err := os.Open(h.writeNow())
	if err != nil {
		h.t.Fatal(err)
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil {
		h.t.Fatal(err)
	}
	v, err := Open(f, st.Size(), OpenOptions{})
	if err != nil {
		h.t.Fatal(err)
	}
	return v
}

func expectFields(t *testing.T, have, want map[string]string) {
	t.Helper()
	for field, value := range want {
		if have[field] != value {
			t.Errorf("%s: %q, want %q", field, have[field], value)
		}
	}
}

// TestErrorSuper reads the records with dumpe2fs, and has e2fsck clear them.
func TestErrorSuper(t *testing.T) {
	h := newEditTest(t, "12M", "-t", "ext4", "-b", "1024")
	h.inject = true
	first := ErrorRecord{When: h.ed.now, Ino: 33, Block: 222, Where: "lookup",
		Err: fmt.Errorf("wrapped: %w", Corrupt("inode checksum", 222, 128, 33))}
	second := ErrorRecord{When: h.ed.now, Where: strings.Repeat("long", 20), Err: unix.ENOSPC}
	second.When.Sec++
	h.must(func(ed Editor) error { return h.v.ErrorSuper(ed, 3, first, first) })
	h.must(func(ed Editor) error { return h.v.ErrorSuper(ed, 1, second, second) })
	path := h.writeNow()
	expectFields(t, superFields(t, path), map[string]string{
		"Filesystem state": "clean with errors", "FS Error count": "4",
		"First error time": "Tue Nov 14 22:13:20 2023", "First error function": "lookup",
		"First error inode #": "33", "First error block #": "222",
		"First error err": "EFSBADCRC", "Last error time": "Tue Nov 14 22:13:21 2023",
		"Last error function": strings.Repeat("long", 8)[:31],
		"Last error err":      "ENOSPC"})
	if v := h.reopened(); !v.HasErrors() {
		t.Error("no mark of errors")
	}
	h.must(func(ed Editor) error { return h.v.UnmountSuper(ed, ed.Space(), 0) })
	if v := h.reopened(); !v.HasErrors() || !v.Clean() {
		t.Error("the mark of errors is gone after unmounting")
	}
	fsckRepair(t, path)
	if state := superFields(t, path)["Filesystem state"]; state != "clean" {
		t.Errorf("after e2fsck: %s", state)
	}
}

func TestErrcode(t *testing.T) {
	for err, want := range map[error]byte{Corrupt("bitmap checksum", 0, 0, 0): 4,
		Corrupt("something", 0, 0, 0): 5, unix.EIO: 2, unix.ESRCH: 1, unix.EFAULT: 17} {
		if have := errcode(err); have != want {
			t.Errorf("%v: %d, want %d", err, have, want)
		}
	}
}

// TestWantFeature sets a feature in a superblock of either revision.
func TestWantFeature(t *testing.T) {
	for name, args := range map[string][]string{
		"old":    {"-t", "ext2", "-b", "1024", "-r", "0", "-O", "none"},
		"no ext": {"-t", "ext2", "-b", "4096", "-O", "^ext_attr"},
		"has it": {"-t", "ext4", "-b", "4096"},
	} {
		h := newEditTest(t, "12M", args...)
		h.inject = true
		had := h.v.HasCompat(CompatExtAttr)
		for range 2 {
			h.must(func(ed Editor) error { return h.v.wantFeature(ed, CompatExtAttr) })
		}
		if had && len(h.ed.dirty) > 0 {
			t.Errorf("%s: the superblock was changed", name)
		}
		if v := h.reopened(); !v.HasCompat(CompatExtAttr) || v.InodeSize != h.v.InodeSize {
			t.Errorf("%s: no such feature: %v", name, v.Features())
		}
		fsck(t, h.write(), "-fn")
	}
}
