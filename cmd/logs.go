package cmd

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"regexp"
	"sync"
	"time"

	"github.com/spf13/cobra"

	"saltpeter/config/targets"
	"saltpeter/runner"
	"saltpeter/runner/api"
	"saltpeter/runner/ledger"
)

// logOptions are the flags of logs.
type logOptions struct {
	machine, since, grep string
	follow, timestamps   bool
	tail                 int
}

func (a *app) logsVerb() *cobra.Command {
	var o logOptions
	c := &cobra.Command{
		Use:   "logs JOB or RUN",
		Short: "The output of a run, finished or not; of a job: of its newest run",
		Long: `The output of a run, finished or not; of a job: of its newest run.

Byte for byte as the job wrote it where one machine ran it; on several, each line begins
with its machine.`,
		Example: `  saltpeter logs backup                  the newest run
  saltpeter logs backup_1700000000 -f    one run, followed to its end
  saltpeter logs backup --tail 100 --grep error`,
		Args:              cobra.ExactArgs(1),
		ValidArgsFunction: a.completeNames,
		RunE: func(c *cobra.Command, args []string) error {
			client, err := a.client()
			if err != nil {
				return err
			}
			defer client.Close()
			return a.logs(c.Context(), client, args[0], o)
		},
	}
	f := c.Flags()
	f.StringVarP(&o.machine, "machine", "m", "", "only of machines that match this glob")
	f.BoolVarP(&o.follow, "follow", "f", false, "go on until the end")
	f.StringVar(&o.since, "since", "", "only what came from then on: 10m, or a time like 2026-01-02T15:04:05Z")
	f.IntVar(&o.tail, "tail", -1, "only the last so many lines")
	f.StringVar(&o.grep, "grep", "", "only lines that match this expression (RE2)")
	f.BoolVar(&o.timestamps, "timestamps", false, "begin each line with the time at which it came")
	return c
}

func (a *app) logs(ctx context.Context, client *api.Client, name string, o logOptions) error {
	since, err := ago(o.since, time.Now())
	if err != nil {
		return err
	}
	var grep *regexp.Regexp
	if o.grep != "" {
		if grep, err = regexp.Compile(o.grep); err != nil {
			return usage("cannot use --grep: %v", err)
		}
	}
	run, err := newestRun(ctx, client, name)
	if err != nil {
		return err
	}
	tasks, err := ofMachines(run.Tasks, o.machine)
	if err != nil {
		return err
	}
	if len(tasks) == 0 {
		return &failure{code: exitNothing, stable: "no_such_task", text: fmt.Sprintf("%s has no task on such a machine", run.ID), hint: "`saltpeter status " + run.ID + "` shows its machines"}
	}
	f := follower{app: a, client: client, prefix: len(tasks) > 1, grep: grep, tail: o.tail, since: since, timestamps: o.timestamps, once: !o.follow, out: &lineWriter{w: a.out}}
	if !o.follow {
		for _, t := range tasks {
			if err := f.task(ctx, t.TaskID); err != nil {
				return err
			}
		}
		return nil
	}
	if err := f.all(ctx, tasks); err != nil {
		return interrupted(ctx, err)
	}
	return nil
}

// newestRun finds the run that a name means: the run of that name, else the
// newest one of the job.
func newestRun(ctx context.Context, client *api.Client, name string) (*ledger.Run, error) {
	run, err := client.Run(ctx, name)
	var answer *api.Error
	if err == nil || !errors.As(err, &answer) || answer.Code != runner.CodeNoSuchRun {
		return run, err
	}
	page, err := client.Runs(ctx, ledger.RunFilter{Job: name, Limit: 1})
	if err != nil {
		return nil, err
	}
	if len(page.Runs) == 0 {
		return nil, &failure{code: exitNothing, stable: "no_such_run", text: fmt.Sprintf("there is no run of %q", name), hint: "`saltpeter status` lists the jobs, `saltpeter history` the runs"}
	}
	return &page.Runs[0], nil
}

func ofMachines(tasks []ledger.Task, glob string) ([]ledger.Task, error) {
	if glob == "" {
		return tasks, nil
	}
	e, err := targets.Parse("glob", glob)
	if err != nil {
		return nil, usage("cannot use --machine: %v", err)
	}
	var kept []ledger.Task
	for _, t := range tasks {
		if e.Match(targets.Machine{Name: t.Machine}) {
			kept = append(kept, t)
		}
	}
	return kept, nil
}

