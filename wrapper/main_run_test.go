package wrapper

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"saltpeter/wsx/wire"
)

func retcode(t *testing.T, m *wire.Message, want int) {
	t.Helper()
	if m.RetCode == nil || *m.RetCode != want {
		t.Errorf("complete %+v, want code %d", m, want)
	}
}

func TestHealthyTask(t *testing.T) {
	s := newTestServer(t)
	o := testOrder(t, s, "echo out; echo err >&2; exit 3")
	w := launch(t, o)
	m := s.awaitMessage(wire.TypeComplete)
	retcode(t, m, 3)
	if m.End == nil || m.Cause != wire.CauseExit || m.Length == nil || *m.Length != 8 || m.RealCode == nil || *m.RealCode != 3 {
		t.Errorf("end %+v", m.End)
	}
	if got := s.text(); got != "out\nerr\n" {
		t.Errorf("output %q", got)
	}
	if code := w.exits(); code != 0 {
		t.Errorf("exit code %d: %s", code, w.stderr)
	}
	if dirs := spooled(t); len(dirs) > 0 {
		t.Errorf("the spool still holds %v", dirs)
	}
	s.change(func() {
		if s.messages[0].Type != wire.TypeConnect || s.messages[1].Type != wire.TypeStart {
			t.Errorf("began with %s, %s", s.messages[0].Type, s.messages[1].Type)
		}
		for _, m := range s.messages[:2] {
			if m.Identity == nil || m.Identity.PID != w.identity.PID || m.JobName != "job" || m.JobInstance != o.Run || m.Machine != "m1" {
				t.Errorf("%s: %+v", m.Type, m)
			}
		}
		if s.messages[1].PID != w.identity.PID {
			t.Errorf("start says pid %d", s.messages[1].PID)
		}
		if mark := s.first(wire.TypeMark); mark == nil || *mark.Offset != 0 || mark.Timestamp == "" {
			t.Errorf("mark %+v", mark)
		}
	})
}

// Nothing runs before the server knows of it.
func TestGateWaitsForStartAck(t *testing.T) {
	s := newTestServer(t)
	s.change(func() { s.muteStart = true })
	proof := filepath.Join(t.TempDir(), "ran")
	w := launch(t, testOrder(t, s, "touch "+proof))
	s.awaitMessage(wire.TypeStart)
	s.send(&wire.Message{Type: wire.TypeKill, ID: "k1"})
	m := s.awaitMessage(wire.TypeComplete)
	retcode(t, m, wire.ExitKilled)
	if m.End == nil || m.Cause != wire.CauseNever {
		t.Errorf("end %+v", m.End)
	}
	if r := s.awaitReport("k1"); r.Outcome != wire.OutcomeNeverStarted {
		t.Errorf("report %+v", r)
	}
	if killed := s.awaitMessage(wire.TypeKilled); killed.ID != "k1" {
		t.Errorf("killed %+v", killed)
	}
	w.exits()
	if _, err := os.Stat(proof); err == nil {
		t.Error("the command ran")
	}
	if got := s.text(); got != wire.KilledLine {
		t.Errorf("output %q", got)
	}
}

func TestServerAwayAtStart(t *testing.T) {
	t.Parallel()
	s := newAbsentServer(t)
	o := testOrder(t, s, "echo started; sleep 0.2; echo done")
	o.StartWait = 0.1
	w := launch(t, o)
	dir := w.identity.Spool
	waitFor(t, "the end record", func() bool { _, err := os.Stat(w.identity.EndFile); return err == nil })
	if !fileContains(filepath.Join(dir, segmentName(0)), "started\ndone\n") {
		t.Error("the output is not in the spool")
	}
	s.start()
	retcode(t, s.awaitMessage(wire.TypeComplete), 0)
	w.exits()
	if got := s.text(); got != "started\ndone\n" {
		t.Errorf("output %q", got)
	}
	if s.saw(wire.TypeStart) == nil {
		t.Error("no start was told")
	}
	if _, err := os.Stat(dir); err == nil {
		t.Error("the spool is still there")
	}
}

