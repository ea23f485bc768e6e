package cmd

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/gorilla/websocket"

	"saltpeter/runner"
	"saltpeter/runner/ledger"
	"saltpeter/wsx/wire"
)

// oldClient is a script or dashboard of the Python program's days: all it knows is
// written down here, and nothing of it comes from this program's packages.
type oldClient struct {
	t    *testing.T
	addr string
}

// oldRunning is what /running has by instance.
type oldRunning map[string]struct {
	Name     string   `json:"name"`
	Started  string   `json:"started"`
	Machines []string `json:"machines"`
}

func (r oldRunning) of(job string) (instance string, machines []string) {
	for id, run := range r {
		if run.Name == job {
			return id, slices.Sorted(slices.Values(run.Machines))
		}
	}
	return "", nil
}

type oldStatus struct {
	Running oldRunning `json:"running"`
	State   map[string]struct {
		NextRun string `json:"next_run"`
		LastRun string `json:"last_run"`
		Results map[string]struct {
			Start   string          `json:"starttime"`
			End     string          `json:"endtime"`
			Ret     *string         `json:"ret"`
			RetCode json.RawMessage `json:"retcode"`
		} `json:"results"`
	} `json:"state"`
}

func (c oldClient) get(path string, v any) {
	c.t.Helper()
	resp, err := http.Get("http://" + c.addr + path)
	if err != nil {
		c.t.Fatal(err)
	}
	defer resp.Body.Close()
	if err := json.NewDecoder(resp.Body).Decode(v); err != nil || resp.StatusCode != http.StatusOK {
		c.t.Fatalf("%s answers %s: %v", path, resp.Status, err)
	}
}

func (c oldClient) postKill(job string) (int, string) {
	c.t.Helper()
	body, _ := json.Marshal(map[string]string{"job": job})
	resp, err := http.Post("http://"+c.addr+"/kill", "application/json", bytes.NewReader(body))
	if err != nil {
		c.t.Fatal(err)
	}
	defer resp.Body.Close()
	text, _ := io.ReadAll(resp.Body)
	return resp.StatusCode, string(text)
}

// oldPage is a connection to /ws. Only one goroutine reads it, the test's own.
type oldPage struct {
	t    *testing.T
	conn *websocket.Conn
	text map[string]string // output by job and machine, as the old page puts it together
}

func (c oldClient) page() *oldPage {
	c.t.Helper()
	conn, _, err := websocket.DefaultDialer.Dial("ws://"+c.addr+"/ws", nil)
	if err != nil {
		c.t.Fatal(err)
	}
	c.t.Cleanup(func() { conn.Close() })
	return &oldPage{t: c.t, conn: conn, text: map[string]string{}}
}

func (p *oldPage) send(v any) {
	p.t.Helper()
	if err := p.conn.WriteJSON(v); err != nil {
		p.t.Fatal(err)
	}
}

// frame is the next one, acknowledged as the old page does.
func (p *oldPage) frame() map[string]json.RawMessage {
	p.t.Helper()
	p.conn.SetReadDeadline(time.Now().Add(killPatience))
	_, data, err := p.conn.ReadMessage()
	if err != nil {
		p.t.Fatal(err)
	}
	f := map[string]json.RawMessage{}
	if err := json.Unmarshal(data, &f); err != nil {
		p.t.Fatalf("a frame is no JSON object: %v: %s", err, data)
	}
	if kindOf(f) == "output_chunk" {
		var chunk struct {
			Cron     string `json:"cron"`
			Machine  string `json:"machine"`
			Chunk    string `json:"chunk"`
			Position int    `json:"position"`
		}
		json.Unmarshal(data, &chunk)
		at := chunk.Cron + " " + chunk.Machine
		if chunk.Position == len(p.text[at]) { // all is ASCII here
			p.text[at] += chunk.Chunk
		}
		p.send(map[string]any{"ack": map[string]any{"cron": chunk.Cron, "machine": chunk.Machine, "position": len(p.text[at])}})
	}
	return f
}

func kindOf(f map[string]json.RawMessage) string { return strings.Trim(string(f["type"]), `"`) }

// until reads on until a frame of a kind says what is wanted.
func (p *oldPage) until(what, kind string, is func(map[string]json.RawMessage) bool) {
	p.t.Helper()
	for end := time.Now().Add(killPatience); ; {
		if f := p.frame(); kindOf(f) == kind && is(f) {
			return
		}
		if time.Now().After(end) {
			p.t.Fatalf("never came: %s", what)
		}
	}
}

// shows reads on until an output reads as it should.
func (p *oldPage) shows(at string, is func(string) bool) {
	p.t.Helper()
	for end := time.Now().Add(killPatience); !is(p.text[at]); p.frame() {
		if time.Now().After(end) {
			p.t.Fatalf("the page shows of %s only %q", at, p.text[at])
		}
	}
}

