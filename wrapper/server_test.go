package wrapper

import (
	"context"
	"errors"
	"net"
	"sync"
	"testing"
	"time"

	"saltpeter/wsx"
	"saltpeter/wsx/wire"
)

// testServer is a machines listener that keeps what it is told. It can be
// stopped and started again on its port, with all it had or with less.
type testServer struct {
	t    *testing.T
	addr string

	mu       sync.Mutex
	changed  chan struct{} // closed and replaced whenever something came
	server   *wsx.Server
	served   chan error
	conn     *wsx.Conn
	output   []byte
	streams  []testRun // of the output
	messages []*wire.Message
	order    []byte // for SP_ORDER=fetch

	features     []string // offered; nil: an older server
	muteStart    bool     // start is not acked
	muteComplete bool
	muteReports  bool
	unknown      bool          // answers connect with JOB_NOT_FOUND
	stopAt       int64         // output from here on is not taken; 0 = all is
	ackDelay     time.Duration // how late an output's ack is
	textSeq      int64
}

// testRun is what one frame added; of long ones only the beginning is kept.
type testRun struct {
	stream byte
	text   string
}

const testWait = 30 * time.Second

func newTestServer(t *testing.T) *testServer {
	s := &testServer{t: t, changed: make(chan struct{}), features: wire.Features()}
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s.addr = ln.Addr().String()
	s.serve(ln)
	t.Cleanup(s.stop)
	return s
}

// newAbsentServer has a port but does not listen yet.
func newAbsentServer(t *testing.T) *testServer {
	s := newTestServer(t)
	s.stop()
	return s
}

func (s *testServer) serve(ln net.Listener) {
	server, served := wsx.NewServer(wsx.ServerOptions{Handler: s}), make(chan error, 1)
	s.mu.Lock()
	s.server, s.served = server, served
	s.mu.Unlock()
	go func() { served <- server.Serve(ln) }()
}

func (s *testServer) start() {
	s.t.Helper()
	var err error
	for deadline := time.Now().Add(testWait); time.Now().Before(deadline); time.Sleep(20 * time.Millisecond) {
		var ln net.Listener
		if ln, err = net.Listen("tcp", s.addr); err == nil {
			s.serve(ln)
			return
		}
	}
	s.t.Fatal(err)
}

func (s *testServer) stop() {
	s.mu.Lock()
	server, served := s.server, s.served
	s.server = nil
	s.mu.Unlock()
	if server == nil {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), testWait)
	defer cancel()
	if err := server.Shutdown(ctx); err != nil {
		s.t.Error(err)
	}
	<-served
}

func (s *testServer) url() string { return "ws://" + s.addr + "/task/secret" }

// change alters what the server does, or looks at what it has.
func (s *testServer) change(f func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	f()
}

// await waits until done, which is called under mu.
func (s *testServer) await(what string, done func() bool) {
	s.t.Helper()
	deadline := time.After(2 * testWait)
	for {
		s.mu.Lock()
		ok, changed := done(), s.changed
		s.mu.Unlock()
		if ok {
			return
		}
		select {
		case <-changed:
		case <-deadline:
			s.mu.Lock()
			defer s.mu.Unlock()
			types := []string{}
			for _, m := range s.messages {
				types = append(types, m.Type)
			}
			s.t.Fatalf("waited in vain for %s; the server has %d bytes and %v", what, len(s.output), types)
		}
	}
}

func (s *testServer) note() {
	close(s.changed)
	s.changed = make(chan struct{})
}

// first returns the first message of a type, under mu; nil if none came.
func (s *testServer) first(kind string) *wire.Message {
	for _, m := range s.messages {
		if m.Type == kind {
			return m
		}
	}
	return nil
}

// saw is first for those who do not hold mu.
func (s *testServer) saw(kind string) *wire.Message {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.first(kind)
}

func (s *testServer) count(kind string) (n int) {
	for _, m := range s.messages {
		if m.Type == kind {
			n++
		}
	}
	return n
}

func (s *testServer) report(id string) *wire.Message {
	for _, m := range s.messages {
		if m.Type == wire.TypeReport && m.ID == id {
			return m
		}
	}
	return nil
}

