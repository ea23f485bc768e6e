package cmd

import (
	"bytes"
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"saltpeter/testdata/lab"
	"saltpeter/testdata/oldwrapper"
)

// The scripts in testdata/script are sessions that a user could have typed; the
// daemon runs in their background. They use the real program, which is this test
// binary under another name, and have these commands beside testscript's own:
//
//	serve [FLAG…]          starts the daemon on $WORK/jobs and waits until it answers
//	crash                  SIGKILLs it
//	halt                   TERMs it and waits for its end
//	eventually RE CMD…     repeats a command until it succeeds and its output matches
func TestMain(m *testing.M) {
	if os.Getenv(oldwrapper.Role) != "" {
		oldwrapper.Main()
	}
	if len(os.Args) > 1 && os.Args[1] == "wrap" { // where it was put on a machine it has another name
		os.Exit(Main())
	}
	testscript.Main(m, map[string]func(){
		"saltpeter": func() { os.Exit(Main()) },
	})
}

func TestScripts(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir:                 "../testdata/script",
		RequireExplicitExec: true,
		Setup:               setUpScript,
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"serve":      scriptServe,
			"crash":      func(ts *testscript.TestScript, _ bool, _ []string) { daemonOf(ts).end(ts, syscall.SIGKILL) },
			"halt":       func(ts *testscript.TestScript, _ bool, _ []string) { daemonOf(ts).end(ts, syscall.SIGTERM) },
			"eventually": scriptEventually,
		},
		Condition: func(cond string) (bool, error) {
			if cond == "root" {
				return os.Geteuid() == 0, nil
			}
			return false, fmt.Errorf("unknown condition %q", cond)
		},
	})
}

// patience of a script that waits: generous, since it costs nothing where all
// goes well and the machine may be busy.
const scriptPatience = 60 * time.Second

type daemonKey struct{}

// testDaemon is the background server of one script.
type testDaemon struct {
	cmd  *exec.Cmd
	done chan struct{}
	log  string
	env  []string
	dir  string
	bin  string
	at   *lab.Host // nil: on this machine
}

func setUpScript(env *testscript.Env) error {
	env.Setenv("HOME", env.WorkDir)
	env.Setenv("XDG_STATE_HOME", filepath.Join(env.WorkDir, "xdg"))
	// A socket's path is short by law; a script's folder is not.
	dir, err := os.MkdirTemp("", "sp")
	if err != nil {
		return err
	}
	env.Setenv("SOCKET", filepath.Join(dir, "s"))
	env.Setenv("SALTPETER_ADDR", "unix://"+filepath.Join(dir, "s"))
	port, err := freePort()
	if err != nil {
		return err
	}
	env.Setenv("PORT", port)
	if err := os.MkdirAll(filepath.Join(env.WorkDir, "jobs"), 0o755); err != nil {
		return err
	}
	d := &testDaemon{dir: env.WorkDir, log: filepath.Join(env.WorkDir, "serve.log")}
	env.Values[daemonKey{}] = d
	env.Defer(func() {
		d.cleanUp()
		os.RemoveAll(dir)
	})
	return nil
}

// freePort is one that nobody listened on a moment ago.
func freePort() (string, error) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	defer ln.Close()
	_, port, err := net.SplitHostPort(ln.Addr().String())
	return port, err
}

func daemonOf(ts *testscript.TestScript) *testDaemon { return ts.Value(daemonKey{}).(*testDaemon) }

