package wsx

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"saltpeter/wsx/wire"
)

// noise is n bytes that no two of compare equal for long.
func noise(n int) string {
	r := rand.New(rand.NewPCG(1, uint64(n)))
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(r.Uint32())
	}
	return string(b)
}

func TestLinkSendsEveryByte(t *testing.T) {
	for _, secure := range []bool{false, true} {
		t.Run(fmt.Sprint("tls=", secure), func(t *testing.T) {
			d := newDesk()
			p := open(t, d, nil)
			o := link(t, p.dial(secure), nil)
			o.out.add(wire.Stdout, noise(5<<20))
			o.out.add(wire.Stderr, "\x00\xff\xc3(")
			o.out.add(wire.Stdout, "end")
			o.allAcked(t)
			if d.got() != o.out.text() {
				t.Error("other bytes arrived")
			}
			o.out.add(wire.Stdout, "one more")
			o.allAcked(t)
			if d.got() != o.out.text() || o.l.AckedOffset() != o.out.Length() {
				t.Error("the last bytes are missing")
			}
			if o.out.most > windowMax {
				t.Errorf("%d bytes were under way", o.out.most)
			}
			if f := o.l.Up(); len(f) != len(wire.Features()) {
				t.Errorf("features in force: %v", f)
			}
			d.with(func(s *stored) {
				if s.dup != 0 || s.gap != 0 {
					t.Errorf("%d duplicates, %d gaps", s.dup, s.gap)
				}
				m := s.messages[0]
				if m.Type != wire.TypeConnect || m.JobName != "j" || m.JobInstance != "j_1" || m.Machine != "m1" || m.Timestamp == "" {
					t.Errorf("connect is %+v", m)
				}
				if m = s.messages[1]; m.Type != wire.TypeStart || m.PID != 7 || m.Machine != "m1" {
					t.Errorf("start is %+v", m)
				}
			})
			o.stop()
			if o.l.Up() != nil || o.l.Send(&wire.Message{Type: wire.TypeHeartbeat}) {
				t.Error("up after the end")
			}
			if ups, downs := o.count(); ups != 1 || downs != 1 {
				t.Errorf("%d ups, %d downs", ups, downs)
			}
		})
	}
}

// gate is a TCP proxy that can cut connections at any byte.
type gate struct {
	ln net.Listener
	to string
	wg sync.WaitGroup

	mu    sync.Mutex
	conns []net.Conn
	after func() int64 // how many bytes of the wrapper's a new connection carries; 0 = all
	shut  bool
}

func newGate(t *testing.T, to string) *gate {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	g := &gate{ln: ln, to: to}
	g.wg.Go(g.accept)
	t.Cleanup(func() {
		ln.Close()
		g.cut()
		g.wg.Wait()
	})
	return g
}

func (g *gate) accept() {
	for {
		c, err := g.ln.Accept()
		if err != nil {
			return
		}
		g.mu.Lock()
		var limit int64
		if g.after != nil {
			limit = g.after()
		}
		shut := g.shut
		g.mu.Unlock()
		s, err := net.Dial("tcp", g.to)
		if err != nil || shut {
			c.Close()
			if err == nil {
				s.Close()
			}
			continue
		}
		g.mu.Lock()
		g.conns = append(g.conns, c, s)
		g.mu.Unlock()
		g.wg.Go(func() {
			defer c.Close()
			defer s.Close()
			if limit > 0 {
				io.CopyN(s, c, limit)
				c.(*net.TCPConn).SetLinger(0) // a reset, as when a machine vanishes
				return
			}
			io.Copy(s, c)
		})
		g.wg.Go(func() {
			defer c.Close()
			defer s.Close()
			io.Copy(c, s)
		})
	}
}

func (g *gate) cut() {
	g.mu.Lock()
	defer g.mu.Unlock()
	for _, c := range g.conns {
		c.Close()
	}
	g.conns = nil
}

