package api

import (
	"context"
	"encoding/json"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"saltpeter/runner/ledger"
)

// Status is one consistent look at everything.
func (c *Client) Status(ctx context.Context) (*Status, error) {
	var v Status
	return &v, c.get(ctx, "/api/v1/status", nil, &v)
}

// Jobs lists every job.
func (c *Client) Jobs(ctx context.Context) ([]Job, error) {
	var v struct{ Jobs []Job }
	return v.Jobs, c.get(ctx, "/api/v1/jobs", nil, &v)
}

// Job is one of them.
func (c *Client) Job(ctx context.Context, name string) (*Job, error) {
	var v Job
	return &v, c.get(ctx, "/api/v1/jobs/"+url.PathEscape(name), nil, &v)
}

// Run is one run with its tasks.
func (c *Client) Run(ctx context.Context, id string) (*ledger.Run, error) {
	var v ledger.Run
	return &v, c.get(ctx, "/api/v1/runs/"+url.PathEscape(id), nil, &v)
}

// Runs lists past and present runs, newest first.
func (c *Client) Runs(ctx context.Context, f ledger.RunFilter) (ledger.RunPage, error) {
	q := url.Values{}
	set := func(key, value string) {
		if value != "" {
			q.Set(key, value)
		}
	}
	set("job", f.Job)
	set("machine", f.Machine)
	set("cursor", f.Cursor)
	var states []string
	for _, s := range f.States {
		states = append(states, string(s))
	}
	set("state", strings.Join(states, ","))
	setTime(q, "since", f.Since)
	setTime(q, "until", f.Until)
	if f.Limit > 0 {
		q.Set("limit", strconv.Itoa(f.Limit))
	}
	var v struct {
		Runs []ledger.Run
		Next string
	}
	err := c.get(ctx, "/api/v1/runs", q, &v)
	return ledger.RunPage{Runs: v.Runs, Next: v.Next}, err
}

func setTime(q url.Values, key string, t time.Time) {
	if !t.IsZero() {
		q.Set(key, t.Format(time.RFC3339Nano))
	}
}

// Skips lists ranges of due times that have no run.
func (c *Client) Skips(ctx context.Context, job string, since, until time.Time, limit int) ([]ledger.Skip, error) {
	q := url.Values{"limit": {strconv.Itoa(limit)}}
	if job != "" {
		q.Set("job", job)
	}
	setTime(q, "since", since)
	setTime(q, "until", until)
	var v struct{ Skips []ledger.Skip }
	return v.Skips, c.get(ctx, "/api/v1/skips", q, &v)
}

// Machines lists the inventory.
func (c *Client) Machines(ctx context.Context) ([]Machine, error) {
	var v struct{ Machines []Machine }
	return v.Machines, c.get(ctx, "/api/v1/machines", nil, &v)
}

// Config says what is loaded, from which files, with which problems.
func (c *Client) Config(ctx context.Context) (*Config, error) {
	var v Config
	return &v, c.get(ctx, "/api/v1/config", nil, &v)
}

// CheckResult is what a server finds in its folder as it is on the disk now.
type CheckResult struct {
	Problems []json.RawMessage `json:"problems"`
	Diff     []string          `json:"diff"`
	Errors   int               `json:"errors"`
}

// Check compares the folder on the disk with what is in force.
func (c *Client) Check(ctx context.Context) (*CheckResult, error) {
	var v CheckResult
	return &v, c.call(ctx, http.MethodPost, "/api/v1/config/check", nil, struct{}{}, &v)
}
