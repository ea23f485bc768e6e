package launch

import (
	"bytes"
	"fmt"
	"os"
	"sync"
	"time"
)

const (
	// spareKept is how long a spare wrapper waits for a start that never comes.
	spareKept = 10 * time.Minute
	// spareAfter lets the command that was just started go first: a program's start
	// costs more than all that is left to do for it.
	spareAfter = 5 * time.Millisecond
)

// spares keeps one wrapper started ahead. Most of what passes between a firing and
// the command's first instruction is the start of the wrapper's own program; one
// that already waits for its order on standard input saves that. It is kept only
// while this machine starts tasks at all: from a start on, for spareKept.
//
// A spare has no order, so it is nobody's task and nothing is lost with it. It ends
// by itself when its standard input does, which the server's death is as well.
type spares struct {
	spawn func() (*child, *pipes, error)
	end   func(*child)

	mu     sync.Mutex
	closed bool
	busy   bool // one is being started
	c      *child
	p      *pipes
	idle   *time.Timer
	wg     sync.WaitGroup
}

// take returns the spare, which the caller then owns; nil if there is none.
func (s *spares) take() (*child, *pipes) {
	s.mu.Lock()
	defer s.mu.Unlock()
	c, p := s.c, s.p
	s.c, s.p = nil, nil
	if c == nil {
		return nil, nil
	}
	s.idle.Stop()
	select {
	case <-c.done: // somebody ended it
		p.close()
		return nil, nil
	default:
	}
	if stopped(c.pid) { // it would keep the order, and the task, waiting
		s.dismiss(c, p)
		return nil, nil
	}
	return c, p
}

// stopped reports whether a signal, or a tracer, has stopped a process.
func stopped(pid int) bool {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return false
	}
	_, rest, _ := bytes.Cut(stat, []byte(") "))
	return len(rest) > 0 && (rest[0] == 'T' || rest[0] == 't')
}

// refill starts a spare if there is none, without the caller waiting for it. Where
// that fails the next start does without, and tells why if it fails as well.
func (s *spares) refill() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed || s.busy {
		return
	}
	if s.c != nil {
		s.idle.Reset(spareKept)
		return
	}
	s.busy = true
	s.wg.Go(func() {
		time.Sleep(spareAfter)
		c, p, err := s.spawn()
		s.mu.Lock()
		defer s.mu.Unlock()
		s.busy = false
		switch {
		case err != nil:
		case s.closed:
			s.dismiss(c, p)
		default:
			s.c, s.p = c, p
			s.idle = time.AfterFunc(spareKept, func() { s.drop(c) })
		}
	})
}

// drop dismisses the spare if it is still this one.
func (s *spares) drop(c *child) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.c == c {
		s.dismiss(s.c, s.p)
		s.c, s.p = nil, nil
	}
}

// dismiss ends a spare: there is nothing that it could have begun.
func (s *spares) dismiss(c *child, p *pipes) {
	p.close()
	s.end(c)
}

// close dismisses the spare and waits for its end.
func (s *spares) close() {
	s.mu.Lock()
	s.closed = true
	s.mu.Unlock()
	s.wg.Wait()
	s.mu.Lock()
	c := s.c
	s.mu.Unlock()
	if c == nil {
		return
	}
	s.idle.Stop()
	s.drop(c)
	wait := time.NewTimer(settle)
	defer wait.Stop()
	select {
	case <-c.done:
	case <-wait.C:
	}
}
