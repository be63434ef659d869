package main

import (
	"bytes"
	"fmt"
	"hash/fnv"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"asyncfsd/internal/manifest"
	"asyncfsd/internal/overring"
	"asyncfsd/internal/testenv"
)

const imagesDir = "../../testdata/images"

// binary is the command under test, built once.
var binary string

func TestMain(m *testing.M) {
	dir, err := os.MkdirTemp("", "asyncfsd-test-")
	if err != nil {
		panic(err)
	}
	_ = os.Chmod(dir, 0o755) // for tests that run as somebody else
	binary = filepath.Join(dir, "asyncfsd")
	build := exec.Command("go", "build", "-tags", "invariants", "-o", binary, ".")
	if out, err := build.CombinedOutput(); err != nil {
		fmt.Fprintf(os.Stderr, "%s%v\n", out, err)
		os.Exit(2)
	}
	restore, ok := overring.Allow()
	overRing = ok
	code := m.Run()
	_ = restore()
	_ = os.RemoveAll(dir)
	os.Exit(code)
}

// result is what a command did.
type result struct {
	code           int
	stdout, stderr string
}

// overRing says that requests can come over io_uring.
var overRing bool

// asyncfsd runs the command under test. Half of the tests, chosen by their names, get their
// requests by /dev/fuse, the others over io_uring.
func asyncfsd(t testing.TB, args ...string) result {
	t.Helper()
	return finish(t, exec.Command(binary, append(transport(t, args), args...)...))
}

// transport are arguments that choose how requests come, if args mount something.
func transport(t testing.TB, args []string) []string {
	if len(args) < 2 || args[0] == "umount" || strings.Contains(strings.Join(args, " "), "io=aio") {
		return nil
	}
	hash := fnv.New32a()
	_, _ = hash.Write([]byte(t.Name()))
	if overRing && hash.Sum32()&1 == 0 {
		return []string{"-o", "transport=uring"}
	}
	return []string{"-o", "transport=dev"}
}

// finish runs a command for at most 20 seconds.
func finish(t testing.TB, cmd *exec.Cmd) result {
	t.Helper()
	return finishIn(t, cmd, 20*time.Second)
}

func finishIn(t testing.TB, cmd *exec.Cmd, most time.Duration) result {
	t.Helper()
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	late := time.AfterFunc(most, func() { _ = cmd.Process.Kill() })
	_ = cmd.Wait()
	if !late.Stop() {
		t.Fatalf("%v did not end", cmd.Args)
	}
	return result{cmd.ProcessState.ExitCode(), stdout.String(), stderr.String()}
}

// mountpoint makes a directory to mount on, which is unmounted at the end whatever happens.
func mountpoint(t testing.TB) string {
	t.Helper()
	testenv.NeedFuse(t)
	dir := filepath.Join(t.TempDir(), "mnt")
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if mounted(t, dir) {
			t.Errorf("%s was left mounted", dir)
			_ = unix.Unmount(dir, unix.MNT_DETACH)
		}
	})
	return dir
}

// mounted says whether something is mounted on dir.
func mounted(t testing.TB, dir string) bool {
	t.Helper()
	text, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		t.Fatal(err)
	}
	return strings.Contains(string(text), " "+dir+" ")
}

// mount mounts a source and unmounts it at the end of the test.
func mount(t testing.TB, args ...string) {
	t.Helper()
	if r := asyncfsd(t, args...); r.code != 0 {
		t.Fatalf("%v: exit code %d: %s", args, r.code, r.stderr)
	}
	mnt := args[len(args)-1]
	t.Cleanup(func() { umount(t, mnt) })
}

func umount(t testing.TB, mnt string) {
	t.Helper()
	if r := asyncfsd(t, "umount", mnt); r.code != 0 {
		t.Errorf("umount: exit code %d: %s", r.code, r.stderr)
	}
}

// image unpacks a test image.
func image(t testing.TB, name string) (path string, img manifest.Image) {
	t.Helper()
	all, err := manifest.Images(imagesDir)
	if err != nil {
		t.Fatal(err)
	}
	img, found := manifest.Find(all, name)
	if !found {
		t.Fatalf("no image %s", name)
	}
	return manifest.Unpack(t, img), img
}
