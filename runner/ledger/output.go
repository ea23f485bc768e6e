package ledger

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"strconv"
	"sync"
	"time"

	"saltpeter/wsx/wire"
)

// outputBase is the path of a task's files without .out and .idx. They are named
// by number: job and machine may be called anything. No directory ever holds more
// than a thousand tasks.
func outputBase(dir string, num int64) string {
	return filepath.Join(dir, "output", strconv.FormatInt(num/1_000_000, 10), strconv.FormatInt(num/1000%1000, 10), strconv.FormatInt(num, 10))
}

// Output is the writing end of one task's output. It is safe for concurrent use,
// and a second one for the same task is the same: a new connection may come
// before the old one has let go.
type Output struct {
	file *outputFile
	once sync.Once
}

// Output opens (creating) a task's output for appending. The files are made by
// the first byte. ErrNoTask.
func (l *Ledger) Output(id TaskID) (*Output, error) {
	if l.write == nil {
		return nil, ErrReadOnly
	}
	num, err := l.taskKey(context.Background(), id)
	if err != nil {
		return nil, fmt.Errorf("cannot open output: %w", err)
	}
	l.outputLock.Lock()
	f := l.outputs[num]
	if f == nil {
		f = &outputFile{l: l, id: id, num: num}
		f.seq.Store(-1)
		l.outputs[num] = f
	}
	f.refs++
	l.outputLock.Unlock()

	o := &Output{file: f}
	f.mu.Lock()
	err = f.look()
	f.mu.Unlock()
	if err != nil {
		_ = o.Close()
		return nil, fmt.Errorf("cannot open output of %s on %s: %w", id.Run, id.Machine, explain(l.dir, err))
	}
	return o, nil
}

// do runs one call on the shared file.
func (o *Output) do(what string, call func(f *outputFile) error) error {
	f := o.file
	f.mu.Lock()
	defer f.mu.Unlock()
	if err := call(f); err != nil {
		if errors.Is(err, ErrGap) {
			return err
		}
		return fmt.Errorf("cannot %s output of %s on %s: %w", what, f.id.Run, f.id.Machine, explain(f.l.dir, err))
	}
	return nil
}

// Append stores data that begins at offset: what lies below Length is dropped,
// what would leave a hole is ErrGap and stores nothing. It returns the length
// after it. Written (survives SIGKILL of the server), not fsynced.
func (o *Output) Append(at time.Time, offset int64, stream byte, data []byte) (int64, error) {
	err := o.do("store", func(f *outputFile) error {
		length := f.length.Load()
		if offset > length {
			return fmt.Errorf("%w: it goes on at %d, stored are %d bytes", ErrGap, offset, length)
		}
		if offset < 0 {
			return fmt.Errorf("offset %d is below 0", offset)
		}
		old := length - offset
		if old >= int64(len(data)) {
			return nil
		}
		if err := f.ready(); err != nil {
			return err
		}
		return f.open(at, stream, data[old:])
	})
	return o.Length(), err
}

// AppendSeq stores the text of a second-generation frame: a seq at or below
// LastSeq is dropped, one above LastSeq+1 is ErrGap.
func (o *Output) AppendSeq(at time.Time, seq int64, stream byte, data []byte) error {
	return o.do("store", func(f *outputFile) error {
		last := f.seq.Load()
		if seq > last+1 {
			return fmt.Errorf("%w: it goes on with frame %d, stored is %d", ErrGap, seq, last)
		}
		if seq <= last {
			return nil
		}
		if err := f.ready(); err != nil {
			return err
		}
		return f.frame(at, seq, stream, data)
	})
}

// BeginAt says that the frames below seq were stored elsewhere: the first that is
// expected here is seq, and the output begins with a line that says so. That line is
// stored, since it stands before all of the job's own bytes: whoever numbers frames
// knows no offsets that it could shift. Once anything was stored it does nothing.
func (o *Output) BeginAt(at time.Time, seq int64, line string) error {
	return o.do("begin", func(f *outputFile) error {
		if f.seq.Load() >= 0 || f.length.Load() > 0 || seq <= 0 {
			return nil
		}
		if err := f.ready(); err != nil {
			return err
		}
		return f.frame(at, seq-1, wire.Stderr, []byte(line))
	})
}

// AppendText stores text without seq (first generation): always new.
func (o *Output) AppendText(at time.Time, stream byte, data []byte) error {
	return o.do("store", func(f *outputFile) error {
		if len(data) == 0 {
			return nil
		}
		if err := f.ready(); err != nil {
			return err
		}
		return f.open(at, stream, data)
	})
}

// Mark tells the time of the byte at offset.
func (o *Output) Mark(at time.Time, offset int64) error {
	return o.do("mark", func(f *outputFile) error {
		if offset < 0 {
			return fmt.Errorf("offset %d is below 0", offset)
		}
		if err := f.ready(); err != nil {
			return err
		}
		return f.row(sidecarRow{offset: offset, end: offset, at: nanos(at), seq: f.seq.Load(), kind: rowMark})
	})
}

// Length is how many bytes are stored without a hole.
func (o *Output) Length() int64 { return o.file.length.Load() }

// LastSeq is the seq of the last frame stored, -1 if none had one.
func (o *Output) LastSeq() int64 { return o.file.seq.Load() }

// Sync makes durable what was stored: both files, and their names.
func (o *Output) Sync() error { return o.do("keep", (*outputFile).sync) }

// Close closes the files when the last Output of the task is closed. It does not
// sync. Closing twice is harmless.
func (o *Output) Close() error {
	var err error
	o.once.Do(func() { err = o.file.release() })
	return err
}
