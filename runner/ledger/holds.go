package ledger

import (
	"context"
	"database/sql"
	"time"
)

// Hold is maintenance that people have switched on beside what the job files say: no
// new run goes there until it is lifted.
type Hold struct {
	Machine string // "" = everything
	At      time.Time
	By      string // who
	From    string // and from where
	Reason  string
}

// schemaHolds is what version 3 adds.
var schemaHolds = []string{
	`CREATE TABLE holds (machine TEXT PRIMARY KEY, at BIGINT NOT NULL, who TEXT NOT NULL, came_from TEXT NOT NULL, reason TEXT NOT NULL)`,
}

func (w *writer) holdSet(h Hold) error {
	return w.exec(`INSERT INTO holds (machine, at, who, came_from, reason) VALUES (?, ?, ?, ?, ?)
		ON CONFLICT (machine) DO UPDATE SET at = excluded.at, who = excluded.who, came_from = excluded.came_from, reason = excluded.reason`,
		h.Machine, nanos(h.At), h.By, h.From, h.Reason)
}

// Holds lists what is held back, everything first, then by machine.
func (l *Ledger) Holds(ctx context.Context) ([]Hold, error) {
	var holds []Hold
	err := l.query(ctx, func(rows *sql.Rows) error {
		var h Hold
		var at int64
		err := rows.Scan(&h.Machine, &at, &h.By, &h.From, &h.Reason)
		h.At = instant(at)
		holds = append(holds, h)
		return err
	}, `SELECT machine, at, who, came_from, reason FROM holds ORDER BY machine`)
	return holds, err
}
