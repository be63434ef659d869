package vfs

import (
	"os"
	"os/exec"
	"syscall"
	"testing"

	"asyncfsd/internal/testenv"
)

// TestCredFind asks of processes who they are.
func TestCredFind(t *testing.T) {
	testenv.NeedRoot(t)
	cmd := exec.Command("sleep", "60")
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 12, Gid: 34}}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { _, _ = cmd.Process.Kill(), cmd.Wait() }()
	for _, c := range []struct{ have, want Cred }{
		{Cred{UID: 5, GID: 6, PID: uint32(os.Getpid())}, Cred{UID: 5, GID: 6}},
		{Cred{UID: UnknownID, GID: UnknownID, PID: uint32(os.Getpid())}, Cred{}},
		{Cred{UID: UnknownID, PID: uint32(cmd.Process.Pid)}, Cred{UID: 12, GID: 34}},
		{Cred{UID: UnknownID, PID: 1 << 30}, Cred{UID: nobody, GID: nobody}},
	} {
		if c.want.GID == 34 && (!c.have.InGroup(34) || c.have.InGroup(33)) {
			t.Errorf("%+v: wrong groups", c.have)
		}
		c.want.PID = c.have.PID
		if root := c.have.IsRoot(); root != (c.want.UID == 0) || c.have != c.want {
			t.Errorf("%+v, root: %v, want %+v", c.have, root, c.want)
		}
	}
}
