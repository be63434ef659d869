package ext4

import (
	"errors"

	"golang.org/x/sys/unix"
)

// ErrInlineFull says that data do not fit into an inode: they have to move out of it first.
var ErrInlineFull = errors.New("ext4: no room for the data in the inode")

// inlineEntrySize is what the entry of the attribute "system.data" takes, without its value.
var inlineEntrySize = xattrEntrySize(len(inlineName))

// InlineMax returns how many bytes of data an inode can hold beside its other attributes, 0 if it
// cannot hold any. Errors: CorruptError.
func (v *Volume) InlineMax(in *Inode) (int, error) {
	if !v.HasIncompat(IncompatInlineData) || in.ExtraISize == 0 ||
		len(in.InBody) < xiSize+xattrEndBytes {
		return 0, nil
	}
	a, err := v.xattrBody(in)
	if err != nil {
		return 0, err
	}
	if a.data == nil {
		a = xattrArea{data: in.InBody[xiSize:]}
	}
	room := a.room()
	if e, ok := a.find(xattrIndexSystem, inlineName); ok {
		room += e.held()
	} else {
		room -= inlineEntrySize
	}
	if room < 0 {
		return 0, nil
	}
	return inlineBlockSize + room, nil
}

// InlineGoal is where the block is wanted to which the data of a file move.
func (v *Volume) InlineGoal(in *Inode) Block { return v.inodeGoal(in) }

// MayInline says whether the data of a file are in its inode, or may begin to be: there are none
// yet.
func (v *Volume) MayInline(in *Inode) bool {
	if in.Flags&FlagInlineData != 0 {
		return true
	}
	if !v.HasIncompat(IncompatInlineData) || in.Type() != unix.S_IFREG || in.Size != 0 ||
		in.Flags&(FlagEAInode|FlagEncrypt) != 0 {
		return false
	}
	attributes := uint64(0)
	if in.FileACL != 0 {
		attributes = v.clusterSectors()
	}
	if in.Sectors != attributes {
		return false
	}
	if in.Flags&FlagExtents != 0 {
		return le16(in.IBlock[:], ehEntries) == 0
	}
	return in.IBlock == [len(in.IBlock)]byte{}
}

// WriteInline writes data at byte off of a file whose data are in its inode, or one without data,
// which can begin to have them there. It changes in, which the caller writes. Errors: ErrInlineFull
// if the data do not fit, with nothing changed; those of ed; CorruptError.
func (v *Volume) WriteInline(ed Editor, in *Inode, data []byte, off uint64) error {
	if !v.MayInline(in) {
		return ErrInlineFull
	}
	most, err := v.InlineMax(in)
	if err != nil {
		return err
	}
	end := off + uint64(len(data))
	if end < off || end > uint64(most) {
		return ErrInlineFull
	}
	if in.Flags&FlagInlineData == 0 {
		if err := v.beginInline(ed, in); err != nil {
			return err
		}
	}
	if err := v.growInline(ed, in, end); err != nil {
		return err
	}
	if off > in.Size { // what was there once must not be seen again
		if err := v.putInline(ed, in, nil, in.Size, off); err != nil {
			return err
		}
	}
	in.Size = max(in.Size, end)
	return v.putInline(ed, in, data, off, end)
}

// beginInline makes an inode without data one that has them in itself: as yet none.
func (v *Volume) beginInline(ed Editor, in *Inode) error {
	c := xattrChange{index: xattrIndexSystem, name: inlineName}
	fits, err := v.changeBody(ed, in, &c)
	if err != nil {
		return err
	}
	if !fits {
		return ErrInlineFull
	}
	clear(in.IBlock[:])
	in.Flags = in.Flags&^FlagExtents | FlagInlineData
	return nil
}

// growInline makes room for data up to byte end, of zeros.
func (v *Volume) growInline(ed Editor, in *Inode, end uint64) error {
	rest, _, err := v.inlineRest(in)
	if err != nil || end <= uint64(inlineBlockSize+len(rest)) {
		return err
	}
	return v.resizeInline(ed, in, rest, int(end)-inlineBlockSize)
}

// resizeInline makes the part rest of the data that is not in i_block n bytes long: what is added
// is zeros.
func (v *Volume) resizeInline(ed Editor, in *Inode, rest []byte, n int) error {
	value := ed.Space().block[:n]
	clear(value[copy(value, rest):])
	c := xattrChange{index: xattrIndexSystem, name: inlineName, value: value}
	fits, err := v.changeBody(ed, in, &c)
	if err == nil && !fits {
		err = ErrInlineFull
	}
	return err
}

// putInline writes data, or zeros if there are none, at bytes off to end, as far as there is room
// for them.
func (v *Volume) putInline(ed Editor, in *Inode, data []byte, off, end uint64) error {
	if err := v.editBody(ed, in); err != nil {
		return err
	}
	rest, _, err := v.inlineRest(in)
	if err != nil {
		return err
	}
	for _, part := range [2]struct {
		at   uint64
		data []byte
	}{{0, in.IBlock[:]}, {inlineBlockSize, rest}} {
		from, to := max(off, part.at), min(end, part.at+uint64(len(part.data)))
		switch {
		case from >= to:
		case data == nil:
			clear(part.data[from-part.at : to-part.at])
		default:
			copy(part.data[from-part.at:to-part.at], data[from-off:])
		}
	}
	return nil
}

// TruncateInline changes the size of a file whose data are in its inode. It changes in, which the
// caller writes. Errors: ErrInlineFull if the new size does not fit, with nothing changed; those of
// ed; CorruptError.
func (v *Volume) TruncateInline(ed Editor, in *Inode, size uint64) error {
	if size > in.Size {
		most, err := v.InlineMax(in)
		if err != nil {
			return err
		}
		if size > uint64(most) {
			return ErrInlineFull
		}
		if err := v.growInline(ed, in, size); err != nil {
			return err
		}
		err = v.putInline(ed, in, nil, in.Size, size)
		in.Size = size
		return err
	}
	rest, _, err := v.inlineRest(in)
	if err != nil {
		return err
	}
	if size < inlineBlockSize {
		clear(in.IBlock[size:])
	}
	left := int(max(size, inlineBlockSize)) - inlineBlockSize
	in.Size = size
	if left >= len(rest) {
		return nil
	}
	return v.resizeInline(ed, in, rest, left)
}

// EvictInline makes a file whose data are in its inode one that has blocks, as yet none. It copies
// the data to old, as much as it holds, and returns how many there are: the caller writes them to
// the file's first block. Its size stays. It changes in, which the caller writes. Errors: those of
// ed; CorruptError.
func (v *Volume) EvictInline(ed Editor, in *Inode, old []byte) (n int, err error) {
	if n, err = v.InlineData(ed, in, old, 0); err != nil {
		return 0, err
	}
	c := xattrChange{index: xattrIndexSystem, name: inlineName, remove: true}
	if _, err := v.changeBody(ed, in, &c); err != nil {
		return 0, err
	}
	in.Flags &^= FlagInlineData
	if v.HasIncompat(IncompatExtents) {
		in.Flags |= FlagExtents
	}
	EmptyMapping(in)
	return n, nil
}
