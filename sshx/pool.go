package sshx

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/crypto/ssh"
)

// host is what is known of one place: its connections and who waits for one. All
// of it is guarded by Client.mu.
type host struct {
	place   *place
	conns   []*conn
	waiting []*waiter
	dials   []time.Time // when those began that are under way
	limit   int         // sessions on one connection, as the far side has taught
	doing   string      // how far its last dial has come
}

// waiter waits for a place on a connection: a session's, or a pin.
type waiter struct {
	pin   bool
	since time.Time
	grant chan grant // has room for one
}

type grant struct {
	conn *conn
	err  *Error
}

// conn is one connection that has logged in.
type conn struct {
	c      *Client
	place  *place
	client *ssh.Client
	wire   *wire
	jump   *conn // pinned
	over   chan struct{}

	once  sync.Once
	cause atomic.Pointer[error] // why it was ended; set before the wire is closed

	// Guarded by Client.mu.
	sessions int // that are open, or being opened
	accepted int // of those, the ones that the far side has opened
	opened   int // since the beginning
	pins     int // connections over it, and listeners
	full     bool
	retired  bool
	suspect  time.Time // since when it owes an answer; over when anything is heard
	idle     time.Time
}

// acquire gives a place on a connection to p: a session's, or a pin, which any
// number may have. giveBack returns it.
func (c *Client) acquire(ctx context.Context, p *place, pin bool) (*conn, *Error) {
	c.mu.Lock()
	if c.closed {
		c.mu.Unlock()
		return nil, closedError(p, errClosed)
	}
	h := c.hosts[p.key]
	if h == nil {
		h = &host{place: p, limit: c.o.Sessions}
		c.hosts[p.key] = h
	}
	if cn := h.take(pin); cn != nil {
		c.mu.Unlock()
		return cn, nil
	}
	w := &waiter{pin: pin, since: time.Now(), grant: make(chan grant, 1)}
	h.waiting = append(h.waiting, w)
	c.grow(h)
	c.mu.Unlock()
	select {
	case g := <-w.grant:
		if g.err != nil {
			mine := *g.err // several wait for one dial
			mine.Target = p.Target
			return nil, &mine
		}
		return g.conn, nil
	case <-ctx.Done():
	case <-c.ctx.Done():
	}
	c.mu.Lock()
	for i, other := range h.waiting {
		if other == w {
			h.waiting = append(h.waiting[:i], h.waiting[i+1:]...)
			break
		}
	}
	doing := h.doing
	c.mu.Unlock()
	select {
	case g := <-w.grant: // just now: give it back
		if g.conn != nil {
			c.giveBack(g.conn, pin)
		}
	default:
	}
	if ctx.Err() == nil {
		return nil, closedError(p, errClosed)
	}
	return nil, p.expired(ctx, StageConnect, "no connection in time, "+doing)
}

// progress notes how far a dial has come, for those whose time is over before its.
func (c *Client) progress(p *place, doing string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if h := c.hosts[p.key]; h != nil {
		h.doing = doing
	}
}

// take finds a place on a connection that is there. The caller holds mu.
func (h *host) take(pin bool) *conn {
	for _, cn := range h.conns {
		switch {
		case !cn.usable():
		case pin:
			cn.pins++
			return cn
		case !cn.full && cn.sessions < h.limit:
			cn.sessions++
			return cn
		}
	}
	return nil
}

// grow dials as many connections as those who wait need. The caller holds mu.
func (c *Client) grow(h *host) {
	need := (len(h.waiting) + h.limit - 1) / h.limit
	for len(h.dials) < min(need, c.o.DialsPerHost) && !c.closed {
		began := time.Now()
		h.dials = append(h.dials, began)
		c.spawn(func() { c.dialFor(h, began) })
	}
}

// dialFor makes a connection for whoever waits for one. It belongs to no single
// one of them: who gives up does not take it from the others.
func (c *Client) dialFor(h *host, began time.Time) {
	_, e := c.dial(c.ctx, h.place)
	c.mu.Lock()
	defer c.mu.Unlock()
	h.dials = slices.Delete(h.dials, slices.Index(h.dials, began), slices.Index(h.dials, began)+1)
	if e == nil {
		c.serve(h)
		c.grow(h)
		return
	}
	usable := false
	for _, cn := range h.conns {
		usable = usable || cn.usable() && !cn.full
	}
	if usable && !c.closed { // they wait for a place on those that are there
		c.log.Warn("no further connection", "machine", h.place.Target, "err", e)
		return
	}
	var later []*waiter
	hope := false
	for _, w := range h.waiting {
		// A dial that began with this one may still succeed: sshd drops strangers at random.
		if h.dialledFor(w) {
			later, hope = append(later, w), true
			continue
		}
		if w.since.After(began) { // it came when the host may have been back
			later = append(later, w)
			continue
		}
		w.grant <- grant{err: e}
	}
	h.waiting = later
	if !hope {
		c.grow(h)
	}
}

// dialledFor says whether a dial is under way that began when this waiter came, or
// before. Later ones do not count: where others keep coming, there always is one.
func (h *host) dialledFor(w *waiter) bool {
	return slices.ContainsFunc(h.dials, func(began time.Time) bool { return began.Before(w.since.Add(time.Second)) })
}

