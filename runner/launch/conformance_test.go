package launch

import (
	"context"
	"crypto/rand"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"saltpeter/wsx/wire"
)

// rig is what a transport brings to the conformance suite. The machine at its
// other end must be this one: the oracle looks at /proc here. The transport's
// wrapper is this test program.
type rig struct {
	open    func(t *testing.T) Transport
	machine Machine
	login   bool // the wrapper has a login's environment, and is nobody's child
}

// TestLocalConforms runs what every transport has to do. Another transport adds
// a test like this one.
func TestLocalConforms(t *testing.T) {
	conform(t, rig{
		open: func(t *testing.T) Transport {
			exe, err := os.Executable()
			if err != nil {
				t.Fatal(err)
			}
			return NewLocal(LocalOptions{Executable: exe})
		},
		machine: Machine{Name: "here", Transport: "local"},
	})
}

func conform(t *testing.T, g rig) {
	for _, c := range []struct {
		name string
		test func(t *testing.T, g rig, tr Transport)
	}{
		{"starts and lets go", conformStart},
		{"judges what did not start", conformNoStart},
		{"checks", conformCheck},
		{"finds by cookie", conformFind},
		{"signals", conformSignal},
		{"pauses and resumes", conformPause},
		{"goes on without its asker", conformUnattended},
		{"refuses what it cannot ask", conformRefuse},
		{"fetches", conformFetch},
		{"runs without a wrapper", conformBare},
		{"closes", conformClose},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			tr := g.open(t)
			defer func() {
				if err := tr.Close(); err != nil {
					t.Error(err)
				}
			}()
			c.test(t, g, tr)
		})
	}
}

func soon(t *testing.T) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), patient)
	t.Cleanup(cancel)
	return ctx
}

// begin starts a command over a transport; what it leaves is swept.
func begin(t *testing.T, g rig, tr Transport, command, fake string) (*task, StartResult) {
	t.Helper()
	return beginIn(t, g, tr, command, fake, t.TempDir())
}

func beginIn(t *testing.T, g rig, tr Transport, command, fake, spool string) (*task, StartResult) {
	t.Helper()
	order := wire.Order{Job: "job", Run: "run_" + rand.Text(), Task: rand.Text(), Command: command, SpoolDir: spool,
		Env: map[string]string{"FAKE": fake, "BRAND": newBrand(), "BIG": strings.Repeat("x", 200_000)}}
	text, err := order.Encode()
	if err != nil {
		t.Fatal(err)
	}
	ctx := soon(t)
	if fake == "mute" || fake == "babble" {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, 300*time.Millisecond)
		defer cancel()
	}
	res := tr.Start(ctx, g.machine, text)
	k := &task{t: t, run: order.Run, id: wire.Identity{Task: order.Task, Brand: order.Env["BRAND"]}}
	if res.Identity != nil {
		k.id = *res.Identity
		k.wrapper, _ = os.FindProcess(k.id.WrapperPID)
		t.Cleanup(func() { k.wrapper.Kill() })
	}
	t.Cleanup(k.sweep)
	return k, res
}

func mustBegin(t *testing.T, g rig, tr Transport, command string) *task {
	t.Helper()
	k, res := begin(t, g, tr, command, "")
	if res.Certainty != Started {
		t.Fatalf("%s: %v", res.Certainty, res.Err)
	}
	return k
}

func conformStart(t *testing.T, g rig, tr Transport) {
	k, res := begin(t, g, tr, "sleep 300 & sleep 300", "")
	if res.Certainty != Started || res.Version != "1.2.3" || res.Err != nil {
		t.Fatalf("%+v", res)
	}
	k.awaitMembers(3)
	w, ok := lookAt(k.id.WrapperPID)
	if !ok || w.start != k.id.WrapperStartTicks || w.session != w.pid {
		t.Errorf("the wrapper is not alone in its session: %+v", w)
	}
	env, _ := os.ReadFile("/proc/" + itoa(w.pid) + "/environ")
	for _, v := range strings.Split(strings.TrimRight(string(env), "\x00"), "\x00") {
		if g.login {
			break
		}
		switch name, _, _ := strings.Cut(v, "="); name {
		case "PATH", "HOME", "LC_ALL", "XDG_STATE_HOME", "XDG_RUNTIME_DIR", "GOMAXPROCS":
		default:
			t.Errorf("the wrapper was given %s", v)
		}
	}
	res2, err := tr.Script(soon(t), g.machine, k.request(OpKill))
	if err != nil {
		t.Fatal(err)
	}
	if res2.Outcome != wire.OutcomeGone || len(k.members()) > 0 {
		t.Fatalf("%+v", res2)
	}
	// Its job is over, the wrapper ends; collected, it leaves no entry at all.
	eventually(t, "the wrapper to be collected", func() bool {
		p, ok := lookAt(w.pid)
		return !ok || g.login && !p.alive() // init may take its time
	})
}

