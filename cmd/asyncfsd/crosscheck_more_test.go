package main

import (
	bytesOf "encoding/binary"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"asyncfsd/internal/testenv"
)

// crossBed are the two mounts of a comparison.
type crossBed struct {
	t            *testing.T
	path, other  string
	ours, theirs string
	detach       func()
}

// newCrossBed mounts two copies of a new image of so many MiB. The kernel writes no zeros in place
// of unwritten extents, so that data and holes lie alike.
func newCrossBed(t *testing.T, size int, args ...string) *crossBed {
	t.Helper()
	testenv.NeedRoot(t)
	b := &crossBed{t: t, path: newImageOf(t, fmt.Sprint(size, "M"), args...), ours: mountpoint(t)}
	b.other = b.path + ".kernel"
	base, err := os.ReadFile(b.path)
	if err == nil {
		err = os.WriteFile(b.other, base, 0o600)
	}
	if err != nil {
		t.Fatal(err)
	}
	if r := asyncfsd(t, "-o", "allow_other", b.path, b.ours); r.code != 0 || r.stderr != "" {
		t.Fatalf("exit code %d: %s", r.code, r.stderr)
	}
	t.Cleanup(func() {
		if mounted(t, b.ours) {
			umount(t, b.ours)
		}
	})
	b.theirs, b.detach = kernelMount(t, b.other)
	t.Cleanup(b.detach)
	setZeroout(t, b.theirs)
	for _, root := range []string{b.ours, b.theirs} {
		if err := os.Chmod(root, 0o777); err != nil {
			t.Fatal(err)
		}
	}
	return b
}

// setZeroout tells the kernel's ext4 never to write zeros to unwritten extents.
func setZeroout(t *testing.T, mnt string) {
	t.Helper()
	var st unix.Stat_t
	if err := unix.Stat(mnt, &st); err != nil {
		t.Fatal(err)
	}
	device, err := filepath.EvalSymlinks(fmt.Sprintf("/sys/dev/block/%d:%d", unix.Major(st.Dev),
		unix.Minor(st.Dev)))
	if err == nil {
		err = os.WriteFile("/sys/fs/ext4/"+filepath.Base(device)+"/extent_max_zeroout_kb",
			[]byte("0"), 0)
	}
	if err != nil {
		testenv.Missing(t, "needs extent_max_zeroout_kb: "+err.Error())
	}
}

// both does something on both sides, and wants the same of it.
func (b *crossBed) both(what string, do func(root string) string) {
	b.t.Helper()
	if ours, theirs := do(b.ours), do(b.theirs); ours != theirs {
		b.t.Errorf("%s, asyncfsd and the kernel:\n%s", what, firstDifference(ours, theirs))
	}
}

// done unmounts both and has e2fsck look at them.
func (b *crossBed) done() {
	b.t.Helper()
	b.detach()
	umount(b.t, b.ours)
	check(b.t, b.path)
	check(b.t, b.other)
}

// fsIDs are whom a call is made for.
type fsIDs struct{ uid, gid int }

// as has this thread do something as somebody else, without the rights of root in file systems.
func as(id fsIDs, do func()) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	_, _ = unix.SetfsgidRetGid(id.gid)
	_, _ = unix.SetfsuidRetUid(id.uid)
	defer func() {
		_, _ = unix.SetfsuidRetUid(0)
		_, _ = unix.SetfsgidRetGid(0)
	}()
	do()
}

// TestCrosscheckUsers is the cross-check by several users: permissions, owners, setgid and sticky
// directories, ACLs, and flags that forbid changes.
func TestCrosscheckUsers(t *testing.T) {
	for seed := uint64(1); seed <= *crossRuns; seed++ {
		use := seed
		if *crossSeed != 0 {
			use = *crossSeed
		}
		t.Run(fmt.Sprint(use), func(t *testing.T) {
			b := newCrossBed(t, 64)
			r := &crossRun{t: t, rng: rand.New(rand.NewPCG(use, 23)), data: alignedMemory(t, 1<<17),
				buffer: alignedMemory(t, 1<<17), users: true,
				sides: [2]*crossSide{{root: b.ours}, {root: b.theirs}}}
			for i := range r.data {
				r.data[i] = byte(r.rng.Uint32() | 1)
			}
			r.run(2 * *crossOps)
			r.compare(b.ours, b.theirs)
			if !t.Failed() {
				b.done()
			}
		})
	}
}

