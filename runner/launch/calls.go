package launch

import "sync"

// calls counts the calls of a transport that are under way, so that its Close can
// wait for them, and refuses new ones then.
type calls struct {
	mu     sync.Mutex
	closed bool
	wg     sync.WaitGroup // added to under mu, so that Close cannot miss one
}

// enter counts a call; false after Close. Whoever entered leaves.
func (c *calls) enter() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.closed {
		c.wg.Add(1)
	}
	return !c.closed
}

func (c *calls) leave() { c.wg.Done() }

// shut lets nobody enter any more.
func (c *calls) shut() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.closed = true
}
