package sshx

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/crypto/ssh"
)

// pipe is one direction of a connection in memory, with room for what both sides
// write before either reads.
type pipe struct {
	mu     sync.Mutex
	news   *sync.Cond
	b      bytes.Buffer
	closed bool
	deaf   bool // what is written is lost: a link that was cut silently
}

func newPipe() *pipe {
	p := &pipe{}
	p.news = sync.NewCond(&p.mu)
	return p
}

func (p *pipe) Read(b []byte) (int, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for p.b.Len() == 0 && !p.closed {
		p.news.Wait()
	}
	if p.b.Len() == 0 {
		return 0, io.EOF
	}
	return p.b.Read(b)
}

func (p *pipe) Write(b []byte) (int, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		return 0, io.ErrClosedPipe
	}
	if !p.deaf {
		p.b.Write(b)
		p.news.Broadcast()
	}
	return len(b), nil
}

func (p *pipe) end() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.closed = true
	p.news.Broadcast()
}

func (p *pipe) cut() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.deaf = true
}

// half is one end of a connection in memory.
type half struct {
	net.Conn // of which nothing but the addresses is used
	in, out  *pipe
}

func (h half) Read(b []byte) (int, error)  { return h.in.Read(b) }
func (h half) Write(b []byte) (int, error) { return h.out.Write(b) }
func (h half) Close() error                { h.in.end(); h.out.end(); return nil }
func (h half) LocalAddr() net.Addr         { return &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: 1} }
func (h half) RemoteAddr() net.Addr        { return &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: 2} }

// line is a machine in memory whose connections can be cut silently.
type line struct {
	mu    sync.Mutex
	dials int
	pipes []*pipe
	all   sync.WaitGroup
}

func (l *line) cut() {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, p := range l.pipes {
		p.cut()
	}
}

func (l *line) count() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.dials
}

// timed runs a test in a bubble whose time is exact, with a client whose every
// connection leads to channel. The options are the defaults.
func timed(t *testing.T, channel func(ssh.NewChannel), do func(t *testing.T, c *Client, l *line), change ...func(*Options)) {
	r := newRig(t)
	plain := emptyConfig(t)
	synctest.Test(t, func(t *testing.T) {
		o := Options{Config: plain, KnownHosts: r.known, User: "somebody"}
		for _, f := range change {
			f(&o)
		}
		c, err := New(o)
		if err != nil {
			t.Fatal(err)
		}
		l := &line{}
		c.tcp = func(context.Context, string) (net.Conn, error) {
			a, b := newPipe(), newPipe()
			l.mu.Lock()
			defer l.mu.Unlock()
			l.dials++
			l.pipes = append(l.pipes, a, b)
			far := half{in: a, out: b}
			l.all.Go(func() {
				r.serve(far, func(_ *ssh.ServerConn, nc ssh.NewChannel) { channel(nc) })
				far.Close()
			})
			return half{in: b, out: a}, nil
		}
		do(t, c, l)
		c.Close()
		l.all.Wait()
	})
}

// runs answers every command and never ends it.
func runs(nc ssh.NewChannel) {
	execs(nc, func(_ ssh.Channel, req *ssh.Request) { req.Reply(true, nil) })
}

func echoes(nc ssh.NewChannel) { execs(nc, exits) }

func TestKeepAlive(t *testing.T) {
	timed(t, runs, func(t *testing.T, c *Client, l *line) {
		s, err := c.Start(t.Context(), "host", "true")
		if err != nil {
			t.Fatal(err)
		}
		ended := make(chan error, 1)
		go func() { _, err := s.Wait(); ended <- err }()
		time.Sleep(time.Hour)
		select {
		case err := <-ended:
			t.Fatalf("a quiet connection that answers was ended: %v", err)
		default:
		}
		l.cut()
		began := time.Now()
		err = <-ended
		var e *Error
		if !errors.As(err, &e) || !e.Sent || e.Kind != nil || !strings.Contains(err.Error(), "no sign of life") {
			t.Fatalf("%v", err)
		}
		if took := time.Since(began); took < 10*time.Second || took > 30*time.Second {
			t.Errorf("silence was noticed after %v", took)
		}
	})
}

func TestIdleConnectionIsClosed(t *testing.T) {
	timed(t, echoes, func(t *testing.T, c *Client, l *line) {
		mustRun(t, c, "host", "true")
		time.Sleep(4 * time.Minute)
		mustRun(t, c, "host", "true")
		time.Sleep(4 * time.Minute)
		if n := connections(c); n != 1 || l.count() != 1 {
			t.Fatalf("%d connections, %d dials", n, l.count())
		}
		time.Sleep(90 * time.Second)
		if n := connections(c); n != 0 {
			t.Fatalf("%d connections that nobody uses", n)
		}
		mustRun(t, c, "host", "true")
		if n := l.count(); n != 2 {
			t.Fatalf("%d dials", n)
		}
	})
}

