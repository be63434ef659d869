package asyncq

import (
	"errors"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
	"testing"

	seccomp "github.com/elastic/go-seccomp-bpf"
	"golang.org/x/sys/unix"

	"asyncfsd/internal/testenv"
)

// denyVar tells a re-executed test binary with which errno io_uring_setup is to fail.
const denyVar = "ASYNCFSD_TEST_DENY_URING"

// TestNewEngineForbidden runs itself again under a seccomp filter like those of container
// runtimes: the engine is AIO, says why, and works.
func TestNewEngineForbidden(t *testing.T) {
	if n, err := strconv.Atoi(os.Getenv(denyVar)); err == nil {
		underFilter(t, unix.Errno(n))
		return
	}
	if !seccomp.Supported() {
		testenv.Missing(t, "needs seccomp filters")
	}
	for _, errno := range []unix.Errno{unix.EPERM, unix.ENOSYS, unix.EACCES} {
		cmd := exec.Command(os.Args[0], "-test.run=^TestNewEngineForbidden$", "-test.v")
		cmd.Env = append(os.Environ(), denyVar+"="+strconv.Itoa(int(errno)))
		out, err := cmd.CombinedOutput()
		if err != nil || !strings.Contains(string(out), "under the filter") {
			t.Errorf("%v: %v\n%s", errno, err, out)
		}
	}
}

func underFilter(t *testing.T, errno unix.Errno) {
	err := seccomp.LoadFilter(seccomp.Filter{NoNewPrivs: true, Flag: seccomp.FilterFlagTSync,
		Policy: seccomp.Policy{DefaultAction: seccomp.ActionAllow,
			Syscalls: []seccomp.SyscallGroup{{Action: seccomp.ActionErrno | seccomp.Action(errno),
				Names: []string{"io_uring_setup"}}}}})
	if err != nil {
		t.Fatal(err)
	}
	if _, _, err := NewEngine("uring", 8); !errors.Is(err, errno) {
		t.Fatalf("io_uring under the filter: %v, want %v", err, errno)
	}
	e, why, err := NewEngine("", 8)
	if err != nil {
		t.Fatal(err)
	}
	defer e.Close()
	if e.Name() != "aio" || !strings.Contains(why, errno.Error()) || strings.Contains(why, "\n") {
		t.Fatalf("engine %s, why %q", e.Name(), why)
	}
	t.Log("under the filter:", why)
	engineData(t, e, openTarget(t, e, tempFile(t), unix.O_RDWR|unix.O_DIRECT), 4096)
}

// memlockVar is set in a test binary that is re-executed without privileges.
const memlockVar = "ASYNCFSD_TEST_MEMLOCK"

// TestUringMemlock: without privileges buffers are registered as far as the limit on locked
// memory goes, and the others work all the same.
func TestUringMemlock(t *testing.T) {
	if os.Getenv(memlockVar) != "" {
		underMemlock(t)
		return
	}
	testenv.NeedRoot(t)
	var old unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_MEMLOCK, &old); err != nil {
		t.Fatal(err)
	}
	limit := unix.Rlimit{Cur: 1 << 20, Max: old.Max}
	dir, err := os.MkdirTemp("", "asyncfsd-test-")
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(dir)
	binary := dir + "/test" // where an unprivileged user may read it
	data, err := os.ReadFile(os.Args[0])
	if err != nil {
		t.Fatal(err)
	}
	if err = errors.Join(os.Chmod(dir, 0o777), os.WriteFile(binary, data, 0o755),
		os.Chmod(binary, 0o755)); err != nil {
		t.Fatal(err)
	}
	if err = unix.Setrlimit(unix.RLIMIT_MEMLOCK, &limit); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = unix.Setrlimit(unix.RLIMIT_MEMLOCK, &old) }()
	cmd := exec.Command(binary, "-test.run=^TestUringMemlock$", "-test.v")
	cmd.Env, cmd.Dir = append(os.Environ(), memlockVar+"=1", "TMPDIR="+dir), dir
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
	out, err := cmd.CombinedOutput()
	if err != nil || !strings.Contains(string(out), "bytes registered") {
		t.Errorf("%v\n%s", err, out)
	}
}

func underMemlock(t *testing.T) {
	u, err := NewUring(8)
	if err != nil {
		testenv.Missing(t, "io_uring is not allowed here: "+err.Error())
	}
	t.Cleanup(func() { _ = u.Close() })
	small, large := pages(t, 64<<10), pages(t, 64<<20)
	u.AddBuffers(small)
	u.AddBuffers(large)
	if n := u.BuffersRegistered(); n != len(small) {
		t.Fatalf("%d bytes are registered under a limit of 1 MiB, want %d", n, len(small))
	}
	t.Log(u.BuffersRegistered(), "bytes registered")
	engineData(t, u, openTarget(t, u, tempFile(t), unix.O_RDWR|unix.O_DIRECT), 4096)
}
