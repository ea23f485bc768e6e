package wsx

import (
	"net"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"
)

// socketIn opens a unix socket that leads to a server. as: the user whose it is; 0:
// our own.
func (p *place) socketIn(t *testing.T, dir string, as int) string {
	t.Helper()
	path := filepath.Join(dir, "s")
	type opened struct {
		ln  net.Listener
		err error
	}
	made := make(chan opened)
	go func() {
		if as != 0 {
			// Of this thread alone, which ends with the goroutine: whose a socket is
			// is settled when it begins to listen.
			runtime.LockOSThread()
			if _, _, e := syscall.RawSyscall(syscall.SYS_SETRESUID, uintptr(as), uintptr(as), uintptr(as)); e != 0 {
				made <- opened{err: e}
				return
			}
		}
		ln, err := net.Listen("unix", path)
		made <- opened{ln, err}
	}()
	m := <-made
	if m.err != nil {
		t.Fatal(m.err)
	}
	served := make(chan struct{})
	go func() {
		defer close(served)
		_ = p.s.Serve(m.ln)
	}()
	t.Cleanup(func() { m.ln.Close(); <-served })
	return path
}

// A wrapper on the server's machine takes the socket where there is one, and else
// the port; never a socket that another user has put there.
func TestSocket(t *testing.T) {
	p := open(t, newDesk(), nil)
	dial := func(o DialOptions) (net.Addr, error) {
		c, err := Dial(t.Context(), o)
		if err != nil {
			return nil, err
		}
		defer c.Close("")
		return c.ws.RemoteAddr(), nil
	}
	o := p.dial(true)
	o.Socket = p.socketIn(t, t.TempDir(), 0)
	if to, err := dial(o); err != nil || to.Network() != "unix" {
		t.Errorf("dialed %v, %v", to, err)
	}
	wrong := o
	wrong.Pin = strings.Repeat("0", 64)
	if _, err := dial(wrong); err != nil {
		t.Errorf("the socket needs no pin: %v", err)
	}
	stranger := o
	stranger.URL = strings.Replace(o.URL, token, "stranger", 1)
	if _, err := dial(stranger); err == nil {
		t.Error("an unknown token is let in by the socket")
	}
	gone := o
	gone.Socket += ".gone"
	if to, err := dial(gone); err != nil || to.Network() != "tcp" {
		t.Errorf("without a socket: dialed %v, %v", to, err)
	}
}

func TestSocketOfAnotherUser(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("only root can make another user's socket")
	}
	p := open(t, newDesk(), nil)
	dir := t.TempDir()
	for d := dir; strings.HasPrefix(d, os.TempDir()+"/"); d = filepath.Dir(d) {
		if err := os.Chmod(d, 0o777); err != nil {
			t.Fatal(err)
		}
	}
	o := p.dial(true)
	o.Socket = p.socketIn(t, dir, 61234)
	c, err := Dial(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close("")
	if to := c.ws.RemoteAddr(); to.Network() != "tcp" {
		t.Errorf("dialed %v", to)
	}
}
