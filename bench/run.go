package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"

	"asyncfsd/internal/overring"
)

// bench is the state of one run.
type bench struct {
	cfg        config
	undo       undo
	mountpoint string
	device     string // the loop device
	loopDirect bool   // whether it got the direct I/O it was asked for

	writing bool // the job that runs writes

	waited time.Duration // for the machine to be quiet

	census      census // of statTree
	sourceFiles int
}

// run measures, or only renders, and writes the results.
func run(ctx context.Context, cfg config) error {
	if cfg.render {
		res, err := readResults(cfg.out)
		if err != nil {
			return err
		}
		return writeReport(cfg.out, res)
	}
	b := &bench{cfg: cfg}
	defer b.undo.downTo(0)
	if err := b.prepare(ctx); err != nil {
		return err
	}
	res := newResults(b)
	if err := b.rounds(ctx, res); err != nil {
		return err
	}
	res.finish()
	if err := res.save(cfg.out); err != nil {
		return err
	}
	if err := writeReport(cfg.out, res); err != nil {
		return err
	}
	for _, w := range res.Warnings {
		fmt.Fprintln(os.Stderr, "bench: warning:", w)
	}
	fmt.Print(markdownFigures(res))
	return nil
}

// prepare brings about everything that the jobs need.
func (b *bench) prepare(ctx context.Context) error {
	if os.Getuid() != 0 {
		return errors.New("it attaches loop devices, mounts and drops caches: run it as root")
	}
	if err := addSbinToPath(); err != nil {
		return err
	}
	needs := []string{"fio", "find", "cat", "tar", "sync", "losetup", "mke2fs"}
	for _, s := range b.cfg.systems {
		needs = append(needs, s.needs...)
	}
	if err := needPrograms(needs); err != nil {
		return err
	}
	// NB: before thisMachine asks.
	if restore, ok := overring.Allow(); ok {
		b.undo.push("FUSE over io_uring as it was", restore)
	}
	work, err := os.MkdirTemp("", "asyncfsd-bench-")
	if err != nil {
		return err
	}
	b.undo.push("removing the mountpoint", func() error { return removeWork(work) })
	b.mountpoint = filepath.Join(work, "mnt")
	if err := os.Mkdir(b.mountpoint, 0o755); err != nil {
		return err
	}
	steps := []struct {
		say string
		run func(context.Context) error
	}{
		{"", b.findAsyncfsd},
		{"", b.findSource},
		{"making an image of " + fmt.Sprint((b.cfg.size+treeRoom)/mib) + " MiB", b.makeDevice},
		{"filling it", b.populate},
		{"comparing what the systems read", b.verify},
	}
	for _, s := range steps {
		if s.say != "" {
			fmt.Fprintln(os.Stderr, "bench:", s.say)
		}
		if err := s.run(ctx); err != nil {
			return err
		}
	}
	return nil
}

// removeWork removes the mountpoint and an asyncfsd that was built.
// NB: not os.RemoveAll: if an unmount failed, that would go down into the mounted filesystem.
func removeWork(work string) error {
	_ = os.Remove(filepath.Join(work, "asyncfsd"))
	return errors.Join(os.Remove(filepath.Join(work, "mnt")), os.Remove(work))
}

// findAsyncfsd builds the binary if it is needed and not there.
func (b *bench) findAsyncfsd(ctx context.Context) error {
	wanted := false
	for _, s := range b.cfg.systems {
		wanted = wanted || s.name == "asyncfsd"
	}
	if !wanted {
		return nil
	}
	if b.cfg.asyncfsd == "" {
		b.cfg.asyncfsd = filepath.Join(filepath.Dir(b.mountpoint), "asyncfsd")
	}
	path, err := filepath.Abs(b.cfg.asyncfsd)
	if err != nil {
		return err
	}
	b.cfg.asyncfsd = path
	if _, err := os.Stat(path); err == nil {
		return nil
	}
	fmt.Fprintln(os.Stderr, "bench: building asyncfsd")
	_, err = command(ctx, "go", "build", "-trimpath", "-o", path, "./cmd/asyncfsd")
	if err != nil {
		return fmt.Errorf("building asyncfsd (in its source directory?): %w", err)
	}
	return nil
}

