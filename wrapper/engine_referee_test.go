package wrapper

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// referee is a cgroup v2 around wrapper and job that the engine knows nothing of.
type referee struct {
	path string
	dir  *os.File
}

// refereeRoot is a cgroup v2 that this test may make children in, or "".
func refereeRoot() string {
	mountinfo, _ := os.ReadFile("/proc/self/mountinfo")
	own, _ := os.ReadFile("/proc/self/cgroup")
	dir, err := ownCgroup(string(mountinfo), string(own))
	if err != nil {
		return ""
	}
	probe := filepath.Join(dir, fmt.Sprintf("sp-probe-%d", os.Getpid()))
	if os.Mkdir(probe, 0o755) != nil {
		return ""
	}
	_ = os.Remove(probe)
	return dir
}

// newReferee makes one; with none allowed below it the engine finds no place for
// a cgroup of its own.
func newReferee(t *testing.T, below bool) *referee {
	t.Helper()
	if os.Geteuid() != 0 {
		return nil
	}
	root := refereeRoot()
	if root == "" {
		return nil
	}
	path, err := os.MkdirTemp(root, "sp-referee-")
	if err != nil {
		t.Fatal(err)
	}
	if !below {
		if err := os.WriteFile(filepath.Join(path, "cgroup.max.descendants"), []byte("0"), 0); err != nil {
			t.Fatal(err)
		}
	}
	_ = os.Chmod(path, 0o755)
	dir, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	return &referee{path: path, dir: dir}
}

// living lists who lives in it beside the wrapper.
func (f *referee) living(wrapper int) (left []string) {
	if f == nil {
		return nil
	}
	r := newProcReader()
	for _, pid := range (&taskCgroup{dir: f.path}).procs(r, nil) {
		if pid == wrapper {
			continue
		}
		// Read by other means than the engine's parser.
		status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
		if err != nil {
			continue
		}
		s := string(status)
		if strings.Contains(s, "\nState:\tZ") && strings.Contains(s, "\nThreads:\t1\n") || strings.Contains(s, "\nState:\tX") {
			continue
		}
		name, _, _ := strings.Cut(s, "\n")
		left = append(left, fmt.Sprintf("%d(%s)", pid, strings.TrimPrefix(name, "Name:\t")))
	}
	return left
}

// clear ends what a failed case has left.
func (f *referee) clear() {
	if f == nil {
		return
	}
	c := &taskCgroup{dir: f.path}
	_ = c.kill()
	for end := time.Now().Add(10 * time.Second); c.event("populated") == "1" && time.Now().Before(end); {
		time.Sleep(2 * time.Millisecond)
	}
	c.remove()
	f.dir.Close()
}

// bystander is an innocent process of the same user, started before.
func bystander(t *testing.T, m mode) {
	t.Helper()
	cmd := exec.Command("sleep", "9999")
	if os.Geteuid() == 0 && m.uid != 0 {
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uint32(m.uid), Gid: uint32(m.uid)}}
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan struct{})
	go func() { _ = cmd.Wait(); close(ended) }()
	t.Cleanup(func() {
		select {
		case <-ended:
			t.Error("the bystander was hit")
		default:
		}
		_ = cmd.Process.Kill()
		<-ended
	})
}
