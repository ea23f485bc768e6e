package wrapper

import (
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"saltpeter/wsx/wire"
)

// reapBurst bounds the reaping of one turn: a breeder must not keep the engine
// from hearing what is asked of it, nor from a kill's next step.
const reapBurst = 1024

// reap takes in every child that has ended, and says whether the kernel knows no
// child of ours any more: as a subreaper's word that means no descendant.
//
// It looks before it takes: while the main process is an unreaped zombie its
// number is pinned, so its session can be looked at safely.
func (e *engine) reap() (childless bool) {
	for range reapBurst {
		pid, err := peekChild()
		if err == unix.ECHILD {
			return true
		}
		if err != nil || pid == 0 {
			return false
		}
		if pid == e.nets.main.pid && !e.mainEnded {
			e.mainEndedAt = time.Now()
			e.lookAtEnd()
		}
		var ws unix.WaitStatus
		got, err := unix.Wait4(pid, &ws, unix.WNOHANG|unix.WALL, nil)
		if err != nil || got != pid {
			continue
		}
		switch {
		case pid == e.nets.main.pid && !e.mainEnded:
			e.mainEnded, e.mainStatus, e.nets.mainReaped = true, ws, true
			e.exited()
		case pid == e.pause.timer:
			e.pause.timer, e.nets.timer = 0, 0
		}
		e.leftover.stirred = true
		if e.kill != nil {
			delete(e.kill.struck, pid)
		}
	}
	e.wakeBy(time.Now()) // there is more
	return false
}

// lookAtEnd casts all nets at the instant of the main process's end: it counts
// the leftovers, and where it finds nobody alive nobody can come any more.
func (e *engine) lookAtEnd() {
	if k := e.kill; k != nil && k.phase == wire.PhaseKill {
		e.nets.sessionGone = true // no time to see who is in it
		return
	}
	members := e.nets.look()
	n := living(members)
	e.empty = n == 0
	e.leftover.start(n, e.mainEndedAt)
}

// tree, look and scan look for members; whom they find alive ends the certainty
// that nobody is left.
func (e *engine) tree() []member { return e.found(e.nets.tree()) }
func (e *engine) look() []member { return e.found(e.nets.look()) }
func (e *engine) scan() []member { return e.found(e.nets.scan()) }

func (e *engine) found(members []member) []member {
	if living(members) > 0 {
		e.empty = false
	}
	return members
}

// peekChild names a child that has ended without reaping it, 0 if none has.
func peekChild() (int, error) {
	for {
		var info unix.Siginfo
		err := unix.Waitid(unix.P_ALL, 0, &info, unix.WEXITED|unix.WNOHANG|unix.WNOWAIT|unix.WALL, nil)
		if err == unix.EINTR {
			continue
		}
		return siginfoPID(&info), err
	}
}

// siginfoPID reads si_pid: the first word of the union, which pointers align.
func siginfoPID(info *unix.Siginfo) int {
	const align = unsafe.Sizeof(uintptr(0))
	const offset = (3*4 + align - 1) / align * align
	return int(*(*int32)(unsafe.Add(unsafe.Pointer(info), offset)))
}