func conformNoStart(t *testing.T, g rig, tr Transport) {
	for _, c := range []struct {
		fake      string
		certainty Certainty
		says      string
	}{
		{"refuse", CertainlyNot, "cannot start: no such user"},
		{"complain", CertainlyNot, "woe woe"},
		{"silent-exit", Unsure, "exit code 1"},
		{"crash", Unsure, "signal "},
		{"zero", CertainlyNot, "is not a saltpeter wrapper"},
		{"mute", Unsure, "deadline"},
		{"babble", Unsure, "cannot say"},
		{"garbage", Unsure, "identity line"},
	} {
		k, res := begin(t, g, tr, "sleep 300", c.fake)
		if res.Certainty != c.certainty || res.Err == nil || res.Identity != nil || !strings.Contains(res.Err.Error(), c.says) {
			t.Errorf("%s: %s: %v", c.fake, res.Certainty, res.Err)
		}
		if res.Err != nil && (len(res.Err.Error()) > 5000 || errors.Is(res.Err, ErrUnreachable)) {
			t.Errorf("%s: %d bytes of error, unreachable: %v", c.fake, len(res.Err.Error()), errors.Is(res.Err, ErrUnreachable))
		}
		if left := k.members(); len(left) > 0 {
			t.Errorf("%s: alive: %+v", c.fake, left)
		}
	}
}

