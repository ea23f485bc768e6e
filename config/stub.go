package config

import (
	"context"
	"time"
)

// STUB: signatures fixed, bodies to be built, file to be replaced by real ones.

func (p Problem) format() string { panic("stub") }

// Load reads a directory. prev, if not nil, gives the last good version of files
// that are broken now. It fails only where the directory itself cannot be read;
// everything else is in Set.Problems.
func Load(dir string, prev *Set) (*Set, error) { panic("stub") }

// WatchOptions: zero values are the documented ones (500 ms quiet, 5 s at most,
// rescan every 10 s).
type WatchOptions struct {
	Quiet, Most, Rescan time.Duration
}

// Watch calls on with each new Set that differs from the one before, starting
// from first, and failed when the directory cannot be read (once per change of
// the error). It returns when ctx ends. One goroutine calls both.
func Watch(ctx context.Context, dir string, first *Set, o WatchOptions, on func(*Set), failed func(error)) error {
	panic("stub")
}
