package wsx

import "time"

// sweepLeast keeps the sweeper from spinning on a connection that is just about
// to be given up.
const sweepLeast = 5 * time.Millisecond

// sweep pings every connection and closes the silent ones, from one goroutine:
// one per connection would cost as much as the connection itself.
func (s *Server) sweep() {
	every := s.o.Silence / 15
	t := time.NewTimer(every)
	defer t.Stop()
	var conns []*Conn // reused
	for {
		select {
		case <-s.stop:
			return
		case <-t.C:
		}
		s.mu.Lock()
		conns = conns[:0]
		for c := range s.conns {
			conns = append(conns, c)
		}
		s.mu.Unlock()
		next := every
		for _, c := range conns {
			next = min(next, s.look(c))
		}
		clear(conns)
		t.Reset(max(next, sweepLeast))
	}
}

// look closes or pings one connection, and says when it would have to be closed.
// A ping is due when nothing came for a while, and also when nothing went: the
// other side must hear something too, even while its own output is slow to get
// through.
func (s *Server) look(c *Conn) time.Duration {
	idle, interval := c.Idle(), s.o.Silence/3
	if idle >= s.o.Silence {
		c.abort(errSilent)
		return s.o.Silence
	}
	if c.quiet() >= interval || idle >= interval {
		if err := c.tryPing(); err != nil {
			c.unwritable(err)
		}
	}
	return s.o.Silence - idle
}
