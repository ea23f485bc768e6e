package lab

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"sync/atomic"
	"testing"

	"golang.org/x/sys/unix"
)

// Net is a small network of its own: hosts in network namespaces, each with one
// interface (eth0) on a switch that is a namespace too. Its addresses, 10.77.0.x,
// exist only in there, so that any number of them can stand beside each other, and
// nothing of the machine's own network is touched. All hosts share the machine's
// processes and files; a World on top gives each files of its own.
type Net struct {
	t      testing.TB
	name   string
	nft    string
	nftEnv []string
	hosts  int
}

// Host is one host of a Net.
type Host struct {
	Name  string
	Netns string // as `ip netns` names it
	Addr  string // 10.77.0.x

	net  *Net
	port string // its end on the switch
}

var nets atomic.Int64

// NewNet makes an empty network that ends with the test. It needs root, ip and the
// right to make namespaces; a test that lacks one of them is skipped.
func NewNet(t testing.TB) *Net {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root: hosts in network namespaces")
	}
	for _, tool := range []string{"ip", "nsenter"} {
		if _, err := exec.LookPath(tool); err != nil {
			t.Skipf("needs %s (iproute2, util-linux): %v", tool, err)
		}
	}
	n := &Net{t: t, name: fmt.Sprintf("sp%d-%d", os.Getpid(), nets.Add(1))}
	var err error
	if n.nft, n.nftEnv, err = nft(); err != nil {
		t.Skipf("no nft here: %v", err)
	}
	n.space(n.sw())
	for _, line := range [][]string{
		{"link", "add", "br0", "type", "bridge"},
		{"link", "set", "br0", "up"},
	} {
		if out, err := n.ip(n.sw(), line...); err != nil {
			t.Skipf("no bridge can be made here: %v: %s", err, out)
		}
	}
	return n
}

func (n *Net) sw() string { return n.name + "-switch" }

// space makes a namespace with its loopback up.
func (n *Net) space(name string) {
	n.t.Helper()
	if out, err := exec.Command("ip", "netns", "add", name).CombinedOutput(); err != nil {
		n.t.Skipf("no network namespace can be made here: %v: %s", err, lastLine(out))
	}
	n.t.Cleanup(func() {
		if out, err := exec.Command("ip", "netns", "del", name).CombinedOutput(); err != nil {
			n.t.Errorf("cannot remove the network namespace %s: %v: %s", name, err, lastLine(out))
		}
	})
	if out, err := n.ip(name, "link", "set", "lo", "up"); err != nil {
		n.t.Fatalf("lo: %v: %s", err, out)
	}
}

func (n *Net) ip(netns string, args ...string) (string, error) {
	out, err := exec.Command("ip", append([]string{"-n", netns}, args...)...).CombinedOutput()
	return strings.TrimSpace(string(out)), err
}

// Host adds a host.
func (n *Net) Host(name string) *Host {
	n.t.Helper()
	n.hosts++
	h := &Host{Name: name, Netns: n.name + "-" + name, Addr: fmt.Sprintf("10.77.0.%d", n.hosts), net: n, port: fmt.Sprintf("p%d", n.hosts)}
	n.space(h.Netns)
	for _, step := range []struct {
		netns string
		args  []string
	}{
		{n.sw(), []string{"link", "add", h.port, "type", "veth", "peer", "name", "eth0", "netns", h.Netns}},
		{n.sw(), []string{"link", "set", h.port, "master", "br0"}},
		{n.sw(), []string{"link", "set", h.port, "up"}},
		{h.Netns, []string{"addr", "add", h.Addr + "/24", "dev", "eth0"}},
		{h.Netns, []string{"link", "set", "eth0", "up"}},
	} {
		if out, err := n.ip(step.netns, step.args...); err != nil {
			n.t.Fatalf("ip %s: %v: %s", strings.Join(step.args, " "), err, out)
		}
	}
	return h
}

// Command is a command that runs on the host, with this process's files.
func (h *Host) Command(name string, args ...string) *exec.Cmd {
	return exec.Command("nsenter", append([]string{"--net=/run/netns/" + h.Netns, "--", name}, args...)...)
}

// Link takes the host's cable out, or puts it in again. Nobody is told.
func (h *Host) Link(up bool) error {
	state := "down"
	if up {
		state = "up"
	}
	// On the switch: the host itself must not notice more than silence.
	out, err := h.net.ip(h.net.sw(), "link", "set", h.port, state)
	if err != nil {
		return fmt.Errorf("cannot set the link %s: %w: %s", state, err, out)
	}
	return nil
}

// Rule adds a rule to the host's firewall: dir is "in" or "out", rule what nft
// takes, such as "tcp dport 8889 drop" or "tcp sport 8889 reject with tcp reset".
func (h *Host) Rule(dir, rule string) error {
	if dir != "in" && dir != "out" {
		return fmt.Errorf("a rule is for in or out, not %q", dir)
	}
	return h.nft(`table inet lab {
	chain in { type filter hook input priority 0; }
	chain out { type filter hook output priority 0; }
}
add rule inet lab ` + dir + ` ` + rule + "\n")
}

// Heal takes all rules away.
func (h *Host) Heal() error {
	return h.nft("table inet lab {}\ndelete table inet lab\n")
}

func (h *Host) nft(script string) error {
	cmd := h.Command(h.net.nft, "-f", "-")
	cmd.Env = append(os.Environ(), h.net.nftEnv...)
	cmd.Stdin = strings.NewReader(script)
	var said bytes.Buffer
	cmd.Stderr = &said
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("nft: %w: %s", err, lastLine(said.Bytes()))
	}
	return nil
}

// Inside runs f with sockets of the host: what f opens there stays there. f must
// not start goroutines that open others.
func (h *Host) Inside(f func() error) error {
	done := make(chan error, 1)
	go func() {
		// Never unlocked: the thread ends with the goroutine, and its namespace with it.
		runtime.LockOSThread()
		space, err := os.Open("/run/netns/" + h.Netns)
		if err != nil {
			done <- err
			return
		}
		defer space.Close()
		if err := unix.Setns(int(space.Fd()), unix.CLONE_NEWNET); err != nil {
			done <- err
			return
		}
		done <- f()
	}()
	return <-done
}

// nft is the path of nft, and what its environment needs for its libraries.
func nft() (string, []string, error) {
	bin, err := program("nft", "nftables", "usr/sbin/nft", "sbin/nft")
	if err != nil {
		return "", nil, err
	}
	dirs, err := libraryPath(bin)
	if err != nil || len(dirs) == 0 {
		return bin, nil, err
	}
	return bin, []string{"LD_LIBRARY_PATH=" + strings.Join(dirs, ":")}, nil
}
