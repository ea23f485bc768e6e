package wrapper

import (
	"os"
	"sync"
	"time"

	"saltpeter/wsx/wire"
)

const (
	giveUpAfter   = 24 * time.Hour         // without a server after the job's end; the spool stays for pickup
	settleWait    = 250 * time.Millisecond // for the engine's word on leftovers, once the output has ended
	afterKill     = 100 * time.Millisecond // for the last output of processes that a kill removed
	reportsWait   = 30 * time.Second       // for acks of reports when all else is confirmed
	pickupAfter   = 10 * time.Second       // jobs that are over sooner look for nobody's spools
	idleLook      = time.Hour
	saveWait      = 200 * time.Millisecond // for a server's word that it has recorded the end
	seenKillsMost = 4096
)

// task is one job's life as the wrapper sees it, from the open gate to the
// confirmed end. Its loop owns everything but what mu guards; kills go past the
// loop straight to the engine.
type task struct {
	order   *wire.Order
	log     *taskLog
	spool   *spool
	dir     *taskDir // nil: the spool is in memory
	pipes   *outputPipes
	engine  *engine
	rep     *reporter
	signals <-chan os.Signal // TERM, INT

	events   <-chan engineEvent
	asks     chan *wire.Message
	done     chan struct{} // closed when the loop has ended, or will never begin
	startAck chan struct{}
	identity wire.Identity

	openBy    time.Time // the gate waits no longer
	opened    bool
	unheard   bool            // the server that wrote the order was gone before it read who was started
	early     []*wire.Message // asked before the gate opened
	timeoutAt time.Time       // zero: none
	left      time.Duration
	thawsAt   time.Time // a pause with a ttl ends

	exited   bool
	end      wire.End
	endedAt  time.Time
	drainBy  time.Time
	settleBy time.Time
	eof      bool
	leftover int
	gone     bool // nothing of the task is left
	closed   bool // the end record is written
	quietBy  time.Time
	saveBy   time.Time // the end record must reach the disk; zero: it has, or need not
	leave    bool      // told to go without waiting for the server

	mu      sync.Mutex
	seen    map[string]bool        // kills that were asked, by id
	waiting map[string]bool        // of these, the ones without an answer
	answers map[string]wire.Report // to kills, signals, pauses
	over    bool                   // gone, as others than the loop may know it
	proof   string
}

func newTask(o *wire.Order, log *taskLog, s *spool, dir *taskDir, signals <-chan os.Signal) *task {
	t := &task{
		order: o, log: log, spool: s, dir: dir, signals: signals,
		asks: make(chan *wire.Message, 16), done: make(chan struct{}), startAck: make(chan struct{}, 1),
		seen: map[string]bool{}, waiting: map[string]bool{}, answers: map[string]wire.Report{},
	}
	t.rep = newReporter(reporterOptions{
		Order: o, Spool: s, Log: log, OnAsk: t.onAsk,
		OnStartAck: func() { poke(t.startAck) },
	})
	return t
}

// run carries the task to its end and reports whether the server knows it all.
func (t *task) run() (delivered bool) {
	defer close(t.done)
	t.events = t.engine.Events()
	t.openBy = time.Now().Add(duration(t.order.StartWait))
	if t.unheard {
		// The next server may have looked here while this wrapper stood still, found
		// nobody and started the task again: only its word opens the gate.
		t.log.Printf("the server did not wait for this start: the command waits for a server")
		t.openBy = time.Now().Add(giveUpAfter)
	}
	timer := time.NewTimer(0)
	defer timer.Stop()
	eof := (<-chan struct{})(t.pipes.EOF)
	for {
		now := time.Now()
		t.act(now)
		if over, delivered := t.finished(now); over {
			return delivered
		}
		timer.Reset(t.next(now))
		select {
		case ev, ok := <-t.events:
			if !ok {
				t.events = nil
				t.setGone(t.proof)
				break
			}
			t.onEvent(ev)
		case m := <-t.asks:
			t.hear(m)
		case <-t.startAck:
			t.open()
		case <-eof:
			eof, t.eof = nil, true
			t.settleBy = time.Now().Add(settleWait)
		case sig := <-t.signals:
			t.onSignal(sig)
		case <-t.rep.news:
		case <-timer.C:
		}
	}
}

// act does what time and events have made due.
func (t *task) act(now time.Time) {
	if !t.opened && !now.Before(t.openBy) {
		if t.unheard {
			t.openBy = now.Add(giveUpAfter)
			t.kill(killRequest{ID: wire.CauseTerminated, Cause: wire.CauseTerminated})
		} else {
			t.open()
		}
	}
	if !t.thawsAt.IsZero() && !now.Before(t.thawsAt) {
		t.goOn(now)
	}
	if !t.timeoutAt.IsZero() && !now.Before(t.timeoutAt) {
		t.timeoutAt = time.Time{}
		t.log.Printf("The timeout of %g seconds has passed", float64(t.order.Timeout))
		t.kill(killRequest{ID: wire.CauseTimeout, Cause: wire.CauseTimeout})
	}
	if t.exited && !t.closed && t.mayClose(now) {
		t.close(now)
	}
	if !t.saveBy.IsZero() && t.rep.Delivered() {
		t.saveBy = time.Time{}
	}
	if !t.saveBy.IsZero() && !now.Before(t.saveBy) {
		t.saveEnd()
	}
}

