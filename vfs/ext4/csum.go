package ext4

import "hash/crc32"

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// crc32c is the kernel's crc32c(): the raw register in and out, without the inversions of the
// usual definition ("Checksums").
func crc32c(seed uint32, p []byte) uint32 {
	return ^crc32.Update(^seed, castagnoli, p)
}

// crc32c32 adds a little-endian 32-bit number. Byte by byte: a slice of a local array would move
// to the heap.
func crc32c32(crc, v uint32) uint32 {
	for range 4 {
		crc = castagnoli[byte(crc)^byte(v)] ^ crc>>8
		v >>= 8
	}
	return crc
}

// crc32cZeros adds n zero bytes.
func crc32cZeros(crc uint32, n int) uint32 {
	for range n {
		crc = castagnoli[byte(crc)] ^ crc>>8
	}
	return crc
}

// crc16 is the checksum of group descriptors under gdt_csum: CRC-16 with polynomial 0xA001.
func crc16(crc uint16, p []byte) uint16 {
	for _, b := range p {
		crc ^= uint16(b)
		for range 8 {
			crc = crc>>1 ^ 0xa001&-(crc&1)
		}
	}
	return crc
}

// csummed says whether metadata carries crc32c checksums.
func (v *Volume) csummed() bool { return v.ROCompat&ROCompatMetadataCsum != 0 }

// inodeSeed is the starting value of the checksums of everything that belongs to one inode.
func (v *Volume) inodeSeed(ino Ino, generation uint32) uint32 {
	return crc32c32(crc32c32(v.CsumSeed, uint32(ino)), generation)
}

// Roles in which a cached block is verified: the values of Checked.Kind.
const (
	kindInodes = iota + 1
	kindExtents
	kindDir
	kindIndex
	kindXattr
	kindBlockBitmap
	kindInodeBitmap
	kindSuper
	kindOrphans
)
