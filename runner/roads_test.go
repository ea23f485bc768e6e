package runner

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"saltpeter/runner/launch"
	"saltpeter/runner/ledger"
	"saltpeter/wsx"
	"saltpeter/wsx/wire"
)

// These tests are about what is done without a connection: starts that fail or
// are unsure, machines that cannot be reached, tasks that are lost and found.

func isRefusal(err error, code string) bool {
	var refusal *Refusal
	return errors.As(err, &refusal) && refusal.Code == code
}

func TestLaunchFailures(t *testing.T) {
	r, f := newFakeRig(t)
	f.onGo = func(o wire.Order) launch.StartResult {
		if o.Command == "unreachable" {
			return launch.StartResult{Certainty: launch.CertainlyNot, Err: fmt.Errorf("no route: %w", launch.ErrUnreachable)}
		}
		return launch.StartResult{Certainty: launch.CertainlyNot, Err: errors.New("no such user")}
	}
	bad, far, odd := r.spec("fake", "x"), r.spec("fake", "unreachable"), r.spec("salt", "x")
	r.launch(bad, far, odd)
	for _, c := range []struct {
		spec   taskSpec
		state  ledger.State
		reason string
	}{
		{bad, ledger.LaunchFailed, "no such user"},
		{far, ledger.Unreachable, "no route"},
		{odd, ledger.LaunchFailed, "salt"},
	} {
		rec := r.awaitState(c.spec.Task.TaskID, c.state)
		if exitCode(rec) != 255 || !strings.Contains(rec.Reason, c.reason) || !strings.Contains(r.notes(rec.TaskID), c.reason) {
			t.Errorf("record %+v", rec)
		}
	}
	r.await("all ends told", func() bool { return r.endings(odd.Task.TaskID) == 1 })
}

// A start whose outcome is not known is asked about by the cookie, and started
// again only when nothing of it was found, twice.
func TestUnsureStart(t *testing.T) {
	r, f := newFakeRig(t)
	f.answer(func(q launch.ScriptRequest) (launch.ScriptResult, error) {
		if q.Op != launch.OpCheck || q.Task == "" || q.Identity != nil {
			t.Errorf("asked %+v", q)
		}
		return launch.ScriptResult{Outcome: wire.OutcomeGone}, nil
	})
	first := true
	f.onGo = func(wire.Order) launch.StartResult {
		if first {
			first = false
			return launch.StartResult{Certainty: launch.Unsure, Err: errors.New("timed out")}
		}
		if n := f.asked(launch.OpCheck); n < 2 {
			t.Errorf("started again after %d questions", n)
		}
		return launch.StartResult{Certainty: launch.Started}
	}
	s := r.spec("fake", "true")
	before := r.launched(f, s)
	r.await("the second start", func() bool { return f.started() == 2 })
	f.mu.Lock()
	after := f.orders[s.Task.Run]
	f.mu.Unlock()
	if before.Task != after.Task || before.URL == after.URL {
		t.Errorf("cookie %s, %s; the token must be new: %v", before.Task, after.Task, before.URL != after.URL)
	}
	p := r.dial(after)
	p.connect()
	p.start()
	r.dial(before).connect() // the first token lets in as well: nobody knows which start lives
}

func TestKillBeforeLaunch(t *testing.T) {
	r, f := newFakeRig(t)
	s := r.spec("fake", "true")
	r.begin(s)
	r.tasks.queue([]taskSpec{s})
	receipts := r.kill(Selector{Run: s.Task.Run, Machine: "m*"}, KillOptions{})
	if len(receipts) != 1 || receipts[0].Outcome != wire.OutcomeNeverStarted || *receipts[0].ExitCode != 143 {
		t.Errorf("receipts %+v", receipts)
	}
	r.tasks.launch(t.Context(), []taskSpec{s})
	rec := r.awaitState(s.Task.TaskID, ledger.Killed)
	if exitCode(rec) != 143 || rec.Reason != ledger.ReasonNever || rec.Kill.Standing() {
		t.Errorf("record %+v", rec)
	}
	if _, err := r.tryKill(Selector{Run: s.Task.Run}, KillOptions{}); !isRefusal(err, "nothing_running") {
		t.Errorf("a second kill: %v", err)
	}
	if n := f.started(); n != 0 {
		t.Errorf("it was started %d times", n)
	}
	if n := r.endings(s.Task.TaskID); n != 1 {
		t.Errorf("its end was told %d times", n)
	}
}

