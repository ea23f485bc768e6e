package wrapper

import (
	"os"
	"os/exec"
	"testing"
)

// statLine is a line of stat with a name of the process's choosing.
func statLine(name, state, threads string) string {
	return "4711 (" + name + ") " + state + " 1 4711 4711 0 -1 4194560 100 0 0 0 1 2 -3 4 20 0 " + threads +
		" 0 123456 1000 20 6917529027641081857 1 1 0 0 0 0 0 0 0 0 0 0 17 0 0 0 0 0 0\n"
}

func TestParseStat(t *testing.T) {
	for _, name := range []string{"sleep", "", ") Z 1 1 1", "a b", "(((", "x\ny) R (", "\x00\xff)"} {
		p, ok := parseStat([]byte(statLine(name, "S", "2")))
		want := proc{procKey: procKey{pid: 4711, start: 123456}, ppid: 1, pgrp: 4711, sid: 4711, threads: 2, state: 'S', rss: 6917529027641081857}
		if !ok || p != want {
			t.Errorf("name %q: %+v, %v", name, p, ok)
		}
	}
	for line, want := range map[string]bool{
		statLine("x", "Z", "1"): false, statLine("x", "Z", "3"): true, statLine("x", "X", "0"): false,
		statLine("x", "D", "1"): true, statLine("x", "T", "1"): true,
	} {
		if p, ok := parseStat([]byte(line)); !ok || p.alive() != want {
			t.Errorf("%q: alive %v, want %v", line, p.alive(), want)
		}
	}
	for _, bad := range []string{"", "4711", "(x) S", "4711 (x)", "4711 (x) S 1 2", "x (x) " + statLine("", "S", "1")[8:], "0" + statLine("x", "S", "1")[4:]} {
		if p, ok := parseStat([]byte(bad)); ok {
			t.Errorf("%q is taken for %+v", bad, p)
		}
	}
}

// FuzzParseStat: whatever a name holds, it changes no number behind it.
func FuzzParseStat(f *testing.F) {
	f.Add("sleep", "4711 (sleep) S 1")
	f.Add(") R 1 2 3 (", "((")
	f.Add("\n", "1 () ")
	f.Fuzz(func(t *testing.T, name, line string) {
		parseStat([]byte(line)) // must not panic
		p, ok := parseStat([]byte(statLine(name, "S", "1")))
		if !ok || p.pid != 4711 || p.ppid != 1 || p.start != 123456 || p.rss != 6917529027641081857 {
			t.Errorf("name %q: %+v, %v", name, p, ok)
		}
	})
}

func TestProcReader(t *testing.T) {
	r := newProcReader()
	self, ok := r.stat(os.Getpid())
	if !ok || self.ppid != os.Getppid() || !self.alive() || self.start == 0 || self.start > bootTicks() {
		t.Errorf("self is %+v, %v at %d", self, ok, bootTicks())
	}
	cmd := exec.Command("sleep", "300")
	cmd.Env = []string{"SP_TASK=x-1", "LAST=1"}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = cmd.Process.Kill(); _ = cmd.Wait() }()
	pid := cmd.Process.Pid
	if hasChildrenFiles() && !contains(r.children(os.Getpid(), nil), pid) {
		t.Errorf("child %d is not listed", pid)
	}
	if all, err := r.all(nil); err != nil || !containsProc(all, pid) {
		t.Errorf("child %d is not among all: %v", pid, err)
	}
	for entry, want := range map[string]bool{"SP_TASK=x-1": true, "LAST=1": true, "SP_TASK=x-11": false, "SP_TASK=x": false, "": false} {
		if got := r.hasCookie(pid, entry); got != want {
			t.Errorf("cookie %q: %v, want %v", entry, got, want)
		}
	}
	if r.command(pid) != "sleep" {
		t.Errorf("command is %q", r.command(pid))
	}
	// A number that has another start time is another process.
	p, _ := r.stat(pid)
	if err := r.send(procKey{pid: pid, start: p.start + 1}, 9); err == nil {
		t.Error("a stranger with the same number was signalled")
	}
	if p, ok := r.stat(pid); !ok || !p.alive() {
		t.Error("it was hit")
	}
	if last, limit := r.lastPID(); last <= 0 || limit < last {
		t.Errorf("last PID is %d of %d", last, limit)
	}
}

func contains(pids []int, pid int) bool {
	for _, p := range pids {
		if p == pid {
			return true
		}
	}
	return false
}

func containsProc(procs []proc, pid int) bool {
	for _, p := range procs {
		if p.pid == pid {
			return true
		}
	}
	return false
}

func TestBornBefore(t *testing.T) {
	k := &killing{ticks: 1000, lastPID: 500, pidMax: 32768}
	at := func(pid int, start uint64) member {
		return member{proc: proc{procKey: procKey{pid: pid, start: start}}}
	}
	for _, c := range []struct {
		m    member
		want bool
	}{
		{at(700, 999), true}, {at(400, 1001), false},
		{at(500, 1000), true}, {at(499, 1000), true}, {at(501, 1000), false},
		{at(32760, 1000), true}, // given out just before the numbers started again
	} {
		if got := k.bornBefore(c.m); got != c.want {
			t.Errorf("%+v: %v, want %v", c.m.procKey, got, c.want)
		}
	}
}

func TestParseSignal(t *testing.T) {
	for text, want := range map[string]string{"TERM": "TERM", "sigint": "INT", "9": "KILL", "SIGUSR1": "USR1"} {
		if name, sig, err := parseSignal(text); err != nil || name != want || sig == 0 {
			t.Errorf("%q: %s %d %v", text, name, sig, err)
		}
	}
	for _, text := range []string{"", "NONSENSE", "0", "-1", "65", "SIG"} {
		if name, _, err := parseSignal(text); err == nil {
			t.Errorf("%q is taken for %s", text, name)
		}
	}
}

func TestPrintable(t *testing.T) {
	if got := printable("a\x1b[31m\n\xffb"); got != "a?[31m??b" {
		t.Errorf("printable is %q", got)
	}
}
