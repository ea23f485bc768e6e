package ledger

import (
	"cmp"
	"context"
	"database/sql"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"
)

// RunFilter selects runs; zero fields do not restrict.
type RunFilter struct {
	Job, Machine string
	States       []State   // a run matches when one of its tasks does
	Since, Until time.Time // of Due; Until itself is excluded
	Limit        int       // 0 = 100
	Cursor       string    // from RunPage.Next
}

// RunPage is a part of the history.
type RunPage struct {
	Runs []Run  // newest first, with tasks, without Definition
	Next string // cursor of the next page; "" on the last
}

// spot is a place in the history: runs are ordered by due time, then by when
// they were recorded.
type spot struct{ due, num int64 }

func (a spot) compare(b spot) int {
	if a.due != b.due {
		return cmp.Compare(a.due, b.due)
	}
	return cmp.Compare(a.num, b.num)
}

func (a spot) cursor() string {
	return strconv.FormatInt(a.due, 36) + "." + strconv.FormatInt(a.num, 36)
}

// ErrCursor is a cursor that no page gave.
var ErrCursor = errors.New("it is no cursor of a page before")

func parseCursor(text string) (spot, error) {
	due, num, _ := strings.Cut(text, ".")
	d, err := strconv.ParseInt(due, 36, 64)
	if err == nil {
		var n int64
		if n, err = strconv.ParseInt(num, 36, 64); err == nil {
			return spot{d, n}, nil
		}
	}
	return spot{}, fmt.Errorf("cannot go on at %q: %w", text, ErrCursor)
}

// where collects conditions and their arguments.
type where struct {
	conditions []string
	args       []any
}

func newWhere() (*where, *[]any) {
	w := &where{}
	return w, &w.args
}

func (w *where) add(if_ bool, condition string, args ...any) {
	if if_ {
		w.conditions = append(w.conditions, condition)
		w.args = append(w.args, args...)
	}
}

func (w *where) String() string {
	if len(w.conditions) == 0 {
		return ""
	}
	return " WHERE " + strings.Join(w.conditions, " AND ")
}

// Runs returns a page of the history.
func (l *Ledger) Runs(ctx context.Context, f RunFilter) (RunPage, error) {
	limit := limitOf(f.Limit)
	var after *spot
	if f.Cursor != "" {
		s, err := parseCursor(f.Cursor)
		if err != nil {
			return RunPage{}, err
		}
		after = &s
	}
	spots, err := l.find(ctx, f, after, limit+1)
	if err != nil {
		return RunPage{}, err
	}
	var page RunPage
	if len(spots) > limit {
		spots = spots[:limit]
		page.Next = spots[limit-1].cursor()
	}
	nums := make([]int64, len(spots))
	for i, s := range spots {
		nums[i] = s.num
	}
	page.Runs, err = l.load(ctx, nums)
	return page, err
}

// find returns the first n places that match, in order. Each way through the
// tables follows an index in the order of the history and stops at n.
func (l *Ledger) find(ctx context.Context, f RunFilter, after *spot, n int) ([]spot, error) {
	if len(f.States) == 0 {
		if f.Machine == "" {
			return l.places(ctx, "runs x", "x.due", "x.num", f, after, n, nil)
		}
		return l.places(ctx, "tasks x", "x.due", "x.run", f, after, n, func(w *where) {
			w.add(true, "x.machine = ?", f.Machine)
		})
	}
	var all []spot
	for _, s := range f.States {
		found, err := l.findState(ctx, s, f, after, n)
		if err != nil {
			return nil, err
		}
		all = append(all, found...)
	}
	slices.SortFunc(all, func(a, b spot) int { return b.compare(a) })
	all = slices.Compact(all) // a run may match by several tasks
	return all[:min(n, len(all))], nil
}

func (l *Ledger) findState(ctx context.Context, s State, f RunFilter, after *spot, n int) ([]spot, error) {
	switch {
	case f.Machine != "":
		return l.places(ctx, "tasks x", "x.due", "x.run", f, after, n, func(w *where) {
			w.add(true, "x.machine = ? AND x.state = ?", f.Machine, string(s))
		})
	case rare(s):
		return l.places(ctx, "tasks x", "x.due", "x.run", f, after, n, func(w *where) {
			w.add(true, "x.rare = 1 AND x.state = ?", string(s))
		})
	case !s.Done(): // few, and in an index of their own
		return l.places(ctx, "tasks x", "x.due", "x.run", f, after, n, func(w *where) {
			w.add(true, "x.unfinished = 1 AND x.state = ?", string(s))
		})
	}
	return l.places(ctx, "runs x", "x.due", "x.num", f, after, n, func(w *where) {
		w.add(true, "EXISTS (SELECT 1 FROM tasks t WHERE t.run = x.num AND t.state = ?)", string(s))
	})
}

