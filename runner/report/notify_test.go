package report

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"saltpeter/runner/ledger"
)

// hook is a webhook that remembers what it was told.
type hook struct {
	*httptest.Server
	mu     sync.Mutex
	told   []notice
	status int // what it answers; 0 = 204
}

func newHook(t testing.TB) *hook {
	h := &hook{}
	h.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		var n notice
		if err := json.NewDecoder(r.Body).Decode(&n); err != nil || r.Method != http.MethodPost || r.Header.Get("Content-Type") != "application/json" {
			t.Error(r.Method, r.Header, err)
		}
		h.mu.Lock()
		defer h.mu.Unlock()
		if h.status != 0 {
			w.WriteHeader(h.status)
			return
		}
		h.told = append(h.told, n)
		w.WriteHeader(http.StatusNoContent)
	}))
	t.Cleanup(h.Close)
	return h
}

func (h *hook) list() string {
	h.mu.Lock()
	defer h.mu.Unlock()
	var list []string
	for _, n := range h.told {
		list = append(list, n.Event+" "+n.Run)
	}
	return strings.Join(list, ", ")
}

func TestNotify(t *testing.T) {
	t.Parallel()
	h := newHook(t)
	file := filepath.Join(t.TempDir(), "told")
	l := open(t, t.TempDir())
	serve(t, l, Settings{LogDir: "off", Notify: map[string]Notify{
		"all":      {Failure: true, Recovery: true, Webhook: h.URL + "/hook", Command: fmt.Sprintf(`echo "$SP_EVENT $SP_JOB_NAME $SP_JOB_INSTANCE" >>%s; cat >%s.json; env >%s.env`, file, file, file)},
		"failures": {Failure: true, Webhook: h.URL + "/hook"},
		"recovery": {Recovery: true, Webhook: h.URL + "/hook"},
	}})
	var want []string
	for i, code := range []int{0, 1, 1, 0, 0, 2} {
		for _, job := range []string{"all", "failures", "recovery", "nobody"} {
			run := begin(t, l, job, i, "m1", "m2")
			end(t, l, run, "m1", 0, "")
			end(t, l, run, "m2", code, "secret output")
			if (job == "all" || job == "failures") && code != 0 {
				want = append(want, "failure "+run)
			}
			if (job == "all" || job == "recovery") && i == 3 {
				want = append(want, "recovery "+run)
			}
			told(t, l, Notices) // in order, so that they can be compared
		}
		// Runs that ran nowhere are neither.
		at := noon.Add(time.Duration(i)*time.Second + time.Millisecond)
		apply(t, l, ledger.Begun{Run: ledger.Run{ID: fmt.Sprint("all_none", i), Job: "all", Due: at, Fired: at, Trigger: ledger.TriggerManual, Reason: ledger.ReasonNoMachines}})
	}
	told(t, l, Notices)
	if got := h.list(); got != strings.Join(want, ", ") {
		t.Errorf("told %s\nwant %s", got, strings.Join(want, ", "))
	}
	first := h.told[0]
	if first.Text != "job all failed on m2 (failed, exit code 1), 1 of 2 machines: see `saltpeter logs "+first.Run+"`" || first.Group != "g" || first.Machines != 2 ||
		len(first.Failed) != 1 || *first.Failed[0].ExitCode != 1 || !first.Due.Equal(noon.Add(time.Second)) || !first.Ended.Equal(noon.Add(time.Minute)) {
		t.Errorf("%+v", first)
	}
	if got := read(t, file); strings.Count(got, "failure all all_") != 3 || strings.Count(got, "recovery all all_") != 1 || strings.Count(got, "\n") != 4 {
		t.Error(got)
	}
	if got := read(t, file+".json"); !strings.Contains(got, `"event":"failure","text":"job all failed on m2 (failed, exit code 2)`) || strings.Contains(got, "secret") {
		t.Error(got)
	}
	if got := read(t, file+".env"); strings.Contains(got, childDir) || strings.Contains(got, "GOCOVERDIR") {
		t.Error("the server's own environment is handed on:", got)
	}
}

// What cannot be told is given up after some tries, without showing the URL, and
// holds up nobody.
func TestNotifyThatFails(t *testing.T) {
	t.Parallel()
	h := newHook(t)
	h.status = http.StatusInternalServerError
	good := newHook(t)
	l := open(t, t.TempDir())
	r, log, _ := serve(t, l, Settings{LogDir: "off", Notify: map[string]Notify{
		"hook":    {Failure: true, Webhook: h.URL + "/T000/hunter2"},
		"command": {Failure: true, Command: "echo it is down; exit 7"},
		"good":    {Failure: true, Webhook: good.URL},
	}})
	for i, job := range []string{"hook", "command", "good"} {
		end(t, l, begin(t, l, job, i, "m"), "m", 1, "")
	}
	told(t, l, Notices)
	if good.list() != fmt.Sprint("failure good_", noon.Add(2*time.Second).Unix()) {
		t.Error(good.list())
	}
	s := stateOf(t, r, Notices)
	if s.Refused != 2 || strings.Contains(log.String()+s.Warning, "hunter2") ||
		!strings.Contains(log.String(), "answers 500") || !strings.Contains(log.String(), `exit status 7, saying \"it is down`) {
		t.Errorf("%+v\n%s", s, log)
	}
}

// What a command leaves in the background is not waited for.
func TestNotifyInBackground(t *testing.T) {
	t.Parallel()
	if err := runCommand(t.Context(), notice{to: Notify{Command: "cat >/dev/null; sleep 4 &"}}, []byte("x")); err != nil {
		t.Error(err)
	}
}

// A server that ends before it could tell leaves that to the next one.
func TestNotifyAfterRestart(t *testing.T) {
	t.Parallel()
	h := newHook(t)
	dir := t.TempDir()
	fails := filepath.Join(t.TempDir(), "fails")
	if err := os.WriteFile(fails, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	s := Settings{LogDir: "off", Notify: map[string]Notify{"job": {Failure: true, Webhook: h.URL, Command: "test ! -e " + fails}}}
	l := open(t, dir)
	_, _, stop := serve(t, l, s, func(o *Options) { o.Retry = time.Hour })
	run := begin(t, l, "job", 0, "m")
	end(t, l, run, "m", 1, "")
	eventually(t, "it is told once", func() bool { return h.list() != "" })
	stop()
	l.Close()
	if err := os.Remove(fails); err != nil {
		t.Fatal(err)
	}
	l = open(t, dir)
	serve(t, l, s)
	told(t, l, Notices)
	if got := h.list(); got != "failure "+run+", failure "+run { // rather twice than not at all
		t.Error(got)
	}
}
