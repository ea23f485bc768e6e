package wrapper

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"saltpeter/testdata/lab"
	"saltpeter/wsx/wire"
)

// A wrapper whose server was gone before it said who it is does not open the gate by
// itself: the next server may have started the task again by then.
func TestUnheardStartWaits(t *testing.T) {
	s := newTestServer(t)
	mark := filepath.Join(t.TempDir(), "mark")
	o := testOrder(t, s, "echo ran >"+mark)
	o.Server, o.StartWait = "a server that died", 0.1
	o.URL, o.Socket = "ws://127.0.0.1:1/task/none", "" // nobody listens there
	order, err := o.Encode()
	if err != nil {
		t.Fatal(err)
	}
	read, write, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	read.Close()
	defer write.Close()
	said := &lab.Buffer{}
	cmd := wrapperCommand([]string{"--foreground"})
	cmd.Stdin, cmd.Stdout, cmd.Stderr = bytes.NewReader(order), write, said
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	t.Cleanup(func() { _ = cmd.Process.Kill() })
	waitFor(t, "its word that it waits", func() bool { return strings.Contains(said.String(), "the command waits for a server") })
	time.Sleep(20 * 100 * time.Millisecond) // many times what the gate waits for a server that is only away
	for range 30 {                          // the first ends the job, the next its wrapper
		_ = cmd.Process.Signal(syscall.SIGTERM)
		select {
		case <-ended:
			if _, err := os.Stat(mark); err == nil {
				t.Error("the command has run")
			}
			return
		case <-time.After(time.Second):
		}
	}
	t.Errorf("it does not end: %s", said)
}

// What is asked before the gate opens is answered when it does, or when it is clear
// that it never will.
func TestAskedBeforeTheGateOpens(t *testing.T) {
	for _, killed := range []bool{false, true} {
		s := newTestServer(t)
		s.muteStart = true
		w := launch(t, testOrder(t, s, "sleep 300"))
		s.awaitMessage(wire.TypeStart)
		s.send(&wire.Message{Type: wire.TypePause, ID: "p"})
		if killed {
			s.send(&wire.Message{Type: wire.TypeKill, ID: "k"})
		} else {
			s.send(&wire.Message{Type: wire.TypeAck, AckType: wire.TypeStart})
		}
		waitFor(t, "the answer to the pause", func() bool { return s.reportOf("p") != nil })
		if got := s.reportOf("p"); got.OK == killed || killed && got.Outcome != wire.OutcomeNotRunning {
			t.Errorf("killed %v: %+v", killed, got)
		}
		if !killed {
			s.send(&wire.Message{Type: wire.TypeKill, ID: "k"})
		}
		s.awaitMessage(wire.TypeComplete)
		w.exits()
	}
}

// reportOf is the latest answer to one request.
func (s *testServer) reportOf(id string) (r *wire.Report) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, m := range s.messages {
		if m.Type == wire.TypeReport && m.ID == id {
			r = m.Report
		}
	}
	return r
}
