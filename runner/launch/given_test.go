package launch

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"saltpeter/wsx/wire"
)

// What is no wrapper is not started again and again: it certainly was not started.
func TestGivenNoWrapper(t *testing.T) {
	r := newPutRig(t)
	ssh := r.transport(t)
	local := NewLocal(LocalOptions{Executable: self(t)})
	defer local.Close()
	plain := filepath.Join(t.TempDir(), "plain")
	if err := os.WriteFile(plain, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	script, ran := program(t, "echo; printf 'I am no\\twrapper\\n'; echo more\n")
	for path, say := range map[string]string{
		"/bin/true": "/bin/true is not a saltpeter wrapper; ", "/no/such/wrapper": "/no/such/wrapper", plain: plain,
		"/bin/cat": "/bin/cat is not a saltpeter wrapper: asked with `wrap --version` who it is, it ended well and said: cat",
		script:     "it ended well and said: I am no wrapper; correct wrapper_path",
	} {
		for name, tr := range map[string]Transport{"ssh": ssh, "local": local} {
			m := r.machine
			m.WrapperPath = path
			for range 2 {
				res := tr.Start(soon(t), m, olderOrder(t, nil))
				if res.Certainty != CertainlyNot || errors.Is(res.Err, ErrUnreachable) || !strings.Contains(res.Err.Error(), say) {
					t.Errorf("%s over %s: %s: %v", path, name, res.Certainty, res.Err)
				}
			}
		}
	}
	if noted(ran) != "" {
		t.Error("it was started")
	}
}

// program is one that notes whether it was started with a task.
func program(t *testing.T, script string) (path, ran string) {
	t.Helper()
	path = filepath.Join(t.TempDir(), "program")
	ran = path + ".ran"
	if err := os.WriteFile(path, []byte("#!/bin/sh\n[ -z \"$SP_JOB_INSTANCE\" ] || echo ran >>"+ran+"\n"+script), 0o755); err != nil {
		t.Fatal(err)
	}
	return path, ran
}

// What calls itself a wrapper, or ends with an error as an older one does that misses
// its settings, may be one: nobody can say that it did not run its job.
func TestGivenPerhapsAWrapper(t *testing.T) {
	r := newPutRig(t)
	ssh := r.transport(t)
	local := NewLocal(LocalOptions{Executable: self(t)})
	defer local.Close()
	for _, script := range []string{"echo Saltpeter Wrapper version 0.1\n", "echo hello\nexit 1\n", "exit 1\n"} {
		path, ran := program(t, script)
		for name, tr := range map[string]Transport{"ssh": ssh, "local": local} {
			m := r.machine
			m.WrapperPath = path
			before := noted(ran)
			res := tr.Start(soon(t), m, olderOrder(t, nil))
			if res.Certainty == CertainlyNot || !res.Older {
				t.Errorf("%q over %s: %s: %v", script, name, res.Certainty, res.Err)
			}
			eventually(t, "its start", func() bool { return noted(ran) == before+"ran\n" })
		}
	}
}

// A wrapper of ours that the operator put there is used as it is, and nothing else is
// put on the machine. One of another generation gets its settings as environment,
// and is found out again when the file is another.
func TestGivenWrapper(t *testing.T) {
	r := newPutRig(t)
	dir := t.TempDir()
	path := filepath.Join(dir, "wrapper")
	if err := os.Symlink(self(t), path); err != nil {
		t.Fatal(err)
	}
	r.machine.WrapperPath = path
	s := r.transport(t)
	r.mustStart(t, s)
	if got := r.on(t, "ls -A /var/lib /run"); strings.Contains(got, "saltpeter") {
		t.Errorf("something was put there: %s", got)
	}

	older, notes := olderWrapper(t, `[ -e /proc/self/fd/0 ] && echo "run:$*:$SP_WEBSOCKET_URL:$SP_JOB_INSTANCE:$COLOUR" >>`+filepath.Join(dir, "notes")+"\n")
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(older, path); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		res := s.Start(soon(t), r.machine, olderOrder(t, func(o *wire.Order) { o.Env = map[string]string{"COLOUR": "it's red"} }))
		if res.Certainty != Started || !res.Older || res.Identity != nil {
			t.Errorf("%s: %+v", res.Certainty, res)
		}
	}
	want := "run::ws://127.0.0.1:1/task/secret:job_1:it's red\n"
	eventually(t, "both starts", func() bool { return noted(filepath.Join(dir, "notes")) == want+want })
	if got := noted(notes); !strings.Contains(got, "probe:wrap --version:0") {
		t.Errorf("it was asked %q", got)
	}
}
