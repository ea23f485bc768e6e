package runner

import (
	"fmt"
	"strings"
	"time"

	"saltpeter/runner/ledger"
	"saltpeter/wsx/wire"
)

// killing is a kill that stands, from its wish to its last receipt. One goroutine
// carries it (carry); everybody else only changes the fields and pokes it. The
// fields belong to task.mu.
type killing struct {
	id     string
	by     string
	from   string
	cause  string
	asked  time.Time
	signal string
	grace  *float64

	waiters    []*waiter
	unrecorded error // the ledger could not take it: it lives in memory only
	settled    bool
	withdrawn  bool
	audited    string // the last outcome in the audit log
	why        string // why it has not got through

	changes   int      // how often it was changed
	resend    bool     // it was changed: say it again
	sentOn    *session // the connection that carried it last
	sending   bool     // it waits for its turn to be sent there
	turn      func()   // gives the turn back; nil: it has none
	sentAt    time.Time
	heardAt   time.Time // killed or a report came since
	report    *wire.Report
	reportAt  time.Time
	reportVia string // the road that it came by; "" = the connection

	verify    bool // the wrapper's word is not enough
	scripting int  // kill.sh is running so many times
	working   int  // and so many of them are known to be at work on the machine
	maybe     bool // one was at work and its answer did not come
	struck    bool // one of them has signalled somebody
	phase     string
	found     int // processes that it found before it did
	nextTry   time.Time
	wait      time.Duration
	notBefore time.Time // until then the wrapper may come back

	poke chan struct{}
}

// waiter is one caller who waits for the receipt.
type waiter struct {
	asked   time.Time
	receipt chan Receipt
}

// look makes the kill's goroutine look again.
func (k *killing) look() {
	select {
	case k.poke <- struct{}{}:
	default:
	}
}

// message is the id that it goes by over the connection: a wrapper takes each id
// once, so that repeating one never cuts the grace short, while a changed kill is
// a new one. The lock is held.
func (k *killing) message() string {
	if k.changes == 0 {
		return k.id
	}
	return fmt.Sprintf("%s-%d", k.id, k.changes)
}

// answers reports whether an id is one that this kill went by. Older wrappers name
// none.
func (k *killing) answers(id string) bool {
	return id == "" || id == k.id || strings.HasPrefix(id, k.id+"-")
}

// killing is the kill that stands, nil if none does.
func (t *task) killing() *killing {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.kill == nil || t.kill.settled {
		return nil
	}
	return t.kill
}

// standKill puts a kill in force in memory, or changes the one that stands.
// serial is held.
func (t *task) standKill(want ledger.Kill, w *waiter, unrecorded error) *killing {
	t.mu.Lock()
	defer t.mu.Unlock()
	k := t.kill
	if k == nil || k.settled {
		k = &killing{
			id: want.ID, by: want.By, from: want.From, cause: want.Cause, asked: want.Asked,
			signal: want.Signal, grace: want.Grace, unrecorded: unrecorded,
			wait: t.ts.pace.retry, poke: make(chan struct{}, 1),
		}
		if t.rec.Kill != nil && unrecorded == nil {
			k.id = t.rec.Kill.ID
		}
		t.kill = k
		if t.endWait != nil {
			t.endWait()
		}
		t.ts.spawn(func() { t.carry(t.ts.life, k) })
	} else {
		k.signal, k.grace, k.resend, k.nextTry = want.Signal, want.Grace, true, time.Time{}
		k.report, k.heardAt = nil, time.Time{}
		k.changes++
	}
	if w != nil {
		k.waiters = append(k.waiters, w)
	}
	return k
}

// underWay reports whether somebody on the machine is known to be at work on a kill.
func (t *task) underWay(k *killing) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return k.working > 0 || !k.heardAt.IsZero() && t.session == k.sentOn
}

// hears notes that a connection brings answers to what was sent over it. The lock
// is held.
func (t *task) hears(s *session) {
	if t.deaf == s {
		t.deaf = nil
	}
}

// killHeard takes the word that a kill message arrived.
func (t *task) killHeard(s *session, _ string) {
	k := t.killing()
	if k == nil {
		return
	}
	t.mu.Lock()
	if k.sentOn == s && k.heardAt.IsZero() {
		k.heardAt = time.Now()
	}
	t.hears(s)
	t.mu.Unlock()
	k.look()
}
