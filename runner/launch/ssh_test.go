package launch

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"saltpeter/sshx"
	"saltpeter/testdata/lab"
	"saltpeter/wsx/wire"
)

// TestSSHConforms runs what every transport has to do over a real sshd.
func TestSSHConforms(t *testing.T) {
	d := lab.SSHD(t, lab.SSHDOptions{Config: []string{"MaxStartups 100"}})
	client := sshClient(t, d)
	conform(t, rig{
		open: func(t *testing.T) Transport {
			return NewSSH(SSHOptions{Client: client, Executable: self(t)})
		},
		machine: Machine{Name: "there", Transport: "ssh", SSH: login(d)},
		login:   true,
	})
}

// TestSSHLoginShells (S01, S13): whatever shell a login has, and whatever its files
// print on both outputs, wrappers start, are asked and killed, and bytes come as
// they are. As an ordinary user (S02).
func TestSSHLoginShells(t *testing.T) {
	noise := "echo welcome; echo woe >&2; printf 'SPR mark=none op=kill'\n"
	for _, c := range []struct {
		shell string
		pkgs  []string
		files map[string]string
	}{
		{shell: "/bin/sh"},
		{shell: "/bin/bash", files: map[string]string{".bashrc": noise, ".profile": noise}},
		{shell: "/bin/tcsh", pkgs: []string{"tcsh"}, files: map[string]string{".cshrc": "echo welcome\n", ".tcshrc": "echo welcome\n"}},
		{shell: "/usr/bin/fish", pkgs: []string{"fish", "fish-common", "libpcre2-32-0"}, files: map[string]string{".config/fish/config.fish": "echo welcome\n"}},
	} {
		t.Run(filepath.Base(c.shell), func(t *testing.T) {
			t.Parallel()
			files := map[string]string{".ssh/rc": "echo rc speaks\n"}
			for name, text := range c.files {
				files[name] = text
			}
			d := lab.SSHD(t, lab.SSHDOptions{Options: lab.WorldOptions{Shell: c.shell, Packages: c.pkgs, Files: files}})
			needWorld(t, d)
			g := rig{machine: Machine{Name: "there", Transport: "ssh", SSH: "spuser@" + d.Addr, Spool: userSpool(t, d)}, login: true}
			tr := NewSSH(SSHOptions{Client: sshClient(t, d), Executable: forEverybody(t)})
			defer tr.Close()
			speak(t, g, tr)
		})
	}
}

// speak is a life over a transport in short.
func speak(t *testing.T, g rig, tr Transport) {
	t.Helper()
	k, res := beginIn(t, g, tr, "trap '' TERM; sleep 300; sleep 300", "", g.machine.Spool)
	if res.Certainty != Started {
		t.Fatalf("%s: %v", res.Certainty, res.Err)
	}
	k.awaitMembers(2)
	path := filepath.Join(filepath.Dir(g.machine.Spool), "bytes")
	want := strings.Repeat("a\x00b\r\nc\xff\n", 1000)
	if err := os.WriteFile(path, []byte(want), 0o644); err != nil {
		t.Fatal(err)
	}
	if got, err := tr.Fetch(soon(t), g.machine, path, 0, 1<<20); err != nil || string(got) != want {
		t.Errorf("fetched %d of %d bytes: %v", len(got), len(want), err)
	}
	r := k.request(OpKill)
	ans, err := tr.Script(soon(t), g.machine, r)
	if err != nil || ans.Outcome != wire.OutcomeGone || ans.Phase != wire.PhaseKill || len(k.members()) > 0 {
		t.Errorf("%+v %v", ans, err)
	}
}

// A login that may not run anything gives an honest error (S13).
func TestSSHNoLogin(t *testing.T) {
	d := lab.SSHD(t, lab.SSHDOptions{Options: lab.WorldOptions{Shell: "/usr/sbin/nologin"}})
	needWorld(t, d)
	tr := NewSSH(SSHOptions{Client: sshClient(t, d), Executable: self(t)})
	defer tr.Close()
	m := Machine{Name: "there", SSH: "spuser@" + d.Addr}
	res := tr.Start(soon(t), m, []byte("{}"))
	if res.Certainty != CertainlyNot || errors.Is(res.Err, ErrUnreachable) || !strings.Contains(res.Err.Error(), "exit code 1") {
		t.Errorf("%s: %v", res.Certainty, res.Err)
	}
	if _, err := tr.Script(soon(t), m, ScriptRequest{Op: OpCheck, Task: "x"}); err == nil || errors.Is(err, ErrUnreachable) {
		t.Errorf("script: %v", err)
	}
}

