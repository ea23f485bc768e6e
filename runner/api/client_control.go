package api

import (
	"context"
	"net/http"
	"net/url"

	"saltpeter/runner"
	"saltpeter/runner/ledger"
)

// RunJob starts a job now.
func (c *Client) RunJob(ctx context.Context, job string, q RunRequest) (*ledger.Run, error) {
	var v ledger.Run
	return &v, c.call(ctx, http.MethodPost, "/api/v1/jobs/"+url.PathEscape(job)+"/run", nil, q, &v)
}

// Kill asks for the end of tasks; on is called for each receipt as it comes.
func (c *Client) Kill(ctx context.Context, q KillRequest, on func(runner.Receipt) error) error {
	return each(c, ctx, http.MethodPost, "/api/v1/kill", q, on)
}

// Pause freezes tasks.
func (c *Client) Pause(ctx context.Context, q PauseRequest, on func(runner.Answer) error) error {
	return each(c, ctx, http.MethodPost, "/api/v1/pause", q, on)
}

// Resume thaws them.
func (c *Client) Resume(ctx context.Context, q Selection, on func(runner.Answer) error) error {
	return each(c, ctx, http.MethodPost, "/api/v1/resume", q, on)
}

// Signal sends one signal.
func (c *Client) Signal(ctx context.Context, q SignalRequest, on func(runner.Answer) error) error {
	return each(c, ctx, http.MethodPost, "/api/v1/signal", q, on)
}

// Forget gives up a run's lost tasks.
func (c *Client) Forget(ctx context.Context, run string) error {
	var v any
	return c.call(ctx, http.MethodPost, "/api/v1/runs/"+url.PathEscape(run)+"/forget", nil, struct{}{}, &v)
}

// Tokens lists tokens, without the tokens themselves.
func (c *Client) Tokens(ctx context.Context) ([]Token, error) {
	var v struct{ Tokens []Token }
	return v.Tokens, c.get(ctx, "/api/v1/tokens", nil, &v)
}

// CreateToken makes one and returns it, the only time that it is seen.
func (c *Client) CreateToken(ctx context.Context, name, role string) (string, error) {
	var v struct{ Token string }
	err := c.call(ctx, http.MethodPost, "/api/v1/tokens", nil, map[string]string{"name": name, "role": role}, &v)
	return v.Token, err
}

// RevokeToken ends one.
func (c *Client) RevokeToken(ctx context.Context, name string) error {
	var v any
	return c.call(ctx, http.MethodDelete, "/api/v1/tokens/"+url.PathEscape(name), nil, nil, &v)
}
