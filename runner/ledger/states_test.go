package ledger

import (
	"errors"
	"strings"
	"testing"
	"time"

	"saltpeter/wsx/wire"
)

// expected is the whole table once more, written the other way round: for each
// state what each event makes of it. A dash is ErrUnlawful.
var expected = `
event          queued launching running paused stopping succeeded failed timed_out killed launch_failed unreachable skipped unknown lost
Launched       launching launching - - - - - - - - - - - -
Identified     queued launching running paused stopping succeeded failed timed_out killed launch_failed unreachable skipped unknown lost
Started        - running running paused stopping - - - - - - - - running
PausedAt       - - paused paused stopping - - - - - - - - -
ResumedAt      - - running running stopping - - - - - - - - -
KillAsked      killed stopping stopping stopping stopping succeeded failed timed_out killed launch_failed unreachable skipped unknown lost
KillSettled    queued launching running paused stopping succeeded failed timed_out killed launch_failed unreachable skipped unknown lost
KillWithdrawn  - launching running paused running succeeded failed timed_out killed launch_failed unreachable skipped unknown lost
Ended          failed failed failed failed failed - - - - - - - - failed
Amended        - - - - - succeeded failed timed_out killed launch_failed unreachable - succeeded -
LostAt         lost lost lost lost lost - - - - - - - - lost
FoundAt        - launching running paused stopping - - - - - - - - running
LeftoverNow    - - - - - succeeded failed timed_out killed launch_failed unreachable skipped unknown lost
NoteAdded      queued launching running paused stopping succeeded failed timed_out killed launch_failed unreachable skipped unknown lost
TokenAdded     queued launching running paused stopping succeeded failed timed_out killed launch_failed unreachable skipped unknown lost
NonceBound     queued launching running paused stopping succeeded failed timed_out killed launch_failed unreachable skipped unknown lost
Begun          - - - - - - - - - - - - - -
SkippedDue     - - - - - - - - - - - - - -
TokenDropped   - - - - - - - - - - - - - -
Audited        - - - - - - - - - - - - - -
Watermark      - - - - - - - - - - - - - -
`

var samples = []Event{
	Begun{}, SkippedDue{}, Launched{}, Identified{}, Started{}, PausedAt{}, ResumedAt{}, KillAsked{}, KillSettled{}, KillWithdrawn{},
	Ended{State: Failed}, Amended{ExitCode: wire.Ptr(0)}, LostAt{}, FoundAt{}, LeftoverNow{}, NoteAdded{}, TokenAdded{}, TokenDropped{},
	NonceBound{}, Audited{}, Watermark{},
}

func TestNextIsTheTable(t *testing.T) {
	lines := strings.Split(strings.TrimSpace(expected), "\n")
	states := strings.Fields(lines[0])[1:]
	if len(states) != len(givenStates) {
		t.Fatalf("the table has %d states, the book %d", len(states), len(givenStates))
	}
	rows := map[string][]string{}
	for _, line := range lines[1:] {
		f := strings.Fields(line)
		rows[f[0]] = f[1:]
	}
	if len(rows) != len(samples) {
		t.Fatalf("%d events in the table, %d samples", len(rows), len(samples))
	}
	for _, e := range samples {
		row := rows[kindOf(e)]
		if len(row) != len(states) {
			t.Fatalf("%s: %d states", kindOf(e), len(row))
		}
		for i, s := range states {
			got, err := next(State(s), e)
			switch {
			case row[i] == "-":
				if !errors.Is(err, ErrUnlawful) || got != State(s) {
					t.Errorf("%s in %s: %s, %v; want it refused", kindOf(e), s, got, err)
				}
			case err != nil || got != State(row[i]):
				t.Errorf("%s in %s: %s, %v; want %s", kindOf(e), s, got, err, row[i])
			}
		}
		if _, err := next("made-up", e); !errors.Is(err, ErrUnlawful) {
			t.Errorf("%s in a state that does not exist: %v", kindOf(e), err)
		}
	}
}

