package sshx

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"time"
)

// Options say whom to be and what to bear. The zero value is usable.
type Options struct {
	User          string   // login name where neither the target nor ssh_config names one; "" = the user this process runs as
	Port          int      // where neither names one; 0 = 22
	IdentityFiles []string // tried before those of ssh_config and the usual ones (~/.ssh/id_ed25519 …)
	KnownHosts    string   // "" = ssh_config's, else ~/.ssh/known_hosts and /etc/ssh/ssh_known_hosts
	Config        string   // an ssh_config; "" = ~/.ssh/config, then /etc/ssh/ssh_config

	Concurrency  int // handshakes at once over everything; 0 = 64
	DialsPerHost int // unauthenticated dials at a time per destination and per jump host; 0 = 8 (sshd's MaxStartups begins to drop at 10)
	Sessions     int // sessions at a time on one connection; 0 = 8 (sshd's MaxSessions is 10); fewer where the far side refuses

	ConnectTimeout   time.Duration // 0 = 10 s
	HandshakeTimeout time.Duration // 0 = 10 s; from the connect to the login's end
	KeepAlive        time.Duration // 0 = 10 s; a connection silent for two of them is closed, and everything on it fails
	Idle             time.Duration // 0 = 5 min; how long an unused connection is kept

	Log *slog.Logger // nil = nowhere
}

// Client keeps connections and runs commands over them. It may be used by many at
// once.
type Client struct{}

var errNotBuilt = errors.New("not built yet")

// New reads no file but a Config that was named.
func New(Options) (*Client, error) { return nil, errNotBuilt }

// Close ends every connection and waits for what the client started: nothing of
// it runs afterwards.
func (c *Client) Close() error { return nil }

// Command is one exec. Line goes to the login shell as it is: make it with Quote.
type Command struct {
	Line   string
	Stdin  io.Reader // nil = empty
	Stdout io.Writer // nil = thrown away
	Stderr io.Writer // nil = thrown away; never the same buffer as Stdout, two goroutines write
	// Drain is how long output is awaited once the command has ended, where something
	// that it left behind holds its output open. 0 = until that ends too, as ssh does.
	Drain time.Duration
}

// Exit is how a command ended.
type Exit struct {
	Code   int    // -1 where a signal ended it, or the far side told neither
	Signal string // without SIG; "" where none was told
}

// Run runs one command on a target: "[user@]host[:port]" or a Host of ssh_config.
// Without an error it ran, and Exit says how it ended. When ctx ends the session
// is closed (the command may go on) and the error says so.
func (c *Client) Run(ctx context.Context, target string, cmd Command) (Exit, error) {
	return Exit{Code: -1}, errNotBuilt
}

// Session is a command that is talked with. Stdout and Stderr must both be read
// by whoever waits for its end.
type Session struct {
	Stdin          io.WriteCloser
	Stdout, Stderr io.Reader
}

// Start is Run for those who talk with the command: they read until they have what
// they want, then Close lets go of the session without waiting for its end.
func (c *Client) Start(ctx context.Context, target, line string) (*Session, error) {
	return nil, errNotBuilt
}

// Wait waits for the command's end.
func (s *Session) Wait() (Exit, error) { return Exit{Code: -1}, errNotBuilt }

// Close lets go of the session; the command may go on.
func (s *Session) Close() error { return nil }

// Endpoint is what would be used for a target.
type Endpoint struct {
	Target         string // as the caller named it
	User           string
	Host           string // the name that is looked up, and known_hosts is asked for
	Port           int
	Jumps          []string // as they are dialled, first to last: USER@HOST:PORT
	IdentityFiles  []string // those that exist are tried, in this order
	IdentitiesOnly bool     // the agent is asked for these only
	KnownHosts     []string // files
}

// Resolve says what would be used for a target, without a connection.
func (c *Client) Resolve(target string) (Endpoint, error) { return Endpoint{}, errNotBuilt }

// Listen has the far side listen on an address ("127.0.0.1:0") and hands over what
// connects there. It holds its connection; Accept fails when that drops.
func (c *Client) Listen(ctx context.Context, target, addr string) (net.Listener, error) {
	return nil, errNotBuilt
}

// LocalAddr is the address by which the far side sees this machine.
func (c *Client) LocalAddr(ctx context.Context, target string) (string, error) {
	return "", errNotBuilt
}

// AcceptHostKey is the deliberate first contact: it asks the target for its host
// key and, where none is known, appends it to the first known_hosts file. It
// refuses where another key is known. An empty line with a fingerprint says that
// the key was known already.
func (c *Client) AcceptHostKey(ctx context.Context, target string) (line, fingerprint string, err error) {
	return "", "", errNotBuilt
}
