package sshx

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/crypto/ssh"
)

// dialTries is how often a handshake is tried that the far side cut off: sshd does
// that to strangers beyond MaxStartups, at random.
const dialTries = 7

// dial makes one connection, through the gates of its destination and of its jump
// host.
func (c *Client) dial(ctx context.Context, p *place) (*conn, *Error) {
	// The same address over another jump host is another machine. Gates are taken on
	// the way from the target towards us, so nobody waits for who waits for him.
	gates := []chan struct{}{c.gate("to " + p.Addr())}
	if p.jump != nil {
		gates = []chan struct{}{c.gate("to " + p.Addr() + " over " + p.jump.key), c.gate("over " + p.jump.key)}
	}
	for _, g := range gates {
		select {
		case g <- struct{}{}:
			defer func() { <-g }()
		case <-ctx.Done():
			return nil, p.fail(StageConnect, nil, fmt.Errorf("other dials to it come first: %w", context.Cause(ctx)))
		}
	}
	for try := 1; ; try++ {
		cn, e, again := c.attempt(ctx, p)
		if e == nil || !again || try == dialTries || ctx.Err() != nil {
			if e != nil && try > 1 {
				e.Err = fmt.Errorf("%w (%d tries)", e.Err, try)
			}
			return cn, e
		}
		pause := c.pause << min(try-1, 4)
		pause = pause/2 + rand.N(pause)
		c.log.Debug("the far side cut the handshake; trying again", "machine", p.Target, "try", try, "err", e)
		select {
		case <-time.After(pause):
		case <-ctx.Done():
			return nil, e
		}
	}
}

func (p *place) fail(stage string, kind, err error) *Error {
	return &Error{Target: p.Target, User: p.User, Addr: p.Addr(), Stage: stage, Kind: kind, Err: err}
}

// expired makes the error of a context: an elapsed deadline is the far side's
// silence, a cancel is the caller's wish.
func (p *place) expired(ctx context.Context, stage, doing string) *Error {
	err := context.Cause(ctx)
	if errors.Is(err, context.DeadlineExceeded) {
		return p.fail(stage, ErrUnreachable, fmt.Errorf("%s: %w", doing, err))
	}
	return p.fail(stage, nil, err)
}

// wire is the connection below SSH: it remembers when it last heard something and
// that it was cut, before anybody above can see the consequences.
type wire struct {
	net.Conn
	heard atomic.Int64 // UnixNano of the last byte; 0 = none yet
	cut   atomic.Pointer[error]
	ours  atomic.Bool // we closed it: what Read says then is no news
	first func()      // called once, before the first byte is handed up
}

func (w *wire) Close() error {
	w.ours.Store(true)
	return w.Conn.Close()
}

func (w *wire) Read(p []byte) (int, error) {
	n, err := w.Conn.Read(p)
	if n > 0 {
		if w.heard.Swap(time.Now().UnixNano()) == 0 && w.first != nil {
			w.first()
		}
	}
	if err != nil && !w.ours.Load() {
		w.cut.CompareAndSwap(nil, &err)
	}
	return n, err
}

func (w *wire) cutBy() error {
	if err := w.cut.Load(); err != nil {
		return *err
	}
	return nil
}

func (w *wire) Write(p []byte) (int, error) {
	n, err := w.Conn.Write(p)
	if err != nil && !w.ours.Load() {
		w.cut.CompareAndSwap(nil, &err)
	}
	return n, err
}

