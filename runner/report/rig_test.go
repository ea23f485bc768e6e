package report

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"saltpeter/runner/ledger"
	"saltpeter/testdata/lab"
	"saltpeter/wsx/wire"
)

func TestMain(m *testing.M) {
	runChild() // does not return in a child that a test has started
	goleak.VerifyTestMain(m)
}

// noon is a due time to count from.
var noon = time.Date(2026, 5, 4, 12, 0, 0, 0, time.UTC)

func open(t testing.TB, dir string) *ledger.Ledger {
	t.Helper()
	l, err := ledger.Open(t.Context(), ledger.Options{Dir: dir})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	return l
}

func apply(t testing.TB, l *ledger.Ledger, events ...ledger.Event) {
	t.Helper()
	if _, err := l.Apply(context.Background(), events...); err != nil {
		t.Fatal(err)
	}
}

// begin opens a run of a job, the n-th.
func begin(t testing.TB, l *ledger.Ledger, job string, n int, machines ...string) string {
	t.Helper()
	at := noon.Add(time.Duration(n) * time.Second)
	r := ledger.Run{ID: fmt.Sprintf("%s_%d", job, at.Unix()), Job: job, Group: "g", Due: at, Fired: at, Trigger: ledger.TriggerManual}
	for _, m := range machines {
		r.Tasks = append(r.Tasks, ledger.Task{TaskID: ledger.TaskID{Machine: m}})
	}
	apply(t, l, ledger.Begun{Run: r})
	return r.ID
}

// end runs a task of a run from start to end.
func end(t testing.TB, l *ledger.Ledger, run, machine string, code int, output string) {
	t.Helper()
	id := ledger.TaskID{Run: run, Machine: machine}
	if output != "" {
		o, err := l.Output(id)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := o.Append(noon, 0, wire.Stdout, []byte(output)); err != nil {
			t.Fatal(err)
		}
		if err := o.Close(); err != nil {
			t.Fatal(err)
		}
	}
	state := ledger.Succeeded
	if code != 0 {
		state = ledger.Failed
	}
	apply(t, l, ledger.Launched{Task: id, At: noon}, ledger.Started{Task: id, At: noon, PID: 1}, ledger.Ended{Task: id, At: noon.Add(time.Minute), State: state, ExitCode: code, End: wire.End{Cause: wire.CauseExit, RealCode: &code}})
}

// serve runs reports until the test ends or stop is called.
func serve(t testing.TB, l *ledger.Ledger, s Settings, change ...func(*Options)) (r *Reports, log *lab.Buffer, stop func()) {
	t.Helper()
	log = &lab.Buffer{}
	o := Options{Ledger: l, Log: slog.New(slog.NewTextHandler(log, nil)), Retry: 5 * time.Millisecond, Linger: time.Millisecond}
	for _, f := range change {
		f(&o)
	}
	r = New(t.Context(), o, s)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() { defer close(done); r.Run(ctx) }()
	stop = func() { cancel(); <-done }
	t.Cleanup(stop)
	return r, log, stop
}

// eventually waits for something that must come true.
func eventually(t testing.TB, what string, is func() bool) {
	t.Helper()
	for end := time.Now().Add(30 * time.Second); time.Now().Before(end); time.Sleep(2 * time.Millisecond) {
		if is() {
			return
		}
	}
	t.Fatalf("did not happen: %s", what)
}

// told waits until a reporter has told everything.
func told(t testing.TB, l *ledger.Ledger, name string) {
	t.Helper()
	eventually(t, name+" tells everything", func() bool {
		list, last, err := l.Reporters(context.Background())
		if err != nil {
			t.Fatal(err)
		}
		for _, r := range list {
			if r.Name == name {
				return r.Position == last && r.State == ""
			}
		}
		return false
	})
}

func stateOf(t testing.TB, r *Reports, name string) State {
	t.Helper()
	for _, s := range r.States(context.Background()) {
		if s.Name == name {
			return s
		}
	}
	t.Fatal("no reporter", name)
	return State{}
}

// engine is a stand-in for Elasticsearch and OpenSearch: the _bulk API as their
// documentation has it, with what can go wrong in it.
type engine struct {
	*httptest.Server
	t testing.TB

	mu       sync.Mutex
	docs     map[string]map[string]any // by index/id
	writes   map[string]int            // how often each was written
	requests int
	user     string // "user:password" that is asked for
	down     bool   // answers 503
	cut      bool   // takes everything, and the connection is cut before it answers
	most     int    // bytes that it takes, uncompressed; 0 = any
	refuse   func(doc map[string]any) (status int, kind, reason string)
}

