package ext4

import (
	"bytes"
	"fmt"
	"math/rand"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"asyncfsd/internal/testenv"
)

// randomACL makes up an ACL in the form of setxattr: valid as a rule.
func randomACL(rng *rand.Rand) []byte {
	acl := le.AppendUint32(nil, aclXattrVersion)
	add := func(tag uint16, id uint32) {
		acl = le.AppendUint16(acl, tag)
		acl = le.AppendUint16(acl, uint16(rng.Intn(8)))
		acl = le.AppendUint32(acl, id)
	}
	users, groups := rng.Intn(3), rng.Intn(3)
	add(aclTagOwner, aclNoID)
	for i := range users {
		add(aclTagUser, uint32(1000+i))
	}
	add(aclTagOwning, aclNoID)
	for i := range groups {
		add(aclTagGroup, uint32(1000+i))
	}
	if users+groups > 0 || rng.Intn(2) == 0 {
		add(aclTagMask, aclNoID)
	}
	add(aclTagOther, aclNoID)
	return acl
}

// spoil makes an ACL invalid as a rule.
func spoil(rng *rand.Rand, acl []byte) []byte {
	entry := aclXattrHeader + aclXattrEntry*rng.Intn(len(acl)/aclXattrEntry)
	switch rng.Intn(7) {
	case 0:
		return append(acl[:entry:entry], acl[min(len(acl), entry+aclXattrEntry):]...)
	case 1:
		le.PutUint16(acl[entry:], uint16(rng.Intn(64)))
	case 2:
		le.PutUint16(acl[entry+aclPerm:], uint16(rng.Intn(16)))
	case 3:
		le.PutUint32(acl[entry+aclID:], aclNoID)
	case 4:
		return acl[:rng.Intn(len(acl))]
	case 5:
		acl[rng.Intn(4)]++
	default:
		other := aclXattrHeader + aclXattrEntry*rng.Intn(len(acl)/aclXattrEntry)
		var swap [aclXattrEntry]byte
		copy(swap[:], acl[entry:])
		copy(acl[entry:], acl[other:other+aclXattrEntry])
		copy(acl[other:], swap[:])
	}
	return acl
}

// setACL does what the system call does with an ACL.
func (h *editTest) setACL(ino Ino, index uint8, wire []byte) error {
	h.t.Helper()
	disk := make([]byte, h.v.BlockSize)
	n, mode, equal, err := EncodeACL(disk, wire)
	if err != nil {
		return err
	}
	return h.change(ino, func(ed Editor, in *Inode) error {
		if n > 0 && index == XattrIndexACLAccess {
			in.Mode = in.Mode&^modeACL | mode
		}
		if n == 0 || index == XattrIndexACLAccess && equal {
			err := h.v.RemoveXattr(ed, in, index, nil)
			if err == unix.ENODATA {
				err = nil
			}
			return err
		}
		return h.v.SetXattr(ed, in, index, nil, disk[:n], 0)
	})
}

// acl reads an ACL in the form of getxattr, "" if there is none.
func (h *editTest) acl(ino Ino, index uint8) string {
	h.t.Helper()
	disk, wire := make([]byte, h.v.BlockSize), make([]byte, 2*h.v.BlockSize)
	var cur XattrCursor
	n, err := h.v.GetXattr(h.ed, h.read(ino), index, nil, disk, &cur)
	if err == nil {
		n, err = ACLToXattr(disk[:n], wire)
	}
	if err == unix.ENODATA {
		return ""
	}
	if err != nil {
		h.t.Fatal(err)
	}
	return string(wire[:n])
}

// kernelFile is what the kernel says of a file.
func kernelFile(t *testing.T, path string) (mode uint32, access, standard string) {
	t.Helper()
	var st unix.Stat_t
	if err := unix.Lstat(path, &st); err != nil {
		t.Fatal(err)
	}
	get := func(name string) string {
		value := make([]byte, 1<<16)
		n, err := unix.Lgetxattr(path, name, value)
		if err == unix.ENODATA {
			return ""
		}
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		return string(value[:n])
	}
	return st.Mode, get(xattrPrefixes[XattrIndexACLAccess]),
		get(xattrPrefixes[XattrIndexACLDefault])
}

// compareACL compares mode and ACLs of an inode with those of a file in a mounted filesystem.
func (h *editTest) compareACL(t *testing.T, ino Ino, path string, what string) {
	t.Helper()
	mode, access, standard := kernelFile(t, path)
	if in := h.read(ino); uint32(in.Mode) != mode {
		t.Errorf("%s: mode %o, the kernel says %o", what, in.Mode, mode)
	}
	if have := h.acl(ino, XattrIndexACLAccess); have != access {
		t.Errorf("%s: access ACL\n%x, the kernel says\n%x", what, have, access)
	}
	if have := h.acl(ino, XattrIndexACLDefault); have != standard {
		t.Errorf("%s: default ACL\n%x, the kernel says\n%x", what, have, standard)
	}
}

