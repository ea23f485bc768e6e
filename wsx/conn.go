package wsx

import (
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net/http"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
	"unicode/utf8"

	"github.com/gorilla/websocket"

	"saltpeter/wsx/wire"
)

const (
	// writeWait is how long a piece of a message may take to be written.
	writeWait = 10 * time.Second
	// closeWait is how long a close frame may take: it is a courtesy.
	closeWait = time.Second
	// pingWait is how long a server's ping may take. It must be short, since one
	// goroutine pings everybody, and long enough for a busy machine: a control
	// frame whose deadline passes breaks its connection.
	pingWait = 2 * time.Second

	// writePiece is how much of a message is written under one deadline, so that
	// a slow line is judged by its progress and not by the size of a message;
	// also the size of a client's write buffer (which also takes its share of the
	// output's header): 4 KB would cost a factor of 7.
	writePiece = 64 << 10
	// serverBuffer is what a server's connection reads with: large reads go past
	// it, so it costs no speed.
	serverBuffer = 512

	// The most that one message may hold. A first generation wrapper's complete
	// carries the task's whole output in one text message.
	maxText       = 4 << 20
	maxPlainText  = 1 << 20 // people's requests are names
	maxServerText = 64 << 20
	maxBinary     = 1<<20 + wire.OutputHeader
)

// ErrClosed is what Read's error wraps when the other side closed the
// connection by the book.
var ErrClosed = errors.New("the other side closed the connection")

// errSilent ends a connection of which nothing was heard for too long.
var errSilent = errors.New("nothing was heard of the other side for too long")

// Kind of a message.
type Kind int

const (
	Text   Kind = websocket.TextMessage
	Binary Kind = websocket.BinaryMessage
)

// Conn is a message connection, either side of it. One goroutine reads; any
// number may write.
type Conn struct {
	ws      *websocket.Conn
	bufs    *buffers
	born    time.Time // what the instants below are counted from, in nanoseconds
	maxText int64
	ours    bool // the server said in its upgrade that it is one of ours

	heard  atomic.Int64 // when the last bytes came
	said   atomic.Int64 // when the last bytes went
	busy   atomic.Bool  // the reader is with its owner: silence is ours, not theirs
	midway atomic.Bool  // a message has begun to come and is not all there
	closed atomic.Bool
	why    atomic.Pointer[error] // why this side ended the connection

	writing sync.Mutex // one message at a time; control frames go between its pieces
	rbuf    *[]byte    // the reader's
}

func newConn(ws *websocket.Conn, bufs *buffers, maxText int64) *Conn {
	c := &Conn{ws: ws, bufs: bufs, born: time.Now(), maxText: maxText}
	ws.SetReadLimit(max(maxText, maxBinary))
	ws.SetPongHandler(func(string) error {
		c.touch()
		return nil
	})
	ws.SetPingHandler(func(data string) error {
		c.touch()
		if err := c.pong(data); err != nil && !hungUp(err) {
			return err
		}
		return nil
	})
	return c
}

func (c *Conn) touch()                 { c.heard.Store(int64(time.Since(c.born))) }
func (c *Conn) wrote()                 { c.said.Store(int64(time.Since(c.born))) }
func (c *Conn) quiet() time.Duration   { return time.Since(c.born) - time.Duration(c.said.Load()) }
func (c *Conn) enter()                 { c.busy.Store(true) }
func (c *Conn) leave()                 { c.touch(); c.busy.Store(false) }
func (c *Conn) pong(data string) error { return c.control(websocket.PongMessage, data, writeWait) }

// Idle is how long nothing has come from the other side: neither a frame, nor a
// piece of one, nor a pong.
func (c *Conn) Idle() time.Duration {
	if c.busy.Load() {
		return 0
	}
	return time.Since(c.born) - time.Duration(c.heard.Load())
}

// Midway reports whether a message is on its way: it has begun to come, and is not all
// there. A large one may take a while.
func (c *Conn) Midway() bool { return c.midway.Load() }

// Remote is the address of the other side.
func (c *Conn) Remote() string { return c.ws.RemoteAddr().String() }

