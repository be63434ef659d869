package ext4

import (
	"encoding/binary"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"asyncfsd/internal/testenv"
)

// TestMMP has debugfs show what is written into a block that mke2fs has made.
func TestMMP(t *testing.T) {
	testenv.NeedProgram(t, "mke2fs", "debugfs")
	for _, features := range []string{"mmp", "mmp,^metadata_csum", "mmp,metadata_csum_seed"} {
		path := filepath.Join(t.TempDir(), "image")
		if out, err := exec.Command("mke2fs", "-q", "-F", "-t", "ext4", "-O", features, "-E",
			"mmp_update_interval=7", path, "16M").CombinedOutput(); err != nil {
			t.Fatalf("mke2fs: %v: %s", err, out)
		}
		image, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		v, err := Open(strings.NewReader(string(image)), int64(len(image)), OpenOptions{})
		if err != nil {
			t.Fatal(err)
		}
		b, err := v.MMPBlock()
		if err != nil {
			t.Fatal(err)
		}
		block := image[int64(b)<<v.BlockBits:][:v.BlockSize]
		m, err := v.DecodeMMP(block)
		if err != nil || m.Seq != MMPClean || v.MMPInterval() != 7*time.Second {
			t.Errorf("%s: mke2fs made %#v, %v", features, m, err)
		}
		m = NewMMP(v, "node", strings.Repeat("d", 40))
		if m.Seq == 0 || m.Seq > mmpSeqMax || m.CheckInterval != 14 || m.Wait() != 29*time.Second {
			t.Errorf("%s: a mount begins with %#v", features, m)
		}
		m = m.Next(Timespec{Sec: 1e9}, 0)
		m.Encode(v, block)
		if have, err := v.DecodeMMP(block); err != nil || have != m {
			t.Errorf("%s: %#v is read as %#v, %v", features, m, have, err)
		}
		wantDump(t, path, image, "check_interval: 14", "time: 1000000000", "node_name: node\n",
			"device_name: "+strings.Repeat("d", 31)+"\n")
		damagedMMP(t, v, block)
	}
}

// wantDump wants debugfs to say certain things of an image.
func wantDump(t *testing.T, path string, image []byte, says ...string) {
	t.Helper()
	if err := os.WriteFile(path, image, 0o600); err != nil {
		t.Fatal(err)
	}
	out, err := exec.Command("debugfs", "-R", "dump_mmp", path).CombinedOutput()
	for _, text := range says {
		if err != nil || !strings.Contains(string(out), text) {
			t.Errorf("debugfs does not say %q: %v\n%s", text, err, out)
		}
	}
}

// damagedMMP changes a block in places in which that is seen.
func damagedMMP(t *testing.T, v *Volume, block []byte) {
	t.Helper()
	places := []int{mmpMagic}
	if v.csummed() {
		places = append(places, mmpSeq, mmpNodename, mmpCheckInterval, 500, mmpChecksum)
	}
	for _, at := range places {
		block[at] ^= 1
		if _, err := v.DecodeMMP(block); err == nil {
			t.Errorf("byte %d changed: nobody has noticed", at)
		}
		block[at] ^= 1
	}
	for _, b := range []Block{0, v.BlocksCount, 1 << 60} {
		other := *v
		binary.LittleEndian.PutUint64(other.Super[sMMPBlock:], uint64(b))
		if _, err := other.MMPBlock(); err == nil {
			t.Errorf("block %d is taken for one", b)
		}
	}
}

// TestMMPNumbers has the numbers go round, and waits grow with updates that take long.
func TestMMPNumbers(t *testing.T) {
	m := MMP{Seq: mmpSeqMax - 1, CheckInterval: 1}
	if m.Wait() != 11*time.Second {
		t.Errorf("the least wait is %v", m.Wait())
	}
	if m = m.Next(Timespec{}, 0); m.Seq != mmpSeqMax || m.CheckInterval != 1 {
		t.Errorf("next %#x, %d", m.Seq, m.CheckInterval)
	}
	if m = m.Next(Timespec{}, 40*time.Second); m.Seq != 1 || m.Wait() != 140*time.Second {
		t.Errorf("next %#x, %v", m.Seq, m.Wait())
	}
	if m = m.Next(Timespec{}, time.Hour); m.CheckInterval != mmpCheckMax {
		t.Errorf("an hour: %d", m.CheckInterval)
	}
}
