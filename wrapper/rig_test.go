package wrapper

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"saltpeter/testdata/lab"
	"saltpeter/wsx/wire"
)

// testWrapper is a wrapper process: this test binary in another role.
type testWrapper struct {
	t        *testing.T
	cmd      *exec.Cmd
	identity wire.Identity
	stderr   *lab.Buffer
	done     chan struct{} // closed when it has ended
	read     sync.WaitGroup
}

var runNumber atomic.Int64

func testOrder(t *testing.T, s *testServer, command string) *wire.Order {
	o := defaultOrder()
	o.Server, o.URL = "test", s.url()
	o.Job, o.Run, o.Machine = "job", fmt.Sprintf("job_%d", runNumber.Add(1)), "m1"
	o.Task, o.Command = randomHex(16), command
	o.SpoolDir = filepath.Join(spoolDirOf(t), "spool")
	o.KillGrace, o.HardLimit, o.StartWait = 5, 10, 20
	return o
}

var spoolDirs sync.Map

// spoolDirOf is one directory for all orders of a test. It is forgotten with the
// test: a repeated one would make its wrappers fill a directory that nobody removes.
func spoolDirOf(t *testing.T) string {
	dir, ok := spoolDirs.Load(t.Name())
	if !ok {
		dir = t.TempDir()
		spoolDirs.Store(t.Name(), dir)
		t.Cleanup(func() { spoolDirs.Delete(t.Name()) })
	}
	return dir.(string)
}

// wrapperCommand is this binary as `saltpeter wrap`.
func wrapperCommand(args []string, environ ...string) *exec.Cmd {
	cmd := exec.Command(os.Args[0], args...)
	cmd.Env = append([]string{"SALTPETER_TEST_ROLE=wrapper", "GORACE=atexit_sleep_ms=0", "PATH=" + os.Getenv("PATH"), "HOME=" + os.Getenv("HOME")}, environ...)
	// A wrapper must outlive what kills a test's process group, a test must not
	// leave it behind: hence its own session and the cleanup below.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	return cmd
}

// launch starts a wrapper in the foreground and reads its identity.
func launch(t *testing.T, o *wire.Order) *testWrapper {
	t.Helper()
	w := launchOnly(t, o)
	if w.identity.PID == 0 {
		t.Fatalf("no identity: %s", w.stderr)
	}
	return w
}

func launchOnly(t *testing.T, o *wire.Order) *testWrapper {
	t.Helper()
	return launchAs(t, o, wrapperCommand([]string{"--foreground"}))
}

func launchAs(t *testing.T, o *wire.Order, cmd *exec.Cmd) *testWrapper {
	t.Helper()
	order, err := o.Encode()
	if err != nil {
		t.Fatal(err)
	}
	w := &testWrapper{t: t, cmd: cmd, stderr: &lab.Buffer{}, done: make(chan struct{})}
	w.cmd.Stdin = bytes.NewReader(order)
	stdout, err := w.cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	stderr, err := w.cmd.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := w.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	w.read.Go(func() { _, _ = io.Copy(w.stderr, stderr) })
	t.Cleanup(w.end)
	lines := bufio.NewReader(stdout)
	line, _ := lines.ReadString('\n')
	if line != "" && line != versionLine()+"\n" {
		t.Errorf("the first line is %q", line)
	}
	if line, err = lines.ReadString('\n'); err == nil {
		if err := json.Unmarshal([]byte(line), &w.identity); err != nil {
			t.Error(err)
		}
		// It has let go of its output: a caller that reads to the end is not held.
		if rest, err := io.ReadAll(lines); err != nil || len(rest) > 0 {
			t.Errorf("after the identity: %q, %v", rest, err)
		}
	}
	go func() {
		w.read.Wait()
		_ = w.cmd.Wait()
		close(w.done)
	}()
	return w
}

// end leaves nothing behind.
func (w *testWrapper) end() {
	_ = w.cmd.Process.Kill()
	<-w.done
	if w.identity.PID > 0 && jobLives(&w.identity) {
		_ = syscall.Kill(-w.identity.PID, syscall.SIGKILL)
		waitFor(w.t, "the job's end", func() bool { return !jobLives(&w.identity) })
	}
}

// exits waits for the wrapper's own end.
func (w *testWrapper) exits() int {
	w.t.Helper()
	select {
	case <-w.done:
	case <-time.After(2 * testWait):
		w.t.Fatalf("the wrapper does not end: %s", w.stderr)
	}
	return w.cmd.ProcessState.ExitCode()
}

// waitFor polls for what sends no event.
func waitFor(t *testing.T, what string, done func() bool) {
	t.Helper()
	for deadline := time.Now().Add(2 * testWait); !done(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("waited in vain for %s", what)
		}
	}
}

// spooled lists the tasks' directories of the test's spool.
func spooled(t *testing.T) []string {
	t.Helper()
	dirs, err := filepath.Glob(filepath.Join(spoolDirOf(t), "spool", "*-*"))
	if err != nil {
		t.Fatal(err)
	}
	return dirs
}

func fileContains(path, text string) bool {
	data, err := os.ReadFile(path)
	return err == nil && strings.Contains(string(data), text)
}

func itoa(n int) string { return fmt.Sprint(n) }
