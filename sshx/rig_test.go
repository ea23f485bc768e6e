package sshx

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"saltpeter/testdata/lab"
)

func TestMain(m *testing.M) {
	os.Unsetenv("SSH_AUTH_SOCK") // the tests' own agents only
	goleak.VerifyTestMain(m)
}

// patient is a bound for what should take no time, on a machine that has much to do.
const patient = 30 * time.Second

// client makes a client that is closed with the test, and knows s.
func client(t testing.TB, s *lab.Server, change ...func(*Options)) (*Client, *lab.Buffer) {
	t.Helper()
	j := &lab.Buffer{}
	o := Options{Config: emptyConfig(t), Log: slog.New(slog.NewTextHandler(j, &slog.HandlerOptions{Level: slog.LevelDebug})),
		ConnectTimeout: patient, HandshakeTimeout: patient}
	if s != nil {
		o.User, o.Port, o.IdentityFiles, o.KnownHosts = s.User, s.Port, []string{s.Key}, s.KnownHosts
	}
	for _, f := range change {
		f(&o)
	}
	c, err := New(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c, j
}

// config writes an ssh_config.
func config(t testing.TB, lines ...string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "ssh_config")
	if err := os.WriteFile(path, []byte(strings.Join(lines, "\n")+"\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	return path
}

func emptyConfig(t testing.TB) string { return config(t, "# nothing", "IdentityFile none") }

// run runs a line and returns its output, its exit and its error.
func run(c *Client, target, line string, stdin ...string) (out, errs string, exit Exit, err error) {
	ctx, cancel := context.WithTimeout(context.Background(), 2*patient)
	defer cancel()
	var o, e bytes.Buffer
	cmd := Command{Line: line, Stdout: &o, Stderr: &e}
	if len(stdin) > 0 {
		cmd.Stdin = strings.NewReader(stdin[0])
	}
	exit, err = c.Run(ctx, target, cmd)
	return o.String(), e.String(), exit, err
}

// mustRun is run where only success will do.
func mustRun(t testing.TB, c *Client, target, line string, stdin ...string) string {
	t.Helper()
	out, errs, exit, err := run(c, target, line, stdin...)
	if err != nil || exit.Code != 0 {
		t.Fatalf("%s: exit %+v, %v; it said %q %q", line, exit, err, out, errs)
	}
	return out
}

// fails asserts what a failure is about: the sentinel, the stage, and that nothing
// was sent.
func fails(t testing.TB, err error, kind error, stage string) *Error {
	t.Helper()
	var e *Error
	if !errors.As(err, &e) {
		t.Fatalf("want an *Error about %v, have %v", kind, err)
	}
	if e.Stage != stage || e.Sent || kind != nil && !errors.Is(err, kind) {
		t.Fatalf("want %v at %q with nothing sent, have %v at %q, sent %v", kind, stage, err, e.Stage, e.Sent)
	}
	for _, other := range []error{ErrUnreachable, ErrHostKeyUnknown, ErrHostKeyChanged, ErrLogin, ErrRefused} {
		if other != kind && errors.Is(err, other) {
			t.Fatalf("%v is also %v", err, other)
		}
	}
	return e
}

// eventually waits for a condition.
func eventually(t testing.TB, what string, f func() bool) {
	t.Helper()
	for deadline := time.Now().Add(patient); !f(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("no %s within %v", what, patient)
		}
	}
}

// connections is how many connections a client has in its pool.
func connections(c *Client) int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return len(c.live)
}
