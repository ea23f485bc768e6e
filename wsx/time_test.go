package wsx

import (
	"context"
	"crypto/sha1"
	"crypto/tls"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"saltpeter/wsx/wire"
)

// pipes is a listener and its dialer without a network, for tests in which time
// passes at once.
type pipes struct {
	conns chan net.Conn
	done  chan struct{}
	once  sync.Once
}

func newPipes() *pipes { return &pipes{conns: make(chan net.Conn), done: make(chan struct{})} }

func (p *pipes) Accept() (net.Conn, error) {
	select {
	case c := <-p.conns:
		return c, nil
	case <-p.done:
		return nil, net.ErrClosed
	}
}

func (p *pipes) Close() error   { p.once.Do(func() { close(p.done) }); return nil }
func (p *pipes) Addr() net.Addr { return &net.UnixAddr{Name: "pipe"} }

func (p *pipes) dial(ctx context.Context, _, _ string) (net.Conn, error) {
	here, there := socket()
	select {
	case p.conns <- there:
		return here, nil
	case <-p.done:
		return nil, net.ErrClosed
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// socket is a pair of connections with room for some bytes between them, as a
// network has: net.Pipe alone blocks each write until it is read.
func socket() (a, b net.Conn) {
	a, a2 := net.Pipe()
	b, b2 := net.Pipe()
	go pour(a2, b2)
	go pour(b2, a2)
	return a, b
}

// pour carries bytes one way, up to 64 of what was written at once ahead of the
// reader. It ends when either side closes.
func pour(from, to net.Conn) {
	room := make(chan []byte, 64)
	done := make(chan struct{})
	go func() {
		defer close(done)
		for b := range room {
			if _, err := to.Write(b); err != nil {
				from.Close()
				for range room { // so that the reader below sees its end
				}
			}
		}
		to.Close()
	}()
	for {
		b := make([]byte, 16<<10)
		n, err := from.Read(b)
		if err != nil {
			break
		}
		room <- b[:n]
	}
	close(room)
	<-done
}

// inTime runs a test of a place behind pipes in a bubble of its own time.
func inTime(t *testing.T, f func(t *testing.T, d *desk, p *place, o DialOptions)) {
	synctest.Test(t, func(t *testing.T) {
		ln := newPipes()
		p := &place{d: newDesk(), notes: &notes{}}
		p.serve(t, ServerOptions{Handler: p.d, Log: p.notes.log()}, ln)
		defer p.stop()
		f(t, p.d, p, DialOptions{URL: "ws://h:1/task/" + token, net: ln.dial})
	})
}

func (d *desk) closedWith() []error {
	d.mu.Lock()
	defer d.mu.Unlock()
	return append([]error(nil), d.task(token).closed...)
}

// A client that takes everything and answers nothing is closed after 15 s; one
// that answers pings lives.
func TestServerSilence(t *testing.T) {
	for name, pongs := range map[string]bool{"silent": false, "answers": true} {
		t.Run(name, func(t *testing.T) {
			inTime(t, func(t *testing.T, d *desk, p *place, o DialOptions) {
				c, err := Dial(t.Context(), o)
				if err != nil {
					t.Fatal(err)
				}
				began, pings := time.Now(), atomic.Int32{}
				c.ws.SetPingHandler(func(data string) error {
					pings.Add(1)
					if pongs {
						return c.pong(data)
					}
					return nil
				})
				ended := make(chan time.Duration, 1)
				go func() {
					for {
						if _, _, err := c.Read(); err != nil {
							ended <- time.Since(began)
							return
						}
					}
				}()
				time.Sleep(10 * time.Minute)
				if pongs {
					if len(d.closedWith()) != 0 || pings.Load() < 100 || pings.Load() > 700 {
						t.Errorf("closed %v after %d pings", d.closedWith(), pings.Load())
					}
					c.Close("")
					<-ended
					return
				}
				if at := <-ended; at < 15*time.Second || at > 15500*time.Millisecond {
					t.Errorf("closed after %v", at)
				}
				if errs := d.closedWith(); len(errs) != 1 || !errors.Is(errs[0], errSilent) || pings.Load() < 2 {
					t.Errorf("closed with %v after %d pings", errs, pings.Load())
				}
				c.Close("")
			})
		})
	}
}

// A client that does not even read is closed, and holds up nobody's pings.
func TestServerDeafClients(t *testing.T) {
	inTime(t, func(t *testing.T, d *desk, p *place, o DialOptions) {
		live, err := Dial(t.Context(), o)
		if err != nil {
			t.Fatal(err)
		}
		wg := sync.WaitGroup{}
		wg.Go(func() {
			for {
				if _, _, err := live.Read(); err != nil {
					return
				}
			}
		})
		for range 3 {
			c, err := Dial(t.Context(), o) // never read from
			if err != nil {
				t.Fatal(err)
			}
			defer c.Close("")
		}
		time.Sleep(40 * time.Second)
		if errs := d.closedWith(); len(errs) != 3 {
			t.Errorf("closed: %v", errs)
		}
		live.Close("")
		wg.Wait()
	})
}

// The server's own slowness is not the client's silence.
func TestServerBusySession(t *testing.T) {
	inTime(t, func(t *testing.T, d *desk, p *place, o DialOptions) {
		d.onOutput = func(*kept, int64, int) bool { time.Sleep(time.Minute); return true }
		c, err := Dial(t.Context(), o)
		if err != nil {
			t.Fatal(err)
		}
		// A pipe has no room for pongs that nobody reads; a socket has.
		c.ws.SetPingHandler(func(string) error { return nil })
		c.Write(Binary, wire.AppendOutput(nil, 0, wire.Stdout, []byte("x")))
		var wg sync.WaitGroup
		wg.Go(func() {
			for {
				if _, _, err := c.Read(); err != nil {
					return
				}
			}
		})
		time.Sleep(70 * time.Second)
		if d.got() != "x" || len(d.closedWith()) != 0 {
			t.Errorf("%q, closed %v", d.got(), d.closedWith())
		}
		c.Close("")
		wg.Wait()
	})
}

// Whoever connects and says nothing is sent away, whatever it waits for.
func TestSilentConnections(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ln := newPipes()
		p := &place{d: newDesk(), notes: &notes{}}
		p.serve(t, ServerOptions{Handler: p.d, Log: p.notes.log(), TLS: &tls.Config{Certificates: []tls.Certificate{pair(t)}}}, ln)
		defer p.stop()
		var wg sync.WaitGroup
		for _, first := range []string{"", "GET /task/" + token, "\x16", "\x16\x03\x01\x02\x00\x01"} {
			c, err := ln.dial(t.Context(), "", "")
			if err != nil {
				t.Fatal(err)
			}
			began := time.Now()
			wg.Go(func() {
				defer c.Close()
				if first != "" {
					io.WriteString(c, first)
				}
				io.Copy(io.Discard, c)
				if d := time.Since(began); d > 21*time.Second {
					t.Errorf("after %q it was kept for %v", first, d)
				}
			})
		}
		wg.Wait()
	})
}

