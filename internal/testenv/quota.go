package testenv

import (
	"encoding/binary"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"testing"
)

// Inodes of quota files.
const (
	QuotaUsers  = 3
	QuotaGroups = 4
)

// Limits are those of an id in a quota file: inodes, and blocks of 1 KiB; 0 is none.
type Limits struct{ InodesHard, InodesSoft, BlocksHard, BlocksSoft uint64 }

// SetLimits sets limits in an image that is not mounted, of an id that has an entry in the quota
// file: quotactl(2), which setquota uses, does not go through FUSE.
func SetLimits(t testing.TB, path string, file int, id uint32, l Limits) {
	t.Helper()
	NeedProgram(t, "debugfs", "dumpe2fs")
	data := debugfs(t, path, fmt.Sprintf("cat <%d>", file))
	super, err := exec.Command("dumpe2fs", "-h", path).Output()
	if err != nil {
		t.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(super), "Block size:")
	size, err := strconv.Atoi(strings.Fields(rest)[0])
	if err != nil {
		t.Fatal(err)
	}
	const header, leaf, entry, block = 16, 1024, 72, 1024
	for at := leaf; at+block <= len(data); at += block {
		for off := at + header; off+entry <= at+block; off += entry {
			e := []byte(data[off : off+entry])
			// An index block cannot look like that: it has no number of a block as large as an id.
			if id < block || binary.LittleEndian.Uint64(e) != uint64(id) {
				continue
			}
			for i, n := range []uint64{l.InodesHard, l.InodesSoft, 0, l.BlocksHard, l.BlocksSoft} {
				if i != 2 {
					binary.LittleEndian.PutUint64(e[8+8*i:], n)
				}
			}
			where := debugfs(t, path, fmt.Sprintf("bmap <%d> %d", file, off/size))
			phys, err := strconv.Atoi(strings.TrimSpace(where))
			if err != nil {
				t.Fatal(err)
			}
			f, err := os.OpenFile(path, os.O_WRONLY, 0)
			if err != nil {
				t.Fatal(err)
			}
			defer f.Close()
			if _, err := f.WriteAt(e, int64(phys)*int64(size)+int64(off%size)); err != nil {
				t.Fatal(err)
			}
			return
		}
	}
	t.Fatalf("%s: no entry of %d", path, id)
}

func debugfs(t testing.TB, path, command string) string {
	t.Helper()
	out, err := exec.Command("debugfs", "-R", command, path).Output()
	if err != nil {
		t.Fatalf("debugfs: %v", err)
	}
	return string(out)
}
