package wrapper

import (
	"errors"
	"fmt"
	"math"
	"os"
	"strconv"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"saltpeter/wsx/wire"
)

// pausing is what Pause has stopped, and how it is let go again.
type pausing struct {
	on      bool
	frozen  bool                 // the task's cgroup is frozen
	stopped map[procKey]struct{} // got STOP from us: those outside the cgroup, or all where there is none
	until   time.Time            // zero: until Resume
	timer   int                  // PID of the process that thaws when even we are gone; 0 = none
}

const (
	freezeLimit = 500 * time.Millisecond
	stopLimit   = 2 * time.Second
)

func (e *engine) running() error {
	switch {
	case e.finished || e.mainEnded && e.empty:
		return errors.New(errOver)
	case e.opened.IsZero():
		return errors.New("the job has not started yet")
	}
	return nil
}

// signal sends one signal, to the main process or to everybody.
func (e *engine) signal(name, scope string) wire.Report {
	r := wire.Report{Op: "signal", Signal: name}
	if err := e.running(); err != nil {
		r.Error, r.Outcome = "cannot signal: "+err.Error(), wire.OutcomeNotRunning
		return r
	}
	canonical, sig, err := parseSignal(name)
	if err != nil {
		r.Error = err.Error()
		return r
	}
	r.Signal = canonical
	main := e.nets.main
	switch scope {
	case "", "main":
		if e.mainEnded {
			r.Error, r.Outcome = "cannot signal: the main process has ended", wire.OutcomeNotRunning
			return r
		}
		// Not reaped, so the number is its own.
		if err := unix.Kill(main.pid, sig); err != nil {
			r.Error = fmt.Sprintf("cannot signal process %d: %v", main.pid, err)
			return r
		}
		e.sentMain[sig], r.ProcessesBefore = true, 1
	case "all":
		var refused error
		for _, m := range e.look() {
			if !m.alive() {
				continue
			}
			if m.procKey == main {
				e.sentMain[sig] = true
			}
			r.ProcessesBefore++
			if err := e.signalProcess(m.procKey, sig); err != nil && !errors.Is(err, unix.ESRCH) {
				refused = fmt.Errorf("cannot signal process %d: %w", m.pid, err)
			}
		}
		if refused != nil {
			r.Error = refused.Error()
			return r
		}
	default:
		r.Error = fmt.Sprintf("cannot signal: scope %q is neither main nor all", scope)
		return r
	}
	r.OK = true
	return r
}

// pauseAll stops everybody: by the cgroup's freezer who is in it, by STOP the
// rest, never both to one process.
func (e *engine) pauseAll(ttl time.Duration) wire.Report {
	r := wire.Report{Op: "pause"}
	if err := e.running(); err != nil {
		r.Error, r.Outcome = "cannot pause: "+err.Error(), wire.OutcomeNotRunning
		return r
	}
	if e.kill != nil {
		r.Error = "cannot pause: a kill is under way"
		return r
	}
	p := &e.pause
	if p.stopped == nil {
		p.stopped = map[procKey]struct{}{}
	}
	still := true
	if e.cg != nil {
		if err := e.cg.freeze(); err != nil {
			e.debugf("cannot freeze the cgroup, sending STOP instead: %v", err)
		} else {
			p.frozen = true
			still = e.cg.waitFrozen(freezeLimit)
		}
	}
	p.on = true
	members, quiet := e.stopAll()
	r.ProcessesBefore = living(members)
	r.OK = (still || allAsleep(members)) && quiet
	if !r.OK {
		r.Error = "not all processes stand still yet"
		r.Left, r.Alive = e.describe(members)
	}
	p.until = time.Time{}
	e.stopTimer()
	if ttl > 0 {
		p.until = time.Now().Add(ttl)
		if err := e.startTimer(ttl); err != nil {
			e.debugf("cannot start the timer that thaws without us: %v", err)
			r.Error = "the pause ends with its ttl only while the wrapper lives: " + err.Error()
		}
	}
	return r
}

// allAsleep says whether what is not frozen yet at least does nothing: a process
// in uninterruptible sleep stops when that ends.
func allAsleep(members []member) bool {
	for _, m := range members {
		if m.alive() && m.state == 'R' {
			return false
		}
	}
	return true
}

