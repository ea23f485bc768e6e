package api

import (
	"context"
	"maps"
	"slices"
	"time"

	"saltpeter/runner/ledger"
	"saltpeter/wsx"
)

const (
	// statusPause is how soon after a status one may follow that nobody asked for:
	// a run on a thousand machines begins a thousand times.
	statusPause = 30 * time.Millisecond
	// window is how many chunks go out without being acknowledged, ackWait how long
	// one waits then: acks are flow control only, and not every client sends them.
	window  = 16
	ackWait = time.Second
)

// uiClient is one page. Its goroutine, which runs run, owns everything but wake,
// asked and acks; it alone sends config, status, details and chunks, so that their
// order is that of what happened. It holds nothing that it has not sent: what the
// page lacks is read from the store when there is room for it.
type uiClient struct {
	s    *Server
	conn *wsx.Conn
	who  caller
	page *page
	// again says who the page is as things are now.
	again func() (caller, error)

	wake  chan struct{}     // the board has something new
	asked chan func() error // what the page wants of this goroutine
	acks  chan struct{}

	setRev  int64            // of the config that was sent
	changes map[string]int64 // of the open jobs, as of the last status

	owed     bool          // a status is
	statusAt time.Time     // when the last one went out
	emptied  bool          // and the texts that it emptied are still being sent
	took     time.Duration // how long that took last time

	queue []*runningTask // whose output is shown
	next  int            // in queue
	more  bool           // queue may hold something to send

	unacked int
	waiting time.Time              // since when an ack is waited for
	heard   bool                   // it sends acks
	deaf    bool                   // it sends none
	frame   []byte                 // the last chunk's, to be used again
	scratch []byte                 // its bytes
	broken  map[ledger.TaskID]bool // outputs that could not be read since the last status
	told    map[ledger.TaskID]bool // of which the log was told
}

func newUIClient(s *Server, conn *wsx.Conn, who caller, own bool) *uiClient {
	return &uiClient{
		s: s, conn: conn, who: who, page: newPage(own),
		wake: make(chan struct{}, 1), asked: make(chan func() error, 64), acks: make(chan struct{}, 4*window),
		changes: map[string]int64{}, broken: map[ledger.TaskID]bool{}, told: map[ledger.TaskID]bool{},
	}
}

// run serves the page until ctx ends or the connection does.
func (c *uiClient) run(ctx context.Context, ready <-chan struct{}) error {
	tick := time.NewTicker(uiTick)
	defer tick.Stop()
	atOnce := make(chan time.Time)
	close(atOnce)
	for {
		do, when := c.work()
		var turn <-chan time.Time
		switch wait := time.Until(when); {
		case do == nil:
		case wait <= 0:
			turn = atOnce
		default:
			turn = time.After(wait)
		}
		var err error
		select {
		case <-ctx.Done():
			return nil
		case <-ready: // closed once everything is known
			ready = nil
			err = c.begin()
		case f := <-c.asked:
			err = f()
		case <-c.acks:
			c.acked()
		case <-tick.C:
			err = c.tick()
		case <-c.wake:
			err = c.news()
		case <-turn:
			err = do()
		}
		if err != nil {
			return err
		}
	}
}

// work is what is to be done next, and when it may be.
func (c *uiClient) work() (do func() error, when time.Time) {
	if c.owed {
		when = c.statusAt.Add(statusPause)
		if c.behind() {
			when = c.statusAt.Add(5 * uiTick)
		}
		do = func() error { return c.look() }
	}
	if !c.more || do != nil && time.Until(when) <= 0 {
		return do, when
	}
	if c.unacked >= window && !c.deaf {
		if until := c.waiting.Add(ackWait); do == nil || until.Before(when) {
			return c.unheard, until
		}
		return do, when
	}
	return c.chunk, time.Time{}
}

// acked takes the word that a chunk arrived.
func (c *uiClient) acked() {
	c.unacked = max(c.unacked-1, 0)
	c.heard, c.deaf = true, false
}

// unheard goes on without acks.
func (c *uiClient) unheard() error {
	c.unacked, c.deaf = 0, !c.heard
	return nil
}

// behind reports whether texts that a status emptied are still being sent.
func (c *uiClient) behind() bool {
	for _, t := range c.queue {
		copy := c.page.copies[spot{t.status.Job, t.status.Machine}]
		if copy != nil && copy.behind() && !copy.spoiled && !c.broken[t.status.TaskID] {
			return true
		}
	}
	return false
}

// begin sends the first status, and another config if there is one since.
func (c *uiClient) begin() error {
	if err := c.config(); err != nil {
		return err
	}
	return c.look()
}

// config sends the job files in force, unless the page has them.
func (c *uiClient) config() error {
	set, rev := c.s.board.config()
	if rev == c.setRev {
		return nil
	}
	c.setRev = rev
	return c.send(frameOf(map[string]any{"type": "config", "config": configOf(set), "sp_version": c.s.o.Version}))
}