func TestServerAwayAtEnd(t *testing.T) {
	t.Parallel()
	s := newTestServer(t)
	gate := filepath.Join(t.TempDir(), "gate")
	if err := syscall.Mkfifo(gate, 0o600); err != nil {
		t.Fatal(err)
	}
	w := launch(t, testOrder(t, s, "echo one; read x <"+gate+"; echo two; exit 7"))
	s.awaitOutput(4)
	s.stop()
	if err := os.WriteFile(gate, []byte("go\n"), 0); err != nil {
		t.Fatal(err)
	}
	waitFor(t, "the end record", func() bool { _, err := os.Stat(w.identity.EndFile); return err == nil })
	s.start()
	retcode(t, s.awaitMessage(wire.TypeComplete), 7)
	w.exits()
	if got := s.text(); got != "one\ntwo\n" {
		t.Errorf("output %q", got)
	}
}

func TestKill(t *testing.T) {
	s := newTestServer(t)
	w := launch(t, testOrder(t, s, "echo working; sleep 300 & sleep 300"))
	s.awaitOutput(8)
	s.change(func() { s.muteReports = true })
	s.send(&wire.Message{Type: wire.TypeKill, ID: "k1"})
	s.send(&wire.Message{Type: wire.TypeKill, ID: "k1"}) // repeated: no second strike
	r := s.awaitReport("k1")
	if r.Op != "kill" || r.Outcome != wire.OutcomeGone || r.Proof == "" || r.Already {
		t.Errorf("report %+v", r)
	}
	m := s.awaitMessage(wire.TypeComplete)
	retcode(t, m, wire.ExitKilled)
	if m.End == nil || m.Cause != wire.CauseKill || m.RealSignal != int(syscall.SIGTERM) {
		t.Errorf("end %+v", m.End)
	}
	// A report is told again until it is acknowledged.
	s.stop()
	s.change(func() { s.muteReports, s.messages = false, nil })
	s.start()
	s.awaitReport("k1")
	w.exits()
	if got := s.text(); got != "working\n"+wire.KilledLine {
		t.Errorf("output %q", got)
	}
	log := w.stderr.String()
	if strings.Count(log, "Received kill signal from server") != 1 || !strings.Contains(log, "Terminating process ") {
		t.Errorf("log %q", log)
	}
}

func TestTimeout(t *testing.T) {
	t.Parallel()
	s := newTestServer(t)
	o := testOrder(t, s, "echo working; trap 'exit 0' TERM; sleep 300 & wait")
	o.Timeout = 0.5
	began := time.Now()
	w := launch(t, o)
	m := s.awaitMessage(wire.TypeComplete)
	retcode(t, m, wire.ExitTimeout)
	if m.End == nil || m.Cause != wire.CauseTimeout || m.RealCode == nil || *m.RealCode != 0 {
		t.Errorf("end %+v", m.End)
	}
	if took := time.Since(began); took < 500*time.Millisecond {
		t.Errorf("ended after %s", took)
	}
	w.exits()
	if got := s.text(); got != "working\n\n[Job exceeded timeout of 0.5 seconds]\n" {
		t.Errorf("output %q", got)
	}
}

// TERM to the wrapper is how somebody on the machine stops a job when the server
// is away.
func TestTermToWrapper(t *testing.T) {
	s := newAbsentServer(t)
	o := testOrder(t, s, "echo working; sleep 300")
	o.StartWait = 0.05
	w := launch(t, o)
	waitFor(t, "output", func() bool { return fileContains(filepath.Join(w.identity.Spool, segmentName(0)), "working") })
	if err := w.cmd.Process.Signal(syscall.SIGHUP); err != nil { // ignored
		t.Fatal(err)
	}
	if err := w.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	waitFor(t, "the end record", func() bool { _, err := os.Stat(w.identity.EndFile); return err == nil })
	if jobLives(&w.identity) {
		t.Error("the job lives")
	}
	s.start()
	m := s.awaitMessage(wire.TypeComplete)
	retcode(t, m, wire.ExitKilled)
	if m.End == nil || m.Cause != wire.CauseTerminated {
		t.Errorf("end %+v", m.End)
	}
	w.exits()
}