func conformCheck(t *testing.T, g rig, tr Transport) {
	k := mustBegin(t, g, tr, "setsid sleep 300 & read x <"+"/dev/null; until [ -e "+t.TempDir()+"/never ]; do sleep 300; done")
	k.awaitMembers(3)
	res, err := tr.Script(soon(t), g.machine, k.request(OpCheck))
	if err != nil {
		t.Fatal(err)
	}
	if res.Outcome != wire.OutcomeAlive || res.Alive != 3 || !res.MainAlive || !res.WrapperAlive || res.End != nil || len(res.Left) != 3 || res.Acted != 0 {
		t.Errorf("alive: %+v", res)
	}
	k.loseWrapper()
	if res, err = tr.Script(soon(t), g.machine, k.request(OpCheck)); err != nil || res.WrapperAlive || res.Outcome != wire.OutcomeAlive {
		t.Errorf("wrapper lost: %+v %v", res, err)
	}
	r := k.request(OpKill)
	r.Grace = patient
	if _, err = tr.Script(soon(t), g.machine, r); err != nil {
		t.Fatal(err)
	}
	if res, err = tr.Script(soon(t), g.machine, k.request(OpCheck)); err != nil || res.Outcome != wire.OutcomeGone || res.Proof != wire.ProofScan || res.End != nil {
		t.Errorf("gone: %+v %v", res, err)
	}

	// An end that was recorded comes back with the check.
	k = mustBegin(t, g, tr, "exit 7")
	eventually(t, "the end record", func() bool { _, err := os.Stat(k.id.EndFile); return err == nil })
	res, err = tr.Script(soon(t), g.machine, k.request(OpCheck))
	if err != nil || res.Outcome != wire.OutcomeGone || res.End == nil || res.End.RetCode != 7 || res.End.Task != k.id.Task {
		t.Errorf("ended: %+v %v", res, err)
	}
	// Another task's, or a torn one, says nothing about this one.
	for _, text := range []string{`{"job":"job","run":"` + k.run + `","task":"another","retcode":0}`, `{"job":"job"`, ""} {
		if err := os.WriteFile(k.id.EndFile, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if res, err = tr.Script(soon(t), g.machine, k.request(OpCheck)); err != nil || res.End != nil || res.Outcome != wire.OutcomeGone {
			t.Errorf("end record %q: %+v %v", text, res, err)
		}
	}
}

func conformFind(t *testing.T, g rig, tr Transport) {
	k := mustBegin(t, g, tr, "env -i setsid sleep 300 & sleep 300")
	k.awaitMembers(3)
	res, err := tr.Script(soon(t), g.machine, ScriptRequest{Op: OpCheck, Task: k.id.Task, Run: k.run})
	if err != nil {
		t.Fatal(err)
	}
	want := k.id
	want.Spool, want.EndFile = "", ""
	if res.Outcome != wire.OutcomeAlive || res.Alive != 3 || !res.MainAlive || !res.WrapperAlive || res.Found == nil || !equal(*res.Found, want) {
		t.Errorf("found %+v, want %+v: %+v", res.Found, want, res)
	}
	k.loseWrapper()
	r := ScriptRequest{Op: OpKill, Task: k.id.Task, Run: k.run, Grace: patient}
	res, err = tr.Script(soon(t), g.machine, r)
	if err != nil || res.Outcome != wire.OutcomeGone || len(k.members()) > 0 {
		t.Errorf("%+v %v", res, err)
	}
	res, err = tr.Script(soon(t), g.machine, ScriptRequest{Op: OpCheck, Task: k.id.Task, Run: k.run})
	if err != nil || res.Outcome != wire.OutcomeGone || res.Found != nil {
		t.Errorf("%+v %v", res, err)
	}
	if res, err = tr.Script(soon(t), g.machine, ScriptRequest{Op: OpKill}); err != nil || res.Outcome != wire.OutcomeUnknown || res.Reason != ReasonNothing {
		t.Errorf("nothing to go by: %+v %v", res, err)
	}
}

func equal(a, b wire.Identity) bool {
	a.Weak, b.Weak = nil, nil
	return a.BootID == b.BootID && a.PID == b.PID && a.StartTicks == b.StartTicks && a.Session == b.Session && a.PIDNamespace == b.PIDNamespace &&
		a.Brand == b.Brand && a.Task == b.Task && a.WrapperPID == b.WrapperPID && a.WrapperStartTicks == b.WrapperStartTicks && a.UID == b.UID
}

func conformSignal(t *testing.T, g rig, tr Transport) {
	dir := t.TempDir()
	k := mustBegin(t, g, tr, "trap 'echo got >>"+dir+"/got' USR1; sleep 300 & while :; do wait; done")
	k.awaitMembers(2)
	ask := func(r ScriptRequest) ScriptResult {
		t.Helper()
		res, err := tr.Script(soon(t), g.machine, r)
		if err != nil {
			t.Fatal(err)
		}
		return res
	}
	r := k.request(OpSignal)
	r.Signal = "SIGUSR1"
	if res := ask(r); res.Outcome != wire.OutcomeAlive || res.Acted != 1 || res.Reason != "" || res.Alive != 2 {
		t.Errorf("main: %+v", res)
	}
	eventually(t, "the trap", func() bool { got, _ := os.ReadFile(dir + "/got"); return string(got) == "got\n" })
	r.Scope = "all"
	if res := ask(r); res.Acted != 2 {
		t.Errorf("all: %+v", res)
	}
	eventually(t, "the sleep to have died of it", func() bool { return len(k.members()) == 1 })
	r.Signal = "FOOBAR"
	if res := ask(r); res.Outcome != wire.OutcomeUnknown || res.Reason != ReasonBadSignal || res.Acted != 0 {
		t.Errorf("bad signal: %+v", res)
	}
	r.Signal = "KILL"
	ask(r)
	eventually(t, "the end", func() bool { return len(k.members()) == 0 })
	if res := ask(r); res.Outcome != wire.OutcomeGone {
		t.Errorf("nobody: %+v", res)
	}
}

func conformPause(t *testing.T, g rig, tr Transport) {
	k := mustBegin(t, g, tr, "setsid sh -c 'while :; do sleep .02; done' & while :; do sleep .02; done")
	// Both shells; their sleeps may come and go between two looks at them.
	eventually(t, "the job to run", func() bool { return len(k.members()) >= 2 })
	res, err := tr.Script(soon(t), g.machine, k.request(OpPause))
	if err != nil || res.Outcome != wire.OutcomeAlive || res.Reason != "" || res.Acted != res.Alive {
		t.Fatalf("%+v %v", res, err)
	}
	for _, p := range k.members() {
		if p.state != "T" && p.state != "D" { // D: a parent that waits for its stopped child to execute
			t.Errorf("not stopped: %+v", p)
		}
	}
	if w, _ := lookAt(k.id.WrapperPID); w.state == "T" {
		t.Error("the wrapper was stopped")
	}
	res, err = tr.Script(soon(t), g.machine, k.request(OpResume))
	if err != nil || res.Outcome != wire.OutcomeAlive || res.Acted == 0 {
		t.Fatalf("%+v %v", res, err)
	}
	eventually(t, "all to go on", func() bool {
		for _, p := range k.members() {
			if p.state == "T" {
				return false
			}
		}
		return true
	})
	// A paused job dies of the first signal.
	if _, err := tr.Script(soon(t), g.machine, k.request(OpPause)); err != nil {
		t.Fatal(err)
	}
	r := k.request(OpKill)
	r.Grace = patient
	if res, err = tr.Script(soon(t), g.machine, r); err != nil || res.Outcome != wire.OutcomeGone || res.Phase != wire.PhaseTerm || len(k.members()) > 0 {
		t.Errorf("%+v %v", res, err)
	}
}

// The link is cut, or the asker has no time: the kill is carried through.
func conformUnattended(t *testing.T, g rig, tr Transport) {
	k := mustBegin(t, g, tr, "trap 'echo termed' TERM; trap : HUP; while :; do sleep .1; done")
	eventually(t, "the job to run", func() bool { return len(k.members()) == 2 })
	// Without this, the asker might have gone before the script had come.
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
	defer cancel()
	r := k.request(OpKill)
	r.Grace = 4 * time.Second
	res, err := tr.Script(ctx, g.machine, r)
	if err == nil || !errors.Is(err, context.DeadlineExceeded) {
		t.Fatalf("%+v %v", res, err)
	}
	if len(k.members()) == 0 {
		t.Fatal("the job was gone before its asker")
	}
	eventually(t, "the kill to have escalated", func() bool { return len(k.members()) == 0 })
}

func conformRefuse(t *testing.T, g rig, tr Transport) {
	for _, r := range []ScriptRequest{
		{Op: "format", Task: "x"},
		{Op: OpKill, Task: "x", Signal: "TERM; reboot"},
		{Op: OpKill, Task: "x", Signal: "-1"},
		{Op: OpKill, Task: "x\x00y"},
		{Op: OpKill, Task: "x\ny"},
		{Op: OpKill, Identity: &wire.Identity{PID: -1}},
	} {
		if res, err := tr.Script(soon(t), g.machine, r); err == nil {
			t.Errorf("%+v was carried out: %+v", r, res)
		}
	}
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if res := tr.Start(ctx, g.machine, []byte("{}")); res.Certainty != CertainlyNot || !errors.Is(res.Err, context.Canceled) {
		t.Errorf("start after the end: %+v", res)
	}
	if _, err := tr.Script(ctx, g.machine, ScriptRequest{Op: OpCheck, Task: "x"}); !errors.Is(err, context.Canceled) {
		t.Errorf("script after the end: %v", err)
	}
}

func conformFetch(t *testing.T, g rig, tr Transport) {
	dir := t.TempDir()
	path := filepath.Join(dir, "output.000000")
	if err := os.WriteFile(path, []byte("a\x00b\xffcdef"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		offset, max int64
		want        string
	}{{0, 100, "a\x00b\xffcdef"}, {3, 2, "\xffc"}, {7, 1, "f"}, {8, 10, ""}, {100, 10, ""}, {0, 0, ""}} {
		got, err := tr.Fetch(soon(t), g.machine, path, c.offset, c.max)
		if err != nil || string(got) != c.want {
			t.Errorf("%d of %d: %q %v", c.max, c.offset, got, err)
		}
	}
	if err := os.Symlink(path, dir+"/link"); err != nil {
		t.Fatal(err)
	}
	for _, bad := range []struct {
		path        string
		offset, max int64
	}{{path, -1, 5}, {path, 0, -5}, {"relative", 0, 5}, {dir, 0, 5}, {dir + "/link", 0, 5}, {"/dev/zero", 0, 5}} {
		if got, err := tr.Fetch(soon(t), g.machine, bad.path, bad.offset, bad.max); err == nil {
			t.Errorf("fetched %+v: %q", bad, got)
		}
	}
	if _, err := tr.Fetch(soon(t), g.machine, dir+"/none", 0, 5); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("no such file: %v", err)
	}
}

// What was started outlives the transport that started it.
func conformClose(t *testing.T, g rig, _ Transport) {
	tr := g.open(t)
	k := mustBegin(t, g, tr, "sleep 300")
	if err := tr.Close(); err != nil {
		t.Fatal(err)
	}
	if w, ok := lookAt(k.id.WrapperPID); !ok || !w.alive() || len(k.members()) == 0 {
		t.Error("the wrapper or its job ended with the transport")
	}
	if err := tr.Close(); err != nil {
		t.Errorf("twice: %v", err)
	}
	if res := tr.Start(soon(t), g.machine, nil); res.Certainty != CertainlyNot || !errors.Is(res.Err, ErrClosed) {
		t.Errorf("start: %+v", res)
	}
	if _, err := tr.Script(soon(t), g.machine, k.request(OpCheck)); !errors.Is(err, ErrClosed) {
		t.Errorf("script: %v", err)
	}
	if _, err := tr.Fetch(soon(t), g.machine, "/etc/passwd", 0, 1); !errors.Is(err, ErrClosed) {
		t.Errorf("fetch: %v", err)
	}
	k.wrapper.Kill()
}
