package runner

import (
	"errors"
	"strings"
	"testing"

	"saltpeter/runner/launch"
	"saltpeter/runner/ledger"
	"saltpeter/wsx"
	"saltpeter/wsx/wire"
)

// These tests play the wrapper, frame by frame.

func TestOutputByOffset(t *testing.T) {
	r, f := newFakeRig(t)
	s := r.spec("fake", "true")
	o := r.launched(f, s)
	id := s.Task.TaskID
	p := r.dial(o)
	if ack := p.connect(); ack.Resume == nil || *ack.Resume != 0 || len(ack.Features) != len(wire.Features()) {
		t.Errorf("ack of connect %+v", ack)
	}
	p.start()
	p.bytes(0, "hello ")
	if ack := p.hear(wire.TypeAck, wire.TypeOutput); *ack.Offset != 6 {
		t.Errorf("ack %d", *ack.Offset)
	}
	p.bytes(20, "beyond a hole")
	if nack := p.hear(wire.TypeNack, ""); nack.Offset == nil || *nack.Offset != 6 {
		t.Errorf("nack %+v", nack)
	}
	p.bytes(3, "lo world") // overlaps
	p.hear(wire.TypeAck, wire.TypeOutput)

	again := r.dial(o) // the newest wins
	if ack := again.connect(); *ack.Resume != 11 {
		t.Errorf("resume %d", *ack.Resume)
	}
	p.closed()
	again.bytes(0, "hello world!\x00\xff")
	again.end(0, wire.End{Cause: wire.CauseExit, RealCode: wire.Ptr(0), Proof: wire.ProofECHILD, Length: wire.Ptr(int64(14))})
	again.hear(wire.TypeAck, wire.TypeComplete)
	if got := r.output(id); got != "hello world!\x00\xff" {
		t.Errorf("output %q", got)
	}
	if rec := r.task(id); rec.State != ledger.Succeeded || rec.End.Proof != wire.ProofECHILD {
		t.Errorf("record %+v", rec)
	}
	again.end(0, wire.End{Cause: wire.CauseExit, RealCode: wire.Ptr(0), Length: wire.Ptr(int64(14))})
	again.hear(wire.TypeAck, wire.TypeComplete) // said twice, acked twice
	if n := r.endings(id); n != 1 {
		t.Errorf("its end was told %d times", n)
	}
}

// The ack of complete waits for the output.
func TestCompleteWaitsForOutput(t *testing.T) {
	r, f := newFakeRig(t)
	id, p := r.running(f)
	p.bytes(0, "abc")
	p.end(4, wire.End{Cause: wire.CauseExit, RealCode: wire.Ptr(4), Length: wire.Ptr(int64(6))})
	if nack := p.hear(wire.TypeNack, ""); *nack.Offset != 3 {
		t.Errorf("nack %+v", nack)
	}
	if state := r.task(id).State; state != ledger.Running {
		t.Errorf("it is %s before its output came", state)
	}
	p.bytes(3, "def")
	p.hear(wire.TypeAck, wire.TypeComplete)
	if rec := r.task(id); rec.State != ledger.Failed || exitCode(rec) != 4 {
		t.Errorf("record %+v", rec)
	}
	if got := r.output(id); got != "abcdef" {
		t.Errorf("output %q", got)
	}
}

func TestFramesOfOthersAreRefused(t *testing.T) {
	r, f := newFakeRig(t)
	id, p := r.running(f)
	zero := 0
	p.raw(wire.Message{Type: wire.TypeComplete, RetCode: &zero, JobName: p.order.Job, JobInstance: "other_1", Machine: "m1"})
	p.raw(wire.Message{Type: wire.TypeComplete, RetCode: &zero, JobName: p.order.Job, JobInstance: id.Run, Machine: "m2"})
	p.raw(wire.Message{Type: wire.TypeComplete, RetCode: &zero})
	p.say(wire.Message{Type: "news", Data: "of a later version"})
	p.say(wire.Message{Type: wire.TypeSyncRequest})
	p.hear(wire.TypeSyncResponse, "")
	if rec := r.task(id); rec.State != ledger.Running {
		t.Errorf("it is %s", rec.State)
	}
	if n := strings.Count(r.logs.String(), "refused a frame"); n != 3 {
		t.Errorf("%d refusals were logged", n)
	}
}

func TestUnknownTokenIsNotLetIn(t *testing.T) {
	r, f := newFakeRig(t)
	_, p := r.running(f)
	for _, url := range []string{p.order.URL + "0", p.order.URL[:strings.LastIndex(p.order.URL, "/")+1] + "00"} {
		if _, err := wsx.Dial(t.Context(), wsx.DialOptions{URL: url, Timeout: testWait}); !errors.Is(err, wsx.ErrUnauthorized) {
			t.Errorf("%v", err)
		}
	}
	if token := p.order.URL[strings.LastIndex(p.order.URL, "/")+1:]; strings.Contains(r.logs.String(), token) || len(token) < 32 {
		t.Error("the token is short, or in the log")
	}
}

