package report

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"time"

	"saltpeter/runner/ledger"
)

// sink is where one reporter's news goes. It belongs to the reporter's goroutine,
// but for set, to and warning.
type sink interface {
	// set takes new settings; false if nothing changes for it.
	set(Settings) bool
	to() string
	warning() string
	// ready is asked before anything is handed to it, and when the settings change.
	ready() error
	// restore is called once, with what prepare had said before an earlier server
	// ended in the middle of send.
	restore(state string) error
	// prepare says how many of the news, from the first on, go out together, and
	// what must be on the disk before they do. settle makes everything that was
	// sent before final.
	prepare(ctx context.Context, list []ledger.News, settle func() error) (n int, state string, err error)
	// send sends what was prepared. It is called again until it succeeds, unless
	// prepare is called again instead.
	send(ctx context.Context, list []ledger.News) error
	// again reports whether prepare must be called again after a send that failed.
	again(state string) bool
	// counts are refused documents so far.
	refused() int64
	close()
}

// pageSize is how much news is read at once.
const pageSize = 500

// reporter takes news out of the ledger and sees that its sink gets all of it.
type reporter struct {
	name   string
	sink   sink
	ledger *ledger.Ledger
	log    *slog.Logger
	retry  time.Duration
	linger time.Duration

	cancel  context.CancelFunc
	done    chan struct{}
	changed chan struct{} // settings are new: what failed is tried at once

	// Owned by the goroutine.
	position int64
	unsaved  bool   // the ledger does not know position yet
	sending  bool   // what was prepared is not sent whole
	saved    string // the state that the ledger has beside it

	mu      sync.Mutex
	problem string
	since   time.Time
	told    int64
	errs    int64
	lost    int64
}

func newReporter(o Options, name string, s sink) *reporter {
	p := &reporter{name: name, sink: s, ledger: o.Ledger, log: o.Log.With("reporter", name), retry: o.Retry, linger: o.Linger,
		done: make(chan struct{}), changed: make(chan struct{}, 1)}
	if p.retry <= 0 {
		p.retry = retryFirst
	}
	if p.linger <= 0 {
		p.linger = bulkLinger
		if name == TextLog {
			p.linger = textLinger
		}
	}
	return p
}

func (p *reporter) start(life context.Context) {
	ctx, cancel := context.WithCancel(life)
	p.cancel = cancel
	go func() {
		defer close(p.done)
		defer p.sink.close()
		p.run(ctx)
		if !p.sending {
			// What was sent is final. If this fails it is found out at the next start.
			down, done := context.WithTimeout(context.WithoutCancel(ctx), 2*time.Second)
			defer done()
			_ = p.settle(down)
		}
	}()
}

// stop ends the reporter; what it has not told yet stays in the ledger.
func (p *reporter) stop() {
	p.cancel()
	<-p.done
}

func (p *reporter) hurry() {
	select {
	case p.changed <- struct{}{}:
	default:
	}
}

// run tells news until ctx ends.
func (p *reporter) run(ctx context.Context) {
	if !p.persist(ctx, p.begin) {
		return
	}
	for {
		came := p.ledger.NewsCame()
		more := false
		ok := p.persist(ctx, func(ctx context.Context) (err error) {
			more, err = p.turn(ctx)
			return err
		})
		switch {
		case !ok:
			return
		case more:
		case !p.wait(ctx, came):
			return
		}
	}
}

// persist does something until it succeeds; false if ctx has ended before.
func (p *reporter) persist(ctx context.Context, do func(context.Context) error) bool {
	for wait := p.retry; ctx.Err() == nil; wait = min(2*wait, retryMost) {
		err := do(ctx)
		if ctx.Err() != nil || errors.Is(err, ledger.ErrClosed) {
			return false
		}
		p.note(err)
		if err == nil {
			return true
		}
		timer := time.NewTimer(wait)
		select {
		case <-ctx.Done():
		case <-timer.C:
		case <-p.changed:
			wait = p.retry / 2
		}
		timer.Stop()
	}
	return false
}

