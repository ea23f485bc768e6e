package wrapper

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/gorilla/websocket"

	"saltpeter/wsx/wire"
)

// oldServer is a server of an older generation: it speaks the old protocol exactly,
// knows no path, no token and no feature, and has nothing of our own road in it. The
// first generation acknowledges nothing.
type oldServer struct {
	t        *testing.T
	addr     string
	http     *http.Server
	served   chan struct{}
	handlers sync.WaitGroup

	mu      sync.Mutex
	second  bool
	conns   int
	ws      *websocket.Conn
	frames  []map[string]any
	last    int    // seq that was stored, -1 before the first
	text    string // stored
	unknown bool   // it lost the run
	lose    bool   // the next connection finds that all was forgotten
	dropSeq int    // the connection is cut, once, instead of an ack of this; -1: never
	faults  []string
}

func newOldServer(t *testing.T, second bool) *oldServer {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := &oldServer{t: t, addr: ln.Addr().String(), second: second, last: -1, dropSeq: -1, served: make(chan struct{})}
	s.http = &http.Server{Handler: s}
	go func() { _ = s.http.Serve(ln); close(s.served) }()
	t.Cleanup(func() {
		_ = s.http.Close()
		s.mu.Lock()
		if s.ws != nil {
			s.ws.Close()
		}
		s.mu.Unlock()
		<-s.served
		s.handlers.Wait()
		for _, f := range s.faults {
			t.Error(f)
		}
	})
	return s
}

func (s *oldServer) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	s.handlers.Add(1)
	defer s.handlers.Done()
	u := websocket.Upgrader{CheckOrigin: func(*http.Request) bool { return true }}
	ws, err := u.Upgrade(w, r, nil)
	if err != nil {
		return
	}
	defer ws.Close()
	ws.SetReadLimit(1 << 20) // as the existing one
	s.mu.Lock()
	s.conns++
	s.ws = ws
	if s.lose {
		s.lose, s.last, s.text = false, -1, ""
	}
	s.mu.Unlock()
	for {
		kind, data, err := ws.ReadMessage()
		if err != nil {
			return
		}
		s.mu.Lock()
		if kind != websocket.TextMessage {
			s.fault("a binary frame")
		} else if !s.take(ws, data) {
			s.mu.Unlock()
			return
		}
		s.mu.Unlock()
	}
}

func (s *oldServer) fault(format string, args ...any) {
	if len(s.faults) < 10 {
		s.faults = append(s.faults, fmt.Sprintf(format, args...))
	}
}

// take handles one frame under mu; false ends the connection.
func (s *oldServer) take(ws *websocket.Conn, data []byte) bool {
	var m map[string]any
	if err := json.Unmarshal(data, &m); err != nil || !utf8.Valid(data) {
		s.fault("a frame that is no JSON: %.80q", data)
		return false
	}
	for _, key := range []string{"type", "job_name", "job_instance", "machine", "timestamp"} {
		if text, ok := m[key].(string); !ok || text == "" {
			s.fault("a frame without %s: %.80q", key, data)
		}
	}
	if _, err := time.Parse("2006-01-02T15:04:05.000000-07:00", m["timestamp"].(string)); err != nil {
		s.fault("%v", err)
	}
	s.frames = append(s.frames, m)
	if s.unknown {
		s.answer(ws, map[string]any{"type": "error", "code": "JOB_NOT_FOUND", "message": "unknown job"})
		return true
	}
	switch m["type"] {
	case "connect", "start":
		s.ack(ws, m["type"], nil)
	case "output":
		return s.output(ws, m)
	case "sync_request":
		s.answer(ws, map[string]any{"type": "sync_response", "last_seq": s.last})
	case "complete":
		if _, ok := m["retcode"].(float64); !ok {
			s.fault("complete without retcode: %v", m)
		}
		s.ack(ws, "complete", m["seq"])
	case "heartbeat", "killed", "error":
	default:
		s.fault("a frame that no older server knows: %v", m["type"])
	}
	return true
}

func (s *oldServer) output(ws *websocket.Conn, m map[string]any) bool {
	text, stream := m["data"].(string), m["stream"].(string)
	if len(text) > 500_000 || stream != "stdout" && stream != "stderr" {
		s.fault("a piece of %d bytes for %q", len(text), stream)
	}
	number, ok := m["seq"].(float64)
	seq := int(number)
	if !ok {
		s.fault("output without seq")
	}
	if !s.second {
		s.text += text // it does not look at numbers
		return true
	}
	if seq == s.dropSeq {
		s.dropSeq = -1
		return false
	}
	switch {
	case seq > s.last+1:
		s.answer(ws, map[string]any{"type": "nack", "nack_type": "out_of_order", "expected_seq": s.last + 1, "received_seq": seq})
		return true
	case seq == s.last+1:
		s.last, s.text = seq, s.text+text
	}
	s.ack(ws, "output", seq)
	return true
}

