package cmd

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"saltpeter/runner/ledger"
	"saltpeter/testdata/lab"
)

type networkKey struct{}

// network is the server's and its machines' of one script.
type network struct {
	t          *testing.T
	server     *lab.Host
	machines   map[string]*farMachine
	names      []string
	bystanders []int
}

type farMachine struct {
	host *lab.Host
	sshd *lab.Server
}

func networkOf(ts *testscript.TestScript) *network { return ts.Value(networkKey{}).(*network) }

func (n *network) machine(ts *testscript.TestScript, name string) *farMachine {
	m := n.machines[name]
	if m == nil {
		ts.Fatalf("there is no machine %q", name)
	}
	return m
}

func (n *network) host(ts *testscript.TestScript, name string) *lab.Host {
	if name == "server" {
		return n.server
	}
	return n.machine(ts, name).host
}

// networkMachines makes the network, and what the server needs to log in.
func networkMachines(ts *testscript.TestScript, _ bool, names []string) {
	n := networkOf(ts)
	wire := lab.NewNet(n.t)
	n.server = wire.Host("server")
	n.machines, n.names = map[string]*farMachine{}, names
	dir := filepath.Join(ts.Getenv("WORK"), "ssh")
	ts.Check(os.MkdirAll(dir, 0o700))
	var known bytes.Buffer
	var key []byte
	for _, name := range names {
		m := &farMachine{host: wire.Host(name)}
		m.sshd = lab.SSHD(n.t, lab.SSHDOptions{Netns: m.host.Netns, Address: m.host.Addr})
		n.machines[name] = m
		if key == nil {
			var err error
			key, err = os.ReadFile(m.sshd.Key + ".pub")
			ts.Check(err)
			private, err := os.ReadFile(m.sshd.Key)
			ts.Check(err)
			ts.Check(os.WriteFile(filepath.Join(dir, "key"), private, 0o600))
		}
		ts.Check(m.sshd.Authorize("root", string(bytes.TrimSpace(key))))
		ts.Check(m.sshd.Authorize("spuser", string(bytes.TrimSpace(key))))
		host, err := os.ReadFile(m.sshd.HostKeys[0] + ".pub")
		ts.Check(err)
		fmt.Fprintf(&known, "%s %s\n", m.host.Addr, bytes.TrimSpace(host))
	}
	ts.Check(os.WriteFile(filepath.Join(dir, "known_hosts"), known.Bytes(), 0o600))
	files, err := filepath.Glob(filepath.Join(ts.Getenv("WORK"), "jobs", "*"))
	ts.Check(err)
	for _, file := range files {
		text, err := os.ReadFile(file)
		ts.Check(err)
		ts.Check(os.WriteFile(file, bytes.ReplaceAll(text, []byte("$WORK"), []byte(ts.Getenv("WORK"))), 0o644))
	}
	daemonOf(ts).at = n.server
}

func networkFirewall(ts *testscript.TestScript, _ bool, args []string) {
	if len(args) < 3 {
		ts.Fatalf("usage: firewall HOST in|out RULE…")
	}
	ts.Check(networkOf(ts).host(ts, args[0]).Rule(args[1], strings.Join(args[2:], " ")))
}

func networkHeal(ts *testscript.TestScript, _ bool, args []string) {
	ts.Check(networkOf(ts).host(ts, args[0]).Heal())
}

func networkCable(in bool) func(*testscript.TestScript, bool, []string) {
	return func(ts *testscript.TestScript, _ bool, args []string) {
		ts.Check(networkOf(ts).host(ts, args[0]).Link(in))
	}
}

func networkSSHD(ts *testscript.TestScript, _ bool, args []string) {
	s := networkOf(ts).machine(ts, args[0]).sshd
	switch args[1] {
	case "stop":
		s.Stop()
	case "start":
		ts.Check(s.Start())
	case "drop":
		s.Drop()
	default:
		ts.Fatalf("sshd: stop, start or drop")
	}
}

func networkSlow(ts *testscript.TestScript, _ bool, args []string) {
	n := networkOf(ts)
	delay, err := time.ParseDuration(args[2])
	ts.Check(err)
	m := n.machine(ts, args[1])
	lab.Delay(n.t, n.server, n.server.Addr+":"+args[0], m.sshd.Addr, delay)
	host, err := os.ReadFile(m.sshd.HostKeys[0] + ".pub")
	ts.Check(err)
	known, err := os.OpenFile(filepath.Join(ts.Getenv("WORK"), "ssh", "known_hosts"), os.O_APPEND|os.O_WRONLY, 0)
	ts.Check(err)
	defer known.Close()
	fmt.Fprintf(known, "[%s]:%s %s\n", n.server.Addr, args[0], bytes.TrimSpace(host))
}

// command runs something on a machine, as root, in its world.
func (m *farMachine) command(name string, args ...string) *exec.Cmd {
	return m.sshd.World.Command(m.host.Netns, name, args...)
}

