package wrapper

import (
	"bufio"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// taskCgroup is the cgroup v2 of one task: no controllers, only a place where
// nothing gets out of without the right to. Nil means that there is none.
type taskCgroup struct {
	dir string
}

const (
	cgroupPrefix   = "saltpeter-"
	cgroupMaxDepth = 16 // of what a job may have made below its own
)

// newTaskCgroup makes a child of the wrapper's own cgroup, and clears away the
// ones that dead wrappers left there.
func newTaskCgroup(wrapperStart uint64, task string) (*taskCgroup, error) {
	mountinfo, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return nil, err
	}
	own, err := os.ReadFile("/proc/self/cgroup")
	if err != nil {
		return nil, err
	}
	parent, err := ownCgroup(string(mountinfo), string(own))
	if err != nil {
		return nil, err
	}
	// Only the hierarchy's root has no events file: a task's cgroup there would
	// lie beside what systemd or a container manager believes to own.
	switch _, err := os.Stat(filepath.Join(parent, "cgroup.events")); {
	case errors.Is(err, os.ErrNotExist):
		return nil, errors.New("the wrapper sits at the root of the hierarchy")
	case err != nil:
		return nil, err
	}
	removeDeadCgroups(parent)
	c := &taskCgroup{dir: cgroupPath(parent, procKey{os.Getpid(), wrapperStart}, task)}
	if err := os.Mkdir(c.dir, 0o755); err != nil {
		return nil, err
	}
	return c, nil
}

// cgroupPath tells in the name whose cgroup it is, so that the next start knows
// which are dead. Of the task it keeps what is harmless in a file name.
func cgroupPath(parent string, wrapper procKey, task string) string {
	keep := func(c rune) rune {
		if c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' {
			return c
		}
		return -1
	}
	name := fmt.Sprintf("%s%d-%d-%s", cgroupPrefix, wrapper.pid, wrapper.start, strings.Map(keep, task[:min(len(task), 16)]))
	return filepath.Join(parent, name)
}

// ownCgroup finds the directory of this process's cgroup v2.
func ownCgroup(mountinfo, cgroup string) (string, error) {
	path, found := "", false
	for line := range strings.SplitSeq(cgroup, "\n") {
		if p, ok := strings.CutPrefix(line, "0::"); ok {
			path, found = p, true
		}
	}
	if !found {
		return "", errors.New("the kernel has no cgroup v2")
	}
	for line := range strings.SplitSeq(mountinfo, "\n") {
		m, ok := parseMount(line)
		if !ok || m.fstype != "cgroup2" {
			continue
		}
		below, ok := strings.CutPrefix(path, strings.TrimSuffix(m.root, "/"))
		if ok && (below == "" || below[0] == '/') && !strings.Contains(below, "/..") {
			return filepath.Join(m.point, below), nil
		}
	}
	return "", errors.New("cgroup v2 is not mounted where the wrapper's own can be seen")
}

type mount struct{ root, point, fstype, super string }

// parseMount reads one line of mountinfo: optional fields end at a lone dash.
func parseMount(line string) (m mount, ok bool) {
	before, after, ok := strings.Cut(line, " - ")
	if !ok {
		return m, false
	}
	front, back := strings.Fields(before), strings.Fields(after)
	if len(front) < 5 || len(back) < 1 {
		return m, false
	}
	m = mount{root: unescapeMount(front[3]), point: unescapeMount(front[4]), fstype: back[0]}
	if len(back) > 2 {
		m.super = back[2]
	}
	return m, true
}

