package recovery

import (
	"errors"
	"strings"
	"testing"
	"time"

	"asyncfsd/vfs/ext4"
)

// mmpImage makes a filesystem with multiple mount protection.
func mmpImage(t *testing.T) (*memory, *ext4.Volume) {
	t.Helper()
	return formatted(t, "-O", "mmp", "-E", "mmp_update_interval=1")
}

// others is what another node does while this one waits.
type others struct {
	p     *Protection
	waits []time.Duration
	// update is the wait during which the other node is heard of; 0 for none.
	update int
	t      *testing.T
}

func (o *others) sleep(d time.Duration) {
	if o.waits = append(o.waits, d); len(o.waits) == o.update {
		if err := o.p.write(o.p.MMP.Next(ext4.Timespec{Sec: 1e9}, 0)); err != nil {
			o.t.Error(err)
		}
	}
}

func TestProtect(t *testing.T) {
	dev, vol := mmpImage(t)
	o := &others{t: t}
	options := ProtectOptions{Source: "/dev/ours", Sleep: o.sleep}
	p, err := Protect(dev, vol, options)
	if err != nil || len(o.waits) != 1 || o.waits[0] != 0 {
		t.Fatalf("a clean filesystem: waits %v, %v", o.waits, err)
	}
	if p.MMP.DeviceName() != "ours" || p.MMP.NodeName() == "" || p.MMP.Time == 0 {
		t.Errorf("the block says %#v", p.MMP)
	}
	if err := p.Release(); err != nil {
		t.Fatal(err)
	}
	if p, err = Protect(dev, vol, options); err != nil {
		t.Fatalf("given back: %v", err)
	}
	// The other node has ended without giving it back.
	said := ""
	*o, options.Tell = others{t: t}, func(line string) { said += line }
	if p, err = Protect(dev, vol, options); err != nil || len(o.waits) != 2 ||
		o.waits[0] != 11*time.Second || o.waits[1] != 11*time.Second {
		t.Errorf("not given back: waits %v, %v", o.waits, err)
	}
	if !strings.Contains(said, "waiting 22 seconds") || !strings.Contains(said, "as ours") {
		t.Errorf("it says %q", said)
	}
	// The other node is alive, or comes at the same time.
	for during := 1; during <= 2; during++ {
		*o = others{t: t, p: p, update: during}
		copy(p.MMP.Node[:], "othernode\x00")
		_, err := Protect(dev, vol, options)
		var used *InUseError
		if !errors.As(err, &used) || len(o.waits) != during ||
			!strings.Contains(err.Error(), "in use on node othernode as ours, last seen 2001-09-") {
			t.Errorf("in use in wait %d: %v after %v", during, err, o.waits)
		}
	}
	p.MMP.Seq = ext4.MMPFsck
	if err := p.write(p.MMP); err != nil {
		t.Fatal(err)
	}
	*o = others{t: t}
	if _, err := Protect(dev, vol, options); err == nil || len(o.waits) != 0 ||
		!strings.Contains(err.Error(), "checked by e2fsck on node othernode") {
		t.Errorf("e2fsck: %v after %v", err, o.waits)
	}
}

// TestProtectKeep has the block kept up to date, until somebody else writes it.
func TestProtectKeep(t *testing.T) {
	dev, vol := mmpImage(t)
	p, err := Protect(dev, vol, ProtectOptions{})
	if err != nil {
		t.Fatal(err)
	}
	first := p.MMP.Seq
	stop := p.Keep()
	time.Sleep(1500 * time.Millisecond)
	if err := stop(); err != nil || p.MMP.Seq == first {
		t.Errorf("after more than an interval: number %#x, was %#x, %v", p.MMP.Seq, first, err)
	}
	if err := stop(); err != nil {
		t.Errorf("stopped again: %v", err)
	}
	other := *p
	if err := other.update(); err != nil {
		t.Fatal(err)
	}
	stop = p.Keep()
	time.Sleep(1500 * time.Millisecond)
	var used *InUseError
	if err := stop(); !errors.As(err, &used) {
		t.Errorf("somebody else has written: %v", err)
	}
	if err := p.Release(); !errors.As(err, &used) {
		t.Errorf("somebody else's given back: %v", err)
	}
	if have, err := p.read(); err != nil || have != other.MMP {
		t.Errorf("the other's block is %#v, %v", have, err)
	}
}
