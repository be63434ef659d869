package ext4

import (
	"math"

	"golang.org/x/sys/unix"
)

// QuotaType is whose use of space is counted.
type QuotaType uint8

// The types of quotas.
const (
	QuotaUser QuotaType = iota
	QuotaGroup
	QuotaProject
	quotaTypes
)

// Quotas counts, in files of the filesystem, the blocks and inodes of each user, group and project,
// and keeps them to their limits. It is part of Space.
//
// What an inode counts for follows from its fields on the disk: i_blocks, and one inode, and one
// more for each value of an attribute that has its own. So it is WriteInode that compares what was
// there with what is going to be, and nobody else has to think of it but what takes and frees
// inodes and such values. Quota files, the orphan file and inodes of values count for nobody.
//
// Invariants: an entry stays where it is as long as the filesystem is mounted, since none is ever
// taken out: hints are right. What an attempt has found, or made, waits in fresh for it to succeed.
type Quotas struct {
	files  [quotaTypes]quotaFile
	exempt bool
	hints  [quotaHintsMax]quotaHint
	fresh  [quotaFreshMax]quotaHint
	nfresh int
}

// quotaFile is one type's; ino is 0 if that type is not counted.
type quotaFile struct {
	ino     Ino
	limited bool
}

const (
	// quotaHintsMax is of how many ids it is remembered where their entries are: 24 KiB.
	quotaHintsMax = 1024
	// quotaFreshMax: an operation has at most two directories, an inode that changes its owner,
	// and one that is new.
	quotaFreshMax = 5 * int(quotaTypes)
)

// quotaHint says where an entry is; block 0 is no hint.
type quotaHint struct {
	block Block
	off   uint32
	id    uint32
	t     QuotaType
}

func (h *quotaHint) slot() uint32 {
	return (h.id*uint32(quotaTypes) + uint32(h.t)) * 0x9e3779b1 % quotaHintsMax
}

// Limit has limits of a type enforced from now on; otherwise it is only counted.
func (q *Quotas) Limit(t QuotaType) { q.files[t].limited = true }

// Exempt says whether the attempt that begins may exceed limits.
func (q *Quotas) Exempt(yes bool) { q.exempt = yes }

func (q *Quotas) begin() {
	for _, h := range q.fresh[:q.nfresh] {
		q.hints[h.slot()] = h
	}
	q.nfresh = 0
}

func (q *Quotas) rollback() { q.nfresh = 0 }

// UseQuotas has what is changed from now on counted; nil is none.
func (s *Space) UseQuotas(q *Quotas) { s.quotas = q }

// Quotas returns what UseQuotas was given.
func (s *Space) Quotas() *Quotas { return s.quotas }

// LoadQuotas finds the quota files and verifies their headers; nil if the filesystem has none.
// Limits are not enforced yet. Errors: those of src; CorruptError.
func (v *Volume) LoadQuotas(src Source) (*Quotas, error) {
	if !v.HasROCompat(ROCompatQuota) {
		return nil, nil
	}
	q := &Quotas{exempt: true}
	any := false
	for t := range quotaTypes {
		ino := v.quotaInode(t)
		if ino == 0 {
			continue
		}
		if err := v.checkQuotaFile(src, t, ino); err != nil {
			return nil, err
		}
		q.files[t].ino, any = ino, true
	}
	if !any {
		return nil, nil
	}
	return q, nil
}

// quotaInode returns the inode with the quotas of a type.
func (v *Volume) quotaInode(t QuotaType) Ino {
	return Ino(v.u32([quotaTypes]int{sUsrQuotaInum, sGrpQuotaInum, sPrjQuotaInum}[t]))
}

func (v *Volume) checkQuotaFile(src Source, t QuotaType, ino Ino) error {
	var f quotaTree
	err := v.openQuota(src, &f, t, ino)
	if err != nil {
		return err
	}
	p, err := f.block(src, 0)
	if err != nil {
		return err
	}
	blocks := le32(p.data, qhBlocks)
	listed := func(off int) bool { // a list begins with a block that there is
		n := le32(p.data, off)
		return n == 0 || n > quotaRoot && n < blocks
	}
	switch {
	case le32(p.data, qhMagic) != quotaMagic[t] || le32(p.data, qhVersion) != quotaVersion:
		return f.corrupt("magic number or version", p.where, p.off)
	case blocks <= quotaRoot || uint64(blocks)<<quotaBlockBits > f.in.Size ||
		!listed(qhFreeBlk) || !listed(qhFreeEntry):
		return f.corrupt("header", p.where, p.off)
	}
	return nil
}

// charged is whom an inode counts for, and how many blocks.
type charged struct {
	ids     [quotaTypes]uint32
	sectors uint64
}

