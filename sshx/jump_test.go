package sshx

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"saltpeter/testdata/lab"
)

func TestJump(t *testing.T) {
	inner := lab.SSHD(t, lab.SSHDOptions{})
	jump := lab.SSHD(t, lab.SSHDOptions{})
	known := filepath.Join(t.TempDir(), "known_hosts")
	var both []byte
	for _, s := range []*lab.Server{inner, jump} {
		b, err := os.ReadFile(s.KnownHosts)
		if err != nil {
			t.Fatal(err)
		}
		both = append(both, b...)
	}
	if err := os.WriteFile(known, both, 0o600); err != nil {
		t.Fatal(err)
	}
	conf := config(t, "Host target*", "  HostName "+inner.Host, fmt.Sprintf("  Port %d", inner.Port), "  ProxyJump bastion", "Host far", "  HostName "+jump.Host, fmt.Sprintf("  Port %d", jump.Port), "  ProxyJump bastion,target", "Host closed", "  HostName 127.0.0.1", "  Port 1", "  ProxyJump bastion",
		"Host bastion", "  HostName "+jump.Host, fmt.Sprintf("  Port %d", jump.Port), "Host *", "  IdentityFile none", "  User "+inner.User)
	over := func(o *Options) {
		o.Config, o.KnownHosts, o.IdentityFiles = conf, known, []string{inner.Key, jump.Key}
	}
	c, _ := client(t, nil, over)
	e, err := c.Resolve("target")
	if err != nil || len(e.Jumps) != 1 || e.Jumps[0] != inner.User+"@"+jump.Addr || e.Addr() != inner.Addr {
		t.Fatalf("%+v %v", e, err)
	}
	if out := mustRun(t, c, "target", "echo $SSH_CONNECTION; cat", "input"); !strings.HasSuffix(out, "input") {
		t.Fatalf("%q", out)
	}
	want := 2 // one to the jump host, one over it
	if inner.World != nil {
		mustRun(t, c, "root@target", "true")
		want++
	}
	if n := connections(c); n != want {
		t.Errorf("%d connections, not %d", n, want)
	}
	_, _, _, err = run(c, "closed", "true")
	fails(t, err, ErrUnreachable, StageConnect)
	if e, err := c.Resolve("far"); err != nil || len(e.Jumps) != 2 {
		t.Fatalf("%+v %v", e, err)
	}
	mustRun(t, c, "far", "true")
	t.Run("jump host cut and back", func(t *testing.T) {
		jump.Drop()
		mustRun(t, c, "target", "true")
	})
	t.Run("jump host down", func(t *testing.T) {
		jump.Stop()
		jump.Drop()
		defer jump.Start()
		c, _ := client(t, nil, over)
		_, _, _, err := run(c, "target", "true")
		if e := fails(t, err, ErrUnreachable, StageJump); e.Hint == "" || strings.Count(e.Error(), e.Hint) != 1 {
			t.Errorf("%v", e)
		}
	})
	t.Run("jump host unknown", func(t *testing.T) {
		c, _ := client(t, nil, over, func(o *Options) { o.KnownHosts = inner.KnownHosts })
		_, _, _, err := run(c, "target", "true")
		fails(t, err, ErrHostKeyUnknown, StageJump)
	})
	t.Run("closed at once", func(t *testing.T) {
		c, _ := client(t, nil, over)
		mustRun(t, c, "target", "true")
		c.Close()
		if n := connections(c); n != 0 {
			t.Errorf("%d connections of a closed client", n)
		}
	})
}

func TestJumpForbidden(t *testing.T) {
	s := lab.SSHD(t, lab.SSHDOptions{Config: []string{"AllowTcpForwarding no"}})
	conf := config(t, "Host target", "  HostName 127.0.0.1", "  ProxyJump "+fmt.Sprintf("%s:%d", s.Host, s.Port), "Host *", "  IdentityFile none")
	c, _ := client(t, s, func(o *Options) { o.Config = conf })
	_, _, _, err := run(c, "target", "true")
	fails(t, err, ErrRefused, StageJump)
}
