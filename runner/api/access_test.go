package api

import (
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// who may what: a route that has no line here fails the test, and so does a line
// without a route. Requests change nothing.
var whoMay = map[string]struct {
	role   Role
	path   string // "" = as in the pattern
	body   string
	status int // for whom may
}{
	"GET /healthz": {nobody, "", "", 200},
	"GET /readyz":  {nobody, "", "", 200},
	"GET /version": {nobody, "", "", 200},
	"GET /metrics": {Read, "", "", 200},

	"GET /ws":       {Read, "", "", 426},
	"GET /config":   {Read, "", "", 200},
	"GET /status":   {Read, "", "", 200},
	"GET /running":  {Read, "", "", 200},
	"GET /timeline": {Read, "", "", 200},
	"POST /kill":    {Operate, "", `{"job":"none"}`, 404},

	"GET /api/v1/status":                            {Read, "", "", 200},
	"GET /api/v1/jobs":                              {Read, "", "", 200},
	"GET /api/v1/jobs/{job}":                        {Read, "/api/v1/jobs/hello", "", 200},
	"GET /api/v1/jobs/{job}/why":                    {Read, "/api/v1/jobs/hello/why", "", 200},
	"GET /api/v1/runs":                              {Read, "", "", 200},
	"GET /api/v1/runs/{run}":                        {Read, "/api/v1/runs/none", "", 404},
	"GET /api/v1/runs/{run}/tasks/{machine}/output": {Read, "/api/v1/runs/none/tasks/m/output", "", 404},
	"GET /api/v1/runs/{run}/tasks/{machine}/rows":   {Read, "/api/v1/runs/none/tasks/m/rows", "", 404},
	"GET /api/v1/skips":                             {Read, "", "", 200},
	"GET /api/v1/events":                            {Read, "", "", 200},
	"GET /api/v1/machines":                          {Read, "", "", 200},
	"POST /api/v1/machines/check":                   {Operate, "", `{"machines":["none"]}`, 404},
	"POST /api/v1/deploy":                           {Operate, "", `{"machines":["none"]}`, 404},
	"GET /api/v1/maintenance":                       {Read, "", "", 200},
	"POST /api/v1/maintenance/on":                   {Operate, "", `{"machines":["none"]}`, 404},
	"POST /api/v1/maintenance/off":                  {Operate, "", `{"machines":["none"]}`, 404},
	"GET /api/v1/config":                            {Read, "", "", 200},
	"POST /api/v1/config/check":                     {Read, "", "{}", 200},
	"POST /api/v1/jobs/{job}/run":                   {Operate, "/api/v1/jobs/none/run", "{}", 404},
	"POST /api/v1/runs/{run}/forget":                {Operate, "/api/v1/runs/none/forget", "", 404},
	"POST /api/v1/kill":                             {Operate, "", `{"job":"none"}`, 404},
	"POST /api/v1/pause":                            {Operate, "", `{"job":"none"}`, 404},
	"POST /api/v1/resume":                           {Operate, "", `{"job":"none"}`, 404},
	"POST /api/v1/signal":                           {Operate, "", `{"job":"none","signal":"HUP"}`, 404},
	"GET /api/v1/audit":                             {Operate, "", "", 200},
	"GET /api/v1/tokens":                            {Admin, "", "", 200},
	"POST /api/v1/tokens":                           {Admin, "", `{"name":"x","role":"king"}`, 400},
	"DELETE /api/v1/tokens/{name}":                  {Admin, "/api/v1/tokens/none", "", 404},
}

func TestWhoMay(t *testing.T) {
	r := newRig(t)
	callers := []struct {
		name string
		role Role
		a    *asker
	}{
		{"the socket", Admin, r.asker("unix", r.socket)},
		{"the socket, through a proxy", Admin, r.asker("unix", r.socket, "X-Forwarded-For", "192.0.2.9", "Host", "evil.example")},
		{"this machine", Operate, r.asker("tcp", r.tcp)},
		{"a proxy on this machine", Read, r.asker("tcp", r.tcp, "X-Forwarded-For", "192.0.2.9")},
		{"a proxy that says so otherwise", Read, r.asker("tcp", r.tcp, "Forwarded", "for=192.0.2.9")},
		{"a proxy that says little", Read, r.asker("tcp", r.tcp, "Via", "")},
		{"elsewhere", nobody, r.asker("tcp", r.far)},
		{"elsewhere, another scheme", nobody, r.asker("tcp", r.far, "Authorization", "Basic eDp5")},
	}
	check := func(t *testing.T) {
		for _, c := range callers {
			c.a.t = t
			for _, route := range routes {
				row, ok := whoMay[route.pattern]
				if !ok {
					t.Fatalf("nobody said who may %s", route.pattern)
				}
				method, path, _ := strings.Cut(route.pattern, " ")
				if row.path != "" {
					path = row.path
				}
				want, code := row.status, ""
				switch {
				case c.role >= row.role:
				case row.role == Admin:
					want, code = 403, "forbidden"
				case c.role == nobody:
					want, code = 401, "unauthorized"
				default:
					want, code = 403, "forbidden"
				}
				status, failure, _ := c.a.ask(method, path, row.body)
				if status != want || code != "" && (failure.Code != code || failure.Hint == "") {
					t.Errorf("%s: %s answers %d %+v, not %d %s", c.name, route.pattern, status, failure, want, code)
				}
			}
		}
	}
	t.Run("no token exists", check)
	if len(whoMay) != len(routes) {
		t.Errorf("%d lines for %d routes", len(whoMay), len(routes))
	}

	reader, err := r.tokens.Create("reader", Read)
	if err != nil {
		t.Fatal(err)
	}
	operator, err := r.tokens.Create("operator", Operate)
	if err != nil {
		t.Fatal(err)
	}
	callers = append(callers[:0],
		struct {
			name string
			role Role
			a    *asker
		}{"the socket", Admin, r.asker("unix", r.socket)})
	add := func(name string, role Role, a *asker) {
		callers = append(callers, struct {
			name string
			role Role
			a    *asker
		}{name, role, a})
	}
	add("this machine without a token", nobody, r.asker("tcp", r.tcp))
	add("a proxy without a token", nobody, r.asker("tcp", r.tcp, "X-Forwarded-For", "192.0.2.9"))
	add("elsewhere without a token", nobody, r.asker("tcp", r.far))
	add("a reader", Read, r.asker("tcp", r.tcp, "Authorization", "Bearer "+reader))
	add("a reader elsewhere", Read, r.asker("tcp", r.far, "Authorization", "bearer "+reader))
	add("an operator elsewhere", Operate, r.asker("tcp", r.far, "Authorization", "Bearer "+operator, "X-Forwarded-For", "192.0.2.9"))
	t.Run("tokens exist", check)

	// The role of everybody follows the job files as they are edited.
	callers = callers[:0]
	r.configure(strings.Replace(jobFiles, "saltpeter_config:", "saltpeter_config:\n  api_anonymous_role: read", 1))
	add("anybody may read", Read, r.asker("tcp", r.far))
	t.Run("anonymous read", check)
	callers = callers[:0]
	r.configure(strings.Replace(jobFiles, "saltpeter_config:", "saltpeter_config:\n  api_anonymous_role: operate", 1))
	add("anybody may operate", Operate, r.asker("tcp", r.far, "X-Forwarded-For", "192.0.2.9"))
	t.Run("anonymous operate", check)
	callers = callers[:0]
	r.configure(jobFiles)
	add("nobody any more", nobody, r.asker("tcp", r.far))
	t.Run("shut again", check)
}

// Who is refused is told which line to add.
func TestRefusalsSayWhatToDo(t *testing.T) {
	r := newRig(t)
	_, e, _ := r.asker("tcp", r.far).ask("GET", "/api/v1/status", "")
	if !strings.Contains(e.Hint, "saltpeter token create NAME --role read") || !strings.Contains(e.Hint, "api_anonymous_role: read") {
		t.Errorf("hint %q", e.Hint)
	}
	_, e, _ = r.asker("tcp", r.tcp, "X-Forwarded-For", "x").ask("POST", "/api/v1/kill", `{"all":true}`)
	if !strings.Contains(e.Hint, "api_anonymous_role: operate") {
		t.Errorf("hint %q", e.Hint)
	}
	status, e, _ := r.asker("tcp", r.tcp, "Authorization", "Bearer nonsense").ask("GET", "/api/v1/status", "")
	if status != 401 || !strings.Contains(e.Text, "does not know the token") {
		t.Errorf("%d %+v", status, e)
	}
}

func TestBrowsers(t *testing.T) {
	r := newRig(t)
	allow := strings.Replace(jobFiles, "saltpeter_config:", "saltpeter_config:\n  api_ws_allowed_hosts: [ui.example, 'other.example:8443', 'https://third.example']\n  default_saltpeter_server_host: cron1.example", 1)
	r.configure(allow)
	own, err := os.Hostname()
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		host, origin string
		code         string
	}{
		{r.tcp, "", ""},
		{"localhost:8888", "", ""},
		{"LOCALHOST.", "", ""},
		{"[::1]:8888", "", ""},
		{"10.1.2.3", "", ""},
		{own, "", ""},
		{"cron1.example:8888", "", ""},
		{"ui.example:1", "", ""},
		{"other.example:8443", "", ""},
		{"third.example", "", ""},
		{"other.example:8444", "", "host_refused"},
		{"evil.example", "", "host_refused"},
		{"localhost.evil.example", "", "host_refused"},
		{"127.0.0.1.evil.example:8888", "", "host_refused"},
		{"evil.example", "http://evil.example", "host_refused"},
		{r.tcp, "http://" + r.tcp, ""},
		{r.tcp, "https://ui.example", ""},
		{r.tcp, "https://UI.example:99", ""},
		{r.tcp, "https://third.example", ""},
		{r.tcp, "https://evil.example", "origin_refused"},
		{r.tcp, "http://localhost:3000", "origin_refused"},
		{r.tcp, "null", "origin_refused"},
		{r.tcp, "", ""},
		{r.tcp, "file://", "origin_refused"},
		{r.tcp, "://", "origin_refused"},
	} {
		header := []string{"Host", c.host}
		if c.origin != "" {
			header = append(header, "Origin", c.origin)
		}
		status, e, _ := r.asker("tcp", r.tcp, header...).ask("GET", "/api/v1/jobs", "")
		switch {
		case c.code == "" && status != 200:
			t.Errorf("host %q origin %q: %d %+v", c.host, c.origin, status, e)
		case c.code != "" && (status != 403 || e.Code != c.code || !strings.Contains(e.Hint, "api_ws_allowed_hosts")):
			t.Errorf("host %q origin %q: %d %+v, not %s", c.host, c.origin, status, e, c.code)
		}
	}
	// A token does not make another page's request ours.
	token, err := r.tokens.Create("x", Operate)
	if err != nil {
		t.Fatal(err)
	}
	if status, e, _ := r.asker("tcp", r.tcp, "Authorization", "Bearer "+token, "Origin", "https://evil.example").ask("GET", "/api/v1/jobs", ""); status != 403 || e.Code != "origin_refused" {
		t.Errorf("%d %+v", status, e)
	}
}

