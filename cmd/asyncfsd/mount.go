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
	kind       string
	verbose    bool
	foreground bool
	debug      bool
}

func (m *mountCommand) run(_ *cobra.Command, args []string) error {
	c, err := m.config(args)
	if err != nil {
		return err
	}
	if m.foreground || m.debug {
		level := slog.LevelInfo
		if m.debug {
			level = slog.LevelDebug
		}
		c.Log = slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: level}))
		return serve(c, notifySystemd)
	}
	if status := statusPipe(); status != nil {
		return child(c, status)
	}
	return parent(c)
}

// config makes a mount of the command line. Errors are of usage.
func (m *mountCommand) config(args []string) (daemon.Config, error) {
	o := options.New()
	for _, list := range m.lists {
		if err := o.Add(list); err != nil {
			return daemon.Config{}, err
		}
	}
	if err := o.Finish(); err != nil {
		return daemon.Config{}, err
	}
	if len(args) != 2 {
		return daemon.Config{}, fmt.Errorf("needs SOURCE and MOUNTPOINT, has %d arguments; "+
			"see asyncfsd --help", len(args))
	}
	source := strings.TrimPrefix(args[0], "asyncfsd#")
	source, err := filepath.Abs(source)
	if err != nil {
		return daemon.Config{}, err
	}
	mountpoint, err := filepath.Abs(args[1])
	return daemon.Config{Source: source, Mountpoint: mountpoint, Options: o}, err
}

// unmountPatience is how long a signal waits for a mount in use before it detaches it.
const unmountPatience = time.Second

// serve mounts and serves until the end. ready is called when the mount works.
func serve(c daemon.Config, ready func()) error {
	if err := become(c.Options.SetUser); err != nil {
		return err
	}
	i, err := daemon.Open(c)
	if err != nil {
		return err
	}
	defer i.Close()
	m, err := i.Mount()
	if err != nil {
		return err
	}
	unlock, err := lockFile(c.Options.LockFile)
	if err != nil {
		_ = m.Unmount(0)
		return err
	}
	defer unlock()
	signals := make(chan os.Signal, 2)
	signal.Notify(signals, unix.SIGTERM, unix.SIGINT, unix.SIGHUP)
	go func() {
		<-signals
		go func() {
			if err := m.Unmount(unmountPatience); err != nil {
				c.Log.Error("unmounting", "err", err)
			}
		}()
		<-signals // somebody is impatient
		os.Exit(daemon.ExitSystem)
	}()
	if !c.Options.ReadOnly {
		c.Log.Info("mounted read-only: this version cannot write", "source", c.Source)
	}
	return m.Serve(ready)
}

// lockFile makes the file that lockfile= asks for; remove takes it away at the end.
func lockFile(path string) (remove func(), err error) {
	if path == "" {
		return func() {}, nil
	}
	f, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o644)
	if err != nil {
		return nil, &daemon.Error{Code: daemon.ExitMount, Err: fmt.Errorf("lockfile: %w", err)}
	}
	_, err = fmt.Fprintln(f, os.Getpid())
	if closeErr := f.Close(); err == nil {
		err = closeErr
	}
	return func() { _ = os.Remove(path) }, err
}