func TestEndedMustNameAnEnd(t *testing.T) {
	for _, to := range givenStates {
		got, err := next(Running, Ended{State: to})
		if to.Done() && to != Lost {
			if err != nil || got != to {
				t.Errorf("%s: %s, %v", to, got, err)
			}
		} else if !errors.Is(err, ErrUnlawful) {
			t.Errorf("ended as %s: %v", to, err)
		}
	}
	if _, err := next(Running, Ended{State: "made-up"}); !errors.Is(err, ErrUnlawful) {
		t.Error(err)
	}
	if _, err := next(Running, &Ended{State: Failed}); !errors.Is(err, ErrUnlawful) {
		t.Errorf("a pointer is no event: %v", err)
	}
}

func TestUnknownBecomesWhatItsCodeSays(t *testing.T) {
	for _, c := range []struct {
		e    Amended
		want State
	}{
		{Amended{}, Unknown},
		{Amended{ExitCode: wire.Ptr(0)}, Succeeded},
		{Amended{ExitCode: wire.Ptr(3)}, Failed},
		{Amended{ExitCode: wire.Ptr(0), End: wire.End{RealSignal: 9}}, Failed},
		{Amended{ExitCode: wire.Ptr(143), End: wire.End{Cause: wire.CauseKill}}, Killed},
		{Amended{ExitCode: wire.Ptr(124), End: wire.End{Cause: wire.CauseTimeout}}, TimedOut},
		{Amended{ExitCode: wire.Ptr(255), End: wire.End{Cause: wire.CauseLaunch}}, LaunchFailed},
	} {
		if got, err := next(Unknown, c.e); err != nil || got != c.want {
			t.Errorf("%+v: %s, %v", c.e, got, err)
		}
	}
}

func TestDiagramHasEveryStateAndChange(t *testing.T) {
	d := Diagram()
	for _, s := range givenStates {
		if !strings.Contains(d, string(s)) {
			t.Errorf("no %s in the diagram", s)
		}
	}
	for _, want := range []string{"stateDiagram-v2", "running --> paused: PausedAt", "lost --> done: Ended", "queued --> killed: KillAsked", "stopping --> running: KillWithdrawn"} {
		if !strings.Contains(d, want) {
			t.Errorf("no %q in\n%s", want, d)
		}
	}
	if strings.ContainsAny(strings.ReplaceAll(d, "[*]", ""), "=*?") {
		t.Errorf("a rule's own sign in the diagram:\n%s", d)
	}
}

// walk applies events to a task one after the other.
func walk(t *testing.T, task Task, events ...Event) Task {
	t.Helper()
	for _, e := range events {
		var err error
		if task, err = change(task, e); err != nil {
			t.Fatalf("%T: %v", e, err)
		}
	}
	return task
}

func at(seconds int) time.Time { return noon.Add(time.Duration(seconds) * time.Second) }

func person(sec int) KillAsked {
	return KillAsked{Kill: Kill{ID: "k1", Asked: at(sec), By: "alice", Cause: wire.CauseKill, Signal: "TERM"}}
}

var running = []Event{Launched{At: at(1)}, Started{At: at(2), PID: 7}}

