package fusefs

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"

	"golang.org/x/sys/unix"
)

// helper is the set-user-ID program that mounts for ordinary users.
const helper = "fusermount3"

// helperMount has fusermount3 mount; it sends the descriptor over a socket.
//
// NB: its own auto_unmount is not used. Version 3.14 looks whether the mount is dead by opening it
// as root, who is not let in without allow_other, and then leaves it.
func helperMount(o MountOptions) (*Mounted, error) {
	cmd := exec.Command(helper, "-o", strings.Join(o.helperWords(), ","), "--", o.Mountpoint)
	if cmd.Err != nil {
		return nil, fmt.Errorf("mounting on %s: without root this needs %s (package fuse3)",
			o.Mountpoint, helper)
	}
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("socketpair: %w", err)
	}
	ours, theirs := os.NewFile(uintptr(pair[0]), "ours"), os.NewFile(uintptr(pair[1]), "theirs")
	var said strings.Builder
	cmd.Env = append(os.Environ(), "_FUSE_COMMFD=3", "LC_ALL=C")
	cmd.ExtraFiles, cmd.Stderr = []*os.File{theirs}, &said
	err = cmd.Start()
	_ = theirs.Close()
	if err != nil {
		_ = ours.Close()
		return nil, fmt.Errorf("%s: %w", helper, err)
	}
	fd, err := receiveFD(pair[0])
	_, _ = cmd.Wait(), ours.Close()
	m := &Mounted{FD: fd, Note: firstLine(said.String())}
	switch {
	case err != nil && m.Note != "":
		return nil, errors.New(m.Note)
	case err != nil:
		return nil, fmt.Errorf("%s did not mount on %s: %w", helper, o.Mountpoint, err)
	}
	return m, nil
}

// helperWords are the options for fusermount3.
func (o *MountOptions) helperWords() []string {
	words := append(o.kernelWords(), "fsname="+escapeOption(o.Source))
	if o.Subtype != "" {
		words = append(words, "subtype="+escapeOption(o.Subtype))
	}
	for _, f := range o.flags() {
		words = append(words, f.word)
	}
	return words
}

// escapeOption protects commas and backslashes from fusermount3.
func escapeOption(s string) string {
	return strings.NewReplacer(`\`, `\\`, ",", `\,`).Replace(s)
}

func firstLine(s string) string {
	line, _, _ := strings.Cut(strings.TrimSpace(s), "\n")
	return line
}

// receiveFD takes the descriptor that comes over a socket.
func receiveFD(socket int) (int, error) {
	var byteBuf [1]byte
	oob := make([]byte, unix.CmsgSpace(4))
	for {
		n, oobn, _, _, err := unix.Recvmsg(socket, byteBuf[:], oob, unix.MSG_CMSG_CLOEXEC)
		if err == unix.EINTR {
			continue
		}
		if err != nil {
			return -1, err
		}
		if n == 0 {
			return -1, unix.ECONNRESET
		}
		messages, err := unix.ParseSocketControlMessage(oob[:oobn])
		if err != nil || len(messages) == 0 {
			return -1, unix.EBADMSG
		}
		fds, err := unix.ParseUnixRights(&messages[0])
		if err != nil || len(fds) == 0 {
			return -1, unix.EBADMSG
		}
		return fds[0], nil
	}
}
