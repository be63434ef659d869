package vfs_test

import (
	"bytes"
	"encoding/binary"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"asyncfsd/internal/testenv"
	"asyncfsd/vfs/ext4"
)

// counts are what e2fsck repairs after any crash: the kernel's ext4, too, leaves the sums in the
// superblock to be computed from the groups. optional is what it does because it can, which quotas
// then have to follow. The others are mistakes of its own with orphans (1.47.0; each was seen with
// images of debugfs or the kernel as well):
//   - where it cuts one it does not count the blocks of the extent tree in quotas, and drops the
//     block of attributes, which it goes on to count in the inode;
//   - where it frees one it does not count a block of attributes that another inode shares in
//     quotas, and does not know of values of attributes in inodes of their own;
//   - with bigalloc it leaves blocks behind the new end of one that it cuts within a cluster, and
//     then takes the size for wrong, and what it had freed for used.
var (
	counts   = regexp.MustCompile(`(?m)^Free (blocks|inodes) count wrong \(.*\nFix\? yes\n`)
	optional = regexp.MustCompile(`(?m)^Inode .* could be (shorter|narrower)\.  Optimize\?.*\n`)
	quotas   = regexp.MustCompile(`\[QUOTA WARNING\].*\nUpdate quota info for quota type .\? yes\n`)
	bitmaps  = regexp.MustCompile(`(?m)^(Block bitmap differences: |Free blocks count wrong for ` +
		`group ).*\nFix\? yes\n`)
	cutting = regexp.MustCompile(`Truncating orphaned inode (\d+) `)
	values  = regexp.MustCompile(`Unattached inode (\d+)\nConnect to /lost\+found\? yes\n\n` +
		`Inode \d+ ref count is 2, should be 1\.  Fix\? yes\n`)
)

// jbd2Super is how the superblock of a journal begins: h_magic, and h_blocktype of version 2.
const jbd2Super = "\xc0\x3b\x39\x98\x00\x00\x00\x04"

// fsckImage holds an image against e2fsck.
// With -fy it recovers the journal and must find nothing else.
func fsckImage(t testing.TB, image []byte, how, when string) {
	t.Helper()
	path := filepath.Join(testenv.MemoryDir(t), "image")
	data, log := split(t, image)
	check(t, os.WriteFile(path, data, 0o600))
	defer os.Remove(path)
	args := []string{how, path}
	if log != nil {
		check(t, os.WriteFile(path+".log", log, 0o600))
		defer os.Remove(path + ".log")
		args = append(args, "-j", path+".log")
	}
	out, err := exec.Command("e2fsck", args...).CombinedOutput()
	code := 0
	if e, ok := err.(*exec.ExitError); ok {
		code = e.ExitCode()
	}
	text := counts.ReplaceAllString(string(out), "")
	recorded := how == "-fy" && recordsErrors(image)
	orphans := recorded || strings.Contains(text, "ing orphaned inode")
	if orphans || optional.MatchString(text) {
		text = quotas.ReplaceAllString(optional.ReplaceAllString(text, ""), "")
	}
	clusters := binary.LittleEndian.Uint32(image[ext4.SuperOffset+0x64:])&
		uint32(ext4.ROCompatBigalloc) != 0
	for _, m := range cutting.FindAllStringSubmatch(text, -1) {
		field := "i_blocks"
		if clusters {
			field, text = "i_(size|blocks)", bitmaps.ReplaceAllString(text, "")
		}
		wrong := regexp.MustCompile(`Inode ` + m[1] + `, ` + field + ` is .*\.  Fix\? yes\n`)
		text = wrong.ReplaceAllString(text, "")
	}
	if recorded || strings.Contains(text, "Clearing orphaned inode") {
		text = values.ReplaceAllString(text, "")
	}
	if recorded {
		// NB: where errors were recorded, e2fsck frees orphans with everything else it may find.
		text = strings.ReplaceAll(text, "Fix? yes\n", "")
	}
	if code > 1 || how == "-fn" && code != 0 || strings.Contains(text, "? yes") {
		t.Errorf("%s: e2fsck %s: %d\n%s", when, how, code, out)
	}
}

// recordsErrors says whether the superblock has a record of errors, or the journal that it was
// given up.
func recordsErrors(image []byte) bool {
	if image[ext4.SuperOffset+0x3a]&2 != 0 {
		return true
	}
	for at := 0; at < len(image); at += 1024 {
		if bytes.HasPrefix(image[at:], []byte(jbd2Super)) {
			return binary.BigEndian.Uint32(image[at+0x20:]) != 0 // s_errno
		}
	}
	return false
}
