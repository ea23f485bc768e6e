package wsx

import (
	"context"
	"crypto/tls"
	"errors"
	"log/slog"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"saltpeter/testdata/lab"
	"saltpeter/wsx/wire"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const (
	patient = 90 * time.Second // how long a test waits for what will come
	token   = "SECRETTOKEN0123456789abcdef"
)

// eventually waits for a condition.
func eventually(t testing.TB, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(patient); !ok(); time.Sleep(2 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("never came: %s", what)
		}
	}
}

// spool is an Output in memory.
type spool struct {
	mu      sync.Mutex
	data    []byte
	runs    []run
	acks    []int64
	most    int64 // the largest distance between what was read and acknowledged
	acked   int64
	changed chan struct{}
}

// run is where the bytes of one stream end.
type run struct {
	end    int64
	stream byte
}

func newSpool() *spool { return &spool{changed: make(chan struct{}, 1)} }

func (s *spool) add(stream byte, data string) {
	s.mu.Lock()
	s.data = append(s.data, data...)
	s.runs = append(s.runs, run{int64(len(s.data)), stream})
	s.mu.Unlock()
	select {
	case s.changed <- struct{}{}:
	default:
	}
}

func (s *spool) ReadAt(p []byte, offset int64) (int, byte, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if offset >= int64(len(s.data)) {
		return 0, wire.Stdout, nil
	}
	n := copy(p, s.data[offset:])
	i := 0
	for s.runs[i].end <= offset {
		i++
	}
	stream, end := s.runs[i].stream, s.runs[i].end
	for ; i < len(s.runs) && s.runs[i].stream == stream; i++ {
		end = s.runs[i].end
	}
	n = int(min(int64(n), end-offset))
	s.most = max(s.most, offset+int64(n)-s.acked)
	return n, stream, nil
}

func (s *spool) Length() int64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return int64(len(s.data))
}

func (s *spool) Changed() <-chan struct{} { return s.changed }

func (s *spool) Acked(offset int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.acked = offset
	s.acks = append(s.acks, offset)
}

func (s *spool) text() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return string(s.data)
}

// desk is a Handler that keeps output as a server of ours does.
type desk struct {
	mu       sync.Mutex
	tokens   map[string]bool
	tasks    map[string]*stored
	open     int
	sessions int
	refused  int               // orders
	orders   map[string]string // token -> nonce
	busy     error             // what Connect answers to everybody

	features []string                                // what the ack of connect lists, nil: all
	onOutput func(k *kept, offset int64, n int) bool // false: the frame is forgotten
	mute     bool                                    // no acks of output
	onText   func(k *kept, m *wire.Message) error
	extra    func(k *kept) // after the ack of connect
	noAck    bool
}

// stored is what the desk has of one task.
type stored struct {
	data     []byte
	nextSeq  int64
	dup, gap int
	texts    []*wire.Message
	messages []*wire.Message
	conns    []*Conn
	closed   []error
}

func newDesk() *desk {
	return &desk{tokens: map[string]bool{token: true}, tasks: map[string]*stored{}, orders: map[string]string{}}
}

func (d *desk) task(token string) *stored {
	if d.tasks[token] == nil {
		d.tasks[token] = &stored{}
	}
	return d.tasks[token]
}

// with runs f with the desk's lock held.
func (d *desk) with(f func(s *stored)) {
	d.mu.Lock()
	defer d.mu.Unlock()
	f(d.task(token))
}

func (d *desk) got() string {
	d.mu.Lock()
	defer d.mu.Unlock()
	return string(d.task(token).data)
}

func (d *desk) refusals() int {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.refused
}

func (d *desk) size() int64 {
	d.mu.Lock()
	defer d.mu.Unlock()
	return int64(len(d.task(token).data))
}

func (d *desk) Connect(_ context.Context, c Claim) (Session, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.busy != nil {
		return nil, d.busy
	}
	if !d.tokens[c.Token] {
		return nil, ErrUnknownToken
	}
	d.sessions++
	return &kept{d: d, claim: c}, nil
}

