package sshx

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"

	"saltpeter/testdata/lab"
)

const (
	benchRounds = 5
	fanOut      = 50
)

// figures are the times of what a benchmark measures in turns.
type figures map[string][]time.Duration

func (f figures) measure(b *testing.B, name string, do func() error) {
	b.Helper()
	began := time.Now()
	if err := do(); err != nil {
		b.Fatalf("%s: %v", name, err)
	}
	f[name] = append(f[name], time.Since(began))
}

func (f figures) median(name string) float64 {
	times := slices.Sorted(slices.Values(f[name]))
	return float64(times[len(times)/2].Microseconds()) / 1000
}

// row reports ours beside a baseline under a word; reach is the ratio to keep.
func (f figures) row(b *testing.B, word, ours, baseline string, reach float64) {
	b.ReportMetric(f.median(ours), word+":ours-ms")
	b.ReportMetric(f.median(baseline), word+":baseline-ms")
	if reach > 0 {
		b.ReportMetric(reach, word+":reach")
	}
}

// everywhere is an sshd that answers on all loopback addresses, and lets in as many
// at once as come: what is measured is the client.
func everywhere(b *testing.B, packages ...string) (*lab.Server, string) {
	s := lab.SSHD(b, lab.SSHDOptions{Address: "0.0.0.0", Config: []string{"MaxStartups 200:30:300"}, Options: lab.WorldOptions{Packages: packages}})
	pub, err := os.ReadFile(s.HostKeys[0] + ".pub")
	if err != nil {
		b.Fatal(err)
	}
	known := filepath.Join(s.Dir, "known_everywhere")
	if err := os.WriteFile(known, fmt.Appendf(nil, "[127.0.0.*]:%d %s", s.Port, pub), 0o644); err != nil {
		b.Fatal(err)
	}
	return s, known
}

func addresses() []string {
	var list []string
	for i := range fanOut {
		list = append(list, fmt.Sprintf("127.0.0.%d", i+1))
	}
	return list
}

// bare is what a program with x/crypto alone would write.
func bare(s *lab.Server) (*ssh.ClientConfig, error) {
	b, err := os.ReadFile(s.Key)
	if err != nil {
		return nil, err
	}
	key, err := ssh.ParsePrivateKey(b)
	if err != nil {
		return nil, err
	}
	pub := readPublic(s.HostKeys[0] + ".pub")
	return &ssh.ClientConfig{User: s.User, Auth: []ssh.AuthMethod{ssh.PublicKeys(key)}, HostKeyCallback: ssh.FixedHostKey(pub), HostKeyAlgorithms: []string{ssh.KeyAlgoED25519}}, nil
}

func bareExec(c *ssh.Client) error {
	session, err := c.NewSession()
	if err != nil {
		return err
	}
	defer session.Close()
	return session.Run("true")
}

func bareFanOut(s *lab.Server, config *ssh.ClientConfig) error {
	return each(addresses(), func(addr string) error {
		c, err := ssh.Dial("tcp", fmt.Sprintf("%s:%d", addr, s.Port), config)
		if err != nil {
			return err
		}
		defer c.Close()
		return bareExec(c)
	})
}

func fanOutOver(c *Client, s *lab.Server) error {
	return each(addresses(), func(addr string) error {
		_, err := c.Run(context.Background(), addr, Command{Line: "true"})
		return err
	})
}

// each does one thing for all addresses at once.
func each(addrs []string, do func(string) error) error {
	var all sync.WaitGroup
	errs := make(chan error, len(addrs))
	for _, addr := range addrs {
		all.Go(func() { errs <- do(addr) })
	}
	all.Wait()
	close(errs)
	for err := range errs {
		if err != nil {
			return err
		}
	}
	return nil
}

func benchClient(b *testing.B, s *lab.Server, known string) *Client {
	c, _ := client(b, s, func(o *Options) { o.KnownHosts, o.Log = known, nil })
	return c
}

