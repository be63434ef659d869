package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"asyncfsd/internal/testenv"
)

// refusal is a command line that must fail: with one line that says why, and an exit code.
type refusal struct {
	name string
	args []string // behind them comes the mountpoint
	code int
	says string
}

// refusals are the ways in which a mount goes wrong that users meet.
func refusals(t *testing.T) []refusal {
	t.Helper()
	named := func(name string) string { path, _ := image(t, name); return path }
	good, dir := named("ext4-1k"), t.TempDir()
	empty, small := filepath.Join(dir, "empty"), filepath.Join(dir, "small")
	for path, size := range map[string]int{empty: 0, small: 1500} {
		if err := os.WriteFile(path, make([]byte, size), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return []refusal{
		{"truncated", []string{named("bad-truncated")}, 32, "the device only"},
		{"zeroed", []string{named("bad-zeroed")}, 32, "the superblock is all zeros"},
		{"feature", []string{named("bad-compression")}, 32, "features: compression"},
		{"unknown feature", []string{named("bad-incompat")}, 32, "features: FEATURE_I31"},
		{"garbage", []string{named("bad-garbage")}, 32, "no magic number at byte 1080"},
		{"checksum", []string{named("bad-super-csum")}, 32, "wrong checksum"},
		{"empty", []string{empty}, 32, "is empty"},
		{"small", []string{small}, 32, "too few for a superblock"},
		{"missing", []string{filepath.Join(dir, "none")}, 32, "no such file or directory"},
		{"directory", []string{dir}, 32, "is a directory"},
		{"character device", []string{"/dev/null"}, 32, "is a character device"},
		{"option", []string{"-o", "ro,foo=bar", good}, 1, `option "foo=bar": not known`},
		{"value", []string{"-o", "cache_size=x", good}, 1, `option "cache_size=x": not a size`},
		{"flag", []string{"--foo", good}, 1, "unknown flag: --foo"},
		{"offset", []string{"-o", "offset=1g", good}, 32, "beyond the end"},
		{"partition", []string{"-o", "partition=3", good}, 32, "no partition table"},
		{"arguments", []string{good, good}, 1, "has 3 arguments"},
	}
}

// TestRefusals wants every mount that cannot be to say why in a line of its own, in the
// background as in the foreground.
func TestRefusals(t *testing.T) {
	testenv.NeedRoot(t)
	mnt := mountpoint(t)
	lines := map[string]string{}
	for _, c := range refusals(t) {
		t.Run(c.name, func(t *testing.T) {
			r := asyncfsd(t, append(c.args, mnt)...)
			wantRefusal(t, r, c.code, c.says)
			if other := lines[r.stderr]; other != "" {
				t.Errorf("%s says the same", other)
			}
			lines[r.stderr] = c.name
			front := asyncfsd(t, append([]string{"-f"}, append(c.args, mnt)...)...)
			if front.code != c.code || !strings.HasSuffix("\n"+front.stderr, "\n"+r.stderr) {
				t.Errorf("in the foreground: exit code %d: %s", front.code, front.stderr)
			}
		})
	}
}

func wantRefusal(t *testing.T, r result, code int, says string) {
	t.Helper()
	if r.code != code || r.stdout != "" || strings.Count(r.stderr, "\n") != 1 ||
		!strings.HasPrefix(r.stderr, "asyncfsd: ") || !strings.Contains(r.stderr, says) {
		t.Errorf("exit code %d, want %d and %q: %s%s", r.code, code, says, r.stdout, r.stderr)
	}
}

// TestRefusedBusy has sources and mountpoints that are in use or not there.
func TestRefusedBusy(t *testing.T) {
	testenv.NeedRoot(t)
	path, _ := image(t, "ext4-1k")
	device := testenv.AttachLoop(t, path, 512)
	first, second := mountpoint(t), mountpoint(t)
	mount(t, "-o", "rw", device, first)
	wantRefusal(t, asyncfsd(t, device, second), 32, "in use by another process")
	wantRefusal(t, asyncfsd(t, "-o", "ro", device, second), 32, "in use by another process")
	other, _ := image(t, "ext4-4k")
	wantRefusal(t, asyncfsd(t, other, second+"/none"), 32, "no such file or directory")
	wantRefusal(t, asyncfsd(t, other, other), 32, "not a directory")
}
