package sshx

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"golang.org/x/crypto/ssh"
)

// openTries bounds how many connections are tried for one session.
const openTries = 12

// open finds a connection, opens a session on it and starts the command.
func (c *Client) open(ctx context.Context, target, line string) (*Session, *Error) {
	p, err := c.resolve(target)
	if err != nil {
		var e *Error
		errors.As(err, &e)
		return nil, e
	}
	if strings.ContainsRune(line, 0) {
		return nil, p.fail(StageCommand, nil, errors.New("a command line cannot hold a NUL"))
	}
	for try := 1; ; try++ {
		cn, e := c.acquire(ctx, p, false)
		if e != nil {
			return nil, e
		}
		s, e, again := c.session(ctx, p, cn)
		if e == nil {
			return s, s.exec(ctx, line)
		}
		if !again || try == openTries || ctx.Err() != nil {
			return nil, e
		}
		c.log.Debug("no session; trying another connection", "machine", target, "err", e)
	}
}

// session opens a session on a connection where it has a place. The place is given
// back when the far side has closed the session, not before: sshd counts it until
// then. On a connection that was silent for a while the answer is awaited for a
// moment only: it may have been cut, and a new one tells sooner than the keepalive.
func (c *Client) session(ctx context.Context, p *place, cn *conn) (s *Session, e *Error, again bool) {
	type opened struct {
		ch   ssh.Channel
		reqs <-chan *ssh.Request
		err  error
	}
	result := make(chan opened)
	gone := make(chan struct{})
	c.spawn(func() {
		ch, reqs, err := cn.client.OpenChannel("session", nil)
		select {
		case result <- opened{ch, reqs, err}:
		case <-gone:
			if err == nil {
				ch.Close()
				for req := range reqs {
					req.Reply(false, nil)
				}
			}
			c.giveBack(cn, false)
		}
	})
	var late <-chan time.Time
	fresh := time.Since(time.Unix(0, cn.wire.heard.Load())) < time.Second
	if !fresh {
		t := time.NewTimer(c.patience)
		defer t.Stop()
		late = t.C
	}
	slow := time.NewTimer(c.o.HandshakeTimeout)
	defer slow.Stop()
	select {
	case r := <-result:
		if r.err != nil {
			return c.refused(p, cn, r.err)
		}
		c.mu.Lock()
		cn.accepted++
		cn.opened++
		c.mu.Unlock()
		s := &Session{p: p, cn: cn, ch: r.ch, told: make(chan struct{}), over: make(chan struct{}), exit: Exit{Code: -1}}
		c.spawn(func() { s.watch(c, r.reqs) })
		return s, nil, false
	case <-ctx.Done():
		close(gone)
		return nil, p.expired(ctx, StageSession, "the far side does not answer"), false
	case <-late:
	case <-slow.C:
	}
	close(gone)
	cn.doubt()
	return nil, p.fail(StageSession, ErrUnreachable, errors.New("the far side does not answer on a connection that was there")), !fresh
}

// refused learns from a session that was not opened: how many the far side allows,
// or that the connection has ended.
func (c *Client) refused(p *place, cn *conn, err error) (*Session, *Error, bool) {
	defer c.giveBack(cn, false)
	var no *ssh.OpenChannelError
	if !errors.As(err, &no) { // nothing was asked of the command yet: a new connection may do
		return nil, p.fail(StageSession, ErrUnreachable, fmt.Errorf("the connection was lost: %w", err)), true
	}
	e := p.fail(StageSession, ErrRefused, fmt.Errorf("the far side refuses a session: %w", err))
	e.Hint = "look at MaxSessions in its sshd_config"
	c.mu.Lock()
	defer c.mu.Unlock()
	h := c.hosts[p.key]
	switch {
	case cn.opened == 0 && cn.sessions == 1: // ours alone, on a connection that never had another
		return nil, e, false
	case cn.accepted > 0 && h != nil:
		if cn.accepted < h.limit {
			h.limit = cn.accepted
			c.log.Warn("the far side allows fewer sessions on a connection; more connections are used", "machine", p.Target, "sessions", h.limit)
		}
	case cn.opened > 0: // it still counts those that were let go
		cn.full = true
	}
	return nil, e, true
}

// exec starts the command in an open session.
func (s *Session) exec(ctx context.Context, line string) *Error {
	type answer struct {
		ok  bool
		err error
	}
	result := make(chan answer, 1)
	s.cn.c.spawn(func() {
		ok, err := s.ch.SendRequest("exec", true, ssh.Marshal(struct{ Command string }{line}))
		result <- answer{ok, err}
	})
	select {
	case a := <-result:
		switch {
		case a.err == nil && a.ok:
			return nil
		case a.err == nil:
			s.Close()
			return s.p.fail(StageCommand, ErrRefused, errors.New("the far side refuses to run it"))
		}
		s.Close()
		e := s.p.fail(StageCommand, nil, fmt.Errorf("the connection was lost as the command was sent: %w", a.err))
		e.Sent = true
		return e
	case <-ctx.Done():
		s.Close()
		e := s.p.fail(StageCommand, nil, fmt.Errorf("no answer to the command that was sent: %w", context.Cause(ctx)))
		e.Sent = true
		return e
	}
}
