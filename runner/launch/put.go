package launch

import (
	"bufio"
	"context"
	"crypto/rand"
	_ "embed"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"path/filepath"
	"strings"
	"time"

	"saltpeter/sshx"
)

//go:embed put.sh
var putScript string

// putWord is what a line of put.sh begins with.
const putWord = "SPW"

// pushWithin is how long a binary may take to a machine, over a slow line too. It is
// not the start's time: a start that cannot wait ends, and the next finds it there.
const pushWithin = 15 * time.Minute

// arrival is the binary on one machine: on its way, or there. Whoever needs it
// meanwhile waits for the same one.
type arrival struct {
	done    chan struct{}
	spoken  chan struct{} // closed once the machine has answered at all
	path    string
	version string
	was     bool // it lay there already
	err     error
}

// machineKey tells apart what may differ in where the binary lies and who sees it.
func machineKey(m Machine) string { return fmt.Sprintf("%s\x00%v\x00%s", m.SSH, m.Sudo, m.Spool) }

// binary is the path of our binary on a machine, which is put there if need be.
func (s *secureShell) binary(ctx context.Context, m Machine) (*arrival, error) {
	key := machineKey(m)
	s.mu.Lock()
	a := s.arrivals[key]
	s.mu.Unlock()
	if a == nil {
		a = s.fetchOrPut(key, m)
	}
	if a == nil {
		return nil, ErrClosed
	}
	select {
	case <-a.done:
		return a, a.err
	case <-ctx.Done():
	}
	if !errors.Is(context.Cause(ctx), context.DeadlineExceeded) {
		return nil, fmt.Errorf("cannot start the wrapper: %w", context.Cause(ctx))
	}
	select {
	case <-a.spoken:
		return nil, fmt.Errorf("cannot start the wrapper on %s yet: it is still being put there", m.Name)
	default:
		return nil, noWay(m, errors.New("no answer within the time of a start"))
	}
}

// fetchOrPut begins an arrival, or joins the one that another began meanwhile. One
// that fails is forgotten: the next start tries again.
func (s *secureShell) fetchOrPut(key string, m Machine) *arrival {
	a := &arrival{done: make(chan struct{}), spoken: make(chan struct{})}
	s.mu.Lock()
	defer s.mu.Unlock()
	if other := s.arrivals[key]; other != nil {
		return other
	}
	begun := s.spawn(func() {
		ctx, cancel := context.WithTimeout(s.life, pushWithin)
		defer cancel()
		a.err = s.arrive(ctx, m, a)
		if a.err != nil {
			s.forget(key, a)
		}
		close(a.done)
	})
	if !begun {
		return nil
	}
	s.arrivals[key] = a
	return a
}

// forget has the next start look for the binary again.
func (s *secureShell) forget(key string, a *arrival) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.arrivals[key] == a {
		delete(s.arrivals, key)
	}
}

// arrive finds the binary on the machine or puts it there.
func (s *secureShell) arrive(ctx context.Context, m Machine, a *arrival) error {
	found, err := s.survey(ctx, m, !m.NoPush)
	if err != nil {
		return err
	}
	close(a.spoken)
	if found.path != "" {
		a.path, a.version, a.was = found.path, found.version, true
		return nil
	}
	if m.NoPush {
		return s.mayNotPush(m, found)
	}
	b, err := found.build(s, m)
	if err != nil {
		return err
	}
	for i := range found.places {
		p := &found.places[i]
		if p.state != "free" {
			continue
		}
		var why string
		if why, a.version, err = s.push(ctx, m, b, p.dir); err != nil {
			return err
		}
		if why == "" {
			a.path = path.Join(p.dir, b.name())
			s.o.Log.Info("put the wrapper on a machine", "machine", m.Name, "path", a.path, "bytes", b.size)
			return nil
		}
		p.state = why
	}
	return fmt.Errorf("cannot put the wrapper on %s: %s; make one of them writable for the login and executable (no noexec), set sudo: true, or put the program there yourself and name it with wrapper_path",
		m.Name, found.reasons())
}

