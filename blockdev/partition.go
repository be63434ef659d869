package blockdev

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/diskfs/go-diskfs/backend"
	"github.com/diskfs/go-diskfs/partition/gpt"
	"github.com/diskfs/go-diskfs/partition/mbr"
)

// Partition is an entry of a partition table.
type Partition struct {
	// Number is the one Linux gives it: MBR 1 to 4, logical partitions from 5 in the order of
	// their chain; GPT by entry.
	Number int
	// Start and Size are in bytes from the start of the disk.
	Start, Size int64
}

// errNoTable says that a disk has neither an MBR nor a GPT.
var errNoTable = errors.New("no partition table")

const (
	mbrEntries = 446 // byte at which the table begins
	mbrEntry   = 16  // bytes per entry
	// logicalMax bounds the chain of logical partitions, which may be a circle.
	logicalMax = 256
	// gptEntriesMax bounds what a GPT header may have go-diskfs allocate: 64 times the usual.
	gptEntriesMax = 128 * 64
	gptEntrySize  = 128
)

// ReadPartitions reads the partition table of a disk of total bytes. sector is the logical sector
// size in which a GPT counts; 0 tries 512 and 4096, for an image file, which does not tell. Empty
// partitions, and those outside the disk, are left out.
//
// go-diskfs reads the tables themselves; what it lacks and Linux has is here: logical
// partitions, and the bounds without which a hostile header makes it allocate without limit.
func ReadPartitions(r io.ReaderAt, total, sector int64) ([]Partition, error) {
	sectors := []int64{sector}
	if sector == 0 {
		sectors = []int64{sectorMin, sectorMax}
	}
	disk := &disk{r: r, total: total}
	table, err := mbr.Read(disk, sectorMin, sectorMin)
	if err != nil {
		return nil, errNoTable
	}
	protective := func(p *mbr.Partition) bool { return p.Type == mbr.GPTProtective }
	var all []Partition
	if slices.ContainsFunc(table.Partitions, protective) {
		all, err = readGPT(disk, sectors)
	} else {
		all, err = readMBR(disk, table, sectors[0])
	}
	slices.SortFunc(all, func(a, b Partition) int { return a.Number - b.Number })
	return all, err
}

func readGPT(d *disk, sectors []int64) (all []Partition, err error) {
	for _, sector := range sectors {
		if err = checkGPTHeaders(d, sector); err != nil {
			continue
		}
		var table *gpt.Table
		if table, err = gpt.Read(d, int(sector), int(sector)); err != nil {
			continue
		}
		limit := uint64(d.total / sector)
		for _, p := range table.Partitions {
			if p.Type != gpt.Unused && p.Start <= p.End && p.End < limit {
				all = append(all, Partition{p.Index, int64(p.Start) * sector,
					int64(p.End-p.Start+1) * sector})
			}
		}
		return all, nil
	}
	return nil, fmt.Errorf("damaged GPT: %w", err)
}

// checkGPTHeaders looks at both headers before go-diskfs believes their sizes.
func checkGPTHeaders(d *disk, sector int64) error {
	found := false
	for _, at := range []int64{sector, d.total - d.total%sector - sector} {
		var h [92]byte
		if _, err := d.ReadAt(h[:], at); err != nil || string(h[:8]) != "EFI PART" {
			continue
		}
		found = true
		n, size := binary.LittleEndian.Uint32(h[80:]), binary.LittleEndian.Uint32(h[84:])
		if n > gptEntriesMax || size != gptEntrySize {
			return fmt.Errorf("%d entries of %d bytes", n, size)
		}
		if first := binary.LittleEndian.Uint64(h[72:]); first >= uint64(d.total/sector) {
			return fmt.Errorf("entries at sector %d", first)
		}
	}
	if !found {
		return errors.New("no header")
	}
	return nil
}

// readMBR returns primary and logical partitions. NB: like Linux it takes an MBR on a device of
// 4096-byte sectors to count in these.
func readMBR(d *disk, table *mbr.Table, sector int64) (all []Partition, err error) {
	number := 5
	for i, p := range table.Partitions {
		start, size := int64(p.Start)*sector, int64(p.Size)*sector
		switch {
		case p.Type == mbr.Empty || size == 0 || start >= d.total:
		case isExtended(byte(p.Type)):
			logical := readLogical(d, start, sector, number)
			number += len(logical)
			all = append(all, logical...)
		default:
			all = append(all, d.clip(Partition{i + 1, start, size}))
		}
	}
	if len(all) == 0 && looksLikeBootSector(d) {
		return nil, errNoTable
	}
	return all, nil
}

// looksLikeBootSector says that the magic number of an MBR stands over a table without any
// entry, as in the boot code of an unpartitioned disk.
func looksLikeBootSector(d *disk) bool {
	var entries [4 * mbrEntry]byte
	_, err := d.ReadAt(entries[:], mbrEntries)
	return err != nil || entries == [4 * mbrEntry]byte{}
}

func isExtended(typ byte) bool { return typ == 0x05 || typ == 0x0f || typ == 0x85 }

// readLogical follows the chain of logical partitions in the extended one at byte extended. Each
// link is a table of its own: the first entry that is neither empty nor a link is the partition,
// counted from the link's own sector, and the one that is extended is the next link, counted from
// the start of the extended partition.
func readLogical(d *disk, extended, sector int64, number int) (all []Partition) {
	link := extended
	for range logicalMax {
		var t [512]byte
		if _, err := d.ReadAt(t[:], link); err != nil || t[510] != 0x55 || t[511] != 0xaa {
			return all
		}
		next := int64(-1)
		for i := range 4 {
			e := t[mbrEntries+i*mbrEntry:][:mbrEntry]
			start := int64(binary.LittleEndian.Uint32(e[8:])) * sector
			size := int64(binary.LittleEndian.Uint32(e[12:])) * sector
			switch {
			case size == 0:
			case isExtended(e[4]):
				if next < 0 {
					next = extended + start
				}
			case i < 2 && link+start < d.total:
				all = append(all, d.clip(Partition{number + len(all), link + start, size}))
			}
		}
		if next < 0 {
			return all
		}
		link = next
	}
	return all
}

// listPartitions tells people which there are.
func listPartitions(all []Partition) string {
	if len(all) == 0 {
		return "the table is empty"
	}
	var b strings.Builder
	b.WriteString("there are")
	for i, p := range all {
		if i > 0 {
			b.WriteByte(',')
		}
		fmt.Fprintf(&b, " %d (%d KiB at byte %d)", p.Number, p.Size>>10, p.Start)
	}
	return b.String()
}

// disk is what go-diskfs reads: a backend.File of which it uses ReadAt and Seek.
type disk struct {
	backend.File
	r     io.ReaderAt
	total int64
}

// clip cuts a partition off at the end of the disk, as Linux does.
func (d *disk) clip(p Partition) Partition {
	p.Size = min(p.Size, d.total-p.Start)
	return p
}

// ReadAt reads within the disk.
func (d *disk) ReadAt(p []byte, off int64) (int, error) {
	if off < 0 || off > d.total || int64(len(p)) > d.total-off {
		return 0, io.ErrUnexpectedEOF
	}
	return d.r.ReadAt(p, off)
}

// Seek is how go-diskfs learns the size.
func (d *disk) Seek(off int64, whence int) (int64, error) {
	if whence == io.SeekEnd {
		return d.total + off, nil
	}
	return off, nil
}
