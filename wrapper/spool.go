package wrapper

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"sync"
	"time"

	"saltpeter/wsx/wire"
)

// The spool keeps the output of one task until the server has confirmed the
// task's end. What a server gets is the concatenation of the files output.* of
// the task's directory, in the order of their names; an offset counts the bytes
// of that concatenation from the task's beginning. Where bytes had to be given
// up, a short marker that counts them stands in their place, as text of the
// stream itself. Only bytes that were never handed to the road are replaced, so
// an offset that a server has seen never changes its meaning.
const (
	segmentSize   = 8 << 20   // one output file: the unit in which room is given back
	segmentRecs   = 64 << 10  // records of one index file, 1 MiB of them
	memoryMax     = 8 << 20   // a spool that no disk takes
	tightFloor    = 64 << 20  // what a spool may hold on a disk that has less than 10 % free
	tightFree     = 10        // per cent
	blockedExcess = 4 << 20   // what on_spool_full=block may add once the job is over
	minMax        = 256 << 10 // a smaller max_output is taken as this
	passedMost    = 1024
)

// marker is where a text stands for lost bytes.
type marker struct{ start, size, lost int64 }

type spoolOptions struct {
	Dir   string // the task's directory; "" keeps everything in memory
	Max   int64  // bytes; 0 = wire.DefaultMaxOutput
	Block bool   // a full spool holds the job's output back instead of losing the oldest
	// Free tells the share of the disk that is free, in per cent; nil asks the
	// file system.
	Free func() int
}

// spool is written by one appender at a time, read by the road. Lock order:
// appending, reading, mu.
type spool struct {
	o           spoolOptions
	segmentSize int64
	tightFloor  int64
	changed     chan struct{}
	taken       chan struct{} // gets a value after the road has read
	onAck       func()        // set before the road starts

	appending sync.Mutex
	reading   sync.Mutex
	readSeg   *segment // of readFile; both under reading
	readFile  *os.File

	mu     sync.Mutex
	room   *sync.Cond // signalled when a full spool may have room again
	segs   []*segment // in the order of the stream; the last one is written to
	next   int        // number of the next segment
	held   int64      // bytes of output and index in all segments
	tight  int64      // the limit while the disk is short; 0 = it is not
	base   int64      // offset of the first segment's first byte
	sent   int64      // everything below was handed to the road
	acked  int64      // everything below is stored, as the server says
	lifted bool       // the job is over: block no more
	lost   int64      // bytes given up, in all
	why    string     // the last reason for that
	// refusal is why no new segment could be made, nil if the last one was.
	refusal error
	passed  []marker // of segments given back after their ack, for fillFront
	endSeg  *segment // where the output ended as far as the task's end is concerned
	endOff  int64
	cached  *segment // whose index is in cache
	cache   []record
	closed  bool
	warm    []*block // what is in memory beside the files
	warmAge uint64
	lent    *block // the one that the road has
}

func newSpool(o spoolOptions) *spool {
	if o.Max == 0 {
		o.Max = wire.DefaultMaxOutput
	}
	if o.Max < minMax {
		o.Max = minMax
	}
	if o.Dir == "" && o.Max > memoryMax {
		o.Max = memoryMax
	}
	if o.Free == nil {
		o.Free = func() int { return freePercent(o.Dir) }
	}
	s := &spool{o: o, changed: make(chan struct{}, 1), taken: make(chan struct{}, 1), segmentSize: min(segmentSize, o.Max/8), tightFloor: tightFloor}
	s.room = sync.NewCond(&s.mu)
	return s
}

// Append adds what a pipe gave. It fails never: what finds no room is counted
// and marked. With on_spool_full=block it waits for room.
func (s *spool) Append(stream byte, data []byte, now time.Time) { s.add(nil, stream, data, now) }

// add is Append of what lies in a block, if b is not nil.
func (s *spool) add(b *block, stream byte, data []byte, now time.Time) {
	s.appending.Lock()
	defer s.appending.Unlock()
	for len(data) > 0 {
		seg, fits := s.reserve(int64(len(data)))
		if seg == nil {
			s.lose(int64(len(data)), nil)
			break
		}
		n, err := seg.write(data[:fits])
		s.commit(seg, b, stream, data[:n], now)
		data = data[n:]
		if err != nil && !s.makeRoomAfter(err) {
			s.lose(int64(len(data)), err)
			break
		}
	}
	select {
	case s.changed <- struct{}{}:
	default:
	}
}

// reserve finds the segment that takes the next n bytes and how many of them.
// Nil: there is no room and none can be made.
func (s *spool) reserve(n int64) (*segment, int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.refusal = nil
	for {
		last := s.last()
		if last == nil || !last.takes(s.segmentSize) {
			s.checkDisk()
		}
		n = min(n, s.segmentSize)
		if s.held+n+recordSize <= s.limit() {
			if last == nil || !last.takes(s.segmentSize) {
				if last = s.roll(); last == nil {
					return nil, 0
				}
			}
			return last, min(n, s.segmentSize-last.size)
		}
		if s.dropAcked() || (!s.blocking() && s.dropUnsent()) {
			continue
		}
		if !s.blocking() || s.closed {
			return nil, 0
		}
		s.room.Wait()
	}
}