// alike makes those errors one that depend on what is looked at first: the kernel does not know
// what flags a file has in a FUSE filesystem, so that it looks at what kind of file it is before.
var alike = strings.NewReplacer("EISDIR", "EPERM", "ENOTDIR", "EPERM")

// byUser has a call made by somebody.
func (r *crossRun) byUser(what string, f call) (string, call) {
	id := fsIDs{[]int{0, 1000, 1001, 1002}[r.rng.IntN(4)], []int{0, 1000, 1001}[r.rng.IntN(3)]}
	return fmt.Sprint(what, " by ", id), func(s *crossSide) (text string) {
		as(id, func() { text = f(s) })
		return text
	}
}

// rights makes up a call that is about who may do what.
func (r *crossRun) rights() (string, call) {
	a := r.path()
	switch r.rng.IntN(8) {
	case 0:
		mode := uint32(r.rng.IntN(0o10000))
		return fmt.Sprintf("mkdir %s %#o", a, mode), func(s *crossSide) string {
			return errnoName(unix.Mkdir(s.in(a), mode))
		}
	case 1:
		mode := uint32(r.rng.IntN(16))
		return fmt.Sprintf("access %s %d", a, mode), func(s *crossSide) string {
			return errnoName(unix.Faccessat(unix.AT_FDCWD, s.in(a), mode&7, unix.AT_EACCESS))
		}
	case 2, 3:
		acl := r.acl()
		key := []string{"system.posix_acl_access", "system.posix_acl_default"}[r.rng.IntN(2)]
		return fmt.Sprintf("setfacl %s %s %x", a, key, acl), func(s *crossSide) string {
			return errnoName(unix.Lsetxattr(s.in(a), key, acl, 0)) + xattrs(s.in(a))
		}
	case 4, 5:
		// Mostly none: what cannot be changed any more is dull.
		const immutable, appendOnly, noatime, nodump = 0x10, 0x20, 0x80, 0x40
		flags := []int{0, 0, 0, 0, immutable, appendOnly, noatime, nodump, 0x10000}[r.rng.IntN(9)]
		return fmt.Sprintf("chattr %s %#x", a, flags), func(s *crossSide) string {
			return changeFlags(s.in(a), flags)
		}
	case 6:
		uid, gid := []int{-1, 0, 1000, 1001}[r.rng.IntN(4)], []int{-1, 0, 1000, 1001}[r.rng.IntN(4)]
		return fmt.Sprint("chown ", a, uid, gid), func(s *crossSide) string {
			return errnoName(unix.Lchown(s.in(a), uid, gid))
		}
	}
	return "utimes now " + a, func(s *crossSide) string {
		return errnoName(unix.UtimesNanoAt(-1, s.in(a), nil, unix.AT_SYMLINK_NOFOLLOW))
	}
}

// acl makes up a POSIX ACL as in its attribute; not always a valid one.
func (r *crossRun) acl() []byte {
	acl := bytesOf.LittleEndian.AppendUint32(nil, 2)
	entry := func(tag uint16, id uint32) {
		acl = bytesOf.LittleEndian.AppendUint16(acl, tag)
		acl = bytesOf.LittleEndian.AppendUint16(acl, uint16(r.rng.IntN(8)))
		acl = bytesOf.LittleEndian.AppendUint32(acl, id)
	}
	const none = ^uint32(0)
	entry(1, none) // the owner
	named := r.rng.IntN(3)
	for i := range named {
		entry(2, 1000+uint32(i))
	}
	entry(4, none) // the group
	if r.rng.IntN(2) == 0 {
		entry(8, 1001)
		named++
	}
	if named > 0 && r.rng.IntN(9) > 0 {
		entry(16, none) // the mask
	}
	if r.rng.IntN(9) > 0 {
		entry(32, none) // others
	}
	return acl
}

// changeFlags sets flags of an inode as chattr does, and returns which there are then.
func changeFlags(path string, flags int) string {
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_NONBLOCK|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return errnoName(err)
	}
	defer unix.Close(fd)
	const settable = 0x10 | 0x20 | 0x40 | 0x80 | 0x10000
	have, err := unix.IoctlGetInt(fd, unix.FS_IOC_GETFLAGS)
	if err != nil {
		return "get " + errnoName(err)
	}
	err = unix.IoctlSetPointerInt(fd, unix.FS_IOC_SETFLAGS, have&^settable|flags)
	have, gerr := unix.IoctlGetInt(fd, unix.FS_IOC_GETFLAGS)
	return fmt.Sprintf("%s %s %#x", errnoName(err), errnoName(gerr), have&settable)
}

