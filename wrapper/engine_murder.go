package wrapper

import (
	"errors"
	"runtime"
	"time"

	"golang.org/x/sys/unix"

	"saltpeter/wsx/wire"
)

// The kill phase: SIGKILL by every way there is, again and again, until the
// kernel says that nothing is left.
//
// A breeder that forks faster than /proc can be read is met with what is cheap.
// Whoever loses its parent comes to us, and while we don't reap, a child's number
// is pinned to it and can be struck unseen: so each round reads our own list of
// children, strikes who is new there, and reads again until nobody is. All of
// /proc is read only where that finds nobody new, or once in a while.

const (
	strikeQuiet = 3                      // looks in a row without a new child that end a burst
	strikeBurst = 100 * time.Millisecond // and the longest one
	scanEvery   = time.Second            // however they breed
	breedPause  = 500 * time.Microsecond // sleepers are woken sooner than spinners get their next turn
	firstPause  = 4 * time.Millisecond   // when nobody new is met: a child's end wakes us anyway
	pauseTill   = 100 * time.Millisecond // the longest before the hard limit
	pauseAfter  = 5 * time.Second        // and after it
	sweepEvery  = 500                    // rounds with somebody new, until everybody is stopped first
)

// enterKillPhase ends the grace; the first round is done at once.
func (e *engine) enterKillPhase(now time.Time) {
	k := e.kill
	k.phase, k.killAt, k.hardAt = wire.PhaseKill, now, now.Add(e.hardLimit())
	k.next, k.pause, k.scanned = now, firstPause, now
	k.ghostly = time.Time{}
	k.struck = map[int]bool{}
	e.hurry()
}

// killRound strikes once.
func (e *engine) killRound(now time.Time) (gone bool) {
	k := e.kill
	k.rounds++
	if e.cg != nil {
		_ = e.cg.kill()
	}
	if e.nets.groupPinned() {
		_ = unix.Kill(-e.nets.main.pid, unix.SIGKILL)
	}
	if k.rounds == 1 {
		e.thaw()
	}
	fresh := e.strikeChildren()
	if fresh > 0 {
		k.breeding++
		k.pause = firstPause
		k.next = time.Now().Add(breedPause)
		if k.rounds == 1 {
			k.next = now.Add(firstPause)
		}
		if k.breeding%sweepEvery == 0 {
			e.stopAll()
		}
		if now.Sub(k.scanned) < scanEvery && now.Before(k.hardAt) {
			return false
		}
	}
	members := e.scan()
	e.strike(members)
	k.scanned = time.Now()
	if fresh == 0 {
		k.next = k.scanned.Add(k.pause)
		limit := pauseTill
		if k.answered {
			limit = pauseAfter
		}
		k.pause = min(2*k.pause, limit)
	}
	if !now.Before(k.hardAt) && !k.answered && living(members) > 0 {
		e.reap() // those that we have just been told of are no false alarm
		if members = e.scan(); living(members) > 0 {
			e.sayAlive(members)
			e.calm()
		}
	}
	return e.ghosts(members, now)
}

// strike sends SIGKILL to everybody alive.
func (e *engine) strike(members []member) {
	for _, m := range members {
		if m.alive() {
			e.send(m.procKey, unix.SIGKILL)
		}
	}
}

// strikeChildren strikes every child of ours that was not struck yet, until a few
// looks in a row find nobody new, and says how many there were. Nothing is reaped
// meanwhile. The zombies count against the breeder's own limit of processes.
func (e *engine) strikeChildren() (fresh int) {
	k, r := e.kill, e.nets.reader
	var children []int
	for quiet, looks, end := 0, 0, time.Now().Add(strikeBurst); quiet < strikeQuiet && time.Now().Before(end); looks++ {
		quiet++
		children = e.ownChildren(children[:0], looks == 0 || quiet == strikeQuiet)
		for _, pid := range children {
			if k.struck[pid] || pid == e.pause.timer {
				continue
			}
			k.struck[pid] = true // until it is reaped
			fresh++
			quiet = 0
			if err := unix.Kill(pid, unix.SIGKILL); errors.Is(err, unix.EPERM) {
				p, _ := r.stat(pid)
				k.eperm[procKey{pid: pid, start: p.start}] = true
			}
		}
	}
	return fresh
}

// ownChildren lists our children. Orphans are given to the main thread as long as
// it lives; the other threads' lists are read where a miss would matter.
func (e *engine) ownChildren(out []int, thorough bool) []int {
	n := e.nets
	switch {
	case !n.walk:
		all, _ := n.reader.all(nil)
		for _, p := range all {
			if p.ppid == n.self {
				out = append(out, p.pid)
			}
		}
		return out
	case thorough:
		return n.reader.children(n.self, out)
	}
	return n.reader.taskChildren(n.self, n.self, out)
}

// hurry lets the engine's thread run before the job's, where that is permitted:
// a breeder has as many turns on the processor as it has processes.
func (e *engine) hurry() {
	runtime.LockOSThread()
	_ = unix.SchedSetAttr(0, &unix.SchedAttr{
		Size: unix.SizeofSchedAttr, Policy: unix.SCHED_RR, Priority: 1, Flags: unix.SCHED_FLAG_RESET_ON_FORK,
	}, 0)
	e.hurried = true
}

// calm ends that.
func (e *engine) calm() {
	if e.hurried {
		_ = unix.SchedSetAttr(0, &unix.SchedAttr{Size: unix.SizeofSchedAttr, Policy: unix.SCHED_NORMAL}, 0)
		runtime.UnlockOSThread()
		e.hurried = false
	}
}
