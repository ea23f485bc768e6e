package lab

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
)

// config is its sshd_config: of two lines for one keyword sshd takes the first.
func (s *Server) config(port int) string {
	lines := append([]string{
		"Port " + strconv.Itoa(port),
		"ListenAddress " + s.Host,
	}, s.opt.Config...)
	for _, k := range s.HostKeys {
		lines = append(lines, "HostKey "+k)
	}
	lines = append(lines,
		"AuthorizedKeysFile "+filepath.Join(s.Dir, "authorized", "%u"),
		"PidFile none", "StrictModes no", "UsePAM no", "UseDNS no", "PermitRootLogin yes", "PrintMotd no",
		"PasswordAuthentication no", "KbdInteractiveAuthentication no", "LogLevel VERBOSE")
	if s.World == nil {
		lines = append(lines, "SetEnv SP_LAB="+s.Dir) // by which killMarked finds what the sessions leave
	}
	lines = append(lines, newer(s.bin)...)
	return strings.Join(lines, "\n") + "\n"
}

// newer are lines for OpenSSH 9.8 and later, which would shut out a test whose
// logins are meant to fail, and which has helpers beside it.
func newer(bin string) []string {
	said, _ := exec.Command(bin, "-V").CombinedOutput()
	m := regexp.MustCompile(`OpenSSH_(\d+)\.(\d+)`).FindSubmatch(said)
	if m == nil {
		return nil
	}
	major, _ := strconv.Atoi(string(m[1]))
	minor, _ := strconv.Atoi(string(m[2]))
	if major < 9 || major == 9 && minor < 8 {
		return nil
	}
	lines := []string{"PerSourcePenalties no"}
	lib := filepath.Join(filepath.Dir(bin), "../lib/openssh")
	if path := filepath.Join(lib, "sshd-session"); executable(path) {
		lines = append(lines, "SshdSessionPath "+path)
	}
	if path := filepath.Join(lib, "sshd-auth"); executable(path) {
		lines = append(lines, "SshdAuthPath "+path)
	}
	return lines
}

func (s *Server) known() error {
	var b bytes.Buffer
	for _, k := range s.HostKeys {
		pub, err := os.ReadFile(k + ".pub")
		if err != nil {
			return err
		}
		fmt.Fprintf(&b, "[%s]:%d %s\n", s.Host, s.Port, strings.TrimSpace(string(pub)))
	}
	s.KnownHosts = filepath.Join(s.Dir, "known_hosts")
	return os.WriteFile(s.KnownHosts, b.Bytes(), 0o644)
}
