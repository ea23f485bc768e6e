package runner

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"saltpeter/runner/launch"
	"saltpeter/runner/ledger"
	"saltpeter/wsx"
	"saltpeter/wsx/wire"
)

// fakeRoad is a transport whose machine the test plays.
type fakeRoad struct {
	mu      sync.Mutex
	orders  map[string]wire.Order // by run
	starts  int
	asks    []launch.ScriptRequest
	onAsk   func(launch.ScriptRequest) (launch.ScriptResult, error)
	onFetch func(path string, offset, most int64) ([]byte, error)
	onCall  func(context.Context, launch.Machine) error // before either: the network
	onGo    func(wire.Order) launch.StartResult
}

func newFakeRoad() *fakeRoad { return &fakeRoad{orders: map[string]wire.Order{}} }

// call plays the network on the way to a machine.
func (f *fakeRoad) call(ctx context.Context, m launch.Machine) error {
	f.mu.Lock()
	on := f.onCall
	f.mu.Unlock()
	if on == nil {
		return nil
	}
	return on(ctx, m)
}

func (f *fakeRoad) Start(ctx context.Context, m launch.Machine, order []byte) launch.StartResult {
	if err := f.call(ctx, m); err != nil {
		return launch.StartResult{Certainty: launch.CertainlyNot, Err: err}
	}
	var o wire.Order
	if err := json.Unmarshal(order, &o); err != nil {
		return launch.StartResult{Certainty: launch.CertainlyNot, Err: err}
	}
	f.mu.Lock()
	f.orders[o.Run] = o
	f.starts++
	on := f.onGo
	f.mu.Unlock()
	if on != nil {
		return on(o)
	}
	return launch.StartResult{Certainty: launch.Started}
}

func (f *fakeRoad) Script(ctx context.Context, m launch.Machine, q launch.ScriptRequest) (launch.ScriptResult, error) {
	if err := f.call(ctx, m); err != nil {
		return launch.ScriptResult{}, err
	}
	f.mu.Lock()
	f.asks = append(f.asks, q)
	on := f.onAsk
	f.mu.Unlock()
	if on != nil {
		return on(q)
	}
	return launch.ScriptResult{}, fmt.Errorf("cannot ask: %w", launch.ErrUnreachable)
}

func (f *fakeRoad) Fetch(_ context.Context, _ launch.Machine, path string, offset, most int64) ([]byte, error) {
	f.mu.Lock()
	on := f.onFetch
	f.mu.Unlock()
	if on != nil {
		return on(path, offset, most)
	}
	return nil, errors.New("no such file")
}

func (f *fakeRoad) Close() error { return nil }

func (f *fakeRoad) answer(on func(launch.ScriptRequest) (launch.ScriptResult, error)) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.onAsk = on
}

func (f *fakeRoad) asked(op launch.Op) int {
	f.mu.Lock()
	defer f.mu.Unlock()
	n := 0
	for _, q := range f.asks {
		if q.Op == op {
			n++
		}
	}
	return n
}

func (f *fakeRoad) started() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.starts
}

// newFakeRig is a rig whose machines the test plays, frame by frame.
func newFakeRig(t *testing.T, change ...func(*rig)) (*rig, *fakeRoad) {
	f := newFakeRoad()
	return newRig(t, append([]func(*rig){func(r *rig) { r.roads["fake"] = f }}, change...)...), f
}

// peer is a wrapper that the test plays.
type peer struct {
	t      *testing.T
	conn   *wsx.Conn
	order  wire.Order
	frames chan *wire.Message
}

// launched starts a task on the fake road and returns its order.
func (r *rig) launched(f *fakeRoad, s taskSpec) wire.Order {
	r.t.Helper()
	r.launch(s)
	r.await("its start", func() bool { f.mu.Lock(); defer f.mu.Unlock(); return f.orders[s.Task.Run].Run != "" })
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.orders[s.Task.Run]
}

// dial connects a peer by the order's URL.
func (r *rig) dial(o wire.Order) *peer {
	r.t.Helper()
	c, err := wsx.Dial(r.t.Context(), wsx.DialOptions{URL: o.URL, Timeout: testWait})
	if err != nil {
		r.t.Fatal(err)
	}
	p := &peer{t: r.t, conn: c, order: o, frames: make(chan *wire.Message, 1024)}
	done := make(chan struct{})
	go func() {
		defer close(done)
		defer close(p.frames)
		for {
			kind, data, err := c.Read()
			if err != nil {
				return
			}
			if kind != wsx.Text {
				continue
			}
			if m, err := wire.Decode(data); err == nil {
				p.frames <- m
			}
		}
	}()
	r.t.Cleanup(func() { c.Close("test over"); <-done })
	return p
}

func (p *peer) say(m wire.Message) {
	p.t.Helper()
	m.JobName, m.JobInstance, m.Machine = p.order.Job, p.order.Run, p.order.Machine
	if m.Timestamp == "" {
		m.Timestamp = wire.FormatTime(time.Now())
	}
	p.raw(m)
}

func (p *peer) raw(m wire.Message) {
	p.t.Helper()
	if err := p.conn.Send(&m); err != nil {
		p.t.Fatal(err)
	}
}

func (p *peer) bytes(offset int64, text string) {
	p.t.Helper()
	if err := p.conn.Write(wsx.Binary, wire.AppendOutput(nil, offset, wire.Stdout, []byte(text))); err != nil {
		p.t.Fatal(err)
	}
}

// hear returns the next frame of a type (and ack type), skipping others.
func (p *peer) hear(kind, ack string) *wire.Message {
	p.t.Helper()
	limit := time.NewTimer(testWait)
	defer limit.Stop()
	for {
		select {
		case m, open := <-p.frames:
			if !open {
				p.t.Fatalf("closed while waiting for %s %s", kind, ack)
			}
			if m.Type == kind && m.AckType == ack {
				return m
			}
		case <-limit.C:
			p.t.Fatalf("no %s %s came", kind, ack)
		}
	}
}

// closed waits for the server to close the connection.
func (p *peer) closed() {
	p.t.Helper()
	limit := time.NewTimer(testWait)
	defer limit.Stop()
	for {
		select {
		case _, open := <-p.frames:
			if !open {
				return
			}
		case <-limit.C:
			p.t.Fatal("the connection stays open")
		}
	}
}

func identityOf(o wire.Order) *wire.Identity {
	return &wire.Identity{BootID: "b", PID: 4711, StartTicks: 1, Task: o.Task, WrapperPID: 4710, WrapperStartTicks: 1}
}

// connect introduces a wrapper of our generation.
func (p *peer) connect() *wire.Message {
	p.t.Helper()
	p.say(wire.Message{Type: wire.TypeConnect, Features: wire.Features(), Version: "1", Identity: identityOf(p.order)})
	return p.hear(wire.TypeAck, wire.TypeConnect)
}

func (p *peer) start() {
	p.t.Helper()
	p.say(wire.Message{Type: wire.TypeStart, PID: 4711, Identity: identityOf(p.order)})
	p.hear(wire.TypeAck, wire.TypeStart)
}

func (p *peer) end(code int, e wire.End) {
	p.t.Helper()
	p.say(wire.Message{Type: wire.TypeComplete, RetCode: &code, End: &e})
}

// running is a task of our generation that runs, and its wrapper.
func (r *rig) running(f *fakeRoad) (ledger.TaskID, *peer) {
	r.t.Helper()
	s := r.spec("fake", "true")
	p := r.dial(r.launched(f, s))
	p.connect()
	p.start()
	return s.Task.TaskID, p
}
