package main

import (
	"crypto/sha256"
	"encoding/binary"
	"hash/crc32"
	"os"
	"strconv"
	"unsafe"

	"golang.org/x/sys/unix"
)

func ioctl(fd int, request uint, arg unsafe.Pointer) error {
	_, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), uintptr(request), uintptr(arg))
	if errno != 0 {
		return errno
	}
	return nil
}

// shutdown stops the filesystem at MOUNTPOINT as a power cut would. FLAG 1 writes the log out
// first, 2 does not even that.
func shutdown(args []string) error {
	const goingDown = 0x8004587d // _IOR('X', 125, __u32)
	f, err := os.Open(args[0])
	if err != nil {
		return err
	}
	defer f.Close()
	flag, err := strconv.ParseUint(args[1], 0, 32)
	if err != nil {
		return err
	}
	arg := uint32(flag)
	return ioctl(int(f.Fd()), goingDown, unsafe.Pointer(&arg))
}

// addKeyArg is struct fscrypt_add_key_arg with a 64-byte key behind it.
type addKeyArg struct {
	unix.FscryptAddKeyArg
	raw [64]byte
}

// testKey is the master key of all encrypted images. It is no secret.
func testKey() (key [64]byte) {
	for i := range key {
		key[i] = byte(i)
	}
	return key
}

// encrypt adds the test key to MOUNTPOINT and makes DIR encrypted with it, FLAGS being those of
// a version 2 policy.
func encrypt(args []string) error {
	id, err := withKey(args[0], unix.FS_IOC_ADD_ENCRYPTION_KEY)
	if err != nil {
		return err
	}
	dir, err := os.Open(args[1])
	if err != nil {
		return err
	}
	defer dir.Close()
	flags, err := strconv.ParseUint(args[2], 0, 8)
	if err != nil {
		return err
	}
	policy := unix.FscryptPolicyV2{
		Version: 2, Contents_encryption_mode: unix.FSCRYPT_MODE_AES_256_XTS,
		Filenames_encryption_mode: unix.FSCRYPT_MODE_AES_256_CTS,
		Flags:                     uint8(flags), Master_key_identifier: id,
	}
	return ioctl(int(dir.Fd()), unix.FS_IOC_SET_ENCRYPTION_POLICY, unsafe.Pointer(&policy))
}

// withKey adds the test key to the filesystem at mnt and returns the key's identifier.
func withKey(mnt string, request uint) (id [16]byte, err error) {
	f, err := os.Open(mnt)
	if err != nil {
		return id, err
	}
	defer f.Close()
	arg := addKeyArg{raw: testKey()}
	arg.Key_spec.Type = unix.FSCRYPT_KEY_SPEC_TYPE_IDENTIFIER
	arg.Raw_size = uint32(len(arg.raw))
	err = ioctl(int(f.Fd()), request, unsafe.Pointer(&arg))
	copy(id[:], arg.Key_spec.U[:16])
	return id, err
}

// lock removes the test key from MOUNTPOINT again.
func lock(args []string) error {
	id, err := withKey(args[0], unix.FS_IOC_ADD_ENCRYPTION_KEY)
	if err != nil {
		return err
	}
	f, err := os.Open(args[0])
	if err != nil {
		return err
	}
	defer f.Close()
	var arg unix.FscryptRemoveKeyArg
	arg.Key_spec.Type = unix.FSCRYPT_KEY_SPEC_TYPE_IDENTIFIER
	copy(arg.Key_spec.U[:], id[:])
	return ioctl(int(f.Fd()), unix.FS_IOC_REMOVE_ENCRYPTION_KEY, unsafe.Pointer(&arg))
}

// verityBlock is the block size of the Merkle tree.
const verityBlock = 4096

// verity appends the fs-verity metadata of FILE behind its end, where ext4 keeps it: the Merkle
// tree from the next 64 KiB boundary, root first; the descriptor in the next block; the
// descriptor's length in the last four bytes of that block. The caller sets the size back and
// the inode's verity flag.
func verity(args []string) error {
	data, err := os.ReadFile(args[0])
	if err != nil {
		return err
	}
	tree, root := merkle(data)
	desc := make([]byte, 256)
	desc[0], desc[1], desc[2] = 1, 1, 12 // version, SHA-256, log2 of the block size
	binary.LittleEndian.PutUint64(desc[8:], uint64(len(data)))
	copy(desc[16:], root)
	last := make([]byte, verityBlock)
	copy(last, desc)
	binary.LittleEndian.PutUint32(last[verityBlock-4:], uint32(len(desc)))
	f, err := os.OpenFile(args[0], os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	at := (int64(len(data)) + 65535) &^ 65535
	if _, err := f.WriteAt(append(tree, last...), at); err != nil {
		return err
	}
	return f.Close()
}

// merkle returns the hash tree of data, root level first, and the root hash.
func merkle(data []byte) (tree, root []byte) {
	level := hashBlocks(data)
	for len(level) > sha256.Size {
		level = append(level, make([]byte, -len(level)&(verityBlock-1))...)
		tree = append(append([]byte{}, level...), tree...)
		level = hashBlocks(level)
	}
	return tree, level
}

// hashBlocks concatenates the hashes of the zero-padded blocks of data.
func hashBlocks(data []byte) (hashes []byte) {
	for len(data) > 0 {
		block := make([]byte, verityBlock)
		data = data[copy(block, data):]
		sum := sha256.Sum256(block)
		hashes = append(hashes, sum[:]...)
	}
	return hashes
}

// superCsum writes the right checksum into the superblock of IMAGE after a patch.
func superCsum(args []string) error {
	f, err := os.OpenFile(args[0], os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	super := make([]byte, 1024)
	if _, err := f.ReadAt(super, 1024); err != nil {
		return err
	}
	// s_checksum is the last field; the kernel's crc32c is not inverted at the end.
	sum := ^crc32.Checksum(super[:1020], crc32.MakeTable(crc32.Castagnoli))
	binary.LittleEndian.PutUint32(super[1020:], sum)
	_, err = f.WriteAt(super, 1024)
	return err
}
