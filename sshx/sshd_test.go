package sshx

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"saltpeter/testdata/lab"
)

func TestRun(t *testing.T) {
	s := lab.SSHD(t, lab.SSHDOptions{})
	c, _ := client(t, s)
	t.Run("output, errors and code apart", func(t *testing.T) {
		out, errs, exit, err := run(c, s.Host, "echo out; echo err >&2; exit 7")
		if out != "out\n" || errs != "err\n" || exit != (Exit{Code: 7}) || err != nil {
			t.Fatalf("%q %q %+v %v", out, errs, exit, err)
		}
	})
	t.Run("standard input", func(t *testing.T) {
		text := strings.Repeat("0123456789abcde\n", 1<<18)
		if out := mustRun(t, c, s.Host, "cat", text); out != text {
			t.Fatalf("%d bytes of %d came back", len(out), len(text))
		}
	})
	t.Run("signal", func(t *testing.T) {
		_, _, exit, err := run(c, s.Host, "kill -9 $$")
		if exit.Code != -1 || exit.Signal != "KILL" || err != nil {
			t.Fatalf("%+v %v", exit, err)
		}
	})
	t.Run("what it left behind holds its output", func(t *testing.T) {
		var out bytes.Buffer
		exit, err := c.Run(t.Context(), s.Host, Command{Line: "sleep 9999 & echo here; exit 3", Stdout: &out, Drain: 50 * time.Millisecond})
		if exit.Code != 3 || err != nil || out.String() != "here\n" {
			t.Fatalf("%+v %v %q", exit, err, out.String())
		}
	})
	t.Run("input that never ends", func(t *testing.T) {
		r, w := io.Pipe()
		defer w.Close()
		exit, err := c.Run(t.Context(), s.Host, Command{Line: "exit 4", Stdin: r})
		if exit.Code != 4 || err != nil {
			t.Fatalf("%+v %v", exit, err)
		}
	})
	t.Run("a writer that fails", func(t *testing.T) {
		_, err := c.Run(t.Context(), s.Host, Command{Line: "echo x", Stdout: broken{}})
		var e *Error
		if !errors.As(err, &e) || !e.Sent || !errors.Is(err, errBroken) {
			t.Fatalf("%v", err)
		}
	})
	if n := connections(c); n != 1 {
		t.Fatalf("%d connections were made, one would have done", n)
	}
}

var errBroken = errors.New("broken")

type broken struct{}

func (broken) Write([]byte) (int, error) { return 0, errBroken }

func TestContextEnds(t *testing.T) {
	s := lab.SSHD(t, lab.SSHDOptions{})
	c, _ := client(t, s)
	ctx, cancel := context.WithCancel(t.Context())
	r, w := io.Pipe()
	go func() {
		io.ReadFull(r, make([]byte, 3))
		cancel()
		io.Copy(io.Discard, r)
	}()
	exit, err := c.Run(ctx, s.Host, Command{Line: "echo on; exec sleep 9999", Stdout: w})
	w.Close()
	var e *Error
	if !errors.As(err, &e) || !e.Sent || !errors.Is(err, context.Canceled) || exit.Code != -1 {
		t.Fatalf("%+v %v", exit, err)
	}
	mustRun(t, c, s.Host, "true") // the connection is as good as before
}

func TestStart(t *testing.T) {
	s := lab.SSHD(t, lab.SSHDOptions{})
	c, _ := client(t, s)
	p, err := c.Start(t.Context(), s.Host, "read x; echo got $x; echo err >&2; read y; exit 5")
	if err != nil {
		t.Fatal(err)
	}
	fmt.Fprintln(p.Stdin, "hello")
	line := make([]byte, 10)
	if _, err := io.ReadFull(p.Stdout, line); err != nil || string(line) != "got hello\n" {
		t.Fatalf("%q %v", line, err)
	}
	if _, err := io.ReadFull(p.Stderr, line[:4]); err != nil || string(line[:4]) != "err\n" {
		t.Fatalf("%q %v", line[:4], err)
	}
	p.Stdin.Close()
	if exit, err := p.Wait(); exit.Code != 5 || err != nil {
		t.Fatalf("%+v %v", exit, err)
	}
	p, err = c.Start(t.Context(), s.Host, "echo on; exec sleep 9999")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadFull(p.Stdout, line[:3]); err != nil {
		t.Fatal(err)
	}
	p.Close()
	if n, err := p.Stdout.Read(line); err == nil {
		t.Fatalf("read %d bytes after Close", n)
	}
}

