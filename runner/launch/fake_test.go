package launch

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"saltpeter/wrapper"
	"saltpeter/wsx/wire"
)

// fakeWrapper does what a wrapper does as far as this room can see it: it takes
// the order, starts the command as a child of a subreaper, prints who that is and
// stays. order.Env["FAKE"] makes it misbehave.
func fakeWrapper() {
	if slices.Contains(os.Args, "--version") {
		fmt.Printf("%s1.2.3\n%s1\n", wire.FirstLine, wire.OrdersLine)
		os.Exit(0)
	}
	if slices.Contains(os.Args, "--probe") {
		os.Exit(wrapper.Main(os.Args[1:], os.Environ(), os.Stdin, os.Stdout, os.Stderr))
	}
	signal.Ignore(syscall.SIGHUP, syscall.SIGPIPE)
	var order wire.Order
	text, err := io.ReadAll(os.Stdin)
	if err == nil {
		err = json.Unmarshal(text, &order)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "cannot read the order:", err)
		os.Exit(2)
	}
	switch order.Env["FAKE"] {
	case "real":
		signal.Reset(syscall.SIGHUP, syscall.SIGPIPE)
		os.Exit(wrapper.Main(os.Args[1:], os.Environ(), bytes.NewReader(text), os.Stdout, os.Stderr))
	case "refuse":
		fmt.Fprintln(os.Stderr, "cannot start: no such user")
		os.Exit(255)
	case "silent-exit":
		os.Exit(1)
	case "crash":
		_ = syscall.Kill(os.Getpid(), syscall.SIGKILL)
	case "zero":
		fmt.Println("nothing to see")
		os.Exit(0)
	case "mute":
		hang(&order)
	case "babble":
		for {
			if _, err := fmt.Println(strings.Repeat("x", 100)); err != nil {
				hang(&order)
			}
		}
	case "complain":
		fmt.Fprint(os.Stderr, strings.Repeat("woe ", 100_000))
		os.Exit(3)
	case "garbage":
		fmt.Println(wire.FirstLine + "9.9\n{\"pid\": \"one\"}")
		hang(&order)
	}
	if !slices.Contains(os.Args, "--foreground") && !slices.Contains(os.Args, "--detached") {
		detachFake(text)
	}
	runFake(&order)
}

// detachFake starts the wrapper again, on its own, and passes on what it says until
// it lets go of its output.
func detachFake(order []byte) {
	exe, _ := os.Executable()
	cmd := exec.Command(exe, "wrap", "--detached")
	cmd.Stdin = bytes.NewReader(order)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	out, err := cmd.StdoutPipe()
	if err == nil {
		err = cmd.Start()
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(255)
	}
	_, _ = io.Copy(os.Stdout, out)
	os.Exit(0)
}

// hang stays for as long as the test lets it: until the spool's folder is gone.
func hang(order *wire.Order) {
	for {
		if _, err := os.Stat(order.SpoolDir); err != nil {
			os.Exit(0)
		}
		time.Sleep(20 * time.Millisecond)
	}
}

func runFake(order *wire.Order) {
	_ = unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
	brand := order.Env["BRAND"]
	exe, _ := os.Executable()
	cmd := exec.Command(exe, "branded", brand, order.Command)
	cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "SP_JOB_INSTANCE=" + order.Run, "SP_TASK=" + order.Task}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := cmd.Start(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(255)
	}
	id := identityOf(cmd.Process.Pid)
	id.Task, id.Brand = order.Task, brand
	self, _ := lookAt(os.Getpid())
	id.WrapperPID, id.WrapperStartTicks = self.pid, self.start
	if order.SpoolDir != "" {
		id.Spool, id.EndFile = order.SpoolDir, order.SpoolDir+"/end.json"
	}
	line, _ := json.Marshal(id)
	fmt.Printf("a login says hello\n%s%s\n%s\n", wire.FirstLine, "1.2.3", line)
	if null, err := os.OpenFile(os.DevNull, os.O_RDWR, 0); err == nil {
		for fd := range 2 {
			_ = unix.Dup3(int(null.Fd()), fd, 0)
		}
	}
	var status syscall.WaitStatus
	for {
		pid, err := syscall.Wait4(-1, &status, 0, nil)
		if err == syscall.ECHILD {
			os.Exit(0)
		}
		if pid == id.PID && id.EndFile != "" {
			end := wire.EndRecord{Job: order.Job, Run: order.Run, Task: order.Task, RetCode: status.ExitStatus(), Ended: wire.FormatTime(time.Now()), Identity: &id}
			data, _ := json.Marshal(end)
			_ = os.WriteFile(id.EndFile, data, 0o600)
		}
	}
}

// reap runs a program and collects its orphans, which init may be slow to do: a
// breeder's would fill the machine's table of processes.
func reap(args []string) {
	_ = unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
	exe, _ := os.Executable()
	cmd := exec.Command(exe, args...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	if err := cmd.Start(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(255)
	}
	for {
		if _, err := syscall.Wait4(-1, nil, 0, nil); err == syscall.ECHILD {
			os.Exit(0)
		}
	}
}

// branded takes the brand and becomes the command's shell.
func branded(brand, command string) {
	if brand != "" {
		n, err := strconv.ParseUint(brand, 10, 64)
		if err == nil {
			err = unix.Setrlimit(unix.RLIMIT_RSS, &unix.Rlimit{Cur: n, Max: n})
		}
		if err != nil {
			fmt.Fprintln(os.Stderr, "cannot take the brand:", err)
			os.Exit(255)
		}
	}
	_ = syscall.Exec("/bin/sh", []string{"sh", "-c", command}, os.Environ())
	os.Exit(127)
}

// --- the oracle: another reader of /proc, that shares nothing with kill.sh ---

type proc struct {
	pid, ppid, session, threads int
	state, brand, comm          string
	start                       uint64
}

func (p proc) alive() bool { return !(strings.Contains("ZXx", p.state) && p.threads <= 1) }

func lookAt(pid int) (proc, bool) {
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return proc{}, false
	}
	text := string(data)
	at := strings.LastIndexByte(text, ')')
	f := strings.Fields(text[at+1:])
	num := func(i int) int { n, _ := strconv.Atoi(f[i-3]); return n }
	start, _ := strconv.ParseUint(f[22-3], 10, 64)
	return proc{pid: pid, ppid: num(4), session: num(6), threads: num(20), state: f[0], brand: f[25-3], start: start,
		comm: text[strings.IndexByte(text, '(')+1 : at]}, true
}

func everybody() []proc {
	var all []proc
	entries, _ := os.ReadDir("/proc")
	for _, e := range entries {
		if pid, err := strconv.Atoi(e.Name()); err == nil {
			if p, ok := lookAt(pid); ok {
				all = append(all, p)
			}
		}
	}
	return all
}

// identityOf is the identity of a running process, as a wrapper would write it.
func identityOf(pid int) wire.Identity {
	p, _ := lookAt(pid)
	boot, _ := os.ReadFile("/proc/sys/kernel/random/boot_id")
	ns, _ := os.Readlink("/proc/self/ns/pid")
	return wire.Identity{BootID: strings.TrimSpace(string(boot)), PID: pid, StartTicks: p.start, Session: p.session, PIDNamespace: ns, UID: os.Getuid()}
}
