package ledger

import (
	"context"
	"database/sql"
	"encoding/json"
	"fmt"
	"slices"
)

// Reporter is one reader of the news, with its place in it.
type Reporter struct {
	Name     string
	Position int64  // everything up to here has been told
	State    string // its own, opaque here
}

// SetReporters says who reads the news from now on. A new one begins with what
// happens from now on; what was kept for one that is gone is forgotten. While
// there is none, nothing is written.
func (l *Ledger) SetReporters(ctx context.Context, names []string) error {
	if err := l.ask(ctx, &request{work: func(w *writer) error { return w.setReporters(names) }}); err != nil {
		return err
	}
	// Much may have been kept for one that is gone.
	for more := true; more; {
		err := l.ask(ctx, &request{work: func(w *writer) error {
			before := w.feed.kept
			err := w.forgetTold()
			more = w.feed.kept > before
			return err
		}})
		if err != nil {
			return err
		}
	}
	return nil
}

func (w *writer) setReporters(names []string) error {
	var known []string
	err := w.each(`SELECT name FROM reporters`, func(rows *sql.Rows) error {
		var name string
		err := rows.Scan(&name)
		known = append(known, name)
		return err
	})
	if err != nil {
		return err
	}
	for _, name := range known {
		if slices.Contains(names, name) {
			continue
		}
		if err := w.exec(`DELETE FROM reporters WHERE name = ?`, name); err != nil {
			return err
		}
	}
	// What the events before this one in the same commit tell is not for it.
	end := w.feed.last + int64(len(w.feed.pending))
	for _, name := range names {
		if err := w.exec(`INSERT INTO reporters (name, position, state) VALUES (?, ?, '') ON CONFLICT (name) DO NOTHING`, name, end); err != nil {
			return err
		}
	}
	before := w.feed.wanted
	w.undo = append(w.undo, func() { w.feed.wanted = before })
	w.feed.wanted = len(names) > 0
	return nil
}

// SetPosition says how far a reporter has come, and what it wants to remember with
// that. Durable when it returns; news that everybody has told is forgotten.
func (l *Ledger) SetPosition(ctx context.Context, r Reporter) error {
	return l.ask(ctx, &request{work: func(w *writer) error {
		n, err := w.change(`UPDATE reporters SET position = ?, state = ? WHERE name = ?`, min(r.Position, w.feed.last), r.State, r.Name)
		if err != nil || n == 0 { // it does not report any more
			return err
		}
		return w.forgetTold()
	}})
}

// forgetTold forgets the news that no reporter needs.
func (w *writer) forgetTold() error {
	told := w.feed.last
	if _, err := w.first(`SELECT coalesce(min(position), ?) FROM reporters`, []any{w.feed.last}, &told); err != nil || told <= w.feed.kept {
		return err
	}
	return w.dropNews(told)
}

// Reporters lists who reads the news, and the last place in it.
func (l *Ledger) Reporters(ctx context.Context) (list []Reporter, last int64, err error) {
	err = l.query(ctx, func(rows *sql.Rows) error {
		var r Reporter
		err := rows.Scan(&r.Name, &r.Position, &r.State, &last)
		last = max(last, r.Position)
		list = append(list, r)
		return err
	}, `SELECT name, position, state, (SELECT coalesce(max(num), 0) FROM news) FROM reporters ORDER BY name`)
	for _, r := range list {
		last = max(last, r.Position)
	}
	return list, last, err
}

// NewsPage is a part of the feed.
type NewsPage struct {
	List []News
	Lost int64 // how many between what was asked for and the first of List were given up
}

// News returns what follows a place in the feed, at least one if there is any, and
// not many more than limit.
func (l *Ledger) News(ctx context.Context, after int64, limit int) (NewsPage, error) {
	var page NewsPage
	for limit > 0 {
		at := after + page.Lost + int64(len(page.List))
		var num, amount int64
		var body string
		err := l.query(ctx, func(rows *sql.Rows) error { return rows.Scan(&num, &amount, &body) },
			`SELECT num, amount, body FROM news WHERE num > ? ORDER BY num LIMIT 1`, at)
		if err != nil || num == 0 {
			return page, err
		}
		var list []News
		if err := json.Unmarshal([]byte(body), &list); err != nil || int64(len(list)) != amount {
			return page, fmt.Errorf("cannot read the news up to %d: %w", num, err)
		}
		first := num - amount // the place before
		if first > at {
			if len(page.List) > 0 {
				return page, nil // what is behind the hole comes with the next page
			}
			page.Lost = first - at
		} else {
			list = list[at-first:]
		}
		for i := range list {
			list[i].Seq = num - int64(len(list)-1-i)
		}
		page.List = append(page.List, list...)
		limit -= len(list)
	}
	return page, nil
}

// NewsCame returns a channel that is closed when there is more news than when it
// was called.
func (l *Ledger) NewsCame() <-chan struct{} {
	l.newsLock.Lock()
	defer l.newsLock.Unlock()
	return l.newsCame
}