func (g *gate) dial(p *place, secure bool) DialOptions {
	o := p.dial(secure)
	o.URL = strings.Replace(o.URL, p.addr, g.ln.Addr().String(), 1)
	return o
}

// Connections that break anywhere, in the middle of a frame too, cost no byte
// and store none twice.
func TestLinkSurvivesCuts(t *testing.T) {
	for _, features := range [][]string{nil, {}} {
		t.Run(fmt.Sprint("json=", features != nil), func(t *testing.T) {
			d := newDesk()
			d.features = features
			p := open(t, d, nil)
			g := newGate(t, p.addr)
			n := 0
			g.mu.Lock()
			g.after = func() int64 {
				if n++; n > 5 {
					return 0
				}
				return 1000 + rand.Int64N(600_000)
			}
			g.mu.Unlock()
			o := link(t, g.dial(p, false), func(o *LinkOptions, _ *Link) { o.TextInterval = time.Millisecond })
			text := strings.Repeat("0123456789äöü€😀\n", 150_000) // 3.6 MB
			for _, part := range []string{text[:1<<20], text[1<<20:]} {
				o.out.add(wire.Stdout, part)
			}
			o.allAcked(t)
			if d.got() != o.out.text() {
				t.Error("other bytes arrived")
			}
			if _, downs := o.count(); downs < 5 {
				t.Errorf("only %d connections broke", downs)
			}
		})
	}
}

// The server has less than it once acknowledged: it crashed.
func TestLinkResumesLower(t *testing.T) {
	d := newDesk()
	p := open(t, d, nil)
	o := link(t, p.dial(false), nil)
	o.out.add(wire.Stdout, noise(1<<20))
	o.allAcked(t)
	d.with(func(s *stored) {
		s.data = s.data[:100]
		s.conns[0].Close("gone")
	})
	eventually(t, "the whole output again", func() bool { return d.size() == o.out.Length() })
	o.allAcked(t)
	if d.got() != o.out.text() {
		t.Error("other bytes arrived")
	}
	o.out.mu.Lock()
	defer o.out.mu.Unlock()
	low := false
	for _, a := range o.out.acks {
		low = low || a == 100
	}
	if !low {
		t.Errorf("the spool was never told that only 100 bytes are stored: %v", o.out.acks)
	}
}

// A server that says it has more than there is gets what comes from the end on.
func TestLinkResumesBeyond(t *testing.T) {
	d := newDesk()
	p := open(t, d, nil)
	d.with(func(s *stored) { s.data = []byte("0123456789") })
	o := link(t, p.dial(false), func(o *LinkOptions, _ *Link) { o.Output.(*spool).add(wire.Stdout, "01234") })
	eventually(t, "up", func() bool { return o.l.Up() != nil })
	o.allAcked(t)
	if o.l.AckedOffset() > o.out.Length() {
		t.Errorf("acknowledged %d of %d", o.l.AckedOffset(), o.out.Length())
	}
}

// Frames that the server could not keep are sent again when it asks, by a nack
// or by an ack of the same length, and not over and over.
func TestLinkGoesBack(t *testing.T) {
	for _, byAck := range []bool{false, true} {
		t.Run(fmt.Sprint("by ack=", byAck), func(t *testing.T) {
			d := newDesk()
			p := open(t, d, nil)
			frames, lost := 0, 0
			d.onOutput = func(k *kept, offset int64, n int) bool {
				frames++
				if frames == 3 {
					lost++
					return false
				}
				d.mu.Lock()
				have := int64(len(d.task(token).data))
				d.mu.Unlock()
				if offset > have && byAck {
					k.c.Send(&wire.Message{Type: wire.TypeAck, AckType: wire.TypeOutput, Offset: &have})
					return false
				}
				return true
			}
			o := link(t, p.dial(false), func(o *LinkOptions, _ *Link) { o.Output.(*spool).add(wire.Stdout, noise(6<<20)) })
			o.allAcked(t)
			if d.got() != o.out.text() || lost != 1 {
				t.Errorf("%d of %d bytes arrived, %d frames were lost", len(d.got()), o.out.Length(), lost)
			}
			d.with(func(s *stored) {
				if frames > 4*24 {
					t.Errorf("%d frames for 24", frames)
				}
			})
			if ups, _ := o.count(); ups != 1 {
				t.Errorf("%d connections", ups)
			}
		})
	}
}

