package api

import (
	"context"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"saltpeter/runner/ledger"
)

const (
	// timelineMost is how many entries one timeline has; the newest ones.
	timelineMost = 10000
	// timelineBefore is how long before the range a run may have begun to be looked
	// for; one that still goes on is found however old it is.
	timelineBefore = 24 * time.Hour
	timelineSpan   = 24 * time.Hour // of a timeline that names no start
)

// timelineAsk is what a page asks for. Dates are text as people type it, or null.
type timelineAsk struct {
	Start *string `json:"start_date"`
	End   *string `json:"end_date"`
	ID    any     `json:"id"`
}

// timelineEntry is the start or the end of a task. RetCode is "" at a start.
type timelineEntry struct {
	Cron     string `json:"cron"`
	Instance string `json:"job_instance"`
	Machine  string `json:"machine"`
	Kind     string `json:"msg_type"`
	RetCode  any    `json:"ret_code"`
	At       string `json:"timestamp"`
	at       time.Time
}

type timelineAnswer struct {
	ID      string          `json:"id"`
	Content []timelineEntry `json:"content"`
	Serial  int64           `json:"serial"`
}

// parseMoment reads a time as it is typed: now, now-5m, now-1d+2h, or a time of ISO
// 8601, in UTC where it says nothing else.
func parseMoment(text string, now time.Time) (time.Time, error) {
	plain := strings.Join(strings.Fields(text), "")
	if steps, ok := strings.CutPrefix(plain, "now"); ok {
		if t, ok := walk(now, steps); ok {
			return t, nil
		}
	}
	for _, layout := range []string{time.RFC3339Nano, "2006-01-02T15:04:05.999999999", "2006-01-02T15:04", "2006-01-02"} {
		if t, err := time.Parse(layout, plain); err == nil {
			return t, nil
		}
	}
	return time.Time{}, badRequest("%q is no time: write one like 2026-01-02T15:04:05Z, or now-5m", clipText(text))
}

// walk goes from a time by steps such as -5m or +1d.
func walk(t time.Time, steps string) (time.Time, bool) {
	for steps != "" {
		digits := strings.IndexFunc(steps[1:], func(r rune) bool { return r < '0' || r > '9' })
		if (steps[0] != '+' && steps[0] != '-') || digits < 1 || digits > 7 {
			return t, false
		}
		n, err := strconv.Atoi(steps[:digits+1])
		if err != nil {
			return t, false
		}
		switch steps[digits+1] {
		case 's':
			t = t.Add(time.Duration(n) * time.Second)
		case 'm':
			t = t.Add(time.Duration(n) * time.Minute)
		case 'h':
			t = t.Add(time.Duration(n) * time.Hour)
		case 'd':
			t = t.AddDate(0, 0, n)
		case 'w':
			t = t.AddDate(0, 0, 7*n)
		case 'M':
			t = t.AddDate(0, n, 0)
		case 'y':
			t = t.AddDate(n, 0, 0)
		default:
			return t, false
		}
		steps = steps[digits+2:]
	}
	return t, true
}

// span reads the range that is asked for.
func (q *timelineAsk) span(now time.Time) (start, end time.Time, err error) {
	end = now
	if q.End != nil && strings.TrimSpace(*q.End) != "" {
		if end, err = parseMoment(*q.End, now); err != nil {
			return start, end, err
		}
	}
	start = end.Add(-timelineSpan)
	if q.Start != nil && strings.TrimSpace(*q.Start) != "" {
		start, err = parseMoment(*q.Start, now)
	}
	return start, end, err
}

// timelineOf lists the starts and ends of tasks in a range.
func (s *Server) timelineOf(ctx context.Context, q timelineAsk, now time.Time) (timelineAnswer, error) {
	a := timelineAnswer{Content: []timelineEntry{}, Serial: now.UnixMilli()}
	switch id := q.ID.(type) {
	case string:
		a.ID = id
	case float64:
		a.ID = strconv.FormatFloat(id, 'f', -1, 64)
	case nil:
	default:
		return a, badRequest("the id of a timeline is text")
	}
	start, end, err := q.span(now)
	if err != nil {
		return a, err
	}
	seen := map[ledger.TaskID]bool{}
	task := func(t *ledger.Task) {
		if !seen[t.TaskID] && t.State != ledger.Skipped {
			seen[t.TaskID] = true
			a.Content = append(a.Content, entriesOf(t, start, end)...)
		}
	}
	for _, t := range s.o.Runner.Tasks() {
		task(&t.Task)
	}
	filter := ledger.RunFilter{Since: start.Add(-timelineBefore), Until: end.Add(time.Nanosecond), Limit: 500}
	if filter.Since.Year() < 1970 {
		filter.Since = time.Time{} // the book counts nanoseconds
	}
	if end.Year() > 2200 {
		filter.Until = time.Time{}
	}
	for len(a.Content) < timelineMost {
		page, err := s.o.Ledger.Runs(ctx, filter)
		if err != nil {
			return a, err
		}
		for i := range page.Runs {
			for j := range page.Runs[i].Tasks {
				task(&page.Runs[i].Tasks[j])
			}
		}
		if filter.Cursor = page.Next; filter.Cursor == "" {
			break
		}
	}
	slices.SortStableFunc(a.Content, func(x, y timelineEntry) int { return x.at.Compare(y.at) })
	a.Content = a.Content[max(len(a.Content)-timelineMost, 0):]
	return a, nil
}

// entriesOf is the start and the end of a task, as far as they lie in a range.
func entriesOf(t *ledger.Task, start, end time.Time) []timelineEntry {
	var entries []timelineEntry
	add := func(kind string, code any, at time.Time) {
		if !at.IsZero() && !at.Before(start) && !at.After(end) {
			entries = append(entries, timelineEntry{Cron: t.Job, Instance: t.Run, Machine: t.Machine, Kind: kind, RetCode: code, At: stampOf(at), at: at})
		}
	}
	began := t.Started
	if began.IsZero() {
		began = t.Launched
	}
	add("machine_start", "", began)
	if t.State.Done() && t.ExitCode != nil {
		add("machine_result", *t.ExitCode, t.Ended)
	}
	return entries
}

// getTimeline is the timeline as JSON.
func (s *Server) getTimeline(w http.ResponseWriter, r *http.Request) error {
	q := timelineAsk{ID: r.URL.Query().Get("id")}
	for key, into := range map[string]**string{"start_date": &q.Start, "end_date": &q.End} {
		if text := r.URL.Query().Get(key); text != "" {
			*into = &text
		}
	}
	answer, err := s.timelineOf(r.Context(), q, time.Now())
	if err != nil {
		return err
	}
	return writeJSON(w, http.StatusOK, answer)
}