func (l *Ledger) places(ctx context.Context, from, due, num string, f RunFilter, after *spot, n int, more func(w *where)) ([]spot, error) {
	w, args := newWhere()
	if more != nil {
		more(w)
	}
	w.add(f.Job != "", "x.job = ?", f.Job)
	w.add(!f.Since.IsZero(), due+" >= ?", nanos(f.Since))
	w.add(!f.Until.IsZero(), due+" < ?", nanos(f.Until))
	if after != nil {
		w.add(true, "("+due+", "+num+") < (?, ?)", after.due, after.num)
	}
	distinct := ""
	if strings.HasPrefix(from, "tasks") {
		distinct = "DISTINCT "
	}
	var spots []spot
	err := l.query(ctx, func(rows *sql.Rows) error {
		var s spot
		err := rows.Scan(&s.due, &s.num)
		spots = append(spots, s)
		return err
	}, `SELECT `+distinct+due+`, `+num+` FROM `+from+w.String()+` ORDER BY `+due+` DESC, `+num+` DESC LIMIT ?`, append(*args, n)...)
	return spots, err
}

// loadAtOnce bounds the arguments of one query.
const loadAtOnce = 500

// load returns the runs with these keys, in this order, with their tasks.
func (l *Ledger) load(ctx context.Context, nums []int64) ([]Run, error) {
	runs := make([]Run, 0, len(nums))
	for part := range slices.Chunk(nums, loadAtOnce) {
		first := len(runs)
		place := make(map[int64]int, len(part))
		args := make([]any, len(part))
		for i, num := range part {
			place[num] = first + i
			args[i] = num
		}
		runs = append(runs, make([]Run, len(part))...)
		in := ` IN (` + strings.TrimSuffix(strings.Repeat("?, ", len(part)), ", ") + `)`
		err := l.query(ctx, func(rows *sql.Rows) error {
			r, num, err := scanRun(rows)
			runs[place[num]] = r
			return err
		}, `SELECT `+runColumns+` FROM runs r WHERE r.num`+in, args...)
		if err != nil {
			return nil, err
		}
		err = l.query(ctx, func(rows *sql.Rows) error {
			e, unfinished, err := scanTask(rows)
			if err != nil {
				return err
			}
			if unfinished && e.State != Queued {
				e.Length = l.storedLength(e.num)
			}
			run := &runs[place[e.run]]
			e.Run = run.ID
			run.Tasks = append(run.Tasks, e.Task)
			return nil
		}, `SELECT `+taskColumns+` FROM tasks t WHERE t.run`+in+` ORDER BY t.num`, args...)
		if err != nil {
			return nil, err
		}
	}
	// A run that was pruned between the two queries is not there any more.
	return slices.DeleteFunc(runs, func(r Run) bool { return r.ID == "" }), nil
}

// LastRuns returns the newest run of each job, without Definition. It jumps from
// job to job in the index instead of reading the whole history.
func (l *Ledger) LastRuns(ctx context.Context) (map[string]Run, error) {
	var nums []int64
	err := l.query(ctx, func(rows *sql.Rows) error {
		var num int64
		err := rows.Scan(&num)
		nums = append(nums, num)
		return err
	}, `WITH RECURSIVE jobs (job) AS (
			SELECT min(job) FROM runs
			UNION ALL
			SELECT (SELECT min(r.job) FROM runs r WHERE r.job > jobs.job) FROM jobs WHERE jobs.job IS NOT NULL)
		SELECT (SELECT r.num FROM runs r WHERE r.job = jobs.job ORDER BY r.due DESC, r.num DESC LIMIT 1)
		FROM jobs WHERE jobs.job IS NOT NULL`)
	if err != nil {
		return nil, err
	}
	runs, err := l.load(ctx, nums)
	last := make(map[string]Run, len(runs))
	for _, r := range runs {
		last[r.Job] = r
	}
	return last, err
}
