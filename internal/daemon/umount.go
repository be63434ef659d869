package daemon

import (
	"errors"
	"fmt"
	"net"
	"os"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"asyncfsd/fusefs"
)

// waiters is the abstract socket on which those wait who want to know when a mount is over:
// connections stay open until everything is written and closed, or the process has ended.
type waiters struct {
	mu       sync.Mutex
	closed   bool
	listener net.Listener
	conns    []net.Conn
}

// waitersMax bounds how many wait for one mount: anybody may connect to an abstract socket.
const waitersMax = 32

// waitName is the socket's name. The device number belongs to one filesystem on the whole machine,
// but to another one as soon as that has ended: what tells them apart makes sure that nobody waits
// for the daemon of one that has ended, which may hang.
func waitName(info *fusefs.MountInfo) string {
	return fmt.Sprintf("@asyncfsd-mount-%s-%d", info.Device, info.Incarnation())
}

// listen begins to take connections.
func (w *waiters) listen(info *fusefs.MountInfo) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.closed {
		return nil
	}
	l, err := net.Listen("unix", waitName(info))
	if err != nil {
		return err
	}
	w.listener = l
	go w.accept(l)
	return nil
}

func (w *waiters) accept(l net.Listener) {
	for {
		c, err := l.Accept()
		if err != nil {
			return
		}
		w.mu.Lock()
		if w.closed || len(w.conns) == waitersMax {
			_ = c.Close()
		} else {
			w.conns = append(w.conns, c)
		}
		w.mu.Unlock()
	}
}

// close lets all go who wait.
func (w *waiters) close() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.closed = true
	if w.listener != nil {
		_ = w.listener.Close()
	}
	for _, c := range w.conns {
		_ = c.Close()
	}
	w.conns = nil
}

// dialWaiters connects to the daemon of a mount; nil if it is gone. Somebody else may have taken
// the name, and must not keep us waiting: the daemon is root's, ours, or the mount's owner's.
func dialWaiters(info *fusefs.MountInfo) net.Conn {
	c, err := net.Dial("unix", waitName(info))
	if err != nil {
		return nil
	}
	if !trusted(c.(*net.UnixConn), info) {
		_ = c.Close()
		return nil
	}
	return c
}

func trusted(c *net.UnixConn, info *fusefs.MountInfo) (ok bool) {
	raw, err := c.SyscallConn()
	if err != nil {
		return false
	}
	err = raw.Control(func(fd uintptr) {
		cred, err := unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED)
		owner, owned := info.Owner()
		ok = err == nil && (cred.Uid == 0 || int(cred.Uid) == os.Geteuid() ||
			owned && cred.Uid == owner)
	})
	return ok && err == nil
}

// UmountOptions says how to unmount.
type UmountOptions struct {
	// Lazy detaches the mount now; it ends when nobody uses it any more.
	Lazy bool
	// Force fails what is under way, for a daemon that hangs.
	Force bool
	// NoWait returns when the mount is gone; its daemon may still have to end.
	NoWait bool
	// Timeout bounds the wait for the daemon, 0 for ever.
	Timeout time.Duration
}

// findFUSE finds the mount of FUSE at path. Errors are *Error.
func findFUSE(path string) (*fusefs.MountInfo, error) {
	info, err := fusefs.FindMount(path)
	switch {
	case err != nil:
		return nil, fail(ExitSystem, err)
	case info == nil:
		return nil, fail(ExitMount, fmt.Errorf("%s: not mounted", path))
	case !strings.HasPrefix(info.Type, "fuse"):
		return nil, fail(ExitMount, fmt.Errorf("%s: a mount of type %s, not of FUSE", path,
			info.Type))
	}
	return info, nil
}

// Umount unmounts what is mounted at path and returns when its daemon has ended, unless its
// filesystem is mounted elsewhere, too. Errors are *Error.
func Umount(path string, o UmountOptions) error {
	info, err := findFUSE(path)
	if err != nil {
		return err
	}
	var conn net.Conn
	incarnation := info.Incarnation()
	if !o.NoWait {
		if conn = dialWaiters(info); conn != nil {
			defer conn.Close()
		}
	}
	if err := unmountFor(info.Mountpoint, o); err != nil {
		return fail(ExitMount, fmt.Errorf("%s: %w", path, err))
	}
	if conn == nil || livesOn(info, incarnation, o.Lazy) {
		return nil
	}
	return waitEnd(conn, path, o.Timeout)
}

// livesOn says whether a filesystem that was unmounted is mounted elsewhere, too: here, or in
// another namespace. One that was detached may just be in use.
func livesOn(info *fusefs.MountInfo, incarnation uint64, detached bool) bool {
	if incarnation != 0 && info.Incarnation() != incarnation {
		return false // NB: the next mount may have its number already
	}
	still, err := fusefs.StillMounted(info)
	return err == nil && still || !detached && incarnation != 0
}

// waitEnd waits for the end of a daemon.
func waitEnd(conn net.Conn, path string, timeout time.Duration) error {
	if timeout > 0 {
		_ = conn.SetReadDeadline(time.Now().Add(timeout))
	}
	_, err := conn.Read(make([]byte, 1))
	if errors.Is(err, os.ErrDeadlineExceeded) {
		return fail(ExitSystem, fmt.Errorf("%s: unmounted, but its daemon has not ended in %v",
			path, timeout))
	}
	return nil
}

// umountPatience is how long Umount tries a mount that is in use.
const umountPatience = 500 * time.Millisecond

func unmountFor(mountpoint string, o UmountOptions) error {
	if o.Force {
		if err := unix.Unmount(mountpoint, unix.MNT_FORCE|unix.UMOUNT_NOFOLLOW); err == nil {
			return nil
		}
	}
	if o.Lazy {
		return fusefs.Unmount(mountpoint, true)
	}
	err := fusefs.UnmountRetry(mountpoint, umountPatience)
	if errors.Is(err, unix.EBUSY) {
		return fmt.Errorf("in use: %w", err)
	}
	return err
}
