package api

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"

	"saltpeter/runner/ledger"
)

// Output opens a task's output from an offset on. The caller closes it. A stream
// that broke off ends with io.ErrUnexpectedEOF.
func (c *Client) Output(ctx context.Context, id ledger.TaskID, offset int64, follow bool) (io.ReadCloser, error) {
	q := url.Values{}
	if offset > 0 {
		q.Set("offset", strconv.FormatInt(offset, 10))
	}
	if follow {
		q.Set("follow", "true")
	}
	resp, err := c.do(ctx, http.MethodGet, "/api/v1/runs/"+url.PathEscape(id.Run)+"/tasks/"+url.PathEscape(id.Machine)+"/output", q, nil)
	if err != nil {
		return nil, err
	}
	return resp.Body, nil
}

// Rows lists when a task's bytes came.
func (c *Client) Rows(ctx context.Context, id ledger.TaskID) ([]OutputRow, error) {
	var v struct{ Rows []OutputRow }
	return v.Rows, c.get(ctx, "/api/v1/runs/"+url.PathEscape(id.Run)+"/tasks/"+url.PathEscape(id.Machine)+"/rows", nil, &v)
}

// Events calls on for every change until ctx ends or the stream does. job and
// run restrict it; "" does not.
func (c *Client) Events(ctx context.Context, job, run string, on func(Event) error) error {
	q := url.Values{}
	if job != "" {
		q.Set("job", job)
	}
	if run != "" {
		q.Set("run", run)
	}
	resp, err := c.do(ctx, http.MethodGet, "/api/v1/events", q, nil)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	lines := bufio.NewReader(resp.Body)
	for {
		line, err := lines.ReadString('\n')
		if err != nil {
			if ctx.Err() != nil {
				return ctx.Err()
			}
			return &Unreachable{Addr: c.addr, Err: errors.New("the stream of events ended")}
		}
		data, ok := strings.CutPrefix(line, "data: ")
		if !ok {
			continue
		}
		var e Event
		if err := json.Unmarshal([]byte(data), &e); err != nil {
			return fmt.Errorf("cannot read an event: %w", err)
		}
		if err := on(e); err != nil {
			return err
		}
	}
}
