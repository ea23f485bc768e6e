package api

import (
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
	"strings"
	"time"

	"saltpeter/wsx"
)

// ClientOptions say which server, and as whom.
type ClientOptions struct {
	Addr      string // unix:///path, http://HOST:PORT or https://HOST:PORT
	TokenFile string // holds the token; never on a command line
	CAFile    string // PEM of a CA or of the server's own certificate; "" = the system's
	Pin       string // hex SHA-256 of the server's public key, instead of a CA
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

// A server that is stopped or stuck must not keep a script waiting for ever: so
// long for a connection, and so long for an answer's first line.
const (
	dialWithin  = 10 * time.Second
	beginWithin = time.Minute
)

// NewClient makes a client. It opens no connection yet.
func NewClient(o ClientOptions) (*Client, error) {
	c := &Client{addr: o.Addr}
	u, err := url.Parse(o.Addr)
	if err != nil {
		return nil, fmt.Errorf("cannot read the address %q: %w", o.Addr, err)
	}
	dialer := &net.Dialer{Timeout: dialWithin}
	transport := &http.Transport{MaxIdleConnsPerHost: 4, DialContext: dialer.DialContext, TLSHandshakeTimeout: dialWithin, ResponseHeaderTimeout: beginWithin}
	switch u.Scheme {
	case "unix":
		path := u.Path
		c.base = "http://localhost"
		transport.DialContext = func(ctx context.Context, _, _ string) (net.Conn, error) {
			return dialer.DialContext(ctx, "unix", path)
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
		if u.Scheme == "http" && !loopback(net.JoinHostPort(u.Hostname(), "0")) && u.Hostname() != "localhost" {
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
	if o.Pin != "" {
		if u.Scheme == "http" {
			return nil, fmt.Errorf("cannot check %s by a pin: it would be reached in the clear; use https", o.Addr)
		}
		if transport.TLSClientConfig, err = wsx.Pinned(o.Pin, u.Hostname()); err != nil {
			return nil, fmt.Errorf("cannot use the pin: %w", err)
		}
	}
	c.http = &http.Client{Transport: transport, CheckRedirect: func(*http.Request, []*http.Request) error {
		return http.ErrUseLastResponse // this server sends nobody elsewhere
	}}
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
