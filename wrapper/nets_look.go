package wrapper

import (
	"errors"

	"golang.org/x/sys/unix"
)

// lookTreeMost is the size of a tree from which on reading all of /proc costs less
// than walking it.
const lookTreeMost = 64

// look casts all nets like scan, at a fraction of its cost where the machine is
// full of other tasks: hundreds of them that end together would otherwise spend
// their time on reading each other's files in /proc. Whoever carries another
// task's brand is a stranger by one system call; only the rest is read.
//
// Another brand does not make a stranger of a descendant (the job may run a
// wrapper itself) nor of a member of the cgroup.
func (n *nets) look() []member {
	family, ok := n.family()
	if !ok {
		return n.scan()
	}
	for _, pid := range n.cg.procs(n.reader, nil) {
		family[pid] = true
	}
	pids, err := n.reader.numbers("/proc", n.pids[:0])
	n.pids = pids
	if err != nil {
		return n.scan()
	}
	n.procs = n.procs[:0]
	for _, pid := range pids {
		if !family[pid] && n.brandedOtherwise(pid) {
			continue
		}
		if p, ok := n.reader.stat(pid); ok {
			n.procs = append(n.procs, p)
		}
	}
	return n.haul()
}

// family is the numbers of this process and of its descendants; false where they
// are too many, or the kernel does not list them.
func (n *nets) family() (map[int]bool, bool) {
	if !n.walk {
		return nil, false
	}
	family := map[int]bool{n.self: true}
	for queue := n.reader.children(n.self, nil); len(queue) > 0; queue = queue[1:] {
		if pid := queue[0]; !family[pid] {
			family[pid] = true
			queue = n.reader.children(pid, queue)
		}
		if len(family) > lookTreeMost {
			return nil, false
		}
	}
	return family, true
}

// brandedOtherwise says whether a process is certainly one of another task, or
// another task's wrapper. Where the kernel does not tell (another user's process),
// it is not certain.
func (n *nets) brandedOtherwise(pid int) bool {
	var limit unix.Rlimit
	switch err := unix.Prlimit(pid, unix.RLIMIT_RSS, nil, &limit); {
	case errors.Is(err, unix.ESRCH):
		return true // gone
	case err != nil:
		return false
	}
	return isBrand(limit.Cur) && limit.Cur != n.brand
}

// isBrand says whether a limit is a number that only wrappers give out.
func isBrand(limit uint64) bool { return limit>>62 == 1 }

// markWrapper lets the wrappers of other tasks tell at a glance that this process
// is none of their job's. No task's brand has this bit, so no net of any task
// catches it. A wrapper that runs inside a job keeps the job's brand.
func markWrapper() {
	var limit unix.Rlimit
	if unix.Prlimit(0, unix.RLIMIT_RSS, nil, &limit) != nil || isBrand(limit.Cur) || limit.Max < wrapperBrand {
		return
	}
	limit.Cur = wrapperBrand
	_ = unix.Prlimit(0, unix.RLIMIT_RSS, &limit, nil)
}
