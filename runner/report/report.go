// Package report tells the outside world what happens: a text log for each job,
// documents for Elasticsearch and OpenSearch, and word to people when a job fails
// and when it works again. What there is to tell comes out
// of runner/ledger, as news that is written in the same step as the change that
// it tells of; each reporter keeps its own place in it there, so that whatever is
// restarted or away for a while, nothing is left out and nothing is told twice.
//
// Nobody waits for this room: a full disk or a search engine that is down holds
// up no job, it only leaves its reporter behind.
package report

import (
	"context"
	"log/slog"
	"slices"
	"sync"
	"time"

	"saltpeter/runner/ledger"
)

// Options of Reports.
type Options struct {
	Ledger *ledger.Ledger
	// LogDirs are where text logs go while no folder is named: the first that can
	// be written.
	LogDirs []string
	Log     *slog.Logger

	// For tests; 0 takes what is usual.
	Retry   time.Duration // before what failed is tried again; doubled up to retryMost
	Linger  time.Duration // in which more is waited for, so that it goes out together
	LogSize int64         // at which a text log is put aside
}

const (
	retryFirst = time.Second
	retryMost  = 30 * time.Second
	textLinger = 100 * time.Millisecond
	bulkLinger = time.Second
)

// Settings say what is reported where. They are live.
type Settings struct {
	LogDir        string // "": one of Options.LogDirs; "off": no text logs
	Elasticsearch Store
	OpenSearch    Store
	Notify        map[string]Notify // by job
}

// Store is a search engine that speaks _bulk; without URLs there is none.
type Store struct {
	URLs  []string // any of them will do; they may hold user:password
	Index string   // documents go to Index-YYYY.MM.DD
}

// Names of reporters, which are also the keys of their places in the ledger.
const (
	TextLog       = "logdir"
	Elasticsearch = "elasticsearch"
	OpenSearch    = "opensearch"
	Notices       = "notify"
)

// names are those that the settings ask for.
func (s Settings) names() []string {
	var names []string
	if s.LogDir != "off" {
		names = append(names, TextLog)
	}
	if len(s.Elasticsearch.URLs) > 0 {
		names = append(names, Elasticsearch)
	}
	if len(s.OpenSearch.URLs) > 0 {
		names = append(names, OpenSearch)
	}
	if len(s.Notify) > 0 {
		names = append(names, Notices)
	}
	return names
}

// Reports runs the reporters that the settings ask for.
type Reports struct {
	o Options

	mu       sync.Mutex
	settings Settings
	known    bool // the ledger knows who reports
	running  map[string]*reporter
	life     context.Context // of the reporters; nil before Run and after it
}

// New makes Reports and lets the ledger know who reads its news: what happens from
// then on is told, also if Run begins later.
//
// If the ledger cannot take that now, since its disk is full, jobs are not to wait
// for it: it is tried again.
func New(ctx context.Context, o Options, s Settings) *Reports {
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	r := &Reports{o: o, settings: s, running: map[string]*reporter{}}
	r.register(ctx)
	return r
}

// Run reports until ctx ends, and returns when every reporter has stopped.
func (r *Reports) Run(ctx context.Context) error {
	r.mu.Lock()
	r.life = ctx
	r.arrange(ctx)
	r.mu.Unlock()
	// What could not be arranged, since the disk was full, is tried again.
	tick := time.NewTicker(10 * time.Second)
	defer tick.Stop()
	for ctx.Err() == nil {
		select {
		case <-ctx.Done():
		case <-tick.C:
			r.mu.Lock()
			if !r.known {
				r.arrange(ctx)
			}
			r.mu.Unlock()
		}
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.life = nil
	for name, p := range r.running {
		p.stop()
		delete(r.running, name)
	}
	return nil
}

// Set puts new settings in force.
func (r *Reports) Set(ctx context.Context, s Settings) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if !slices.Equal(s.names(), r.settings.names()) {
		r.known = false
	}
	r.settings = s
	if r.life != nil {
		r.arrange(ctx)
	}
}

// arrange starts and stops reporters as the settings say. mu is held.
func (r *Reports) arrange(ctx context.Context) {
	names := r.settings.names()
	for name, p := range r.running {
		if !slices.Contains(names, name) { // it must not move its place any more before that is dropped
			p.stop()
			delete(r.running, name)
		}
	}
	if !r.register(ctx) {
		return
	}
	for _, name := range names {
		p := r.running[name]
		if p == nil {
			p = newReporter(r.o, name, r.sink(name))
			p.sink.set(r.settings)
			r.running[name] = p
			p.start(r.life)
			continue
		}
		if p.sink.set(r.settings) {
			p.hurry()
		}
	}
}

// register lets the ledger know who reads its news, if it does not yet.
func (r *Reports) register(ctx context.Context) bool {
	if r.known {
		return true
	}
	if err := r.o.Ledger.SetReporters(ctx, r.settings.names()); err != nil {
		r.o.Log.Error("cannot record who reports; it is tried again", "err", err)
		return false
	}
	r.known = true
	return true
}

// sink makes what a reporter hands its news to.
func (r *Reports) sink(name string) sink {
	switch name {
	case TextLog:
		return newTextLog(r.o)
	case Notices:
		return newNotifier(r.o)
	}
	return newStore(r.o, name)
}

// State is how a reporter gets on; runner/api shows it as it is.
type State struct {
	Name    string    // as its key in saltpeter_config
	To      string    // where it reports to, without secrets
	Problem string    // why it does not get on
	Warning string    // what is not as it was meant, and works
	Since   time.Time // since when there is a problem
	Behind  int64     // what is still to be told
	Told    int64     // since the server's start, like the others below
	Errors  int64     // tries that failed
	Refused int64     // documents that the store will not have, notices that could not be delivered
	Lost    int64     // given up, since the reporter was behind for too long
}

// States tells how the reporters get on, by name.
func (r *Reports) States(ctx context.Context) []State {
	places, last, err := r.o.Ledger.Reporters(ctx)
	if err != nil {
		r.o.Log.Debug("cannot read how far reports are", "err", err)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	states := []State{}
	for _, name := range r.settings.names() {
		s := State{Name: name}
		if p := r.running[name]; p != nil {
			s = p.state()
		}
		for _, place := range places {
			if place.Name == name {
				s.Behind = max(0, last-place.Position)
			}
		}
		states = append(states, s)
	}
	return states
}