// chargedOn returns what an inode counts for as it is on the disk.
func (v *Volume) chargedOn(raw []byte) charged {
	in := Inode{UID: uint32(le16(raw, iUID)) | uint32(le16(raw, iUIDHigh))<<16,
		GID:   uint32(le16(raw, iGID)) | uint32(le16(raw, iGIDHigh))<<16,
		Flags: le32(raw, iFlags)}
	v.decodeBlocks(raw, &in)
	if v.InodeSize > inodeSizeGood {
		in.ExtraISize = le16(raw, iExtraISize)
		if in.has(iProjID) {
			in.ProjID = le32(raw, iProjID)
		}
	}
	return v.chargedFor(&in)
}

// chargedFor returns what an inode is going to count for.
func (v *Volume) chargedFor(in *Inode) charged {
	c := charged{ids: [quotaTypes]uint32{in.UID, in.GID}, sectors: in.Sectors}
	if v.HasROCompat(ROCompatProject) && in.has(iProjID) {
		c.ids[QuotaProject] = in.ProjID
	}
	return c
}

// isCharged says whether an inode counts for anybody.
func (v *Volume) isCharged(ed Editor, in *Inode) bool {
	return ed.Space().quotas != nil && v.counts(in)
}

// counts says whether an inode is one that counts in quotas.
func (v *Volume) counts(in *Inode) bool {
	if in.Flags&FlagEAInode != 0 ||
		in.Ino < v.FirstInode && in.Ino != RootIno || in.Ino == v.orphanFile() {
		return false
	}
	for t := range quotaTypes {
		if in.Ino == v.quotaInode(t) {
			return false
		}
	}
	return true
}

// chargeNew counts an inode that was just taken.
func (v *Volume) chargeNew(ed Editor, in *Inode) error {
	if !v.isCharged(ed, in) {
		return nil
	}
	return v.chargeAll(ed, v.chargedFor(in), 1, 1)
}

// chargeFreed takes back what an inode counts for that is being freed.
func (v *Volume) chargeFreed(ed Editor, in *Inode) error {
	if !v.isCharged(ed, in) {
		return nil
	}
	raw, err := v.rawInode(ed, in.Ino)
	if err != nil {
		return err
	}
	return v.chargeAll(ed, v.chargedOn(raw), -1, -1)
}

// chargeValues counts n more, or fewer, inodes of values for the owner of an inode, as it is on the
// disk.
func (v *Volume) chargeValues(ed Editor, in *Inode, n int64) error {
	if !v.isCharged(ed, in) {
		return nil
	}
	raw, err := v.rawInode(ed, in.Ino)
	if err != nil {
		return err
	}
	return v.chargeAll(ed, v.chargedOn(raw), 0, n)
}

func (v *Volume) rawInode(ed Editor, ino Ino) ([]byte, error) {
	b, off, err := v.InodeBlock(ino)
	if err != nil {
		return nil, err
	}
	buf, err := ed.Block(b)
	if err != nil {
		return nil, err
	}
	return buf.Data[off : off+int(v.InodeSize)], nil
}

// chargeAll counts space times what c says, and inodes, for all whom it says.
func (v *Volume) chargeAll(ed Editor, c charged, space, inodes int64) error {
	for t, id := range c.ids {
		err := v.charge(ed, QuotaType(t), id, space*int64(c.sectors)<<9, inodes)
		if err != nil {
			return err
		}
	}
	return nil
}

// chargeChange counts what changes when an inode is written whose bytes are raw. For a new owner
// it counts anew.
func (v *Volume) chargeChange(ed Editor, raw []byte, in *Inode) error {
	if !v.isCharged(ed, in) {
		return nil
	}
	was, now := v.chargedOn(raw), v.chargedFor(in)
	if was == now {
		return nil
	}
	inodes := int64(1)
	if was.ids != now.ids {
		values, _, err := v.countOwnValues(ed, in)
		if err != nil {
			return err
		}
		inodes += values
	}
	return v.chargeMove(ed, was, now, inodes, inodes)
}

// chargeMove counts an inode that was one thing, of so many inodes, and is another one now.
func (v *Volume) chargeMove(ed Editor, was, now charged, inodesWas, inodes int64) error {
	before, after := int64(was.sectors)<<9, int64(now.sectors)<<9
	for t := range quotaTypes {
		if was.ids[t] == now.ids[t] {
			err := v.charge(ed, t, now.ids[t], after-before, inodes-inodesWas)
			if err != nil {
				return err
			}
			continue
		}
		if err := v.charge(ed, t, now.ids[t], after, inodes); err != nil {
			return err
		}
		if err := v.charge(ed, t, was.ids[t], -before, -inodesWas); err != nil {
			return err
		}
	}
	return nil
}

