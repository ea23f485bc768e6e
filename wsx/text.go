package wsx

import (
	"context"
	"time"
	"unicode/utf8"

	"saltpeter/wsx/wire"
)

const (
	// pieceMax is the most that one piece takes up as JSON. Counted in encoded
	// bytes, since older servers refuse frames beyond 1 MiB, and one byte can
	// become six.
	pieceMax = 500_000
	// holdMost is how long the beginning of a character waits for its rest.
	holdMost = 10 * time.Second
)

// textSender sends output to a server without the bytes feature: what there is,
// once each interval, and full pieces at once.
type textSender struct {
	n    *line
	buf  []byte
	due  int64     // everything below may go now
	tick time.Time // when due moves on
	held time.Time // since when the beginning of a character is held back
}

func (s *textSender) run(ctx context.Context) error {
	l, out := s.n.l, s.n.l.o.Output
	patience := resendAfter
	for ctx.Err() == nil {
		changed := out.Changed() // before Length, or a change in between is missed
		length := out.Length()
		l.mu.Lock()
		t := &l.text
		waiting := t.send - (t.acked + 1)
		if waiting == 0 {
			patience = resendAfter
		} else if !s.n.blind && time.Since(s.n.heard) >= patience {
			t.restart(l.acked)
			s.n.heard, patience, waiting = time.Now(), min(2*patience, resendMost), 0
		}
		rest := forever
		if waiting > 0 {
			rest = max(time.Millisecond, patience-time.Since(s.n.heard))
		}
		if waiting >= inFlight && !s.n.blind {
			l.mu.Unlock()
			if err := s.n.wait(ctx, nil, rest); err != nil {
				return err
			}
			continue
		}
		if t.send < t.next() {
			seq, p, turns := t.send, t.list[t.send-t.base], t.turns
			l.mu.Unlock()
			if err := s.write(ctx, seq, p, turns); err != nil {
				return err
			}
			continue
		}
		start, wanted, turns := t.end(), l.wanted, t.turns
		l.mu.Unlock()
		p, wait := s.cut(start, length, wanted)
		if p.n == 0 {
			if err := s.n.wait(ctx, changed, min(wait, rest)); err != nil {
				return err
			}
			continue
		}
		l.mu.Lock()
		if t.turns == turns {
			t.add(p)
		}
		l.mu.Unlock()
	}
	return ctx.Err()
}

// cut makes the next piece, or says how long there is none.
func (s *textSender) cut(start, length, wanted int64) (piece, time.Duration) {
	now, avail := time.Now(), length-start
	if avail <= 0 {
		s.buf = nil // an idle wrapper is small
		return piece{}, forever
	}
	if start >= s.due && (!now.Before(s.tick) || wanted >= length) {
		s.due, s.tick = length, now.Add(s.n.l.o.TextInterval)
	}
	if start >= s.due && avail < pieceMax {
		return piece{}, s.tick.Sub(now)
	}
	stream, whole, err := s.fill(start, int(min(avail, pieceMax)))
	if err != nil || len(s.buf) == 0 {
		s.n.unreadable(err)
		return piece{}, spoolWait
	}
	// Nothing more will come of this stream here, or somebody waits for the end.
	final := whole || wanted >= start+int64(len(s.buf)) || (!s.held.IsZero() && now.Sub(s.held) >= holdMost)
	n := cutText(s.buf, final)
	if n == 0 {
		if s.held.IsZero() {
			s.held = now
		}
		return piece{}, max(time.Millisecond, holdMost-now.Sub(s.held))
	}
	s.held = time.Time{}
	return piece{start: start, n: int32(n), stream: stream}, 0
}

// fill reads up to n bytes of one stream. whole: another stream's follow.
func (s *textSender) fill(start int64, n int) (stream byte, whole bool, err error) {
	s.buf = sized(s.buf, n)
	got := 0
	for got < n {
		k, of, err := s.n.l.o.Output.ReadAt(s.buf[got:], start+int64(got))
		if k == 0 && got == 0 {
			s.buf = s.buf[:0]
			return 0, false, err
		}
		if got > 0 && k > 0 && of != stream {
			whole = true
			break
		}
		if k == 0 {
			break // what there is goes; an error shows again in the next piece
		}
		stream = of
		got += k
	}
	s.buf = s.buf[:got]
	return stream, whole, nil
}

// write sends one piece, for the first time or again.
func (s *textSender) write(ctx context.Context, seq int64, p piece, turns uint64) error {
	l := s.n.l
	if _, _, err := s.fill(p.start, int(p.n)); err != nil || len(s.buf) == 0 {
		s.n.unreadable(err)
		return s.n.wait(ctx, nil, spoolWait)
	}
	m := l.fill(&wire.Message{
		Type: wire.TypeOutput, Stream: wire.StreamName(p.stream), Data: string(s.buf), Seq: &seq,
	})
	if err := s.n.c.Send(m); err != nil {
		return err
	}
	l.mu.Lock()
	var stored int64 = -1
	if l.text.turns == turns { // else a nack has set other numbers
		if l.text.send == l.text.acked+1 {
			s.n.heard = time.Now()
		}
		l.text.send = max(l.text.send, seq+1)
		if s.n.blind && l.text.ack(seq) {
			stored = l.text.confirmed()
			l.setAcked(stored)
		}
	}
	l.mu.Unlock()
	if stored >= 0 {
		l.o.Output.Acked(stored)
	}
	return nil
}

// cutText says how much of data makes a piece: at most pieceMax as JSON, and
// never the beginning of a character whose rest is still to come, unless this
// is final. Bytes that are no UTF-8 count as what they become, U+FFFD.
func cutText(data []byte, final bool) int {
	cost := 0
	for i := 0; i < len(data); {
		c, size := jsonCost[data[i]], 1
		if data[i] >= utf8.RuneSelf {
			if !utf8.FullRune(data[i:]) && !final {
				return i
			}
			var r rune
			r, size = utf8.DecodeRune(data[i:])
			c = 6
			if r != utf8.RuneError && r != '\u2028' && r != '\u2029' {
				c = byte(size)
			}
		}
		if cost += int(c); cost > pieceMax {
			return i
		}
		i += size
	}
	return len(data)
}

// jsonCost is the number of bytes that each ASCII byte becomes.
var jsonCost = func() (t [utf8.RuneSelf * 2]byte) {
	for i := range t {
		switch {
		case i == '"', i == '\\', i == '\n', i == '\r', i == '\t', i == '\b', i == '\f':
			t[i] = 2
		case i < ' ', i == '<', i == '>', i == '&':
			t[i] = 6
		default:
			t[i] = 1
		}
	}
	return t
}()
