package main

import (
	"errors"
	"fmt"
	"log/slog"
	"log/syslog"
	"os"
	"os/exec"
	"runtime/debug"
	"slices"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"asyncfsd/internal/daemon"
)

// parent starts the same command in the background and waits until it says how it went.
func parent(c daemon.Config) error {
	cmd, err := again()
	if err != nil {
		return err
	}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	cmd.ExtraFiles = passed(c.Source, c.Mountpoint)
	pipe, err := startReporting(cmd)
	if err != nil {
		return err
	}
	defer pipe.Close()
	switch err := await(pipe, say); {
	case err == nil:
		return cmd.Process.Release()
	case errors.Is(err, errSilent):
		return &daemon.Error{Code: daemon.ExitSystem, Err: fmt.Errorf("%w: %v", err, cmd.Wait())}
	default:
		_ = cmd.Wait() // the mount is gone when it has ended
		return err
	}
}

// again is this command once more.
func again() (*exec.Cmd, error) {
	exe, err := os.Executable()
	if err != nil {
		return nil, &daemon.Error{Code: daemon.ExitSystem, Err: err}
	}
	cmd := exec.Command(exe, os.Args[1:]...)
	cmd.Args[0] = os.Args[0]
	cmd.Env = os.Environ()
	return cmd, nil
}

// startReporting starts a command with a pipe for its report as its last descriptor.
func startReporting(cmd *exec.Cmd) (pipe *os.File, err error) {
	r, w, err := os.Pipe()
	if err == nil {
		cmd.ExtraFiles = append(cmd.ExtraFiles, w)
		cmd.Env = append(cmd.Env, fmt.Sprintf("%s=%d", statusEnv, 2+len(cmd.ExtraFiles)))
		err = cmd.Start()
		_ = w.Close()
	}
	if err != nil {
		return nil, &daemon.Error{Code: daemon.ExitSystem, Err: err}
	}
	return r, nil
}

// passed returns the open descriptors that arguments name as /dev/fd/N, N > 2, at place N-3 for
// the background process to have them under the same numbers.
func passed(args ...string) (files []*os.File) {
	var named []int
	for _, arg := range args {
		text, ok := strings.CutPrefix(arg, "/dev/fd/")
		n, err := strconv.Atoi(text)
		if !ok || err != nil || n < 3 {
			continue
		}
		if _, err := unix.FcntlInt(uintptr(n), unix.F_GETFD, 0); err == nil {
			named = append(named, n)
		}
	}
	if len(named) == 0 {
		return nil
	}
	for fd := 3; fd <= slices.Max(named); fd++ {
		file, _ := os.Open(os.DevNull) // NB: a hole, to keep the numbers
		if slices.Contains(named, fd) {
			file = os.NewFile(uintptr(fd), "passed")
		}
		files = append(files, file)
	}
	return files
}

// backgroundLog is where messages go: a file, the system's log, or nowhere.
func backgroundLog(path string) (*slog.Logger, error) {
	if path != "" {
		f, err := openLog(path)
		if err != nil {
			return nil, err
		}
		_ = debug.SetCrashOutput(f, debug.CrashOptions{})
		return slog.New(slog.NewTextHandler(f, nil)), nil
	}
	w, err := syslog.New(syslog.LOG_DAEMON|syslog.LOG_INFO, "asyncfsd")
	if err != nil {
		return slog.New(slog.DiscardHandler), nil // a container without one
	}
	return slog.New(slog.NewTextHandler(w, nil)), nil
}

func openLog(path string) (*os.File, error) {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return nil, &daemon.Error{Code: daemon.ExitMount, Err: fmt.Errorf("log: %w", err)}
	}
	return f, nil
}