func TestKillDecidesTheEnd(t *testing.T) {
	ends := func(e Event, more ...Event) []Event { return append(append(running[:2:2], more...), e) }
	exit0 := func(sec int) Ended {
		return Ended{At: at(sec), State: Succeeded, ExitCode: 0, End: wire.End{Cause: wire.CauseExit}}
	}
	timeout := KillAsked{Kill: Kill{ID: "k2", Asked: at(5), Cause: wire.CauseTimeout}}
	for _, c := range []struct {
		name   string
		events []Event
		state  State
		code   int
		cause  string
		real   *int
	}{
		{"no kill", ends(exit0(9)), Succeeded, 0, wire.CauseExit, nil},
		{"stands", ends(exit0(9), person(5)), Killed, 143, wire.CauseKill, wire.Ptr(0)},
		{"stands, job died before by our clock", ends(exit0(4), person(5)), Killed, 143, wire.CauseKill, wire.Ptr(0)},
		{"stands, but it had ended before for certain", ends(Ended{At: at(4), State: Succeeded, End: wire.End{Cause: wire.CauseExit}, Before: true}, person(5)), Succeeded, 0, wire.CauseExit, nil},
		{"timeout stands", ends(exit0(9), timeout), TimedOut, 124, wire.CauseTimeout, wire.Ptr(0)},
		{"timeout first, then a person", ends(exit0(9), timeout, person(6)), TimedOut, 124, wire.CauseTimeout, wire.Ptr(0)},
		{"settled before the end is told", ends(exit0(9), person(5), KillSettled{At: at(8), Final: true}), Killed, 143, wire.CauseKill, wire.Ptr(0)},
		{"settled, but the job had ended before it was asked", ends(exit0(4), person(5), KillSettled{At: at(8), Final: true}), Succeeded, 0, wire.CauseExit, nil},
		{"withdrawn, died after", ends(exit0(9), person(5), KillWithdrawn{At: at(7)}), Succeeded, 0, wire.CauseExit, nil},
		{"withdrawn, but died while it stood", ends(exit0(6), person(5), KillWithdrawn{At: at(7)}), Killed, 143, wire.CauseKill, wire.Ptr(0)},
		{"real signal kept", ends(Ended{At: at(9), State: Failed, ExitCode: 143, End: wire.End{RealSignal: 15}}, person(5)), Killed, 143, wire.CauseKill, nil},
		{"real code kept", ends(Ended{At: at(9), State: Failed, ExitCode: 143, End: wire.End{RealCode: wire.Ptr(3)}}, person(5)), Killed, 143, wire.CauseKill, wire.Ptr(3)},
		{"code unknown is no real code", ends(Ended{At: at(9), State: Unknown, ExitCode: 253, End: wire.End{Cause: wire.CauseLost}}, person(5)), Killed, 143, wire.CauseKill, nil},
		{"launch failed while a kill stands", []Event{Launched{At: at(1)}, person(5), Ended{At: at(6), State: LaunchFailed, ExitCode: 255, End: wire.End{Cause: wire.CauseLaunch}}}, Killed, 143, wire.CauseNever, nil},
		{"lost with a kill", ends(exit0(9), person(5), LostAt{At: at(8)}), Killed, 143, wire.CauseKill, wire.Ptr(0)},
	} {
		got := walk(t, Task{State: Queued}, c.events...)
		real := got.End.RealCode
		if got.State != c.state || *got.ExitCode != c.code || got.End.Cause != c.cause || (real == nil) != (c.real == nil) || real != nil && *real != *c.real {
			t.Errorf("%s: %s, code %d, end %+v (real %v)", c.name, got.State, *got.ExitCode, got.End, real)
		}
	}
}

func TestKillOfAQueuedTask(t *testing.T) {
	got := walk(t, Task{State: Queued}, person(5))
	if got.State != Killed || *got.ExitCode != 143 || got.Reason != "never started" || got.End.Cause != wire.CauseNever || !got.Ended.Equal(at(5)) {
		t.Errorf("%+v", got)
	}
	if got.Kill.Standing() || got.unfinished() {
		t.Error("a task that never started has a kill to carry out")
	}
	if _, err := change(got, Launched{At: at(6)}); !errors.Is(err, ErrUnlawful) {
		t.Errorf("launched after its kill: %v", err)
	}
}

