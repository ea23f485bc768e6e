package wrapper

import (
	"errors"
	"os"
	"slices"

	"golang.org/x/sys/unix"
)

// nets finds the processes of one task: the union of what descends from the
// wrapper (a subreaper: whoever loses its parent comes back to it), what sits in
// the task's cgroup, carries the brand or the cookie, or is of the main process's
// session. Owned by the engine's goroutine.
type nets struct {
	reader *procReader
	self   int
	main   procKey
	brand  uint64 // 0 = none
	cookie string // SP_TASK=…, compared whole
	cg     *taskCgroup
	walk   bool // the kernel lists children: a tree can be read without reading all of /proc

	timer int // the session of our own thawing timer, which is nobody's member; 0 = none

	// The session's number can't be given to a stranger while the main process
	// is not reaped, or while one of those that we knew in it is still there.
	mainReaped   bool
	sessionGone  bool
	sessionKnown map[procKey]struct{}

	// escaped is set when a member was seen that does not descend from the
	// wrapper, escapedCgroup when one of those was not in the cgroup either:
	// then ECHILD, or an empty cgroup, alone proves nothing.
	escaped, escapedCgroup bool

	procs []proc
	index map[int]int
	pids  []int
}

type member struct {
	proc
	outside bool // found by another net than descent
	inGroup bool // sits in the task's cgroup
}

func newNets(main procKey, task string) *nets {
	return &nets{
		reader: newProcReader(), self: os.Getpid(), main: main, cookie: "SP_TASK=" + task,
		walk: hasChildrenFiles(), index: map[int]int{}, sessionKnown: map[procKey]struct{}{},
	}
}

func living(members []member) (n int) {
	for _, m := range members {
		if m.alive() {
			n++
		}
	}
	return n
}

// tree finds descendants and the cgroup's members: a cheap look, for which the
// rest of the machine need not be read. Zombies are among them.
func (n *nets) tree() []member {
	if !n.walk {
		return n.scan()
	}
	var members []member
	var hidden []int
	seen := map[int]bool{n.self: true}
	queue := n.reader.children(n.self, nil)
	for len(queue) > 0 {
		pid := queue[0]
		queue = queue[1:]
		if seen[pid] {
			continue
		}
		seen[pid] = true
		p, ok := n.reader.stat(pid)
		switch {
		case !ok:
			hidden = append(hidden, pid)
		case n.timer == 0 || p.sid != n.timer:
			members = append(members, member{proc: p})
			if p.alive() {
				queue = n.reader.children(pid, queue)
			}
		}
	}
	members = n.addHidden(members, hidden)
	for _, pid := range n.cg.procs(n.reader, nil) {
		if seen[pid] {
			continue
		}
		// It may have been born after the walk, so this is no escape yet.
		if p, ok := n.reader.stat(pid); ok {
			members = append(members, member{proc: p, inGroup: true})
		}
	}
	return members
}

// scan casts all nets in one pass over /proc.
func (n *nets) scan() []member {
	n.procs, _ = n.reader.all(n.procs[:0])
	return n.haul()
}

// haul sorts the members out of procs.
func (n *nets) haul() []member {
	clear(n.index)
	for i, p := range n.procs {
		n.index[p.pid] = i
	}
	inCgroup := map[int]bool{}
	for _, pid := range n.cg.procs(n.reader, nil) {
		inCgroup[pid] = true
	}
	n.lookAtSession()
	never := n.ancestors()
	descends := n.descent()
	var members []member
	for i, p := range n.procs {
		if never[p.pid] || p.kernel || n.timer != 0 && p.sid == n.timer {
			continue
		}
		m := member{proc: p, outside: !descends[i], inGroup: inCgroup[p.pid]}
		switch {
		case descends[i], inCgroup[p.pid]:
		case n.brand != 0 && p.rss == n.brand:
		case p.sid == n.main.pid && !n.sessionGone:
		case p.start >= n.main.start && p.alive() && n.reader.hasCookie(p.pid, n.cookie):
		default:
			continue
		}
		members = append(members, m)
	}
	n.confirmEscapes(members)
	if !n.walk {
		return members
	}
	var hidden []int
	for _, pid := range n.reader.children(n.self, nil) {
		if _, ok := n.index[pid]; !ok {
			hidden = append(hidden, pid)
		}
	}
	return n.addHidden(members, hidden)
}

