package launch

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"maps"
	"math/rand/v2"
	"net"
	"os"
	"strconv"
	"sync"
	"time"

	"saltpeter/sshx"
)

// Holder keeps what must hold a connection for longer than a call: the tunnels of
// machines that cannot dial the server. Whoever has one decides how long it lives.
type Holder interface {
	// Hold says which machines are to be held from now on.
	Hold(machines []Machine)
	// Run holds them until ctx ends, and returns when nothing of it runs any more.
	Run(ctx context.Context)
}

// TunnelOptions of Tunnels.
type TunnelOptions struct {
	Client *sshx.Client
	Dial   func(ctx context.Context) (net.Conn, error) // the server's machines listener
	File   string                                      // remembers the ports over restarts; "" = nothing does
	Log    *slog.Logger
}

// Tunnels hold one SSH connection for each machine with tunnel: true. sshd there
// listens on a loopback port, and what connects to it comes out at the server's
// machines listener. The port is chosen once for a machine and kept, so that a
// wrapper which was told of it finds it again when the tunnel has come back.
type Tunnels struct {
	o TunnelOptions

	mu    sync.Mutex
	ports map[string]int
	want  map[string]Machine // by name
	held  map[string]*heldTunnel
	run   func(f func()) // nil while nobody runs
	life  context.Context
}

// Where ports are chosen: below those that systems give to outgoing connections.
const (
	tunnelFirst = 20000
	tunnelLast  = 29999
)

// Waits of a tunnel that is down, and how often a port may be refused before another
// is taken: sshd may hold it for a while for a connection that is gone.
const (
	tunnelSoonest = time.Second
	tunnelLatest  = 30 * time.Second
	tunnelRefused = 8
)

// NewTunnels makes Tunnels that hold nothing yet.
func NewTunnels(o TunnelOptions) *Tunnels {
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	t := &Tunnels{o: o, ports: map[string]int{}, held: map[string]*heldTunnel{}}
	if o.File == "" {
		return t
	}
	data, err := os.ReadFile(o.File)
	if err == nil {
		err = json.Unmarshal(data, &t.ports)
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		o.Log.Error("cannot read the ports of tunnels; others are chosen", "err", err)
	}
	return t
}

// Port is the loopback port on a machine that leads to the server.
func (t *Tunnels) Port(m Machine) int {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.port(m.Name)
}

// port chooses one where there is none. The lock is held.
func (t *Tunnels) port(name string) int {
	if p := t.ports[name]; p > 0 {
		return p
	}
	return t.another(name)
}

// another chooses and remembers. The lock is held.
func (t *Tunnels) another(name string) int {
	was := t.ports[name]
	for t.ports[name] == was {
		t.ports[name] = tunnelFirst + rand.IntN(tunnelLast-tunnelFirst+1)
	}
	if t.o.File != "" {
		data, err := json.Marshal(t.ports)
		if err == nil {
			if err = os.WriteFile(t.o.File+".new", append(data, '\n'), 0o600); err == nil {
				err = os.Rename(t.o.File+".new", t.o.File)
			}
		}
		if err != nil {
			t.o.Log.Error("cannot remember the port of a tunnel", "machine", name, "err", err)
		}
	}
	return t.ports[name]
}

// Hold takes the machines that have tunnel: true. One that is not among them any
// more keeps its tunnel for as long as wrappers use it.
func (t *Tunnels) Hold(machines []Machine) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.want = map[string]Machine{}
	for _, m := range machines {
		if m.Tunnel {
			t.want[m.Name] = m
		}
	}
	t.settle()
}

// settle begins and ends tunnels by what is wanted. The lock is held.
func (t *Tunnels) settle() {
	if t.run == nil {
		return
	}
	for name, h := range t.held {
		if m, ok := t.want[name]; !ok {
			h.leave()
		} else if m.SSH != h.machine.SSH {
			h.end()
			delete(t.held, name)
		}
	}
	for name, m := range t.want {
		if h := t.held[name]; h != nil {
			h.stay()
			continue
		}
		h := &heldTunnel{t: t, machine: m}
		h.ctx, h.end = context.WithCancel(t.life)
		t.held[name] = h
		t.run(h.hold)
	}
}