// serve gives places to those who wait. The caller holds mu.
func (c *Client) serve(h *host) {
	var rest []*waiter
	for _, w := range h.waiting {
		if cn := h.take(w.pin); cn != nil {
			w.grant <- grant{conn: cn}
		} else {
			rest = append(rest, w)
		}
	}
	h.waiting = rest
}

// adopt puts a new connection into the pool and starts what looks after it.
func (c *Client) adopt(p *place, client *ssh.Client, w *wire, jump *conn) *conn {
	cn := &conn{c: c, place: p, client: client, wire: w, jump: jump, over: make(chan struct{}), idle: time.Now()}
	c.mu.Lock()
	c.live[cn] = true
	if h := c.hosts[p.key]; h != nil {
		h.conns = append(h.conns, cn)
	}
	closed := c.closed
	c.mu.Unlock()
	c.spawn(func() {
		err := client.Wait()
		cn.end(err)
		close(cn.over)
		c.forget(cn)
	})
	c.spawn(cn.tend)
	if closed {
		cn.end(errClosed)
	}
	return cn
}

// forget takes a connection that has ended out of the pool.
func (c *Client) forget(cn *conn) {
	c.mu.Lock()
	delete(c.live, cn)
	if h := c.hosts[cn.place.key]; h != nil {
		for i, other := range h.conns {
			if other == cn {
				h.conns = append(h.conns[:i], h.conns[i+1:]...)
				break
			}
		}
		c.grow(h)
		if len(h.conns) == 0 && len(h.waiting) == 0 && len(h.dials) == 0 && h.limit == c.o.Sessions {
			delete(c.hosts, cn.place.key) // a learned limit is kept: learning it again costs refusals
		}
	}
	c.mu.Unlock()
	if cn.jump != nil {
		c.unpin(cn.jump)
	}
}

// giveBack returns a place on a connection, and hands it to who waits.
func (c *Client) giveBack(cn *conn, pin bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if pin {
		cn.pins--
	} else {
		cn.sessions--
	}
	if cn.sessions == 0 && cn.pins == 0 {
		cn.idle = time.Now()
	}
	if h := c.hosts[cn.place.key]; h != nil {
		c.serve(h)
	}
}

func (c *Client) unpin(cn *conn) { c.giveBack(cn, true) }

// end closes the connection, once, and keeps the first reason.
func (cn *conn) end(why error) {
	cn.once.Do(func() {
		if cut := cn.wire.cutBy(); cut != nil {
			why = cut
		}
		if why == nil {
			why = errors.New("it was closed")
		}
		cn.cause.Store(&why)
		if cn.jump == nil {
			cn.wire.Close()
			return
		}
		// A close over a jump host writes, and may hang where that one is silent.
		cn.c.spawn(func() { cn.wire.Close() })
	})
}

// isOver says whether the connection is known to have ended, before anything on it
// shows the consequences.
func (cn *conn) isOver() bool { return cn.cause.Load() != nil || cn.wire.cutBy() != nil }

// usable says whether something new may be put on it. The caller holds mu.
func (cn *conn) usable() bool {
	owes := !cn.suspect.IsZero() && cn.wire.heard.Load() < cn.suspect.UnixNano()
	return !cn.retired && !owes && !cn.isOver()
}

// doubt keeps others from waiting for an answer that does not come; the keepalive
// decides what becomes of the connection.
func (cn *conn) doubt() {
	cn.c.mu.Lock()
	defer cn.c.mu.Unlock()
	cn.suspect = time.Now()
}

// why is the reason for the end of a connection that has ended.
func (cn *conn) why() error {
	if err := cn.cause.Load(); err != nil {
		return *err
	}
	if err := cn.wire.cutBy(); err != nil {
		return err
	}
	return errors.New("it was closed")
}

// tend asks the far side for a sign of life, ends a connection that gives none,
// and one that nobody has used for long.
func (cn *conn) tend() {
	o := cn.c.o
	tick := time.NewTicker(min(o.KeepAlive, max(o.Idle, 10*time.Millisecond)))
	defer tick.Stop()
	var asked time.Time // of the question that is not answered yet
	answers := make(chan struct{}, 1)
	for {
		select {
		case <-cn.over:
			return
		case <-answers:
			asked = time.Time{}
			continue
		case <-tick.C:
		}
		if cn.retire(o.Idle) {
			cn.end(errors.New("nobody used it"))
			return
		}
		heard := time.Unix(0, cn.wire.heard.Load())
		switch silent := time.Since(heard); {
		case asked.IsZero() && silent >= o.KeepAlive/2:
			asked = time.Now()
			cn.c.spawn(func() {
				cn.client.SendRequest("keepalive@openssh.com", true, nil)
				answers <- struct{}{}
			})
		case !asked.IsZero() && silent >= 2*o.KeepAlive && time.Since(asked) >= o.KeepAlive:
			cn.c.log.Warn("connection given up: no sign of life", "machine", cn.place.Target, "silent", silent.Round(time.Millisecond))
			cn.end(fmt.Errorf("no sign of life for %v", silent.Round(time.Millisecond)))
			return
		}
	}
}

// retire takes a connection out of the pool that has been idle for long enough.
func (cn *conn) retire(idle time.Duration) bool {
	cn.c.mu.Lock()
	defer cn.c.mu.Unlock()
	if cn.sessions > 0 || cn.pins > 0 || time.Since(cn.idle) < idle {
		return false
	}
	cn.retired = true // nobody takes it between here and its end
	return true
}
