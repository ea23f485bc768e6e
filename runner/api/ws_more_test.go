package api

import (
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"saltpeter/config/targets"
	"saltpeter/runner"
	"saltpeter/runner/ledger"
	"saltpeter/wsx"
)

// Several machines in batches, one that can't be reached, and one in maintenance.
func TestPageManyMachines(t *testing.T) {
	r := newRig(t)
	r.configure(`
saltpeter_machines: {a: {local: true}, b: {local: true}, c: {local: true}, far: {ssh: "nobody@127.0.0.1:1"}}
wide:
  command: echo on $SP_MACHINE_ID; while [ ! -e GOFILE.$SP_MACHINE_ID ]; do sleep 0.05; done
  schedule: '@yearly'
  targets: '*'
  batch_size: 2
`)
	v := r.view(pageKinds[1])
	v.open("wide")
	v.until("all machines", func(p *oldPage) bool { return p.details != nil && len(p.details["targets"].([]any)) == 4 })
	run, err := r.client.RunJob(t.Context(), "wide", RunRequest{})
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range []string{"a", "b"} {
		v.shows(spot{"wide", m}, run.ID, "on "+m+"\n")
	}
	v.until("that the others wait", func(p *oldPage) bool {
		results := p.details["results"].(map[string]any)
		return results["a"] != nil && results["b"] != nil && results["c"] == nil && len(p.details["targets"].([]any)) == 4
	})
	r.goOn("a")
	r.goOn("b")
	v.shows(spot{"wide", "c"}, run.ID, "on c\n")
	v.until("what became of the others", func(p *oldPage) bool {
		results := p.details["results"].(map[string]any)
		far, _ := results["far"].(map[string]any)
		a, _ := results["a"].(map[string]any)
		return far != nil && far["retcode"] == 255.0 && a["retcode"] == 0.0
	})
	// One machine is killed; its name is a name.
	v.say(map[string]any{"killMachine": map[string]any{"cron": "wide", "machine": "?"}})
	if f := v.answer("result", nil); f["code"] != "nothing_running" {
		t.Errorf("a pattern: %v", f)
	}
	v.say(map[string]any{"killMachine": map[string]any{"cron": "wide", "machine": "c"}})
	v.answer("receipt", func(f map[string]any) bool { return f["machine"] == "c" && f["outcome"] == "gone" })
	v.until("that nothing runs", func(p *oldPage) bool {
		return len(p.runNow) == 0 && p.last["wide"].(map[string]any)["result_ok"] == false
	})
}

// A task of an earlier run that ends after the next one has begun stays to be seen.
func TestViewOfEarlierRun(t *testing.T) {
	code := 0
	old, head := taskStatus("j", "x", "j_1", ledger.Succeeded), taskStatus("j", "m", "j_2", ledger.Running)
	old.ExitCode = &code
	tasks := map[ledger.TaskID]*runner.TaskStatus{old.TaskID: old, head.TaskID: head}
	v := viewJob(&ledger.Run{ID: "j_2", Job: "j"}, tasks, false, 1, func(ledger.TaskID) *text { return nil })
	if len(v.targets) != 2 || len(v.texts) != 2 || len(v.running) != 1 || v.running[0].id != "j_2" || !v.last.ResultOK {
		t.Errorf("%+v", v)
	}
}

func TestExactly(t *testing.T) {
	for _, name := range []string{"web1", "w*", "w?b", "[ab]", "]", "[", "[!a]", "a]b[", "web[01]*?"} {
		expr, err := targets.Parse("glob", exactly(name))
		if err != nil {
			t.Errorf("%q: %v", name, err)
			continue
		}
		for _, other := range []string{"web1", "w*", "w?b", "wxb", "[ab]", "a", "]", "[", "[!a]", "b", "a]b[", "web[01]*?", "web0xx"} {
			if expr.Match(targets.Machine{Name: other}) != (name == other) {
				t.Errorf("%q as a pattern is %q, and %q matches: %t", name, exactly(name), other, name != other)
			}
		}
	}
}