func TestMigrationOfOldClients(t *testing.T) {
	m := newMigration(t)
	old := oldClient{t, m.address()}
	var version struct {
		Version   string `json:"version"`
		LastBuild string `json:"last_build"`
	}
	if old.get("/version", &version); version.Version == "" || version.LastBuild == "" {
		t.Errorf("/version says %+v", version)
	}
	var config struct {
		Crons map[string]struct {
			Command, Group string
		} `json:"crons"`
		Maintenance struct {
			Global   bool     `json:"global"`
			Machines []string `json:"machines"`
		} `json:"maintenance"`
	}
	old.get("/config", &config)
	if c := config.Crons["rotate"]; len(config.Crons) != 17 || c.Group != "system" || !strings.HasPrefix(c.Command, "echo rotating") ||
		config.Maintenance.Global || !slices.Equal(config.Maintenance.Machines, []string{"old3"}) {
		t.Errorf("/config says %+v", config)
	}
	if status, text := old.postKill("no such job"); status != http.StatusNotFound {
		t.Errorf("killing no job: %d %s", status, text)
	}
	if status, text := old.postKill("both"); status != http.StatusConflict {
		t.Errorf("killing what does not run: %d %s", status, text)
	}

	// Run by the page; one machine killed by the page, the rest by POST /kill.
	page := old.page()
	if first := page.frame(); kindOf(first) != "config" {
		t.Errorf("the first frame is a %s", kindOf(first))
	}
	page.send(map[string]any{"subscribe": []string{"both"}})
	page.send(map[string]string{"run": "both"})
	var instance string
	runs := func(want ...string) func() bool {
		return func() bool {
			var running oldRunning
			old.get("/running", &running)
			id, machines := running.of("both")
			if id != "" {
				instance = id
			}
			return slices.Equal(machines, want)
		}
	}
	m.await("it runs on three", runs("db1", "web1", "web2"))
	page.until("the page shows it", "status", func(f map[string]json.RawMessage) bool {
		return strings.Contains(string(f["running"]), `"`+instance+`"`)
	})
	for _, machine := range []string{"web1", "web2", "db1"} {
		page.shows("both "+machine, func(s string) bool { return s == "here is "+machine+"\n" })
	}
	page.send(map[string]any{"killMachine": map[string]string{"cron": "both", "machine": "web1"}})
	m.await("it runs on two", runs("db1", "web2"))
	status, text := old.postKill("both")
	var said map[string]string
	if json.Unmarshal([]byte(text), &said); status != http.StatusOK || said["status"] != "ok" || said["message"] != "Kill signal sent to job: both" {
		t.Errorf("POST /kill answers %d %s", status, text)
	}
	m.await("it runs nowhere", runs())
	m.soonGone(instance, "web1", "web2", "db1")
	var state oldStatus
	old.get("/status", &state)
	for _, machine := range []string{"db1", "web1", "web2"} {
		if r := state.State["both"].Results[machine]; string(r.RetCode) != "143" || r.Ret == nil || r.Start == "" || r.End == "" {
			t.Errorf("/status says of %s: %+v", machine, r)
		}
	}
	if state.State["both"].NextRun == "" || state.State["both"].LastRun == "" {
		t.Errorf("/status says %+v", state.State["both"])
	}
	page.shows("both web2", func(s string) bool { return strings.Contains(s, "[Job terminated by user request]") })
	m.oldKillCron(page)
	m.oldTimeline(old, page, instance)
}

// oldKillCron kills by {"killCron"} a job that ends in its own way on TERM.
func (m *migration) oldKillCron(page *oldPage) {
	m.t.Helper()
	page.send(map[string]any{"subscribe": "long"})
	page.send(map[string]string{"run": "long"})
	page.shows("long web1", func(s string) bool { return strings.HasPrefix(s, "started long_") })
	page.send(map[string]string{"killCron": "long"})
	page.until("long is not running", "details", func(f map[string]json.RawMessage) bool {
		return string(f["cron"]) == `"long"` && strings.Contains(string(f["data"]), `"retcode":143`)
	})
	page.shows("long web1", func(s string) bool {
		return strings.Contains(s, "cleaning up\n") && strings.HasSuffix(s, "[Job terminated by user request]\n")
	})
	run, _, _ := strings.Cut(strings.TrimPrefix(page.text["long web1"], "started "), "\n")
	m.soonGone(run, "web1")
}