// The kill of a run ends what its later batches would have done, and they never
// start although the first one's end sets them going.
func TestKillCutsBatches(t *testing.T) {
	r, f := newFakeRig(t)
	var specs []taskSpec
	for i := range 3 {
		s := r.specOf("batched", "batched_1", fmt.Sprintf("m%d", i), "fake", "true")
		s.Task.Batch = i
		specs = append(specs, s)
	}
	r.begin(specs...)
	r.tasks.o.OnEnd = func(ledger.Task) { r.tasks.launch(t.Context(), specs) }
	r.tasks.queue(specs)
	r.tasks.launch(t.Context(), specs[:1])
	r.await("its start", func() bool { return f.started() == 1 })
	p := r.dial(f.orders["batched_1"])
	p.connect()
	p.start()
	got := make(chan []Receipt, 1)
	go func() { got <- r.kill(Selector{Job: "batched"}, KillOptions{}) }()
	p.hear(wire.TypeKill, "")
	p.end(143, wire.End{Cause: wire.CauseKill, RealSignal: 15, Proof: wire.ProofECHILD, Length: wire.Ptr(int64(0))})
	outcomes := map[string]string{}
	for _, rc := range <-got {
		outcomes[rc.Machine] = rc.Outcome
	}
	if outcomes["m0"] != wire.OutcomeGone || outcomes["m1"] != wire.OutcomeNeverStarted || outcomes["m2"] != wire.OutcomeNeverStarted {
		t.Errorf("receipts %v", outcomes)
	}
	for _, s := range specs[1:] {
		if rec := r.task(s.Task.TaskID); rec.State != ledger.Skipped || rec.Reason != ledger.ReasonCancelled {
			t.Errorf("record %+v", rec)
		}
	}
	if n := f.started(); n != 1 {
		t.Errorf("%d were started", n)
	}
}

// A kill that comes while the start is under way waits for its outcome.
func TestKillWhileLaunching(t *testing.T) {
	r, f := newFakeRig(t)
	release := make(chan launch.StartResult)
	f.onGo = func(wire.Order) launch.StartResult { return <-release }
	s := r.spec("fake", "true")
	r.launched(f, s)
	got := make(chan []Receipt, 1)
	go func() { got <- r.kill(Selector{Run: s.Task.Run}, KillOptions{}) }()
	r.awaitState(s.Task.TaskID, ledger.Stopping)
	release <- launch.StartResult{Certainty: launch.CertainlyNot, Err: errors.New("no such user")}
	if rc := (<-got)[0]; rc.Outcome != wire.OutcomeNeverStarted || *rc.ExitCode != 143 {
		t.Errorf("receipt %+v", rc)
	}
	if rec := r.awaitState(s.Task.TaskID, ledger.Killed); rec.Kill.Standing() {
		t.Errorf("record %+v", rec)
	}

	late := r.spec("fake", "true")
	o := r.launched(f, late)
	go func() { got <- r.kill(Selector{Run: late.Task.Run}, KillOptions{}) }()
	r.awaitState(late.Task.TaskID, ledger.Stopping)
	release <- launch.StartResult{Certainty: launch.Started, Identity: identityOf(o)}
	p := r.dial(o)
	p.connect()
	p.say(wire.Message{Type: wire.TypeStart, PID: 4711})
	p.hear(wire.TypeKill, "")
	p.end(143, wire.End{Cause: wire.CauseNever, Proof: wire.ProofECHILD, Length: wire.Ptr(int64(0))})
	p.hear(wire.TypeAck, wire.TypeComplete)
	if rc := (<-got)[0]; rc.Outcome != wire.OutcomeNeverStarted {
		t.Errorf("receipt %+v", rc)
	}
}

