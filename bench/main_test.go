package main

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"asyncfsd/internal/testenv"
)

func TestParseSize(t *testing.T) {
	for s, want := range map[string]int64{
		"512M": 512 << 20, "1G": 1 << 30, "2g": 2 << 30, "2048k": 2 << 20, "1048576": 1 << 20,
		"": 0, "G": 0, "-1G": 0, "0": 0, "1.5G": 0, "1T": 0, "1GG": 0, "100": 0, "9999999G": 0,
	} {
		got, err := parseSize(s)
		if got != want || (err == nil) != (want != 0) {
			t.Errorf("%q: %d, %v, want %d", s, got, err, want)
		}
	}
}

func TestChoose(t *testing.T) {
	some, err := choose(systems, "asyncfsd,raw", "system")
	if err != nil || nameList(some) != "raw,asyncfsd" {
		t.Errorf("chose %s, %v", nameList(some), err)
	}
	if all, err := choose(jobs, "", "job"); err != nil || len(all) != len(jobs) {
		t.Errorf("chose %s, %v", nameList(all), err)
	}
	_, err = choose(systems, "raw,ext5", "system")
	if want := `no system "ext5"; there are raw,ext4,fuse2fs,asyncfsd`; err == nil ||
		err.Error() != want {
		t.Errorf("got %v, want %s", err, want)
	}
}

// TestJobTable wants distinct names and a plot title for each group.
func TestJobTable(t *testing.T) {
	var names []string
	for _, j := range jobs {
		if slices.Contains(names, j.name) {
			t.Errorf("there are two jobs %s", j.name)
		}
		names = append(names, j.name)
		if plotTitles[j.group] == "" {
			t.Errorf("job %s: group %q has no title", j.name, j.group)
		}
	}
}

func TestUndoGoesOnAfterAnError(t *testing.T) {
	var u undo
	var order []string
	for _, name := range []string{"first", "second", "third"} {
		u.push(name, func() error {
			order = append(order, name)
			return map[string]error{"second": fs.ErrInvalid}[name]
		})
	}
	if err := u.pop(); err != nil {
		t.Error(err)
	}
	if err := u.pop(); !errors.Is(err, fs.ErrInvalid) || !strings.HasPrefix(err.Error(), "second") {
		t.Errorf("the second step failed with %v", err)
	}
	u.push("again", func() error { order = append(order, "again"); return fs.ErrInvalid })
	u.downTo(0)
	if got := strings.Join(order, " "); got != "third second again first" {
		t.Errorf("taken back in the order %s", got)
	}
}

func TestCommandSaysWhatWentWrong(t *testing.T) {
	_, err := command(t.Context(), "sh", "-c", "echo one; echo two >&2; exit 3")
	if err == nil || err.Error() != "sh: exit status 3: two" {
		t.Errorf("got %v", err)
	}
	err = needPrograms([]string{"sh", "no-such-1", "no-such-2"})
	if err == nil || !strings.HasPrefix(err.Error(), "missing programs: no-such-1, no-such-2 (") {
		t.Errorf("got %v", err)
	}
}

// TestCommandEndsWithItsChildren cancels a command whose child holds its output open.
func TestCommandEndsWithItsChildren(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	start := time.Now()
	_, err := command(ctx, "sh", "-c", "sleep 30 & wait")
	if took := time.Since(start); err == nil || took > 4*time.Second {
		t.Errorf("it ended after %v with %v", took, err)
	}
}

func TestParseStatus(t *testing.T) {
	text := "Name:\tasyncfsd\nVmPeak:\t 1238256 kB\nVmHWM:\t   51200 kB\nVmRSS:\t   40960 kB\n" +
		"Threads:\t7\nSigQ:\t0/94016\n"
	if got := parseStatus(text); got != (usage{RSS: 51200, Threads: 7}) {
		t.Errorf("got %+v", got)
	}
}

func TestCPUTimes(t *testing.T) {
	busy, all := cpuTimes("cpu  10 1 20 1000 500 2 3 4 99 99\ncpu0 1 1 1 1 1 1 1 1 1 1\n")
	if busy != 40 || all != 1540 {
		t.Errorf("busy %d of %d, want 40 of 1540", busy, all)
	}
}

// TestFindAgreesWithTheCensus runs the walk of the find jobs on an ordinary directory.
func TestFindAgreesWithTheCensus(t *testing.T) {
	testenv.NeedProgram(t, "find")
	root := t.TempDir()
	if err := fillTree(t.Context(), filepath.Join(root, statTree), 250); err != nil {
		t.Fatal(err)
	}
	want, err := count(filepath.Join(root, statTree))
	if err != nil || want.entries != 1+3+250 || want.bytes == 0 {
		t.Fatalf("census %+v, %v", want, err)
	}
	b := &bench{census: want}
	if seconds, err := b.find(t.Context(), target{root: root}); err != nil || seconds <= 0 {
		t.Errorf("%v s, %v", seconds, err)
	}
	b.census.bytes++
	if _, err := b.find(t.Context(), target{root: root}); err == nil {
		t.Error("a wrong sum of the sizes went unnoticed")
	}
}

func TestCopyTreeAndDigest(t *testing.T) {
	source, one, two := t.TempDir(), t.TempDir(), t.TempDir()
	if err := fillTree(t.Context(), source, 120); err != nil {
		t.Fatal(err)
	}
	for _, root := range []string{one, two} {
		for _, top := range []string{"data", statTree} {
			if err := os.Mkdir(filepath.Join(root, top), 0o755); err != nil {
				t.Fatal(err)
			}
		}
		n, err := copyTree(t.Context(), source, filepath.Join(root, sourceDir), 110)
		if err != nil || n != 110 {
			t.Fatalf("copied %d, %v", n, err)
		}
	}
	if a, b := digestIn(t, one), digestIn(t, two); a != b {
		t.Error("equal trees have different digests")
	}
	before := digestIn(t, two)
	name := filepath.Join(two, sourceDir, "dir001", "file00109.txt")
	info, err := os.Stat(name)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(name, make([]byte, info.Size()), 0o644); err != nil {
		t.Fatal(err)
	}
	if digestIn(t, two) == before {
		t.Error("changed data has the same digest")
	}
}

func digestIn(t *testing.T, root string) string {
	t.Helper()
	sum, err := digest(t.Context(), root)
	if err != nil {
		t.Fatal(err)
	}
	return sum
}
