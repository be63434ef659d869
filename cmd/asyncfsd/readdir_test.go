package main

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"asyncfsd/internal/testenv"
)

// TestReaddirAnywhere reads directories from positions that none of their entries has: what is not
// behind the last entry finds one.
func TestReaddirAnywhere(t *testing.T) {
	testenv.NeedRoot(t)
	mnt := mountpoint(t)
	mount(t, newImage(t), mnt)
	for _, n := range []int{10, 500} {
		dir := filepath.Join(mnt, fmt.Sprint(n))
		if err := os.Mkdir(dir, 0o755); err != nil {
			t.Fatal(err)
		}
		for i := range n {
			name := fmt.Sprintf("%s/a long name %d", dir, i)
			if err := os.WriteFile(name, nil, 0o600); err != nil {
				t.Fatal(err)
			}
		}
		f, err := os.Open(dir)
		if err != nil {
			t.Fatal(err)
		}
		for _, pos := range []int64{0, 1, 12345678, 1 << 31, 1 << 40, 1<<62 - 1, 1<<62 + 12345} {
			if _, err := unix.Seek(int(f.Fd()), pos, unix.SEEK_SET); err != nil {
				t.Errorf("seek to %d: %v", pos, err)
			}
			var buffer [512]byte
			if n, err := unix.Getdents(int(f.Fd()), buffer[:]); n <= 0 || err != nil {
				t.Errorf("%s at %d: %d, %v", dir, pos, n, err)
			}
		}
		_ = f.Close()
	}
}