// A page that takes nothing any more can still kill.
func TestDeafPageKills(t *testing.T) {
	r := newRig(t)
	r.configure(jobFiles + "storm:\n  command: seq 1 2000000; sleep 300\n  schedule: '@yearly'\n  targets: '*'\n")
	id := r.run("storm", ledger.Running)
	conn, err := wsx.Dial(t.Context(), wsx.DialOptions{URL: "ws://" + r.tcp + "/ws"})
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close("")
	conn.Write(wsx.Text, []byte(`{"subscribe":"storm"}`))
	r.await("more output than any buffer takes", func() bool { return r.task(id).Length > 8<<20 })
	conn.Write(wsx.Text, []byte(`{"killCron":"storm"}`))
	r.await("its end", func() bool { return r.task(id).State == ledger.Killed })
}

// A page on its second visit to a job that prints without end still gets statuses.
func TestSecondVisitToAStorm(t *testing.T) {
	r := newRig(t)
	r.configure(jobFiles + "drizzle:\n  command: i=0; while [ $i -lt 100000 ]; do i=$((i+1)); echo line $i; sleep 0.01; done\n  schedule: '@yearly'\n  targets: '*'\n")
	id := r.run("drizzle", ledger.Running)
	at := spot{"drizzle", id.Machine}
	v := r.view(pageKinds[0])
	v.open("drizzle")
	v.until("some lines", func(p *oldPage) bool { return len(p.texts[at]) > 100 })
	v.leave("drizzle")
	v.open("drizzle")
	for range 3 {
		n := v.count("status")
		v.until("another status and the text behind it", func(p *oldPage) bool {
			statuses := 0
			for _, kind := range v.types {
				if kind == "status" {
					statuses++
				}
			}
			return statuses > n && strings.HasPrefix(p.texts[at], "line 1\nline 2\n") && len(p.texts[at]) > 100
		})
	}
}

// A task whose wrapper comes back after its end was told has more to say than a page
// was told: the page begins anew.
func TestPageIsToldOfMore(t *testing.T) {
	p := newPage(false)
	p.visit("j")
	view := map[string]*jobView{"j": {texts: []runningTask{{status: taskStatus("j", "m", "j_1", ledger.Unknown)}}}}
	if owed := p.owes(view); len(owed) != 0 {
		t.Fatalf("a fresh page owes %v", owed)
	}
	c := p.copies[spot{"j", "m"}]
	c.sent(point{10, 10}, true)
	c.final, c.spoiled = 10, true
	owed := p.owes(view)
	if len(owed) != 1 {
		t.Fatal("nothing is owed")
	}
	p.status([]runView{{id: "j_1", Name: "j", Machines: []string{"m"}}})
	if c.spoiled || c.at() != (point{}) || c.complete {
		t.Errorf("after its status: %+v", c)
	}
	p.status(nil)
	if len(p.owes(view)) != 0 || c.behind() {
		t.Errorf("it owes more: %+v", c)
	}
}

// Whatever the page expects of what it may expect, chunks that begin where copyOf
// says and end where it says leave no gap.
func TestCopies(t *testing.T) {
	c := newCopy("r")
	pages := map[int64]bool{0: true} // what pages may expect
	send := func(n int64) {
		from := c.at()
		to := min(from.pos+n, c.stop())
		if pages[from.pos] {
			delete(pages, from.pos)
			pages[to] = true
		}
		for at := range pages {
			if at < to && at > from.pos {
				t.Fatalf("a chunk from %d to %d passes a page that expects %d", from.pos, to, at)
			}
		}
		c.sent(point{to, to}, false)
	}
	empty := func() { // some pages emptied their text, others did not
		c.mayBeEmpty()
		pages[0] = true
	}
	for i := range int64(200) {
		send(i % 7)
		if i%5 == 0 {
			empty()
		}
	}
	for c.behind() {
		send(1000)
	}
	if len(pages) != 1 || !pages[c.at().pos] {
		t.Errorf("pages expect %v, and it goes on at %d", pages, c.at().pos)
	}
}

func FuzzMoment(f *testing.F) {
	for _, s := range []string{"now", "now-5m", "now+1d-2h", "2026-01-02T03:04:05Z", "now-", "now-9999999y"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) { _, _ = parseMoment(s, time.Unix(1e9, 0)) })
}

