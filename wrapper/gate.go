package wrapper

import (
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"saltpeter/wsx/wire"
)

const (
	shell   = "/bin/sh"
	jobPath = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

	// gateScript parks the shell until a line comes; at the end of the file, which
	// the wrapper's death is as well, it exits without having run anything of the
	// user's. The variable's name is one that no job's environment has.
	gateScript = `read SP_GATE_LINE_ <&3 && exec ` + shell + ` -c "$1" 3<&-`
	// A command that starts with a dash would be taken for options.
	gateScriptDash = `read SP_GATE_LINE_ <&3 && exec ` + shell + ` -c -- "$1" 3<&-`
)

// parked is a job's shell that waits at the gate.
type parked struct {
	pid  int
	gate *os.File // one line opens it, closing it ends the shell
}

// jobEnviron is what a job sees: little, and nothing of the daemon's.
func jobEnviron(o *wire.Order, a *account) ([]string, error) {
	lang := os.Getenv("LANG")
	if lang == "" {
		lang = "C.UTF-8"
	}
	env := map[string]string{
		"PATH": jobPath, "HOME": a.home, "USER": a.name, "LOGNAME": a.name, "SHELL": a.shell, "LANG": lang,
	}
	for k, v := range o.Env {
		if k == "" || strings.ContainsAny(k, "=\x00") || strings.ContainsRune(v, 0) {
			return nil, fmt.Errorf("cannot set the job's environment: %q is no variable", k)
		}
		env[k] = v
	}
	env["SP_JOB_NAME"], env["SP_JOB_INSTANCE"], env["SP_MACHINE_ID"], env["SP_TASK"] = o.Job, o.Run, o.Machine, o.Task
	list := make([]string, 0, len(env))
	for k, v := range env {
		list = append(list, k+"="+v)
	}
	return list, nil
}

// park starts the job's shell at the gate: own session, user, groups and
// directory changed, everything default that the wrapper may have inherited
// otherwise.
func park(o *wire.Order, a *account, lock *jobLock, stdout, stderr *os.File) (*parked, error) {
	env, err := jobEnviron(o, a)
	if err != nil {
		return nil, err
	}
	if strings.ContainsRune(o.Command, 0) {
		return nil, errors.New("cannot start: the command holds a NUL byte")
	}
	if strings.ContainsRune(o.Cwd, 0) || o.Cwd != "" && !filepath.IsAbs(o.Cwd) {
		return nil, fmt.Errorf("cannot start in %q: not an absolute path", o.Cwd)
	}
	null, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
	if err != nil {
		return nil, fmt.Errorf("cannot start: %w", err)
	}
	defer null.Close()
	gateRead, gateWrite, err := os.Pipe()
	if err != nil {
		return nil, fmt.Errorf("cannot start: cannot make a pipe: %w", err)
	}
	defer gateRead.Close()
	files := []*os.File{null, null, null, gateRead}
	for i, f := range []*os.File{stdout, stderr} {
		if f == nil {
			continue
		}
		files[i+1] = f
		if a.change {
			_ = f.Chown(int(a.uid), int(a.gid)) // else `echo >/dev/stderr` is refused to the user
		}
	}
	pid, err := forkShell(o, a, env, files, lock.inherited())
	if err != nil {
		gateWrite.Close()
		return nil, whyNotStarted(o, a, err)
	}
	return &parked{pid: pid, gate: gateWrite}, nil
}

func forkShell(o *wire.Order, a *account, env []string, files []*os.File, lock *os.File) (int, error) {
	fds := make([]uintptr, len(files))
	for i, f := range files {
		fds[i] = f.Fd()
		_ = syscall.SetNonblock(int(fds[i]), false) // the job must block where the wrapper polls
	}
	if lock != nil {
		for len(fds) < lockFD {
			fds = append(fds, ^uintptr(0)) // nothing there
		}
		fds = append(fds, lock.Fd())
	}
	// Descriptors that we inherited ourselves must not reach the job.
	_ = unix.CloseRange(3, 1<<31-1, unix.CLOSE_RANGE_CLOEXEC)
	// Signals that we were started with ignored would stay ignored in the job:
	// while they are caught here, exec puts them back to their defaults.
	defer catchIgnored(syscall.SIGHUP, syscall.SIGINT, syscall.SIGPIPE)()
	script := gateScript
	if strings.HasPrefix(o.Command, "-") || strings.HasPrefix(o.Command, "+") {
		script = gateScriptDash
	}
	pid, err := syscall.ForkExec(shell, []string{"sh", "-c", script, "sh", o.Command}, &syscall.ProcAttr{
		Dir: o.Cwd, Env: env, Files: fds,
		Sys: &syscall.SysProcAttr{Setsid: true, Credential: a.credential()},
	})
	runtime.KeepAlive(files)
	runtime.KeepAlive(lock)
	return pid, err
}

