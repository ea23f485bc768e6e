package api

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"net"
	"os"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"saltpeter/runner"
	"saltpeter/runner/ledger"
)

func (r *rig) killed(q KillRequest) []runner.Receipt {
	r.t.Helper()
	var receipts []runner.Receipt
	if err := r.client.Kill(r.t.Context(), q, func(rc runner.Receipt) error { receipts = append(receipts, rc); return nil }); err != nil {
		r.t.Fatal(err)
	}
	return receipts
}

func TestRunKillAndLook(t *testing.T) {
	r := newRig(t)
	id := r.run("sleeper", ledger.Running)
	ctx := t.Context()
	status, err := r.client.Status(ctx)
	if err != nil || len(status.Tasks) != 1 || status.Tasks[0].Run != id.Run || len(status.Jobs) != len(r.set.Order) || status.Maintenance.Machines == nil {
		t.Fatalf("status %+v, %v", status, err)
	}
	for name, do := range map[string]func(func(runner.Answer) error) error{
		"pause": func(on func(runner.Answer) error) error {
			return r.client.Pause(ctx, PauseRequest{Selection: Selection{Name: "sleeper"}, TTL: Duration(time.Hour)}, on)
		},
		"signal": func(on func(runner.Answer) error) error {
			return r.client.Signal(ctx, SignalRequest{Selection: Selection{Run: id.Run}, Signal: "CONT", Scope: "all"}, on)
		},
	} {
		n := 0
		if err := do(func(a runner.Answer) error {
			n++
			if !a.OK || a.Run != id.Run {
				t.Errorf("%s: %+v", name, a)
			}
			return nil
		}); err != nil || n != 1 {
			t.Errorf("%s: %d answers, %v", name, n, err)
		}
	}
	if err := r.client.Resume(ctx, Selection{All: true}, func(runner.Answer) error { return nil }); err != nil {
		t.Error(err)
	}
	if dry := r.killed(KillRequest{Selection: Selection{Job: "sleeper"}, DryRun: true}); len(dry) != 1 || dry[0].Outcome != "dry_run" {
		t.Errorf("dry run: %+v", dry)
	}
	if rc := r.killed(KillRequest{Selection: Selection{Job: "sleeper", Machine: id.Machine}}); len(rc) != 1 || rc[0].Outcome != "gone" || *rc[0].ExitCode != 143 {
		t.Errorf("receipts %+v", rc)
	}
	page, err := r.client.Runs(ctx, ledger.RunFilter{Job: "sleeper", States: []ledger.State{ledger.Killed}, Machine: id.Machine})
	if err != nil || len(page.Runs) != 1 || page.Runs[0].Tasks[0].State != ledger.Killed {
		t.Errorf("runs %+v, %v", page, err)
	}
	_, _, audit := r.asker("unix", r.socket).ask("GET", "/api/v1/audit", "")
	for _, want := range []string{`"what":"kill"`, `"what":"pause for 1h`, `"what":"signal CONT"`, `"what":"run"`, "unix pid " + strconv.Itoa(os.Getpid())} {
		if !strings.Contains(audit, want) {
			t.Errorf("the audit log lacks %s: %s", want, audit)
		}
	}
}

