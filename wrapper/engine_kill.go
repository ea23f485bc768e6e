package wrapper

import (
	"errors"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"saltpeter/wsx/wire"
)

// killing is a kill under way. The steps: every member that was born before the
// kill gets the signal once; what lives after the grace gets SIGKILL until
// nothing is left; past the hard limit the answer is who is still alive, and the
// work goes on.
type killing struct {
	ids     []string        // requests to answer
	already map[string]bool // those that found a kill under way
	began   time.Time
	ticks   uint64 // the same instant on the scale of start times
	lastPID int    // and on the scale of numbers given out, which is finer
	pidMax  int
	name    string // the signal of the first request
	phase   string
	before  int // processes alive when it began

	sent  map[procKey]map[unix.Signal]bool
	sigs  []unix.Signal // that the signal phase sends, in the order asked for
	eperm map[procKey]bool

	deadline time.Time // end of the grace
	killAt   time.Time // start of the kill phase
	hardAt   time.Time
	answered bool      // "alive" was said
	next     time.Time // the next look or round is due
	looks    int       // of the signal phase

	rounds   int          // of the kill phase
	breeding int          // those of them that met somebody new
	struck   map[int]bool // our children that got SIGKILL and are not reaped yet
	pause    time.Duration
	scanned  time.Time

	ghostly time.Time // since when nobody lives although children are left
	ghosts  []int     // those children
}

// The signal phase looks again for those that the first look could not see; the
// first of these casts all nets, the very first only the tree.
var termLooks = []time.Duration{15 * time.Millisecond, 150 * time.Millisecond, time.Second}

const (
	termLookMax  = 10 * time.Second
	ghostPatient = 250 * time.Millisecond
	ghostPause   = 20 * time.Millisecond
)

// askKill begins a kill or joins the one under way.
func (e *engine) askKill(r killRequest) {
	if e.finished {
		return
	}
	name, sig, err := e.killSignal(r.Signal)
	if err != nil {
		e.emit(engineEvent{Kind: eventReport, ID: r.ID, Report: wire.Report{Op: "kill", Signal: r.Signal, Error: err.Error()}})
		return
	}
	grace := duration(e.order.KillGrace)
	if r.Grace != nil {
		grace = *r.Grace
	}
	grace = max(grace, 0)
	// What has ended by itself before the kill came keeps its own end.
	if childless := e.reap(); e.kill == nil && childless && e.mainEnded {
		if proof, gone := e.proveGone(); gone {
			e.emit(engineEvent{Kind: eventReport, ID: r.ID, Report: wire.Report{
				Op: "kill", OK: true, Outcome: wire.OutcomeNotRunning, Proof: proof,
			}})
			e.finish(proof)
			return
		}
	}
	if e.kill == nil {
		e.debugf("Terminating process %d", e.nets.main.pid)
		e.beginKill(r.Cause, name, sig, grace)
		e.kill.ids = append(e.kill.ids, r.ID)
		return
	}
	e.joinKill(r.ID, sig, grace)
}

// killSignal resolves a kill's signal: the request's, else the order's, else TERM.
func (e *engine) killSignal(asked string) (string, unix.Signal, error) {
	if asked == "" {
		if name, sig, err := parseSignal(e.order.KillSignal); err == nil {
			return name, sig, nil
		}
		return "TERM", unix.SIGTERM, nil // a bad word in a job file must not stop a kill
	}
	return parseSignal(asked)
}

// parseSignal reads a name with or without SIG, or a number.
func parseSignal(text string) (string, unix.Signal, error) {
	name := strings.TrimPrefix(strings.ToUpper(text), "SIG")
	sig := unix.SignalNum("SIG" + name)
	if n, err := strconv.Atoi(name); err == nil && n > 0 && n <= 64 {
		sig = unix.Signal(n)
		if known := unix.SignalName(sig); known != "" {
			name = strings.TrimPrefix(known, "SIG")
		}
	}
	if sig == 0 {
		return "", 0, errors.New("cannot send signal " + strconv.Quote(text) + ": there is none of that name")
	}
	return name, sig, nil
}

