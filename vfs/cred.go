package vfs

import (
	"bytes"
	"strconv"

	"golang.org/x/sys/unix"
)

// Cred is on whose behalf an operation is done.
type Cred struct{ UID, GID, PID uint32 }

// UnknownID is a user or group that the kernel does not tell: where mounts may be idmapped it says
// on whose behalf an inode is made, and of all else only which process asks.
const UnknownID = ^uint32(0)

// nobody is who a process is that cannot be asked.
const nobody = 65534

// IsRoot says whether root asks.
func (c *Cred) IsRoot() bool {
	c.find()
	return c.UID == 0
}

// find finds out who asks where the kernel did not tell: the process waits for the answer, so that
// it can be looked at. NB: a few system calls, for operations that are rare.
func (c *Cred) find() {
	if c.UID != UnknownID {
		return
	}
	c.UID, c.GID = nobody, nobody
	path := "/proc/" + strconv.FormatUint(uint64(c.PID), 10) + "/status"
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return
	}
	defer unix.Close(fd)
	var text [1024]byte
	n, err := unix.Read(fd, text[:])
	if err == nil {
		c.parse(text[:n])
	}
}

// parse takes the IDs that count for filesystems, which are the last of four.
func (c *Cred) parse(status []byte) {
	for _, f := range []struct {
		name string
		to   *uint32
	}{{"\nUid:", &c.UID}, {"\nGid:", &c.GID}} {
		_, line, _ := bytes.Cut(status, []byte(f.name))
		line, _, _ = bytes.Cut(line, []byte("\n"))
		if words := bytes.Fields(line); len(words) == 4 {
			if id, err := strconv.ParseUint(string(words[3]), 10, 32); err == nil {
				*f.to = uint32(id)
			}
		}
	}
}
