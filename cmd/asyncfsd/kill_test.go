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

var killRounds = flag.Int("kill.rounds", 5, "how often TestKill kills the daemon")

const killWorkers = 4

// killFiles are the files of one worker: which version of each is durable, and which one was the
// last that it has begun to write. The one that is there has to be between them.
type killFiles struct {
	durable, begun [40]int
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
		if err := killWrite(name+".new", data, 1+rng.IntN(1<<16)); err != nil {
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
	if errors.Is(err, unix.ENOTCONN) || errors.Is(err, unix.ECONNABORTED) {
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
// next mount, and in the end e2fsck finds nothing.
func TestKill(t *testing.T) {
	testenv.NeedRoot(t)
	mnt, path := mountpoint(t), newImage(t)
	lock := filepath.Join(t.TempDir(), "lock")
	var files [killWorkers]killFiles
	rng := rand.New(rand.NewPCG(uint64(time.Now().UnixNano()), 5))
	for round := range *killRounds {
		if r := asyncfsd(t, "-o", "lockfile="+lock, path, mnt); r.code != 0 {
			t.Fatalf("round %d: exit code %d: %s", round, r.code, r.stderr)
		}
		for i := range files {
			if err := os.MkdirAll(filepath.Dir(killName(mnt, i, 0)), 0o755); err != nil {
				t.Fatal(err)
			}
			files[i].verify(t, mnt, i)
		}
		killOne(t, mnt, lock, &files, uint64(round), time.Duration(rng.IntN(400))*time.Millisecond)
		if t.Failed() {
			return
		}
	}
	t.Cleanup(func() { check(t, path) }) // after the unmounting
	mount(t, path, mnt)
	for i := range files {
		files[i].verify(t, mnt, i)
	}
	n := 0
	for i := range files {
		for _, v := range files[i].begun {
			n += v
		}
	}
	t.Logf("%d versions of files", n)
}

// killOne has the workers work, and kills the daemon after a while.
func killOne(t *testing.T, mnt, lock string, files *[killWorkers]killFiles, seed uint64,
	after time.Duration) {
	t.Helper()
	var group sync.WaitGroup
	for i := range files {
		group.Go(func() {
			err := files[i].work(mnt, i, seed)
			if !errors.Is(err, unix.ENOTCONN) && !errors.Is(err, unix.ECONNABORTED) {
				t.Errorf("worker %d: %v", i, err)
			}
		})
	}
	time.Sleep(after)
	end(t, lock, unix.SIGKILL)
	group.Wait()
	if err := unix.Unmount(mnt, unix.MNT_DETACH); err != nil {
		t.Error(err)
	}
}
