package wsx

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"net"
	"strings"
	"testing"
	"time"
)

func TestPin(t *testing.T) {
	p := open(t, newDesk(), nil)
	wrong := strings.Repeat("0", 64)
	for name, c := range map[string]struct {
		pin string
		ok  bool
	}{
		"right": {p.pin, true}, "capitals": {strings.ToUpper(p.pin), true},
		"wrong": {wrong, false}, "short": {p.pin[:10], false}, "no hex": {strings.Repeat("x", 64), false},
		"system CAs": {"", false},
	} {
		o := p.dial(true)
		o.Pin = c.pin
		conn, err := Dial(t.Context(), o)
		if (err == nil) != c.ok {
			t.Errorf("%s: %v", name, err)
		}
		if err == nil {
			conn.Close("")
		} else if strings.Contains(err.Error(), token) {
			t.Errorf("%s: %v", name, err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
		if c.ok {
			cancel()
			ctx, cancel = context.WithTimeout(t.Context(), patient)
		}
		data, err := FetchOrder(ctx, o, "n")
		if (err == nil) != c.ok {
			t.Errorf("order, %s: %q %v", name, data, err)
		}
		if err != nil && strings.Contains(err.Error(), token) {
			t.Errorf("order, %s: %v", name, err)
		}
		cancel()
	}
}

// No error of the client shows the token, whatever is wrong.
func TestErrorsHideTheToken(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	nobody := ln.Addr().String()
	ln.Close()
	for _, url := range []string{
		"http://127.0.0.1:1/task/" + token, "ws:///task/" + token, "ws://u:p@127.0.0.1:1/task/" + token,
		"ws://127.0.0.1:1/task/%zz" + token, "ws://[::1/task/" + token, "", "\x00" + token,
		"ws://" + nobody + "/task/" + token, "wss://" + nobody + "/task/" + token, "ws://no.such.host.invalid/task/" + token,
	} {
		ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
		c, err := Dial(ctx, DialOptions{URL: url})
		if err == nil {
			c.Close("")
			t.Fatalf("%q was dialed", url)
		}
		_, err2 := FetchOrder(ctx, DialOptions{URL: url}, "n")
		cancel()
		for _, err := range []error{err, err2} {
			if err == nil || strings.Contains(err.Error(), token) {
				t.Errorf("%q: %v", url, err)
			}
		}
	}
}

func TestUnauthorized(t *testing.T) {
	d := newDesk()
	delete(d.tokens, token)
	p := open(t, d, nil)
	for _, secure := range []bool{false, true} {
		if _, err := Dial(t.Context(), p.dial(secure)); !errors.Is(err, ErrUnauthorized) {
			t.Error(err)
		}
	}
}

func TestFetchOrder(t *testing.T) {
	d := newDesk()
	p := open(t, d, nil)
	o := p.dial(true)
	o.Machine = "m1"
	for range 2 { // the same nonce may come again
		data, err := FetchOrder(t.Context(), o, "n1")
		if err != nil || string(data) != "order for m1" {
			t.Fatalf("%q %v", data, err)
		}
	}
	if _, err := FetchOrder(t.Context(), o, "n2"); !errors.Is(err, ErrOtherNonce) {
		t.Error(err)
	}
	// A server that does not know the token yet, or is not ready, is asked again.
	d.mu.Lock()
	delete(d.tokens, token)
	d.busy = errors.New("not yet")
	d.mu.Unlock()
	time.AfterFunc(150*time.Millisecond, func() { d.mu.Lock(); d.busy = nil; d.mu.Unlock() })
	time.AfterFunc(300*time.Millisecond, func() { d.mu.Lock(); d.tokens[token] = true; d.mu.Unlock() })
	if data, err := FetchOrder(t.Context(), o, "n1"); err != nil {
		t.Errorf("%q %v", data, err)
	}
	d.mu.Lock()
	delete(d.tokens, token)
	d.mu.Unlock()
	before := d.refusals()
	ctx, cancel := context.WithCancel(t.Context())
	go func() {
		defer cancel()
		for d.refusals() < before+3 && t.Context().Err() == nil {
			time.Sleep(2 * time.Millisecond)
		}
	}()
	if _, err := FetchOrder(ctx, o, "n1"); !errors.Is(err, ErrUnauthorized) {
		t.Error(err)
	}
}

func TestCertificate(t *testing.T) {
	now := time.Now()
	certPEM, keyPEM, err := NewCertificate([]string{"server.example", "10.0.0.1", "::1", ""}, now)
	if err != nil {
		t.Fatal(err)
	}
	pair, err := tls.X509KeyPair(certPEM, keyPEM)
	if err != nil {
		t.Fatal(err)
	}
	b, _ := pem.Decode(certPEM)
	leaf, err := x509.ParseCertificate(b.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"server.example", "10.0.0.1", "::1"} {
		if err := leaf.VerifyHostname(name); err != nil {
			t.Error(err)
		}
	}
	if leaf.NotAfter.Before(now.AddDate(20, 0, 0)) || leaf.NotBefore.After(now) || leaf.PublicKeyAlgorithm != x509.ECDSA {
		t.Errorf("%v %v %v", leaf.NotBefore, leaf.NotAfter, leaf.PublicKeyAlgorithm)
	}
	pin, err := PinOf(pair)
	if err != nil || len(pin) != 64 {
		t.Error(pin, err)
	}
	_, key2, _ := NewCertificate(nil, now)
	if string(key2) == string(keyPEM) {
		t.Error("the same key twice")
	}
	if _, err := PinOf(tls.Certificate{}); err == nil {
		t.Error("a pin of nothing")
	}
}

func TestBackoff(t *testing.T) {
	var b backoff
	for i, most := range []time.Duration{100, 200, 400, 800, 1600, 3200, 5000, 5000, 5000} {
		most *= time.Millisecond
		if d := b.next(false); d < most/2 || d > most {
			t.Errorf("try %d: %v", i, d)
		}
	}
	for range 100 {
		b.next(true)
	}
	if d := b.next(true); d < backoffDenied/2 || d > backoffDenied {
		t.Errorf("after many 401: %v", d)
	}
	if d := b.next(false); d > backoffMost {
		t.Errorf("after a 401 that was cured: %v", d)
	}
}
