package runner

import (
	"context"
	"fmt"
	"sync"
	"time"

	"saltpeter/runner/launch"
	"saltpeter/runner/ledger"
	"saltpeter/wsx/wire"
)

// Answer is what came of a pause, resume or signal for one task.
type Answer struct {
	Run     string `json:"run"`
	Machine string `json:"machine"`
	OK      bool   `json:"ok"`
	Via     string `json:"via,omitempty"`
	Error   string `json:"error,omitempty"`
}

// request is one pause, resume or signal.
type request struct {
	op     string // pause, resume, signal
	signal string
	scope  string
	ttl    time.Duration
}

// feature is what a wrapper must have to be asked over the connection.
func (q request) feature() string {
	if q.op == "signal" {
		return wire.FeatureSignal
	}
	return wire.FeaturePause
}

// pause freezes tasks, at most for ttl (0: until resumed).
func (ts *tasks) pause(ctx context.Context, a Actor, s selection, ttl time.Duration) (<-chan Answer, error) {
	if ttl < 0 {
		return nil, &Refusal{Code: "bad_request", Text: "the ttl must not be negative", Hint: "write --ttl 30m"}
	}
	return ts.control(ctx, a, s, request{op: "pause", ttl: ttl}, func(st *TaskStatus) bool {
		return st.State == ledger.Running || st.State == ledger.Paused || st.State == ledger.Lost
	})
}

// resume thaws tasks.
func (ts *tasks) resume(ctx context.Context, a Actor, s selection) (<-chan Answer, error) {
	return ts.control(ctx, a, s, request{op: "resume"}, func(st *TaskStatus) bool {
		return st.State == ledger.Paused || st.State == ledger.Running || st.State == ledger.Lost
	})
}

// signal sends one signal to tasks, to the main process or to all.
func (ts *tasks) signal(ctx context.Context, a Actor, s selection, signal, scope string) (<-chan Answer, error) {
	name, err := signalName(signal)
	if err != nil {
		return nil, err
	}
	if scope != "" && scope != "main" && scope != "all" {
		return nil, &Refusal{Code: "bad_request", Text: fmt.Sprintf("there is no scope %q", scope), Hint: "use main or all"}
	}
	return ts.control(ctx, a, s, request{op: "signal", signal: name, scope: scope}, func(st *TaskStatus) bool {
		return (!over(st.State) || st.Leftover > 0) && st.State != ledger.Queued
	})
}

// control asks every selected task at once. The answers come as they are given.
func (ts *tasks) control(ctx context.Context, a Actor, s selection, q request, want func(*TaskStatus) bool) (<-chan Answer, error) {
	chosen := ts.choose(s, want)
	if len(chosen) == 0 {
		return nil, s.nothing(false)
	}
	answers := make(chan Answer, len(chosen))
	var wg sync.WaitGroup
	for _, t := range chosen {
		wg.Go(func() { answers <- t.control(ctx, a, q) })
	}
	go func() { // ends with the last of the above, which ctx and the roads' own limits bound
		wg.Wait()
		close(answers)
	}()
	return answers, nil
}

// control asks one task, over the connection if its wrapper understands and
// answers, else over the other road.
func (t *task) control(ctx context.Context, a Actor, q request) Answer {
	ans := Answer{Run: t.id.Run, Machine: t.id.Machine}
	if err := t.askOverLink(ctx, q, &ans); err != nil {
		t.askOverRoad(ctx, q, &ans)
	}
	outcome := "done via " + ans.Via
	if !ans.OK {
		outcome = "failed: " + ans.Error
	}
	what := q.op
	if q.signal != "" {
		what += " " + q.signal
	}
	if q.ttl > 0 {
		what += " for " + q.ttl.String()
	}
	t.lock()
	defer t.unlock()
	if err := t.apply(audited(a, what, t.id, outcome)); err != nil {
		t.log().Error("cannot record what was asked", "what", what, "err", err)
	}
	return ans
}

// askOverLink fails where the connection gives no answer.
func (t *task) askOverLink(ctx context.Context, q request, ans *Answer) error {
	s := t.link()
	if s == nil || !s.has(q.feature()) || !s.has(wire.FeatureReport) {
		return fmt.Errorf("no connection that takes a %s", q.op)
	}
	id := randomHex(8)
	asked := make(chan wire.Report, 1)
	t.mu.Lock()
	if t.asks == nil {
		t.asks = map[string]chan wire.Report{}
	}
	t.asks[id] = asked
	t.mu.Unlock()
	defer func() {
		t.mu.Lock()
		delete(t.asks, id)
		t.mu.Unlock()
	}()
	m := wire.Message{Type: q.op, ID: id, Signal: q.signal, Scope: q.scope}
	if q.ttl > 0 {
		m.TTL = wire.Ptr(q.ttl.Seconds())
	}
	if err := s.order(m); err != nil {
		return err
	}
	limit := time.NewTimer(t.ts.pace.answer)
	defer limit.Stop()
	select {
	case r := <-asked:
		ans.OK, ans.Error, ans.Via = r.OK, r.Error, roadWebSocket
		if r.OK {
			t.watchPause(q)
		}
		return nil
	case <-limit.C:
		t.mu.Lock()
		if t.session == s {
			t.deaf = s
		}
		t.mu.Unlock()
		t.changed()
		return fmt.Errorf("no answer within %s", t.ts.pace.answer)
	case <-ctx.Done():
		return ctx.Err()
	}
}

