package ext4

import (
	"fmt"
	"strings"
)

// Compatible features (s_feature_compat; "Super Block", feature flags): unknown ones do no harm.
const (
	CompatHasJournal   = 0x4
	CompatExtAttr      = 0x8
	CompatResizeInode  = 0x10
	CompatDirIndex     = 0x20
	CompatSparseSuper2 = 0x200
	CompatFastCommit   = 0x400
	CompatStableInodes = 0x800
	CompatOrphanFile   = 0x1000
)

// Incompatible features (s_feature_incompat): unknown ones forbid to mount.
const (
	IncompatCompression = 0x1
	IncompatFiletype    = 0x2
	IncompatRecover     = 0x4
	IncompatJournalDev  = 0x8
	IncompatMetaBG      = 0x10
	IncompatExtents     = 0x40
	Incompat64bit       = 0x80
	IncompatMMP         = 0x100
	IncompatFlexBG      = 0x200
	IncompatEAInode     = 0x400
	IncompatDirdata     = 0x1000
	IncompatCsumSeed    = 0x2000
	IncompatLargedir    = 0x4000
	IncompatInlineData  = 0x8000
	IncompatEncrypt     = 0x10000
	IncompatCasefold    = 0x20000
)

// Read-only compatible features (s_feature_ro_compat): unknown ones forbid to write.
const (
	ROCompatSparseSuper   = 0x1
	ROCompatLargeFile     = 0x2
	ROCompatBtreeDir      = 0x4
	ROCompatHugeFile      = 0x8
	ROCompatGdtCsum       = 0x10
	ROCompatDirNlink      = 0x20
	ROCompatExtraIsize    = 0x40
	ROCompatHasSnapshot   = 0x80
	ROCompatQuota         = 0x100
	ROCompatBigalloc      = 0x200
	ROCompatMetadataCsum  = 0x400
	ROCompatReadonly      = 0x1000
	ROCompatProject       = 0x2000
	ROCompatSharedBlocks  = 0x4000
	ROCompatVerity        = 0x8000
	ROCompatOrphanPresent = 0x10000
)

// Names as mke2fs and dumpe2fs print them, by bit.
var (
	compatNames = [32]string{"dir_prealloc", "imagic_inodes", "has_journal", "ext_attr",
		"resize_inode", "dir_index", "lazy_bg", "snapshot", "exclude_bitmap", "sparse_super2",
		"fast_commit", "stable_inodes", "orphan_file"}
	incompatNames = [32]string{"compression", "filetype", "needs_recovery", "journal_dev",
		"meta_bg", "", "extent", "64bit", "mmp", "flex_bg", "ea_inode", "", "dirdata",
		"metadata_csum_seed", "large_dir", "inline_data", "encrypt", "casefold"}
	roCompatNames = [32]string{"sparse_super", "large_file", "btree_dir", "huge_file",
		"uninit_bg", "dir_nlink", "extra_isize", "snapshot", "quota", "bigalloc", "metadata_csum",
		"replica", "read-only", "project", "shared_blocks", "verity", "orphan_present"}
)

const (
	// incompatReadable are the incompatible features that can be read.
	incompatReadable = IncompatFiletype | IncompatRecover | IncompatMetaBG | IncompatExtents |
		Incompat64bit | IncompatMMP | IncompatFlexBG | IncompatEAInode | IncompatCsumSeed |
		IncompatLargedir | IncompatInlineData | IncompatEncrypt | IncompatCasefold
	// roCompatWritable are the read-only compatible features that a writer understands.
	roCompatWritable = ROCompatQuota | ROCompatSparseSuper | ROCompatLargeFile | ROCompatBtreeDir |
		ROCompatHugeFile | ROCompatGdtCsum | ROCompatDirNlink | ROCompatExtraIsize |
		ROCompatBigalloc | ROCompatMetadataCsum | ROCompatProject | ROCompatVerity |
		ROCompatOrphanPresent
	// incompatReadOnly are incompatible features that can be read, but not yet written.
	incompatReadOnly = 0
)

// FeatureError says that a filesystem has incompatible features which are not known here.
type FeatureError struct {
	Names []string // as mke2fs names them, FEATURE_I30 and its like for unknown bits
}

// Error lists the features.
func (e *FeatureError) Error() string {
	return "unsupported features: " + strings.Join(e.Names, ", ")
}

// featureNames names the bits of a mask; class is C, I or R as in dumpe2fs's names of unknown bits.
func featureNames(mask uint32, names *[32]string, class string) (list []string) {
	for i := range names {
		switch {
		case mask&(1<<i) == 0:
		case names[i] != "":
			list = append(list, names[i])
		default:
			list = append(list, fmt.Sprintf("FEATURE_%s%d", class, i))
		}
	}
	return list
}

// Features lists all features of the filesystem by name.
func (v *Volume) Features() []string {
	list := featureNames(v.Compat, &compatNames, "C")
	list = append(list, featureNames(v.Incompat, &incompatNames, "I")...)
	return append(list, featureNames(v.ROCompat, &roCompatNames, "R")...)
}

// HasCompat says whether a compatible feature is set.
func (v *Volume) HasCompat(f uint32) bool { return v.Compat&f != 0 }

// HasIncompat says whether an incompatible feature is set.
func (v *Volume) HasIncompat(f uint32) bool { return v.Incompat&f != 0 }

// HasROCompat says whether a read-only compatible feature is set.
func (v *Volume) HasROCompat(f uint32) bool { return v.ROCompat&f != 0 }

// ReadOnlyReasons names the features that can be read, but not written.
func (v *Volume) ReadOnlyReasons() []string {
	list := featureNames(v.Incompat&incompatReadOnly, &incompatNames, "I")
	return append(list, featureNames(v.ROCompat&^roCompatWritable, &roCompatNames, "R")...)
}
