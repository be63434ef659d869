package vfs

import (
	"golang.org/x/sys/unix"

	"asyncfsd/vfs/ext4"
)

// prepareRead maps the next part of the range to runs of the device. Everything is widened to
// whole sectors; BufOff tells where in the payload the asked-for bytes begin.
func prepareRead(fs *FS, tx *Tx, op *Op) error {
	in := &fs.inode
	if err := fs.readable(tx, op.Node); err != nil {
		return err
	}
	if op.Off >= in.Size || op.Size == 0 {
		return nil
	}
	op.N, op.touch = uint32(min(uint64(op.Size), in.Size-op.Off)), fs.staleAtime(in)
	if err := tx.awaitData(op.Node, op.Off, op.N); err != nil {
		return err
	}
	if err := tx.Buffer(op.N); err != nil {
		return err
	}
	payload := fs.arena.Payload(op.Buf)
	if in.Flags&ext4.FlagInlineData != 0 {
		n, err := fs.vol.InlineData(tx, in, payload[:op.N], int64(op.Off))
		op.N = uint32(n)
		return err
	}
	if fs.viaCache {
		return fs.readCached(tx, op, payload)
	}
	return fs.mapRange(tx, op, payload, op.Off, op.N)
}

// readable reads an inode into fs.inode and says whether its data can be read.
func (fs *FS) readable(tx *Tx, ino ext4.Ino) error {
	in := &fs.inode
	if err := fs.readInode(tx, ino, in); err != nil {
		return err
	}
	switch in.Type() {
	case unix.S_IFREG:
	case unix.S_IFDIR:
		return unix.EISDIR
	default:
		return unix.EINVAL
	}
	if in.Flags&ext4.FlagEncrypt != 0 {
		return unix.ENOKEY
	}
	return nil
}

// mapRange turns what is left from op.pos on of n bytes at off into runs, and zeroes holes in the
// payload as it meets them.
func (fs *FS) mapRange(tx *Tx, op *Op, payload []byte, off uint64, n uint32) error {
	start := off &^ (fs.sector - 1)
	end := (off + uint64(n) + fs.sector - 1) &^ (fs.sector - 1)
	op.BufOff = uint32(off - start)
	pos := max(op.pos, start) // NB: op.pos begins at off, inside the first sector
	if pos == off {
		pos = start
	}
	for pos < end && op.nruns < runsMax {
		n, err := fs.mapOne(tx, op, payload[pos-start:end-start], pos)
		if err != nil {
			return err
		}
		if fs.run.State == ext4.RunMapped {
			op.runs[op.nruns-1].at = uint32(pos - start)
		}
		pos += n
	}
	// The cursor may move only now: a stall above has to map everything again, since the runs
	// of a stalled attempt are gone.
	op.pos, op.more = pos, pos < end
	return nil
}

// mapOne maps the file from byte pos, at most to the end of dst, and returns how many bytes the
// run has. A mapped run is appended to op.runs, another one is zeroed in dst.
func (fs *FS) mapOne(tx *Tx, op *Op, dst []byte, pos uint64) (uint64, error) {
	bits, size := fs.vol.BlockBits, uint64(fs.vol.BlockSize)
	within := pos & (size - 1)
	blocks := (within + uint64(len(dst)) + size - 1) >> bits
	lblk := ext4.Lblk(pos >> bits)
	if err := fs.vol.Map(tx, &fs.inode, lblk, uint32(blocks), &fs.run); err != nil {
		return 0, err
	}
	n := min(uint64(fs.run.Len)<<bits-within, uint64(len(dst)))
	if fs.run.State != ext4.RunMapped {
		clear(dst[:n])
		return n, nil
	}
	op.runs[op.nruns] = dataRun{off: int64(uint64(fs.run.Phys)<<bits + within), length: uint32(n)}
	op.nruns++
	return n, nil
}

// readCached copies the range block by block through the cache. It serves images whose blocks are
// smaller than the device's sectors, where O_DIRECT could not read a block by itself.
func (fs *FS) readCached(tx *Tx, op *Op, payload []byte) error {
	size := uint64(fs.vol.BlockSize)
	end := op.Off + uint64(op.N)
	for n := 0; op.pos < end; n++ {
		if n == cachedPerStep {
			return ext4.ErrContinue
		}
		lblk, within := ext4.Lblk(op.pos/size), op.pos%size
		if err := fs.vol.Map(tx, &fs.inode, lblk, cachedPerStep, &fs.run); err != nil {
			return err
		}
		dst := payload[op.pos-op.Off:][:min(size-within, end-op.pos)]
		if fs.run.State != ext4.RunMapped {
			clear(dst)
		} else {
			for i := range min(fs.run.Len, uint32(cachedPerStep-n)) {
				tx.Want(fs.run.Phys + ext4.Block(i))
			}
			buf, err := tx.Block(fs.run.Phys)
			if err != nil {
				return err
			}
			copy(dst, buf.Data[within:])
		}
		op.pos += uint64(len(dst))
	}
	return nil
}

// cachedPerStep is how many blocks readCached copies between two advances of its cursor: with
// the inode (2), and the mapping (5) it stays below PinsMax.
const cachedPerStep = 16
