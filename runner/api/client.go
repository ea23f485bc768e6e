package api

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"strconv"
	"strings"
	"time"

	"saltpeter/runner"
	"saltpeter/runner/ledger"
)

// ClientOptions say which server, and as whom.
type ClientOptions struct {
	Addr      string // unix:///path, http://HOST:PORT or https://HOST:PORT
	TokenFile string // holds the token; never on a command line
	CAFile    string // PEM of a CA or of the server's own certificate; "" = the system's
}

// Client is what the command line, and nothing else, speaks to a server with.
type Client struct {
	base  string
	addr  string
	token string
	http  *http.Client
}

// Unreachable is the failure to speak to a server at all, or its refusal of this
// client.
type Unreachable struct {
	Addr string
	Err  error
}

func (e *Unreachable) Error() string {
	return fmt.Sprintf("cannot reach the server at %s: %v", e.Addr, e.Err)
}
func (e *Unreachable) Unwrap() error { return e.Err }

// NewClient makes a client. It opens no connection yet.
func NewClient(o ClientOptions) (*Client, error) {
	c := &Client{addr: o.Addr}
	u, err := url.Parse(o.Addr)
	if err != nil {
		return nil, fmt.Errorf("cannot read the address %q: %w", o.Addr, err)
	}
	transport := &http.Transport{MaxIdleConnsPerHost: 4}
	switch u.Scheme {
	case "unix":
		path := u.Path
		c.base = "http://localhost"
		transport.DialContext = func(ctx context.Context, _, _ string) (net.Conn, error) {
			return (&net.Dialer{}).DialContext(ctx, "unix", path)
		}
	case "http", "https":
		c.base = strings.TrimSuffix(o.Addr, "/")
	default:
		return nil, fmt.Errorf("cannot use the address %q; write unix:///PATH, http://HOST:PORT or https://HOST:PORT", o.Addr)
	}
	if o.TokenFile != "" {
		data, err := os.ReadFile(o.TokenFile)
		if err != nil {
			return nil, fmt.Errorf("cannot read the token: %w", err)
		}
		if u.Scheme == "http" && !loopback(u.Host) && u.Hostname() != "localhost" {
			return nil, fmt.Errorf("cannot send a token to %s: it would travel in the clear; use https", o.Addr)
		}
		c.token = strings.TrimSpace(string(data))
	}
	if o.CAFile != "" {
		pem, err := os.ReadFile(o.CAFile)
		if err != nil {
			return nil, fmt.Errorf("cannot read the CA: %w", err)
		}
		pool := x509.NewCertPool()
		if !pool.AppendCertsFromPEM(pem) {
			return nil, fmt.Errorf("cannot read the CA: %s holds no certificate in PEM", o.CAFile)
		}
		transport.TLSClientConfig = &tls.Config{RootCAs: pool}
	}
	c.http = &http.Client{Transport: transport}
	return c, nil
}

// Addr is the address that the client was given.
func (c *Client) Addr() string { return c.addr }

// Close drops idle connections.
func (c *Client) Close() { c.http.CloseIdleConnections() }

// do sends a request and returns an answer whose status is 2xx.
func (c *Client) do(ctx context.Context, method, path string, query url.Values, body any) (*http.Response, error) {
	var reader io.Reader
	if body != nil {
		data, err := json.Marshal(body)
		if err != nil {
			return nil, err
		}
		reader = bytes.NewReader(data)
	}
	if len(query) > 0 {
		path += "?" + query.Encode()
	}
	req, err := http.NewRequestWithContext(ctx, method, c.base+path, reader)
	if err != nil {
		return nil, err
	}
	if body != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	if c.token != "" {
		req.Header.Set("Authorization", "Bearer "+c.token)
	}
	resp, err := c.http.Do(req)
	if err != nil {
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		var wrapped *url.Error
		if errors.As(err, &wrapped) {
			err = wrapped.Err
		}
		return nil, &Unreachable{Addr: c.addr, Err: err}
	}
	if resp.StatusCode/100 == 2 {
		return resp, nil
	}
	defer resp.Body.Close()
	return nil, c.failure(resp)
}

func (c *Client) failure(resp *http.Response) error {
	data, _ := io.ReadAll(io.LimitReader(resp.Body, 1<<20))
	var answer struct{ Error *Error }
	if json.Unmarshal(data, &answer) != nil || answer.Error == nil {
		answer.Error = &Error{Code: "bad_answer", Text: fmt.Sprintf("the server answered %s", resp.Status), Hint: "is " + c.addr + " a saltpeter server?"}
	}
	answer.Error.Status = resp.StatusCode
	if resp.StatusCode == http.StatusUnauthorized || resp.StatusCode == http.StatusForbidden {
		return &Unreachable{Addr: c.addr, Err: answer.Error}
	}
	return answer.Error
}

func (c *Client) get(ctx context.Context, path string, query url.Values, v any) error {
	return c.call(ctx, http.MethodGet, path, query, nil, v)
}

func (c *Client) call(ctx context.Context, method, path string, query url.Values, body, v any) error {
	resp, err := c.do(ctx, method, path, query, body)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if err := json.NewDecoder(resp.Body).Decode(v); err != nil {
		return &Unreachable{Addr: c.addr, Err: fmt.Errorf("its answer broke off: %w", err)}
	}
	return nil
}

// each calls on for every line of an NDJSON answer. An answer that breaks off is
// an error: a missing receipt must never look like a short list.
func each[T any](c *Client, ctx context.Context, method, path string, body any, on func(T) error) error {
	resp, err := c.do(ctx, method, path, nil, body)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	decoder := json.NewDecoder(resp.Body)
	for {
		var v T
		err := decoder.Decode(&v)
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			if ctx.Err() != nil {
				return ctx.Err()
			}
			return &Unreachable{Addr: c.addr, Err: fmt.Errorf("its answer broke off: %w", err)}
		}
		if err := on(v); err != nil {
			return err
		}
	}
}

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

// RunJob starts a job now.
func (c *Client) RunJob(ctx context.Context, job string, q RunRequest) (*ledger.Run, error) {
	var v ledger.Run
	return &v, c.call(ctx, http.MethodPost, "/api/v1/jobs/"+url.PathEscape(job)+"/run", nil, q, &v)
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
		q.Set(key, t.Format(time.RFC3339))
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

// Kill asks for the end of tasks; on is called for each receipt as it comes.
func (c *Client) Kill(ctx context.Context, q KillRequest, on func(runner.Receipt) error) error {
	return each(c, ctx, http.MethodPost, "/api/v1/kill", q, on)
}

// PauseRequest is the body of POST /api/v1/pause.
type PauseRequest struct {
	Selection
	TTL Duration `json:"ttl,omitempty"`
}

// SignalRequest is the body of POST /api/v1/signal.
type SignalRequest struct {
	Selection
	Signal string `json:"signal"`
	Scope  string `json:"scope,omitempty"`
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
