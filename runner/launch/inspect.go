package launch

import (
	"bufio"
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/url"
	"runtime"
	"strconv"
	"strings"
	"time"

	"saltpeter/wsx/wire"
)

// InspectOptions say what to try.
type InspectOptions struct {
	URL       string // by which the machine's wrappers dial the server
	Pin       string
	AcceptNew bool // write down a host key that nobody knows yet
}

// Inspection is a machine tried: how it is reached, what it is, and everything that
// is wrong with it, at once.
type Inspection struct {
	Reached    bool
	Address    string // USER@HOST:PORT; "" for this machine
	Jumps      []string
	Keys       []string // files of keys that would be offered
	KnownHosts []string
	Accepted   string // fingerprint of the host key that was written down now
	System     string
	Wrapper    string // version; "" = not there yet
	Path       string // where the wrapper lies
	Skew       time.Duration
	Dials      []Dialled
	Problems   []string // each with what to do about it
}

// Dialled is one try of the way back.
type Dialled struct {
	URL string
	Err string // "" = a server answered
}

func (i *Inspection) problem(format string, args ...any) {
	i.Problems = append(i.Problems, fmt.Sprintf(format, args...))
}

// Deployment is what a machine has of the wrapper after all.
type Deployment struct {
	Path    string
	Version string
	Was     bool // it lay there already
	Err     error
}

// Inspector is a transport that can be tried without a task.
type Inspector interface {
	// Inspect tries everything on a machine and changes nothing on it.
	Inspect(ctx context.Context, m Machine, o InspectOptions) Inspection
	// Deploy puts the wrapper on a machine if it is not there; dry only looks.
	Deploy(ctx context.Context, m Machine, dry bool) Deployment
}

// Upgrader is a transport that puts binaries on machines.
type Upgrader interface {
	// Build names what would be put there: another name, and machines are behind.
	Build() (string, error)
	// Upgrade puts it on a machine that has one of another version; it leaves alone
	// what has none, since the first use does that.
	Upgrade(ctx context.Context, m Machine) (done bool, err error)
}

// Build is the server's own binary.
func (s *secureShell) Build() (string, error) {
	all, err := s.builds.all()
	return all[runtime.GOARCH].name(), err
}

// Upgrade puts the binary on a machine that has an older one.
func (s *secureShell) Upgrade(ctx context.Context, m Machine) (done bool, err error) {
	if !s.calls.enter() {
		return false, ErrClosed
	}
	defer s.calls.leave()
	if m.NoPush || m.WrapperPath != "" {
		return false, nil
	}
	found, err := s.survey(ctx, m, false)
	if err != nil || found.path != "" || !found.older {
		return false, err
	}
	a, err := s.binary(ctx, m)
	return err == nil && !a.was, err
}

// Inspect of this machine: nothing can be wrong with the road.
func (l *local) Inspect(context.Context, Machine, InspectOptions) Inspection {
	return Inspection{Reached: true, Path: l.exe}
}

// Deploy has nothing to do here: the server's own program is the wrapper.
func (l *local) Deploy(context.Context, Machine, bool) Deployment {
	return Deployment{Path: l.exe, Was: true, Err: l.exeErr}
}

// Deploy puts the binary on a machine.
func (s *secureShell) Deploy(ctx context.Context, m Machine, dry bool) Deployment {
	if !s.calls.enter() {
		return Deployment{Err: ErrClosed}
	}
	defer s.calls.leave()
	if m.WrapperPath != "" {
		return Deployment{Path: m.WrapperPath, Was: true}
	}
	key := machineKey(m)
	s.mu.Lock()
	if a := s.arrivals[key]; a != nil && a.over() {
		delete(s.arrivals, key) // what was there before may have gone
	}
	s.mu.Unlock()
	if !dry {
		a, err := s.binary(ctx, m)
		if err != nil {
			return Deployment{Err: err}
		}
		return Deployment{Path: a.path, Version: a.version, Was: a.was}
	}
	found, err := s.survey(ctx, m, false)
	switch {
	case err != nil:
		return Deployment{Err: err}
	case found.path != "":
		return Deployment{Path: found.path, Version: found.version, Was: true}
	case m.NoPush:
		return Deployment{Err: s.mayNotPush(m, found)}
	}
	_, err = found.build(s, m)
	return Deployment{Err: err}
}

