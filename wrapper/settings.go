package wrapper

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strconv"
	"strings"
	"time"

	"saltpeter/wsx"
	"saltpeter/wsx/wire"
)

const (
	orderMax  = 16 << 20         // bytes of an order on standard input
	fetchWait = 60 * time.Second // for the server that has the order
)

// badURL does not repeat it: it may hold a token.
const badURL = "the server's URL (url, SP_WEBSOCKET_URL) cannot be dialled: give one of the form ws://HOST:PORT/… or wss://HOST:PORT/…"

// environment is the wrapper's own, as it was given.
type environment map[string]string

func newEnvironment(environ []string) environment {
	e := environment{}
	for _, entry := range environ {
		if name, value, ok := strings.Cut(entry, "="); ok {
			e[name] = value
		}
	}
	return e
}

func (e environment) get(name string) string { return e[name] }

// source is where the order comes from.
func (e environment) source(stdinIsTerminal bool) string {
	switch {
	case e["SP_ORDER"] == "stdin", e["SP_ORDER"] == "fetch":
		return e["SP_ORDER"]
	case e["SP_COMMAND"] == "" && !stdinIsTerminal:
		return "stdin"
	}
	return "environment"
}

// loadOrder finds the order and completes it.
func loadOrder(ctx context.Context, e environment, stdin io.Reader) (*wire.Order, error) {
	var o *wire.Order
	var err error
	switch e.source(isTerminal(stdin)) {
	case "stdin":
		warm()
		o, err = readOrder(stdin)
	case "fetch":
		o, err = fetchOrder(ctx, e)
	default:
		o, err = e.order()
	}
	if err != nil {
		return nil, err
	}
	if err := o.Check(); err != nil {
		return nil, err
	}
	if wsx.CheckURL(o.URL) != nil {
		return nil, errors.New("cannot take the order: " + badURL)
	}
	if o.Machine == "" {
		o.Machine = hostName(ctx)
	}
	if o.Task == "" {
		o.Task = randomHex(16)
	}
	return o, nil
}

// defaultOrder holds what an order means where it says nothing.
func defaultOrder() *wire.Order {
	return &wire.Order{
		Version: wire.OrderVersion, KillGrace: wire.DefaultKillGrace, HardLimit: wire.DefaultHardLimit,
		Drain: wire.DefaultDrain, StartWait: wire.DefaultStartWait,
	}
}

// warm does ahead what every task needs once and what does not depend on its order:
// a wrapper may have been started before there is one. The JSON package learns each
// type when it first meets it, and that is most of what its first use costs.
func warm() {
	id := &wire.Identity{}
	for _, v := range []any{wire.Message{Identity: id}, taskMeta{Identity: id}} {
		if data, err := json.Marshal(v); err == nil {
			_ = json.Unmarshal(data, &wire.Message{})
			_ = json.Unmarshal(data, &taskMeta{})
		}
	}
	_, _ = rand.Read(make([]byte, 8))
	_ = time.Now().Format(time.RFC3339) // reads the time zone
}

// readOrder takes the first JSON value of r: whoever sends it may keep the pipe
// open.
func readOrder(r io.Reader) (*wire.Order, error) {
	o := defaultOrder()
	if err := json.NewDecoder(io.LimitReader(r, orderMax)).Decode(o); err != nil {
		return nil, fmt.Errorf("cannot read the order on standard input: %w; give it as JSON there, or in SP_* variables", err)
	}
	return o, nil
}

func fetchOrder(ctx context.Context, e environment) (*wire.Order, error) {
	ctx, cancel := context.WithTimeout(ctx, fetchWait)
	defer cancel()
	if e["SP_WEBSOCKET_URL"] == "" {
		return nil, fmt.Errorf("cannot fetch the order: SP_WEBSOCKET_URL is not set")
	}
	if wsx.CheckURL(e["SP_WEBSOCKET_URL"]) != nil {
		return nil, errors.New("cannot fetch the order: " + badURL)
	}
	dial := dialOptions(e["SP_WEBSOCKET_URL"], e["SP_SERVER_PIN"])
	dial.Machine = first(e["SP_MACHINE_ID"], hostName(ctx))
	data, err := wsx.FetchOrder(ctx, dial, randomHex(16))
	if err != nil {
		return nil, err // says what could not be done
	}
	o := defaultOrder()
	if err := json.Unmarshal(data, o); err != nil {
		return nil, fmt.Errorf("cannot read the order that the server sent: %w", err)
	}
	// What the machine was told of itself comes first.
	o.SpoolDir = first(e["SP_SPOOL_DIR"], o.SpoolDir)
	o.LogDir = first(e["SP_WRAPPER_LOGDIR"], o.LogDir)
	return o, nil
}

