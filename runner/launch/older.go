package launch

import (
	"bytes"
	"context"
	"crypto/sha256"
	"fmt"
	"io"
	"math"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"
	"unicode"

	"golang.org/x/sys/unix"

	"saltpeter/wsx/wire"
)

// What is particular about a wrapper of an older generation, for every transport:
// it takes its settings from its environment and nothing else, and says nothing to
// who starts it. Who its job's processes are is known from its `start` message.

// probeArgs ask a wrapper who it is. A wrapper of ours answers with wire.FirstLine
// and wire.OrdersLine; an older one takes no arguments, finds none of its settings
// and gives up. So no setting (SP_…) may be in the environment of the probe.
var probeArgs = []string{"wrap", "--version"}

// probeWait bounds a probe; who takes longer is taken for an older one.
const probeWait = 10 * time.Second

// takesOrders judges what a probe printed: a wrapper of ours says that it takes
// orders on standard input. named: it calls itself a wrapper, of whatever generation.
func takesOrders(said []byte) (orders, named bool) {
	said = append([]byte{'\n'}, said...)
	first := bytes.Index(said, []byte("\n"+wire.FirstLine))
	return first >= 0 && bytes.Contains(said[first+1:], []byte("\n"+wire.OrdersLine)), first >= 0
}

// olderEnvironment is an order as an older wrapper takes it, beside what it has from
// its machine (PATH, HOME and the like). The URL is plain: such a wrapper knows no pin, and the listener
// tells both by their first byte. It hands its whole environment down to the job.
func olderEnvironment(order []byte) ([]string, error) {
	o, err := wire.DecodeOrder(order)
	if err != nil {
		return nil, err
	}
	env := map[string]string{}
	for name, value := range o.Env {
		if name == "" || strings.ContainsRune(name, '=') {
			return nil, fmt.Errorf("cannot set the job's environment: %q is no variable", name)
		}
		if !strings.HasPrefix(name, "SP_") { // those are the wrapper's settings
			env[name] = value
		}
	}
	plain := o.URL
	if rest, ok := strings.CutPrefix(plain, "wss://"); ok {
		plain = "ws://" + rest
	}
	for name, value := range map[string]string{
		"SP_WEBSOCKET_URL":     plain,
		"SP_JOB_NAME":          o.Job,
		"SP_JOB_INSTANCE":      o.Run,
		"SP_JOB_INSTANCE_NAME": o.Run,
		"SP_MACHINE_ID":        o.Machine, // it would name itself by its host
		"SP_COMMAND":           o.Command,
		"SP_CWD":               o.Cwd,
		"SP_USER":              o.User,
		"SP_LOCKFILE":          o.Lockfile,
		"SP_WRAPPER_LOGDIR":    o.LogDir,
		"SP_WRAPPER_LOGLEVEL":  o.LogLevel,
		"SP_TIMEOUT":           whole(float64(o.Timeout)), // whole seconds: it reads nothing else
		"SP_ALLOW_OVERLAP":     strconv.FormatBool(o.AllowOverlap),
	} {
		if value != "" {
			env[name] = value
		}
	}
	if o.OutputInterval > 0 {
		env["SP_OUTPUT_INTERVAL_MS"] = whole(1000 * float64(o.OutputInterval))
	}
	list := make([]string, 0, len(env))
	for name, value := range env {
		if strings.ContainsRune(name+value, 0) {
			return nil, fmt.Errorf("cannot start an older wrapper: %s holds a NUL byte", name)
		}
		if len(value) >= 128<<10-len(name)-1 {
			return nil, fmt.Errorf("cannot start an older wrapper: %s is longer than Linux takes (128 KiB); use this program's own wrapper", name)
		}
		list = append(list, name+"="+value)
	}
	slices.Sort(list)
	return list, nil
}

// onThisMachine adds what the wrapper has from here: the daemon's own environment
// may hold secrets, and the C locale would make a Python of it misread its text.
func onThisMachine(env []string) []string {
	for _, entry := range append(environment(), "LANG="+os.Getenv("LANG")) {
		name, value, _ := strings.Cut(entry, "=")
		if name == "LANG" && value == "" {
			value = "C.UTF-8"
		}
		given := slices.ContainsFunc(env, func(e string) bool { return strings.HasPrefix(e, name+"=") })
		if name != "LC_ALL" && !given {
			env = append(env, name+"="+value)
		}
	}
	return env
}