// beginKill takes the first look, signals everybody it shows, and sets the clock.
func (e *engine) beginKill(cause, name string, sig unix.Signal, grace time.Duration) {
	now := time.Now()
	k := &killing{
		already: map[string]bool{}, began: now, ticks: bootTicks(), name: name, phase: wire.PhaseTerm,
		sent: map[procKey]map[unix.Signal]bool{}, eperm: map[procKey]bool{},
		deadline: now.Add(grace), sigs: []unix.Signal{sig},
	}
	e.kill = k
	if !e.mainEnded && e.cause == "" {
		e.cause = cause
	}
	members := e.tree()
	k.before = living(members)
	if e.opened.IsZero() && !e.mainEnded {
		e.never = true
		e.shutGate() // the parked shell reads the end of the file; SIGKILL is faster
		e.enterKillPhase(now)
		return
	}
	if sig == unix.SIGKILL {
		e.enterKillPhase(now)
		return
	}
	k.lastPID, k.pidMax = e.nets.reader.lastPID()
	k.ticks = bootTicks()
	for _, m := range members {
		e.signalOnce(m, sig, true)
	}
	e.wakeMembers(members)
	if grace == 0 {
		e.enterKillPhase(now)
		return
	}
	k.next = now.Add(termLooks[0])
}

// joinKill is a second request: it may shorten the grace and add a signal, never
// lengthen anything. The same signal is not sent twice.
func (e *engine) joinKill(id string, sig unix.Signal, grace time.Duration) {
	k := e.kill
	if !slices.Contains(k.ids, id) {
		k.ids = append(k.ids, id)
		k.already[id] = true
	}
	now := time.Now()
	if end := now.Add(grace); end.Before(k.deadline) {
		k.deadline = end
	}
	switch {
	case k.phase == wire.PhaseKill:
		if k.answered { // asked again after "alive": answer again from now on
			k.answered, k.hardAt = false, now.Add(e.hardLimit())
		}
		k.next = now
	case sig == unix.SIGKILL:
		e.enterKillPhase(now)
	case !slices.Contains(k.sigs, sig):
		k.sigs = append(k.sigs, sig)
		members := e.look()
		for _, m := range members {
			e.signalOnce(m, sig, true)
		}
		e.wakeMembers(members)
	}
}

// signalOnce sends a member a signal that it has not had. Unless it was surely
// there before the kill (certain), its start time decides: what a handler starts
// afterwards gets the grace too.
func (e *engine) signalOnce(m member, sig unix.Signal, certain bool) {
	k := e.kill
	if !m.alive() || k.sent[m.procKey][sig] || !certain && !k.bornBefore(m) {
		return
	}
	if k.sent[m.procKey] == nil {
		k.sent[m.procKey] = map[unix.Signal]bool{}
	}
	k.sent[m.procKey][sig] = true
	e.send(m.procKey, sig)
}

// send signals one process and remembers a refusal as its reason to be alive.
func (e *engine) send(p procKey, sig unix.Signal) {
	err := e.signalProcess(p, sig)
	if e.kill != nil && errors.Is(err, unix.EPERM) {
		e.kill.eperm[p] = true
	}
}

func (e *engine) signalProcess(p procKey, sig unix.Signal) error {
	if !p.hidden() {
		return e.nets.reader.send(p, sig)
	}
	if !e.nets.isChild(p.pid) {
		return unix.ESRCH
	}
	return unix.Kill(p.pid, sig)
}

// wakeMembers lets what is frozen or stopped run into its signal, which is
// already pending: thawed first, it would get to do more of its work.
func (e *engine) wakeMembers(members []member) {
	e.thaw()
	for _, m := range members {
		if m.alive() && stopped(m.proc) { // others may have a handler for CONT
			e.send(m.procKey, unix.SIGCONT)
		}
	}
}

