package wsx

import (
	"context"
	"crypto/tls"
	"errors"
	"log/slog"
	"net"
	"net/http"
	"sync"
	"time"

	"github.com/gorilla/websocket"

	"saltpeter/wsx/wire"
)

const (
	headerWait  = 10 * time.Second // until a request's header must be there
	answerWait  = 30 * time.Second // for an answer that is not an upgrade
	headerBytes = 16 << 10
	silence     = 15 * time.Second
)

// Claim is what a connection shows of itself before it is let in.
type Claim struct {
	Token    string // "" for a wrapper that another server started, without one
	RunToken bool   // …/run/TOKEN rather than …/task/TOKEN
	Remote   string
	TLS      bool
	// Machine is the name that a wrapper gives for itself when it fetches an
	// order with a run's token; "" otherwise.
	Machine string
}

// ErrUnknownToken makes the listener answer 401.
var ErrUnknownToken = errors.New("unknown token")

// ErrNoRoom makes the listener answer 503 without a line in the log: there may be many
// of them, and the handler says so in its own way.
var ErrNoRoom = errors.New("no room")

// Handler is what stands behind the machines listener.
type Handler interface {
	// Connect is asked before the upgrade. ErrUnknownToken: 401; any other
	// error: 503. The session gets the connection's frames.
	Connect(ctx context.Context, c Claim) (Session, error)
	// Order returns the order of the task that the token names, bound to nonce.
	// ErrUnknownToken: 401; ErrOtherNonce: 409.
	Order(ctx context.Context, c Claim, nonce string) ([]byte, error)
}

// ErrOtherNonce: somebody else has fetched this order.
var ErrOtherNonce = errors.New("the order was fetched by another start")

// Session receives one connection's frames, in their order, from one goroutine.
// An error that a method returns closes the connection.
type Session interface {
	// Open is called once, after the upgrade.
	Open(c *Conn)
	// Message gets every text frame that could be read.
	Message(m *wire.Message) error
	// Output gets every binary frame; data is valid only during the call.
	Output(offset int64, stream byte, data []byte) error
	// Closed is called once at the end; without Open before it if the client
	// was gone before the upgrade was done.
	Closed(err error)
}

// Strict is a Session that hears also of text frames that cannot be read. An error ends
// the connection; without one they are ignored, as those of every other session are.
type Strict interface {
	Unreadable(err error) error
}

// ServerOptions of the machines listener.
type ServerOptions struct {
	Handler Handler
	TLS     *tls.Config // nil: plain only. Plain and TLS share the port.
	Log     *slog.Logger
	// Silence is how long a connection may be without any frame or pong before
	// it is closed; 0 = 15 s. Pings go out three times as often, from one
	// goroutine for all connections.
	Silence time.Duration
}

// Server is the machines listener.
type Server struct {
	o    ServerOptions
	http *http.Server
	bufs buffers
	stop chan struct{}  // closed by Shutdown
	wg   sync.WaitGroup // requests, sessions and the sweeper

	mu       sync.Mutex
	conns    map[*Conn]struct{}
	sweeping bool
	closing  bool
	refused  int       // clients that got a 401 since that was last logged
	told     time.Time // when that was
}

