package jbd2

import "hash/crc32"

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// crc32c is the kernel's crc32c(): the raw register in and out, without the inversions of the
// usual definition.
func crc32c(seed uint32, p []byte) uint32 { return ^crc32.Update(^seed, castagnoli, p) }

// crc32cZeroed is crc32c of p with the four bytes at off taken as zeros: those of the checksum.
func crc32cZeroed(seed uint32, p []byte, off int) uint32 {
	var zeros [4]byte
	return crc32c(crc32c(crc32c(seed, p[:off]), zeros[:]), p[off+4:])
}

// crc32be is the kernel's crc32_be(), of checksums version 1: the polynomial of Ethernet, most
// significant bit first, the raw register in and out.
func crc32be(crc uint32, p []byte) uint32 {
	for _, b := range p {
		crc = crc<<8 ^ tableBE[byte(crc>>24)^b]
	}
	return crc
}

var tableBE = func() (table [256]uint32) {
	for i := range table {
		crc := uint32(i) << 24
		for range 8 {
			crc = crc<<1 ^ 0x04c11db7&-(crc>>31)
		}
		table[i] = crc
	}
	return table
}()