// attempt connects and logs in once. again says that another try may succeed.
func (c *Client) attempt(ctx context.Context, p *place) (cn *conn, e *Error, again bool) {
	db, err := c.trust.load(p.KnownHosts)
	if err != nil {
		e := p.fail(StageHostKey, nil, err)
		e.Hint = "mend that line, or take it out"
		return nil, e, false
	}
	c.progress(p, "it does not take the connection")
	raw, jump, e, again := c.connect(ctx, p)
	if e != nil {
		return nil, e, again
	}
	c.progress(p, "it took the connection and has not spoken yet")
	ctx, cancel := context.WithTimeout(ctx, c.o.HandshakeTimeout)
	defer cancel()
	h := &handshake{p: p, wire: &wire{Conn: raw}, result: make(chan struct{})}
	c.spawn(func() { h.run(ctx, c, db) })
	select {
	case <-h.result:
		e, again = h.err, h.again
	case <-ctx.Done():
		// The handshake may hang in what no close can end at once (a jump host that is
		// silent itself): whoever waits for it is told now.
		e = h.silent(ctx, c.o.HandshakeTimeout)
	}
	if e != nil {
		c.spawn(func() {
			h.wire.Close()
			<-h.result
			if h.client != nil {
				h.client.Close()
			}
			if jump != nil {
				c.unpin(jump)
			}
		})
		return nil, e, again && ctx.Err() == nil
	}
	return c.adopt(p, h.client, h.wire, jump), nil, false
}

// handshake is one login. Its fields but stage belong to run until result is
// closed.
type handshake struct {
	p      *place
	wire   *wire
	stage  atomic.Int32 // 0 until the host key has been seen, then 1, then 2 while logging in
	result chan struct{}
	client *ssh.Client
	err    *Error
	again  bool
}

func (h *handshake) run(ctx context.Context, c *Client, db hostKeys) {
	defer close(h.result)
	p, ring := h.p, &keyring{}
	defer ring.close()
	stop := context.AfterFunc(ctx, func() { h.wire.Close() })
	defer stop()
	slot := false
	h.wire.first = func() { // the far side speaks: from here on it costs both of us
		c.progress(p, "the handshake is not finished")
		select {
		case c.slots <- struct{}{}:
			slot = true
		case <-ctx.Done():
		}
	}
	var verdict *Error
	config := &ssh.ClientConfig{
		User:              p.User,
		HostKeyAlgorithms: algorithms(db, p.HostKeyName),
		HostKeyCallback: func(name string, remote net.Addr, key ssh.PublicKey) error {
			h.stage.CompareAndSwap(0, 1)
			e := p.check(db, name, remote, key)
			if p.peek != nil {
				select {
				case p.peek <- peeked{key, e}:
				default:
				}
				return errSeen
			}
			if e != nil {
				verdict = e
				return e
			}
			if h.stage.CompareAndSwap(1, 2) {
				c.progress(p, "the login is not finished")
			}
			return nil
		},
		Auth: []ssh.AuthMethod{ssh.PublicKeysCallback(func() ([]ssh.Signer, error) {
			ring.gather(ctx, p)
			return ring.signers, nil
		})},
	}
	conn, chans, reqs, err := ssh.NewClientConn(h.wire, p.HostKeyName, config)
	if slot {
		<-c.slots
	}
	if err == nil {
		h.client = ssh.NewClient(conn, chans, reqs)
		return
	}
	if verdict != nil {
		h.err = verdict
		return
	}
	h.judge(ctx, c.o.HandshakeTimeout, ring, err)
}

// judge tells what a failed handshake means.
func (h *handshake) judge(ctx context.Context, timeout time.Duration, ring *keyring, err error) {
	cut := h.wire.cutBy()
	if inner := errors.Unwrap(err); inner != nil {
		err = inner
	}
	switch login := h.stage.Load() == 2; {
	case ctx.Err() != nil:
		h.err = h.silent(ctx, timeout)
	case login && (cut == nil || errors.Is(cut, io.EOF)):
		hint, why := ring.refused(h.p)
		h.err = h.p.fail(StageLogin, ErrLogin, fmt.Errorf("%w (%w)", why, err))
		h.err.Hint = hint
	case login:
		h.err = h.p.fail(StageLogin, ErrUnreachable, err)
	case cut != nil && h.stage.Load() == 0:
		h.again = true
		h.err = h.p.fail(StageHandshake, ErrUnreachable, fmt.Errorf("the far side cut the connection: %w", err))
		h.err.Hint = "look into its log: sshd does so beyond MaxStartups, and to addresses that it penalises"
	default:
		h.err = h.p.fail(StageHandshake, ErrUnreachable, err)
	}
}

