package launch

import (
	"bufio"
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"saltpeter/wsx/wire"
)

// olderEnvironment is an order as variables, for wrappers of another generation:
// they know no other way, and no TLS with a pinned key. It fails where the order
// holds what variables cannot.
func olderEnvironment(order []byte) (map[string]string, error) {
	var o wire.Order
	if err := json.Unmarshal(order, &o); err != nil {
		return nil, fmt.Errorf("cannot read the order: %w", err)
	}
	env := map[string]string{}
	maps.Copy(env, o.Env)
	seconds := func(s wire.Seconds, unit float64) string {
		return strconv.FormatInt(int64(float64(s)*unit+0.5), 10)
	}
	url := o.URL
	if rest, ok := strings.CutPrefix(url, "wss://"); ok {
		url = "ws://" + rest // the same port takes both
	}
	given := map[string]string{
		"SP_WEBSOCKET_URL": url, "SP_JOB_NAME": o.Job, "SP_JOB_INSTANCE": o.Run, "SP_JOB_INSTANCE_NAME": o.Run,
		"SP_MACHINE_ID": o.Machine, "SP_COMMAND": o.Command, "SP_CWD": o.Cwd, "SP_USER": o.User,
		"SP_TIMEOUT": seconds(o.Timeout, 1), "SP_WRAPPER_LOGLEVEL": o.LogLevel, "SP_WRAPPER_LOGDIR": o.LogDir,
		"SP_LOCKFILE": o.Lockfile, "SP_ALLOW_OVERLAP": strconv.FormatBool(o.AllowOverlap),
	}
	if o.OutputInterval > 0 {
		given["SP_OUTPUT_INTERVAL_MS"] = seconds(o.OutputInterval, 1000)
	}
	for name, value := range given {
		if value != "" {
			env[name] = value
		}
	}
	for name, value := range env {
		if !variable(name) || strings.ContainsRune(value, 0) {
			return nil, fmt.Errorf("cannot give the variable %q to a wrapper of another generation: a shell knows no such name, or its value holds a NUL", name)
		}
	}
	return env, nil
}

// variable reports whether a shell takes a word for a variable's name.
func variable(name string) bool {
	for i, c := range []byte(name) {
		letter := c == '_' || c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z'
		if !letter && (i == 0 || c < '0' || c > '9') {
			return false
		}
	}
	return name != ""
}

// readVersion reads up to the version line, which is all that an older wrapper says
// of itself.
func readVersion(r io.Reader) (string, error) {
	b := bufio.NewReaderSize(io.LimitReader(r, maxHandshake), 4096)
	for {
		line, err := b.ReadString('\n')
		if version, ok := strings.CutPrefix(strings.TrimRight(line, "\r\n"), wire.FirstLine); ok {
			return version, nil
		}
		if errors.Is(err, io.EOF) {
			return "", errNoIdentity
		}
		if err != nil {
			return "", err
		}
	}
}

// kind is what a given wrapper turned out to be. stamp is what its file looked like
// then.
type kind struct {
	ours  bool
	stamp string
	why   string // it cannot be used
}

// probeScript asks a given wrapper what it is. Without variables an older one can
// start nothing; one that answers with more than its version is ours.
const probeScript = `g_all() {
LC_ALL=C
export LC_ALL
g_say() { printf '\nSPG mark=%s %s\n' "$g_mark" "$1"; }
for g_v in $(env | sed -n 's/^\(SP_[A-Z_]*\)=.*/\1/p'); do unset "$g_v"; done
if [ ! -e "$g_path" ]; then
g_say why=missing
elif [ ! -f "$g_path" ] || [ ! -x "$g_path" ]; then
g_say why=noexec
else
set -- $(ls -lLin "$g_path")
g_say "stamp=$1 $6 $7 $8 $9"
g_x=$("$g_path" wrap --probe | head -c 4096 | grep -c '"order_version"')
g_say "ours=$g_x"
fi
g_say done=
}
g_all </dev/null 2>/dev/null
`

const probeWord = "SPG"

// probeWithin is how long a given wrapper may think about what it is.
const probeWithin = 15 * time.Second

