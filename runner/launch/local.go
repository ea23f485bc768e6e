package launch

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"
)

// LocalOptions of the local transport.
type LocalOptions struct {
	Executable string // this binary; "" = os.Executable
}

// local reaches this machine. Its wrappers are children of this process only in
// name: own session, own pipes that are let go of, collected if they end while
// the server lives, inherited by init if they outlive it.
type local struct {
	exe     string
	exeErr  error
	self    bool // exe was found by os.Executable
	nursery *nursery
	spares  spares
	probes  probes
	calls   calls
}

// NewLocal returns the transport to this machine.
func NewLocal(o LocalOptions) Transport {
	l := &local{exe: o.Executable, nursery: newNursery()}
	if l.exe == "" {
		l.exe, l.exeErr = os.Executable()
		l.self = true
	} else {
		l.exe, l.exeErr = filepath.Abs(l.exe) // children start in the root directory
	}
	l.spares.end = l.nursery.end
	l.spares.spawn = func() (*child, *pipes, error) { return l.spawnWrapper(Machine{}) }
	return l
}

func (l *local) Close() error {
	l.calls.shut()
	l.calls.wg.Wait()
	l.spares.close()
	l.nursery.close()
	return nil
}

// Start runs `EXECUTABLE wrap --foreground`.
func (l *local) Start(ctx context.Context, m Machine, order []byte) StartResult {
	if !l.calls.enter() {
		return certainlyNot(ErrClosed)
	}
	defer l.calls.leave()
	if err := ctx.Err(); err != nil {
		return certainlyNot(fmt.Errorf("cannot start the wrapper: %w", err))
	}
	found, err := l.generation(ctx, m)
	if err != nil {
		return certainlyNot(err)
	}
	if found.none {
		return certainlyNot(notAWrapper(m.WrapperPath, found.said))
	}
	if found.older {
		return l.startOlder(ctx, m, order, found)
	}
	plain := m.WrapperPath == "" && !m.Sudo
	var c *child
	var p *pipes
	if plain {
		c, p = l.spares.take()
	}
	if c == nil {
		if c, p, err = l.spawnWrapper(m); err != nil {
			return certainlyNot(err)
		}
	}
	defer p.close()
	result := greet(ctx, c, p, order, l.program(m))
	if plain && result.Certainty == Started {
		l.spares.refill()
	}
	return result
}

// spawnWrapper starts a wrapper that waits for its order.
func (l *local) spawnWrapper(m Machine) (*child, *pipes, error) {
	p, err := newPipes()
	if err != nil {
		return nil, nil, fmt.Errorf("cannot start the wrapper: %w", err)
	}
	c, err := l.execWrapper(m, p)
	if err != nil {
		p.close()
		return nil, nil, err
	}
	p.closeTheirs()
	return c, p, nil
}

func (l *local) execWrapper(m Machine, p *pipes) (*child, error) {
	exe, self := l.exe, l.self
	if m.WrapperPath != "" {
		exe, self = m.WrapperPath, false
	} else if l.exeErr != nil {
		return nil, fmt.Errorf("cannot find this program to start a wrapper: %w", l.exeErr)
	}
	argv := viaSudo(m, exe, "wrap", "--foreground")
	// One thread is enough for a wrapper; told so from outside, its runtime need not
	// look for how many it may have.
	env := append(environment(), "GOMAXPROCS=1")
	c, err := l.nursery.spawn(argv, env, p.theirs)
	if self && !m.Sudo && beingReplaced(err) {
		// An upgrade changes the file under us: what runs now can still be run.
		argv[0] = "/proc/self/exe"
		c, err = l.nursery.spawn(argv, env, p.theirs)
	}
	if err != nil {
		return nil, fmt.Errorf("cannot start the wrapper %s: %w", exe, err)
	}
	return c, nil
}

// beingReplaced reports whether a program could not be executed as one cannot whose
// file was taken away, or is being written.
func beingReplaced(err error) bool {
	for _, e := range []error{syscall.ENOENT, syscall.EACCES, syscall.ETXTBSY, syscall.ENOEXEC} {
		if errors.Is(err, e) {
			return true
		}
	}
	return false
}

// program is what a machine's wrapper is called in messages.
func (l *local) program(m Machine) string {
	if m.WrapperPath != "" {
		return m.WrapperPath
	}
	return l.exe
}

// viaSudo puts sudo in front where the machine's entry says so.
func viaSudo(m Machine, argv ...string) []string {
	if !m.Sudo {
		return argv
	}
	for _, path := range []string{"/usr/bin/sudo", "/bin/sudo", "/usr/local/bin/sudo"} {
		if _, err := os.Stat(path); err == nil {
			return append([]string{path, "-n", "--"}, argv...)
		}
	}
	return append([]string{"/usr/bin/sudo", "-n", "--"}, argv...)
}

// environment is all that a child gets of ours: the daemon's own may hold secrets,
// and everything of the task is in the order. The XDG ones say where an
// unprivileged user's state lies.
func environment() []string {
	env := []string{"LC_ALL=C"}
	for _, key := range []string{"PATH", "HOME", "XDG_STATE_HOME", "XDG_RUNTIME_DIR"} {
		if value := os.Getenv(key); value != "" {
			env = append(env, key+"="+value)
		} else if key == "PATH" {
			env = append(env, "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin")
		}
	}
	return env
}

func certainlyNot(err error) StartResult { return StartResult{Certainty: CertainlyNot, Err: err} }

// settle is how long the rest of a wrapper's words is waited for once its end was
// seen, and its end once its words ended: the two come in either order.
const settle = 2 * time.Second

// linger is how long what already lies in a pipe may take to be read.
const linger = 50 * time.Millisecond

