package daemon

import (
	"errors"
	"fmt"
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
	*Point
	transport *fusefs.Transport
}

// Point is where something is mounted.
type Point struct {
	config  Config
	mounted *fusefs.Mounted
	info    *fusefs.MountInfo // nil: nobody knows (a passed descriptor, no /proc)
	waiters waiters
}

// readAhead is what is asked for in place of the 128 KiB that FUSE negotiates: one full request.
const readAhead = 1 << 20

// MountPoint mounts what c says for a user, with nobody to serve it yet. readOnly is for what can
// only be read whatever c says. Errors are *Error.
func MountPoint(c Config, readOnly bool, uid, gid int) (*Point, error) {
	o := c.Options
	source := o.FSName
	if source == "" {
		source = c.Source
	}
	mounted, err := fusefs.Mount(fusefs.MountOptions{Source: source, Subtype: o.Subtype,
		Mountpoint: c.Mountpoint, ReadOnly: readOnly || o.ReadOnly, NoDev: o.NoDev,
		NoSuid: o.NoSuid, NoExec: o.NoExec, NoAtime: o.NoAtime, Sync: o.Sync, DirSync: o.DirSync,
		AllowOther:         o.AllowOther || o.AllowRoot,
		DefaultPermissions: !o.Fakeroot, MaxRead: o.MaxRead,
		OwnerUID: uid, OwnerGID: gid})
	if err != nil {
		code := ExitMount
		if errors.Is(err, fusefs.ErrNoFuse) {
			code = ExitSystem
		}
		return nil, fail(code, err)
	}
	p := &Point{config: c, mounted: mounted}
	if !mounted.Passed {
		p.info, _ = fusefs.FindMount(c.Mountpoint)
	}
	return p, nil
}

// idMapped says whether the mount may become an idmapped one: root mounted it, the kernel checks
// permissions, and nobody here has to know who makes a request.
func (p *Point) idMapped() bool {
	o := p.config.Options
	return os.Getuid() == 0 && !p.mounted.Passed && !o.Fakeroot && !o.AllowRoot
}

// FD returns the descriptor of /dev/fuse.
func (p *Point) FD() int { return p.mounted.FD }

// Mount mounts the filesystem. The kernel's requests wait until Serve runs.
func (i *Instance) Mount() (*Mount, error) {
	o, c := i.config.Options, &i.config
	point, err := MountPoint(*c, i.readOnly, os.Getuid(), os.Getgid())
	if err != nil {
		_ = i.finish()
		return nil, err
	}
	m := &Mount{Instance: i, Point: point}
	config := fusefs.Config{Log: i.log,
		EntryTimeout: o.EntryTimeout, AttrTimeout: o.AttrTimeout,
		NegativeTimeout: o.NegativeTimeout, NoACL: o.NoACL, OnlyRootAndOwner: o.AllowRoot,
		ReadOnly: i.readOnly, IDMapped: point.idMapped(), WritebackCache: o.WritebackCache,
		ColdOpens: o.StrictAtime}
	if i.rings != nil {
		config.Rings, config.Possible = i.rings, i.possible
	}
	m.transport, err = fusefs.New(i.fs, point.FD(), config)
	if err != nil {
		_ = point.Unmount(0)
		_ = i.finish()
		_ = unix.Close(point.FD())
		return nil, fail(ExitSystem, err)
	}
	if point.mounted.Note != "" {
		i.tell(point.mounted.Note)
	}
	return m, nil
}

// Serve serves the mount until it is unmounted, and calls ready once when it works. It keeps the
// calling goroutine's thread.
func (m *Mount) Serve(ready func()) error {
	// One for each thread of the loop, whose waits the runtime does not know of, one for the rest.
	procs := 2
	switch u := m.engine.(type) {
	case *asyncq.Uring:
		u.Raw = true
	case *asyncq.Rings:
		u.SetRaw()
		procs = u.Threads() + 1
	}
	if runtime.GOMAXPROCS(0) != procs {
		runtime.GOMAXPROCS(procs)
	}
	over := make(chan struct{})
	defer close(over)
	if !m.Instance.config.Options.NoLowLatency {
		if l := newLatency(m.transport, m.log); l != nil {
			go l.run(over)
		}
	}
	go func() {
		select {
		case <-over:
			return
		case <-m.transport.Ready():
		}
		m.Settle()
		if ready != nil {
			ready()
		}
	}()
	err := m.loop.Run()
	if err == nil {
		err = m.transport.Err()
		// NB: before the descriptor is closed, which operations still answer to.
		err = errors.Join(err, m.finish())
	}
	_ = unix.Close(m.FD())
	return fail(ExitSystem, err)
}

// finish has everything written and marked clean once the kernel asks for nothing more.
func (i *Instance) finish() error {
	if i.readOnly {
		return nil
	}
	if err := i.fs.Unmount(); err != nil {
		return fmt.Errorf("%s: unmounting: %w", i.config.Source, err)
	}
	return nil
}

// Close gives back everything once Serve has returned, and lets those go who wait for that.
func (m *Mount) Close() {
	m.Instance.Close()
	m.Release()
}

// Release lets those go who wait for the end of the mount.
func (p *Point) Release() { p.waiters.close() }

// Settle does what is left when the mount works.
func (p *Point) Settle() {
	if p.info == nil {
		return
	}
	if err := fusefs.RaiseReadAhead(p.info, readAhead); err != nil && os.Geteuid() == 0 {
		p.config.Log.Debug("readahead stays at its default", "err", err)
	}
	if err := p.waiters.listen(p.info); err != nil {
		p.config.Log.Debug("umount will not wait for this mount", "err", err)
	}
}

// Unmount unmounts: it waits a moment for others to let go, then detaches the mountpoint, and the
// mount ends when nobody uses it any more.
func (p *Point) Unmount(patience time.Duration) error {
	err := fusefs.UnmountRetry(p.config.Mountpoint, patience)
	if errors.Is(err, unix.EBUSY) {
		p.config.Log.Warn("still in use: detached, and served until it is not",
			"mountpoint", p.config.Mountpoint)
		err = fusefs.Unmount(p.config.Mountpoint, true)
	}
	return err
}

// Detach takes the mount away if it is still there, in use or not.
func (p *Point) Detach() error {
	if p.info == nil {
		return nil
	}
	info, err := fusefs.FindMount(p.config.Mountpoint)
	if err != nil || info == nil || info.Device != p.info.Device {
		return err
	}
	return fusefs.Unmount(p.config.Mountpoint, true)
}

// Unmount ends the mount, see Point.Unmount. What was mounted by somebody else, who passed the
// descriptor, is not ours to unmount: it is served no more.
func (m *Mount) Unmount(patience time.Duration) error {
	if m.mounted.Passed {
		m.loop.Stop()
		return nil
	}
	return m.Point.Unmount(patience)
}
