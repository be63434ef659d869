package blockdev

import (
	"io"

	"asyncfsd/asyncq"
)

// Sync is a device as an io.ReaderAt and io.WriterAt at any alignment, for code that runs once
// and may block: reading superblocks, recovering a journal. Any goroutine but the loop's own may
// use it; before the loop runs its calls turn it themselves.
type Sync struct{ p *Provider }

// Sync returns the synchronous face of the provider.
func (p *Provider) Sync() *Sync { return &Sync{p} }

// ReadAt reads len(b) bytes at off; io.EOF where the device ends before.
func (s *Sync) ReadAt(b []byte, off int64) (int, error) {
	if len(b) == 0 {
		return 0, nil
	}
	n, err := s.do(b, off, true)
	if err == nil && n < len(b) {
		err = io.EOF
	}
	return n, err
}

// WriteAt writes b at off. ENOSPC: the device ends before; EROFS.
func (s *Sync) WriteAt(b []byte, off int64) (int, error) {
	if len(b) == 0 {
		return 0, nil
	}
	return s.do(b, off, false)
}

// Flush makes what was written durable.
func (s *Sync) Flush() error {
	id, err := s.p.loop.Start(s.p.handle, 0, false, nil)
	if err == nil {
		_, err = s.p.loop.Release(id)
	}
	return err
}

func (s *Sync) do(b []byte, off int64, isRead bool) (int, error) {
	id, err := s.p.loop.Start(s.p.handle, off, isRead, asyncq.NewBuffer(b))
	if err != nil {
		return 0, err
	}
	return s.p.loop.Release(id)
}

// Size is the size of the device in bytes.
func (s *Sync) Size() int64 { return s.p.dev.Size() }

// ReadOnly says that writes are impossible.
func (s *Sync) ReadOnly() bool { return s.p.dev.ReadOnly() }

// Name is the source as the user gave it.
func (s *Sync) Name() string { return s.p.dev.Name() }
