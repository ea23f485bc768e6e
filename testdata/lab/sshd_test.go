package lab

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// remote runs a command with the machine's own ssh.
func remote(t *testing.T, s *Server, name string, command ...string) (string, error) {
	t.Helper()
	bin, err := exec.LookPath("ssh")
	if err != nil {
		t.Skip("no ssh here")
	}
	out, err := exec.Command(bin, append([]string{"-F", "none", "-i", s.Key, "-o", "IdentitiesOnly=yes", "-o", "UserKnownHostsFile=" + s.KnownHosts,
		"-o", "BatchMode=yes", "-o", "StrictHostKeyChecking=yes", "-p", fmt.Sprint(s.Port), name + "@" + s.Host}, command...)...).CombinedOutput()
	return string(out), err
}

func TestSSHD(t *testing.T) {
	s := SSHD(t, SSHDOptions{Options: WorldOptions{Files: map[string]string{".note": "mine\n"}}})
	for _, name := range []string{s.User, "root"} {
		if s.World == nil && name != s.User {
			continue
		}
		out, err := remote(t, s, name, "id -un; cat ~/.note")
		want := name + "\nmine\n"
		if s.World == nil {
			out, want = strings.Split(out, "\n")[0], name
		}
		if err != nil || out != want {
			t.Fatalf("as %s ssh said %q: %v\n%s", name, out, err, s.Log())
		}
	}
	port := s.Port
	s.Stop()
	if out, err := remote(t, s, s.User, "true"); err == nil {
		t.Fatalf("a stopped sshd lets in: %s", out)
	}
	if err := s.Start(); err != nil || s.Port != port {
		t.Fatalf("started again on port %d: %v", s.Port, err)
	}
	if out, err := remote(t, s, s.User, "true"); err != nil {
		t.Fatalf("a started sshd does not let in: %s: %v", out, err)
	}
}

func TestWorldEndsWhatRunsInIt(t *testing.T) {
	var pids []int
	var dir string
	t.Run("inside", func(t *testing.T) {
		w := NewWorld(t, WorldOptions{})
		dir = w.Dir
		cmd := w.Command("", "sh", "-c", "setsid sleep 9999 >/dev/null 2>&1 & echo hello >/var/lib/saltpeter")
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
		if b, err := os.ReadFile(filepath.Join(w.Dir, "varlib/saltpeter")); err != nil || string(b) != "hello\n" {
			t.Fatalf("%q, %v", b, err)
		}
		if pids = w.Processes(); len(pids) != 1 {
			t.Fatalf("processes %v", pids)
		}
	})
	for _, pid := range pids {
		deadline := time.Now().Add(20 * time.Second)
		for {
			b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
			if err != nil || strings.Contains(string(b), ") Z ") {
				break
			}
			if time.Now().After(deadline) {
				t.Fatalf("process %d lives on: %s", pid, b)
			}
			time.Sleep(5 * time.Millisecond)
		}
	}
	if _, err := os.Stat(dir); dir != "" && err == nil {
		t.Errorf("%s is still there", dir)
	}
}

// A test that is killed has no time to clean up.
func TestWorldEndsWithItsTest(t *testing.T) {
	if os.Getenv("LAB_TEST_DIE") != "" {
		w := NewWorld(t, WorldOptions{})
		cmd := w.Command("", "sleep", "9999")
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		fmt.Printf("SLEEPS %d %s\n", cmd.Process.Pid, w.Dir)
		syscall.Kill(os.Getpid(), syscall.SIGKILL)
	}
	cmd := exec.Command(os.Args[0], "-test.run=^TestWorldEndsWithItsTest$")
	cmd.Env = append(os.Environ(), "LAB_TEST_DIE=1")
	out, _ := cmd.CombinedOutput()
	_, line, ok := strings.Cut(string(out), "SLEEPS ")
	if !ok {
		t.Skipf("no world here: %s", out)
	}
	var pid int
	var dir string
	if _, err := fmt.Sscan(line, &pid, &dir); err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(dir)
	for deadline := time.Now().Add(30 * time.Second); ; time.Sleep(5 * time.Millisecond) {
		b, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
		if err != nil || !strings.Contains(string(b), "9999") { // nsenter becomes it
			break
		}
		if time.Now().After(deadline) {
			syscall.Kill(pid, syscall.SIGKILL)
			t.Fatalf("process %d outlives its test", pid)
		}
	}
}

func TestWorldWithSudo(t *testing.T) {
	w := NewWorld(t, WorldOptions{
		Packages: []string{"sudo"},
		Etc: map[string]string{
			"sudoers":    "spuser ALL=(ALL:ALL) NOPASSWD: ALL\n",
			"pam.d/sudo": "auth required pam_deny.so\naccount sufficient pam_permit.so\nsession sufficient pam_permit.so\n",
		}})
	s := SSHD(t, SSHDOptions{World: w})
	if out, err := remote(t, s, "spuser", "sudo -n id -u"); err != nil || strings.TrimSpace(out) != "0" {
		t.Fatalf("%q: %v\n%s", out, err, s.Log())
	}
	if out, err := remote(t, s, "spuser2", "sudo -n id -u"); err == nil {
		t.Fatalf("spuser2 is allowed: %q", out)
	}
}
