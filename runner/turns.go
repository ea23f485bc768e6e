package runner

import (
	"context"
	"runtime"
	"sync"
	"time"

	"saltpeter/runner/launch"
)

// Kills of tasks on this machine take turns: its processors are those of all the
// wrappers and ours. Hundreds that look for their processes at once would all be
// late with their word, and a late word calls for kill.sh, which makes it worse.
// A turn is short: a job that takes its grace holds up nobody.

// killsAtOnce is how many turns there are.
func killsAtOnce() int { return max(8, 4*runtime.NumCPU()) }

// takeTurn waits until a kill may be sent; giving the turn back more than once
// does nothing, and after a moment it ends by itself. false: ctx ended first.
func (ts *tasks) takeTurn(ctx context.Context, m launch.Machine) (give func(), ok bool) {
	if m.Transport != "local" {
		return func() {}, true
	}
	if !ts.turns.take(ctx) {
		return nil, false
	}
	give = sync.OnceFunc(ts.turns.give)
	time.AfterFunc(ts.pace.turn, give)
	return give, true
}

// overTurn gives the turn of a kill back: its answer is there. The lock is held.
func (k *killing) overTurn() {
	if k.turn != nil {
		k.turn()
		k.turn = nil
	}
}
