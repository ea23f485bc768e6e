package runner

import (
	"context"
	"strings"
	"testing"
	"time"

	"saltpeter/runner/ledger"
	"saltpeter/wsx/wire"
)

func TestSelector(t *testing.T) {
	exists := func(names ...string) func(string) (bool, error) {
		return func(name string) (bool, error) {
			for _, n := range names {
				if n == name {
					return true, nil
				}
			}
			return false, nil
		}
	}
	jobs, runs := exists("backup", "both"), exists("backup_1", "both")
	for _, c := range []struct {
		q    Selector
		code string // of the refusal, "" = none
		job  string
		run  string
	}{
		{Selector{}, "bad_request", "", ""},
		{Selector{All: true}, "", "", ""},
		{Selector{Failed: true}, "", "", ""},
		{Selector{Name: "backup"}, "", "backup", ""},
		{Selector{Name: "backup_1"}, "", "", "backup_1"},
		{Selector{Name: "both"}, "ambiguous", "", ""},
		{Selector{Job: "both"}, "", "both", ""},
		{Selector{Run: "both"}, "", "", "both"},
		{Selector{Name: "nothing"}, "no_such_job", "", ""},
		{Selector{Job: "backup_1"}, "no_such_job", "", ""},
		{Selector{Run: "backup"}, "no_such_run", "", ""},
		{Selector{All: true, States: []string{"happy"}}, "bad_request", "", ""},
		{Selector{All: true, States: []string{"overdue", "lost"}}, "", "", ""},
	} {
		s, err := c.q.resolve(jobs, runs)
		switch {
		case c.code != "" && !isRefusal(err, c.code):
			t.Errorf("%+v: %v, want %s", c.q, err, c.code)
		case c.code == "" && (err != nil || s.Job != c.job || s.Run != c.run):
			t.Errorf("%+v: %+v, %v", c.q, s, err)
		}
	}
}

func TestSelectionMatches(t *testing.T) {
	now := time.Now()
	st := &TaskStatus{Task: ledger.Task{
		TaskID: ledger.TaskID{Run: "r", Machine: "web1"}, Job: "j", State: ledger.Running, Started: now.Add(-time.Hour),
	}, Disconnected: true}
	yes := func(string) (bool, error) { return true, nil }
	for _, c := range []struct {
		q    Selector
		want bool
	}{
		{Selector{Job: "j"}, true},
		{Selector{Job: "k"}, false},
		{Selector{Run: "r", Machine: "web*"}, true},
		{Selector{Run: "r", Machine: "db*"}, false},
		{Selector{All: true, States: []string{"running"}}, true},
		{Selector{All: true, States: []string{"disconnected"}}, true},
		{Selector{All: true, States: []string{"lost", "paused"}}, false},
		{Selector{Failed: true}, true},
		{Selector{All: true, OlderThan: time.Minute}, true},
		{Selector{All: true, OlderThan: 2 * time.Hour}, false},
	} {
		s, err := c.q.resolve(yes, yes)
		if err != nil {
			t.Fatal(err)
		}
		if got := s.matches(st, now); got != c.want {
			t.Errorf("%+v: %v", c.q, got)
		}
	}
}

func TestSignalNames(t *testing.T) {
	for in, want := range map[string]string{"TERM": "TERM", "sigint": "INT", "9": "KILL", " usr1 ": "USR1"} {
		if got, err := signalName(in); err != nil || got != want {
			t.Errorf("%q: %q, %v", in, got, err)
		}
	}
	for _, in := range []string{"", "0", "99", "-9", "TERM; rm", "SIGSIGTERM"} {
		if got, err := signalName(in); !isRefusal(err, "bad_request") {
			t.Errorf("%q: %q, %v", in, got, err)
		}
	}
}

func FuzzSignalName(f *testing.F) {
	f.Add("SIGTERM")
	f.Add("15")
	f.Fuzz(func(t *testing.T, in string) {
		name, err := signalName(in)
		if err == nil && strings.Trim(name, "ABCDEFGHIJKLMNOPQRSTUVWXYZ12") != "" {
			t.Errorf("%q is not a name for a command line", name)
		}
	})
}

func TestJudge(t *testing.T) {
	for _, c := range []struct {
		end   wire.End
		state ledger.State
		code  int
	}{
		{wire.End{Cause: wire.CauseExit, RealCode: wire.Ptr(0)}, ledger.Succeeded, 0},
		{wire.End{Cause: wire.CauseExit, RealCode: wire.Ptr(143)}, ledger.Failed, 143},
		{wire.End{Cause: wire.CauseExit, RealSignal: 11}, ledger.Failed, 139},
		{wire.End{Cause: wire.CauseSignal, RealSignal: 10}, ledger.Failed, 138},
		{wire.End{Cause: wire.CauseKill, RealCode: wire.Ptr(0)}, ledger.Killed, 143},
		{wire.End{Cause: wire.CauseTimeout, RealSignal: 15}, ledger.TimedOut, 124},
		{wire.End{Cause: wire.CauseTerminated, RealSignal: 15}, ledger.Killed, 143},
		{wire.End{Cause: wire.CauseNever}, ledger.Killed, 143},
		{wire.End{Cause: wire.CauseLaunch}, ledger.LaunchFailed, 255},
		{wire.End{Cause: wire.CauseLost}, ledger.Unknown, 253},
		{wire.End{Cause: wire.CauseExit}, ledger.Unknown, 253},
		{wire.End{}, ledger.Unknown, 253},
	} {
		e := ledger.Ended{End: c.end}
		judge(&e)
		if e.State != c.state || e.ExitCode != c.code {
			t.Errorf("%+v: %s %d, want %s %d", c.end, e.State, e.ExitCode, c.state, c.code)
		}
	}
}

// A watcher that does not read is closed by changes, but not by growing output,
// which is merged; and what a task printed is told before its end.
func TestHub(t *testing.T) {
	h := newHub()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	id := ledger.TaskID{Run: "r", Machine: "m"}
	quick, slow, full := h.watch(ctx, 16), h.watch(ctx, 1), h.watch(ctx, 1)
	for i := range 1000 {
		h.output(id, int64(i))
	}
	h.publish(Change{Kind: ChangeTask, Task: &TaskStatus{Task: ledger.Task{TaskID: id}}})
	if c := <-quick; c.Kind != ChangeOutput || c.Length != 999 {
		t.Errorf("first %+v", c)
	}
	if c := <-quick; c.Kind != ChangeTask {
		t.Errorf("then %+v", c)
	}
	if c, open := <-slow; !open || c.Kind != ChangeOutput {
		t.Errorf("slow got %+v, open %v", c, open)
	}
	if _, open := <-slow; open {
		t.Error("a watcher that missed a change goes on")
	}
	<-full
	only := h.watch(ctx, 1)
	h.output(id, 1000)
	h.tell()
	h.output(id, 2000)
	h.tell() // finds the channel full: it is owed
	if c := <-only; c.Length != 1000 {
		t.Errorf("got %+v", c)
	}
	if c := <-only; c.Length != 2000 {
		t.Errorf("got %+v", c)
	}
	cancel()
	for range only {
	}
	h.close()
	if _, open := <-h.watch(t.Context(), 1); open {
		t.Error("a closed hub is watched")
	}
}
