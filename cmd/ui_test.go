package cmd

import (
	"crypto/tls"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"

	"saltpeter/runner/api"
	"saltpeter/runner/ledger"
	"saltpeter/wsx"
)

// address is where the server answers on TCP, as its log tells.
func (r *killRig) address() string {
	r.t.Helper()
	return r.logged(`the API answers on TCP" address=(\S+)`)
}

// logged waits for the log to say something, and returns the last time that it did.
func (r *killRig) logged(pattern string) string {
	r.t.Helper()
	re, found := regexp.MustCompile(pattern), ""
	r.await("the log says "+pattern, func() bool {
		data, _ := os.ReadFile(r.log)
		if all := re.FindAllSubmatch(data, -1); len(all) > 0 {
			found = string(all[len(all)-1][1])
		}
		return found != ""
	})
	return found
}

// restart starts the server anew with these flags. Its log begins anew too.
func (r *killRig) restart(flags ...string) {
	r.t.Helper()
	r.end(syscall.SIGTERM)
	if err := os.Rename(r.log, r.log+".old"); err != nil {
		r.t.Fatal(err)
	}
	r.flags = flags
	r.serve()
}

// The example that people know: a few lines of Python kill a job over the port that
// they always used.
func TestKillJobExample(t *testing.T) {
	python, err := exec.LookPath("python3")
	if err != nil {
		t.Skip("python3 is missing")
	}
	script, err := filepath.Abs("../examples/kill_job.py")
	if err != nil {
		t.Fatal(err)
	}
	r := newKillRig(t, killBinary(t), yearly("sleeper", "echo working; sleep 300", "targets: '*'"))
	r.restart("-a", "-p", "0")
	_, port, _ := strings.Cut(r.address(), ":")
	kill := func(args ...string) (string, int) {
		cmd := exec.Command(python, append([]string{script}, args...)...)
		cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "HOME=" + r.dir, "SALTPETER_PORT=" + port}
		out, _ := cmd.CombinedOutput()
		return string(out), cmd.ProcessState.ExitCode()
	}
	run, err := r.client.RunJob(t.Context(), "sleeper", api.RunRequest{})
	if err != nil {
		t.Fatal(err)
	}
	id := run.Tasks[0].TaskID
	task := func() ledger.Task {
		run, err := r.client.Run(t.Context(), id.Run)
		if err != nil {
			t.Fatal(err)
		}
		return run.Tasks[0]
	}
	r.await("it runs", func() bool { return task().State == ledger.Running })
	out, code := kill("sleeper")
	if code != 0 || !strings.Contains(out, `"outcome": "gone"`) || !strings.Contains(out, "sleeper is not running") {
		t.Errorf("it ended with %d and said: %s", code, out)
	}
	if task := task(); task.State != ledger.Killed || task.ExitCode == nil || *task.ExitCode != 143 {
		t.Errorf("the task is %+v", task)
	}
	cmd := exec.Command(r.bin, "logs", id.Run)
	cmd.Env = r.env()
	if text, err := cmd.Output(); err != nil || !strings.Contains(string(text), "[Job terminated by user request]") {
		t.Errorf("its output is %q, %v", text, err)
	}
	log, _ := os.ReadFile(r.log)
	for _, want := range []string{
		"WebSocket: Kill command received for job sleeper", "WebSocket: Sent kill signal to " + id.Run + ":" + id.Machine,
		"WebSocket: Job completed - " + id.Run + ":" + id.Machine + " (exit code: 143)",
	} {
		if !strings.Contains(string(log), want) {
			t.Errorf("the log lacks %q", want)
		}
	}
	if out, code := kill("none", "localhost", port); code != 1 || !strings.Contains(out, "no_such_job") {
		t.Errorf("a job that is none: %d, %s", code, out)
	}
}