// tick makes the next status due. Where each one costs the page its texts, they
// become as rare as it takes to send those again.
// Who may not look any more, since a token was revoked, is sent away.
func (c *uiClient) tick() error {
	who, err := c.again()
	if err == nil && who.role < Read {
		err = refuse(who, Read)
	}
	if err != nil || c.statusAt.IsZero() {
		return err
	}
	c.more = true
	c.owed = c.owed || !c.emptied && time.Since(c.statusAt) >= 5*c.took
	return nil
}

// news looks at what the board has.
func (c *uiClient) news() error {
	if c.statusAt.IsZero() {
		return nil // it begins with all there is
	}
	c.more = true
	reloaded, changed := c.s.board.since(c.setRev, c.changes)
	c.owed = c.owed || changed
	if !reloaded {
		return nil
	}
	if err := c.config(); err != nil {
		return err
	}
	return c.look()
}

// look sends one consistent look at everything: a status, before it those that make
// the page empty the texts of other runs, then the details of the jobs that it
// looks at. Their chunks follow.
func (c *uiClient) look() error {
	snap := c.s.board.now(c.changes)
	c.owed = false
	clear(c.broken)
	owed := c.page.owes(snap.jobs)
	if len(owed) > 0 && !c.page.own {
		var shown, over []*runningTask
		for _, t := range owed {
			if len(c.page.shown[spot{t.status.Job, t.status.Machine}]) > 0 {
				shown = append(shown, t)
			}
			if !live(t.status.State) {
				over = append(over, t)
			}
		}
		if len(shown) > 0 {
			if err := c.status(snap, without(snap.running, owed)); err != nil {
				return err
			}
		}
		if len(over) > 0 {
			if err := c.status(snap, with(snap.running, over)); err != nil {
				return err
			}
		}
	}
	if err := c.status(snap, nil); err != nil {
		return err
	}
	c.queue = c.queue[:0]
	for _, job := range slices.Sorted(maps.Keys(c.page.open)) {
		if err := c.send(c.s.board.details(snap, job)); err != nil {
			return err
		}
		if view := snap.jobs[job]; view != nil {
			for i := range view.texts {
				c.queue = append(c.queue, &view.texts[i])
			}
		}
	}
	c.more, c.emptied = true, c.behind()
	return nil
}

// status sends a status; nil is the true one.
func (c *uiClient) status(snap *snapshot, running []runView) error {
	frame := snap.status
	if running == nil {
		running = snap.running
	} else {
		frame = snap.statusFrame(c.s.o.Version, running)
	}
	if err := c.send(frame); err != nil {
		return err
	}
	c.statusAt = time.Now()
	c.page.status(running)
	return nil
}

// chunk sends the next piece of output that the page lacks, of one machine after
// the other.
func (c *uiClient) chunk() error {
	for range c.queue {
		t := c.queue[c.next%len(c.queue)]
		c.next = (c.next + 1) % len(c.queue)
		copy := c.page.copies[spot{t.status.Job, t.status.Machine}]
		if copy == nil || copy.spoiled || copy.run != t.status.Run || c.broken[t.status.TaskID] {
			continue
		}
		sent, err := c.piece(t, copy)
		if err != nil {
			return err
		}
		if sent {
			c.caughtUp()
			return nil
		}
	}
	c.more = false
	c.caughtUp()
	return nil
}

// caughtUp notes how long it took to send again what the last status emptied.
func (c *uiClient) caughtUp() {
	if c.emptied && !c.behind() {
		c.emptied, c.took = false, time.Since(c.statusAt)
	}
}

// piece sends the next chunk of one output, if there is one.
func (c *uiClient) piece(t *runningTask, copy *copyOf) (bool, error) {
	w, err := t.text.now(t.status)
	if err == nil && copy.final >= 0 && copy.final != w.length {
		copy.spoiled, c.owed = true, true // there was more to come behind what was sent as the end
		return false, nil
	}
	if c.scratch == nil {
		c.scratch = make([]byte, chunkBytes)
	}
	from := copy.at()
	if err == nil && from.offset >= w.end() && (copy.complete || !w.final) {
		return false, nil
	}
	var next point
	if err == nil {
		c.frame, next, err = t.text.chunk(c.frame[:0], c.scratch, &w, t.status, from, copy.stop())
	}
	if err != nil {
		c.broken[t.status.TaskID] = true
		if !c.told[t.status.TaskID] {
			c.told[t.status.TaskID] = true
			c.s.o.Log.Error("cannot read output for a page", "run", t.status.Run, "machine", t.status.Machine, "err", err)
		}
		return false, nil
	}
	ends := w.final && next.offset == w.end()
	if next == from && !ends {
		return false, nil
	}
	if err := c.send(c.frame); err != nil {
		return false, err
	}
	copy.sent(next, ends)
	if w.final && (ends || next.offset > w.length) {
		copy.final = w.length
	}
	if c.unacked++; c.unacked == window {
		c.waiting = time.Now()
	}
	return true, nil
}

func (c *uiClient) send(frame []byte) error { return c.conn.Write(wsx.Text, frame) }