// stopAll sends STOP to every member that the freezer does not hold, until a look
// finds nobody new and nobody running.
func (e *engine) stopAll() (members []member, quiet bool) {
	if e.pause.stopped == nil {
		e.pause.stopped = map[procKey]struct{}{}
	}
	for end := time.Now().Add(stopLimit); ; {
		members, quiet = e.look(), true
		for _, m := range members {
			if !m.alive() || e.pause.frozen && m.inGroup || stopped(m.proc) {
				continue
			}
			if _, ours := e.pause.stopped[m.procKey]; ours {
				quiet = quiet && m.state == 'D' // under way
				continue
			}
			quiet = false
			e.pause.stopped[m.procKey] = struct{}{}
			e.send(m.procKey, unix.SIGSTOP)
		}
		if quiet || time.Now().After(end) {
			return members, quiet
		}
		time.Sleep(time.Millisecond)
	}
}

// resume lets go what Pause stopped, and only that: what the job has stopped
// itself stays so.
func (e *engine) resume() wire.Report {
	r := wire.Report{Op: "resume", OK: true}
	if !e.pause.on {
		r.OK = e.running() == nil
		if !r.OK {
			r.Error, r.Outcome = "cannot resume: the job does not run", wire.OutcomeNotRunning
		}
		return r
	}
	r.ProcessesBefore = len(e.pause.stopped)
	e.thaw()
	return r
}

// thaw undoes a pause, and the freezing that the job may have done to itself.
func (e *engine) thaw() {
	p := &e.pause
	if e.cg != nil && (p.frozen || e.kill != nil) {
		e.cg.thaw()
	}
	for key := range p.stopped {
		e.send(key, unix.SIGCONT)
	}
	e.stopTimer()
	timer := p.timer
	*p = pausing{timer: timer}
}

// timerScript outlives the wrapper: it sleeps, thaws the cgroup ($2) and sends
// CONT to those on standard input, whose start times must still be the same.
const timerScript = `sleep "$1" </dev/null
[ -z "$2" ] || echo 0 >"$2"
while read -r pid start; do
	stat=$(cat "/proc/$pid/stat" 2>/dev/null) || continue
	set -- ${stat##*) }
	[ "${20}" = "$start" ] && kill -CONT "$pid"
done`

// startTimer starts the process that ends the pause even if this one is dead by
// then. It is a child of ours and would hide ECHILD, so it is ended with the
// pause, and before anything is proved. It is a second late: while we live we
// are the ones who resume.
func (e *engine) startTimer(ttl time.Duration) error {
	list, err := unix.MemfdCreate("saltpeter-paused", unix.MFD_CLOEXEC)
	if err != nil {
		return err
	}
	file := os.NewFile(uintptr(list), "paused")
	defer file.Close()
	var text []byte
	for key := range e.pause.stopped {
		text = append(text, fmt.Sprintf("%d %d\n", key.pid, key.start)...)
	}
	if _, err := file.WriteAt(text, 0); err != nil {
		return err
	}
	null, err := os.OpenFile(os.DevNull, os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	defer null.Close()
	freezer := ""
	if e.pause.frozen {
		freezer = e.cg.dir + "/cgroup.freeze"
	}
	seconds := strconv.Itoa(int(math.Ceil(ttl.Seconds())) + 1)
	pid, err := syscall.ForkExec(shell, []string{"sh", "-c", timerScript, "sh", seconds, freezer}, &syscall.ProcAttr{
		Dir: "/", Env: []string{"PATH=" + jobPath}, Files: []uintptr{file.Fd(), null.Fd(), null.Fd()},
		Sys: &syscall.SysProcAttr{Setsid: true},
	})
	if err != nil {
		return err
	}
	e.pause.timer, e.nets.timer = pid, pid
	return nil
}

// stopTimer ends it; reap takes it in.
func (e *engine) stopTimer() {
	if e.pause.timer != 0 {
		_ = unix.Kill(-e.pause.timer, unix.SIGKILL) // not reaped, so the number is its own
	}
}
