package vfs

import (
	"io"
	"strings"
	"sync/atomic"

	"golang.org/x/sys/unix"

	"asyncfsd/asyncq"
	"asyncfsd/blockdev"
	"asyncfsd/vfs/ext4"
)

// Client is the front of ordinary Go code: tests, tools and programs that read an image without
// mounting it. Each method begins an operation, waits for it and returns its result; any number
// of goroutines may call at once.
type Client struct {
	fs    *FS
	id    FrontID
	queue []*clientCall // guarded by the loop's lock
	some  atomic.Bool   // queue may be non-empty
	slots []*clientCall // by slot; the loop thread's
	cred  Cred
	of    *Client // whose queue it is, see As
}

// clientCall is one call under way. The goroutine owns it before it is queued and after done.
type clientCall struct {
	code Code
	node ext4.Ino
	off  uint64
	arg  uint32
	name string
	dst  []byte
	cred Cred
	// Of calls that write: src goes to the payload, fill sets the other arguments.
	src  []byte
	fill func(op *Op)

	attr    Attr
	n       int
	value   uint64
	entries []Dirent
	errno   unix.Errno
	done    bool
}

// Dirent is an entry of a directory as Client.ReadDir returns it.
type Dirent struct {
	Name string
	Ino  ext4.Ino
	Type uint8  // ext4 file type code
	Off  uint64 // cookie of the entry that follows
}

// NewClient adds a client to the filesystem, before its loop runs or on its thread.
func NewClient(fs *FS) *Client {
	c := &Client{fs: fs, slots: make([]*clientCall, fs.loop.Table.Len())}
	c.id = fs.AddFront(c)
	fs.loop.AddIntake(c)
	return c
}

// Intake moves calls into slots.
func (c *Client) Intake() (more bool) {
	if !c.some.Swap(false) {
		return false
	}
	c.fs.loop.Locked(func() {
		for len(c.queue) > 0 {
			call := c.queue[0]
			buf := blockdev.BufID(0)
			if len(call.src) > 0 {
				if buf = c.fs.arena.Get(len(call.src)); buf == 0 {
					c.some.Store(true)
					return
				}
				copy(c.fs.arena.Payload(buf), call.src)
			}
			s, op := c.fs.Claim(c.id)
			if s == asyncq.NoSlot {
				if buf != 0 {
					c.fs.arena.Put(c.fs.loop.Table, buf)
				}
				c.some.Store(true)
				return
			}
			c.queue = c.queue[1:]
			c.slots[s] = call
			op.Buf = buf
			op.Code, op.Node, op.Off, op.Arg, op.Cred = call.code, call.node, call.off, call.arg,
				call.cred
			op.Tag, op.Size = uint64(s), uint32(max(len(call.dst), len(call.src)))
			op.SetName([]byte(call.name))
			if call.fill != nil {
				call.fill(op)
			}
			c.fs.Submit(s)
		}
	})
	return false
}

// Reply copies the result out and wakes the caller.
func (c *Client) Reply(s asyncq.Slot, op *Op) {
	call := c.slots[s]
	c.slots[s] = nil
	call.attr, call.errno, call.value, call.n = op.Attr, op.Errno, op.Value, int(op.N)
	if op.Buf != 0 && op.Errno == 0 && len(call.dst) > 0 && op.Code != OpReaddir {
		copy(call.dst, c.fs.arena.Payload(op.Buf)[op.BufOff:op.BufOff+op.N])
	}
	c.fs.Done(s)
	c.fs.loop.Locked(func() { call.done = true })
}

// Held says no: a client opens nothing.
func (c *Client) Held(ext4.Ino) bool { return false }

// AddDirent collects entries; op.N counts their bytes so that a directory is read in pieces.
func (c *Client) AddDirent(op *Op, payload []byte, ent *ext4.Dirent, _ *Attr) bool {
	if int(op.N)+len(ent.Name) > len(payload) {
		return false
	}
	call := c.slots[op.Tag]
	call.entries = append(call.entries, Dirent{string(ent.Name), ent.Ino, ent.Type, ent.Off})
	op.N += uint32(len(ent.Name))
	return true
}

// owner is the client whose queue this one uses.
func (c *Client) owner() *Client {
	if c.of != nil {
		return c.of
	}
	return c
}

