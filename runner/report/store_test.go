package report

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"saltpeter/runner/ledger"
	"saltpeter/wsx/wire"
)

func toEngine(urls ...string) Settings {
	return Settings{LogDir: "off", Elasticsearch: Store{URLs: urls, Index: "saltpeter"}}
}

func TestDocuments(t *testing.T) {
	t.Parallel()
	e := newEngine(t)
	l := open(t, t.TempDir())
	serve(t, l, toEngine(e.URL))
	run := begin(t, l, "job", 0, "web1", "web2")
	end(t, l, run, "web1", 3, "out \xff\xe2\x82\n")
	apply(t, l, ledger.NoteAdded{Task: ledger.TaskID{Run: run, Machine: "web2"}, Note: ledger.Note{At: noon, Text: "cannot be reached\n"}},
		ledger.Ended{Task: ledger.TaskID{Run: run, Machine: "web2"}, At: noon.Add(13 * time.Hour), State: ledger.Unreachable, ExitCode: wire.ExitUnreachable})
	for i, reason := range []string{ledger.ReasonOverlap, ledger.ReasonMaintenance, ledger.ReasonServerDown} {
		apply(t, l, ledger.SkippedDue{Skip: ledger.Skip{Job: "job", Group: "g", From: noon.Add(time.Duration(i) * time.Hour), Reason: reason}})
	}
	apply(t, l, ledger.Begun{Run: ledger.Run{ID: "none_1", Job: "none", Group: "g", Due: noon, Fired: noon, Trigger: ledger.TriggerManual, Reason: ledger.ReasonNoMachines}})
	told(t, l, Elasticsearch)

	index, doc := e.find(t, "machine_result", run, "web1")
	want := map[string]any{"job_name": "job", "group": "g", "job_instance": run, "@timestamp": "2026-05-04T12:01:00.000000+00:00",
		"return_code": 3.0, "machine": "web1", "output": "out \ufffd\ufffd\ufffd\n", "msg_type": "machine_result"}
	if index != "saltpeter-2026.05.04" || fmt.Sprint(doc) != fmt.Sprint(want) {
		t.Errorf("%s: got %v, want %v", index, doc, want)
	}
	index, doc = e.find(t, "machine_result", run, "web2")
	if index != "saltpeter-2026.05.05" || doc["output"] != "cannot be reached\n" || doc["return_code"] != 255.0 {
		t.Error(index, doc)
	}
	for _, kind := range []string{"start", "end"} {
		if _, doc := e.find(t, kind, run, ""); doc["return_code"] != 0.0 || len(doc) != len(want) {
			t.Error(doc)
		}
		e.find(t, kind, "none_1", "")
	}
	e.find(t, "machine_start", run, "web1")
	e.find(t, "no_machines", "none_1", "")
	e.find(t, "overlap", fmt.Sprint("job_", noon.Unix()), "")
	e.find(t, "maintenance", fmt.Sprint("job_", noon.Add(time.Hour).Unix()), "")
	if n := e.count(""); n != 10 {
		t.Errorf("%d documents", n)
	}
}

// A store that is down for hours gets everything when it is back, also if the
// server was restarted meanwhile, and what it took without answering is not there
// twice.
func TestOutage(t *testing.T) {
	t.Parallel()
	e := newEngine(t)
	e.down = true
	dir := t.TempDir()
	l := open(t, dir)
	r, log, stop := serve(t, l, toEngine(e.URL))
	const runs = 40
	for i := range runs / 2 {
		end(t, l, begin(t, l, "job", i, "m"), "m", 0, "x")
	}
	eventually(t, "it says so", func() bool {
		s := stateOf(t, r, Elasticsearch)
		return strings.Contains(s.Problem, "503") && s.Behind >= 4*runs/2 && s.Errors > 0 && !s.Since.IsZero()
	})
	stop()
	if n := strings.Count(log.String(), "cannot report"); n != 1 {
		t.Errorf("%d lines about one outage:\n%s", n, log)
	}
	l.Close()

	l = open(t, dir)
	r, _, _ = serve(t, l, toEngine(e.URL))
	for i := range runs / 2 {
		end(t, l, begin(t, l, "job", runs/2+i, "m"), "m", 0, "x")
	}
	e.with(func() { e.down, e.cut = false, true })
	told(t, l, Elasticsearch)
	if n := e.count(""); n != 4*runs {
		t.Errorf("%d documents, want %d", n, 4*runs)
	}
	eventually(t, "the problem is over", func() bool {
		s := stateOf(t, r, Elasticsearch)
		return s.Problem == "" && s.Behind == 0 && s.Since.IsZero()
	})
	again := 0
	for _, n := range e.writes {
		if n > 1 {
			again++
		}
	}
	if again == 0 {
		t.Error("nothing was sent again: the cut connection was not tried")
	}
}