// silent is the error of a handshake whose time is over.
func (h *handshake) silent(ctx context.Context, timeout time.Duration) *Error {
	stage := StageHandshake
	text := fmt.Sprintf("the handshake was not finished within %v", timeout)
	switch {
	case h.wire.heard.Load() == 0:
		text = fmt.Sprintf("it took the connection and never spoke (waited %v at most)", timeout)
	case h.stage.Load() == 2:
		stage = StageLogin
		text = fmt.Sprintf("the login was not finished within %v", timeout)
	}
	return h.p.expired(ctx, stage, text)
}

// connect makes the connection below SSH: from here, or over a jump host, which
// is then pinned for it.
func (c *Client) connect(ctx context.Context, p *place) (net.Conn, *conn, *Error, bool) {
	if p.jump == nil {
		ctx, cancel := context.WithTimeout(ctx, c.o.ConnectTimeout)
		defer cancel()
		raw, err := c.tcp(ctx, p.Addr())
		if err == nil {
			return raw, nil, nil, false
		}
		return nil, nil, c.noConnection(ctx, p, err), errors.Is(err, syscall.ECONNRESET)
	}
	jump, e := c.acquire(ctx, p.jump, true)
	if e != nil {
		inner := *e
		inner.Hint = "" // the last thing that is read
		outer := p.fail(StageJump, e.Kind, &inner)
		outer.Hint = e.Hint
		return nil, nil, outer, false
	}
	ctx, cancel := context.WithTimeout(ctx, c.o.ConnectTimeout) // the jump host's login had its own
	defer cancel()
	raw, err := c.through(ctx, jump, p.Addr())
	if err == nil {
		return raw, jump, nil, false
	}
	dead := jump.isOver()
	if ctx.Err() != nil {
		jump.doubt()
	}
	c.unpin(jump)
	var refused *ssh.OpenChannelError
	where := p.jump.Target
	switch {
	case errors.As(err, &refused) && refused.Reason == ssh.Prohibited:
		e = p.fail(StageJump, ErrRefused, fmt.Errorf("the jump host %s does not forward to it: %w", where, err))
		e.Hint = "allow it there: AllowTcpForwarding and PermitOpen in sshd_config, permitopen in authorized_keys"
	case errors.As(err, &refused):
		e = p.fail(StageConnect, ErrUnreachable, fmt.Errorf("from the jump host %s: %w", where, err))
	case ctx.Err() != nil:
		e = p.expired(ctx, StageConnect, "no connection from the jump host "+where)
	default:
		e = p.fail(StageJump, ErrUnreachable, fmt.Errorf("the connection to the jump host %s was lost: %w", where, err))
	}
	return nil, nil, e, dead && ctx.Err() == nil
}

func (c *Client) noConnection(ctx context.Context, p *place, err error) *Error {
	if ctx.Err() != nil && !errors.Is(context.Cause(ctx), context.DeadlineExceeded) {
		return p.fail(StageConnect, nil, context.Cause(ctx))
	}
	stage := StageConnect
	var dns *net.DNSError
	if errors.As(err, &dns) {
		stage = StageResolve
	}
	e := p.fail(stage, ErrUnreachable, err)
	if errors.Is(err, syscall.ECONNREFUSED) {
		e.Hint = "see that sshd runs there and listens on that port"
	}
	return e
}

// through opens a connection from a jump host on.
func (c *Client) through(ctx context.Context, jump *conn, addr string) (net.Conn, error) {
	type dialed struct {
		conn net.Conn
		err  error
	}
	result := make(chan dialed)
	c.spawn(func() {
		conn, err := jump.client.Dial("tcp", addr)
		select {
		case result <- dialed{conn, err}:
		case <-ctx.Done():
			if err == nil {
				conn.Close()
			}
		}
	})
	select {
	case r := <-result:
		return r.conn, r.err
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
}
