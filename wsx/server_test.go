package wsx

import (
	"bufio"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"saltpeter/wsx/wire"
)

const handshake = "Host: h\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: yP5/3sYPKoTIROzlNG3GDw==\r\n"

// ask sends one raw request and returns the answer.
func ask(t *testing.T, addr, method, path, headers string) *http.Response {
	t.Helper()
	c, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	c.SetDeadline(time.Now().Add(patient))
	fmt.Fprintf(c, "%s %s HTTP/1.1\r\n%s\r\n", method, path, headers)
	r, err := http.ReadResponse(bufio.NewReader(c), nil)
	if err != nil {
		t.Fatalf("%s %s: %v", method, path, err)
	}
	return r
}

func TestRoutes(t *testing.T) {
	p := open(t, newDesk(), nil)
	nonce := "Host: h\r\nSaltpeter-Nonce: n1\r\n"
	for _, c := range []struct {
		method, path, headers string
		want                  int
	}{
		{"GET", "/task/" + token, handshake, 101},
		{"GET", "/run/" + token, handshake, 101},
		{"GET", "/task/" + token, "Host: h\r\n", 400},
		{"GET", "/task/" + token, strings.Replace(handshake, "13", "12", 1), 400},
		{"GET", "/task/wrong", handshake, 401},
		{"GET", "/run/wrong", handshake, 401},
		{"POST", "/task/" + token, handshake, 405},
		{"HEAD", "/task/" + token, handshake, 405},
		{"GET", "/", handshake, 401},
		{"GET", "/task", handshake, 404},
		{"GET", "/task/", handshake, 404},
		{"GET", "/task//", handshake, 404},
		{"GET", "//task/" + token, handshake, 404},
		{"GET", "/task/" + token + "/", handshake, 404},
		{"GET", "/task/" + token + "/other", handshake, 404},
		{"GET", "/task/" + token + "/order/", nonce, 404},
		{"GET", "/task/../task/" + token, handshake, 404},
		{"GET", "/task/" + strings.Repeat("x", 300), handshake, 404},
		{"POST", "/other", handshake, 404},
		{"GET", "/task/" + token + "/order", "Host: h\r\n", 400},
		{"GET", "/task/" + token + "/order", nonce, 200},
		{"GET", "/task/" + token + "/order", nonce, 200},
		{"GET", "/task/" + token + "/order", "Host: h\r\nSaltpeter-Nonce: n2\r\n", 409},
		{"GET", "/task/wrong/order", nonce, 401},
		{"GET", "/run/" + token + "/order", nonce, 200},
		{"POST", "/task/" + token + "/order", nonce + "Content-Length: 0\r\n", 405},
	} {
		r := ask(t, p.addr, c.method, c.path, c.headers)
		if r.StatusCode != c.want {
			t.Errorf("%s %s: %d, not %d", c.method, c.path, r.StatusCode, c.want)
		}
		if c.want >= 400 {
			body, _ := io.ReadAll(r.Body)
			if strings.Contains(string(body), token) || r.Header.Get("Location") != "" {
				t.Errorf("%s %s: answered %q", c.method, c.path, body)
			}
		}
	}
}

// What Python's websockets offers is not taken up, and does no harm.
func TestOffersAreNotNegotiated(t *testing.T) {
	p := open(t, newDesk(), nil)
	r := ask(t, p.addr, "GET", "/task/"+token, handshake+
		"Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits\r\nSec-WebSocket-Protocol: chat, superchat\r\n")
	if r.StatusCode != 101 || r.Header.Get("Sec-WebSocket-Extensions") != "" || r.Header.Get("Sec-WebSocket-Protocol") != "" {
		t.Errorf("%d %v", r.StatusCode, r.Header)
	}
}

func TestBusyHandler(t *testing.T) {
	d := newDesk()
	d.busy = errors.New("the ledger is not open yet")
	p := open(t, d, nil)
	if r := ask(t, p.addr, "GET", "/task/"+token, handshake); r.StatusCode != 503 {
		t.Error(r.StatusCode)
	}
	_, err := Dial(context.Background(), p.dial(true))
	if err == nil || errors.Is(err, ErrUnauthorized) || strings.Contains(err.Error(), token) {
		t.Error(err)
	}
}

