package runner

import (
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"saltpeter/runner/launch"
	"saltpeter/runner/ledger"
	"saltpeter/wsx/wire"
)

// The second generation, where nothing goes well: what was not acknowledged is sent
// again in bursts, in pieces that came already, with holes, over connections that are
// cut anywhere, to a server that is killed in between. The text is there once.
func TestSecondGenerationInTrouble(t *testing.T) {
	const seed = 20251104
	dice := rand.New(rand.NewPCG(seed, seed))
	r, f := newFakeRig(t, unhurried)
	s := r.spec("fake", "true")
	o := r.launched(f, s)
	p := r.older(o)
	p.say("connect")
	p.say("start", "pid", 99, "version", "0.9.31")
	p.hears("ack connect", "ack start")
	p.cut()
	r.stop()

	var pieces []string
	for range 120 {
		var b strings.Builder
		for range 1 + dice.IntN(40) {
			b.WriteString([]string{"a", "é", "€", "𝄞", "\n", "\u2028", "\x00", `"\`, "\uFFFD"}[dice.IntN(9)])
		}
		pieces = append(pieces, b.String())
	}
	server := r.mortal()
	w := &troubled{r: r, o: o, pieces: pieces, dice: dice}
	for w.acked < len(pieces) {
		w.connect()
		switch dice.IntN(6) {
		case 0:
			server.kill()
			server = r.mortal()
		case 1:
			w.sync()
			w.conn.cut()
		default:
			w.conn.cut()
		}
	}
	server.kill()
	r.start()
	p = r.older(o)
	last := int64(len(pieces))
	p.say("complete", "retcode", -9, "seq", last+3) // two frames are still to come, it says
	p.hears(fmt.Sprintf("nack out_of_order %d %d", last, last+3))
	p.say("sync_request", "last_acked_seq", last-1, "next_seq", last)
	p.hears(fmt.Sprintf("sync_response %d", last-1))
	p.say("complete", "retcode", -9, "seq", last)
	p.hears(fmt.Sprintf("ack complete %d", last))
	p.say("complete", "retcode", -9, "seq", last) // the ack was lost on its way
	p.hears(fmt.Sprintf("ack complete %d", last))
	if got := r.output(s.Task.TaskID); got != strings.Join(pieces, "") {
		t.Errorf("seed %d: other text: %q", seed, got)
	}
	if end := r.task(s.Task.TaskID); end.State != ledger.Failed || exitCode(end) != 137 || end.End.RealSignal != 9 {
		t.Errorf("end %+v", end)
	}
}

// troubled is a wrapper of the second generation with a bad line.
type troubled struct {
	r      *rig
	o      wire.Order
	conn   *plain
	pieces []string
	acked  int // all below
	dice   *rand.Rand
}

// connect sends a burst from what was acknowledged on, sometimes from before that,
// sometimes with a hole, and takes some of the answers.
func (w *troubled) connect() {
	t := w.r.t
	w.conn = w.r.older(w.o)
	from := max(0, w.acked-w.dice.IntN(3))
	to := min(len(w.pieces), w.acked+1+w.dice.IntN(12))
	hole := -1
	if w.dice.IntN(3) == 0 {
		hole = from + w.dice.IntN(max(1, to-from))
	}
	next := w.acked // that the server expects, as far as is known
	for seq := from; seq < to; seq++ {
		if seq == hole {
			continue
		}
		w.conn.say("output", "stream", "stdout", "data", w.pieces[seq], "seq", seq)
		want := fmt.Sprintf("ack output %d", seq)
		if seq > next {
			want = fmt.Sprintf("nack out_of_order %d %d", next, seq)
		}
		got := inShort(w.conn.hear())
		if seq > next && got == fmt.Sprintf("ack output %d", seq) {
			// It was stored on an earlier connection whose answer was lost.
			want = got
		}
		if got != want {
			t.Fatalf("frame %d, expected %d: %q instead of %q", seq, next, got, want)
		}
		if strings.HasPrefix(got, "ack") && seq >= next {
			next = seq + 1
		}
	}
	w.acked = next
}

// sync asks how far it was heard: never less than what was acknowledged.
func (w *troubled) sync() {
	w.conn.say("sync_request", "last_acked_seq", w.acked-1, "next_seq", w.acked)
	w.conn.hears(fmt.Sprintf("sync_response %d", w.acked-1))
}

// Before anything was stored there is no number; and numbers that make no sense do no
// harm.
func TestOddNumbers(t *testing.T) {
	r, f := newFakeRig(t, unhurried)
	s := r.spec("fake", "true")
	p := r.older(r.launched(f, s))
	p.say("sync_request", "last_acked_seq", -1, "next_seq", 0)
	p.hears("sync_response -1")
	p.say("output", "stream", "stdout", "data", "late", "seq", 7)
	p.hears("nack out_of_order 0 7")
	p.say("output", "stream", "stdout", "data", "odd", "seq", -3)
	p.hears("ack output -3")
	for _, frame := range []string{`[]`, `{"type":`, `{"type":"output","seq":"one"}`, `{}`, `null`, "\"\xff\""} {
		if err := p.raw([]byte(frame)); err != nil {
			t.Fatal(err)
		}
	}
	p.say("output", "stream", "stdout", "data", "first", "seq", 0, "timestamp", "yesterday", "news", map[string]any{"of": "later"})
	p.hears("ack output 0")
	if got := r.output(s.Task.TaskID); got != "first" {
		t.Errorf("output %q", got)
	}
}

// Two connections of one token: the newest is the task's, the other is closed.
func TestTwoConnectionsOfAnOlderWrapper(t *testing.T) {
	r, f := newFakeRig(t, unhurried)
	f.answer(func(launch.ScriptRequest) (launch.ScriptResult, error) {
		return launch.ScriptResult{Outcome: wire.OutcomeGone, Proof: wire.ProofScan}, nil
	})
	s := r.spec("fake", "true")
	o := r.launched(f, s)
	first := r.older(o)
	first.say("connect")
	first.say("start", "pid", 99)
	first.say("output", "stream", "stdout", "data", "a", "seq", 0)
	first.hears("ack connect", "ack start", "ack output 0")
	second := r.older(o) // it does not say who it is
	select {
	case <-first.done:
	case <-time.After(testWait):
		t.Fatal("the first connection stays open")
	}
	receipts := make(chan []Receipt, 1)
	go func() { receipts <- r.kill(Selector{Run: o.Run}, KillOptions{}) }()
	second.hears("kill")
	second.say("killed")
	second.say("output", "stream", "stdout", "data", "a", "seq", 0)
	second.say("output", "stream", "stderr", "data", wire.KilledLine, "seq", 1)
	second.say("output", "stream", "stderr", "data", wire.KilledLine, "seq", 1)
	second.say("complete", "retcode", 143, "seq", 2)
	second.hears("ack output 0", "ack output 1", "ack output 1", "ack complete 2")
	rc := (<-receipts)[0]
	if rc.Outcome != wire.OutcomeGone || rc.Proof != wire.ProofScan || *rc.ExitCode != 143 {
		t.Errorf("receipt %+v", rc)
	}
	if got := r.output(s.Task.TaskID); got != "a"+wire.KilledLine || r.notes(s.Task.TaskID) != "" {
		t.Errorf("output %q notes %q", got, r.notes(s.Task.TaskID))
	}
}

// Where no road leads to the machine, an older wrapper's word is all there is, and the
// receipt says whose word it is.
func TestWordOfAnOlderWrapper(t *testing.T) {
	r := newRig(t, unhurried)
	s := r.spec("nowhere", "true")
	o := r.unlaunched(s)
	p := r.older(o)
	p.say("connect")
	p.say("start", "pid", 99)
	p.hears("ack connect", "ack start")
	receipts := make(chan []Receipt, 1)
	go func() { receipts <- r.kill(Selector{Run: o.Run}, KillOptions{}) }()
	p.hears("kill")
	p.say("killed")
	p.say("complete", "retcode", -15, "seq", 0)
	p.hears("ack complete 0")
	rc := (<-receipts)[0]
	if rc.Outcome != wire.OutcomeGone || rc.Proof != wire.ProofWrapper || *rc.ExitCode != 143 || rc.RealSignal != 15 {
		t.Errorf("receipt %+v", rc)
	}
	if end := r.task(s.Task.TaskID); end.State != ledger.Killed || r.notes(s.Task.TaskID) != wire.KilledLine {
		t.Errorf("end %+v, notes %q", end, r.notes(s.Task.TaskID)) // it did not write the line itself
	}
}

// unlaunched records a launched task and its token as the launch would, without one.
func (r *rig) unlaunched(s taskSpec) wire.Order {
	r.t.Helper()
	r.begin(s)
	token, hash := newToken()
	_, err := r.book.Apply(r.t.Context(), ledger.Launched{Task: s.Task.TaskID, At: time.Now(), Transport: s.Machine.Transport, Cookie: newCookie(), TokenHash: hash})
	if err != nil {
		r.t.Fatal(err)
	}
	o := s.Order
	o.URL = "ws://" + r.addr + "/task/" + token
	return o
}

// The first generation: nothing is numbered, nothing is awaited, and it hangs up as
// soon as it has said its end.
func TestFirstGenerationFrames(t *testing.T) {
	all := "out é\nerr\nout €\n"
	for name, c := range map[string]struct {
		frames []string // output before the end; "|" cuts the connection, and what follows goes over a new one
		whole  string
		want   string
	}{
		"streamed":                {[]string{"out é\n", "err\n", "out €\n"}, all, all},
		"in other pieces":         {[]string{"o", "ut é\ne", "rr\nout", " €\n"}, all, all},
		"not streamed":            {nil, all, all},
		"no text at the end":      {[]string{"out é\n", "err\n", "out €\n"}, "", all},
		"errors apart at the end": {[]string{"out é\n", "err\n", "out €\n"}, "out é\nout €\nerr\n", all},
		"lines without their end": {[]string{"out é", "err", "out €"}, all, "out éerrout €"},
		"cut, the last lost":      {[]string{"out é\n", "|"}, all, all},
		"cut, the middle lost":    {[]string{"out é\n", "|", "out €\n"}, all, "out é\nout €\nerr\n"},
		"a closing line":          {[]string{"out é\n", "err\n", "out €\n"}, all + "\n[Job ended]\n", all + "\n[Job ended]\n"},
	} {
		t.Run(name, func(t *testing.T) {
			r, f := newFakeRig(t, unhurried)
			s := r.spec("fake", "true")
			o := r.launched(f, s)
			p := r.older(o)
			p.say("connect")
			p.say("start", "pid", 99, "version", "0.5")
			for _, text := range c.frames {
				if text == "|" {
					p.say("heartbeat")
					r.await("what was sent", func() bool { return r.output(s.Task.TaskID) == c.frames[0] })
					p.cut()
					p = r.older(o)
					continue
				}
				p.say("output", "stream", "stdout", "data", text)
			}
			if c.whole != "" {
				p.say("complete", "retcode", 2, "output", c.whole)
			} else {
				p.say("complete", "retcode", 2)
			}
			p.hangUp()
			if end := r.awaitState(s.Task.TaskID, ledger.Failed); exitCode(end) != 2 || end.Version != "0.5" {
				t.Errorf("end %+v", end)
			}
			if got := r.output(s.Task.TaskID); got != c.want {
				t.Errorf("output %q", got)
			}
		})
	}
}

// The end of an older wrapper that was killed and timed out in every way it can say.
func TestCodesOfOlderWrappers(t *testing.T) {
	for name, c := range map[string]struct {
		code    int
		closing string
		state   ledger.State
		exit    int
		signal  int
	}{
		"success":           {0, "", ledger.Succeeded, 0, 0},
		"failure":           {7, "", ledger.Failed, 7, 0},
		"died of a signal":  {-11, "", ledger.Failed, 139, 11},
		"killed by others":  {-9, "", ledger.Failed, 137, 9},
		"timeout":           {-15, "\n[Job exceeded timeout of 4 seconds]\n", ledger.TimedOut, 124, 15},
		"timeout, own code": {124, "\n[Job exceeded timeout of 4 seconds]\n", ledger.TimedOut, 124, 0},
	} {
		t.Run(name, func(t *testing.T) {
			r, f := newFakeRig(t, unhurried)
			s := r.spec("fake", "true")
			s.Order.Timeout = 4
			o := r.launched(f, s)
			p := r.older(o)
			p.say("connect")
			p.say("start", "pid", 99)
			p.hears("ack connect", "ack start")
			seq := 0
			if c.closing != "" {
				p.say("output", "stream", "stderr", "data", c.closing, "seq", seq)
				p.hears("ack output 0")
				seq++
				p.cut()
				r.stop() // and this server forgets what it heard
				r.start()
				p = r.older(o)
			}
			p.say("complete", "retcode", c.code, "seq", seq)
			p.hears(fmt.Sprintf("ack complete %d", seq))
			end := r.task(s.Task.TaskID)
			if end.State != c.state || exitCode(end) != c.exit || end.End.RealSignal != c.signal {
				t.Errorf("end %+v %+v", end, end.End)
			}
		})
	}
}
