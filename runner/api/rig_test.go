package api

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"

	"saltpeter/config"
	"saltpeter/runner"
	"saltpeter/runner/launch"
	"saltpeter/runner/ledger"
	"saltpeter/testdata/lab"
	"saltpeter/wrapper"
	"saltpeter/wsx"
)

// TestMain lets the test binary stand in for the real one where the local
// transport starts a wrapper.
func TestMain(m *testing.M) {
	if len(os.Args) > 1 && os.Args[1] == "wrap" {
		os.Exit(wrapper.Main(os.Args[2:], os.Environ(), os.Stdin, os.Stdout, os.Stderr))
	}
	goleak.VerifyTestMain(m)
}

const testWait = 60 * time.Second

// What must never be seen in an answer.
var secrets = []string{"hunter2-env", "hunter2-merged", "hunter2-hook", "hunter2-store", "4711000"}

const jobFiles = `
saltpeter_config:
  elasticsearch: http://me:hunter2-store@127.0.0.1:1
x:
  &shared
  command: 'true'
  schedule: '@yearly'
  targets: '*'
  env: {MERGED: hunter2-merged}
hello:
  command: echo hello; echo world
  schedule: '@yearly'
  targets: '*'
  description: says it
  env:
    PASSWORD: hunter2-env
    PIN: 04711000
  notify: {webhook: 'https://hooks.example/hunter2-hook'}
merged:
  <<: *shared
sleeper:
  command: echo working; sleep 300
  schedule: '@yearly'
  targets: '*'
  kill_grace: 1s
waiter: # says a line, and the next one when there is a file
  command: 'echo first; while [ ! -e "$GO" ]; do sleep 0.05; done; printf "second\0\377\n"; exit 3'
  schedule: '@yearly'
  targets: '*'
  env: {GO: GOFILE}
flood:
  command: head -c 1500000 /dev/zero | tr '\0' 'x'; sleep 0.5; echo; echo end
  schedule: '@yearly'
  targets: '*'
`

// rig is a whole server but for the command line: runner, book, job files, wrappers
// as processes, a unix socket and TCP ports.
type rig struct {
	t      *testing.T
	dir    string
	set    *config.Set
	book   *ledger.Ledger
	runner *runner.Runner
	server *Server
	tokens *Tokens
	client *Client // over the socket
	logs   *lab.Buffer

	socket, tcp, far string // addresses; far's clients seem to be elsewhere
	machines         string // where wrappers dial
	stopRunner       func()
	once             sync.Once
}

// farListener's connections come from another machine, as far as one can see.
type farListener struct{ net.Listener }

type farConn struct{ net.Conn }

func (l farListener) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	return farConn{c}, nil
}

func (farConn) RemoteAddr() net.Addr { return &net.TCPAddr{IP: net.IPv4(192, 0, 2, 7), Port: 4000} }

