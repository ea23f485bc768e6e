package wsx

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/gorilla/websocket"

	"saltpeter/wsx/wire"
)

const (
	dialWait  = 10 * time.Second
	orderSize = 16 << 20 // the largest order that is read

	headerNonce   = "Saltpeter-Nonce"
	headerMachine = "Saltpeter-Machine"
	headerOurs    = "Saltpeter-Wire" // in the answer to an upgrade: a server of ours
)

// DialOptions say which server a wrapper dials.
type DialOptions struct {
	URL     string // ws:// or wss://
	Pin     string // hex SHA-256 of the server's SubjectPublicKeyInfo; "" = system CAs
	Socket  string // the server's unix socket on this machine, tried before the URL; "" = none
	Timeout time.Duration
	Agent   string      // User-Agent
	Header  http.Header // more of them, for a plain message connection
	// Machine is shown by FetchOrder to a server whose token is a run's: which
	// of its machines this is.
	Machine string

	// net is how tests reach a server without a network; nil: TCP.
	net func(ctx context.Context, network, addr string) (net.Conn, error)
}

// ErrUnauthorized: the server answered 401. Try again later, never give up
// reporting for it.
var ErrUnauthorized = errors.New("the server does not know this token (401)")

// Dial connects to a machines listener. Its errors never show the URL's path,
// which is the token.
func Dial(ctx context.Context, o DialOptions) (*Conn, error) { return dial(ctx, o, &buffers{}) }

func dial(ctx context.Context, o DialOptions, bufs *buffers) (*Conn, error) {
	u, err := serverURL(o.URL)
	if err != nil {
		return nil, err
	}
	d := websocket.Dialer{
		NetDialContext:   o.dialer(),
		HandshakeTimeout: o.timeout(),
		ReadBufferSize:   serverBuffer * 2,
		WriteBufferSize:  writePiece + wire.OutputHeader,
		WriteBufferPool:  &bufs.write,
	}
	plain := *u
	plain.Scheme = "ws"
	if ws := o.overSocket(ctx, d, plain.String()); ws != nil {
		c := newConn(ws, bufs, maxText)
		c.ours = true
		return c, nil
	}
	if u.Scheme == "wss" {
		if d.TLSClientConfig, err = pinned(o.Pin, u.Hostname()); err != nil {
			return nil, fmt.Errorf("cannot connect to %s: %w", u.Host, err)
		}
	}
	ws, resp, err := d.DialContext(ctx, u.String(), o.header())
	if resp != nil && resp.StatusCode == http.StatusUnauthorized {
		return nil, fmt.Errorf("cannot connect to %s: %w", u.Host, ErrUnauthorized)
	}
	if errors.Is(err, websocket.ErrBadHandshake) {
		return nil, fmt.Errorf("cannot connect to %s: the server answered %d", u.Host, resp.StatusCode)
	}
	if err != nil {
		return nil, fmt.Errorf("cannot connect to %s: %w", u.Host, blot(err))
	}
	c := newConn(ws, bufs, maxText)
	c.ours = resp.Header.Get(headerOurs) != ""
	return c, nil
}

func (o *DialOptions) timeout() time.Duration {
	if o.Timeout > 0 {
		return o.Timeout
	}
	return dialWait
}

func (o *DialOptions) dialer() func(ctx context.Context, network, addr string) (net.Conn, error) {
	if o.net != nil {
		return o.net
	}
	return (&net.Dialer{}).DialContext
}

func (o *DialOptions) header() http.Header {
	h := o.Header.Clone()
	if h == nil {
		h = http.Header{}
	}
	if o.Agent != "" {
		h.Set("User-Agent", o.Agent)
	}
	return h
}

// CheckURL says whether Dial can take a server's URL. Its error does not repeat it.
func CheckURL(s string) error {
	_, err := serverURL(s)
	return err
}