func networkOn(ts *testscript.TestScript, neg bool, args []string) {
	cmd := networkOf(ts).machine(ts, args[0]).command(args[1], args[2:]...)
	out, err := cmd.CombinedOutput()
	fmt.Fprintf(ts.Stdout(), "%s", out)
	if (err != nil) != neg {
		ts.Fatalf("on %s: %v: %s", strings.Join(args, " "), err, out)
	}
}

// networkReboot makes a machine look as if it had started anew. Its processes stay:
// they are the strangers that have got the old numbers.
func networkReboot(ts *testscript.TestScript, _ bool, args []string) {
	m := networkOf(ts).machine(ts, args[0])
	out, err := m.command("sh", "-c", `cat /proc/sys/kernel/random/uuid >/run/boot_id && mount --bind /run/boot_id /proc/sys/kernel/random/boot_id`).CombinedOutput()
	if err != nil {
		ts.Fatalf("reboot: %v: %s", err, out)
	}
}

func networkBystander(ts *testscript.TestScript, _ bool, args []string) {
	n := networkOf(ts)
	cmd := n.machine(ts, args[0]).command("sleep", "9999")
	ts.Check(cmd.Start())
	n.bystanders = append(n.bystanders, cmd.Process.Pid) // nsenter becomes it
	n.t.Cleanup(func() {                                 // before its world, which kills it
		cmd.Process.Kill()
		cmd.Wait()
	})
}

func networkUntouched(ts *testscript.TestScript, _ bool, _ []string) {
	n := networkOf(ts)
	if len(n.bystanders) == 0 {
		ts.Fatalf("there is no bystander")
	}
	for _, pid := range n.bystanders {
		stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
		if err != nil || !bytes.Contains(stat, []byte("(sleep) S ")) {
			ts.Fatalf("bystander %d is not as it was: %q %v", pid, stat, err)
		}
	}
}

// networkStrike signals the wrapper of a job's newest run on a machine, by the
// recorded identity, if that is still who it was.
func networkStrike(ts *testscript.TestScript, _ bool, args []string) {
	machine, job := args[0], args[2]
	task := newestTask(ts, job, machine)
	id := task.Identity
	if id == nil || !sameProcess(id.WrapperPID, id.WrapperStartTicks) {
		ts.Fatalf("no wrapper of %s is known on %s: %+v", job, machine, id)
	}
	n, err := strconv.Atoi(args[1])
	ts.Check(err)
	ts.Check(syscall.Kill(id.WrapperPID, syscall.Signal(n)))
	ts.Defer(func() { // what was stopped must go on, or it could not end
		if n == int(syscall.SIGSTOP) && sameProcess(id.WrapperPID, id.WrapperStartTicks) {
			syscall.Kill(id.WrapperPID, syscall.SIGCONT)
		}
	})
}

func newestTask(ts *testscript.TestScript, job, machine string) ledger.Task {
	out, err := daemonOf(ts).saltpeter("history", job, "-n", "1", "-o", "json").Output()
	ts.Check(err)
	var line struct{ Run ledger.Run }
	if err := json.NewDecoder(bytes.NewReader(out)).Decode(&line); err != nil {
		ts.Fatalf("history said %s: %v", out, err)
	}
	for _, t := range line.Run.Tasks {
		if t.Machine == machine {
			return t
		}
	}
	ts.Fatalf("%s has no task on %s: %s", job, machine, out)
	return ledger.Task{}
}

func sameProcess(pid int, startTicks uint64) bool {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil || pid <= 1 {
		return false
	}
	fields := strings.Fields(string(stat[bytes.LastIndexByte(stat, ')')+1:]))
	return len(fields) > 19 && fields[19] == fmt.Sprint(startTicks)
}

// networkProcess waits until a process of the machine has the text among its
// arguments, or none has.
func networkProcess(wanted bool) func(*testscript.TestScript, bool, []string) {
	return func(ts *testscript.TestScript, _ bool, args []string) {
		m := networkOf(ts).machine(ts, args[0])
		deadline := time.Now().Add(scriptPatience)
		for {
			found := 0
			for _, pid := range m.sshd.World.Processes() {
				line, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
				if err == nil && strings.Contains(strings.ReplaceAll(string(line), "\x00", " "), args[1]) {
					found = pid
				}
			}
			if (found != 0) == wanted {
				return
			}
			if time.Now().After(deadline) {
				ts.Fatalf("on %s: process with %q: %d; the server's log:\n%s", args[0], args[1], found, daemonOf(ts).tail())
			}
			time.Sleep(20 * time.Millisecond)
		}
	}
}

// networkExits runs a command that has to end with a code.
func networkExits(ts *testscript.TestScript, _ bool, args []string) {
	want, err := strconv.Atoi(args[0])
	ts.Check(err)
	began := time.Now()
	err = ts.Exec(args[1], args[2:]...)
	code := 0
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		code = exit.ExitCode()
	} else {
		ts.Check(err)
	}
	ts.Logf("[exit code %d after %s]", code, time.Since(began).Round(10*time.Millisecond))
	if code != want {
		ts.Fatalf("exit code %d, want %d", code, want)
	}
}