// What is asked wrongly changes nothing and is told why.
func TestBadRequests(t *testing.T) {
	r := newRig(t)
	id := r.run("sleeper", ledger.Running)
	a := r.asker("unix", r.socket)
	for _, c := range []struct {
		path, body string
		status     int
		text       string
	}{
		{"/api/v1/kill", ``, 400, "names no task"},
		{"/api/v1/kill", `{}`, 400, "names no task"},
		{"/api/v1/kill", `null`, 400, "names no task"},
		{"/api/v1/kill", `{"all":false}`, 400, "names no task"},
		{"/api/v1/kill", `{"older_than":0}`, 400, "names no task"},
		{"/api/v1/kill", `{"older_than":-1}`, 400, "negative"},
		{"/api/v1/kill", `{"older_than":"-1s"}`, 400, "negative"},
		{"/api/v1/kill", `{"all":true,"older_than":1e300}`, 400, "century"},
		{"/api/v1/kill", `{"job":"sleeper","older_than":"soon"}`, 400, "not a duration"},
		{"/api/v1/kill", `{"job":"sleeper","machines":["other"]}`, 400, "machines"},
		{"/api/v1/kill", `{"job":"sleeper","grace":-1}`, 400, "negative"},
		{"/api/v1/kill", `{"job":"sleeper","signal":"NOPE"}`, 400, "no signal"},
		{"/api/v1/kill", `{"job":"sleeper","states":["asleep"]}`, 400, "no state"},
		{"/api/v1/kill", `{"job":"sleeper"} {"job":"hello"}`, 400, "follows"},
		{"/api/v1/kill", `{"job":"sleeper"`, 400, "JSON"},
		{"/api/v1/kill", `["sleeper"]`, 400, "JSON"},
		{"/api/v1/kill", `{"job":"hello"}`, 404, "not running"},
		{"/api/v1/kill", `{"name":"nothing"}`, 404, "no job and no run"},
		{"/api/v1/kill", `{"job":"` + strings.Repeat("x", mostBody) + `"}`, 413, "larger"},
		{"/api/v1/signal", `{"job":"sleeper"}`, 400, "no signal"},
		{"/api/v1/signal", `{"job":"sleeper","signal":"USR1","scope":"some"}`, 400, "no scope"},
		{"/api/v1/pause", `{"job":"sleeper","ttl":-5}`, 400, "negative"},
		{"/api/v1/jobs/sleeper/run", `{"force":"yes"}`, 400, "JSON"},
		{"/api/v1/jobs/sleeper/run", `{"machine":"m"}`, 400, "machine"},
		{"/api/v1/jobs/sleeper/run", ``, 409, "not over"},
		{"/api/v1/jobs/sleper/run", ``, 404, "no job"},
		{"/api/v1/runs/" + id.Run + "/forget", ``, 404, "no lost task"},
	} {
		status, e, _ := a.ask("POST", c.path, c.body)
		if status != c.status || !strings.Contains(e.Text, c.text) {
			t.Errorf("%s %.60s: %d %+v, not %d …%s…", c.path, c.body, status, e, c.status, c.text)
		}
	}
	for _, path := range []string{
		"/api/v1/runs?limit=-1", "/api/v1/runs?limit=x", "/api/v1/runs?since=yesterday", "/api/v1/runs?since=-5m", "/api/v1/runs?cursor=x", "/api/v1/runs?state=asleep",
		"/api/v1/runs/" + id.Run + "/tasks/" + id.Machine + "/output?offset=-1", "/api/v1/runs/" + id.Run + "/tasks/" + id.Machine + "/output?follow=maybe",
	} {
		if status, e, _ := a.ask("GET", path, ""); status != 400 || e.Code != "bad_request" {
			t.Errorf("%s: %d %+v", path, status, e)
		}
	}
	for _, path := range []string{"/api/v1/runs?limit=0", "/api/v1/runs?since=2026-01-02T15:04:05+02:00", "/api/v1/runs?since=1d&until=5m&limit=100000", "/api/v1/runs?state=running,succeeded"} {
		if status, e, _ := a.ask("GET", path, ""); status != 200 {
			t.Errorf("%s: %d %+v", path, status, e)
		}
	}
	if state := r.task(id).State; state != ledger.Running {
		t.Errorf("it is %s", state)
	}
}

func TestPages(t *testing.T) {
	r := newRig(t)
	const n = 7
	for i := range n {
		at := time.Unix(int64(1700000000+i), 0)
		if _, err := r.book.Apply(t.Context(), ledger.Begun{Run: ledger.Run{ID: "hello_" + strconv.Itoa(1700000000+i), Job: "hello", Due: at, Fired: at, Trigger: ledger.TriggerManual, Reason: ledger.ReasonNoMachines}}); err != nil {
			t.Fatal(err)
		}
	}
	seen := map[string]bool{}
	for cursor, pages := "", 0; ; pages++ {
		page, err := r.client.Runs(t.Context(), ledger.RunFilter{Limit: 3, Cursor: cursor})
		if err != nil || len(page.Runs) == 0 || len(page.Runs) > 3 || pages > n {
			t.Fatalf("%+v, %v", page, err)
		}
		for _, run := range page.Runs {
			if seen[run.ID] || run.Tasks == nil {
				t.Errorf("%+v", run)
			}
			seen[run.ID] = true
		}
		if cursor = page.Next; cursor == "" {
			break
		}
	}
	if len(seen) != n {
		t.Errorf("%d runs", len(seen))
	}
	// Times are not cut to seconds on their way.
	page, err := r.client.Runs(t.Context(), ledger.RunFilter{Since: time.Unix(1700000002, 1), Until: time.Unix(1700000004, 1)})
	if err != nil || len(page.Runs) != 2 {
		t.Errorf("%d runs, %v", len(page.Runs), err)
	}
}