// greet hands the order over and waits for the identity.
func greet(ctx context.Context, c *child, p *pipes, order []byte, program string) StartResult {
	// ctx ends the reads and the write; what is under way then returns.
	stop := context.AfterFunc(ctx, func() { p.expire(time.Unix(1, 0)) })
	defer stop()

	var wg sync.WaitGroup
	var complaint tail
	wg.Go(func() {
		p.in.Write(order) // an error here shows as what the wrapper says of half an order
		p.in.Close()
	})
	wg.Go(func() { io.Copy(&complaint, p.err) })
	gone := make(chan struct{})
	wg.Go(func() {
		// A child of the wrapper may hold the pipes open beyond its end.
		select {
		case <-c.done:
			p.expire(time.Now().Add(settle))
		case <-gone:
		}
	})
	version, id, err := readHandshake(p.out)
	if err == nil {
		close(gone)
		p.close()
		wg.Wait()
		return StartResult{Certainty: Started, Version: version, Identity: id}
	}

	wait := time.NewTimer(settle)
	defer wait.Stop()
	select {
	case <-c.done:
	case <-ctx.Done():
	case <-wait.C:
	}
	end := c.ending()
	p.expire(time.Now().Add(linger))
	close(gone)
	wg.Wait()
	return notGreeted(ctx, program, version, end, err, complaint.String())
}

// expire sets one deadline for all our ends.
func (p *pipes) expire(at time.Time) {
	p.in.SetWriteDeadline(at)
	p.out.SetReadDeadline(at)
	p.err.SetReadDeadline(at)
}

// tail keeps the first few kilobytes of what a program says on standard error and
// swallows the rest, so that the program is never held up by us.
type tail struct{ buf bytes.Buffer }

const maxComplaint = 4 << 10

func (t *tail) Write(b []byte) (int, error) {
	if room := maxComplaint - t.buf.Len(); room > 0 {
		t.buf.Write(b[:min(room, len(b))])
	}
	return len(b), nil
}

func (t *tail) String() string {
	return strings.TrimSpace(strings.ToValidUTF8(t.buf.String(), "\uFFFD"))
}

// Script runs kill.sh under /bin/sh.
func (l *local) Script(ctx context.Context, m Machine, r ScriptRequest) (ScriptResult, error) {
	if !l.calls.enter() {
		return ScriptResult{}, ErrClosed
	}
	defer l.calls.leave()
	return runScript(ctx, m, r, func(ctx context.Context, script []byte, read func(io.Reader) error) error {
		p, err := newPipes()
		if err != nil {
			return fmt.Errorf("cannot ask %s: %w", m.Name, err)
		}
		defer p.close()
		c, err := l.nursery.spawn(viaSudo(m, "/bin/sh", "-s"), environment(), p.theirs)
		if err != nil {
			return fmt.Errorf("cannot run sh on %s: %w", m.Name, err)
		}
		p.closeTheirs()
		if err := converse(ctx, c, p, script, read); err != nil {
			return fmt.Errorf("no answer from %s: %w", m.Name, err)
		}
		return nil
	})
}

// converse sends the script and reads its answer. The shell is let go of
// then, or when ctx ends: it ignores HUP and PIPE and carries its work to the end.
func converse(ctx context.Context, c *child, p *pipes, script []byte, read func(io.Reader) error) error {
	stop := context.AfterFunc(ctx, func() { p.expire(time.Unix(1, 0)) })
	defer stop()
	var wg sync.WaitGroup
	var complaint tail
	wg.Go(func() {
		p.in.Write(script)
		p.in.Close()
	})
	wg.Go(func() { io.Copy(&complaint, p.err) })
	err := read(p.out)
	if err != nil && ctx.Err() == nil {
		select { // why it said nothing is known a moment later
		case <-c.done:
		case <-time.After(settle):
		case <-ctx.Done():
		}
		err = fmt.Errorf("%w: %s", err, c.ending())
	}
	p.expire(time.Now().Add(linger))
	wg.Wait()
	if err == nil {
		return nil
	}
	if ctx.Err() != nil {
		err = context.Cause(ctx)
	}
	if s := complaint.String(); s != "" {
		err = fmt.Errorf("%w: %s", err, s)
	}
	return err
}

// maxFetch bounds one piece of a file in memory.
const maxFetch = 16 << 20

// Fetch reads a piece of a file on this machine.
func (l *local) Fetch(ctx context.Context, m Machine, path string, offset, max int64) ([]byte, error) {
	if !l.calls.enter() {
		return nil, ErrClosed
	}
	defer l.calls.leave()
	if err := ctx.Err(); err != nil {
		return nil, fmt.Errorf("cannot fetch %s: %w", path, err)
	}
	if offset < 0 || max < 0 || !filepath.IsAbs(path) {
		return nil, fmt.Errorf("cannot fetch %q from byte %d, %d bytes: not a piece of a file", path, offset, max)
	}
	// Neither a link nor a pipe: a spool has plain files, and waiting for the
	// writer of a pipe would be waiting for ever.
	f, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NOFOLLOW|syscall.O_NONBLOCK, 0)
	if err != nil {
		return nil, fmt.Errorf("cannot fetch: %w", err)
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, fmt.Errorf("cannot fetch: %w", err)
	}
	if !info.Mode().IsRegular() {
		return nil, fmt.Errorf("cannot fetch %s: it is not a plain file", path)
	}
	size := min(max, info.Size()-offset, maxFetch)
	if size <= 0 {
		return nil, nil
	}
	data := make([]byte, size)
	n, err := f.ReadAt(data, offset)
	if err != nil && !errors.Is(err, io.EOF) {
		return nil, fmt.Errorf("cannot fetch: %w", err)
	}
	return data[:n], nil
}
