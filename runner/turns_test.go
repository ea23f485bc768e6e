package runner

import (
	"testing"
	"time"

	"saltpeter/runner/launch"
	"saltpeter/runner/ledger"
	"saltpeter/wsx/wire"
)

// turnsRig is a rig with one turn for kills on this machine, and running tasks. No
// kill may take the other road: while one waits for its turn, its wrapper owes no
// answer.
func turnsRig(t *testing.T, n int, turn time.Duration) (*rig, []ledger.TaskID, []*peer) {
	f := newFakeRoad()
	f.answer(func(q launch.ScriptRequest) (launch.ScriptResult, error) {
		if q.Op == launch.OpKill {
			t.Errorf("kill.sh was started: %+v", q)
		}
		return launch.ScriptResult{Outcome: wire.OutcomeAlive, WrapperAlive: true, MainAlive: true}, nil
	})
	r := newRig(t, func(r *rig) {
		r.roads["local"] = f
		r.pace.turn = turn
		r.pace.silence = testWait
	})
	r.tasks.turns = make(slots, 1)
	var ids []ledger.TaskID
	var peers []*peer
	for range n {
		s := r.spec("local", "true")
		p := r.dial(r.launched(f, s))
		p.connect()
		p.start()
		ids, peers = append(ids, s.Task.TaskID), append(peers, p)
	}
	return r, ids, peers
}

func (p *peer) endKilled() {
	p.t.Helper()
	p.end(143, wire.End{Cause: wire.CauseKill, RealSignal: 15, Proof: wire.ProofECHILD, Length: wire.Ptr(int64(0))})
}

// Kills on this machine go one after the other: the next is sent when the one
// before has its receipt.
func TestKillsTakeTurns(t *testing.T) {
	r, ids, peers := turnsRig(t, 2, time.Hour)
	r.kill(Selector{Run: ids[0].Run}, KillOptions{NoWait: true})
	peers[0].hear(wire.TypeKill, "")
	peers[0].say(wire.Message{Type: wire.TypeKilled})
	r.kill(Selector{Run: ids[1].Run}, KillOptions{NoWait: true})
	select {
	case m := <-peers[1].frames:
		t.Errorf("the second wrapper heard %q before the first kill was answered", m.Type)
	case <-time.After(100 * time.Millisecond):
	}
	peers[0].endKilled()
	peers[1].hear(wire.TypeKill, "")
	peers[1].endKilled()
	for _, id := range ids {
		r.awaitState(id, ledger.Killed)
	}
}

// A job that takes its grace holds up nobody for long, and one that is withdrawn
// not at all.
func TestKillTurnsEnd(t *testing.T) {
	const turn = 300 * time.Millisecond
	r, ids, peers := turnsRig(t, 2, turn)
	began := time.Now()
	r.kill(Selector{Run: ids[0].Run}, KillOptions{NoWait: true})
	peers[0].hear(wire.TypeKill, "")
	peers[0].say(wire.Message{Type: wire.TypeKilled})
	r.kill(Selector{Run: ids[1].Run}, KillOptions{NoWait: true})
	peers[1].hear(wire.TypeKill, "")
	if waited := time.Since(began); waited < turn {
		t.Errorf("the second was sent after %s: it took no turn", waited)
	}
	for i, p := range peers {
		p.endKilled()
		r.awaitState(ids[i], ledger.Killed)
	}
}

func TestWithdrawnKillGivesItsTurnBack(t *testing.T) {
	r, ids, peers := turnsRig(t, 2, time.Hour)
	r.kill(Selector{Run: ids[0].Run}, KillOptions{NoWait: true})
	peers[0].hear(wire.TypeKill, "")
	r.kill(Selector{Run: ids[1].Run}, KillOptions{NoWait: true})
	r.kill(Selector{Run: ids[0].Run}, KillOptions{Withdraw: true})
	peers[1].hear(wire.TypeKill, "")
	for i, p := range peers {
		p.endKilled()
		r.awaitState(ids[i], ledger.Killed, ledger.Failed, ledger.Unknown)
	}
}
