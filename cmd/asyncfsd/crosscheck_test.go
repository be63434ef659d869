package main

import (
	"bytes"
	"flag"
	"fmt"
	"hash/crc32"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"asyncfsd/internal/testenv"
)

// The cross-check: the same random system calls on a mount of asyncfsd and on one of the kernel's
// ext4, of two copies of one image. Each call has to have the same result on both, and in the end
// both have to show the same tree. Then the kernel mounts what asyncfsd has written.
var (
	crossSeed = flag.Uint64("cross.seed", 0, "run this seed only")
	crossRuns = flag.Uint64("cross.runs", 1, "how many seeds each kind of filesystem gets")
	crossOps  = flag.Int("cross.ops", 1500, "system calls of one run")
	crossAll  = flag.Int("cross.every", 0, "compare the trees after every so many calls")
)

const (
	crossFiles = 8       // files that are open at a time
	crossSize  = 1 << 19 // where most writes begin before
)

// crossSide is one of the two mounts.
type crossSide struct {
	root string
	fds  [crossFiles]int
}

// crossRun makes the calls. Everything random is chosen once for both sides.
type crossRun struct {
	t       *testing.T
	rng     *rand.Rand
	sides   [2]*crossSide // asyncfsd, kernel
	history []string
	data    []byte // to be written
	buffer  []byte // to be read into
	direct  [crossFiles]bool
	large   bool // attributes have values in inodes of their own
	users   bool // calls are made by several users, see TestCrosscheckUsers
}

// call is a system call, or a few, that says how it went.
type call func(s *crossSide) string

func errnoName(err error) string {
	if errno, ok := err.(unix.Errno); ok {
		return unix.ErrnoName(errno)
	}
	return fmt.Sprint(err)
}

func TestCrosscheck(t *testing.T) {
	testenv.NeedRoot(t)
	kinds := map[string][]string{
		"default":     {"-b", "4096"},
		"1k":          {"-b", "1024"},
		"maps":        {"-b", "4096", "-O", "^extent,^64bit,^flex_bg"},
		"isize":       {"-b", "4096", "-I", "128"},
		"cached":      {"-b", "4096"},
		"cluster":     {"-b", "4096", "-O", "bigalloc", "-C", "65536"},
		"cluster-16k": {"-b", "4096", "-O", "bigalloc", "-C", "16384"},
		"cluster-1k":  {"-b", "1024", "-O", "bigalloc", "-C", "16384"},
		"cluster-64":  {"-b", "1024", "-O", "bigalloc", "-C", "65536"},
		"inline":      {"-b", "1024", "-I", "512", "-O", "inline_data"},
		"values":      {"-b", "1024", "-O", "ea_inode"},
		"quota":       {"-b", "1024", "-O", "quota,project,ea_inode"},
	}
	for name, args := range kinds {
		for seed := uint64(1); seed <= *crossRuns; seed++ {
			use := seed
			if *crossSeed != 0 {
				use = *crossSeed
			}
			t.Run(fmt.Sprintf("%s/%d", name, use), func(t *testing.T) {
				options := "rw"
				if name == "cached" {
					options = "writeback_cache"
				}
				crosscheck(t, args, options, use)
			})
		}
	}
}

func crosscheck(t *testing.T, args []string, options string, seed uint64) {
	path := newImage(t, args...)
	other := path + ".kernel"
	base, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(other, base, 0o600); err != nil {
		t.Fatal(err)
	}
	withoutQuota(t, other)
	mnt := mountpoint(t)
	if r := asyncfsd(t, "-o", options, path, mnt); r.code != 0 || r.stderr != "" {
		t.Fatalf("exit code %d: %s", r.code, r.stderr)
	}
	defer func() {
		if mounted(t, mnt) {
			umount(t, mnt)
		}
	}()
	theirs, detach := kernelMount(t, other)
	defer detach()
	r := &crossRun{t: t, rng: rand.New(rand.NewPCG(seed, 11)), data: alignedMemory(t, 1<<17),
		sides: [2]*crossSide{{root: mnt}, {root: theirs}}}
	r.buffer = alignedMemory(t, 1<<17)
	r.large = strings.Contains(strings.Join(args, " "), "ea_inode")
	for i := range r.data {
		r.data[i] = byte(r.rng.Uint32() | 1)
	}
	r.run(*crossOps)
	ours := r.compare(mnt, theirs)
	detach()
	umount(t, mnt)
	check(t, path)
	check(t, other)
	withoutQuota(t, path)
	theirs, detach = kernelMount(t, path)
	if again := tree(t, theirs); again != ours {
		t.Errorf("the kernel sees something else in what was written:\n%s",
			firstDifference(ours, again))
	}
	detach()
}