func (s *spool) blocking() bool { return s.o.Block && !s.lifted }

func (s *spool) limit() int64 {
	limit := s.o.Max
	if s.tight > 0 {
		limit = min(limit, s.tight)
	}
	if s.o.Block && s.lifted {
		limit += blockedExcess
	}
	return limit
}

// checkDisk lets a spool grow no further on a disk that is nearly full.
func (s *spool) checkDisk() {
	if s.o.Dir == "" {
		return
	}
	if s.o.Free() >= tightFree {
		s.tight = 0
	} else if s.tight == 0 {
		s.tight = max(s.held, s.tightFloor)
	}
}

func (s *spool) last() *segment {
	if len(s.segs) == 0 {
		return nil
	}
	return s.segs[len(s.segs)-1]
}

// roll starts a new segment. A disk that takes no new file any more makes it
// nil.
func (s *spool) roll() *segment {
	if last := s.last(); last != nil {
		last.finish()
	}
	seg := &segment{dir: s.o.Dir, number: s.next, start: s.lengthLocked()}
	if s.refusal = seg.create(); s.refusal != nil {
		return nil
	}
	if s.next == 1 && s.o.Dir != "" {
		if s.refusal = (spoolBase{}).write(s.o.Dir); s.refusal != nil {
			seg.remove()
			return nil
		}
	}
	s.next++
	s.segs = append(s.segs, seg)
	return seg
}

func (s *spool) commit(seg *segment, b *block, stream byte, data []byte, now time.Time) {
	if len(data) == 0 {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.held += int64(len(data)) + seg.note(stream, now)
	if b != nil && s.o.Dir != "" {
		b.parts = append(b.parts, warmPart{seg, seg.size, stream, data})
	}
	seg.size += int64(len(data))
	if s.o.Dir == "" {
		seg.mem = append(seg.mem, data...)
	}
}

// renumber recomputes where the segments start.
func (s *spool) renumber() {
	at := s.base
	for _, seg := range s.segs {
		seg.start = at
		at += seg.size
	}
}

func (s *spool) lengthLocked() int64 {
	if last := s.last(); last != nil {
		return last.end()
	}
	return s.base
}

// Length is the number of bytes so far.
func (s *spool) Length() int64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.lengthLocked()
}

// Changed gets a value after the spool has grown.
func (s *spool) Changed() <-chan struct{} { return s.changed }

// Acked tells what the server has. It may go back: a server that crashed can
// have less than it once confirmed.
func (s *spool) Acked(offset int64) {
	s.mu.Lock()
	s.acked = min(offset, s.lengthLocked())
	s.sent = max(s.sent, s.acked)
	s.room.Broadcast()
	s.mu.Unlock()
	if s.onAck != nil {
		s.onAck()
	}
}

func (s *spool) ackedOffset() int64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.acked
}

// lostBytes is how many bytes were given up, and the last reason for that.
func (s *spool) lostBytes() (int64, string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.lost, s.why
}

// MarkEnd remembers the present length as that of the task's output.
func (s *spool) MarkEnd() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.settle()
	if s.endSeg = s.last(); s.endSeg != nil {
		s.endOff = s.endSeg.size
	}
}

// End is the length that MarkEnd remembered.
func (s *spool) End() int64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.endSeg == nil {
		return s.base
	}
	return s.endSeg.start + s.endOff
}

// Lift ends the waiting of on_spool_full=block: the job is over, what its pipe
// still holds must come out.
func (s *spool) Lift() {
	s.mu.Lock()
	s.lifted = true
	s.mu.Unlock()
	s.room.Broadcast()
}

// Close lets go of the files, which stay.
func (s *spool) Close() {
	s.mu.Lock()
	s.settle()
	s.closed, s.lifted = true, true
	for _, seg := range s.segs {
		seg.finish()
	}
	s.mu.Unlock()
	s.room.Broadcast()
	s.reading.Lock()
	defer s.reading.Unlock()
	s.closeReader()
}

func (s *spool) closeReader() {
	if s.readFile != nil {
		s.readFile.Close()
	}
	s.readFile, s.readSeg = nil, nil
}

// Why bytes are given up.
const (
	lossFull    = "the spool was full"
	lossRemoved = "the spool was removed"
	lossServer  = "the server lost them after it had confirmed them"
)

// lossOf puts the reason into words: what a spool's file system answered.
func lossOf(err error) string {
	switch {
	case err == nil, isDiskFull(err):
		return lossFull
	case errors.Is(err, fs.ErrNotExist):
		return lossRemoved
	}
	return "the spool could not be written: " + unwrapPath(err).Error()
}

// lossMarker is the text that stands for bytes which had to be given up.
func lossMarker(n int64, why string) []byte {
	return fmt.Appendf(nil, "\n[saltpeter: %d bytes of output were given up here: %s]\n", n, why)
}

var errSegmentGone = errors.New("segment was dropped")
