package recovery

import (
	"fmt"
	"path/filepath"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"asyncfsd/vfs/ext4"
)

// Protection is a filesystem that this process has for itself among all that heed multiple mount
// protection: before its journal is replayed, and until the mount keeps the block up to date by
// itself.
type Protection struct {
	dev Storage
	vol *ext4.Volume
	at  int64
	// MMP is what stands on the disk.
	MMP ext4.MMP
}

// ProtectOptions are what Protect has to know.
type ProtectOptions struct {
	// Source is what is mounted, for the messages of others.
	Source string
	// Sleep waits; nil is time.Sleep.
	Sleep func(time.Duration)
	// Tell takes a line about a wait; nil for nobody.
	Tell func(line string)
}

// InUseError says that somebody else has the filesystem.
type InUseError struct{ By ext4.MMP }

// Error names who that is, as far as is known.
func (e *InUseError) Error() string {
	who := "in use"
	if e.By.Seq == ext4.MMPFsck {
		who = "being checked by e2fsck"
	}
	who += place(&e.By)
	if e.By.Time > 0 {
		who += ", last seen " + time.Unix(int64(e.By.Time), 0).Format(time.DateTime)
	}
	return who + " (multiple mount protection; if this is wrong: tune2fs -f -E clear_mmp)"
}

// place says where a filesystem is, or was, mounted.
func place(m *ext4.MMP) (text string) {
	if node := m.NodeName(); node != "" {
		text = " on node " + node
	}
	if device := m.DeviceName(); device != "" {
		text += " as " + device
	}
	return text
}

// Protect takes the filesystem in dev, as the kernel does: if it was not given back it waits, to
// see whether somebody still counts, and then whether somebody else takes it, too. Errors:
// *InUseError, *ext4.CorruptError, those of the device.
func Protect(dev Storage, vol *ext4.Volume, o ProtectOptions) (*Protection, error) {
	b, err := vol.MMPBlock()
	if err != nil {
		return nil, err
	}
	p := &Protection{dev: dev, vol: vol, at: int64(b) << vol.BlockBits}
	if o.Sleep == nil {
		o.Sleep = time.Sleep
	}
	before, err := p.read()
	if err != nil {
		return nil, err
	}
	wait := time.Duration(0)
	switch before.Seq {
	case ext4.MMPClean:
	case ext4.MMPFsck:
		return nil, &InUseError{before}
	default:
		wait = before.Wait()
		if o.Tell != nil {
			o.Tell(fmt.Sprintf("was not unmounted%s: waiting %d seconds to see whether it is in "+
				"use (multiple mount protection)", place(&before), 2*wait/time.Second))
		}
		o.Sleep(wait)
		if err := p.unchanged(before); err != nil {
			return nil, err
		}
	}
	node, err := nodeName()
	if err != nil {
		return nil, err
	}
	first := ext4.NewMMP(vol, node, filepath.Base(o.Source))
	if err := p.write(first.Next(now(), 0)); err != nil {
		return nil, err
	}
	o.Sleep(wait)
	if err := p.unchanged(p.MMP); err != nil {
		return nil, err
	}
	return p, nil
}

func now() ext4.Timespec { return ext4.Timespec{Sec: time.Now().Unix()} }

func nodeName() (string, error) {
	var u unix.Utsname
	if err := unix.Uname(&u); err != nil {
		return "", fmt.Errorf("uname: %w", err)
	}
	return unix.ByteSliceToString(u.Nodename[:]), nil
}

// unchanged wants the block to be as it was.
func (p *Protection) unchanged(before ext4.MMP) error {
	have, err := p.read()
	if err == nil && have != before {
		err = &InUseError{have}
	}
	return err
}

func (p *Protection) read() (ext4.MMP, error) {
	data := make([]byte, p.vol.BlockSize)
	if _, err := p.dev.ReadAt(data, p.at); err != nil {
		return ext4.MMP{}, fmt.Errorf("reading the block of multiple mount protection: %w", err)
	}
	return p.vol.DecodeMMP(data)
}

func (p *Protection) write(m ext4.MMP) error {
	data := make([]byte, p.vol.BlockSize)
	_, err := p.dev.ReadAt(data, p.at)
	if err == nil {
		m.Encode(p.vol, data)
		_, err = p.dev.WriteAt(data, p.at)
	}
	if err == nil {
		err = p.dev.Flush()
	}
	if err != nil {
		return fmt.Errorf("writing the block of multiple mount protection: %w", err)
	}
	p.MMP = m
	return nil
}

// update tells others that the filesystem is still in use.
func (p *Protection) update() error {
	if err := p.unchanged(p.MMP); err != nil {
		return err
	}
	return p.write(p.MMP.Next(now(), 0))
}

// Keep updates the block on a goroutine of its own, while the caller is busy with the journal. stop
// ends that and returns what went wrong, *InUseError or an error of the device.
func (p *Protection) Keep() (stop func() error) {
	over, result := make(chan struct{}), make(chan error, 1)
	go func() {
		tick := time.NewTicker(p.vol.MMPInterval())
		defer tick.Stop()
		for {
			select {
			case <-over:
				result <- nil
				return
			case <-tick.C:
			}
			if err := p.update(); err != nil {
				result <- err
				return
			}
		}
	}()
	return sync.OnceValue(func() error {
		close(over)
		return <-result
	})
}

// Release gives the filesystem back.
func (p *Protection) Release() error {
	if err := p.unchanged(p.MMP); err != nil {
		return err
	}
	m := p.MMP
	m.Seq, m.Time = ext4.MMPClean, uint64(now().Sec)
	return p.write(m)
}
