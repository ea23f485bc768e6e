package launch

import (
	"bytes"
	"context"
	"crypto/rand"
	_ "embed"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"saltpeter/sshx"
	"saltpeter/wsx/wire"
)

//go:embed bare.sh
var bareScript string

// Bare is what a transport has to offer for a command without a wrapper
// (use_wrapper: false): it holds a connection for as long as the command runs, and
// knows what that tells. Who calls it owns that time.
type Bare interface {
	// Run runs the order's command and returns when it has ended, or ctx has: the
	// command goes on then, and its result is lost.
	Run(ctx context.Context, m Machine, order []byte, b BareTask) BareResult
}

// BareTask is told what comes of the command, by one goroutine at a time.
type BareTask struct {
	// Started is told who the command is going to be, and lets it begin.
	Started func(id wire.Identity) bool
	Output  func(stream byte, data []byte)
}

// BareResult is how a command without a wrapper ended.
type BareResult struct {
	Certainty Certainty // CertainlyNot: it was not run. Unsure: its result is lost
	Code      *int
	Signal    int
	Err       error // why, unless Started
	Cut       bool  // the command may have gone on: what it printed then is lost
}

var _ Bare = (*local)(nil)

// errNotBegun: Started said no.
var errNotBegun = errors.New("it was not begun")

// assembleBare makes the text for `sh -s`.
func assembleBare(order []byte) (script []byte, mark string, o *wire.Order, err error) {
	if o, err = wire.DecodeOrder(order); err != nil {
		return nil, "", nil, err
	}
	mark = rand.Text()
	var b strings.Builder
	b.WriteString("unset LC_ALL XDG_STATE_HOME XDG_RUNTIME_DIR IFS\nexport LANG=\"${LANG:-C.UTF-8}\"\n")
	env := make([]string, 0, len(o.Env))
	for name, value := range o.Env {
		env = append(env, name+"="+value)
	}
	slices.Sort(env)
	env = append(env, "SP_JOB_NAME="+o.Job, "SP_JOB_INSTANCE="+o.Run, "SP_MACHINE_ID="+o.Machine, "SP_TASK="+o.Task)
	for _, entry := range env {
		name, value, _ := strings.Cut(entry, "=")
		if !isShellName(name) {
			return nil, "", nil, fmt.Errorf("cannot start without a wrapper: a shell cannot hand on the variable %q; take it out of the job's env", name)
		}
		assign(&b, "export "+name, value)
	}
	overlap := ""
	if o.AllowOverlap {
		overlap = "yes"
	}
	for _, v := range [][2]string{{"mark", mark}, {"cwd", o.Cwd}, {"user", o.User}, {"lock", o.Lockfile}, {"overlap", overlap}, {"command", o.Command}} {
		assign(&b, "w_"+v[0], v[1])
	}
	if strings.ContainsRune(b.String(), 0) {
		return nil, "", nil, errors.New("cannot start without a wrapper: the order holds a NUL byte")
	}
	b.WriteString(withoutComments(bareScript))
	return []byte(b.String()), mark, o, nil
}

// bareTalk reads what such a command's standard output says: a login's noise, then who
// it is, then its own output.
type bareTalk struct {
	b     BareTask
	mark  string
	o     *wire.Order
	in    io.WriteCloser // its standard input
	head  []byte
	begun bool
	err   error // it does not run
}

// said takes the next bytes of standard output.
func (k *bareTalk) said(data []byte) {
	if k.begun {
		k.b.Output(wire.Stdout, data)
		return
	}
	k.head = append(k.head, data...)
	for k.err == nil && !k.begun {
		line, rest, whole := bytes.Cut(k.head, []byte("\n"))
		if !whole {
			if len(k.head) > maxHandshake {
				k.err = errors.New("it does not say who it is")
			}
			return
		}
		k.head = rest
		if text, ok := strings.CutPrefix(string(line), "SPW mark="+k.mark+" "); ok {
			k.greeted(text)
		}
	}
	if k.begun && len(k.head) > 0 {
		k.b.Output(wire.Stdout, k.head)
	}
	k.head = nil
}

