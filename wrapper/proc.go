package wrapper

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// procKey names a process so that a reused number is never taken for it.
type procKey struct {
	pid   int
	start uint64 // field 22 of /proc/PID/stat, in ticks since boot; 0: hidden
}

// hidden is a child of ours that /proc does not show: mounted with hidepid, it
// keeps set-uid and undumpable processes from us. As our child its number is
// pinned until we reap it, so that it can be signalled all the same.
func (k procKey) hidden() bool { return k.start == 0 }

// proc is one process as one read of its stat file saw it.
type proc struct {
	procKey
	ppid, pgrp, sid int
	threads         int
	state           byte
	kernel          bool   // a kernel thread
	rss             uint64 // the soft RLIMIT_RSS: the brand
}

// alive is false for what only waits to be reaped. A zombie leader whose other
// threads still run is alive.
func (p proc) alive() bool {
	dead := p.state == 'Z' || p.state == 'X' || p.state == 'x'
	return !dead || p.threads > 1
}

const flagKernelThread = 0x00200000 // PF_KTHREAD

// Fields of /proc/PID/stat, counted from the state that follows the name.
const (
	statState   = 0
	statParent  = 1
	statGroup   = 2
	statSession = 3
	statFlags   = 6
	statThreads = 17
	statStart   = 19
	statRSS     = 22
)

// parseStat reads one line of /proc/PID/stat. The name in parentheses is text
// that the process chose: it may hold blanks, newlines and parentheses, so
// everything is counted from the last one.
func parseStat(line []byte) (p proc, ok bool) {
	open, end := bytes.IndexByte(line, '('), bytes.LastIndexByte(line, ')')
	if open < 2 || end < open || len(line) < end+3 {
		return p, false
	}
	pid, err := strconv.Atoi(string(line[:open-1]))
	if err != nil || pid <= 0 {
		return p, false
	}
	p.pid = pid
	rest := line[end+2:]
	for field := 0; field <= statRSS; field++ {
		word := rest
		if i := bytes.IndexByte(rest, ' '); i >= 0 {
			word, rest = rest[:i], rest[i+1:]
		} else {
			rest = nil
		}
		if len(word) == 0 {
			return p, false
		}
		if field == statState {
			p.state = word[0]
			continue
		}
		value, good := parseUint(word)
		switch field {
		case statParent:
			p.ppid = int(value)
		case statGroup:
			p.pgrp = int(value)
		case statSession:
			p.sid = int(value)
		case statFlags:
			p.kernel = value&flagKernelThread != 0
		case statThreads:
			p.threads = int(value)
		case statStart:
			p.start = value
		case statRSS:
			p.rss = value
		default:
			continue // some of the others are negative at times
		}
		if !good {
			return p, false
		}
	}
	return p, true
}

func parseUint(word []byte) (uint64, bool) {
	var n uint64
	for _, c := range word {
		d := uint64(c - '0')
		if c < '0' || c > '9' || n > (1<<64-1-d)/10 {
			return 0, false
		}
		n = n*10 + d
	}
	return n, len(word) > 0
}

// procReader reads /proc with buffers of its own. One goroutine owns it.
type procReader struct {
	buf  []byte
	dir  []byte
	path []byte
}

func newProcReader() *procReader {
	return &procReader{buf: make([]byte, 4096), dir: make([]byte, 8192)}
}

// procPath builds /proc/PID/tail without garbage.
func (r *procReader) procPath(pid int, tail string) string {
	r.path = append(r.path[:0], "/proc/"...)
	r.path = strconv.AppendInt(r.path, int64(pid), 10)
	r.path = append(r.path, tail...)
	return string(r.path)
}

// read returns the file's content, which is valid until the next read.
func (r *procReader) read(path string) ([]byte, error) {
	fd, err := openRetry(path, unix.O_RDONLY|unix.O_CLOEXEC)
	if err != nil {
		return nil, err
	}
	defer unix.Close(fd)
	n := 0
	for {
		if n == len(r.buf) {
			r.buf = append(r.buf, make([]byte, len(r.buf))...)
		}
		k, err := unix.Read(fd, r.buf[n:])
		switch {
		case err == unix.EINTR:
			continue
		case err != nil:
			return nil, err
		case k == 0:
			return r.buf[:n], nil
		}
		n += k
	}
}

func openRetry(path string, flags int) (int, error) {
	for {
		fd, err := unix.Open(path, flags, 0)
		if err != unix.EINTR {
			return fd, err
		}
	}
}

// numbers appends the numeric names of a directory to out.
func (r *procReader) numbers(dir string, out []int) ([]int, error) {
	fd, err := openRetry(dir, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC)
	if err != nil {
		return out, err
	}
	defer unix.Close(fd)
	var names []string
	for {
		n, err := unix.ReadDirent(fd, r.dir)
		if err == unix.EINTR {
			continue
		}
		if err != nil {
			return out, err
		}
		if n <= 0 {
			return out, nil
		}
		_, _, names = unix.ParseDirent(r.dir[:n], -1, names[:0])
		for _, name := range names {
			if name[0] >= '0' && name[0] <= '9' {
				if pid, err := strconv.Atoi(name); err == nil {
					out = append(out, pid)
				}
			}
		}
	}
}

