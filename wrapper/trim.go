package wrapper

import (
	"os"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// trimAfter is when a wrapper has begun to wait: most jobs are over before.
const trimAfter = 2 * time.Second

// trimProgram takes the pages of the program's own file out of this process's
// memory. Each that the start touched brought its neighbours along, and a wrapper
// that waits needs few of them: those come back by themselves from the page cache,
// where they all stay. Pages that may be written to are left alone.
func trimProgram() {
	exe, err := os.Readlink("/proc/self/exe")
	if err != nil {
		return
	}
	maps, err := os.ReadFile("/proc/self/maps")
	if err != nil {
		return
	}
	for _, m := range fileMappings(string(maps), exe) {
		_, _, _ = unix.Syscall(unix.SYS_MADVISE, m.from, m.size, unix.MADV_DONTNEED)
	}
}

// mapping is a range of addresses.
type mapping struct{ from, size uintptr }

// fileMappings lists the mappings of a file that nobody may write to, as
// /proc/PID/maps tells them: "from-to perms offset dev inode path".
func fileMappings(maps, path string) (list []mapping) {
	for line := range strings.SplitSeq(maps, "\n") {
		f := strings.SplitN(line, " ", 6)
		if len(f) < 6 || strings.TrimLeft(f[5], " ") != path || strings.Contains(f[1], "w") {
			continue
		}
		a, b, _ := strings.Cut(f[0], "-")
		from, err1 := strconv.ParseUint(a, 16, 64)
		to, err2 := strconv.ParseUint(b, 16, 64)
		if err1 == nil && err2 == nil && from < to {
			list = append(list, mapping{uintptr(from), uintptr(to - from)})
		}
	}
	return list
}
