package report

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"syscall"
	"time"

	"saltpeter/runner/ledger"
)

// logFile is a text log that is being appended to.
type logFile struct {
	file *os.File
	out  *bufio.Writer
}

func (t *textLog) open(name string) (*logFile, error) {
	f, err := t.root.OpenFile(name, os.O_WRONLY|os.O_APPEND|os.O_CREATE|syscall.O_NONBLOCK, 0o640)
	if err != nil {
		return nil, err
	}
	return &logFile{file: f, out: bufio.NewWriterSize(f, 64<<10)}, nil
}

func (f *logFile) close() error { return errors.Join(f.out.Flush(), f.file.Close()) }

// blockOverhead is about what a block has beside its output.
const blockOverhead = 256

// logTime is how text logs write times, always in UTC.
func logTime(t time.Time) string { return t.UTC().Format("2006-01-02 15:04:05.000000+00:00") }

// writeBlock writes what one piece of news is in a text log. These lines are read
// by programs: they are as the existing program writes them, where it has any.
func writeBlock(ctx context.Context, w *bufio.Writer, l *ledger.Ledger, n ledger.News) error {
	at := logTime(n.At)
	switch n.Kind {
	case ledger.NewsStart:
		fmt.Fprintf(w, "###### Starting %s at %s ################\n", n.Run, at)
	case ledger.NewsEnd:
		fmt.Fprintf(w, "###### Finished %s at %s ################\n", n.Run, at)
	case ledger.NewsNoMachines:
		fmt.Fprintf(w, "!!!!!! No targets matched for %s !!!!!!\n", n.Run)
	case ledger.NewsSkipped:
		writeSkipped(w, n, at)
	case ledger.NewsMachineSkipped:
		fmt.Fprintf(w, "!!!!!! Not started %s on %s (%s) at %s !!!!!!\n", n.Run, n.Machine, n.Reason, at)
	case ledger.NewsMachineAmended:
		fmt.Fprintf(w, "!!!!!! Exit code of %s on %s turned out to be %d !!!!!!\n", n.Run, n.Machine, codeOf(n))
	case ledger.NewsMachineResult:
		return writeResult(ctx, w, l, n, at)
	}
	return nil // what could not be written shows when the file is closed
}

// writeSkipped writes why a due time has no run.
func writeSkipped(w *bufio.Writer, n ledger.News, at string) {
	switch n.Reason {
	case ledger.ReasonOverlap:
		fmt.Fprintf(w, "###### Overlap detected on %s at %s ################\n", n.Run, at)
	case ledger.ReasonMaintenance:
		fmt.Fprintf(w, "!!!!!! Maintenance, not started %s at %s !!!!!!\n", n.Run, at)
	default:
		fmt.Fprintf(w, "!!!!!! Not started %s (%s) at %s !!!!!!\n", n.Run, n.Reason, at)
	}
	if n.Count > 1 {
		fmt.Fprintf(w, "!!!!!! and so were %d more due times that follow it !!!!!!\n", n.Count-1)
	}
}

// writeResult writes the block of a machine, with all of its output.
func writeResult(ctx context.Context, w *bufio.Writer, l *ledger.Ledger, n ledger.News, at string) error {
	fmt.Fprintf(w, "########## %s from %s ################\n**** Exit Code %d ******\n", n.Machine, n.Run, codeOf(n))
	fold := folder{w: w}
	out, err := openOutput(ctx, l, n)
	if err == nil {
		_, err = io.Copy(&fold, out)
		out.Close()
	}
	if err != nil {
		if ctx.Err() != nil || fold.failed {
			return err
		}
		// The log goes on without it: one damaged file must not hold up all the others.
		fmt.Fprintf(&fold, "\n[its output cannot be read: %v]\n", err)
	}
	if err := fold.end(); err != nil {
		return err
	}
	_, err = fmt.Fprintf(w, "####### END %s from %s at %s #########\n", n.Machine, n.Run, at)
	return err
}

func codeOf(n ledger.News) int {
	if n.Code == nil {
		return 0
	}
	return *n.Code
}

// foldLine is how long a line may be for a carriage return to take it back.
const foldLine = 64 << 10

// folder passes text on with carriage returns folded: of a line that was written
// over itself, as progress bars are, only what a person saw at last is kept.
type folder struct {
	w      *bufio.Writer
	line   []byte // since the last line feed or carriage return
	back   bool   // a carriage return came: what follows takes line's place
	begun  bool   // a part of the line is written already, for it is too long
	failed bool   // writing failed, as against reading
}

func (f *folder) Write(p []byte) (int, error) {
	n := len(p)
	for len(p) > 0 {
		i := bytes.IndexAny(p, "\r\n")
		part := p
		if i >= 0 {
			part = p[:i]
		}
		f.add(part)
		if i < 0 {
			break
		}
		if p[i] == '\r' {
			f.back = true
		} else {
			f.back = false
			f.begun = false
			f.line = append(f.line, '\n')
			if err := f.flush(); err != nil {
				return 0, err
			}
		}
		p = p[i+1:]
	}
	if len(f.line) > foldLine {
		f.begun = true
		if err := f.flush(); err != nil {
			return 0, err
		}
	}
	return n, nil
}

func (f *folder) add(part []byte) {
	if len(part) == 0 {
		return
	}
	if f.back {
		f.line, f.back = f.line[:0], false
	}
	f.line = append(f.line, part...)
}

func (f *folder) flush() error {
	_, err := f.w.Write(f.line)
	f.line = f.line[:0]
	f.failed = f.failed || err != nil
	return err
}

// end writes what is left, as a whole line.
func (f *folder) end() error {
	if len(f.line) > 0 || f.begun {
		f.line = append(f.line, '\n')
	}
	return f.flush()
}