// BenchmarkSSHExec runs a command over a connection that is there, and over one
// that is not.
func BenchmarkSSHExec(b *testing.B) {
	s, known := everywhere(b)
	config, err := bare(s)
	if err != nil {
		b.Fatal(err)
	}
	warm := benchClient(b, s, known)
	bareWarm, err := ssh.Dial("tcp", fmt.Sprintf("127.0.0.1:%d", s.Port), config)
	if err != nil {
		b.Fatal(err)
	}
	defer bareWarm.Close()
	one := func(c *Client) error {
		_, err := c.Run(context.Background(), "127.0.0.1", Command{Line: "true"})
		return err
	}
	if err := one(warm); err != nil {
		b.Fatal(err)
	}
	for range b.N {
		f := figures{}
		for range 3 * benchRounds {
			f.measure(b, "warm", func() error { return one(warm) })
			f.measure(b, "bare warm", func() error { return bareExec(bareWarm) })
			cold := benchClient(b, s, known)
			f.measure(b, "cold", func() error { return one(cold) })
			cold.Close()
			f.measure(b, "bare cold", func() error {
				c, err := ssh.Dial("tcp", fmt.Sprintf("127.0.0.1:%d", s.Port), config)
				if err != nil {
					return err
				}
				defer c.Close()
				return bareExec(c)
			})
		}
		b.ReportMetric(0, "ns/op")
		f.row(b, "warm/bare-client", "warm", "bare warm", 1.3)
		f.row(b, "cold/bare-client", "cold", "bare cold", 1.3)
		f.row(b, "warm/our-cold", "warm", "cold", 0.4)
	}
}

// BenchmarkSSHFanOut runs a command on fifty addresses of one sshd, with no
// connection before and with one to each, beside what others use for that.
func BenchmarkSSHFanOut(b *testing.B) {
	packages := []string{"pdsh", "libgenders0"} // its modules have to lie where it looks for them
	for _, p := range packages {
		if _, err := lab.Package(p); err != nil || os.Geteuid() != 0 {
			b.Logf("no pdsh here: %v", err)
			packages = nil
			break
		}
	}
	s, known := everywhere(b, packages...)
	config, err := bare(s)
	if err != nil {
		b.Fatal(err)
	}
	others := rivals(b, s, known, packages != nil)
	for range b.N {
		f := figures{}
		for round := range benchRounds {
			c := benchClient(b, s, known)
			f.measure(b, "cold", func() error { return fanOutOver(c, s) })
			f.measure(b, "warm", func() error { return fanOutOver(c, s) })
			c.Close()
			f.measure(b, "bare", func() error { return bareFanOut(s, config) })
			for name, argv := range others {
				if round >= 3 { // they take many times as long
					break
				}
				f.measure(b, name, func() error {
					out, err := s.World.Command("", argv[0], argv[1:]...).CombinedOutput()
					if err == nil && bytes.Contains(out, []byte("denied")) {
						err = fmt.Errorf("refused")
					}
					if err != nil {
						return fmt.Errorf("%w: %s", err, bytes.TrimSpace(out))
					}
					return nil
				})
			}
		}
		b.ReportMetric(0, "ns/op")
		f.row(b, "cold/bare-client", "cold", "bare", 1.2)
		f.row(b, "warm/our-cold", "warm", "cold", 0.2)
		for name, reach := range map[string]float64{"pdsh": 1 / 2.0, "clush": 1 / 2.3} {
			if others[name] != nil {
				f.row(b, "cold/"+name, "cold", name, reach)
			}
		}
	}
}

// rivals are the command lines of pdsh and clush that run a command on the same
// addresses, all at once, of those that can be had. They run in the world of the
// sshd, which has ssh's own files only.
func rivals(b *testing.B, s *lab.Server, known string, pdsh bool) map[string][]string {
	found := map[string][]string{}
	if s.World == nil {
		b.Log("neither pdsh nor clush: they are unpacked for root only")
		return found
	}
	if _, err := exec.LookPath("ssh"); err != nil {
		b.Log("neither pdsh nor clush: no ssh here")
		return found
	}
	options := strings.Join([]string{"-F none -i", s.Key, "-l", s.User, "-p", fmt.Sprint(s.Port), "-o IdentitiesOnly=yes -o BatchMode=yes -o StrictHostKeyChecking=yes -o UserKnownHostsFile=" + known}, " ")
	list := fmt.Sprintf("127.0.0.[1-%d]", fanOut)
	if pdsh {
		found["pdsh"] = []string{"env", "PDSH_SSH_ARGS_APPEND=" + options, "PDSH_RCMD_TYPE=ssh", "pdsh", "-S", "-f", fmt.Sprint(fanOut), "-w", list, "true"}
	}
	python, err := exec.LookPath("python3")
	if err != nil {
		b.Log("no clush here: no python3")
		return found
	}
	clush, err := lab.Package("clustershell")
	module, err2 := lab.Package("python3-clustershell")
	if err != nil || err2 != nil {
		b.Logf("no clush here: %v %v", err, err2)
		return found
	}
	found["clush"] = []string{"env", "PYTHONPATH=" + filepath.Join(module, "usr/lib/python3/dist-packages"), python, filepath.Join(clush, "usr/bin/clush"),
		"-S", "-f", fmt.Sprint(fanOut), "-o", options, "-w", list, "true"}
	return found
}
