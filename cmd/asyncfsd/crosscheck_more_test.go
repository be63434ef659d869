package main

import (
	bytesOf "encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"regexp"
	"runtime"
	"strconv"
	"strings"
	"testing"
	"unsafe"

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
		parent := filepath.Dir(root)
		for dir, mode := range map[string]os.FileMode{root: 0o777, parent: 0o755,
			filepath.Dir(parent): 0o755} {
			if err := os.Chmod(dir, mode); err != nil {
				t.Fatal(err)
			}
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
			b.both("tree", func(root string) string { return lockBits(tree(t, root)) })
			if !t.Failed() {
				b.done()
			}
		})
	}
}

// agree says whether two results by users are the same. What the kernel refuses for a flag of an
// inode, as no daemon of FUSE can tell it of, may have been refused for another reason before.
func agree(ours, theirs string) bool {
	ours, theirs = lockBits(ours), lockBits(theirs)
	if ours == "may" && theirs == "EPERM" { // access
		return true
	}
	a, b := errnos.FindAllString(ours, -1), errnos.FindAllString(theirs, -1)
	if len(a) != len(b) ||
		errnos.ReplaceAllString(ours, "E") != errnos.ReplaceAllString(theirs, "E") {
		return false
	}
	for i := range a {
		if a[i] != b[i] && b[i] != "EPERM" {
			return false
		}
	}
	return true
}

var errnos = regexp.MustCompile(`E(PERM|ACCES|INVAL|ISDIR|NOTDIR|EXIST|NOTEMPTY)`)

// lockBits leaves out of what describe says the setgid bits of files. Of one that its group may not
// execute, that bit goes when somebody writes to it who is not in its group, and FUSE does not tell
// who is in which. TestCrosscheckKill looks at these bits.
func lockBits(text string) string {
	return modes.ReplaceAllStringFunc(text, func(s string) string {
		mode, err := strconv.ParseUint(strings.TrimPrefix(s, "mode "), 8, 32)
		if err == nil && mode&unix.S_IFMT != unix.S_IFDIR {
			mode &^= unix.S_ISGID
		}
		return fmt.Sprintf("mode %#o", mode)
	})
}

var modes = regexp.MustCompile(`mode 0[0-7]+`)

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
			return access(s.in(a), mode&7)
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
			flags, st := flags, unix.Stat_t{}
			_ = unix.Lstat(s.in(a), &st)
			if flags == appendOnly && st.Mode&unix.S_IFMT != unix.S_IFDIR {
				flags = 0 // see TestCrosscheckFlags
			}
			return changeFlags(s.in(a), flags)
		}
	case 6:
		uid, gid := []int{-1, 0, 1000, 1001}[r.rng.IntN(4)], []int{-1, 0, 1000, 1001}[r.rng.IntN(4)]
		if uid < 0 && gid < 0 {
			uid = 0 // NB: FUSE does not look at who changes nothing, but the setuid bit with it
		}
		return fmt.Sprint("chown ", a, uid, gid), func(s *crossSide) string {
			return errnoName(unix.Lchown(s.in(a), uid, gid))
		}
	}
	return "utimes now " + a, func(s *crossSide) string {
		return errnoName(unix.UtimesNanoAt(-1, s.in(a), nil, unix.AT_SYMLINK_NOFOLLOW))
	}
}