func TestLaunchFailure(t *testing.T) {
	s := newTestServer(t)
	o := testOrder(t, s, "true")
	o.Cwd = "/no/such/place"
	w := launchOnly(t, o)
	if w.identity.PID != 0 {
		t.Errorf("it says that it started %+v", w.identity)
	}
	if code := w.exits(); code == 0 {
		t.Error("exit code 0")
	}
	if got := w.stderr.String(); !strings.Contains(got, "/no/such/place") {
		t.Errorf("stderr %q", got)
	}
	m := s.awaitMessage(wire.TypeComplete)
	retcode(t, m, wire.ExitUnreachable)
	if m.End == nil || m.Cause != wire.CauseLaunch || !strings.Contains(m.Error, "/no/such/place") {
		t.Errorf("complete %+v", m)
	}
	if s.saw(wire.TypeStart) != nil {
		t.Error("a start was told")
	}
}

// A process in the background holds the pipe: the task is over after the drain,
// and what that process prints later arrives all the same.
func TestDrainAndLeftovers(t *testing.T) {
	t.Parallel()
	s := newTestServer(t)
	gate := filepath.Join(t.TempDir(), "gate")
	if err := syscall.Mkfifo(gate, 0o600); err != nil {
		t.Fatal(err)
	}
	o := testOrder(t, s, "(read x <"+gate+"; echo late) & echo first; exit 3")
	o.Drain = 0.3
	w := launch(t, o)
	m := s.awaitMessage(wire.TypeComplete)
	retcode(t, m, 3)
	if m.End == nil || m.Leftover != 1 || *m.Length != 6 {
		t.Errorf("end %+v", m.End)
	}
	if err := os.WriteFile(gate, []byte("go\n"), 0); err != nil {
		t.Fatal(err)
	}
	if r := s.awaitReport("leftover"); r.Op != "leftover" || r.Leftover != 0 {
		t.Errorf("report %+v", r)
	}
	w.exits()
	if got := s.text(); got != "first\nlate\n" {
		t.Errorf("output %q", got)
	}
}

func TestKillOfLeftovers(t *testing.T) {
	t.Parallel()
	s := newTestServer(t)
	o := testOrder(t, s, "sleep 300 & exit 3")
	o.Drain = 0.2
	w := launch(t, o)
	retcode(t, s.awaitMessage(wire.TypeComplete), 3)
	s.send(&wire.Message{Type: wire.TypeKill, ID: "late"})
	if r := s.awaitReport("late"); r.Outcome != wire.OutcomeGone {
		t.Errorf("report %+v", r)
	}
	w.exits()
	if got := s.text(); got != "" {
		t.Errorf("output %q", got)
	}
}

func TestUnknownRun(t *testing.T) {
	t.Parallel()
	s := newTestServer(t)
	s.change(func() { s.unknown = true })
	proof := filepath.Join(t.TempDir(), "ran")
	o := testOrder(t, s, "echo x; touch "+proof)
	o.StartWait = 0.2
	w := launch(t, o)
	if code := w.exits(); code != 0 {
		t.Errorf("exit code %d", code)
	}
	if _, err := os.Stat(proof); err != nil {
		t.Error("the job was stopped")
	}
	if s.saw(wire.TypeComplete) != nil {
		t.Error("it went on reporting")
	}
	if len(spooled(t)) != 1 {
		t.Error("the output is gone")
	}
}

