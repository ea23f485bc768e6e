package runner

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"saltpeter/runner/launch"
	"saltpeter/runner/ledger"
	"saltpeter/wsx/wire"
)

// These tests are about what is said of a road, and about machines that do not
// answer: neither may be claimed to be open, nor hold up the others.

func unreachable() (launch.ScriptResult, error) {
	return launch.ScriptResult{}, fmt.Errorf("cannot reach it: %w", launch.ErrUnreachable)
}

// A road is named only if it has answered: after a restart it is not known, and a
// connection over which a kill got no answer is none.
func TestRoadIsNamedOnlyIfItAnswers(t *testing.T) {
	r, f := newFakeRig(t, func(r *rig) { r.pace.lostAfter, r.pace.answer = time.Hour, 300*time.Millisecond })
	road := func(id ledger.TaskID) string { return r.tasks.find(id).status(time.Now()).Road }
	f.answer(func(launch.ScriptRequest) (launch.ScriptResult, error) { return unreachable() })
	id, p := r.running(f)
	if got := road(id); got != roadWebSocket {
		t.Errorf("connected: road %q", got)
	}
	if rc := r.kill(Selector{Run: id.Run}, KillOptions{})[0]; rc.Outcome != wire.OutcomeUnreachable || rc.Via != "" || !rc.Pending {
		t.Errorf("receipt %+v", rc)
	}
	if got := road(id); got != roadNone {
		t.Errorf("neither road has answered: road %q", got)
	}
	p.say(wire.Message{Type: wire.TypeHeartbeat}) // it is heard, which does not mean that it hears
	if got := road(id); got != roadNone {
		t.Errorf("after a heartbeat: road %q", got)
	}
	p.say(wire.Message{Type: wire.TypeKilled})
	r.await("the answer", func() bool { return road(id) == roadWebSocket })
	f.answer(func(launch.ScriptRequest) (launch.ScriptResult, error) {
		return launch.ScriptResult{Outcome: wire.OutcomeAlive, MainAlive: true, WrapperAlive: true}, nil
	})
	p.conn.Close("cut")
	r.await("it is asked", func() bool { return road(id) == "fake" })

	r.stop()
	r.pace.comeback, r.pace.tick = time.Hour, time.Hour
	r.start()
	if got := road(id); got != "fake?" {
		t.Errorf("after a restart: road %q", got)
	}
}

// The kill is confirmed over the other road. Somebody who delivers what the dead
// wrapper left says that nobody saw the end: that is no news, and must not take the
// place of somebody who knows.
func TestLateEndThatKnowsNothing(t *testing.T) {
	r, f := newFakeRig(t)
	f.answer(func(launch.ScriptRequest) (launch.ScriptResult, error) {
		return launch.ScriptResult{Outcome: wire.OutcomeGone, Proof: wire.ProofScan, Phase: wire.PhaseTerm, Before: 2}, nil
	})
	id, p := r.running(f)
	p.conn.Close("cut")
	r.await("the cut", func() bool { return r.tasks.find(id).link() == nil })
	if rc := r.kill(Selector{Run: id.Run}, KillOptions{})[0]; rc.Outcome != wire.OutcomeGone || rc.Via != "fake" {
		t.Errorf("receipt %+v", rc)
	}
	late := r.dial(p.order)
	late.connect()
	late.end(253, wire.End{Cause: wire.CauseLost, Length: wire.Ptr(int64(0))})
	late.hear(wire.TypeAck, wire.TypeComplete)
	if rec := r.task(id); rec.State != ledger.Killed || exitCode(rec) != 143 || rec.Amended {
		t.Errorf("record %+v", rec)
	}
	if strings.Contains(r.logs.String(), "told how it ended") {
		t.Error("the log says that its wrapper told how it ended")
	}
	late.end(9, wire.End{Cause: wire.CauseExit, RealCode: wire.Ptr(9), Length: wire.Ptr(int64(0))})
	late.hear(wire.TypeAck, wire.TypeComplete)
	if rec := r.task(id); !rec.Amended || rec.End.RealCode == nil || *rec.End.RealCode != 9 || exitCode(rec) != 143 {
		t.Errorf("record %+v end %+v", rec, rec.End)
	}
}

