package runner

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/gorilla/websocket"

	"saltpeter/config"
	"saltpeter/runner/ledger"
	"saltpeter/wsx/wire"
)

// These tests play wrappers that another server started: their URL holds no token.

func adopting(r *rig) { r.adopt = true }

// foreigner connects as such a wrapper does.
func (r *rig) foreigner(job, run, machine string) *plain {
	r.t.Helper()
	return r.plain("ws://"+r.addr+"/", map[string]any{"job_name": job, "job_instance": run, "machine": machine})
}

// Without adopt_unknown nothing changes for them: 401, and the log says once what to
// write.
func TestForeignersAreRefused(t *testing.T) {
	r := newRig(t)
	for range 3 {
		_, answer, err := websocket.DefaultDialer.DialContext(t.Context(), "ws://"+r.addr+"/", nil)
		if err == nil || answer == nil || answer.StatusCode != 401 {
			t.Fatalf("%v, %v", answer, err)
		}
	}
	if n := strings.Count(r.logs.String(), "adopt_unknown: true"); n != 1 {
		t.Errorf("the hint was logged %d times", n)
	}
}

// A run of two machines that another server began is shown, counts for overlap, and
// is recorded to its end.
func TestForeignersAreAdopted(t *testing.T) {
	r := newRig(t, adopting, unhurried)
	first := r.foreigner("backup", "backup_1764360000", "db1")
	first.say("connect")
	first.say("start", "pid", 99, "version", "0.9.31")
	first.say("output", "stream", "stdout", "data", "one\n", "seq", 0)
	first.hears("ack connect", "ack start", "ack output 0")
	second := r.foreigner("backup", "backup_1764360000", "db2")
	second.say("connect")
	second.say("start", "pid", 98)
	second.hears("ack connect", "ack start")
	run, err := r.book.Run(t.Context(), "backup_1764360000")
	if err != nil || run.Trigger != ledger.TriggerForeign || run.Job != "backup" || run.Group != "group of backup" || run.Due.Unix() != 1764360000 || len(run.Tasks) != 2 {
		t.Fatalf("run %+v, %v", run, err)
	}
	live := r.tasks.live("backup")
	if len(live) != 2 {
		t.Errorf("%v hold back the next run", live)
	}
	id := ledger.TaskID{Run: run.ID, Machine: "db1"}
	if st := r.tasks.find(id).status(time.Now()); st.State != ledger.Running || st.Transport != transportForeign || st.Road != roadWebSocket {
		t.Errorf("status %+v", st)
	}
	// It comes back without introducing itself, after a restart of ours too.
	first.cut()
	r.stop()
	r.start()
	first = r.foreigner("backup", "backup_1764360000", "db1")
	first.say("output", "stream", "stdout", "data", "one\n", "seq", 0)
	first.say("output", "stream", "stdout", "data", "two\n", "seq", 1)
	first.say("complete", "retcode", 3, "seq", 2)
	first.hears("ack output 0", "ack output 1", "ack complete 2")
	if end := r.task(id); end.State != ledger.Failed || exitCode(end) != 3 || end.Version != "0.9.31" {
		t.Errorf("end %+v", end)
	}
	if got := r.output(id); got != "one\ntwo\n" {
		t.Errorf("output %q", got)
	}
	if live := r.tasks.live("backup"); len(live) != 1 || live[0].Machine != "db2" {
		t.Errorf("%v hold back the next run", live)
	}
	// Said again, since the ack was lost: acknowledged again, and not begun anew.
	again := r.foreigner("backup", "backup_1764360000", "db1")
	again.say("complete", "retcode", 3, "seq", 2)
	again.hears("ack complete 2")
	if run, err := r.book.Run(t.Context(), "backup_1764360000"); err != nil || len(run.Tasks) != 2 || r.endings(id) != 1 {
		t.Errorf("%v, %+v", err, run)
	}
}

