package fusefs

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"asyncfsd/internal/testenv"
)

// mountAt mounts on a new directory, with nobody to serve it.
func mountAt(t *testing.T, dir string, o MountOptions) *Mounted {
	t.Helper()
	return mountBy(t, Mount, dir, o)
}

func mountBy(t *testing.T, how func(MountOptions) (*Mounted, error), dir string,
	o MountOptions) *Mounted {
	t.Helper()
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	o.Mountpoint = dir
	m, err := how(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = unix.Close(m.FD)
		_ = unix.Unmount(dir, unix.MNT_DETACH)
	})
	return m
}

// TestMount mounts as root, both ways, with a source that needs every escape there is.
func TestMount(t *testing.T) {
	testenv.NeedRoot(t)
	testenv.NeedFuse(t)
	testenv.NeedProgram(t, helper)
	for name, how := range map[string]func(MountOptions) (*Mounted, error){
		"mount(2)": directMount, "fusermount3": helperMount,
	} {
		t.Run(name, func(t *testing.T) {
			const source = `/srv/a b,c\d` + "\te"
			dir := filepath.Join(t.TempDir(), `x y\040z`)
			o := MountOptions{Source: source, Subtype: "asyncfsd", ReadOnly: true, NoDev: true,
				NoSuid: true, NoExec: true, AllowOther: true, DefaultPermissions: true}
			m := mountBy(t, how, dir, o)
			info, err := FindMount(dir)
			if err != nil || info == nil {
				t.Fatalf("not found: %v", err)
			}
			if info.Source != source || info.Type != "fuse.asyncfsd" || info.Mountpoint != dir {
				t.Errorf("%+v", info)
			}
			for _, word := range []string{"allow_other", "default_permissions", "user_id=0"} {
				if !strings.Contains(info.Super, word) {
					t.Errorf("no %s in %s", word, info.Super)
				}
			}
			if m.Note != "" || m.Passed {
				t.Errorf("%+v", m)
			}
			if err := UnmountRetry(dir, time.Second); err != nil {
				t.Error(err)
			}
			if info, err := FindMount(dir); info != nil || err != nil {
				t.Errorf("after unmount: %+v, %v", info, err)
			}
		})
	}
}

// TestMountOwner mounts for another user, with a type that has no subtype.
func TestMountOwner(t *testing.T) {
	testenv.NeedRoot(t)
	testenv.NeedFuse(t)
	dir := t.TempDir() + "/mnt"
	mountAt(t, dir, MountOptions{Source: "x", OwnerUID: 65534, OwnerGID: 65534})
	info, err := FindMount(dir)
	if err != nil || info == nil || info.Type != "fuse" {
		t.Fatalf("%+v, %v", info, err)
	}
	if uid, ok := info.Owner(); !ok || uid != 65534 {
		t.Errorf("owner %d %v", uid, ok)
	}
}

func TestUnmountBusy(t *testing.T) {
	testenv.NeedRoot(t)
	testenv.NeedFuse(t)
	dir := t.TempDir() + "/mnt"
	mountAt(t, dir, MountOptions{Source: "x", Subtype: "asyncfsd"})
	fd, err := unix.Open(dir, unix.O_PATH|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	if err := UnmountRetry(dir, 50*time.Millisecond); err != unix.EBUSY {
		t.Errorf("in use: %v", err)
	}
	let := time.AfterFunc(100*time.Millisecond, func() { _ = unix.Close(fd) })
	defer let.Stop()
	if err := UnmountRetry(dir, 5*time.Second); err != nil {
		t.Errorf("used for a moment: %v", err)
	}
	if err := Unmount(dir, false); err != unix.EINVAL {
		t.Errorf("not mounted: %v", err)
	}
}

func TestUnmountLazy(t *testing.T) {
	testenv.NeedRoot(t)
	testenv.NeedFuse(t)
	dir := t.TempDir() + "/mnt"
	mountAt(t, dir, MountOptions{Source: "x", Subtype: "asyncfsd"})
	fd, err := unix.Open(dir, unix.O_PATH|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	if err := Unmount(dir, true); err != nil {
		t.Error(err)
	}
	if info, err := FindMount(dir); info != nil || err != nil {
		t.Errorf("%+v, %v", info, err)
	}
}

func TestMountErrors(t *testing.T) {
	testenv.NeedFuse(t)
	dir := t.TempDir()
	file := filepath.Join(dir, "file")
	if err := os.WriteFile(file, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	null, err := os.Open(os.DevNull)
	if err != nil {
		t.Fatal(err)
	}
	defer null.Close()
	notFuse := fmt.Sprintf("/dev/fd/%d", null.Fd())
	for path, want := range map[string]string{
		dir + "/absent": "mountpoint " + dir + "/absent: no such file or directory",
		file:            "mountpoint " + file + ": not a directory",
		"/dev/fd/9999":  "mountpoint /dev/fd/9999: bad file descriptor",
		notFuse:         "mountpoint " + notFuse + ": not an open /dev/fuse",
	} {
		if _, err := Mount(MountOptions{Mountpoint: path}); err == nil || err.Error() != want {
			t.Errorf("%s: %v, want %s", path, err, want)
		}
	}
}

// TestMountDead mounts where a daemon has died.
func TestMountDead(t *testing.T) {
	testenv.NeedRoot(t)
	testenv.NeedFuse(t)
	dir := t.TempDir() + "/mnt"
	m := mountAt(t, dir, MountOptions{Source: "x", Subtype: "asyncfsd"})
	_ = unix.Close(m.FD)
	m.FD = -1
	_, err := Mount(MountOptions{Source: "x", Mountpoint: dir})
	if err == nil || !strings.Contains(err.Error(), "unmount it first") {
		t.Error(err)
	}
}

// TestNoHelper has an empty PATH.
func TestNoHelper(t *testing.T) {
	t.Setenv("PATH", "/nonexistent")
	dir := t.TempDir()
	_, err := helperMount(MountOptions{Source: "x", Mountpoint: dir})
	if err == nil || err.Error() != "mounting on "+dir+": without root this needs fusermount3 "+
		"(package fuse3)" {
		t.Error(err)
	}
	if err := helperUnmount(dir, false); !errors.Is(err, unix.EPERM) {
		t.Error(err)
	}
}

// TestHelperSays has what fusermount3 says passed on.
func TestHelperSays(t *testing.T) {
	testenv.NeedFuse(t)
	testenv.NeedProgram(t, helper)
	dir := t.TempDir()
	_, err := helperMount(MountOptions{Source: "x", Mountpoint: dir + "/absent"})
	if err == nil || !strings.HasPrefix(err.Error(), "fusermount3: ") ||
		strings.Contains(err.Error(), "\n") {
		t.Error(err)
	}
	err = helperUnmount(dir, false)
	if err == nil || !strings.HasPrefix(err.Error(), "fusermount3: ") {
		t.Error(err)
	}
}