// S08, S09: a machine that shows another host key than the known one, and one that
// does not let us in. Neither is spoken to any further, and each says what it is.
func TestSSHKillIsRefused(t *testing.T) {
	d := lab.SSHD(t, lab.SSHDOptions{})
	needWorld(t, d)
	other := lab.SSHD(t, lab.SSHDOptions{})
	_, port, err := net.SplitHostPort(d.Addr)
	if err != nil {
		t.Fatal(err)
	}
	_, otherPort, err := net.SplitHostPort(other.Addr)
	if err != nil {
		t.Fatal(err)
	}
	theirs, err := os.ReadFile(other.KnownHosts)
	if err != nil {
		t.Fatal(err)
	}
	wrong := filepath.Join(t.TempDir(), "known_hosts")
	if err := os.WriteFile(wrong, []byte(strings.ReplaceAll(string(theirs), otherPort, port)), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		id   string
		o    sshx.Options
		want error
	}{
		{"S08 wrong host key", sshx.Options{IdentityFiles: []string{d.Key}, KnownHosts: wrong}, sshx.ErrHostKeyChanged},
		{"S09 login refused", sshx.Options{IdentityFiles: []string{other.Key}, KnownHosts: d.KnownHosts}, sshx.ErrLogin},
	} {
		t.Run(c.id, func(t *testing.T) {
			lab.Case(t, c.id, "over SSH")
			k := startTask(t, "exec sleep 300", taskOptions{})
			k.awaitMembers(1)
			client, err := sshx.New(c.o)
			if err != nil {
				t.Fatal(err)
			}
			defer client.Close()
			tr := NewSSH(SSHOptions{Client: client, Executable: self(t)})
			defer tr.Close()
			m := Machine{Name: "there", Transport: "ssh", SSH: login(d)}
			if _, err := tr.Script(soon(t), m, k.request(OpKill)); !errors.Is(err, c.want) || !errors.Is(err, ErrUnreachable) {
				t.Errorf("kill: %v", err)
			}
			if res := tr.Start(soon(t), m, []byte("{}")); res.Certainty != CertainlyNot || !errors.Is(res.Err, c.want) {
				t.Errorf("start: %s: %v", res.Certainty, res.Err)
			}
			if len(k.members()) != 1 {
				t.Error("the job was touched")
			}
		})
	}
}

// S07: nobody there, and somebody who never speaks. Nothing was started, and it says
// that the machine could not be reached.
func TestSSHUnreachable(t *testing.T) {
	d := lab.SSHD(t, lab.SSHDOptions{})
	silent, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer silent.Close()
	free, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	closed := free.Addr().String()
	free.Close()
	tr := NewSSH(SSHOptions{Client: sshClient(t, d), Executable: self(t)})
	defer tr.Close()
	for name, addr := range map[string]string{"closed": closed, "silent": silent.Addr().String()} {
		brief := func() context.Context {
			ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
			t.Cleanup(cancel)
			return ctx
		}
		m := Machine{Name: name, SSH: "root@" + addr}
		if res := tr.Start(brief(), m, []byte("{}")); res.Certainty != CertainlyNot || !errors.Is(res.Err, ErrUnreachable) {
			t.Errorf("%s: start: %s: %v", name, res.Certainty, res.Err)
		}
		if _, err := tr.Script(brief(), m, ScriptRequest{Op: OpKill, Task: "x"}); !errors.Is(err, ErrUnreachable) {
			t.Errorf("%s: script: %v", name, err)
		}
		if _, err := tr.Fetch(brief(), m, "/etc/passwd", 0, 1); !errors.Is(err, ErrUnreachable) {
			t.Errorf("%s: fetch: %v", name, err)
		}
	}
	if res := tr.Start(soon(t), Machine{Name: "nowhere"}, nil); res.Certainty != CertainlyNot || !strings.Contains(res.Err.Error(), "no address") {
		t.Errorf("no address: %v", res.Err)
	}
}

// What a login may not see is said, and is not taken for something that is not there.
func TestSSHFetchDenied(t *testing.T) {
	d := lab.SSHD(t, lab.SSHDOptions{})
	needWorld(t, d)
	tr := NewSSH(SSHOptions{Client: sshClient(t, d), Executable: self(t)})
	defer tr.Close()
	dir := filepath.Join(d.World.Dir, "closed")
	if err := os.MkdirAll(filepath.Join(dir, "below"), 0o700); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"file", "below/file"} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte("secret"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	open := filepath.Join(d.World.Dir, "unreadable")
	if err := os.WriteFile(open, []byte("secret"), 0o600); err != nil {
		t.Fatal(err)
	}
	m := Machine{Name: "there", SSH: "spuser@" + d.Addr}
	for path, want := range map[string]error{
		dir + "/file": fs.ErrPermission, dir + "/below/file": fs.ErrPermission, dir + "/none": fs.ErrPermission,
		open: fs.ErrPermission, open + "2": fs.ErrNotExist,
	} {
		if got, err := tr.Fetch(soon(t), m, path, 0, 10); !errors.Is(err, want) {
			t.Errorf("%s: %q, %v", path, got, err)
		}
	}
}

// S14: nothing of a task stands in an argument list while it starts, is fetched from
// and is killed.
func TestSSHNothingInArguments(t *testing.T) {
	d := lab.SSHD(t, lab.SSHDOptions{})
	tr := NewSSH(SSHOptions{Client: sshClient(t, d), Executable: self(t)})
	defer tr.Close()
	g := rig{machine: Machine{Name: "there", SSH: login(d)}, login: true}
	stop, seen := make(chan struct{}), make(chan []string)
	go func() {
		all := map[string]bool{}
		for {
			for _, p := range everybody() {
				args, _ := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", p.pid))
				all[strings.ReplaceAll(string(args), "\x00", " ")] = true
			}
			select {
			case <-stop:
				list := []string{}
				for args := range all {
					list = append(list, args)
				}
				seen <- list
				return
			default:
			}
		}
	}()
	k, res := begin(t, g, tr, "trap '' TERM; sleep 300; sleep 300", "")
	if res.Certainty == Started {
		k.awaitMembers(2)
		tr.Fetch(soon(t), g.machine, "/etc/hostname", 0, 10)
		r := k.request(OpKill)
		r.Grace = 3 * time.Second // time to be seen
		tr.Script(soon(t), g.machine, r)
	}
	close(stop)
	script := false
	for _, args := range <-seen {
		script = script || strings.Contains(args, "sh -s")
		for _, word := range []string{k.run, k.id.Task, "hostname", "BIG"} {
			if word != "" && strings.Contains(args, word) {
				t.Errorf("%q stands in %q", word, args)
			}
		}
	}
	if res.Certainty != Started || !script {
		t.Errorf("%v; a script was seen: %v", res.Err, script)
	}
}
