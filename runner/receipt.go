package runner

import (
	"encoding/json"
	"slices"
	"time"

	"saltpeter/runner/ledger"
	"saltpeter/wsx/wire"
)

// Receipt is what a kill reports for one task; see docs/kill.md. Its JSON is
// stable.
type Receipt struct {
	Run             string        `json:"run"`
	Machine         string        `json:"machine"`
	Outcome         string        `json:"outcome"` // wire.Outcome…, or one of the Outcome… below
	Via             string        `json:"via,omitempty"`
	Signal          string        `json:"signal,omitempty"`
	Phase           string        `json:"phase,omitempty"`
	TookMS          float64       `json:"took_ms"`
	ExitCode        *int          `json:"exit_code,omitempty"`
	RealCode        *int          `json:"real_code,omitempty"`
	RealSignal      int           `json:"real_signal,omitempty"`
	Proof           string        `json:"proof,omitempty"`
	Reason          string        `json:"reason,omitempty"` // rebooted, partial, …: why the outcome is what it is
	ProcessesBefore int           `json:"processes_before,omitempty"`
	Left            []LeftProcess `json:"left,omitempty"`
	Alive           int           `json:"alive,omitempty"` // how many live, of which Left shows the first
	Already         bool          `json:"already,omitempty"`
	Error           string        `json:"error,omitempty"`
	WebsocketLost   float64       `json:"websocket_lost_s,omitempty"` // seconds without a connection, where via is another road
	Pending         bool          `json:"pending,omitempty"`          // the kill stands and will be carried on
}

// LeftProcess is one that a kill did not end.
type LeftProcess struct {
	PID     int    `json:"pid"`
	State   string `json:"state"`
	Command string `json:"command"`
	Reason  string `json:"reason"`
}

// Outcomes of receipts that are no outcome of a kill on a machine.
const (
	OutcomeAsked     = "asked"     // NoWait: it stands and is on its way
	OutcomeDryRun    = "dry_run"   // it would be killed
	OutcomeWithdrawn = "withdrawn" // the kill stands no more
)

// Roads, as receipts and status name them; the others are names of transports.
const (
	roadWebSocket = "websocket"
	roadNone      = "none"
	roadUntried   = "?" // behind a transport's name: this server has not tried it yet
)

// receipt begins one for this kill.
func (t *task) receipt(k *killing, outcome, via string) Receipt {
	t.mu.Lock()
	defer t.mu.Unlock()
	r := Receipt{Run: t.id.Run, Machine: t.id.Machine, Outcome: outcome, Via: via, Signal: pick(k.signal, "TERM"), TookMS: ms(time.Since(k.asked))}
	if k.unrecorded != nil {
		r.Error = "the kill could not be recorded, so a restart of the server would forget it: " + k.unrecorded.Error()
	}
	if over(t.rec.State) {
		r.ExitCode = t.rec.ExitCode
		if t.rec.End != nil {
			r.RealCode, r.RealSignal = t.rec.End.RealCode, t.rec.End.RealSignal
		}
	}
	if via != roadWebSocket && t.session == nil && !t.contact.IsZero() { // one that is open may be silent, but is not lost
		r.WebsocketLost = time.Since(t.contact).Round(100 * time.Millisecond).Seconds()
	}
	return r
}

func ms(d time.Duration) float64 {
	return float64(d.Round(10*time.Microsecond)) / float64(time.Millisecond)
}

// endReceipt is the receipt of a kill that an end settles: what the wrapper
// reported before, and the end's own details.
func (t *task) endReceipt(k *killing, e ledger.Ended) Receipt {
	r := t.receipt(k, wire.OutcomeGone, roadWebSocket)
	if e.End.Cause == wire.CauseNever {
		r.Outcome = wire.OutcomeNeverStarted
	}
	t.mu.Lock()
	report, cause := k.report, k.cause
	t.mu.Unlock()
	t.merge(k, &r, report)
	// The report is of the whole kill; the end may have been fixed when the main
	// process died, in an earlier phase.
	r.finished(&e.End, e.Before)
	if e.Before {
		r.ExitCode = wire.Ptr(e.ExitCode)
		return r
	}
	if e.End.Cause == wire.CauseTimeout {
		cause = wire.CauseTimeout // it came first
	}
	r.ExitCode = wire.Ptr(wire.ExitCode(cause, 0, 0)) // a recorded kill is the cause, whatever the process made of it
	return r
}

