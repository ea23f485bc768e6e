package api

import (
	"context"
	"io"
	"net/http"
	"strconv"
	"strings"
	"time"

	"saltpeter/runner"
	"saltpeter/runner/ledger"
	"saltpeter/wsx/wire"
)

// Headers of an output's answer.
const (
	HeaderLength = "Saltpeter-Length" // bytes stored when the answer began
	HeaderState  = "Saltpeter-State"  // of the task when the answer began
)

// getOutput answers a task's output from an offset on, byte for byte, then what
// the server itself has to say (the closing line of a task whose wrapper could
// not write it). With follow it goes on until the task is over. An answer that
// cannot be finished is broken off, never ended: its reader asks again for what
// it lacks, by the number of bytes that it has.
func (s *Server) getOutput(w http.ResponseWriter, r *http.Request) error {
	offset, err := queryInt(r, "offset", 0)
	if err != nil {
		return err
	}
	follow, err := queryBool(r, "follow")
	if err != nil {
		return err
	}
	ctx, cancel := s.streaming(r)
	defer cancel()
	o := output{s: s, w: w, id: ledger.TaskID{Run: r.PathValue("run"), Machine: r.PathValue("machine")}, offset: offset}
	if follow {
		// Watch before the first look, so that nothing falls between the two.
		o.watch = s.o.Runner.Watch(ctx, watchBuffer)
	}
	task, err := s.o.Ledger.Task(ctx, o.id)
	if err != nil {
		return err
	}
	if err := o.open(); err != nil {
		return err
	}
	w.Header().Set("Content-Type", "application/octet-stream")
	w.Header().Set("Cache-Control", "no-store")
	w.Header().Set("X-Accel-Buffering", "no")
	w.Header().Set(HeaderLength, strconv.FormatInt(o.length, 10))
	w.Header().Set(HeaderState, string(task.State))
	w.WriteHeader(http.StatusOK)
	if r.Method == http.MethodHead {
		return nil
	}
	http.NewResponseController(w).SetWriteDeadline(time.Time{})
	if err := o.send(ctx, task, follow); err != nil {
		if ctx.Err() == nil {
			s.o.Log.Error("cannot read output", "run", o.id.Run, "machine", o.id.Machine, "err", err)
		}
		breakOff()
	}
	return nil
}

// output is one answer of a task's output.
type output struct {
	s      *Server
	w      http.ResponseWriter
	id     ledger.TaskID
	offset int64 // the next byte to be sent
	length int64 // bytes stored, when they were last counted
	watch  <-chan runner.Change
}

// open counts what is stored.
func (o *output) open() error {
	reader, err := o.s.o.Ledger.OpenOutput(o.id)
	if err != nil {
		return err
	}
	defer reader.Close()
	o.length, err = reader.Length()
	return err
}

// send writes the answer's body. Each time the task is looked at before its bytes
// are copied: what was stored before its end was recorded is all sent.
func (o *output) send(ctx context.Context, task *ledger.Task, follow bool) error {
	control := http.NewResponseController(o.w)
	for {
		if err := o.copy(); err != nil {
			return err
		}
		if !follow || task.State.Done() {
			break
		}
		if err := control.Flush(); err != nil {
			return err
		}
		err := o.wait(ctx)
		if err != nil {
			return err
		}
		if task, err = o.s.o.Ledger.Task(ctx, o.id); err != nil {
			return err
		}
	}
	var notes strings.Builder
	for _, note := range task.Notes {
		notes.WriteString(note.Text)
	}
	// They follow the bytes of the job: who has some of them gets the rest.
	has := min(max(o.offset-o.length, 0), int64(notes.Len()))
	_, err := io.WriteString(o.w, notes.String()[has:])
	return err
}

// copy sends what is stored from offset on.
func (o *output) copy() error {
	reader, err := o.s.o.Ledger.OpenOutput(o.id)
	if err != nil {
		return err
	}
	defer reader.Close()
	if o.length, err = reader.Length(); err != nil || o.length <= o.offset {
		return err
	}
	n, err := io.Copy(o.w, io.NewSectionReader(reader, o.offset, o.length-o.offset))
	o.offset += n
	if err == nil && o.offset < o.length {
		err = io.ErrUnexpectedEOF
	}
	return err
}

// lookAgain is how often a follower looks without having been told to.
const lookAgain = 5 * time.Second

// wait returns when the task may have changed. A watch that was dropped, since the
// client was slow to take what it was sent, is begun anew; something may have been
// missed then.
func (o *output) wait(ctx context.Context) error {
	again := time.NewTimer(lookAgain)
	defer again.Stop()
	for {
		select {
		case c, open := <-o.watch:
			if !open {
				o.watch = o.s.o.Runner.Watch(ctx, watchBuffer)
				return pause(ctx, 100*time.Millisecond) // where nobody tells anything any more, this is no race
			}
			if c.ID == o.id || c.Task != nil && c.Task.TaskID == o.id {
				return nil
			}
		case <-again.C:
			return nil
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

func pause(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// watchBuffer is how many changes a watcher may fall behind.
const watchBuffer = 1024

// OutputRow says from which offset on the bytes came when, and on which stream.
type OutputRow struct {
	Offset int64     `json:"offset"`
	At     time.Time `json:"at"`
	Stream string    `json:"stream"`
}

// getRows answers the times of a task's output, for --since and --timestamps.
func (s *Server) getRows(w http.ResponseWriter, r *http.Request) error {
	id := ledger.TaskID{Run: r.PathValue("run"), Machine: r.PathValue("machine")}
	if _, err := s.o.Ledger.Task(r.Context(), id); err != nil {
		return err
	}
	reader, err := s.o.Ledger.OpenOutput(id)
	if err != nil {
		return err
	}
	defer reader.Close()
	stored, err := reader.Rows()
	if err != nil {
		return err
	}
	rows := make([]OutputRow, 0, len(stored))
	for _, row := range stored {
		rows = append(rows, OutputRow{Offset: row.Offset, At: row.At, Stream: wire.StreamName(row.Stream)})
	}
	return writeJSON(w, http.StatusOK, map[string]any{"rows": rows})
}