// What is no wrapper does not become one by being started again and again.
func TestStartThatComesToNothing(t *testing.T) {
	r, f := newFakeRig(t)
	f.answer(func(launch.ScriptRequest) (launch.ScriptResult, error) {
		return launch.ScriptResult{Outcome: wire.OutcomeGone, Proof: wire.ProofScan}, nil
	})
	f.onGo = func(wire.Order) launch.StartResult {
		return launch.StartResult{Certainty: launch.Unsure, Err: errors.New("no identity line came")}
	}
	s := r.spec("fake", "true")
	r.launched(f, s)
	id := s.Task.TaskID
	r.await("that it is not known shows", func() bool {
		task := r.tasks.find(id)
		return task == nil || strings.Contains(task.status(time.Now()).StartUnsure, "no identity") || over(r.task(id).State)
	})
	rec := r.awaitState(id, ledger.LaunchFailed)
	if n := f.started(); n != 1+mostRestarts {
		t.Errorf("it was started %d times", n)
	}
	if exitCode(rec) != 255 || !strings.Contains(rec.Reason, "no identity line came") || !strings.Contains(r.notes(id), "no identity line came") {
		t.Errorf("record %+v notes %q", rec, r.notes(id))
	}
}

// A wrapper that refuses over its connection tells why in the output.
func TestRefusalShowsInTheOutput(t *testing.T) {
	r, f := newFakeRig(t)
	s := r.spec("fake", "true")
	p := r.dial(r.launched(f, s))
	p.connect()
	p.say(wire.Message{Type: wire.TypeComplete, RetCode: wire.Ptr(255), Error: "cannot start: there is no user \"nobody2\"",
		End: &wire.End{Cause: wire.CauseLaunch, Length: wire.Ptr(int64(0))}})
	p.hear(wire.TypeAck, wire.TypeComplete)
	rec := r.awaitState(s.Task.TaskID, ledger.LaunchFailed)
	if notes := r.notes(rec.TaskID); !strings.Contains(notes, "no user") {
		t.Errorf("notes %q", notes)
	}
}

// Machines that take every call until its deadline hold up neither launches nor
// kills nor questions elsewhere, and are served when they answer again.
func TestSilentMachinesHoldUpNobody(t *testing.T) {
	const dead = 90 // more than there are places for what is silent
	r, f := newFakeRig(t, func(r *rig) {
		r.pace.lostAfter, r.pace.connect = time.Hour, 0
		r.pace.ask, r.pace.start = time.Hour, time.Hour // so that nobody's deadline helps
	})
	killed := launch.ScriptResult{Outcome: wire.OutcomeGone, Proof: wire.ProofScan, Phase: wire.PhaseTerm, Before: 1}
	f.answer(func(q launch.ScriptRequest) (launch.ScriptResult, error) {
		if q.Op == launch.OpKill {
			return killed, nil
		}
		return launch.ScriptResult{Outcome: wire.OutcomeAlive, MainAlive: true}, nil
	})
	f.onGo = func(o wire.Order) launch.StartResult {
		return launch.StartResult{Certainty: launch.Started, Identity: identityOf(o)}
	}
	var specs []taskSpec
	for i := range dead {
		specs = append(specs, r.specOf("silent", "silent_1", fmt.Sprintf("dead%d", i), "fake", "true"))
	}
	r.launch(specs...)
	r.await("all are launched", func() bool { return f.started() == dead })
	heal := make(chan struct{})
	first := map[string]bool{}
	f.mu.Lock()
	f.onCall = func(ctx context.Context, m launch.Machine) error {
		if !strings.HasPrefix(m.Name, "dead") {
			return nil
		}
		f.mu.Lock()
		was := first[m.Name]
		first[m.Name] = true
		f.mu.Unlock()
		if !was { // so that it is known to be silent
			return fmt.Errorf("cannot connect: %w", launch.ErrUnreachable)
		}
		select {
		case <-heal:
			return nil
		case <-ctx.Done():
			return fmt.Errorf("no word: %w", launch.ErrUnreachable)
		}
	}
	f.mu.Unlock()
	r.kill(Selector{Run: "silent_1"}, KillOptions{NoWait: true})
	for _, s := range specs {
		r.await(s.Task.Machine+" is known to be silent", func() bool { return r.tasks.reach.state(wayTo(s.Machine)) == fails })
	}
	more := []taskSpec{}
	for i := range dead {
		more = append(more, r.specOf("silent", "silent_2", fmt.Sprintf("dead%d", i), "fake", "true"))
	}
	r.launch(more...)

	id, p := r.running(f) // a launch elsewhere
	p.conn.Close("cut")
	r.await("the cut", func() bool { return r.tasks.find(id).link() == nil })
	r.await("a question elsewhere", func() bool { return r.tasks.find(id).status(time.Now()).Road == "fake" })
	if rc := r.kill(Selector{Run: id.Run}, KillOptions{})[0]; rc.Outcome != wire.OutcomeGone {
		t.Errorf("receipt %+v", rc)
	}
	close(heal)
	for _, s := range specs {
		r.await("the kill on "+s.Task.Machine, func() bool { rec := r.task(s.Task.TaskID); return rec.State == ledger.Killed && !rec.Kill.Standing() })
	}
	r.await("the launches there", func() bool { return f.started() == 2*dead+1 })
}

