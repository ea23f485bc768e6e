package ledger

import (
	"encoding/json"
	"fmt"
	"time"
)

// News is one thing that the outside world is told of: by text logs, a search
// engine, or whatever else reports. It is written in the transaction that changes
// what it tells of, so there is none without its change, and no change without
// it. It holds no output: that is read where it lies.
type News struct {
	// Seq is its place in the feed. Places have no holes: what a reader misses
	// between two of them was given up (see maxNews), and can be counted.
	Seq     int64     `json:"-"`
	Kind    string    `json:"k"`
	At      time.Time `json:"at"`
	Job     string    `json:"j"`
	Group   string    `json:"g,omitempty"`
	Run     string    `json:"r,omitempty"` // for due times without a run the name that it would have had
	Machine string    `json:"m,omitempty"`
	Code    *int      `json:"c,omitempty"`
	Count   int64     `json:"n,omitempty"` // of due times, where they are more than one
	Reason  string    `json:"why,omitempty"`
	Detail  string    `json:"d,omitempty"`
}

// Kinds of News.
const (
	NewsStart          = "start"           // a run began
	NewsNoMachines     = "no_machines"     // its targets match nothing
	NewsMachineStart   = "machine_start"   // a job runs on a machine
	NewsMachineResult  = "machine_result"  // and has ended there
	NewsMachineAmended = "machine_amended" // its exit code is known after all
	NewsMachineSkipped = "machine_skipped" // it is not to run there; Reason says why
	NewsEnd            = "end"             // the last task of a run has ended
	NewsSkipped        = "skipped"         // due times without a run; Reason says why
)

const (
	// maxNews is how much news is kept for a reporter that is behind: some
	// 150 MB. What is older is given up.
	maxNews = 1_000_000
	// newsInRow bounds how much has to be decoded to get at one.
	newsInRow = 500
	// newsRowsAtOnce bounds what one commit takes away, since events wait behind it.
	newsRowsAtOnce = 2000
)

// feed is what the writer remembers of the news.
type feed struct {
	wanted  bool // somebody reports; otherwise nothing is written
	last    int64
	kept    int64 // the place before the oldest news that is kept
	pending []News
	seq     int64 // last, once the transaction at hand is committed
	open    map[int64]*openRun
	most    int64 // maxNews, but in tests
}

// openRun is a run of which tasks have not ended.
type openRun struct {
	group string
	live  int
}

// schemaNews is what version 2 adds. A row of news holds what one commit tells
// (at most newsInRow): a row each would cost the writer as much as the changes.
var schemaNews = []string{
	`CREATE TABLE news (num BIGINT PRIMARY KEY, amount BIGINT NOT NULL, body TEXT NOT NULL)`,
	`CREATE TABLE reporters (name TEXT PRIMARY KEY, position BIGINT NOT NULL, state TEXT NOT NULL)`,
}

// readFeed finds where the feed goes on.
func (w *writer) readFeed() error {
	var reporters, position, first int64
	if _, err := w.first(`SELECT count(*), coalesce(max(position), 0) FROM reporters`, nil, &reporters, &position); err != nil {
		return err
	}
	if _, err := w.first(`SELECT coalesce(max(num), 0) FROM news`, nil, &w.feed.last); err != nil {
		return err
	}
	found, err := w.first(`SELECT num - amount FROM news ORDER BY num LIMIT 1`, nil, &first)
	if err != nil {
		return err
	}
	w.feed.last = max(w.feed.last, position)
	w.feed.kept = w.feed.last
	if found {
		w.feed.kept = first
	}
	w.feed.wanted, w.feed.most = reporters > 0, maxNews
	return nil
}

// tell adds news to the transaction at hand.
func (w *writer) tell(n News) {
	if w.feed.wanted {
		w.feed.pending = append(w.feed.pending, n)
	}
}

// tellBegun tells of a run with the tasks that it began with.
func (w *writer) tellBegun(r Run, num int64) {
	of := &openRun{group: r.Group}
	at := utc(r.Fired)
	w.tell(News{Kind: NewsStart, At: at, Job: r.Job, Group: r.Group, Run: r.ID})
	if r.Reason == ReasonNoMachines {
		w.tell(News{Kind: NewsNoMachines, At: at, Job: r.Job, Group: r.Group, Run: r.ID, Detail: r.Detail})
	}
	for _, t := range w.dirty {
		if t.run != num {
			continue
		}
		if over(t.State) {
			w.tellEnd(t, of, r.ID)
		} else {
			of.live++
		}
	}
	if of.live == 0 {
		w.tell(News{Kind: NewsEnd, At: at, Job: r.Job, Group: r.Group, Run: r.ID})
		return
	}
	w.feed.open[num] = of
	w.undo = append(w.undo, func() { delete(w.feed.open, num) })
}