// What is let go while it runs must not use up the sessions of its connection.
func TestSessionsThatWereLetGo(t *testing.T) {
	s := lab.SSHD(t, lab.SSHDOptions{Config: []string{"MaxSessions 3"}})
	c, j := client(t, s)
	for i := range 8 {
		p, err := c.Start(t.Context(), s.Host, "echo on; exec sleep 9999")
		if err != nil {
			t.Fatalf("start %d: %v\n%s", i, err, j)
		}
		if _, err := io.ReadFull(p.Stdout, make([]byte, 3)); err != nil {
			t.Fatal(err)
		}
		p.Close()
	}
	t.Logf("%d connections for 8 sessions that were let go", connections(c))
}

func TestMaxSessions(t *testing.T) {
	for _, n := range []int{1, 2} {
		t.Run(fmt.Sprint(n), func(t *testing.T) {
			s := lab.SSHD(t, lab.SSHDOptions{Config: []string{fmt.Sprintf("MaxSessions %d", n)}})
			c, j := client(t, s)
			var all sync.WaitGroup
			for range 6 {
				all.Go(func() {
					if _, _, exit, err := run(c, s.Host, "sleep .3"); err != nil || exit.Code != 0 {
						t.Errorf("%+v %v", exit, err)
					}
				})
			}
			all.Wait()
			if !strings.Contains(j.String(), "allows fewer sessions") {
				t.Errorf("the log does not say that sessions were refused:\n%s", j)
			}
		})
	}
	t.Run("0", func(t *testing.T) {
		s := lab.SSHD(t, lab.SSHDOptions{Config: []string{"MaxSessions 0"}})
		c, _ := client(t, s)
		_, _, _, err := run(c, s.Host, "true")
		if e := fails(t, err, ErrRefused, StageSession); !strings.Contains(e.Hint, "MaxSessions") {
			t.Errorf("hint %q", e.Hint)
		}
	})
}

func TestMaxStartups(t *testing.T) {
	s := lab.SSHD(t, lab.SSHDOptions{Config: []string{"MaxStartups 2:90:4"}})
	c, _ := client(t, s, func(o *Options) { o.Sessions = 1 }) // a connection for each
	var all sync.WaitGroup
	for range 8 {
		all.Go(func() {
			if _, _, exit, err := run(c, s.Host, "sleep .5"); err != nil || exit.Code != 0 {
				t.Errorf("%+v %v", exit, err)
			}
		})
	}
	all.Wait()
}

