package wrapper

import (
	"errors"
	"time"

	"golang.org/x/sys/unix"

	"saltpeter/wsx/wire"
)

// The kill phase: SIGKILL by every way there is, again and again, until the
// kernel says that nothing is left.

const (
	breedingRounds = 2 // rounds that met somebody new before the loop is tightened
	tightBurst     = 150 * time.Millisecond
	tightQuiet     = 30 // looks in a row without a new child that end a burst
	sweepAfter     = 20 // bursts without an end, until everybody is stopped first
)

// enterKillPhase ends the grace; the first round is done at once.
func (e *engine) enterKillPhase(now time.Time) {
	k := e.kill
	k.phase, k.killAt, k.hardAt = wire.PhaseKill, now, now.Add(e.hardLimit())
	k.next = now
	k.ghostly = time.Time{}
}

// killRound strikes once. The first round takes what is cheap to find; the later
// ones cast all nets, and where new processes keep coming the loop is tightened.
func (e *engine) killRound(now time.Time) (gone bool) {
	k := e.kill
	k.rounds++
	if e.cg != nil {
		_ = e.cg.kill()
		e.thaw() // the kernel's own freezer lets SIGKILL through; an outer one may not
	}
	if e.nets.groupPinned() {
		_ = unix.Kill(-e.nets.main.pid, unix.SIGKILL)
	}
	members := e.tree()
	e.strike(members)
	fresh := k.meet(members)
	if k.rounds > 1 {
		members = e.scan()
		e.strike(members)
		fresh += k.meet(members)
		if fresh > 0 {
			k.breeding++
		}
		if fresh > 0 && k.breeding >= breedingRounds {
			if k.breeding%sweepAfter == 0 {
				e.stopAll()
			}
			e.tighten()
			e.reap()
			members = e.scan()
			fresh += k.meet(members)
		}
	}
	k.next = now.Add(e.roundPause(fresh))
	if k.rounds == 1 {
		return false
	}
	if !now.Before(k.hardAt) && !k.answered && living(members) > 0 {
		e.reap() // those that we have just been told of are no false alarm
		if members = e.scan(); living(members) > 0 {
			e.sayAlive(members)
		}
	}
	return e.ghosts(members, now)
}

// roundPause is short while there is progress to be had, and grows for those
// that SIGKILL does not move: a child's end wakes the engine anyway.
func (e *engine) roundPause(fresh int) time.Duration {
	k := e.kill
	if fresh > 0 && k.rounds > 1 {
		return firstPause / 2
	}
	pause := firstPause << min(k.rounds, roundsQuick)
	if !k.answered {
		return min(pause, 100*time.Millisecond)
	}
	return min(pause, pauseMax)
}

// strike sends SIGKILL to everybody alive.
func (e *engine) strike(members []member) {
	for _, m := range members {
		if m.alive() {
			e.send(m.procKey, unix.SIGKILL)
		}
	}
}

// tighten is for breeders that fork faster than /proc can be read. Nothing is
// reaped while it runs, so every child's number stays pinned to it and can be
// struck unseen; orphans come to us with their parent's death, so all there is
// to read is our own list of children. The zombies that pile up count against
// the breeder's own limit of processes as well.
func (e *engine) tighten() {
	r, struck := e.nets.reader, map[int]bool{}
	var tasks, children []int
	quiet := 0
	for end := time.Now().Add(tightBurst); quiet < tightQuiet && time.Now().Before(end); quiet++ {
		if tasks == nil || quiet == 0 {
			tasks, _ = r.numbers("/proc/self/task", tasks[:0])
		}
		children = children[:0]
		if e.nets.walk {
			for _, tid := range tasks {
				children = r.taskChildren(e.nets.self, tid, children)
			}
		} else {
			children = e.childrenByScan(children)
		}
		for _, pid := range children {
			if struck[pid] || pid == e.pause.timer {
				continue
			}
			struck[pid] = true
			quiet = 0
			if err := unix.Kill(pid, unix.SIGKILL); errors.Is(err, unix.EPERM) {
				if p, ok := r.stat(pid); ok {
					e.kill.eperm[p.procKey] = true
				}
			}
		}
	}
}

// childrenByScan is the slow way, for kernels that list no children.
func (e *engine) childrenByScan(out []int) []int {
	all, _ := e.nets.reader.all(nil)
	for _, p := range all {
		if p.ppid == e.nets.self {
			out = append(out, p.pid)
		}
	}
	return out
}
