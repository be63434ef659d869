package fusefs

import (
	"bufio"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// MountInfo is what /proc/self/mountinfo tells of a mount.
type MountInfo struct {
	Device     string // major:minor
	Mountpoint string
	Type       string
	Source     string
	Super      string // options of the filesystem, as the kernel prints them
}

// Incarnation tells one filesystem with the mount's device number from the next: the kernel gives a
// number away again when its filesystem has ended, though the daemon may still be busy, or hang.
// It is the inode of what sysfs shows of the filesystem, the same for all who look; 0 without
// sysfs, or when the filesystem has ended. The daemon is not asked.
func (m *MountInfo) Incarnation() uint64 {
	var st unix.Stat_t
	if unix.Stat("/sys/class/bdi/"+m.Device, &st) != nil {
		return 0
	}
	return st.Ino
}

// FindMount returns the topmost mount whose mountpoint is path, nil if there is none.
func FindMount(path string) (*MountInfo, error) {
	abs, err := mountpointPath(path)
	if err != nil {
		return nil, err
	}
	return findMount(func(m *MountInfo) bool { return m.Mountpoint == abs })
}

// StillMounted says whether the filesystem of a mount is mounted somewhere, by a bind mount for
// example.
func StillMounted(m *MountInfo) (bool, error) {
	other, err := findMount(func(o *MountInfo) bool { return o.Device == m.Device })
	return other != nil, err
}

// findMount returns the last mount that is wanted.
func findMount(wanted func(*MountInfo) bool) (*MountInfo, error) {
	file, err := os.Open("/proc/self/mountinfo")
	if err != nil {
		return nil, err
	}
	defer file.Close()
	return scanMounts(file, wanted)
}

// mountpointPath returns path without symbolic links, as mountinfo shows it. NB: not by way of
// EvalSymlinks of the whole, which would stat a mount whose daemon is dead or hangs. Reading a
// link does not ask the daemon.
func mountpointPath(path string) (string, error) {
	abs, err := filepath.Abs(path)
	if err != nil {
		return "", err
	}
	for range linksMax {
		if dir, err := filepath.EvalSymlinks(filepath.Dir(abs)); err == nil && abs != "/" {
			abs = filepath.Join(dir, filepath.Base(abs))
		}
		target, err := os.Readlink(abs)
		if err != nil {
			return abs, nil
		}
		if !filepath.IsAbs(target) {
			target = filepath.Join(filepath.Dir(abs), target)
		}
		abs = filepath.Clean(target)
	}
	return "", &os.PathError{Op: "open", Path: path, Err: unix.ELOOP}
}

// linksMax is how many symbolic links the kernel follows.
const linksMax = 40

// scanMounts looks for the last mount that is wanted in a mountinfo file.
func scanMounts(file io.Reader, wanted func(*MountInfo) bool) (found *MountInfo, err error) {
	lines := bufio.NewScanner(file)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		if m := parseMountInfo(lines.Text()); m != nil && wanted(m) {
			found = m
		}
	}
	return found, lines.Err()
}

// parseMountInfo parses a line: ID, parent, device, root, mountpoint, options, optional fields,
// "-", type, source, options.
func parseMountInfo(line string) *MountInfo {
	before, after, ok := strings.Cut(line, " - ")
	left, right := strings.Fields(before), strings.Fields(after)
	if !ok || len(left) < 6 || len(right) < 2 {
		return nil
	}
	m := &MountInfo{Device: left[2], Mountpoint: unescapeOctal(left[4]), Type: right[0],
		Source: unescapeOctal(right[1])}
	if len(right) > 2 {
		m.Super = right[2]
	}
	return m
}

// Owner returns the user for whom a FUSE mount was made; ok is false if it is none.
func (m *MountInfo) Owner() (uid uint32, ok bool) {
	for _, word := range strings.Split(m.Super, ",") {
		if v, found := strings.CutPrefix(word, "user_id="); found {
			n, err := strconv.ParseUint(v, 10, 32)
			return uint32(n), err == nil
		}
	}
	return 0, false
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
