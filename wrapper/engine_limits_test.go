package wrapper

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"saltpeter/wsx/wire"
)

// testTimeoutObeyed: a job that goes at the first word, but for its timeout.
func testTimeoutObeyed(t *testing.T, l *rigLab, m mode) {
	r := l.newRig(t, m, order("echo up; exec sleep 300")).open()
	r.printed("up")
	r.send(rigCommand{Op: "kill", Cause: wire.CauseTimeout})
	_, gone := r.finish()
	if gone.Cause != wire.CauseTimeout || gone.Phase != wire.PhaseTerm || wire.ExitCode(gone.Cause, 0, gone.RealSignal) != 124 {
		t.Errorf("end is %+v", gone)
	}
}

// testOutOfMemory: where wrapper and job share a limit of memory, the kernel takes
// the job, and the wrapper lives to tell.
func testOutOfMemory(t *testing.T, l *rigLab, m mode) {
	const limit = 256 << 20
	dir := memoryCgroup(t, limit)
	r := l.newRig(t, m, order("hostile bigmem 2000; true"))
	for _, pid := range []int{r.cmd.Process.Pid, r.start.PID} {
		if err := os.WriteFile(filepath.Join(dir, "cgroup.procs"), []byte(fmt.Sprint(pid)), 0); err != nil {
			t.Fatal(err)
		}
	}
	r.open()
	exited, gone := r.finish()
	if exited.Cause != wire.CauseExit || gone.Proof != wire.ProofECHILD {
		t.Errorf("ends are %+v, %+v", exited, gone)
	}
	events, _ := os.ReadFile(filepath.Join(dir, "memory.oom_control"))
	if strings.Contains(r.read(), "held") || strings.Contains(string(events), "oom_kill 0\n") {
		t.Errorf("the job was not short of memory: %q, %q", r.read(), events)
	}
}

// memoryCgroup makes a cgroup v1 that bounds the memory of who is in it. It is
// removed when the rig that is made after it has ended.
func memoryCgroup(t *testing.T, limit int) string {
	t.Helper()
	mountinfo, _ := os.ReadFile("/proc/self/mountinfo")
	for line := range strings.SplitSeq(string(mountinfo), "\n") {
		mt, ok := parseMount(line)
		if !ok || mt.fstype != "cgroup" || !strings.Contains(","+mt.super+",", ",memory,") {
			continue
		}
		dir, err := os.MkdirTemp(mt.point, "sp-memory-")
		if err != nil {
			break
		}
		t.Cleanup(func() {
			for i := 0; i < 5000 && os.Remove(dir) != nil; i++ {
				time.Sleep(2 * time.Millisecond)
			}
		})
		if os.WriteFile(filepath.Join(dir, "memory.limit_in_bytes"), []byte(fmt.Sprint(limit)), 0) == nil {
			return dir
		}
	}
	t.Skip("no memory cgroup v1 here that this test may write")
	return ""
}