func (k *bareTalk) greeted(text string) {
	f := fields{}
	for _, word := range strings.Fields(text) {
		key, value, _ := strings.Cut(word, "=")
		f[key] = value
	}
	if why := f["no"]; why != "" {
		k.err = k.refusal(why)
		return
	}
	number := func(key string) uint64 {
		n, err := strconv.ParseUint(f[key], 10, 63)
		if err != nil {
			k.err = fmt.Errorf("it does not say who it is: %q", clip(text))
		}
		return n
	}
	id := wire.Identity{BootID: f["boot"], PIDNamespace: f["ns"], Task: k.o.Task, PID: int(number("pid")), StartTicks: number("start"),
		Session: int(number("sid")), UID: int(number("uid"))}
	if k.err != nil || id.PID <= 1 || id.StartTicks == 0 || id.BootID == "" {
		k.err = fmt.Errorf("it does not say who it is: %q", clip(text))
		return
	}
	if !k.b.Started(id) {
		k.err = errNotBegun
		return
	}
	k.begun = true
	_, k.err = io.WriteString(k.in, k.mark+"\n")
}

// refusal says why the command was not run.
func (k *bareTalk) refusal(why string) error {
	o := k.o
	switch why {
	case "cwd":
		return fmt.Errorf("cannot start in %s", o.Cwd)
	case "user":
		return fmt.Errorf("cannot run as user %s: there is none", o.User)
	case "root":
		return fmt.Errorf("cannot run as user %s: that needs root; set sudo: true on the machine", o.User)
	case "setpriv":
		return fmt.Errorf("cannot run as user %s: the machine has no setpriv; take use_wrapper: false out", o.User)
	case "flock":
		return fmt.Errorf("cannot take lockfile %s: the machine has no flock; take use_wrapper: false out", o.Lockfile)
	case "lock":
		return fmt.Errorf("cannot take lockfile %s", o.Lockfile)
	case "held":
		return fmt.Errorf("cannot take lockfile %s: another process holds it; the job is still running there", o.Lockfile)
	}
	return errors.New("cannot read /proc there")
}

// runBare is what every transport does for a command without a wrapper; run is its
// own part, which returns when the command has ended, or ctx has.
func runBare(order []byte, b BareTask, run func(k *bareTalk, script []byte) BareResult) BareResult {
	script, mark, o, err := assembleBare(order)
	if err != nil {
		return notRun(err)
	}
	return run(&bareTalk{b: b, mark: mark, o: o}, script)
}

func notRun(err error) BareResult { return BareResult{Certainty: CertainlyNot, Err: err} }

// ended is the result of a command that ended with a code or by a signal.
func (k *bareTalk) ended(code, signal int) BareResult {
	switch {
	case k.err != nil && !k.begun:
		return notRun(k.err)
	case !k.begun:
		return notRun(fmt.Errorf("cannot start: the shell there ended with code %d before it said who it is", code))
	case signal != 0:
		return BareResult{Certainty: Started, Signal: signal}
	}
	return BareResult{Certainty: Started, Code: &code}
}

// lost is the result of a command that nobody knows the end of; cut: nor the end of
// its output.
func (k *bareTalk) lost(why error, cut bool) BareResult {
	if k.err != nil && !k.begun {
		return notRun(k.err)
	}
	return BareResult{Certainty: Unsure, Err: fmt.Errorf("its result is lost: %w", why), Cut: cut}
}

// Run runs a command without a wrapper. Its output goes into a file that has no name:
// unlike a pipe it neither breaks nor fills when this process goes.
func (l *local) Run(ctx context.Context, m Machine, order []byte, b BareTask) BareResult {
	if !l.calls.enter() {
		return notRun(ErrClosed)
	}
	defer l.calls.leave()
	return runBare(order, b, func(k *bareTalk, script []byte) BareResult {
		out, err := namelessFile(m.Spool)
		if err != nil {
			return notRun(fmt.Errorf("cannot keep its output: %w", err))
		}
		defer out.Close()
		theirs, in, err := os.Pipe()
		if err != nil {
			return notRun(err)
		}
		defer in.Close()
		c, err := l.nursery.spawn(viaSudo(m, "/bin/sh", "-s"), environment(), [3]*os.File{theirs, out, out})
		theirs.Close()
		if err != nil {
			return notRun(fmt.Errorf("cannot run sh: %w", err))
		}
		k.in = in
		_, k.err = in.Write(script)
		k.follow(ctx, c, out)
		switch {
		case ctx.Err() != nil && !isDone(c):
			return k.lost(context.Cause(ctx), true)
		case !c.reaped:
			return k.lost(errors.New(c.ending().String()), false)
		case c.status.Signaled():
			return k.ended(0, int(c.status.Signal()))
		}
		return k.ended(c.status.ExitStatus(), 0)
	})
}