// Of one request some documents are taken, some later, and one never.
func TestPartialFailures(t *testing.T) {
	t.Parallel()
	e := newEngine(t)
	busy := map[string]int{}
	e.refuse = func(doc map[string]any) (int, string, string) {
		switch run := fmt.Sprint(doc["job_instance"], doc["msg_type"]); {
		case strings.HasPrefix(run, "bad"):
			return 400, "mapper_parsing_exception", "failed to parse field [output]. Preview of field's value: 'secret'"
		case strings.HasPrefix(run, "busy") && busy[run] < 3:
			busy[run]++
			return 429, "es_rejected_execution_exception", "rejected execution"
		case strings.HasPrefix(run, "full") && busy[run] < 2:
			busy[run]++
			return 403, "cluster_block_exception", "index blocked by: [FORBIDDEN/12/index read-only / allow delete (api)];"
		case strings.HasPrefix(run, "shards") && busy[run] < 2:
			busy[run]++
			return 400, "validation_exception", "this action would add [2] shards"
		}
		return 0, "", ""
	}
	l := open(t, t.TempDir())
	r, log, _ := serve(t, l, toEngine(e.URL))
	for i, job := range []string{"good", "bad", "busy", "bad2", "full", "shards", "last"} {
		end(t, l, begin(t, l, job, i, "m"), "m", 0, "x")
	}
	told(t, l, Elasticsearch)
	if n := e.count(""); n != 5*4 {
		t.Errorf("%d documents", n)
	}
	for key, n := range e.writes {
		if n != 1 {
			t.Errorf("%s was written %d times", key, n)
		}
	}
	if s := stateOf(t, r, Elasticsearch); s.Refused != 8 {
		t.Errorf("%d refused", s.Refused)
	}
	if n := strings.Count(log.String(), "mapper_parsing_exception"); n == 0 || n > 2 || strings.Contains(log.String(), "secret") {
		t.Errorf("said %d times:\n%s", n, log)
	}
}

func TestFailover(t *testing.T) {
	t.Parallel()
	gone := httptest.NewServer(http.NotFoundHandler())
	gone.Close() // nothing listens there any more
	first, second := newEngine(t), newEngine(t)
	second.down = true
	l := open(t, t.TempDir())
	serve(t, l, toEngine(gone.URL, second.URL, first.URL))
	end(t, l, begin(t, l, "job", 0, "m"), "m", 0, "x")
	told(t, l, Elasticsearch)
	if first.count("") != 4 || second.count("") != 0 {
		t.Error(first.count(""), second.count(""))
	}
	first.with(func() { first.down = true })
	second.with(func() { second.down = false })
	end(t, l, begin(t, l, "job", 1, "m"), "m", 0, "x")
	told(t, l, Elasticsearch)
	if first.count("") != 4 || second.count("") != 4 {
		t.Error(first.count(""), second.count(""))
	}
}

// Passwords get to the store, and nowhere else; new ones are in force at once.
func TestCredentials(t *testing.T) {
	t.Parallel()
	const secret = "s3cret%2Fword"
	e := newEngine(t)
	e.user = "elastic:s3cret/word"
	l := open(t, t.TempDir())
	r, log, _ := serve(t, l, toEngine(e.as("elastic:wr0ng"), "http://elastic:"+secret+"@[broken"), func(o *Options) { o.Retry = time.Hour })
	end(t, l, begin(t, l, "job", 0, "m"), "m", 0, "x")
	eventually(t, "it is refused", func() bool { return strings.Contains(stateOf(t, r, Elasticsearch).Problem, "401") })
	s := stateOf(t, r, Elasticsearch)
	for _, text := range []string{log.String(), fmt.Sprint(s)} {
		if strings.Contains(text, "wr0ng") || strings.Contains(text, "s3cret") {
			t.Errorf("shows a secret: %s", text)
		}
	}
	if !strings.Contains(s.Warning, "cannot use an address of elasticsearch") || !strings.Contains(s.Problem, "check user and password") {
		t.Error(s)
	}
	r.Set(t.Context(), toEngine(e.as("elastic:"+secret)))
	told(t, l, Elasticsearch)
	if e.count("") != 4 {
		t.Error(e.count(""))
	}
}

