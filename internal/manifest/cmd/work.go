package main

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"strconv"

	"golang.org/x/sys/unix"
)

// The functions below leave a log behind: each runs on a mounted filesystem that is shut down
// right afterwards.

// workBasic changes a bit of everything, in several transactions.
func workBasic(t *tree, _ []string) {
	for i := range 4 {
		dir := fmt.Sprintf("new%d", i)
		t.mkdir(dir)
		for j := range 20 {
			t.file(fmt.Sprintf("%s/%d", dir, j), j*300)
		}
		t.check("rename", os.Rename(t.path(dir+"/1"), t.path(dir+"/renamed")))
		t.check("unlink", os.Remove(t.path(dir+"/2")))
		t.check("truncate", os.Truncate(t.path(dir+"/19"), 1111))
		t.check("symlink", os.Symlink("target", t.path(dir+"/link")))
		t.xattr(dir, "user.round", []byte{byte(i)})
		t.sync(dir)
	}
}

// workRevoke fills directories, deletes them and lets file data take their blocks: replaying
// the journalled directory blocks would destroy the data. All of it has to fit into the log, or
// there is nothing left to replay; and there have to be more directories than blocks that the
// kernel holds back (2 %).
func workRevoke(t *tree, _ []string) {
	const dirs = 150
	for i := range dirs {
		dir := fmt.Sprintf("gone%03d", i)
		t.mkdir(dir)
		t.file(dir+"/a", 0)
	}
	t.sync(".")
	for i := range dirs {
		t.check("remove", os.RemoveAll(t.path(fmt.Sprintf("gone%03d", i))))
	}
	t.sync(".")
	f, err := os.Create(t.path("reuse"))
	t.check("create", err)
	for off := 0; err == nil; off += 4096 {
		_, err = f.WriteAt(pattern(5, off, 4096), int64(off))
	}
	if !errors.Is(err, unix.ENOSPC) {
		t.check("write", err)
	}
	t.check("sync", f.Sync())
	f.Close()
	t.sync(".")
}

// workEscape writes data blocks that begin with the journal's magic number; with data=journal
// they go through the log, where the number has to be escaped.
func workEscape(t *tree, _ []string) {
	bs := t.blockSize()
	block := pattern(1, 0, bs)
	binary.BigEndian.PutUint32(block, 0xc03b3998)
	t.check("write", os.WriteFile(t.path("escaped"), bytes.Repeat(block, 5), 0o644))
	t.file("plain", 3*bs)
	t.sync("escaped")
	t.check("write", os.WriteFile(t.path("escaped2"), bytes.Repeat(block, 2), 0o644))
	t.sync("escaped2")
}

// workFast does what a fast commit can hold, one fsync after each. The first fsync of a mount is
// a full commit, and so is one that has a symbolic link to commit.
func workFast(t *tree, _ []string) {
	t.check("symlink", os.Symlink("fc-target", t.path("fc-symlink")))
	t.file("fc-first", 0)
	t.sync("fc-first")
	t.file("fc-created", 3000)
	t.sync("fc-created")
	t.write("fc-created", 3000, 9000)
	t.sync("fc-created")
	t.check("link", os.Link(t.path("fc-created"), t.path("fc-linked")))
	t.sync("fc-linked")
	t.check("rename", os.Rename(t.path("fc-linked"), t.path("fc-renamed")))
	t.sync("fc-renamed")
	t.check("unlink", os.Remove(t.path("linked")))
	t.sync("fc-created")
	t.check("chmod", os.Chmod(t.path("fc-created"), 0o600))
	t.sync("fc-created")
	f, err := os.OpenFile(t.path("sizes/100001"), os.O_RDWR, 0)
	t.check("open", err)
	t.check("truncate", f.Truncate(50000))
	t.check("sync", f.Sync())
	const punch = 3 // FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE
	t.check("punch", unix.Fallocate(int(f.Fd()), punch, 8192, 16384))
	t.check("sync", f.Sync())
	t.check("fallocate", unix.Fallocate(int(f.Fd()), 0, 60000, 40000))
	t.check("sync", f.Sync())
	t.check("close", f.Close())
	t.file("fc-never-synced", 100)
}

// workFastDir makes a directory in a fast commit.
//
// NB: the kernel replays it with wrong counts of links and blocks.
func workFastDir(t *tree, _ []string) {
	t.file("fc-first", 0)
	t.sync("fc-first")
	t.mkdir("fc-dir")
	t.file("fc-dir/inside", 10)
	t.sync("fc-dir/inside")
	t.file("fc-dir/another", 20000)
	t.sync("fc-dir/another")
}

// workOrphans shuts the filesystem down while files that have no name are still open.
func workOrphans(t *tree, args []string) {
	var files []*os.File
	for i := range 12 {
		name := fmt.Sprintf("orphan%d", i)
		t.file(name, 10000*i)
		f, err := os.Open(t.path(name))
		t.check("open", err)
		files = append(files, f)
		t.check("unlink", os.Remove(t.path(name)))
	}
	t.file("kept", 5000)
	t.sync("kept")
	if len(args) > 0 {
		t.check("shutdown", shutdown([]string{t.dir, args[0]}))
	}
	for _, f := range files {
		f.Close()
	}
}

// workWrap commits N times, so that the log goes round.
func workWrap(t *tree, args []string) {
	n, err := strconv.Atoi(args[0])
	t.check("rounds", err)
	t.mkdir("wrap")
	for i := range n {
		name := fmt.Sprintf("wrap/%d", i%37)
		t.file(name, 100+i)
		t.xattr(name, "user.round", fmt.Append(nil, i))
		t.sync("wrap")
	}
}