// access asks whether this thread may do something. NB: not by unix.Faccessat, which does not take
// EPERM for an answer.
func access(path string, mode uint32) string {
	p, err := unix.BytePtrFromString(path)
	if err != nil {
		return err.Error()
	}
	_, _, errno := unix.Syscall6(unix.SYS_FACCESSAT2, ^uintptr(0), uintptr(unsafe.Pointer(p)),
		uintptr(mode), unix.AT_EACCESS, 0, 0)
	if errno == 0 {
		return "may"
	}
	return unix.ErrnoName(errno)
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
		if d := sums[i][0] - sums[i][1]; d < -8<<10 || d > 8<<10 {
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

// TestCrosscheckKill has a user change files of others that have setuid and setgid bits.
func TestCrosscheckKill(t *testing.T) {
	b := newCrossBed(t, 64)
	changes := map[string]func(fd int, path string) error{
		"write":    func(fd int, _ string) error { return pwrite(fd, 5) },
		"truncate": func(fd int, _ string) error { return unix.Ftruncate(fd, 3) },
		"allocate": func(fd int, _ string) error { return unix.Fallocate(fd, 0, 0, 10000) },
		"punch": func(fd int, _ string) error {
			return unix.Fallocate(fd, unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, 0, 10)
		},
		"chown": func(_ int, path string) error { return unix.Chown(path, -1, 1001) },
		"chmod": func(_ int, path string) error { return unix.Chmod(path, 0o7775) },
		"open":  func(_ int, path string) error { return os.WriteFile(path, nil, 0) },
	}
	for _, mode := range []uint32{0o6777, 0o4777, 0o2777, 0o4666, 0o777} {
		for what, change := range changes {
			for _, id := range []fsIDs{{0, 0}, {1000, 1000}, {1000, 1001}, {1001, 1000}} {
				b.both(fmt.Sprintf("%s of %#o by %v", what, mode, id), func(root string) string {
					return killed(filepath.Join(root, "file"), mode, id, change)
				})
			}
		}
	}
	b.done()
}

// killed makes a file of user and group 1000, has somebody change it, and describes it.
func killed(path string, mode uint32, id fsIDs, change func(fd int, path string) error) string {
	_ = os.Remove(path)
	err := os.WriteFile(path, make([]byte, 100), 0o600)
	if err == nil {
		err = unix.Chown(path, 1000, 1000)
	}
	if err == nil {
		err = unix.Chmod(path, mode)
	}
	if err != nil {
		return err.Error()
	}
	text := ""
	as(id, func() {
		fd, err := unix.Open(path, unix.O_RDWR|unix.O_CLOEXEC, 0)
		if err == nil {
			err = change(fd, path)
			_ = unix.Close(fd)
		}
		text = errnoText(err)
	})
	var st unix.Stat_t
	_ = unix.Stat(path, &st)
	return text + describe(&st)
}

// errnoText is an error without the path.
func errnoText(err error) string {
	var errno unix.Errno
	if errors.As(err, &errno) {
		return unix.ErrnoName(errno)
	}
	return fmt.Sprint(err)
}

// TestCrosscheckFlags has root do everything to a file that is immutable, or can only be appended
// to, and to one in such a directory; some of it by a descriptor from before.
func TestCrosscheckFlags(t *testing.T) {
	b := newCrossBed(t, 64)
	for _, flags := range []int{0x10, 0x20} {
		for i := range flagCalls {
			b.both(fmt.Sprintf("call %d with flags %#x", i, flags), func(root string) string {
				return flagged(t, root, flags, i)
			})
		}
	}
	b.done()
}

// flagged makes files, gives one and a directory flags, does a call, and says what is there.
func flagged(t *testing.T, root string, flags, i int) (text string) {
	file, dir := filepath.Join(root, "file"), filepath.Join(root, "dir")
	err := os.MkdirAll(dir, 0o755)
	for _, path := range []string{file, file + "2", dir + "/x", dir + "/y"} {
		if err == nil {
			err = os.WriteFile(path, make([]byte, 5000), 0o644)
		}
	}
	if err != nil {
		t.Fatal(err)
	}
	fd, err := unix.Open(file, unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	text = changeFlags(file, flags) + changeFlags(dir, flags)
	text += " " + errnoText(flagCalls[i](fd, root)) + "\n"
	text += changeFlags(file, 0) + changeFlags(dir, 0)
	var st unix.Stat_t
	for _, path := range []string{file, file + "2", dir + "/x", dir + "/y", dir + "/z"} {
		err := unix.Stat(path, &st)
		text += "\n" + errnoName(err) + describe(&st)
		_ = os.Remove(path)
	}
	return text
}

func pwrite(fd int, off int64) error {
	_, err := unix.Pwrite(fd, []byte("x"), off)
	return err
}

// open2 opens and closes a file.
func open2(path string, flags int) error {
	fd, err := unix.Open(path, flags|unix.O_CLOEXEC, 0o600)
	if err == nil {
		err = unix.Close(fd)
	}
	return err
}

var flagCalls = []func(fd int, root string) error{
	func(fd int, _ string) error { return pwrite(fd, 0) },
	func(fd int, _ string) error { return pwrite(fd, 5000) },
	func(fd int, _ string) error { return unix.Ftruncate(fd, 10) },
	func(fd int, _ string) error { return unix.Ftruncate(fd, 9000) },
	func(fd int, _ string) error { return unix.Fallocate(fd, 0, 0, 9000) },
	func(fd int, _ string) error { return unix.Fallocate(fd, unix.FALLOC_FL_KEEP_SIZE, 0, 9000) },
	func(fd int, _ string) error { return unix.Fallocate(fd, unix.FALLOC_FL_ZERO_RANGE, 0, 9000) },
	func(fd int, _ string) error {
		return unix.Fallocate(fd, unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, 0, 100)
	},
	func(_ int, root string) error { return open2(root+"/file", unix.O_RDONLY) },
	func(_ int, root string) error { return open2(root+"/file", unix.O_WRONLY) },
	func(_ int, root string) error { return open2(root+"/file", unix.O_WRONLY|unix.O_APPEND) },
	func(_ int, root string) error { return open2(root+"/file", unix.O_RDWR|unix.O_TRUNC) },
	func(_ int, root string) error { return open2(root+"/dir/x", unix.O_RDWR|unix.O_TRUNC) },
	func(_ int, root string) error { return open2(root+"/dir/z", unix.O_RDWR|unix.O_CREAT) },
	func(_ int, root string) error { return open2(root+"/dir", unix.O_RDWR|unix.O_TMPFILE) },
	func(_ int, root string) error { return unix.Unlink(root + "/file") },
	func(_ int, root string) error { return unix.Unlink(root + "/dir/x") },
	func(_ int, root string) error { return unix.Rmdir(root + "/dir") },
	func(_ int, root string) error { return unix.Rename(root+"/file", root+"/file3") },
	func(_ int, root string) error { return unix.Rename(root+"/file2", root+"/file") },
	func(_ int, root string) error { return unix.Rename(root+"/file2", root+"/dir/x") },
	func(_ int, root string) error { return unix.Rename(root+"/file2", root+"/dir/z") },
	func(_ int, root string) error { return unix.Rename(root+"/dir/x", root+"/dir/z") },
	func(_ int, root string) error { return unix.Rename(root+"/dir/x", root+"/file2") },
	func(_ int, root string) error {
		return unix.Renameat2(-1, root+"/dir/x", -1, root+"/file2", unix.RENAME_EXCHANGE)
	},
	func(_ int, root string) error {
		return unix.Renameat2(-1, root+"/file2", -1, root+"/dir/x", unix.RENAME_EXCHANGE)
	},
	func(_ int, root string) error { return unix.Link(root+"/file", root+"/dir/z") },
	func(_ int, root string) error { return unix.Link(root+"/file2", root+"/dir/z") },
	func(_ int, root string) error { return unix.Mkdir(root+"/dir/z", 0o700) },
	func(_ int, root string) error { return unix.Chmod(root+"/file", 0o600) },
	func(_ int, root string) error { return unix.Chmod(root+"/dir", 0o700) },
	func(_ int, root string) error { return unix.Chown(root+"/file", 7, 7) },
	func(_ int, root string) error { return unix.Utimes(root+"/file", nil) },
	func(_ int, root string) error { return unix.Utimes(root+"/file", make([]unix.Timeval, 2)) },
	func(_ int, root string) error { return unix.Utimes(root+"/dir", nil) },
	func(_ int, root string) error { return unix.Setxattr(root+"/file", "user.a", []byte("b"), 0) },
	func(_ int, root string) error { return unix.Setxattr(root+"/dir", "user.a", []byte("b"), 0) },
	func(_ int, root string) error { return unix.Removexattr(root+"/file", "user.none") },
	func(_ int, root string) error { return errors.New(changeFlags(root+"/file", 0x40)) },
	func(_ int, root string) error { return errors.New(changeFlags(root+"/file", 0x50)) },
	func(_ int, root string) error { return errors.New(changeFlags(root+"/dir", 0x60)) },
}