// Read waits for the next message. The slice is valid until the next Read. The
// first error is final.
func (c *Conn) Read() (Kind, []byte, error) {
	if c.rbuf != nil {
		c.bufs.put(c.rbuf)
		c.rbuf = nil
	}
	t, r, err := c.ws.NextReader()
	if err != nil {
		return 0, nil, c.readError(err)
	}
	c.touch()
	c.midway.Store(true)
	defer c.midway.Store(false)
	limit := int(c.maxText)
	if t == websocket.BinaryMessage {
		limit = maxBinary
	}
	buf, n := c.bufs.getSmall(), 0
	for {
		if n == len(*buf) {
			buf = c.bufs.grow(buf)
		}
		k, err := r.Read((*buf)[n:])
		n += k
		c.touch()
		if n > limit {
			c.finish(websocket.CloseMessageTooBig, "message too big", fmt.Errorf("cannot read: a message is larger than %d bytes", limit))
			return 0, nil, c.readError(websocket.ErrReadLimit)
		}
		if err == io.EOF {
			break
		}
		if err != nil {
			return 0, nil, c.readError(err)
		}
	}
	c.rbuf = buf
	return Kind(t), (*buf)[:n], nil
}

func (c *Conn) readError(err error) error {
	if why := c.why.Load(); why != nil {
		return *why
	}
	var ce *websocket.CloseError
	if errors.As(err, &ce) && ce.Code != websocket.CloseAbnormalClosure {
		if ce.Text == "" {
			return fmt.Errorf("%w (%d)", ErrClosed, ce.Code)
		}
		return fmt.Errorf("%w (%d): %s", ErrClosed, ce.Code, ce.Text)
	}
	return fmt.Errorf("cannot read: %w", err)
}

// Write writes one message; every 64 KiB of it has 10 s. After an error nothing more
// can be written, and the connection is closed; see unwritable.
func (c *Conn) Write(k Kind, data []byte) error {
	return c.turn(func() error { return c.write(k, data) })
}

// turn writes a message with f.
func (c *Conn) turn(f func() error) error {
	c.writing.Lock()
	defer c.writing.Unlock()
	if err := f(); err != nil {
		err = fmt.Errorf("cannot write: %w", err)
		c.unwritable(err)
		return err
	}
	c.wrote()
	return nil
}

func (c *Conn) write(k Kind, data []byte) error {
	if len(data) <= writePiece {
		c.ws.SetWriteDeadline(time.Now().Add(writeWait))
		return c.ws.WriteMessage(int(k), data)
	}
	c.ws.SetWriteDeadline(time.Now().Add(writeWait))
	w, err := c.ws.NextWriter(int(k))
	if err != nil {
		return err
	}
	return c.pieces(w, data)
}

// writeOutput writes an output frame. Nothing of data is copied where that can be.
func (c *Conn) writeOutput(offset int64, stream byte, data []byte) error {
	header := wire.AppendOutput(make([]byte, 0, wire.OutputHeader), offset, stream, nil)
	return c.turn(func() error {
		if local, ok := c.ws.NetConn().(*localConn); ok && len(data) >= wholeLeast {
			return local.send(c.ws, header, data)
		}
		c.ws.SetWriteDeadline(time.Now().Add(writeWait))
		w, err := c.ws.NextWriter(websocket.BinaryMessage)
		if err != nil {
			return err
		}
		if _, err := w.Write(header); err != nil {
			return err
		}
		return c.pieces(w, data)
	})
}

// pieces writes the rest of a message and ends it.
func (c *Conn) pieces(w io.WriteCloser, data []byte) error {
	for len(data) > 0 {
		n := min(writePiece, len(data))
		c.ws.SetWriteDeadline(time.Now().Add(writeWait))
		if _, err := w.Write(data[:n]); err != nil {
			return err
		}
		data = data[n:]
	}
	return w.Close()
}

// Send writes a message of the machines listener; an empty timestamp means now.
func (c *Conn) Send(m *wire.Message) error {
	if m.Timestamp == "" {
		stamped := *m
		stamped.Timestamp = wire.FormatTime(time.Now())
		m = &stamped
	}
	data, err := m.Encode()
	if err != nil {
		return fmt.Errorf("cannot write: %w", err)
	}
	return c.Write(Text, data)
}

// Ping asks the other side for a sign of life, which Idle shows.
func (c *Conn) Ping() error { return c.control(websocket.PingMessage, "", writeWait) }

// control writes a control frame between the pieces of messages. Not getting a
// turn in time is no error: then bytes are flowing or a write is about to fail.
func (c *Conn) control(kind int, data string, wait time.Duration) error {
	err := c.ws.WriteControl(kind, []byte(data), time.Now().Add(wait))
	var noTurn interface{ Temporary() bool } // a write that was begun and failed is not temporary
	switch {
	case err == nil:
		c.wrote()
		return nil
	case errors.Is(err, websocket.ErrCloseSent), errors.As(err, &noTurn) && noTurn.Temporary():
		return nil
	}
	return err
}