// A person gets an answer in time where nobody has taken the kill up, and waits as
// long as a kill takes where somebody has.
func TestAnswerInTime(t *testing.T) {
	r, f := newFakeRig(t, func(r *rig) {
		r.pace.lostAfter, r.pace.person = time.Hour, 500*time.Millisecond
	})
	release := make(chan struct{})
	f.answer(func(q launch.ScriptRequest) (launch.ScriptResult, error) {
		if q.Op != launch.OpKill {
			return unreachable()
		}
		if strings.HasPrefix(q.Run, "heard") {
			q.Heard()
		}
		<-release
		return launch.ScriptResult{Outcome: wire.OutcomeGone, Proof: wire.ProofScan, Phase: wire.PhaseKill, Before: 1}, nil
	})
	running := func(run string) Selector {
		s := r.specOf(run, run+"_1", "m1", "fake", "true")
		s.Order.KillGrace = 300
		p := r.dial(r.launched(f, s))
		p.connect()
		p.start()
		p.conn.Close("cut")
		r.await("the cut", func() bool { return r.tasks.find(s.Task.TaskID).link() == nil })
		return Selector{Run: run + "_1"}
	}
	heard, silent := running("heard"), running("silent")
	long := make(chan Receipt, 1)
	go func() { long <- r.kill(heard, KillOptions{})[0] }()
	r.await("it is at work", func() bool { return f.asked(launch.OpKill) == 1 })
	rc := r.kill(silent, KillOptions{})[0]
	if rc.Outcome != wire.OutcomeUnknown || !rc.Pending || rc.Error != noAnswerYet || rc.Via != "" {
		t.Errorf("receipt %+v", rc)
	}
	st := r.tasks.find(ledger.TaskID{Run: "silent_1", Machine: "m1"}).status(time.Now())
	if st.KillPending != noAnswerYet {
		t.Errorf("status %+v", st)
	}
	select { // it was asked before the other one
	case rc := <-long:
		t.Errorf("answered before its time: %+v", rc)
	default:
	}
	close(release)
	if rc := <-long; rc.Outcome != wire.OutcomeGone || rc.Via != "fake" {
		t.Errorf("receipt %+v", rc)
	}
}

