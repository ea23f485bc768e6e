package wrapper

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"saltpeter/wsx/wire"
)

func TestOrderFromEnvironment(t *testing.T) {
	e := newEnvironment([]string{
		"SP_WEBSOCKET_URL=ws://h:1/task/t", "SP_JOB_NAME=j", "SP_JOB_INSTANCE_NAME=j_1", "SP_COMMAND=true", "SP_CWD=/tmp",
		"SP_USER=nobody", "SP_TIMEOUT=1.5", "SP_OUTPUT_INTERVAL_MS=250", "SP_WRAPPER_LOGLEVEL=DEBUG", "SP_WRAPPER_LOGDIR=/l",
		"SP_ALLOW_OVERLAP=True", "SP_LOCKFILE=/lock", "SP_SERVER_PIN=ab", "SP_KILL_GRACE=7", "SP_KILL_SIGNAL=SIGINT",
		"SP_SPOOL_DIR=/s", "SP_MACHINE_ID=m", "COLOUR=red", "EQ=a=b", "HOME=/root", "SSH_AUTH_SOCK=x", "NONSENSE",
	})
	o, err := loadOrder(context.Background(), e, strings.NewReader(""))
	if err != nil {
		t.Fatal(err)
	}
	if o.URL != "ws://h:1/task/t" || o.Job != "j" || o.Run != "j_1" || o.Command != "true" || o.Cwd != "/tmp" || o.User != "nobody" ||
		o.Timeout != 1.5 || o.OutputInterval != 0.25 || o.LogLevel != "debug" || o.LogDir != "/l" || !o.AllowOverlap ||
		o.Lockfile != "/lock" || o.Pin != "ab" || o.KillGrace != 7 || o.KillSignal != "INT" || o.SpoolDir != "/s" || o.Machine != "m" {
		t.Errorf("order %+v", o)
	}
	if o.HardLimit != wire.DefaultHardLimit || o.Drain != wire.DefaultDrain || o.StartWait != wire.DefaultStartWait || len(o.Task) != 32 {
		t.Errorf("defaults %+v", o)
	}
	if len(o.Env) != 2 || o.Env["COLOUR"] != "red" || o.Env["EQ"] != "a=b" {
		t.Errorf("the job's environment is %v", o.Env)
	}
}

func TestBadSettings(t *testing.T) {
	full := []string{"SP_WEBSOCKET_URL=ws://h/task/t", "SP_JOB_NAME=j", "SP_JOB_INSTANCE=j_1", "SP_COMMAND=true"}
	for name, c := range map[string]struct {
		environ []string
		stdin   string
		want    string
	}{
		"timeout":   {append(full, "SP_TIMEOUT=soon"), "", `SP_TIMEOUT="soon"`},
		"negative":  {append(full, "SP_TIMEOUT=-1"), "", `SP_TIMEOUT="-1"`},
		"not a num": {append(full, "SP_KILL_GRACE=NaN"), "", `SP_KILL_GRACE="NaN"`},
		"no server": {full[1:], "", "SP_WEBSOCKET_URL"},
		"no run":    {append(full[:2:2], full[3]), "", "SP_JOB_INSTANCE"},
		"nothing":   {nil, "", "standard input"},
		"no json":   {nil, "{", "standard input"},
		"a list":    {nil, "[]", "standard input"},
		"newer":     {nil, `{"order_version":99,"url":"u","job":"j","run":"r","command":"c"}`, "upgrade"},
		"no URL":    {append(full[1:4:4], "SP_WEBSOCKET_URL=hello"), "", "wss://HOST"},
		"http":      {append(full[1:4:4], "SP_WEBSOCKET_URL=http://h/task/t"), "", "wss://HOST"},
		"no host":   {append(full[1:4:4], "SP_WEBSOCKET_URL=ws:///task/t"), "", "wss://HOST"},
		"order URL": {nil, `{"url":"hello","job":"j","run":"r","command":"c"}`, "wss://HOST"},
		"fetch URL": {[]string{"SP_ORDER=fetch", "SP_WEBSOCKET_URL=hello"}, "", "wss://HOST"},
		"fetch":     {[]string{"SP_ORDER=fetch"}, "", "SP_WEBSOCKET_URL"},
	} {
		_, err := loadOrder(context.Background(), newEnvironment(c.environ), strings.NewReader(c.stdin))
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want something about %s", name, err, c.want)
		}
	}
}

