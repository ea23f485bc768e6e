package api

import (
	"bufio"
	"fmt"
	"net"
	"net/http"
	"os"
	"strings"
	"testing"
	"time"
)

// raw sends a request as it stands, and returns the status of its answer and what
// that says.
func (r *rig) raw(first string, headers ...string) (int, string) {
	r.t.Helper()
	conn, err := net.Dial("tcp", r.tcp)
	if err != nil {
		r.t.Fatal(err)
	}
	defer conn.Close()
	conn.SetDeadline(time.Now().Add(testWait))
	const body = `{"job":"none"}`
	fmt.Fprintf(conn, "%s\r\n%s\r\nContent-Length: %d\r\n\r\n%s", first, strings.Join(headers, "\r\n"), len(body), body)
	answer, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		r.t.Fatal(err)
	}
	defer answer.Body.Close()
	text, err := bufio.NewReader(answer.Body).ReadString('\n')
	if err != nil {
		r.t.Fatal(err)
	}
	return answer.StatusCode, text
}

// What a proxy on this machine hands on is not this machine's, whichever way it shows
// that it is one. A kill of a job that is none tells how far a request comes.
func TestProxiesShow(t *testing.T) {
	r := newRig(t)
	r.configure(strings.Replace(jobFiles, "saltpeter_config:", "saltpeter_config:\n  api_ws_allowed_hosts: [cron.example, 'http://localhost:3000']\n  default_saltpeter_server_host: dial.example", 1))
	own, err := os.Hostname()
	if err != nil {
		t.Fatal(err)
	}
	const kill, host = "POST /kill HTTP/1.1", "Host: 127.0.0.1:8888"
	for _, c := range []struct {
		what, first string
		headers     []string
		shows       string // "" = nothing: it is this machine
	}{
		{"curl", kill, []string{host, "User-Agent: curl/7.88.1", "Accept: */*", "Content-Type: application/x-www-form-urlencoded"}, ""},
		{"urllib of Python", kill, []string{host, "Accept-Encoding: identity", "User-Agent: Python-urllib/3.11", "Connection: close"}, ""},
		{"by its name", kill, []string{"Host: " + own + ":8888"}, ""},
		{"by the name that wrappers dial", kill, []string{"Host: dial.example:8888"}, ""},
		{"as localhost", kill, []string{"Host: localhost"}, ""},
		{"as ::1", kill, []string{"Host: [::1]:8888"}, ""},
		{"a page of this machine", kill, []string{host, "Origin: http://localhost:3000"}, ""},
		{"nginx as it comes", "POST /kill HTTP/1.0", []string{host, "Connection: close"}, "HTTP/1.0"},
		{"the same without a host", "POST /kill HTTP/1.0", []string{"Connection: close"}, "HTTP/1.0"},
		{"nginx told to speak 1.1, for a browser", kill, []string{host, "Origin: https://cron.example"}, `the Origin`},
		{"a proxy that hands the name on", kill, []string{"Host: cron.example"}, `the Host`},
		{"another address of this machine", kill, []string{"Host: 192.0.2.1:8888"}, `the Host`},
		{"X-Real-IP", kill, []string{host, "x-real-ip: 192.0.2.9"}, "X-Real-Ip"},
		{"Via", kill, []string{host, "Via: 1.1 vegur"}, "Via"},
		{"Cloudflare", kill, []string{host, "CF-Connecting-IP: 192.0.2.9"}, "Cf-Connecting-Ip"},
		{"Akamai", kill, []string{host, "True-Client-IP: 192.0.2.9"}, "True-Client-Ip"},
		{"others", kill, []string{host, "X-Client-IP: 192.0.2.9"}, "X-Client-Ip"},
		{"a load balancer", kill, []string{host, "X-Forwarded-Port: 443"}, "X-Forwarded-Port"},
		{"one that says nothing by it", kill, []string{host, "X-Forwarded-Proto:"}, "X-Forwarded-Proto"},
	} {
		status, text := r.raw(c.first, c.headers...)
		switch {
		case c.shows == "" && status != 404:
			t.Errorf("%s: %d %s", c.what, status, text)
		case c.shows != "" && (status != 403 || !strings.Contains(text, "through a proxy ("+c.shows) && !strings.Contains(text, "through a proxy (the header "+c.shows)):
			t.Errorf("%s: %d %s", c.what, status, text)
		}
	}
	// It may look, and it may do more with a token.
	if status, text := r.raw("GET /running HTTP/1.0", "Connection: close"); status != 200 {
		t.Errorf("looking through nginx: %d %s", status, text)
	}
	token, err := r.tokens.Create("x", Operate)
	if err != nil {
		t.Fatal(err)
	}
	if status, text := r.raw("POST /kill HTTP/1.0", "Connection: close", "Authorization: Bearer "+token); status != 404 {
		t.Errorf("a token through nginx: %d %s", status, text)
	}
}