func FuzzText(f *testing.F) {
	f.Add([]byte("a\xf0\x9f\x98\x80\"\\\n\xff"), 3)
	f.Fuzz(func(t *testing.T, b []byte, cut int) {
		frame, used, units := appendText([]byte{'"'}, b, false)
		used2, units2 := countUnits(b, false)
		frame, rest, more := appendText(frame, b[used:], true)
		if used != used2 || units != units2 || used+rest != len(b) {
			t.Fatal("the two do not agree")
		}
		var s string
		if err := json.Unmarshal(append(frame, '"'), &s); err != nil || s != rendered(b) || units16(s) != units+more {
			t.Fatalf("%q becomes %q, %v", b, s, err)
		}
	})
}

func taskStatus(job, machine, run string, state ledger.State) *runner.TaskStatus {
	return &runner.TaskStatus{Task: ledger.Task{TaskID: ledger.TaskID{Run: run, Machine: machine}, Job: job, State: state}}
}

// Whatever a page says, it is an answer that comes of it and no harm.
func FuzzAsk(f *testing.F) {
	for _, s := range []string{`{"subscribe":["a"]}`, `{"ack":{"cron":"a","machine":"m","position":7}}`, `{"killMachine":{"cron":"a","machine":"*","job_instance":null}}`, `[]`, `{"run":{}}`, `{"getTimeline":{"start_date":"now"}}`} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		var a ask
		if json.Unmarshal(data, &a) != nil {
			return
		}
		for _, raw := range []json.RawMessage{a.Subscribe, a.Run, a.KillCron} {
			if raw == nil {
				continue
			}
			if names, err := jobNames(raw); err == nil && slices.Contains(names, "") {
				t.Fatalf("%q names nothing", raw)
			}
		}
		var q timelineAsk
		if a.GetTimeline != nil && json.Unmarshal(a.GetTimeline, &q) == nil {
			_, _, _ = q.span(time.Unix(1e9, 0))
		}
	})
}

// While a run goes on, the verdict over its job is that of the last one that ended,
// also for a page that comes only then.
func TestVerdictWhileRunning(t *testing.T) {
	r := newRig(t)
	const often = "often:\n  command: 'while [ ! -e GOFILE.$SP_JOB_INSTANCE ]; do sleep 0.05; done; exit $(cat GOFILE.$SP_JOB_INSTANCE)'\n" +
		"  schedule: '@yearly'\n  targets: '*'\n  on_overlap: allow\n"
	r.configure(jobFiles + often)
	v := r.view(pageKinds[0])
	shows := func(v *viewer, what string, running int, ok bool) {
		t.Helper()
		v.until(what, func(p *oldPage) bool {
			last, _ := p.last["often"].(map[string]any)
			return len(p.runNow) == running && last != nil && last["result_ok"] == ok
		})
	}
	end := func(id ledger.TaskID, code string) {
		t.Helper()
		path := filepath.Join(r.dir, "go."+id.Run)
		if err := os.WriteFile(path+".new", []byte(code), 0o644); err != nil {
			t.Fatal(err)
		}
		if err := os.Rename(path+".new", path); err != nil {
			t.Fatal(err)
		}
		r.await("its end", func() bool { return r.task(id).State.Done() })
	}
	first := r.run("often", ledger.Running)
	shows(v, "the first run, of which nothing has failed", 1, true)
	end(first, "3")
	shows(v, "that it failed", 0, false)
	second := r.run("often", ledger.Running)
	shows(v, "the failure of the run before", 1, false)
	shows(r.view(pageKinds[1]), "it to who comes now", 1, false)
	third := r.run("often", ledger.Running)
	shows(v, "it still, with two that go on", 2, false)
	end(second, "0")
	shows(v, "the success of the last that ended", 1, true)
	fourth := r.run("often", ledger.Running)
	end(third, "1")
	shows(v, "the next one's failure", 1, false)
	end(fourth, "0")
	shows(v, "the newest run's success", 0, true)
}
