package sshx

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

func TestParseTarget(t *testing.T) {
	for target, want := range map[string][3]any{
		"host":                    {"", "host", 0},
		"user@host":               {"user", "host", 0},
		"user@host:2222":          {"user", "host", 2222},
		"ssh://user@host:2222":    {"user", "host", 2222},
		"me@realm@host":           {"me@realm", "host", 0},
		"[::1]":                   {"", "::1", 0},
		"root@[fe80::1%eth0]:22":  {"root", "fe80::1%eth0", 22},
		"::1":                     {"", "::1", 0},
		"user@2001:db8::1":        {"user", "2001:db8::1", 0},
		"host.example.org.:65535": {"", "host.example.org.", 65535},
	} {
		login, host, port, err := parseTarget(target)
		if err != nil || [3]any{login, host, port} != want {
			t.Errorf("%q: %q %q %d %v", target, login, host, port, err)
		}
	}
	for _, target := range []string{"", "user@", "host:", "host:0", "host:65536", "host:ssh", "[::1", "[::1]22", "[::1]:", "-oProxyCommand=x", "a b", "user name@host", "a/b"} {
		if login, host, port, err := parseTarget(target); err == nil {
			t.Errorf("%q was taken as %q %q %d", target, login, host, port)
		}
	}
}

func TestResolve(t *testing.T) {
	dir := t.TempDir()
	included := filepath.Join(dir, "more.conf")
	if err := os.WriteFile(included, []byte("Host inc*\n  User included\n  Port 2200\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	conf := config(t,
		"Include "+filepath.Join(dir, "*.conf"),
		"Host web",
		"  HostName %h.example.org",
		"  User deploy",
		"  IdentityFile ~/.ssh/%r-%h",
		"  IdentityFile /keys/%p/%%",
		"  IdentitiesOnly yes",
		"  UserKnownHostsFile /kh/one ~/kh/%n",
		"  GlobalKnownHostsFile none",
		"  ProxyJump me@gate:2022,second",
		"Host second",
		"  HostName 10.0.0.2",
		"  HostKeyAlias second-alias",
		"Match host matched",
		"  Port 77",
		"Host proxied",
		"  ProxyCommand nc %h %p",
		"Host circle",
		"  ProxyJump circle2",
		"Host circle2",
		"  ProxyJump circle",
		"Host badport",
		"  Port ssh",
		"Host *",
		"  User everybody",
		"  Port 2222")
	c, _ := client(t, nil, func(o *Options) { o.Config, o.IdentityFiles, o.User = conf, []string{"/mine"}, "asked" })
	home := c.me.HomeDir
	e, err := c.Resolve("web")
	if err != nil {
		t.Fatal(err)
	}
	if e.User != "deploy" || e.Addr() != "web.example.org:2222" || !e.IdentitiesOnly ||
		!slices.Equal(e.IdentityFiles, []string{"/mine", home + "/.ssh/deploy-web.example.org", "/keys/2222/%"}) ||
		!slices.Equal(e.KnownHosts, []string{"/kh/one", home + "/kh/web"}) ||
		!slices.Equal(e.Jumps, []string{"me@gate:2022", "everybody@10.0.0.2:2222"}) {
		t.Errorf("%+v", e)
	}
	for target, want := range map[string]string{
		"root@web:22": "root@web.example.org:22",
		"inc1":        "included@inc1:2200",
		"matched":     "everybody@matched:77",
		"second":      "everybody@10.0.0.2:2222",
	} {
		if e, err := c.Resolve(target); err != nil || e.User+"@"+e.Addr() != want {
			t.Errorf("%s: %+v %v", target, e, err)
		}
	}
	if e, _ := c.Resolve("second"); e.HostKeyName != "second-alias:22" {
		t.Errorf("host key of %q", e.HostKeyName)
	}
	for target, word := range map[string]string{"proxied": "ProxyJump", "circle": "circle", "badport": "Port ssh", "": "HOST"} {
		_, err := c.Resolve(target)
		var x *Error
		if !errors.As(err, &x) || x.Stage != StageResolve || x.Sent || !strings.Contains(err.Error(), word) {
			t.Errorf("%q: %v", target, err)
		}
	}
	// Options count where ssh_config is silent.
	c, _ = client(t, nil, func(o *Options) { o.User, o.Port, o.KnownHosts = "asked", 99, "/kh" })
	if e, err := c.Resolve("host"); err != nil || e.User != "asked" || e.Port != 99 || !slices.Equal(e.KnownHosts, []string{"/kh"}) {
		t.Errorf("%+v %v", e, err)
	}
}

func TestConfigThatIsNotUnderstood(t *testing.T) {
	for _, line := range []string{"Match user root", "Match host a user b", "Match host a,b", "Match exec \"true\"", "Match originalhost x", "Match final all", "Match"} {
		if c, err := New(Options{Config: config(t, "Host x", line)}); err == nil {
			c.Close()
			t.Errorf("%q was taken", line)
		} else if !strings.Contains(err.Error(), "line 2") {
			t.Errorf("%q: %v names no line", line, err)
		}
	}
	inside := config(t, "Match user root")
	if _, err := New(Options{Config: config(t, "Include "+inside)}); err == nil {
		t.Error("an included Match was taken")
	}
	if _, err := New(Options{Config: filepath.Join(t.TempDir(), "none")}); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a named file that is missing: %v", err)
	}
}

func FuzzParseTarget(f *testing.F) {
	for _, seed := range []string{"host", "u@h:22", "[::1]:22", "ssh://u@h", "@", ":", "[]:1"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, target string) {
		_, host, port, err := parseTarget(target)
		if err == nil && (host == "" || port < 0 || port > 65535 || strings.HasPrefix(host, "-")) {
			t.Errorf("%q: host %q port %d", target, host, port)
		}
	})
}
