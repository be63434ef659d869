package main

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/hanwen/go-fuse/v2/posixtest"

	"asyncfsd/internal/testenv"
)

// TestPosix runs the conformance tests of go-fuse, each in a directory of its own.
func TestPosix(t *testing.T) {
	testenv.NeedRoot(t)
	for _, options := range []string{"kernel", "kernel,writeback_cache"} {
		t.Run(options, func(t *testing.T) {
			mnt, path := mountpoint(t), newImage(t)
			if r := asyncfsd(t, "-o", options, path, mnt); r.code != 0 {
				t.Fatalf("exit code %d: %s", r.code, r.stderr)
			}
			for name, test := range posixtest.All {
				// One process has a lock that it asks for again: go-fuse's locks are of files
				// and refuse that, those of POSIX are of processes.
				if name == "FcntlFlockLocksFile" {
					continue
				}
				dir := filepath.Join(mnt, name)
				if err := os.Mkdir(dir, 0o755); err != nil {
					t.Fatal(err)
				}
				t.Run(name, func(t *testing.T) { test(t, dir) })
			}
			umount(t, mnt)
			check(t, path)
		})
	}
}
