package lab

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"
)

// SSHDOptions say which sshd a test wants. The zero value: one on 127.0.0.1, with
// a world of its own and OpenSSH's defaults.
type SSHDOptions struct {
	World   *World       // nil = one of its own, by WorldOptions
	Options WorldOptions // of that world
	Config  []string     // lines of sshd_config; they win over the lab's own
	Address string       // "" = 127.0.0.1
	Port    int          // 0 = a free one; 22 in a network namespace
	Netns   string       // the name of a network namespace (ip netns) to run in
	// HostKeys are the kinds of host key that it has: ed25519 (alone by default),
	// ecdsa, rsa. OwnHostKeys are paths of private keys to use instead.
	HostKeys    []string
	OwnHostKeys []string
}

// Server is a real OpenSSH sshd.
type Server struct {
	Addr  string // HOST:PORT
	Host  string
	Port  int
	World *World // nil where the test does not run as root
	// User is somebody who may log in: spuser in a world, else the user of the test.
	User string
	// Key is a client's private key that each user accepts; Key+".pub" beside it.
	Key string
	// KnownHosts is a known_hosts file with its host keys.
	KnownHosts string
	// HostKeys are the paths of its private host keys.
	HostKeys []string
	// Dir holds its configuration; authorized/USER in it are the keys that a user accepts.
	Dir string

	bin  string
	env  []string
	opt  SSHDOptions
	cmd  *exec.Cmd
	gone chan struct{}
	old  []int // its sessions' processes, remembered when the daemon was stopped
}

// SSHD starts an sshd that ends with the test, together with its sessions. As
// root it runs in a World, where root, spuser and spuser2 can log in; otherwise
// it lets in only the user of the test, and shares that user's home.
func SSHD(t testing.TB, o SSHDOptions) *Server {
	t.Helper()
	bin, env, err := sshd()
	if err != nil {
		t.Skipf("no sshd here: %v", err)
	}
	s := &Server{Host: o.Address, User: "spuser", World: o.World, bin: bin, env: env, opt: o}
	if s.Host == "" {
		s.Host = "127.0.0.1"
	}
	if os.Geteuid() == 0 && s.World == nil {
		s.World = NewWorld(t, o.Options)
	}
	if os.Geteuid() != 0 {
		me, err := user.Current()
		if err != nil {
			t.Skipf("who runs this test? %v", err)
		}
		s.User = me.Username
	}
	base := ""
	if s.World != nil {
		base = s.World.Dir
	}
	if s.Dir, err = os.MkdirTemp(base, "sshd-"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		s.Stop()
		s.Drop()
		if s.World == nil { // a world ends all that is in it
			s.killMarked(t)
		}
		os.RemoveAll(s.Dir)
	})
	if err := s.prepare(); err != nil {
		t.Fatalf("cannot prepare sshd: %v", err)
	}
	if err := s.Start(); err != nil {
		t.Fatalf("cannot start sshd: %v", err)
	}
	if s.World == nil {
		if err := s.login(); err != nil {
			t.Skipf("an sshd without root does not let %s in: %v: %s", s.User, err, lastLine([]byte(s.Log())))
		}
	}
	return s
}

// login tries to log in as the user of the test, whose account may be locked or
// have no shell.
func (s *Server) login() error {
	key, err := os.ReadFile(s.Key)
	if err != nil {
		return err
	}
	signer, err := ssh.ParsePrivateKey(key)
	if err != nil {
		return err
	}
	c, err := ssh.Dial("tcp", s.Addr, &ssh.ClientConfig{User: s.User, Auth: []ssh.AuthMethod{ssh.PublicKeys(signer)},
		HostKeyCallback: ssh.InsecureIgnoreHostKey(), Timeout: 10 * time.Second}) // our own child, on loopback
	if err != nil {
		return err
	}
	defer c.Close()
	session, err := c.NewSession()
	if err != nil {
		return err
	}
	return session.Run("true")
}

// prepare makes keys and the files that do not depend on the port.
func (s *Server) prepare() error {
	if err := os.Chmod(s.Dir, 0o755); err != nil {
		return err
	}
	s.Key = filepath.Join(s.Dir, "client")
	pub, err := WriteKey(s.Key, "ed25519", "")
	if err != nil {
		return err
	}
	if err := os.Mkdir(filepath.Join(s.Dir, "authorized"), 0o755); err != nil {
		return err
	}
	for _, name := range []string{"root", "spuser", "spuser2", s.User} {
		if err := s.Authorize(name, pub); err != nil {
			return err
		}
	}
	s.HostKeys = s.opt.OwnHostKeys
	kinds := s.opt.HostKeys
	if len(kinds) == 0 {
		kinds = []string{"ed25519"}
	}
	if len(s.HostKeys) == 0 {
		for _, kind := range kinds {
			path := filepath.Join(s.Dir, "host_"+kind)
			if _, err := WriteKey(path, kind, ""); err != nil {
				return err
			}
			s.HostKeys = append(s.HostKeys, path)
		}
	}
	return nil
}

// Authorize sets the lines of a user's authorized_keys.
func (s *Server) Authorize(name string, lines ...string) error {
	return os.WriteFile(filepath.Join(s.Dir, "authorized", name), []byte(strings.Join(lines, "\n")+"\n"), 0o644)
}

