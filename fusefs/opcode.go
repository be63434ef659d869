package fusefs

// Opcodes of the FUSE protocol (include/uapi/linux/fuse.h); go-fuse keeps its own private.
const (
	opLookup      = 1
	opForget      = 2
	opGetattr     = 3
	opReadlink    = 5
	opOpen        = 14
	opRead        = 15
	opStatfs      = 17
	opRelease     = 18
	opGetxattr    = 22
	opListxattr   = 23
	opFlush       = 25
	opInit        = 26
	opOpendir     = 27
	opReaddir     = 28
	opReleasedir  = 29
	opAccess      = 34
	opInterrupt   = 36
	opBmap        = 37
	opDestroy     = 38
	opIoctl       = 39
	opBatchForget = 42
	opReaddirplus = 44
	opLseek       = 46
	opStatx       = 52

	// opsWriteMask has a bit for every operation that would change the filesystem: SETATTR 4,
	// SYMLINK 6, MKNOD 8, MKDIR 9, UNLINK 10, RMDIR 11, RENAME 12, LINK 13, WRITE 16,
	// SETXATTR 21, REMOVEXATTR 24, CREATE 35, FALLOCATE 43, RENAME2 45, COPY_FILE_RANGE 47,
	// TMPFILE 51, COPY_FILE_RANGE_64 53.
	opsWriteMask = 1<<4 | 1<<6 | 1<<8 | 1<<9 | 1<<10 | 1<<11 | 1<<12 | 1<<13 | 1<<16 | 1<<21 |
		1<<24 | 1<<35 | 1<<43 | 1<<45 | 1<<47 | 1<<51 | 1<<53
	// opsSyncMask: FSYNC 20, FSYNCDIR 30, SYNCFS 50, which have nothing to do without writes.
	opsSyncMask = 1<<20 | 1<<30 | 1<<50
)
