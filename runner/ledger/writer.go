package ledger

import (
	"context"
	"database/sql"
	"runtime"
	"time"
)

const (
	maxRequests = 1024 // that wait, and that one commit takes
	maxEvents   = 4096 // after which a commit takes no more requests
	maxSettled  = 4096 // finished tasks that stay remembered for their late news
)

// request is one call of Apply or Prune on its way through the writer.
type request struct {
	events []Event
	work   func(w *writer) error // instead of events

	tasks []Task
	err   error
	done  chan struct{}
}

// Apply writes events down, all or none, durable when it returns. Events of one
// task are applied in the order of the calls. It returns the tasks as they are
// after it, one per task that an event names, in the order of first mention.
//
// Once the writer has the events, Apply waits for the outcome even if ctx ends:
// "perhaps recorded" would help nobody.
func (l *Ledger) Apply(ctx context.Context, events ...Event) ([]Task, error) {
	r := &request{events: events}
	err := l.ask(ctx, r)
	return r.tasks, err
}

func (l *Ledger) ask(ctx context.Context, r *request) error {
	if l.write == nil {
		return ErrReadOnly
	}
	r.done = make(chan struct{})
	select {
	case <-l.closing:
		return ErrClosed
	default:
	}
	select {
	case l.requests <- r:
	case <-l.closing:
		return ErrClosed
	case <-ctx.Done():
		return ctx.Err()
	}
	select {
	case <-r.done:
	case <-l.done:
		select {
		case <-r.done:
		default: // it came in as the writer went
			return ErrClosed
		}
	}
	return r.err
}

// writer is owned by its goroutine; nothing in it has a lock.
type writer struct {
	l    *Ledger
	ctx  context.Context
	conn *sql.Conn

	statements     map[string]*statement // what is executed, by its text
	taskStatements map[taskStatement]*statement
	queries        map[string]*sql.Stmt // what is read
	columns        []column
	values         []any // of the task at hand

	tasks   map[TaskID]*entry // every unfinished one, and some that ended lately
	settled int               // how many of them are finished, roughly
	tails   map[string]*tail  // by job
	defs    map[string]int64  // definitions lately used: key by job and hash

	runs, numTasks, skips, audits, numDefs int64 // the highest keys given out

	feed  feed
	crowd int // how many the last commit answered

	undo   []func()      // takes back what a request or a commit that failed has changed in memory
	tokens []tokenChange // to be published with the commit
	dirty  []*entry      // of the request at hand: tasks to be written, in order of first mention
	marked map[TaskID]int
}

type tokenChange struct {
	hash string
	task TaskID
	drop bool
}

// run takes what waits, commits it at once, and answers; until Close.
func (w *writer) run() {
	defer close(w.l.done)
	defer func() {
		for _, s := range w.statements { // the connection goes with them
			_ = s.close()
		}
		for _, s := range w.queries {
			_ = s.Close()
		}
		_ = w.conn.Close()
	}()
	for {
		var first *request
		select {
		case first = <-w.l.requests:
		case <-w.l.closing:
			select {
			case first = <-w.l.requests: // accepted before
			default:
				return
			}
		}
		w.commit(w.waiting(first))
	}
}

// patience is how long a commit waits for those whom the last one answered. It is
// little beside what a commit takes, which they would have to wait for otherwise.
const patience = 100 * time.Microsecond

// waiting collects what has gathered while the last commit was written. Where that
// one answered many, they come back with their next requests in a moment: a commit
// for the first few of them would make all the others late.
func (w *writer) waiting(first *request) []*request {
	group := []*request{first}
	events := len(first.events)
	var since time.Time
	for len(group) < maxRequests && events < maxEvents {
		select {
		case r := <-w.l.requests:
			group = append(group, r)
			events += len(r.events)
			continue
		default:
		}
		switch {
		case len(group) >= w.crowd:
		case since.IsZero():
			since = time.Now()
			fallthrough
		case time.Since(since) < patience:
			runtime.Gosched()
			continue
		}
		break
	}
	w.crowd = len(group)
	return group
}
