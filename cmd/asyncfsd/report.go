package main

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strconv"
	"strings"
	"sync"

	"golang.org/x/sys/unix"

	"asyncfsd/internal/daemon"
)

// report is how a mount that begins tells its progress to whoever waits for it: the process that
// started this one, which waits on a pipe, or a supervisor.
//
// What goes over the pipe are lines: "note TEXT" for the user to read, and at last "ok", or "fail
// CODE TEXT".
type report struct {
	mu    sync.Mutex
	pipe  *os.File // nil: nobody waits on a pipe
	works bool
}

// statusEnv tells a process on which descriptor its parent waits.
const statusEnv = "ASYNCFSD_STATUS_FD"

// inheritedStatus returns the report to the parent, nil if it waits for none.
func inheritedStatus() *report {
	fd, err := strconv.Atoi(os.Getenv(statusEnv))
	if err != nil {
		return nil
	}
	_ = os.Unsetenv(statusEnv)
	unix.CloseOnExec(fd)
	return &report{pipe: os.NewFile(uintptr(fd), "status")}
}

// note passes a line on to the user.
func (r *report) note(line string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.pipe != nil {
		fmt.Fprintf(r.pipe, "note %s\n", oneLine(line))
	}
}

// ready says that the mount works.
func (r *report) ready() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.works = true
	if r.pipe == nil {
		notifySystemd()
		return
	}
	_ = os.Chdir("/") // keep no other filesystem busy
	fmt.Fprintln(r.pipe, "ok")
	_ = r.pipe.Close()
	r.pipe = nil
}

// failed passes on why the mount ended, nil for an end without an error: to the parent if it never
// worked, and in any case to the caller.
func (r *report) failed(err error) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.works || r.pipe == nil {
		return err
	}
	if err == nil {
		err = &daemon.Error{Code: daemon.ExitMount, Err: errors.New("unmounted before it worked")}
	}
	code := daemon.ExitSystem
	var e *daemon.Error
	if errors.As(err, &e) {
		code = e.Code
	}
	fmt.Fprintf(r.pipe, "fail %d %s\n", code, oneLine(err.Error()))
	_ = r.pipe.Close()
	r.pipe = nil
	return &reportedError{err}
}

// reportedError is an error that the parent prints.
type reportedError struct{ error }

func (e *reportedError) Unwrap() error { return e.error }

func oneLine(s string) string { return strings.ReplaceAll(s, "\n", "; ") }

// await reads the reports of another process until its mount works (nil), or does not.
func await(pipe io.Reader, note func(string)) error {
	lines := bufio.NewScanner(pipe)
	for lines.Scan() {
		kind, rest, _ := strings.Cut(lines.Text(), " ")
		switch kind {
		case "note":
			note(rest)
		case "ok":
			return nil
		case "fail":
			code, text, _ := strings.Cut(rest, " ")
			if n, err := strconv.Atoi(code); err == nil {
				return &daemon.Error{Code: n, Err: errors.New(text)}
			}
		}
	}
	return errSilent
}

// errSilent says that a process ended without a word.
var errSilent = errors.New("the background process ended unexpectedly")

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