func TestMessagesBothWays(t *testing.T) {
	for _, secure := range []bool{false, true} {
		t.Run(fmt.Sprint("tls=", secure), func(t *testing.T) {
			d := newDesk()
			p := open(t, d, nil)
			c, err := Dial(t.Context(), p.dial(secure))
			if err != nil {
				t.Fatal(err)
			}
			defer c.Close("")
			if err := c.Send(&wire.Message{Type: wire.TypeConnect}); err != nil {
				t.Fatal(err)
			}
			kind, data, err := c.Read()
			if err != nil || kind != Text {
				t.Fatal(kind, err)
			}
			if m, err := wire.Decode(data); err != nil || m.AckType != wire.TypeConnect || m.Timestamp == "" {
				t.Fatalf("%s %v", data, err)
			}
			for _, size := range []int{0, 1, 125, 126, 4096, 65535, 65536, 65537, 200_000, 1 << 20} {
				before := len(d.got())
				if err := c.Write(Binary, wire.AppendOutput(nil, int64(before), wire.Stdout, make([]byte, size))); err != nil {
					t.Fatal(err)
				}
				kind, data, err := c.Read()
				if m, err2 := wire.Decode(data); err != nil || err2 != nil || kind != Text || *m.Offset != int64(before+size) {
					t.Fatalf("%d bytes: %s %v %v", size, data, err, err2)
				}
			}
			var remote *Conn
			d.with(func(s *stored) { remote = s.conns[0] })
			for _, size := range []int{0, 1, 511, 512, 513, 66000, 3 << 20} {
				sent := strings.Repeat("é", size/2)
				go remote.Write(Text, []byte(sent))
				kind, data, err := c.Read()
				if err != nil || kind != Text || string(data) != sent {
					t.Fatalf("%d bytes from the server: %d, %v", size, len(data), err)
				}
			}
			if remote.Remote() == "" || c.Remote() != p.addr {
				t.Error(remote.Remote(), c.Remote())
			}
		})
	}
}

// A message beyond its limit ends the connection; below, nothing is allocated
// before it came.
func TestLimits(t *testing.T) {
	d := newDesk()
	p := open(t, d, nil)
	dialed := func() *Conn {
		c, err := Dial(t.Context(), p.dial(false))
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { c.Close("") })
		return c
	}
	c := dialed()
	c.Write(Binary, make([]byte, maxBinary+1))
	if _, _, err := c.Read(); err == nil {
		t.Error("a binary message of more than 1 MiB was taken")
	}
	c = dialed()
	text := []byte(`{"type":"complete","output":"` + strings.Repeat("x", 6<<20) + `"}`)
	if err := c.Write(Text, text); err != nil {
		t.Fatal(err)
	}
	eventually(t, "6 MiB of the first generation", func() (ok bool) {
		d.with(func(s *stored) { ok = len(s.messages) == 1 && len(s.messages[0].Output) == 6<<20 })
		return ok
	})
	var remote *Conn
	d.with(func(s *stored) { remote = s.conns[1] })
	go remote.Write(Text, make([]byte, maxText+1))
	if _, _, err := c.Read(); err == nil || errors.Is(err, ErrClosed) {
		t.Errorf("a wrapper took more than 4 MiB: %v", err)
	}
}

func TestSessionErrorCloses(t *testing.T) {
	d := newDesk()
	p := open(t, d, nil)
	c, err := Dial(t.Context(), p.dial(false))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close("")
	for _, junk := range []string{"", "x", "[]", `{"a":1}`} {
		c.Write(Text, []byte(junk)) // ignored
	}
	c.Send(&wire.Message{Type: "fail"})
	if _, _, err := c.Read(); !errors.Is(err, ErrClosed) || !strings.Contains(err.Error(), "had enough") {
		t.Errorf("told %v", err)
	}
	eventually(t, "the session's end", func() (ok bool) {
		d.with(func(s *stored) {
			ok = len(s.closed) == 1 && strings.Contains(s.closed[0].Error(), "had enough") && len(s.messages) == 1
		})
		return ok
	})
	c2, err := Dial(t.Context(), p.dial(false))
	if err != nil {
		t.Fatal(err)
	}
	defer c2.Close("")
	c2.Write(Binary, []byte("short"))
	if _, _, err := c2.Read(); !errors.Is(err, ErrClosed) {
		t.Errorf("after a broken output frame: %v", err)
	}
}

