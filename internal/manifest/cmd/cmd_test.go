package main

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"hash/crc32"
	"os"
	"path/filepath"
	"testing"

	"asyncfsd/internal/manifest"
)

// emptyFile makes a file of n zeros.
func emptyFile(t *testing.T, n int64) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "image")
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(path, n); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestPattern(t *testing.T) {
	whole := pattern(3, 0, 3000)
	for _, from := range []int{0, 1, 511, 512, 513, 1500} {
		if part := pattern(3, from, 700); !bytes.Equal(part, whole[from:from+700]) {
			t.Errorf("the pattern from %d is not part of the whole", from)
		}
	}
	if bytes.Equal(whole, pattern(4, 0, 3000)) {
		t.Error("the seed does not matter")
	}
}

// TestLegacyHash has values of e2fsprogs and of the kernel (a name without its key says its
// directory's hash).
func TestLegacyHash(t *testing.T) {
	if have := legacyHash([]byte("abc")); have != 0x75afd992 {
		t.Errorf("abc: %#x", have)
	}
	name, _ := hex.DecodeString("9e4bd7924d6f8214784a354aa7f79725")
	if have := legacyHash(name); have != 0xd76c4bee {
		t.Errorf("bytes above 127: %#x", have)
	}
}

func TestAddHashes(t *testing.T) {
	path := emptyFile(t, 3*1024)
	block := make([]byte, 1024)
	entry := func(at, ino, length int, name string) {
		binary.LittleEndian.PutUint32(block[at:], uint32(ino))
		binary.LittleEndian.PutUint16(block[at+4:], uint16(length))
		block[at+6] = byte(len(name))
		copy(block[at+8:], name)
	}
	entry(0, 2, 12, ".")
	entry(12, 2, 12, "..")
	entry(24, 12, 20, "abc")
	entry(44, 13, 1024-44, "abc")
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := f.WriteAt(block, 1024); err != nil {
		t.Fatal(err)
	}
	if err := addHashes([]string{path, "0x400", "1024"}); err != nil {
		t.Fatal(err)
	}
	clear(block[24:])
	entry(24, 12, 20, "abc")
	entry(44, 13, 1024-44, "abc")
	binary.LittleEndian.PutUint32(block[24+12:], 0x75afd992)
	binary.LittleEndian.PutUint32(block[44+12:], 0x75afd992)
	have := make([]byte, 1024)
	if _, err := f.ReadAt(have, 1024); err != nil || !bytes.Equal(have, block) {
		t.Errorf("%v, block\n%x\nwant\n%x", err, have[:80], block[:80])
	}
}

func TestMBR(t *testing.T) {
	path := emptyFile(t, 1<<20)
	if err := mbr([]string{path, "1,0x0c,64,10", "5,0x83,200,20", "6,0x83,301,30"}); err != nil {
		t.Fatal(err)
	}
	image, _ := os.ReadFile(path)
	entry := func(sect, slot int) string {
		e := image[512*sect+446+16*slot:]
		return fmt.Sprintf("%x %d %d", e[4], binary.LittleEndian.Uint32(e[8:]),
			binary.LittleEndian.Uint32(e[12:]))
	}
	for _, tt := range []struct {
		sector, slot int
		want         string
	}{
		{0, 0, "c 64 10"}, {0, 3, "5 199 1849"},
		{199, 0, "83 1 20"}, {199, 1, "5 101 31"}, // the next table counts from the first
		{300, 0, "83 1 30"}, {300, 1, "0 0 0"},
	} {
		if have := entry(tt.sector, tt.slot); have != tt.want {
			t.Errorf("sector %d, entry %d: %s, want %s", tt.sector, tt.slot, have, tt.want)
		}
	}
}

func TestGPT(t *testing.T) {
	path := emptyFile(t, 1<<20)
	if err := gpt([]string{path, "64,10", "100,50"}); err != nil {
		t.Fatal(err)
	}
	image, _ := os.ReadFile(path)
	for _, at := range []int{1, 2047} {
		h := bytes.Clone(image[512*at:][:92])
		table := image[512*binary.LittleEndian.Uint64(h[72:]):][:128*128]
		if sum := crc32.ChecksumIEEE(table); sum != binary.LittleEndian.Uint32(h[88:]) {
			t.Errorf("header %d: checksum of the table is %#x", at, sum)
		}
		if end := binary.LittleEndian.Uint64(table[128+40:]); end != 149 {
			t.Errorf("header %d: the second partition ends at %d, want 149", at, end)
		}
		want := binary.LittleEndian.Uint32(h[16:])
		clear(h[16:20])
		if sum := crc32.ChecksumIEEE(h); sum != want || string(h[:8]) != "EFI PART" {
			t.Errorf("header %d: checksum is %#x, want %#x", at, sum, want)
		}
	}
}

// TestMerkle counts and hashes the tree of a file of 129 blocks: two hash blocks and a root.
func TestMerkle(t *testing.T) {
	data := bytes.Repeat([]byte("x"), 128*verityBlock+1)
	tree, root := merkle(data)
	if len(tree) != 3*verityBlock {
		t.Fatalf("the tree has %d bytes, want 3 blocks", len(tree))
	}
	if sum := sha256.Sum256(tree[:verityBlock]); !bytes.Equal(sum[:], root) {
		t.Error("the root is not the hash of the first block")
	}
	for i := range 2 {
		sum := sha256.Sum256(tree[(i+1)*verityBlock:][:verityBlock])
		if !bytes.Equal(sum[:], tree[i*32:][:32]) {
			t.Errorf("hash %d of the first block is wrong", i)
		}
	}
	last := make([]byte, verityBlock)
	last[0] = 'x'
	if sum := sha256.Sum256(last); !bytes.Equal(sum[:], tree[2*verityBlock:][:32]) {
		t.Error("the last block is not filled up with zeros")
	}
}

func TestRow(t *testing.T) {
	dir := t.TempDir()
	for _, args := range [][]string{
		{"name=b", "about=second", "size=5", "lookups=A>a,B>", "damaged=x,y", "sb=8193", "dirty=1"},
		{"name=a", "about=old"}, {"name=a", "about=first", "features=one two", "journal="},
	} {
		if err := row(append([]string{dir}, args...)); err != nil {
			t.Fatal(err)
		}
	}
	images, err := manifest.Images(dir)
	if err != nil || len(images) != 2 {
		t.Fatalf("%+v, %v, want two images", images, err)
	}
	if a := images[0]; a.Name != "a" || a.About != "first" || len(a.Features) != 2 {
		t.Errorf("a: %+v", a)
	}
	b := images[1]
	if b.Size != 5 || !b.Dirty || b.Superblock != 8193 || len(b.Damaged) != 2 ||
		len(b.Lookups) != 2 || b.Lookups[1] != [2]string{"B", ""} {
		t.Errorf("b: %+v", b)
	}
	if err := row([]string{dir, "name=c", "nonsense=1"}); err == nil {
		t.Error("an unknown field gives no error")
	}
}

// TestFill fills a directory and looks whether everything came out.
func TestFill(t *testing.T) {
	if err := fill([]string{"nonsense", t.TempDir()}); err == nil {
		t.Error("an unknown kind gives no error")
	}
	dir := t.TempDir()
	if err := fill([]string{"folded", dir, "10"}); err != nil {
		t.Fatal(err)
	}
	entries, err := manifest.Walk(dir)
	if err != nil || len(entries) != 1+3+10+1+10 {
		t.Errorf("%d entries, %v", len(entries), err)
	}
}