// A connection in the pool that was cut silently must not keep a command waiting
// until its keepalive notices.
func TestSilentConnectionInThePool(t *testing.T) {
	timed(t, echoes, func(t *testing.T, c *Client, l *line) {
		mustRun(t, c, "host", "true")
		time.Sleep(5 * time.Second)
		l.cut()
		began := time.Now()
		mustRun(t, c, "host", "true")
		if took := time.Since(began); took != c.patience {
			t.Errorf("it took %v", took)
		}
		began = time.Now()
		mustRun(t, c, "host", "true") // the silent one is left alone
		if took := time.Since(began); took != 0 {
			t.Errorf("the next took %v", took)
		}
		time.Sleep(time.Minute)
		if n := connections(c); n != 1 {
			t.Errorf("%d connections", n)
		}
	})
}

func TestSessionIsNotAnswered(t *testing.T) {
	timed(t, func(ssh.NewChannel) {}, func(t *testing.T, c *Client, l *line) {
		began := time.Now()
		_, err := c.Run(t.Context(), "host", Command{Line: "true"})
		fails(t, err, ErrUnreachable, StageSession)
		if took := time.Since(began); took != 10*time.Second {
			t.Errorf("it took %v", took)
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		_, err = c.Run(ctx, "host", Command{Line: "true"})
		fails(t, err, ErrUnreachable, StageSession)
		if !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("%v", err)
		}
	})
}

// A silent jump host must not hold up what lies behind it, nor the next one who
// comes that way.
func TestSilentJumpHost(t *testing.T) {
	conf := config(t, "Host behind", "  HostName behind", "  ProxyJump gate", "Host *", "  IdentityFile none")
	timed(t, func(ssh.NewChannel) {}, func(t *testing.T, c *Client, l *line) {
		for want := 1; want <= 2; want++ {
			time.AfterFunc(5*time.Second, l.cut)
			began := time.Now()
			_, err := c.Run(t.Context(), "behind", Command{Line: "true"})
			fails(t, err, ErrUnreachable, StageConnect)
			if took := time.Since(began); took != 10*time.Second {
				t.Errorf("it took %v", took)
			}
			if n := l.count(); n != want {
				t.Errorf("%d dials to the jump host, not %d", n, want)
			}
		}
	}, func(o *Options) { o.Config = conf })
}

// No more dials over a jump host at a time than to one machine.
func TestDialsOverJumpHost(t *testing.T) {
	conf := config(t, "Host b*", "  ProxyJump gate", "Host *", "  IdentityFile none")
	var mu sync.Mutex
	now, most := 0, 0
	timed(t, func(nc ssh.NewChannel) {
		mu.Lock()
		now++
		most = max(most, now)
		mu.Unlock()
		time.AfterFunc(time.Second, func() {
			mu.Lock()
			now--
			mu.Unlock()
			nc.Reject(ssh.ConnectionFailed, "no route to host")
		})
	}, func(t *testing.T, c *Client, l *line) {
		var all sync.WaitGroup
		for i := range 20 {
			all.Go(func() {
				if _, err := c.Run(t.Context(), "b"+string(rune('a'+i)), Command{Line: "true"}); !errors.Is(err, ErrUnreachable) {
					t.Error(err)
				}
			})
		}
		all.Wait()
		if most != 8 || l.count() != 1 {
			t.Errorf("%d dials over the jump host at once, %d connections to it", most, l.count())
		}
	}, func(o *Options) { o.Config = conf })
}

// A machine behind a jump host may have the jump host's own address: its dials
// must not take the places that the jump host's dial needs.
func TestJumpHostWithTheSameAddress(t *testing.T) {
	conf := config(t, "Host b*", "  HostName gate", "  ProxyJump gate", "Host *", "  IdentityFile none")
	timed(t, func(nc ssh.NewChannel) { nc.Reject(ssh.ConnectionFailed, "no") }, func(t *testing.T, c *Client, l *line) {
		var all sync.WaitGroup
		for i := range 3 {
			all.Go(func() {
				if _, err := c.Run(t.Context(), "user"+string(rune('a'+i))+"@b", Command{Line: "true"}); !errors.Is(err, ErrUnreachable) {
					t.Error(err)
				}
			})
		}
		all.Wait()
	}, func(o *Options) { o.Config, o.DialsPerHost = conf, 1 })
}
