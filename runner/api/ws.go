package api

import (
	"context"
	"errors"
	"net/http"
	"runtime/debug"
	"slices"
	"sync"

	"saltpeter/wsx"
)

const (
	// uiProtocol is what a page of ours offers. It goes by run and position, so that
	// nothing has to be guessed about what it shows.
	uiProtocol = "saltpeter.ui.1"
	// mostUI bounds the pages that are open at once.
	mostUI = 1000
)

// getUI is /ws: the pages' connection. See docs/ui.md for what is spoken.
func (s *Server) getUI(w http.ResponseWriter, r *http.Request) error {
	if !wsx.WantsUpgrade(r) {
		return &Error{Status: http.StatusUpgradeRequired, Code: "upgrade_required", Text: "/ws is a WebSocket", Hint: "open it with a WebSocket client, such as examples/kill_job.py"}
	}
	if n := s.pages.Add(1); n > mostUI {
		s.pages.Add(-1)
		return &Error{Status: http.StatusServiceUnavailable, Code: "too_many", Text: "too many pages are open", Hint: "close some of them"}
	}
	defer s.pages.Add(-1)
	protocol := ""
	own := slices.Contains(wsx.Offers(r), uiProtocol)
	if own {
		protocol = uiProtocol
	}
	conn, err := wsx.Upgrade(w, r, protocol)
	if err != nil {
		s.o.Log.Debug("cannot open a page's connection", "err", err)
		return nil // it was answered
	}
	ctx, cancel := s.streaming(r)
	defer cancel()
	c := newUIClient(s, conn, callerOf(r), own)
	c.again = func() (caller, error) { return s.identify(r) }
	why := c.serve(ctx, cancel)
	s.o.Log.Debug("a page has gone", "from", c.who.from, "err", why)
	return nil
}

// serve runs the page's goroutines and returns when all of them have ended.
func (c *uiClient) serve(ctx context.Context, cancel context.CancelFunc) error {
	ready := c.s.board.join(c)
	defer c.s.board.leave(c)
	var wg sync.WaitGroup
	defer wg.Wait()
	defer c.conn.GoAway("the server is stopping")
	defer cancel()
	// The first frame goes out before anything is heard, since answers follow it.
	if err := c.config(); err != nil {
		return err
	}
	why := make(chan error, 1)
	wg.Go(func() {
		defer cancel()
		defer c.caught()
		why <- c.hear(ctx, &wg)
	})
	err := c.run(ctx, ready)
	if refused := (*Error)(nil); errors.As(err, &refused) {
		c.conn.Refuse(refused.Text)
	}
	if err == nil {
		select {
		case err = <-why:
		default:
		}
	}
	return err
}

// caught keeps a fault of ours in what one page asked for from ending the server.
func (c *uiClient) caught() {
	if v := recover(); v != nil {
		c.s.o.Log.Error("a page's request failed badly", "from", c.who.from, "err", v, "stack", string(debug.Stack()))
		c.conn.Refuse("the request failed badly; the server's log says more")
	}
}
