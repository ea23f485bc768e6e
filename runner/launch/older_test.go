package launch

import (
	"context"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"saltpeter/wsx/wire"
)

func olderOrder(t *testing.T, change func(*wire.Order)) []byte {
	t.Helper()
	o := wire.Order{Version: wire.OrderVersion, URL: "wss://127.0.0.1:1/task/secret", Pin: "ab", Job: "job", Run: "job_1", Machine: "m1",
		Task: "cookie", Command: "echo 'it''s' \"$HOME\"\nexit 3", Timeout: 0.5}
	if change != nil {
		change(&o)
	}
	order, err := o.Encode()
	if err != nil {
		t.Fatal(err)
	}
	return order
}

func TestOlderEnvironment(t *testing.T) {
	env, err := olderEnvironment(olderOrder(t, func(o *wire.Order) {
		o.Env = map[string]string{"COLOUR": "red", "SP_COMMAND": "rm -rf /", "PATH": "/opt/bin"}
		o.Cwd, o.User, o.Lockfile, o.LogDir, o.LogLevel, o.OutputInterval = "/srv", "u", "/run/l", "/var/log/w", "debug", 0.25
	}))
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{
		"SP_WEBSOCKET_URL=ws://127.0.0.1:1/task/secret", "SP_JOB_NAME=job", "SP_JOB_INSTANCE=job_1", "SP_JOB_INSTANCE_NAME=job_1", "SP_MACHINE_ID=m1",
		"SP_COMMAND=echo 'it''s' \"$HOME\"\nexit 3", "SP_TIMEOUT=1", "SP_CWD=/srv", "SP_USER=u", "SP_LOCKFILE=/run/l", "SP_WRAPPER_LOGDIR=/var/log/w",
		"SP_WRAPPER_LOGLEVEL=debug", "SP_ALLOW_OVERLAP=false", "SP_OUTPUT_INTERVAL_MS=250", "COLOUR=red", "PATH=/opt/bin",
	} {
		if !slices.Contains(env, want) {
			t.Errorf("%q is missing in %q", want, env)
		}
	}
	for _, entry := range env {
		// It knows no pin, would take an order elsewhere for its own, and carries no
		// cookie: kill.sh must not take the wrapper for the job.
		if name, _, _ := strings.Cut(entry, "="); slices.Contains([]string{"SP_SERVER_PIN", "SP_ORDER", "SP_TASK", "LC_ALL"}, name) {
			t.Errorf("it has %q", entry)
		}
	}
	for what, change := range map[string]func(*wire.Order){
		"NUL":     func(o *wire.Order) { o.Env = map[string]string{"A": "\x00"} },
		"128 KiB": func(o *wire.Order) { o.Command = strings.Repeat("x", 128<<10) },
		"no variable": func(o *wire.Order) {
			o.Env = map[string]string{"A=B": "C"}
		},
	} {
		if _, err := olderEnvironment(olderOrder(t, change)); err == nil || !strings.Contains(err.Error(), what) {
			t.Errorf("%s: %v", what, err)
		}
	}
}

// olderWrapper is a program that takes its settings from its environment: it notes
// how it was started each time.
func olderWrapper(t *testing.T, script string) (path, notes string) {
	t.Helper()
	dir := t.TempDir()
	path, notes = filepath.Join(dir, "wrapper.py"), filepath.Join(dir, "notes")
	text := "#!/bin/sh\n[ \"$SP_WEBSOCKET_URL\" ] || { echo probe:$*:$(env | grep -c ^SP_) >>" + notes + "; echo 'Saltpeter Wrapper version 0.9.31'; echo 'SP_WEBSOCKET_URL is not set' >&2; exit 1; }\n" + script
	if err := os.WriteFile(path, []byte(text), 0o755); err != nil {
		t.Fatal(err)
	}
	return path, notes
}

func noted(path string) string {
	data, _ := os.ReadFile(path)
	return string(data)
}

