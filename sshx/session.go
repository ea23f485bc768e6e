package sshx

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
	"time"

	"golang.org/x/crypto/ssh"
)

// Command is one exec. Line goes to the login shell as it is: make it with Quote.
type Command struct {
	Line   string
	Stdin  io.Reader // nil = empty; one that blocks is left to its Read when the command ends
	Stdout io.Writer // nil = thrown away
	Stderr io.Writer // nil = thrown away; never the same buffer as Stdout, two goroutines write
	// Drain is how long output is awaited once the command has ended, where something
	// that it left behind holds its output open. 0 = until that ends too, as ssh does.
	Drain time.Duration
}

// Exit is how a command ended.
type Exit struct {
	Code   int    // -1 where a signal ended it, or the far side told neither
	Signal string // without SIG; "" where none was told
}

// Session is a command that is talked with. Stdout and Stderr must both be read
// by whoever waits for its end. What is written to Stdin after the end is lost.
type Session struct {
	Stdin          io.WriteCloser
	Stdout, Stderr io.Reader

	p       *place
	cn      *conn
	ch      ssh.Channel
	closing sync.Once
	told    chan struct{} // closed when the far side has told how it ended
	over    chan struct{} // closed when the channel has ended; exit is fixed then
	exit    Exit
	outs    []*io.PipeReader // of Start
}

// Run runs one command on a target: "[user@]host[:port]" or a Host of ssh_config.
// Without an error it ran, and Exit says how it ended. When ctx ends the session
// is closed (the command may go on) and the error says so; the writers are not
// used any more when Run returns, so one that blocks keeps it.
func (c *Client) Run(ctx context.Context, target string, cmd Command) (Exit, error) {
	leave, err := c.enter()
	if err != nil {
		return Exit{Code: -1}, &Error{Target: target, Stage: StageConnect, Err: err}
	}
	defer leave()
	s, e := c.open(ctx, target, cmd.Line)
	if e != nil {
		return Exit{Code: -1}, e
	}
	go func() { // not waited for: nobody can end a Read of the caller's
		if cmd.Stdin != nil {
			io.Copy(s.ch, cmd.Stdin)
		}
		s.ch.CloseWrite()
	}()
	out, errs := &guard{w: cmd.Stdout}, &guard{w: cmd.Stderr}
	var copies sync.WaitGroup
	done := make(chan struct{})
	for _, pump := range []struct {
		g *guard
		r io.Reader
	}{{out, s.ch}, {errs, s.ch.Stderr()}} {
		copies.Add(1)
		c.spawn(func() { defer copies.Done(); io.Copy(pump.g, pump.r) })
	}
	c.spawn(func() { copies.Wait(); <-s.over; close(done) })
	exit, e := s.await(ctx, done, cmd.Drain)
	// From here on the caller's writers are its own again.
	for _, g := range []*guard{out, errs} {
		if err := g.shut(); err != nil && e == nil {
			e = s.p.fail(StageCommand, nil, fmt.Errorf("its output cannot be written: %w", err))
			e.Sent = true
		}
	}
	if e != nil {
		return exit, e
	}
	return exit, nil
}

// await waits for the end of a command and of its output.
func (s *Session) await(ctx context.Context, done <-chan struct{}, drain time.Duration) (Exit, *Error) {
	told := s.told
	var enough <-chan time.Time
	for {
		select {
		case <-done:
			return s.end()
		case <-told:
			told = nil
			if drain > 0 {
				t := time.NewTimer(drain)
				defer t.Stop()
				enough = t.C
			}
		case <-enough:
			s.Close()
			return s.exit, nil
		case <-ctx.Done():
			s.Close()
			e := s.p.fail(StageCommand, nil, fmt.Errorf("the wait for it is over, it may go on: %w", context.Cause(ctx)))
			e.Sent = true
			if s.isTold() {
				return s.exit, e
			}
			return Exit{Code: -1}, e
		}
	}
}