func (d *desk) Order(_ context.Context, c Claim, nonce string) ([]byte, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.busy != nil {
		return nil, d.busy
	}
	if !d.tokens[c.Token] {
		d.refused++
		return nil, ErrUnknownToken
	}
	if n, ok := d.orders[c.Token]; ok && n != nonce {
		return nil, ErrOtherNonce
	}
	d.orders[c.Token] = nonce
	return []byte("order for " + c.Machine), nil
}

// kept is a Session of a desk.
type kept struct {
	d     *desk
	claim Claim
	c     *Conn
}

func (k *kept) Open(c *Conn) {
	k.c = c
	k.d.mu.Lock()
	defer k.d.mu.Unlock()
	k.d.open++
	s := k.d.task(k.claim.Token)
	s.conns = append(s.conns, c)
}

func (k *kept) Closed(err error) {
	k.d.mu.Lock()
	defer k.d.mu.Unlock()
	k.d.open--
	s := k.d.task(k.claim.Token)
	s.closed = append(s.closed, err)
}

func (k *kept) Message(m *wire.Message) error {
	d := k.d
	d.mu.Lock()
	s := d.task(k.claim.Token)
	length := int64(len(s.data))
	if m.Type != wire.TypeOutput {
		s.messages = append(s.messages, m)
	}
	d.mu.Unlock()
	switch m.Type {
	case wire.TypeConnect:
		if d.noAck {
			return nil
		}
		ack := &wire.Message{Type: wire.TypeAck, AckType: wire.TypeConnect, Features: d.features}
		if d.features == nil {
			ack.Features = wire.Features()
		}
		if wire.Has(ack.Features, wire.FeatureBytes) {
			ack.Resume = &length
		}
		if k.claim.RunToken {
			ack.Token = token
		}
		if err := k.c.Send(ack); err != nil {
			return err
		}
		if d.extra != nil {
			d.extra(k)
		}
	case wire.TypeOutput:
		if d.onText != nil {
			return d.onText(k, m)
		}
		return k.text(m)
	case "fail":
		return errors.New("this session has had enough")
	}
	return nil
}

// text stores JSON output as the second generation's server does.
func (k *kept) text(m *wire.Message) error {
	k.d.mu.Lock()
	s := k.d.task(k.claim.Token)
	next := s.nextSeq
	switch {
	case *m.Seq == next:
		s.data = append(s.data, m.Data...)
		s.texts = append(s.texts, m)
		s.nextSeq++
	case *m.Seq < next:
		s.dup++
	default:
		s.gap++
	}
	mute := k.d.mute
	k.d.mu.Unlock()
	if mute {
		return nil
	}
	if *m.Seq > next {
		return k.c.Send(&wire.Message{Type: wire.TypeNack, NackType: wire.NackOutOfOrder, ExpectedSeq: &next, ReceivedSeq: m.Seq})
	}
	return k.c.Send(&wire.Message{Type: wire.TypeAck, AckType: wire.TypeOutput, Seq: m.Seq})
}

func (k *kept) Output(offset int64, _ byte, data []byte) error {
	if k.d.onOutput != nil && !k.d.onOutput(k, offset, len(data)) {
		return nil
	}
	k.d.mu.Lock()
	s := k.d.task(k.claim.Token)
	have := int64(len(s.data))
	switch {
	case offset > have:
		s.gap++
	case offset+int64(len(data)) <= have:
		s.dup++
	default:
		if offset < have {
			s.dup++
		}
		s.data = append(s.data, data[have-offset:]...)
	}
	length, gap, mute := int64(len(s.data)), offset > have, k.d.mute
	k.d.mu.Unlock()
	if mute {
		return nil
	}
	m := &wire.Message{Type: wire.TypeAck, AckType: wire.TypeOutput, Offset: &length}
	if gap {
		m.Type, m.AckType, m.NackType = wire.TypeNack, "", wire.NackOutOfOrder
	}
	return k.c.Send(m)
}

// notes keeps what was logged.
type notes struct{ lab.Buffer }

func (n *notes) log() *slog.Logger {
	return slog.New(slog.NewTextHandler(n, &slog.HandlerOptions{Level: slog.LevelDebug}))
}