// What the other server had acknowledged is not there any more: the numbers begin
// where the wrapper stands, and the output says so before anything else.
func TestForeignerInTheMiddle(t *testing.T) {
	for name, ask := range map[string]bool{"output": false, "sync": true} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t, adopting)
			p := r.foreigner("job", "job_1764360000", "m1")
			if ask {
				p.say("sync_request", "last_acked_seq", 56, "next_seq", 59)
				p.hears("sync_response 56")
			}
			p.say("output", "stream", "stdout", "data", "57\n", "seq", 57)
			p.say("output", "stream", "stdout", "data", "59\n", "seq", 59)
			p.say("output", "stream", "stdout", "data", "58\n", "seq", 58)
			p.say("complete", "retcode", 0, "seq", 59)
			p.hears("ack output 57", "nack out_of_order 58 59", "ack output 58", "ack complete 59")
			id := ledger.TaskID{Run: "job_1764360000", Machine: "m1"}
			if end := r.task(id); end.State != ledger.Succeeded || end.Started.IsZero() {
				t.Errorf("end %+v", end)
			}
			if got := r.output(id); got != foreignBegins+"57\n58\n" || r.notes(id) != "" {
				t.Errorf("output %q, notes %q", got, r.notes(id))
			}
		})
	}
	t.Run("at its end", func(t *testing.T) {
		r := newRig(t, adopting)
		p := r.foreigner("job", "job_1764360000", "m1")
		p.say("complete", "retcode", -15, "seq", 12)
		p.hears("ack complete 12")
		id := ledger.TaskID{Run: "job_1764360000", Machine: "m1"}
		if end := r.task(id); end.State != ledger.Failed || exitCode(end) != 143 {
			t.Errorf("end %+v", end)
		}
		if got := r.output(id); got != foreignBegins {
			t.Errorf("output %q", got)
		}
	})
	t.Run("over a restart", func(t *testing.T) {
		r := newRig(t, adopting)
		p := r.foreigner("job", "job_1764360000", "m1")
		p.say("output", "stream", "stdout", "data", "7\n", "seq", 7)
		p.hears("ack output 7")
		p.cut()
		r.stop()
		r.start()
		p = r.foreigner("job", "job_1764360000", "m1")
		p.say("sync_request", "last_acked_seq", 7, "next_seq", 8)
		p.say("output", "stream", "stdout", "data", "8\n", "seq", 8)
		p.hears("sync_response 7", "ack output 8")
		if got := r.output(ledger.TaskID{Run: "job_1764360000", Machine: "m1"}); got != foreignBegins+"7\n8\n" {
			t.Errorf("output %q", got)
		}
	})
}

// It is killed by message, and its word is the proof.
func TestKillOfForeigner(t *testing.T) {
	r := newRig(t, adopting)
	p := r.foreigner("job", "job_1764360000", "m1")
	p.say("heartbeat")
	id := ledger.TaskID{Run: "job_1764360000", Machine: "m1"}
	r.await("its task", func() bool { return r.tasks.find(id) != nil })
	receipts := make(chan []Receipt, 1)
	go func() { receipts <- r.kill(Selector{Job: "job"}, KillOptions{}) }()
	p.hears("kill")
	p.say("killed")
	p.say("output", "stream", "stderr", "data", wire.KilledLine, "seq", 4)
	p.say("complete", "retcode", -15, "seq", 5)
	p.hears("ack output 4", "ack complete 5")
	rc := (<-receipts)[0]
	if rc.Outcome != wire.OutcomeGone || rc.Proof != wire.ProofWrapper || *rc.ExitCode != 143 || rc.Via != roadWebSocket {
		t.Errorf("receipt %+v", rc)
	}
	if end := r.task(id); end.State != ledger.Killed || exitCode(end) != 143 {
		t.Errorf("end %+v", end)
	}
}

// One that does not answer has no other road, and a connection that is open is not lost.
func TestKillOfSilentForeigner(t *testing.T) {
	r := newRig(t, adopting, unhurried, func(r *rig) { r.pace.answer, r.pace.slowest = 100*time.Millisecond, 100*time.Millisecond })
	p := r.foreigner("job", "job_1764360000", "m1")
	p.say("heartbeat")
	r.adopted("job_1764360000")
	rc := r.kill(Selector{Job: "job"}, KillOptions{})[0]
	if rc.Outcome != wire.OutcomeUnreachable || rc.Via != "" || !rc.Pending || rc.WebsocketLost != 0 || rc.Error != errOnlyMessage.Error() {
		t.Errorf("receipt %+v", rc)
	}
	p.hears("kill")
	p.cut()
	id := ledger.TaskID{Run: "job_1764360000", Machine: "m1"}
	r.await("the end of its connection", func() bool { return r.tasks.find(id).link() == nil })
	r.await("a receipt that tells so", func() bool {
		rc = r.kill(Selector{Job: "job"}, KillOptions{})[0]
		return rc.WebsocketLost > 0
	})
	if rc.Outcome != wire.OutcomeUnreachable || rc.Error != errOnlyMessage.Error() {
		t.Errorf("receipt without a connection %+v", rc)
	}
}