// end is what a channel that has ended tells. Where the connection was cut the end
// of the output is missing, perhaps, and so may be the command's own.
func (s *Session) end() (Exit, *Error) {
	lost := s.cn.isOver()
	if !lost && !s.isTold() {
		// Closed, and no word: either the far side told none, or it is the connection
		// that ends, which a question brings to light.
		_, _, err := s.cn.client.SendRequest("keepalive@openssh.com", true, nil)
		lost = err != nil
	}
	if !lost {
		return s.exit, nil
	}
	e := s.p.fail(StageCommand, nil, fmt.Errorf("the connection was lost: %w", s.cn.why()))
	e.Sent = true
	return s.exit, e
}

func (s *Session) isTold() bool {
	select {
	case <-s.told:
		return true
	default:
		return false
	}
}

// Start is Run for those who talk with the command: they read until they have what
// they want, then Close lets go of the session without waiting for its end. When
// ctx ends, the session is closed too.
func (c *Client) Start(ctx context.Context, target, line string) (*Session, error) {
	leave, err := c.enter()
	if err != nil {
		return nil, &Error{Target: target, Stage: StageConnect, Err: err}
	}
	defer leave()
	s, e := c.open(ctx, target, line)
	if e != nil {
		return nil, e
	}
	s.Stdin = input{s.ch}
	var pumps sync.WaitGroup
	for _, r := range []io.Reader{s.ch, s.ch.Stderr()} {
		pr, pw := io.Pipe()
		s.outs = append(s.outs, pr)
		pumps.Add(1)
		c.spawn(func() {
			defer pumps.Done()
			_, err := io.Copy(pw, r)
			pw.CloseWithError(err)
		})
	}
	s.Stdout, s.Stderr = s.outs[0], s.outs[1]
	stop := context.AfterFunc(ctx, func() { s.Close() })
	unread := context.AfterFunc(c.ctx, func() { s.Close() }) // nobody may read any more when the client is closed
	c.spawn(func() { <-s.over; stop(); pumps.Wait(); unread() })
	return s, nil
}

type input struct{ ch ssh.Channel }

func (i input) Write(p []byte) (int, error) { return i.ch.Write(p) }
func (i input) Close() error                { return i.ch.CloseWrite() }

// Wait waits for the command's end. After Close it tells what was known by then.
func (s *Session) Wait() (Exit, error) {
	<-s.over
	if exit, e := s.end(); e != nil {
		return exit, e
	} else {
		return exit, nil
	}
}

// Close lets go of the session; the command may go on. Reads end at once.
func (s *Session) Close() error {
	s.closing.Do(func() {
		for _, r := range s.outs {
			r.CloseWithError(errLetGo)
		}
		// What is written to a connection whose far side is silent may hang.
		go s.ch.Close()
	})
	return nil
}

var errLetGo = errors.New("the session was closed")

// watch follows the session to its end. It alone writes exit.
func (s *Session) watch(c *Client, reqs <-chan *ssh.Request) {
	told := sync.OnceFunc(func() { close(s.told) })
	for req := range reqs {
		switch req.Type {
		case "exit-status":
			var m struct{ Code uint32 }
			if ssh.Unmarshal(req.Payload, &m) == nil && !s.isTold() {
				s.exit = Exit{Code: int(m.Code)}
				told()
			}
		case "exit-signal":
			var m struct {
				Signal     string
				Core       bool
				Text, Lang string
			}
			if ssh.Unmarshal(req.Payload, &m) == nil && !s.isTold() {
				s.exit = Exit{Code: -1, Signal: m.Signal}
				told()
			}
		}
		if req.WantReply {
			req.Reply(false, nil)
		}
	}
	close(s.over)
	c.mu.Lock()
	s.cn.accepted--
	c.mu.Unlock()
	c.giveBack(s.cn, false)
}

// guard keeps a caller's writer until it is shut; what comes later is thrown away,
// and so is everything after an error, so that the far side is not held up.
type guard struct {
	mu   sync.Mutex
	w    io.Writer
	done bool
	err  error
}

func (g *guard) Write(p []byte) (int, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.w != nil && !g.done && g.err == nil {
		_, g.err = g.w.Write(p)
	}
	return len(p), nil
}

func (g *guard) shut() error {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.done = true
	return g.err
}