// Servers of all generations give such URLs.
func TestServerURLs(t *testing.T) {
	for _, url := range []string{
		"ws://h:8889", "ws://h:8889/", "ws://h", "ws://10.1.2.3:8889/task/t", "wss://h.example:8889/run/t", "ws://[::1]:8889/", "WS://H_1:8889",
	} {
		e := newEnvironment([]string{"SP_WEBSOCKET_URL=" + url, "SP_JOB_NAME=j", "SP_JOB_INSTANCE=j_1", "SP_COMMAND=true"})
		if _, err := loadOrder(t.Context(), e, strings.NewReader("")); err != nil {
			t.Errorf("%s: %v", url, err)
		}
	}
}

// What an order leaves out has its default, what it sets to nothing is nothing.
func TestOrderDefaults(t *testing.T) {
	o, err := readOrder(strings.NewReader(`{"job":"j","drain":0} and whatever follows`))
	if err != nil {
		t.Fatal(err)
	}
	if o.Drain != 0 || o.KillGrace != wire.DefaultKillGrace || o.StartWait != wire.DefaultStartWait {
		t.Errorf("order %+v", o)
	}
}

func TestFlags(t *testing.T) {
	for args, want := range map[string]flags{
		"":                    {},
		"wrap":                {},
		"wrap --foreground":   {foreground: true},
		"--pickup":            {pickup: true},
		"wrap --pickup /a":    {pickup: true, dir: "/a"},
		"--foreground --help": {foreground: true, help: true},
	} {
		if got, err := parseFlags(strings.Fields(args)); err != nil || got != want {
			t.Errorf("%q: %+v, %v", args, got, err)
		}
	}
	for _, args := range []string{"/a", "--pickup /a /b", "--daemon", "wrap wrap"} {
		if got, err := parseFlags(strings.Fields(args)); err == nil {
			t.Errorf("%q: %+v", args, got)
		}
	}
}

func TestSpoolRoots(t *testing.T) {
	env := func(pairs ...string) func(string) string { return newEnvironment(pairs).get }
	for name, c := range map[string]struct {
		o    wire.Order
		env  func(string) string
		uid  int
		want string
	}{
		"order":        {wire.Order{SpoolDir: "/s"}, env("HOME=/h"), 0, "/s"},
		"root":         {wire.Order{}, env("HOME=/h", "XDG_STATE_HOME=/x"), 0, "/var/lib/saltpeter/spool"},
		"xdg":          {wire.Order{}, env("HOME=/h", "XDG_STATE_HOME=/x"), 7, "/x/saltpeter/spool"},
		"relative xdg": {wire.Order{}, env("HOME=/h", "XDG_STATE_HOME=x"), 7, "/h/.local/state/saltpeter/spool"},
		"homeless":     {wire.Order{}, env(), 7, filepath.Join(os.TempDir(), "saltpeter-7", "spool")},
	} {
		got := spoolRoots(&c.o, c.env, c.uid)
		if got[0] != c.want {
			t.Errorf("%s: %v, want %s", name, got, c.want)
		}
	}
}

func TestSafeName(t *testing.T) {
	for in, want := range map[string]string{
		"nightly_1700000000": "nightly_1700000000", "../../etc": "_._.._etc", "a b/c\x00": "a_b_c_", "": "_", ".": "_", "ü": "__",
	} {
		if got := safeName(in); got != want {
			t.Errorf("%q: %q, want %q", in, got, want)
		}
	}
	if got := safeName(strings.Repeat("x", 500)); len(got) != 100 {
		t.Errorf("%d bytes", len(got))
	}
}

func FuzzReadOrder(f *testing.F) {
	f.Add(`{"order_version":1,"url":"ws://h/task/t","job":"j","run":"r","machine":"m","task":"t","command":"true","timeout":1e9,"env":{"A":"b"}}`)
	f.Add(`{"timeout":-1,"max_output":-5}`)
	f.Add(`null`)
	f.Fuzz(func(t *testing.T, text string) {
		o, err := readOrder(strings.NewReader(text))
		if err != nil {
			return
		}
		_ = o.Check()
		if s := newSpool(spoolOptions{Max: o.MaxOutput}); s.segmentSize <= 0 || s.o.Max < minMax {
			t.Errorf("max_output %d makes segments of %d", o.MaxOutput, s.segmentSize)
		}
		if name := taskName(o); strings.ContainsAny(name, "/\x00") || name[0] == '.' || len(name) > 120 {
			t.Errorf("run %q has directory %q", o.Run, name)
		}
	})
}
