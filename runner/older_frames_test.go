package runner

import (
	"bufio"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

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
				r, f := newFakeRig(t, unhurried)
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