// TestCrosscheckHoles compares where data and holes are, and how many blocks files have.
func TestCrosscheckHoles(t *testing.T) {
	for _, args := range [][]string{{"-b", "4096"}, {"-b", "1024"}} {
		t.Run(args[1], func(t *testing.T) {
			b := newCrossBed(t, 64, args...)
			for seed := range uint64(40) {
				holes(b, seed)
			}
			b.done()
		})
	}
}

// holes makes a file with random calls on both sides, and looks for its data and holes.
func holes(b *crossBed, seed uint64) {
	b.t.Helper()
	var blocks []int64
	b.both(fmt.Sprint("file ", seed), func(root string) (text string) {
		rng := rand.New(rand.NewPCG(seed, 31))
		fd, err := unix.Open(filepath.Join(root, fmt.Sprint(seed)),
			unix.O_RDWR|unix.O_CREAT|unix.O_CLOEXEC, 0o600)
		if err != nil {
			return errnoName(err)
		}
		defer unix.Close(fd)
		for range 1 + rng.IntN(20) {
			text += holesCall(fd, rng)
		}
		if err := unix.Fsync(fd); err != nil {
			text += errnoName(err)
		}
		// NB: the kernel finds data where it has a page, too.
		_ = unix.Fadvise(fd, 0, 0, unix.FADV_DONTNEED)
		for _, whence := range []int{unix.SEEK_DATA, unix.SEEK_HOLE} {
			for off := int64(-1); off < 1<<20; off += 1 + rng.Int64N(40000) {
				at, err := unix.Seek(fd, off, whence)
				text += fmt.Sprintf("\n%d from %d: %d %s", whence, off, at, errnoName(err))
			}
		}
		var st unix.Stat_t
		_ = unix.Fstat(fd, &st)
		blocks = append(blocks, st.Blocks)
		return text + describe(&st)
	})
	// NB: how far extents are in one piece is up to who allocates, and with it how many blocks of
	// the tree there are: for at most 20 calls at most two.
	if d := blocks[0] - blocks[1]; d < -2*8 || d > 2*8 {
		b.t.Errorf("file %d: %d sectors, with the kernel %d", seed, blocks[0], blocks[1])
	}
}

// holesCall does one random call.
func holesCall(fd int, rng *rand.Rand) string {
	off, n := rng.Int64N(1<<19), 1+rng.Int64N(1<<(3+rng.IntN(14)))
	const keep = unix.FALLOC_FL_KEEP_SIZE
	switch rng.IntN(6) {
	case 0:
		return errnoName(unix.Ftruncate(fd, off))
	case 1:
		return errnoName(unix.Fallocate(fd, keep|unix.FALLOC_FL_PUNCH_HOLE, off, n))
	case 2:
		mode := []uint32{0, keep, unix.FALLOC_FL_ZERO_RANGE}[rng.IntN(3)]
		return errnoName(unix.Fallocate(fd, mode, off, n))
	}
	_, err := unix.Pwrite(fd, make([]byte, n), off)
	return errnoName(err)
}

// TestCrosscheckFull fills a small filesystem: with files, with blocks as a user and as root, and
// wants the same room for everything; and all of it again afterwards.
func TestCrosscheckFull(t *testing.T) {
	b := newCrossBed(t, 20, "-b", "4096", "-N", "200")
	b.statfs("at first", 0)
	b.both("files", func(root string) string {
		made := 0
		for err := error(nil); err == nil; made++ {
			err = unix.Mknod(filepath.Join(root, fmt.Sprint("file", made)), unix.S_IFREG|0o600, 0)
			if err != nil && err != unix.ENOSPC {
				return errnoName(err)
			}
		}
		return fmt.Sprint(made)
	})
	b.statfs("with many files", 0)
	b.both("fewer files", func(root string) (text string) {
		for i := range 20 {
			text += errnoName(unix.Unlink(filepath.Join(root, fmt.Sprint("file", i))))
		}
		return text
	})
	var sums [3][]int64
	for i, id := range []fsIDs{{1000, 1000}, {0, 0}, {1000, 1000}} {
		name := fmt.Sprint("full", i)
		for _, root := range []string{b.ours, b.theirs} {
			as(id, func() { sums[i] = append(sums[i], fillUp(t, filepath.Join(root, name))) })
		}
		// NB: the kernel keeps a little for its own allocations of metadata (s_resv_clusters, 2%).
		if d := sums[i][0] - sums[i][1]; d < 0 || d > 20<<20/50+256<<10 {
			t.Errorf("user %d: room for %d bytes, with the kernel %d", id.uid, sums[i][0],
				sums[i][1])
		}
	}
	b.both("removing", func(root string) (text string) {
		for i := range sums {
			text += errnoName(unix.Unlink(filepath.Join(root, fmt.Sprint("full", i))))
		}
		return text
	})
	b.statfs("in the end", 0)
	b.done()
}