// NewServer makes a machines listener; Serve opens it.
func NewServer(o ServerOptions) *Server {
	if o.Silence <= 0 {
		o.Silence = silence
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	s := &Server{o: o, stop: make(chan struct{}), conns: map[*Conn]struct{}{}}
	s.http = &http.Server{
		Handler:           http.HandlerFunc(s.serve),
		ReadHeaderTimeout: headerWait,
		ReadTimeout:       answerWait,
		WriteTimeout:      answerWait,
		IdleTimeout:       headerWait,
		MaxHeaderBytes:    headerBytes,
		ConnContext:       ConnContext,
		ErrorLog:          slog.NewLogLogger(o.Log.Handler(), slog.LevelDebug),
	}
	return s
}

// Serve takes connections from ln until Shutdown, then it returns nil.
func (s *Server) Serve(ln net.Listener) error {
	s.mu.Lock()
	if !s.sweeping && !s.closing {
		s.sweeping = true
		s.wg.Go(s.sweep)
	}
	s.mu.Unlock()
	err := s.http.Serve(SniffTLS(ln, s.o.TLS))
	if errors.Is(err, http.ErrServerClosed) {
		return nil
	}
	return err
}

// Shutdown closes the listener and every connection, and waits until all
// sessions have been told, or ctx ends.
func (s *Server) Shutdown(ctx context.Context) error {
	s.mu.Lock()
	if !s.closing {
		s.closing = true
		close(s.stop)
	}
	for c := range s.conns {
		// Each in its own goroutine: a stuck one takes a second to say goodbye to.
		s.wg.Go(func() {
			c.finish(websocket.CloseGoingAway, "the server is going down", http.ErrServerClosed)
		})
	}
	s.mu.Unlock()
	err := s.http.Close()
	done := make(chan struct{})
	go func() {
		s.wg.Wait()
		close(done)
	}()
	select {
	case <-done:
		return err
	case <-ctx.Done():
		return ctx.Err()
	}
}

// begin reports whether something that Shutdown waits for may still start.
func (s *Server) begin() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closing {
		return false
	}
	s.wg.Add(1)
	return true
}

// serve answers one request. There is no mux: it would send clients of unclean
// paths elsewhere, with the token in the new address.
func (s *Server) serve(w http.ResponseWriter, r *http.Request) {
	if !s.begin() {
		refuse(w, http.StatusServiceUnavailable)
		return
	}
	defer s.wg.Done()
	token, run, order, ok := route(r.URL.Path)
	if !ok {
		refuse(w, http.StatusNotFound)
		return
	}
	if r.Method != http.MethodGet {
		w.Header().Set("Allow", http.MethodGet)
		refuse(w, http.StatusMethodNotAllowed)
		return
	}
	claim := Claim{Token: token, RunToken: run, Remote: r.RemoteAddr, TLS: IsTLS(r.Context())}
	if order {
		s.order(w, r, claim)
		return
	}
	if !websocket.IsWebSocketUpgrade(r) {
		refuse(w, http.StatusBadRequest)
		return
	}
	session, err := s.o.Handler.Connect(r.Context(), claim)
	if err != nil {
		s.turnAway(w, claim, err)
		return
	}
	ws, err := upgrade(w, r, &s.bufs, http.Header{headerOurs: {"1"}})
	if err != nil {
		session.Closed(err)
		return
	}
	c := newConn(ws, &s.bufs, maxServerText)
	c.ours = true
	s.start(c, session)
}

// start hands a connection to a goroutine of its own. The request's ends with
// it: its stack and its HTTP buffers are three times what a connection needs.
func (s *Server) start(c *Conn, session Session) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closing {
		c.abort(http.ErrServerClosed)
	} else {
		s.conns[c] = struct{}{}
	}
	s.wg.Go(func() { s.run(c, session) })
}

func (s *Server) run(c *Conn, session Session) {
	c.enter()
	session.Open(c)
	c.leave()
	err := s.frames(c, session)
	c.finish(websocket.ClosePolicyViolation, err.Error(), err)
	s.mu.Lock()
	delete(s.conns, c)
	s.mu.Unlock()
	session.Closed(err)
}

// frames hands on what arrives until there is no more.
func (s *Server) frames(c *Conn, session Session) error {
	unread := 0
	for {
		kind, data, err := c.Read()
		if err != nil {
			return err
		}
		c.enter()
		if kind == Text {
			var m *wire.Message
			if m, err = wire.Decode(data); err == nil {
				err = session.Message(m)
			} else {
				unread++
				err = s.unreadable(c, session, err, unread)
			}
		} else {
			err = output(session, data)
		}
		c.leave()
		if err != nil {
			return err
		}
	}
}

// unreadable takes a text frame that is none.
func (s *Server) unreadable(c *Conn, session Session, err error, count int) error {
	if strict, is := session.(Strict); is {
		if err := strict.Unreadable(err); err != nil {
			return err
		}
	}
	if count == 1 {
		s.o.Log.Warn("cannot read a frame: it is ignored, and so are others like it", "remote", c.Remote(), "err", err)
	}
	return nil
}

func output(session Session, frame []byte) error {
	offset, stream, data, err := wire.ParseOutput(frame)
	if err != nil {
		return err
	}
	return session.Output(offset, stream, data)
}
