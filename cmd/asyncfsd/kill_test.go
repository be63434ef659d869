package main

import (
	"bytes"
	"errors"
	"flag"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"asyncfsd/internal/testenv"
)

var killRounds = flag.Int("kill.rounds", 2, "how often TestKill kills the daemon of each kind")

// killKinds are the ways in which TestKill runs: options of the mount and of mke2fs, and how many
// work at once.
var killKinds = map[string]struct {
	options string
	mkfs    []string
	workers int
}{
	"default": {"rw", nil, 4},
	"small":   {"commit=1", []string{"-b", "1024", "-J", "size=1"}, 4},
	"many":    {"rw", []string{"-J", "size=4"}, 24},
	"cached":  {"writeback_cache,commit=1", nil, 8},
	"maps":    {"discard", []string{"-b", "1024", "-O", "^extent,^64bit,^metadata_csum"}, 6},
	"aio":     {"io=aio", []string{"-b", "2048", "-J", "size=4"}, 8},
}

// killFiles are the files of one worker: which version of each is durable, and which one was the
// last that it has begun to write. The one that is there has to be between them.
type killFiles struct {
	durable, begun [40]int
	promised       [40]int // how often one was made durable
}

// killName is where a worker has a file.
func killName(mnt string, worker, file int) string {
	return filepath.Join(mnt, fmt.Sprint("worker", worker), fmt.Sprint("file", file))
}

// killData is what a version of a file consists of; version 0 is no file.
func killData(worker, file, version int) []byte {
	rng := rand.New(rand.NewPCG(uint64(worker)<<32|uint64(file), uint64(version)))
	data := make([]byte, rng.IntN(1<<(4+rng.IntN(14))))
	for i := range data {
		data[i] = byte(rng.Uint32())
	}
	return data
}

// work replaces, appends to and removes files until the daemon is gone.
func (k *killFiles) work(mnt string, worker int, seed uint64) error {
	rng := rand.New(rand.NewPCG(seed, uint64(worker)))
	for {
		i := rng.IntN(len(k.durable))
		name := killName(mnt, worker, i)
		k.begun[i]++
		data := killData(worker, i, k.begun[i])
		if err := killWrite(name+".new", data, 1+rng.IntN(1<<(4+rng.IntN(13)))); err != nil {
			return err
		}
		if err := os.Rename(name+".new", name); err != nil {
			return err
		}
		if rng.IntN(2) == 0 {
			if err := killSync(filepath.Dir(name)); err != nil {
				return err
			}
			k.durable[i] = k.begun[i]
			k.promised[i]++
		}
		if err := killChurn(filepath.Dir(name), rng); err != nil {
			return err
		}
	}
}

// killWrite writes a file in pieces and makes it durable.
func killWrite(name string, data []byte, piece int) error {
	f, err := os.Create(name)
	if err != nil {
		return err
	}
	defer f.Close()
	for at := 0; at < len(data); at += piece {
		if _, err := f.Write(data[at:min(at+piece, len(data))]); err != nil {
			return err
		}
	}
	return f.Sync()
}

func killSync(dir string) error {
	f, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer f.Close()
	return f.Sync()
}

// killChurn does what promises nothing.
func killChurn(dir string, rng *rand.Rand) error {
	name := filepath.Join(dir, fmt.Sprint("churn", rng.IntN(9)))
	err := error(nil)
	switch rng.IntN(6) {
	case 0:
		err = os.Mkdir(name, 0o700)
	case 1:
		err = os.Remove(name)
	case 2:
		err = os.Symlink("nowhere", name)
	case 3:
		err = os.Truncate(name, rng.Int64N(1<<18))
	case 4:
		err = unix.Setxattr(name, "user.key", make([]byte, rng.IntN(3000)), 0)
	default:
		err = os.WriteFile(name, make([]byte, rng.IntN(1<<18)), 0o600)
	}
	if daemonGone(err) {
		return err
	}
	return nil
}

