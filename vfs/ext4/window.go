package ext4

import "golang.org/x/sys/unix"

// A window is the space behind a file that grows, reserved for it in memory: so that files that
// grow at the same time do not end up in each other's gaps. Four writers of 64 KiB each at a time
// made a thousand extents each without.
type window struct {
	ino       Ino
	next, end Block // free for the file
}

const (
	// windows is how many files may have one, by a hash of their numbers.
	windowsMax = 64
	// windowAfter is the size from which on a file gets one, and windowMax how large it gets, both
	// in bytes: as large as the file is by then.
	windowAfter = 64 << 10
	windowMax   = 8 << 20
)

// setWindow changes a window, undone with the attempt.
func (s *Space) setWindow(i uint32, w window) {
	s.undo = append(s.undo, spaceUndo{kind: undoWindow, first: i, window: s.windows[i]})
	s.windowBlocks += int64(w.end-w.next) - int64(s.windows[i].end-s.windows[i].next)
	s.windows[i] = w
}

// dropWindow gives back what is left of a window.
func (v *Volume) dropWindow(s *Space, i uint32) {
	w := s.windows[i]
	if w.next < w.end {
		v.UnreserveBlocks(s, w.next, uint32(w.end-w.next))
	}
	if w != (window{}) {
		s.setWindow(i, window{})
	}
}

// dropWindows gives all windows back, when there is no other space left. It says whether that
// helped.
func (v *Volume) dropWindows(s *Space) bool {
	if s.windowBlocks == 0 {
		return false
	}
	for i := range uint32(windowsMax) {
		v.dropWindow(s, i)
	}
	return true
}

// ReserveBlocks reserves blocks for data of a file, out of its window if it has one there. Errors
// as those of AllocBlocks.
func (v *Volume) ReserveBlocks(ed Editor, in *Inode, a Alloc) (Block, uint32, error) {
	a.Reserve = true
	if v.ClusterBits > 0 || in.Size < windowAfter {
		return v.AllocBlocks(ed, a)
	}
	s := ed.Space()
	i := uint32(in.Ino) % windowsMax
	if w := s.windows[i]; w.ino == in.Ino && w.next == a.Goal && w.next < w.end {
		n := uint32(min(uint64(a.Want), uint64(w.end-w.next)))
		s.setWindow(i, window{in.Ino, w.next + Block(n), w.end})
		return w.next, n, nil
	}
	v.dropWindow(s, i)
	want := a.Want
	a.Want += uint32(min(in.Size, windowMax) >> v.BlockBits)
	b, n, err := v.AllocBlocks(ed, a)
	if err == unix.ENOSPC || n <= want {
		return b, n, err
	}
	s.setWindow(i, window{in.Ino, b + Block(want), b + Block(n)})
	return b, want, err
}