func newRig(t *testing.T, change ...func(*Options)) *rig {
	t.Helper()
	t.Parallel()
	r := &rig{t: t, dir: t.TempDir(), logs: &lab.Buffer{}}
	jobs := filepath.Join(r.dir, "jobs")
	if err := os.Mkdir(jobs, 0o755); err != nil {
		t.Fatal(err)
	}
	r.configure(jobFiles)
	log := slog.New(slog.NewTextHandler(r.logs, &slog.HandlerOptions{Level: slog.LevelDebug}))
	var err error
	if r.book, err = ledger.Open(t.Context(), ledger.Options{Dir: filepath.Join(r.dir, "state")}); err != nil {
		t.Fatal(err)
	}
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	local := launch.NewLocal(launch.LocalOptions{Executable: exe})
	machines := r.listen("tcp", "127.0.0.1:0")
	r.machines = machines.Addr().String()
	r.runner = runner.New(runner.Options{
		Ledger: r.book, Transports: map[string]launch.Transport{"local": local}, Config: r.set, Log: log,
		MachinesURL: func(launch.Machine) string { return "ws://" + machines.Addr().String() }, LocalSpool: filepath.Join(r.dir, "spool"),
	})
	road := wsx.NewServer(wsx.ServerOptions{Handler: r.runner.Handler(), Log: log})
	if r.tokens, err = OpenTokens(filepath.Join(r.dir, "tokens"), log); err != nil {
		t.Fatal(err)
	}
	o := Options{Runner: r.runner, Ledger: r.book, Version: "1.2.3", Tokens: r.tokens, ConfigDir: jobs, Log: log}
	for _, f := range change {
		f(&o)
	}
	r.server = New(o)

	socketDir, err := os.MkdirTemp("", "sp") // a socket's path is short by law
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(socketDir) })
	r.socket = filepath.Join(socketDir, "s")
	tcp, far := r.listen("tcp", "127.0.0.1:0"), farListener{r.listen("tcp", "127.0.0.1:0")}
	r.tcp, r.far = tcp.Addr().String(), far.Addr().String()
	var wg sync.WaitGroup
	wg.Go(func() { road.Serve(machines) })
	for _, ln := range []net.Listener{r.listen("unix", r.socket), tcp, far} {
		wg.Go(func() {
			if err := r.server.Serve(ln); err != nil {
				t.Error(err)
			}
		})
	}
	ctx, cancel := context.WithCancel(context.Background())
	ran := make(chan struct{})
	go func() {
		defer close(ran)
		if err := r.runner.Run(ctx); err != nil {
			t.Error(err)
		}
	}()
	r.stopRunner = func() { cancel(); <-ran }
	r.client = r.dial("unix://"+r.socket, "")
	r.await("the runner", r.runner.Ready)
	t.Cleanup(func() {
		r.killAll()
		r.awaitWrappers()
		r.shutdown()
		r.stopRunner()
		down, done := context.WithTimeout(context.Background(), 5*time.Second)
		defer done()
		road.Shutdown(down)
		wg.Wait()
		local.Close()
		if err := r.book.Close(); err != nil {
			t.Error(err)
		}
		if t.Failed() {
			t.Logf("log:\n%s", r.logs.String())
		}
	})
	return r
}

func (r *rig) shutdown() error {
	var err error
	r.once.Do(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		defer cancel()
		err = r.server.Shutdown(ctx)
	})
	return err
}

func (r *rig) listen(network, addr string) net.Listener {
	r.t.Helper()
	ln, err := net.Listen(network, addr)
	if err != nil {
		r.t.Fatal(err)
	}
	r.t.Cleanup(func() { ln.Close() })
	return ln
}

// configure writes the job files and puts them in force.
func (r *rig) configure(text string) {
	r.t.Helper()
	jobs := filepath.Join(r.dir, "jobs")
	text = strings.ReplaceAll(text, "GOFILE", filepath.Join(r.dir, "go"))
	if err := os.WriteFile(filepath.Join(jobs, "jobs.yaml"), []byte(text), 0o644); err != nil {
		r.t.Fatal(err)
	}
	set, err := config.Load(jobs, r.set)
	if err != nil {
		r.t.Fatal(err)
	}
	if errs := set.Errors(); len(errs) > 0 {
		r.t.Fatal(errs)
	}
	r.set = set
	if r.runner != nil {
		r.runner.SetConfig(set)
	}
}

func (r *rig) dial(addr, token string) *Client {
	r.t.Helper()
	o := ClientOptions{Addr: addr}
	if token != "" {
		o.TokenFile = filepath.Join(r.t.TempDir(), "token")
		if err := os.WriteFile(o.TokenFile, []byte(token+"\n"), 0o600); err != nil {
			r.t.Fatal(err)
		}
	}
	c, err := NewClient(o)
	if err != nil {
		r.t.Fatal(err)
	}
	r.t.Cleanup(c.Close)
	return c
}

func (r *rig) await(what string, is func() bool) {
	r.t.Helper()
	deadline := time.Now().Add(testWait)
	for !is() {
		if time.Now().After(deadline) {
			r.t.Fatalf("waited in vain for: %s", what)
		}
		time.Sleep(10 * time.Millisecond)
	}
}

// run starts a job and waits for a state of its task; "" does not wait.
func (r *rig) run(job string, state ledger.State) ledger.TaskID {
	r.t.Helper()
	run, err := r.client.RunJob(r.t.Context(), job, RunRequest{})
	if err != nil {
		r.t.Fatal(err)
	}
	id := run.Tasks[0].TaskID
	if state != "" {
		r.await(job+" "+string(state), func() bool { return r.task(id).State == state })
	}
	return id
}

