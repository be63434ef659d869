package main

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"asyncfsd/internal/testenv"
)

const (
	idBase  = 10000 // where the IDs 0 and up of the disk are in the mapped mount
	idCount = 1000
)

// idMap makes an idmapped copy of a mount.
func idMap(t *testing.T, mnt string) (mapped string) {
	t.Helper()
	space := exec.Command("sleep", "60")
	ids := []syscall.SysProcIDMap{{ContainerID: 0, HostID: idBase, Size: idCount}}
	space.SysProcAttr = &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWUSER, UidMappings: ids,
		GidMappings: ids}
	if err := space.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { _, _ = space.Process.Kill(), space.Wait() }()
	user, err := os.Open(fmt.Sprintf("/proc/%d/ns/user", space.Process.Pid))
	if err != nil {
		t.Fatal(err)
	}
	defer user.Close()
	tree, err := unix.OpenTree(unix.AT_FDCWD, mnt, unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(tree)
	err = unix.MountSetattr(tree, "", unix.AT_EMPTY_PATH, &unix.MountAttr{
		Attr_set: unix.MOUNT_ATTR_IDMAP, Userns_fd: uint64(user.Fd())})
	if err == unix.EINVAL {
		t.Skip("this kernel has no idmapped mounts of FUSE (Linux 6.12)")
	}
	if err != nil {
		t.Fatal(err)
	}
	mapped = filepath.Join(t.TempDir(), "mapped")
	if err := os.Mkdir(mapped, 0o755); err != nil {
		t.Fatal(err)
	}
	err = unix.MoveMount(tree, "", unix.AT_FDCWD, mapped, unix.MOVE_MOUNT_F_EMPTY_PATH)
	if err != nil {
		t.Fatal(err)
	}
	return mapped
}

// asUser runs a command as somebody else.
func asUser(id uint32, name string, args ...string) (string, error) {
	cmd := exec.Command(name, args...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: id, Gid: id + 1}}
	out, err := cmd.CombinedOutput()
	return string(out), err
}

// TestIDMapped has files show other owners in an idmapped mount, and what is made there belong to
// whom the mapping says. What is for root alone stays so.
func TestIDMapped(t *testing.T) {
	testenv.NeedRoot(t)
	testenv.NeedProgram(t, "fstrim")
	mnt, path := mountpoint(t), newImage(t)
	if r := asyncfsd(t, "-o", "kernel", path, mnt); r.code != 0 {
		t.Fatalf("exit code %d: %s", r.code, r.stderr)
	}
	// NB: others do not get to where tests have their directories.
	if err := os.Chmod(filepath.Dir(filepath.Dir(mnt)), 0o755); err != nil {
		t.Fatal(err)
	}
	defer check(t, path)
	defer umount(t, mnt)
	for _, err := range []error{os.WriteFile(mnt+"/plain", []byte("text"), 0o600),
		os.Chown(mnt+"/plain", 5, 6), os.Chmod(mnt, 0o777)} {
		if err != nil {
			t.Fatal(err)
		}
	}
	mapped := idMap(t, mnt)
	defer func() { _ = unix.Unmount(mapped, 0) }()
	for _, args := range [][]string{{"touch", mapped + "/made"}, {"mkdir", mapped + "/dir"},
		{"ln", "-s", "x", mapped + "/link"}} {
		if out, err := asUser(idBase+7, args[0], args[1:]...); err != nil {
			t.Errorf("%v: %v: %s", args, err, out)
		}
	}
	for name, want := range map[string]uint32{"plain": 5, "made": 7, "dir": 7, "link": 7} {
		for dir, base := range map[string]uint32{mnt: 0, mapped: idBase} {
			var st unix.Stat_t
			err := unix.Lstat(filepath.Join(dir, name), &st)
			if err != nil || st.Uid != base+want || st.Gid != base+want+1 {
				t.Errorf("%s: owner %d:%d, %v, want %d", filepath.Join(dir, name), st.Uid,
					st.Gid, err, base+want)
			}
		}
	}
	out, err := asUser(1, "fstrim", mnt)
	if err == nil || !strings.Contains(out, "not permitted") {
		t.Errorf("fstrim by somebody: %v, %s", err, out)
	}
	if out, err := asUser(0, "fstrim", mnt); err != nil {
		t.Errorf("fstrim by root: %v, %s", err, out)
	}
}