// serverURL reads a server's URL. Its errors do not repeat it.
func serverURL(s string) (*url.URL, error) {
	u, err := url.Parse(s)
	if err != nil || (u.Scheme != "ws" && u.Scheme != "wss") || u.Host == "" || u.User != nil {
		return nil, errors.New("cannot connect: the server's URL is not of the form ws://HOST:PORT/… or wss://HOST:PORT/…")
	}
	return u, nil
}

// blot takes the URL, and with it the token, out of an error.
func blot(err error) error {
	var ue *url.Error
	if errors.As(err, &ue) {
		return ue.Err
	}
	return err
}

// FetchOrder gets the order of a wrapper that was started with SP_ORDER=fetch:
// GET URL/order with the nonce in a header, retried until ctx ends.
// ErrOtherNonce is final.
func FetchOrder(ctx context.Context, o DialOptions, nonce string) ([]byte, error) {
	u, err := serverURL(o.URL)
	if err != nil {
		return nil, err
	}
	u.Scheme = map[string]string{"ws": "http", "wss": "https"}[u.Scheme]
	u.Path = strings.TrimSuffix(u.Path, "/") + "/order"
	u.RawPath = ""
	t := &http.Transport{DisableKeepAlives: true, DialContext: o.dialer()}
	defer t.CloseIdleConnections()
	if u.Scheme == "https" {
		if t.TLSClientConfig, err = pinned(o.Pin, u.Hostname()); err != nil {
			return nil, fmt.Errorf("cannot fetch the order from %s: %w", u.Host, err)
		}
	}
	client := &http.Client{
		Transport:     t,
		Timeout:       o.timeout(),
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
	var b backoff
	var last error // what stood in the way, rather than that the time was up
	for {
		data, err := fetchOnce(ctx, client, &o, u, nonce)
		if err == nil {
			return data, nil
		}
		if last == nil || ctx.Err() == nil {
			last = fmt.Errorf("cannot fetch the order from %s: %w", u.Host, err)
		}
		if errors.Is(err, ErrOtherNonce) || !sleep(ctx, b.next(errors.Is(err, ErrUnauthorized))) {
			return nil, last
		}
	}
}

func fetchOnce(ctx context.Context, client *http.Client, o *DialOptions, u *url.URL, nonce string) ([]byte, error) {
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, u.String(), nil)
	if err != nil {
		return nil, blot(err)
	}
	r.Header = o.header()
	r.Header.Set(headerNonce, nonce)
	if o.Machine != "" {
		r.Header.Set(headerMachine, o.Machine)
	}
	resp, err := client.Do(r)
	if err != nil {
		return nil, blot(err)
	}
	defer resp.Body.Close()
	switch resp.StatusCode {
	case http.StatusOK:
	case http.StatusUnauthorized:
		return nil, ErrUnauthorized
	case http.StatusConflict:
		return nil, ErrOtherNonce
	default:
		return nil, fmt.Errorf("the server answered %d", resp.StatusCode)
	}
	data, err := io.ReadAll(io.LimitReader(resp.Body, orderSize+1))
	if err == nil && len(data) > orderSize {
		err = fmt.Errorf("it is larger than %d bytes", orderSize)
	}
	return data, blot(err)
}

const (
	backoffFirst  = 100 * time.Millisecond
	backoffMost   = 5 * time.Second
	backoffDenied = 60 * time.Second
)

// backoff counts the failures in a row. The zero value has seen none.
type backoff struct{ n, denied int }

// next is how long to wait before the next try: doubled each time, with jitter,
// so that the wrappers of a server that comes back do not all come at once.
func (b *backoff) next(denied bool) time.Duration {
	n, most := b.n, backoffMost
	if denied {
		n, most = b.denied, backoffDenied
		b.denied++
	} else {
		b.denied = 0
	}
	b.n++
	d := most
	if n < 16 {
		d = min(most, backoffFirst<<n)
	}
	return d/2 + rand.N(d/2+1)
}

// sleep reports whether it slept through, false if ctx ended first.
func sleep(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}
