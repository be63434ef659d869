package main

import (
	"context"
	"fmt"
	"os"
	"runtime"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"asyncfsd/internal/overring"
)

// machine is what the figures were measured on and with.
type machine struct {
	Kernel    string            `json:"kernel"`
	CPU       string            `json:"cpu"`
	CPUs      int               `json:"cpus"`
	MemoryGiB float64           `json:"memory_gib"`
	Load      string            `json:"load_average_before"` // of 1, 5 and 15 minutes
	Versions  map[string]string `json:"versions"`
}

func thisMachine(cfg config) machine {
	m := machine{
		CPU:       field(readText("/proc/cpuinfo"), "model name"),
		CPUs:      runtime.NumCPU(),
		MemoryGiB: memoryGiB(readText("/proc/meminfo")),
		Versions: map[string]string{
			"go":      runtime.Version(),
			"fio":     firstLine("fio", "--version"),
			"mke2fs":  firstLine("mke2fs", "-V"),
			"fuse2fs": firstLine("fuse2fs", "-V"),
		},
	}
	m.Versions["FUSE over io_uring"] = "no"
	if overring.Allowed() {
		m.Versions["FUSE over io_uring"] = "yes"
	}
	if cfg.asyncfsd != "" {
		m.Versions["asyncfsd"] = firstLine(cfg.asyncfsd, "-V")
	}
	var name unix.Utsname
	if err := unix.Uname(&name); err == nil {
		m.Kernel = unix.ByteSliceToString(name.Release[:]) + " " +
			unix.ByteSliceToString(name.Machine[:])
	}
	if f := strings.Fields(readText("/proc/loadavg")); len(f) >= 3 {
		m.Load = strings.Join(f[:3], " ")
	}
	return m
}

func readText(path string) string {
	text, _ := os.ReadFile(path)
	return string(text)
}

// field returns the first value of a key in lines of "key : value".
func field(text, key string) string {
	for line := range strings.Lines(text) {
		if k, v, ok := strings.Cut(line, ":"); ok && strings.TrimSpace(k) == key {
			return strings.TrimSpace(v)
		}
	}
	return "unknown"
}

func memoryGiB(meminfo string) float64 {
	kib, _ := strconv.ParseFloat(strings.TrimSuffix(field(meminfo, "MemTotal"), " kB"), 64)
	return float64(int(kib/(1<<20)*10+0.5)) / 10
}

// filesystemType names the filesystem that dir lies on, of those a bench is likely to lie on.
func filesystemType(dir string) string {
	names := map[int64]string{
		unix.TMPFS_MAGIC: "tmpfs (RAM)", unix.EXT4_SUPER_MAGIC: "ext4",
		unix.XFS_SUPER_MAGIC: "xfs", unix.BTRFS_SUPER_MAGIC: "btrfs",
		unix.OVERLAYFS_SUPER_MAGIC: "overlayfs",
	}
	var st unix.Statfs_t
	if err := unix.Statfs(dir, &st); err != nil {
		return "unknown"
	}
	if name, ok := names[int64(st.Type)]; ok {
		return name
	}
	return fmt.Sprintf("type %#x", st.Type)
}

// A machine is quiet if at most quietMax of its CPUs' time is taken while the bench waits for
// quietSample: on 2 CPUs that is 4 of 40 ticks.
const (
	quietSample = 200 * time.Millisecond
	quietMax    = 0.10
)

// otherLoad measures for a while which share of the CPUs is busy while the bench does nothing.
func otherLoad(ctx context.Context, interval time.Duration) float64 {
	busy1, all1 := cpuTimes(readText("/proc/stat"))
	select {
	case <-ctx.Done():
	case <-time.After(interval):
	}
	busy2, all2 := cpuTimes(readText("/proc/stat"))
	if all2 <= all1 {
		return 0
	}
	return float64(busy2-busy1) / float64(all2-all1)
}

// cpuTimes sums up the first line of /proc/stat: user nice system idle iowait irq softirq steal.
// Steal counts as busy: somebody else has the CPU.
func cpuTimes(stat string) (busy, all int64) {
	line, _, _ := strings.Cut(stat, "\n")
	f := strings.Fields(line)
	for i := 1; i < len(f) && i <= 8; i++ {
		n, _ := strconv.ParseInt(f[i], 10, 64)
		all += n
		if i != 4 && i != 5 {
			busy += n
		}
	}
	return busy, all
}
