package lab

import (
	"net"
	"strings"
	"testing"
	"time"
)

// Two hosts see each other, and no more once a rule, or a cable, is in the way.
func TestNet(t *testing.T) {
	n := NewNet(t)
	a, b := n.Host("a"), n.Host("b")
	var l net.Listener
	if err := b.Inside(func() (err error) { l, err = net.Listen("tcp", b.Addr+":7"); return err }); err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	dial := func(within time.Duration) error {
		return a.Inside(func() error {
			c, err := net.DialTimeout("tcp", b.Addr+":7", within)
			if err == nil {
				c.Close()
			}
			return err
		})
	}
	check := func(what string, err error, want string) {
		t.Helper()
		switch {
		case want == "" && err != nil:
			t.Errorf("%s: %v", what, err)
		case want != "" && (err == nil || !strings.Contains(err.Error(), want)):
			t.Errorf("%s: %v, want %s", what, err, want)
		}
	}
	const long, short = 20 * time.Second, 300 * time.Millisecond
	check("at first", dial(long), "")
	if err := b.Rule("in", "tcp dport 7 drop"); err != nil {
		t.Fatal(err)
	}
	check("dropped", dial(short), "timeout")
	if err := b.Heal(); err != nil {
		t.Fatal(err)
	}
	check("healed", dial(long), "")
	if err := b.Rule("in", "tcp dport 7 reject with tcp reset"); err != nil {
		t.Fatal(err)
	}
	check("rejected", dial(long), "refused")
	if err := b.Heal(); err != nil {
		t.Fatal(err)
	}
	if err := b.Link(false); err != nil {
		t.Fatal(err)
	}
	check("without its cable", dial(short), "timeout")
	if err := b.Link(true); err != nil {
		t.Fatal(err)
	}
	check("with it again", dial(long), "")
	out, err := a.Command("ip", "-br", "addr").CombinedOutput()
	if err != nil || !strings.Contains(string(out), a.Addr+"/24") {
		t.Errorf("ip addr said %q: %v", out, err)
	}
}
