package daemon

import (
	"errors"
	"fmt"
	"net"
	"os"
	"runtime"
	"time"

	"golang.org/x/sys/unix"

	"asyncfsd/asyncq"
	"asyncfsd/fusefs"
)

// Mount is a filesystem that is mounted and can be served.
type Mount struct {
	*Instance
	mounted   *fusefs.Mounted
	transport *fusefs.Transport
	waiters   net.Listener
	passed    bool // the mountpoint is a descriptor: somebody else unmounts
}

// readAhead is what is asked for in place of the 128 KiB that FUSE negotiates: one full request.
const readAhead = 1 << 20

// Mount mounts the filesystem. The kernel's requests wait until Serve runs.
func (i *Instance) Mount() (*Mount, error) {
	o, c := i.config.Options, &i.config
	source := o.FSName
	if source == "" {
		source = c.Source
	}
	mounted, err := fusefs.Mount(fusefs.MountOptions{Source: source, Subtype: o.Subtype,
		Mountpoint: c.Mountpoint, ReadOnly: true, NoDev: o.NoDev, NoSuid: o.NoSuid,
		NoExec: o.NoExec, NoAtime: o.NoAtime, AllowOther: o.AllowOther || o.AllowRoot,
		DefaultPermissions: !o.Fakeroot, AutoUnmount: o.AutoUnmount, MaxRead: o.MaxRead})
	if err != nil {
		code := ExitMount
		if errors.Is(err, fusefs.ErrNoFuse) {
			code = ExitSystem
		}
		return nil, fail(code, err)
	}
	m := &Mount{Instance: i, mounted: mounted}
	m.transport, err = fusefs.New(i.fs, mounted.FD, fusefs.Config{Log: i.log,
		EntryTimeout: o.EntryTimeout, AttrTimeout: o.AttrTimeout,
		NegativeTimeout: o.NegativeTimeout, NoACL: o.NoACL, OnlyRootAndOwner: o.AllowRoot})
	if err != nil {
		_ = fusefs.Unmount(c.Mountpoint, true)
		return nil, fail(ExitSystem, err)
	}
	return m, nil
}

// Serve serves the mount until it is unmounted, and calls ready once when it works. It keeps the
// calling goroutine's thread.
func (m *Mount) Serve(ready func()) error {
	// One thread for the loop, whose waits the runtime does not know of, one for all the rest.
	if runtime.GOMAXPROCS(0) != 2 {
		runtime.GOMAXPROCS(2)
	}
	if u, ok := m.engine.(*asyncq.Uring); ok {
		u.Raw = true
	}
	go func() {
		<-m.transport.Ready()
		m.settle()
		if ready != nil {
			ready()
		}
	}()
	err := m.loop.Run()
	if err == nil {
		err = m.transport.Err()
	}
	_ = unix.Close(m.mounted.FD)
	if m.waiters != nil {
		_ = m.waiters.Close()
	}
	return fail(ExitSystem, err)
}

// settle does what can be done only when the mount works: it costs a request or two.
func (m *Mount) settle() {
	info, err := fusefs.FindMount(m.config.Mountpoint)
	if err != nil || info == nil {
		return // on a passed descriptor, nobody knows where it is mounted
	}
	if err := fusefs.RaiseReadAhead(info, readAhead); err != nil && os.Geteuid() == 0 {
		m.log.Debug("readahead stays at its default", "err", err)
	}
	m.listen(info)
}

// Unmount unmounts: it waits a moment for others to let go, then detaches the mountpoint, and the
// mount ends when nobody uses it any more.
func (m *Mount) Unmount(patience time.Duration) error {
	err := fusefs.UnmountRetry(m.config.Mountpoint, patience)
	if errors.Is(err, unix.EBUSY) {
		m.log.Warn("still in use: detached, and served until it is not",
			"mountpoint", m.config.Mountpoint)
		err = fusefs.Unmount(m.config.Mountpoint, true)
	}
	return err
}

// waitName is the abstract socket on which those wait who want to know when a mount has ended.
func waitName(info *fusefs.MountInfo) string { return "@asyncfsd-mount-" + info.Device }

// listen keeps a socket open for as long as the process lives: whoever connects learns by the end
// of the connection that everything is written and closed.
func (m *Mount) listen(info *fusefs.MountInfo) {
	l, err := net.Listen("unix", waitName(info))
	if err != nil {
		m.log.Debug("umount will not wait for this mount", "err", err)
		return
	}
	m.waiters = l
	go func() {
		var all []net.Conn // kept open until the process ends
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			all = append(all, c)
		}
	}()
}

// Umount unmounts what is mounted at path and returns when its daemon has ended, or timeout (if
// not 0) has passed. Errors are *Error.
func Umount(path string, lazy bool, timeout time.Duration) error {
	info, err := fusefs.FindMount(path)
	if err != nil {
		return fail(ExitSystem, err)
	}
	if info == nil {
		return fail(ExitMount, fmt.Errorf("%s: not mounted", path))
	}
	conn, dialErr := net.Dial("unix", waitName(info))
	if err := unmountFor(info.Mountpoint, lazy); err != nil {
		return fail(ExitMount, fmt.Errorf("%s: %w", path, err))
	}
	if dialErr != nil {
		return nil // its daemon is gone
	}
	defer conn.Close()
	if timeout > 0 {
		_ = conn.SetReadDeadline(time.Now().Add(timeout))
	}
	_, err = conn.Read(make([]byte, 1))
	if errors.Is(err, os.ErrDeadlineExceeded) {
		return fail(ExitSystem, fmt.Errorf("%s: unmounted, but the daemon has not ended in %v",
			path, timeout))
	}
	return nil
}

// umountPatience is how long Umount tries a mount that is in use.
const umountPatience = 500 * time.Millisecond

func unmountFor(mountpoint string, lazy bool) error {
	if lazy {
		return fusefs.Unmount(mountpoint, true)
	}
	err := fusefs.UnmountRetry(mountpoint, umountPatience)
	if errors.Is(err, unix.EBUSY) {
		return fmt.Errorf("in use: %w", err)
	}
	return err
}
