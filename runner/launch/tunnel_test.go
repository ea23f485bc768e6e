package launch

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"path/filepath"
	"sync"
	"testing"
)

// echo is a machines listener that says every line again.
func echo(t *testing.T) func(ctx context.Context) (net.Conn, error) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			wg.Go(func() { defer c.Close(); io.Copy(c, c) })
		}
	})
	t.Cleanup(func() { ln.Close(); wg.Wait() })
	return func(ctx context.Context) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "tcp", ln.Addr().String())
	}
}

// through says something into a port of the machine and hears it again.
func through(port int, line string) error {
	c, err := net.Dial("tcp", fmt.Sprintf("127.0.0.1:%d", port))
	if err != nil {
		return err
	}
	defer c.Close()
	fmt.Fprintln(c, line)
	got, err := bufio.NewReader(c).ReadString('\n')
	if err != nil {
		return err
	}
	if got != line+"\n" {
		return fmt.Errorf("heard %q", got)
	}
	return nil
}

func runTunnels(t *testing.T, ts *Tunnels) (stop func()) {
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() { defer close(done); ts.Run(ctx) }()
	stop = sync.OnceFunc(func() { cancel(); <-done })
	t.Cleanup(stop)
	return stop
}

// A tunnel leads from the machine to the server, comes back on the same port when its
// connection is cut and when the server starts anew, and goes when it is not wanted.
func TestTunnel(t *testing.T) {
	r := newPutRig(t)
	r.machine.Tunnel = true
	o := TunnelOptions{Client: r.client, Dial: echo(t), File: filepath.Join(t.TempDir(), "tunnels"), Log: slog.New(slog.NewTextHandler(&r.log, nil))}
	ts := NewTunnels(o)
	port := ts.Port(r.machine)
	ts.Hold([]Machine{r.machine, {Name: "other", SSH: "nowhere.invalid"}})
	stop := runTunnels(t, ts)
	works := func(what string) {
		t.Helper()
		eventually(t, what, func() bool { return through(port, "hello") == nil })
	}
	works("the tunnel to lead somewhere")
	r.Drop()
	works("the tunnel to come back")
	if got := ts.Port(r.machine); got != port {
		t.Errorf("its port was %d and is %d", port, got)
	}
	stop()
	if err := through(port, "hello"); err == nil {
		t.Error("it leads somewhere although nobody holds it")
	}

	ts = NewTunnels(o)
	if got := ts.Port(r.machine); got != port {
		t.Errorf("after a restart its port is %d, and was %d", got, port)
	}
	runTunnels(t, ts)
	ts.Hold([]Machine{r.machine})
	works("the tunnel of the next server")

	// One that is in use when it is not wanted any more goes with its user.
	c, err := net.Dial("tcp", fmt.Sprintf("127.0.0.1:%d", port))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	fmt.Fprintln(c, "still here?")
	if _, err := bufio.NewReader(c).ReadString('\n'); err != nil {
		t.Fatal(err)
	}
	ts.Hold(nil)
	works("the one in use to stay")
	c.Close()
	eventually(t, "the tunnel to go", func() bool { return through(port, "hello") != nil })
}

// A port that another has there is given up after a while for another.
func TestTunnelPortTaken(t *testing.T) {
	r := newPutRig(t)
	r.machine.Tunnel = true
	ts := NewTunnels(TunnelOptions{Client: r.client, Dial: echo(t)})
	ln, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", ts.Port(r.machine)))
	if err != nil {
		t.Skip("the chosen port is taken by somebody else")
	}
	defer ln.Close()
	h := &heldTunnel{t: ts, machine: r.machine}
	h.ctx, h.end = context.WithCancel(context.Background())
	defer h.end()
	if up, err := h.once(ts.Port(r.machine), func() {}); up || err == nil {
		t.Errorf("a taken port: %v %v", up, err)
	}
	was := ts.Port(r.machine)
	ts.mu.Lock()
	ts.another(r.machine.Name)
	ts.mu.Unlock()
	if now := ts.Port(r.machine); now == was || now < tunnelFirst || now > tunnelLast {
		t.Errorf("it was %d and is %d", was, now)
	}
}