func newEngine(t testing.TB) *engine {
	e := &engine{t: t, docs: map[string]map[string]any{}, writes: map[string]int{}}
	e.Server = httptest.NewServer(http.HandlerFunc(e.answer))
	t.Cleanup(e.Close)
	return e
}

func (e *engine) with(f func()) {
	e.mu.Lock()
	defer e.mu.Unlock()
	f()
}

func (e *engine) answer(w http.ResponseWriter, r *http.Request) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.requests++
	fail := func(status int, kind, reason string) {
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(status)
		json.NewEncoder(w).Encode(map[string]any{"error": map[string]any{"type": kind, "reason": reason}, "status": status})
	}
	user, password, _ := r.BasicAuth()
	switch {
	case e.down:
		fail(503, "cluster_block_exception", "blocked by: [SERVICE_UNAVAILABLE/2/no master];")
		return
	case e.user != "" && user+":"+password != e.user:
		fail(401, "security_exception", "missing authentication credentials for REST request [/_bulk]")
		return
	case r.Method != http.MethodPost || r.URL.Path != "/_bulk":
		fail(400, "illegal_argument_exception", "no handler for "+r.URL.Path)
		return
	case r.Header.Get("Content-Type") != "application/x-ndjson":
		fail(406, "media_type_header_exception", r.Header.Get("Content-Type"))
		return
	}
	body := io.Reader(r.Body)
	if r.Header.Get("Content-Encoding") == "gzip" {
		zip, err := gzip.NewReader(r.Body)
		if err != nil {
			fail(400, "parse_exception", err.Error())
			return
		}
		body = zip
	}
	data, err := io.ReadAll(body)
	if err != nil || !bytes.HasSuffix(data, []byte("\n")) {
		fail(400, "illegal_argument_exception", "The bulk request must be terminated by a newline [\\n]")
		return
	}
	if e.most > 0 && len(data) > e.most {
		fail(413, "content_too_long_exception", "entity content is too long")
		return
	}
	items, errors := e.bulk(data)
	if e.cut {
		e.cut = false
		panic(http.ErrAbortHandler)
	}
	w.Header().Set("Content-Type", "application/json")
	json.NewEncoder(w).Encode(map[string]any{"took": 1, "errors": errors, "items": items})
}

func (e *engine) bulk(data []byte) (items []any, errors bool) {
	in := bufio.NewScanner(bytes.NewReader(data))
	in.Buffer(nil, 64<<20)
	for in.Scan() {
		var action struct {
			Index struct {
				Index string `json:"_index"`
				ID    string `json:"_id"`
			} `json:"index"`
		}
		if err := json.Unmarshal(in.Bytes(), &action); err != nil || action.Index.Index == "" || action.Index.ID == "" || len(action.Index.ID) > 512 {
			e.t.Errorf("bad action %q: %v", in.Text(), err)
		}
		if !in.Scan() {
			e.t.Error("an action without its document")
			break
		}
		var doc map[string]any
		if err := json.Unmarshal(in.Bytes(), &doc); err != nil {
			e.t.Errorf("bad document: %v", err)
		}
		result := map[string]any{"_index": action.Index.Index, "_id": action.Index.ID, "status": 201}
		if e.refuse != nil {
			if status, kind, reason := e.refuse(doc); status != 0 {
				errors = true
				result["status"], result["error"] = status, map[string]any{"type": kind, "reason": reason}
				items = append(items, map[string]any{"index": result})
				continue
			}
		}
		key := action.Index.Index + "/" + action.Index.ID
		e.docs[key] = doc
		e.writes[key]++
		items = append(items, map[string]any{"index": result})
	}
	return items, errors
}

// count is how many documents there are, of one msg_type or of all.
func (e *engine) count(kind string) int {
	e.mu.Lock()
	defer e.mu.Unlock()
	n := 0
	for _, d := range e.docs {
		if kind == "" || d["msg_type"] == kind {
			n++
		}
	}
	return n
}

// find is the one document that has these values.
func (e *engine) find(t testing.TB, kind, run, machine string) (index string, doc map[string]any) {
	t.Helper()
	e.mu.Lock()
	defer e.mu.Unlock()
	for key, d := range e.docs {
		if d["msg_type"] == kind && d["job_instance"] == run && d["machine"] == machine {
			if doc != nil {
				t.Errorf("%s of %s on %q is there twice", kind, run, machine)
			}
			index, doc = filepath.Dir(key), d
		}
	}
	if doc == nil {
		t.Fatalf("no %s of %s on %q", kind, run, machine)
	}
	return index, doc
}

// as is the URL with a user and password in it.
func (e *engine) as(user string) string {
	return strings.Replace(e.URL, "http://", "http://"+user+"@", 1)
}
