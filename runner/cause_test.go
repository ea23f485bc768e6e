package runner

import (
	"strings"
	"testing"
	"time"

	"saltpeter/runner/launch"
	"saltpeter/runner/ledger"
	"saltpeter/wsx/wire"
)

// The first cause wins, on whichever road the end is learned and whatever clock the
// machine has. The connection is there, and brings nothing.
func TestFirstCauseOverTheOtherRoad(t *testing.T) {
	exit := func(code int) wire.End { return wire.End{Cause: wire.CauseExit, RealCode: &code} }
	died := func(e wire.End, signal int) wire.End { e.RealSignal = signal; return e }
	acted := launch.ScriptResult{Before: 2, Acted: 2, Phase: wire.PhaseTerm}
	left := exit(3)
	left.Leftover = 2
	for _, c := range []struct {
		name    string
		clock   time.Duration // of the machine: ahead of ours
		ended   time.Duration // since when the kill is answered
		end     wire.End
		res     launch.ScriptResult
		state   ledger.State
		code    int
		outcome string
		phase   string
	}{
		{"by itself, a while before", 0, -time.Minute, exit(0), launch.ScriptResult{}, ledger.Succeeded, 0, wire.OutcomeNotRunning, ""},
		{"its clock is ahead", time.Hour, -time.Minute, exit(7), launch.ScriptResult{}, ledger.Failed, 7, wire.OutcomeNotRunning, ""},
		{"its clock is behind, and the kill ended it", -time.Hour, 0, died(wire.End{Cause: wire.CauseExit}, 15), acted, ledger.Killed, 143, wire.OutcomeGone, wire.PhaseTerm},
		{"leftovers were killed", 0, -time.Minute, left, acted, ledger.Failed, 3, wire.OutcomeGone, wire.PhaseTerm},
		{"its timeout, a while before", 0, -time.Minute, died(wire.End{Cause: wire.CauseTimeout, Phase: wire.PhaseTerm}, 15), launch.ScriptResult{}, ledger.TimedOut, 124, wire.OutcomeNotRunning, ""},
		{"by itself while the kill stood", 0, 0, exit(0), launch.ScriptResult{}, ledger.Killed, 143, wire.OutcomeGone, ""},
		{"both roads, the wrapper needed KILL", 0, 0, died(wire.End{Cause: wire.CauseKill, Phase: wire.PhaseKill}, 9), acted, ledger.Killed, 143, wire.OutcomeGone, wire.PhaseKill},
		{"the wrapper had done it all", 0, 0, died(wire.End{Cause: wire.CauseKill, Phase: wire.PhaseTerm}, 15), launch.ScriptResult{}, ledger.Killed, 143, wire.OutcomeGone, wire.PhaseTerm},
	} {
		t.Run(c.name, func(t *testing.T) {
			r, f := newFakeRig(t, func(r *rig) { r.pace.answer = 100 * time.Millisecond })
			s := r.spec("fake", "true")
			p := r.dial(r.launched(f, s))
			p.say(wire.Message{Type: wire.TypeConnect, Features: wire.Features(), Version: "1", Identity: identityOf(p.order), Timestamp: wire.FormatTime(time.Now().Add(c.clock))})
			p.hear(wire.TypeAck, wire.TypeConnect)
			p.start()
			f.answer(func(q launch.ScriptRequest) (launch.ScriptResult, error) {
				if q.Op != launch.OpKill {
					return launch.ScriptResult{Outcome: wire.OutcomeAlive, MainAlive: true, WrapperAlive: true}, nil
				}
				res := c.res
				res.Outcome, res.Proof, res.WrapperAlive = wire.OutcomeGone, wire.ProofScan, true
				at := time.Now().Add(c.ended + c.clock)
				res.End = &wire.EndRecord{Run: p.order.Run, Task: p.order.Task, Ended: wire.FormatTime(at), End: c.end}
				if c.end.RealCode != nil {
					res.End.RetCode = *c.end.RealCode
				}
				return res, nil
			})
			id := s.Task.TaskID
			rc := r.kill(Selector{Run: id.Run}, KillOptions{})[0]
			rec := r.task(id)
			if rec.State != c.state || exitCode(rec) != c.code || rec.Kill.Standing() || rec.Leftover != 0 {
				t.Errorf("record %+v end %+v", rec, rec.End)
			}
			if rc.Outcome != c.outcome || *rc.ExitCode != c.code || rc.Phase != c.phase || rc.RealSignal != c.end.RealSignal {
				t.Errorf("receipt %+v, exit %d", rc, *rc.ExitCode)
			}
			if note := strings.Contains(r.notes(id), wire.KilledLine); note != (c.state == ledger.Killed) {
				t.Errorf("notes %q", r.notes(id))
			}
		})
	}
}

