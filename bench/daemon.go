package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"
)

const (
	mountWait = 20 * time.Second // for a daemon to mount
	stopWait  = 20 * time.Second // for a daemon to exit after the unmount
)

// daemon is a filesystem daemon run in the foreground as our child, so that its memory can be
// looked at, its end be awaited, and its complaints be shown.
type daemon struct {
	cmd  *exec.Cmd
	text bytes.Buffer // what it printed; read it after done only
	done chan struct{}
	err  error // how it ended, set before done is closed
	once sync.Once
}

// startDaemon returns when the mount is there and answers.
func startDaemon(ctx context.Context, mountpoint, name string, args ...string) (*daemon, error) {
	d := &daemon{cmd: exec.Command(name, args...), done: make(chan struct{})}
	d.cmd.Stdout, d.cmd.Stderr = &d.text, &d.text
	d.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := d.cmd.Start(); err != nil {
		return nil, err
	}
	go func() {
		d.err = d.cmd.Wait()
		close(d.done)
	}()
	if err := d.awaitMount(ctx, mountpoint); err != nil {
		d.kill()
		<-d.done
		_ = unmount(mountpoint)
		return nil, fmt.Errorf("%s: %w%s", filepath.Base(name), err, tail(d.text.Bytes()))
	}
	return d, nil
}

func (d *daemon) awaitMount(ctx context.Context, mountpoint string) error {
	ctx, cancel := context.WithTimeoutCause(ctx, mountWait,
		fmt.Errorf("no mount after %v", mountWait))
	defer cancel()
	stop := context.AfterFunc(ctx, d.kill) // so that the stat below cannot hang
	defer stop()
	for {
		mounted, err := isMounted(mountpoint)
		if err == nil && mounted {
			_, err = os.Stat(mountpoint)
		}
		if mounted || err != nil {
			return err
		}
		select {
		case <-d.done:
			if d.err == nil {
				return errors.New("it ended without a mount")
			}
			return d.err
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-time.After(2 * time.Millisecond):
		}
	}
}

// isMounted looks for the mountpoint in the fifth field of mountinfo.
func isMounted(mountpoint string) (bool, error) {
	text, err := os.ReadFile("/proc/self/mountinfo")
	for line := range strings.Lines(string(text)) {
		if f := strings.Fields(line); len(f) > 4 && f[4] == mountpoint {
			return true, nil
		}
	}
	return false, err
}

// kill ends the daemon and thereby every request that hangs in it.
func (d *daemon) kill() { d.once.Do(func() { _ = d.cmd.Process.Kill() }) }

// stop waits for the end of a daemon whose filesystem is unmounted.
func (d *daemon) stop() error {
	select {
	case <-d.done:
	case <-time.After(stopWait):
		d.kill()
		<-d.done
		return fmt.Errorf("%s did not end within %v of its unmount and was killed",
			filepath.Base(d.cmd.Path), stopWait)
	}
	if d.err != nil {
		return fmt.Errorf("%s: %w%s", filepath.Base(d.cmd.Path), d.err, tail(d.text.Bytes()))
	}
	return nil
}

// usage is what a daemon took during a job.
type usage struct {
	RSS     int64 `json:"peak_rss_kib"` // high-water mark of resident memory
	Threads int   `json:"threads"`      // the most that were seen
}

func (u *usage) include(other usage) {
	u.RSS, u.Threads = max(u.RSS, other.RSS), max(u.Threads, other.Threads)
}

// watch samples the daemon until stop is called, which returns the peak.
func (d *daemon) watch() (stop func() usage) {
	end, result := make(chan struct{}), make(chan usage)
	path := fmt.Sprintf("/proc/%d/status", d.cmd.Process.Pid)
	go func() {
		var peak usage
		tick := time.NewTicker(50 * time.Millisecond)
		defer tick.Stop()
		for {
			text, _ := os.ReadFile(path)
			peak.include(parseStatus(string(text)))
			select {
			case <-end:
				result <- peak
				return
			case <-tick.C:
			}
		}
	}()
	return func() usage { close(end); return <-result }
}

// parseStatus reads VmHWM and Threads of a /proc/PID/status.
func parseStatus(text string) usage {
	var u usage
	for line := range strings.Lines(text) {
		key, value, _ := strings.Cut(line, ":")
		f := strings.Fields(value)
		if len(f) == 0 {
			continue
		}
		switch n, _ := strconv.ParseInt(f[0], 10, 64); key {
		case "VmHWM":
			u.RSS = n
		case "Threads":
			u.Threads = int(n)
		}
	}
	return u
}
