// Command hostile does one unpleasant thing to whoever wants to end it; see the
// switch. The tests of package wrapper build it. What forks does so by raw system
// calls and touches nothing of the Go runtime afterwards, which has only the
// forking thread left.
package main

import (
	"fmt"
	"os"
	"os/signal"
	"strconv"
	"syscall"
	"time"
	"unsafe"
)

const (
	prSetDumpable  = 4
	prSubreaper    = 36
	cloneVfork     = 0x4000
	forever        = 300 * time.Second
	bombStep       = 2 * time.Millisecond
	bombSpread     = 4
	subreapDaemons = 3
)

func main() {
	if len(os.Args) < 2 {
		fmt.Fprintln(os.Stderr, "usage: hostile WHAT [N]")
		os.Exit(2)
	}
	n := 1
	if len(os.Args) > 2 {
		n, _ = strconv.Atoi(os.Args[2])
	}
	switch os.Args[1] {
	case "daemon": // double fork, own session, no descriptors, no environment
		daemon()
	case "daemonexit": // the same, deaf to TERM; the parent is gone at once
		signal.Ignore(syscall.SIGTERM)
		daemon()
	case "nodump": // nobody may read its environment
		syscall.RawSyscall(syscall.SYS_PRCTL, prSetDumpable, 0, 0)
		if fork() == 0 {
			syscall.RawSyscall(syscall.SYS_SETSID, 0, 0, 0)
			if fork() == 0 {
				sleepRaw(forever)
			}
			exitRaw()
		}
		ready()
	case "bomb": // n lines, each forks on every few milliseconds, half in sessions of their own
		signal.Ignore(syscall.SIGTERM)
		for i := range n {
			if fork() == 0 {
				breed(i)
			}
		}
		time.Sleep(forever)
	case "zombie": // children that nobody reaps
		for range max(n, 10) {
			if fork() == 0 {
				exitRaw()
			}
		}
		ready()
	case "stopself":
		syscall.Kill(syscall.Getpid(), syscall.SIGSTOP)
		time.Sleep(forever)
	case "subreap": // orphans come back to it, not to the wrapper
		syscall.RawSyscall(syscall.SYS_PRCTL, prSubreaper, 1, 0)
		for range subreapDaemons {
			if fork() == 0 {
				syscall.RawSyscall(syscall.SYS_SETSID, 0, 0, 0)
				if fork() == 0 {
					sleepRaw(forever)
				}
				exitRaw()
			}
		}
		ready()
	case "vforkd": // waits in the kernel for a child that never execs
		clone(cloneVfork)
		sleepRaw(forever)
	case "bigmem": // n MB, touched
		held := make([]byte, n<<20)
		for i := 0; i < len(held); i += 4096 {
			held[i] = 1
		}
		fmt.Println("held", len(held))
		time.Sleep(forever)
	case "many": // n children
		for range n {
			if fork() == 0 {
				sleepRaw(forever)
			}
		}
		ready()
	case "root": // a set-uid program that takes all of root
		syscall.Setuid(0)
		if syscall.Getuid() == 0 {
			fmt.Println("root", os.Getpid())
		} else {
			fmt.Println("root 0")
		}
		time.Sleep(forever)
	case "spin": // counts, so that a pause shows
		for i := 0; ; i++ {
			fmt.Println(i)
			time.Sleep(10 * time.Millisecond)
		}
	default:
		fmt.Fprintln(os.Stderr, "hostile: cannot be", os.Args[1])
		os.Exit(2)
	}
}

// ready says that all has been started, and stays.
func ready() {
	fmt.Println("ready")
	time.Sleep(forever)
}

//go:nosplit
func clone(flags uintptr) uintptr {
	pid, _, errno := syscall.RawSyscall6(syscall.SYS_CLONE, flags|uintptr(syscall.SIGCHLD), 0, 0, 0, 0, 0)
	if errno != 0 {
		return ^uintptr(0)
	}
	return pid
}

//go:nosplit
func fork() uintptr { return clone(0) }

//go:nosplit
func exitRaw() {
	for {
		syscall.RawSyscall(syscall.SYS_EXIT_GROUP, 0, 0, 0)
	}
}

//go:nosplit
func sleepRaw(d time.Duration) {
	t := syscall.Timespec{Sec: int64(d / time.Second), Nsec: int64(d % time.Second)}
	syscall.RawSyscall(syscall.SYS_NANOSLEEP, uintptr(unsafe.Pointer(&t)), 0, 0)
}

// breed is one line of a bomb: the child lives on, the parent ends.
//
//go:nosplit
func breed(seed int) {
	for i := seed; ; i++ {
		sleepRaw(bombStep + time.Duration(i%bombSpread)*time.Millisecond)
		if i%2 == 0 {
			syscall.RawSyscall(syscall.SYS_SETSID, 0, 0, 0)
		}
		switch fork() {
		case 0: // go on as the child
		case ^uintptr(0): // refused: try again
		default:
			exitRaw()
		}
	}
}

// daemon leaves everything behind that a process can leave.
func daemon() {
	path, _ := syscall.BytePtrFromString("/bin/sleep")
	name, _ := syscall.BytePtrFromString("sleep")
	arg, _ := syscall.BytePtrFromString("301")
	root, _ := syscall.BytePtrFromString("/")
	argv := []*byte{name, arg, nil}
	envv := []*byte{nil}
	if fork() != 0 {
		return
	}
	syscall.RawSyscall(syscall.SYS_SETSID, 0, 0, 0)
	if fork() != 0 {
		exitRaw()
	}
	syscall.RawSyscall(syscall.SYS_CHDIR, uintptr(unsafe.Pointer(root)), 0, 0)
	for fd := uintptr(0); fd < 64; fd++ {
		syscall.RawSyscall(syscall.SYS_CLOSE, fd, 0, 0)
	}
	syscall.RawSyscall(syscall.SYS_EXECVE, uintptr(unsafe.Pointer(path)), uintptr(unsafe.Pointer(&argv[0])), uintptr(unsafe.Pointer(&envv[0])))
	exitRaw()
}