func TestListen(t *testing.T) {
	s := lab.SSHD(t, lab.SSHDOptions{})
	c, _ := client(t, s)
	ln, err := c.Listen(t.Context(), s.Host, "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	echoed := make(chan error, 1)
	go func() {
		conn, err := ln.Accept()
		if err == nil {
			_, err = io.Copy(conn, conn)
			conn.Close()
		}
		echoed <- err
	}()
	conn, err := net.Dial("tcp", ln.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	fmt.Fprint(conn, "hello")
	conn.(*net.TCPConn).CloseWrite()
	if b, err := io.ReadAll(conn); string(b) != "hello" || err != nil {
		t.Fatalf("%q %v", b, err)
	}
	conn.Close()
	if err := <-echoed; err != nil {
		t.Fatal(err)
	}
	accepted := make(chan error, 1)
	go func() {
		_, err := ln.Accept()
		accepted <- err
	}()
	s.Drop()
	select {
	case err := <-accepted:
		fails(t, err, ErrUnreachable, StageSession)
	case <-time.After(patient):
		t.Fatal("Accept goes on although the connection is gone")
	}
	ln.Close()
}

func TestListenRefused(t *testing.T) {
	s := lab.SSHD(t, lab.SSHDOptions{Config: []string{"AllowTcpForwarding no"}})
	c, _ := client(t, s)
	_, err := c.Listen(t.Context(), s.Host, "127.0.0.1:0")
	fails(t, err, ErrRefused, StageSession)
}

func TestLocalAddr(t *testing.T) {
	s := lab.SSHD(t, lab.SSHDOptions{})
	c, _ := client(t, s)
	if addr, err := c.LocalAddr(t.Context(), s.Host); addr != "127.0.0.1" || err != nil {
		t.Fatalf("%q %v", addr, err)
	}
}

func TestConnectionDropped(t *testing.T) {
	s := lab.SSHD(t, lab.SSHDOptions{})
	c, _ := client(t, s)
	p, err := c.Start(t.Context(), s.Host, "echo on; exec sleep 9999")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadFull(p.Stdout, make([]byte, 3)); err != nil {
		t.Fatal(err)
	}
	s.Drop()
	_, err = p.Wait()
	var e *Error
	if !errors.As(err, &e) || !e.Sent || e.Kind != nil {
		t.Fatalf("a command whose connection was cut: %v", err)
	}
	mustRun(t, c, s.Host, "true") // over a new one
}

func TestIdle(t *testing.T) {
	s := lab.SSHD(t, lab.SSHDOptions{})
	c, _ := client(t, s, func(o *Options) { o.Idle = 50 * time.Millisecond })
	mustRun(t, c, s.Host, "sleep .2")
	eventually(t, "end of the idle connection", func() bool { return connections(c) == 0 })
}

func TestClose(t *testing.T) {
	s := lab.SSHD(t, lab.SSHDOptions{})
	c, _ := client(t, s)
	p, err := c.Start(t.Context(), s.Host, "echo on; exec sleep 9999")
	if err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() {
		_, err := c.Run(context.Background(), s.Host, Command{Line: "sleep 9999"})
		ended <- err
	}()
	eventually(t, "second session", func() bool {
		c.mu.Lock()
		defer c.mu.Unlock()
		for cn := range c.live {
			if cn.accepted == 2 {
				return true
			}
		}
		return false
	})
	c.Close()
	if err := <-ended; err == nil {
		t.Error("a command on a closed client ended well")
	}
	if _, err := p.Wait(); err == nil {
		t.Error("a session on a closed client ended well")
	}
	if _, err := c.Run(context.Background(), s.Host, Command{Line: "true"}); !errors.Is(err, errClosed) {
		t.Errorf("a closed client runs: %v", err)
	}
}

// Login shells of every kind, with rc files that talk.
func TestLoginShells(t *testing.T) {
	noise := map[string]string{".bashrc": "echo noise from bashrc\n", ".profile": "echo noise from profile\n", ".cshrc": "echo noise from cshrc\n", ".tcshrc": "echo noise from tcshrc\n",
		".config/fish/config.fish": "echo noise from fish\n", ".ssh/rc": "echo noise from ssh rc >&2\n"}
	for name, o := range map[string]lab.WorldOptions{
		"dash":    {Shell: "/bin/dash"},
		"bash":    {Shell: "/bin/bash"},
		"busybox": {},
		"csh":     {Shell: "/usr/bin/bsd-csh", Packages: []string{"csh"}},
		"tcsh":    {Shell: "/usr/bin/tcsh", Packages: []string{"tcsh"}},
		"fish":    {Shell: "/usr/bin/fish", Packages: []string{"fish", "fish-common", "libpcre2-32-0"}},
	} {
		t.Run(name, func(t *testing.T) {
			if name == "busybox" {
				o.Shell = busyboxShell(t)
			}
			o.Files = noise
			w := lab.NewWorld(t, o)
			s := lab.SSHD(t, lab.SSHDOptions{World: w})
			c, _ := client(t, s)
			for _, user := range []string{"spuser", "root"} {
				for i, argv := range words {
					if user == "root" && i > 0 { // the same shell with the same files
						break
					}
					out, errs, exit, err := run(c, user+"@"+s.Host, Quote(argv...))
					if err != nil || exit.Code != 0 || !strings.HasSuffix(out, want(argv)) {
						t.Fatalf("as %s: %q printed %q %q, exit %+v, %v", user, argv, out, errs, exit, err)
					}
				}
				// What the launch and the kill of a task are made of.
				out := mustRun(t, c, user+"@"+s.Host, Quote("sh", "-s"), "id -un; exit 0\n")
				if !strings.HasSuffix(out, user+"\n") {
					t.Fatalf("sh -s as %s said %q", user, out)
				}
			}
		})
	}
	t.Run("nologin", func(t *testing.T) {
		s := lab.SSHD(t, lab.SSHDOptions{Options: lab.WorldOptions{Shell: "/usr/sbin/nologin"}})
		if s.World == nil {
			t.Skip("needs root: a user with another shell")
		}
		c, _ := client(t, s)
		out, _, exit, err := run(c, s.Host, "true")
		if err != nil || exit.Code == 0 {
			t.Fatalf("exit %+v, %v: nologin ran it: %q", exit, err, out)
		}
	})
}

// busyboxShell is a busybox under the name of its shell, where every user can run it.
func busyboxShell(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "sp-busybox-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	b, err := os.ReadFile(lab.Busybox(t))
	if err == nil {
		err = os.WriteFile(filepath.Join(dir, "ash"), b, 0o755)
	}
	if err == nil {
		err = os.Chmod(dir, 0o755)
	}
	if err != nil {
		t.Fatal(err)
	}
	return filepath.Join(dir, "ash")
}
