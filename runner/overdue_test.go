package runner

import (
	"testing"
	"time"

	"saltpeter/runner/ledger"
	"saltpeter/wsx/wire"
)

// A task whose timeout, grace and hard limit have passed is overdue, and a kill
// that chooses by that hits it alone.
func TestKillOverdue(t *testing.T) {
	r, f := newFakeRig(t, func(r *rig) { r.pace.margin = time.Hour }) // the server itself ends nothing here
	up := func(started time.Time) (ledger.TaskID, *peer) {
		s := r.spec("fake", "true")
		s.Order.Timeout = 60
		p := r.dial(r.launched(f, s))
		p.connect()
		p.say(wire.Message{Type: wire.TypeStart, PID: 4711, Identity: identityOf(p.order), Timestamp: wire.FormatTime(started)})
		p.hear(wire.TypeAck, wire.TypeStart)
		return s.Task.TaskID, p
	}
	late, latePeer := up(time.Now().Add(-2 * time.Minute))
	fresh, _ := up(time.Now())
	overdue := map[ledger.TaskID]bool{}
	for _, s := range r.tasks.status(time.Now()) {
		overdue[s.TaskID] = s.Overdue
	}
	if !overdue[late] || overdue[fresh] {
		t.Errorf("overdue: %v", overdue)
	}
	got := make(chan []Receipt, 1)
	go func() { got <- r.kill(Selector{All: true, States: []string{"overdue"}}, KillOptions{}) }()
	latePeer.hear(wire.TypeKill, "")
	latePeer.endKilled()
	if receipts := <-got; len(receipts) != 1 || receipts[0].Run != late.Run || receipts[0].Outcome != wire.OutcomeGone {
		t.Errorf("receipts %+v", receipts)
	}
	if state := r.task(fresh).State; state != ledger.Running {
		t.Errorf("the other one is %s", state)
	}
	if _, err := r.tryKill(Selector{All: true, States: []string{"overdue"}}, KillOptions{}); !isRefusal(err, CodeNothingRunning) {
		t.Errorf("a second kill: %v", err)
	}
}
