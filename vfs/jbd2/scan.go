package jbd2

// scanInfo is what Scan finds out.
type scanInfo struct {
	start, end Tid // transactions [start, end) are complete
	// head is the block behind the last complete transaction.
	head LogBlock
	// failed says that the end is a transaction whose checksum is wrong, though it is complete:
	// not what a crash leaves, unless commits are asynchronous.
	failed bool
	// blocks is how many blocks the complete transactions have, data included.
	blocks LogBlock
}

// walker goes round the log.
type walker struct {
	l    *Log
	r    *reader
	at   LogBlock // the next block
	tid  Tid      // the transaction that is expected there
	seen LogBlock // blocks passed
}

func (l *Log) walker() *walker {
	return &walker{l: l, r: l.newReader(), at: LogBlock(l.u32(sStart)), tid: Tid(l.u32(sSequence))}
}

// skip passes n blocks, at most all there are.
func (w *walker) skip(n LogBlock) {
	w.seen += n
	ring := w.l.last - w.l.first
	w.at = w.l.first + (w.at-w.l.first+n)%ring
}

// next reads the next block that has a header. ok is false at the end of the log: where a block
// is no part of the transaction that is expected, or where all blocks have been passed.
func (w *walker) next() (block []byte, h header, at LogBlock, ok bool, err error) {
	at = w.at
	if w.seen >= w.l.last-w.l.first {
		return nil, h, at, false, nil
	}
	if block, err = w.r.block(at); err != nil {
		return nil, h, at, false, err
	}
	h, ok = decodeHeader(block)
	if !ok || h.tid != w.tid {
		return nil, h, at, false, nil
	}
	w.skip(1)
	return block, h, at, true, nil
}

// scanner is the state of the first pass.
type scanner struct {
	*walker
	info scanInfo
	crc  uint32 // of the transaction's blocks so far, version 1
	// suspect: a block of the transaction has a wrong checksum. If the transaction has a commit
	// block as well, its time tells a damaged log from a leftover of an earlier use of the log.
	suspect bool
	ended   bool // info.end is settled: a commit block has a wrong checksum
	time    uint64
}

// Scan finds the end of the log, and checks all of it but the contents of logged blocks (these,
// too, with checksums of version 1). It must be called before Replay; it writes nothing. Errors:
// *CorruptError, those of the device.
func (l *Log) Scan() error {
	if l.Empty() {
		return nil
	}
	s := &scanner{walker: l.walker(), crc: ^uint32(0)}
	s.info.start, s.info.head = s.tid, s.at
	for more := true; more; {
		block, h, at, ok, err := s.next()
		if err != nil {
			return err
		}
		if !ok {
			break
		}
		if more, err = s.block(block, h, at); err != nil {
			return err
		}
	}
	if !s.ended {
		s.info.end = s.tid
	}
	l.info = s.info
	l.revokes.seal()
	return nil
}

// block looks at one block. more is false at the end of the log.
func (s *scanner) block(block []byte, h header, at LogBlock) (more bool, err error) {
	switch h.kind {
	case blockDescriptor:
		s.suspect = s.suspect || !s.l.tailOK(block)
		return s.descriptor(block)
	case blockRevoke:
		s.suspect = s.suspect || !s.l.tailOK(block)
		return true, nil
	case blockCommit:
		return s.commit(block, at)
	}
	return false, nil
}

// descriptor passes the blocks that follow a descriptor block.
func (s *scanner) descriptor(block []byte) (more bool, err error) {
	t := s.l.tagsOf(block)
	n := t.count()
	if n > s.l.last-s.l.first-min(s.seen, s.l.last-s.l.first) {
		return false, nil // more than there can be: the transaction never ended
	}
	for g, ok := t.next(); ok; g, ok = t.next() {
		s.l.revokes.add(g.block)
	}
	if !s.l.csumV1() || s.suspect || s.ended {
		s.skip(n)
		return true, nil
	}
	s.crc = crc32be(s.crc, block)
	for range n {
		data, err := s.r.block(s.at)
		if err != nil {
			return false, err
		}
		s.crc = crc32be(s.crc, data)
		s.skip(1)
	}
	return true, nil
}

// commit ends a transaction.
func (s *scanner) commit(block []byte, at LogBlock) (more bool, err error) {
	l, time := s.l, be.Uint64(block[hCommitSec:])
	if s.suspect {
		if time < s.time {
			return false, nil // a leftover
		}
		return false, &CorruptError{"wrong checksum in a complete transaction", at, s.tid}
	}
	if l.csumV1() && s.ended {
		s.info.failed = true
		return false, nil
	}
	good := l.commitOK(block)
	if l.csumV1() {
		good = commitV1OK(block, s.crc)
		s.crc = ^uint32(0)
	}
	if !good {
		if time < s.time {
			return false, nil // a leftover
		}
		// NB: with asynchronous commits the commit block may have reached the disk before the
		// rest. Version 1 looks further: if another transaction follows, it was damage. With
		// later versions the kernel cannot tell.
		if !s.ended {
			s.info.end, s.ended = s.tid, true
		}
		if !l.has(incompatAsyncCommit) {
			s.info.failed = true
			return false, nil
		}
	}
	s.time = time
	s.tid++
	if !s.ended {
		s.info.head, s.info.blocks = s.at, s.seen
	}
	return true, nil
}
