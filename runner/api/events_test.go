package api

import (
	"bufio"
	"context"
	"encoding/json"
	"io"
	"net"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"saltpeter/runner/ledger"
)

// collected is the events of one stream, as JSON.
type collected struct {
	cancel context.CancelFunc
	done   chan struct{}

	mu  sync.Mutex
	got []string
}

// has reports whether an event of a kind has come.
func (c *collected) has(kind string) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.ContainsFunc(c.got, func(line string) bool { return strings.Contains(line, `"kind":"`+kind+`"`) })
}

// end stops the stream and returns what came.
func (c *collected) end() []string {
	c.cancel()
	<-c.done
	return c.got
}

// collectEvents gathers events from now on.
func collectEvents(t *testing.T, c *Client, job, run string) *collected {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	all := &collected{cancel: cancel, done: make(chan struct{})}
	watching := make(chan struct{})
	resp, err := c.do(ctx, "GET", "/api/v1/events", map[string][]string{"job": {job}, "run": {run}}, nil)
	if err != nil {
		t.Fatal(err)
	}
	go func() {
		defer close(all.done)
		defer resp.Body.Close()
		lines := bufio.NewReader(resp.Body)
		for first := true; ; first = false {
			line, err := lines.ReadString('\n')
			if first {
				close(watching)
			}
			if err != nil {
				return
			}
			if data, ok := strings.CutPrefix(line, "data: "); ok {
				all.mu.Lock()
				all.got = append(all.got, data)
				all.mu.Unlock()
			}
		}
	}()
	<-watching
	return all
}

func decodeEvents(t *testing.T, lines []string) []Event {
	t.Helper()
	var all []Event
	for _, line := range lines {
		var e Event
		if err := json.Unmarshal([]byte(line), &e); err != nil {
			t.Fatalf("%v in %s", err, line)
		}
		all = append(all, e)
	}
	return all
}

func runOf(e Event) string {
	switch {
	case e.Run != nil:
		return e.Run.ID
	case e.Task != nil:
		return e.Task.Run
	case e.ID != nil:
		return e.ID.Run
	}
	return ""
}

func TestEventsAreOfWhatWasAskedFor(t *testing.T) {
	r := newRig(t)
	all := collectEvents(t, r.client, "", "")
	ofJob := collectEvents(t, r.client, "hello", "")
	other := r.run("sleeper", ledger.Running)
	r.await("its output", func() bool { return r.output(other) == "working\n" })
	ofRun := collectEvents(t, r.client, "", other.Run)
	id := r.run("hello", ledger.Succeeded)
	for range r.killed(KillRequest{Selection: Selection{Run: other.Run}}) {
	}
	r.configure(jobFiles + "more: {command: 'true', schedule: '@yearly', targets: '*'}\n")
	r.await("what each of them is to hear", func() bool { // growing output is told with a delay
		return all.has("output") && all.has("config") && ofJob.has("output") && ofJob.has("config") && ofRun.has("receipt")
	})
	kinds := map[string]bool{}
	for _, e := range decodeEvents(t, all.end()) {
		kinds[e.Kind] = true
		if e.At.IsZero() {
			t.Errorf("without a time: %+v", e)
		}
	}
	for _, kind := range []string{"run", "task", "output", "receipt", "config"} {
		if !kinds[kind] {
			t.Errorf("no event of kind %s: %v", kind, kinds)
		}
	}
	kinds = map[string]bool{}
	var last ledger.State
	for _, e := range decodeEvents(t, ofJob.end()) {
		kinds[e.Kind] = true
		if of := runOf(e); of != id.Run && e.Kind != "config" {
			t.Errorf("%s of %q among those of hello", e.Kind, of)
		}
		if e.Task != nil {
			last = e.Task.State
		}
	}
	if !kinds["run"] || !kinds["task"] || !kinds["output"] || !kinds["config"] || last != ledger.Succeeded {
		t.Errorf("of hello: %v, at last %s", kinds, last)
	}
	kinds = map[string]bool{}
	for _, e := range decodeEvents(t, ofRun.end()) {
		kinds[e.Kind] = true
		if of := runOf(e); of != other.Run {
			t.Errorf("%s of %q among those of %s", e.Kind, of, other.Run)
		}
	}
	if !kinds["task"] || !kinds["receipt"] || kinds["config"] {
		t.Errorf("of the run: %v", kinds)
	}
}

// Who does not read is cut off; the others get everything meanwhile.
func TestSlowEventClient(t *testing.T) {
	r := newRig(t, func(o *Options) { o.Patience = 300 * time.Millisecond })
	slow, err := net.Dial("unix", r.socket)
	if err != nil {
		t.Fatal(err)
	}
	defer slow.Close()
	io.WriteString(slow, "GET /api/v1/events HTTP/1.1\r\nHost: localhost\r\n\r\n")
	if _, err := slow.Read(make([]byte, 1)); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	var got atomic.Int64
	done := make(chan error, 1)
	go func() {
		done <- r.client.Events(ctx, "", "", func(Event) error { got.Add(1); return nil })
	}()
	r.await("the other watches", func() bool { r.runner.SetConfig(r.set); return got.Load() > 0 })
	// More than all buffers hold, in bursts that the other one can follow.
	for range 30 {
		before := got.Load()
		for range 300 {
			r.runner.SetConfig(r.set)
		}
		r.await("the other keeps up", func() bool { return got.Load() >= before+300 })
	}
	// The slow one was let go: what is left for it ends.
	slow.SetReadDeadline(time.Now().Add(testWait))
	if n, err := io.Copy(io.Discard, slow); err != nil || n > 4<<20 {
		t.Errorf("read %d bytes, %v", n, err)
	}
	cancel()
	if err := <-done; err != context.Canceled {
		t.Errorf("the other ended with %v", err)
	}
}
