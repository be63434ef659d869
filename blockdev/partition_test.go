package blockdev

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"hash/crc32"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"asyncfsd/asyncq"
	"asyncfsd/internal/testenv"
)

const diskSize = 32 << 20

// Scripts of sfdisk(8), with holes in the numbers and logical partitions out of order.
var partitionScripts = map[string]string{
	"gpt": "label: gpt\n1 : start=2048, size=4096\n3 : start=8192, size=2048\n" +
		"128 : start=20480, size=1\n",
	"gpt small": "label: gpt\ntable-length: 4\n2 : start=2048, size=100\n",
	"mbr": "label: dos\n1 : start=2048, size=2048, type=83\n" +
		"4 : start=8192, size=8192, type=c\n",
	"mbr logical": "label: dos\n2 : start=2048, size=2048\n3 : start=6144, size=40000, type=5\n" +
		"5 : start=8192, size=1024\n6 : start=12288, size=2048\n7 : start=20480, size=3\n" +
		"1 : start=50000, size=100\n",
	"mbr lba": "label: dos\n1 : start=2048, size=40000, type=f\n5 : start=4096, size=1024\n",
}

func sfdisk(t testing.TB, path, script string) {
	t.Helper()
	testenv.NeedProgram(t, "sfdisk")
	cmd := exec.Command("sfdisk", "--no-reread", "--no-tell-kernel", "--quiet", path)
	cmd.Stdin = strings.NewReader(script)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("sfdisk: %v: %s", err, out)
	}
}

// TestPartitions compares with what sfdisk finds, which numbers as the kernel does, and with what
// the kernel finds, if it was built to look.
func TestPartitions(t *testing.T) {
	for name, script := range partitionScripts {
		for _, sector := range []int64{512, 4096} {
			t.Run(fmt.Sprint(name, " ", sector), func(t *testing.T) {
				device, file := testenv.LoopDevice(t, diskSize, int(sector), "--partscan")
				if sector == 4096 {
					script = inLargeSectors(script)
				}
				sfdisk(t, device, script)
				want := sfdiskPartitions(t, device, sector)
				got := readPartitions(t, device, sector)
				if len(want) == 0 || !slices.Equal(got, want) {
					t.Errorf("got    %v\nsfdisk %v", got, want)
				}
				kernel := kernelPartitions(t, device)
				if len(kernel) > 0 && !slices.Equal(got, kernel) {
					t.Errorf("got    %v\nkernel %v", got, kernel)
				}
				// A file does not tell its sectors; a GPT does.
				if strings.Contains(name, "gpt") {
					if got = readPartitions(t, file, 0); !slices.Equal(got, want) {
						t.Errorf("without a sector size: got %v\nwant %v", got, want)
					}
				}
			})
		}
	}
}

// sfdiskPartitions returns what sfdisk finds, but for extended partitions.
func sfdiskPartitions(t *testing.T, device string, sector int64) (all []Partition) {
	t.Helper()
	out, err := exec.Command("sfdisk", "--json", device).Output()
	if err != nil {
		t.Fatal(err)
	}
	var dump struct {
		Table struct {
			Partitions []struct {
				Node, Type  string
				Start, Size int64
			}
		} `json:"partitiontable"`
	}
	if err = json.Unmarshal(out, &dump); err != nil {
		t.Fatal(err)
	}
	for _, p := range dump.Table.Partitions {
		n, err := strconv.Atoi(strings.TrimPrefix(p.Node, device+"p"))
		if err != nil {
			t.Fatal(err)
		}
		if p.Type != "5" && p.Type != "f" {
			all = append(all, Partition{n, p.Start * sector, p.Size * sector})
		}
	}
	slices.SortFunc(all, func(a, b Partition) int { return a.Number - b.Number })
	return all
}

// inLargeSectors divides all starts and sizes by 8.
func inLargeSectors(script string) string {
	for _, key := range []string{"start=", "size="} {
		parts := strings.Split(script, key)
		for i, p := range parts[1:] {
			digits := len(p) - len(strings.TrimLeft(p, "0123456789"))
			n, _ := strconv.Atoi(p[:digits])
			parts[i+1] = strconv.Itoa(max(n/8, 1)) + p[digits:]
		}
		script = strings.Join(parts, key)
	}
	return script
}