// What saltpeter_config says of the API holds: where it listens, that plain and TLS
// share the port, how clients know it, and by which names it may be called.
func TestAPISettings(t *testing.T) {
	settings := "saltpeter_config:\n  api_ws: true\n  api_ws_port: 0\n  api_ws_bind_addr: 127.0.0.2\n  api_ws_tls: auto\n  api_ws_allowed_hosts: [ui.example, 'https://page.example:8443']\n"
	r := newKillRig(t, killBinary(t), settings+yearly("j", "true", "targets: '*'"))
	addr, pin := r.address(), r.logged(`pin=([0-9a-f]{64})`)
	if !strings.HasPrefix(addr, "127.0.0.2:") {
		t.Errorf("it listens on %s", addr)
	}
	for file, mode := range map[string]os.FileMode{"api.key": 0o600, "api.crt": 0o600} {
		if info, err := os.Stat(filepath.Join(r.dir, "state", file)); err != nil || info.Mode().Perm() != mode {
			t.Errorf("%s: %v, %v", file, info, err)
		}
	}
	status := func(env string, args ...string) (string, int) {
		cmd := exec.Command(r.bin, append([]string{"status"}, args...)...)
		cmd.Env = append(r.env(), env)
		out, _ := cmd.CombinedOutput()
		return string(out), cmd.ProcessState.ExitCode()
	}
	crt := filepath.Join(r.dir, "state", "api.crt")
	for _, c := range []struct {
		name string
		env  string
		args []string
		code int
	}{
		{"plain", "", []string{"--addr", "http://" + addr}, 0},
		{"by pin", "", []string{"--addr", "https://" + addr, "--pin", pin}, 0},
		{"by pin, from the environment", "SALTPETER_PIN=" + pin, []string{"--addr", "https://" + addr}, 0},
		{"by file", "", []string{"--addr", "https://" + addr, "--ca-file", crt}, 0},
		{"unknown", "", []string{"--addr", "https://" + addr}, 4},
		{"another pin", "", []string{"--addr", "https://" + addr, "--pin", strings.Repeat("0", 64)}, 4},
		{"no pin", "", []string{"--addr", "https://" + addr, "--pin", "x"}, 2},
		{"a pin in the clear", "", []string{"--addr", "http://" + addr, "--pin", pin}, 2},
	} {
		if out, code := status(c.env, c.args...); code != c.code {
			t.Errorf("%s: %d, not %d: %s", c.name, code, c.code, out)
		}
	}
	for scheme, pinned := range map[string]string{"ws": "", "wss": pin} {
		for origin, ok := range map[string]bool{"https://ui.example": true, "https://page.example:8443": true, "https://page.example": false, "https://evil.example": false} {
			conn, err := wsx.Dial(t.Context(), wsx.DialOptions{URL: scheme + "://" + addr + "/ws", Pin: pinned, Header: http.Header{"Origin": {origin}}})
			if (err == nil) != ok {
				t.Errorf("%s from %s: %v", scheme, origin, err)
			}
			if err != nil {
				continue
			}
			if _, frame, err := conn.Read(); err != nil || !strings.HasPrefix(string(frame), `{"config":`) {
				t.Errorf("%s from %s: %.40q, %v", scheme, origin, frame, err)
			}
			conn.Close("")
		}
	}
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true, TLSClientConfig: &tls.Config{InsecureSkipVerify: true}}}
	for host, want := range map[string]int{"ui.example": 200, "ui.example:1234": 200, "evil.example": 403} {
		req, err := http.NewRequestWithContext(t.Context(), "GET", "https://"+addr+"/status", nil)
		if err != nil {
			t.Fatal(err)
		}
		req.Host = host
		resp, err := client.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		if resp.StatusCode != want {
			t.Errorf("called %s: %d, not %d", host, resp.StatusCode, want)
		}
	}
	// The key outlives the server; -p wins over the settings.
	r.restart("-p", "0")
	if again := r.logged(`pin=([0-9a-f]{64})`); again != pin {
		t.Errorf("after a restart the pin is %s, not %s", again, pin)
	}
	if out, code := status("", "--addr", "https://"+r.address(), "--pin", pin); code != 0 {
		t.Errorf("after a restart: %s", out)
	}
	if err := os.WriteFile(filepath.Join(r.dir, "state", "api.key"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	r.end(syscall.SIGTERM)
	cmd := exec.Command(r.bin, append(r.cmd.Args[1:], r.flags...)...)
	cmd.Env = r.env()
	if out, err := cmd.CombinedOutput(); err == nil || !strings.Contains(string(out), "api.key") {
		t.Errorf("a broken key: %s", fmt.Sprint(string(out), err))
	}
}
