package ext4

import (
	"bytes"
	"math/rand/v2"
	"time"
)

// Values of MMP.Seq ("Multiple Mount Protection"); below mmpSeqFsck it counts the updates of a
// mount.
const (
	// MMPClean says that nobody has the filesystem.
	MMPClean = 0xff4d4d50
	// MMPFsck says that e2fsck is running.
	MMPFsck   = 0xe24d4d50
	mmpSeqMax = 0xe24d4d4f
)

// Times of multiple mount protection, in seconds.
const (
	mmpInterval = 5 // between two updates, if the superblock says nothing
	mmpCheckMin = 5
	mmpCheckMax = 300
	// mmpCheckExtra is by how much a wait is longer than its interval, at most.
	mmpCheckExtra = 60
)

// MMP is the contents of the block of multiple mount protection: who has the filesystem, and a
// number that changes as long as that is true.
type MMP struct {
	Seq  uint32
	Time uint64 // of the last update, seconds
	// Node and Device are where the filesystem is mounted, for messages.
	Node   [64]byte
	Device [32]byte
	// CheckInterval is how many seconds the number may stay the same, at least.
	CheckInterval uint16
}

// NewMMP is what a mount begins with, on a node that has the filesystem as device.
func NewMMP(v *Volume, node, device string) MMP {
	m := MMP{Seq: mmpSeqMax, CheckInterval: uint16(min(max(2*v.mmpSeconds(), mmpCheckMin),
		mmpCheckMax))}
	for m.Seq >= mmpSeqMax || m.Seq == 0 {
		m.Seq = rand.Uint32()
	}
	copy(m.Node[:], node)
	copy(m.Device[:len(m.Device)-1], device)
	return m
}

// Next is what an update at a time writes; last is how long the one before took.
func (m MMP) Next(now Timespec, took time.Duration) MMP {
	if m.Seq++; m.Seq > mmpSeqMax {
		m.Seq = 1
	}
	m.Time = uint64(now.Sec)
	m.CheckInterval = max(m.CheckInterval,
		uint16(min(2*took/time.Second, mmpCheckMax)))
	return m
}

// NodeName is the name of the node that has the filesystem.
func (m *MMP) NodeName() string { return name(m.Node[:]) }

// DeviceName is the name of the device there.
func (m *MMP) DeviceName() string { return name(m.Device[:]) }

func name(p []byte) string {
	p, _, _ = bytes.Cut(p, []byte{0})
	return string(bytes.ToValidUTF8(p, []byte("?")))
}

// Wait is how long the number has to stay the same for the filesystem to be nobody's.
func (m *MMP) Wait() time.Duration {
	n := max(int(m.CheckInterval), mmpCheckMin)
	return time.Duration(min(2*n+1, n+mmpCheckExtra)) * time.Second
}

// MMPBlock is where the block is; CorruptError if it cannot be.
func (v *Volume) MMPBlock() (Block, error) {
	b := Block(le.Uint64(v.Super[sMMPBlock:]))
	if b <= v.FirstDataBlock || b >= v.BlocksCount {
		return 0, Corrupt("superblock: block of multiple mount protection",
			Block(SuperOffset>>v.BlockBits), sMMPBlock, 0)
	}
	return b, nil
}

// MMPInterval is the time between two updates.
func (v *Volume) MMPInterval() time.Duration {
	return time.Duration(v.mmpSeconds()) * time.Second
}

func (v *Volume) mmpSeconds() int {
	if n := int(v.u16(sMMPUpdateInterval)); n > 0 {
		return n
	}
	return mmpInterval
}

// DecodeMMP reads the block.
func (v *Volume) DecodeMMP(data []byte) (m MMP, err error) {
	b := Block(le.Uint64(v.Super[sMMPBlock:]))
	if le32(data, mmpMagic) != mmpMagicNumber {
		return m, Corrupt("multiple mount protection: magic number", b, mmpMagic, 0)
	}
	if v.csummed() && le32(data, mmpChecksum) != v.mmpSum(data) {
		return m, Corrupt("multiple mount protection: wrong checksum", b, mmpChecksum, 0)
	}
	m = MMP{Seq: le32(data, mmpSeq), Time: le.Uint64(data[mmpTime:]),
		CheckInterval: le16(data, mmpCheckInterval)}
	copy(m.Node[:], data[mmpNodename:])
	copy(m.Device[:], data[mmpBdevname:])
	return m, nil
}

// Encode writes the block.
func (m *MMP) Encode(v *Volume, data []byte) {
	le.PutUint32(data[mmpMagic:], mmpMagicNumber)
	le.PutUint32(data[mmpSeq:], m.Seq)
	le.PutUint64(data[mmpTime:], m.Time)
	copy(data[mmpNodename:], m.Node[:])
	copy(data[mmpBdevname:], m.Device[:])
	le.PutUint16(data[mmpCheckInterval:], m.CheckInterval)
	if v.csummed() {
		le.PutUint32(data[mmpChecksum:], v.mmpSum(data))
	}
}

func (v *Volume) mmpSum(data []byte) uint32 { return crc32c(v.CsumSeed, data[:mmpChecksum]) }