// findSource takes the source of Go's library if no other tree was named.
func (b *bench) findSource(ctx context.Context) error {
	if b.cfg.source == "" {
		if _, err := exec.LookPath("go"); err != nil {
			return errors.New("no go program, whose library is the source tree: give -source")
		}
		b.cfg.source = filepath.Join(firstLine("go", "env", "GOROOT"), "src")
	}
	info, err := os.Stat(b.cfg.source)
	if err == nil && !info.IsDir() {
		err = &os.PathError{Op: "stat", Path: b.cfg.source, Err: unix.ENOTDIR}
	}
	if err != nil {
		return fmt.Errorf("-source: %w", err)
	}
	return ctx.Err()
}

// awaitQuiet returns which share of the CPUs was busy last, waiting for as long as -quiet allows
// in all the run until it is low: kernel ext4 suffers more from company than a daemon does, and
// one busy process is enough to multiply the latency of the loop device's worker.
func (b *bench) awaitQuiet(ctx context.Context) float64 {
	for {
		share := otherLoad(ctx, quietSample)
		if share <= quietMax || b.waited >= b.cfg.quiet || ctx.Err() != nil {
			return share
		}
		b.waited += quietSample
	}
}

// verify compares what every system reads with what the kernel reads.
func (b *bench) verify(ctx context.Context) error {
	if !b.cfg.verify {
		return nil
	}
	want := ""
	reference := system{name: "ext4", title: "kernel ext4", mount: mountKernel}
	for _, s := range append([]system{reference}, b.cfg.systems...) {
		if s.mount == nil || s.name == reference.name && want != "" {
			continue
		}
		got, err := b.digestOf(ctx, s)
		if err != nil {
			return fmt.Errorf("reading everything through %s: %w", s.title, err)
		}
		if want == "" {
			want = got
		}
		if got != want {
			return fmt.Errorf("%s reads something else than the kernel does", s.title)
		}
	}
	return nil
}

func (b *bench) digestOf(ctx context.Context, s system) (string, error) {
	var sum string
	err := b.with(ctx, s, func(t target) error {
		var err error
		sum, err = digest(ctx, t.root)
		return err
	})
	return sum, err
}

// with mounts a system on cold caches for the time of use. If the run is stopped meanwhile the
// daemon is killed, since what waits for it could not be stopped otherwise.
func (b *bench) with(ctx context.Context, s system, use func(target) error) error {
	t, err := b.ready(ctx, s)
	if err != nil {
		return err
	}
	if t.daemon != nil {
		defer context.AfterFunc(ctx, t.daemon.kill)()
	}
	return errors.Join(use(t), b.undo.pop())
}

// rounds runs every job on every system in every round. The systems alternate within a job,
// and which one is first moves on.
func (b *bench) rounds(ctx context.Context, res *results) error {
	for round := range b.cfg.rounds {
		for i, j := range b.cfg.jobs {
			for k := range b.cfg.systems {
				s := b.cfg.systems[(k+i+round)%len(b.cfg.systems)]
				if s.mount == nil && !j.raw {
					continue
				}
				if err := b.measure(ctx, res, round, j, s); err != nil {
					return fmt.Errorf("%s on %s: %w", j.name, s.title, err)
				}
			}
		}
	}
	return nil
}

// coldPasses is how often a cold job runs in a round, each time on a fresh mount and dropped
// caches; the first does not count and of the others the median does.
//
// On a virtual machine free memory may belong to the host (free page reporting): getting it back
// limits a read into the page cache to about 0.5 GiB/s, whatever the filesystem. What the pass
// before has freed is still there.
const coldPasses = 4

// measure adds one system's figure of a job in a round.
func (b *bench) measure(ctx context.Context, res *results, round int, j job, s system) error {
	res.noteBusy(b.awaitQuiet(ctx))
	b.writing = j.writes
	passes := 1
	if j.cold {
		passes = coldPasses
	}
	var figures []float64
	var used usage
	for range passes {
		err := b.with(ctx, s, func(t target) error {
			figure, peak, err := b.watched(ctx, j, t)
			figures = append(figures, figure)
			used.include(peak)
			return err
		})
		if err != nil {
			return err
		}
	}
	if j.cold {
		figures = figures[1:]
	}
	res.add(j, s, median(figures), used)
	fmt.Fprintf(os.Stderr, "bench: round %d/%d  %-16s  %-8s  %s  %v\n",
		round+1, b.cfg.rounds, j.name, s.name, format(median(figures), j.unit), figures)
	return nil
}

// watched runs a job on a target and watches the daemon meanwhile.
func (b *bench) watched(ctx context.Context, j job, t target) (float64, usage, error) {
	if t.daemon == nil {
		figure, err := j.run(ctx, b, t)
		return figure, usage{}, err
	}
	stop := t.daemon.watch()
	figure, err := j.run(ctx, b, t)
	return figure, stop(), err
}