// begin finds the place where an earlier server has stopped.
func (p *reporter) begin(ctx context.Context) error {
	list, _, err := p.ledger.Reporters(ctx)
	if err != nil {
		return err
	}
	for _, r := range list {
		if r.Name != p.name {
			continue
		}
		p.position, p.saved = r.Position, r.State
		if r.State == "" {
			return nil
		}
		return p.sink.restore(r.State)
	}
	return errors.New("cannot report: the ledger does not know this reporter")
}

// turn tells what there is now; more says that there may be more already.
func (p *reporter) turn(ctx context.Context) (more bool, err error) {
	if err := p.sink.ready(); err != nil {
		return false, err
	}
	page, err := p.ledger.News(ctx, p.position, pageSize)
	if err != nil {
		return false, err
	}
	if page.Lost > 0 {
		p.gap(page.Lost)
	}
	if len(page.List) == 0 {
		return false, p.settle(ctx)
	}
	n, state, err := p.sink.prepare(ctx, page.List, func() error { return p.settle(ctx) })
	if err != nil {
		return false, err
	}
	if p.unsaved || state != p.saved {
		if err := p.save(ctx, state); err != nil {
			return false, err
		}
	}
	list := page.List[:n]
	p.sending = true
	for wait := p.retry; ; wait = min(2*wait, retryMost) {
		err := p.sink.send(ctx, list)
		if err == nil {
			break
		}
		if ctx.Err() != nil || p.sink.again(state) {
			return false, err
		}
		p.note(err)
		if !p.pause(ctx, wait) {
			return false, ctx.Err()
		}
	}
	p.position, p.unsaved, p.sending = list[n-1].Seq, true, false
	p.mu.Lock()
	p.told += int64(n)
	p.mu.Unlock()
	return true, nil
}

// pause waits, but not when the settings change; false if ctx has ended.
func (p *reporter) pause(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-timer.C:
	case <-p.changed:
	}
	return true
}

// gap says that the ledger has given news up.
func (p *reporter) gap(lost int64) {
	p.log.Error("was behind for too long: the oldest of what it had to tell was given up", "events", lost)
	p.position, p.unsaved = p.position+lost, true
	p.mu.Lock()
	p.lost += lost
	p.mu.Unlock()
}

// settle makes the place final that was reached.
func (p *reporter) settle(ctx context.Context) error {
	if !p.unsaved && p.saved == "" {
		return nil
	}
	return p.save(ctx, "")
}

func (p *reporter) save(ctx context.Context, state string) error {
	err := p.ledger.SetPosition(ctx, ledger.Reporter{Name: p.name, Position: p.position, State: state})
	if err == nil {
		p.unsaved, p.saved = false, state
	}
	return err
}

// wait returns when there is more news, and has been for long enough that it goes
// out together with what follows at once; false if ctx has ended.
func (p *reporter) wait(ctx context.Context, came <-chan struct{}) bool {
	select {
	case <-ctx.Done():
		return false
	case <-p.changed:
		return true
	case <-came:
	}
	timer := time.NewTimer(p.linger)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-timer.C:
		return true
	}
}

// note remembers how it goes, and says so when that changes.
func (p *reporter) note(err error) {
	p.mu.Lock()
	before, since := p.problem, p.since
	switch {
	case err == nil:
		p.problem, p.since = "", time.Time{}
	default:
		p.problem = err.Error()
		p.errs++
		if before == "" {
			p.since = time.Now()
		}
	}
	now := p.problem
	p.mu.Unlock()
	switch {
	case now == before:
	case now == "":
		p.log.Info("reports again", "after", time.Since(since).Round(time.Second))
	default:
		p.log.Error("cannot report; it is tried again until it can, and jobs go on", "err", err)
	}
}

func (p *reporter) state() State {
	p.mu.Lock()
	defer p.mu.Unlock()
	return State{Name: p.name, To: p.sink.to(), Problem: p.problem, Warning: p.sink.warning(), Since: p.since,
		Told: p.told, Errors: p.errs, Refused: p.sink.refused(), Lost: p.lost}
}