func (a *arrival) over() bool {
	select {
	case <-a.done:
		return true
	default:
		return false
	}
}

// Inspect tries a machine: login, places, clock, wrapper, and its way back to us.
func (s *secureShell) Inspect(ctx context.Context, m Machine, o InspectOptions) (i Inspection) {
	if !s.calls.enter() {
		i.problem("%v", ErrClosed)
		return i
	}
	defer s.calls.leave()
	if !s.endpoint(ctx, m, o.AcceptNew, &i) {
		return i
	}
	before := time.Now()
	found, err := s.survey(ctx, m, false)
	if err != nil {
		i.problem("%v", err)
		i.Reached = !errors.Is(err, ErrUnreachable)
		return i
	}
	i.Reached, i.System = true, found.system
	i.skew(found.clock, before, time.Now())
	i.Path, i.Wrapper = found.path, found.version
	switch {
	case m.WrapperPath != "":
		i.Path = m.WrapperPath
		if k, err := s.probe(ctx, m); err != nil {
			i.problem("%v", err)
		} else if k.why != "" {
			i.problem("%s", k.why)
		} else if !k.ours {
			i.Wrapper = "another generation"
		}
	case found.path != "":
	case m.NoPush:
		i.problem("%v", s.mayNotPush(m, found))
	default:
		if _, err := found.build(s, m); err != nil {
			i.problem("%v", err)
		} else if !found.usable() {
			i.problem("there is no place for the wrapper: %s; make one writable for the login, or set sudo: true", found.reasons())
		}
	}
	s.wayBack(ctx, m, o, found, &i)
	return i
}

// usable: as far as looking alone can tell.
func (v survey) usable() bool {
	for _, p := range v.places {
		if p.state == "free" || p.state == "absent" {
			return true
		}
	}
	return false
}

// endpoint says what would be used for a machine, and makes the first contact where
// that was asked for. false: there is no use in going on.
func (s *secureShell) endpoint(ctx context.Context, m Machine, acceptNew bool, i *Inspection) bool {
	if m.SSH == "" {
		i.problem("it has no address; write %s: {ssh: HOST} in saltpeter_machines", m.Name)
		return false
	}
	e, err := s.client.Resolve(m.SSH)
	if err != nil {
		i.problem("%v", err)
		return false
	}
	i.Address = e.User + "@" + net.JoinHostPort(e.Host, strconv.Itoa(e.Port))
	i.Jumps, i.Keys, i.KnownHosts = e.Jumps, e.IdentityFiles, e.KnownHosts
	if acceptNew {
		line, print, err := s.client.AcceptHostKey(ctx, m.SSH)
		if err != nil {
			i.problem("%v", err)
			return false
		}
		if line != "" {
			i.Accepted = print
			s.o.Log.Warn("accepted a host key on first contact", "machine", m.Name, "fingerprint", print)
		}
	}
	return true
}

// skew compares clocks; seconds are all that `date` says everywhere.
func (i *Inspection) skew(clock string, before, after time.Time) {
	seconds, err := strconv.ParseInt(clock, 10, 64)
	if err != nil {
		return
	}
	theirs := time.Unix(seconds, 0)
	switch {
	case theirs.Add(time.Second).Before(before):
		i.Skew = theirs.Add(time.Second).Sub(before)
	case theirs.After(after):
		i.Skew = theirs.Sub(after)
	}
	i.Skew = i.Skew.Round(100 * time.Millisecond)
	if i.Skew.Abs() > 5*time.Second {
		i.problem("its clock is %s off; times of its tasks are corrected, yet set it right (NTP)", i.Skew)
	}
}

