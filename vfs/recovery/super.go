package recovery

import (
	"fmt"

	"asyncfsd/vfs/ext4"
)

// Fields of the superblock ("Super Block") that recovery changes, or checks of a journal device.
const (
	sBlocksCountLo   = 0x04
	sFreeBlocksLo    = 0x0c
	sFreeInodes      = 0x10
	sMagic           = 0x38
	sState           = 0x3a
	sFeatureIncompat = 0x60
	sFeatureROCompat = 0x64
	sUUID            = 0x68
	sFreeBlocksHi    = 0x158
	sChecksum        = 0x3fc

	// The record of errors, s_error_count to s_last_error_func.
	sErrorFirst = 0x194
	sErrorEnd   = 0x200

	superMagic  = 0xef53
	stateErrors = 2 // of s_state: EXT4_ERROR_FS
)

// finish clears needs_recovery in the superblock, which the replay may just have written, and
// brings what it counts up to date. What it said of errors before the replay stays.
func finish(dev Storage, vol *ext4.Volume, aborted bool, o Options) error {
	at := max(o.Super, ext4.SuperOffset)
	if err := finishSuper(dev, vol, aborted, at); err != nil {
		return fmt.Errorf("superblock at byte %d: %w", at, err)
	}
	if at != ext4.SuperOffset {
		// The primary one may be what the backup is used for: then there is nothing to finish.
		_ = finishSuper(dev, vol, aborted, ext4.SuperOffset)
	}
	return dev.Flush()
}

func finishSuper(dev Storage, before *ext4.Volume, aborted bool, off int64) error {
	vol, err := ext4.Open(dev, dev.Size(), ext4.OpenOptions{Super: off})
	if err != nil {
		return err
	}
	super := vol.Super
	incompat := le.Uint32(super[sFeatureIncompat:])
	le.PutUint32(super[sFeatureIncompat:], incompat&^ext4.IncompatRecover)
	copy(super[sErrorFirst:sErrorEnd], before.Super[sErrorFirst:sErrorEnd])
	state := le.Uint16(super[sState:]) | le.Uint16(before.Super[sState:])&stateErrors
	if aborted {
		state |= stateErrors
	}
	le.PutUint16(super[sState:], state)
	// NB: the kernel does not keep the sums over all groups in the log.
	st := vol.StatFS(true)
	le.PutUint32(super[sFreeBlocksLo:], uint32(st.Bfree))
	if vol.HasIncompat(ext4.Incompat64bit) {
		le.PutUint32(super[sFreeBlocksHi:], uint32(st.Bfree>>32))
	}
	le.PutUint32(super[sFreeInodes:], uint32(st.Ffree))
	if vol.HasROCompat(ext4.ROCompatMetadataCsum) {
		le.PutUint32(super[sChecksum:], superSum(&super))
	}
	_, err = dev.WriteAt(super[:], off)
	return err
}
