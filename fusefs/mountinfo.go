package fusefs

import (
	"bufio"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// MountInfo is what /proc/self/mountinfo tells of a mount.
type MountInfo struct {
	Device     string // major:minor
	Mountpoint string
	Type       string
	Source     string
}

// FindMount returns the topmost mount whose mountpoint is path, nil if there is none.
func FindMount(path string) (*MountInfo, error) {
	abs, err := filepath.Abs(path)
	if err != nil {
		return nil, err
	}
	// NB: not EvalSymlinks of the whole path: that would stat a mount whose daemon is dead.
	if dir, err := filepath.EvalSymlinks(filepath.Dir(abs)); err == nil && abs != "/" {
		abs = filepath.Join(dir, filepath.Base(abs))
	}
	file, err := os.Open("/proc/self/mountinfo")
	if err != nil {
		return nil, err
	}
	defer file.Close()
	var found *MountInfo
	for lines := bufio.NewScanner(file); lines.Scan(); {
		if m := parseMountInfo(lines.Text()); m != nil && m.Mountpoint == abs {
			found = m
		}
	}
	return found, nil
}

// parseMountInfo parses a line: ID, parent, device, root, mountpoint, options, optional fields,
// "-", type, source, options.
func parseMountInfo(line string) *MountInfo {
	before, after, ok := strings.Cut(line, " - ")
	left, right := strings.Fields(before), strings.Fields(after)
	if !ok || len(left) < 6 || len(right) < 2 {
		return nil
	}
	return &MountInfo{Device: left[2], Mountpoint: unescapeOctal(left[4]), Type: right[0],
		Source: unescapeOctal(right[1])}
}

// unescapeOctal turns \040 and its like into the characters they stand for.
func unescapeOctal(s string) string {
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		if s[i] == '\\' && i+3 < len(s) {
			if v, err := strconv.ParseUint(s[i+1:i+4], 8, 8); err == nil {
				b.WriteByte(byte(v))
				i += 3
				continue
			}
		}
		b.WriteByte(s[i])
	}
	return b.String()
}

// RaiseReadAhead sets the readahead of a mount, which the kernel caps at 128 KiB when it is
// negotiated. Without root it cannot be done, and reads go on in smaller pieces.
func RaiseReadAhead(m *MountInfo, bytes int) error {
	path := fmt.Sprintf("/sys/class/bdi/%s/read_ahead_kb", m.Device)
	return os.WriteFile(path, []byte(strconv.Itoa(bytes>>10)), 0)
}
