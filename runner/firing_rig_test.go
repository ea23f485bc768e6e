package runner

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	"saltpeter/config"
	"saltpeter/runner/launch"
	"saltpeter/runner/ledger"
	"saltpeter/testdata/lab"
	"saltpeter/wsx/wire"
)

// fleet is a transport whose machines the test plays: what they are asked to
// start is written down, and play says what comes of it.
type fleet struct {
	play func(o wire.Order) launch.StartResult

	mu     sync.Mutex
	starts []began
	gates  map[string]chan struct{}
	dead   map[string]bool // runs that kill.sh finds gone
}

type began struct {
	run, machine string
	at           time.Time
}

var errPlayed = errors.New("played")

// ends is a start that is the task's end at once, stays one that lives for ever.
func ends(wire.Order) launch.StartResult {
	return launch.StartResult{Certainty: launch.CertainlyNot, Err: errPlayed}
}

func stays(wire.Order) launch.StartResult { return launch.StartResult{Certainty: launch.Started} }

func newFleet(play func(wire.Order) launch.StartResult) *fleet {
	return &fleet{play: play, gates: map[string]chan struct{}{}, dead: map[string]bool{}}
}

func (f *fleet) Start(_ context.Context, m launch.Machine, order []byte) launch.StartResult {
	var o wire.Order
	if err := json.Unmarshal(order, &o); err != nil {
		return launch.StartResult{Certainty: launch.CertainlyNot, Err: err}
	}
	f.mu.Lock()
	f.starts = append(f.starts, began{o.Run, m.Name, time.Now()})
	f.mu.Unlock()
	return f.play(o)
}

// gate is what a machine's task waits at until open is called.
func (f *fleet) gate(machine string) chan struct{} {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.gates[machine] == nil {
		f.gates[machine] = make(chan struct{})
	}
	return f.gates[machine]
}

// gated makes every task wait at its machine's gate, and end behind it.
func (f *fleet) gated(o wire.Order) launch.StartResult {
	<-f.gate(o.Machine)
	return ends(o)
}

func (f *fleet) open(machine string) { close(f.gate(machine)) }

func (f *fleet) Script(_ context.Context, _ launch.Machine, q launch.ScriptRequest) (launch.ScriptResult, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if q.Op == launch.OpKill || f.dead[q.Run] {
		f.dead[q.Run] = true
		return launch.ScriptResult{Outcome: wire.OutcomeGone, Proof: wire.ProofScan}, nil
	}
	return launch.ScriptResult{}, fmt.Errorf("cannot ask: %w", launch.ErrUnreachable)
}

func (f *fleet) Fetch(context.Context, launch.Machine, string, int64, int64) ([]byte, error) {
	return nil, errors.New("no such file")
}

func (f *fleet) Close() error { return nil }

func (f *fleet) began() []began {
	f.mu.Lock()
	defer f.mu.Unlock()
	return slices.Clone(f.starts)
}

// machines is where a run was started, in order.
func (f *fleet) machines(run string) (names []string) {
	for _, s := range f.began() {
		if s.run == run {
			names = append(names, s.machine)
		}
	}
	return names
}

// house is a whole Runner on a real ledger, with a fleet instead of machines. It
// can be stopped and started again.
type house struct {
	t      testing.TB
	dir    string
	fleet  *fleet
	set    *config.Set
	pace   pace
	roads  map[string]launch.Transport
	url    string // what wrappers dial
	logs   *lab.Buffer
	before func(*Runner) // called before Run

	book   *ledger.Ledger
	runner *Runner
	cancel context.CancelFunc
	done   chan struct{}
}

func newHouse(t testing.TB, set *config.Set, f *fleet, change ...func(*house)) *house {
	t.Helper()
	h := &house{t: t, dir: t.TempDir(), fleet: f, set: set, pace: defaultPace, logs: &lab.Buffer{}, url: "ws://127.0.0.1:1"}
	h.pace.person = 2 * time.Second
	h.roads = map[string]launch.Transport{"local": f}
	for _, c := range change {
		c(h)
	}
	h.openBook()
	t.Cleanup(func() {
		h.stop()
		if t.Failed() {
			log := h.logs.String()
			t.Logf("log (its end):\n%s", log[max(0, len(log)-20_000):])
		}
	})
	return h
}

// openBook opens the ledger alone, so that the test can write what an earlier
// server left.
func (h *house) openBook() {
	h.t.Helper()
	book, err := ledger.Open(context.Background(), ledger.Options{Dir: filepath.Join(h.dir, "state")})
	if err != nil {
		h.t.Fatal(err)
	}
	h.book = book
}

func (h *house) start() *house {
	h.t.Helper()
	if h.book == nil {
		h.openBook()
	}
	h.runner = New(Options{
		Ledger: h.book, Transports: h.roads, Config: h.set, MachinesURL: func(launch.Machine) string { return h.url },
		Log: slog.New(slog.NewTextHandler(h.logs, nil)),
	})
	h.runner.tasks.pace = h.pace
	if h.before != nil {
		h.before(h.runner)
	}
	ctx, cancel := context.WithCancel(context.Background())
	h.cancel, h.done = cancel, make(chan struct{})
	go func() {
		defer close(h.done)
		if err := h.runner.Run(ctx); err != nil && ctx.Err() == nil {
			h.t.Errorf("run: %v", err)
		}
	}()
	f := h.runner.firing
	h.await("it runs", func() bool {
		f.configuring.Lock()
		defer f.configuring.Unlock()
		return f.running // after it has written down from when it counts
	})
	return h
}