func TestKillStands(t *testing.T) {
	task := walk(t, Task{State: Queued}, Launched{At: at(1)}, person(5))
	if task.State != Stopping {
		t.Fatal(task.State)
	}
	before := task.Kill
	grace := 0.5
	task = walk(t, task, KillAsked{Kill: Kill{ID: "k9", Asked: at(6), By: "bob", Cause: wire.CauseTimeout, Signal: "KILL", Grace: &grace}})
	if k := task.Kill; k.ID != "k1" || k.By != "alice" || !k.Asked.Equal(at(5)) || k.Cause != wire.CauseKill || k.Signal != "KILL" || *k.Grace != 0.5 {
		t.Errorf("a second kill made it %+v", k)
	}
	if before.Signal != "TERM" {
		t.Error("a reader's copy was written to")
	}
	withdrawn := walk(t, task, KillWithdrawn{At: at(7)})
	if withdrawn.State != Launching {
		t.Errorf("withdrawn before its start: %s", withdrawn.State)
	}
	task = walk(t, task, Started{At: at(7)})
	if task.State != Stopping || !task.Started.Equal(at(7)) {
		t.Errorf("started while it is killed: %+v", task)
	}
	if got := walk(t, task, KillWithdrawn{At: at(8)}); got.State != Running || got.Kill.Standing() {
		t.Errorf("withdrawn: %s %+v", got.State, got.Kill)
	}
	if _, err := change(walk(t, task, KillWithdrawn{At: at(8)}), KillWithdrawn{At: at(9)}); !errors.Is(err, ErrUnlawful) {
		t.Errorf("withdrawn twice: %v", err)
	}
	lost := walk(t, task, LostAt{At: at(8), Reason: "silent"})
	if lost.State != Lost || *lost.ExitCode != 253 || !lost.Ended.IsZero() || !lost.unfinished() {
		t.Errorf("lost: %+v", lost)
	}
	for _, e := range []Event{FoundAt{At: at(9)}, Started{At: at(9)}} {
		if got := walk(t, lost, e); got.State != Stopping || got.ExitCode != nil || got.Reason != "" {
			t.Errorf("%T: %s %v %q: its kill still stands", e, got.State, got.ExitCode, got.Reason)
		}
	}
	// Not the last word, then the last.
	task = walk(t, task, KillSettled{At: at(8), Receipt: []byte(`{"outcome":"alive"}`)})
	if !task.Kill.Standing() || string(task.Kill.Receipt) != `{"outcome":"alive"}` {
		t.Errorf("%+v", task.Kill)
	}
	task = walk(t, task, KillSettled{At: at(9), Receipt: []byte(`no json`), Final: true}, KillSettled{At: at(10), Final: true})
	if task.Kill.Standing() || !task.Kill.Settled.Equal(at(9)) {
		t.Errorf("%+v", task.Kill)
	}
}

func TestKillOfLeftovers(t *testing.T) {
	task := walk(t, Task{State: Queued}, append(running[:2:2], Ended{At: at(9), State: Failed, ExitCode: 3, End: wire.End{Cause: wire.CauseExit, Leftover: 2}})...)
	if task.Leftover != 2 || !task.unfinished() {
		t.Fatalf("%+v", task)
	}
	task = walk(t, task, person(20), LeftoverNow{Count: 0}, KillSettled{At: at(21), Final: true})
	if task.State != Failed || *task.ExitCode != 3 || task.unfinished() {
		t.Errorf("%+v", task)
	}
}

func TestAmendOnce(t *testing.T) {
	killed := walk(t, Task{State: Queued}, append(running[:2:2], person(5), Ended{At: at(6), State: Unknown, ExitCode: 253, End: wire.End{Proof: wire.ProofScan}})...)
	got := walk(t, killed, Amended{ExitCode: wire.Ptr(0), End: wire.End{Cause: wire.CauseExit, Proof: wire.ProofECHILD, ElapsedMS: 12}})
	if got.State != Killed || *got.ExitCode != 143 || got.End.Cause != wire.CauseKill || *got.End.RealCode != 0 || got.End.Proof != wire.ProofECHILD || got.End.ElapsedMS != 12 || !got.Amended {
		t.Errorf("%+v %+v", got, got.End)
	}
	if killed.End.Proof != wire.ProofScan {
		t.Error("a reader's copy was written to")
	}
	if _, err := change(got, Amended{}); !errors.Is(err, ErrUnlawful) {
		t.Errorf("amended twice: %v", err)
	}
	unknown := walk(t, Task{State: Queued}, append(running[:2:2], Ended{At: at(6), State: Unknown, ExitCode: 253, End: wire.End{Cause: wire.CauseLost}})...)
	if got := walk(t, unknown, Amended{ExitCode: wire.Ptr(5), End: wire.End{Cause: wire.CauseExit}}); got.State != Failed || *got.ExitCode != 5 || got.End.Cause != wire.CauseExit {
		t.Errorf("%+v", got)
	}
	if got := walk(t, unknown, Amended{End: wire.End{Proof: wire.ProofRebooted}}); got.State != Unknown || *got.ExitCode != 253 || got.End.Proof != wire.ProofRebooted {
		t.Errorf("%+v", got)
	}
}
