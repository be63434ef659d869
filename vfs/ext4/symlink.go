package ext4

import (
	"bytes"
)

// Readlink copies the target of a symbolic link to dst and returns its length ("Symbolic
// Links"). The target of an encrypted link is shown as a no-key name. A target longer than dst is
// cut off. Errors: those of src, CorruptError.
func (v *Volume) Readlink(src Source, in *Inode, dst []byte) (int, error) {
	var data []byte
	var err error
	switch {
	case in.Flags&FlagInlineData != 0:
		n, err := v.InlineData(src, in, dst, 0)
		if err != nil || in.Flags&FlagEncrypt == 0 {
			return cLen(dst[:n]), err
		}
		data = dst[:n]
	case v.fastSymlink(in):
		data = in.IBlock[:]
		if err := v.checkFastSymlink(in); err != nil {
			return 0, err
		}
	default:
		if data, err = v.symlinkBlock(src, in); err != nil {
			return 0, err
		}
	}
	if in.Flags&FlagEncrypt != 0 {
		return v.cryptSymlink(in, data, dst)
	}
	data = data[:min(in.Size, uint64(len(data)-1))]
	return copy(dst, data[:cLen(data)]), nil
}

// SymlinkSize returns the length of a symbolic link's target as stat tells it: that of what
// Readlink shows, also for an encrypted one.
func (v *Volume) SymlinkSize(in *Inode) uint64 {
	if in.Flags&FlagEncrypt == 0 || in.Size < fslPath+cryptNameMin {
		return in.Size
	}
	return uint64(nokeyNameLen(int(min(in.Size-fslPath, 1<<16))))
}

// cLen is the length of the text in p up to a zero byte.
func cLen(p []byte) int {
	if n := bytes.IndexByte(p, 0); n >= 0 {
		return n
	}
	return len(p)
}

func (v *Volume) corruptLink(in *Inode, what string) error {
	return Corrupt("symbolic link: "+what, in.Where, in.Offset, in.Ino)
}

// fastSymlink says whether the target stands in i_block. No flag says so: such a link has no
// blocks but that of its extended attributes.
//
// NB: i_blocks also counts the blocks of ea_inode values, so that there the size has to decide.
func (v *Volume) fastSymlink(in *Inode) bool {
	if in.Flags&FlagEAInode != 0 {
		return in.Size > 0 && in.Size < uint64(len(in.IBlock))
	}
	attributes := uint64(0)
	if in.FileACL != 0 {
		attributes = uint64(v.BlockSize) << v.ClusterBits >> 9
	}
	return in.Sectors == attributes
}

// checkFastSymlink verifies the target in i_block. An encrypted one says its length itself.
func (v *Volume) checkFastSymlink(in *Inode) error {
	n := in.Size
	if in.Flags&FlagEncrypt == 0 &&
		(n == 0 || n >= uint64(len(in.IBlock)) || cLen(in.IBlock[:]) != int(n)) {
		return v.corruptLink(in, "length")
	}
	return nil
}

// symlinkBlock reads the block with the target of a slow symbolic link.
func (v *Volume) symlinkBlock(src Source, in *Inode) ([]byte, error) {
	var run Run
	if err := v.Map(src, in, 0, 1, &run); err != nil {
		return nil, err
	}
	if run.State != RunMapped {
		return nil, v.corruptLink(in, "its block is a hole")
	}
	buf, err := src.Block(run.Phys)
	return buf.Data, err
}

// cryptSymlink encodes the target of an encrypted symbolic link.
func (v *Volume) cryptSymlink(in *Inode, data, dst []byte) (int, error) {
	if len(data) < fslPath {
		return 0, v.corruptLink(in, "encrypted target")
	}
	n := int(le16(data, fslLen))
	if n < cryptNameMin || n > len(data)-fslPath {
		return 0, v.corruptLink(in, "length of the encrypted target")
	}
	var name [nokeyNameMax]byte
	n = nokeyName(name[:], 0, 0, data[fslPath:fslPath+n])
	return copy(dst, name[:n]), nil
}