// A wrapper of another generation gets its settings by its environment, and the
// URL without TLS; its file is asked once who it is.
func TestStartOlderWrapper(t *testing.T) {
	path, notes := olderWrapper(t, "echo \"run:$*:$SP_WEBSOCKET_URL:$SP_JOB_INSTANCE:$SP_COMMAND:$(readlink /proc/$$/fd/0)\" >>${0%/*}/notes\nsleep 0.5\n")
	tr := NewLocal(LocalOptions{})
	defer tr.Close()
	for range 2 {
		res := tr.Start(soon(t), Machine{Name: "here", WrapperPath: path}, olderOrder(t, func(o *wire.Order) { o.Command = "true" }))
		if res.Certainty != Started || !res.Older || res.Identity != nil {
			t.Fatalf("%+v", res)
		}
	}
	const run = "run::ws://127.0.0.1:1/task/secret:job_1:true:/dev/null\n"
	eventually(t, "both started", func() bool { return strings.Count(noted(notes), run) == 2 })
	if got := noted(notes); got != "probe:wrap --version:0\n"+run+run {
		t.Errorf("it was started so: %q", got)
	}
	// Another file at the same path is asked anew.
	text, _ := os.ReadFile(path)
	if err := os.WriteFile(path+"2", append(text, "# newer\n"...), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(path+"2", path); err != nil {
		t.Fatal(err)
	}
	tr.Start(soon(t), Machine{Name: "here", WrapperPath: path}, olderOrder(t, nil))
	if got := strings.Count(noted(notes), "probe:"); got != 2 {
		t.Errorf("asked %d times", got)
	}
}

// An older wrapper that ends at once with an error may have had a short job: nobody
// can say that nothing ran. What cannot be executed certainly did not.
func TestStartOlderWrapperFails(t *testing.T) {
	path, _ := olderWrapper(t, "exit 4\n")
	tr := NewLocal(LocalOptions{})
	defer tr.Close()
	res := tr.Start(soon(t), Machine{Name: "here", WrapperPath: path}, olderOrder(t, nil))
	if res.Certainty == CertainlyNot || !res.Older {
		t.Errorf("%+v", res)
	}
	if res.Certainty == Unsure && (!strings.Contains(res.Err.Error(), "exit code 4") || !strings.Contains(res.Err.Error(), "SP_WEBSOCKET_URL is not set")) {
		t.Errorf("%v", res.Err) // on a busy machine its end may come later than it is waited for
	}
	res = tr.Start(soon(t), Machine{Name: "here", WrapperPath: path + "none"}, olderOrder(t, nil))
	if res.Certainty != CertainlyNot || !strings.Contains(res.Err.Error(), path+"none") {
		t.Errorf("%+v", res)
	}
	res = tr.Start(soon(t), Machine{Name: "here", WrapperPath: path}, olderOrder(t, func(o *wire.Order) { o.Env = map[string]string{"A": "\x00"} }))
	if res.Certainty != CertainlyNot {
		t.Errorf("%+v", res)
	}
}

// Through a shell, nothing of the settings is in an argument list.
func TestOlderScript(t *testing.T) {
	path, notes := olderWrapper(t, "env >>${0%/*}/notes\n")
	env, err := olderEnvironment(olderOrder(t, func(o *wire.Order) { o.Env = map[string]string{"ODD": "a'b\nc $x `y`"} }))
	if err != nil {
		t.Fatal(err)
	}
	script, err := olderScript(env, path)
	if err != nil {
		t.Fatal(err)
	}
	in, err := scriptFile(script)
	if err != nil {
		t.Fatal(err)
	}
	defer in.Close()
	n := newNursery()
	defer n.close()
	c, err := n.spawn([]string{"/bin/sh", "-s"}, environment(), [3]*os.File{in, os.Stderr, os.Stderr})
	if err != nil {
		t.Fatal(err)
	}
	<-c.done
	for _, want := range []string{"ODD=a'b\nc $x `y`\n", "SP_COMMAND=echo 'it''s' \"$HOME\"\nexit 3\n"} {
		if got := noted(notes); !strings.Contains(got, want) {
			t.Errorf("%q is missing in %q", want, got)
		}
	}
	if _, err := olderScript([]string{"a.b=c"}, path); err == nil || !strings.Contains(err.Error(), `"a.b"`) {
		t.Errorf("%v", err)
	}
}

// A program that does not answer the question is ended, and counts as older.
func TestProbeThatHangs(t *testing.T) {
	path := filepath.Join(t.TempDir(), "wrapper")
	pidfile := path + ".pid"
	if err := os.WriteFile(path, []byte("#!/bin/sh\necho $$ >"+pidfile+"\nexec sleep 9999\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	tr := NewLocal(LocalOptions{}).(*local)
	defer tr.Close()
	ctx, cancel := context.WithCancel(soon(t))
	go func() {
		for noted(pidfile) == "" && ctx.Err() == nil {
			time.Sleep(10 * time.Millisecond)
		}
		cancel()
	}()
	if _, err := tr.generation(ctx, Machine{WrapperPath: path}); err == nil {
		t.Error("an asking that was called off came to something")
	}
	pid := strings.TrimSpace(noted(pidfile))
	eventually(t, "its end", func() bool { _, err := os.Stat("/proc/" + pid); return err != nil })
}
