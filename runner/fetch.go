package runner

import (
	"context"
	"fmt"
	"path"
	"time"

	"saltpeter/runner/launch"
	"saltpeter/runner/ledger"
	"saltpeter/wsx/wire"
)

// The spool on the machine: files output.000000, output.000001 …, whose
// concatenation is the output; "base" says which is the first that is kept and at
// which offset it begins. Numbers may be missing where bytes were given up.
const (
	fetchPiece  = 1 << 20
	fetchMisses = 8 // numbers that may be missing in a row
)

// fetchOutput brings the output that the wrapper could not deliver, from the
// offset that is stored on. What cannot be had is said in the log: the end of the
// task is worth more than the rest of its output.
func (t *task) fetchOutput(ctx context.Context, id *wire.Identity, length *int64) {
	if id == nil {
		id = t.record().Identity
	}
	transport, m := t.road()
	if id == nil || id.Spool == "" || transport == nil {
		return
	}
	stored, err := t.openOutput()
	if err != nil || length != nil && stored >= *length {
		return
	}
	f := fetcher{t: t, transport: transport, machine: m, dir: id.Spool, length: length}
	if err := f.run(ctx, stored); err != nil {
		t.log().Warn("cannot fetch the rest of the output", "err", err)
	}
}

type fetcher struct {
	t         *task
	transport launch.Transport
	machine   launch.Machine
	dir       string
	length    *int64
}

func (f *fetcher) read(ctx context.Context, name string, offset, most int64) ([]byte, error) {
	limit, cancel := context.WithTimeout(ctx, f.t.ts.pace.ask)
	defer cancel()
	return f.transport.Fetch(limit, f.machine, path.Join(f.dir, name), offset, most)
}

// run reads one file after the other.
func (f *fetcher) run(ctx context.Context, stored int64) error {
	number, at := 0, int64(0)
	if base, err := f.read(ctx, "base", 0, 64); err == nil && len(base) > 0 {
		if _, err := fmt.Sscanf(string(base), "%d %d", &number, &at); err != nil {
			return fmt.Errorf("cannot read where the spool begins: %w", err)
		}
	}
	for misses := 0; misses < fetchMisses; number++ {
		size, err := f.file(ctx, fmt.Sprintf("output.%06d", number), at, &stored)
		if err != nil {
			return err
		}
		if size == 0 {
			misses++
			continue
		}
		misses = 0
		at += size
		if f.length != nil && stored >= *f.length {
			break
		}
	}
	return nil
}

// file stores what one file has beyond the stored length, and returns its size; 0
// where there is no such file.
func (f *fetcher) file(ctx context.Context, name string, at int64, stored *int64) (int64, error) {
	within := int64(0)
	for {
		data, err := f.read(ctx, name, within, fetchPiece)
		if err != nil && within == 0 {
			return 0, nil // missing, or not to be had: the same for us
		}
		if err != nil || len(data) == 0 {
			return within, err
		}
		now := time.Now()
		*stored, err = f.t.store(func(o *ledger.Output) error {
			_, err := o.Append(now, at+within, wire.Stdout, data)
			return err
		})
		if err != nil {
			return within, err
		}
		within += int64(len(data))
		if len(data) < fetchPiece {
			return within, nil
		}
	}
}
