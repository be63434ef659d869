package fusefs

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestParseMountInfo(t *testing.T) {
	const text = `22 1 254:0 / / rw,relatime shared:1 - ext4 /dev/vda rw
36 22 0:31 / /mnt/a\040b rw,nosuid - fuse.asyncfsd /srv/x\134y\011z rw,user_id=1000,group_id=0
37 22 0:32 / /mnt/twice ro master:1 propagate_from:2 - tmpfs none rw
38 37 0:33 /sub /mnt/twice ro - fuse src ro,user_id=0
39 22 0:34 / /mnt/short ro shared:1 -
`
	for path, want := range map[string]*MountInfo{
		"/": {"254:0", "/", "ext4", "/dev/vda", "rw"},
		"/mnt/a b": {"0:31", "/mnt/a b", "fuse.asyncfsd", "/srv/x\\y\tz",
			"rw,user_id=1000,group_id=0"},
		// The last one covers the others.
		"/mnt/twice": {"0:33", "/mnt/twice", "fuse", "src", "ro,user_id=0"},
		"/mnt/short": nil,
		"/mnt":       nil,
	} {
		have, err := scanMounts(strings.NewReader(text), func(m *MountInfo) bool {
			return m.Mountpoint == path
		})
		if err != nil || (have == nil) != (want == nil) || have != nil && *have != *want {
			t.Errorf("%s: %+v, %v, want %+v", path, have, err, want)
		}
	}
}

func TestOwner(t *testing.T) {
	for super, want := range map[string]int64{
		"rw,user_id=1000,group_id=0": 1000, "ro,user_id=0": 0, "rw": -1, "user_id=x": -1, "": -1,
	} {
		uid, ok := (&MountInfo{Super: super}).Owner()
		if ok != (want >= 0) || ok && int64(uid) != want {
			t.Errorf("%q: %d %v, want %d", super, uid, ok, want)
		}
	}
}

func TestUnescapeOctal(t *testing.T) {
	for in, want := range map[string]string{
		``: "", `a`: "a", `\040`: " ", `\134040`: `\040`, `a\012b\011`: "a\nb\t", `\04`: `\04`,
		`\999`: `\999`, `\`: `\`, `\303\244`: "ä",
	} {
		if have := unescapeOctal(in); have != want {
			t.Errorf("%s: %q, want %q", in, have, want)
		}
	}
}

func FuzzParseMountInfo(f *testing.F) {
	f.Add(`36 22 0:31 / /mnt/a\040b rw,nosuid - fuse.asyncfsd /srv/x rw,user_id=1000`)
	f.Add(`39 22 0:34 / /mnt/short ro shared:1 -`)
	f.Fuzz(func(t *testing.T, line string) {
		if m := parseMountInfo(line); m != nil {
			m.Owner()
			if m.Device == "" || m.Mountpoint == "" || m.Type == "" {
				t.Errorf("%q: %+v", line, m)
			}
		}
	})
}

func TestMountpointPath(t *testing.T) {
	dir, err := filepath.EvalSymlinks(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	path := func(name string) string { return filepath.Join(dir, name) }
	if err := os.MkdirAll(path("real/mnt"), 0o755); err != nil {
		t.Fatal(err)
	}
	for name, target := range map[string]string{
		"direct": "real/mnt", "absolute": path("real/mnt"), "parent": "real", "chain": "direct",
		"loop": "loop", "dangling": "nowhere",
	} {
		if err := os.Symlink(target, path(name)); err != nil {
			t.Fatal(err)
		}
	}
	for name, want := range map[string]string{
		"real/mnt": "real/mnt", "real/mnt/": "real/mnt", "direct": "real/mnt",
		"absolute": "real/mnt", "parent/mnt": "real/mnt", "chain": "real/mnt",
		"parent/../chain": "real/mnt", "dangling": "nowhere", "absent": "absent",
	} {
		have, err := mountpointPath(dir + "/" + name)
		if err != nil || have != path(want) {
			t.Errorf("%s: %s, %v, want %s", name, have, err, path(want))
		}
	}
	if have, err := mountpointPath(path("loop")); err == nil {
		t.Errorf("loop: %s", have)
	}
	if have, err := mountpointPath("/"); err != nil || have != "/" {
		t.Errorf("/: %s, %v", have, err)
	}
}
