package ext4

import "golang.org/x/sys/unix"

// dentry carries out a record about a name: creat, link or unlink. It may have been carried out
// already.
func (x *fcReplay) dentry(tag int, parent, ino Ino, name []byte) error {
	if parent == ino {
		return Corrupt("fast commit: a directory within itself", 0, 0, ino)
	}
	dir, ok, err := x.read(parent)
	if err != nil || !ok || !dir.IsDir() {
		return err
	}
	in, ok, err := x.read(ino)
	if err != nil || !ok {
		return err
	}
	x.touch(parent)
	x.touch(ino)
	found, err := x.lookup(dir, name)
	if err != nil {
		return err
	}
	if tag == fcTagUnlink {
		if found != ino {
			return nil
		}
		return x.unlink(dir, in, name)
	}
	if in.IsDir() && in.Size == 0 && x.v.HasMapping(in) {
		if err := x.v.InitDir(x.e, in, parent); err != nil {
			return err
		}
	}
	if found != ino {
		if err := x.link(dir, in, name, found); err != nil {
			return err
		}
	}
	if tag == fcTagCreat && !in.IsDir() {
		in.Links = 1 // names that are in no directory yet are going to be linked
	}
	if in.Links > 0 {
		if err := x.v.RemoveOrphan(x.e, x.orphans, in); err != nil {
			return err
		}
	}
	return x.v.WriteInode(x.e, in)
}

// lookup returns what a name stands for, 0 if it does not exist.
func (x *fcReplay) lookup(dir *Inode, name []byte) (Ino, error) {
	var cur LookupCursor
	for {
		var ent Dirent
		err := x.v.Lookup(x.e, dir, name, &cur, &ent)
		switch err {
		case ErrContinue:
			continue
		case unix.ENOENT:
			return 0, nil
		}
		return ent.Ino, err
	}
}

// link gives in, which the caller writes, a name. It may be that of another file, found.
func (x *fcReplay) link(dir, in *Inode, name []byte, found Ino) error {
	if found != 0 {
		other, ok, err := x.read(found)
		if err != nil {
			return err
		}
		if !ok {
			other = &Inode{Ino: found}
		}
		x.touch(found)
		if err := x.unlink(dir, other, name); err != nil {
			return err
		}
	}
	var cur AddCursor
	err := ErrContinue
	for err == ErrContinue {
		err = x.v.AddEntry(x.e, dir, name, in.Ino, FileType(in.Mode), &cur)
	}
	if err != nil {
		return err
	}
	if in.IsDir() {
		x.names[in.Ino]++
		x.dirLinks(dir, 1)
	} else {
		in.Links++
	}
	return x.writeDir(dir)
}

// unlink takes away a name of in, which may be an inode that is not in use.
func (x *fcReplay) unlink(dir, in *Inode, name []byte) error {
	var cur LookupCursor
	err := ErrContinue
	for err == ErrContinue {
		_, _, err = x.v.RemoveEntry(x.e, dir, name, &cur)
	}
	if err != nil {
		return err
	}
	if in.IsDir() {
		x.names[in.Ino]--
		x.dirLinks(dir, -1)
	}
	if err := x.writeDir(dir); err != nil || in.Mode == 0 {
		return err
	}
	if !in.IsDir() && in.Links > 0 {
		in.Links--
	}
	return x.v.WriteInode(x.e, in)
}

// dirLinks changes the links of a directory that gets or loses a subdirectory: 1 stands for too
// many to count (dir_nlink).
func (x *fcReplay) dirLinks(dir *Inode, delta int) {
	const linkMax = 65000
	n := int(dir.Links) + delta
	switch {
	case dir.Links == 1:
		n = 1
	case n >= linkMax:
		n = 1
	case n < 2:
		n = 2
	}
	dir.Links = uint32(n)
}

// writeDir writes a directory whose entries have changed.
func (x *fcReplay) writeDir(dir *Inode) error {
	dir.Mtime, dir.Ctime = x.e.now, x.e.now
	return x.v.WriteInode(x.e, dir)
}
