package wrapper

import (
	"slices"
	"time"
)

// While much is printed, the blocks that were read last stay in memory beside the
// spool's files, so that a road that keeps up needn't read them back. What a block
// shows is in its file already.
const (
	warmBlocks = 4 // two pumps fill one each, the road has one, and one waits for it
	coolAfter  = time.Second

	// A pump that runs ahead of the road makes work for both: what the road then
	// reads has left the processor's caches. So it waits for a road that is fast,
	// for a moment that bounds what that can cost a job, and lets a road that does
	// not move alone for a while.
	roadMoves = 2 * time.Millisecond
	roadWait  = 4 * time.Millisecond
	roadPause = 64 // blocks
)

// block is a buffer that a pump reads into. Its spool's mu guards it, except that
// the pump alone touches the bytes between takeBlock and AppendBlock, and that they
// stay as they are while it is lent.
type block struct {
	buf     []byte
	parts   []warmPart // what of it is in the spool
	filling bool       // a pump has it
	lent    bool       // the road has it
	age     uint64
}

// warmPart is a run of a block's bytes and where it lies in the spool.
type warmPart struct {
	seg    *segment
	within int64
	stream byte
	data   []byte
}

func (p *warmPart) end() int64 { return p.seg.start + p.within + int64(len(p.data)) }

// sentTo reports whether the road has taken everything that a block shows.
func (b *block) sentTo(sent int64) bool {
	return !slices.ContainsFunc(b.parts, func(p warmPart) bool { return p.end() > sent })
}

// takeBlock gives a pump a block to fill: one that the road is done with, a new one,
// or the oldest.
func (s *spool) takeBlock() *block {
	s.mu.Lock()
	defer s.mu.Unlock()
	var b *block
	for _, old := range s.warm {
		if !old.filling && !old.lent && (b == nil || old.age < b.age) {
			b = old
		}
	}
	if len(s.warm) < warmBlocks && (b == nil || !b.sentTo(s.sent)) || b == nil {
		b = &block{buf: make([]byte, pumpMax)}
		s.warm = append(s.warm, b)
	}
	b.parts, b.filling = b.parts[:0], true
	return b
}

// AppendBlock adds the first n bytes of a block, which may be filled again only
// after another takeBlock.
func (s *spool) AppendBlock(b *block, n int, stream byte, now time.Time) {
	s.add(b, stream, b.buf[:n], now)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.warmAge++
	b.filling, b.age = false, s.warmAge
}

// coolDown lets go of all blocks: nothing was printed for a while.
func (s *spool) coolDown() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.warm = nil
}

// chill takes what is known of a segment's bytes out of the blocks. Needs mu.
func (s *spool) chill(seg *segment) {
	for _, b := range s.warm {
		b.parts = slices.DeleteFunc(b.parts, func(p warmPart) bool { return p.seg == seg })
	}
}

// Lend shows up to most bytes of one stream from offset on that are in memory; they
// stay as they are until Return. Nil: ReadAt may have them. As with ReadAt, they
// keep their offsets from then on. One at a time.
func (s *spool) Lend(offset int64, most int) ([]byte, byte) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if offset < s.base {
		return nil, 0
	}
	for _, b := range s.warm {
		for i := range b.parts {
			p := &b.parts[i]
			at := offset - p.seg.start - p.within
			if at < 0 || offset >= p.end() || p.seg.lost > 0 {
				continue
			}
			data := p.data[at:min(int64(len(p.data)), at+int64(most))]
			b.lent, s.lent = true, b
			s.sent = max(s.sent, offset+int64(len(data)))
			return data, p.stream
		}
	}
	return nil, 0
}

// Return ends what Lend began.
func (s *spool) Return() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.lent != nil {
		s.lent.lent, s.lent = false, nil
	}
	poke(s.taken)
}

// pacer lets a pump wait for the road, within bounds.
type pacer struct {
	s    *spool
	skip int // blocks to go until the road is looked at again
}

// wait is called after each block.
func (p *pacer) wait() {
	if p.skip > 0 {
		p.skip--
		return
	}
	end := time.Now().Add(roadWait)
	for !p.s.roadIsNear() {
		left := min(roadMoves, time.Until(end))
		if left <= 0 {
			return
		}
		t := time.NewTimer(left)
		select {
		case <-p.s.taken:
			t.Stop()
		case <-t.C:
			p.skip = roadPause
			return
		}
	}
}

// roadIsNear reports whether the road has all but the last block.
func (s *spool) roadIsNear() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.lengthLocked()-s.sent <= pumpMax
}
