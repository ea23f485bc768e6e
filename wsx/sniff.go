package wsx

import (
	"context"
	"crypto/tls"
	"net"
	"sync"
	"sync/atomic"
	"time"
)

// sniffWait is how long a client may take until its first byte, and again until
// the end of its TLS handshake.
const sniffWait = 10 * time.Second

// tlsHandshake is the first byte of every TLS connection; no HTTP method begins
// with it.
const tlsHandshake = 0x16

type connKey struct{}

// SniffTLS lets plain and TLS clients share a listener: the first byte decides,
// looked at lazily in the first Read under a deadline. Accept never waits for a
// client. Without a config the listener stays plain.
func SniffTLS(ln net.Listener, c *tls.Config) net.Listener {
	if c == nil {
		return ln
	}
	c = c.Clone()
	c.NextProtos = []string{"http/1.1"} // a WebSocket cannot be upgraded from HTTP/2 here
	if c.MinVersion == 0 {
		c.MinVersion = tls.VersionTLS12
	}
	return &sniffListener{Listener: ln, config: c}
}

// ConnContext carries "is TLS" for IsTLS; it is meant for http.Server. What the
// connection is becomes known with its first request, so the context holds the
// connection and not the answer.
func ConnContext(ctx context.Context, c net.Conn) context.Context {
	return context.WithValue(ctx, connKey{}, c)
}

// IsTLS reports whether a request's context belongs to a TLS connection.
func IsTLS(ctx context.Context) bool {
	switch c := ctx.Value(connKey{}).(type) {
	case *sniffConn:
		return c.tls.Load() != nil
	case *tls.Conn:
		return true
	}
	return false
}

type sniffListener struct {
	net.Listener
	config *tls.Config
}

func (l *sniffListener) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	return &sniffConn{Conn: c, config: l.config}, nil
}

// sniffConn is plain or TLS; until its first Read has returned nobody knows.
type sniffConn struct {
	net.Conn // the socket itself
	config   *tls.Config
	tls      atomic.Pointer[tls.Conn]
	plain    atomic.Bool

	mu       sync.Mutex
	deadline time.Time // for reading, as the owner set it
	limit    time.Time // while the first byte and the handshake are awaited
}

func (s *sniffConn) Read(p []byte) (int, error) {
	if s.plain.Load() {
		return s.Conn.Read(p)
	}
	if t := s.tls.Load(); t != nil {
		return t.Read(p)
	}
	if len(p) == 0 {
		return 0, nil
	}
	return s.first(p)
}

// first reads what comes first. If that is TLS, the handshake is done here too.
func (s *sniffConn) first(p []byte) (int, error) {
	s.bound(time.Now().Add(sniffWait))
	n, err := s.Conn.Read(p)
	if n == 0 {
		return 0, err
	}
	if p[0] != tlsHandshake {
		s.plain.Store(true)
		s.bound(time.Time{})
		return n, err
	}
	t := tls.Server(&replay{Conn: s.Conn, head: append([]byte(nil), p[:n]...)}, s.config)
	limit := time.Now().Add(sniffWait)
	s.bound(limit)
	s.Conn.SetWriteDeadline(limit)
	if err := t.Handshake(); err != nil {
		return 0, err
	}
	s.Conn.SetWriteDeadline(time.Time{})
	s.tls.Store(t)
	s.bound(time.Time{})
	return t.Read(p)
}

// bound sets the limit beside the owner's own deadline; zero takes it away.
func (s *sniffConn) bound(limit time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.limit = limit
	s.Conn.SetReadDeadline(earlier(s.deadline, limit))
}

func (s *sniffConn) SetReadDeadline(t time.Time) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.deadline = t
	return s.Conn.SetReadDeadline(earlier(t, s.limit))
}

func (s *sniffConn) SetDeadline(t time.Time) error {
	if err := s.SetReadDeadline(t); err != nil {
		return err
	}
	return s.SetWriteDeadline(t)
}

func (s *sniffConn) SetWriteDeadline(t time.Time) error {
	if c := s.tls.Load(); c != nil {
		return c.SetWriteDeadline(t)
	}
	return s.Conn.SetWriteDeadline(t)
}

func (s *sniffConn) Write(p []byte) (int, error) {
	if t := s.tls.Load(); t != nil {
		return t.Write(p)
	}
	return s.Conn.Write(p)
}

func (s *sniffConn) Close() error {
	if t := s.tls.Load(); t != nil {
		return t.Close()
	}
	return s.Conn.Close()
}

func earlier(a, b time.Time) time.Time {
	if a.IsZero() || (!b.IsZero() && b.Before(a)) {
		return b
	}
	return a
}

// replay gives TLS the bytes that were read before it was known to be TLS.
type replay struct {
	net.Conn
	head []byte
}

func (r *replay) Read(p []byte) (int, error) {
	if len(r.head) > 0 {
		n := copy(p, r.head)
		if r.head = r.head[n:]; len(r.head) == 0 {
			r.head = nil
		}
		return n, nil
	}
	return r.Conn.Read(p)
}
