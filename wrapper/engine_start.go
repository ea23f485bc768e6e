package wrapper

import (
	"crypto/rand"
	"fmt"
	"os"
	"os/signal"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"saltpeter/wsx/wire"
)

// prepare does everything fallible (user, cwd, lockfile, cgroup, limits, brand)
// with the job's shell parked at the gate, and returns it with its identity. A
// launchError says why it could not. It closes the options' files in any case.
func prepare(o engineOptions) (*engine, error) {
	defer closeFiles(o.Stdout, o.Stderr)
	e, err := start(o)
	if err != nil {
		return nil, &launchError{why: err.Error()}
	}
	go e.run()
	return e, nil
}

func closeFiles(stdout, stderr *os.File) {
	if stdout != nil {
		stdout.Close()
	}
	if stderr != nil && stderr != stdout {
		stderr.Close()
	}
}

func start(o engineOptions) (*engine, error) {
	order := *o.Order
	if order.Task == "" { // a server that knows no cookies
		order.Task = rand.Text()
	}
	e := &engine{
		order: &order, debugf: o.Debugf,
		wake: make(chan struct{}, 1), events: make(chan engineEvent),
		quit: make(chan struct{}), done: make(chan struct{}), child: make(chan os.Signal, 1),
		sentMain: map[unix.Signal]bool{},
	}
	if e.debugf == nil {
		e.debugf = func(string, ...any) {}
	}
	who, err := findAccount(order.User)
	if err != nil {
		return nil, err
	}
	if e.lock, err = takeLock(order.Lockfile, order.AllowOverlap); err != nil {
		return nil, err
	}
	// Before the fork: whoever the job loses must come back to us.
	if err := unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0); err != nil {
		e.lock.release()
		return nil, fmt.Errorf("cannot become the reaper of the job's processes: %w", err)
	}
	signal.Notify(e.child, syscall.SIGCHLD)
	shell, err := park(&order, who, e.lock, o.Stdout, o.Stderr)
	if err != nil {
		e.release()
		return nil, err
	}
	e.gate = shell.gate
	if err := e.identify(shell.pid, who); err != nil {
		e.abandon(shell.pid)
		return nil, err
	}
	e.lock.tell(shell.pid)
	guardMemory(shell.pid)
	markWrapper() // the shell has its own brand by now and inherits nothing
	// Last: from here on our files in /proc are root's, and no other process of
	// this user may look into our memory, where the order's secrets are.
	_ = unix.Prctl(unix.PR_SET_DUMPABLE, 0, 0, 0, 0)
	return e, nil
}

// identify casts the nets around the parked shell and writes down what it can be
// found by.
func (e *engine) identify(pid int, who *account) error {
	r := newProcReader()
	main, ok := r.stat(pid)
	self, okSelf := r.stat(os.Getpid())
	if !ok || !okSelf {
		return fmt.Errorf("cannot watch over the job: /proc does not show its process %d; mount it", pid)
	}
	boot, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return fmt.Errorf("cannot watch over the job: %w", err)
	}
	space, _ := os.Readlink("/proc/self/ns/pid")
	e.identity = wire.Identity{
		BootID: strings.TrimSpace(string(boot)), PID: pid, StartTicks: main.start, Session: pid,
		PIDNamespace: space, Task: e.order.Task, WrapperPID: self.pid, WrapperStartTicks: self.start,
		UID: int(who.uid),
	}
	if _, ok := r.stat(1); !ok {
		e.weak("other users' processes cannot be seen here (/proc is mounted with hidepid)")
	}
	e.nets = newNets(main.procKey, e.order.Task)
	cg, err := newTaskCgroup(self.start, e.order.Task)
	if err == nil {
		e.cg = cg
		if err = cg.enter(pid); err != nil {
			cg.remove()
			e.cg = nil
		}
	}
	if err != nil {
		e.weak("no cgroup of its own: %v", unwrapPath(err))
	} else {
		e.nets.cg = cg
		e.identity.Cgroup = cg.dir
	}
	brand, err := brandProcess(pid)
	if err != nil {
		e.weak("no brand: %v", err)
		return nil
	}
	e.nets.brand = brand
	e.identity.Brand = fmt.Sprint(brand)
	return nil
}

func (e *engine) weak(format string, args ...any) {
	e.identity.Weak = append(e.identity.Weak, fmt.Sprintf(format, args...))
}