// A job that ended with 0 before its server took the timeout in hand.
func TestEndedBeforeTheServerEnforcesItsTimeout(t *testing.T) {
	r, f := newFakeRig(t)
	f.answer(func(q launch.ScriptRequest) (launch.ScriptResult, error) {
		if q.Op != launch.OpKill {
			return launch.ScriptResult{Outcome: wire.OutcomeAlive, MainAlive: true, WrapperAlive: true}, nil
		}
		return launch.ScriptResult{Outcome: wire.OutcomeGone, Proof: wire.ProofScan, WrapperAlive: true, End: &wire.EndRecord{
			Task: q.Task, Run: q.Run, Ended: wire.FormatTime(time.Now().Add(-time.Minute)), End: wire.End{Cause: wire.CauseExit, RealCode: wire.Ptr(0)},
		}}, nil
	})
	s := r.spec("fake", "true")
	s.Order.Timeout = 0.1
	p := r.dial(r.launched(f, s))
	p.connect()
	p.start()
	p.conn.Close("cut")
	r.await("its end", func() bool { return over(r.task(s.Task.TaskID).State) })
	if rec := r.task(s.Task.TaskID); rec.State != ledger.Succeeded || exitCode(rec) != 0 || rec.Kill == nil || rec.Kill.Cause != wire.CauseTimeout || r.notes(rec.TaskID) != "" {
		t.Errorf("record %+v kill %+v notes %q", rec, rec.Kill, r.notes(rec.TaskID))
	}
}

// The wrapper was cut off and comes back when a kill has just been asked for.
func TestEndedBeforeKillOverTheConnection(t *testing.T) {
	r, f := newFakeRig(t)
	for _, older := range []bool{false, true} {
		f.answer(func(launch.ScriptRequest) (launch.ScriptResult, error) {
			return launch.ScriptResult{Outcome: wire.OutcomeGone, Proof: wire.ProofScan}, nil
		})
		s := r.spec("fake", "true")
		id := s.Task.TaskID
		p := r.dial(r.launched(f, s))
		if older {
			p.say(wire.Message{Type: wire.TypeConnect})
			p.say(wire.Message{Type: wire.TypeStart, PID: 99})
			p.hear(wire.TypeAck, wire.TypeStart)
		} else {
			p.connect()
			p.start()
		}
		got := make(chan []Receipt, 1)
		go func() { got <- r.kill(Selector{Run: id.Run}, KillOptions{}) }()
		kill := p.hear(wire.TypeKill, "")
		end := wire.Message{Type: wire.TypeComplete, RetCode: wire.Ptr(4), Timestamp: wire.FormatTime(time.Now().Add(-time.Minute))}
		if !older {
			p.say(wire.Message{Type: wire.TypeReport, ID: kill.ID, Report: &wire.Report{Op: "kill", OK: true, Outcome: wire.OutcomeNotRunning, Proof: wire.ProofECHILD}})
			end.End = &wire.End{Cause: wire.CauseExit, RealCode: wire.Ptr(4), Length: wire.Ptr(int64(0))}
		}
		p.say(end)
		p.hear(wire.TypeAck, wire.TypeComplete)
		if rc := (<-got)[0]; rc.Outcome != wire.OutcomeNotRunning || *rc.ExitCode != 4 || rc.Reason == "" {
			t.Errorf("older %v: receipt %+v", older, rc)
		}
		if rec := r.task(id); rec.State != ledger.Failed || exitCode(rec) != 4 || r.notes(id) != "" {
			t.Errorf("older %v: record %+v notes %q", older, rec, r.notes(id))
		}
	}
}

// kill.sh has signalled when the wrapper comes back, which knows of no kill and
// calls what ended before its message came not running.
func TestNotRunningIsNotTheLastWord(t *testing.T) {
	r, f := newFakeRig(t)
	for _, leftover := range []int{0, 2} {
		id, p := r.running(f)
		p.conn.Close("cut")
		r.await("the cut", func() bool { return !r.tasks.find(id).status(time.Now()).Connected })
		begun, release := make(chan bool, 1), make(chan bool)
		f.answer(func(q launch.ScriptRequest) (launch.ScriptResult, error) {
			if q.Op != launch.OpKill {
				return launch.ScriptResult{Outcome: wire.OutcomeAlive, MainAlive: true, WrapperAlive: true}, nil
			}
			q.Heard()
			begun <- true
			<-release
			return launch.ScriptResult{Outcome: wire.OutcomeGone, Proof: wire.ProofScan, Phase: wire.PhaseTerm, Before: 3, Acted: 3, WrapperAlive: true}, nil
		})
		got := make(chan []Receipt, 1)
		go func() { got <- r.kill(Selector{Run: id.Run}, KillOptions{}) }()
		<-begun
		p = r.dial(p.order)
		p.connect()
		kill := p.hear(wire.TypeKill, "")
		if leftover > 0 {
			p.end(143, wire.End{Cause: wire.CauseExit, RealSignal: 15, Leftover: leftover, Length: wire.Ptr(int64(0))})
			p.hear(wire.TypeAck, wire.TypeComplete)
		}
		p.say(wire.Message{Type: wire.TypeReport, ID: kill.ID, Report: &wire.Report{Op: "kill", OK: true, Outcome: wire.OutcomeNotRunning, Proof: wire.ProofECHILD}})
		p.hear(wire.TypeAck, wire.TypeReport)
		if leftover == 0 {
			p.end(143, wire.End{Cause: wire.CauseExit, RealSignal: 15, Proof: wire.ProofECHILD, Length: wire.Ptr(int64(0))})
			p.hear(wire.TypeAck, wire.TypeComplete)
		}
		rc := (<-got)[0]
		close(release)
		if rc.Outcome != wire.OutcomeGone || *rc.ExitCode != 143 || rc.RealSignal != 15 {
			t.Errorf("leftover %d: receipt %+v", leftover, rc)
		}
		if rec := r.task(id); rec.State != ledger.Killed || exitCode(rec) != 143 || !strings.Contains(r.notes(id), wire.KilledLine) {
			t.Errorf("leftover %d: record %+v notes %q", leftover, rec, r.notes(id))
		}
	}
}