// over reports whether a task has ended for good.
func over(s State) bool { return s.Done() && s != Lost }

// tellChange tells of what a change made of a task.
func (w *writer) tellChange(was, now *entry, e Event) error {
	ends := !over(was.State) && over(now.State)
	starts := was.Started.IsZero() && !now.Started.IsZero()
	amended, _ := e.(Amended)
	corrects := amended.Task == now.TaskID && now.ExitCode != nil && (was.ExitCode == nil || *was.ExitCode != *now.ExitCode)
	if !ends && !starts && !corrects {
		return nil
	}
	of, err := w.openRun(now)
	if err != nil {
		return err
	}
	switch {
	case starts:
		w.tell(News{Kind: NewsMachineStart, At: now.Started, Job: now.Job, Group: of.group, Run: now.Run, Machine: now.Machine})
	case corrects:
		w.tell(News{Kind: NewsMachineAmended, At: now.Ended, Job: now.Job, Group: of.group, Run: now.Run, Machine: now.Machine, Code: now.ExitCode})
	}
	if !ends {
		return nil
	}
	w.tellEnd(now, of, now.Run)
	w.undo = append(w.undo, func() { of.live++; w.feed.open[now.run] = of })
	if of.live--; of.live <= 0 {
		delete(w.feed.open, now.run)
		w.tell(News{Kind: NewsEnd, At: now.Ended, Job: now.Job, Group: of.group, Run: now.Run})
	}
	return nil
}

// tellEnd tells how a task ended.
func (w *writer) tellEnd(t *entry, of *openRun, run string) {
	n := News{Kind: NewsMachineResult, At: t.Ended, Job: t.Job, Group: of.group, Run: run, Machine: t.Machine, Code: t.ExitCode}
	if t.State == Skipped {
		n.Kind, n.Code, n.Reason = NewsMachineSkipped, nil, t.Reason
	}
	w.tell(n)
}

// openRun is the run of a task; one that is over is looked up.
func (w *writer) openRun(t *entry) (*openRun, error) {
	if of := w.feed.open[t.run]; of != nil {
		return of, nil
	}
	of := &openRun{}
	_, err := w.first(`SELECT grp FROM runs WHERE num = ?`, []any{t.run}, &of.group)
	return of, err
}

// tellSkipped tells of due times without a run.
func (w *writer) tellSkipped(s Skip) {
	n := News{Kind: NewsSkipped, At: s.From, Job: s.Job, Group: s.Group, Run: fmt.Sprintf("%s_%d", s.Job, s.From.Unix()), Reason: s.Reason, Detail: s.Detail}
	if s.Count > 1 {
		n.Count = s.Count
	}
	w.tell(n)
}

// writeNews writes down what the transaction at hand tells.
func (w *writer) writeNews() error {
	w.feed.seq = w.feed.last
	for list := w.feed.pending; len(list) > 0; {
		n := min(len(list), newsInRow)
		body, err := json.Marshal(list[:n])
		if err != nil {
			return fmt.Errorf("cannot write news down: %w", err)
		}
		w.feed.seq += int64(n)
		if err := w.exec(`INSERT INTO news (num, amount, body) VALUES (?, ?, ?)`, w.feed.seq, n, string(body)); err != nil {
			return err
		}
		list = list[n:]
	}
	if w.feed.seq-w.feed.kept <= w.feed.most {
		return nil
	}
	return w.dropNews(w.feed.seq - w.feed.most)
}

// publishNews makes what was written the end of the feed, and wakes who waits for
// it.
func (w *writer) publishNews() {
	w.feed.last = w.feed.seq
	if len(w.feed.pending) > 0 {
		w.l.newsLock.Lock()
		close(w.l.newsCame)
		w.l.newsCame = make(chan struct{})
		w.l.newsLock.Unlock()
	}
}

// dropNews forgets news up to a place, the oldest first and some at a time.
func (w *writer) dropNews(upTo int64) error {
	_, err := w.change(`DELETE FROM news WHERE num <= ? AND num IN (SELECT num FROM news ORDER BY num LIMIT ?)`, upTo, newsRowsAtOnce)
	if err != nil {
		return err
	}
	before := w.feed.kept
	w.undo = append(w.undo, func() { w.feed.kept = before })
	w.feed.kept = max(w.feed.last, w.feed.seq)
	_, err = w.first(`SELECT num - amount FROM news ORDER BY num LIMIT 1`, nil, &w.feed.kept)
	return err
}
