// Package wsx is the road that is normally taken: WebSocket connections between
// wrappers and the server, with their acknowledgements, deadlines and
// reconnects, and a plain message connection for the API's /ws. It knows no
// jobs, no disks, no processes and no policy.
package wsx

import (
	"context"
	"crypto/tls"
	"errors"
	"log/slog"
	"net"
	"net/http"
	"time"

	"saltpeter/wsx/wire"
)

// STUB: signatures fixed, bodies to be built, file to be replaced by real ones.

// Conn is a message connection, either side of it. One goroutine reads; any
// number may write.
type Conn struct{}

// Kind of a message.
type Kind int

const (
	Text   Kind = 1
	Binary Kind = 2
)

func (c *Conn) Read() (Kind, []byte, error)     { panic("stub") } // the slice is valid until the next Read
func (c *Conn) Write(k Kind, data []byte) error { panic("stub") } // with a write deadline
func (c *Conn) Send(m *wire.Message) error      { panic("stub") }
func (c *Conn) Close(reason string) error       { panic("stub") } // close frame (best effort), then the socket; idempotent
func (c *Conn) Remote() string                  { panic("stub") } // address of the other side
func (c *Conn) Idle() time.Duration             { panic("stub") } // since the last frame or pong of the other side

// DialOptions say which server a wrapper dials.
type DialOptions struct {
	URL     string // ws:// or wss://
	Pin     string // hex SHA-256 of the server's SubjectPublicKeyInfo; "" = system CAs
	Timeout time.Duration
	Agent   string // User-Agent
}

// ErrUnauthorized: the server answered 401. Try again later, never give up
// reporting for it.
var ErrUnauthorized = errors.New("the server does not know this token (401)")

func Dial(ctx context.Context, o DialOptions) (*Conn, error) { panic("stub") }

// FetchOrder gets the order of a wrapper that was started with SP_ORDER=fetch:
// GET URL/order with the nonce in a header, retried until ctx ends.
func FetchOrder(ctx context.Context, o DialOptions, nonce string) ([]byte, error) { panic("stub") }

// Output is what a Link sends from: the wrapper's spool. Offsets count the bytes
// of the task's output from its beginning.
type Output interface {
	// ReadAt copies bytes of one stream from offset on. n == 0 with a nil error
	// means that there is nothing new yet. Where the spool had to drop bytes it
	// returns the replacement that it recorded there.
	ReadAt(p []byte, offset int64) (n int, stream byte, err error)
	// Length is the number of bytes so far.
	Length() int64
	// Changed returns a channel that gets a value after Length has grown.
	Changed() <-chan struct{}
	// Acked tells that the server has stored everything below offset.
	Acked(offset int64)
}

// LinkOptions of the wrapper's end of the road.
type LinkOptions struct {
	Dial DialOptions
	// Connect makes the connect message of a new connection. If it returns
	// more messages (start, a pending report), they follow it at once.
	Connect func() []*wire.Message
	Output  Output
	// OnMessage gets every message that is not the Link's own business (which
	// are acks of connect and output, nack, sync_response). One goroutine.
	OnMessage func(m *wire.Message)
	// OnUp is told the features in force once connect is acked; OnDown why the
	// connection ended.
	OnUp   func(features []string)
	OnDown func(err error)
	// TextInterval is how often output is sent to a server without the bytes
	// feature; 0 = 1 s.
	TextInterval time.Duration
	// Base fills in job_name, job_instance and machine of every message.
	Base wire.Message
	Log  *slog.Logger
}

// Link keeps a wrapper connected: it dials, reconnects with backoff and jitter
// (100 ms up to 5 s; 401 up to 60 s), pings, sends output from the last
// acknowledged byte on (binary frames up to 256 KiB, at most 4 MiB
// unacknowledged; JSON with seq where the server has no bytes feature), and
// hands everything else to its owner.
type Link struct{}

func NewLink(o LinkOptions) *Link { panic("stub") }

// Run keeps the link up until ctx ends. It returns after its goroutines have.
func (l *Link) Run(ctx context.Context) { panic("stub") }

// Send writes m if the connection is up (connect acked) and reports whether it
// was written. Base and timestamp are filled in.
func (l *Link) Send(m *wire.Message) bool { panic("stub") }

// Up reports the features in force, nil while there is no connection.
func (l *Link) Up() []string { panic("stub") }

// AckedOffset is how much output the server has confirmed; AckedAll waits until
// that reaches the offset or ctx ends.
func (l *Link) AckedOffset() int64                               { panic("stub") }
func (l *Link) AckedAll(ctx context.Context, offset int64) error { panic("stub") }

// NextSeq is the sequence number that a complete must carry on a connection
// without the bytes feature.
func (l *Link) NextSeq() int64 { panic("stub") }

// Claim is what a connection shows of itself before it is let in.
type Claim struct {
	Token    string
	RunToken bool // …/run/TOKEN rather than …/task/TOKEN
	Remote   string
	TLS      bool
}

// ErrUnknownToken makes the listener answer 401.
var ErrUnknownToken = errors.New("unknown token")

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
	// Closed is called once at the end.
	Closed(err error)
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
type Server struct{}

func NewServer(o ServerOptions) *Server              { panic("stub") }
func (s *Server) Serve(ln net.Listener) error        { panic("stub") } // until Shutdown: nil
func (s *Server) Shutdown(ctx context.Context) error { panic("stub") } // closes listener and connections, waits for sessions

// Upgrade turns an API request into a plain message connection (for /ws).
// The caller has checked the Origin.
func Upgrade(w http.ResponseWriter, r *http.Request) (*Conn, error) { panic("stub") }

// SniffTLS lets plain and TLS clients share a listener: the first byte decides,
// looked at lazily in the first Read under a deadline. ConnContext carries "is
// TLS" for IsTLS.
func SniffTLS(ln net.Listener, c *tls.Config) net.Listener        { panic("stub") }
func ConnContext(ctx context.Context, c net.Conn) context.Context { panic("stub") }
func IsTLS(ctx context.Context) bool                              { panic("stub") }

// NewCertificate makes a self-signed certificate (ECDSA P-256) and its key, in
// PEM. PinOf is the hex SHA-256 of a certificate's public key.
func NewCertificate(names []string, now time.Time) (certPEM, keyPEM []byte, err error) { panic("stub") }
func PinOf(c tls.Certificate) (string, error)                                          { panic("stub") }
