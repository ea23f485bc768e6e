package wrapper

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"time"

	"golang.org/x/sys/unix"

	"saltpeter/wsx/wire"
)

// failureWait is how long a start that failed tries to tell the server so. Who
// started the wrapper learns it from its exit code in any case.
const failureWait = 3 * time.Second

// stdio is what the wrapper was started with.
type stdio struct {
	stdin          io.Reader
	stdout, stderr io.Writer
	detached       bool
}

func versionLine() string { return wire.FirstLine + Version }

// runTask runs one task in this process.
func runTask(o *wire.Order, e environment, std stdio, told <-chan os.Signal) int {
	// Keeps an idle wrapper small, and costs a busy one nothing: it waits for the
	// kernel most of the time.
	runtime.GOMAXPROCS(1)
	dir, root, weak, err := openTaskDir(o, e)
	if err != nil {
		fmt.Fprintf(std.stderr, "saltpeter wrap: %v\n", err)
		return exitError
	}
	var lines io.Writer
	if !std.detached {
		lines = std.stderr
	}
	logDir := o.LogDir
	if logDir == "" && root != "" {
		logDir = filepath.Join(root, logDirName)
	}
	log := newTaskLog(o, logDir, lines)
	defer log.Close()
	path := ""
	if dir != nil {
		path = dir.path
	}
	s := newSpool(spoolOptions{Dir: path, Max: o.MaxOutput, Block: o.OnSpoolFull == "block"})
	defer s.Close()
	t := newTask(o, log, s, dir, told)

	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	t.rep.Start(ctx)
	// With one thread the rest would go first: the server takes the connection while
	// the command is being parked.
	runtime.Gosched()
	if err := t.prepare(weak); err != nil {
		fmt.Fprintf(std.stderr, "saltpeter wrap: %v\n", err)
		t.fail(err)
		return exitError
	}
	piped := e.source(isTerminal(std.stdin)) == "stdin" && o.Server != "" && !std.detached
	t.unheard = !t.announce(std) && piped
	return t.carry(ctx, root)
}

// openTaskDir makes the task's place in the spool; without one the output is
// kept in memory, and weak says why. An error means that the task must not
// start.
func openTaskDir(o *wire.Order, e environment) (dir *taskDir, root string, weak string, err error) {
	for _, root := range spoolRoots(o, e.get, os.Geteuid()) {
		dir, err := createTaskDir(root, taskMeta{Order: *o})
		if err == nil {
			return dir, root, "", nil
		}
		if errors.Is(err, errTaken) {
			return nil, "", "", err
		}
		weak = fmt.Sprintf("spool in memory (at most %d MiB): %v", memoryMax>>20, err)
	}
	return nil, "", weak, nil
}

// prepare parks the command at its gate.
func (t *task) prepare(weak string) error {
	var err error
	if t.pipes, err = openPipes(t.order.Streams == "separate"); err != nil {
		return err
	}
	t.engine, err = prepare(engineOptions{
		Order: t.order, Stdout: t.pipes.Stdout, Stderr: t.pipes.Stderr, Debugf: t.log.Debugf,
	})
	if err != nil {
		return err
	}
	t.identity = t.engine.Identity()
	if weak != "" {
		t.identity.Weak = append(t.identity.Weak, weak)
		t.log.Printf("%s", weak)
	}
	if t.dir != nil {
		t.identity.Spool = t.dir.path
		t.identity.EndFile = filepath.Join(t.dir.path, endName)
		if err := t.dir.writeMeta(taskMeta{Order: *t.order, Identity: &t.identity}); err != nil {
			t.log.Printf("cannot write to the spool: %v", err)
		}
	}
	return nil
}

// announce says what was started, lets go of those who started it, and only then
// lets the server's ack open the gate. False: nobody was there to hear it.
func (t *task) announce(std stdio) bool {
	line, err := json.Marshal(t.identity)
	if err == nil {
		_, err = fmt.Fprintf(std.stdout, "%s\n%s\n", versionLine(), line)
	}
	if err != nil {
		t.log.Debugf("nobody read the identity: %v", err)
	}
	letGo(std.stdin, std.stdout)
	if std.detached {
		letGo(std.stderr)
	}
	t.rep.Ready(&t.identity, time.Now())
	return err == nil
}

// letGo puts /dev/null in the place of files, so that whoever waits for their
// end sees it.
func letGo(streams ...any) {
	null, err := unix.Open("/dev/null", unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		return
	}
	defer unix.Close(null)
	for _, s := range streams {
		if f, ok := s.(*os.File); ok && f != nil {
			if fd := int(f.Fd()); fd >= 0 && fd <= 2 {
				_ = unix.Dup3(null, fd, 0)
			}
		}
	}
}

// carry runs the task from its gate on and cleans up behind it.
func (t *task) carry(ctx context.Context, root string) int {
	t.pipes.Start(t.spool)
	trim := time.AfterFunc(trimAfter, trimProgram)
	defer trim.Stop()
	looking, stopLooking := context.WithCancel(ctx)
	looked := make(chan struct{})
	go func() {
		defer close(looked)
		t.lookLater(looking, root)
	}()
	delivered := t.run()
	if !delivered && !t.saveBy.IsZero() {
		t.saveEnd()
	}
	stopLooking()
	<-looked
	t.rep.Stop()
	t.pipes.Close()
	<-t.pipes.EOF
	t.spool.Close()
	t.engine.Close(ctx)
	if t.dir != nil {
		if delivered {
			t.dir.remove()
		} else {
			t.dir.release()
		}
	}
	if delivered && root != "" && pickupDue(root, time.Now()) {
		_ = (&collector{root: root, server: &t.order.Server, log: t.log}).run(ctx)
	}
	return exitOK
}

// fail tells the server of a start that did not come about.
func (t *task) fail(why error) {
	t.log.Printf("launch failed: %v", why)
	if t.pipes != nil {
		t.pipes.Close()
	}
	e := owedEnd{code: wire.ExitUnreachable, end: wire.End{Cause: wire.CauseLaunch}, err: why.Error(), at: time.Now()}
	e.end.Length = wire.Ptr[int64](0)
	if t.dir != nil {
		if err := t.dir.writeEnd(endRecord(t.order, e, nil)); err != nil {
			t.log.Printf("cannot write the end record: %v", err)
		}
	}
	close(t.done)
	t.setGone("") // a kill that comes now finds nothing to do
	t.rep.Finish(e)
	t.rep.Ready(nil, time.Time{})
	deadline := time.NewTimer(failureWait)
	defer deadline.Stop()
	for !t.rep.Quiet() && !t.rep.Refused() {
		select {
		case <-t.rep.news:
			continue
		case <-deadline.C:
		}
		break
	}
	t.rep.Stop()
	if t.dir == nil {
		return
	}
	if t.rep.Delivered() {
		t.dir.remove()
	} else {
		t.saveEnd()
		t.dir.release() // for pickup
	}
}
