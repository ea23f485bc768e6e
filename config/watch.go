package config

import (
	"context"
	"os"
	"time"

	"github.com/fsnotify/fsnotify"
)

// WatchOptions: zero values are the documented ones (500 ms quiet, 5 s at most,
// rescan every 10 s).
type WatchOptions struct {
	Quiet  time.Duration // without an event before the files are read
	Most   time.Duration // that events can put reading off
	Rescan time.Duration // between looks that need no event
}

func (o WatchOptions) filled() WatchOptions {
	for _, x := range []struct {
		to *time.Duration
		is time.Duration
	}{{&o.Quiet, 500 * time.Millisecond}, {&o.Most, 5 * time.Second}, {&o.Rescan, 10 * time.Second}} {
		if *x.to <= 0 {
			*x.to = x.is
		}
	}
	return o
}

// Watch calls on with each new Set that differs from the one before, starting
// from first, and failed when the directory cannot be read (once per change of
// the error). When the directory can be read again after that, on is called even
// if the Set is equal to the one before: that is how one learns that the failure
// is over. It returns nil when ctx ends. One goroutine, the caller's, calls both
// and owns everything here.
func Watch(ctx context.Context, dir string, first *Set, o WatchOptions, on func(*Set), failed func(error)) error {
	o = o.filled()
	w := &watcher{dir: dir, last: first, o: o, on: on, failed: failed}
	// Without a watcher (no inotify instances left) the rescans alone must do,
	// and come more often.
	if notify, err := fsnotify.NewWatcher(); err == nil {
		defer notify.Close()
		w.notify, w.events, w.errors = notify, notify.Events, notify.Errors
	} else {
		w.o.Rescan = min(o.Rescan, time.Second)
	}
	w.quiet, w.most = time.NewTimer(time.Hour), time.NewTimer(time.Hour)
	w.calm()
	defer w.calm()
	w.run(ctx)
	return nil
}

type watcher struct {
	dir    string
	o      WatchOptions
	on     func(*Set)
	failed func(error)

	notify *fsnotify.Watcher // nil: rescans only
	events chan fsnotify.Event
	errors chan error
	seen   os.FileInfo // the directory that is being watched; nil: none

	last   *Set
	broken string // text of the error told last
	unread bool   // an error stands

	quiet, most *time.Timer
	pending     bool // something happened that is not read yet
	look        *Set // what a rescan found without an event, to be seen twice
	looks       int  // how often it was another one
}

func (w *watcher) run(ctx context.Context) {
	// Whatever happened between first and now is found by the first look.
	w.follow()
	w.stir()
	rescan := time.NewTicker(w.o.Rescan)
	defer rescan.Stop()
	// A replaced directory says nothing to who watches the old one.
	follow := time.NewTicker(max(10*time.Millisecond, min(w.o.Quiet, 500*time.Millisecond)))
	defer follow.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-w.events:
			// Any event will do: the content is compared, not the event.
			w.look = nil
			w.stir()
		case <-w.errors:
			w.stir() // events were lost
		case <-follow.C:
			if w.follow() {
				w.stir()
			}
		case <-rescan.C:
			if !w.pending {
				w.rescan()
			}
		case <-w.quiet.C:
			w.read()
		case <-w.most.C:
			w.read()
		}
	}
}

// stir starts the quiet time again, within the most that it may last.
func (w *watcher) stir() {
	if !w.pending {
		w.pending = true
		w.most.Reset(w.o.Most)
	}
	w.quiet.Reset(w.o.Quiet)
}

func (w *watcher) calm() {
	w.pending = false
	w.quiet.Stop()
	w.most.Stop()
}

// follow makes sure that the watched directory is the one that the path names
// now. It reports whether that has changed.
func (w *watcher) follow() bool {
	if w.notify == nil {
		return false
	}
	info, err := os.Stat(w.dir)
	watching := len(w.notify.WatchList()) > 0
	switch {
	case err != nil:
		gone := w.seen != nil
		w.seen = nil
		return gone
	case watching && w.seen != nil && os.SameFile(info, w.seen):
		return false
	}
	// The order matters: what changes after Add gives an event, and what the path
	// named before Add is compared again at the next tick.
	_ = w.notify.Remove(w.dir)
	if err := w.notify.Add(w.dir); err != nil {
		w.seen = nil
		return false
	}
	w.seen = info
	return true
}

// rescan looks without an event: on NFS, or where a link leads out of the
// directory, none comes. A difference is acted on when it is seen twice, a quiet
// time apart: a slow writer's half file must not pass here either.
func (w *watcher) rescan() {
	set, err := Load(w.dir, w.last)
	if err == nil && !w.unread && w.same(set) {
		return
	}
	w.look, w.looks = set, 0
	w.stir()
}

func (w *watcher) same(set *Set) bool { return w.last != nil && set.Serial == w.last.Serial }

// read takes what is there now.
func (w *watcher) read() {
	w.calm()
	set, err := Load(w.dir, w.last)
	if err != nil {
		w.look = nil
		if text := err.Error(); !w.unread || text != w.broken {
			w.unread, w.broken = true, text
			w.failed(err)
		}
		return
	}
	if w.look != nil && w.look.Serial != set.Serial && w.looks < int(w.o.Most/w.o.Quiet) {
		w.look = set
		w.looks++
		w.stir()
		return
	}
	w.look = nil
	if w.unread || !w.same(set) {
		w.unread, w.last = false, set
		w.on(set)
	}
}
