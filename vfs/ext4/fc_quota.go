package ext4

import (
	"maps"
	"slices"
)

// fcCount is what an inode counts for in quotas.
type fcCount struct {
	charged
	inodes int64
}

// openQuotas reads where the quotas are. The quota files are as the log has left them, like the
// inodes before the replay, so that what it changes of those is the difference. If the files are
// damaged nothing is counted: the mount is going to say so.
func (x *fcReplay) openQuotas() (err error) {
	x.quotas, err = x.v.LoadQuotas(x.e)
	if _, corrupt := err.(*CorruptError); corrupt {
		return nil
	}
	return err
}

// noteQuota is told before an inode is changed for the first time.
func (x *fcReplay) noteQuota(ino Ino) error {
	if _, ok := x.counted[ino]; ok || x.quotas == nil {
		return nil
	}
	c, err := x.count(ino)
	x.counted[ino] = c
	return err
}

// count returns what an inode counts for now: nothing if it is not in use.
func (x *fcReplay) count(ino Ino) (c fcCount, err error) {
	in, ok, err := x.look(ino)
	if err != nil || !ok || !x.v.counts(in) {
		return c, err
	}
	values, _, err := x.v.countOwnValues(x.e, in)
	return fcCount{x.v.chargedFor(in), 1 + values}, err
}

// countQuotas counts, in the end, what has become of the inodes.
func (x *fcReplay) countQuotas() error {
	if x.quotas == nil {
		return nil
	}
	x.e.space.UseQuotas(x.quotas)
	for _, ino := range slices.Sorted(maps.Keys(x.counted)) {
		was := x.counted[ino]
		now, err := x.count(ino)
		if err != nil {
			return err
		}
		if err := x.v.chargeMove(x.e, was.charged, now.charged, was.inodes,
			now.inodes); err != nil {
			return err
		}
	}
	return nil
}
