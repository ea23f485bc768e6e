package report

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net/http"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"saltpeter/runner/ledger"
)

// Notify is who is told of a job's runs.
type Notify struct {
	Failure, Recovery bool
	Command, Webhook  string
}

// Bounds of telling people. A webhook that is down must not hold up what the
// others are to be told for long, so it is given up after some tries.
const (
	notifyAtOnce  = 8
	notifyBatch   = 64
	notifyTries   = 4
	webhookWithin = 10 * time.Second
	commandWithin = time.Minute
)

// Events that people are told of.
const (
	eventFailure  = "failure"
	eventRecovery = "recovery"
)

// notice is what a webhook and a command are given, as JSON. Output is not in it:
// it may hold secrets, and webhooks lead out of the house.
type notice struct {
	Event    string         `json:"event"` // failure or recovery
	Text     string         `json:"text"`  // one line for people; chats show it
	Job      string         `json:"job"`
	Group    string         `json:"group"`
	Run      string         `json:"run"`
	Due      time.Time      `json:"due"`
	Ended    time.Time      `json:"ended"`
	Machines int            `json:"machines"` // that it ran on
	Failed   []noticeFailed `json:"failed"`

	to Notify
}

// noticeFailed is a machine on which a run did not succeed.
type noticeFailed struct {
	Machine  string `json:"machine"`
	State    string `json:"state"`
	ExitCode *int   `json:"exit_code,omitempty"`
	Reason   string `json:"reason,omitempty"`
}

// notifier tells people when a run fails, and when the next one does not.
type notifier struct {
	ledger *ledger.Ledger
	log    *slog.Logger
	client *http.Client
	first  time.Duration // before the second try

	pending []notice
	gaveUp  atomic.Int64

	mu   sync.Mutex
	jobs map[string]Notify
	warn string
}

func newNotifier(o Options) *notifier {
	t := &notifier{ledger: o.Ledger, log: o.Log, first: o.Retry, client: &http.Client{Timeout: webhookWithin,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		Transport:     &http.Transport{Proxy: http.ProxyFromEnvironment, MaxIdleConnsPerHost: 1, IdleConnTimeout: 10 * time.Second}}}
	if t.first <= 0 {
		t.first = retryFirst
	}
	return t
}

func (t *notifier) set(s Settings) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	changed := !maps.Equal(t.jobs, s.Notify)
	t.jobs = s.Notify
	return changed
}

func (t *notifier) to() string { return "" }

func (t *notifier) warning() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.warn
}

func (t *notifier) ready() error         { return nil }
func (t *notifier) restore(string) error { return nil }
func (t *notifier) again(string) bool    { return true }
func (t *notifier) refused() int64       { return t.gaveUp.Load() }
func (t *notifier) close()               { t.client.CloseIdleConnections() }

// prepare finds what people are to be told of: of each job one thing at a time,
// so that its failure and its recovery do not overtake each other.
func (t *notifier) prepare(ctx context.Context, list []ledger.News, _ func() error) (n int, state string, err error) {
	t.pending = nil
	seen := map[string]bool{}
	for n < len(list) && len(t.pending) < notifyBatch {
		news := list[n]
		t.mu.Lock()
		to, wanted := t.jobs[news.Job]
		t.mu.Unlock()
		if wanted && news.Kind == ledger.NewsEnd {
			note, is, err := t.noticeOf(ctx, news, to)
			switch {
			case err != nil:
				return 0, "", err
			case is && seen[news.Job]:
				return n, "", nil
			case is:
				seen[news.Job] = true
				t.pending = append(t.pending, note)
			}
		}
		n++
	}
	return n, "", nil
}

// noticeOf looks whether the end of a run is something that people are to know.
func (t *notifier) noticeOf(ctx context.Context, news ledger.News, to Notify) (notice, bool, error) {
	run, err := t.ledger.Run(ctx, news.Run)
	if errors.Is(err, ledger.ErrNoRun) {
		return notice{}, false, nil // pruned since
	}
	if err != nil {
		return notice{}, false, err
	}
	n := notice{Job: run.Job, Group: run.Group, Run: run.ID, Due: run.Due, Ended: news.At, Failed: []noticeFailed{}, to: to}
	for _, task := range run.Tasks {
		if task.State == ledger.Skipped {
			continue
		}
		n.Machines++
		if task.State != ledger.Succeeded {
			n.Failed = append(n.Failed, noticeFailed{Machine: task.Machine, State: string(task.State), ExitCode: task.ExitCode, Reason: task.Reason})
		}
	}
	switch {
	case n.Machines == 0:
		return n, false, nil
	case len(n.Failed) > 0:
		n.Event = eventFailure
		n.Text = fmt.Sprintf("job %s failed on %s: see `saltpeter logs %s`", n.Job, n.where(), n.Run)
		return n, to.Failure, nil
	case !to.Recovery:
		return n, false, nil
	}
	n.Event = eventRecovery
	n.Text = fmt.Sprintf("job %s works again: run %s", n.Job, n.Run)
	failed, err := t.failedBefore(ctx, run)
	return n, failed, err
}

