package main

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"testing"

	"golang.org/x/sys/unix"

	"asyncfsd/internal/testenv"
)

// quotaUser is an id that nobody else has.
const quotaUser = 54321

// TestQuotaMount goes to a user's limit through a mount, with and without the option that has it
// enforced. The daemon counts the same as e2fsck.
func TestQuotaMount(t *testing.T) {
	testenv.NeedRoot(t)
	testenv.NeedProgram(t, "dd", "setpriv")
	mnt, path := mountpoint(t), newImage(t, "-b", "1024", "-O", "quota,project")
	dir := filepath.Join(mnt, "dir")
	use := func(options string, f func()) {
		t.Helper()
		if r := asyncfsd(t, "-o", "allow_other,default_permissions,"+options, path,
			mnt); r.code != 0 || r.stderr != "" {
			t.Fatalf("exit code %d: %s", r.code, r.stderr)
		}
		f()
		umount(t, mnt)
		check(t, path)
	}
	use("rw", func() {
		if err := os.Mkdir(dir, 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.Chown(dir, quotaUser, quotaUser); err != nil {
			t.Fatal(err)
		}
	})
	testenv.SetLimits(t, path, testenv.QuotaUsers, quotaUser, testenv.Limits{BlocksHard: 200,
		InodesHard: 3})
	use("rw", func() { quotaWrite(t, filepath.Join(dir, "free"), 0, 300<<10) })
	use("usrquota", func() {
		quotaWrite(t, filepath.Join(dir, "more"), unix.EDQUOT, 0)
		for _, name := range []string{"free", "more"} {
			if err := os.Remove(filepath.Join(dir, name)); err != nil {
				t.Fatal(err)
			}
		}
	})
	use("usrquota", func() {
		quotaWrite(t, filepath.Join(dir, "limited"), unix.EDQUOT, 199<<10)
		quotaWrite(t, filepath.Join(dir, "second"), unix.EDQUOT, 0) // no blocks
		quotaWrite(t, filepath.Join(dir, "third"), unix.EDQUOT, -1) // no inodes
		if err := os.WriteFile(filepath.Join(dir, "root's"), make([]byte, 400<<10),
			0o644); err != nil {
			t.Errorf("root: %v", err)
		}
	})
	use("grpquota,noquota", func() { quotaWrite(t, filepath.Join(dir, "third"), 0, 300<<10) })
}

// quotaWrite has the user write 300 KiB to a new file, which has size bytes then, -1 if there is
// none.
func quotaWrite(t *testing.T, path string, want unix.Errno, size int64) {
	t.Helper()
	id := strconv.Itoa(quotaUser)
	cmd := exec.Command("setpriv", "--reuid", id, "--regid", id, "--clear-groups", "dd",
		"if=/dev/zero", "of="+filepath.Base(path), "bs=1k", "count=300")
	cmd.Dir = filepath.Dir(path) // whose path is closed to the user
	out, err := cmd.CombinedOutput()
	if full := bytes.Contains(out, []byte("quota exceeded")); (err != nil) != (want != 0) ||
		full != (want == unix.EDQUOT) {
		t.Errorf("%s: %v: %s", path, err, out)
	}
	var st unix.Stat_t
	if err := unix.Stat(path, &st); err == unix.ENOENT {
		st.Size = -1
	} else if err != nil {
		t.Fatal(err)
	}
	if st.Size != size {
		t.Errorf("%s has %d bytes, want %d", path, st.Size, size)
	}
}