// whole rounds up: a timeout of half a second must not become none.
func whole(f float64) string {
	return strconv.FormatInt(int64(min(max(math.Ceil(f), 0), 1e12)), 10)
}

// isShellName says whether a shell can have a variable of this name.
func isShellName(name string) bool {
	for i, c := range name {
		if !(c == '_' || c >= 'A' && c <= 'Z' || c >= 'a' && c <= 'z' || i > 0 && c >= '0' && c <= '9') {
			return false
		}
	}
	return name != ""
}

// olderScript starts an older wrapper from the standard input of `sh -s`, where the
// environment cannot be handed over as such (sudo, ssh): it appears in no argument
// list. The shell becomes the wrapper.
func olderScript(env []string, path string) ([]byte, error) {
	var b strings.Builder
	for _, entry := range env {
		name, value, _ := strings.Cut(entry, "=")
		if !isShellName(name) {
			return nil, fmt.Errorf("cannot start an older wrapper: a shell cannot hand on the variable %q; take it out of the job's env", name)
		}
		assign(&b, "export "+name, value)
	}
	b.WriteString("exec " + shellQuote(path) + " </dev/null >/dev/null 2>&1\n")
	return []byte(b.String()), nil
}

// probes remembers what programs were found to be, each version of a file once.
type probes struct {
	mu    sync.Mutex
	files map[string]fileVersion // by path
	older map[[sha256.Size]byte]probe
}

type fileVersion struct {
	info os.FileInfo
	hash [sha256.Size]byte
}

// probe is what one asking came to.
type probe struct {
	older bool
	none  bool   // no wrapper at all
	said  string // what it said to that, for the error of a start that comes to nothing
}

// known returns what the program at path was found to be, asking only where this
// very file was not asked before.
func (p *probes) known(path string, ask func() (probe, error)) (probe, error) {
	p.mu.Lock() // held while asking: a run's many machines are one file
	defer p.mu.Unlock()
	info, err := os.Stat(path)
	if err != nil {
		return probe{}, err
	}
	file, seen := p.files[path]
	if !seen || !os.SameFile(info, file.info) || info.Size() != file.info.Size() || !info.ModTime().Equal(file.info.ModTime()) {
		file.info = info
		if file.hash, err = hashFile(path); err != nil {
			return probe{}, err
		}
	}
	found, asked := p.older[file.hash]
	if !asked {
		if found, err = ask(); err != nil {
			return probe{}, err
		}
	}
	if p.files == nil {
		p.files, p.older = map[string]fileVersion{}, map[[sha256.Size]byte]probe{}
	}
	p.files[path], p.older[file.hash] = file, found
	return found, nil
}

func hashFile(path string) (sum [sha256.Size]byte, err error) {
	f, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		return sum, err
	}
	defer f.Close()
	if info, err := f.Stat(); err != nil || !info.Mode().IsRegular() {
		return sum, fmt.Errorf("%s is not a plain file", path)
	}
	h := sha256.New()
	if _, err := io.Copy(h, f); err != nil {
		return sum, err
	}
	return [sha256.Size]byte(h.Sum(nil)), nil
}

// generation says whether the machine's own wrapper is an older one.
func (l *local) generation(ctx context.Context, m Machine) (probe, error) {
	if m.WrapperPath == "" {
		return probe{}, nil
	}
	found, err := l.probes.known(m.WrapperPath, func() (probe, error) { return l.probe(ctx, m) })
	if err != nil {
		return probe{}, fmt.Errorf("cannot start the wrapper %s: %w", m.WrapperPath, err)
	}
	return found, nil
}

