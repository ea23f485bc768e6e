package cmd

import (
	"bytes"
	"context"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"

	"saltpeter/sshx"
	"saltpeter/testdata/lab"
)

// The scripts in testdata/ssh are sessions with machines that are reached over a real
// sshd. All are this host, each with users, homes, /var/lib and /run of its own.
// Beside the commands of the other scripts there are
//
//	machine NAME…            makes machines; $NAME in jobs/*.yaml becomes root@HOST:PORT, $KEY the key's path
//	drop NAME                ends the SSH connections of a machine
//	on NAME CMD…             runs a command there
//	authorize NAME FILE      sets the lines of root's authorized_keys; KEY in them is the key, $EXAMPLES our folder of examples
//	login NAME CODE LINE TEXT   runs a line with the key; it ends with that code and says TEXT
func TestSSHScripts(t *testing.T) {
	testscript.RunT(sshScriptT{t}, testscript.Params{
		Dir:                 "../testdata/ssh",
		RequireExplicitExec: true,
		Setup: func(env *testscript.Env) error {
			env.Values[sshScriptKey{}] = &sshScript{t: env.T().(sshScriptT).T, machines: map[string]*lab.Server{}}
			return setUpScript(env)
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"serve":      scriptServe,
			"crash":      func(ts *testscript.TestScript, _ bool, _ []string) { daemonOf(ts).end(ts, syscall.SIGKILL) },
			"halt":       func(ts *testscript.TestScript, _ bool, _ []string) { daemonOf(ts).end(ts, syscall.SIGTERM) },
			"eventually": scriptEventually,

			"machine": scriptMachine, "drop": scriptDrop, "on": scriptOn, "authorize": scriptAuthorize, "login": scriptLogin,
		},
	})
}

// sshScriptT hands the scripts' own tests to the lab.
type sshScriptT struct{ *testing.T }

func (t sshScriptT) Verbose() bool { return testing.Verbose() }

func (t sshScriptT) Run(name string, f func(testscript.T)) {
	t.T.Run(name, func(t *testing.T) { f(sshScriptT{t}) })
}

type sshScriptKey struct{}

type sshScript struct {
	t        *testing.T
	machines map[string]*lab.Server
	key      string
}

func sshScriptOf(ts *testscript.TestScript) *sshScript {
	return ts.Value(sshScriptKey{}).(*sshScript)
}

func (s *sshScript) machine(ts *testscript.TestScript, name string) *lab.Server {
	m := s.machines[name]
	if m == nil {
		ts.Fatalf("there is no machine %q", name)
	}
	return m
}

func scriptMachine(ts *testscript.TestScript, _ bool, names []string) {
	s := sshScriptOf(ts)
	with := []string{"$WORK", ts.Getenv("WORK")}
	for _, name := range names {
		m := lab.SSHD(s.t, lab.SSHDOptions{})
		if m.World == nil {
			s.t.Skip("needs root: machines with files of their own")
		}
		s.machines[name] = m
		if s.key == "" {
			s.key = m.Key
		}
		pub, err := os.ReadFile(s.key + ".pub")
		ts.Check(err)
		ts.Check(m.Authorize("root", strings.TrimSpace(string(pub))))
		with = append(with, "$"+name, "root@"+m.Addr)
	}
	with = append(with, "$KEY", s.key)
	files, err := filepath.Glob(filepath.Join(ts.Getenv("WORK"), "jobs", "*"))
	ts.Check(err)
	for _, file := range files {
		text, err := os.ReadFile(file)
		ts.Check(err)
		ts.Check(os.WriteFile(file, []byte(strings.NewReplacer(with...).Replace(string(text))), 0o644))
	}
}

func scriptDrop(ts *testscript.TestScript, _ bool, args []string) {
	sshScriptOf(ts).machine(ts, args[0]).Drop()
}

func scriptOn(ts *testscript.TestScript, neg bool, args []string) {
	out, err := sshScriptOf(ts).machine(ts, args[0]).World.Command("", args[1], args[2:]...).CombinedOutput()
	ts.Logf("%s", out)
	if (err != nil) != neg {
		ts.Fatalf("%v: %s", err, out)
	}
}

func scriptAuthorize(ts *testscript.TestScript, _ bool, args []string) {
	s := sshScriptOf(ts)
	pub, err := os.ReadFile(s.key + ".pub")
	ts.Check(err)
	line := strings.ReplaceAll(strings.TrimSpace(ts.ReadFile(args[1])), "KEY", string(bytes.TrimSpace(pub)))
	examples, err := filepath.Abs("../examples")
	ts.Check(err)
	ts.Check(s.machine(ts, args[0]).Authorize("root", strings.ReplaceAll(line, "$EXAMPLES", examples)))
}

// scriptLogin is what a person would try with the key, with a client of our own.
func scriptLogin(ts *testscript.TestScript, _ bool, args []string) {
	s := sshScriptOf(ts)
	m := s.machine(ts, args[0])
	client, err := sshx.New(sshx.Options{IdentityFiles: []string{s.key}, KnownHosts: m.KnownHosts})
	ts.Check(err)
	defer client.Close()
	ctx, cancel := context.WithTimeout(context.Background(), scriptPatience)
	defer cancel()
	var out, errs bytes.Buffer
	exit, err := client.Run(ctx, "root@"+m.Addr, sshx.Command{Line: args[2], Stdout: &out, Stderr: &errs})
	ts.Check(err)
	ts.Logf("%s%s", &out, &errs)
	if strconv.Itoa(exit.Code) != args[1] {
		ts.Fatalf("exit code %d, want %s: %s", exit.Code, args[1], &errs)
	}
	if len(args) > 3 && !strings.Contains(out.String()+errs.String(), args[3]) {
		ts.Fatalf("it does not say %q: %s%s", args[3], &out, &errs)
	}
}