func isDone(c *child) bool {
	select {
	case <-c.done:
		return true
	default:
		return false
	}
}

// barePoll is how often the output file is looked at.
const barePoll = 50 * time.Millisecond

// follow hands on what the file gets until the command has ended and all of it was
// read, or ctx ends.
func (k *bareTalk) follow(ctx context.Context, c *child, out *os.File) {
	buf, at := make([]byte, 64<<10), int64(0)
	tick := time.NewTicker(barePoll)
	defer tick.Stop()
	for {
		last := isDone(c) || ctx.Err() != nil // before the last look
		for {
			n, _ := out.ReadAt(buf, at)
			if n == 0 {
				break
			}
			at += int64(n)
			k.said(buf[:n])
		}
		if k.err != nil || k.begun {
			k.in.Close() // a shell that waits ends without having run anything
		}
		if last {
			return
		}
		select {
		case <-c.done:
		case <-tick.C:
		case <-ctx.Done():
		}
	}
}

// namelessFile is a file that goes with the last who has it open.
func namelessFile(dir string) (*os.File, error) {
	for _, d := range []string{dir, os.TempDir()} {
		if d == "" {
			continue
		}
		fd, err := unix.Open(d, unix.O_TMPFILE|unix.O_RDWR|unix.O_APPEND|unix.O_CLOEXEC, 0o600)
		if err == nil {
			return os.NewFile(uintptr(fd), "output"), nil
		}
	}
	f, err := os.CreateTemp("", "saltpeter-")
	if err != nil {
		return nil, err
	}
	os.Remove(f.Name())
	return f, nil
}

var _ Bare = (*secureShell)(nil)

// Run runs a command without a wrapper over a session of its own.
func (s *secureShell) Run(ctx context.Context, m Machine, order []byte, b BareTask) BareResult {
	if !s.calls.enter() {
		return notRun(ErrClosed)
	}
	defer s.calls.leave()
	return runBare(order, b, func(k *bareTalk, script []byte) BareResult {
		session, err := s.client.Start(ctx, m.SSH, s.line(m, "sh", "-s"))
		if err != nil {
			return notRun(noWay(m, err)) // the shell may be there: it ends without its script
		}
		stop := context.AfterFunc(ctx, func() { session.Close() })
		defer stop()
		defer session.Close()
		k.in = session.Stdin
		wg := k.listen(session, script)
		var exit sshx.Exit
		told := make(chan struct{})
		// Where the command goes on, this ends with the connection: the far side keeps a
		// session until its command has ended.
		go func() {
			exit, err = session.Wait()
			close(told)
		}()
		select {
		case <-told:
			wg.Wait()
		case <-ctx.Done():
			return k.lost(context.Cause(ctx), true)
		}
		switch {
		case err != nil:
			return k.lost(err, true)
		case exit.Signal != "":
			return k.ended(0, int(unix.SignalNum("SIG"+exit.Signal)))
		case exit.Code < 0:
			return k.lost(errors.New("the machine does not tell its exit code"), false)
		}
		return k.ended(exit.Code, 0)
	})
}

// listen hands the script over and hands on what the session says, until that ends:
// standard output here, standard error in a goroutine.
func (k *bareTalk) listen(session *sshx.Session, script []byte) *sync.WaitGroup {
	var mu sync.Mutex // both streams go to one task
	wg := &sync.WaitGroup{}
	wg.Go(func() {
		if _, err := session.Stdin.Write(script); err != nil {
			session.Close()
		}
	})
	wg.Go(func() {
		copyTo(session.Stderr, func(data []byte) {
			mu.Lock()
			defer mu.Unlock()
			if k.begun {
				k.b.Output(wire.Stderr, data)
			}
		})
	})
	copyTo(session.Stdout, func(data []byte) {
		mu.Lock()
		defer mu.Unlock()
		k.said(data)
		if k.err != nil {
			k.in.Close()
		}
	})
	return wg
}

func copyTo(r io.Reader, take func([]byte)) {
	buf := make([]byte, 32<<10)
	for {
		n, err := r.Read(buf)
		if n > 0 {
			take(buf[:n])
		}
		if err != nil {
			return
		}
	}
}