// Run holds the tunnels until ctx ends.
func (t *Tunnels) Run(ctx context.Context) {
	var wg sync.WaitGroup
	t.mu.Lock()
	t.life, t.run = ctx, func(f func()) { wg.Go(f) }
	t.settle()
	t.mu.Unlock()
	<-ctx.Done()
	t.mu.Lock()
	t.run = nil
	held := maps.Clone(t.held)
	clear(t.held)
	t.mu.Unlock()
	for _, h := range held {
		h.end()
	}
	wg.Wait()
}

// heldTunnel is one machine's.
type heldTunnel struct {
	t       *Tunnels
	machine Machine
	ctx     context.Context
	end     context.CancelFunc

	mu      sync.Mutex
	users   int  // connections through it
	leaving bool // it goes when nobody uses it
}

func (h *heldTunnel) leave() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.leaving = true
	if h.users == 0 {
		h.end()
	}
}

func (h *heldTunnel) stay() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.leaving = false
}

func (h *heldTunnel) used(by int) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.users += by; h.users == 0 && h.leaving {
		h.end()
	}
}

// hold keeps the tunnel up until its end.
func (h *heldTunnel) hold() {
	defer h.forget()
	log := h.t.o.Log.With("machine", h.machine.Name)
	wait, refused, told := tunnelSoonest, 0, ""
	for h.ctx.Err() == nil {
		port := h.t.Port(h.machine)
		up, err := h.once(port, func() {
			log.Info("the tunnel is up", "port", port)
			told = ""
		})
		if h.ctx.Err() != nil {
			return
		}
		if err != nil && err.Error() != told {
			told = err.Error()
			log.Warn("the tunnel is down, and is tried again", "err", err)
		}
		switch {
		case up:
			wait, refused = tunnelSoonest, 0
		case errors.Is(err, sshx.ErrRefused):
			if refused++; refused == tunnelRefused {
				refused = 0
				h.t.mu.Lock()
				now := h.t.another(h.machine.Name)
				h.t.mu.Unlock()
				log.Warn("the tunnel's port cannot be had there; another is taken, and wrappers that know the old one are asked over ssh", "port", port, "now", now)
			}
		}
		select {
		case <-h.ctx.Done():
		case <-time.After(wait/2 + rand.N(wait/2+1)):
		}
		wait = min(2*wait, tunnelLatest)
	}
}

// forget takes it out of the list, if it is still the machine's.
func (h *heldTunnel) forget() {
	h.t.mu.Lock()
	defer h.t.mu.Unlock()
	if h.t.held[h.machine.Name] == h {
		delete(h.t.held, h.machine.Name)
	}
	h.end()
}

// once has sshd listen and serves what comes until the connection drops. up: it
// stood for a while.
func (h *heldTunnel) once(port int, on func()) (up bool, err error) {
	ln, err := h.t.o.Client.Listen(h.ctx, h.machine.SSH, net.JoinHostPort("127.0.0.1", strconv.Itoa(port)))
	if err != nil {
		return false, noWay(h.machine, err)
	}
	stop := context.AfterFunc(h.ctx, func() { ln.Close() })
	defer stop()
	defer ln.Close()
	on()
	var wg sync.WaitGroup
	defer wg.Wait()
	for {
		far, err := ln.Accept()
		if err != nil {
			return true, fmt.Errorf("the tunnel of %s broke: %w", h.machine.Name, err)
		}
		wg.Go(func() { h.join(far) })
	}
}

// join leads one connection to the machines listener.
func (h *heldTunnel) join(far net.Conn) {
	h.used(1)
	defer h.used(-1)
	defer far.Close()
	dial, cancel := context.WithTimeout(h.ctx, 10*time.Second)
	near, err := h.t.o.Dial(dial)
	cancel()
	if err != nil {
		h.t.o.Log.Error("cannot lead a tunnel to the machines port", "machine", h.machine.Name, "err", err)
		return
	}
	defer near.Close()
	stop := context.AfterFunc(h.ctx, func() { far.Close(); near.Close() })
	defer stop()
	var wg sync.WaitGroup
	for _, way := range [][2]net.Conn{{near, far}, {far, near}} {
		wg.Go(func() {
			io.Copy(way[0], way[1])
			// A WebSocket is not half closed: where one end has gone, both have.
			near.Close()
			far.Close()
		})
	}
	wg.Wait()
}