// kernelPartitions returns what the kernel found, but for extended partitions, which it gives
// two sectors.
func kernelPartitions(t *testing.T, device string) (all []Partition) {
	t.Helper()
	fd, err := unix.Open(device, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	for range 50 { // udev may have a partition open
		if _, err = unix.IoctlRetInt(fd, unix.BLKRRPART); err != unix.EBUSY {
			break
		}
		time.Sleep(20 * time.Millisecond)
	}
	if err != nil {
		return nil
	}
	base := filepath.Base(device)
	dirs, _ := filepath.Glob("/sys/block/" + base + "/" + base + "p*")
	number := func(path string) int64 {
		text, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		n, err := strconv.ParseInt(strings.TrimSpace(string(text)), 10, 64)
		if err != nil {
			t.Fatal(err)
		}
		return n
	}
	table := readAll(t, device)
	for _, dir := range dirs {
		p := Partition{int(number(dir + "/partition")), number(dir+"/start") << 9,
			number(dir+"/size") << 9}
		if p.Number <= 4 && isExtended(table[mbrEntries+(p.Number-1)*mbrEntry+4]) {
			continue
		}
		all = append(all, p)
	}
	slices.SortFunc(all, func(a, b Partition) int { return a.Number - b.Number })
	return all
}

func readAll(t testing.TB, path string) []byte {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

func readPartitions(t testing.TB, path string, sector int64) []Partition {
	t.Helper()
	data := readAll(t, path)
	all, err := ReadPartitions(bytes.NewReader(data), int64(len(data)), sector)
	if err != nil {
		t.Fatal(err)
	}
	return all
}

func newDisk(t testing.TB, script string) string {
	path := imageOf(t, random(9, diskSize))
	if err := os.WriteFile(path, append(make([]byte, 1<<20), random(9, diskSize-1<<20)...),
		0o600); err != nil {
		t.Fatal(err)
	}
	sfdisk(t, path, script)
	return path
}

// TestOpenPartition: a partition is all there is, on both sides.
func TestOpenPartition(t *testing.T) {
	path := newDisk(t, partitionScripts["mbr logical"])
	before := readAll(t, path)
	r := newRig(t, realEngine(t, "auto"), 0)
	dev, err := Open(path, r.loop.Engine(), Options{Partition: 7})
	if err != nil {
		t.Fatal(err)
	}
	r.dev = dev
	const start, size = 20480 << 9, 3 << 9
	if dev.Size() != size {
		t.Fatalf("%d bytes", dev.Size())
	}
	mem := pages(t, 4096)
	if res := r.do(dev, asyncq.IO{Buf: mem[:size]}); res != size ||
		!bytes.Equal(mem[:size], before[start:start+size]) {
		t.Fatalf("read: %d", res)
	}
	if res := r.do(dev, asyncq.IO{Buf: mem[:2048]}); res != -int32(unix.EIO) {
		t.Errorf("read beyond the partition: %d", res)
	}
	clear(mem)
	if res := r.do(dev, asyncq.IO{Op: asyncq.OpWrite, Buf: mem[:size]}); res != size {
		t.Fatalf("write: %d", res)
	}
	clear(before[start : start+size])
	if !bytes.Equal(readAll(t, path), before) {
		t.Error("something else was written")
	}
	_, err = open(t, path, Options{ReadOnly: true, NoLock: true, Partition: 4})
	wantError(t, err, unix.ENXIO, path+": no partition 4, there are 1 (50 KiB at byte 25600000), "+
		"2 (1024 KiB at byte 1048576), 5 (512 KiB at byte 4194304), "+
		"6 (1024 KiB at byte 6291456), 7 (1 KiB at byte 10485760)")
}

// TestGPTBackup: the table at the end of the disk serves when the first one is damaged.
func TestGPTBackup(t *testing.T) {
	path := newDisk(t, partitionScripts["gpt"])
	want := readPartitions(t, path, 512)
	data := readAll(t, path)
	data[512+60]++
	got, err := ReadPartitions(bytes.NewReader(data), diskSize, 0)
	if err != nil || !slices.Equal(got, want) {
		t.Errorf("got %v, %v; want %v", got, err, want)
	}
	data[len(data)-512+60]++
	if _, err = ReadPartitions(bytes.NewReader(data), diskSize, 0); err == nil {
		t.Error("both tables are damaged, and read")
	}
}

// TestGPTHostile: a header with right checksums and wrong sizes costs neither memory nor time.
func TestGPTHostile(t *testing.T) {
	data := readAll(t, newDisk(t, partitionScripts["gpt"]))
	clear(data[len(data)-512:])
	for _, entries := range []uint32{0, 1, 1 << 20, 1<<32 - 1} {
		for _, size := range []uint32{0, 1, 127, 256, 1 << 31, 1<<32 - 1} {
			for _, first := range []uint64{0, 2, 65535, 1 << 55, 1<<64 - 1} {
				h := data[512:1024]
				binary.LittleEndian.PutUint64(h[72:], first)
				binary.LittleEndian.PutUint32(h[80:], entries)
				binary.LittleEndian.PutUint32(h[84:], size)
				clear(h[16:20])
				binary.LittleEndian.PutUint32(h[16:], crc32.ChecksumIEEE(h[:92]))
				if all, err := ReadPartitions(bytes.NewReader(data), diskSize, 512); err == nil {
					t.Errorf("%d entries of %d bytes at %d: %v", entries, size, first, all)
				}
			}
		}
	}
}