// soonGone compares what the receipts of a run tell with the 5 s that the old roads
// promise for jobs that obey TERM. The time is the server's own, from when it was asked
// for the kill until it had the proof.
func (m *migration) soonGone(run string, machines ...string) {
	m.t.Helper()
	var r *ledger.Run
	m.await("receipts of "+run, func() bool {
		r = m.run(run)
		return !slices.ContainsFunc(r.Tasks, func(t ledger.Task) bool { return t.Kill == nil || t.Kill.Settled.IsZero() })
	})
	if got := machinesOf(r); !slices.Equal(got, slices.Sorted(slices.Values(machines))) {
		m.t.Fatalf("%s ran on %v", run, got)
	}
	for _, task := range r.Tasks {
		var receipt runner.Receipt
		if err := json.Unmarshal(task.Kill.Receipt, &receipt); err != nil || receipt.Outcome != wire.OutcomeGone || receipt.TookMS <= 0 {
			m.t.Errorf("the receipt of %s is %s: %v", task.Machine, task.Kill.Receipt, err)
		}
		took := time.Duration(receipt.TookMS * float64(time.Millisecond))
		if settled := task.Kill.Settled.Sub(task.Kill.Asked); max(took, settled) > 5*time.Second {
			m.t.Errorf("%s on %s: gone after %s, settled after %s", run, task.Machine, took, settled)
		}
	}
}

// oldTimeline asks for the timeline in both ways: as a frame, which has it in
// "timeline", and as a document, which is the same object by itself.
func (m *migration) oldTimeline(old oldClient, page *oldPage, instance string) {
	m.t.Helper()
	type point struct {
		Cron     string          `json:"cron"`
		Instance string          `json:"job_instance"`
		Machine  string          `json:"machine"`
		Kind     string          `json:"msg_type"`
		RetCode  json.RawMessage `json:"ret_code"`
		Time     string          `json:"timestamp"`
	}
	check := func(where string, points []point) {
		kinds := map[string]string{}
		for _, p := range points {
			if p.Instance == instance {
				kinds[p.Machine+" "+p.Kind] = string(p.RetCode)
			}
		}
		for _, machine := range []string{"web1", "web2", "db1"} {
			if _, began := kinds[machine+" machine_start"]; !began || kinds[machine+" machine_result"] != "143" {
				m.t.Errorf("%s has of %s: %v", where, instance, kinds)
			}
		}
	}
	type timeline struct {
		ID      *string `json:"id"`
		Content []point `json:"content"`
		Serial  *int64  `json:"serial"`
	}
	page.send(map[string]any{"getTimeline": map[string]any{"start_date": "now-1h", "end_date": nil, "id": "7"}})
	page.until("the timeline", "timeline", func(f map[string]json.RawMessage) bool {
		var v timeline
		if err := json.Unmarshal(f["timeline"], &v); err != nil || v.ID == nil || *v.ID != "7" || v.Serial == nil {
			m.t.Fatalf("the timeline is %s: %v", f["timeline"], err)
		}
		check("the page's timeline", v.Content)
		return true
	})
	var v timeline
	if old.get("/timeline", &v); v.ID == nil || v.Serial == nil {
		m.t.Errorf("/timeline has %+v", v)
	}
	check("/timeline", v.Content)
}

// The text logs are where log readers look for them, and read as before.
func TestMigrationOfTextLogs(t *testing.T) {
	m := newMigration(t)
	progress, fails, nowhere := m.start("progress"), m.start("fails"), m.start("nowhere")
	long := m.awaitState(m.start("long"), ledger.Running).Run
	m.ended(progress)
	m.ended(fails)
	m.await("long has begun", func() bool { return m.task(long).Length > 0 })
	m.cli(nil, "kill", "long")
	locked := m.start("locked")
	m.await("locked has begun", func() bool { return m.task(locked).Length > 0 })
	m.cli(nil, "kill", "locked")
	const at = ` at \d{4}-\d\d-\d\d \d\d:\d\d:\d\d\S* ################\n`
	block := func(run, machine, code, text string) string {
		return "(?m)^########## " + machine + " from " + run + ` ################\n\*\*\*\* Exit Code ` + code + ` \*\*\*\*\*\*\n` + text +
			"\n*####### END " + machine + " from " + run + strings.Replace(at, "################", "#########", 1)
	}
	bare := m.start("bare")
	for job, want := range map[string]string{
		"bare":     block(bare, "web2", "4", "no wrapper\n"),
		"progress": "###### Starting " + progress + at + `(?s).*\*\*\*\* Exit Code 0 \*\*\*\*\*\*\n100%\ndone\n(?s).*###### Finished ` + progress + at,
		"locked":   block(locked, "db1", "143", `held\n(?s).*\[Job terminated by user request\]\n`),
		"fails":    "###### Starting " + fails + at + `(?s).*\*\*\*\* Exit Code 3 \*\*\*\*\*\*\nno such disk\n(?s).*###### Finished ` + fails + at,
		"nowhere":  "!!!!!! No targets matched for " + nowhere + " !!!!!!\n",
		"long":     `\*\*\*\* Exit Code 143 \*\*\*\*\*\*\nstarted ` + long + `\n(?s).*cleaning up\n.*\[Job terminated by user request\]`,
		"slow":     `###### Overlap detected on slow_\d+` + at,
	} {
		re, path := regexp.MustCompile(want), filepath.Join(m.logs, job+".log")
		m.await(fmt.Sprintf("%s says %s", path, want), func() bool {
			text, _ := os.ReadFile(path)
			return re.Match(text)
		})
	}
}
