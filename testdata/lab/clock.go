package lab

import (
	"bytes"
	"debug/elf"
	"encoding/binary"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// WallClock is the wall clock of one process, which can be made to jump. The
// machine's own clock, and everybody else's, stays as it is: what the kernel has
// mapped into the process to tell the time by (the vDSO) is replaced, in this
// process's copy, by a few instructions that ask the kernel and add a number. The
// monotonic clock is passed on untouched.
type WallClock struct {
	t      testing.TB
	mem    *os.File
	number int64 // where the number of seconds is
}

const clockSymbol = "__vdso_clock_gettime"

// JumpingClock takes over the wall clock of a process. It needs root, since a
// wrapper lets nobody else into its memory.
func JumpingClock(t testing.TB, pid int) *WallClock {
	t.Helper()
	if runtime.GOARCH != "amd64" {
		t.Skip("no jumping clock for " + runtime.GOARCH + ": its instructions are written for amd64")
	}
	if os.Geteuid() != 0 {
		t.Skip("only root may change a wrapper's clock")
	}
	mem, err := os.OpenFile(fmt.Sprintf("/proc/%d/mem", pid), os.O_RDWR, 0)
	if err != nil {
		t.Skipf("no way into the process: %v", err)
	}
	t.Cleanup(func() { mem.Close() })
	from, to, err := vdso(pid)
	if err != nil {
		t.Skip(err)
	}
	entry, room, err := clockEntry(mem, from, to)
	if err != nil {
		t.Skip(err)
	}
	code, number := clockCode(entry)
	if len(code) > room {
		t.Skipf("%s has %d bytes, %d are needed", clockSymbol, room, len(code))
	}
	if err := whileOutside(pid, from, to, func() error {
		_, err := mem.WriteAt(code, entry)
		return err
	}); err != nil {
		t.Skipf("the process's clock cannot be replaced: %v", err)
	}
	return &WallClock{t: t, mem: mem, number: number}
}

// Jump sets how far the process's wall clock is from the machine's.
func (c *WallClock) Jump(by time.Duration) {
	c.t.Helper()
	number := binary.LittleEndian.AppendUint64(nil, uint64(int64(by/time.Second)))
	if _, err := c.mem.WriteAt(number, c.number); err != nil { // aligned: never half of it
		c.t.Fatalf("the clock does not jump: %v", err)
	}
}

// vdso is where the kernel has put it.
func vdso(pid int) (from, to int64, err error) {
	maps, err := os.ReadFile(fmt.Sprintf("/proc/%d/maps", pid))
	if err != nil {
		return 0, 0, err
	}
	for line := range strings.SplitSeq(string(maps), "\n") {
		if !strings.HasSuffix(line, "[vdso]") {
			continue
		}
		_, err := fmt.Sscanf(line, "%x-%x", &from, &to)
		return from, to, err
	}
	return 0, 0, fmt.Errorf("process %d has no vDSO", pid)
}

// clockEntry finds the function that tells the time, and how long it is.
func clockEntry(mem *os.File, from, to int64) (entry int64, room int, err error) {
	image := make([]byte, to-from)
	if _, err := mem.ReadAt(image, from); err != nil {
		return 0, 0, err
	}
	file, err := elf.NewFile(bytes.NewReader(image))
	if err != nil {
		return 0, 0, err
	}
	symbols, err := file.DynamicSymbols()
	if err != nil {
		return 0, 0, err
	}
	for _, s := range symbols {
		if s.Name == clockSymbol {
			return from + int64(s.Value), int(s.Size), nil
		}
	}
	return 0, 0, fmt.Errorf("the vDSO has no %s", clockSymbol)
}

// clockCode is clock_gettime(2) itself, with a number added to the seconds of
// CLOCK_REALTIME, and the number's place.
func clockCode(entry int64) (code []byte, number int64) {
	head := []byte{
		0xb8, 0xe4, 0, 0, 0, // mov eax, 228
		0x0f, 0x05, // syscall
		0x85, 0xff, // test edi, edi
		0x75, 13, // jne to the last instruction
		0x48, 0xb9, // mov rcx, the eight bytes that follow
	}
	for (entry+int64(len(code)+len(head)))%8 != 0 {
		code = append(code, 0x90) // nop
	}
	code = append(code, head...)
	number = entry + int64(len(code))
	code = append(code, 0, 0, 0, 0, 0, 0, 0, 0)
	return append(code, 0x48, 0x01, 0x0e, 0xc3), number // add [rsi], rcx; ret
}

// whileOutside stops a process while none of its threads is in a range, and lets it
// go on when f is done.
func whileOutside(pid int, from, to int64, f func() error) error {
	for end := time.Now().Add(20 * time.Second); time.Now().Before(end); time.Sleep(time.Millisecond) {
		if err := syscall.Kill(pid, syscall.SIGSTOP); err != nil {
			return err
		}
		inside, err := anyInside(pid, from, to)
		if err == nil && !inside {
			err = f()
		}
		if e := syscall.Kill(pid, syscall.SIGCONT); err == nil {
			err = e
		}
		if err != nil || !inside {
			return err
		}
	}
	return fmt.Errorf("process %d never stood still", pid)
}

// anyInside waits until all threads stand and says whether one is in the range.
func anyInside(pid int, from, to int64) (bool, error) {
	for end := time.Now().Add(20 * time.Second); time.Now().Before(end); time.Sleep(time.Millisecond) {
		tasks, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*", pid))
		if err != nil || len(tasks) == 0 {
			return false, fmt.Errorf("process %d is gone", pid)
		}
		stand, inside := true, false
		for _, task := range tasks {
			stat, err := os.ReadFile(task + "/stat")
			state := ""
			if i := bytes.LastIndexByte(stat, ')'); err == nil && i > 0 && len(stat) > i+2 {
				state = string(stat[i+2 : i+3])
			}
			where, err := os.ReadFile(task + "/syscall") // the last word is where it stands; "running" if it runs
			words := strings.Fields(string(where))
			if err != nil || state != "T" || len(words) < 2 {
				stand = false
				break
			}
			at, err := strconv.ParseInt(strings.TrimPrefix(words[len(words)-1], "0x"), 16, 64)
			if err != nil {
				return false, err
			}
			inside = inside || at >= from && at < to
		}
		if stand {
			return inside, nil
		}
	}
	return false, fmt.Errorf("process %d does not stop", pid)
}
