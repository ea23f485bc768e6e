package report

import (
	"context"
	"errors"
	"io"
	"strings"
	"time"

	"saltpeter/runner/ledger"
)

// output is all that a task printed, and what the server added to that.
type output struct {
	ctx    context.Context // that it is read under
	reader *ledger.Reader
	length int64
	notes  string
	all    io.Reader
}

const noLonger = "[its output is no longer kept]\n"

// openOutput opens the output of a machine's result. What was pruned has none any
// more, and says so.
func openOutput(ctx context.Context, l *ledger.Ledger, n ledger.News) (*output, error) {
	const tries = 3
	for i := 1; ; i++ {
		o, err := tryOutput(ctx, l, n)
		if err == nil || i == tries || ctx.Err() != nil {
			return o, err
		}
		time.Sleep(100 * time.Millisecond) // too many open files, say
	}
}

func tryOutput(ctx context.Context, l *ledger.Ledger, n ledger.News) (*output, error) {
	id := ledger.TaskID{Run: n.Run, Machine: n.Machine}
	task, err := l.Task(ctx, id)
	if errors.Is(err, ledger.ErrNoTask) {
		o := &output{ctx: ctx, notes: noLonger}
		o.all = strings.NewReader(o.notes)
		return o, nil
	}
	if err != nil {
		return nil, err
	}
	o := &output{ctx: ctx}
	for _, note := range task.Notes {
		o.notes += note.Text
	}
	if o.reader, err = l.OpenOutput(id); err != nil {
		return nil, err
	}
	if o.length, err = o.reader.Length(); err != nil {
		o.reader.Close()
		return nil, err
	}
	if o.length < task.Length {
		o.notes = noLonger + o.notes
	}
	o.all = io.MultiReader(io.NewSectionReader(o.reader, 0, o.length), strings.NewReader(o.notes))
	return o, nil
}

// Read ends with its context: a server that stops does not wait for gigabytes.
func (o *output) Read(p []byte) (int, error) {
	if err := o.ctx.Err(); err != nil {
		return 0, err
	}
	return o.all.Read(p)
}

func (o *output) Close() {
	if o.reader != nil {
		o.reader.Close()
	}
}

// lengthOf is about how long a piece of news is; it need not be right.
func lengthOf(ctx context.Context, l *ledger.Ledger, n ledger.News) int64 {
	if n.Kind != ledger.NewsMachineResult {
		return 0
	}
	reader, err := l.OpenOutput(ledger.TaskID{Run: n.Run, Machine: n.Machine})
	if err != nil {
		return 0
	}
	defer reader.Close()
	length, err := reader.Length()
	if err != nil {
		return 0
	}
	return length
}