func TestManyWriters(t *testing.T) {
	d := newDesk()
	p := open(t, d, nil)
	c, err := Dial(t.Context(), p.dial(true))
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for range 20 {
				if c.Write(Text, []byte(`{"type":"heartbeat","version":"`+strings.Repeat("v", 70_000)+`"}`)) != nil || c.Ping() != nil {
					t.Error("cannot write")
				}
			}
		})
	}
	wg.Wait()
	eventually(t, "160 messages", func() (ok bool) {
		d.with(func(s *stored) { ok = len(s.messages) == 160 })
		return ok
	})
	for range 4 {
		wg.Go(func() { c.Close("enough") })
	}
	wg.Wait()
	if err := c.Write(Text, []byte("x")); err == nil {
		t.Error("wrote to a closed connection")
	}
	eventually(t, "the session's end", func() (ok bool) {
		d.with(func(s *stored) { ok = len(s.closed) == 1 && errors.Is(s.closed[0], ErrClosed) })
		return ok
	})
}

func TestShutdown(t *testing.T) {
	d := newDesk()
	p := open(t, d, nil)
	var conns []*Conn
	for i := range 20 {
		c, err := Dial(t.Context(), p.dial(i%2 == 0))
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close("")
		conns = append(conns, c)
	}
	silent, err := net.Dial("tcp", p.addr)
	if err != nil {
		t.Fatal(err)
	}
	defer silent.Close()
	eventually(t, "20 sessions", func() bool { d.mu.Lock(); defer d.mu.Unlock(); return d.open == 20 })
	p.stop()
	d.with(func(s *stored) {
		if d.open != 0 || len(s.closed) != 20 {
			t.Errorf("after Shutdown %d sessions are open, %d were closed", d.open, len(s.closed))
		}
	})
	for _, c := range conns {
		if _, _, err := c.Read(); err == nil {
			t.Error("a connection outlived Shutdown")
		}
	}
	if _, err := Dial(t.Context(), p.dial(false)); err == nil {
		t.Error("the listener outlived Shutdown")
	}
}

func TestClaim(t *testing.T) {
	d := newDesk()
	p := open(t, d, nil)
	seen := make(chan Claim, 4)
	p.s.o.Handler = claims{d, seen}
	for _, c := range []struct {
		o    DialOptions
		want Claim
	}{
		{p.dial(false), Claim{Token: token}},
		{p.dial(true), Claim{Token: token, TLS: true}},
		{DialOptions{URL: "ws://" + p.addr + "/run/" + token}, Claim{Token: token, RunToken: true}},
	} {
		conn, err := Dial(t.Context(), c.o)
		if err != nil {
			t.Fatal(err)
		}
		conn.Close("")
		got := <-seen
		if got.Remote == "" {
			t.Error("no remote address")
		}
		if got.Remote = ""; got != c.want {
			t.Errorf("%+v, not %+v", got, c.want)
		}
	}
}

type claims struct {
	*desk
	seen chan Claim
}

func (c claims) Connect(ctx context.Context, claim Claim) (Session, error) {
	c.seen <- claim
	return c.desk.Connect(ctx, claim)
}

func TestUpgrade(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	srv := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		defer close(done)
		c, err := Upgrade(w, r, "")
		if err != nil {
			t.Error(err)
			return
		}
		defer c.Close("bye")
		for {
			k, data, err := c.Read()
			if err != nil {
				if !errors.Is(err, ErrClosed) {
					t.Error(err)
				}
				return
			}
			c.Write(k, data)
		}
	})}
	go srv.Serve(ln)
	defer srv.Close()
	c, err := Dial(t.Context(), DialOptions{URL: "ws://" + ln.Addr().String() + "/ws"})
	if err != nil {
		t.Fatal(err)
	}
	sent := strings.Repeat("x", 1<<20)
	if err := c.Write(Text, []byte(sent)); err != nil {
		t.Fatal(err)
	}
	if _, data, err := c.Read(); err != nil || string(data) != sent {
		t.Error(len(data), err)
	}
	c.Close("")
	<-done
}

