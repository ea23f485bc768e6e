package wrapper

import (
	"context"
	"sync"
	"time"

	"saltpeter/wsx"
	"saltpeter/wsx/wire"
)

const (
	heartbeatEvery = 5 * time.Second
	// A server of ours learns of the end after this time even if output is still
	// on its way: it waits for the rest itself.
	endEarly = 2 * time.Second
	// An older server gets complete when all output is confirmed, or when it has
	// confirmed nothing for so long: the first generation never does.
	oldQuiet   = 10 * time.Second
	oldGiveUp  = 60 * time.Second // retries of complete against an older server
	endAgain   = 10 * time.Second // complete is repeated on a connection that does not ack it
	endRetry   = 5 * time.Second  // the same for an older server
	markBatch  = 64
	maxReports = 256 // answers that wait for their ack
)

type reporterOptions struct {
	Order *wire.Order
	Spool *spool
	Log   *taskLog
	OnAsk func(m *wire.Message) // kill, signal, pause, resume; must not block
	// OnStartAck is called once: the server has recorded what runs.
	OnStartAck func()
}

// reporter tells the server of one task: who runs, what it answers to kills, and
// how it ended, each until it is acknowledged, over as many connections as that
// takes. Others say what is owed; one goroutine sends.
type reporter struct {
	o     reporterOptions
	link  *wsx.Link
	wake  chan struct{}
	news  chan struct{} // something that the owner may wait for has changed
	ready chan struct{} // closed by Ready

	ctx  context.Context // of Start, until Stop
	stop context.CancelFunc
	wg   sync.WaitGroup

	mu         sync.Mutex
	identity   *wire.Identity
	started    time.Time // zero: the command never starts
	startAcked bool
	up         bool
	conn       int // counts connections
	features   []string
	killed     []string // ids of kills whose receipt was not written yet
	reports    []*owedReport
	heartbeat  time.Time
	markedTo   int64
	markedAt   time.Time
	progress   time.Time // when output was last confirmed
	end        *owedEnd
	delivered  bool
	refused    bool
}

// owedReport is the latest answer to one request. Its earlier versions are
// acknowledged under the same id, hence the count.
type owedReport struct {
	id     string
	report wire.Report
	at     time.Time
	due    bool
	unacks int // sent on this connection and not acknowledged
}

// owedEnd is how the task ended.
type owedEnd struct {
	code  int
	end   wire.End
	err   string
	at    time.Time // when the job ended
	owed  time.Time // when it was given to the reporter
	next  time.Time // not before
	first time.Time // when it was first written to an older server
	ahead bool      // it was told before all output was confirmed
}

func newReporter(o reporterOptions) *reporter {
	r := &reporter{o: o, wake: make(chan struct{}, 1), news: make(chan struct{}, 1), ready: make(chan struct{})}
	o.Spool.onAck = r.onOutputAck
	r.link = wsx.NewLink(wsx.LinkOptions{
		Dial:         dialOrder(o.Order),
		Connect:      r.connect,
		Output:       o.Spool,
		OnMessage:    r.onMessage,
		OnUp:         r.onUp,
		OnDown:       r.onDown,
		TextInterval: duration(o.Order.OutputInterval),
		Base:         wire.Message{JobName: o.Order.Job, JobInstance: o.Order.Run, Machine: o.Order.Machine},
		Log:          o.Log.Slog(),
	})
	return r
}

// Start begins to connect. The first connection waits for Ready.
func (r *reporter) Start(ctx context.Context) {
	ctx, r.stop = context.WithCancel(ctx)
	r.ctx = ctx
	r.wg.Add(2)
	go func() {
		defer r.wg.Done()
		r.link.Run(ctx)
	}()
	go func() {
		defer r.wg.Done()
		r.loop(ctx)
	}()
}

// Stop ends the connection and waits until that is done. Ready must have been
// called.
func (r *reporter) Stop() {
	r.stop()
	r.wg.Wait()
}

// Ready gives the identity that connections carry. started is zero if there is
// nothing to say but the end.
func (r *reporter) Ready(id *wire.Identity, started time.Time) {
	r.mu.Lock()
	r.identity, r.started = id, started
	r.mu.Unlock()
	close(r.ready)
}

// Killed owes the receipt of a kill message.
func (r *reporter) Killed(id string) {
	r.mu.Lock()
	r.killed = append(r.killed, id)
	r.mu.Unlock()
	poke(r.wake)
}