func unescapeMount(s string) string {
	if !strings.Contains(s, `\`) {
		return s // nearly always, and a replacer costs more than all the rest of a start's reading
	}
	return strings.NewReplacer(`\040`, " ", `\011`, "\t", `\012`, "\n", `\134`, `\`).Replace(s)
}

// removeDeadCgroups removes empty cgroups of our naming whose wrapper is gone. A
// living wrapper's may be empty for an instant: it is left alone.
func removeDeadCgroups(parent string) {
	entries, err := os.ReadDir(parent)
	if err != nil {
		return
	}
	r := newProcReader()
	for _, entry := range entries {
		rest, ok := strings.CutPrefix(entry.Name(), cgroupPrefix)
		if !ok || !entry.IsDir() {
			continue
		}
		parts := strings.SplitN(rest, "-", 3)
		if len(parts) < 3 {
			continue
		}
		pid, err := strconv.Atoi(parts[0])
		start, err2 := strconv.ParseUint(parts[1], 10, 64)
		if err != nil || err2 != nil {
			continue
		}
		if p, ok := r.stat(pid); ok && p.start == start {
			continue
		}
		(&taskCgroup{dir: filepath.Join(parent, entry.Name())}).remove()
	}
}

// each calls f for the cgroup and all below it, the deepest first.
func (c *taskCgroup) each(f func(dir string)) {
	if c != nil {
		eachCgroup(c.dir, cgroupMaxDepth, f)
	}
}

func eachCgroup(dir string, depth int, f func(dir string)) {
	if depth > 0 {
		entries, err := os.ReadDir(dir)
		if err == nil {
			for _, e := range entries {
				if e.IsDir() {
					eachCgroup(filepath.Join(dir, e.Name()), depth-1, f)
				}
			}
		}
	}
	f(dir)
}

func (c *taskCgroup) write(file, value string) error {
	return os.WriteFile(filepath.Join(c.dir, file), []byte(value), 0)
}

// enter moves a process that has no children yet into the cgroup.
func (c *taskCgroup) enter(pid int) error { return c.write("cgroup.procs", strconv.Itoa(pid)) }

// kill sends SIGKILL to everything in it, forks under way included.
func (c *taskCgroup) kill() error { return c.write("cgroup.kill", "1") }

// freeze stops everything in it. Frozen processes still die of SIGKILL.
func (c *taskCgroup) freeze() error { return c.write("cgroup.freeze", "1") }

// thaw lets it run again, with what the job itself may have frozen below.
func (c *taskCgroup) thaw() {
	c.each(func(dir string) { _ = os.WriteFile(filepath.Join(dir, "cgroup.freeze"), []byte("0"), 0) })
}

// event reads one key of cgroup.events.
func (c *taskCgroup) event(key string) (value string) {
	f, err := os.Open(filepath.Join(c.dir, "cgroup.events"))
	if err != nil {
		return ""
	}
	defer f.Close()
	for lines := bufio.NewScanner(f); lines.Scan(); {
		if v, ok := strings.CutPrefix(lines.Text(), key+" "); ok {
			value = v
		}
	}
	return value
}

// waitFrozen waits a bounded time until everything in it stands still.
func (c *taskCgroup) waitFrozen(limit time.Duration) bool {
	for wait, end := time.Millisecond, time.Now().Add(limit); ; wait = min(2*wait, 20*time.Millisecond) {
		if c.event("frozen") == "1" {
			return true
		}
		if time.Now().After(end) {
			return false
		}
		time.Sleep(wait)
	}
}

// procs appends the processes in it and below.
func (c *taskCgroup) procs(r *procReader, out []int) []int {
	c.each(func(dir string) {
		list, err := r.read(filepath.Join(dir, "cgroup.procs"))
		if err != nil {
			return // removed meanwhile, or threaded: then its processes are listed above it
		}
		for line := range strings.SplitSeq(string(list), "\n") {
			if pid, err := strconv.Atoi(line); err == nil && pid > 0 {
				out = append(out, pid)
			}
		}
	})
	return out
}

// remove deletes it if nobody is in it; the kernel refuses otherwise.
func (c *taskCgroup) remove() {
	c.each(func(dir string) { _ = syscall.Rmdir(dir) })
}

// inFrozenV1 says whether a process sits in a frozen cgroup of the old freezer,
// which not even SIGKILL gets through.
func inFrozenV1(r *procReader, pid int) bool {
	list, err := r.read(r.procPath(pid, "/cgroup"))
	if err != nil {
		return false
	}
	for line := range strings.SplitSeq(string(list), "\n") {
		parts := strings.SplitN(line, ":", 3)
		if len(parts) != 3 || parts[1] != "freezer" || parts[2] == "/" {
			continue
		}
		mountinfo, err := os.ReadFile("/proc/self/mountinfo")
		if err != nil {
			return false
		}
		return frozenV1(string(mountinfo), parts[2])
	}
	return false
}

func frozenV1(mountinfo, path string) bool {
	for line := range strings.SplitSeq(mountinfo, "\n") {
		m, ok := parseMount(line)
		if !ok || m.fstype != "cgroup" || !strings.Contains(","+m.super+",", ",freezer,") {
			continue
		}
		state, err := os.ReadFile(filepath.Join(m.point, strings.TrimPrefix(path, strings.TrimSuffix(m.root, "/")), "freezer.state"))
		return err == nil && strings.HasPrefix(string(state), "FR")
	}
	return false
}
