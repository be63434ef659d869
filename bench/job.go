package main

import (
	"bytes"
	"context"
	"fmt"
	"os/exec"
	"path/filepath"
	"strconv"
	"time"
)

// Groups of jobs: a plot each.
const (
	groupRandom = "random"
	groupStream = "stream"
	groupMeta   = "metadata"
	groupWrite  = "write"
)

// Units of a job's figure. With seconds, less is better.
const (
	unitIOPS    = "IOPS"
	unitMiB     = "MiB/s"
	unitSeconds = "s"
)

// job is one row of the table. A row's run returns one figure in its unit; it finds a system
// that was mounted on cold caches for it.
type job struct {
	name  string
	title string
	group string
	unit  string
	raw   bool // runs on the raw device, too
	// cold jobs read all they read but once, so that what the first touch of memory costs counts.
	cold bool
	// writes: the filesystem is mounted for writing.
	writes bool
	run    func(ctx context.Context, b *bench, t target) (float64, error)
}

// jobs are what is measured, a row each. fio's asynchronous jobs use libaio: it is allowed
// everywhere, and what it submits is asynchronous on a FUSE mount too, whereas io_uring hands
// each read of a FUSE file to a worker thread.
var jobs = []job{
	{name: "randread-qd1", title: "4k random read, QD1", group: groupRandom, unit: unitIOPS,
		raw: true, run: fioTimed("--rw=randread", "--bs=4k", "--iodepth=1")},
	{name: "randread-qd32", title: "4k random read, QD32", group: groupRandom, unit: unitIOPS,
		raw: true, run: fioTimed("--rw=randread", "--bs=4k", "--iodepth=32")},
	{name: "randread-qd32x2", title: "4k random read, 2 jobs of QD32", group: groupRandom,
		unit: unitIOPS, raw: true,
		run: fioTimed("--rw=randread", "--bs=4k", "--iodepth=32", "--numjobs=2")},
	{name: "seqread-direct", title: "1M sequential read, direct, QD4", group: groupStream,
		unit: unitMiB, raw: true, run: fioTimed("--rw=read", "--bs=1M", "--iodepth=4")},
	{name: "seqread-buffered", title: "1M sequential read, buffered, cold", group: groupStream,
		unit: unitMiB, raw: true, cold: true, run: fioBufferedOnce},
	{name: "find-cold", title: "find with stat, cold", group: groupMeta, unit: unitSeconds,
		cold: true, run: findCold},
	{name: "find-warm", title: "find with stat, warm", group: groupMeta, unit: unitSeconds,
		run: findWarm},
	{name: "source-cold", title: "reading a source tree, cold", group: groupMeta,
		unit: unitSeconds, cold: true, run: readSourceCold},
}

func (j job) key() string { return j.name }

// findCold walks the tree once, every file's attributes included.
func findCold(ctx context.Context, b *bench, t target) (float64, error) {
	return b.find(ctx, t)
}

// findWarm walks it for as long as the other jobs run, after one walk that does not count.
func findWarm(ctx context.Context, b *bench, t target) (float64, error) {
	const walksMin = 5
	if _, err := b.find(ctx, t); err != nil {
		return 0, err
	}
	var seconds []float64
	end := time.Now().Add(b.cfg.slice)
	for len(seconds) < walksMin || time.Now().Before(end) {
		s, err := b.find(ctx, t)
		if err != nil {
			return 0, err
		}
		seconds = append(seconds, s)
	}
	return median(seconds), nil
}

// find runs find(1), which needs every file's attributes for the sizes it prints, and checks
// what it found.
func (b *bench) find(ctx context.Context, t target) (float64, error) {
	start := time.Now()
	out, err := command(ctx, "find", filepath.Join(t.root, statTree), "-printf", "%y %s\n")
	took := time.Since(start).Seconds()
	if err != nil {
		return 0, err
	}
	if got := parseFind(out); got != b.census {
		return 0, fmt.Errorf("find saw %d entries with %d bytes instead of %d with %d",
			got.entries, got.bytes, b.census.entries, b.census.bytes)
	}
	return took, nil
}

// parseFind sums up lines of file type and size.
func parseFind(out []byte) census {
	var c census
	for line := range bytes.Lines(out) {
		c.entries++
		if size, ok := bytes.CutPrefix(line, []byte("f ")); ok {
			n, _ := strconv.ParseInt(string(bytes.TrimSpace(size)), 10, 64)
			c.bytes += n
		}
	}
	return c
}

// readSourceCold reads every file of the source tree once, in the order of the directories. The
// data goes to /dev/null; that it is right was checked before by its digest.
func readSourceCold(ctx context.Context, _ *bench, t target) (float64, error) {
	var complaint bytes.Buffer
	cmd := exec.CommandContext(ctx, "find", filepath.Join(t.root, sourceDir),
		"-type", "f", "-exec", "cat", "{}", "+")
	cmd.Stderr = &complaint
	start := time.Now()
	err := runGroup(cmd)
	took := time.Since(start).Seconds()
	if err != nil || complaint.Len() > 0 {
		return 0, fmt.Errorf("find -exec cat: %v%s", err, tail(complaint.Bytes()))
	}
	return took, nil
}
