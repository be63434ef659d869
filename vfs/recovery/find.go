package recovery

import (
	"encoding/binary"
	"fmt"
	"hash/crc32"

	"golang.org/x/sys/unix"

	"asyncfsd/vfs/ext4"
	"asyncfsd/vfs/jbd2"
)

var le = binary.LittleEndian

// logBlocksMax is the most blocks a log may have: the most that mke2fs makes.
const logBlocksMax = 10240000

// External says that the journal is a device of its own.
func External(vol *ext4.Volume) bool {
	return vol.HasCompat(ext4.CompatHasJournal) && external(vol)
}

// JournalUUID is the UUID of the external journal, in words.
func JournalUUID(vol *ext4.Volume) string { return uuidString(vol.JournalUUID()) }

func external(vol *ext4.Volume) bool { return vol.JournalUUID() != [16]byte{} }

// find says where the log is.
func find(dev Storage, vol *ext4.Volume, o Options) (jbd2.Config, error) {
	c := jbd2.Config{FS: dev, Log: dev, BlockBits: vol.BlockBits, FSBlocks: vol.BlocksCount}
	if vol.JournalInode() != 0 && external(vol) {
		return c, fmt.Errorf("the superblock names both an inode and a device as journal")
	}
	if external(vol) {
		c.Log = o.Journal
		return c, findDevice(vol, o, &c)
	}
	in, err := journalInode(dev, vol)
	if err != nil {
		return c, err
	}
	c.Runs, err = runs(dev, vol, in)
	return c, err
}

// journalInode reads the inode of the journal. If the journal is needed and its inode is damaged,
// what the superblock remembers of it will do.
func journalInode(dev Storage, vol *ext4.Volume) (*ext4.Inode, error) {
	in := new(ext4.Inode)
	ino := vol.JournalInode()
	if ino == 0 {
		return nil, fmt.Errorf("has_journal is set, but the superblock names no journal inode")
	}
	src := ext4.NewReaderSource(dev, vol.BlockBits)
	err := vol.ReadInode(src, ino, in)
	switch {
	case err == unix.ESTALE:
		err = fmt.Errorf("journal inode %d is not in use", ino)
	case err != nil:
		err = fmt.Errorf("journal inode %d: %w", ino, err)
	case in.Type() != unix.S_IFREG || in.Flags&(ext4.FlagEncrypt|ext4.FlagInlineData) != 0:
		err = fmt.Errorf("journal inode %d is not a regular file", ino)
	default:
		return in, nil
	}
	iblock, size, ok := vol.JournalBackup()
	if !ok || !vol.NeedsRecovery() {
		return nil, err
	}
	*in = ext4.Inode{Ino: ino, Mode: unix.S_IFREG, Size: size, Links: 1, IBlock: iblock}
	const extentMagic = 0xf30a
	if le.Uint16(iblock[:]) == extentMagic {
		in.Flags = ext4.FlagExtents
	}
	return in, nil
}

// runs lists the blocks of the journal's inode.
func runs(dev Storage, vol *ext4.Volume, in *ext4.Inode) (list []jbd2.Run, err error) {
	blocks := in.Size >> vol.BlockBits
	if blocks > logBlocksMax || blocks > uint64(vol.BlocksCount) {
		return nil, fmt.Errorf("journal inode %d: %d bytes are too many", in.Ino, in.Size)
	}
	src := ext4.NewReaderSource(dev, vol.BlockBits)
	for at := uint64(0); at < blocks; {
		var run ext4.Run
		if err := vol.Map(src, in, ext4.Lblk(at), uint32(blocks-at), &run); err != nil {
			return nil, fmt.Errorf("journal inode %d: %w", in.Ino, err)
		}
		if run.State != ext4.RunMapped {
			return nil, fmt.Errorf("journal inode %d: block %d is missing", in.Ino, at)
		}
		list = appendRun(list, jbd2.Run{First: jbd2.LogBlock(at), Phys: run.Phys, Len: run.Len})
		at += uint64(run.Len)
	}
	if list == nil {
		return nil, fmt.Errorf("journal inode %d is empty", in.Ino)
	}
	return list, nil
}

func appendRun(list []jbd2.Run, r jbd2.Run) []jbd2.Run {
	if n := len(list); n > 0 && list[n-1].Phys+ext4.Block(list[n-1].Len) == r.Phys {
		list[n-1].Len += r.Len
		return list
	}
	return append(list, r)
}

// findDevice checks the external journal's own superblock.
func findDevice(vol *ext4.Volume, o Options, c *jbd2.Config) error {
	want := vol.JournalUUID()
	if o.Journal == nil {
		return fmt.Errorf("the journal is on another device, with UUID %s: "+
			"name it with journal_path=", uuidString(want))
	}
	var super [ext4.SuperSize]byte
	if _, err := o.Journal.ReadAt(super[:], ext4.SuperOffset); err != nil {
		return fmt.Errorf("reading the external journal: %w", err)
	}
	if le.Uint16(super[sMagic:]) != superMagic ||
		le.Uint32(super[sFeatureIncompat:])&ext4.IncompatJournalDev == 0 {
		return fmt.Errorf("external journal: not a journal device")
	}
	if le.Uint32(super[sFeatureROCompat:])&ext4.ROCompatMetadataCsum != 0 && !superSumOK(&super) {
		return fmt.Errorf("external journal: superblock: wrong checksum")
	}
	if uuid := [16]byte(super[sUUID:]); uuid != want {
		return fmt.Errorf("external journal: UUID is %s, the filesystem's journal has %s",
			uuidString(uuid), uuidString(want))
	}
	blocks := uint64(le.Uint32(super[sBlocksCountLo:]))
	if blocks > logBlocksMax || blocks > uint64(o.Journal.Size())>>vol.BlockBits {
		return fmt.Errorf("external journal: %d blocks of %d bytes do not fit into %d bytes",
			blocks, vol.BlockSize, o.Journal.Size())
	}
	c.Runs = []jbd2.Run{{Len: uint32(blocks)}}
	c.Super = jbd2.LogBlock(ext4.SuperOffset>>vol.BlockBits) + 1
	return nil
}

func uuidString(u [16]byte) string {
	return fmt.Sprintf("%x-%x-%x-%x-%x", u[:4], u[4:6], u[6:8], u[8:10], u[10:])
}

func superSumOK(super *[ext4.SuperSize]byte) bool {
	return superSum(super) == le.Uint32(super[sChecksum:])
}

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// superSum is the checksum of a superblock: crc32c without the final inversion.
func superSum(super *[ext4.SuperSize]byte) uint32 {
	return ^crc32.Checksum(super[:sChecksum], castagnoli)
}