// A frame without a token never touches a run of ours, whatever it says first.
func TestForeignerCannotSpeakForOthers(t *testing.T) {
	r, f := newFakeRig(t, adopting)
	id, _ := r.running(f)
	before := r.task(id)
	refused := func(job, run, machine string) {
		t.Helper()
		p := r.foreigner(job, run, machine)
		p.say("output", "stream", "stdout", "data", "forged", "seq", 0)
		_ = p.try("complete", "retcode", 0, "seq", 1)
		<-p.done
		for m := range p.frames {
			t.Errorf("%q %q %q was answered: %s", job, run, machine, inShort(m))
		}
	}
	refused(before.Job, id.Run, id.Machine)
	refused(before.Job, id.Run, "m2")
	for _, bad := range []string{"", ".", "..", "a/b", "a\nb", "a\x1b[2J", strings.Repeat("x", 231)} {
		refused(bad, "good_1", "m1")
		refused("good", bad, "m1")
		refused("good", "good_1", bad)
	}
	if now := r.task(id); now.State != before.State || r.output(id) != "" {
		t.Errorf("it became %+v", now)
	}
	if _, err := r.book.Run(t.Context(), "good_1"); err == nil {
		t.Error("a run of that name was begun")
	}
	// A connection speaks for the task that it began with, and for no other.
	p := r.foreigner("job", "job_1764360000", "m1")
	p.say("output", "stream", "stdout", "data", "mine", "seq", 0)
	p.hears("ack output 0")
	p.say("complete", "retcode", 0, "job_instance", id.Run, "machine", id.Machine)
	p.say("complete", "retcode", 0, "machine", "m9")
	p.say("sync_request", "last_acked_seq", 0, "next_seq", 1)
	p.hears("sync_response 0")
	if now := r.task(id); now.State != before.State {
		t.Errorf("it became %+v", now)
	}
	other := r.foreigner("another", "job_1764360000", "m1") // the same run, of another job
	other.say("heartbeat")
	<-other.done
	if n := strings.Count(r.logs.String(), "refused a wrapper without a token"); n != 1 {
		t.Errorf("%d refusals were logged", n) // one in ten seconds
	}
}

// They are bounded in number and in time.
func TestForeignersAreBounded(t *testing.T) {
	r := newRig(t, adopting, func(r *rig) { r.pace.foreign = time.Second })
	p := r.foreigner("job", "job_1764360000", "m1")
	p.say("heartbeat")
	id := ledger.TaskID{Run: "job_1764360000", Machine: "m1"}
	r.await("its task", func() bool { _, err := r.book.Task(t.Context(), id); return err == nil })
	end := r.awaitState(id, ledger.Unknown)
	if exitCode(end) != 253 || !strings.Contains(end.Reason, "no longer") {
		t.Errorf("end %+v", end)
	}
	<-p.done
	// Its true end still counts.
	p = r.foreigner("job", "job_1764360000", "m1")
	p.say("complete", "retcode", 4, "seq", 0)
	p.hears("ack complete 0")
	if end := r.task(id); end.State != ledger.Failed || exitCode(end) != 4 || !end.Amended {
		t.Errorf("end %+v", end)
	}
	r.tasks.foreigners.adopting.Lock()
	r.tasks.foreigners.adopted = foreignADay
	r.tasks.foreigners.adopting.Unlock()
	p = r.foreigner("job", "job_1764360001", "m1")
	p.say("heartbeat")
	<-p.done
	if _, err := r.book.Run(t.Context(), "job_1764360001"); err == nil {
		t.Error("there is no limit")
	}
}

// Silent ones become lost, which is no end, and come back.
func TestForeignerLostAndFound(t *testing.T) {
	r := newRig(t, adopting)
	p := r.foreigner("job", "job_1764360000", "m1")
	p.say("connect")
	p.say("start", "pid", 5)
	p.hears("ack connect", "ack start")
	p.cut()
	id := ledger.TaskID{Run: "job_1764360000", Machine: "m1"}
	r.awaitState(id, ledger.Lost)
	p = r.foreigner("job", "job_1764360000", "m1")
	p.say("output", "stream", "stdout", "data", "back", "seq", 0)
	p.hears("ack output 0")
	r.awaitState(id, ledger.Running)
	p.say("complete", "retcode", 0, "seq", 1)
	p.hears(fmt.Sprintf("ack complete %d", 1))
	r.awaitState(id, ledger.Succeeded)
}

// The key decides, and a change of it is in force at once.
func TestAdoptUnknownIsLive(t *testing.T) {
	book, err := ledger.Open(t.Context(), ledger.Options{Dir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	defer book.Close()
	set := func(adopt bool) *config.Set {
		return &config.Set{Settings: config.Settings{AdoptUnknown: adopt}, Jobs: map[string]*config.Job{"backup": {Name: "backup", Group: "nightly"}}}
	}
	r := New(Options{Ledger: book, Config: set(false)})
	if r.tasks.o.Adopt() {
		t.Error("they are taken over without the key")
	}
	r.SetConfig(set(true))
	if !r.tasks.o.Adopt() || r.tasks.o.Group("backup") != "nightly" || r.tasks.o.Group("unknown") != "" {
		t.Error("the key is not in force")
	}
}
