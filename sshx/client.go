package sshx

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os/user"
	"sync"
	"time"
)

// Options say whom to be and what to bear. The zero value is usable.
type Options struct {
	User          string   // login name where neither the target nor ssh_config names one; "" = the user this process runs as
	Port          int      // where neither names one; 0 = 22
	IdentityFiles []string // tried before those of ssh_config and the usual ones (~/.ssh/id_ed25519 …)
	KnownHosts    string   // "" = ssh_config's, else ~/.ssh/known_hosts and /etc/ssh/ssh_known_hosts
	Config        string   // an ssh_config; "" = ~/.ssh/config, then /etc/ssh/ssh_config

	// Concurrency is how many handshakes are computed at once over everything; 0 = 64.
	// What waits for a silent machine and what runs takes no place: a kill must not
	// stand in a queue behind either.
	Concurrency  int
	DialsPerHost int // unauthenticated dials at a time per destination and per jump host; 0 = 8 (sshd's MaxStartups begins to drop at 10)
	Sessions     int // sessions at a time on one connection; 0 = 8 (sshd's MaxSessions is 10); fewer where the far side refuses

	ConnectTimeout   time.Duration // 0 = 10 s
	HandshakeTimeout time.Duration // 0 = 10 s; from the connect to the login's end
	KeepAlive        time.Duration // 0 = 10 s; a connection silent for two of them is closed, and everything on it fails
	Idle             time.Duration // 0 = 5 min; how long an unused connection is kept

	Log *slog.Logger // nil = nowhere
}

func (o Options) withDefaults() Options {
	for _, d := range []struct {
		n     *int
		value int
	}{{&o.Port, 22}, {&o.Concurrency, 64}, {&o.DialsPerHost, 8}, {&o.Sessions, 8}} {
		if *d.n <= 0 {
			*d.n = d.value
		}
	}
	for _, d := range []struct {
		n     *time.Duration
		value time.Duration
	}{{&o.ConnectTimeout, 10 * time.Second}, {&o.HandshakeTimeout, 10 * time.Second}, {&o.KeepAlive, 10 * time.Second}, {&o.Idle, 5 * time.Minute}} {
		if *d.n <= 0 {
			*d.n = d.value
		}
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	return o
}

// Client keeps connections and runs commands over them. It may be used by many at
// once.
type Client struct {
	o        Options
	log      *slog.Logger
	me       *user.User
	settings settings
	trust    trust
	slots    chan struct{} // handshakes that are computed
	tcp      func(ctx context.Context, addr string) (net.Conn, error)
	pause    time.Duration // before the second try of a handshake that was cut
	patience time.Duration // for a session on a connection that may have been cut silently

	ctx  context.Context // of all that outlives a call: dials that several wait for
	stop context.CancelFunc
	work sync.WaitGroup // calls and goroutines; Close waits for it

	// mu guards what follows, and the fields of every host and conn that say so. No
	// other lock is taken under it, and nothing that blocks is done.
	mu     sync.Mutex
	closed bool
	hosts  map[string]*host
	gates  map[string]chan struct{}
	live   map[*conn]bool // those in hosts, and those that were taken out and still end
}

// New makes a client. An error is that of a Config that was named and can't be read.
func New(o Options) (*Client, error) {
	o = o.withDefaults()
	c := &Client{o: o, log: o.Log, me: whoami(), trust: trust{dbs: map[string]*trusted{}}, slots: make(chan struct{}, o.Concurrency),
		tcp: func(ctx context.Context, addr string) (net.Conn, error) {
			return (&net.Dialer{}).DialContext(ctx, "tcp", addr)
		},
		pause: 100 * time.Millisecond, patience: 3 * time.Second,
		hosts: map[string]*host{}, gates: map[string]chan struct{}{}, live: map[*conn]bool{}}
	c.settings.named, c.settings.home = o.Config, c.me.HomeDir
	if o.Config != "" {
		if _, err := c.settings.load(); err != nil {
			return nil, fmt.Errorf("cannot read %w", err)
		}
	}
	c.ctx, c.stop = context.WithCancel(context.Background())
	return c, nil
}

// Close ends every connection and waits for what the client started: nothing of
// it runs afterwards.
func (c *Client) Close() error {
	c.mu.Lock()
	c.closed = true
	var live []*conn
	for cn := range c.live {
		live = append(live, cn)
	}
	c.mu.Unlock()
	c.stop()
	for _, cn := range live {
		cn.end(errClosed)
	}
	c.work.Wait()
	return nil
}

var errClosed = errors.New("the SSH client is closed")

func closedError(p *place, err error) *Error {
	return &Error{Target: p.Target, User: p.User, Addr: p.Addr(), Stage: StageConnect, Err: err}
}

// enter counts a call that Close waits for.
func (c *Client) enter() (leave func(), err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return nil, errClosed
	}
	c.work.Add(1)
	return c.work.Done, nil
}

// spawn starts a goroutine that Close waits for. Its caller is counted itself, so
// that Close cannot have gone past.
func (c *Client) spawn(f func()) { c.work.Go(f) }

// gate is the semaphore of dials to one address, or over one jump host.
func (c *Client) gate(name string) chan struct{} {
	c.mu.Lock()
	defer c.mu.Unlock()
	g := c.gates[name]
	if g == nil {
		g = make(chan struct{}, c.o.DialsPerHost)
		c.gates[name] = g
	}
	return g
}
