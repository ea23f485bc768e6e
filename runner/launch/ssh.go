package launch

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"time"

	"saltpeter/sshx"
)

// SSHOptions of the ssh transport.
type SSHOptions struct {
	Client     *sshx.Client // whose connections are used; it is closed by whoever made it
	Executable string       // this binary, which is put on machines; "" = os.Executable
	// Builds are folders that are looked in for saltpeter-linux-ARCH where a
	// machine's architecture is another than this one's.
	Builds []string
	// Places are where the binary may live on a machine, best first; nil = the
	// usual three. A word that begins with ~/ is below the login's home.
	Places []string
	Log    *slog.Logger
}

// secureShell reaches machines over SSH. It keeps no connection for a task: the
// wrapper detaches, the session ends, and the connection is the client's, pooled.
//
// What it runs on a machine has three forms, so that a key can be restricted to
// them: `sh -s` with a script on standard input, `PLACE/saltpeter-HASH wrap` with
// the order there, and `dd of=PLACE/…` with the binary; `sudo -n` in front of each
// where the machine's entry says so.
type secureShell struct {
	o      SSHOptions
	client *sshx.Client
	builds *builds
	life   context.Context // of what goes on when a call's own context has ended
	stop   context.CancelFunc
	pushes chan struct{} // so many binaries travel at once

	calls    calls
	mu       sync.Mutex
	arrivals map[string]*arrival
	kinds    map[string]*kind
}

// pushesAtOnce bounds what first uses and an upgrade take of the server's line.
const pushesAtOnce = 8

// NewSSH returns the transport to machines that have an SSH address.
func NewSSH(o SSHOptions) Transport { return newSSH(o) }

func newSSH(o SSHOptions) *secureShell {
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.Places == nil {
		o.Places = []string{"/var/lib/saltpeter", "/run/saltpeter", "~/.local/lib/saltpeter"}
	}
	exe := o.Executable
	if exe == "" {
		if found, err := os.Executable(); err == nil {
			exe = found
			o.Builds = append(o.Builds, filepath.Dir(found))
		}
		if _, err := os.Stat(exe); err != nil {
			exe = "/proc/self/exe" // an upgrade took the file away under us
		}
	}
	s := &secureShell{
		o: o, client: o.Client, builds: newBuilds(exe, o.Builds), pushes: make(chan struct{}, pushesAtOnce),
		arrivals: map[string]*arrival{}, kinds: map[string]*kind{},
	}
	s.life, s.stop = context.WithCancel(context.Background())
	return s
}

// spawn runs f in a goroutine that Close waits for; false after Close.
func (s *secureShell) spawn(f func()) bool {
	if !s.calls.enter() {
		return false
	}
	go func() {
		defer s.calls.leave()
		f()
	}()
	return true
}

func (s *secureShell) Close() error {
	s.calls.shut()
	s.stop()
	s.calls.wg.Wait()
	return nil
}

// Start runs the wrapper, which is put on the machine first if it is not there.
func (s *secureShell) Start(ctx context.Context, m Machine, order []byte) StartResult {
	if !s.calls.enter() {
		return certainlyNot(ErrClosed)
	}
	defer s.calls.leave()
	if err := ctx.Err(); err != nil {
		return certainlyNot(fmt.Errorf("cannot start the wrapper: %w", err))
	}
	if m.WrapperPath != "" {
		return s.startGiven(ctx, m, order)
	}
	for again := false; ; again = true {
		a, err := s.binary(ctx, m)
		if err != nil {
			return certainlyNot(err)
		}
		res := s.startOurs(ctx, m, a.path, order)
		if res.Certainty != CertainlyNot || again || errors.Is(res.Err, ErrUnreachable) {
			return res
		}
		// Nothing was started. If the program is not there any more (a machine that
		// was set up anew, a /run that a reboot emptied), it is put there again.
		s.forget(machineKey(m), a)
		if a, err = s.binary(ctx, m); err != nil {
			return certainlyNot(err)
		}
		if a.was {
			return res
		}
	}
}

// startOurs starts a wrapper of ours that lies at a path.
func (s *secureShell) startOurs(ctx context.Context, m Machine, path string, order []byte) (res StartResult) {
	d := dialogue{stdin: order}
	d.read = func(r io.Reader) (err error) {
		res.Version, res.Identity, err = readHandshake(r)
		return err
	}
	err := s.hold(ctx, m, s.line(m, path, "wrap"), &d)
	switch {
	case err == nil:
		res.Certainty = Started
		return res
	case !d.sent:
		return certainlyNot(err)
	}
	return notGreeted(ctx, path, res.Version, d.end, err, d.complaint)
}

// line is what the login's shell is given.
func (s *secureShell) line(m Machine, argv ...string) string {
	if m.Sudo {
		argv = append([]string{"sudo", "-n"}, argv...)
	}
	return sshx.Quote(argv...)
}