// The spool is fetched over the other road while the wrapper comes back and sends the
// same: each byte is stored once.
func TestOutputOverBothRoads(t *testing.T) {
	r, f := newFakeRig(t, func(r *rig) { r.pace.lostAfter = time.Hour })
	var whole strings.Builder
	for i := range 40_000 {
		fmt.Fprintf(&whole, "line %d of what it printed\n", i)
	}
	data := []byte(whole.String())
	first := r.spec("fake", "true")
	p := r.dial(r.launched(f, first))
	identity := identityOf(p.order)
	identity.Spool = "/spool/x"
	p.say(wire.Message{Type: wire.TypeConnect, Features: wire.Features(), Version: "1", Identity: identity})
	p.hear(wire.TypeAck, wire.TypeConnect)
	p.start()
	p.bytes(0, string(data[:1000]))
	id := first.Task.TaskID
	r.await("the first bytes", func() bool { return len(r.output(id)) == 1000 })

	fetching := make(chan struct{})
	var once sync.Once
	f.mu.Lock()
	f.onFetch = func(path string, offset, most int64) ([]byte, error) {
		const cut = 300_000 // where its second file begins
		files := map[string][]byte{"output.000000": data[:cut], "output.000001": data[cut:]}
		piece, ok := files[path[strings.LastIndexByte(path, '/')+1:]]
		if !ok {
			return nil, errors.New("no such file")
		}
		once.Do(func() { close(fetching) })
		time.Sleep(5 * time.Millisecond)
		if offset >= int64(len(piece)) {
			return nil, nil
		}
		return piece[offset:min(offset+most, int64(len(piece)))], nil
	}
	f.mu.Unlock()
	length := int64(len(data))
	f.answer(func(q launch.ScriptRequest) (launch.ScriptResult, error) {
		return launch.ScriptResult{Outcome: wire.OutcomeGone, Proof: wire.ProofScan, WrapperAlive: true, End: &wire.EndRecord{
			Run: id.Run, Task: p.order.Task, RetCode: 4, Ended: wire.FormatTime(time.Now()), Identity: identity,
			End: wire.End{Cause: wire.CauseExit, RealCode: wire.Ptr(4), Length: &length},
		}}, nil
	})
	p.conn.Close("cut")
	<-fetching
	back := r.dial(p.order)
	ack := back.connect()
	for at := *ack.Resume; at < length; at += 50_000 {
		back.bytes(at, string(data[at:min(at+50_000, length)]))
	}
	back.end(4, wire.End{Cause: wire.CauseExit, RealCode: wire.Ptr(4), Length: &length})
	back.hear(wire.TypeAck, wire.TypeComplete)
	if rec := r.task(id); rec.State != ledger.Failed || exitCode(rec) != 4 {
		t.Errorf("record %+v", rec)
	}
	if got := r.output(id); got != whole.String() {
		t.Errorf("%d bytes of output, want %d", len(got), length)
	}
	if n := r.endings(id); n != 1 {
		t.Errorf("its end was told %d times", n)
	}
}

// A signal that took effect is no failure, though nothing is left to be seen when
// the script looks again.
func TestSignalThatEndsEverything(t *testing.T) {
	r, f := newFakeRig(t)
	acted := 0
	f.answer(func(q launch.ScriptRequest) (launch.ScriptResult, error) {
		if q.Op != launch.OpSignal {
			return unreachable()
		}
		return launch.ScriptResult{Outcome: wire.OutcomeGone, Acted: acted}, nil
	})
	id, p := r.running(f)
	p.conn.Close("cut")
	r.await("the cut", func() bool { return r.tasks.find(id).link() == nil })
	for _, c := range []struct {
		acted int
		ok    bool
	}{{0, false}, {3, true}} {
		acted = c.acted
		yes := func(string) (bool, error) { return true, nil }
		chosen, err := Selector{Run: id.Run}.resolve(yes, yes)
		if err != nil {
			t.Fatal(err)
		}
		answers, err := r.tasks.signal(t.Context(), person, chosen, "KILL", "all")
		if err != nil {
			t.Fatal(err)
		}
		if got := <-answers; got.OK != c.ok || got.Via != "fake" {
			t.Errorf("%d took it: %+v", c.acted, got)
		}
	}
}
