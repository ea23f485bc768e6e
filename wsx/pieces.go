package wsx

// pieceKeep is how many pieces a Link remembers: 18 hours of a piece a second,
// in 1 MiB.
const pieceKeep = 1 << 16

// inFlight is how many pieces may be unacknowledged: the second is written while
// the first is being stored.
const inFlight = 2

// piece is what one sequence number stands for. It never changes, so that a
// piece that is sent again is the same text.
type piece struct {
	start  int64
	n      int32
	stream byte
}

// pieces is the book of the JSON mode: which bytes each sequence number stood
// for. The Link's mu guards it.
type pieces struct {
	list  []piece
	base  int64  // sequence number of list[0]
	from  int64  // offset at which list begins
	acked int64  // the last acknowledged number, base-1 or more
	send  int64  // the next number to be written
	turns uint64 // how often send was set back
}

// next is the number that the next new piece gets.
func (p *pieces) next() int64 { return p.base + int64(len(p.list)) }

// start is the offset at which a number's bytes begin; seq may be next.
func (p *pieces) start(seq int64) int64 {
	if i := seq - p.base; i < int64(len(p.list)) {
		return p.list[i].start
	}
	return p.end()
}

// end is the offset behind the last piece.
func (p *pieces) end() int64 {
	if len(p.list) == 0 {
		return p.from
	}
	last := p.list[len(p.list)-1]
	return last.start + int64(last.n)
}

// confirmed is the offset below which everything is acknowledged.
func (p *pieces) confirmed() int64 { return p.start(p.acked + 1) }

func (p *pieces) add(q piece) {
	if len(p.list) >= pieceKeep {
		// The oldest half is given up, as far as it is acknowledged.
		drop := min(int64(pieceKeep/2), p.acked+1-p.base)
		if drop > 0 {
			p.from = p.start(p.base + drop)
			p.list = append([]piece(nil), p.list[drop:]...)
			p.base += drop
		}
	}
	p.list = append(p.list, q)
}

// restart begins a connection: what is not acknowledged is sent again.
func (p *pieces) restart(acked int64) {
	if len(p.list) == 0 {
		p.from = acked
	}
	p.send = p.acked + 1
	p.turns++
}

// ack reports whether the number told something new.
func (p *pieces) ack(seq int64) bool {
	if seq <= p.acked || seq >= p.next() {
		return false
	}
	p.acked = seq
	p.send = max(p.send, seq+1)
	return true
}

// nack goes back to the number that the server expects. One that stands for
// nothing here (the server has started anew, or counts differently) is given to
// the first byte that is not acknowledged.
func (p *pieces) nack(expected, acked int64) {
	p.turns++
	if expected < p.base || expected > p.next() {
		*p = pieces{base: expected, from: acked, turns: p.turns}
	}
	p.acked = expected - 1
	p.send = expected
}
