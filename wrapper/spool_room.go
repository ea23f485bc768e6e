package wrapper

// How a spool that is full makes room: confirmed bytes first, then the oldest that
// nobody has seen. All of it needs mu, where nothing else is said.

// makeRoomAfter answers a failed write: on a full disk it gives up what is oldest,
// and the write is worth another try.
func (s *spool) makeRoomAfter(err error) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !isDiskFull(err) {
		return false
	}
	return s.dropAcked() || s.dropUnsent()
}

// dropAcked gives back the oldest segment that the server has: it could only be
// needed again if the server's machine crashed before it reached its disk.
func (s *spool) dropAcked() bool {
	if len(s.segs) < 2 || s.segs[0].end() > s.acked {
		return false
	}
	seg := s.segs[0]
	s.base = seg.end()
	if seg.lost > 0 && len(s.passed) < passedMost {
		s.passed = append(s.passed, marker{seg.start, seg.size, seg.lost})
	}
	s.segs = s.segs[1:]
	if s.o.Dir != "" {
		// Written first: files below the base's number are not looked at.
		_ = spoolBase{First: s.segs[0].number, Offset: s.base}.write(s.o.Dir)
	}
	s.forget(seg)
	return true
}

// dropUnsent gives up the oldest segment of which the road has seen nothing,
// and counts its bytes in a marker at its place.
func (s *spool) dropUnsent() bool {
	for i, seg := range s.segs[:max(len(s.segs)-1, 0)] {
		if seg.start < s.sent || seg.lost > 0 {
			continue
		}
		into := seg
		if i > 0 && s.segs[i-1].lost > 0 && s.segs[i-1].start >= s.sent {
			into = s.segs[i-1]
		}
		bytes := seg.size
		s.lost += bytes
		s.why = lossFull
		if into.lost == 0 {
			into.why = s.why
		}
		s.held -= into.weight()
		into.becomeMarker(into.lost+bytes, true)
		s.held += into.weight()
		if into != seg {
			s.segs = append(s.segs[:i], s.segs[i+1:]...)
			s.forget(seg)
			if s.endSeg == seg {
				s.endSeg = into
			}
		}
		if s.endSeg == into {
			s.endOff = into.size
		}
		if s.cached == into {
			s.cached = nil
		}
		s.renumber()
		return true
	}
	return false
}

// lose counts bytes that found no room at the end of the spool.
func (s *spool) lose(n int64, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err == nil {
		err = s.refusal
	}
	s.lost += n
	s.why = lossOf(err)
	last := s.last()
	if last == nil || last.lost == 0 || last.start < s.sent || last.why != s.why {
		if last != nil {
			last.finish()
		}
		last = &segment{why: s.why, dir: s.o.Dir, number: s.next, start: s.lengthLocked()}
		s.next++
		s.segs = append(s.segs, last)
	}
	s.held -= last.weight()
	// The file is for pickup only; a full disk need not see every step.
	last.becomeMarker(last.lost+n, last.lost+n >= 2*last.lostWritten)
	s.held += last.weight()
}

// settle brings the file of a marker that still grows up to date.
func (s *spool) settle() {
	if last := s.last(); last != nil && last.lost != last.lostWritten {
		last.becomeMarker(last.lost, true)
	}
}

// forget releases a segment that left the list.
func (s *spool) forget(seg *segment) {
	s.held -= seg.weight()
	seg.remove()
	s.chill(seg)
	if s.cached == seg {
		s.cached, s.cache = nil, nil
	}
	s.room.Broadcast()
}
