// Command bench measures asyncfsd against what it is measured by: kernel ext4, fuse2fs and, for
// data, the raw device. It makes one ext4 image on a loop device, fills it through the kernel,
// and then runs every job of the table on every system in turn, round after round, so that what
// else the machine does hits all of them alike. It writes results.json, results.md and plots.
//
// What makes the comparison fair:
//   - one image, one loop device, attached once, mounted by each system in turn, read-only
//     unless the job writes;
//   - every job starts cold: fresh mount, the kernel's caches dropped, nothing read before;
//   - systems alternate within each job, their order rotates, medians are compared;
//   - before anything is timed each system's answers are compared with the kernel's: a digest of
//     the trees and the data file.
//
// Everything it attaches, mounts and starts is undone at the end, on errors and on signals.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// config is what the command line says.
type config struct {
	rounds   int
	slice    time.Duration // of one time-based job
	size     int64         // of the data file, bytes
	files    int           // of either tree
	jobs     []job
	systems  []system
	asyncfsd string // the binary; built there if absent, "" builds it for this run only
	options  string // -o of asyncfsd
	out      string // where the results go
	dir      string // where the image lies
	source   string // the source tree that is copied
	timeout  time.Duration
	quiet    time.Duration // to wait for a quiet machine, in all
	direct   bool          // the loop device's own direct I/O
	verify   bool
	render   bool
}

func main() {
	cfg, err := parseFlags(os.Args[1:])
	if errors.Is(err, flag.ErrHelp) {
		return
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
	ctx, stop := signal.NotifyContext(context.Background(), unix.SIGINT, unix.SIGTERM, unix.SIGHUP)
	defer stop()
	ctx, cancel := context.WithTimeoutCause(ctx, cfg.timeout,
		fmt.Errorf("-timeout %v was reached", cfg.timeout))
	defer cancel()
	if err := run(ctx, cfg); err != nil {
		if ctx.Err() != nil {
			err = fmt.Errorf("stopped: %w", context.Cause(ctx))
		}
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

func parseFlags(args []string) (config, error) {
	var cfg config
	var size, jobNames, systemNames string
	f := flag.NewFlagSet("bench", flag.ContinueOnError)
	f.IntVar(&cfg.rounds, "rounds", 5, "rounds; their medians are compared")
	f.DurationVar(&cfg.slice, "time", 3*time.Second, "length of each time-based job")
	f.StringVar(&size, "size", "1G", "size of the data file")
	f.IntVar(&cfg.files, "files", 10000, "files in either tree")
	f.StringVar(&jobNames, "jobs", "", "jobs, by comma, all if empty: "+nameList(allJobs()))
	f.StringVar(&systemNames, "systems", "", "systems, all if empty: "+nameList(systems))
	f.StringVar(&cfg.asyncfsd, "asyncfsd", "", "the `binary`; built if it is not there")
	f.StringVar(&cfg.options, "options", "allow_other", "mount options of asyncfsd")
	f.StringVar(&cfg.out, "out", "docs/bench", "`directory` of the results")
	f.StringVar(&cfg.dir, "dir", "/dev/shm", "`directory` of the image file")
	f.StringVar(&cfg.source, "source", "", "source tree to copy (default: that of Go's library)")
	f.DurationVar(&cfg.timeout, "timeout", 30*time.Minute, "limit of the whole run")
	f.DurationVar(&cfg.quiet, "quiet", 2*time.Minute, "in all, wait for a quiet machine")
	f.BoolVar(&cfg.direct, "loop-direct", true, "the loop device uses direct I/O on its file")
	f.BoolVar(&cfg.verify, "verify", true, "compare what each system reads before it is timed")
	f.BoolVar(&cfg.render, "render", false, "only write table and plots anew from results.json")
	if err := f.Parse(args); err != nil {
		return cfg, err
	}
	if f.NArg() > 0 {
		return cfg, fmt.Errorf("unexpected argument %q", f.Arg(0))
	}
	var errs [3]error
	cfg.size, errs[0] = parseSize(size)
	cfg.jobs, errs[1] = choose(allJobs(), jobNames, "job")
	cfg.systems, errs[2] = choose(systems, systemNames, "system")
	return cfg, errors.Join(append(errs[:], cfg.check())...)
}

func (c config) check() error {
	switch {
	case c.rounds < 1:
		return errors.New("-rounds: at least 1 is needed")
	case c.slice < 100*time.Millisecond:
		return errors.New("-time: at least 100ms is needed")
	case c.files < 1:
		return errors.New("-files: at least 1 is needed")
	}
	return nil
}

// named is what can be chosen on the command line.
type named interface{ key() string }

func nameList[T named](all []T) string {
	var names []string
	for _, one := range all {
		names = append(names, one.key())
	}
	return strings.Join(names, ",")
}

// choose returns the named ones in the order of the table.
func choose[T named](all []T, names, kind string) ([]T, error) {
	if names == "" {
		return all, nil
	}
	wanted := strings.Split(names, ",")
	var chosen []T
	for _, one := range all {
		if i := slices.Index(wanted, one.key()); i >= 0 {
			chosen = append(chosen, one)
			wanted = slices.Delete(wanted, i, i+1)
		}
	}
	if len(wanted) > 0 {
		return nil, fmt.Errorf("no %s %q; there are %s", kind, wanted[0], nameList(all))
	}
	return chosen, nil
}

// parseSize reads a number of bytes with an optional suffix K, M or G, in whole MiB.
func parseSize(s string) (int64, error) {
	digits := strings.TrimRight(strings.ToUpper(s), "KMG")
	unit := map[string]int64{"": 1, "K": 1 << 10, "M": mib, "G": 1 << 30}
	factor, ok := unit[strings.ToUpper(s[len(digits):])]
	var n int64
	if _, err := fmt.Sscanf(digits, "%d", &n); err != nil || !ok || fmt.Sprint(n) != digits {
		return 0, fmt.Errorf("-size: %q is not a size such as 512M or 1G", s)
	}
	if n < 1 || n > 1<<40/factor || n*factor%mib != 0 {
		return 0, fmt.Errorf("-size: %q is not a whole number of MiB up to 1024G", s)
	}
	return n * factor, nil
}