// Start starts the daemon; again on the same port where it ran before.
func (s *Server) Start() error {
	if s.Port != 0 {
		err := s.start(s.Port)
		for deadline := time.Now().Add(20 * time.Second); errors.Is(err, errInUse) && time.Now().Before(deadline); err = s.start(s.Port) {
			time.Sleep(20 * time.Millisecond)
		}
		return err
	}
	port := s.opt.Port
	if port == 0 && s.opt.Netns != "" {
		port = 22
	}
	if port != 0 {
		return s.start(port)
	}
	var err error
	for range 10 { // between the look for a free port and sshd's bind another may take it
		if port, err = freePort(s.Host); err != nil {
			return err
		}
		if err = s.start(port); err == nil || !errors.Is(err, errInUse) {
			return err
		}
	}
	return err
}

var errInUse = errors.New("the port is in use")

// freePort finds a port below those that the kernel gives away by itself: between
// a stop and the next start no connection of another test may take it.
func freePort(host string) (port int, err error) {
	for range 100 {
		port = 15000 + rand.IntN(17000)
		var l net.Listener
		if l, err = net.Listen("tcp", net.JoinHostPort(host, strconv.Itoa(port))); err == nil {
			return port, l.Close()
		}
	}
	return 0, err
}

func (s *Server) start(port int) error {
	config := filepath.Join(s.Dir, "sshd_config")
	if err := os.WriteFile(config, []byte(s.config(port)), 0o644); err != nil {
		return err
	}
	log, err := os.OpenFile(s.logPath(), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return err
	}
	defer log.Close()
	from, _ := log.Seek(0, 2)
	args := []string{"-D", "-e", "-f", config}
	cmd := exec.Command(s.bin, args...)
	if s.World != nil {
		cmd = s.World.Command(s.opt.Netns, s.bin, args...)
	}
	cmd.Env = append(os.Environ(), s.env...)
	cmd.Stderr = log
	if err := cmd.Start(); err != nil {
		return err
	}
	gone := make(chan struct{})
	go func() {
		defer close(gone)
		cmd.Wait()
	}()
	for deadline := time.Now().Add(30 * time.Second); ; time.Sleep(2 * time.Millisecond) {
		said := s.Log()[from:]
		if strings.Contains(said, "Server listening on") {
			break
		}
		select {
		case <-gone:
			said = s.Log()[from:]
			if strings.Contains(said, "Address already in use") {
				return errInUse
			}
			return fmt.Errorf("it ended: %s", strings.TrimSpace(said))
		default:
		}
		if time.Now().After(deadline) {
			cmd.Process.Kill()
			<-gone
			return fmt.Errorf("it does not listen: %s", strings.TrimSpace(said))
		}
	}
	s.cmd, s.gone, s.Port = cmd, gone, port
	s.Addr = net.JoinHostPort(s.Host, strconv.Itoa(port))
	return s.known()
}

func (s *Server) logPath() string { return filepath.Join(s.Dir, "log") }

// Log is what the daemon has said so far.
func (s *Server) Log() string {
	b, _ := os.ReadFile(s.logPath())
	return string(b)
}

// Stop ends the daemon as a service manager would for a restart: nobody can log in
// any more, and sessions that are there go on. Start lets people in again.
func (s *Server) Stop() {
	if s.cmd == nil {
		return
	}
	s.old = append(s.old, s.sessions()...)
	s.cmd.Process.Kill()
	<-s.gone
	s.cmd = nil
}

// Drop ends the connections that are there, and with them the sessions, by killing
// the processes of sshd that serve them. What runs in the sessions is left alone.
// Without a world, where there is no other way to find it later, it is killed too.
func (s *Server) Drop() {
	for _, pid := range append(s.sessions(), s.old...) {
		syscall.Kill(pid, syscall.SIGKILL)
	}
	s.old = nil
}

// killMarked kills what carries this server's mark in its environment, until
// nothing does.
func (s *Server) killMarked(t testing.TB) {
	mark := []byte("SP_LAB=" + s.Dir + "\x00")
	for deadline := time.Now().Add(20 * time.Second); ; time.Sleep(5 * time.Millisecond) {
		left := 0
		envs, _ := filepath.Glob("/proc/[0-9]*/environ")
		for _, path := range envs {
			if b, err := os.ReadFile(path); err == nil && bytes.Contains(append(b, 0), mark) {
				left++
				pid, _ := strconv.Atoi(filepath.Base(filepath.Dir(path)))
				syscall.Kill(pid, syscall.SIGKILL)
			}
		}
		if left == 0 {
			return
		}
		if time.Now().After(deadline) {
			t.Errorf("%d processes that sshd's sessions left do not end", left)
			return
		}
	}
}

// sessions are the processes below the daemon that are sshd's own; all of them
// where there is no world.
func (s *Server) sessions() []int {
	if s.cmd == nil {
		return nil
	}
	children := map[int][]int{}
	stats, _ := filepath.Glob("/proc/[0-9]*/stat")
	for _, path := range stats {
		b, err := os.ReadFile(path)
		if err != nil {
			continue
		}
		fields := strings.Fields(string(b[bytes.LastIndexByte(b, ')')+1:]))
		pid, _ := strconv.Atoi(filepath.Base(filepath.Dir(path)))
		if ppid, err := strconv.Atoi(fields[1]); err == nil {
			children[ppid] = append(children[ppid], pid)
		}
	}
	var found []int
	for queue := []int{s.cmd.Process.Pid}; len(queue) > 0; queue = queue[1:] {
		for _, pid := range children[queue[0]] {
			comm, _ := os.ReadFile(fmt.Sprintf("/proc/%d/comm", pid))
			if s.World != nil && !strings.HasPrefix(string(comm), "sshd") {
				continue
			}
			found, queue = append(found, pid), append(queue, pid)
		}
	}
	return found
}
