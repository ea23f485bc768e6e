package wrapper

import (
	"context"
	"time"

	"saltpeter/wsx/wire"
)

// loop is the one place that sends, so that nobody else ever waits for a socket.
func (r *reporter) loop(ctx context.Context) {
	timer := time.NewTimer(heartbeatEvery)
	defer timer.Stop()
	for {
		timer.Reset(r.flush())
		select {
		case <-ctx.Done():
			return
		case <-r.wake:
		case <-timer.C:
		}
	}
}

// owed is one message with what follows from having sent it.
type owed struct {
	message *wire.Message
	sent    func(now time.Time) // under mu
	seq     bool                // the road numbers it
}

// flush sends everything that is due and returns when to look again.
func (r *reporter) flush() time.Duration {
	for {
		now := time.Now()
		r.mu.Lock()
		next, wait := r.due(now)
		conn := r.conn
		r.mu.Unlock()
		if next == nil {
			return max(wait, time.Millisecond)
		}
		if next.seq {
			next.message.Seq = wire.Ptr(r.link.NextSeq())
		}
		ok := r.link.Send(next.message)
		r.mu.Lock()
		if r.conn == conn {
			if ok {
				next.sent(time.Now())
			} else {
				r.up = false // OnUp comes with the next connection
			}
		}
		r.mu.Unlock()
	}
}

// due finds the most urgent message, or how long there will be none. Needs mu.
func (r *reporter) due(now time.Time) (*owed, time.Duration) {
	if !r.up || r.refused {
		return nil, heartbeatEvery
	}
	if len(r.killed) > 0 {
		return &owed{
			message: &wire.Message{Type: wire.TypeKilled, ID: r.killed[0]},
			sent:    func(time.Time) { r.killed = r.killed[1:] },
		}, 0
	}
	if m := r.dueReport(); m != nil {
		return m, 0
	}
	if m := r.dueMark(); m != nil {
		return m, 0
	}
	wait := time.Hour
	if r.end != nil && !r.delivered {
		m, again := r.dueEnd(now)
		if m != nil {
			return m, 0
		}
		wait = again
	}
	if !r.delivered {
		left := r.heartbeat.Add(heartbeatEvery).Sub(now)
		if left <= 0 {
			return &owed{
				message: &wire.Message{Type: wire.TypeHeartbeat},
				sent:    func(now time.Time) { r.heartbeat = now },
			}, 0
		}
		wait = min(wait, left)
	}
	return nil, wait
}

func (r *reporter) dueReport() *owed {
	if !wire.Has(r.features, wire.FeatureReport) {
		r.reports = nil // nobody there who could take them
		return nil
	}
	for _, o := range r.reports {
		if !o.due {
			continue
		}
		report := o.report
		o.due = false // an ack may come before Send returns
		o.unacks++
		return &owed{
			message: &wire.Message{Type: wire.TypeReport, ID: o.id, Report: &report, Timestamp: wire.FormatTime(o.at)},
			sent:    func(time.Time) {},
		}
	}
	return nil
}

// dueMark tells the times of output that the server has.
func (r *reporter) dueMark() *owed {
	acked := r.o.Spool.ackedOffset()
	if acked <= r.markedTo || !wire.Has(r.features, wire.FeatureBytes) {
		return nil
	}
	for _, m := range r.o.Spool.marks(r.markedTo, acked, markBatch) {
		// A wall clock that was set back starts a new count.
		if since := m.at.Sub(r.markedAt); since >= 0 && since < time.Second {
			r.markedTo = m.offset + 1
			continue
		}
		return &owed{
			message: &wire.Message{Type: wire.TypeMark, Offset: wire.Ptr(m.offset), Timestamp: wire.FormatTime(m.at)},
			sent:    func(time.Time) { r.markedTo, r.markedAt = m.offset+1, m.at },
		}
	}
	r.markedTo = acked
	return nil
}

// dueEnd decides when complete goes out.
func (r *reporter) dueEnd(now time.Time) (*owed, time.Duration) {
	e := r.end
	ours := wire.Has(r.features, wire.FeatureReport) && wire.Has(r.features, wire.FeatureBytes)
	if !ours && !e.first.IsZero() && now.Sub(e.first) >= oldGiveUp {
		r.o.Log.Printf("the server did not confirm the end of the task within %s: taken as told", oldGiveUp)
		r.delivered = true
		poke(r.news)
		return nil, time.Hour
	}
	at := e.next
	ahead := r.o.Spool.ackedOffset() < r.o.Spool.End()
	if !ahead && e.ahead {
		at = time.Time{} // the last byte is there: nothing keeps the ack back now
	}
	if ahead {
		if ours {
			at = later(at, e.owed.Add(endEarly))
		} else {
			at = later(at, later(r.progress, e.owed).Add(oldQuiet))
		}
	}
	if left := at.Sub(now); left > 0 {
		return nil, left
	}
	m := &wire.Message{Type: wire.TypeComplete, RetCode: wire.Ptr(e.code), Timestamp: wire.FormatTime(e.at), Error: e.err}
	if ours {
		end := e.end
		end.Length = wire.Ptr(r.o.Spool.End())
		m.End = &end
		return &owed{message: m, sent: func(now time.Time) { e.next, e.ahead = now.Add(endAgain), ahead }}, 0
	}
	if e.err != "" {
		// What an error says becomes the task's output, and nobody acks it.
		m = &wire.Message{Type: wire.TypeError, Error: e.err, Timestamp: wire.FormatTime(e.at)}
		return &owed{message: m, sent: func(time.Time) { r.delivered = true; poke(r.news) }}, 0
	}
	return &owed{message: m, seq: !wire.Has(r.features, wire.FeatureBytes), sent: func(now time.Time) {
		e.next = now.Add(endRetry)
		if e.first.IsZero() {
			e.first = now
		}
	}}, 0
}

func later(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}