func (s *oldServer) ack(ws *websocket.Conn, kind, seq any) {
	if !s.second {
		return
	}
	m := map[string]any{"type": "ack", "ack_type": kind}
	if seq != nil {
		m["seq"] = seq
	}
	s.answer(ws, m)
}

func (s *oldServer) answer(ws *websocket.Conn, m map[string]any) {
	m["timestamp"] = time.Now().UTC().Format("2006-01-02T15:04:05.000000+00:00")
	_ = ws.WriteJSON(m) // the wrapper may have gone
}

// await waits for what holds under mu.
func (s *oldServer) await(what string, is func() bool) {
	s.t.Helper()
	waitFor(s.t, what, func() bool {
		s.mu.Lock()
		defer s.mu.Unlock()
		return is()
	})
}

func (s *oldServer) count(kind string) (n int) {
	for _, m := range s.frames {
		if m["type"] == kind {
			n++
		}
	}
	return n
}

func (s *oldServer) first(kind string) map[string]any {
	for _, m := range s.frames {
		if m["type"] == kind {
			return m
		}
	}
	return nil
}

// kill sends the kill message, as often as that server does.
func (s *oldServer) kill(times int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for range times {
		s.answer(s.ws, map[string]any{"type": "kill", "job_name": "job", "job_instance": "job_1", "machine": "m1"})
	}
}

// started is a wrapper as an older server starts it, with its settings in the
// environment and no arguments: it is in the background when that returns.
type started struct {
	id wire.Identity
}

func (s *oldServer) start(command string, environ ...string) *started {
	t := s.t
	t.Helper()
	cmd := wrapperCommand(nil, append([]string{
		"SP_WEBSOCKET_URL=ws://" + s.addr, "SP_JOB_NAME=job", "SP_JOB_INSTANCE=job_1", "SP_JOB_INSTANCE_NAME=job_1", "SP_MACHINE_ID=m1",
		"SP_COMMAND=" + command, "SP_TIMEOUT=3600", "SP_OUTPUT_INTERVAL_MS=20", "SP_WRAPPER_LOGLEVEL=normal", "SP_ALLOW_OVERLAP=false",
		"SP_SPOOL_DIR=" + filepath.Join(spoolDirOf(t), "spool"),
	}, environ...)...)
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs // to their end: the wrapper must let go of them
	if err := cmd.Run(); err != nil {
		t.Fatalf("%v: %s", err, &errs)
	}
	w := &started{}
	_, line, _ := strings.Cut(out.String(), "\n")
	if err := json.Unmarshal([]byte(line), &w.id); err != nil {
		t.Fatalf("%v: it printed %q", err, &out)
	}
	t.Cleanup(func() { putDownTask(&w.id) })
	return w
}

// putDownTask ends what a test leaves of a task, if it is still that.
func putDownTask(id *wire.Identity) {
	wrapper := wire.Identity{PID: id.WrapperPID, StartTicks: id.WrapperStartTicks, BootID: id.BootID}
	for _, one := range []*wire.Identity{&wrapper, id} {
		if jobLives(one) {
			if p, err := os.FindProcess(one.PID); err == nil {
				_ = p.Kill()
			}
		}
	}
}

func (w *started) ends(t *testing.T) {
	t.Helper()
	wrapper := wire.Identity{PID: w.id.WrapperPID, StartTicks: w.id.WrapperStartTicks, BootID: w.id.BootID}
	waitFor(t, "the wrapper's end", func() bool { return !jobLives(&wrapper) })
}

// The second generation's server: JSON, numbers from 0, text, nothing that it does not
// know, and the connection is cut in the middle.
func TestServerOfSecondGeneration(t *testing.T) {
	s := newOldServer(t, true)
	s.mu.Lock()
	s.dropSeq = 2
	s.mu.Unlock()
	w := s.start(`printf 'a\377b é\n'; sleep 0.2; printf '\303'; sleep 0.2; printf '\251\n'; sleep 0.2; echo err >&2; sleep 0.2; i=0; while [ $i -lt 20000 ]; do echo "€ 0123456789 0123456789 0123456789 $i"; i=$((i+1)); done; exit 3`)
	s.await("complete", func() bool { return s.count("complete") > 0 })
	w.ends(t)
	s.mu.Lock()
	defer s.mu.Unlock()
	if m := s.first("complete"); m["retcode"] != 3.0 || m["seq"] != float64(s.last+1) {
		t.Errorf("complete %v after %d", m, s.last)
	}
	if m := s.first("start"); m["pid"] != float64(w.id.PID) {
		t.Errorf("start %v", m)
	}
	var want strings.Builder
	want.WriteString("a\uFFFDb é\né\nerr\n")
	for i := range 20000 {
		fmt.Fprintf(&want, "€ 0123456789 0123456789 0123456789 %d\n", i)
	}
	if s.text != want.String() {
		t.Errorf("the text is another: %d bytes, %.60q", len(s.text), s.text)
	}
	if s.conns != 2 || s.frames[0]["type"] != "connect" {
		t.Errorf("%d connections, first %v", s.conns, s.frames[0])
	}
}

