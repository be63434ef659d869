package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"time"
)

// writeJobs change the filesystem: each takes away what it has made. They come after all others.
var writeJobs = []job{
	{name: "randwrite-qd32", title: "4k random overwrite, direct, QD32", group: groupWrite,
		unit: unitIOPS, writes: true, run: fioWrite("data/file", false, "--rw=randwrite", "--bs=4k",
			"--iodepth=32", "--direct=1", "--ioengine=libaio", "--norandommap")},
	{name: "seqwrite-new", title: "1M sequential write to a new file, preallocated, direct, QD4",
		group: groupWrite, unit: unitMiB, writes: true, run: fioWrite("new", true, "--rw=write",
			"--bs=1M", "--iodepth=4", "--direct=1", "--ioengine=libaio")},
	{name: "seqwrite-grow", title: "1M sequential write to a new file that grows, direct, QD4",
		group: groupWrite, unit: unitMiB, writes: true, run: fioWrite("grown", true, "--rw=write",
			"--bs=1M", "--iodepth=4", "--direct=1", "--ioengine=libaio", "--fallocate=none")},
	{name: "write-fsync", title: "4k write and fsync", group: groupWrite, unit: unitIOPS,
		writes: true, run: fioWrite("synced", false, "--rw=write", "--bs=4k", "--fsync=1",
			"--ioengine=psync")},
	{name: "untar", title: "untar of the small files, and sync", group: groupMeta,
		unit: unitSeconds, writes: true, run: untar},
}

// allJobs are the jobs in their order.
func allJobs() []job { return append(slices.Clone(jobs), writeJobs...) }

// newFileMiB is the size of the file that is written once, from its beginning to its end.
const newFileMiB = 512

// fioWrite makes a job that writes to a file for the time of a slice or, once, a whole new file.
// NB: fio allocates a new file with fallocate(2) before it writes, unless told otherwise.
// The figure is IOPS for small writes and MiB/s for large ones.
func fioWrite(name string, once bool, args ...string) func(context.Context, *bench, target) (
	float64, error) {
	return func(ctx context.Context, b *bench, t target) (float64, error) {
		t.data = filepath.Join(t.root, name)
		size := fmt.Sprintf("--size=%dM", newFileMiB)
		all := append([]string{size, "--end_fsync=1"}, args...)
		if !once {
			ms := fmt.Sprintf("%dms", b.cfg.slice.Milliseconds())
			all = append([]string{size, "--time_based", "--runtime=" + ms}, args...)
		}
		if name != dataFile {
			defer func() { _ = os.Remove(t.data) }()
		}
		wrote, err := b.fio(ctx, t, all...)
		if once {
			return wrote.Bandwidth / mib, err
		}
		return wrote.IOPS, err
	}
}

// untar unpacks the tree of small files and makes it durable. What it was packed from is the same
// tree on the same filesystem.
func untar(ctx context.Context, _ *bench, t target) (took float64, err error) {
	file, err := os.CreateTemp("", "asyncfsd-bench-*.tar")
	if err != nil {
		return 0, err
	}
	_ = file.Close()
	defer os.Remove(file.Name())
	if _, err := command(ctx, "tar", "-C", t.root, "-cf", file.Name(), statTree); err != nil {
		return 0, err
	}
	dir := filepath.Join(t.root, "untar")
	if err := os.Mkdir(dir, 0o755); err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	start := time.Now()
	if _, err := command(ctx, "tar", "-C", dir, "-xf", file.Name()); err != nil {
		return 0, err
	}
	// NB: FUSE does not pass syncfs(2) on; an fsync of the directory has the journal committed.
	for _, args := range [][]string{{"-f", dir}, {dir}} {
		if _, err := command(ctx, "sync", args...); err != nil {
			return 0, err
		}
	}
	return time.Since(start).Seconds(), nil
}
