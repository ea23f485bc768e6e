package api

import (
	"context"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"saltpeter/runner"
	"saltpeter/runner/ledger"
	"saltpeter/wsx"
)

// A page gets the job files first, then a status, both in the order of the files;
// and again, one after the other, whenever the files change.
func TestPageBegins(t *testing.T) {
	r := newRig(t)
	v := r.view(pageKinds[0])
	v.until("a status", func(p *oldPage) bool { return p.last != nil })
	v.mu.Lock()
	if v.types[0] != "config" || v.types[1] != "status" || !slices.Equal(v.page.order, r.set.Order) {
		t.Errorf("it begins with %v, jobs %v", v.types, v.page.order)
	}
	if hello := v.page.config["hello"].(map[string]any); hello["command"] != "echo hello; echo world" || hello["env"].(map[string]any)["PASSWORD"] != hidden {
		t.Errorf("job %v", hello)
	}
	v.mu.Unlock()
	r.configure("saltpeter_maintenance: {global: true, machines: [gone]}\nzz: {command: 'true', schedule: '@yearly', targets: '*'}\naa: {command: 'true', schedule: '@yearly', targets: '*', env: {A: }}\n")
	v.until("the new jobs", func(p *oldPage) bool { return slices.Equal(p.order, []string{"zz", "aa"}) })
	v.until("a status behind them", func(*oldPage) bool { return v.types[len(v.types)-1] == "status" })
	v.mu.Lock()
	configs := 0
	for _, f := range v.frames {
		if f["type"] == "config" {
			configs++
			if configs == 2 && f["config"].(map[string]any)["maintenance"].(map[string]any)["global"] != true {
				t.Errorf("config %v", f)
			}
		}
	}
	v.mu.Unlock()
	if configs != 2 {
		t.Errorf("%d configs", configs)
	}
	// Statuses come by themselves.
	n := v.count("status")
	v.until("two more statuses", func(*oldPage) bool {
		now := 0
		for _, kind := range v.types {
			if kind == "status" {
				now++
			}
		}
		return now > n+1
	})
}

// A job that a page looks at: details, output as it comes, its end.
func TestPageShowsAJob(t *testing.T) {
	r := newRig(t)
	v := r.view(pageKinds[0])
	v.open("waiter")
	v.until("details of a job that never ran", func(p *oldPage) bool {
		return p.details != nil && len(p.details["targets"].([]any)) == 1 && len(p.details["results"].(map[string]any)) == 0 && p.details["last_run"] == nil && p.details["next_run"] != nil
	})
	id := r.next("waiter", ledger.Running)
	at := spot{"waiter", id.Machine}
	v.shows(at, id.Run, "first\n")
	result := func(p *oldPage) map[string]any {
		res, _ := p.details["results"].(map[string]any)[id.Machine].(map[string]any)
		return res
	}
	v.until("that it runs", func(p *oldPage) bool {
		res := result(p)
		return res != nil && res["retcode"] == "" && res["endtime"] == "" && res["last_heartbeat"] != nil && res["wrapper_version"] != nil && p.runNow[id.Run]
	})
	if err := os.WriteFile(filepath.Join(r.dir, "go"), nil, 0o644); err != nil {
		t.Fatal(err)
	}
	v.until("its end", func(p *oldPage) bool {
		res := result(p)
		return !p.runNow[id.Run] && res["retcode"] == 3.0 && res["endtime"] != "" && p.done[at] && p.last["waiter"].(map[string]any)["result_ok"] == false
	})
	v.shows(at, id.Run, "first\nsecond\x00\uFFFD\n")
	v.until("the length of its output", func(p *oldPage) bool { return result(p)["output_length"] == 15.0 })
}