// catchIgnored catches signals until undone; those that were ignored are so again.
func catchIgnored(signals ...os.Signal) (undo func()) {
	var ignored []os.Signal
	for _, s := range signals {
		if signal.Ignored(s) {
			ignored = append(ignored, s)
		}
	}
	caught := make(chan os.Signal, 1)
	signal.Notify(caught, signals...)
	return func() {
		signal.Stop(caught)
		if len(ignored) > 0 {
			signal.Ignore(ignored...)
		}
	}
}

// whyNotStarted finds the words for an error number that may be of several
// steps' making.
func whyNotStarted(o *wire.Order, a *account, err error) error {
	if _, e := os.Stat(shell); e != nil {
		return fmt.Errorf("cannot start: cannot run %s: %w", shell, unwrapPath(e))
	}
	if o.Cwd != "" {
		info, e := os.Stat(o.Cwd)
		switch {
		case e != nil:
			return fmt.Errorf("cannot start in %s: %w", o.Cwd, unwrapPath(e))
		case !info.IsDir():
			return fmt.Errorf("cannot start in %s: not a directory", o.Cwd)
		case errors.Is(err, syscall.EACCES):
			return fmt.Errorf("cannot start in %s: user %s may not enter it", o.Cwd, a.name)
		}
	}
	switch {
	case errors.Is(err, syscall.E2BIG):
		return errors.New("cannot start: the command or its environment is longer than Linux takes (128 KiB each)")
	case errors.Is(err, syscall.EAGAIN):
		return fmt.Errorf("cannot start: the limit of processes of user %s is reached", a.name)
	case errors.Is(err, syscall.EPERM) && a.change:
		return fmt.Errorf("cannot run as user %s: the wrapper lacks the right to change users", a.name)
	}
	return fmt.Errorf("cannot start: %w", err)
}

const (
	brandBit     = 1 << 62
	wrapperBrand = brandBit | 1<<61 // a wrapper's own; those of tasks lack the second bit
	brandRandom  = 1<<61 - 1
	brandSmaller = 1 << 40 // a limit below this leaves too few numbers to be told apart by
)

// brandProcess sets RLIMIT_RSS, which does nothing on Linux but is inherited over
// everything, to a number that no other process has.
func brandProcess(pid int) (uint64, error) {
	var word [8]byte
	if _, err := rand.Read(word[:]); err != nil {
		return 0, err
	}
	random := binary.NativeEndian.Uint64(word[:])
	brand := brandBit | random&brandRandom
	err := unix.Prlimit(pid, unix.RLIMIT_RSS, &unix.Rlimit{Cur: brand, Max: brand}, nil)
	if err == nil {
		return brand, nil
	}
	var inherited unix.Rlimit
	if e := unix.Prlimit(pid, unix.RLIMIT_RSS, nil, &inherited); e != nil {
		return 0, err
	}
	if inherited.Max < brandSmaller {
		return 0, fmt.Errorf("RLIMIT_RSS is limited to %d", inherited.Max)
	}
	half := inherited.Max / 2
	brand = half + random%(half-1)
	return brand, unix.Prlimit(pid, unix.RLIMIT_RSS, &unix.Rlimit{Cur: brand, Max: brand}, nil)
}

// guardMemory makes the job go before the wrapper when memory runs out. Where it
// is not permitted, nothing is lost but that.
func guardMemory(pid int) {
	const wrapperScore, userRaise, maxScore = -500, 200, 1000
	jobFile := fmt.Sprintf("/proc/%d/oom_score_adj", pid)
	const ownFile = "/proc/self/oom_score_adj"
	if os.Geteuid() == 0 {
		_ = os.WriteFile(jobFile, []byte("0"), 0)
		if readScore(ownFile) > wrapperScore {
			_ = os.WriteFile(ownFile, []byte(strconv.Itoa(wrapperScore)), 0)
		}
		return
	}
	raised := min(readScore(ownFile)+userRaise, maxScore)
	_ = os.WriteFile(jobFile, []byte(strconv.Itoa(raised)), 0)
}

func readScore(path string) int {
	text, err := os.ReadFile(path)
	if err != nil {
		return 0
	}
	n, _ := strconv.Atoi(strings.TrimSpace(string(text)))
	return n
}