// The machine cannot be reached: the kill stands, is answered at once, is tried
// again, and done when a road opens.
func TestKillPendingUntilReachable(t *testing.T) {
	r, f := newFakeRig(t, func(r *rig) { r.pace.lostAfter = time.Hour })
	id, p := r.running(f)
	p.conn.Close("cut")
	r.await("the cut", func() bool { return !r.tasks.find(id).status(time.Now()).Connected })
	rc := r.kill(Selector{Run: id.Run}, KillOptions{})[0]
	if rc.Outcome != wire.OutcomeUnreachable || !rc.Pending || rc.Via != "" || rc.Error == "" || rc.ExitCode != nil {
		t.Errorf("receipt %+v", rc)
	}
	r.await("it is tried again", func() bool { return f.asked(launch.OpKill) >= 3 })
	st := r.tasks.find(id).status(time.Now())
	if st.KillPending == "" || st.State != ledger.Stopping || !st.Kill.Standing() || st.Road != roadNone {
		t.Errorf("status %+v", st)
	}
	// It stands over a restart, too.
	r.stop()
	r.pace.comeback = 50 * time.Millisecond
	r.start()
	f.answer(func(q launch.ScriptRequest) (launch.ScriptResult, error) {
		if q.Op != launch.OpKill {
			return launch.ScriptResult{Outcome: wire.OutcomeAlive, MainAlive: true}, nil
		}
		if q.Identity == nil || q.Identity.PID != 4711 || q.Grace != time.Second {
			t.Errorf("asked %+v", q)
		}
		return launch.ScriptResult{Outcome: wire.OutcomeGone, Proof: wire.ProofScan, Phase: wire.PhaseTerm, Before: 2}, nil
	})
	rec := r.awaitState(id, ledger.Killed)
	r.await("the receipt", func() bool { return !r.task(id).Kill.Standing() })
	if exitCode(rec) != 143 || !strings.Contains(string(r.task(id).Kill.Receipt), `"proof":"scan"`) {
		t.Errorf("record %+v", rec)
	}
	// Its wrapper comes back and tells the true end: the kill stays the cause.
	late := r.dial(p.order)
	late.connect()
	late.end(15, wire.End{Cause: wire.CauseExit, RealCode: wire.Ptr(15), Length: wire.Ptr(int64(0))})
	late.hear(wire.TypeAck, wire.TypeComplete)
	if rec := r.task(id); rec.State != ledger.Killed || exitCode(rec) != 143 || !rec.Amended || *rec.End.RealCode != 15 {
		t.Errorf("record %+v end %+v", rec, rec.End)
	}
}

func TestWithdraw(t *testing.T) {
	r, f := newFakeRig(t, func(r *rig) { r.pace.lostAfter = time.Hour })
	id, p := r.running(f)
	p.conn.Close("cut")
	r.await("the cut", func() bool { return !r.tasks.find(id).status(time.Now()).Connected })
	if _, err := r.tryKill(Selector{Run: id.Run}, KillOptions{Withdraw: true}); !isRefusal(err, "nothing_running") {
		t.Errorf("nothing to withdraw: %v", err)
	}
	if rc := r.kill(Selector{Run: id.Run}, KillOptions{NoWait: true})[0]; !rc.Pending {
		t.Errorf("receipt %+v", rc)
	}
	if rc := r.kill(Selector{Run: id.Run}, KillOptions{Withdraw: true})[0]; rc.Outcome != OutcomeWithdrawn {
		t.Errorf("receipt %+v", rc)
	}
	if rec := r.task(id); rec.State != ledger.Running || rec.Kill.Standing() {
		t.Errorf("record %+v", rec)
	}
	p = r.dial(p.order)
	p.connect()
	p.end(0, wire.End{Cause: wire.CauseExit, RealCode: wire.Ptr(0), Length: wire.Ptr(int64(0))})
	p.hear(wire.TypeAck, wire.TypeComplete)
	if rec := r.task(id); rec.State != ledger.Succeeded {
		t.Errorf("record %+v", rec)
	}
}

// No word and no road to ask by: lost, which holds back its machine only, is no
// end, and is taken back.
func TestLostAndFound(t *testing.T) {
	r, f := newFakeRig(t)
	id, p := r.running(f)
	job := p.order.Job
	p.conn.Close("cut")
	rec := r.awaitState(id, ledger.Lost)
	if exitCode(rec) != 253 || !strings.Contains(rec.Reason, "unreachable") {
		t.Errorf("record %+v", rec)
	}
	// What the book says is in force a moment later.
	r.await("the news of it", func() bool { return len(r.tasks.lost(job)) == 1 })
	if len(r.tasks.live(job)) != 0 || len(r.tasks.liveOn(job, "m1")) != 1 || len(r.tasks.liveOn(job, "m2")) != 0 || len(r.tasks.lost(job)) != 1 {
		t.Error("a lost task holds back what it should not, or does not what it should")
	}
	if n := r.endings(id); n != 0 {
		t.Error("lost was told as an end")
	}
	back := r.dial(p.order)
	back.connect()
	if rec := r.awaitState(id, ledger.Running); rec.ExitCode != nil {
		t.Errorf("record %+v", rec)
	}
	back.conn.Close("cut again")
	r.awaitState(id, ledger.Lost)
	if err := r.tasks.forget(t.Context(), person, "nothing_1"); !isRefusal(err, "nothing_running") {
		t.Errorf("forget: %v", err)
	}
	if err := r.tasks.forget(t.Context(), person, id.Run); err != nil {
		t.Fatal(err)
	}
	if rec := r.awaitState(id, ledger.Unknown); exitCode(rec) != 253 || !strings.Contains(rec.Reason, "alice") {
		t.Errorf("record %+v", rec)
	}
	// Even a task that was given up gets its true end.
	last := r.dial(p.order)
	last.connect()
	last.end(0, wire.End{Cause: wire.CauseExit, RealCode: wire.Ptr(0), Length: wire.Ptr(int64(0))})
	last.hear(wire.TypeAck, wire.TypeComplete)
	if rec := r.task(id); rec.State != ledger.Succeeded || exitCode(rec) != 0 {
		t.Errorf("record %+v", rec)
	}
}

