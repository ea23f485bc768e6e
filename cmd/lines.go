package cmd

import (
	"bytes"
	"context"
	"io"
	"sync"
	"time"

	"saltpeter/runner/api"
	"saltpeter/runner/ledger"
)

// mostLine bounds what is held of one line.
const mostLine = 1 << 20

// lineWriter lets several tasks share standard output, a whole piece at a time.
type lineWriter struct {
	mu sync.Mutex
	w  io.Writer
}

func (l *lineWriter) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.w.Write(p)
}

// sink takes a task's bytes. Without prefix, filter and times they pass as they
// are; otherwise line by line.
func (f *follower) sink(ctx context.Context, id ledger.TaskID, offset int64) *sink {
	s := &sink{f: f, id: id, ctx: ctx, at: offset}
	s.plain = !f.prefix && f.grep == nil && !f.timestamps
	if f.prefix {
		s.head = printable(id.Machine) + " | "
	}
	return s
}

type sink struct {
	f     *follower
	id    ledger.TaskID
	ctx   context.Context
	plain bool
	head  string
	line  []byte
	start int64 // offset of the line that is being gathered
	at    int64
	rows  []api.OutputRow
	err   error
}

func (s *sink) Write(p []byte) (int, error) {
	if s.plain {
		n, err := s.f.out.Write(p)
		s.err = err
		return n, err
	}
	for rest := p; len(rest) > 0; {
		if len(s.line) == 0 {
			s.start = s.at
		}
		piece, after, whole := bytes.Cut(rest, []byte{'\n'})
		s.line = append(s.line, piece...)
		s.at += int64(len(piece))
		rest = after
		if whole {
			s.at++
		}
		if whole || len(s.line) >= mostLine {
			s.emit()
		}
	}
	return len(p), s.err
}

// emit prints the line that was gathered.
func (s *sink) emit() {
	line := s.line
	s.line = nil
	if s.f.grep != nil && !s.f.grep.Match(line) {
		return
	}
	var b bytes.Buffer
	if s.f.timestamps {
		b.WriteString(s.time().Local().Format("2006-01-02T15:04:05.000Z07:00") + " ")
	}
	b.WriteString(s.head)
	b.Write(line)
	b.WriteByte('\n')
	if _, err := s.f.out.Write(b.Bytes()); err != nil {
		s.err = err
	}
}

func (s *sink) flush() {
	if len(s.line) > 0 {
		s.emit()
	}
}

// time is when the line came, as the server has it on record.
func (s *sink) time() time.Time {
	if n := len(s.rows); n == 0 || s.rows[n-1].Offset < s.start {
		if rows, err := s.f.client.Rows(s.ctx, s.id); err == nil {
			s.rows = rows
		}
	}
	var at time.Time
	for _, r := range s.rows {
		if r.Offset > s.start {
			break
		}
		at = r.At
	}
	return at
}