func TestTooLargeRequests(t *testing.T) {
	t.Parallel()
	e := newEngine(t)
	e.most = 50_000
	l := open(t, t.TempDir())
	r, _, _ := serve(t, l, toEngine(e.URL), func(o *Options) { o.Linger = 50 * time.Millisecond })
	for i := range 40 {
		end(t, l, begin(t, l, "job", i, "m"), "m", 0, strings.Repeat("x", 10_000))
	}
	end(t, l, begin(t, l, "job", 100, "m"), "m", 0, strings.Repeat("x", 60_000)) // larger than it will ever take
	end(t, l, begin(t, l, "job", 101, "m"), "m", 0, "x")
	told(t, l, Elasticsearch)
	if n, s := e.count(""), stateOf(t, r, Elasticsearch); n != 42*4-1 || s.Refused != 1 {
		t.Error(n, s)
	}
}

func TestLongOutput(t *testing.T) {
	t.Parallel()
	e := newEngine(t)
	l := open(t, t.TempDir())
	serve(t, l, toEngine(e.URL))
	for i, unit := range []string{"x", "é", "€", "😀"} {
		text := "begin" + strings.Repeat(unit, 100_000) + "end"
		run := begin(t, l, "job", i, "m")
		end(t, l, run, "m", 0, text)
		told(t, l, Elasticsearch)
		_, doc := e.find(t, "machine_result", run, "m")
		got := doc["output"].(string)
		head, tail, found := strings.Cut(got, "\n[... ")
		var left int
		if _, err := fmt.Sscan(tail, &left); err != nil || !found {
			t.Fatal(err, len(got))
		}
		_, tail, _ = strings.Cut(tail, " bytes left out here ...]\n")
		if !strings.HasPrefix(text, head) || !strings.HasSuffix(text, tail) || left != len(text)-len(head)-len(tail) || strings.ContainsRune(got, utf8.RuneError) {
			t.Errorf("%s: %d + %d + %d of %d", unit, len(head), left, len(tail), len(text))
		}
		if len(got) > headBytes+tailBytes+100 {
			t.Error(len(got))
		}
	}
}

// Both stores and text logs go on by themselves: one that is down holds up no other.
func TestBothStores(t *testing.T) {
	t.Parallel()
	elastic, open2 := newEngine(t), newEngine(t)
	elastic.down = true
	l := open(t, t.TempDir())
	s := Settings{LogDir: "off", Elasticsearch: Store{URLs: []string{elastic.URL}, Index: "a"}, OpenSearch: Store{URLs: []string{open2.URL}, Index: "b"}}
	r, _, _ := serve(t, l, s)
	run := begin(t, l, "job", 0, "m")
	end(t, l, run, "m", 0, "x")
	told(t, l, OpenSearch)
	if index, _ := open2.find(t, "end", run, ""); index != "b-2026.05.04" {
		t.Error(index)
	}
	// One that is taken out of the settings is forgotten, with what was kept for it.
	s.Elasticsearch = Store{}
	r.Set(t.Context(), s)
	if list, _, err := l.Reporters(t.Context()); err != nil || len(list) != 1 {
		t.Error(list, err)
	}
	page, err := l.News(t.Context(), 0, 1)
	if err != nil || len(page.List) != 0 {
		t.Error("kept for nobody:", page.List, err)
	}
	s.Elasticsearch = Store{URLs: []string{elastic.URL}, Index: "c"}
	elastic.with(func() { elastic.down = false })
	r.Set(t.Context(), s)
	run = begin(t, l, "job", 1, "m")
	told(t, l, Elasticsearch)
	if index, _ := elastic.find(t, "start", run, ""); index != "c-2026.05.04" || elastic.count("") != 1 {
		t.Error(index, elastic.count(""))
	}
}

func TestAddresses(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]string{
		"es1":                       "http://es1:9200",
		"es1:9201":                  "http://es1:9201",
		"http://es1":                "http://es1:9200",
		"https://es1":               "https://es1",
		"https://u:p@es1:1/search/": "https://es1:1/search",
		"u:p@es1":                   "http://es1:9200",
		"http://[::1]":              "http://[::1]:9200",
	} {
		if e, err := parseEndpoint(text); err != nil || e.url != want {
			t.Errorf("%s: %q, %v", text, e.url, err)
		}
	}
	for _, text := range []string{"", "ftp://es1", "http://", "http://u:pass word@h", "http://u:pass%zz@h", "http://u:pass@h:port"} {
		if err := CheckAddress(text); err == nil || strings.Contains(err.Error(), "pass%") || strings.Contains(err.Error(), "pass word") || strings.Contains(err.Error(), ":pass@") {
			t.Errorf("%q: %v", text, err)
		}
	}
}
