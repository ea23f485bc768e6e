package wrapper

import (
	"errors"
	"io"
	"io/fs"
	"os"
	"sort"
	"time"

	"saltpeter/wsx/wire"
)

// ReadAt copies bytes of one stream from offset on. n == 0 means that there is
// nothing new. Bytes that it returned keep their offsets from then on.
func (s *spool) ReadAt(p []byte, offset int64) (int, byte, error) {
	s.reading.Lock()
	defer s.reading.Unlock()
	for range 3 {
		n, stream, err := s.readOnce(p, offset)
		if !errors.Is(err, errSegmentGone) {
			return n, stream, err
		}
	}
	return 0, wire.Stdout, errSegmentGone
}

// readOnce needs reading.
func (s *spool) readOnce(p []byte, offset int64) (int, byte, error) {
	s.mu.Lock()
	if offset < s.base {
		s.fillFront(offset)
	}
	i := sort.Search(len(s.segs), func(i int) bool { return s.segs[i].end() > offset })
	if i == len(s.segs) || len(p) == 0 {
		s.mu.Unlock()
		return 0, wire.Stdout, nil
	}
	seg := s.segs[i]
	within := offset - seg.start
	stream, until := streamAt(s.records(seg), within, seg.size)
	n := int(min(int64(len(p)), until-within))
	// Taken before the bytes are read: from here on they can't be given up.
	s.sent = max(s.sent, offset+int64(n))
	if seg.mem != nil {
		copy(p[:n], seg.mem[within:])
		s.mu.Unlock()
		return n, stream, nil
	}
	s.mu.Unlock()
	err := s.readSegment(seg, p[:n], within)
	poke(s.taken)
	if err != nil {
		return 0, stream, err
	}
	return n, stream, nil
}

// readSegment needs reading. The reader has a handle of its own, so that the
// writer may close its own at any time.
func (s *spool) readSegment(seg *segment, p []byte, within int64) error {
	if s.readSeg != seg {
		s.closeReader()
		f, err := os.Open(seg.path())
		if errors.Is(err, fs.ErrNotExist) {
			return errSegmentGone
		}
		if err != nil {
			return err
		}
		s.readSeg, s.readFile = seg, f
	}
	_, err := s.readFile.ReadAt(p, within)
	if err == io.EOF {
		return io.ErrUnexpectedEOF
	}
	return err
}

// fillFront puts a marker before the first segment: the server asks for bytes
// that it had confirmed and that were given back since. It has nothing from
// offset on, so what follows may move.
func (s *spool) fillFront(offset int64) {
	number := 0
	if len(s.segs) > 0 {
		number = s.segs[0].number - 1
	} else {
		number = s.next
		s.next++
	}
	seg := &segment{dir: s.o.Dir, number: number, start: offset, why: lossServer}
	lost := s.base - offset
	for _, m := range s.passed {
		if end := m.start + m.size; end > offset {
			lost += m.lost - (end - max(m.start, offset)) // its text was no output
		}
	}
	s.passed = nil
	s.lost += lost
	s.base = offset
	seg.becomeMarker(lost, true)
	s.held += seg.weight()
	s.segs = append([]*segment{seg}, s.segs...)
	if s.o.Dir != "" {
		_ = spoolBase{First: number, Offset: offset}.write(s.o.Dir)
	}
	if s.endSeg != nil && s.endSeg.number <= number {
		s.endSeg, s.endOff = seg, seg.size
	}
	s.sent, s.acked = offset, min(s.acked, offset)
	s.renumber()
}

// streamAt says whose bytes lie at within, and up to where. Bytes that no record
// covers count as standard output.
func streamAt(recs []record, within, size int64) (stream byte, until int64) {
	i := sort.Search(len(recs), func(i int) bool { return int64(recs[i].offset) > within })
	stream = wire.Stdout
	if i > 0 {
		stream = recs[i-1].stream
	}
	for ; i < len(recs); i++ {
		if recs[i].stream != stream {
			return stream, min(size, int64(recs[i].offset))
		}
	}
	return stream, size
}

// records returns a segment's index; one that is not in memory is read and kept
// until another one is asked for. Needs mu.
func (s *spool) records(seg *segment) []record {
	if len(seg.recs) == seg.recCount {
		return seg.recs
	}
	if s.cached != seg {
		data, err := os.ReadFile(seg.indexPath())
		if err != nil {
			data = nil
		}
		s.cached, s.cache = seg, parseRecords(data)
	}
	return s.cache
}

// outputMark is the time of one byte of the output.
type outputMark struct {
	offset int64
	at     time.Time
}

// marks lists the times of the bytes in [from, until), at most one a second and
// at most limit of them.
func (s *spool) marks(from, until int64, limit int) []outputMark {
	s.mu.Lock()
	defer s.mu.Unlock()
	var out []outputMark
	i := sort.Search(len(s.segs), func(i int) bool { return s.segs[i].end() > from })
	for ; i < len(s.segs) && s.segs[i].start < until; i++ {
		seg := s.segs[i]
		recs := s.records(seg)
		k := sort.Search(len(recs), func(k int) bool { return seg.start+int64(recs[k].offset) >= from })
		for ; k < len(recs) && len(out) < limit; k++ {
			m := outputMark{seg.start + int64(recs[k].offset), time.UnixMicro(recs[k].micros)}
			if m.offset >= until {
				return out
			}
			if n := len(out); n > 0 {
				// A wall clock that was set back starts a new count.
				if since := m.at.Sub(out[n-1].at); since >= 0 && since < time.Second {
					continue
				}
			}
			out = append(out, m)
		}
	}
	return out
}
