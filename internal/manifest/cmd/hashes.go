package main

import (
	"encoding/binary"
	"fmt"
	"os"
	"strconv"
)

// addHashes rewrites the directory block of SIZE bytes at OFFSET of IMAGE as encrypted directories
// that fold case have it: behind each name, at the next multiple of four, stand its hash and
// minor hash. The hash is the legacy one of unsigned characters.
func addHashes(args []string) error {
	offset, err := strconv.ParseInt(args[1], 0, 64)
	if err != nil {
		return err
	}
	size, err := strconv.Atoi(args[2])
	if err != nil {
		return err
	}
	f, err := os.OpenFile(args[0], os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	old, block := make([]byte, size), make([]byte, size)
	if _, err := f.ReadAt(old, offset); err != nil {
		return err
	}
	at, last := 0, 0
	for n := 0; len(old) > 0; n++ {
		length := int(binary.LittleEndian.Uint16(old[4:]))
		name := old[8 : 8+old[6]]
		room := (8 + len(name) + 3) &^ 3
		if n >= 2 { // not "." and ".."
			room += 8
		}
		if at+room > size {
			return fmt.Errorf("the directory is too full")
		}
		copy(block[at:], old[:8+len(name)])
		if n >= 2 {
			binary.LittleEndian.PutUint32(block[at+room-8:], legacyHash(name))
		}
		binary.LittleEndian.PutUint16(block[at+4:], uint16(room))
		last, at = at, at+room
		old = old[length:]
	}
	binary.LittleEndian.PutUint16(block[last+4:], uint16(size-last))
	_, err = f.WriteAt(block, offset)
	return err
}

// legacyHash is the first hash that htree had, see "Hash Tree Directories" in the kernel's
// description of ext4.
func legacyHash(name []byte) uint32 {
	hash, before := uint32(0x12a3fe2d), uint32(0x37abe8f9)
	for _, c := range name {
		next := before + (hash ^ uint32(c)*7152373)
		if next&0x80000000 != 0 {
			next -= 0x7fffffff
		}
		before, hash = hash, next
	}
	return hash << 1
}