// startGiven starts the wrapper that the operator named.
func (s *secureShell) startGiven(ctx context.Context, m Machine, order []byte) StartResult {
	key := machineKey(m) + "\x00" + m.WrapperPath
	for again := false; ; again = true {
		s.mu.Lock()
		k := s.kinds[key]
		s.mu.Unlock()
		fresh := k == nil
		if fresh {
			var err error
			if k, err = s.probe(ctx, m); err != nil {
				return certainlyNot(err)
			}
			s.mu.Lock()
			s.kinds[key] = k
			s.mu.Unlock()
		}
		res := s.startKind(ctx, m, k, order)
		if res.Certainty != CertainlyNot || fresh || again || errors.Is(res.Err, ErrUnreachable) {
			if k.why != "" {
				s.forgetKind(key)
			}
			return res
		}
		// The file may be another one than when it was asked what it is.
		s.forgetKind(key)
		now, err := s.probe(ctx, m)
		if err != nil || *now == *k {
			return res
		}
		s.mu.Lock()
		s.kinds[key] = now
		s.mu.Unlock()
	}
}

func (s *secureShell) forgetKind(key string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.kinds, key)
}

func (s *secureShell) startKind(ctx context.Context, m Machine, k *kind, order []byte) StartResult {
	switch {
	case k.why != "":
		return certainlyNot(errors.New(k.why))
	case k.ours:
		return s.startOurs(ctx, m, m.WrapperPath, order)
	}
	return s.startOlder(ctx, m, order)
}

// probe asks a given wrapper what it is. One that does not say is an older one.
func (s *secureShell) probe(ctx context.Context, m Machine) (*kind, error) {
	mark := rand.Text()
	script := fmt.Sprintf("g_mark=%s\ng_path=%s\n", mark, shellQuote(m.WrapperPath)) + probeScript
	limited, cancel := context.WithTimeout(ctx, probeWithin)
	defer cancel()
	k := &kind{}
	err := s.shell(limited, m, []byte(script), func(r io.Reader) error {
		return readMarked(r, probeWord, mark, func(key, value string) {
			switch {
			case key == "stamp":
				k.stamp = value
			case key == "ours":
				k.ours = value != "0"
			case value == "missing":
				k.why = fmt.Sprintf("cannot start the wrapper on %s: there is no %s; correct wrapper_path, or take it out to use the server's own", m.Name, m.WrapperPath)
			default:
				k.why = fmt.Sprintf("cannot start the wrapper on %s: %s is no program that the login may run; see its mode (chmod +x), or take wrapper_path out to use the server's own", m.Name, m.WrapperPath)
			}
		})
	})
	if err != nil && k.stamp != "" && ctx.Err() == nil {
		return k, nil // it is there, and does not answer
	}
	return k, err
}

// startOlder starts a wrapper of another generation: everything in its environment,
// which it gets from a shell, never in arguments. It detaches by itself and says
// no more than its version; who its processes are, its connection tells.
func (s *secureShell) startOlder(ctx context.Context, m Machine, order []byte) (res StartResult) {
	env, err := olderEnvironment(order)
	if err != nil {
		return certainlyNot(err)
	}
	d := dialogue{stdin: olderScript(m.WrapperPath, env)}
	d.read = func(r io.Reader) (err error) {
		if res.Version, err = readVersion(r); err == nil {
			err = errNoIdentity // how it ends says whether it started
		}
		return err
	}
	err = s.hold(ctx, m, s.line(m, "sh", "-s"), &d)
	switch {
	case !d.sent:
		return certainlyNot(err)
	case res.Version != "" && (!d.end.known || d.end.code == 0):
		res.Certainty = Started
		return res
	}
	return notGreeted(ctx, m.WrapperPath, res.Version, d.end, err, d.complaint)
}

func olderScript(path string, env map[string]string) []byte {
	var b strings.Builder
	b.WriteString("w_all() {\n")
	for _, name := range slices.Sorted(maps.Keys(env)) {
		b.WriteString(name + "=" + shellQuote(env[name]) + "\nexport " + name + "\n")
	}
	b.WriteString("exec " + shellQuote(path) + " </dev/null\n}\nw_all\n")
	return []byte(b.String())
}