// next says how long nothing will be due.
func (t *task) next(now time.Time) time.Duration {
	wait := idleLook
	consider := func(at time.Time) {
		if !at.IsZero() {
			wait = min(wait, max(at.Sub(now), 0))
		}
	}
	if !t.opened {
		consider(t.openBy)
	}
	consider(t.timeoutAt)
	consider(t.thawsAt)
	if t.exited && !t.closed {
		consider(t.closeBy())
	}
	consider(t.saveBy)
	if t.closed && t.gone {
		consider(t.endedAt.Add(giveUpAfter))
		consider(t.quietBy)
	}
	return max(wait, time.Millisecond)
}

// open lets the command run; its timeout counts from here.
func (t *task) open() {
	if t.opened {
		return
	}
	t.opened = true
	t.engine.Open()
	if t.order.Timeout > 0 && !t.exited {
		t.timeoutAt = time.Now().Add(duration(t.order.Timeout))
	}
	t.answerEarly()
}

func (t *task) onEvent(ev engineEvent) {
	switch ev.Kind {
	case eventExited:
		now := time.Now()
		t.exited, t.end, t.endedAt = true, ev.End, now
		t.leftover = ev.End.Leftover
		t.drainBy = now.Add(duration(t.order.Drain))
		t.settleBy = now.Add(settleWait)
		if t.order.Leftover != "wait" {
			t.timeoutAt, t.thawsAt = time.Time{}, time.Time{}
		}
		t.spool.Lift()
	case eventReport:
		if ev.Report.Op == "resume" {
			t.rep.Report(ev.ID, ev.Report)
			return
		}
		t.onReport(ev.ID, ev.Report)
	case eventLeftover:
		t.leftover = ev.Report.Leftover
		if t.closed {
			r := ev.Report
			r.Op = "leftover"
			t.rep.Report("leftover", r)
		}
	case eventGone:
		t.end = ev.End
		t.setGone(ev.End.Proof)
	}
}

// onReport passes on a kill's answer.
func (t *task) onReport(id string, r wire.Report) {
	if r.Op == "" {
		r.Op = "kill"
	}
	t.mu.Lock()
	delete(t.waiting, id)
	t.answers[id] = r
	t.mu.Unlock()
	t.drainBy = later(t.drainBy, time.Now().Add(afterKill))
	switch r.Outcome {
	case wire.OutcomeAlive:
		t.log.Printf("Still alive after the kill: %d processes", r.Alive)
		t.leftover = r.Alive
	case wire.OutcomeGone:
		// The engine's last word follows at once, with the phase and the proof
		// that the end record must have.
		t.leftover, t.settleBy = 0, time.Now().Add(settleWait)
	}
	t.rep.Report(id, r)
}

// setGone answers the kills that came too late for the engine.
func (t *task) setGone(proof string) {
	t.gone, t.leftover = true, 0
	t.mu.Lock()
	t.over, t.proof = true, proof
	var late []string
	for id := range t.waiting {
		late = append(late, id)
		delete(t.waiting, id)
		t.answers[id] = notRunning("kill", proof)
	}
	t.mu.Unlock()
	for _, id := range late {
		t.rep.Report(id, notRunning("kill", proof))
	}
	t.answerEarly()
}

// finished decides whether the wrapper's work is done.
func (t *task) finished(now time.Time) (over, delivered bool) {
	if !t.closed || !t.gone {
		return false, false
	}
	switch {
	case t.rep.Quiet():
		return true, true
	case t.rep.Refused(), t.leave:
		return true, false
	case now.Sub(t.endedAt) >= giveUpAfter:
		t.log.Printf("the server was not there for %s after the job's end: its end and output stay in the spool", giveUpAfter)
		return true, false
	}
	if t.rep.Delivered() && t.spool.ackedOffset() >= t.spool.Length() {
		if t.quietBy.IsZero() {
			t.quietBy = now.Add(reportsWait)
		}
		return !now.Before(t.quietBy), true
	}
	return false, false
}

// onSignal: somebody on the machine wants the job to end, or, when it has ended,
// its wrapper to go.
func (t *task) onSignal(sig os.Signal) {
	if t.gone {
		t.log.Printf("Received %v after the job's end: leaving its output in the spool", sig)
		t.leave = true
		return
	}
	t.log.Printf("Received %v", sig)
	t.kill(killRequest{ID: wire.CauseTerminated, Cause: wire.CauseTerminated})
}