// Kills from a page: gone at once, with the words and codes that people know.
func TestPageKills(t *testing.T) {
	r := newRig(t)
	v := r.view(pageKinds[0])
	v.open("sleeper")
	for _, kill := range []func(id ledger.TaskID) any{
		func(id ledger.TaskID) any {
			return map[string]any{"killCron": id.Run[:strings.LastIndexByte(id.Run, '_')]}
		},
		func(id ledger.TaskID) any {
			return map[string]any{"killMachine": map[string]any{"cron": "sleeper", "machine": id.Machine}}
		},
		func(id ledger.TaskID) any {
			return map[string]any{"killMachine": map[string]any{"cron": "sleeper", "machine": id.Machine, "job_instance": id.Run}}
		},
	} {
		v.say(map[string]any{"run": "sleeper"})
		started := v.answer("result", func(f map[string]any) bool { return f["for"] == "run" && f["ok"] == true })
		id := ledger.TaskID{Run: started["run_id"].(string), Machine: r.set.Machines[0].Name}
		r.await("it runs", func() bool { return r.task(id).State == ledger.Running })
		v.until("it among the running", func(p *oldPage) bool { return p.runNow[id.Run] })
		at := spot{"sleeper", id.Machine}
		v.shows(at, id.Run, "working\n")
		v.say(kill(id))
		v.answer("receipt", func(f map[string]any) bool {
			return f["run"] == id.Run && f["outcome"] == "gone" && f["exit_code"] == 143.0 && f["proof"] != ""
		})
		v.shows(at, id.Run, "working\n\n[Job terminated by user request]\n")
		v.until("that it is over", func(p *oldPage) bool {
			return !p.runNow[id.Run] && p.details["results"].(map[string]any)[id.Machine].(map[string]any)["retcode"] == 143.0
		})
		for _, want := range []string{
			"WebSocket: Kill command received for job sleeper", "WebSocket: Sent kill signal to " + id.Run + ":" + id.Machine,
			"WebSocket: Job completed - " + id.Run + ":" + id.Machine + " (exit code: 143)",
		} {
			if !strings.Contains(r.logs.String(), want) {
				t.Errorf("the log lacks %q", want)
			}
		}
		v.mu.Lock()
		v.frames = nil // each round has its own answers
		v.mu.Unlock()
	}
}

// What a page asks wrongly changes nothing, is logged, and is told why.
func TestPageAsksWrongly(t *testing.T) {
	r := newRig(t)
	id := r.next("sleeper", ledger.Running)
	v := r.view(pageKinds[0])
	deep := strings.Repeat(`[`, 20000)
	for _, c := range []struct{ say, code string }{
		{`{`, "bad_request"}, {`[]`, "bad_request"}, {`null`, "bad_request"}, {`7`, "bad_request"}, {`{}`, "bad_request"}, {`{"hello":1}`, "bad_request"},
		{deep, "bad_request"}, {`{"subscribe":` + deep, "bad_request"},
		{`{"subscribe":"none"}`, "no_such_job"}, {`{"subscribe":["none"]}`, "no_such_job"}, {`{"subscribe":7}`, "bad_request"}, {`{"subscribe":null}`, "bad_request"}, {`{"subscribe":[null]}`, "bad_request"},
		{`{"unsubscribe":{}}`, "bad_request"}, {`{"ack":[]}`, "bad_request"}, {`{"ack":null}`, "bad_request"},
		{`{"run":"none"}`, "no_such_job"}, {`{"run":["hello"]}`, "bad_request"}, {`{"run":""}`, "bad_request"}, {`{"run":"sleeper"}`, "overlap"},
		{`{"killCron":"none"}`, "no_such_job"}, {`{"killCron":"hello"}`, "nothing_running"}, {`{"killCron":{}}`, "bad_request"}, {`{"killCron":"sleep*"}`, "no_such_job"},
		{`{"killMachine":{"cron":"sleeper","machine":"*"}}`, "nothing_running"}, {`{"killMachine":{"cron":"sleeper"}}`, "bad_request"},
		{`{"killMachine":{"machine":"` + id.Machine + `"}}`, "bad_request"}, {`{"killMachine":"sleeper"}`, "bad_request"},
		{`{"killMachine":{"cron":"none","machine":"` + id.Machine + `"}}`, "no_such_job"},
		{`{"killMachine":{"cron":"sleeper","machine":"` + id.Machine + `","job_instance":"none_1"}}`, "no_such_run"},
		{`{"killMachine":{"cron":"hello","machine":"` + id.Machine + `","job_instance":"` + id.Run + `"}}`, "nothing_running"},
		{`{"getTimeline":null}`, "bad_request"}, {`{"getTimeline":{"start_date":"then","end_date":null,"id":"1"}}`, "bad_request"}, {`{"getTimeline":{"start_date":7}}`, "bad_request"},
		{`{"getTimeline":{"start_date":"now-5x","end_date":null,"id":{}}}`, "bad_request"},
	} {
		v.mu.Lock()
		v.frames = nil
		v.mu.Unlock()
		v.conn.Write(wsx.Text, []byte(c.say))
		f := v.answer("result", nil)
		if f["ok"] != false || f["code"] != c.code {
			t.Errorf("%.100s: %v", c.say, f)
		}
	}
	v.mu.Lock()
	v.frames = nil
	v.mu.Unlock()
	v.conn.Write(wsx.Binary, []byte{1, 2, 3})
	if f := v.answer("result", nil); f["ok"] != false {
		t.Errorf("binary: %v", f)
	}
	if state := r.task(id).State; state != ledger.Running {
		t.Errorf("the task is %s", state)
	}
	if n := strings.Count(r.logs.String(), "refused what a page asked for"); n < toldRefusals || n > toldRefusals+20 {
		t.Errorf("%d refusals were logged", n)
	}
	r.configure("saltpeter_maintenance: {global: true}\n" + jobFiles)
	v.mu.Lock()
	v.frames = nil
	v.mu.Unlock()
	v.say(map[string]any{"run": "hello"})
	if f := v.answer("result", nil); f["code"] != "maintenance" {
		t.Errorf("run in maintenance: %v", f)
	}
	if page, err := r.book.Runs(t.Context(), ledger.RunFilter{Job: "hello"}); err != nil || len(page.Runs) > 0 {
		t.Errorf("runs %v, %v", page.Runs, err)
	}
	// A connection that says too much at once is closed; the others go on.
	v.conn.Write(wsx.Text, make([]byte, 2<<20))
	<-v.done
	other := r.view(pageKinds[0])
	other.open("sleeper")
	other.shows(spot{"sleeper", id.Machine}, id.Run, "working\n")
}