func (s *testServer) awaitMessage(kind string) *wire.Message {
	s.t.Helper()
	var m *wire.Message
	s.await(kind, func() bool { m = s.first(kind); return m != nil })
	return m
}

func (s *testServer) awaitReport(id string) *wire.Report {
	s.t.Helper()
	var m *wire.Message
	s.await("report "+id, func() bool { m = s.report(id); return m != nil })
	return m.Report
}

func (s *testServer) awaitOutput(n int) {
	s.t.Helper()
	s.await("output", func() bool { return len(s.output) >= n })
}

func (s *testServer) text() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return string(s.output)
}

// send waits for a connection and writes to it.
func (s *testServer) send(m *wire.Message) {
	s.t.Helper()
	var c *wsx.Conn
	s.await("connection", func() bool { c = s.conn; return c != nil })
	if err := c.Send(m); err != nil {
		s.t.Fatal(err)
	}
}

func (s *testServer) Connect(_ context.Context, c wsx.Claim) (wsx.Session, error) {
	if c.Token != "secret" {
		return nil, wsx.ErrUnknownToken
	}
	return &testSession{s: s}, nil
}

func (s *testServer) Order(_ context.Context, c wsx.Claim, _ string) ([]byte, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if c.Token != "secret" || s.order == nil {
		return nil, wsx.ErrUnknownToken
	}
	return s.order, nil
}

type testSession struct {
	s *testServer
	c *wsx.Conn
}

func (n *testSession) Open(c *wsx.Conn) { n.c = c }

func (n *testSession) Closed(error) {
	n.s.mu.Lock()
	defer n.s.mu.Unlock()
	if n.s.conn == n.c {
		n.s.conn = nil
	}
	n.s.note()
}

func (n *testSession) Message(m *wire.Message) error {
	s := n.s
	s.mu.Lock()
	defer s.mu.Unlock()
	defer s.note()
	s.messages = append(s.messages, m)
	ack := &wire.Message{Type: wire.TypeAck, AckType: m.Type, ID: m.ID}
	switch m.Type {
	case wire.TypeConnect:
		if s.unknown {
			return n.c.Send(&wire.Message{Type: wire.TypeError, Code: wire.CodeJobNotFound})
		}
		s.conn = n.c
		if s.features != nil {
			ack.Features, ack.Resume = wire.Common(m.Features), wire.Ptr(int64(len(s.output)))
		}
		return n.c.Send(ack)
	case wire.TypeStart:
		if s.muteStart {
			return nil
		}
		return n.c.Send(ack)
	case wire.TypeReport:
		if s.muteReports {
			return nil
		}
		return n.c.Send(ack)
	case wire.TypeOutput: // an older server's: in order and numbered
		if m.Seq == nil {
			return errors.New("output without seq")
		}
		if *m.Seq == s.textSeq {
			s.textSeq++
			s.output = append(s.output, m.Data...)
		}
		ack.Seq = m.Seq
		return n.c.Send(ack)
	case wire.TypeComplete:
		if s.muteComplete {
			return nil
		}
		if m.End != nil && m.Length != nil && *m.Length > int64(len(s.output)) {
			return nil // the ack waits; the wrapper asks again
		}
		ack.Seq = m.Seq
		return n.c.Send(ack)
	}
	return nil
}

func (n *testSession) Output(offset int64, stream byte, data []byte) error {
	s := n.s
	s.mu.Lock()
	defer s.mu.Unlock()
	have := int64(len(s.output))
	if s.stopAt > 0 && offset+int64(len(data)) > s.stopAt {
		return nil // as a server that hangs
	}
	if offset > have {
		return errors.New("a hole in the output")
	}
	if skip := have - offset; skip < int64(len(data)) {
		s.output = append(s.output, data[skip:]...)
		s.streams = append(s.streams, testRun{stream, string(data[skip:min(int64(len(data)), skip+4096)])})
	}
	s.note()
	ack := &wire.Message{Type: wire.TypeAck, AckType: wire.TypeOutput, Offset: wire.Ptr(int64(len(s.output)))}
	if s.ackDelay > 0 {
		time.AfterFunc(s.ackDelay, func() { _ = n.c.Send(ack) }) // the connection may be closed by then
		return nil
	}
	return n.c.Send(ack)
}