// A server that acknowledges slowly has at most the window under way.
func TestLinkWindow(t *testing.T) {
	d := newDesk()
	d.mute = true
	p := open(t, d, nil)
	o := link(t, p.dial(false), func(o *LinkOptions, _ *Link) { o.Output.(*spool).add(wire.Stdout, noise(8<<20)) })
	eventually(t, "a full window", func() bool { return d.size() == windowMax })
	if o.l.AckedOffset() != 0 {
		t.Error("acknowledged without an ack")
	}
	// The line is free for everything else.
	if !o.l.Send(&wire.Message{Type: wire.TypeHeartbeat}) {
		t.Error("not up")
	}
	for have := int64(windowMax); have < o.out.Length(); {
		ack := have - windowMax/2
		d.with(func(s *stored) {
			s.conns[0].Send(&wire.Message{Type: wire.TypeAck, AckType: wire.TypeOutput, Offset: &ack})
		})
		have = min(have+windowMax/2, o.out.Length())
		eventually(t, "the next half", func() bool { return d.size() == have })
	}
	if o.out.most > windowMax || d.got() != o.out.text() {
		t.Errorf("%d bytes were under way", o.out.most)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := o.l.AckedAll(ctx, o.out.Length()); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
}

func TestLinkUnauthorized(t *testing.T) {
	d := newDesk()
	d.tokens[token] = false
	p := open(t, d, nil)
	o := link(t, p.dial(true), func(o *LinkOptions, _ *Link) { o.Log = p.notes.log() })
	eventually(t, "two refusals", func() bool { _, downs := o.count(); return downs >= 2 })
	o.mu.Lock()
	for _, err := range o.downs {
		if !errors.Is(err, ErrUnauthorized) {
			t.Error(err)
		}
	}
	o.mu.Unlock()
	if o.l.Up() != nil || o.l.Send(&wire.Message{Type: wire.TypeHeartbeat}) {
		t.Error("up without being let in")
	}
	d.mu.Lock()
	d.tokens[token] = true
	d.mu.Unlock()
	eventually(t, "up", func() bool { return o.l.Up() != nil })
}

// What is not the Link's own goes to its owner, in order; its own does not.
func TestLinkHandsOn(t *testing.T) {
	d := newDesk()
	d.extra = func(k *kept) {
		for _, m := range []*wire.Message{
			{Type: wire.TypeAck, AckType: wire.TypeStart},
			{Type: wire.TypeSyncResponse, LastSeq: wire.Ptr(int64(-1))},
			{Type: wire.TypeKill, ID: "k1"},
			{Type: wire.TypeError, Code: wire.CodeJobNotFound, Text: "no such run"},
			{Type: "news of a later version"},
			{Type: wire.TypeAck, AckType: wire.TypeComplete},
		} {
			k.c.Send(m)
		}
		k.c.Write(Text, []byte("no JSON"))
		k.c.Write(Binary, []byte("nothing that a server sends"))
		k.c.Send(&wire.Message{Type: wire.TypePause, ID: "last"})
	}
	p := open(t, d, nil)
	o := link(t, p.dial(false), nil)
	eventually(t, "the last message", func() bool {
		o.mu.Lock()
		defer o.mu.Unlock()
		return len(o.messages) > 0 && o.messages[len(o.messages)-1].ID == "last"
	})
	var got []string
	o.mu.Lock()
	for _, m := range o.messages {
		got = append(got, strings.TrimSuffix(m.Type+" "+m.AckType+m.Code, " "))
	}
	o.mu.Unlock()
	if want := "ack start,kill,error JOB_NOT_FOUND,news of a later version,ack complete,pause"; strings.Join(got, ",") != want {
		t.Errorf("handed on %q", got)
	}
	m := &wire.Message{Type: wire.TypeKilled, ID: "k1"}
	if !o.l.Send(m) || m.JobName != "" || m.Timestamp != "" {
		t.Errorf("Send changed its argument: %+v", m)
	}
	eventually(t, "the answer", func() (ok bool) {
		d.with(func(s *stored) {
			last := s.messages[len(s.messages)-1]
			ok = last.Type == wire.TypeKilled && last.ID == "k1" && last.JobInstance == "j_1" && last.Timestamp != ""
		})
		return ok
	})
}

// A run's token is good for one connection; the next uses the task's.
func TestLinkExchangesRunToken(t *testing.T) {
	d := newDesk()
	d.tokens["RUN"] = true
	p := open(t, d, nil)
	o := link(t, DialOptions{URL: "ws://" + p.addr + "/run/RUN"}, nil)
	eventually(t, "up", func() bool { return o.l.Up() != nil })
	d.mu.Lock()
	delete(d.tokens, "RUN")
	d.task("RUN").conns[0].Close("now with your own")
	d.mu.Unlock()
	eventually(t, "up with the task's own token", func() (ok bool) {
		d.with(func(s *stored) { ok = len(s.conns) == 1 && o.l.Up() != nil })
		return ok
	})
}

// Features that the wrapper did not offer are not in force.
func TestLinkOffersLess(t *testing.T) {
	d := newDesk()
	p := open(t, d, nil)
	o := link(t, p.dial(false), func(o *LinkOptions, _ *Link) {
		o.Connect = func() []*wire.Message {
			return []*wire.Message{{Type: wire.TypeConnect, Features: []string{wire.FeatureBytes, wire.FeaturePause}}}
		}
	})
	eventually(t, "up", func() bool { return o.l.Up() != nil })
	if f := o.l.Up(); strings.Join(f, ",") != "bytes,pause" {
		t.Errorf("in force: %v", f)
	}
}

// Many wrappers come back at once, again and again, each with output.
func TestReconnectStorm(t *testing.T) {
	const wrappers, rounds = 60, 4
	d := newDesk()
	tokenOf := func(i int) string { return fmt.Sprintf("T%d", i) }
	for i := range wrappers {
		d.tokens[tokenOf(i)] = true
	}
	p := open(t, d, nil)
	g := newGate(t, p.addr)
	var owners []*owner
	for i := range wrappers {
		owners = append(owners, link(t, DialOptions{URL: "ws://" + g.ln.Addr().String() + "/task/" + tokenOf(i)}, nil))
	}
	for round := range rounds {
		for i, o := range owners {
			o.out.add(wire.Stdout, fmt.Sprintf("%d/%d %s\n", i, round, strings.Repeat("x", 5000)))
		}
		g.cut()
	}
	for i, o := range owners {
		o.allAcked(t)
		d.mu.Lock()
		if string(d.task(tokenOf(i)).data) != o.out.text() {
			t.Errorf("wrapper %d: other bytes arrived", i)
		}
		d.mu.Unlock()
	}
}

// The Output's lock is never held while writing, nor the Link's: with a server
// that reads nothing, everything that does not write answers at once.
func TestLinkLocks(t *testing.T) {
	d := newDesk()
	block := make(chan struct{})
	d.onOutput = func(*kept, int64, int) bool { <-block; return true }
	p := open(t, d, nil)
	o := link(t, p.dial(false), func(o *LinkOptions, _ *Link) { o.Output.(*spool).add(wire.Stdout, noise(6<<20)) })
	defer close(block)
	eventually(t, "up", func() bool { return o.l.Up() != nil })
	done := make(chan struct{})
	go func() {
		defer close(done)
		for range 1000 {
			o.l.Up()
			o.l.AckedOffset()
			o.l.NextSeq()
			o.out.Length()
		}
		o.stop() // Run ends, too
	}()
	select {
	case <-done:
	case <-time.After(patient):
		t.Fatal("stuck")
	}
}