// do runs one call to its end.
func (c *Client) do(call *clientCall) error {
	if len(call.name) > 255 {
		return unix.ENAMETOOLONG
	}
	l := c.fs.loop
	call.cred = c.cred
	o := c.owner()
	l.Locked(func() { o.queue = append(o.queue, call) })
	o.some.Store(true)
	l.Engine().Wake()
	if err := l.Await(func() bool { return call.done }); err != nil {
		return err
	}
	if call.errno != 0 {
		return call.errno
	}
	return nil
}

// Lookup finds name in directory dir. ENOENT if it is not there.
func (c *Client) Lookup(dir ext4.Ino, name string) (Attr, error) {
	call := &clientCall{code: OpLookup, node: dir, name: name}
	if err := c.do(call); err != nil {
		return Attr{}, err
	}
	if call.attr.Ino == 0 {
		return Attr{}, unix.ENOENT
	}
	return call.attr, nil
}

// Resolve finds a path from the root on, without following symbolic links.
func (c *Client) Resolve(path string) (Attr, error) {
	attr, err := c.Getattr(ext4.RootIno)
	for _, name := range strings.Split(path, "/") {
		if err != nil {
			return Attr{}, err
		}
		if name != "" {
			attr, err = c.Lookup(attr.Ino, name)
		}
	}
	return attr, err
}

// Getattr returns what stat tells of an inode.
func (c *Client) Getattr(ino ext4.Ino) (Attr, error) {
	call := &clientCall{code: OpGetattr, node: ino}
	err := c.do(call)
	return call.attr, err
}

// Readlink returns the target of a symbolic link.
func (c *Client) Readlink(ino ext4.Ino) (string, error) {
	dst := make([]byte, unix.PathMax)
	call := &clientCall{code: OpReadlink, node: ino, dst: dst}
	err := c.do(call)
	return string(dst[:call.n]), err
}

// ReadAt reads file data at off through a descriptor of the public API; io.EOF at its end.
func (c *Client) ReadAt(ino ext4.Ino, p []byte, off int64) (int, error) {
	l := c.fs.loop
	h := c.fs.FileHandle(ino)
	defer func() { _ = l.CloseHandle(h) }()
	id, err := l.Start(h, off, true, asyncq.NewBuffer(p))
	if err != nil {
		return 0, err
	}
	n, err := l.Release(id)
	if err == nil && n < len(p) {
		err = io.EOF
	}
	return n, err
}

// dirBytes is how many bytes of names one piece of a Client.ReadDir collects.
const dirBytes = 16 << 10

// ReadDir returns all entries of a directory, "." and ".." included.
func (c *Client) ReadDir(ino ext4.Ino) ([]Dirent, error) {
	var all []Dirent
	for off := uint64(0); ; {
		call := &clientCall{code: OpReaddir, node: ino, off: off, dst: make([]byte, dirBytes)}
		if err := c.do(call); err != nil {
			return all, err
		}
		if len(call.entries) == 0 {
			return all, nil
		}
		all = append(all, call.entries...)
		off = all[len(all)-1].Off
	}
}

// Getxattr returns the value of an extended attribute by its full name. ENODATA if absent.
func (c *Client) Getxattr(ino ext4.Ino, name string) ([]byte, error) {
	dst := make([]byte, xattrMax)
	call := &clientCall{code: OpGetxattr, node: ino, name: name, dst: dst}
	err := c.do(call)
	return dst[:call.n], err
}

// Listxattr returns the names of all extended attributes.
func (c *Client) Listxattr(ino ext4.Ino) ([]string, error) {
	dst := make([]byte, xattrMax)
	call := &clientCall{code: OpListxattr, node: ino, dst: dst}
	if err := c.do(call); err != nil || call.n == 0 {
		return nil, err
	}
	return strings.Split(strings.TrimSuffix(string(dst[:call.n]), "\x00"), "\x00"), nil
}

// Seek finds data or a hole (unix.SEEK_DATA, SEEK_HOLE) from off on. ENXIO behind the last.
func (c *Client) Seek(ino ext4.Ino, off int64, whence uint32) (int64, error) {
	call := &clientCall{code: OpLseek, node: ino, off: uint64(off), arg: whence}
	err := c.do(call)
	return int64(call.value), err
}