// withoutQuota takes the quota inodes, which e2fsck has looked at, from an image: not every kernel
// mounts filesystems that have them.
func withoutQuota(t *testing.T, path string) {
	t.Helper()
	testenv.NeedProgram(t, "tune2fs")
	if out, err := exec.Command("tune2fs", "-O", "^quota", path).CombinedOutput(); err != nil {
		t.Fatalf("tune2fs: %v: %s", err, out)
	}
}

// alignedMemory is memory for direct I/O.
func alignedMemory(t *testing.T, n int) []byte {
	mem, err := unix.Mmap(-1, 0, n, unix.PROT_READ|unix.PROT_WRITE,
		unix.MAP_PRIVATE|unix.MAP_ANONYMOUS)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = unix.Munmap(mem) })
	return mem
}

// kernelMount has the kernel mount an image. What it returns unmounts it, once.
func kernelMount(t *testing.T, path string) (mnt string, detach func()) {
	t.Helper()
	device := testenv.AttachLoop(t, path, 512)
	mnt = filepath.Join(t.TempDir(), "kernel")
	if err := os.MkdirAll(mnt, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mount(device, mnt, "ext4", unix.MS_NODEV|unix.MS_NOSUID, ""); err != nil {
		testenv.Missing(t, "needs the kernel's ext4: "+err.Error())
	}
	is := true
	return mnt, func() {
		if is {
			is = false
			if err := unix.Unmount(mnt, 0); err != nil {
				t.Errorf("unmounting the kernel's: %v", err)
				_ = unix.Unmount(mnt, unix.MNT_DETACH)
			}
		}
	}
}

// run makes n random calls on both sides.
func (r *crossRun) run(n int) {
	for _, s := range r.sides {
		for i := range s.fds {
			s.fds[i] = -1
		}
	}
	for i := range n {
		what, f := r.choose()
		if r.users {
			what, f = r.byUser(what, f)
		}
		r.history = append(r.history, fmt.Sprint(i, ": ", what))
		ours, theirs := f(r.sides[0]), f(r.sides[1])
		r.history[i] += " = " + theirs
		if ours != theirs && !(r.users && agree(ours, theirs)) {
			r.t.Errorf("the kernel: %s\nasyncfsd: %s\n%s", theirs, ours,
				strings.Join(r.history[max(0, i-25):], "\n"))
			break
		}
		if *crossAll > 0 && i%*crossAll == 0 {
			r.compare(r.sides[0].root, r.sides[1].root)
		}
		if r.t.Failed() {
			r.t.Log(strings.Join(r.history[max(0, i-25):], "\n"))
			break
		}
	}
	for _, s := range r.sides {
		for _, fd := range s.fds {
			_ = unix.Close(fd)
		}
	}
}

// path makes up a path below the root: few names, so that they clash.
func (r *crossRun) path() string {
	p := string(rune('a' + r.rng.IntN(7)))
	for r.rng.IntN(3) == 0 {
		p += "/" + string(rune('a'+r.rng.IntN(7)))
	}
	return p
}

func (s *crossSide) in(path string) string { return s.root + "/" + path }

// choose makes up a call.
func (r *crossRun) choose() (string, call) {
	switch k := r.rng.IntN(100); {
	case r.users && k%3 == 0:
		return r.rights()
	case k < 16:
		return r.open()
	case k < 50:
		return r.file()
	case k < 80:
		return r.names()
	}
	return r.attributes()
}

func (r *crossRun) open() (string, call) {
	i, path, mode := r.rng.IntN(crossFiles), r.path(), uint32(r.rng.IntN(0o10000))
	flags := unix.O_RDWR | unix.O_CLOEXEC | unix.O_NONBLOCK
	for _, f := range []int{unix.O_CREAT, unix.O_CREAT, unix.O_CREAT, unix.O_EXCL, unix.O_TRUNC,
		unix.O_APPEND, unix.O_SYNC, unix.O_DIRECT} {
		if r.rng.IntN(3) == 0 {
			flags |= f
		}
	}
	if r.rng.IntN(12) == 0 {
		flags = unix.O_TMPFILE | unix.O_RDWR | unix.O_CLOEXEC
	}
	if r.direct[i] = flags&unix.O_DIRECT != 0; r.direct[i] {
		// NB: asyncfsd takes direct I/O at any alignment, the kernel does not.
		flags &^= unix.O_APPEND
	}
	return fmt.Sprintf("%d = open(%s, %#x, %#o)", i, path, flags, mode), func(s *crossSide) string {
		_ = unix.Close(s.fds[i])
		var err error
		s.fds[i], err = unix.Open(s.in(path), flags, mode)
		return errnoName(err)
	}
}

// slot picks a file, one that is open if it is found soon.
func (r *crossRun) slot() (i int) {
	for range 6 {
		if i = r.rng.IntN(crossFiles); r.sides[1].fds[i] >= 0 {
			break
		}
	}
	return i
}

// file makes up a call on an open file.
func (r *crossRun) file() (string, call) {
	i := r.slot()
	off, n := int64(r.rng.IntN(crossSize)), 1+r.rng.IntN(1<<(3+r.rng.IntN(14)))
	switch r.rng.IntN(8) {
	case 0:
		off &^= 4095
		n = (n + 4095) &^ 4095
	case 1:
		off = int64(r.rng.IntN(5000))
	}
	if r.direct[i] {
		off, n = off&^4095, (n+4095)&^4095
	}
	start := r.rng.IntN(len(r.data) - n + 1)
	if n%4096 == 0 {
		start &^= 4095
	}
	data := r.data[start:][:n]
	k := r.rng.IntN(16)
	if r.direct[i] && (k < 2 || k == 13) {
		k = 2
	}
	if r.users && (k == 13 || k == 14) { // NB: what the kernel looks at flags for before it asks
		k = 3
	}
	switch k {
	case 0, 1:
		return fmt.Sprintf("write(%d, %d)", i, n), func(s *crossSide) string {
			n, err := unix.Write(s.fds[i], data)
			return fmt.Sprint(n, errnoName(err))
		}
	case 2, 3, 4:
		return fmt.Sprintf("pwrite(%d, %d, %d)", i, n, off), func(s *crossSide) string {
			n, err := unix.Pwrite(s.fds[i], data, off)
			return fmt.Sprint(n, errnoName(err))
		}
	case 5, 6, 7:
		return fmt.Sprintf("pread(%d, %d, %d)", i, n, off), func(s *crossSide) string {
			p := r.buffer[:n]
			n, err := unix.Pread(s.fds[i], p, off)
			return fmt.Sprint(n, errnoName(err), crc32.ChecksumIEEE(p[:max(n, 0)]))
		}
	case 8, 9:
		return r.resize(i, off)
	case 10, 11, 12:
		return r.allocate(i, off, int64(n))
	case 13:
		return r.copyRange(i, off, n)
	case 14:
		if r.rng.IntN(2) == 0 {
			return r.mapping(i, off&^4095, n)
		}
		return fmt.Sprintf("fsync(%d)", i), func(s *crossSide) string {
			return errnoName(unix.Fsync(s.fds[i]))
		}
	}
	return fmt.Sprintf("fstat(%d)", i), func(s *crossSide) string {
		var st unix.Stat_t
		err := unix.Fstat(s.fds[i], &st)
		return errnoName(err) + describe(&st)
	}
}

// mapping changes a file through a mapping.
func (r *crossRun) mapping(i int, off int64, n int) (string, call) {
	return fmt.Sprintf("mmap(%d, %d, %d)", i, off, n), func(s *crossSide) string {
		var st unix.Stat_t
		if err := unix.Fstat(s.fds[i], &st); err != nil || st.Size < off+int64(n) {
			return errnoName(err)
		}
		mem, err := unix.Mmap(s.fds[i], off, n, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
		if err != nil {
			return errnoName(err)
		}
		defer unix.Munmap(mem)
		sum := crc32.ChecksumIEEE(mem)
		copy(mem[n/3:], r.data[:n/3])
		return fmt.Sprint(sum, errnoName(unix.Msync(mem, unix.MS_SYNC)))
	}
}

func (r *crossRun) resize(i int, off int64) (string, call) {
	if r.rng.IntN(20) == 0 {
		off = 1 << (20 + r.rng.IntN(30))
	}
	back := r.rng.IntN(3) > 0 // NB: or the file may stay too large to be written at its end
	return fmt.Sprintf("ftruncate(%d, %d)", i, off), func(s *crossSide) string {
		text := errnoName(unix.Ftruncate(s.fds[i], off))
		if off > 1<<30 && back {
			text += errnoName(unix.Ftruncate(s.fds[i], 5000))
		}
		return text
	}
}

func (r *crossRun) allocate(i int, off, n int64) (string, call) {
	const punch, keep, zero = unix.FALLOC_FL_PUNCH_HOLE, unix.FALLOC_FL_KEEP_SIZE,
		unix.FALLOC_FL_ZERO_RANGE
	mode := []uint32{0, keep, punch | keep, punch | keep, zero, zero | keep, punch}[r.rng.IntN(7)]
	if r.rng.IntN(8) == 0 {
		n = int64(r.rng.IntN(2))
	}
	return fmt.Sprintf("fallocate(%d, %#x, %d, %d)", i, mode, off, n), func(s *crossSide) string {
		return errnoName(unix.Fallocate(s.fds[i], mode, off, n))
	}
}

func (r *crossRun) copyRange(i int, off int64, n int) (string, call) {
	k, to := r.slot(), int64(r.rng.IntN(crossSize))
	if r.direct[k] {
		k = i
	}
	return fmt.Sprintf("copy_file_range(%d, %d, %d, %d, %d)", i, off, k, to, n),
		func(s *crossSide) string {
			off, to := off, to
			n, err := unix.CopyFileRange(s.fds[i], &off, s.fds[k], &to, n, 0)
			return fmt.Sprint(n, errnoName(err))
		}
}

// names makes up a call that changes or shows names.
func (r *crossRun) names() (string, call) {
	a, b := r.path(), r.path()
	one := func(what string, f func(path string) error) (string, call) {
		return what + " " + a, func(s *crossSide) string { return errnoName(f(s.in(a))) }
	}
	switch r.rng.IntN(13) {
	case 12:
		return r.crowd(a)
	case 0, 1:
		return one("mkdir", func(p string) error { return unix.Mkdir(p, 0o755) })
	case 2:
		return one("rmdir", unix.Rmdir)
	case 3:
		return one("unlink", unix.Unlink)
	case 4, 5, 6:
		flags := []uint{0, 0, 0, unix.RENAME_EXCHANGE, unix.RENAME_NOREPLACE,
			unix.RENAME_WHITEOUT}[r.rng.IntN(6)]
		return fmt.Sprintf("rename(%s, %s, %d)", a, b, flags), func(s *crossSide) string {
			return errnoName(unix.Renameat2(-1, s.in(a), -1, s.in(b), flags))
		}
	case 7, 8:
		return fmt.Sprintf("link(%s, %s)", a, b), func(s *crossSide) string {
			return errnoName(unix.Link(s.in(a), s.in(b)))
		}
	case 9:
		target := strings.Repeat("x", 1+r.rng.IntN(1<<(1+r.rng.IntN(12))))
		return one(fmt.Sprint("symlink ", len(target)), func(p string) error {
			return unix.Symlink(target, p)
		})
	case 10:
		mode := []uint32{unix.S_IFIFO, unix.S_IFCHR, unix.S_IFBLK, unix.S_IFSOCK}[r.rng.IntN(4)]
		rdev := r.rng.IntN(1 << 16)
		return one("mknod", func(p string) error { return unix.Mknod(p, mode|0o640, rdev) })
	}
	return "readdir " + a, func(s *crossSide) string { return listing(s.in(a)) }
}

// crowd makes or removes many names in a directory, so that it gets an index.
func (r *crossRun) crowd(dir string) (string, call) {
	first, n, add := r.rng.IntN(100), r.rng.IntN(100), r.rng.IntN(2) == 0
	return fmt.Sprint("crowd ", dir, first, n, add), func(s *crossSide) (text string) {
		for i := range n {
			p := fmt.Sprintf("%s/%s%d", s.in(dir), strings.Repeat("n", 50+i), first+i)
			var err error
			if add {
				err = unix.Mknod(p, unix.S_IFREG|0o600, 0)
			} else {
				err = unix.Unlink(p)
			}
			text += errnoName(err)
		}
		return text
	}
}

// attributes makes up a call that changes or shows what an inode is.
func (r *crossRun) attributes() (string, call) {
	a := r.path()
	one := func(what string, f func(path string) error) (string, call) {
		return what + " " + a, func(s *crossSide) string { return errnoName(f(s.in(a))) }
	}
	key := []string{"user.a", "user.bb", "user.ccc", "trusted.d", "security.e"}[r.rng.IntN(5)]
	if r.users && key == "trusted.d" {
		key = "user.d" // NB: whom the kernel shows it is a matter of a capability that FUSE hides
	}
	switch r.rng.IntN(9) {
	case 0:
		mode := uint32(r.rng.IntN(0o10000))
		return one(fmt.Sprintf("chmod %#o", mode), func(p string) error {
			return unix.Chmod(p, mode)
		})
	case 1:
		uid, gid := r.rng.IntN(1<<20)-1, r.rng.IntN(3)-1
		if r.users && uid < 0 {
			uid = 0 // NB: see rights
		}
		return one(fmt.Sprint("chown ", uid, gid), func(p string) error {
			return unix.Lchown(p, uid, gid)
		})
	case 2:
		return r.times(a)
	case 3, 4:
		size := 12
		if r.large { // NB: the kernel takes symbolic links with such values for slow ones
			size = 6
			if strings.HasPrefix(key, "user.") {
				size = 17
			}
		}
		value := r.data[:r.rng.IntN(1<<r.rng.IntN(size))]
		flags := r.rng.IntN(3)
		return one(fmt.Sprint("setxattr ", key, len(value), flags), func(p string) error {
			return unix.Lsetxattr(p, key, value, flags)
		})
	case 5:
		return one("removexattr "+key, func(p string) error { return unix.Lremovexattr(p, key) })
	case 6:
		return "xattrs " + a, func(s *crossSide) string { return xattrs(s.in(a)) }
	case 7:
		size := int64(r.rng.IntN(crossSize))
		return one(fmt.Sprint("truncate ", size), func(p string) error {
			return unix.Truncate(p, size)
		})
	}
	return "stat " + a, func(s *crossSide) string {
		var st unix.Stat_t
		err := unix.Lstat(s.in(a), &st)
		return errnoName(err) + describe(&st)
	}
}

func (r *crossRun) times(path string) (string, call) {
	var ts [2]unix.Timespec
	for i := range ts {
		ts[i] = unix.Timespec{Sec: r.rng.Int64N(1<<33) - 1<<31, Nsec: r.rng.Int64N(1e9)}
	}
	return fmt.Sprint("utimes ", path, ts), func(s *crossSide) string {
		err := unix.UtimesNanoAt(-1, s.in(path), ts[:], unix.AT_SYMLINK_NOFOLLOW)
		var st unix.Stat_t
		_ = unix.Lstat(s.in(path), &st)
		if err != nil {
			return errnoName(err)
		}
		return fmt.Sprint(st.Atim, st.Mtim)
	}
}

// describe has what stat shows alike on both sides.
func describe(st *unix.Stat_t) string {
	size := st.Size
	if st.Mode&unix.S_IFMT == unix.S_IFDIR {
		size = 0 // entries may lie elsewhere
	}
	return fmt.Sprintf(" mode %#o links %d owner %d %d size %d rdev %#x", st.Mode, st.Nlink, st.Uid,
		st.Gid, size, st.Rdev)
}

func listing(path string) string {
	entries, err := os.ReadDir(path)
	if err != nil {
		return errnoName(err.(*os.PathError).Err)
	}
	var names []string
	for _, e := range entries {
		names = append(names, fmt.Sprint(e.Name(), e.Type()))
	}
	slices.Sort(names)
	return strings.Join(names, " ")
}

func xattrs(path string) string {
	buf := make([]byte, 65536)
	n, err := unix.Llistxattr(path, buf)
	if err != nil {
		return errnoName(err)
	}
	names := strings.Split(strings.TrimSuffix(string(buf[:n]), "\x00"), "\x00")
	slices.Sort(names)
	text := ""
	for _, name := range names {
		if name != "" {
			n, err := unix.Lgetxattr(path, name, buf)
			text += fmt.Sprint(" ", name, "=", n, errnoName(err),
				crc32.ChecksumIEEE(buf[:max(n, 0)]))
		}
	}
	return text
}

// compare wants both mounts to show the same tree.
func (r *crossRun) compare(ours, theirs string) string {
	r.t.Helper()
	a, b := tree(r.t, ours), tree(r.t, theirs)
	if a != b {
		r.t.Errorf("the trees differ:\n%s", firstDifference(a, b))
	}
	return a
}

func firstDifference(a, b string) string {
	x, y := strings.Split(a, "\n"), strings.Split(b, "\n")
	for i := range min(len(x), len(y)) {
		if x[i] != y[i] {
			return x[i] + "\n" + y[i]
		}
	}
	return fmt.Sprint(len(x), " files and ", len(y))
}

// tree describes everything below a directory.
func tree(t *testing.T, root string) string {
	t.Helper()
	// NB: in files with block maps the kernel does not find data that have no block yet.
	if fd, err := unix.Open(root, unix.O_RDONLY|unix.O_CLOEXEC, 0); err == nil {
		_ = unix.Syncfs(fd)
		_ = unix.Close(fd)
	}
	var all []string
	err := filepath.Walk(root, func(path string, _ os.FileInfo, err error) error {
		if err != nil || filepath.Base(path) == "lost+found" {
			return err
		}
		var st unix.Stat_t
		if err := unix.Lstat(path, &st); err != nil {
			return err
		}
		text := "." + strings.TrimPrefix(path, root) + describe(&st) + xattrs(path)
		switch st.Mode & unix.S_IFMT {
		case unix.S_IFREG:
			text += contents(t, path, st.Size)
		case unix.S_IFLNK:
			target, err := os.Readlink(path)
			text += fmt.Sprint(target, err)
		}
		all = append(all, text)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	slices.Sort(all)
	return strings.Join(all, "\n")
}

// contents is a checksum of the blocks of a file that are not zeros, wherever its holes are.
func contents(t *testing.T, path string, size int64) string {
	t.Helper()
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	sum, block, zeros := crc32.NewIEEE(), make([]byte, 4096), make([]byte, 4096)
	for at := int64(0); at < size; {
		at, err = unix.Seek(fd, at, unix.SEEK_DATA)
		if err == unix.ENXIO {
			break
		}
		if err != nil {
			t.Fatalf("%s: %v", path, err)
		}
		end, err := unix.Seek(fd, at, unix.SEEK_HOLE)
		if err != nil {
			t.Fatalf("%s: %v", path, err)
		}
		for at &^= 4095; at < end; at += 4096 {
			n, err := unix.Pread(fd, block, at)
			if err != nil {
				t.Fatalf("%s: %v", path, err)
			}
			if !bytes.Equal(block[:n], zeros[:n]) {
				fmt.Fprintf(sum, "%d %x\n", at, block[:n])
			}
		}
	}
	return fmt.Sprintf(" sum %x", sum.Sum32())
}