func (s *secureShell) mayNotPush(m Machine, found survey) error {
	name, where := buildName+found.arch, "one of the places"
	if b, ok := found.builds[found.arch]; ok {
		name = b.name()
	}
	if len(found.places) > 0 {
		where = found.places[0].dir
	}
	return fmt.Errorf("cannot start the wrapper on %s: it is not there (%s), and push: false forbids putting it there; copy this server's program to %s there, or name the machine's own with wrapper_path",
		m.Name, found.reasons(), path.Join(where, name))
}

// survey is what put.sh found on a machine.
type survey struct {
	system, arch string
	clock        string // seconds of its clock
	from         string // the address by which it sees us, if the login says so
	builds       map[string]build
	path         string // of the binary, if it is there
	version      string
	places       []placed
	older        bool // a build of another version lies there
}

// placed is one folder that was looked at.
type placed struct{ dir, state string }

// reasons says of each place why it does not serve.
func (v survey) reasons() string {
	words := map[string]string{
		"absent": "not there", "denied": "permission denied", "unsafe": "others may write to it", "noexec": "nothing may be executed from it", "free": "the program is not in it",
	}
	var list []string
	for _, p := range v.places {
		why := words[p.state]
		if why == "" {
			why = p.state
		}
		list = append(list, p.dir+": "+why)
	}
	if len(list) == 0 {
		return "the login has no home, and no other place is known"
	}
	return strings.Join(list, "; ")
}

// build chooses what fits the machine.
func (v survey) build(s *secureShell, m Machine) (build, error) {
	b, ok := v.builds[v.arch]
	if system, _, _ := strings.Cut(v.system, " "); system != "Linux" {
		return b, fmt.Errorf("cannot put a wrapper on %s: it runs %s, and a wrapper needs Linux", m.Name, v.system)
	}
	if !ok {
		return b, fmt.Errorf("cannot put a wrapper on %s: it is %s, and there is no build for it here; %s", m.Name, v.system, s.builds.missing(v.arch))
	}
	return b, nil
}

// survey looks for the binary and for places where it could lie; make: they are
// made and tried.
func (s *secureShell) survey(ctx context.Context, m Machine, make bool) (survey, error) {
	var v survey
	var err error
	if v.builds, err = s.builds.all(); err != nil {
		return v, err
	}
	told := [][2]string{{"make", map[bool]string{true: "yes"}[make]}}
	places := s.places(m)
	told = append(told, [2]string{"n", fmt.Sprint(len(places))})
	for i, place := range places {
		told = append(told, [2]string{fmt.Sprintf("place%d", i+1), place})
	}
	for arch, one := range v.builds {
		told = append(told, [2]string{"h_" + arch, one.name()})
	}
	err = s.putShell(ctx, m, "find", told, v.take)
	if err == nil && v.system == "" {
		err = fmt.Errorf("no answer from %s: put.sh did not say what the machine is", m.Name)
	}
	return v, err
}

// putShell runs an operation of put.sh on a machine: told are its variables, on gets
// its answer.
func (s *secureShell) putShell(ctx context.Context, m Machine, op string, told [][2]string, on func(key, value string)) error {
	mark := rand.Text()
	var b strings.Builder
	for _, v := range append([][2]string{{"mark", mark}, {"op", op}}, told...) {
		assign(&b, "p_"+v[0], v[1])
	}
	b.WriteString(withoutComments(putScript))
	return s.shell(ctx, m, []byte(b.String()), func(r io.Reader) error {
		return readMarked(r, putWord, mark, on)
	})
}

// places are where the binary may live on a machine: beside the spool that its entry
// names, then the usual ones.
func (s *secureShell) places(m Machine) []string {
	if dir := filepath.Dir(m.Spool); m.Spool != "" && dir != "/" {
		return append([]string{dir}, s.o.Places...)
	}
	return s.o.Places
}