// charge counts bytes and inodes, more or fewer, for an id. EDQUOT: it may not have more.
func (v *Volume) charge(ed Editor, t QuotaType, id uint32, bytes, inodes int64) error {
	q := ed.Space().quotas
	if q.files[t].ino == 0 || bytes == 0 && inodes == 0 {
		return nil
	}
	h, err := v.findQuota(ed, t, id)
	if err == nil && h.block == 0 {
		if bytes <= 0 && inodes <= 0 {
			return nil // was never counted
		}
		h, err = v.addQuota(ed, t, id)
	}
	if err != nil {
		return err
	}
	buf, err := ed.Modify(h.block)
	if err != nil {
		return err
	}
	e := buf.Data[h.off : h.off+qeSize]
	for i := range quotaKinds {
		n := [len(quotaKinds)]int64{bytes, inodes}[i]
		if err := v.count(ed, t, e, &quotaKinds[i], n); err != nil {
			return err
		}
	}
	if allZero(e) { // and in use all the same
		le.PutUint64(e[qeITime:], 1)
	}
	return nil
}

// quotaKind is what there are limits of: where an entry has it, and the header its grace time.
type quotaKind struct {
	used, hard, soft, until int
	grace                   int
	bits                    uint8 // log2 of the units of limits
}

// quotaKinds are blocks and inodes.
var quotaKinds = [2]quotaKind{
	{qeCurSpace, qeBHardLimit, qeBSoftLimit, qeBTime, qhBGrace, quotaBlockBits},
	{qeCurInodes, qeIHardLimit, qeISoftLimit, qeITime, qhIGrace, 0},
}

func (k *quotaKind) limit(e []byte, off int) uint64 { return le.Uint64(e[off:]) << k.bits }

// time is until when the soft limit may be exceeded, 0 if it was not.
func (k *quotaKind) time(e []byte) uint64 {
	until := le.Uint64(e[k.until:])
	if k.until == qeITime && until == 1 {
		return 0
	}
	return until
}

// room is how much more there may be at a time, as the entry says.
func (k *quotaKind) room(e []byte, now uint64) uint64 {
	limit := uint64(math.MaxInt64)
	if hard := k.limit(e, k.hard); hard != 0 {
		limit = min(limit, hard)
	}
	if soft, until := k.limit(e, k.soft), k.time(e); soft != 0 && until != 0 && now >= until {
		limit = min(limit, soft)
	}
	return limit - min(limit, le.Uint64(e[k.used:]))
}

// count changes one of the two numbers of an entry by n.
func (v *Volume) count(ed Editor, t QuotaType, e []byte, k *quotaKind, n int64) error {
	used, soft := le.Uint64(e[k.used:]), k.limit(e, k.soft)
	q := ed.Space().quotas
	switch {
	case n == 0:
		return nil
	case n < 0:
		used -= min(used, uint64(-n))
		if used <= soft || soft == 0 {
			le.PutUint64(e[k.until:], 0)
		}
	case q.files[t].limited:
		now := uint64(max(ed.Now().Sec, 0))
		if !q.exempt && uint64(n) > k.room(e, now) {
			return unix.EDQUOT
		}
		used += uint64(n)
		if soft != 0 && used > soft && k.time(e) == 0 {
			grace, err := v.quotaGrace(ed, t, k)
			if err != nil {
				return err
			}
			le.PutUint64(e[k.until:], now+grace)
		}
	default:
		used += uint64(n)
	}
	le.PutUint64(e[k.used:], used)
	return nil
}

// quotaGrace returns for how many seconds a soft limit may be exceeded.
func (v *Volume) quotaGrace(ed Editor, t QuotaType, k *quotaKind) (uint64, error) {
	var f quotaTree
	if err := v.openQuota(ed, &f, t, ed.Space().quotas.files[t].ino); err != nil {
		return 0, err
	}
	p, err := f.block(ed, 0)
	if err != nil {
		return 0, err
	}
	return uint64(le32(p.data, k.grace)), nil
}

// QuotaRoom returns how many more bytes whom an inode counts for may have, by the attempt under
// way. Errors: those of ed; CorruptError.
func (v *Volume) QuotaRoom(ed Editor, in *Inode) (uint64, error) {
	room := uint64(math.MaxInt64)
	q := ed.Space().quotas
	if q == nil || q.exempt {
		return room, nil
	}
	now := uint64(max(ed.Now().Sec, 0))
	for t, id := range v.chargedFor(in).ids {
		if !q.files[t].limited {
			continue
		}
		h, err := v.findQuota(ed, QuotaType(t), id)
		if err != nil {
			return 0, err
		}
		if h.block == 0 {
			continue
		}
		buf, err := ed.Block(h.block)
		if err != nil {
			return 0, err
		}
		room = min(room, quotaKinds[0].room(buf.Data[h.off:h.off+qeSize], now))
	}
	return room, nil
}