// Who may look only, may neither run nor kill; a token that is revoked ends both.
func TestPageRoles(t *testing.T) {
	r := newRig(t)
	id := r.next("sleeper", ledger.Running)
	reader, err := r.tokens.Create("reader", Read)
	if err != nil {
		t.Fatal(err)
	}
	operator, err := r.tokens.Create("operator", Operate)
	if err != nil {
		t.Fatal(err)
	}
	for name, header := range map[string][]string{
		"none": {}, "unknown": {"Authorization", "Bearer sp_no"}, "unknown, offered": {"Sec-WebSocket-Protocol", tokenOffer("sp_no")},
		"no base64": {"Sec-WebSocket-Protocol", uiProtocol + ", " + tokenProtocol + "!"},
		"elsewhere": {"Authorization", "Bearer " + reader, "Origin", "https://elsewhere.example"},
	} {
		if _, err := r.tryView(r.tcp, pageKinds[0], header...); err == nil {
			t.Errorf("token: %s: came in", name)
		}
	}
	for _, header := range [][]string{{"Authorization", "Bearer " + reader}, {"Sec-WebSocket-Protocol", tokenOffer(reader)}} {
		v := r.view(pageKinds[0], header...)
		v.open("sleeper")
		v.shows(spot{"sleeper", id.Machine}, id.Run, "working\n")
		for _, ask := range []any{map[string]any{"run": "hello"}, map[string]any{"killCron": "sleeper"}, map[string]any{"killMachine": map[string]any{"cron": "sleeper", "machine": id.Machine}}} {
			v.mu.Lock()
			v.frames = nil
			v.mu.Unlock()
			v.say(ask)
			if f := v.answer("result", nil); f["code"] != "forbidden" || f["hint"] == nil {
				t.Errorf("%v: %v", ask, f)
			}
		}
	}
	if state := r.task(id).State; state != ledger.Running {
		t.Errorf("the task is %s", state)
	}
	late := r.view(pageKinds[0], "Sec-WebSocket-Protocol", tokenOffer(operator))
	late.until("a status", func(p *oldPage) bool { return p.last != nil })
	if err := r.tokens.Revoke("operator"); err != nil {
		t.Fatal(err)
	}
	late.say(map[string]any{"killCron": "sleeper"})
	<-late.done // sent away with the next status
	if state := r.task(id).State; state != ledger.Running {
		t.Errorf("a revoked token killed: the task is %s", state)
	}
	if strings.Contains(r.logs.String(), reader) || strings.Contains(r.logs.String(), operator) {
		t.Error("a token is in the log")
	}
}

// The server stops: pages are closed by the book, and come back to the same texts.
func TestPageOverRestart(t *testing.T) {
	r := newRig(t)
	r.configure(jobFiles + uiJobs)
	id := r.next("long", ledger.Running)
	at := spot{"long", id.Machine}
	v := r.view(pageKinds[0])
	v.open("long")
	v.until("all there is", func(p *oldPage) bool { return strings.HasSuffix(p.texts[at], id.Run+"\n") })
	// Another server on the same book, as after a restart.
	other := New(r.server.o)
	if err := r.shutdown(); err != nil {
		t.Error(err)
	}
	<-v.done
	if !strings.Contains(v.end.Error(), "1001") {
		t.Errorf("it was closed: %v", v.end)
	}
	ln := r.listen("tcp", "127.0.0.1:0")
	served := make(chan error)
	go func() { served <- other.Serve(ln) }()
	again, err := r.tryView(ln.Addr().String(), pageKinds[0])
	if err != nil {
		t.Fatal(err)
	}
	again.open("long")
	again.shows(at, id.Run, v.page.texts[at])
	again.mu.Lock()
	if again.page.expects[at] != v.page.expects[at] {
		t.Errorf("it ends at %d, not at %d", again.page.expects[at], v.page.expects[at])
	}
	again.mu.Unlock()
	r.goOn("long")
	again.until("its end", func(p *oldPage) bool { return strings.HasSuffix(p.texts[at], "\nend\n") && p.done[at] })
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	if err := other.Shutdown(ctx); err != nil {
		t.Error(err)
	}
	if err := <-served; err != nil {
		t.Error(err)
	}
}