// addHidden adds those children of ours that /proc does not let us look at. They
// are taken for alive: a dead one would have been reaped.
func (n *nets) addHidden(members []member, unseen []int) []member {
	for _, pid := range unseen {
		if pid == n.timer || errors.Is(unix.Kill(pid, 0), unix.ESRCH) || !n.isChild(pid) {
			continue
		}
		if _, ok := n.reader.stat(pid); ok {
			continue // born since: the next look has it
		}
		members = append(members, member{proc: proc{procKey: procKey{pid: pid}, ppid: n.self, state: '?', threads: 1}})
	}
	return members
}

// isChild says whether a number is one of our children now.
func (n *nets) isChild(pid int) bool { return slices.Contains(n.reader.children(n.self, nil), pid) }

// confirmEscapes looks again at those that seemed to have no line of descent: a
// parent that died while /proc was being read breaks the line for an instant.
func (n *nets) confirmEscapes(members []member) {
	for i := range members {
		m := &members[i]
		if !m.outside || !m.alive() {
			continue
		}
		for pid, steps := m.pid, 0; steps < 1000; steps++ {
			p, ok := n.reader.stat(pid)
			if !ok {
				break
			}
			if p.ppid == n.self {
				m.outside = false
				break
			}
			if p.ppid <= 1 {
				n.escaped = true
				n.escapedCgroup = n.escapedCgroup || !m.inGroup
				break
			}
			pid = p.ppid
		}
	}
}

// ancestors are the wrapper and everybody above it: never members, whatever they
// carry.
func (n *nets) ancestors() map[int]bool {
	never := map[int]bool{}
	for pid := n.self; pid > 0 && !never[pid]; {
		never[pid] = true
		i, ok := n.index[pid]
		if !ok {
			break
		}
		pid = n.procs[i].ppid
	}
	never[1] = true
	return never
}

// descent says for each process of the pass whether the wrapper is above it.
func (n *nets) descent() []bool {
	const unknown, yes, no = 0, 1, 2
	marks := make([]byte, len(n.procs))
	var path []int
	for i := range n.procs {
		path = path[:0]
		verdict := byte(no)
		for j := i; ; {
			if marks[j] != unknown {
				verdict = marks[j]
				break
			}
			marks[j] = no // ends a circle that torn reads could make
			path = append(path, j)
			if n.procs[j].ppid == n.self {
				verdict = yes
				break
			}
			next, ok := n.index[n.procs[j].ppid]
			if !ok {
				break
			}
			j = next
		}
		for _, j := range path {
			marks[j] = verdict
		}
	}
	descends := make([]bool, len(marks))
	for i, m := range marks {
		descends[i] = m == yes
	}
	return descends
}

// lookAtSession keeps the session net honest once its leader is reaped.
func (n *nets) lookAtSession() {
	if n.sessionGone {
		return
	}
	held := !n.mainReaped
	now := map[procKey]struct{}{}
	for _, p := range n.procs {
		if p.sid != n.main.pid {
			continue
		}
		now[p.procKey] = struct{}{}
		if _, ok := n.sessionKnown[p.procKey]; ok {
			held = true
		}
	}
	if !held {
		n.sessionGone = true // the number may be a stranger's from here on
		now = nil
	}
	n.sessionKnown = now
}

// groupPinned says whether the main process's group number is certainly still
// the job's.
func (n *nets) groupPinned() bool { return !n.mainReaped }

// frozen says whether the old freezer holds a process: SIGKILL waits then.
func (n *nets) frozen(p proc) bool { return p.state == 'D' && inFrozenV1(n.reader, p.pid) }

// stopped is true for a process that STOP has stopped.
func stopped(p proc) bool { return p.state == 'T' || p.state == 't' }