// A server that has lost what it had asks for it again from its beginning.
func TestServerThatForgot(t *testing.T) {
	s := newOldServer(t, true)
	w := s.start("for i in 1 2 3 4 5 6; do echo $i; sleep 0.1; done; sleep 300")
	s.await("some output", func() bool { return s.last >= 2 })
	s.mu.Lock()
	s.lose = true
	s.ws.Close()
	s.mu.Unlock()
	s.await("all of it again", func() bool { return s.conns == 2 && s.text == "1\n2\n3\n4\n5\n6\n" })
	s.kill(1)
	s.await("the end", func() bool { return s.count("complete") > 0 })
	w.ends(t)
}

// A kill that is said again every half second is one kill, and each is answered.
func TestRepeatedKillOfOlderServer(t *testing.T) {
	s := newOldServer(t, true)
	w := s.start(`trap 'echo caught; sleep 1; exit 7' TERM; echo ready; while :; do sleep 0.05; done`)
	s.await("the trap", func() bool { return s.text == "ready\n" })
	s.kill(2)
	time.Sleep(500 * time.Millisecond) // as that server does
	s.kill(1)
	s.await("complete", func() bool { return s.count("complete") > 0 })
	w.ends(t)
	s.mu.Lock()
	defer s.mu.Unlock()
	// A shell may say in between that its sleep was terminated.
	if strings.Count(s.text, "caught\n") != 1 || strings.Count(s.text, wire.KilledLine) != 1 || !strings.HasSuffix(s.text, "\n"+wire.KilledLine) {
		t.Errorf("output %q", s.text)
	}
	if m := s.first("complete"); m["retcode"] != 143.0 {
		t.Errorf("complete %v", m)
	}
	if n := s.count("killed"); n == 0 || n > 3 {
		t.Errorf("killed was said %d times", n)
	}
}

// JOB_NOT_FOUND ends the reports and not the job.
func TestServerThatKnowsNoRun(t *testing.T) {
	s := newOldServer(t, true)
	done := filepath.Join(t.TempDir(), "done")
	w := s.start("echo one; sleep 1; echo two; touch " + done)
	s.await("output", func() bool { return s.text == "one\n" })
	s.mu.Lock()
	s.unknown = true
	s.ws.Close()
	s.mu.Unlock()
	w.ends(t)
	if _, err := os.Stat(done); err != nil {
		t.Error("the job was stopped")
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.count("complete") > 0 {
		t.Error("it went on reporting")
	}
}

// The first generation's server acknowledges nothing: output goes all the same, and
// the end is said again for a minute at most.
func TestServerOfFirstGeneration(t *testing.T) {
	t.Parallel()
	s := newOldServer(t, false)
	w := s.start(`echo "one €"; sleep 2.5; echo two; exit 4`)
	s.await("two completes", func() bool { return s.count("complete") >= 2 })
	s.mu.Lock()
	if m := s.first("complete"); m["retcode"] != 4.0 {
		t.Errorf("complete %v", m)
	}
	if s.text != "one €\ntwo\n" || s.conns != 1 {
		t.Errorf("output %q over %d connections", s.text, s.conns)
	}
	if s.frames[0]["type"] != "connect" || s.frames[1]["type"] != "start" {
		t.Errorf("it begins with %v, %v", s.frames[0], s.frames[1])
	}
	s.mu.Unlock()
	if jobLives(&w.id) {
		t.Error("the job lives")
	}
	// That it gives up after a minute is a matter of the clock, see below.
}

// An end that nobody confirms is said for a minute and then taken as told.
func TestUnconfirmedEndIsGivenUp(t *testing.T) {
	o := defaultOrder()
	o.Job, o.Run, o.Machine, o.LogLevel = "job", "job_1", "m1", "off"
	log := newTaskLog(o, "", &bytes.Buffer{})
	defer log.Close()
	sp := newSpool(spoolOptions{})
	defer sp.Close()
	r := newReporter(reporterOptions{Order: o, Spool: sp, Log: log})
	now := time.Now()
	r.up, r.features = true, []string{}
	r.end = &owedEnd{code: 4, at: now, owed: now}
	said := 0
	for at := now; at.Before(now.Add(2 * oldGiveUp)); at = at.Add(time.Second) {
		if m, _ := r.dueEnd(at); m != nil {
			if m.message.Type != wire.TypeComplete || *m.message.RetCode != 4 || m.message.End != nil {
				t.Fatalf("%+v", m.message)
			}
			m.sent(at)
			said++
		}
		if r.delivered {
			if since := at.Sub(now); since < oldGiveUp || said < 5 || said > 20 {
				t.Errorf("given up after %s and %d tries", since, said)
			}
			return
		}
	}
	t.Error("it never ends")
}
