package launch

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"saltpeter/wsx/wire"
)

func itoa(n int) string { return strconv.Itoa(n) }

// An executable that cannot be executed has started nothing.
func TestLocalCannotExecute(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(dir+"/text", []byte("no program"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(dir+"/locked", []byte("#!/bin/sh\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string]error{
		dir + "/none":   fs.ErrNotExist,
		dir + "/locked": fs.ErrPermission,
		dir + "/text":   syscall.ENOEXEC,
		dir:             fs.ErrPermission,
	} {
		tr := NewLocal(LocalOptions{Executable: path})
		res := tr.Start(context.Background(), Machine{Name: "here"}, []byte("{}"))
		if res.Certainty != CertainlyNot || !errors.Is(res.Err, want) || !strings.Contains(res.Err.Error(), path) {
			t.Errorf("%s: %s: %v", path, res.Certainty, res.Err)
		}
		tr.Close()
	}
}

// The machine's own wrapper is taken where its entry names one.
func TestLocalWrapperPath(t *testing.T) {
	path := filepath.Join(t.TempDir(), "wrapper")
	script := "#!/bin/sh\n[ \"$2\" = --version ] && { echo '" + wire.FirstLine + "9'; echo '" + wire.OrdersLine + "1'; exit; }\necho \"mine: $*\" >&2\nexit 3\n"
	if err := os.WriteFile(path, []byte(script), 0o755); err != nil {
		t.Fatal(err)
	}
	tr := NewLocal(LocalOptions{})
	defer tr.Close()
	res := tr.Start(soon(t), Machine{Name: "here", WrapperPath: path}, nil)
	if res.Certainty != CertainlyNot || !strings.Contains(res.Err.Error(), "mine: wrap --foreground") {
		t.Fatalf("%s: %v", res.Certainty, res.Err)
	}
}

// A shell that is let go of must not stay a zombie, and one that says nothing is
// an error with what it said on the other pipe.
func TestNurseryCollects(t *testing.T) {
	n := newNursery()
	defer n.close()
	var kids []*child
	for range 20 {
		p, err := newPipes()
		if err != nil {
			t.Fatal(err)
		}
		c, err := n.spawn([]string{"/bin/sh", "-c", "exit 5"}, environment(), p.theirs)
		p.close()
		if err != nil {
			t.Fatal(err)
		}
		kids = append(kids, c)
	}
	for _, c := range kids {
		select {
		case <-c.done:
		case <-time.After(patient):
			t.Fatal("not collected")
		}
		if !c.reaped || c.status.ExitStatus() != 5 || c.ending().String() != "it ended with exit code 5" {
			t.Errorf("%s", c.ending())
		}
		if p, ok := lookAt(c.pid); ok && p.ppid == os.Getpid() {
			t.Errorf("still there: %+v", p)
		}
	}
}

// Without pidfds children are collected as well, later.
func TestNurseryWithoutPidfd(t *testing.T) {
	n := newNursery()
	defer n.close()
	for _, script := range []string{"exit 0", "sleep 9999"} {
		pid, err := syscall.ForkExec("/bin/sh", []string{"sh", "-c", "exec " + strings.Replace(script, "exit", "sh -c exit", 1)}, &syscall.ProcAttr{Env: environment()})
		if err != nil {
			t.Fatal(err)
		}
		c := &child{pid: pid, done: make(chan struct{})}
		n.kids[c] = struct{}{}
		n.wg.Add(1)
		go n.await(c)
		if script == "exit 0" {
			<-c.done
			if !c.reaped {
				t.Error("not collected")
			}
			continue
		}
		n.close() // gives the other one up, at once
		<-c.done
		if c.reaped || c.ending().String() != "its end was not seen" {
			t.Errorf("%s", c.ending())
		}
		syscall.Kill(pid, syscall.SIGKILL)
		syscall.Wait4(pid, nil, 0, nil)
	}
}

func BenchmarkLocalCheck(b *testing.B) {
	tr := NewLocal(LocalOptions{})
	defer tr.Close()
	for b.Loop() {
		if _, err := tr.Script(context.Background(), Machine{Name: "here"}, ScriptRequest{Op: OpCheck, Task: "nobody-has-this"}); err != nil {
			b.Fatal(err)
		}
	}
}

// While an upgrade writes our own file, what runs now is run.
func TestProgramBeingReplaced(t *testing.T) {
	path := t.TempDir() + "/saltpeter"
	half := func(mode os.FileMode, text string) *os.File {
		os.Remove(path)
		f, err := os.OpenFile(path, os.O_CREATE|os.O_WRONLY, mode)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := f.WriteString(text); err != nil {
			t.Fatal(err)
		}
		return f
	}
	for what, begin := range map[string]func() (done func()){
		"gone":             func() func() { os.Remove(path); return func() {} },
		"not for all yet":  func() func() { half(0o600, "\x7fELF").Close(); return func() {} },
		"half of it there": func() func() { half(0o755, "\x7fELF").Close(); return func() {} },
		"open for writing": func() func() { f := half(0o755, "\x7fELF"); return func() { f.Close() } },
	} {
		done := begin()
		l := NewLocal(LocalOptions{}).(*local)
		l.exe = path
		mustBegin(t, rig{machine: Machine{Name: "here", Transport: "local"}}, l, "exit 0")
		if t.Failed() {
			t.Log(what)
		}
		done()
		l.Close()
	}
}