// A server that has gone without a word (half-open) is noticed after 15 s,
// whether it still takes bytes or not, with output under way or not.
func TestLinkHalfOpen(t *testing.T) {
	for _, reads := range []bool{true, false} {
		for _, output := range []bool{true, false} {
			t.Run(fmt.Sprintf("reads=%v output=%v", reads, output), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					ln := newPipes()
					defer ln.Close()
					stop := make(chan struct{})
					var wg sync.WaitGroup
					wg.Go(func() {
						for {
							c, err := ln.Accept()
							if err != nil {
								return
							}
							wg.Go(func() { halfOpen(c, reads, stop) })
						}
					})
					o := link(t, DialOptions{URL: "ws://h:1/task/" + token, net: ln.dial}, nil)
					if output {
						o.out.add(wire.Stdout, noise(1<<20))
					}
					time.Sleep(time.Second)
					if o.l.Up() == nil {
						t.Fatal("not up")
					}
					if _, downs := o.count(); downs != 0 {
						t.Error("down at once")
					}
					time.Sleep(14500 * time.Millisecond)
					if _, downs := o.count(); downs != 1 {
						t.Errorf("after 15 s the line was given up %d times", downs)
					}
					time.Sleep(5 * time.Second)
					if ups, _ := o.count(); ups < 2 || o.l.Up() == nil {
						t.Errorf("not connected again, %d times up", ups)
					}
					o.stop()
					close(stop)
					ln.Close()
					wg.Wait()
				})
			})
		}
	}
}

// halfOpen upgrades, acknowledges connect and is gone.
func halfOpen(c net.Conn, reads bool, stop chan struct{}) {
	defer c.Close()
	buf := make([]byte, 4096)
	n, _ := c.Read(buf)
	key := ""
	for line := range strings.Lines(string(buf[:n])) {
		if k, v, ok := strings.Cut(line, ": "); ok && strings.EqualFold(k, "Sec-WebSocket-Key") {
			key = strings.TrimSpace(v)
		}
	}
	ack := `{"type":"ack","ack_type":"connect","features":["bytes"],"resume":0}`
	fmt.Fprintf(c, "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: %s\r\n\r\n", accept(key))
	go c.Write(append([]byte{0x81, byte(len(ack))}, ack...))
	c.Read(buf) // connect
	c.Read(buf) // start
	if reads {
		io.Copy(io.Discard, c)
		return
	}
	<-stop
}

