package runner

import (
	"testing"
	"time"

	"saltpeter/runner/ledger"
	"saltpeter/wsx/wire"
)

// Wrappers are let in before the unfinished tasks are taken over: one may bring its
// task's end in between and leave. What was read before that is of the past.
func TestEndedBeforeItWasTakenOver(t *testing.T) {
	r := newRig(t, func(r *rig) { r.roads["local"] = newFakeRoad() })
	s := r.spec("local", "true")
	r.begin(s)
	id := s.Task.TaskID
	if _, err := r.book.Apply(t.Context(), ledger.Launched{Task: id, At: time.Now(), Transport: "local", Cookie: "c", TokenHash: "h"}); err != nil {
		t.Fatal(err)
	}
	unfinished, err := r.book.Unfinished(t.Context())
	if err != nil || len(unfinished) != 1 || unfinished[0].State != ledger.Launching {
		t.Fatalf("%+v %v", unfinished, err)
	}

	task, err := r.tasks.load(t.Context(), id)
	if err != nil {
		t.Fatal(err)
	}
	task.lock()
	err = task.apply(ledger.Ended{Task: id, At: time.Now(), State: ledger.Failed, ExitCode: 3, End: wire.End{Cause: wire.CauseExit}})
	task.unlock()
	if err != nil {
		t.Fatal(err)
	}
	r.tasks.forgetIdle(task)
	if r.tasks.find(id) != nil {
		t.Fatal("it is not forgotten")
	}

	r.tasks.adopt(t.Context(), unfinished, func(ledger.Task) (taskSpec, error) { return s, nil })
	if live := r.tasks.live(s.Task.Job); len(live) != 0 {
		t.Errorf("it has ended, and still holds back its job: %v", live)
	}
	if task := r.tasks.find(id); task != nil {
		t.Errorf("it has ended, and is followed: %+v", task.record())
	}
	if n := r.endings(id); n != 1 {
		t.Errorf("its end was told %d times", n)
	}
}