func TestOtherMethodsAndPaths(t *testing.T) {
	r := newRig(t)
	a := r.asker("unix", r.socket)
	for _, route := range routes {
		_, path, _ := strings.Cut(route.pattern, " ")
		path = strings.NewReplacer("{job}", "hello", "{run}", "none", "{machine}", "m", "{name}", "n").Replace(path)
		if status, e, _ := a.ask("PATCH", path, "{}"); status != 405 || e.Code != "method_not_allowed" {
			t.Errorf("PATCH %s: %d %+v", path, status, e)
		}
	}
	resp, err := a.http.Post(a.base+"/api/v1/jobs", "", nil)
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	if resp.StatusCode != 405 || resp.Header.Get("Allow") != "GET, HEAD" || resp.Header.Get("X-Content-Type-Options") != "nosniff" {
		t.Errorf("%s, Allow %q", resp.Status, resp.Header.Get("Allow"))
	}
	for _, path := range []string{"/", "/api", "/api/v1/", "/api/v1/jobs/a/b/c", "/API/v1/jobs"} {
		if status, e, _ := a.ask("GET", path, ""); status != 404 || e.Code != "no_such_route" {
			t.Errorf("GET %s: %d %+v", path, status, e)
		}
	}
	// HEAD of what goes on for ever ends at once.
	id := r.run("sleeper", "")
	for _, path := range []string{"/api/v1/events", "/api/v1/jobs", "/api/v1/runs/" + id.Run + "/tasks/" + id.Machine + "/output?follow=true"} {
		if status, _, body := a.ask("HEAD", path, ""); status != http.StatusOK || body != "" {
			t.Errorf("HEAD %s: %d %q", path, status, body)
		}
	}
}