// verify looks at the files of a worker after the next mount. What it finds is durable from now on.
func (k *killFiles) verify(t *testing.T, mnt string, worker int) {
	t.Helper()
	for i := range k.durable {
		have, err := os.ReadFile(killName(mnt, worker, i))
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			t.Fatal(err)
		}
		found := -1
		for version := k.durable[i]; version <= k.begun[i]; version++ {
			if version == 0 && err != nil ||
				version > 0 && err == nil && bytes.Equal(have, killData(worker, i, version)) {
				found = version
			}
		}
		if found < 0 {
			t.Errorf("worker %d, file %d: %d bytes (%v) are none of the versions %d to %d", worker,
				i, len(have), err, k.durable[i], k.begun[i])
			continue
		}
		k.durable[i] = found
	}
}

// TestKill kills the daemon under load, again and again. What fsync has promised is there after the
// next mount, byte by byte, and in the end e2fsck finds nothing.
func TestKill(t *testing.T) {
	testenv.NeedRoot(t)
	for name, kind := range killKinds {
		t.Run(name, func(t *testing.T) {
			k := &killSeries{t: t, mnt: mountpoint(t), path: newImage(t, kind.mkfs...),
				lock: filepath.Join(t.TempDir(), "lock"), options: kind.options,
				files: make([]killFiles, kind.workers)}
			k.run(*killRounds)
		})
	}
}

// killSeries is a filesystem whose daemon is killed again and again.
type killSeries struct {
	t                        *testing.T
	mnt, path, lock, options string
	files                    []killFiles
}

func (k *killSeries) run(rounds int) {
	t := k.t
	rng := rand.New(rand.NewPCG(uint64(time.Now().UnixNano()), 5))
	for round := range rounds {
		k.mount()
		if t.Failed() {
			_ = unix.Unmount(k.mnt, unix.MNT_DETACH)
			return
		}
		k.kill(uint64(round), time.Duration(rng.IntN(400))*time.Millisecond)
		if t.Failed() {
			return
		}
	}
	k.mount()
	umount(t, k.mnt)
	check(t, k.path)
	promised, begun := 0, 0
	for i := range k.files {
		for f, v := range k.files[i].begun {
			begun += v
			promised += k.files[i].promised[f]
		}
	}
	t.Logf("%d kills: %d versions of files, %d of them promised", rounds, begun, promised)
}

// mount mounts, and looks for what has to be there.
func (k *killSeries) mount() {
	k.t.Helper()
	r := asyncfsd(k.t, "-o", k.options+",lockfile="+k.lock, k.path, k.mnt)
	if r.code != 0 || r.stderr != "" {
		k.t.Fatalf("exit code %d: %s", r.code, r.stderr)
	}
	for i := range k.files {
		if err := os.MkdirAll(filepath.Dir(killName(k.mnt, i, 0)), 0o755); err != nil {
			k.t.Error(err)
			return
		}
		k.files[i].verify(k.t, k.mnt, i)
	}
}

// daemonGone says whether an error is what callers get whose daemon has been killed.
func daemonGone(err error) bool {
	return errors.Is(err, unix.ENOTCONN) || errors.Is(err, unix.ECONNABORTED) ||
		errors.Is(err, unix.ECANCELED) // over io_uring
}

// kill has the workers work, and kills the daemon after a while.
func (k *killSeries) kill(seed uint64, after time.Duration) {
	k.t.Helper()
	var group sync.WaitGroup
	for i := range k.files {
		group.Go(func() {
			err := k.files[i].work(k.mnt, i, seed)
			if !daemonGone(err) {
				k.t.Errorf("worker %d: %v", i, err)
			}
		})
	}
	time.Sleep(after)
	end(k.t, k.lock, unix.SIGKILL)
	group.Wait()
	if err := unix.Unmount(k.mnt, unix.MNT_DETACH); err != nil {
		k.t.Error(err)
	}
}
