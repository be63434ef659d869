package ext4

// MountDefaults is what the superblock says about how to mount where options say nothing.
type MountDefaults struct {
	// Errors is s_errors: what happens after an error, one of the Errors constants.
	Errors uint16
	// ResUID and ResGID may use reserved blocks.
	ResUID, ResGID uint32
	// Grpid, NoBarrier and Discard are options that tune2fs -o has set.
	Grpid, NoBarrier, Discard bool
}

// What s_errors may say.
const (
	ErrorsContinue = 1
	ErrorsRO       = 2
	ErrorsPanic    = 3
)

// Bits of s_default_mount_opts (EXT4_DEFM_*).
const (
	defaultBSDGroups = 0x2
	defaultNoBarrier = 0x100
	defaultDiscard   = 0x400
)

// Defaults returns the superblock's mount options.
func (v *Volume) Defaults() MountDefaults {
	opts := v.u32(sDefaultMountOpts)
	return MountDefaults{Errors: v.u16(sErrors), ResUID: uint32(v.u16(sDefResUID)),
		ResGID: uint32(v.u16(sDefResGID)), Grpid: opts&defaultBSDGroups != 0,
		NoBarrier: opts&defaultNoBarrier != 0, Discard: opts&defaultDiscard != 0}
}
