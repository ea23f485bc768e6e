package launch

import (
	"errors"
	"fmt"
	"os"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// nursery starts processes that outlive the call, and the program: it collects
// each when it ends, so that none stays a zombie, and lets go of all of them when
// it is closed, without ending one or waiting for one.
//
// A goroutine that sits in wait4 could not be called back, so each waits in the
// runtime's poller for its child's pidfd instead, and Close takes the pidfds away.
// Where the kernel has no pidfd (before 5.3), it looks now and then.
type nursery struct {
	mu     sync.Mutex
	closed bool
	quit   chan struct{}
	kids   map[*child]struct{}
	wg     sync.WaitGroup
}

// child is a process that was started. status may be read once done is closed,
// and only if reaped says so: a nursery that closes gives its children up.
type child struct {
	pid    int
	pidfd  *os.File // nil without pidfds
	done   chan struct{}
	reaped bool
	status syscall.WaitStatus
}

// lookAgain is how often a child is looked at even if nothing announced its end:
// a pidfd says so once, and a tracer may then still hold the child back.
const lookAgain = 30 * time.Second

func newNursery() *nursery {
	return &nursery{quit: make(chan struct{}), kids: map[*child]struct{}{}}
}

// spawn starts argv with the three files as its standard ones, in a session of its
// own, so that no terminal and no process group of ours can reach it. The errors
// are such that nothing was started.
func (n *nursery) spawn(argv, env []string, files [3]*os.File) (*child, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.closed {
		return nil, ErrClosed
	}
	pidfd := -1
	var fds []uintptr
	for _, f := range files {
		fds = append(fds, f.Fd()) // Fd puts this end into blocking mode, as programs expect
	}
	// syscall.StartProcess shares our memory with the child until it executes
	// (vfork), so its cost does not grow with this process. Root is the directory:
	// the daemon's own may be removed, and must not be held by a job's wrapper.
	pid, _, err := syscall.StartProcess(argv[0], argv, &syscall.ProcAttr{
		Dir: "/", Env: env, Files: fds,
		Sys: &syscall.SysProcAttr{Setsid: true, PidFD: &pidfd},
	})
	if err != nil {
		return nil, err
	}
	c := &child{pid: pid, done: make(chan struct{})}
	if pidfd >= 0 {
		if unix.SetNonblock(pidfd, true) == nil {
			c.pidfd = os.NewFile(uintptr(pidfd), "pidfd")
		} else {
			unix.Close(pidfd)
		}
	}
	n.kids[c] = struct{}{}
	n.wg.Add(1)
	go n.await(c)
	return c, nil
}

// await collects one child, or gives it up when the nursery closes. It alone
// writes the child's status.
func (n *nursery) await(c *child) {
	defer n.wg.Done()
	for n.wake(c) && !c.collect() {
		// A pidfd can say so before a tracer has let go of the child.
		if !n.nap() {
			break
		}
	}
	n.mu.Lock()
	delete(n.kids, c)
	if c.pidfd != nil {
		c.pidfd.Close()
	}
	n.mu.Unlock()
	close(c.done)
}

// wake returns true when the child should be looked at, false when the nursery
// closes.
func (n *nursery) wake(c *child) bool {
	if c.pidfd != nil {
		if conn, err := c.pidfd.SyscallConn(); err == nil {
			if c.pidfd.SetReadDeadline(time.Now().Add(lookAgain)) == nil {
				ended := false
				err = conn.Read(func(fd uintptr) bool { ended = readable(fd); return ended })
				return ended || errors.Is(err, os.ErrDeadlineExceeded)
			}
		}
	}
	return n.nap()
}

// nap waits for a moment; false when the nursery closes.
func (n *nursery) nap() bool {
	select {
	case <-n.quit:
		return false
	case <-time.After(100 * time.Millisecond):
		return true
	}
}

// readable reports whether a pidfd's process has ended.
func readable(fd uintptr) bool {
	p := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}
	k, err := unix.Poll(p, 0)
	return err == nil && k == 1
}

// collect takes the child's status if it has ended. The PID cannot have become
// another's: nobody else waits for this child.
func (c *child) collect() bool {
	for {
		pid, err := syscall.Wait4(c.pid, &c.status, syscall.WNOHANG, nil)
		if err == syscall.EINTR {
			continue
		}
		c.reaped = pid == c.pid
		return c.reaped || err != nil
	}
}

// end kills a child that is of no more use. The PID cannot be another's by then: the
// pidfd, which is open while the child is among the kids, names this very process.
func (n *nursery) end(c *child) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if _, there := n.kids[c]; there && c.pidfd != nil {
		if conn, err := c.pidfd.SyscallConn(); err == nil {
			conn.Control(func(fd uintptr) { unix.PidfdSendSignal(int(fd), unix.SIGKILL, nil, 0) })
		}
	}
}

// close gives all children up and waits for the goroutines only.
func (n *nursery) close() {
	n.mu.Lock()
	if !n.closed {
		n.closed = true
		close(n.quit)
		for c := range n.kids {
			if c.pidfd != nil {
				c.pidfd.Close() // wakes await
			}
		}
	}
	n.mu.Unlock()
	n.wg.Wait()
}

// ending is how a child ended, as far as that is known by now.
func (c *child) ending() ending {
	select {
	case <-c.done:
	default:
		return ending{running: true}
	}
	switch {
	case !c.reaped:
		return ending{}
	case c.status.Signaled():
		return ending{known: true, code: -1, signal: fmt.Sprintf("%d (%s)", c.status.Signal(), c.status.Signal())}
	}
	return ending{known: true, code: c.status.ExitStatus()}
}

// endedWell reports whether a child ends with exit code 0, and soon.
func (c *child) endedWell(within time.Duration) bool {
	wait := time.NewTimer(within)
	defer wait.Stop()
	select {
	case <-c.done:
	case <-wait.C:
	}
	end := c.ending()
	return end.known && end.code == 0
}

// pipes are the three standard ones of a child, both ends.
type pipes struct {
	theirs [3]*os.File // what the child gets
	in     *os.File    // we write
	out    *os.File    // we read
	err    *os.File
}

func newPipes() (*pipes, error) {
	var p pipes
	var e error
	if p.theirs[0], p.in, e = os.Pipe(); e == nil {
		if p.out, p.theirs[1], e = os.Pipe(); e == nil {
			p.err, p.theirs[2], e = os.Pipe()
		}
	}
	if e != nil {
		p.close()
		return nil, e
	}
	return &p, nil
}

// closeTheirs is called once the child has its own copies: only then does the end
// of the child close the pipes.
func (p *pipes) closeTheirs() {
	for _, f := range p.theirs {
		f.Close()
	}
}

// close lets go of all ends; reads and writes under way return.
func (p *pipes) close() {
	p.closeTheirs()
	for _, f := range []*os.File{p.in, p.out, p.err} {
		f.Close()
	}
}