// accept is the answer to a handshake's key (RFC 6455, 4.2.2).
func accept(key string) string {
	sum := sha1.Sum([]byte(key + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"))
	return base64.StdEncoding.EncodeToString(sum[:])
}

// An old server that answers nothing at all gets everything, and what was
// written counts as stored.
func TestLinkWithoutAnyAck(t *testing.T) {
	inTime(t, func(t *testing.T, d *desk, p *place, o DialOptions) {
		d.noAck, d.mute = true, true
		w := link(t, old(o), nil)
		defer w.stop()
		for i := range 30 {
			w.out.add(wire.Stdout, fmt.Sprintf("%d %s\n", i, strings.Repeat("x", 100_000)))
			if time.Sleep(100 * time.Millisecond); i == 15 && w.l.Up() != nil {
				t.Error("up before the ack of connect was due")
			}
		}
		time.Sleep(1500 * time.Millisecond)
		if f := w.l.Up(); f == nil || len(f) != 0 {
			t.Fatalf("features %v", f)
		}
		w.allAcked(t)
		synctest.Wait()
		if d.got() != w.out.text() {
			t.Errorf("%d of %d bytes arrived", d.size(), w.out.Length())
		}
	})
}

// old hides from the Link that the server is one of ours.
func old(o DialOptions) DialOptions {
	dial := o.net
	o.net = func(ctx context.Context, network, addr string) (net.Conn, error) {
		c, err := dial(ctx, network, addr)
		return &masked{Conn: c}, err
	}
	return o
}

// masked changes the name of the header by which our server shows itself.
type masked struct {
	net.Conn
	done bool
}

func (m *masked) Read(p []byte) (int, error) {
	n, err := m.Conn.Read(p)
	if !m.done && n > 0 {
		m.done = true
		copy(p, strings.Replace(string(p[:n]), headerOurs, "Xaltpeter-Wire", 1))
	}
	return n, err
}

// A server of ours that is slow to acknowledge connect is not taken for an old
// one: JSON would count its output differently.
func TestLinkWaitsForOurs(t *testing.T) {
	inTime(t, func(t *testing.T, d *desk, p *place, o DialOptions) {
		d.noAck = true
		w := link(t, o, nil)
		defer w.stop()
		w.out.add(wire.Stdout, "x")
		time.Sleep(time.Minute)
		if w.l.Up() != nil || d.size() != 0 {
			t.Error("went on without the ack of connect")
		}
		if _, downs := w.count(); downs < 3 || downs > 4 {
			t.Errorf("%d connections in a minute", downs)
		}
		d.mu.Lock()
		d.noAck = false
		d.mu.Unlock()
		time.Sleep(30 * time.Second)
		if d.got() != "x" {
			t.Error("no output after the ack came at last")
		}
	})
}

// A late ack that turns out to be one of ours leads to a new connection.
func TestLinkLateFeatures(t *testing.T) {
	inTime(t, func(t *testing.T, d *desk, p *place, o DialOptions) {
		d.noAck = true
		w := link(t, old(o), nil)
		defer w.stop()
		time.Sleep(3 * time.Second)
		if f := w.l.Up(); f == nil || len(f) != 0 {
			t.Fatalf("features %v", f)
		}
		d.mu.Lock()
		d.noAck = false
		c := d.task(token).conns[0]
		d.mu.Unlock()
		c.Send(&wire.Message{Type: wire.TypeAck, AckType: wire.TypeConnect, Features: wire.Features(), Resume: wire.Ptr(int64(0))})
		time.Sleep(3 * time.Second)
		if f := w.l.Up(); !wire.Has(f, wire.FeatureBytes) {
			t.Errorf("features %v", f)
		}
	})
}

// A kill that comes before any ack of connect can be answered.
func TestLinkKillBeforeAck(t *testing.T) {
	inTime(t, func(t *testing.T, d *desk, p *place, o DialOptions) {
		d.noAck = true
		answered := false
		var w *owner
		w = link(t, old(o), func(o *LinkOptions, l *Link) {
			if l == nil {
				o.OnMessage = func(m *wire.Message) { answered = w.l.Send(&wire.Message{Type: wire.TypeKilled, ID: m.ID}) }
			}
		})
		defer w.stop()
		time.Sleep(500 * time.Millisecond)
		d.with(func(s *stored) { s.conns[0].Send(&wire.Message{Type: wire.TypeKill, ID: "k"}) })
		synctest.Wait()
		if !answered {
			t.Error("the kill was not answered")
		}
	})
}

// Small output goes to an older server once each interval.
func TestTextInterval(t *testing.T) {
	inTime(t, func(t *testing.T, d *desk, p *place, o DialOptions) {
		older(d)
		w := link(t, o, nil)
		defer w.stop()
		for i := range 6000 {
			w.out.add(wire.Stdout, fmt.Sprintf("line %d\n", i))
			time.Sleep(10 * time.Millisecond)
		}
		seqs, _ := d.seqs()
		if len(seqs) < 55 || len(seqs) > 62 {
			t.Errorf("%d pieces in a minute", len(seqs))
		}
		began := time.Now()
		w.allAcked(t) // the end does not wait for the interval
		if time.Since(began) > 100*time.Millisecond || d.got() != w.out.text() {
			t.Errorf("the end came after %v", time.Since(began))
		}
	})
}

// The beginning of a character waits for its rest, not for ever.
func TestTextHoldsBack(t *testing.T) {
	inTime(t, func(t *testing.T, d *desk, p *place, o DialOptions) {
		older(d)
		w := link(t, o, nil)
		defer w.stop()
		for i := range len("€") {
			w.out.add(wire.Stdout, "€"[i:i+1])
			time.Sleep(3 * time.Second)
		}
		if d.got() != "€" {
			t.Errorf("%q arrived", d.got())
		}
		w.out.add(wire.Stdout, "x\xe2\x82")
		time.Sleep(3 * time.Second)
		if d.got() != "€x" {
			t.Errorf("%q arrived", d.got())
		}
		time.Sleep(12 * time.Second)
		if d.got() != "€x\uFFFD\uFFFD" {
			t.Errorf("%q arrived", d.got())
		}
		w.out.add(wire.Stdout, "\xc3")
		w.allAcked(t)
		if d.got() != "€x\uFFFD\uFFFD\uFFFD" {
			t.Errorf("%q arrived", d.got())
		}
	})
}

// What stays unacknowledged on a living connection is sent again after a while.
func TestLinkSendsAgain(t *testing.T) {
	for _, json := range []bool{false, true} {
		t.Run(fmt.Sprint("json=", json), func(t *testing.T) {
			inTime(t, func(t *testing.T, d *desk, p *place, o DialOptions) {
				if json {
					older(d)
				}
				d.mute = true
				w := link(t, o, nil)
				defer w.stop()
				w.out.add(wire.Stdout, "lost ack\n")
				time.Sleep(25 * time.Second)
				d.with(func(s *stored) {
					if s.dup != 0 {
						t.Error("sent again at once")
					}
				})
				d.mu.Lock()
				d.mute = false
				d.mu.Unlock()
				time.Sleep(10 * time.Second)
				d.with(func(s *stored) {
					if s.dup != 1 {
						t.Errorf("sent again %d times", s.dup)
					}
				})
				if w.l.AckedOffset() != w.out.Length() {
					t.Error("not acknowledged")
				}
				if ups, _ := w.count(); ups != 1 {
					t.Errorf("%d connections", ups)
				}
			})
		})
	}
}

// A day of 401 is a try a minute.
func TestLinkDeniedForLong(t *testing.T) {
	inTime(t, func(t *testing.T, d *desk, p *place, o DialOptions) {
		d.mu.Lock()
		delete(d.tokens, token)
		d.mu.Unlock()
		w := link(t, o, nil)
		defer w.stop()
		time.Sleep(24 * time.Hour)
		if _, downs := w.count(); downs < 24*60 || downs > 24*60*2 {
			t.Errorf("%d tries in a day", downs)
		}
		d.mu.Lock()
		d.tokens[token] = true
		d.mu.Unlock()
		time.Sleep(61 * time.Second)
		if w.l.Up() == nil {
			t.Error("did not come back")
		}
		if n := strings.Count(p.notes.String(), "\n"); n > 24*60*2 {
			t.Errorf("%d lines were logged", n)
		}
	})
}

// A server that accepts and drops is not hammered.
func TestLinkFlapping(t *testing.T) {
	inTime(t, func(t *testing.T, d *desk, p *place, o DialOptions) {
		d.extra = func(k *kept) { k.c.Close("no") }
		w := link(t, o, nil)
		defer w.stop()
		time.Sleep(10 * time.Minute)
		if _, downs := w.count(); downs < 100 || downs > 350 {
			t.Errorf("%d connections in ten minutes", downs)
		}
	})
}

// An idle line stays up for hours, in either mode.
func TestLinkIdle(t *testing.T) {
	inTime(t, func(t *testing.T, d *desk, p *place, o DialOptions) {
		w := link(t, o, nil)
		defer w.stop()
		time.Sleep(3 * time.Hour)
		if ups, downs := w.count(); ups != 1 || downs != 0 || w.l.Up() == nil {
			t.Errorf("%d ups, %d downs", ups, downs)
		}
	})
}
