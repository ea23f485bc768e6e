package api

import (
	"errors"
	"io"
	"io/fs"
	"net/http"
	"strconv"
	"time"

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
// not write it). With follow it goes on until the task is over.
func (s *Server) getOutput(w http.ResponseWriter, r *http.Request) error {
	id := ledger.TaskID{Run: r.PathValue("run"), Machine: r.PathValue("machine")}
	offset, err := queryInt(r, "offset", 0)
	if err != nil {
		return err
	}
	follow := r.URL.Query().Get("follow") != "" && r.URL.Query().Get("follow") != "false"
	task, err := s.o.Ledger.Task(r.Context(), id)
	if err != nil {
		return err
	}
	// Watch before the first look, so that nothing falls between the two.
	var changed <-chan struct{}
	if follow && !task.State.Done() {
		watch, stop := s.watchTask(r, id)
		defer stop()
		changed = watch
		if task, err = s.o.Ledger.Task(r.Context(), id); err != nil {
			return err
		}
	}
	w.Header().Set("Content-Type", "application/octet-stream")
	w.Header().Set("Cache-Control", "no-store")
	w.Header().Set("X-Accel-Buffering", "no")
	w.Header().Set(HeaderLength, strconv.FormatInt(task.Length, 10))
	w.Header().Set(HeaderState, string(task.State))
	w.WriteHeader(http.StatusOK)
	control := http.NewResponseController(w)
	for {
		if offset, err = s.copyOutput(w, id, offset); err != nil {
			return nil // the status line is out: the broken stream is the answer
		}
		control.Flush()
		if task.State.Done() || changed == nil {
			break
		}
		select {
		case _, open := <-changed:
			if !open {
				changed = nil
			}
		case <-r.Context().Done():
			return nil
		}
		if task, err = s.o.Ledger.Task(r.Context(), id); err != nil {
			return nil
		}
	}
	for _, note := range task.Notes {
		io.WriteString(w, note.Text)
	}
	return nil
}

// copyOutput writes what is stored from offset on and returns where it ended.
func (s *Server) copyOutput(w io.Writer, id ledger.TaskID, offset int64) (int64, error) {
	reader, err := s.o.Ledger.OpenOutput(id)
	if errors.Is(err, fs.ErrNotExist) {
		return offset, nil // it has printed nothing yet
	}
	if err != nil {
		return offset, err
	}
	defer reader.Close()
	length, err := reader.Length()
	if err != nil || length <= offset {
		return offset, err
	}
	n, err := io.Copy(w, io.NewSectionReader(reader, offset, length-offset))
	return offset + n, err
}

// watchTask returns a channel that gets a value after the task changed and is
// closed when the watch is over. A watcher that was too slow gets a new watch,
// and a value, since it may have missed something.
func (s *Server) watchTask(r *http.Request, id ledger.TaskID) (<-chan struct{}, func()) {
	changed := make(chan struct{}, 1)
	done := make(chan struct{})
	ctx := r.Context()
	watch := s.o.Runner.Watch(ctx, watchBuffer)
	poke := func() {
		select {
		case changed <- struct{}{}:
		default:
		}
	}
	stopped := make(chan struct{})
	go func() {
		defer close(stopped)
		defer close(changed)
		for {
			select {
			case c, open := <-watch:
				if !open {
					if ctx.Err() != nil {
						return
					}
					watch = s.o.Runner.Watch(ctx, watchBuffer)
					poke()
					continue
				}
				if c.ID == id || c.Task != nil && c.Task.TaskID == id {
					poke()
				}
			case <-ctx.Done():
				return
			case <-done:
				return
			}
		}
	}()
	return changed, func() { close(done); <-stopped }
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
	rows := []OutputRow{}
	reader, err := s.o.Ledger.OpenOutput(id)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if err == nil {
		defer reader.Close()
		stored, err := reader.Rows()
		if err != nil {
			return err
		}
		for _, row := range stored {
			rows = append(rows, OutputRow{Offset: row.Offset, At: row.At, Stream: wire.StreamName(row.Stream)})
		}
	}
	return writeJSON(w, http.StatusOK, map[string]any{"rows": rows})
}