// order reads the variables that every generation of server sets.
func (e environment) order() (*wire.Order, error) {
	o := defaultOrder()
	o.URL, o.Pin = e["SP_WEBSOCKET_URL"], e["SP_SERVER_PIN"]
	o.Job, o.Run = e["SP_JOB_NAME"], first(e["SP_JOB_INSTANCE"], e["SP_JOB_INSTANCE_NAME"])
	o.Machine, o.Command = e["SP_MACHINE_ID"], e["SP_COMMAND"]
	o.Cwd, o.User, o.Lockfile = e["SP_CWD"], e["SP_USER"], e["SP_LOCKFILE"]
	o.KillSignal = strings.TrimPrefix(strings.ToUpper(e["SP_KILL_SIGNAL"]), "SIG")
	o.SpoolDir, o.LogDir, o.LogLevel = e["SP_SPOOL_DIR"], e["SP_WRAPPER_LOGDIR"], strings.ToLower(e["SP_WRAPPER_LOGLEVEL"])
	o.AllowOverlap = isTrue(e["SP_ALLOW_OVERLAP"])
	o.Env = e.jobEnv()
	var err error
	if o.Timeout, err = e.seconds("SP_TIMEOUT", 1, 0); err != nil {
		return nil, err
	}
	if o.OutputInterval, err = e.seconds("SP_OUTPUT_INTERVAL_MS", 1000, 0); err != nil {
		return nil, err
	}
	o.KillGrace, err = e.seconds("SP_KILL_GRACE", 1, o.KillGrace)
	return o, err
}

// jobEnv is what a job's own environment may have been made of: a server that
// hands it over in variables mixes it with everything else. What describes the
// wrapper's session or user rather than the job stays out.
func (e environment) jobEnv() map[string]string {
	env := map[string]string{}
	for name, value := range e {
		switch name {
		case "HOME", "USER", "LOGNAME", "SHELL", "PWD", "OLDPWD", "SHLVL", "_", "TERM", "MAIL", "GOMAXPROCS",
			"INVOCATION_ID", "JOURNAL_STREAM", "NOTIFY_SOCKET", "LISTEN_FDS", "LISTEN_PID", "SYSTEMD_EXEC_PID", "MAINPID", "WATCHDOG_USEC", "WATCHDOG_PID":
			continue
		}
		if !hasAnyPrefix(name, "SP_", "XDG_", "SSH_", "SUDO_", "DBUS_", "SALTPETER_") {
			env[name] = value
		}
	}
	return env
}

func (e environment) seconds(name string, unit float64, otherwise wire.Seconds) (wire.Seconds, error) {
	text := strings.TrimSpace(e[name])
	if text == "" {
		return otherwise, nil
	}
	n, err := strconv.ParseFloat(text, 64)
	if err != nil || !(n >= 0 && n < 1e9*unit) {
		return 0, fmt.Errorf("cannot take %s=%q: it is not a number of seconds or milliseconds", name, text)
	}
	return wire.Seconds(n / unit), nil
}

func dialOrder(o *wire.Order) wsx.DialOptions {
	d := dialOptions(o.URL, o.Pin)
	d.Socket = o.Socket
	return d
}

func dialOptions(url, pin string) wsx.DialOptions {
	return wsx.DialOptions{URL: url, Pin: pin, Timeout: 10 * time.Second, Agent: "saltpeter/" + Version}
}

// hostName is the fully qualified name, where it can be had within a second.
func hostName(ctx context.Context) string {
	name, err := os.Hostname()
	if err != nil || strings.Contains(name, ".") {
		return first(name, "localhost")
	}
	ctx, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	if full, err := net.DefaultResolver.LookupCNAME(ctx, name); err == nil && strings.HasPrefix(full, name+".") {
		return strings.TrimSuffix(full, ".")
	}
	return name
}

// duration is never negative, and a century at most: what an order or a message
// says may be anything.
func duration(s wire.Seconds) time.Duration {
	const most = 100 * 365 * 24 * 3600
	return time.Duration(min(max(float64(s), 0), most) * float64(time.Second))
}

func randomHex(bytes int) string {
	b := make([]byte, bytes)
	_, _ = rand.Read(b) // never fails, says crypto/rand
	return hex.EncodeToString(b)
}

func isTrue(s string) bool {
	switch strings.ToLower(s) {
	case "1", "true", "yes", "on":
		return true
	}
	return false
}

func first(texts ...string) string {
	for _, s := range texts {
		if s != "" {
			return s
		}
	}
	return ""
}

func hasAnyPrefix(s string, prefixes ...string) bool {
	for _, p := range prefixes {
		if strings.HasPrefix(s, p) {
			return true
		}
	}
	return false
}

// isTerminal: a character device is somebody's keyboard, or /dev/null.
func isTerminal(r io.Reader) bool {
	f, ok := r.(*os.File)
	if !ok {
		return false
	}
	info, err := f.Stat()
	return err != nil || info.Mode()&os.ModeCharDevice != 0
}
