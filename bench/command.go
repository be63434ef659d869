package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

// addSbinToPath: the administrator's programs are not on everybody's PATH.
func addSbinToPath() error {
	return os.Setenv("PATH", os.Getenv("PATH")+":/usr/sbin:/sbin")
}

// needPrograms returns an error that names every program that is missing.
func needPrograms(names []string) error {
	var missing []string
	for _, name := range names {
		if _, err := exec.LookPath(name); err != nil {
			missing = append(missing, name)
		}
	}
	if len(missing) > 0 {
		return fmt.Errorf("missing programs: %s (sh scripts/deps.sh installs them)",
			strings.Join(missing, ", "))
	}
	return nil
}

// command runs a program to its end and returns its standard output. The error holds what it
// wrote to standard error.
func command(ctx context.Context, name string, args ...string) ([]byte, error) {
	var out, complaint bytes.Buffer
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Stdout, cmd.Stderr = &out, &complaint
	if err := runGroup(cmd); err != nil {
		return nil, fmt.Errorf("%s: %w%s", filepath.Base(name), err, tail(complaint.Bytes()))
	}
	return out.Bytes(), nil
}

// runGroup runs cmd in a process group of its own, so that an interrupt from the terminal is
// ours to handle, and a cancelled command goes with all its children.
// NB: asked by SIGTERM, not forced: fio's jobs are processes in sessions of their own, which only
// fio itself ends.
func runGroup(cmd *exec.Cmd) error {
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGTERM) }
	cmd.WaitDelay = 5 * time.Second
	return cmd.Run()
}

// tail formats the last lines of a program's complaints for an error message.
func tail(text []byte) string {
	const linesMax = 5
	lines := strings.Split(strings.TrimSpace(string(text)), "\n")
	if len(lines) > linesMax {
		lines = lines[len(lines)-linesMax:]
	}
	if s := strings.Join(lines, "; "); s != "" {
		return ": " + s
	}
	return ""
}

// firstLine is the first line of what a program prints, wherever it prints it, or "" if there is
// no such program.
func firstLine(name string, args ...string) string {
	out, err := exec.Command(name, args...).CombinedOutput()
	line, _, _ := strings.Cut(strings.TrimSpace(string(out)), "\n")
	if line == "" && err != nil && !errors.Is(err, exec.ErrNotFound) {
		return "unknown"
	}
	return line
}