// A client that hangs up has asked all the same.
func TestKillOutlivesItsClient(t *testing.T) {
	r := newRig(t)
	id := r.run("sleeper", ledger.Running)
	c, err := net.Dial("unix", r.socket)
	if err != nil {
		t.Fatal(err)
	}
	body := `{"job":"sleeper"}`
	io.WriteString(c, "POST /api/v1/kill HTTP/1.1\r\nHost: x\r\nContent-Length: "+strconv.Itoa(len(body))+"\r\n\r\n"+body)
	c.Close()
	r.await("its end", func() bool { return r.task(id).State == ledger.Killed })
}

// A server that stops while receipts are outstanding does not end the list as if
// it were complete: the API is shut down first, or the runner is.
func TestStopInTheMiddleOfAKill(t *testing.T) {
	for _, first := range []string{"api", "runner"} {
		t.Run(first, func(t *testing.T) {
			r := newRig(t)
			r.configure(jobFiles + "stubborn: {command: \"trap '' TERM; echo ready; while :; do sleep 0.1; done\", schedule: '@yearly', targets: '*', kill_grace: 5m}\n")
			id := r.run("stubborn", ledger.Running)
			r.await("the trap", func() bool { return r.output(id) == "ready\n" })
			type result struct {
				receipts []runner.Receipt
				err      error
			}
			done := make(chan result, 1)
			go func() {
				var got result
				got.err = r.client.Kill(context.Background(), KillRequest{Selection: Selection{Run: id.Run}}, func(rc runner.Receipt) error {
					got.receipts = append(got.receipts, rc)
					return nil
				})
				done <- got
			}()
			r.await("it is asked", func() bool { return r.task(id).State == ledger.Stopping })
			if first == "api" {
				r.shutdown()
			} else {
				r.stopRunner()
			}
			got := <-done
			var gone *Unreachable
			complete := len(got.receipts) == 1 && got.err == nil && got.receipts[0].Pending
			if first == "api" && !errors.As(got.err, &gone) || first == "runner" && !complete {
				t.Errorf("%+v", got)
			}
			identity := r.task(id).Identity
			if first == "runner" { // nobody is left to kill it
				syscall.Kill(identity.WrapperPID, syscall.SIGKILL)
				syscall.Kill(-identity.PID, syscall.SIGKILL)
			}
		})
	}
}

func TestReadyOnlyWhileTheRunnerIs(t *testing.T) {
	r := newRig(t)
	a := r.asker("unix", r.socket)
	if status, _, _ := a.ask("GET", "/readyz", ""); status != 200 {
		t.Errorf("ready: %d", status)
	}
	r.stopRunner()
	if status, e, _ := a.ask("GET", "/readyz", ""); status != 503 || e.Code != "not_ready" {
		t.Errorf("not ready: %d %+v", status, e)
	}
	if status, _, _ := a.ask("GET", "/healthz", ""); status != 200 {
		t.Errorf("health: %d", status)
	}
}

func FuzzSelection(f *testing.F) {
	for _, s := range []string{`{}`, `{"job":"a"}`, `{"older_than":"1h30m","states":["running"]}`, `{"older_than":-1}`, `{"older_than":1e400}`, `{"all":true,"x":1}`, `{"grace":0.5,"run":"a_1"}`, `{"grace":null,"name":"x"}`, `[]`, `{"older_than":"99999999999d"}`} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		var q KillRequest
		if json.Unmarshal(data, &q) != nil {
			return
		}
		if q.OlderThan < 0 || q.Grace != nil && *q.Grace < 0 {
			t.Fatalf("a negative duration from %s", data)
		}
		s, err := q.selector()
		empty := s.Name == "" && s.Job == "" && s.Run == "" && s.Machine == "" && len(s.States) == 0 && !s.Failed && s.OlderThan == 0 && !s.All
		if (err != nil) != empty {
			t.Fatalf("%s: %+v, %v", data, s, err)
		}
		again, err := json.Marshal(q)
		if err != nil {
			t.Fatal(err)
		}
		var back KillRequest
		if err := json.Unmarshal(again, &back); err != nil {
			t.Fatalf("%s became %s: %v", data, again, err)
		}
		if _, err := back.selector(); (err != nil) != empty {
			t.Fatalf("%s became %s", data, again)
		}
	})
}
