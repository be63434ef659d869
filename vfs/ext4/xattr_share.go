package ext4

// xattrSpace is what is kept in memory for changing attributes; it is part of Space.
//
// Invariants: a block in shared holds attributes, with that hash; what gives up such a block, or
// changes it, takes it out. It is there to be found by other inodes with the same attributes. What
// an attempt adds waits in fresh for it to succeed.
type xattrSpace struct {
	shared [xattrSharedMax]sharedBlock
	fresh  [4]sharedBlock
	nfresh int
	// orphans takes the inodes of values that are not needed any more, gone lists them; see
	// Space.Attach.
	orphans *Orphans
	gone    [goneMax]Ino
	ngone   int
	// values are those that were given inodes last, by their hash; one may not be there any more,
	// or be something else. made is that of the attempt.
	values [xattrValuesMax]sharedValue
	made   sharedValue
}

// xattrValuesMax is the number of values that are remembered: 4 KiB.
const xattrValuesMax = 512

type sharedValue struct {
	ino  Ino
	hash uint32
}

// rememberValue notes the value of a change, which has a new inode.
func (s *xattrSpace) rememberValue(c *xattrChange) { s.made = sharedValue{c.inum, c.hash} }

// xattrSharedMax is the number of attribute blocks that are remembered: 8 KiB. As a rule there are
// few different ones: the ACLs that directories hand down.
const xattrSharedMax = 512

type sharedBlock struct {
	block Block
	hash  uint32
}

// begin keeps what the attempt before has added.
func (s *xattrSpace) begin() {
	s.ngone = 0
	if x := s.made; x.ino != 0 {
		s.values[x.hash%xattrValuesMax] = x
	}
	s.made = sharedValue{}
	for _, x := range s.fresh[:s.nfresh] {
		s.shared[x.hash%xattrSharedMax] = x
	}
	s.nfresh = 0
}

// rollback drops what the attempt has added. What it took out stays out: it is a hint, no more.
func (s *xattrSpace) rollback() { s.nfresh, s.ngone, s.made = 0, 0, sharedValue{} }

// remember notes a block; with hash 0 it cannot be shared.
func (s *xattrSpace) remember(hash uint32, b Block) {
	if hash != 0 && s.nfresh < len(s.fresh) {
		s.fresh[s.nfresh] = sharedBlock{b, hash}
		s.nfresh++
	}
}

// forget takes a block out that has, or had, that hash.
func (s *xattrSpace) forget(hash uint32, b Block) {
	if x := &s.shared[hash%xattrSharedMax]; x.block == b {
		*x = sharedBlock{}
	}
	for i := range s.fresh[:s.nfresh] {
		if s.fresh[i].block == b {
			s.nfresh--
			s.fresh[i] = s.fresh[s.nfresh]
			return
		}
	}
}

// shareBlock looks for a block with the attributes of a, other than old, and counts one more use
// of it; 0 if there is none. One that names inodes of values would have to be given up with all of
// them.
func (v *Volume) shareBlock(ed Editor, old, a *xattrArea) (Block, error) {
	hash := le32(a.data, xhHash)
	x := ed.Space().attrs.shared[hash%xattrSharedMax]
	if hash == 0 || a.hasOwnValues() || x.hash != hash || x.block == 0 || x.block == old.where {
		return 0, nil
	}
	in := Inode{Ino: a.ino, FileACL: x.block}
	b, err := v.xattrBlock(ed, &in)
	if err != nil {
		return 0, err
	}
	refs := le32(b.data, xhRefcount)
	if refs >= xattrRefsMax || !a.same(&b) {
		return 0, nil
	}
	return x.block, v.countRefs(ed, x.block, refs+1)
}