// follower prints tasks' output to their ends.
type follower struct {
	app        *app
	client     *api.Client
	prefix     bool
	once       bool // what is there, without waiting for more
	grep       *regexp.Regexp
	tail       int // < 0 = all
	since      time.Time
	timestamps bool
	out        *lineWriter
}

// all follows every task side by side and returns when the last has ended.
func (f *follower) all(ctx context.Context, tasks []ledger.Task) error {
	var wg sync.WaitGroup
	errs := make([]error, len(tasks))
	if f.tail == 0 && f.grep == nil && f.since.IsZero() && !f.timestamps {
		f.tail = -1
	}
	for i, t := range tasks {
		wg.Go(func() { errs[i] = f.task(ctx, t.TaskID) })
	}
	wg.Wait()
	return errors.Join(errs...)
}

// task prints one task's output. A server that goes away meanwhile is waited
// for, and the output goes on at the byte where it broke off.
func (f *follower) task(ctx context.Context, id ledger.TaskID) error {
	offset, err := f.begin(ctx, id)
	if err != nil {
		return err
	}
	sink := f.sink(ctx, id, offset)
	defer sink.flush()
	patience := newPatience()
	for {
		stream, err := f.client.Output(ctx, id, offset, !f.once)
		if err == nil {
			var n int64
			n, err = io.Copy(sink, stream)
			stream.Close()
			offset += n
			if n > 0 {
				patience.reset()
			}
			if sink.err != nil {
				return sink.err
			}
		}
		if err == nil {
			if f.once {
				return nil
			}
			var run *ledger.Run
			if run, err = f.client.Run(ctx, id.Run); err == nil {
				for _, t := range run.Tasks {
					if t.Machine == id.Machine && t.State.Done() && offset >= t.Length {
						return nil
					}
				}
			}
		} else if errors.Is(err, io.ErrUnexpectedEOF) {
			err = &api.Unreachable{Addr: f.client.Addr(), Err: err}
		}
		if err != nil && f.once {
			return err
		}
		if err == nil {
			err = wait(ctx, 200*time.Millisecond, nil)
		} else {
			err = patience.bear(ctx, err)
		}
		if err != nil {
			return err
		}
	}
}

// begin finds the byte to begin at.
func (f *follower) begin(ctx context.Context, id ledger.TaskID) (int64, error) {
	var offset int64
	if !f.since.IsZero() {
		rows, err := f.client.Rows(ctx, id)
		if err != nil {
			return 0, err
		}
		offset = -1
		for _, r := range rows {
			if !r.At.Before(f.since) {
				offset = r.Offset
				break
			}
		}
		if offset < 0 {
			run, err := f.client.Run(ctx, id.Run)
			if err != nil {
				return 0, err
			}
			for _, t := range run.Tasks {
				if t.Machine == id.Machine {
					offset = t.Length
				}
			}
		}
	}
	if f.tail < 0 {
		return offset, nil
	}
	stream, err := f.client.Output(ctx, id, offset, false)
	if err != nil {
		return 0, err
	}
	defer stream.Close()
	from, err := tailOffset(stream, f.tail, f.grep)
	return offset + from, err
}

// tailOffset reads a stream and returns where its last n lines (that match)
// begin. It keeps n numbers, not the lines.
func tailOffset(r io.Reader, n int, grep *regexp.Regexp) (int64, error) {
	var starts []int64
	var at, start int64
	var line []byte
	buf := make([]byte, 64<<10)
	begun := false
	end := func() {
		if grep == nil || grep.Match(line) {
			starts = append(starts, start)
			if len(starts) > n {
				starts = starts[1:]
			}
		}
		line, begun = line[:0], false
	}
	for {
		m, err := r.Read(buf)
		for rest := buf[:m]; len(rest) > 0; {
			if !begun {
				start, begun = at, true
			}
			piece, after, whole := bytes.Cut(rest, []byte{'\n'})
			if grep != nil && len(line) < mostLine {
				line = append(line, piece...)
			}
			at += int64(len(piece))
			rest = after
			if whole {
				at++
				end()
			}
		}
		if errors.Is(err, io.EOF) {
			if begun {
				end()
			}
			if len(starts) == 0 {
				return at, nil
			}
			return starts[0], nil
		}
		if err != nil {
			return 0, err
		}
	}
}
