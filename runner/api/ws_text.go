package api

import (
	"encoding/json"
	"errors"
	"io"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"saltpeter/runner"
	"saltpeter/runner/ledger"
)

const (
	// chunkBytes is how much output one frame carries at most.
	chunkBytes = 64 << 10
	// measureBytes is how far ahead an output is counted in one go.
	measureBytes = 64 << 20
	// readerIdle is how long an output's files stay open without being read.
	readerIdle = 10 * time.Second
)

// text is one task's output as all pages share it: where its bytes are read, and
// how many code units they make. Nothing of the output itself is kept.
type text struct {
	id    ledger.TaskID
	book  *ledger.Ledger
	grown atomic.Int64 // bytes stored, as far as one was told
	stale atomic.Bool  // something may have been missed: look

	mu       sync.Mutex
	reader   *ledger.Reader
	used     time.Time
	length   int64 // bytes stored, when one looked
	measured int64 // of them counted
	units    int64 // code units of those
}

func newText(book *ledger.Ledger, id ledger.TaskID) *text {
	t := &text{id: id, book: book}
	t.stale.Store(true)
	return t
}

// tell takes the news that so many bytes are stored.
func (t *text) tell(length int64) {
	for {
		old := t.grown.Load()
		if length <= old || t.grown.CompareAndSwap(old, length) {
			return
		}
	}
}

// whole is an output as it is at one moment: its bytes, behind them what the
// server itself has to say, and how many code units that makes.
type whole struct {
	length int64 // bytes stored
	notes  string
	final  bool  // the task is over: nothing follows
	units  int64 // of all of it; too many rather than too few while it is being counted
}

func (w *whole) end() int64 { return w.length + int64(len(w.notes)) }

// over reports whether nothing more comes of a task: its end is a true one and
// nothing outlives it.
func over(t *runner.TaskStatus) bool {
	return t.State.Done() && t.State != ledger.Lost && t.Leftover == 0
}

// now measures an output. The task must have been looked at before: what was
// stored before its end was recorded is all there.
func (t *text) now(task *runner.TaskStatus) (whole, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.stale.Swap(false) {
		if err := t.look(); err != nil {
			t.stale.Store(true)
			return whole{}, err
		}
	}
	t.length = max(t.length, t.grown.Load())
	w := whole{length: t.length, final: over(task)}
	if w.final {
		var notes strings.Builder
		for _, note := range task.Notes {
			notes.WriteString(note.Text)
		}
		w.notes = notes.String()
	}
	tail, err := t.measure()
	if err != nil {
		return whole{}, err
	}
	w.units = t.units
	switch rest := t.length - t.measured; {
	case rest != int64(len(tail)):
		w.units += rest + int64(len(w.notes)) // no character has more units than bytes
	case w.final:
		_, units := countUnits(append(tail, w.notes...), true)
		w.units += units
	}
	return w, nil
}

// look asks the files how long the output is. The lock is held.
func (t *text) look() error {
	if err := t.open(); err != nil {
		return err
	}
	length, err := t.reader.Length()
	if err == nil {
		t.length = max(t.length, length)
	}
	return err
}

func (t *text) open() error {
	t.used = time.Now()
	if t.reader != nil {
		return nil
	}
	reader, err := t.book.OpenOutput(t.id)
	if err == nil {
		t.reader = reader
	}
	return err
}

// measure counts on. It returns the bytes of a character that is not complete at
// the end, if it came that far. The lock is held.
func (t *text) measure() (tail []byte, err error) {
	var buf []byte
	for done := 0; t.measured < t.length && done < measureBytes; {
		if buf == nil {
			buf = make([]byte, min(256<<10, t.length-t.measured))
		}
		part := buf[:min(int64(len(buf)), t.length-t.measured)]
		if err := t.read(part, t.measured); err != nil {
			return nil, err
		}
		used, units := countUnits(part, false)
		t.measured, t.units, done = t.measured+int64(used), t.units+units, done+used
		if t.measured+int64(len(part)-used) == t.length {
			return append([]byte(nil), part[used:]...), nil
		}
	}
	return nil, nil
}

// read fills p from an offset. The lock is held.
func (t *text) read(p []byte, offset int64) error {
	if err := t.open(); err != nil {
		return err
	}
	n, err := t.reader.ReadAt(p, offset)
	if n == len(p) {
		return nil
	}
	if err == nil || errors.Is(err, io.EOF) {
		err = io.ErrUnexpectedEOF
	}
	return err
}

// rest closes files that nobody reads at the moment.
func (t *text) rest(idle time.Duration) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.reader != nil && time.Since(t.used) >= idle {
		t.reader.Close()
		t.reader = nil
	}
}

// point is a place between two characters of an output.
type point struct {
	offset int64 // in bytes
	pos    int64 // in code units
}

// chunk makes the frame that goes on at a point, and says where the next one does.
// It never goes beyond the byte stop, and never cuts a character. The same point
// comes back where there is nothing to say yet. scratch has room for chunkBytes.
func (t *text) chunk(frame, scratch []byte, w *whole, task *runner.TaskStatus, from point, stop int64) ([]byte, point, error) {
	end := min(from.offset+chunkBytes, stop, w.end())
	raw := scratch[:max(end-from.offset, 0)]
	if stored := min(end, w.length) - from.offset; stored > 0 {
		t.mu.Lock()
		err := t.read(raw[:stored], from.offset)
		t.mu.Unlock()
		if err != nil {
			return frame, from, err
		}
	}
	if begin := max(from.offset, w.length); begin < end {
		copy(raw[begin-from.offset:], w.notes[begin-w.length:])
	}
	frame = append(frame, `{"type":"output_chunk","cron":`...)
	frame = appendJSON(frame, task.Job)
	frame = append(frame, `,"machine":`...)
	frame = appendJSON(frame, task.Machine)
	frame = append(frame, `,"run_id":`...)
	frame = appendJSON(frame, task.Run)
	frame = append(frame, `,"position":`...)
	frame = appendJSON(frame, from.pos)
	frame = append(frame, `,"chunk":"`...)
	// At stop a chunk ended before: no character crosses it.
	frame, used, units := appendText(frame, raw, end == stop || w.final && end == w.end())
	next := point{from.offset + int64(used), from.pos + units}
	frame = append(frame, `","total_length":`...)
	frame = appendJSON(frame, max(w.units, next.pos))
	frame = append(frame, `,"is_complete":`...)
	frame = appendJSON(frame, w.final && next.offset == w.end())
	return append(frame, '}'), next, nil
}

// appendJSON appends a value that JSON can always hold.
func appendJSON(dst []byte, v any) []byte {
	data, err := json.Marshal(v)
	if err != nil {
		return append(dst, `""`...)
	}
	return append(dst, data...)
}