func TestSniff(t *testing.T) {
	d := newDesk()
	p := open(t, d, nil)
	// Silent ones and slow ones keep nobody waiting.
	for range 50 {
		c, err := net.Dial("tcp", p.addr)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
	}
	c, err := tls.Dial("tcp", p.addr, &tls.Config{InsecureSkipVerify: true, NextProtos: []string{"h2", "http/1.1"}})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if got := c.ConnectionState().NegotiatedProtocol; got != "http/1.1" {
		t.Errorf("negotiated %q", got)
	}
	if c, err := tls.Dial("tcp", p.addr, &tls.Config{InsecureSkipVerify: true, NextProtos: []string{"h2"}}); err == nil {
		c.Close()
		t.Error("h2 alone was negotiated")
	}
	if c, err := tls.Dial("tcp", p.addr, &tls.Config{InsecureSkipVerify: true, MaxVersion: tls.VersionTLS11}); err == nil {
		c.Close()
		t.Error("TLS 1.1 was negotiated")
	}
	// One byte at a time is still TLS.
	raw, err := net.Dial("tcp", p.addr)
	if err != nil {
		t.Fatal(err)
	}
	slow := tls.Client(dribble{raw}, &tls.Config{InsecureSkipVerify: true})
	defer slow.Close()
	fmt.Fprintf(slow, "GET /task/%s HTTP/1.1\r\n%s\r\n", token, handshake)
	r, err := http.ReadResponse(bufio.NewReader(slow), nil)
	if err != nil || r.StatusCode != 101 {
		t.Errorf("%v %v", r, err)
	}
}

type dribble struct{ net.Conn }

func (d dribble) Write(p []byte) (int, error) {
	for i := range p {
		if _, err := d.Conn.Write(p[i : i+1]); err != nil {
			return i, err
		}
	}
	return len(p), nil
}

// Who says all and closes at once is heard to the end, whatever of ours could not be
// written to it any more.
func TestHungUpIsHeardToTheEnd(t *testing.T) {
	release, last := make(chan struct{}), make(chan string, 1)
	h := &talker{release: release, last: last}
	s := NewServer(ServerOptions{Handler: h})
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	served := make(chan error, 1)
	go func() { served <- s.Serve(ln) }()
	defer func() {
		if err := s.Shutdown(context.Background()); err != nil {
			t.Error(err)
		}
		<-served
	}()
	c, err := Dial(t.Context(), DialOptions{URL: "ws://" + ln.Addr().String() + "/task/secret", Timeout: 30 * time.Second})
	if err != nil {
		t.Fatal(err)
	}
	for _, kind := range []string{wire.TypeConnect, wire.TypeStart, wire.TypeComplete} {
		if err := c.Send(&wire.Message{Type: kind}); err != nil {
			t.Fatal(err)
		}
	}
	c.Close("said all")
	close(release)
	select {
	case kind := <-last:
		if kind != wire.TypeComplete {
			t.Errorf("the last that was heard is %q", kind)
		}
	case <-time.After(30 * time.Second):
		t.Fatal("it does not come to the end")
	}
}

// talker answers at length, once it is released.
type talker struct {
	release chan struct{}
	last    chan string
	c       *Conn
	heard   string
}

func (h *talker) Connect(context.Context, Claim) (Session, error)      { return h, nil }
func (h *talker) Order(context.Context, Claim, string) ([]byte, error) { return nil, ErrUnknownToken }
func (h *talker) Open(c *Conn)                                         { h.c = c }
func (h *talker) Output(int64, byte, []byte) error                     { return nil }
func (h *talker) Closed(error)                                         { h.last <- h.heard }
func (h *talker) Message(m *wire.Message) error {
	<-h.release
	h.heard = m.Type
	for deadline := time.Now().Add(10 * time.Second); time.Now().Before(deadline); {
		if h.c.Send(&wire.Message{Type: wire.TypeAck, AckType: m.Type}) != nil {
			break // it has hung up
		}
	}
	return nil
}
