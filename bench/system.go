package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"
)

// system is one thing that is measured: a row of the table below.
type system struct {
	name  string
	title string
	color string // in the plots, #rrggbb
	needs []string
	// mount makes the device appear at the mountpoint, read-only but for jobs that write. It is nil
	// for the raw device.
	mount func(ctx context.Context, b *bench) (*daemon, error)
}

// systems are in the order of the table's columns. Nothing is tuned: each is mounted as its
// manual says to mount it read-only for everybody.
var systems = []system{
	{name: "raw", title: "raw device", color: "#8c8c8c"},
	{name: "ext4", title: "kernel ext4", color: "#4c72b0", mount: mountKernel},
	{name: "fuse2fs", title: "fuse2fs", color: "#dd8452", mount: mountFuse2fs,
		needs: []string{"fuse2fs", "fusermount3"}},
	{name: "asyncfsd", title: "asyncfsd", color: "#55a868", mount: mountAsyncfsd},
}

func (s system) key() string { return s.name }

// target is a system that is ready for a job.
type target struct {
	system system
	root   string  // the mountpoint; "" for the raw device
	data   string  // the file or device that fio reads
	daemon *daemon // nil if the kernel serves it
}

func mountKernel(_ context.Context, b *bench) (*daemon, error) {
	flags := uintptr(unix.MS_NOATIME)
	if !b.writing {
		flags |= unix.MS_RDONLY
	}
	return nil, unix.Mount(b.device, b.mountpoint, "ext4", flags, "")
}

// access is the mount option for what the job does.
func (b *bench) access() string {
	if b.writing {
		return "rw"
	}
	return "ro"
}

func mountFuse2fs(ctx context.Context, b *bench) (*daemon, error) {
	return startDaemon(ctx, b.mountpoint, "fuse2fs", "-f", "-o", b.access()+",allow_other",
		b.device, b.mountpoint)
}

func mountAsyncfsd(ctx context.Context, b *bench) (*daemon, error) {
	return startDaemon(ctx, b.mountpoint, b.cfg.asyncfsd, "-f", "-o",
		b.access()+","+b.cfg.options,
		b.device, b.mountpoint)
}

// ready mounts the system on cold caches. The caller pops the undo stack when done with it.
func (b *bench) ready(ctx context.Context, s system) (target, error) {
	t := target{system: s, data: b.device}
	if err := dropCaches(); err != nil {
		return t, err
	}
	if s.mount == nil {
		b.undo.push("nothing", func() error { return nil })
		return t, nil
	}
	d, err := s.mount(ctx, b)
	if err != nil {
		return t, fmt.Errorf("mounting by %s: %w", s.title, err)
	}
	b.undo.push("unmounting "+s.title, func() error {
		err := unmount(b.mountpoint)
		if d != nil {
			err = errors.Join(err, d.stop())
		}
		return err
	})
	t.root, t.daemon = b.mountpoint, d
	t.data = filepath.Join(b.mountpoint, dataFile)
	return t, nil
}

// unmount retries for as long as somebody passing by keeps the mount busy, then detaches it.
func unmount(mountpoint string) error {
	for range 100 {
		err := unix.Unmount(mountpoint, 0)
		if err == nil || errors.Is(err, unix.EINVAL) { // EINVAL: it is not mounted any more
			return nil
		}
		if !errors.Is(err, unix.EBUSY) {
			return os.NewSyscallError("umount", err)
		}
		time.Sleep(50 * time.Millisecond)
	}
	return errors.Join(fmt.Errorf("%s stays busy and is detached", mountpoint),
		unix.Unmount(mountpoint, unix.MNT_DETACH))
}