// The second generation: sequence numbers, no connect after a reconnect, negative
// codes.
func TestSecondGeneration(t *testing.T) {
	r, f := newFakeRig(t)
	s := r.spec("fake", "true")
	o := r.launched(f, s)
	id := s.Task.TaskID
	p := r.dial(o)
	p.say(wire.Message{Type: wire.TypeConnect})
	if ack := p.hear(wire.TypeAck, wire.TypeConnect); ack.Features != nil || ack.Resume != nil {
		t.Errorf("ack of connect %+v", ack)
	}
	p.say(wire.Message{Type: wire.TypeStart, PID: 99, Version: "0.9.31"})
	p.hear(wire.TypeAck, wire.TypeStart)
	out := func(p *peer, seq int64, text string) {
		p.say(wire.Message{Type: wire.TypeOutput, Stream: "stdout", Data: text, Seq: &seq})
	}
	out(p, 0, "a\n")
	if ack := p.hear(wire.TypeAck, wire.TypeOutput); *ack.Seq != 0 {
		t.Errorf("ack %+v", ack)
	}
	out(p, 0, "a\n")
	p.hear(wire.TypeAck, wire.TypeOutput)
	out(p, 2, "c\n")
	if nack := p.hear(wire.TypeNack, ""); nack.NackType != wire.NackOutOfOrder || *nack.ExpectedSeq != 1 || *nack.ReceivedSeq != 2 {
		t.Errorf("nack %+v", nack)
	}
	p.conn.Close("cut")

	p = r.dial(o)
	p.say(wire.Message{Type: wire.TypeSyncRequest})
	if m := p.hear(wire.TypeSyncResponse, ""); *m.LastSeq != 0 {
		t.Errorf("sync %+v", m)
	}
	seq := int64(3)
	code := -9
	p.say(wire.Message{Type: wire.TypeComplete, RetCode: &code, Seq: &seq}) // too early
	p.hear(wire.TypeNack, "")
	out(p, 1, "b\n")
	out(p, 2, "c\n")
	if ack := p.hear(wire.TypeAck, wire.TypeComplete); ack.Seq == nil || *ack.Seq != 3 {
		t.Errorf("ack %+v", ack)
	}
	rec := r.task(id)
	if rec.State != ledger.Failed || exitCode(rec) != 137 || rec.End.RealSignal != 9 || rec.Version != "0.9.31" || rec.Identity.PID != 99 {
		t.Errorf("record %+v end %+v", rec, rec.End)
	}
	if got := r.output(id); got != "a\nb\nc\n" {
		t.Errorf("output %q", got)
	}
}

// A kill that waits for an older wrapper is sent on whatever connection carries
// its token; its word is checked, and -15 is 143.
func TestKillOfSecondGeneration(t *testing.T) {
	r, f := newFakeRig(t)
	f.answer(func(q launch.ScriptRequest) (launch.ScriptResult, error) {
		if q.Identity == nil || q.Identity.PID != 99 || q.Identity.BootID != "" || q.Run == "" {
			t.Errorf("asked %+v", q)
		}
		return launch.ScriptResult{Outcome: wire.OutcomeGone, Proof: wire.ProofScan}, nil
	})
	s := r.spec("fake", "true")
	p := r.dial(r.launched(f, s))
	id := s.Task.TaskID
	p.say(wire.Message{Type: wire.TypeConnect})
	p.say(wire.Message{Type: wire.TypeStart, PID: 99})
	p.hear(wire.TypeAck, wire.TypeStart)
	receipts := make(chan []Receipt, 1)
	go func() { receipts <- r.kill(Selector{Run: id.Run}, KillOptions{}) }()
	if m := p.hear(wire.TypeKill, ""); m.JobInstance != id.Run || m.Machine != "m1" || m.JobName != s.Task.Job {
		t.Errorf("kill %+v", m)
	}
	p.say(wire.Message{Type: wire.TypeKilled})
	code := -15
	p.say(wire.Message{Type: wire.TypeComplete, RetCode: &code})
	p.hear(wire.TypeAck, wire.TypeComplete)
	rc := (<-receipts)[0]
	if rc.Outcome != wire.OutcomeGone || rc.Proof != wire.ProofScan || *rc.ExitCode != 143 || rc.RealSignal != 15 {
		t.Errorf("receipt %+v", rc)
	}
	if rec := r.task(id); rec.State != ledger.Killed || exitCode(rec) != 143 {
		t.Errorf("record %+v", rec)
	}
}

// The first generation: no sequence numbers, the whole text again at the end.
func TestFirstGeneration(t *testing.T) {
	r, f := newFakeRig(t)
	for _, streamed := range []bool{true, false} {
		s := r.spec("fake", "true")
		p := r.dial(r.launched(f, s))
		p.say(wire.Message{Type: wire.TypeStart, PID: 99})
		if streamed {
			p.say(wire.Message{Type: wire.TypeOutput, Stream: "stdout", Data: "text\n"})
		}
		code := 1
		p.say(wire.Message{Type: wire.TypeComplete, RetCode: &code, Output: "text\n"})
		p.conn.Close("first generation")
		if rec := r.awaitState(s.Task.TaskID, ledger.Failed); exitCode(rec) != 1 {
			t.Errorf("record %+v", rec)
		}
		if got := r.output(s.Task.TaskID); got != "text\n" {
			t.Errorf("streamed %v: output %q", streamed, got)
		}
	}
}

