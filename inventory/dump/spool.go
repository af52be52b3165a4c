package dump

import (
	"bufio"
	"fmt"
	"os"
)

// spoolMemory is how much of the documents is kept in memory before the rest
// goes to a temporary file.
const spoolMemory = 64 << 20

// A spool keeps documents between the two passes: the first bytes in memory,
// the others in a file without a name that only this process can open. Keys of
// Secrets are gone before a document comes here.
type spool struct {
	memory []byte
	limit  int // spoolMemory, or what a test wants; 0 is spoolMemory
	file   *os.File
	w      *bufio.Writer
	size   int64
}

// place is where a document is in the spool. Those in memory have off < 0.
type place struct {
	off int64
	n   int
}

func (s *spool) add(doc []byte) (place, error) {
	limit := s.limit
	if limit == 0 {
		limit = spoolMemory
	}
	if s.file == nil && len(s.memory)+len(doc) <= limit {
		p := place{off: -int64(len(s.memory)) - 1, n: len(doc)}
		s.memory = append(s.memory, doc...)
		return p, nil
	}
	if s.file == nil {
		f, err := os.CreateTemp("", "certherd-*")
		if err != nil {
			return place{}, fmt.Errorf("the dump is large and needs room for temporary data (TMPDIR says where): %w", err)
		}
		// Where the system allows it the file is nameless from here on, and
		// nothing is left behind however the process ends.
		os.Remove(f.Name())
		s.file, s.w = f, bufio.NewWriterSize(f, 1<<20)
	}
	p := place{off: s.size, n: len(doc)}
	if _, err := s.w.Write(doc); err != nil {
		return place{}, fmt.Errorf("write temporary data (TMPDIR says where): %w", err)
	}
	s.size += int64(len(doc))
	return p, nil
}

// get returns a document, in buf if that has room.
func (s *spool) get(p place, buf []byte) ([]byte, error) {
	if cap(buf) < p.n {
		buf = make([]byte, p.n+p.n/2)
	}
	buf = buf[:p.n]
	if p.off < 0 {
		copy(buf, s.memory[-p.off-1:])
		return buf, nil
	}
	if s.w.Buffered() > 0 {
		if err := s.w.Flush(); err != nil {
			return nil, fmt.Errorf("write temporary data (TMPDIR says where): %w", err)
		}
	}
	if _, err := s.file.ReadAt(buf, p.off); err != nil {
		return nil, fmt.Errorf("read temporary data: %w", err)
	}
	return buf, nil
}

func (s *spool) close() {
	if s.file != nil {
		s.file.Close()
		os.Remove(s.file.Name())
	}
}
