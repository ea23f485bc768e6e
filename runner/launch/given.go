package launch

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"
)

// kind is what a given wrapper turned out to be. stamp is what its file looked like
// then.
type kind struct {
	ours  bool
	stamp string
	why   string // it cannot be used
}

// probeScript asks a given wrapper what it is. An older one takes no arguments, finds
// none of its settings and gives up; what ends well and does not call itself a wrapper
// is none.
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
g_x=$("$g_path" wrap --version 2>&1)
g_code=$?
case $g_x in
*'Saltpeter Wrapper version '*'Takes orders up to version '*) g_say kind=ours ;;
*'Saltpeter Wrapper version '*) g_say kind=older ;;
*)
if [ $g_code != 0 ]; then
g_say kind=older
else
g_say "said=$(printf '%s\n' "$g_x" | sed -n '/[^[:space:]]/{p;q;}' | cut -c 1-600)"
g_say why=nothing
fi
;;
esac
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

// startOlder starts a wrapper of an older generation: its settings are its
// environment, which comes from a shell's standard input. It says nothing and goes
// into the background; what ends with another code may have had a job that short.
func (s *secureShell) startOlder(ctx context.Context, m Machine, order []byte) StartResult {
	env, err := olderEnvironment(order)
	if err != nil {
		return certainlyNot(err)
	}
	script, err := olderScript(env, m.WrapperPath)
	if err != nil {
		return certainlyNot(err)
	}
	d := dialogue{stdin: script}
	d.read = func(r io.Reader) error {
		if _, err := io.Copy(io.Discard, r); err != nil {
			return err
		}
		return errNoIdentity // how it ends says whether it started
	}
	err = s.hold(ctx, m, s.line(m, "sh", "-s"), &d)
	switch {
	case !d.sent:
		return certainlyNot(err)
	case d.end.running, d.end.known && d.end.code == 0:
		return StartResult{Certainty: Started, Older: true}
	case d.end.known && (d.end.code == 126 || d.end.code == 127):
		return certainlyNot(fmt.Errorf("cannot start the wrapper: %s cannot be executed (exit code %d)", m.WrapperPath, d.end.code))
	case d.end.known:
		err = errors.New(d.end.String())
	}
	return StartResult{Certainty: Unsure, Older: true, Err: fmt.Errorf("cannot say whether the older wrapper %s started: %w", m.WrapperPath, err)}
}

// probe asks a given wrapper what it is. One that does not say is an older one.
func (s *secureShell) probe(ctx context.Context, m Machine) (*kind, error) {
	mark := rand.Text()
	script := fmt.Sprintf("g_mark=%s\ng_path=%s\n", mark, shellQuote(m.WrapperPath)) + probeScript
	limited, cancel := context.WithTimeout(ctx, probeWithin)
	defer cancel()
	k := &kind{}
	said := ""
	err := s.shell(limited, m, []byte(script), func(r io.Reader) error {
		return readMarked(r, probeWord, mark, func(key, value string) {
			switch {
			case key == "stamp":
				k.stamp = value
			case key == "kind":
				k.ours = value == "ours"
			case key == "said":
				said = firstLine(strings.ToValidUTF8(value, "\uFFFD"))
			case key == "why" && value == "nothing":
				k.why = notAWrapper(m.WrapperPath, said).Error()
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
