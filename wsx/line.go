package wsx

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/gorilla/websocket"

	"saltpeter/wsx/wire"
)

// line is one connection of a Link. The reader (Run's goroutine) hears what the
// server says; the keeper sends pings and pongs and watches the silence, so that
// a full socket never keeps the reader from hearing a kill; the sender sends
// output once the line is up.
type line struct {
	l       *Link
	c       *Conn
	wg      sync.WaitGroup
	pongs   chan string   // a ping to be answered; only the newest counts
	kick    chan struct{} // the sender should look again
	offered []string
	rose    func() // tells Run that the line came up

	turn     sync.Mutex // one callback at a time; taken before the Link's mu
	features []string   // written once, when the line comes up

	// Guarded by the Link's mu.
	pos     int64     // next byte to send, with the bytes feature
	heard   time.Time // when an ack last told something new, or the first unacknowledged byte went
	nacked  time.Time // when a nack was last obeyed,
	nackFor int64     // and what it asked for
	blind   bool      // the server acknowledges nothing: written counts as stored
}

// run serves the connection until it ends, and says why it did.
func (n *line) run(ctx context.Context) error {
	defer n.wg.Wait()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	n.c.ws.SetPingHandler(func(data string) error {
		n.c.touch()
		select {
		case <-n.pongs:
		default:
		}
		n.pongs <- data // cannot block: the reader alone sends, and has made room
		return nil
	})
	n.wg.Go(func() { n.keep(ctx) })
	n.wg.Go(func() {
		<-ctx.Done()
		n.c.Close("")
	})
	for i, m := range n.l.o.Connect() {
		if i == 0 {
			n.offered = m.Features
		}
		if err := n.c.Send(n.l.fill(m)); err != nil {
			return err
		}
	}
	modern := n.c.ours || n.l.modern
	n.wg.Go(func() { n.clock(ctx, modern) })
	err := n.read(ctx)
	n.l.mu.Lock()
	n.l.line = nil
	n.l.mu.Unlock()
	return err
}

// clock ends the wait for the ack of connect. A server of ours answers, however
// busy it is; to go on in JSON with it would mix two ways of counting output.
func (n *line) clock(ctx context.Context, modern bool) {
	wait := ackWait
	if modern {
		wait = silence
	}
	if !sleep(ctx, wait) {
		return
	}
	n.turn.Lock()
	defer n.turn.Unlock()
	switch {
	case n.features != nil || ctx.Err() != nil:
	case modern:
		n.c.abort(errors.New("the server did not acknowledge connect"))
	default:
		n.rise(ctx, nil, true)
	}
}

// read dispatches messages until the connection ends.
func (n *line) read(ctx context.Context) error {
	for {
		kind, data, err := n.c.Read()
		if err != nil {
			return err
		}
		if kind == Binary {
			continue // no server sends any; not worth losing the connection for
		}
		m, err := wire.Decode(data)
		if err != nil {
			n.l.o.Log.Debug("cannot read a frame of the server: it is ignored", "err", err)
			continue
		}
		n.c.enter()
		n.turn.Lock()
		err = n.handle(ctx, m)
		n.turn.Unlock()
		n.c.leave()
		if err != nil {
			return err
		}
	}
}

func (n *line) handle(ctx context.Context, m *wire.Message) error {
	switch {
	case m.Type == wire.TypeAck && m.AckType == wire.TypeConnect:
		return n.connected(ctx, m)
	case m.Type == wire.TypeAck && m.AckType == wire.TypeOutput:
		n.acked(m)
	case m.Type == wire.TypeNack:
		n.nack(m)
	case m.Type == wire.TypeSyncResponse:
	default:
		if n.features == nil && m.Type == wire.TypeKill && !n.c.ours && !n.l.modern {
			// It talks to us without an ack: the answer to a kill must get out.
			n.rise(ctx, nil, true)
		}
		n.l.o.OnMessage(m)
	}
	return nil
}

// connected takes the ack of connect.
func (n *line) connected(ctx context.Context, m *wire.Message) error {
	l := n.l
	if n.features != nil {
		if len(m.Features) > 0 {
			l.modern = true
			return errors.New("the server acknowledged connect late: connecting again for its features")
		}
		l.mu.Lock()
		n.blind = false
		l.mu.Unlock()
		return nil
	}
	l.modern = l.modern || len(m.Features) > 0
	l.exchange(m.Token)
	features := []string{}
	for _, f := range wire.Common(m.Features) {
		if wire.Has(n.offered, f) {
			features = append(features, f)
		}
	}
	if wire.Has(features, wire.FeatureBytes) {
		n.resume(m.Resume)
	}
	n.rise(ctx, features, false)
	return nil
}

// rise brings the line up. It runs in a callback's turn.
func (n *line) rise(ctx context.Context, features []string, blind bool) {
	l := n.l
	if features == nil {
		features = []string{}
	}
	n.features = features
	l.mu.Lock()
	n.blind = blind
	n.heard = time.Now()
	if !wire.Has(features, wire.FeatureBytes) {
		l.text.restart(l.acked)
	}
	l.line = n
	l.mu.Unlock()
	n.rose()
	l.o.OnUp(features)
	n.wg.Go(func() { n.send(ctx) })
}

func (n *line) send(ctx context.Context) {
	var err error
	if wire.Has(n.features, wire.FeatureBytes) {
		err = n.sendBytes(ctx)
	} else {
		s := textSender{n: n}
		err = s.run(ctx)
	}
	if err != nil {
		n.c.abort(err)
	}
}

// wake makes the sender look again.
func (n *line) wake() {
	if n == nil {
		return
	}
	select {
	case n.kick <- struct{}{}:
	default:
	}
}

// wait blocks the sender until something may have changed, at most for d.
func (n *line) wait(ctx context.Context, changed <-chan struct{}, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-changed:
	case <-n.kick:
	case <-t.C:
	case <-ctx.Done():
		return ctx.Err()
	}
	return nil
}

// keep pings, answers pings, and ends a connection that has gone silent.
func (n *line) keep(ctx context.Context) {
	ping := time.Now().Add(silence / 3)
	for {
		idle := n.c.Idle()
		if idle >= silence {
			n.c.abort(errSilent)
			return
		}
		t := time.NewTimer(max(time.Millisecond, min(time.Until(ping), silence-idle)))
		var err error
		select {
		case <-ctx.Done():
			t.Stop()
			return
		case data := <-n.pongs:
			err = n.c.control(websocket.PongMessage, data, min(writeWait, silence-idle))
		case <-t.C:
			if now := time.Now(); !now.Before(ping) {
				err = n.c.control(websocket.PingMessage, "", min(writeWait, max(silence-idle, time.Second)))
				ping = now.Add(silence / 3)
			}
		}
		t.Stop()
		if err != nil {
			n.c.abort(err)
			return
		}
	}
}