// TestSetACL sets ACLs and modes here and in the kernel.
func TestSetACL(t *testing.T) {
	testenv.NeedRoot(t)
	h, files := newXattrTest(t, "-t", "ext4", "-b", "1024")
	rng := rand.New(rand.NewSource(1))
	path := h.path + ".kernel"
	copyImage(t, h.path, path)
	bad := 0
	mountLoop(t, path, "rw", func(dir string) {
		for i := range 2000 {
			n := rng.Intn(xattrFiles)
			file := filepath.Join(dir, xattrFile(n))
			if rng.Intn(4) == 0 {
				mode := uint32(rng.Intn(0o10000))
				if err := unix.Chmod(file, mode); err != nil {
					t.Fatal(err)
				}
				if err := h.change(files[n], func(ed Editor, in *Inode) error {
					in.Mode = unix.S_IFREG | uint16(mode)
					return h.v.ChmodACL(ed, in, in.Mode)
				}); err != nil {
					t.Fatal(err)
				}
				h.compareACL(t, files[n], file, fmt.Sprintf("chmod %o", mode))
				continue
			}
			acl := randomACL(rng)
			if rng.Intn(3) == 0 {
				acl = spoil(rng, acl)
			}
			want := unix.Lsetxattr(file, xattrPrefixes[XattrIndexACLAccess], acl, 0)
			have := h.setACL(files[n], XattrIndexACLAccess, acl)
			if want != have {
				t.Errorf("step %d, %x: %v, the kernel says %v", i, acl, have, want)
			}
			if want != nil {
				bad++
			}
			h.compareACL(t, files[n], file, fmt.Sprintf("ACL %x", acl))
		}
	})
	if bad == 0 {
		t.Error("no ACL was refused")
	}
	fsck(t, h.write(), "-fn")
}

// TestInheritACL makes inodes in directories with and without default ACLs, here and in the kernel.
func TestInheritACL(t *testing.T) {
	testenv.NeedRoot(t)
	defer unix.Umask(unix.Umask(0))
	tree := t.TempDir()
	if err := os.Mkdir(filepath.Join(tree, "dir"), 0o755); err != nil {
		t.Fatal(err)
	}
	h := newEditTest(t, "16M", "-t", "ext4", "-b", "1024", "-d", tree)
	dir := h.lookup("dir")
	rng := rand.New(rand.NewSource(1))
	path := h.path + ".kernel"
	copyImage(t, h.path, path)
	mountLoop(t, path, "rw", func(mnt string) {
		for i := range 120 {
			if i > 10 {
				acl := randomACL(rng)
				err := unix.Lsetxattr(filepath.Join(mnt, "dir"),
					xattrPrefixes[XattrIndexACLDefault], acl, 0)
				if err != nil {
					t.Fatal(err)
				}
				if err := h.setACL(dir, XattrIndexACLDefault, acl); err != nil {
					t.Fatal(err)
				}
			}
			h.inject = i%10 == 0
			mode, umask := uint32(rng.Intn(0o1000)), rng.Intn(0o1000)
			name := fmt.Sprintf("new%d", i)
			kind := []uint16{unix.S_IFREG, unix.S_IFDIR, unix.S_IFIFO}[rng.Intn(3)]
			file := filepath.Join(mnt, "dir", name)
			unix.Umask(umask)
			err := unix.Mknod(file, mode|uint32(kind), 0)
			if kind == unix.S_IFDIR {
				err = unix.Mkdir(file, mode)
			}
			unix.Umask(0)
			if err != nil {
				t.Fatal(err)
			}
			ino := h.newInode(kind, 1, nil)
			if err := h.change(ino, func(ed Editor, in *Inode) error {
				var parent Inode
				if err := h.v.ReadInode(ed, dir, &parent); err != nil {
					return err
				}
				in.Mode |= uint16(mode)
				return h.v.InheritACL(ed, &parent, in, uint16(umask))
			}); err != nil {
				t.Fatal(err)
			}
			h.compareACL(t, ino, file, fmt.Sprintf("%s: mode %o, umask %o", name, mode, umask))
		}
	})
	t.Logf("at most %d accesses to blocks", h.most)
}

// TestInheritNothing takes the umask off where there is no default ACL, and nothing off a link.
func TestInheritNothing(t *testing.T) {
	h, files := newXattrTest(t, "-t", "ext4", "-b", "1024")
	for mode, want := range map[uint16]uint16{unix.S_IFREG | 0o2777: unix.S_IFREG | 0o2755,
		unix.S_IFLNK | 0o777: unix.S_IFLNK | 0o777} {
		in := Inode{Mode: mode}
		if err := h.v.InheritACL(h.ed, h.read(RootIno), &in, 0o22); err != nil || in.Mode != want {
			t.Errorf("%o became %o, %v", mode, in.Mode, err)
		}
	}
	garbage := h.change(files[0], func(ed Editor, in *Inode) error {
		if err := h.v.SetXattr(ed, in, XattrIndexACLAccess, nil, []byte("no ACL"), 0); err != nil {
			return err
		}
		return h.v.ChmodACL(ed, in, 0o644)
	})
	if garbage != unix.EINVAL {
		t.Errorf("chmod of a file with a broken ACL: %v", garbage)
	}
}

// FuzzEncodeACL converts anything there and back.
func FuzzEncodeACL(f *testing.F) {
	rng := rand.New(rand.NewSource(1))
	for range 10 {
		f.Add(randomACL(rng), uint16(100))
		f.Add(spoil(rng, randomACL(rng)), uint16(20))
	}
	f.Fuzz(func(t *testing.T, wire []byte, room uint16) {
		disk, back := make([]byte, room), make([]byte, 2*int(room)+4)
		n, _, _, err := EncodeACL(disk, wire)
		if err != nil || n == 0 {
			return
		}
		m, err := ACLToXattr(disk[:n], back)
		if err != nil {
			t.Fatalf("%x: %v", disk[:n], err)
		}
		for i := aclXattrHeader; i < m; i += aclXattrEntry {
			if !aclNamed(le16(back, i)) {
				copy(back[i+aclID:], wire[i+aclID:i+aclXattrEntry]) // means nothing
			}
		}
		if !bytes.Equal(back[:m], wire) {
			t.Errorf("%x came back as %x", wire, back[:m])
		}
	})
}