// askOverRoad runs kill.sh.
func (t *task) askOverRoad(ctx context.Context, q request, ans *Answer) {
	transport, m := t.road()
	if transport == nil {
		ans.Error = fmt.Sprintf("no connection, and no way to machines by %q", m.Transport)
		return
	}
	rec := t.record()
	if rec.State == ledger.Launching && rec.Identity == nil {
		ans.Error = "it is still being launched"
		return
	}
	limit, cancel := context.WithTimeout(ctx, t.ts.pace.ask)
	defer cancel()
	asked := t.question(launch.Op(q.op))
	asked.Signal, asked.Scope, asked.TTL = q.signal, q.scope, q.ttl
	res, err := transport.Script(limit, m, asked)
	t.ts.tried(ctx, m, err)
	if err != nil {
		ans.Error = err.Error()
		return
	}
	ans.Via = m.Transport
	switch {
	case res.Outcome == wire.OutcomeGone && res.Acted == 0:
		ans.Error = "nothing of it is left"
		return
	case res.Acted == 0:
		ans.Error = "nothing took it: " + pick(res.Reason, res.Outcome)
		return
	}
	ans.OK = true
	t.watchPause(q)
	t.lock()
	defer t.unlock()
	if err := t.applyOrder(q.op); err != nil {
		t.log().Error("cannot record it", "what", q.op, "err", err)
	}
}

// watchPause remembers when a pause must end, should its wrapper not be there to
// end it.
func (t *task) watchPause(q request) {
	t.mu.Lock()
	defer t.mu.Unlock()
	switch {
	case q.op == "pause" && q.ttl > 0:
		t.thawAt = time.Now().Add(q.ttl)
	case q.op == "pause", q.op == "resume":
		t.thawAt = time.Time{}
	}
}

// forget gives up the lost tasks of a run: nobody waits for them any more.
func (ts *tasks) forget(_ context.Context, a Actor, run string) error {
	given := 0
	for _, t := range ts.every() {
		if t.id.Run != run {
			continue
		}
		ok, err := t.giveUp(a)
		if err != nil {
			return err
		}
		if ok {
			given++
		}
	}
	if given == 0 {
		return &Refusal{Code: "nothing_running", Text: fmt.Sprintf("run %q has no lost task", run),
			Hint: fmt.Sprintf("see it with `saltpeter status %s`; what runs is ended with `saltpeter kill`", run)}
	}
	return nil
}

// giveUp ends a lost task, and what cannot be reached of an ended one.
func (t *task) giveUp(a Actor) (bool, error) {
	t.lock()
	defer t.unlock()
	rec := t.record()
	linked := t.link() != nil
	var events []ledger.Event
	switch {
	case linked:
		return false, nil
	case rec.State == ledger.Lost:
		events = append(events, ledger.Ended{Task: t.id, At: time.Now(), State: ledger.Unknown, ExitCode: wire.ExitLost,
			Reason: "given up by " + a.Who, End: wire.End{Cause: wire.CauseLost}})
	case over(rec.State) && (rec.Leftover > 0 || rec.Kill.Standing()):
	default:
		return false, nil
	}
	if rec.Leftover > 0 {
		events = append(events, ledger.LeftoverNow{Task: t.id, Count: 0})
	}
	if rec.Kill.Standing() {
		events = append(events, ledger.KillWithdrawn{Task: t.id, At: time.Now(), By: a.Who})
	}
	events = append(events, audited(a, "forget", t.id, "given up"))
	if err := t.apply(events...); err != nil {
		return false, err
	}
	t.mu.Lock()
	k := t.kill
	var waiters []*waiter
	if k != nil {
		waiters, k.waiters, k.settled = k.waiters, nil, true
	}
	t.checkAt = time.Time{}
	t.mu.Unlock()
	for _, w := range waiters {
		w.receipt <- Receipt{Run: t.id.Run, Machine: t.id.Machine, Outcome: wire.OutcomeUnknown, Error: "given up by " + a.Who}
	}
	if k != nil {
		t.after(k.look)
	}
	t.after(func() { t.ts.forgetIdle(t) })
	return true, nil
}
