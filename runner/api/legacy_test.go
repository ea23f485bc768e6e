package api

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"strings"
	"testing"
	"time"

	"saltpeter/runner/ledger"
	"saltpeter/wsx"
)

// old asks one of the old routes, as curl would.
func (r *rig) old(method, path, body string, status int) map[string]any {
	r.t.Helper()
	got, _, text := r.asker("tcp", r.tcp).ask(method, path, body)
	if got != status {
		r.t.Errorf("%s %s answers %d, not %d: %s", method, path, got, status, text)
	}
	var v map[string]any
	if err := json.Unmarshal([]byte(text), &v); err != nil {
		r.t.Errorf("%s %s: %v: %s", method, path, err, text)
	}
	for _, secret := range secrets {
		if strings.Contains(text, secret) {
			r.t.Errorf("%s %s shows %s", method, path, secret)
		}
	}
	var f faults
	if status == 200 {
		nulls(&f, path, v)
	}
	if len(f) > 0 {
		r.t.Errorf("%v in %s", f, text)
	}
	return v
}

func TestOldRoutes(t *testing.T) {
	r := newRig(t)
	if v := r.old("GET", "/version", "", 200); v["version"] != "1.2.3" || v["last_build"] == "" {
		t.Errorf("version %v", v)
	}
	if v := r.old("GET", "/config", "", 200); v["crons"].(map[string]any)["hello"].(map[string]any)["group"] != "jobs" || v["maintenance"] == nil || v["serial"] == nil {
		t.Errorf("config %v", v)
	}
	if v := r.old("GET", "/running", "", 200); len(v) != 0 {
		t.Errorf("running %v", v)
	}
	r.old("POST", "/kill", `{"job":"none"}`, 404)
	r.old("POST", "/kill", `{"job":"sleeper"}`, 404+5)
	r.old("POST", "/kill", `{}`, 400)
	r.old("POST", "/kill", `{"all":true}`, 400)
	hello, id := r.run("hello", ledger.Succeeded), r.run("sleeper", ledger.Running)
	run := r.old("GET", "/running", "", 200)[id.Run].(map[string]any)
	if run["name"] != "sleeper" || fmt.Sprint(run["machines"]) != "["+id.Machine+"]" || run["started"] == "" {
		t.Errorf("running %v", run)
	}
	v := r.old("GET", "/status", "", 200)
	state := v["state"].(map[string]any)
	live, over := state["sleeper"].(map[string]any), state["hello"].(map[string]any)
	if v["running"].(map[string]any)[id.Run] == nil || live["results"].(map[string]any)[id.Machine].(map[string]any)["retcode"] != "" ||
		over["results"].(map[string]any)[hello.Machine].(map[string]any)["retcode"] != 0.0 || over["last_run"] == nil || over["next_run"] == nil {
		t.Errorf("status %v", v)
	}
	if content := r.old("GET", "/timeline?start_date=now-1h&id=3", "", 200)["content"].([]any); len(content) != 3 {
		t.Errorf("timeline %v", content)
	}
	r.old("GET", "/timeline?start_date=then", "", 400)
	if v := r.old("POST", "/kill", `{"job":"sleeper"}`, 200); v["status"] != "ok" || v["message"] != "Kill signal sent to job: sleeper" {
		t.Errorf("kill %v", v)
	}
	r.await("its end", func() bool { return r.task(id).State == ledger.Killed })
	if v := r.old("GET", "/running", "", 200); len(v) != 0 {
		t.Errorf("running %v", v)
	}
}

