package main

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"asyncfsd/internal/testenv"
)

// Limits of the daemon, whatever the load.
const (
	threadsMax = 10
	// threadsRing is how many more there may be with requests over io_uring for each processor but
	// the first: one of the loop, one of the runtime, and a worker of the kernel for its flushes.
	threadsRing = 3
	memoryMax   = 128 << 10 // KiB resident, with the default options
)

// loads are options of mounts that work in different ways.
var loads = map[string]string{"read": "ro,transport=dev", "write": "rw,transport=dev",
	"aio": "ro,io=aio", "ring": "rw,transport=uring"}

// loadImage makes a filesystem with a file of 32 MiB in it.
func loadImage(t *testing.T) string {
	t.Helper()
	tree := t.TempDir()
	if err := os.WriteFile(filepath.Join(tree, "file"), make([]byte, 32<<20), 0o644); err != nil {
		t.Fatal(err)
	}
	return newImage(t, "-d", tree)
}

// mountDaemon mounts an image, and returns the process number of its daemon.
func mountDaemon(t *testing.T, path, options string) (mnt string, pid int) {
	t.Helper()
	if strings.Contains(options, "transport=uring") && !overRing {
		testenv.Missing(t, "needs FUSE over io_uring")
	}
	mnt = mountpoint(t)
	lock := filepath.Join(t.TempDir(), "lock")
	mount(t, "-o", options+",lockfile="+lock, path, mnt)
	return mnt, lockHolder(t, lock)
}

// status returns a number of /proc/PID/status.
func status(t *testing.T, pid int, key string) int {
	t.Helper()
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		t.Fatal(err)
	}
	_, after, _ := strings.Cut(string(text), "\n"+key+":")
	fields := strings.Fields(after)
	if len(fields) == 0 {
		t.Fatalf("no %s in the status of %d", key, pid)
	}
	n, err := strconv.Atoi(fields[0])
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// connections mounts the kernel's list of FUSE mounts, and returns where that of mnt is in it.
func connections(t *testing.T, mnt string) string {
	t.Helper()
	control := t.TempDir()
	if err := unix.Mount("none", control, "fusectl", unix.MS_RDONLY, ""); err != nil {
		testenv.Missing(t, "needs fusectl: "+err.Error())
	}
	t.Cleanup(func() { _ = unix.Unmount(control, 0) })
	var st unix.Stat_t
	if err := unix.Stat(mnt, &st); err != nil {
		t.Fatal(err)
	}
	return filepath.Join(control, strconv.Itoa(int(unix.Minor(st.Dev))))
}

// waiting is how many requests of a connection have no reply yet.
func waiting(t *testing.T, connection string) int {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(connection, "waiting"))
	if err != nil {
		t.Fatal(err)
	}
	n, _ := strconv.Atoi(strings.TrimSpace(string(text)))
	return n
}

// readAll has n threads read blocks of a file past the page cache until stop is called.
func readAll(t *testing.T, path string, n int) (stop func()) {
	t.Helper()
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_DIRECT|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	mem, err := unix.Mmap(-1, 0, n*4096, unix.PROT_READ|unix.PROT_WRITE,
		unix.MAP_PRIVATE|unix.MAP_ANONYMOUS)
	if err != nil {
		t.Fatal(err)
	}
	var over atomic.Bool
	var readers sync.WaitGroup
	for i := range n {
		readers.Go(func() {
			for off := int64(i) * 4096; !over.Load(); off = (off + 97*4096) % (32 << 20) {
				if _, err := unix.Pread(fd, mem[i*4096:][:4096], off); err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	return func() {
		over.Store(true)
		readers.Wait()
		_ = unix.Munmap(mem)
		_ = unix.Close(fd)
	}
}

// TestThreads has a daemon stopped until 256 requests wait for it, and counts its threads while it
// works off these and as many more.
func TestThreads(t *testing.T) {
	testenv.NeedRoot(t)
	const depth = 256
	path := loadImage(t)
	for name, options := range loads {
		t.Run(name, func(t *testing.T) {
			mnt, pid := mountDaemon(t, path, options)
			connection := connections(t, mnt)
			stop := readAll(t, filepath.Join(mnt, "file"), depth)
			defer stop()
			_ = unix.Kill(pid, unix.SIGSTOP)
			defer unix.Kill(pid, unix.SIGCONT)
			for late := time.Now().Add(20 * time.Second); waiting(t, connection) < depth; {
				if time.Now().After(late) {
					t.Fatalf("%d requests in flight at once", waiting(t, connection))
				}
				time.Sleep(time.Millisecond)
			}
			_ = unix.Kill(pid, unix.SIGCONT)
			threads := 0
			for end := time.Now().Add(time.Second); time.Now().Before(end); {
				threads = max(threads, status(t, pid, "Threads"))
				time.Sleep(time.Millisecond)
			}
			most := threadsMax
			if name == "ring" {
				most += threadsRing * (runtime.NumCPU() - 1)
			}
			if threads > most {
				t.Errorf("%d threads, at most %d", threads, most)
			}
			t.Logf("%d threads", threads)
		})
	}
}

// TestMemory has the most memory a daemon takes with default options while it reads 32 blocks at
// once, and large ones.
func TestMemory(t *testing.T) {
	testenv.NeedRoot(t)
	testenv.NeedProgram(t, "fio")
	for name, options := range loads {
		t.Run(name, func(t *testing.T) { memory(t, options) })
	}
}

func memory(t *testing.T, options string) {
	mnt, pid := mountDaemon(t, loadImage(t), options)
	for _, args := range [][]string{{"--rw=randread", "--bs=4k"}, {"--rw=read", "--bs=1M"}} {
		args = append(args, "--name=load", "--readonly", "--filename="+mnt+"/file", "--size=32M",
			"--direct=1", "--ioengine=libaio", "--iodepth=32", "--time_based", "--runtime=1")
		if out, err := exec.Command("fio", args...).CombinedOutput(); err != nil {
			t.Errorf("fio: %v: %s", err, out)
		}
	}
	kib := status(t, pid, "VmHWM")
	if kib > memoryMax {
		t.Errorf("%d KiB resident at most, want %d", kib, memoryMax)
	}
	t.Logf("%d KiB resident at most", kib)
}

// TestIdle has a daemon that nobody asks for anything leave the CPUs alone.
func TestIdle(t *testing.T) {
	testenv.NeedRoot(t)
	const most = 20 // in a second
	for name, options := range loads {
		t.Run(name, func(t *testing.T) {
			_, pid := mountDaemon(t, loadImage(t), options)
			least := 1 << 30
			for range 3 { // whoever looks at all mounts wakes it up
				before := switches(t, pid)
				time.Sleep(time.Second)
				least = min(least, switches(t, pid)-before)
			}
			if least > most {
				t.Errorf("%d context switches in the quietest second, at most %d", least, most)
			}
			t.Logf("%d context switches in the quietest second", least)
		})
	}
}

// switches is how often the threads of a process have gone to sleep.
func switches(t *testing.T, pid int) (sum int) {
	t.Helper()
	threads, err := os.ReadDir(fmt.Sprintf("/proc/%d/task", pid))
	if err != nil {
		t.Fatal(err)
	}
	for _, thread := range threads {
		tid, _ := strconv.Atoi(thread.Name())
		sum += status(t, tid, "voluntary_ctxt_switches")
	}
	return sum
}