func TestRebootedMachine(t *testing.T) {
	r, f := newFakeRig(t)
	f.answer(func(launch.ScriptRequest) (launch.ScriptResult, error) {
		return launch.ScriptResult{Outcome: wire.OutcomeGone, Reason: launch.ReasonRebooted, Proof: wire.ProofRebooted}, nil
	})
	id, p := r.running(f)
	p.conn.Close("cut")
	if rec := r.awaitState(id, ledger.Unknown); rec.Reason != reasonRebooted || rec.End.Proof != wire.ProofRebooted {
		t.Errorf("record %+v", rec)
	}
}

// An order that is fetched is bound to the first who fetches it.
func TestOrderIsBoundToItsFetcher(t *testing.T) {
	r, f := newFakeRig(t)
	s := r.spec("fake", "true")
	o := r.launched(f, s)
	h := handler{r.tasks}
	claim := wsx.Claim{Token: o.URL[strings.LastIndex(o.URL, "/")+1:]}
	for range 2 {
		data, err := h.Order(t.Context(), claim, "n1")
		if err != nil {
			t.Fatal(err)
		}
		if got, err := wire.DecodeOrder(data); err != nil || got.URL != o.URL || got.Task != o.Task || got.Command != "true" {
			t.Errorf("order %s, %v", data, err)
		}
	}
	if _, err := h.Order(t.Context(), claim, "n2"); !errors.Is(err, wsx.ErrOtherNonce) {
		t.Errorf("somebody else: %v", err)
	}
	if _, err := h.Connect(t.Context(), wsx.Claim{Token: claim.Token, RunToken: true}); !errors.Is(err, wsx.ErrUnknownToken) {
		t.Errorf("as a run token: %v", err)
	}
}

func TestTokensRunOut(t *testing.T) {
	r, f := newFakeRig(t, func(r *rig) { r.pace.late = 0 })
	_, p := r.running(f)
	p.end(0, wire.End{Cause: wire.CauseExit, RealCode: wire.Ptr(0), Length: wire.Ptr(int64(0))})
	p.hear(wire.TypeAck, wire.TypeComplete)
	p.conn.Close("done")
	hash := hashToken(p.order.URL[strings.LastIndex(p.order.URL, "/")+1:])
	r.await("the token's end", func() bool {
		_, err := r.book.TaskByToken(hash)
		return errors.Is(err, ledger.ErrNoToken)
	})
}

// On a full state disk a kill acts, and warns; a launch that cannot be recorded
// is not done.
func TestLedgerThatTakesNothing(t *testing.T) {
	r, f := newFakeRig(t, func(r *rig) { r.pace.complete = 100 * time.Millisecond })
	id, p := r.running(f)
	s := r.spec("fake", "true")
	r.begin(s)
	r.tasks.queue([]taskSpec{s})
	if err := r.book.Close(); err != nil { // from here on every Apply fails
		t.Fatal(err)
	}
	r.tasks.launch(t.Context(), []taskSpec{s})
	got := make(chan []Receipt, 1)
	go func() { got <- r.kill(Selector{Run: id.Run}, KillOptions{}) }()
	kill := p.hear(wire.TypeKill, "")
	p.say(wire.Message{Type: wire.TypeReport, ID: kill.ID, Report: &wire.Report{Op: "kill", OK: true, Outcome: wire.OutcomeGone, Proof: wire.ProofECHILD}})
	rc := (<-got)[0]
	if rc.Outcome != wire.OutcomeGone || !strings.Contains(rc.Error, "could not be recorded") {
		t.Errorf("receipt %+v", rc)
	}
	if n := f.started(); n != 1 {
		t.Errorf("%d were started", n)
	}
}