// Pages of other origins may read and ask only if they are listed.
func TestOrigins(t *testing.T) {
	r := newRig(t)
	r.configure(strings.Replace(jobFiles, "saltpeter_config:", "saltpeter_config:\n  api_ws_allowed_hosts: [listed.example]", 1))
	ask := func(method, path, origin string) *http.Response {
		req, err := http.NewRequestWithContext(t.Context(), method, "http://"+r.tcp+path, nil)
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Origin", origin)
		if method == http.MethodOptions {
			req.Header.Set("Access-Control-Request-Method", "POST")
		}
		resp, err := r.asker("tcp", r.tcp).http.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		return resp
	}
	for _, path := range []string{"/status", "/kill", "/api/v1/status"} {
		resp := ask(http.MethodOptions, path, "https://listed.example")
		if resp.StatusCode != 204 || resp.Header.Get("Access-Control-Allow-Origin") != "https://listed.example" || !strings.Contains(resp.Header.Get("Access-Control-Allow-Methods"), "POST") || resp.Header.Get("Vary") == "" {
			t.Errorf("before %s: %d %v", path, resp.StatusCode, resp.Header)
		}
		for _, origin := range []string{"https://other.example", "https://listed.example.evil.example", "null", "https://evil.example/listed.example"} {
			if resp := ask(http.MethodOptions, path, origin); resp.Header.Get("Access-Control-Allow-Origin") != "" || resp.StatusCode < 400 {
				t.Errorf("before %s, from %s: %d %v", path, origin, resp.StatusCode, resp.Header)
			}
		}
	}
	if resp := ask("GET", "/status", "http://listed.example:8080"); resp.StatusCode != 200 || resp.Header.Get("Access-Control-Allow-Origin") != "http://listed.example:8080" {
		t.Errorf("listed: %d %v", resp.StatusCode, resp.Header)
	}
	if resp := ask("GET", "/status", "https://other.example"); resp.StatusCode != 403 || resp.Header.Get("Access-Control-Allow-Origin") != "" {
		t.Errorf("other: %d %v", resp.StatusCode, resp.Header)
	}
	if resp := ask("GET", "/status", "http://"+r.tcp); resp.StatusCode != 200 || resp.Header.Get("Access-Control-Allow-Origin") != "" {
		t.Errorf("our own: %d %v", resp.StatusCode, resp.Header)
	}
	// The same for connections.
	if _, err := r.tryView(r.tcp, pageKinds[0], "Origin", "https://other.example"); err == nil {
		t.Error("another origin came in")
	}
	r.view(pageKinds[0], "Origin", "https://listed.example").until("a status", func(p *oldPage) bool { return p.last != nil })
	r.view(pageKinds[0], "Origin", "http://"+r.tcp).until("a status", func(p *oldPage) bool { return p.last != nil })
	// A rebound name is none of ours.
	conn, err := wsx.Dial(t.Context(), wsx.DialOptions{URL: "ws://" + r.tcp + "/ws", Header: http.Header{"Host": {"rebound.example"}}})
	if err == nil {
		conn.Close("")
		t.Error("a name that is none of ours was let in")
	}
}

// Through a proxy the connection is upgraded as without, and is not this machine's.
func TestPageThroughProxy(t *testing.T) {
	r := newRig(t)
	id := r.run("sleeper", ledger.Running)
	behind, err := url.Parse("http://" + r.tcp)
	if err != nil {
		t.Fatal(err)
	}
	proxy := httptest.NewServer(&httputil.ReverseProxy{Rewrite: func(p *httputil.ProxyRequest) { p.SetURL(behind); p.SetXForwarded(); p.Out.Host = p.In.Host }})
	defer proxy.Close()
	addr := strings.TrimPrefix(proxy.URL, "http://")
	v, err := r.tryView(addr, pageKinds[0], "Origin", proxy.URL)
	if err != nil {
		t.Fatal(err)
	}
	v.open("sleeper")
	v.shows(spot{"sleeper", id.Machine}, id.Run, "working\n")
	v.say(map[string]any{"killCron": "sleeper"})
	if f := v.answer("result", nil); f["code"] != "forbidden" || !strings.Contains(fmt.Sprint(f["hint"]), "api_anonymous_role: operate") {
		t.Errorf("a kill through a proxy: %v", f)
	}
	if status, e, _ := r.asker("tcp", addr).ask("POST", "/kill", `{"job":"sleeper"}`); status != 403 || e.Code != "forbidden" {
		t.Errorf("a kill through a proxy: %d %v", status, e)
	}
	if state := r.task(id).State; state != ledger.Running {
		t.Errorf("the task is %s", state)
	}
	r.configure(strings.Replace(jobFiles, "saltpeter_config:", "saltpeter_config:\n  api_anonymous_role: operate", 1))
	v.mu.Lock()
	v.frames = nil
	v.mu.Unlock()
	v.say(map[string]any{"killCron": "sleeper"})
	v.answer("receipt", func(f map[string]any) bool { return f["outcome"] == "gone" })
	entries, err := r.book.Audit(t.Context(), time.Time{}, 10)
	if err != nil {
		t.Fatal(err)
	}
	var who []string
	for _, e := range entries {
		who = append(who, e.What+" by "+e.Who+" from "+e.From)
	}
	if !strings.Contains(strings.Join(who, "\n"), "(through a proxy)") {
		t.Errorf("the audit log says %v", who)
	}
}