// tryPing is for the goroutine that pings everybody: it waits for no writer.
func (c *Conn) tryPing() error {
	if !c.writing.TryLock() {
		return nil
	}
	defer c.writing.Unlock()
	return c.control(websocket.PingMessage, "", pingWait)
}

// Close sends a close frame if that goes quickly, then closes the socket. It
// may be called more than once and from anywhere.
func (c *Conn) Close(reason string) error {
	c.finish(websocket.CloseNormalClosure, reason, errors.New("the connection was closed: "+reason))
	return nil
}

func (c *Conn) finish(code int, reason string, why error) {
	c.why.CompareAndSwap(nil, &why)
	if !c.closed.CompareAndSwap(false, true) {
		return
	}
	frame := websocket.FormatCloseMessage(code, clip(reason, 120))
	if c.ws.WriteControl(websocket.CloseMessage, frame, time.Now().Add(closeWait)) == nil {
		c.ws.Close()
		return
	}
	c.drop()
}

// abort closes the socket without a word: nobody is there to hear it.
func (c *Conn) abort(why error) {
	c.why.CompareAndSwap(nil, &why)
	c.closed.Store(true)
	c.drop()
}

// unwritable ends a connection that cannot be written to. If the other side has
// hung up, what it said before that may still lie here unread: the oldest wrappers
// tell how their job ended and close at once, and never say it again. The reader
// takes that and then comes to the end by itself.
func (c *Conn) unwritable(err error) {
	if !hungUp(err) {
		c.abort(err)
	}
}

func hungUp(err error) bool {
	return errors.Is(err, syscall.EPIPE) || errors.Is(err, syscall.ECONNRESET)
}

// drop closes what lies under TLS, since TLS would wait for room to say goodbye.
func (c *Conn) drop() {
	switch nc := c.ws.NetConn().(type) {
	case *sniffConn:
		nc.Conn.Close()
	case *tls.Conn:
		nc.NetConn().Close()
	default:
		nc.Close()
	}
}

// clip shortens s to at most n bytes without cutting a character: a close frame
// with broken UTF-8 in it is a protocol error.
func clip(s string, n int) string {
	if len(s) <= n {
		return s
	}
	for n > 0 && !utf8.RuneStart(s[n]) {
		n--
	}
	return s[:n]
}

// GoAway is Close for a server that stops or has had enough of a client: it says
// that the client may come back.
func (c *Conn) GoAway(reason string) {
	c.finish(websocket.CloseGoingAway, reason, errors.New("the connection was closed: "+reason))
}

// Refuse is Close for a client that may not go on.
func (c *Conn) Refuse(reason string) {
	c.finish(websocket.ClosePolicyViolation, reason, errors.New("the connection was closed: "+reason))
}

// WantsUpgrade reports whether a request asks for a WebSocket.
func WantsUpgrade(r *http.Request) bool { return websocket.IsWebSocketUpgrade(r) }

// Offers are the subprotocols that a client proposes, in its order.
func Offers(r *http.Request) []string { return websocket.Subprotocols(r) }

// Upgrade turns an API request into a plain message connection (for /ws).
// protocol is the one of the client's offers that is taken up, "" for none: a
// browser that offered some gives up where none is. The caller has checked the
// Origin.
func Upgrade(w http.ResponseWriter, r *http.Request, protocol string) (*Conn, error) {
	bufs := &buffers{}
	h := http.Header{}
	if protocol != "" {
		h.Set("Sec-Websocket-Protocol", protocol)
	}
	ws, err := upgrade(w, r, bufs, h)
	if err != nil {
		return nil, err
	}
	return newConn(ws, bufs, maxPlainText), nil
}

// upgrade offers no compression, and takes up only what the header names of what a
// client proposes.
func upgrade(w http.ResponseWriter, r *http.Request, bufs *buffers, h http.Header) (*websocket.Conn, error) {
	u := websocket.Upgrader{
		HandshakeTimeout: writeWait,
		ReadBufferSize:   serverBuffer,
		WriteBufferSize:  serverBuffer,
		WriteBufferPool:  &bufs.write,
		CheckOrigin:      func(*http.Request) bool { return true },
	}
	ws, err := u.Upgrade(w, r, h)
	if err != nil {
		return nil, fmt.Errorf("cannot upgrade to a WebSocket: %w", err)
	}
	return ws, nil
}