// place is a machines listener on a loopback port.
type place struct {
	s     *Server
	d     *desk
	addr  string
	pin   string
	notes *notes
	stop  func()
}

// pair is a new certificate and its key.
func pair(t testing.TB) tls.Certificate {
	t.Helper()
	cert, key, err := NewCertificate([]string{"localhost", "127.0.0.1"}, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	pair, err := tls.X509KeyPair(cert, key)
	if err != nil {
		t.Fatal(err)
	}
	return pair
}

// open starts a machines listener. Its log must not show a token.
func open(t testing.TB, d *desk, change func(*ServerOptions)) *place {
	t.Helper()
	p := &place{d: d, notes: &notes{}}
	o := ServerOptions{Handler: d, Log: p.notes.log()}
	own := pair(t)
	o.TLS = &tls.Config{Certificates: []tls.Certificate{own}}
	var err error
	if p.pin, err = PinOf(own); err != nil {
		t.Fatal(err)
	}
	if change != nil {
		change(&o)
	}
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	p.addr = ln.Addr().String()
	p.serve(t, o, ln)
	t.Cleanup(func() {
		p.stop()
		if strings.Contains(p.notes.String(), token) {
			t.Errorf("the log shows a token:\n%s", p.notes)
		}
	})
	return p
}

func (p *place) serve(t testing.TB, o ServerOptions, ln net.Listener) {
	p.s = NewServer(o)
	done := make(chan error, 1)
	go func() { done <- p.s.Serve(ln) }()
	p.stop = sync.OnceFunc(func() {
		ctx, cancel := context.WithTimeout(context.Background(), patient)
		defer cancel()
		if err := p.s.Shutdown(ctx); err != nil {
			t.Errorf("Shutdown: %v", err)
		}
		if err := <-done; err != nil {
			t.Errorf("Serve: %v", err)
		}
	})
}

func (p *place) dial(secure bool) DialOptions {
	if secure {
		return DialOptions{URL: "wss://" + p.addr + "/task/" + token, Pin: p.pin, Agent: "saltpeter/test"}
	}
	return DialOptions{URL: "ws://" + p.addr + "/task/" + token}
}

// owner is who owns a Link in a test.
type owner struct {
	l    *Link
	out  *spool
	stop func()

	mu       sync.Mutex
	ups      [][]string
	downs    []error
	messages []*wire.Message
}

func (o *owner) count() (ups, downs int) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return len(o.ups), len(o.downs)
}

// link makes a Link and runs it until the test ends.
func link(t testing.TB, d DialOptions, change func(*LinkOptions, *Link)) *owner {
	t.Helper()
	o := &owner{out: newSpool()}
	opts := LinkOptions{
		Dial:   d,
		Output: o.out,
		Connect: func() []*wire.Message {
			return []*wire.Message{{Type: wire.TypeConnect, Features: wire.Features()}, {Type: wire.TypeStart, PID: 7}}
		},
		OnMessage: func(m *wire.Message) {
			o.mu.Lock()
			defer o.mu.Unlock()
			o.messages = append(o.messages, m)
		},
		OnUp: func(f []string) {
			o.mu.Lock()
			defer o.mu.Unlock()
			o.ups = append(o.ups, f)
		},
		OnDown: func(err error) {
			o.mu.Lock()
			defer o.mu.Unlock()
			o.downs = append(o.downs, err)
		},
		Base: wire.Message{JobName: "j", JobInstance: "j_1", Machine: "m1"},
	}
	if change != nil {
		change(&opts, nil)
	}
	o.l = NewLink(opts)
	if change != nil {
		change(&opts, o.l)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		o.l.Run(ctx)
	}()
	o.stop = sync.OnceFunc(func() {
		cancel()
		<-done
	})
	t.Cleanup(o.stop)
	return o
}

func (o *owner) allAcked(t testing.TB) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patient)
	defer cancel()
	if err := o.l.AckedAll(ctx, o.out.Length()); err != nil {
		t.Fatalf("acknowledged %d of %d: %v", o.l.AckedOffset(), o.out.Length(), err)
	}
}