func scriptServe(ts *testscript.TestScript, neg bool, args []string) {
	d := daemonOf(ts)
	if d.running() {
		ts.Fatalf("a server runs already")
	}
	bin, err := exec.LookPath("saltpeter")
	ts.Check(err)
	d.bin = bin
	d.env = []string{"PATH=" + ts.Getenv("PATH"), "HOME=" + ts.Getenv("HOME"), "XDG_STATE_HOME=" + ts.Getenv("XDG_STATE_HOME"), "SALTPETER_ADDR=" + ts.Getenv("SALTPETER_ADDR")}
	log, err := os.OpenFile(d.log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	ts.Check(err)
	defer log.Close()
	flags := append([]string{"serve", "-c", "jobs", "--state-dir", "state", "--socket", ts.Getenv("SOCKET"), "--machines-port", "0"}, args...)
	d.cmd = exec.Command(bin, flags...)
	if d.at != nil {
		d.cmd = d.at.Command(bin, flags...)
	}
	d.cmd.Dir, d.cmd.Env, d.cmd.Stdout, d.cmd.Stderr = d.dir, d.env, log, log
	d.cmd.ExtraFiles = []*os.File{log} // whoever starts a server may leave it a descriptor
	ts.Check(d.cmd.Start())
	d.done = make(chan struct{})
	go func() { d.cmd.Wait(); close(d.done) }()
	deadline := time.Now().Add(scriptPatience)
	for {
		if d.saltpeter("status").Run() == nil {
			return
		}
		select {
		case <-d.done:
			ts.Fatalf("the server ended: %s", d.tail())
		case <-time.After(50 * time.Millisecond):
		}
		if time.Now().After(deadline) {
			ts.Fatalf("the server does not answer: %s", d.tail())
		}
	}
}

func (d *testDaemon) saltpeter(args ...string) *exec.Cmd {
	ctx, cancel := context.WithTimeout(context.Background(), scriptPatience)
	cmd := exec.CommandContext(ctx, d.bin, args...)
	cmd.Dir, cmd.Env = d.dir, d.env
	cmd.Cancel = func() error { cancel(); return cmd.Process.Kill() }
	return cmd
}

func (d *testDaemon) running() bool {
	if d.cmd == nil {
		return false
	}
	select {
	case <-d.done:
		return false
	default:
		return true
	}
}

func (d *testDaemon) end(ts *testscript.TestScript, sig syscall.Signal) {
	if !d.running() {
		ts.Fatalf("no server runs: %s", d.tail())
	}
	ts.Check(d.cmd.Process.Signal(sig))
	select {
	case <-d.done:
	case <-time.After(scriptPatience):
		ts.Fatalf("the server does not end: %s", d.tail())
	}
}

// cleanUp ends every job of the script, then its server.
func (d *testDaemon) cleanUp() {
	if !d.running() {
		d.endWrappers(0)
		return
	}
	d.saltpeter("maintenance", "on").Run() // what fires each second would begin anew
	d.saltpeter("kill", "--all", "--yes", "--signal", "KILL").Run()
	d.endWrappers(scriptPatience) // a wrapper that still has something to tell would wait for the next server
	d.cmd.Process.Signal(syscall.SIGTERM)
	select {
	case <-d.done:
	case <-time.After(scriptPatience):
		d.cmd.Process.Kill()
		<-d.done
	}
}

// endWrappers waits for the wrappers of this script's servers, and ends those that do
// not go by themselves.
func (d *testDaemon) endWrappers(within time.Duration) {
	for limit := time.Now().Add(within); ; time.Sleep(20 * time.Millisecond) {
		left := slices.DeleteFunc(d.wrappers(), awaitsOrder) // that one ends with the server
		if len(left) == 0 {
			return
		}
		if time.Now().After(limit) {
			for _, pid := range left {
				syscall.Kill(pid, syscall.SIGKILL)
			}
			return
		}
	}
}

// wrappers are known by the state folder that they were given with their environment.
func (d *testDaemon) wrappers() (pids []int) {
	environs, _ := filepath.Glob("/proc/[0-9]*/environ")
	for _, path := range environs {
		environ, err := os.ReadFile(path)
		if err != nil || !strings.Contains("\x00"+string(environ)+"\x00", "\x00XDG_STATE_HOME="+filepath.Join(d.dir, "xdg")+"\x00") {
			continue
		}
		line, err := os.ReadFile(filepath.Join(filepath.Dir(path), "cmdline"))
		if pid, e := strconv.Atoi(filepath.Base(filepath.Dir(path))); e == nil && err == nil && strings.Contains(string(line), "\x00wrap\x00") {
			pids = append(pids, pid)
		}
	}
	return pids
}

func (d *testDaemon) tail() string {
	data, _ := os.ReadFile(d.log)
	if len(data) > 4000 {
		data = data[len(data)-4000:]
	}
	return string(data)
}

func scriptEventually(ts *testscript.TestScript, neg bool, args []string) {
	if len(args) < 2 {
		ts.Fatalf("usage: eventually RE COMMAND…")
	}
	re, err := regexp.Compile("(?m)" + args[0])
	ts.Check(err)
	deadline := time.Now().Add(scriptPatience)
	var last bytes.Buffer
	for {
		last.Reset()
		cmd := exec.Command(args[1], args[2:]...)
		cmd.Dir, cmd.Stdout, cmd.Stderr = ts.Getenv("WORK"), &last, &last
		cmd.Env = append(os.Environ(), "SALTPETER_ADDR="+ts.Getenv("SALTPETER_ADDR"), "HOME="+ts.Getenv("HOME"), "XDG_STATE_HOME="+ts.Getenv("XDG_STATE_HOME"))
		if err := cmd.Run(); err == nil && re.Match(last.Bytes()) != neg {
			return
		}
		if time.Now().After(deadline) {
			ts.Fatalf("%s never printed %q; the last was:\n%s\nthe server's log:\n%s", strings.Join(args[1:], " "), args[0], last.String(), daemonOf(ts).tail())
		}
		time.Sleep(50 * time.Millisecond)
	}
}