// where names the machines that failed, some of them.
func (n *notice) where() string {
	const most = 5
	var parts []string
	for _, f := range n.Failed[:min(len(n.Failed), most)] {
		part := f.Machine + " (" + strings.ReplaceAll(f.State, "_", " ")
		if f.ExitCode != nil {
			part += fmt.Sprint(", exit code ", *f.ExitCode)
		}
		parts = append(parts, part+")")
	}
	text := strings.Join(parts, ", ")
	if more := len(n.Failed) - most; more > 0 {
		text += fmt.Sprintf(" and %d more", more)
	}
	return fmt.Sprintf("%s, %d of %d machines", text, len(n.Failed), n.Machines)
}

// failedBefore reports whether the run before this one, of those that ran
// anywhere, did not succeed.
func (t *notifier) failedBefore(ctx context.Context, run *ledger.Run) (bool, error) {
	page, err := t.ledger.Runs(ctx, ledger.RunFilter{Job: run.Job, Until: run.Due.Add(time.Nanosecond), Limit: 50})
	if err != nil {
		return false, err
	}
	i := slices.IndexFunc(page.Runs, func(r ledger.Run) bool { return r.ID == run.ID })
	for _, before := range page.Runs[i+1:] {
		ran, failed := false, false
		for _, task := range before.Tasks {
			switch {
			case task.State == ledger.Skipped:
			case !task.State.Done() || task.State == ledger.Lost: // it goes on beside this one
			default:
				ran = true
				failed = failed || task.State != ledger.Succeeded
			}
		}
		if ran {
			return failed, nil
		}
	}
	return false, nil
}

// send tells everybody, some at a time. What cannot be told is given up after some
// tries, and counted; only the end of the server leaves it for the next one.
func (t *notifier) send(ctx context.Context, _ []ledger.News) error {
	var wg sync.WaitGroup
	slots := make(chan struct{}, notifyAtOnce)
	for _, n := range t.pending {
		slots <- struct{}{}
		wg.Go(func() {
			defer func() { <-slots }()
			t.tell(ctx, n)
		})
	}
	wg.Wait()
	return ctx.Err()
}

// tell tells of one event, by each way that is wanted.
func (t *notifier) tell(ctx context.Context, n notice) {
	body, err := json.Marshal(n)
	if err != nil {
		t.log.Error("cannot tell of a run", "job", n.Job, "run", n.Run, "err", err)
		return
	}
	for _, way := range []struct {
		wanted bool
		by     func() error
	}{
		{n.to.Webhook != "", func() error { return t.post(ctx, n.to.Webhook, body) }},
		{n.to.Command != "", func() error { return runCommand(ctx, n, body) }},
	} {
		if way.wanted {
			t.try(ctx, n, way.by)
		}
	}
}

func (t *notifier) try(ctx context.Context, n notice, by func() error) {
	var err error
	wait := t.first
	for i := range notifyTries {
		if i > 0 {
			timer := time.NewTimer(wait)
			select {
			case <-ctx.Done():
			case <-timer.C:
			}
			timer.Stop()
			wait *= 5
		}
		if ctx.Err() != nil {
			return
		}
		if err = by(); err == nil {
			break
		}
	}
	if ctx.Err() != nil {
		return
	}
	warn := ""
	if err != nil {
		t.gaveUp.Add(1)
		warn = fmt.Sprintf("nobody was told of the %s of %s: %v", n.Event, n.Run, err)
		t.log.Error("cannot tell of a run; it is given up", "job", n.Job, "run", n.Run, "event", n.Event, "err", err)
	}
	t.mu.Lock()
	t.warn = warn
	t.mu.Unlock()
}
