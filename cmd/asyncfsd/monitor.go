package main

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/user"
	"runtime"
	"strconv"
	"syscall"

	"golang.org/x/sys/unix"

	"asyncfsd/internal/daemon"
)

// The process that serves has the mount as descriptor 3, and knows so by this variable.
const (
	servedEnv = "ASYNCFSD_SERVES"
	servedFD  = 3
)

// served changes a configuration for the process that serves what a monitor has mounted. It says
// whether stderr is the log.
func served(c *daemon.Config) (logged bool) {
	if os.Getenv(servedEnv) == "" {
		return false
	}
	_ = os.Unsetenv(servedEnv)
	o := c.Options
	c.Mountpoint = fmt.Sprintf("/dev/fd/%d", servedFD)
	o.SetUser, o.DropPrivileges, o.LockFile, o.AutoUnmount = "", false, "", false
	return o.Log != ""
}

// monitor is for setuid=, drop_privileges and auto_unmount. It keeps the rights to mount and
// unmount, which the process that reads the image and answers requests need not have: it mounts,
// starts that process, and when it has ended, however it ended, takes the mount away.
func monitor(c daemon.Config, r *report) error {
	who, err := identity(c.Options.SetUser)
	if err != nil {
		return err
	}
	release, err := daemon.Lock(c.Options.LockFile)
	if err != nil {
		return err
	}
	defer release()
	signals := catch()
	point, err := daemon.MountPoint(c, false, int(who.Uid), int(who.Gid))
	if err != nil {
		return err
	}
	defer point.Release()
	cmd, pipe, err := startServer(c, who, point.FD())
	_ = unix.Close(point.FD()) // so that the mount dies with its server
	if err != nil {
		_ = point.Detach()
		return err
	}
	go obey(signals, point.Unmount, c.Log)
	err = await(pipe, r.note)
	_ = pipe.Close()
	if err == nil {
		point.Settle()
		r.ready()
	}
	ended := cmd.Wait()
	detached := point.Detach()
	switch {
	case err != nil && !errors.Is(err, errSilent):
		return err
	case ended != nil:
		return systemError("the process that serves", ended)
	}
	return systemError("unmounting", detached)
}

// systemError makes an error of the system of err, nil of nil.
func systemError(what string, err error) error {
	if err == nil {
		return nil
	}
	return &daemon.Error{Code: daemon.ExitSystem, Err: fmt.Errorf("%s: %w", what, err)}
}

// startServer starts this command again, as the user who and without any capability if the
// options say so, to serve the mount on the descriptor fuse.
func startServer(c daemon.Config, who *syscall.Credential, fuse int) (*exec.Cmd, *os.File, error) {
	cmd, err := again()
	if err != nil {
		return nil, nil, err
	}
	dup, err := unix.FcntlInt(uintptr(fuse), unix.F_DUPFD_CLOEXEC, servedFD)
	if err != nil {
		return nil, nil, systemError("/dev/fuse", err)
	}
	file := os.NewFile(uintptr(dup), "fuse")
	defer file.Close()
	cmd.ExtraFiles = []*os.File{file}
	cmd.Env = append(cmd.Env, servedEnv+"=1")
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: who, Setpgid: true}
	cmd.Stderr = os.Stderr
	if path := c.Options.Log; path != "" { // which the user may not be allowed to open
		log, err := openLog(path)
		if err != nil {
			return nil, nil, err
		}
		defer log.Close()
		cmd.Stderr = log
	}
	pipe, err := startWith(cmd, c.Options.DropPrivileges)
	return cmd, pipe, err
}

// startWith starts a command, without any capability if renounced.
func startWith(cmd *exec.Cmd, renounced bool) (pipe *os.File, err error) {
	if !renounced {
		return startReporting(cmd)
	}
	started := make(chan struct{})
	go func() {
		defer close(started)
		// NB: never unlocked, so that the thread ends with what it has given up.
		runtime.LockOSThread()
		if err = renounce(); err == nil {
			pipe, err = startReporting(cmd)
		}
	}()
	<-started
	return pipe, err
}

// renounce has what this thread starts run without capabilities, for good.
func renounce() error {
	// SECBIT_NOROOT, SECBIT_NOROOT_LOCKED, SECBIT_KEEP_CAPS_LOCKED of capabilities(7).
	const bits = 1<<0 | 1<<1 | 1<<5
	err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
	if err == nil {
		err = unix.Prctl(unix.PR_CAP_AMBIENT, unix.PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0)
	}
	if err == nil {
		err = unix.Prctl(unix.PR_SET_SECUREBITS, bits, 0, 0, 0)
	}
	for c := uintptr(0); err == nil; c++ {
		if err = unix.Prctl(unix.PR_CAPBSET_DROP, c, 0, 0, 0); err == unix.EINVAL && c > 0 {
			return nil // that was the last one
		}
	}
	return systemError("drop_privileges", err)
}

// identity looks up a user, by name or number, "" for the one we are.
func identity(name string) (*syscall.Credential, error) {
	if name == "" {
		return &syscall.Credential{Uid: uint32(os.Getuid()), Gid: uint32(os.Getgid()),
			NoSetGroups: true}, nil
	}
	u, err := user.Lookup(name)
	if err != nil {
		if byID, idErr := user.LookupId(name); idErr == nil {
			u, err = byID, nil
		}
	}
	if err != nil {
		return nil, &daemon.Error{Code: daemon.ExitUsage, Err: fmt.Errorf("setuid=: %w", err)}
	}
	who := &syscall.Credential{NoSetGroups: os.Getuid() != 0}
	if who.Uid, err = number(u.Uid); err == nil {
		who.Gid, err = number(u.Gid)
	}
	groups, groupsErr := u.GroupIds()
	for i := 0; err == nil && groupsErr == nil && i < len(groups); i++ {
		var gid uint32
		gid, err = number(groups[i])
		who.Groups = append(who.Groups, gid)
	}
	return who, systemError("setuid="+name, err)
}

func number(s string) (uint32, error) {
	n, err := strconv.ParseUint(s, 10, 32)
	return uint32(n), err
}
