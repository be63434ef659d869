package main

import (
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"asyncfsd/internal/daemon"
	"asyncfsd/internal/options"
)

// mountCommand is the command line of a mount.
type mountCommand struct {
	lists      []string
	foreground bool
	debug      bool
	fake       bool
	sloppy     bool
	// logged says that stderr is the file of the option log=.
	logged bool
}

func (m *mountCommand) run(_ *cobra.Command, args []string) error {
	c, err := m.config(args)
	switch {
	case err != nil || m.fake:
		return err
	case c.Options.Remount:
		return daemon.Remount(c.Mountpoint, c.Options)
	}
	status := inheritedStatus()
	switch {
	case m.foreground || m.debug || m.logged:
		c.Log = m.foregroundLog()
	case status == nil:
		return parent(c)
	default:
		if c.Log, err = backgroundLog(c.Options.Log); err != nil {
			return status.failed(err)
		}
	}
	if status == nil {
		return work(c, &report{})
	}
	c.Notice = status.note
	return status.failed(work(c, status))
}

// work mounts and serves until the end, by way of another process if that is to have fewer rights
// or to be watched.
func work(c daemon.Config, r *report) error {
	if o := c.Options; o.SetUser != "" || o.DropPrivileges || o.AutoUnmount {
		return monitor(c, r)
	}
	return serve(c, r)
}

func (m *mountCommand) foregroundLog() *slog.Logger {
	level := slog.LevelInfo
	if m.debug {
		level = slog.LevelDebug
	}
	return slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: level}))
}

// config makes a mount of the command line. Errors are of usage.
func (m *mountCommand) config(args []string) (c daemon.Config, err error) {
	o := options.New()
	o.Sloppy = m.sloppy
	for _, list := range m.lists {
		if err := o.Add(list); err != nil {
			return c, err
		}
	}
	if err := o.Finish(); err != nil {
		return c, err
	}
	if len(args) != 2 {
		return c, fmt.Errorf("needs SOURCE and MOUNTPOINT, has %d arguments; see asyncfsd --help",
			len(args))
	}
	// NB: the background process changes its directory.
	c = daemon.Config{Source: strings.TrimPrefix(args[0], "asyncfsd#"), Mountpoint: args[1],
		Options: o}
	m.logged = served(&c)
	for _, path := range []*string{&c.Source, &c.Mountpoint, &o.Journal, &o.LockFile, &o.Log} {
		if *path == "" {
			continue
		}
		if *path, err = filepath.Abs(*path); err != nil {
			return c, err
		}
	}
	// As the kernel will show it. What cannot be resolved is for the mount to complain about.
	// NB: not what is mounted already, which waits to be served by us.
	if !strings.HasPrefix(c.Mountpoint, "/dev/fd/") {
		if path, err := filepath.EvalSymlinks(c.Mountpoint); err == nil {
			c.Mountpoint = path
		}
	}
	return c, nil
}

// unmountPatience is how long a signal waits for a mount in use before it detaches it.
const unmountPatience = time.Second

// serve mounts and serves until the end.
func serve(c daemon.Config, r *report) error {
	i, err := daemon.Open(c)
	if err != nil {
		return err
	}
	signals := catch()
	m, err := i.Mount()
	if err != nil {
		i.Close()
		return err
	}
	defer m.Close()
	go obey(signals, m.Unmount, c.Log)
	return m.Serve(r.ready)
}

// catch begins to catch the signals that end a mount. NB: before it is there, so that none comes
// in between and leaves it behind.
func catch() chan os.Signal {
	signals := make(chan os.Signal, 2)
	signal.Notify(signals, unix.SIGTERM, unix.SIGINT, unix.SIGHUP)
	return signals
}

// obey unmounts at the first signal. At the second somebody is impatient.
func obey(signals chan os.Signal, unmount func(time.Duration) error, log *slog.Logger) {
	log.Info("unmounting", "signal", (<-signals).String())
	go func() {
		if err := unmount(unmountPatience); err != nil {
			log.Error("unmounting", "err", err)
		}
	}()
	log.Warn("ended before the mount did", "signal", (<-signals).String())
	os.Exit(daemon.ExitSystem)
}