// fillUp writes a file until there is no room, and returns its size.
func fillUp(t *testing.T, path string) int64 {
	fd, err := unix.Open(path, unix.O_WRONLY|unix.O_CREAT|unix.O_CLOEXEC, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	for _, size := range []int{1 << 20, 1 << 12} {
		for {
			if _, err := unix.Write(fd, make([]byte, size)); err == unix.ENOSPC {
				break
			} else if err != nil {
				t.Fatal(err)
			}
			_ = unix.Fsync(fd)
		}
	}
	if err := unix.Fsync(fd); err != nil && err != unix.ENOSPC {
		t.Error(err)
	}
	var st unix.Stat_t
	_ = unix.Fstat(fd, &st)
	return st.Size
}

// statfs compares what statfs(2) says of both, once everything is on the disk. Free blocks may
// differ by so many.
func (b *crossBed) statfs(when string, blocks int64) {
	b.t.Helper()
	var st [2]unix.Statfs_t
	for i, root := range []string{b.ours, b.theirs} {
		if fd, err := unix.Open(root, unix.O_RDONLY|unix.O_CLOEXEC, 0); err == nil {
			_ = unix.Syncfs(fd)
			_ = unix.Close(fd)
		}
		if err := unix.Statfs(root, &st[i]); err != nil {
			b.t.Fatal(err)
		}
	}
	ours, theirs := &st[0], &st[1]
	far := func(a, b uint64) bool { return int64(a-b) > blocks || int64(b-a) > blocks }
	if ours.Blocks != theirs.Blocks || ours.Bsize != theirs.Bsize || ours.Frsize != theirs.Frsize ||
		ours.Files != theirs.Files || ours.Ffree != theirs.Ffree || far(ours.Bfree, theirs.Bfree) ||
		far(ours.Bavail, theirs.Bavail) || ours.Namelen != theirs.Namelen {
		b.t.Errorf("statfs, %s: %+v instead of %+v", when, *ours, *theirs)
	}
}

// TestCrosscheckLinks has files and directories with as many links as there may be.
func TestCrosscheckLinks(t *testing.T) {
	const linkMax = 65000
	b := newCrossBed(t, 120, "-b", "1024", "-N", "66000")
	b.both("links", func(root string) string {
		first := filepath.Join(root, "file")
		if err := os.WriteFile(first, nil, 0o600); err != nil {
			return err.Error()
		}
		n := 1
		for err := error(nil); err == nil && n <= linkMax+1; n++ {
			if err = unix.Link(first, fmt.Sprint(first, n)); err != nil {
				var st unix.Stat_t
				_ = unix.Stat(first, &st)
				return fmt.Sprint(n, errnoName(err), st.Nlink)
			}
		}
		return fmt.Sprint(n)
	})
	b.both("one less", func(root string) (text string) {
		text = errnoName(unix.Unlink(filepath.Join(root, "file77")))
		text += errnoName(unix.Link(filepath.Join(root, "file"), filepath.Join(root, "again")))
		return text + errnoName(unix.Link(filepath.Join(root, "file"), filepath.Join(root, "more")))
	})
	b.both("directories", func(root string) string {
		parent := filepath.Join(root, "parent")
		if err := os.Mkdir(parent, 0o755); err != nil {
			return err.Error()
		}
		var st unix.Stat_t
		for i := range linkMax + 5 {
			if err := unix.Mkdir(filepath.Join(parent, fmt.Sprint(i)), 0o755); err != nil {
				_ = unix.Stat(parent, &st)
				return fmt.Sprint(i, errnoName(err), st.Nlink)
			}
		}
		_ = unix.Stat(parent, &st)
		return fmt.Sprint(st.Nlink)
	})
	b.done()
}
