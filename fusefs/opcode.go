package fusefs

// Opcodes of the FUSE protocol (include/uapi/linux/fuse.h); go-fuse keeps its own private.
const (
	opLookup          = 1
	opForget          = 2
	opGetattr         = 3
	opSetattr         = 4
	opReadlink        = 5
	opSymlink         = 6
	opMknod           = 8
	opMkdir           = 9
	opUnlink          = 10
	opRmdir           = 11
	opRename          = 12
	opLink            = 13
	opOpen            = 14
	opRead            = 15
	opWrite           = 16
	opStatfs          = 17
	opRelease         = 18
	opFsync           = 20
	opSetxattr        = 21
	opGetxattr        = 22
	opListxattr       = 23
	opRemovexattr     = 24
	opFlush           = 25
	opInit            = 26
	opOpendir         = 27
	opReaddir         = 28
	opReleasedir      = 29
	opFsyncdir        = 30
	opAccess          = 34
	opCreate          = 35
	opInterrupt       = 36
	opBmap            = 37
	opDestroy         = 38
	opIoctl           = 39
	opBatchForget     = 42
	opFallocate       = 43
	opReaddirplus     = 44
	opRename2         = 45
	opLseek           = 46
	opCopyFileRange   = 47
	opSyncfs          = 50
	opTmpfile         = 51
	opStatx           = 52
	opCopyFileRange64 = 53

	// opsWriteMask has a bit for every operation that would change the filesystem.
	opsWriteMask = 1<<opSetattr | 1<<opSymlink | 1<<opMknod | 1<<opMkdir | 1<<opUnlink |
		1<<opRmdir | 1<<opRename | 1<<opLink | 1<<opWrite | 1<<opSetxattr | 1<<opRemovexattr |
		1<<opCreate | 1<<opFallocate | 1<<opRename2 | 1<<opCopyFileRange | 1<<opTmpfile |
		1<<opCopyFileRange64
	// opsSyncMask has those that have nothing to do without writes.
	opsSyncMask = 1<<opFsync | 1<<opFsyncdir | 1<<opSyncfs
)