func (r *rig) task(id ledger.TaskID) *ledger.Task {
	r.t.Helper()
	t, err := r.book.Task(context.Background(), id)
	if err != nil {
		r.t.Fatal(err)
	}
	return t
}

func (r *rig) output(id ledger.TaskID) string {
	r.t.Helper()
	return read(r.t, r.client, id, 0, false)
}

func read(t *testing.T, c *Client, id ledger.TaskID, offset int64, follow bool) string {
	t.Helper()
	out, err := c.Output(t.Context(), id, offset, follow)
	if err != nil {
		t.Fatal(err)
	}
	defer out.Close()
	data, err := io.ReadAll(out)
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}

// killAll leaves no process behind.
func (r *rig) killAll() {
	ctx, cancel := context.WithTimeout(context.Background(), testWait)
	defer cancel()
	grace := time.Duration(0)
	receipts, err := r.runner.Kill(ctx, runner.Actor{Who: "test"}, runner.Selector{All: true}, runner.KillOptions{Signal: "KILL", Grace: &grace})
	var refused *runner.Refusal
	if errors.As(err, &refused) {
		return
	}
	if err != nil {
		r.t.Error(err)
		return
	}
	for range receipts {
	}
}

// awaitWrappers waits until the wrappers have ended by themselves: they go on until
// their last word is acknowledged, and spool into the test's folder meanwhile.
func (r *rig) awaitWrappers() {
	page, err := r.book.Runs(context.Background(), ledger.RunFilter{Limit: 1000})
	if err != nil {
		r.t.Error(err)
	}
	for _, run := range page.Runs {
		for _, task := range run.Tasks {
			if task.Identity == nil || task.Identity.WrapperPID == 0 {
				continue
			}
			pid := task.Identity.WrapperPID
			deadline := time.Now().Add(testWait)
			for syscall.Kill(pid, 0) == nil {
				if !r.runner.Ready() || time.Now().After(deadline) {
					syscall.Kill(pid, syscall.SIGKILL) // nobody is there to acknowledge anything
				}
				time.Sleep(5 * time.Millisecond)
			}
		}
	}
}

// asker makes plain requests, as curl would.
type asker struct {
	t    *testing.T
	base string
	http *http.Client
	head http.Header
}

func (r *rig) asker(network, addr string, header ...string) *asker {
	transport := &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, network, addr)
	}}
	a := &asker{t: r.t, base: "http://localhost", http: &http.Client{Transport: transport}, head: http.Header{}}
	for i := 0; i < len(header); i += 2 {
		a.head.Add(header[i], header[i+1])
	}
	return a
}

// ask returns the status, the error's code if there is one, and the body; of a
// stream of events only its beginning.
func (a *asker) ask(method, path, body string) (int, *Error, string) {
	a.t.Helper()
	ctx, cancel := context.WithTimeout(a.t.Context(), testWait)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, method, a.base+path, strings.NewReader(body))
	if err != nil {
		a.t.Fatal(err)
	}
	for k, v := range a.head {
		req.Header[k] = v
	}
	if host := a.head.Get("Host"); host != "" {
		req.Host = host
	}
	resp, err := a.http.Do(req)
	if err != nil {
		a.t.Fatal(err)
	}
	defer resp.Body.Close()
	if resp.Header.Get("Content-Type") == "text/event-stream" {
		return resp.StatusCode, nil, ""
	}
	data, err := io.ReadAll(resp.Body)
	if err != nil {
		a.t.Fatal(err)
	}
	if method == http.MethodHead || resp.StatusCode < 400 {
		return resp.StatusCode, nil, string(data)
	}
	var answer struct{ Error *Error }
	if err := json.Unmarshal(data, &answer); err != nil || answer.Error == nil || answer.Error.Code == "" || answer.Error.Text == "" {
		a.t.Errorf("%s %s: %s answers no error: %q", method, path, resp.Status, data)
		return resp.StatusCode, &Error{}, string(data)
	}
	if resp.StatusCode == http.StatusUnauthorized && resp.Header.Get("WWW-Authenticate") == "" {
		a.t.Errorf("%s %s: 401 does not say how to come in", method, path)
	}
	return resp.StatusCode, answer.Error, string(data)
}