func TestSecondStartIsRefused(t *testing.T) {
	s := newTestServer(t)
	o := testOrder(t, s, "sleep 300")
	w := launch(t, o)
	s.awaitMessage(wire.TypeStart)
	again := launchOnly(t, o)
	if code := again.exits(); code == 0 || again.identity.PID != 0 {
		t.Errorf("exit code %d, identity %+v", code, again.identity)
	}
	if got := again.stderr.String(); !strings.Contains(got, "started before") {
		t.Errorf("stderr %q", got)
	}
	s.change(func() {
		if n := s.count(wire.TypeConnect); n != 1 {
			t.Errorf("%d connections", n)
		}
	})
	s.send(&wire.Message{Type: wire.TypeKill, ID: "k"})
	w.exits()
}

func TestDetach(t *testing.T) {
	s := newTestServer(t)
	cmd := wrapperCommand(nil, "SP_WEBSOCKET_URL="+s.url(), "SP_JOB_NAME=job", "SP_JOB_INSTANCE=job_d", "SP_MACHINE_ID=m1",
		"SP_COMMAND=echo $SP_JOB_NAME $SP_COMMAND-$SP_WEBSOCKET_URL $COLOUR; sleep 300", "COLOUR=red", "SP_SPOOL_DIR="+filepath.Join(spoolDirOf(t), "spool"))
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	if err := cmd.Run(); err != nil {
		t.Fatalf("%v: %s", err, &errs)
	}
	lines := strings.SplitAfter(out.String(), "\n")
	if len(lines) != 3 || lines[0] != versionLine()+"\n" || lines[2] != "" {
		t.Fatalf("printed %q", lines)
	}
	var id wire.Identity
	if err := json.Unmarshal([]byte(lines[1]), &id); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = syscall.Kill(id.WrapperPID, syscall.SIGKILL)
		_ = syscall.Kill(-id.PID, syscall.SIGKILL)
	})
	s.awaitOutput(len("job - red\n"))
	if got := s.text(); got != "job - red\n" {
		t.Errorf("output %q", got)
	}
	args, err := os.ReadFile("/proc/" + itoa(id.WrapperPID) + "/cmdline")
	if err != nil || strings.Contains(string(args), "sleep") {
		t.Errorf("arguments %q, %v", args, err)
	}
	s.send(&wire.Message{Type: wire.TypeKill, ID: "k"})
	retcode(t, s.awaitMessage(wire.TypeComplete), wire.ExitKilled)
	wrapper := &wire.Identity{PID: id.WrapperPID, StartTicks: id.WrapperStartTicks, BootID: id.BootID}
	waitFor(t, "the wrapper's end", func() bool { return !jobLives(wrapper) })
	log := filepath.Join(spoolDirOf(t), "spool", logDirName, "job.log")
	if !fileContains(log, "Received kill signal from server") {
		t.Error("the log does not say so")
	}
}

func TestDetachedLaunchFailure(t *testing.T) {
	s := newTestServer(t)
	cmd := wrapperCommand(nil, "SP_WEBSOCKET_URL="+s.url(), "SP_JOB_NAME=job", "SP_JOB_INSTANCE=job_d", "SP_MACHINE_ID=m1",
		"SP_COMMAND=true", "SP_CWD=/no/such/place", "SP_SPOOL_DIR="+filepath.Join(spoolDirOf(t), "spool"))
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	err := cmd.Run()
	if err == nil || out.Len() > 0 || !strings.Contains(errs.String(), "/no/such/place") {
		t.Errorf("%v: %q %q", err, &out, &errs)
	}
}

func TestFetchedOrder(t *testing.T) {
	s := newTestServer(t)
	order, err := testOrder(t, s, "echo fetched").Encode()
	if err != nil {
		t.Fatal(err)
	}
	s.change(func() { s.order = order })
	cmd := wrapperCommand([]string{"wrap", "--foreground"}, "SP_ORDER=fetch", "SP_WEBSOCKET_URL="+s.url())
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	if got := s.text(); got != "fetched\n" {
		t.Errorf("output %q", got)
	}
}

