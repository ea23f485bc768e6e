package runner

import (
	"context"
	"sync"
	"time"

	"saltpeter/runner/ledger"
)

// outputEvery is how often growing output is told to watchers: changes in
// between are merged.
const outputEvery = 100 * time.Millisecond

// hub hands changes to those who watch. Nobody waits for a watcher: one that
// does not keep up is closed and starts again from a fresh Status. Growing
// output is no reason for that, since it is merged for each task.
type hub struct {
	mu       sync.Mutex
	watchers map[*watcher]bool
	growing  map[ledger.TaskID]int64 // output not told yet
	timer    *time.Timer             // tells it; nil while nothing grows
	closed   bool
}

// watcher is one who watches. Its fields belong to hub.mu.
type watcher struct {
	changes chan Change
	owed    map[ledger.TaskID]int64 // output that did not fit into the channel
}

func newHub() *hub {
	return &hub{watchers: map[*watcher]bool{}, growing: map[ledger.TaskID]int64{}}
}

// watch sends every change from now on until ctx ends.
func (h *hub) watch(ctx context.Context, buffer int) <-chan Change {
	w := &watcher{changes: make(chan Change, max(buffer, 1)), owed: map[ledger.TaskID]int64{}}
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.closed {
		close(w.changes)
		return w.changes
	}
	h.watchers[w] = true
	context.AfterFunc(ctx, func() {
		h.mu.Lock()
		defer h.mu.Unlock()
		h.drop(w)
	})
	return w.changes
}

// drop closes a watcher. The lock is held.
func (h *hub) drop(w *watcher) {
	if h.watchers[w] {
		delete(h.watchers, w)
		close(w.changes)
	}
}

// publish hands a change to every watcher. It never blocks.
func (h *hub) publish(c Change) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if len(h.watchers) == 0 {
		return
	}
	if c.Kind == ChangeTask && c.Task != nil {
		// What it printed before comes before the news of it.
		if length, grows := h.growing[c.Task.TaskID]; grows {
			delete(h.growing, c.Task.TaskID)
			h.tellOutput(c.Task.TaskID, length)
		}
	}
	for w := range h.watchers {
		select {
		case w.changes <- c:
		default:
			h.drop(w)
		}
	}
}

// output says that a task's output has grown to length bytes.
func (h *hub) output(id ledger.TaskID, length int64) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if len(h.watchers) == 0 {
		return
	}
	h.growing[id] = length
	if h.timer == nil {
		h.timer = time.AfterFunc(outputEvery, h.tell)
	}
}

// tell sends what has grown since it was called last.
func (h *hub) tell() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.timer = nil
	if h.closed {
		return
	}
	for id, length := range h.growing {
		h.tellOutput(id, length)
	}
	clear(h.growing)
	for w := range h.watchers {
		for id, length := range w.owed {
			if !w.offer(id, length) {
				break
			}
		}
		if len(w.owed) > 0 && h.timer == nil {
			h.timer = time.AfterFunc(outputEvery, h.tell)
		}
	}
}

// tellOutput offers one task's growth to every watcher. The lock is held.
func (h *hub) tellOutput(id ledger.TaskID, length int64) {
	for w := range h.watchers {
		if !w.offer(id, length) && h.timer == nil {
			h.timer = time.AfterFunc(outputEvery, h.tell)
		}
	}
}

// offer sends a growth of output, or keeps it for the next time.
func (w *watcher) offer(id ledger.TaskID, length int64) bool {
	select {
	case w.changes <- Change{Kind: ChangeOutput, At: time.Now(), ID: id, Length: length}:
		delete(w.owed, id)
		return true
	default:
		w.owed[id] = length
		return false
	}
}

// close ends every watch.
func (h *hub) close() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.closed = true
	if h.timer != nil {
		h.timer.Stop()
		h.timer = nil
	}
	for w := range h.watchers {
		h.drop(w)
	}
}
