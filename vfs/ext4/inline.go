package ext4

import "golang.org/x/sys/unix"

// Inline data ("Inline Data"): the first 60 bytes of a file lie in i_block, the rest is the
// value of the attribute "system.data" in the inode. An inline directory has its parent's number
// instead of "." and "..", and its entries in two lists, one for each part.

// inlineName is the name of the attribute behind the prefix "system.".
var inlineName = []byte("data")

// inlineRest returns the part of an inode's inline data that is not in i_block, and its offset
// in the block that holds the inode.
func (v *Volume) inlineRest(in *Inode) (rest []byte, off int, err error) {
	a, err := v.xattrBody(in)
	if err != nil {
		return nil, 0, err
	}
	e, ok := a.find(xattrIndexSystem, inlineName)
	if !ok || e.inum != 0 {
		return nil, 0, Corrupt("inline data without its attribute", in.Where, in.Offset, in.Ino)
	}
	return a.value(&e), a.base + int(e.offs), nil
}

// InlineData copies the data of a file with inline data from byte off on to dst, and returns
// how many bytes there are, at most to the end of the file. What lies between the data and the
// end of the file is zeros. Errors: CorruptError.
func (v *Volume) InlineData(_ Source, in *Inode, dst []byte, off int64) (int, error) {
	rest, _, err := v.inlineRest(in)
	if err != nil {
		return 0, err
	}
	if off < 0 || uint64(off) >= in.Size {
		return 0, nil
	}
	dst = dst[:min(uint64(len(dst)), in.Size-uint64(off))]
	n := 0
	if off < inlineBlockSize {
		n = copy(dst, in.IBlock[off:])
	}
	if at := off + int64(n) - inlineBlockSize; at >= 0 && at < int64(len(rest)) {
		n += copy(dst[n:], rest[at:])
	}
	clear(dst[n:])
	return len(dst), nil
}

// inlineDir returns the two lists of entries of an inline directory.
func (v *Volume) inlineDir(dir *Inode) (parts [2]dirData, err error) {
	rest, off, err := v.inlineRest(dir)
	if err != nil {
		return parts, err
	}
	hashed := hashInEntry(dir)
	parts[0] = dirData{data: dir.IBlock[inlineDirParent:], where: dir.Where,
		base: dir.Offset + iBlock + inlineDirParent, ino: dir.Ino, hashed: hashed,
		inline: true}
	parts[1] = dirData{data: rest, where: dir.Where, base: off, ino: dir.Ino, hashed: hashed,
		inline: true}
	return parts, nil
}

// editInline returns the two lists of an inline directory, which the caller writes, to be changed:
// the first one is in dir, the other one in the block of the inode.
func (v *Volume) editInline(ed Editor, dir *Inode) (parts [2]dirData, err error) {
	buf, err := ed.Modify(dir.Where)
	if err != nil {
		return parts, err
	}
	if v.InodeSize > inodeSizeGood {
		raw := buf.Data[dir.Offset : dir.Offset+int(v.InodeSize)]
		dir.InBody = raw[inodeSizeGood+int(dir.ExtraISize):]
	}
	return v.inlineDir(dir)
}

// inlineParent returns the inode number of an inline directory's parent.
func (v *Volume) inlineParent(dir *Inode) (Ino, error) {
	ino := Ino(le32(dir.IBlock[:], 0))
	if ino == 0 || ino > v.InodesCount {
		return 0, Corrupt("directory: inode number of the parent", dir.Where,
			dir.Offset+iBlock, dir.Ino)
	}
	return ino, nil
}

// inlineDots makes ent the entry "." or "..", which an inline directory does not have.
func (v *Volume) inlineDots(dir *Inode, name []byte, ent *Dirent) (err error) {
	ent.Name, ent.Ino, ent.Type, ent.Off = name, dir.Ino, fileTypeUnknown, 0
	if len(name) == 2 {
		ent.Ino, err = v.inlineParent(dir)
	}
	if v.HasIncompat(IncompatFiletype) {
		ent.Type = fileTypeDir
	}
	return err
}

// lookupInline searches an inline directory.
func (v *Volume) lookupInline(dir *Inode, q *nameQuery, ent *Dirent) error {
	if isDots(q.name) {
		return v.inlineDots(dir, q.name, ent)
	}
	parts, err := v.inlineDir(dir)
	if err != nil {
		return err
	}
	for i := range parts {
		off, err := v.search(&parts[i], q)
		if err == nil {
			v.fill(&parts[i], off, ent)
		}
		if err != unix.ENOENT {
			return err
		}
	}
	return unix.ENOENT
}