func TestOlderTimeoutAndError(t *testing.T) {
	r, f := newFakeRig(t)
	s := r.spec("fake", "true")
	s.Order.Timeout = 4
	p := r.dial(r.launched(f, s))
	p.say(wire.Message{Type: wire.TypeConnect})
	p.say(wire.Message{Type: wire.TypeStart, PID: 99})
	p.say(wire.Message{Type: wire.TypeOutput, Stream: "stderr", Data: wire.TimeoutLine(4), Seq: wire.Ptr(int64(0))})
	code := -15
	p.say(wire.Message{Type: wire.TypeComplete, RetCode: &code, Seq: wire.Ptr(int64(1))})
	if rec := r.awaitState(s.Task.TaskID, ledger.TimedOut); exitCode(rec) != 124 || rec.End.RealSignal != 15 {
		t.Errorf("record %+v", rec)
	}
	bad := r.spec("fake", "true")
	p = r.dial(r.launched(f, bad))
	p.say(wire.Message{Type: wire.TypeConnect})
	p.say(wire.Message{Type: wire.TypeError, Error: "user unknown"})
	rec := r.awaitState(bad.Task.TaskID, ledger.LaunchFailed)
	if exitCode(rec) != 255 || rec.Reason != "user unknown" || !strings.Contains(r.notes(bad.Task.TaskID), "user unknown") {
		t.Errorf("record %+v", rec)
	}
}

// Alive is not the last word: the kill stands until the wrapper corrects it.
func TestAliveIsCorrected(t *testing.T) {
	r, f := newFakeRig(t)
	id, p := r.running(f)
	receipts := make(chan []Receipt, 1)
	go func() { receipts <- r.kill(Selector{Run: id.Run}, KillOptions{}) }()
	kill := p.hear(wire.TypeKill, "")
	p.say(wire.Message{Type: wire.TypeKilled, ID: kill.ID})
	left := []wire.Process{{PID: 7, State: "D", Command: "rsync", Reason: wire.ReasonUninterruptible}}
	p.say(wire.Message{Type: wire.TypeReport, ID: kill.ID, Report: &wire.Report{Op: "kill", Outcome: wire.OutcomeAlive, Alive: 1, Left: left}})
	p.hear(wire.TypeAck, wire.TypeReport)
	rc := (<-receipts)[0]
	if rc.Outcome != wire.OutcomeAlive || len(rc.Left) != 1 || rc.Left[0].Reason != wire.ReasonUninterruptible || !rc.Pending {
		t.Errorf("receipt %+v", rc)
	}
	if st := r.tasks.status(r.task(id).Queued)[0]; len(st.Alive) != 1 || !st.Kill.Standing() || st.KillPending == "" {
		t.Errorf("status %+v", st)
	}
	p.say(wire.Message{Type: wire.TypeReport, ID: kill.ID, Report: &wire.Report{Op: "kill", OK: true, Outcome: wire.OutcomeGone, Proof: wire.ProofECHILD}})
	p.hear(wire.TypeAck, wire.TypeReport)
	p.end(143, wire.End{Cause: wire.CauseKill, Phase: wire.PhaseKill, Proof: wire.ProofECHILD, RealSignal: 9, Length: wire.Ptr(int64(0))})
	p.hear(wire.TypeAck, wire.TypeComplete)
	if rec := r.task(id); rec.State != ledger.Killed || rec.Kill.Standing() {
		t.Errorf("record %+v", rec)
	}
}

// Leftovers of an ended task are killed without touching its end.
func TestKillLeftovers(t *testing.T) {
	r, f := newFakeRig(t)
	id, p := r.running(f)
	p.end(3, wire.End{Cause: wire.CauseExit, RealCode: wire.Ptr(3), Leftover: 2, Length: wire.Ptr(int64(0))})
	p.hear(wire.TypeAck, wire.TypeComplete)
	if live := r.tasks.live(p.order.Job); len(live) != 0 {
		t.Errorf("leftovers count as %v", live)
	}
	if st := r.tasks.status(r.task(id).Queued); len(st) != 1 || st[0].Leftover != 2 {
		t.Fatalf("status %+v", st)
	}
	receipts := make(chan []Receipt, 1)
	go func() { receipts <- r.kill(Selector{Job: p.order.Job}, KillOptions{}) }()
	kill := p.hear(wire.TypeKill, "")
	p.bytes(0, "late words")
	p.say(wire.Message{Type: wire.TypeReport, ID: kill.ID, Report: &wire.Report{Op: "kill", OK: true, Outcome: wire.OutcomeGone, Proof: wire.ProofECHILD}})
	rc := (<-receipts)[0]
	if rc.Outcome != wire.OutcomeGone || *rc.ExitCode != 3 {
		t.Errorf("receipt %+v", rc)
	}
	if rec := r.task(id); rec.State != ledger.Failed || exitCode(rec) != 3 || rec.Leftover != 0 {
		t.Errorf("record %+v", rec)
	}
}
