package wrapper

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"saltpeter/wsx/wire"
)

const (
	logFileMax = 1 << 20 // a log file is put aside as .1 once it is larger
	logLineMax = 2000
	logTaskMax = 256 << 10 // what one wrapper may add
)

// taskLog is the wrapper's log: a file for each job, opened with the first line,
// and standard error for as long as somebody reads it. It never makes anybody
// wait: standard error is written by a goroutine of its own, which a reader that
// stopped reading holds up alone.
type taskLog struct {
	dir, name, prefix string
	off, debug        bool

	mu      sync.Mutex
	file    *os.File
	failed  bool
	written int
	lines   chan string // to standard error; nil = nobody there
	done    chan struct{}
}

func newTaskLog(o *wire.Order, dir string, stderr io.Writer) *taskLog {
	l := &taskLog{
		dir: dir, name: safeName(o.Job) + ".log",
		prefix: fmt.Sprintf("run=%s pid=%d ", o.Run, os.Getpid()),
		off:    o.LogLevel == "off", debug: o.LogLevel == "debug",
	}
	if stderr != nil {
		l.lines, l.done = make(chan string, 64), make(chan struct{})
		go l.writeStderr(l.lines, stderr)
	}
	return l
}

func (l *taskLog) writeStderr(lines <-chan string, w io.Writer) {
	defer close(l.done)
	for line := range lines {
		if _, err := io.WriteString(w, line); err != nil {
			break
		}
	}
	for range lines {
	}
}

// Printf logs what is worth knowing of a healthy wrapper.
func (l *taskLog) Printf(format string, args ...any) {
	if !l.off {
		l.print(fmt.Sprintf(format, args...))
	}
}

func (l *taskLog) Debugf(format string, args ...any) {
	if l.debug {
		l.print(fmt.Sprintf(format, args...))
	}
}

func (l *taskLog) print(line string) {
	if len(line) > logLineMax {
		line = line[:logLineMax] + "…"
	}
	line = strings.ReplaceAll(strings.TrimRight(line, "\n"), "\n", "\\n") + "\n"
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.lines != nil {
		select {
		case l.lines <- line:
		default:
		}
	}
	l.toFile(line)
}

func (l *taskLog) toFile(line string) {
	if l.file == nil && !l.failed && l.dir != "" {
		l.failed = l.open() != nil
	}
	if l.file == nil || l.written > logTaskMax {
		return
	}
	n, err := l.file.WriteString(time.Now().Format("2006-01-02T15:04:05.000Z07:00 ") + l.prefix + line)
	l.written += n
	if l.written > logTaskMax && err == nil {
		_, _ = l.file.WriteString(l.prefix + "this wrapper has logged enough and is silent from here on\n")
	}
}

// open needs mu. Many wrappers append to one file; whoever finds it too long
// puts it aside.
func (l *taskLog) open() error {
	if err := os.MkdirAll(l.dir, 0o700); err != nil {
		return err
	}
	path := filepath.Join(l.dir, l.name)
	if info, err := os.Stat(path); err == nil && info.Size() > logFileMax {
		_ = os.Rename(path, path+".1")
	}
	var err error
	l.file, err = os.OpenFile(path, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	return err
}

// Close ends the log. What standard error has not taken after a moment is
// dropped; its goroutine may stay behind in a write that never ends.
func (l *taskLog) Close() {
	l.mu.Lock()
	lines := l.lines
	l.lines = nil
	if l.file != nil {
		l.file.Close()
		l.file, l.failed = nil, true
	}
	l.mu.Unlock()
	if lines != nil {
		close(lines)
		select {
		case <-l.done:
		case <-time.After(100 * time.Millisecond):
		}
	}
}

// Slog is the log for rooms that know log/slog: all of it is detail.
func (l *taskLog) Slog() *slog.Logger { return slog.New(slogHandler{l, ""}) }

type slogHandler struct {
	log   *taskLog
	attrs string
}

func (h slogHandler) Enabled(_ context.Context, level slog.Level) bool {
	return !h.log.off && (h.log.debug || level >= slog.LevelError)
}

func (h slogHandler) Handle(_ context.Context, r slog.Record) error {
	line := r.Message + h.attrs
	r.Attrs(func(a slog.Attr) bool {
		line += " " + a.String()
		return true
	})
	h.log.print(line)
	return nil
}

func (h slogHandler) WithAttrs(attrs []slog.Attr) slog.Handler {
	for _, a := range attrs {
		h.attrs += " " + a.String()
	}
	return h
}

func (h slogHandler) WithGroup(string) slog.Handler { return h }
