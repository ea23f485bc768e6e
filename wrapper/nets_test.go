package wrapper

import (
	"os"
	"path/filepath"
	"testing"
)

func TestOwnCgroup(t *testing.T) {
	const hybrid = "36 30 0:33 / /sys/fs/cgroup/freezer rw,relatime - cgroup cgroup rw,freezer\n" +
		"40 30 0:37 / /sys/fs/cgroup/unified rw,relatime shared:9 - cgroup2 cgroup2 rw\n"
	for _, c := range []struct{ mountinfo, cgroup, want string }{
		{hybrid, "4:memory:/x\n0::/\n", "/sys/fs/cgroup/unified"},
		{hybrid, "0::/user.slice/a b\n", "/sys/fs/cgroup/unified/user.slice/a b"},
		{"40 30 0:37 /box /sys/fs/cg\\040x rw - cgroup2 none rw\n", "0::/box/job\n", "/sys/fs/cg x/job"},
		{"40 30 0:37 /box /sys/fs/cgroup rw - cgroup2 none rw\n", "0::/boxer\n", ""},
		{"40 30 0:37 / /sys/fs/cgroup rw - cgroup2 none rw\n", "0::/../outside\n", ""},
		{hybrid, "4:memory:/x\n", ""},
		{"", "0::/\n", ""},
		{"nonsense", "0::/\n", ""},
	} {
		got, err := ownCgroup(c.mountinfo, c.cgroup)
		if got != c.want || (err == nil) != (c.want != "") {
			t.Errorf("ownCgroup(%q) = %q, %v; want %q", c.cgroup, got, err, c.want)
		}
	}
}

func FuzzParseMount(f *testing.F) {
	f.Add("40 30 0:37 / /sys/fs/cgroup rw - cgroup2 none rw")
	f.Add(" - ")
	f.Add("1 2 3 4 5 - x")
	f.Fuzz(func(t *testing.T, line string) {
		if m, ok := parseMount(line); ok && m.fstype == "" {
			t.Errorf("%q has a mount without a type", line)
		}
		_, _ = ownCgroup(line, line)
	})
}

// TestRemoveDeadCgroups works on plain directories, which rmdir treats alike.
func TestRemoveDeadCgroups(t *testing.T) {
	dir := t.TempDir()
	self, _ := newProcReader().stat(os.Getpid())
	living := filepath.Base(cgroupPath(dir, self.procKey, "task/../1"))
	for _, name := range []string{living, "saltpeter-1-1-dead", "saltpeter-x-1-odd", "other", "saltpeter-1-1-full/inner"} {
		if err := os.MkdirAll(filepath.Join(dir, name), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(filepath.Join(dir, "saltpeter-1-1-full", "inner", "busy"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	removeDeadCgroups(dir)
	for name, want := range map[string]bool{living: true, "saltpeter-1-1-dead": false, "saltpeter-x-1-odd": true, "other": true, "saltpeter-1-1-full": true} {
		if _, err := os.Stat(filepath.Join(dir, name)); (err == nil) != want {
			t.Errorf("%s: there %v, want %v", name, err == nil, want)
		}
	}
}

// TestSession: the session's number counts only while it can't be a stranger's.
func TestSession(t *testing.T) {
	n := newNets(procKey{pid: 100, start: 5}, "t")
	leader := proc{procKey: procKey{100, 5}, sid: 100, state: 'S', threads: 1}
	child := proc{procKey: procKey{101, 6}, sid: 100, state: 'S', threads: 1}
	grand := proc{procKey: procKey{102, 7}, sid: 100, state: 'S', threads: 1}
	see := func(procs ...proc) bool {
		n.procs = procs
		n.lookAtSession()
		return !n.sessionGone
	}
	if !see(leader, child) {
		t.Error("gone with its leader alive")
	}
	n.mainReaped = true
	if !see(child, grand) || !see(grand) {
		t.Error("gone although one that was known holds the number")
	}
	stranger := proc{procKey: procKey{100, 99}, sid: 100, state: 'S', threads: 1}
	for range 2 {
		if see(stranger) {
			t.Error("a stranger's session is taken for the job's")
		}
	}
}

func TestDescent(t *testing.T) {
	n := newNets(procKey{pid: 100, start: 5}, "t")
	n.self = 50
	for i, p := range [][2]int{{50, 1}, {100, 50}, {101, 100}, {102, 7}, {103, 104}, {104, 103}, {105, 101}} {
		n.procs = append(n.procs, proc{procKey: procKey{pid: p[0]}, ppid: p[1]})
		n.index[p[0]] = i
	}
	want := []bool{false, true, true, false, false, false, true}
	for i, got := range n.descent() {
		if got != want[i] {
			t.Errorf("pid %d: descends %v, want %v", n.procs[i].pid, got, want[i])
		}
	}
}
