package api

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"saltpeter/runner"
	"saltpeter/runner/ledger"
)

// dying answers every request with the same bytes and closes the connection.
func dying(t *testing.T, answer string) *Client {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	t.Cleanup(func() { ln.Close(); <-done })
	go func() {
		defer close(done)
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			if req, err := http.ReadRequest(bufio.NewReader(c)); err == nil {
				io.Copy(io.Discard, req.Body)
				io.WriteString(c, answer)
			}
			c.Close()
		}
	}()
	c, err := NewClient(ClientOptions{Addr: "http://" + ln.Addr().String()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return c
}

func chunk(s string) string { return fmt.Sprintf("%x\r\n%s\r\n", len(s), s) }

const ndjson = "HTTP/1.1 200 OK\r\nContent-Type: application/x-ndjson\r\nTransfer-Encoding: chunked\r\n\r\n"

// A list that broke off is an error wherever it broke, never a short list.
func TestServerDiesInTheMiddleOfAList(t *testing.T) {
	line := `{"run":"a_1","machine":"m","outcome":"gone"}` + "\n"
	whole := ndjson + chunk(line) + chunk(line)
	for cut := range len(whole) + 1 {
		if cut > 0 && cut < len(ndjson) && cut%7 != 0 {
			continue // the head is the same everywhere
		}
		n := 0
		err := dying(t, whole[:cut]).Kill(t.Context(), KillRequest{Selection: Selection{All: true}}, func(runner.Receipt) error { n++; return nil })
		var gone *Unreachable
		if !errors.As(err, &gone) {
			t.Fatalf("cut at %d: %d receipts and %v", cut, n, err)
		}
	}
	n := 0
	if err := dying(t, whole+"0\r\n\r\n").Kill(t.Context(), KillRequest{}, func(runner.Receipt) error { n++; return nil }); err != nil || n != 2 {
		t.Errorf("the whole of it: %d, %v", n, err)
	}
}

func TestServerDiesInTheMiddleOfAnAnswer(t *testing.T) {
	var gone *Unreachable
	c := dying(t, "HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{\"jobs\":[")
	if jobs, err := c.Jobs(t.Context()); !errors.As(err, &gone) || len(jobs) > 0 {
		t.Errorf("%v, %v", jobs, err)
	}
	out, err := dying(t, ndjson+chunk("some bytes")).Output(t.Context(), ledger.TaskID{Run: "r", Machine: "m"}, 0, true)
	if err != nil {
		t.Fatal(err)
	}
	defer out.Close()
	if data, err := io.ReadAll(out); string(data) != "some bytes" || err != io.ErrUnexpectedEOF {
		t.Errorf("%q, %v", data, err)
	}
	n := 0
	err = dying(t, ndjson+chunk(": hello\n\nevent: config\ndata: {\"kind\":\"config\"}\n\n")+"0\r\n\r\n").Events(t.Context(), "", "", func(e Event) error { n++; return nil })
	if !errors.As(err, &gone) || n != 1 {
		t.Errorf("%d events, %v", n, err)
	}
	boom := errors.New("boom")
	if err := dying(t, ndjson+chunk("data: {}\n\n")).Events(t.Context(), "", "", func(Event) error { return boom }); err != boom {
		t.Error(err)
	}
}

func TestAnswersThatAreNone(t *testing.T) {
	var e *Error
	_, err := dying(t, "HTTP/1.1 502 Bad Gateway\r\nContent-Length: 5\r\n\r\n<html").Status(t.Context())
	if !errors.As(err, &e) || e.Code != "bad_answer" || e.Status != 502 {
		t.Error(err)
	}
	_, err = dying(t, "HTTP/1.1 302 Found\r\nLocation: http://127.0.0.1:1/\r\nContent-Length: 0\r\n\r\n").Status(t.Context())
	if !errors.As(err, &e) || e.Status != 302 {
		t.Error(err)
	}
	var gone *Unreachable
	_, err = dying(t, "HTTP/1.1 403 Forbidden\r\nContent-Length: 59\r\n\r\n"+`{"error":{"code":"host_refused","message":"m","hint":"h"}} `).Status(t.Context())
	if !errors.As(err, &gone) || !errors.As(err, &e) || e.Code != "host_refused" || e.Hint != "h" {
		t.Error(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := dying(t, "").Status(ctx); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
}

func TestClientAddresses(t *testing.T) {
	token := filepath.Join(t.TempDir(), "token")
	if err := os.WriteFile(token, []byte("sp_x\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for addr, good := range map[string]bool{
		"unix:///run/x.sock": true, "http://127.0.0.1": true, "http://localhost:8888": true, "http://[::1]:1": true, "https://far.example:8888/": true,
		"http://far.example:8888": false, "http://192.0.2.1": false, "http://127.0.0.1.far.example": false, "far.example:8888": false, "ftp://x": false, "": false, "http://%zz": false,
	} {
		c, err := NewClient(ClientOptions{Addr: addr, TokenFile: token})
		if (err == nil) != good {
			t.Errorf("%q: %v", addr, err)
		}
		if err == nil {
			c.Close()
		}
	}
	if _, err := NewClient(ClientOptions{Addr: "https://x", CAFile: token}); err == nil || !strings.Contains(err.Error(), "no certificate") {
		t.Error(err)
	}
	if _, err := NewClient(ClientOptions{Addr: "https://x", TokenFile: token + "x"}); err == nil {
		t.Error("a token file that is not there")
	}
	c, err := NewClient(ClientOptions{Addr: "unix://" + filepath.Join(t.TempDir(), "none")})
	if err != nil {
		t.Fatal(err)
	}
	var gone *Unreachable
	if _, err := c.Status(t.Context()); !errors.As(err, &gone) || !strings.Contains(err.Error(), "no such file") {
		t.Error(err)
	}
}

// A body that never comes, and one that comes too slowly, do not hold up a stop.
func TestStopDespiteHangingClients(t *testing.T) {
	r := newRig(t)
	var last net.Conn
	for _, text := range []string{"", "GET /api", "POST /api/v1/kill HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n{", "GET /api/v1/events HTTP/1.1\r\nHost: x\r\n\r\n"} {
		c, err := net.Dial("unix", r.socket)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		io.WriteString(c, text)
		last = c
	}
	if _, err := last.Read(make([]byte, 1)); err != nil {
		t.Fatal(err)
	}
	began := time.Now()
	r.shutdown() // it says that it had to close some of them
	if took := time.Since(began); took > 30*time.Second {
		t.Errorf("it took %s", took)
	}
}
