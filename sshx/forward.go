package sshx

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"strings"
	"sync"
)

// listener is a port on the far side, with the pin that holds its connection.
type listener struct {
	net.Listener
	c    *Client
	p    *place
	cn   *conn
	once sync.Once
}

// Listen has the far side listen on an address ("127.0.0.1:0") and hands over what
// connects there. It holds its connection; Accept fails when that drops.
func (c *Client) Listen(ctx context.Context, target, addr string) (net.Listener, error) {
	leave, err := c.enter()
	if err != nil {
		return nil, &Error{Target: target, Stage: StageConnect, Err: err}
	}
	defer leave()
	p, err := c.resolve(target)
	if err != nil {
		return nil, err
	}
	cn, e := c.acquire(ctx, p, true)
	if e != nil {
		return nil, e
	}
	type result struct {
		ln  net.Listener
		err error
	}
	got := make(chan result)
	c.spawn(func() {
		ln, err := cn.client.Listen("tcp", addr)
		select {
		case got <- result{ln, err}:
		case <-ctx.Done():
			if err == nil {
				ln.Close()
			}
			c.unpin(cn)
		}
	})
	select {
	case r := <-got:
		if r.err == nil {
			return &listener{Listener: r.ln, c: c, p: p, cn: cn}, nil
		}
		e := p.fail(StageSession, ErrRefused, fmt.Errorf("it does not listen on %s for us: %w", addr, r.err))
		e.Hint = "allow it there: AllowTcpForwarding and PermitListen in sshd_config, no restrict in authorized_keys; the port may also be taken"
		if cn.isOver() {
			e = p.fail(StageSession, ErrUnreachable, fmt.Errorf("the connection was lost: %w", r.err))
		}
		c.unpin(cn)
		return nil, e
	case <-ctx.Done():
		return nil, p.expired(ctx, StageSession, "the far side does not answer")
	}
}

func (l *listener) Accept() (net.Conn, error) {
	conn, err := l.Listener.Accept()
	if err != nil && l.cn.isOver() {
		return nil, l.p.fail(StageSession, ErrUnreachable, fmt.Errorf("the connection was lost: %w", l.cn.why()))
	}
	return conn, err
}

// Close does not wait for the far side, which may be silent.
func (l *listener) Close() error {
	l.once.Do(func() {
		leave, err := l.c.enter()
		if err != nil { // closed, and all connections with it
			l.c.unpin(l.cn)
			return
		}
		defer leave()
		l.c.spawn(func() {
			l.Listener.Close()
			l.c.unpin(l.cn)
		})
	})
	return nil
}

// LocalAddr is the address by which the far side sees this machine, without a
// port: what it tells in SSH_CONNECTION. Where it tells nothing, and is dialled
// directly, it is our end of the connection.
func (c *Client) LocalAddr(ctx context.Context, target string) (string, error) {
	var out bytes.Buffer
	if _, err := c.Run(ctx, target, Command{Line: "env", Stdout: &out}); err != nil {
		var e *Error
		if !errors.As(err, &e) || e.Kind != ErrRefused {
			return "", err
		}
	}
	for line := range strings.Lines(out.String()) {
		if value, ok := strings.CutPrefix(line, "SSH_CONNECTION="); ok {
			if fields := strings.Fields(value); len(fields) == 4 {
				return fields[0], nil
			}
		}
	}
	leave, err := c.enter()
	if err != nil {
		return "", &Error{Target: target, Stage: StageConnect, Err: err}
	}
	defer leave()
	p, err := c.resolve(target)
	if err != nil {
		return "", err
	}
	if p.jump != nil {
		return "", p.fail(StageSession, nil, errors.New("it does not tell SSH_CONNECTION, and lies behind a jump host"))
	}
	cn, e := c.acquire(ctx, p, true)
	if e != nil {
		return "", e
	}
	defer c.unpin(cn)
	addr, _, err := net.SplitHostPort(cn.wire.LocalAddr().String())
	return addr, err
}
