package main

import (
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"os"
	"unicode/utf16"
)

const sector = 512

// part is a partition, in sectors.
type part struct{ first, count uint32 }

// mbrEntry writes one entry of a partition table, whose first sector is counted from base.
func mbrEntry(table []byte, slot int, kind byte, p part, base uint32) {
	e := table[446+16*slot:][:16]
	e[4] = kind
	copy(e[1:], []byte{0xfe, 0xff, 0xff}) // cylinder, head, sector: too large to say
	copy(e[5:], []byte{0xfe, 0xff, 0xff})
	binary.LittleEndian.PutUint32(e[8:], p.first-base)
	binary.LittleEndian.PutUint32(e[12:], p.count)
	table[510], table[511] = 0x55, 0xaa
}

// mbr writes a partition table to IMAGE. Partitions from number 5 on are logical: each has a
// table of its own in the sector before its first; they come in ascending order and last.
func mbr(args []string) error {
	f, err := os.OpenFile(args[0], os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil {
		return err
	}
	end := uint32(st.Size() / sector)
	table, at, extended := make([]byte, sector), uint32(0), uint32(0)
	for _, arg := range args[1:] {
		var number, kind int
		var p part
		_, err := fmt.Sscanf(arg, "%d,%v,%d,%d", &number, &kind, &p.first, &p.count)
		if err != nil {
			return fmt.Errorf("%s: %w", arg, err)
		}
		if number < 5 {
			mbrEntry(table, number-1, byte(kind), p, 0)
			continue
		}
		next := p.first - 1
		if extended == 0 {
			extended = next
			mbrEntry(table, 3, 5, part{next, end - next}, 0)
		} else {
			mbrEntry(table, 1, 5, part{next, p.count + 1}, extended)
		}
		if _, err := f.WriteAt(table, int64(at)*sector); err != nil {
			return err
		}
		table, at = make([]byte, sector), next
		mbrEntry(table, 0, byte(kind), p, next)
	}
	_, err = f.WriteAt(table, int64(at)*sector)
	return err
}

// linuxData is the GUID of a partition with a Linux filesystem, as it stands on disk.
var linuxData = []byte{0xaf, 0x3d, 0xc6, 0x0f, 0x83, 0x84, 0x72, 0x47,
	0x8e, 0x79, 0x3d, 0x69, 0xd8, 0x47, 0x7d, 0xe4}

// gpt writes a GUID partition table with the partitions, numbered from 1, to IMAGE: protective
// MBR, header, 128 entries, and the copy at the end.
func gpt(args []string) error {
	f, err := os.OpenFile(args[0], os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil {
		return err
	}
	last := uint64(st.Size()/sector) - 1
	table := make([]byte, sector)
	mbrEntry(table, 0, 0xee, part{1, uint32(last)}, 0)
	entries := make([]byte, 128*128)
	for i, arg := range args[1:] {
		var p part
		if _, err := fmt.Sscanf(arg, "%d,%d", &p.first, &p.count); err != nil {
			return fmt.Errorf("%s: %w", arg, err)
		}
		e := entries[128*i:]
		copy(e, linuxData)
		e[16] = byte(i + 1) // the partition's own GUID
		binary.LittleEndian.PutUint64(e[32:], uint64(p.first))
		binary.LittleEndian.PutUint64(e[40:], uint64(p.first+p.count-1))
		for j, u := range utf16.Encode([]rune(fmt.Sprintf("part %d", i+1))) {
			binary.LittleEndian.PutUint16(e[56+2*j:], u)
		}
	}
	const entrySectors = 128 * 128 / sector
	for _, w := range []struct {
		at   uint64
		data []byte
	}{
		{0, table}, {1, gptHeader(1, last, 2, last, entries)}, {2, entries},
		{last - entrySectors, entries},
		{last, gptHeader(last, 1, last-entrySectors, last, entries)},
	} {
		if _, err := f.WriteAt(w.data, int64(w.at)*sector); err != nil {
			return err
		}
	}
	return nil
}

// gptHeader makes the header that stands at sector self; its copy stands at other.
func gptHeader(self, other, table, last uint64, entries []byte) []byte {
	h := make([]byte, sector)
	copy(h, "EFI PART\x00\x00\x01\x00\x5c\x00\x00\x00")
	binary.LittleEndian.PutUint64(h[24:], self)
	binary.LittleEndian.PutUint64(h[32:], other)
	binary.LittleEndian.PutUint64(h[40:], 34)
	binary.LittleEndian.PutUint64(h[48:], last-33)
	h[56] = 0x42 // the disk's GUID
	binary.LittleEndian.PutUint64(h[72:], table)
	binary.LittleEndian.PutUint32(h[80:], 128)
	binary.LittleEndian.PutUint32(h[84:], 128)
	binary.LittleEndian.PutUint32(h[88:], crc32.ChecksumIEEE(entries))
	binary.LittleEndian.PutUint32(h[16:], crc32.ChecksumIEEE(h[:92]))
	return h
}