// probe asks the program at the machine's wrapper_path who it is.
func (l *local) probe(ctx context.Context, m Machine) (probe, error) {
	limit, cancel := context.WithTimeout(ctx, probeWait)
	defer cancel()
	p, err := newPipes()
	if err != nil {
		return probe{}, err
	}
	defer p.close()
	c, err := l.nursery.spawn(viaSudo(m, append([]string{m.WrapperPath}, probeArgs...)...), environment(), p.theirs)
	if err != nil {
		return probe{}, err
	}
	p.closeTheirs()
	p.in.Close()
	stop := context.AfterFunc(limit, func() { p.expire(time.Unix(1, 0)) })
	defer stop()
	var wg sync.WaitGroup
	var out, errs tail
	wg.Go(func() { io.Copy(&errs, p.err) })
	io.Copy(&out, p.out)
	wg.Wait()
	if limit.Err() != nil {
		l.nursery.end(c) // it was asked a question, not started
		return probe{older: true, said: "nothing within " + probeWait.String()}, ctx.Err()
	}
	orders, named := takesOrders(out.buf.Bytes())
	if orders {
		return probe{}, nil
	}
	if !named && c.endedWell(settle) {
		return probe{none: true, said: firstLine(out.String() + "\n" + errs.String())}, nil // an older one would have missed its settings
	}
	return probe{older: true, said: lastLine(out.String() + "\n" + errs.String())}, nil
}

// firstLine is what a program says first, made fit for a line of a message.
func firstLine(text string) string {
	line, _, _ := strings.Cut(strings.TrimSpace(text), "\n")
	line = strings.Map(func(r rune) rune {
		if !unicode.IsPrint(r) {
			return ' '
		}
		return r
	}, strings.TrimSpace(line))
	if short := []rune(line); len(short) > 200 {
		return string(short[:200]) + "…"
	}
	return line
}

func lastLine(text string) string {
	lines := strings.Split(strings.TrimSpace(text), "\n")
	return strings.TrimSpace(lines[len(lines)-1])
}

// olderSettle is how long the end of an older wrapper that cannot run at all is
// waited for. One that has begun with its job says nothing, and is not waited for.
const olderSettle = 200 * time.Millisecond

// startOlder starts an older wrapper: its settings are its environment. It has no
// pipe to us that could break or fill while it lives.
func (l *local) startOlder(ctx context.Context, m Machine, order []byte, found probe) StartResult {
	env, err := olderEnvironment(order)
	if err != nil {
		return certainlyNot(err)
	}
	null, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
	if err != nil {
		return certainlyNot(fmt.Errorf("cannot start the wrapper: %w", err))
	}
	defer null.Close()
	files, argv := [3]*os.File{null, null, null}, []string{m.WrapperPath}
	if m.Sudo {
		// sudo drops the environment: it goes through a shell's standard input.
		script, err := olderScript(env, m.WrapperPath)
		if err != nil {
			return certainlyNot(err)
		}
		in, err := scriptFile(script)
		if err != nil {
			return certainlyNot(fmt.Errorf("cannot start the wrapper: %w", err))
		}
		defer in.Close()
		files[0], argv, env = in, viaSudo(m, "/bin/sh", "-s"), nil
	}
	c, err := l.nursery.spawn(argv, onThisMachine(env), files)
	if err != nil {
		return certainlyNot(fmt.Errorf("cannot start the wrapper %s: %w", m.WrapperPath, err))
	}
	wait := time.NewTimer(olderSettle)
	defer wait.Stop()
	select {
	case <-c.done:
		if !c.reaped || c.status.Exited() && c.status.ExitStatus() == 0 {
			break // it went into the background
		}
		// Its job may have been that short: nobody can say.
		err := fmt.Errorf("cannot say whether the older wrapper %s started: %s", m.WrapperPath, c.ending())
		if found.said != "" {
			err = fmt.Errorf("%w; asked for its version it said: %s", err, found.said)
		}
		return StartResult{Certainty: Unsure, Older: true, Err: err}
	case <-ctx.Done():
	case <-wait.C:
	}
	return StartResult{Certainty: Started, Older: true}
}

// scriptFile holds a script for a program's standard input, of any length, in memory
// only: it may hold secrets.
func scriptFile(script []byte) (*os.File, error) {
	fd, err := unix.MemfdCreate("saltpeter-start", unix.MFD_CLOEXEC)
	if err != nil {
		return nil, err
	}
	f := os.NewFile(uintptr(fd), "start")
	if _, err = f.Write(script); err == nil {
		_, err = f.Seek(0, io.SeekStart)
	}
	if err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
}
