package manifest

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"testing"
)

// sparse is content that is zero but for a few pieces.
type sparse map[int64]string

func (s sparse) ReadAt(p []byte, off int64) (int, error) {
	clear(p)
	for at, text := range s {
		for i := range len(text) {
			if k := at + int64(i) - off; k >= 0 && k < int64(len(p)) {
				p[k] = text[i]
			}
		}
	}
	return len(p), nil
}

func TestHashWhole(t *testing.T) {
	for _, n := range []int{0, 1, 4096, 1 << 20, 3<<20 + 17} {
		content := bytes.Repeat([]byte{'x'}, n)
		have, err := HashData(int64(n), nil, bytes.NewReader(content).ReadAt)
		if want := fmt.Sprintf("%x", sha256.Sum256(content)); err != nil || have != want {
			t.Errorf("%d bytes: %s, %v, want %s", n, have, err, want)
		}
	}
}

// TestHashSparse follows the definition in HashData's comment.
func TestHashSparse(t *testing.T) {
	const size = HashWholeMax + 5000
	content := sparse{3: "begin", 8190: "border", HashWholeMax + 4990: "end"}
	h := sha256.New()
	for _, off := range []int64{0, 4096, 8192, HashWholeMax + 4096} {
		block := make([]byte, 4096)
		_, _ = content.ReadAt(block, off)
		if off == HashWholeMax+4096 {
			clear(block[5000-4096:])
		}
		h.Write(binary.BigEndian.AppendUint64(nil, uint64(off)))
		h.Write(block)
	}
	h.Write(binary.BigEndian.AppendUint64(nil, size))
	want := fmt.Sprintf("%x", h.Sum(nil))
	for name, data := range map[string][]Segment{
		"all":   nil,
		"one":   {{0, size}},
		"tight": {{3, 8}, {8190, 8196}, {HashWholeMax + 4990, size}},
		"same block": {{3, 5}, {5, 8}, {8190, 8191}, {8191, 8193}, {8193, 8200},
			{HashWholeMax, size}},
	} {
		if have, err := HashData(size, data, content.ReadAt); err != nil || have != want {
			t.Errorf("%s: %s, %v, want %s", name, have, err, want)
		}
	}
	if have, _ := HashData(size+1, nil, content.ReadAt); have == want {
		t.Error("the size does not matter")
	}
	if have, _ := HashData(size, []Segment{}, content.ReadAt); have == want {
		t.Error("no data at all does not matter")
	}
}

func TestHashErrors(t *testing.T) {
	short := bytes.NewReader(make([]byte, 100))
	if _, err := HashData(101, nil, short.ReadAt); err == nil {
		t.Error("a file that ends too early gives no error")
	}
	bad := errors.New("bad")
	for _, size := range []int64{1, HashWholeMax + 1} {
		read := func([]byte, int64) (int, error) { return 0, bad }
		if _, err := HashData(size, nil, read); !errors.Is(err, bad) {
			t.Errorf("%d bytes: error %v, want that of the reader", size, err)
		}
	}
	one := func(p []byte, off int64) (int, error) { // a byte at a time, io.EOF with the last
		if off == 9 {
			return 1, io.EOF
		}
		return 1, nil
	}
	if _, err := HashData(10, nil, one); err != nil {
		t.Errorf("short reads: %v", err)
	}
}

func TestXattrValue(t *testing.T) {
	if have := XattrValue([]byte{0, 255}); have != "00ff" {
		t.Errorf("%s", have)
	}
	long := bytes.Repeat([]byte{1}, 33)
	want := fmt.Sprintf("sha256:%x:33", sha256.Sum256(long))
	if have := XattrValue(long); have != want {
		t.Errorf("%s, want %s", have, want)
	}
}