// No answer holds what the job files keep secret.
func TestSecretsStayInside(t *testing.T) {
	r := newRig(t)
	events := collectEvents(t, r.client, "", "")
	r.run("merged", "succeeded")
	id := r.run("hello", "succeeded")
	token, err := r.client.CreateToken(t.Context(), "somebody", "read")
	if err != nil {
		t.Fatal(err)
	}
	file, err := os.ReadFile(filepath.Join(r.dir, "tokens"))
	if err != nil {
		t.Fatal(err)
	}
	hash := strings.Fields(strings.Split(string(file), "\n")[1])[2]
	hide := append([]string{token, hash}, secrets...)
	a := r.asker("unix", r.socket)
	all := ""
	for pattern := range whoMay {
		method, path, _ := strings.Cut(pattern, " ")
		if method != "GET" && pattern != "POST /api/v1/config/check" || path == "/api/v1/events" || path == "/ws" {
			continue
		}
		path = strings.NewReplacer("{job}", "hello", "{run}", id.Run, "{machine}", id.Machine).Replace(path)
		status, _, body := a.ask(method, path, "")
		if status != 200 {
			t.Errorf("%s: %d", path, status)
		}
		all += body
	}
	_, _, created := a.ask("POST", "/api/v1/jobs/hello/run", "")
	all += created + strings.Join(events.end(), "\n")
	for _, secret := range hide {
		if i := strings.Index(all, secret); i >= 0 {
			t.Errorf("%q is shown: …%s…", secret, all[max(0, i-200):min(len(all), i+100)])
		}
	}
	for _, shown := range []string{`"PASSWORD":"(hidden)"`, `"MERGED":"(hidden)"`, `"webhook":"(hidden)"`, "echo hello; echo world", "says it", `"key":"env.PIN"`} {
		if !strings.Contains(all, shown) {
			t.Errorf("%s is not shown", shown)
		}
	}
}
