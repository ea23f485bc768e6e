package runner

import (
	"context"
	"time"
)

// pace is every duration that a task's life depends on. Tests hurry it.
type pace struct {
	tick      time.Duration // how often silence and due questions are looked for
	silence   time.Duration // without a frame: disconnected, and the other road is asked
	comeback  time.Duration // how long wrappers get to come back after a restart
	recheck   time.Duration // the first pause between two questions; it doubles
	slowest   time.Duration // up to this
	answer    time.Duration // how long a wrapper has for its word that a kill came
	turn      time.Duration // the longest that a kill keeps the next one on this machine waiting
	complete  time.Duration // how long the end may follow the report that all is gone
	connect   time.Duration // how long a freshly started wrapper has to connect before a kill goes elsewhere
	identity  time.Duration // how long the identity that a start returned may wait to be recorded with what the wrapper says itself
	person    time.Duration // by when a person who kills has an answer, unless grace is longer
	lostAfter time.Duration // where the job does not say
	start     time.Duration // the longest that one Transport.Start may take
	ask       time.Duration // the longest that a check may take
	retry     time.Duration // the first pause before a kill is tried again; it doubles up to slowest
	margin    time.Duration // after a timeout that a silent wrapper should have enforced
	outputs   time.Duration // an output file that nothing came for is closed
	late      time.Duration // how long tokens live on after the end
	foreign   time.Duration // how long a job that another server started is followed
	first     time.Duration // how long a connection without a token may take to say whose it is
	yield     time.Duration // how long it may be silent before it makes room for another
	restart   time.Duration // a task that certainly never started is started by a new server, if it was launched no longer ago
}

var defaultPace = pace{
	tick:      time.Second,
	silence:   15 * time.Second,
	comeback:  8 * time.Second,
	recheck:   5 * time.Second,
	slowest:   time.Minute,
	answer:    2 * time.Second,
	turn:      250 * time.Millisecond,
	complete:  500 * time.Millisecond,
	connect:   2 * time.Second,
	identity:  200 * time.Millisecond,
	person:    14 * time.Second,
	lostAfter: 5 * time.Minute,
	start:     time.Minute,
	ask:       30 * time.Second,
	retry:     time.Second,
	margin:    5 * time.Second,
	outputs:   10 * time.Second,
	late:      24 * time.Hour,
	foreign:   7 * 24 * time.Hour,
	first:     15 * time.Second,
	yield:     7 * time.Second,
	restart:   10 * time.Minute,
}

// slots bounds how many do something at once.
type slots chan struct{}

// take waits for a slot; false if ctx ends first.
func (s slots) take(ctx context.Context) bool {
	select {
	case s <- struct{}{}:
		return true
	case <-ctx.Done():
		return false
	}
}

func (s slots) give() { <-s }

// pause waits; false if ctx ends first.
func pause(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}