func TestPageTimeline(t *testing.T) {
	r := newRig(t)
	r.next("hello", ledger.Succeeded)
	live := r.next("sleeper", ledger.Running)
	v, quiet := r.view(pageKinds[0]), r.view(pageKinds[0])
	for _, q := range []string{`{"start_date":"now-5m","end_date":"now","id":"7"}`, `{"start_date":null,"end_date":null,"id":"7"}`,
		`{"start_date":"2020-01-01T00:00:00Z","end_date":"now+1d","id":"7"}`, `{"start_date":"now-1y","end_date":null,"id":"7"}`} {
		v.mu.Lock()
		v.frames = nil
		v.mu.Unlock()
		v.conn.Write(wsx.Text, []byte(`{"getTimeline":`+q+`}`))
		line := v.answer("timeline", nil)["timeline"].(map[string]any)
		content := line["content"].([]any)
		if line["id"] != "7" || len(content) != 3 {
			t.Fatalf("%s: %v", q, line)
		}
		last := content[2].(map[string]any)
		if last["job_instance"] != live.Run || last["msg_type"] != "machine_start" || content[1].(map[string]any)["ret_code"] != 0.0 {
			t.Errorf("%s: %v", q, content)
		}
	}
	v.mu.Lock()
	v.frames = nil
	v.mu.Unlock()
	v.conn.Write(wsx.Text, []byte(`{"getTimeline":{"start_date":"2020-01-01T00:00:00Z","end_date":"2020-01-02T00:00:00Z","id":"8"}}`))
	if line := v.answer("timeline", nil)["timeline"].(map[string]any); len(line["content"].([]any)) != 0 {
		t.Errorf("%v", line)
	}
	if quiet.count("timeline") > 0 {
		t.Error("who did not ask got a timeline")
	}
}

func TestMoments(t *testing.T) {
	now := time.Date(2026, 3, 31, 12, 0, 0, 0, time.UTC)
	for text, want := range map[string]string{
		"now": "2026-03-31T12:00:00Z", " now - 5m ": "2026-03-31T11:55:00Z", "now-1d+2h": "2026-03-30T14:00:00Z", "now-1w": "2026-03-24T12:00:00Z",
		"now+90s": "2026-03-31T12:01:30Z", "now-1y": "2025-03-31T12:00:00Z", "2026-01-02T03:04:05.678Z": "2026-01-02T03:04:05.678Z", "2026-01-02": "2026-01-02T00:00:00Z",
		"": "", "then": "", "now-": "", "now5m": "", "now-5": "", "now-5q": "", "now-99999999d": "", "now--5m": "", "nowé": "",
	} {
		at, err := parseMoment(text, now)
		if (err != nil) != (want == "") || err == nil && at.Format(time.RFC3339Nano) != want {
			t.Errorf("%q is %v, %v, not %s", text, at, err, want)
		}
	}
}

// A page that goes by run and position is never shown a run that is over as running.
func TestOwnPage(t *testing.T) {
	r := newRig(t)
	r.configure(jobFiles + uiJobs)
	v := r.view(pageKinds[4], "Sec-WebSocket-Protocol", uiProtocol)
	v.open("talker")
	first := r.next("talker", ledger.Succeeded)
	v.shows(spot{"talker", first.Machine}, first.Run, r.text(first))
	v.leave("talker")
	second := r.next("talker", ledger.Succeeded)
	v.until("a status without it", func(p *oldPage) bool { return !p.runNow[second.Run] })
	v.mu.Lock()
	clear(v.page.seen)
	clear(v.page.texts) // as it sees from run_id
	clear(v.page.expects)
	v.mu.Unlock()
	v.open("talker")
	v.shows(spot{"talker", second.Machine}, second.Run, r.text(second))
	v.mu.Lock()
	defer v.mu.Unlock()
	if len(v.page.seen) > 0 {
		t.Errorf("runs that were over were shown as running: %v", v.page.seen)
	}
}

func TestPageNeedsAnUpgrade(t *testing.T) {
	r := newRig(t)
	if status, e, _ := r.asker("tcp", r.tcp).ask("GET", "/ws", ""); status != http.StatusUpgradeRequired || e.Code != "upgrade_required" {
		t.Errorf("%d %+v", status, e)
	}
	if _, err := r.runner.Start(t.Context(), runner.Actor{}, runner.StartRequest{Job: "none"}); err == nil {
		t.Error("none ran")
	}
}