// stat reads one process.
func (r *procReader) stat(pid int) (proc, bool) {
	line, err := r.read(r.procPath(pid, "/stat"))
	if err != nil {
		return proc{}, false
	}
	p, ok := parseStat(line)
	return p, ok && p.pid == pid
}

// all reads every process of the machine that can be seen.
func (r *procReader) all(out []proc) ([]proc, error) {
	pids, err := r.numbers("/proc", nil)
	if err != nil {
		return out, fmt.Errorf("cannot list processes: %w", err)
	}
	for _, pid := range pids {
		if p, ok := r.stat(pid); ok {
			out = append(out, p)
		}
	}
	return out, nil
}

// children appends the PIDs of the children of all threads of a process. It
// needs CONFIG_PROC_CHILDREN.
func (r *procReader) children(pid int, out []int) []int {
	tasks, err := r.numbers(r.procPath(pid, "/task"), nil)
	if err != nil {
		return out
	}
	for _, tid := range tasks {
		out = r.taskChildren(pid, tid, out)
	}
	return out
}

func (r *procReader) taskChildren(pid, tid int, out []int) []int {
	list, err := r.read(r.procPath(pid, "/task/"+strconv.Itoa(tid)+"/children"))
	if err != nil {
		return out
	}
	for len(list) > 0 {
		i := bytes.IndexByte(list, ' ')
		if i < 0 {
			i = len(list)
		}
		if child, ok := parseUint(list[:i]); ok {
			out = append(out, int(child))
		}
		list = list[min(i+1, len(list)):]
	}
	return out
}

// hasChildrenFiles says whether this kernel lists a task's children.
func hasChildrenFiles() bool {
	pid := os.Getpid()
	_, err := os.Stat(fmt.Sprintf("/proc/%d/task/%d/children", pid, pid))
	return err == nil
}

// hasCookie says whether a process carries the exact environment entry.
func (r *procReader) hasCookie(pid int, entry string) bool {
	env, err := r.read(r.procPath(pid, "/environ"))
	if err != nil {
		return false // another user's, or made itself undumpable: the other nets hold it
	}
	for len(env) > 0 {
		i := bytes.IndexByte(env, 0)
		if i < 0 {
			i = len(env)
		}
		if string(env[:i]) == entry {
			return true
		}
		env = env[min(i+1, len(env)):]
	}
	return false
}

// command is a process's name, fit to be shown: names are hostile text.
func (r *procReader) command(pid int) string {
	raw, err := r.read(r.procPath(pid, "/comm"))
	if err != nil {
		return "?"
	}
	return printable(strings.TrimSuffix(string(raw), "\n"))
}

func printable(s string) string {
	return strings.Map(func(c rune) rune {
		if c < ' ' || c == 0x7f || c == '\uFFFD' {
			return '?'
		}
		return c
	}, strings.ToValidUTF8(s, "?"))
}

// bootTicks is now on the scale of a process's start time.
func bootTicks() uint64 {
	var t unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_BOOTTIME, &t); err != nil {
		return 0
	}
	const ticksPerSecond = 100 // USER_HZ, the same on every architecture that we build for
	return uint64(t.Sec)*ticksPerSecond + uint64(t.Nsec)/(1e9/ticksPerSecond)
}

// lastPID is the number given out last, and how many there are before they start
// again; 0 if unknown.
func (r *procReader) lastPID() (last, limit int) {
	text, err := r.read("/proc/loadavg")
	if err != nil {
		return 0, 0
	}
	last, _ = strconv.Atoi(string(bytes.TrimSpace(text[bytes.LastIndexByte(bytes.TrimSpace(text), ' ')+1:])))
	if text, err = r.read("/proc/sys/kernel/pid_max"); err != nil {
		return 0, 0
	}
	limit, _ = strconv.Atoi(string(bytes.TrimSpace(text)))
	return last, limit
}

// send signals exactly the process that p describes: the descriptor pins it,
// then its start time is read again. ESRCH means that it is gone.
func (r *procReader) send(p procKey, sig unix.Signal) error {
	fd, err := unix.PidfdOpen(p.pid, 0)
	pinned := err == nil
	switch {
	case pinned:
		defer unix.Close(fd)
	case errors.Is(err, unix.ESRCH):
		return unix.ESRCH
	}
	if now, ok := r.stat(p.pid); !ok || now.start != p.start {
		return unix.ESRCH
	}
	if !pinned { // an older kernel, a filter, or no descriptor left
		return unix.Kill(p.pid, sig)
	}
	err = unix.PidfdSendSignal(fd, sig, nil, 0)
	if errors.Is(err, unix.ENOSYS) {
		return unix.Kill(p.pid, sig)
	}
	return err
}
