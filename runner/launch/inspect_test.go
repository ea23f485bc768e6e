package launch

import (
	"crypto/rand"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"saltpeter/sshx"
	"saltpeter/wsx/wire"
)

// A second start of the same order runs nothing: the machine has it already.
func TestSecondStartRunsNothing(t *testing.T) {
	r := newPutRig(t)
	s := r.transport(t)
	dir := t.TempDir()
	ran := filepath.Join(dir, "ran")
	order := wire.Order{Version: wire.OrderVersion, URL: "ws://127.0.0.1:1/task/none", Job: "job", Run: "job_1", Machine: "there", Task: rand.Text(),
		Command: "echo ran >>" + ran + "; sleep 300", SpoolDir: filepath.Join(dir, "spool"), Env: map[string]string{"FAKE": "real"}, StartWait: 0.1, KillGrace: 1}
	text, err := order.Encode()
	if err != nil {
		t.Fatal(err)
	}
	first := s.Start(soon(t), r.machine, text)
	if first.Certainty != Started || first.Identity == nil {
		t.Fatalf("%s: %v", first.Certainty, first.Err)
	}
	second := s.Start(soon(t), r.machine, text)
	if second.Certainty != CertainlyNot || !strings.Contains(second.Err.Error(), "was started before") {
		t.Errorf("%s: %v", second.Certainty, second.Err)
	}
	eventually(t, "it to run", func() bool { data, _ := os.ReadFile(ran); return len(data) > 0 })
	res, err := s.Script(soon(t), r.machine, ScriptRequest{Op: OpKill, Run: order.Run, Task: order.Task, Identity: first.Identity})
	if err != nil || res.Outcome != wire.OutcomeGone {
		t.Errorf("%+v %v", res, err)
	}
	if data, _ := os.ReadFile(ran); string(data) != "ran\n" {
		t.Errorf("it ran %q", data)
	}
	if w, err := os.FindProcess(first.Identity.WrapperPID); err == nil {
		w.Kill() // it would go on reporting to nobody
	}
}

// listener answers as a machines port does to a token that nobody has.
func listener(t *testing.T) (port int) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	srv := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusUnauthorized) })}
	done := make(chan struct{})
	go func() { defer close(done); srv.Serve(ln) }()
	t.Cleanup(func() { srv.Close(); <-done })
	return ln.Addr().(*net.TCPAddr).Port
}

func TestInspect(t *testing.T) {
	r := newPutRig(t)
	s := r.transport(t)
	port := listener(t)
	by := func(host string, port int) InspectOptions {
		return InspectOptions{URL: fmt.Sprintf("ws://%s:%d", host, port)}
	}
	// Before and after the wrapper is there.
	for _, wrapper := range []string{"", "1.2.3"} {
		i := s.Inspect(soon(t), r.machine, by("127.0.0.1", port))
		if !i.Reached || len(i.Problems) > 0 || i.Wrapper != wrapper || !strings.HasPrefix(i.System, "Linux ") || i.Address != login(r.Server) ||
			len(i.Dials) != 1 || i.Dials[0].Err != "" || i.Skew != 0 {
			t.Errorf("%+v", i)
		}
		// The name is wrong, and the address that the connection came from is right.
		i = s.Inspect(soon(t), r.machine, by("no.such.host.invalid", port))
		if len(i.Problems) != 1 || !strings.Contains(i.Problems[0], "default_saltpeter_server_host: 127.0.0.1") || len(i.Dials) != 2 {
			t.Errorf("%+v", i)
		}
		i = s.Inspect(soon(t), r.machine, by("127.0.0.1", 1))
		if len(i.Problems) != 1 || !strings.Contains(i.Problems[0], "tunnel: true") {
			t.Errorf("%+v", i)
		}
		if wrapper == "" {
			if got := r.on(t, "ls -A /var/lib /run"); strings.Contains(got, "saltpeter") {
				t.Errorf("a check left %s", got)
			}
			if d := s.Deploy(soon(t), r.machine, true); d.Err != nil || d.Was || d.Path != "" {
				t.Errorf("dry: %+v", d)
			}
			if d := s.Deploy(soon(t), r.machine, false); d.Err != nil || d.Was || d.Version != "1.2.3" || !strings.HasPrefix(d.Path, "/var/lib/saltpeter/saltpeter-") {
				t.Errorf("%+v", d)
			}
			for _, dry := range []bool{true, false} {
				if d := s.Deploy(soon(t), r.machine, dry); d.Err != nil || !d.Was {
					t.Errorf("again: %+v", d)
				}
			}
		}
	}
}

// First contact is deliberate: without the word a host that nobody knows is refused,
// with it its key is written down once, and another key is never accepted.
func TestInspectFirstContact(t *testing.T) {
	r := newPutRig(t)
	known := filepath.Join(t.TempDir(), "known_hosts")
	client, err := sshx.New(sshx.Options{IdentityFiles: []string{r.Key}, KnownHosts: known})
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	s := r.transport(t, func(o *SSHOptions) { o.Client = client })
	i := s.Inspect(soon(t), r.machine, InspectOptions{})
	if i.Reached || len(i.Problems) != 1 || !strings.Contains(i.Problems[0], "accept-new") || len(i.KnownHosts) != 1 || i.KnownHosts[0] != known {
		t.Errorf("%+v", i)
	}
	i = s.Inspect(soon(t), r.machine, InspectOptions{AcceptNew: true})
	if !i.Reached || !strings.HasPrefix(i.Accepted, "SHA256:") || len(i.Problems) > 0 {
		t.Errorf("%+v", i)
	}
	i = s.Inspect(soon(t), r.machine, InspectOptions{AcceptNew: true})
	if !i.Reached || i.Accepted != "" {
		t.Errorf("again: %+v", i)
	}
}