func (v *survey) take(key, value string) {
	switch key {
	case "machine":
		v.system = value
	case "arch":
		v.arch = value
	case "older":
		v.older = true
	case "time":
		v.clock = value
	case "from":
		v.from = value
	case "version":
		v.version = strings.TrimPrefix(value, "Saltpeter Wrapper version ")
	case "has", "absent", "denied", "unsafe", "noexec", "free":
		v.places = append(v.places, placed{value, key})
		if key == "has" {
			v.path = path.Join(value, v.builds[v.arch].name())
		}
	}
}

// readMarked reads the marked lines of a script, each KEY=VALUE, until done=.
func readMarked(r io.Reader, word, mark string, on func(key, value string)) error {
	b := bufio.NewReaderSize(io.LimitReader(r, maxNoise), maxAnswer)
	prefix := word + " mark=" + mark + " "
	for {
		line, err := b.ReadSlice('\n')
		if rest, ours := strings.CutPrefix(strings.TrimRight(string(line), "\r\n"), prefix); ours && err == nil {
			key, value, _ := strings.Cut(rest, "=")
			if key == "done" {
				return nil
			}
			on(key, value)
		}
		switch {
		case err == nil, errors.Is(err, bufio.ErrBufferFull):
		case errors.Is(err, io.EOF):
			return errNoAnswer
		default:
			return err
		}
	}
}

// push sends the binary to a place under another name and has it moved there once
// it is whole and was run. why says what is wrong with the place; the errors are
// those that another place would not mend.
func (s *secureShell) push(ctx context.Context, m Machine, b build, dir string) (why, version string, err error) {
	select {
	case s.pushes <- struct{}{}:
		defer func() { <-s.pushes }()
	case <-ctx.Done():
		return "", "", fmt.Errorf("cannot put the wrapper on %s: %w", m.Name, context.Cause(ctx))
	}
	f, err := os.Open(b.path)
	if err != nil {
		return "", "", fmt.Errorf("cannot read the wrapper's binary: %w", err)
	}
	defer f.Close()
	tmp := fmt.Sprintf(".%s.%s.new", b.name(), rand.Text())
	var complaint tail
	exit, err := s.client.Run(ctx, m.SSH, sshx.Command{
		Line: s.line(m, "dd", "of="+path.Join(dir, tmp), "bs=65536"), Stdin: f, Stderr: &complaint,
	})
	if err != nil {
		return "", "", noWay(m, err)
	}
	if exit.Code != 0 {
		return fmt.Sprintf("dd ended with exit code %d: %s", exit.Code, clip(complaint.String())), "", nil
	}
	return s.finish(ctx, m, b, dir, tmp)
}

func (s *secureShell) finish(ctx context.Context, m Machine, b build, dir, tmp string) (why, version string, err error) {
	said := map[string]string{}
	err = s.putShell(ctx, m, "finish", [][2]string{{"dir", dir}, {"tmp", tmp}, {"name", b.name()}, {"size", fmt.Sprint(b.size)}, {"sha", b.sha}},
		func(key, value string) { said[key] = value })
	if err != nil {
		return "", "", err
	}
	put, ok := said["put"]
	if ok {
		return "", strings.TrimPrefix(put, "Saltpeter Wrapper version "), nil
	}
	if n, ok := said["short"]; ok {
		return fmt.Sprintf("only %s of %d bytes came (is the disk full?)", strings.TrimSpace(n), b.size), "", nil
	}
	if _, ok := said["damaged"]; ok {
		return "", "", fmt.Errorf("cannot put the wrapper on %s: it came damaged", m.Name)
	}
	if code, ok := said["norun"]; ok {
		return "the program does not run from it (exit code " + code + ")", "", nil
	}
	return "permission denied", "", nil
}