// reported fills in what a wrapper reports of a kill.
func reported(r *Receipt, w *wire.Report) {
	r.Outcome = pick(w.Outcome, r.Outcome)
	r.Signal, r.Phase, r.Proof = pick(w.Signal, r.Signal), pick(w.Phase, r.Phase), pick(w.Proof, r.Proof)
	r.ProcessesBefore, r.Already = w.ProcessesBefore, w.Already
	r.Left, r.Alive = leftProcesses(w.Left), w.Alive
	r.Error = pick(w.Error, r.Error)
}

func leftProcesses(left []wire.Process) []LeftProcess {
	var all []LeftProcess
	for _, p := range left[:min(len(left), wire.MaxLeft)] {
		all = append(all, LeftProcess(p))
	}
	return all
}

// settled makes the events that store a receipt. Final: the kill stands no more.
func (t *task) settled(k *killing, r Receipt, final bool) []ledger.Event {
	data, err := json.Marshal(r)
	if err != nil {
		t.log().Error("cannot store a receipt", "err", err)
		return nil
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	events := []ledger.Event{ledger.KillSettled{Task: t.id, At: time.Now(), Receipt: data, Final: final}}
	if final || k.audited != r.Outcome {
		k.audited = r.Outcome
		events = append(events, audited(Actor{k.by, k.from}, "kill", t.id, outcomeText(r)))
	}
	return events
}

func outcomeText(r Receipt) string {
	text := r.Outcome
	if r.Via != "" {
		text += " via " + r.Via
	}
	if r.Error != "" {
		text += ": " + r.Error
	}
	return text
}

func audited(a Actor, what string, id ledger.TaskID, outcome string) ledger.Event {
	return ledger.Audited{Entry: ledger.AuditEntry{
		At: time.Now(), Who: a.Who, From: a.From, What: what, Target: id.Run + ":" + id.Machine, Outcome: outcome,
	}}
}

// answered gives a receipt to everybody who waits for one, once it is stored (or
// cannot be). serial is held.
func (t *task) answered(k *killing, r Receipt, final bool) {
	t.mu.Lock()
	waiters := k.waiters
	k.waiters = nil
	k.overTurn()
	if final {
		k.settled = true
	} else {
		r.Pending = true
		k.why = pick(r.Error, r.Outcome)
	}
	t.alive = slices.Clone(r.Left)
	t.mu.Unlock()
	for _, w := range waiters {
		mine := r
		mine.TookMS = ms(time.Since(w.asked))
		w.receipt <- mine // its buffer has room for the one receipt that it gets
	}
	t.ts.o.Hub.publish(Change{Kind: ChangeReceipt, At: time.Now(), ID: t.id, Receipt: &r})
	t.changed()
	t.after(k.look)
	if final {
		t.log().Info("kill settled", "outcome", r.Outcome, "via", r.Via, "proof", r.Proof, "took_ms", r.TookMS)
	} else {
		t.log().Warn("kill not settled, it stands", "outcome", r.Outcome, "via", r.Via, "err", r.Error)
	}
}

// settle stores a receipt and hands it out. A ledger that cannot store it does
// not keep anybody from the answer. serial is held.
func (t *task) settle(k *killing, r Receipt, final bool, with ...ledger.Event) {
	if k.unrecorded == nil || len(with) > 0 {
		if err := t.apply(append(with, t.settled(k, r, final)...)...); err != nil {
			t.log().Error("cannot record what came of a kill", "err", err)
			r.Error = pick(r.Error, "the receipt could not be recorded: "+err.Error())
		}
	}
	t.answered(k, r, final)
}