// An older server: no features, output as text with numbers.
func TestOlderServer(t *testing.T) {
	s := newTestServer(t)
	s.change(func() { s.features = nil })
	o := testOrder(t, s, `echo plain; printf 'a\377b\n'; exit 4`)
	o.OutputInterval = 0.05
	w := launch(t, o)
	m := s.awaitMessage(wire.TypeComplete)
	retcode(t, m, 4)
	if m.Seq == nil || *m.Seq == 0 {
		t.Errorf("complete has seq %v", m.Seq)
	}
	w.exits()
	if got := s.text(); got != "plain\na\uFFFDb\n" {
		t.Errorf("output %q", got)
	}
	s.change(func() {
		if s.count(wire.TypeReport)+s.count(wire.TypeMark) > 0 {
			t.Error("it was sent what it can't know")
		}
	})
}

// A pause stops the timeout's clock where the job says so.
func TestPauseStopsTimeout(t *testing.T) {
	t.Parallel()
	s := newTestServer(t)
	o := testOrder(t, s, "echo working; sleep 300")
	o.Timeout, o.PauseStopsTimeout = 1.5, true
	w := launch(t, o)
	s.awaitOutput(8)
	s.send(&wire.Message{Type: wire.TypePause, ID: "p"})
	if r := s.awaitReport("p"); !r.OK || r.Op != "pause" {
		t.Fatalf("report %+v", r)
	}
	select { // longer than the timeout
	case <-w.done:
		t.Fatal("it ended while paused")
	case <-time.After(2 * time.Second):
	}
	if s.saw(wire.TypeComplete) != nil {
		t.Error("the timeout struck while paused")
	}
	s.send(&wire.Message{Type: wire.TypeResume, ID: "r"})
	if r := s.awaitReport("r"); !r.OK || r.Op != "resume" {
		t.Errorf("report %+v", r)
	}
	m := s.awaitMessage(wire.TypeComplete)
	retcode(t, m, wire.ExitTimeout)
	w.exits()
}

func TestSignalOnce(t *testing.T) {
	s := newTestServer(t)
	w := launch(t, testOrder(t, s, "trap 'echo usr1' USR1; echo ready; while :; do sleep 0.05; done"))
	s.awaitOutput(6)
	m := &wire.Message{Type: wire.TypeSignal, ID: "s", Signal: "USR1"}
	s.send(m)
	s.awaitReport("s")
	s.send(m) // repeated, as after a reconnect
	s.await("two answers", func() bool { return s.count(wire.TypeReport) >= 2 })
	s.awaitOutput(11)
	s.send(&wire.Message{Type: wire.TypeKill, ID: "k"})
	retcode(t, s.awaitMessage(wire.TypeComplete), wire.ExitKilled)
	w.exits()
	if got := s.text(); strings.Count(got, "usr1") != 1 {
		t.Errorf("output %q", got)
	}
}

func TestHeartbeat(t *testing.T) {
	t.Parallel()
	s := newTestServer(t)
	w := launch(t, testOrder(t, s, "sleep 300"))
	s.awaitMessage(wire.TypeHeartbeat)
	s.send(&wire.Message{Type: wire.TypeKill, ID: "k"})
	w.exits()
}

// Who reads the wrapper's standard error may go away at any time.
func TestBrokenStderr(t *testing.T) {
	s := newTestServer(t)
	o := testOrder(t, s, "echo working; sleep 300")
	o.LogLevel = "debug"
	order, err := o.Encode()
	if err != nil {
		t.Fatal(err)
	}
	r, errs, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	cmd := wrapperCommand([]string{"--foreground"})
	cmd.Stdin, cmd.Stderr = bytes.NewReader(order), errs
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	r.Close()
	errs.Close()
	s.awaitOutput(8)
	s.send(&wire.Message{Type: wire.TypeKill, ID: "k"})
	retcode(t, s.awaitMessage(wire.TypeComplete), wire.ExitKilled)
	if err := cmd.Wait(); err != nil {
		t.Error(err)
	}
}