// wayBack has the machine dial the server, by the name that wrappers are given and
// by the address that its SSH connection came from.
func (s *secureShell) wayBack(ctx context.Context, m Machine, o InspectOptions, found survey, i *Inspection) {
	u, err := url.Parse(o.URL)
	if o.URL == "" || err != nil {
		return
	}
	urls := []string{o.URL}
	from := found.from
	if from == "" && !m.Tunnel {
		from, _ = s.client.LocalAddr(ctx, m.SSH)
	}
	if from != "" && from != u.Hostname() && !m.Tunnel {
		urls = append(urls, u.Scheme+"://"+net.JoinHostPort(from, u.Port()))
	}
	if i.Path != "" && i.Wrapper != "another generation" {
		i.Dials, err = s.dialByWrapper(ctx, m, i.Path, urls, o.Pin)
	} else {
		i.Dials, err = s.dialByShell(ctx, m, urls)
	}
	switch {
	case err != nil:
		i.problem("the way back could not be tried: %v", err)
	case len(i.Dials) == 0 || i.Dials[0].Err == "":
	case m.Tunnel:
		i.problem("it cannot reach the server through its tunnel (%s): %s", o.URL, i.Dials[0].Err)
	case len(i.Dials) > 1 && i.Dials[1].Err == "":
		i.problem("it cannot dial the server by the name that wrappers are given (%s): %s; by %s it can: set default_saltpeter_server_host: %s", o.URL, i.Dials[0].Err, from, from)
	default:
		i.problem("it cannot dial the server (%s): %s; open port %s for it (see machines_ws_bind_addr), or set tunnel: true for this machine", o.URL, i.Dials[0].Err, u.Port())
	}
}

// dialByWrapper tries the way back as a wrapper would go it.
func (s *secureShell) dialByWrapper(ctx context.Context, m Machine, path string, urls []string, pin string) ([]Dialled, error) {
	q, err := json.Marshal(wire.Probe{URLs: urls, Pin: pin})
	if err != nil {
		return nil, err
	}
	var answer wire.Probed
	d := dialogue{stdin: q}
	d.read = func(r io.Reader) error {
		b := bufio.NewReader(io.LimitReader(r, maxHandshake))
		for {
			line, err := b.ReadString('\n')
			if strings.HasPrefix(line, "{") && err == nil {
				return json.Unmarshal([]byte(line), &answer)
			}
			if err != nil {
				return errors.New("the wrapper gave no answer")
			}
		}
	}
	if err := s.hold(ctx, m, s.line(m, path, "wrap", "--probe"), &d); err != nil {
		if d.complaint != "" {
			err = fmt.Errorf("%w: %s", err, d.complaint)
		}
		return nil, err
	}
	var dials []Dialled
	for _, t := range answer.Dials {
		dials = append(dials, Dialled{t.URL, t.Error})
	}
	return dials, nil
}

// dialScript tries a port with what a machine may have, before our binary is there.
const dialScript = `t_all() {
t_within() { if command -v timeout >/dev/null; then timeout 5 "$@"; else "$@"; fi; }
t_try() {
if command -v bash >/dev/null; then
t_within bash -c 'exec 3<>"/dev/tcp/$1/$2"' bash "$1" "$2"
elif command -v nc >/dev/null; then
nc -z -w 5 "$1" "$2"
elif command -v python3 >/dev/null; then
python3 -c 'import socket,sys; socket.create_connection((sys.argv[1],int(sys.argv[2])),5)' "$1" "$2"
else
return 99
fi
}
for t_one in $t_list; do
t_try "${t_one% *}" "${t_one##* }"
printf '\nSPT mark=%s tried=%s\n' "$t_mark" $?
done
printf '\nSPT mark=%s done=\n' "$t_mark"
}
t_all </dev/null 2>/dev/null
`

func (s *secureShell) dialByShell(ctx context.Context, m Machine, urls []string) ([]Dialled, error) {
	mark := rand.Text()
	var list []string
	for _, text := range urls {
		u, err := url.Parse(text)
		if err != nil {
			return nil, err
		}
		list = append(list, u.Hostname()+" "+u.Port())
	}
	script := "t_mark=" + mark + "\nIFS='\n'\nt_list=" + shellQuote(strings.Join(list, "\n")) + "\n" + dialScript
	var dials []Dialled
	err := s.shell(ctx, m, []byte(script), func(r io.Reader) error {
		return readMarked(r, "SPT", mark, func(_, code string) {
			if len(dials) == len(urls) {
				return
			}
			d := Dialled{URL: urls[len(dials)]}
			switch code {
			case "0":
			case "124", "143":
				d.Err = "no answer"
			case "99":
				d.Err = "there is neither bash, nc nor python3 to try it with; run `saltpeter deploy` first"
			default:
				d.Err = "no connection"
			}
			dials = append(dials, d)
		})
	})
	return dials, err
}