// killStep moves the kill on. childless is the kernel's word that no descendant
// is left.
func (e *engine) killStep(childless bool, now time.Time) {
	k := e.kill
	if childless && e.mainEnded && (e.empty || !now.Before(k.next) || !e.nets.escaped) {
		if proof, gone := e.proveGone(); gone {
			e.finish(proof)
			return
		}
		k.next = now // somebody out of the wrapper's tree: to be signalled at once
	}
	if k.phase == wire.PhaseTerm && !now.Before(k.deadline) {
		e.enterKillPhase(now)
	}
	if !now.Before(k.next) {
		var gone bool
		if k.phase == wire.PhaseTerm {
			gone = e.termLook(now)
		} else {
			gone = e.killRound(now)
		}
		if gone {
			return
		}
	}
	if k.phase == wire.PhaseTerm {
		e.wakeBy(k.deadline)
	} else if !k.answered {
		e.wakeBy(k.hardAt)
	}
	e.wakeBy(k.next)
}

// termLook finds who was there before the kill and has had no signal yet.
func (e *engine) termLook(now time.Time) (gone bool) {
	k := e.kill
	members := e.look()
	if k.looks == 0 {
		k.before = max(k.before, k.countBefore(members))
	}
	for _, sig := range k.sigs {
		for _, m := range members {
			e.signalOnce(m, sig, false)
		}
	}
	e.wakeMembers(members)
	pause := termLookMax
	if k.looks < len(termLooks) {
		pause = termLooks[k.looks]
	}
	if e.nets.escaped || living(members) == 0 {
		pause = min(pause, 50*time.Millisecond) // nobody tells us when those end
	}
	k.looks++
	k.next = now.Add(pause)
	return e.ghosts(members, now)
}

// bornBefore says whether a process was there when the signals were first sent.
// Start times count in 10 ms, in which a handler can start things and a shell
// that was just forking can be missed: within that span the order in which
// numbers are given out decides.
func (k *killing) bornBefore(m member) bool {
	if m.start != k.ticks || k.lastPID == 0 || k.pidMax == 0 {
		return m.start < k.ticks
	}
	return (k.lastPID-m.pid+k.pidMax)%k.pidMax < k.pidMax/2
}

func (k *killing) countBefore(members []member) (n int) {
	for _, m := range members {
		if m.alive() && k.bornBefore(m) {
			n++
		}
	}
	return n
}

// ghosts ends a kill of which only zombies are left that we cannot reap: a
// stranger traces them. Nobody lives, so nobody is reported alive. A breeder that
// slips through the looks is told apart by its children, which never stay the
// same.
func (e *engine) ghosts(members []member, now time.Time) (gone bool) {
	k := e.kill
	children := e.nets.reader.children(e.nets.self, nil)
	slices.Sort(children)
	if living(members) > 0 || !e.nets.walk {
		k.ghostly, k.ghosts = time.Time{}, nil
		return false
	}
	if k.ghostly.IsZero() || !slices.Equal(children, k.ghosts) {
		k.ghostly, k.ghosts = now, children
	}
	if now.Sub(k.ghostly) < ghostPatient {
		k.next = now.Add(ghostPause)
		return false
	}
	if e.pause.timer != 0 { // our own timer is what is left
		e.stopTimer()
		return false
	}
	proof := wire.ProofScan
	if e.cg != nil && e.cg.event("populated") == "0" && !e.nets.escapedCgroup {
		proof = wire.ProofCgroup
	}
	e.finish(proof)
	return true
}

// proveGone casts all nets once more after the kernel said that no descendant is
// left: only who came out of the wrapper's tree could still be there.
func (e *engine) proveGone() (proof string, gone bool) {
	if !e.empty {
		members := e.look()
		if living(members) > 0 {
			return "", false
		}
		e.empty = true
	}
	switch {
	case !e.nets.escaped:
		return wire.ProofECHILD, true
	case e.cg != nil && !e.nets.escapedCgroup && e.cg.event("populated") == "0":
		return wire.ProofCgroup, true
	}
	return wire.ProofScan, true
}

func (e *engine) hardLimit() time.Duration {
	limit := e.order.HardLimit
	if limit <= 0 {
		limit = wire.DefaultHardLimit
	}
	return duration(limit)
}
