package main

import (
	"errors"
	"fmt"
	"io"
	"log/slog"
	"log/syslog"
	"net"
	"os"
	"os/exec"
	"os/user"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"asyncfsd/internal/daemon"
)

// statusEnv tells the background process on which descriptor its parent waits.
const statusEnv = "ASYNCFSD_STATUS_FD"

// ok is what the background process writes when the mount works; everything else is an exit code
// and a message.
const ok = "ok"

// parent starts the same command in the background and waits until it says how it went.
func parent(c daemon.Config) error {
	r, w, err := os.Pipe()
	if err != nil {
		return &daemon.Error{Code: daemon.ExitSystem, Err: err}
	}
	exe, err := os.Executable()
	if err != nil {
		return &daemon.Error{Code: daemon.ExitSystem, Err: err}
	}
	cmd := exec.Command(exe, os.Args[1:]...)
	cmd.Args[0] = os.Args[0]
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	cmd.ExtraFiles = append(passed(c.Source, c.Mountpoint), w)
	cmd.Env = append(os.Environ(), fmt.Sprintf("%s=%d", statusEnv, 2+len(cmd.ExtraFiles)))
	err = cmd.Start()
	_ = w.Close()
	if err != nil {
		return &daemon.Error{Code: daemon.ExitSystem, Err: err}
	}
	said, err := io.ReadAll(r)
	if string(said) == ok {
		return cmd.Process.Release()
	}
	waitErr := cmd.Wait()
	code, message, found := strings.Cut(string(said), " ")
	n, convErr := strconv.Atoi(code)
	if err != nil || !found || convErr != nil {
		return &daemon.Error{Code: daemon.ExitSystem,
			Err: fmt.Errorf("the background process ended unexpectedly: %v", waitErr)}
	}
	return &daemon.Error{Code: n, Err: errors.New(message)}
}

// passed returns the open descriptors from 3 on up to the last that an argument names as
// /dev/fd/N, so that the background process has them under the same numbers.
func passed(args ...string) (files []*os.File) {
	last := 2
	for _, arg := range args {
		if n, err := strconv.Atoi(strings.TrimPrefix(arg, "/dev/fd/")); err == nil {
			last = max(last, n)
		}
	}
	for fd := 3; fd <= last; fd++ {
		if _, err := unix.FcntlInt(uintptr(fd), unix.F_GETFD, 0); err != nil {
			fd, _ := os.Open(os.DevNull) // a hole: keep the numbers
			files = append(files, fd)
			continue
		}
		files = append(files, os.NewFile(uintptr(fd), "passed"))
	}
	return files
}

// statusPipe returns where the parent waits, nil if this is not the background process.
func statusPipe() *os.File {
	fd, err := strconv.Atoi(os.Getenv(statusEnv))
	if err != nil {
		return nil
	}
	_ = os.Unsetenv(statusEnv)
	unix.CloseOnExec(fd)
	return os.NewFile(uintptr(fd), "status")
}

// child mounts and serves in the background. What goes wrong before the mount works goes to the
// parent, what goes wrong later to the log.
func child(c daemon.Config, status *os.File) error {
	log, err := backgroundLog(c.Options.Log)
	if err == nil {
		c.Log = log
		working := false
		err = serve(c, func() {
			working = true
			_ = os.Chdir("/") // keep no other filesystem busy
			_, _ = status.WriteString(ok)
			_ = status.Close()
		})
		if working {
			if err != nil {
				c.Log.Error("ended", "err", err)
			}
			return err
		}
		if err == nil {
			err = errors.New("unmounted before it worked")
		}
	}
	code := daemon.ExitSystem
	var e *daemon.Error
	if errors.As(err, &e) {
		code = e.Code
	}
	_, _ = fmt.Fprintf(status, "%d %v", code, err)
	_ = status.Close()
	return err
}

// backgroundLog is where messages go: a file, the system's log, or nowhere.
func backgroundLog(path string) (*slog.Logger, error) {
	if path != "" {
		f, err := os.OpenFile(path, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
		if err != nil {
			return nil, &daemon.Error{Code: daemon.ExitMount, Err: fmt.Errorf("log: %w", err)}
		}
		return slog.New(slog.NewTextHandler(f, nil)), nil
	}
	w, err := syslog.New(syslog.LOG_DAEMON|syslog.LOG_INFO, "asyncfsd")
	if err != nil {
		return slog.New(slog.DiscardHandler), nil // a container without one
	}
	return slog.New(slog.NewTextHandler(w, nil)), nil
}

// notifySystemd tells a supervisor that the mount works (sd_notify(3)).
func notifySystemd() {
	path := os.Getenv("NOTIFY_SOCKET")
	if path == "" {
		return
	}
	conn, err := net.Dial("unixgram", path)
	if err != nil {
		return
	}
	defer conn.Close()
	_, _ = io.WriteString(conn, "READY=1")
}

// become gives up root for the user that setuid= names.
func become(name string) error {
	if name == "" {
		return nil
	}
	u, err := user.Lookup(name)
	if err != nil {
		u, err = user.LookupId(name)
	}
	if err == nil {
		uid, _ := strconv.Atoi(u.Uid)
		gid, _ := strconv.Atoi(u.Gid)
		if err = syscall.Setgroups([]int{gid}); err == nil {
			err = syscall.Setgid(gid)
		}
		if err == nil {
			err = syscall.Setuid(uid)
		}
	}
	if err != nil {
		return &daemon.Error{Code: daemon.ExitSystem, Err: fmt.Errorf("setuid=%s: %w", name, err)}
	}
	return nil
}
