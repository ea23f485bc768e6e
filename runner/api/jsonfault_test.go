package api

import (
	"strings"
	"testing"

	"saltpeter/wsx"
)

// What is wrong with a request is told by its key and what that takes, in words of
// people, never in those of the decoder.
func TestFaultsOfRequests(t *testing.T) {
	r := newRig(t)
	a := r.asker("unix", r.socket)
	for _, c := range []struct{ path, body, want string }{
		{"/kill", `{"job":5}`, `"job" must be text in quotes, like "this", and is a number`},
		{"/kill", `[1]`, `it must be an object, like {"job":…}, and is a list`},
		{"/api/v1/kill", `{"states":"running"}`, `"states" must be a list of texts, like ["this"], and is text`},
		{"/api/v1/kill", `{"states":[true]}`, `must be text in quotes, like "this", and is true or false`},
		{"/api/v1/kill", `{"all":"yes"}`, `"all" must be true or false, and is text`},
		{"/api/v1/kill", `{"jbo":"hello"}`, `it has the key "jbo", which nobody knows here; the keys are name, job, run, machine,`},
		{"/api/v1/kill", `{"job":"hello","grace":[]}`, `"grace": a duration is a number of seconds or text like "90s"`},
		{"/api/v1/kill", `{"job":"hello","older_than":-1}`, `"older_than": -1 is no duration`},
		{"/api/v1/pause", `{"job":"hello","ttl":{}}`, `"ttl": a duration is`},
		{"/api/v1/kill", `{"job":"hello"`, `it ends in the middle`},
		{"/api/v1/kill", `"`, `it ends in the middle`},
		{"/api/v1/kill", `{'job':'hello'}`, `it is not JSON: invalid character '\''`},
		{"/api/v1/kill", `{"job":"hello"}{}`, `something follows its end`},
		{"/api/v1/runs/none/forget", `{"x":1}`, `it has the key "x", and takes none: send {}`},
		{"/api/v1/jobs/hello/run", `{"machines":"web1"}`, `"machines" must be a list of texts, like ["this"], and is text`},
	} {
		status, e, _ := a.ask("POST", c.path, c.body)
		if status != 400 || e == nil || !strings.Contains(e.Text, c.want) || strings.Contains(e.Text, "unmarshal") {
			t.Errorf("%s %s: %d %+v, not %s", c.path, c.body, status, e, c.want)
		}
	}
}

// What a page is refused names what its frames take, and no verb of the command line.
func TestFaultsOfFrames(t *testing.T) {
	r := newRig(t)
	r.configure(jobFiles)
	r.run("sleeper", "running")
	v := r.view(pageKinds[0])
	for n, c := range []struct{ frame, want, hint string }{
		{`{"killMachine":{"cron":5,"machine":"m"}}`, `"cron" must be text in quotes`, ""},
		{`{"killCron":["a"]}`, `must be text in quotes, like "this", and is a list`, ""},
		{`{"killCron":""}`, `the name is empty`, ""},
		{`[1]`, `must be an object, like {"subscribe":…}, and is a list`, ""},
		{`{"run"`, `it ends in the middle`, ""},
		{`{"start":"a"}`, `the keys are subscribe, unsubscribe, ack, run, killCron, killMachine, getTimeline`, ""},
		{`{"getTimeline":{"start_date":5}}`, `"start_date" must be text in quotes`, ""},
		{`{"run":"nosuch"}`, `there is no job`, "crons in the config frame"},
		{`{"subscribe":"nosuch"}`, `there is no job`, "crons in the config frame"},
		{`{"killCron":"hello"}`, `is not running`, "status frames"},
		{`{"run":"sleeper"}`, `not over`, `{"killCron":JOB}`},
	} {
		v.conn.Write(wsx.Text, []byte(c.frame))
		r.await("the answer to "+c.frame, func() bool { return v.count("result") == n+1 })
		v.mu.Lock()
		var last map[string]any
		for _, f := range v.frames {
			if f["type"] == "result" {
				last = f
			}
		}
		v.mu.Unlock()
		text, _ := last["error"].(string)
		hint, _ := last["hint"].(string)
		if !strings.Contains(text, c.want) || !strings.Contains(hint, c.hint) || strings.Contains(text+hint, "saltpeter ") || strings.Contains(text, "unmarshal") {
			t.Errorf("%s: %q, hint %q; not %q, %q", c.frame, text, hint, c.want, c.hint)
		}
	}
}
