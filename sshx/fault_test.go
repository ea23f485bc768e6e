package sshx

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"
	"golang.org/x/crypto/ssh/knownhosts"
)

// faulty is a listener whose connections a test treats as it likes. Each handler
// gets the number of its connection, from 1 on; all are waited for.
func faulty(t testing.TB, handle func(n int, conn net.Conn)) (addr string) {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var all sync.WaitGroup
	var mu sync.Mutex
	var conns []net.Conn
	all.Go(func() {
		for n := 1; ; n++ {
			conn, err := ln.Accept()
			if err != nil {
				return
			}
			mu.Lock()
			conns = append(conns, conn)
			mu.Unlock()
			all.Go(func() { handle(n, conn) })
		}
	})
	t.Cleanup(func() {
		ln.Close()
		mu.Lock()
		for _, conn := range conns {
			conn.Close()
		}
		mu.Unlock()
		all.Wait()
	})
	return ln.Addr().String()
}

// rig is an SSH server in this process, and a client that knows its key.
type rig struct {
	config *ssh.ServerConfig
	known  string
}

func newRig(t testing.TB) *rig {
	t.Helper()
	_, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	signer, err := ssh.NewSignerFromKey(key)
	if err != nil {
		t.Fatal(err)
	}
	r := &rig{config: &ssh.ServerConfig{NoClientAuth: true}, known: filepath.Join(t.TempDir(), "known_hosts")}
	r.config.AddHostKey(signer)
	line := "* " + strings.SplitN(knownhosts.Line([]string{"x"}, signer.PublicKey()), " ", 2)[1]
	if err := os.WriteFile(r.known, []byte(line+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	return r
}

func (r *rig) client(t testing.TB, change ...func(*Options)) *Client {
	c, _ := client(t, nil, append([]func(*Options){func(o *Options) { o.KnownHosts = r.known }}, change...)...)
	c.pause = time.Millisecond
	return c
}

// serve logs a connection in and hands its channels over.
func (r *rig) serve(conn net.Conn, channel func(*ssh.ServerConn, ssh.NewChannel)) {
	sc, chans, reqs, err := ssh.NewServerConn(conn, r.config)
	if err != nil {
		return
	}
	defer sc.Close()
	go ssh.DiscardRequests(reqs)
	for nc := range chans {
		channel(sc, nc)
	}
}

// execs accepts a session and hands over its exec request.
func execs(nc ssh.NewChannel, do func(ch ssh.Channel, req *ssh.Request)) {
	ch, reqs, err := nc.Accept()
	if err != nil {
		return
	}
	go func() {
		for req := range reqs {
			if req.Type == "exec" {
				do(ch, req)
			} else if req.WantReply {
				req.Reply(false, nil)
			}
		}
	}()
}

// exits answers a command with its line and a code.
func exits(ch ssh.Channel, req *ssh.Request) {
	req.Reply(true, nil)
	ch.Write(req.Payload[4:])
	ch.SendRequest("exit-status", false, ssh.Marshal(struct{ Code uint32 }{0}))
	ch.Close()
}

func soon(o *Options) { o.HandshakeTimeout = 300 * time.Millisecond }

func TestFarSideThatDoesNotSpeak(t *testing.T) {
	r := newRig(t)
	for name, said := range map[string]string{"nothing": "", "half a banner": "SSH-2.0-Open", "a banner and no more": "SSH-2.0-OpenSSH_9.2\r\n"} {
		t.Run(name, func(t *testing.T) {
			addr := faulty(t, func(_ int, conn net.Conn) {
				io.WriteString(conn, said)
				io.Copy(io.Discard, conn)
			})
			c := r.client(t, soon)
			began := time.Now()
			_, _, _, err := run(c, addr, "true")
			fails(t, err, ErrUnreachable, StageHandshake)
			if took := time.Since(began); took < 250*time.Millisecond || took > patient {
				t.Errorf("it took %v", took)
			}
		})
	}
	t.Run("the caller's deadline is shorter", func(t *testing.T) {
		addr := faulty(t, func(_ int, conn net.Conn) { io.Copy(io.Discard, conn) })
		c := r.client(t)
		ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
		defer cancel()
		_, err := c.Run(ctx, addr, Command{Line: "true"})
		if !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("%v", err)
		}
		if e := fails(t, err, ErrUnreachable, StageConnect); !strings.Contains(e.Error(), "no connection in time, it ") {
			t.Errorf("%v does not tell how far it came", e)
		}
	})
	t.Run("the caller gives up", func(t *testing.T) {
		addr := faulty(t, func(_ int, conn net.Conn) { io.Copy(io.Discard, conn) })
		c := r.client(t)
		ctx, cancel := context.WithCancel(t.Context())
		time.AfterFunc(50*time.Millisecond, cancel)
		_, err := c.Run(ctx, addr, Command{Line: "true"})
		if !errors.Is(err, context.Canceled) {
			t.Errorf("%v", err)
		}
		fails(t, err, nil, StageConnect)
	})
}

func TestClosedPort(t *testing.T) {
	c := newRig(t).client(t)
	_, _, _, err := run(c, "127.0.0.1:1", "true")
	if e := fails(t, err, ErrUnreachable, StageConnect); !strings.Contains(e.Hint, "sshd") {
		t.Errorf("hint %q", e.Hint)
	}
}

func reset(conn net.Conn) {
	conn.(*net.TCPConn).SetLinger(0)
	conn.Close()
}

func TestResetInTheHandshake(t *testing.T) {
	r := newRig(t)
	t.Run("at first", func(t *testing.T) {
		addr := faulty(t, func(n int, conn net.Conn) {
			switch n {
			case 1:
				reset(conn)
			case 2:
				io.WriteString(conn, "Exceeded MaxStartups\r\n")
				conn.Close()
			case 3:
				io.WriteString(conn, "SSH-2.0-OpenSSH_9.2\r\n")
				io.ReadFull(conn, make([]byte, 30))
				reset(conn)
			default:
				r.serve(conn, func(_ *ssh.ServerConn, nc ssh.NewChannel) { execs(nc, exits) })
			}
		})
		if out := mustRun(t, r.client(t), addr, "echo"); out != "echo" {
			t.Fatalf("%q", out)
		}
	})
	t.Run("always", func(t *testing.T) {
		var tries atomic.Int32
		addr := faulty(t, func(_ int, conn net.Conn) { tries.Add(1); reset(conn) })
		_, _, _, err := run(r.client(t), addr, "true")
		// A reset may be seen before the handshake, as that of a connection which is made.
		var e *Error
		if !errors.As(err, &e) || e.Sent || !errors.Is(err, ErrUnreachable) || e.Stage != StageHandshake && e.Stage != StageConnect {
			t.Errorf("%v", err)
		}
		if n := tries.Load(); n != dialTries {
			t.Errorf("%d tries", n)
		}
	})
}

func TestCommandIsNotAnswered(t *testing.T) {
	r := newRig(t)
	asked := make(chan struct{}, 1)
	addr := faulty(t, func(_ int, conn net.Conn) {
		r.serve(conn, func(_ *ssh.ServerConn, nc ssh.NewChannel) {
			execs(nc, func(ssh.Channel, *ssh.Request) { asked <- struct{}{} })
		})
	})
	ctx, cancel := context.WithCancel(t.Context())
	go func() { <-asked; cancel() }()
	_, err := r.client(t).Run(ctx, addr, Command{Line: "true"})
	var e *Error
	if !errors.As(err, &e) || !e.Sent || e.Stage != StageCommand || e.Kind != nil {
		t.Fatalf("%v", err)
	}
}

func TestCommandRefused(t *testing.T) {
	r := newRig(t)
	addr := faulty(t, func(_ int, conn net.Conn) {
		r.serve(conn, func(_ *ssh.ServerConn, nc ssh.NewChannel) {
			execs(nc, func(_ ssh.Channel, req *ssh.Request) { req.Reply(false, nil) })
		})
	})
	_, _, _, err := run(r.client(t), addr, "true")
	fails(t, err, ErrRefused, StageCommand)
}

func TestDroppedAfterExec(t *testing.T) {
	r := newRig(t)
	for name, do := range map[string]func(ch ssh.Channel, req *ssh.Request){
		"before the answer": func(ssh.Channel, *ssh.Request) {},
		"after the answer":  func(_ ssh.Channel, req *ssh.Request) { req.Reply(true, nil) },
		"after some output": func(ch ssh.Channel, req *ssh.Request) { req.Reply(true, nil); io.WriteString(ch, "some") },
		"after the code": func(ch ssh.Channel, req *ssh.Request) {
			req.Reply(true, nil)
			ch.SendRequest("exit-status", false, ssh.Marshal(struct{ Code uint32 }{0}))
		},
	} {
		t.Run(name, func(t *testing.T) {
			addr := faulty(t, func(_ int, conn net.Conn) {
				r.serve(conn, func(sc *ssh.ServerConn, nc ssh.NewChannel) {
					execs(nc, func(ch ssh.Channel, req *ssh.Request) { do(ch, req); sc.Close() })
				})
			})
			_, _, _, err := run(r.client(t), addr, "true")
			var e *Error
			if !errors.As(err, &e) || !e.Sent || e.Kind != nil {
				t.Fatalf("%v: it may have run, and nobody knows how it ended", err)
			}
		})
	}
}

func TestEndThatIsNotTold(t *testing.T) {
	r := newRig(t)
	addr := faulty(t, func(_ int, conn net.Conn) {
		r.serve(conn, func(_ *ssh.ServerConn, nc ssh.NewChannel) {
			execs(nc, func(ch ssh.Channel, req *ssh.Request) { req.Reply(true, nil); io.WriteString(ch, "out"); ch.Close() })
		})
	})
	out, _, exit, err := run(r.client(t), addr, "true")
	if out != "out" || exit != (Exit{Code: -1}) || err != nil {
		t.Fatalf("%q %+v %v", out, exit, err)
	}
}

// Whoever gives up must not take the dial from the others.
func TestDialIsShared(t *testing.T) {
	r := newRig(t)
	speak := make(chan struct{})
	var dials atomic.Int32
	addr := faulty(t, func(_ int, conn net.Conn) {
		dials.Add(1)
		<-speak
		r.serve(conn, func(_ *ssh.ServerConn, nc ssh.NewChannel) { execs(nc, exits) })
	})
	c := r.client(t)
	ctx, cancel := context.WithCancel(t.Context())
	first := make(chan error, 1)
	go func() { _, err := c.Run(ctx, addr, Command{Line: "true"}); first <- err }()
	eventually(t, "dial", func() bool { return dials.Load() == 1 })
	var all sync.WaitGroup
	for range 7 {
		all.Go(func() {
			if _, _, _, err := run(c, addr, "true"); err != nil {
				t.Error(err)
			}
		})
	}
	eventually(t, "queue of eight", func() bool {
		c.mu.Lock()
		defer c.mu.Unlock()
		for _, h := range c.hosts {
			if len(h.waiting) == 8 {
				return true
			}
		}
		return false
	})
	cancel()
	if err := <-first; !errors.Is(err, context.Canceled) {
		t.Errorf("%v", err)
	}
	close(speak)
	all.Wait()
	if n := dials.Load(); n != 1 {
		t.Errorf("%d connections for eight sessions", n)
	}
}

// At most so many dials at a time that sshd does not begin to drop them.
func TestDialsPerHost(t *testing.T) {
	r := newRig(t)
	speak := make(chan struct{})
	var dials atomic.Int32
	addr := faulty(t, func(_ int, conn net.Conn) {
		dials.Add(1)
		<-speak
		r.serve(conn, func(_ *ssh.ServerConn, nc ssh.NewChannel) { execs(nc, exits) })
	})
	c := r.client(t, func(o *Options) { o.DialsPerHost = 3 })
	var all sync.WaitGroup
	for i := range 12 {
		all.Go(func() {
			if _, _, _, err := run(c, fmt.Sprintf("user%d@%s", i, addr), "true"); err != nil { // each its own connection
				t.Error(err)
			}
		})
	}
	eventually(t, "three dials", func() bool { return dials.Load() == 3 })
	time.Sleep(100 * time.Millisecond) // a fourth would come now
	if n := dials.Load(); n != 3 {
		t.Errorf("%d logins at once", n)
	}
	close(speak)
	all.Wait()
}