// stop is the orderly end; starts that wait at a gate must have been let through.
func (h *house) stop() {
	if h.cancel != nil {
		h.cancel()
		<-h.done
		h.cancel = nil
	}
	if h.book != nil {
		if err := h.book.Close(); err != nil {
			h.t.Errorf("close: %v", err)
		}
		h.book = nil
	}
}

func (h *house) apply(events ...ledger.Event) {
	h.t.Helper()
	if _, err := h.book.Apply(context.Background(), events...); err != nil {
		h.t.Fatal(err)
	}
}

func (h *house) await(what string, is func() bool) {
	h.t.Helper()
	limit := time.Now().Add(testWait)
	for !is() {
		if time.Now().After(limit) {
			h.t.Fatalf("never came: %s", what)
		}
		time.Sleep(10 * time.Millisecond)
	}
}

// runs are all runs of a job, oldest first.
func (h *house) runs(job string) []ledger.Run {
	h.t.Helper()
	var all []ledger.Run
	for cursor := ""; ; {
		page, err := h.book.Runs(context.Background(), ledger.RunFilter{Job: job, Limit: 1000, Cursor: cursor})
		if err != nil {
			h.t.Fatal(err)
		}
		all = append(all, page.Runs...)
		if cursor = page.Next; cursor == "" {
			slices.Reverse(all)
			return all
		}
	}
}

// skips are all ranges of a job, oldest first.
func (h *house) skips(job string) []ledger.Skip {
	h.t.Helper()
	all, err := h.book.Skips(context.Background(), job, time.Time{}, time.Time{}, 1_000_000)
	if err != nil {
		h.t.Fatal(err)
	}
	slices.Reverse(all)
	return all
}

func (h *house) task(run, machine string) ledger.Task {
	h.t.Helper()
	t, err := h.book.Task(context.Background(), ledger.TaskID{Run: run, Machine: machine})
	if err != nil {
		h.t.Fatal(err)
	}
	return *t
}

// begin starts a job by hand.
func (h *house) begin(q StartRequest) *ledger.Run {
	h.t.Helper()
	run, err := h.runner.Start(context.Background(), person, q)
	if err != nil {
		h.t.Fatal(err)
	}
	return run
}

// refused is the Refusal of a start by hand.
func (h *house) refused(q StartRequest) *Refusal {
	h.t.Helper()
	run, err := h.runner.Start(context.Background(), person, q)
	var r *Refusal
	if !errors.As(err, &r) {
		h.t.Fatalf("%+v: started %v, error %v", q, run, err)
	}
	return r
}

// onceEach checks that every due time of a job in (from, until] has exactly one
// record, and that none has one outside.
func (h *house) onceEach(job *config.Job, from, until time.Time) {
	h.t.Helper()
	if from.IsZero() {
		h.t.Fatal("from when?")
	}
	records := map[int64][]string{}
	for _, r := range h.runs(job.Name) {
		if r.Trigger == ledger.TriggerSchedule || r.Trigger == ledger.TriggerCatchUp {
			records[r.Due.Unix()] = append(records[r.Due.Unix()], r.ID)
		}
	}
	for _, s := range h.skips(job.Name) {
		in := walk(job.Schedule, s.From.Add(-time.Second), s.To)
		if int64(len(in)) != s.Count {
			h.t.Errorf("%s: the range from %s to %s (%s) says %d due times and spans %d", job.Name, s.From, s.To, s.Reason, s.Count, len(in))
		}
		for _, due := range in {
			records[due.Unix()] = append(records[due.Unix()], "skipped: "+s.Reason)
		}
	}
	wrong := 0
	for _, due := range walk(job.Schedule, from, until) {
		if of := records[due.Unix()]; len(of) != 1 {
			if wrong++; wrong < 10 {
				h.t.Errorf("%s: %s has the records %v", job.Name, due, of)
			}
		}
		delete(records, due.Unix())
	}
	for due, of := range records {
		if d := time.Unix(due, 0); d.Before(from) {
			h.t.Errorf("%s: a record %v of %s, before it all", job.Name, of, d)
		}
	}
}

// bounds are the first and the last due time that have a record.
func (h *house) bounds(job string) (first, last time.Time) {
	look := func(t time.Time) {
		if first.IsZero() || t.Before(first) {
			first = t
		}
		if t.After(last) {
			last = t
		}
	}
	for _, r := range h.runs(job) {
		if r.Trigger == ledger.TriggerSchedule || r.Trigger == ledger.TriggerCatchUp {
			look(r.Due)
		}
	}
	for _, s := range h.skips(job) {
		look(s.From)
		look(s.To)
	}
	return first, last
}
