package wrapper

import (
	"time"

	"saltpeter/wsx/wire"
)

// leftovers are processes that outlive the job's shell. They are counted, told
// of when their number changes, and left alone unless the order says `kill`.
type leftovers struct {
	count   int
	counted time.Time     // the last look
	gap     time.Duration // until the next, if nothing stirs
	least   time.Duration // until the next, if something does
	stirred bool          // a child ended since the last look
	wished  bool          // the order's `kill` was carried out
}

const (
	leftoverGap     = 50 * time.Millisecond // between looks, at least
	leftoverGapMax  = 10 * time.Second      // a look at a few processes takes some 100 µs
	leftoverMaxCost = 100                   // a look may cost one part in so many
)

func (l *leftovers) start(n int, now time.Time) {
	*l = leftovers{count: n, counted: now, gap: leftoverGap, least: leftoverGap}
}

// leftoverStep watches what outlives the shell, at next to no cost: orphans that
// end wake the engine by themselves, only deeper ones need the slow look.
func (e *engine) leftoverStep(childless bool, now time.Time) {
	l := &e.leftover
	if childless && (e.empty || !e.nets.escaped || !now.Before(l.counted.Add(l.gap))) {
		if proof, gone := e.proveGone(); gone {
			e.finish(proof)
			return
		}
		l.stirred = true // somebody out of the wrapper's tree
	}
	if e.order.Leftover == "kill" && !l.wished {
		l.wished = true
		e.debugf("Removing %d leftover processes", l.count)
		name, sig, _ := e.killSignal("")
		e.beginKill(wire.CauseExit, name, sig, duration(e.order.KillGrace))
		e.wakeBy(now)
		return
	}
	due := l.counted.Add(l.gap)
	if l.stirred {
		due = l.counted.Add(l.least)
	}
	if now.Before(due) {
		e.wakeBy(due)
		return
	}
	members := e.tree()
	if e.nets.escaped || living(members) == 0 {
		members = e.look()
	}
	n := living(members)
	if n == 0 && e.pause.timer != 0 {
		e.stopTimer() // the last child is our own
	}
	if n != l.count && n > 0 {
		left, _ := e.describe(members)
		e.emit(engineEvent{Kind: eventLeftover, Report: wire.Report{Op: "leftover", OK: true, Leftover: n, Alive: n, Left: left}})
		l.count, l.gap = n, leftoverGap
	} else {
		l.gap = min(2*l.gap, leftoverGapMax)
	}
	l.counted, l.stirred = time.Now(), false
	l.least = max(leftoverGap, leftoverMaxCost*l.counted.Sub(now))
	l.gap = max(l.gap, l.least)
	e.wakeBy(l.counted.Add(l.gap))
}
