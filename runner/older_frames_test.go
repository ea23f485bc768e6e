package runner

import (
	"bufio"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"saltpeter/runner/launch"
	"saltpeter/runner/ledger"
	"saltpeter/wsx/wire"
)

// record is one line of a recording of the existing program.
type record struct {
	T     float64         `json:"t"`
	Conn  int             `json:"conn"`
	Event string          `json:"event"`
	Dir   string          `json:"dir"`
	Frame json.RawMessage `json:"frame"`
}

func recording(t *testing.T, name string) []record {
	t.Helper()
	f, err := os.Open(filepath.Join("..", "wsx", "wire", "testdata", "frames", name+".jsonl"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	var all []record
	lines := bufio.NewScanner(f)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		var one record
		if err := json.Unmarshal(lines.Bytes(), &one); err != nil {
			t.Fatal(err)
		}
		all = append(all, one)
	}
	return all
}

// answerOf is what the protocol has a server answer to a frame of the second
// generation that came in its turn; "" for nothing.
func answerOf(m *wire.Message) string {
	switch m.Type {
	case wire.TypeConnect, wire.TypeStart:
		return "ack " + m.Type
	case wire.TypeOutput, wire.TypeComplete:
		return fmt.Sprintf("ack %s %d", m.Type, *m.Seq)
	case wire.TypeSyncRequest:
		return fmt.Sprintf("sync_response %d", *m.NextSeq-1) // all that was sent on a connection came
	}
	return ""
}

// Every recorded session of the existing program, its wrapper's frames as they were:
// once each after its answer, and once all that a connection carried at a stroke.
func TestRecordedSessions(t *testing.T) {
	for name, want := range map[string]struct {
		state  ledger.State
		code   int
		real   int
		output string
	}{
		"short_success":        {ledger.Succeeded, 0, 0, "hello\nerr\nbye\n"},
		"killed":               {ledger.Killed, 143, 15, "working\n\n[Job terminated by user request]\n"},
		"timed_out":            {ledger.TimedOut, 124, 15, "working\n\n[Job exceeded timeout of 4 seconds]\n"},
		"reconnect_mid_output": {ledger.Succeeded, 0, 0, ticks(120)},
	} {
		for _, burst := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s/burst=%v", name, burst), func(t *testing.T) {
				r, f := newFakeRig(t)
				f.answer(func(launch.ScriptRequest) (launch.ScriptResult, error) {
					return launch.ScriptResult{Outcome: wire.OutcomeGone, Proof: wire.ProofScan}, nil
				})
				s := r.specOf(name, name+"_1", "m1", "fake", "true")
				s.Order.Timeout = 4
				play := replay{r: r, s: s, url: r.launched(f, s).URL, burst: burst, receipts: make(chan []Receipt, 1)}
				play.run(recording(t, name))
				end := r.awaitState(s.Task.TaskID, want.state)
				if exitCode(end) != want.code || end.End.RealSignal != want.real {
					t.Errorf("end %+v %+v", end, end.End)
				}
				if got := r.output(s.Task.TaskID); got != want.output {
					t.Errorf("output %q", got)
				}
				if name == "killed" {
					if rc := (<-play.receipts)[0]; rc.Outcome != wire.OutcomeGone || rc.Proof != wire.ProofScan || *rc.ExitCode != 143 {
						t.Errorf("receipt %+v", rc)
					}
				}
				if n := r.endings(s.Task.TaskID); n != 1 {
					t.Errorf("its end was told %d times", n)
				}
			})
		}
	}
}

func ticks(n int) string {
	var b strings.Builder
	for i := 1; i <= n; i++ {
		fmt.Fprintf(&b, "tick %d\n", i)
	}
	return b.String()
}

// replay plays one recording.
type replay struct {
	r        *rig
	s        taskSpec
	url      string
	burst    bool
	conn     *plain
	expected []string // of this connection, still to be heard
	said     []string // by our server, all of it
	recorded []string // what the existing one said
	receipts chan []Receipt
	asked    bool
}

func (y *replay) run(all []record) {
	t := y.r.t
	for _, one := range all {
		switch {
		case one.Event == "open":
			y.conn = y.r.plain(y.url, nil)
		case one.Event == "dropped_by_proxy":
			y.catchUp()
			y.conn.cut()
		case one.Dir == "w2s":
			if err := y.conn.raw(one.Frame); err != nil {
				t.Fatal(err)
			}
			m, err := wire.Decode(one.Frame)
			if err != nil {
				t.Fatal(err)
			}
			if answer := answerOf(m); answer != "" {
				y.expected = append(y.expected, answer)
			}
			if !y.burst {
				y.catchUp()
			}
		case one.Dir == "s2w":
			y.heardThen(one)
		}
	}
	y.catchUp()
	y.compare()
}

// heardThen takes what the existing server said at that moment.
func (y *replay) heardThen(one record) {
	t := y.r.t
	m, err := wire.Decode(one.Frame)
	if err != nil {
		t.Fatal(err)
	}
	if m.Type != wire.TypeKill {
		y.recorded = append(y.recorded, inShort(m))
		return
	}
	if y.asked {
		return // it says a kill every half second; ours says it once on each connection
	}
	y.asked = true
	y.catchUp()
	go func() { y.receipts <- y.r.kill(Selector{Run: y.s.Task.Run}, KillOptions{}) }()
	if k := y.conn.hear(); k.Type != wire.TypeKill || k.JobInstance != m.JobInstance || k.Machine != m.Machine || k.JobName != m.JobName || k.Timestamp == "" {
		t.Errorf("kill %+v", k)
	}
}

// catchUp hears everything that is owed on this connection, and nothing else.
func (y *replay) catchUp() {
	y.r.t.Helper()
	y.conn.hears(y.expected...)
	y.said = append(y.said, y.expected...)
	y.expected = nil
}

// compare holds what the existing server said against what ours said: all of it, in
// the same order. Ours says more to a wrapper that came back without introducing
// itself: the existing one had lost whose connection that was, acknowledged no output
// any more, and told it -1 when it asked.
func (y *replay) compare() {
	left := y.said
	for _, was := range y.recorded {
		if strings.HasPrefix(was, wire.TypeSyncResponse) {
			was = wire.TypeSyncResponse
		}
		at := slices.IndexFunc(left, func(now string) bool { return now == was || strings.HasPrefix(now, was+" ") })
		if at < 0 {
			y.r.t.Errorf("the existing server said %q next, ours: %q", was, left)
			return
		}
		left = left[at+1:]
	}
}

// The second generation, where nothing goes well: what was not acknowledged is sent
// again in bursts, in pieces that came already, with holes, over connections that are
// cut anywhere, to a server that is killed in between. The text is there once.
func TestSecondGenerationInTrouble(t *testing.T) {
	const seed = 20251104
	dice := rand.New(rand.NewPCG(seed, seed))
	r, f := newFakeRig(t)
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
	r, f := newFakeRig(t)
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
	r, f := newFakeRig(t)
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
	r := newRig(t)
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
			r, f := newFakeRig(t)
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
			r, f := newFakeRig(t)
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