// Report owes an answer; it takes the place of an earlier one with this id.
func (r *reporter) Report(id string, report wire.Report) {
	r.mu.Lock()
	defer poke(r.wake)
	defer r.mu.Unlock()
	for _, owed := range r.reports {
		if owed.id == id {
			owed.report, owed.at, owed.due = report, time.Now(), true
			return
		}
	}
	if len(r.reports) >= maxReports {
		r.reports = r.reports[1:]
	}
	r.reports = append(r.reports, &owedReport{id: id, report: report, at: time.Now(), due: true})
}

// Finish owes the end.
func (r *reporter) Finish(e owedEnd) {
	e.owed = time.Now()
	r.mu.Lock()
	r.end = &e
	r.mu.Unlock()
	poke(r.wake)
	length := r.o.Spool.End()
	r.wg.Add(1)
	go func() {
		defer r.wg.Done()
		// Tells the road that somebody waits for the last of it.
		_ = r.link.AckedAll(r.ctx, length)
	}()
}

// Up: there is a connection now.
func (r *reporter) Up() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.up
}

// Delivered: the end was acknowledged, or an older server was told of it for long
// enough.
func (r *reporter) Delivered() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.delivered
}

// Refused: the server says that it does not know this run.
func (r *reporter) Refused() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.refused
}

// Quiet: the end is delivered, and so is every later byte and report.
func (r *reporter) Quiet() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.up && !wire.Has(r.features, wire.FeatureReport) {
		return r.delivered
	}
	return r.delivered && len(r.reports) == 0 && r.o.Spool.ackedOffset() >= r.o.Spool.Length()
}

func (r *reporter) connect() []*wire.Message {
	<-r.ready
	r.mu.Lock()
	defer r.mu.Unlock()
	messages := []*wire.Message{{Type: wire.TypeConnect, Features: wire.Features(), Version: Version, Identity: r.identity}}
	if !r.started.IsZero() && !r.startAcked {
		messages = append(messages, &wire.Message{
			Type: wire.TypeStart, PID: r.identity.PID, Version: Version, Identity: r.identity,
			Timestamp: wire.FormatTime(r.started),
		})
	}
	return messages
}

func (r *reporter) onUp(features []string) {
	r.mu.Lock()
	r.up, r.features = true, features
	r.conn++
	now := time.Now()
	r.heartbeat, r.progress = now, now
	for _, owed := range r.reports {
		owed.due, owed.unacks = true, 0
	}
	if r.end != nil {
		r.end.next = time.Time{}
	}
	r.mu.Unlock()
	r.o.Log.Debugf("connected, features %v", features)
	poke(r.wake)
	poke(r.news)
}

func (r *reporter) onDown(err error) {
	r.mu.Lock()
	r.up = false
	r.mu.Unlock()
	r.o.Log.Debugf("not connected: %v", err)
	poke(r.news)
}

func (r *reporter) onOutputAck() {
	r.mu.Lock()
	r.progress = time.Now()
	r.mu.Unlock()
	poke(r.wake)
	poke(r.news)
}

func (r *reporter) onMessage(m *wire.Message) {
	switch m.Type {
	case wire.TypeKill, wire.TypeSignal, wire.TypePause, wire.TypeResume:
		if r.o.OnAsk != nil {
			r.o.OnAsk(m)
		}
	case wire.TypeAck:
		r.onAck(m)
	case wire.TypeError:
		if m.Code != wire.CodeJobNotFound {
			r.o.Log.Printf("the server says: %s %s", m.Code, first(m.Text, m.Error))
			return
		}
		r.o.Log.Printf("the server does not know this run: no more is reported, the job goes on")
		r.mu.Lock()
		r.refused = true
		r.mu.Unlock()
		r.stop()
		poke(r.news)
	}
}

func (r *reporter) onAck(m *wire.Message) {
	r.mu.Lock()
	first := false
	switch m.AckType {
	case wire.TypeStart:
		first, r.startAcked = !r.startAcked, true
	case wire.TypeComplete:
		r.delivered = r.delivered || r.end != nil
	case wire.TypeReport:
		for i, owed := range r.reports {
			if owed.id != m.ID {
				continue
			}
			if owed.unacks--; owed.unacks <= 0 && !owed.due {
				r.reports = append(r.reports[:i:i], r.reports[i+1:]...)
			}
			break
		}
	}
	r.mu.Unlock()
	if first && r.o.OnStartAck != nil {
		r.o.OnStartAck()
	}
	poke(r.news)
}

// poke leaves a note that needs no second one.
func poke(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}
