package blockdev

import (
	"bytes"
	"testing"
)

// FuzzPartitions: whatever a table says, each partition lies on the disk.
func FuzzPartitions(f *testing.F) {
	mbr := make([]byte, 6<<10)
	copy(mbr[mbrEntries:], []byte{0, 0, 0, 0, 0x05, 0, 0, 0, 4, 0, 0, 0, 60, 0, 0, 0})
	copy(mbr[mbrEntries+mbrEntry:], []byte{0, 0, 0, 0, 0x83, 0, 0, 0, 1, 0, 0, 0, 3, 0, 0, 0})
	copy(mbr[510:], "\x55\xaa")
	copy(mbr[4<<9:], mbr[:512])
	f.Add(mbr, uint8(0))
	gpt := bytes.Clone(mbr)
	gpt[mbrEntries+4] = 0xee
	copy(gpt[512:], "EFI PART\x00\x00\x01\x00\x5c")
	f.Add(gpt, uint8(1))
	f.Fuzz(func(t *testing.T, disk []byte, pick uint8) {
		sector := []int64{0, 512, 4096}[pick%3]
		all, err := ReadPartitions(bytes.NewReader(disk), int64(len(disk)), sector)
		if err != nil && len(all) > 0 {
			t.Error("an error and partitions")
		}
		for _, p := range all {
			if p.Number < 1 || p.Start < 0 || p.Size <= 0 || p.Size > int64(len(disk)) ||
				p.Start > int64(len(disk))-p.Size {
				t.Errorf("partition %d: %d bytes at %d of %d", p.Number, p.Size, p.Start, len(disk))
			}
		}
	})
}
