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
	status := c.status()
	// The IDs that count for filesystems are the last of four.
	for _, f := range []struct {
		name string
		to   *uint32
	}{{"\nUid:", &c.UID}, {"\nGid:", &c.GID}} {
		if words := fields(status, f.name); len(words) == 4 {
			if id, err := strconv.ParseUint(string(words[3]), 10, 32); err == nil {
				*f.to = uint32(id)
			}
		}
	}
}

// InGroup says whether who asks is in a group.
func (c *Cred) InGroup(gid uint32) bool {
	c.find()
	if c.GID == gid {
		return true
	}
	for _, word := range fields(c.status(), "\nGroups:") {
		if id, err := strconv.ParseUint(string(word), 10, 32); err == nil && uint32(id) == gid {
			return true
		}
	}
	return false
}

// status reads what the kernel says of the process.
func (c *Cred) status() []byte {
	path := "/proc/" + strconv.FormatUint(uint64(c.PID), 10) + "/status"
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil
	}
	defer unix.Close(fd)
	text := make([]byte, 4096)
	n, err := unix.Read(fd, text)
	if err != nil {
		return nil
	}
	return text[:n]
}

// fields returns the words of a line of a status file.
func fields(status []byte, name string) [][]byte {
	_, line, _ := bytes.Cut(status, []byte(name))
	line, _, _ = bytes.Cut(line, []byte("\n"))
	return bytes.Fields(line)
}
