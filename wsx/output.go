package wsx

import (
	"context"
	"time"

	"saltpeter/wsx/wire"
)

const (
	// nackWait is how long further nacks for the same thing are taken for echoes
	// of what was on its way when the first one was obeyed.
	nackWait = time.Second
	// resendAfter is how long output may stay unacknowledged on a living
	// connection until it is sent again, which does no harm. It doubles each
	// time, since a server whose disk is full acknowledges nothing for long.
	resendAfter = 30 * time.Second
	resendMost  = 10 * time.Minute
	// spoolWait is how long to leave a spool alone that cannot be read.
	spoolWait = time.Second
	// keepFrame is the largest buffer that a sender keeps while it has nothing
	// to send.
	keepFrame = 8 << 10
	forever   = 365 * 24 * time.Hour
)

// resume starts from where the server says. Less than it had acknowledged is
// lawful: an ack means written, not fsynced.
func (n *line) resume(from *int64) {
	l := n.l
	length := l.o.Output.Length()
	l.mu.Lock()
	said := l.acked
	if from != nil {
		said = *from
	}
	at := max(0, min(said, length))
	n.pos = at
	l.setAcked(at)
	l.mu.Unlock()
	if said > length {
		l.o.Log.Warn("the server has more output than this machine", "server", said, "here", length)
	}
	l.o.Output.Acked(at)
}

// sendBytes sends binary frames as long as the line lives.
func (n *line) sendBytes(ctx context.Context) error {
	l, out := n.l, n.l.o.Output
	lender, _ := out.(Lender)
	var frame []byte
	patience := resendAfter
	var acked int64
	for ctx.Err() == nil {
		changed := out.Changed() // before Length, or a change in between is missed
		length := out.Length()
		l.mu.Lock()
		if l.acked != acked {
			acked, patience = l.acked, resendAfter
		}
		if n.pos > acked && time.Since(n.heard) >= patience {
			n.pos, n.heard, patience = acked, time.Now(), min(2*patience, resendMost)
		}
		pos, heard := n.pos, n.heard
		l.mu.Unlock()

		size := min(length-pos, frameMax, windowMax-(pos-acked))
		if size <= 0 {
			rest := forever
			if pos > acked {
				rest = max(time.Millisecond, patience-time.Since(heard))
			} else if cap(frame) > keepFrame {
				frame = nil // an idle wrapper is small
			}
			if err := n.wait(ctx, changed, rest); err != nil {
				return err
			}
			continue
		}
		if lender != nil {
			if data, stream := lender.Lend(pos, int(size)); data != nil {
				err := n.c.writeOutput(pos, stream, data)
				lender.Return()
				if err != nil {
					return err
				}
				n.wrote(pos, len(data))
				continue
			}
		}
		frame = sized(frame, wire.OutputHeader+int(size))
		k, stream, err := out.ReadAt(frame[wire.OutputHeader:], pos)
		if err != nil || k == 0 {
			n.unreadable(err)
			if err := n.wait(ctx, changed, spoolWait); err != nil {
				return err
			}
			continue
		}
		wire.AppendOutput(frame[:0], pos, stream, nil)
		if err := n.c.Write(Binary, frame[:wire.OutputHeader+k]); err != nil {
			return err
		}
		n.wrote(pos, k)
	}
	return ctx.Err()
}

// wrote notes that k bytes from pos on are on their way.
func (n *line) wrote(pos int64, k int) {
	l := n.l
	l.mu.Lock()
	defer l.mu.Unlock()
	if n.pos != pos {
		return // a nack moved it
	}
	if pos == l.acked {
		n.heard = time.Now()
	}
	n.pos = pos + int64(k)
}

func (n *line) unreadable(err error) {
	if err != nil {
		n.l.o.Log.Warn("cannot read the output's spool: trying again", "err", err)
	}
}

// sized returns a buffer of n bytes, b itself if it is large enough.
func sized(b []byte, n int) []byte {
	if cap(b) >= n {
		return b[:n]
	}
	size := 4 << 10
	for size < n {
		size *= 2
	}
	if size > frameMax {
		size = max(n, frameMax+wire.OutputHeader)
	}
	return make([]byte, n, size)
}

// acked takes an ack of output.
func (n *line) acked(m *wire.Message) {
	l := n.l
	var at int64
	if n.features != nil && wire.Has(n.features, wire.FeatureBytes) {
		if m.Offset == nil {
			return
		}
		at = min(*m.Offset, l.o.Output.Length())
		l.mu.Lock()
		if at == l.acked && n.pos > at && n.obey(at) {
			// Said again of the same length: what came since left a hole.
			n.pos, n.heard = at, time.Now()
			l.mu.Unlock()
			n.wake()
			return
		}
		if at <= l.acked {
			l.mu.Unlock()
			return // acks are cumulative: an older one says nothing
		}
		n.pos = max(n.pos, at) // more than was sent here: an earlier connection's last frames
	} else {
		if m.Seq == nil {
			return
		}
		l.mu.Lock()
		n.blind = false
		if !l.text.ack(*m.Seq) {
			l.mu.Unlock()
			return
		}
		at = l.text.confirmed()
	}
	n.heard = time.Now()
	l.setAcked(at)
	l.mu.Unlock()
	l.o.Output.Acked(at)
	n.wake()
}

// obey reports whether to go back to where the server wants; mu is held.
func (n *line) obey(want int64) bool {
	if want == n.nackFor && time.Since(n.nacked) < nackWait {
		return false
	}
	n.nackFor, n.nacked = want, time.Now()
	return true
}

// nack goes back to what the server lacks: an offset with the bytes feature, a
// sequence number without.
func (n *line) nack(m *wire.Message) {
	l := n.l
	isBytes := n.features != nil && wire.Has(n.features, wire.FeatureBytes)
	want := m.ExpectedSeq
	if isBytes {
		want = m.Offset
	}
	if want == nil || n.features == nil {
		return
	}
	length := l.o.Output.Length()
	l.mu.Lock()
	if !n.obey(*want) {
		l.mu.Unlock()
		return
	}
	n.heard = time.Now()
	var at int64
	if isBytes {
		at = max(0, min(*want, length))
		n.pos = at
		at = min(at, l.acked)
	} else {
		n.blind = false
		l.text.nack(max(0, *want), l.acked)
		at = l.text.confirmed()
	}
	l.setAcked(at)
	l.mu.Unlock()
	l.o.Output.Acked(at)
	n.wake()
}