// Script runs kill.sh.
func (s *secureShell) Script(ctx context.Context, m Machine, r ScriptRequest) (ScriptResult, error) {
	if !s.calls.enter() {
		return ScriptResult{}, ErrClosed
	}
	defer s.calls.leave()
	return runScript(ctx, m, r, func(ctx context.Context, script []byte, read func(io.Reader) error) error {
		return s.shell(ctx, m, script, read)
	})
}

// shell runs a script under `sh -s` and reads its answer. The errors are complete.
func (s *secureShell) shell(ctx context.Context, m Machine, script []byte, read func(io.Reader) error) error {
	d := dialogue{stdin: script, read: read}
	err := s.hold(ctx, m, s.line(m, "sh", "-s"), &d)
	if err == nil || !d.sent {
		return err
	}
	if d.end.known && !errors.Is(err, context.Canceled) && !errors.Is(err, context.DeadlineExceeded) {
		err = fmt.Errorf("%w: %s", err, d.end)
	}
	if d.complaint != "" {
		err = fmt.Errorf("%w: %s", err, d.complaint)
	}
	return fmt.Errorf("no answer from %s: %w", m.Name, err)
}

// dialogue is one command on a machine: what it is told, who reads what it says,
// and how it went.
type dialogue struct {
	stdin []byte
	read  func(io.Reader) error

	sent      bool   // the command may have reached the machine
	end       ending // how it ended, where read failed
	complaint string // what it said on standard error
}

// hold runs a command until read has what it wants. An error of read is returned as
// it is, once it is known how the command ended or that it does not; where the
// machine could not be spoken to, the error is complete and says ErrUnreachable.
func (s *secureShell) hold(ctx context.Context, m Machine, line string, d *dialogue) error {
	if m.SSH == "" {
		return fmt.Errorf("cannot reach %s by ssh: it has no address (saltpeter_machines: %s: {ssh: HOST})", m.Name, m.Name)
	}
	session, err := s.client.Start(ctx, m.SSH, line)
	if err != nil {
		d.sent = maySent(err)
		return noWay(m, err)
	}
	d.sent = true
	stop := context.AfterFunc(ctx, func() { session.Close() })
	var wg sync.WaitGroup
	var complaint tail
	wg.Go(func() {
		session.Stdin.Write(d.stdin) // an error here shows as what comes of half the text
		session.Stdin.Close()
	})
	wg.Go(func() { io.Copy(&complaint, session.Stderr) })
	err = d.read(session.Stdout)
	if err == nil {
		stop()
		// It is about to end by itself, and a session that is let go of before
		// still counts there, among the ten that sshd allows.
		if !s.spawn(func() { letEnd(session, settle); wg.Wait() }) {
			session.Close()
			wg.Wait()
		}
		return nil
	}
	d.end = awaitEnding(ctx, session, settle)
	session.Close()
	wg.Wait()
	stop()
	d.complaint = complaint.String()
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return err
}

// letEnd waits for the end of a command that has nothing more to say, and then
// closes its session in any case.
func letEnd(session *sshx.Session, most time.Duration) {
	awaitEnding(context.Background(), session, most)
	session.Close()
}

// awaitEnding waits for a command's end, but not for long. What it still prints is
// swallowed, so that nothing holds it up.
func awaitEnding(ctx context.Context, session *sshx.Session, most time.Duration) ending {
	ended := make(chan ending, 1)
	// Where the command goes on, these end with the connection, which the client
	// waits for: the far side keeps a session until its command has ended.
	go io.Copy(io.Discard, session.Stdout)
	go func() {
		exit, err := session.Wait()
		ended <- ending{known: err == nil, code: exit.Code, signal: exit.Signal}
	}()
	limit := time.NewTimer(most)
	defer limit.Stop()
	select {
	case e := <-ended:
		return e
	case <-ctx.Done():
	case <-limit.C:
	}
	return ending{running: true}
}

// maySent reports whether a command may have reached the machine.
func maySent(err error) bool {
	var e *sshx.Error
	return !errors.As(err, &e) || e.Sent
}

// noWay makes the error of a machine that could not be spoken to. What to do about
// it stands in sshx's own text.
func noWay(m Machine, err error) error {
	err = fmt.Errorf("cannot reach %s: %w", m.Name, err)
	if errors.Is(err, sshx.ErrHostKeyUnknown) {
		err = fmt.Errorf("%w; or have the server do so: saltpeter machines --check --accept-new -m %s", err, m.Name)
	}
	if errors.Is(err, context.Canceled) {
		return err
	}
	return &unreachable{err}
}

// unreachable is ErrUnreachable with its cause: the network, the host key and the
// login are told apart by what it says, and by sshx's errors inside.
type unreachable struct{ err error }

func (e *unreachable) Error() string   { return e.err.Error() }
func (e *unreachable) Unwrap() []error { return []error{ErrUnreachable, e.err} }
