package wsx

import (
	"context"
	"errors"
	"log/slog"
	"strings"
	"sync"
	"time"

	"saltpeter/wsx/wire"
)

const (
	// frameMax is the output in one binary frame. With its header that is four
	// write buffers: a fifth write would cost.
	frameMax  = 256 << 10
	windowMax = 4 << 20 // output on its way that is not acknowledged yet

	// ackWait is how long a server that is not known to be ours has for the ack
	// of connect. Then it is taken for one that acknowledges nothing.
	ackWait = 2 * time.Second
	// steadyAfter is how long a connection must have been up for the next one to
	// be tried at once: a server that accepts and drops is not hammered.
	steadyAfter  = 5 * time.Second
	textInterval = time.Second
)

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
	// Acked tells that the server has stored everything below offset. After a
	// reconnect that may be less than it was before.
	Acked(offset int64)
}

// Lender is an Output that has its last bytes in memory, so that they need be
// neither read nor copied.
type Lender interface {
	// Lend shows up to most bytes of one stream from offset on, which stay as
	// they are until Return; nil if they are not at hand.
	Lend(offset int64, most int) (data []byte, stream byte)
	Return()
}

// LinkOptions of the wrapper's end of the road.
type LinkOptions struct {
	Dial DialOptions
	// Connect makes the connect message of a new connection. If it returns
	// more messages (start, a pending report), they follow it at once.
	Connect func() []*wire.Message
	Output  Output
	// OnMessage gets every message that is not the Link's own business (which
	// are acks of connect and output, nack, sync_response). The goroutine that
	// reads calls it: what may take long belongs elsewhere.
	OnMessage func(m *wire.Message)
	// OnUp is told the features in force once connect is acked; OnDown why the
	// connection ended, or could not be made. Never two of these at a time.
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
type Link struct {
	o    LinkOptions
	dial func(ctx context.Context) (*Conn, error)
	bufs buffers

	// Owned by Run.
	url    string // a run's token is exchanged for the task's own
	modern bool   // the server has shown that it is one of ours

	mu     sync.Mutex // never held while writing to a connection or reading the Output
	line   *line      // the connection that is up, nil while there is none
	acked  int64      // bytes that the server has confirmed
	wanted int64      // bytes that somebody waits for in AckedAll
	moved  chan struct{}
	text   pieces
}

// NewLink makes a Link; Run connects it.
func NewLink(o LinkOptions) *Link {
	if o.TextInterval <= 0 {
		o.TextInterval = textInterval
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.OnMessage == nil {
		o.OnMessage = func(*wire.Message) {}
	}
	if o.OnUp == nil {
		o.OnUp = func([]string) {}
	}
	if o.OnDown == nil {
		o.OnDown = func(error) {}
	}
	l := &Link{o: o, url: o.Dial.URL, moved: make(chan struct{}), text: pieces{acked: -1}}
	l.dial = func(ctx context.Context) (*Conn, error) {
		d := o.Dial
		d.URL = l.url
		return dial(ctx, d, &l.bufs)
	}
	return l
}

// Run keeps the link up until ctx ends. It returns after its goroutines have.
func (l *Link) Run(ctx context.Context) {
	var b backoff
	said := "" // the reason that was logged last: an outage of a day is one line
	for ctx.Err() == nil {
		var up time.Time
		err := l.connect(ctx, func() { said, up = "", time.Now() })
		if ctx.Err() != nil {
			return
		}
		if said != err.Error() {
			said = err.Error()
			l.o.Log.Warn("no connection to the server: trying again until there is one", "err", err)
		}
		if !up.IsZero() && time.Since(up) >= steadyAfter {
			b = backoff{}
		}
		if !sleep(ctx, b.next(errors.Is(err, ErrUnauthorized))) {
			return
		}
	}
}

// connect makes one connection and stays until it ends.
func (l *Link) connect(ctx context.Context, up func()) error {
	c, err := l.dial(ctx)
	if err != nil {
		l.o.OnDown(err)
		return err
	}
	n := &line{l: l, c: c, rose: up, kick: make(chan struct{}, 1), pongs: make(chan string, 1), nackFor: -1}
	err = n.run(ctx)
	l.o.OnDown(err)
	return err
}

// exchange takes the task's own token in place of the run's.
func (l *Link) exchange(token string) {
	if head, _, ok := strings.Cut(l.url, "/run/"); ok && token != "" && !strings.ContainsAny(token, "/?#%") {
		l.url = head + "/task/" + token
	}
}

// fill completes a message without touching the owner's.
func (l *Link) fill(m *wire.Message) *wire.Message {
	f, b := *m, &l.o.Base
	for _, v := range []struct{ field, base *string }{
		{&f.JobName, &b.JobName}, {&f.JobInstance, &b.JobInstance}, {&f.Machine, &b.Machine},
	} {
		if *v.field == "" {
			*v.field = *v.base
		}
	}
	if f.Timestamp == "" {
		f.Timestamp = wire.FormatTime(time.Now())
	}
	return &f
}

// Send writes m if the connection is up (connect acked) and reports whether it
// was written. Base and timestamp are filled in. Written is not received: what
// matters has an ack of its own.
func (l *Link) Send(m *wire.Message) bool {
	l.mu.Lock()
	n := l.line
	l.mu.Unlock()
	return n != nil && n.c.Send(l.fill(m)) == nil
}

// Up reports the features in force, nil while there is no connection.
func (l *Link) Up() []string {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.line == nil {
		return nil
	}
	return l.line.features
}

// AckedOffset is how much output the server has confirmed.
func (l *Link) AckedOffset() int64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.acked
}

// AckedAll waits until the server has confirmed everything below offset, or ctx
// ends.
func (l *Link) AckedAll(ctx context.Context, offset int64) error {
	for {
		l.mu.Lock()
		if l.acked >= offset {
			l.mu.Unlock()
			return nil
		}
		if l.wanted < offset {
			l.wanted = offset
			l.line.wake()
		}
		moved := l.moved
		l.mu.Unlock()
		select {
		case <-moved:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// NextSeq is the sequence number that a complete must carry on a connection
// without the bytes feature.
func (l *Link) NextSeq() int64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.next()
}

// setAcked is told what the server has; mu is held. Only a new connection may
// say less than the last one.
func (l *Link) setAcked(offset int64) {
	if offset == l.acked {
		return
	}
	l.acked = offset
	close(l.moved)
	l.moved = make(chan struct{})
}
