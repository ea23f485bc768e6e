package sshx

import (
	"bufio"
	"errors"
	"fmt"
	"net"
	"os"
	"os/user"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/kevinburke/ssh_config"
)

// Endpoint is what would be used for a target.
type Endpoint struct {
	Target         string   // as the caller named it
	User           string   //
	Host           string   // the name that is dialled
	Port           int      //
	HostKeyName    string   // the name that known_hosts is asked for: HOST:PORT, or HostKeyAlias
	Jumps          []string // as they are dialled, first to last: USER@HOST:PORT
	IdentityFiles  []string // those that exist are tried, in this order
	IdentitiesOnly bool     // the agent is asked for these only
	KnownHosts     []string // files; an accepted key goes to the first
}

// Addr is HOST:PORT.
func (e Endpoint) Addr() string { return net.JoinHostPort(e.Host, strconv.Itoa(e.Port)) }

// place is an Endpoint with what only this package needs.
type place struct {
	Endpoint
	usual []string    // identity files that nobody named: tried after the agent's
	certs []string    // CertificateFile
	agent string      // the agent's socket; "" = none
	jump  *place      // nil = dialled directly
	key   string      // connections are shared by places with the same
	peek  chan peeked // only the host key is wanted
}

// ssh_config lives longer than a file: it is read again when this old. Its
// Includes make looking for changes no cheaper.
const configAge = 2 * time.Second

// settings are the ssh_config files in the order in which they count.
type settings struct {
	mu    sync.Mutex
	named string
	home  string
	read  time.Time
	files []*ssh_config.Config
	err   error
}

func (s *settings) load() ([]*ssh_config.Config, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.read.IsZero() && time.Since(s.read) < configAge {
		return s.files, s.err
	}
	s.files, s.err = nil, nil
	paths := []string{s.named}
	if s.named == "" {
		paths = []string{filepath.Join(s.home, ".ssh", "config"), "/etc/ssh/ssh_config"}
	}
	for _, path := range paths {
		f, err := parseConfig(path, s.home)
		if err != nil && (s.named != "" || !errors.Is(err, os.ErrNotExist)) {
			s.files, s.err = nil, fmt.Errorf("ssh_config %s: %w", path, err)
			break
		}
		if err == nil {
			s.files = append(s.files, f)
		}
	}
	s.read = time.Now()
	return s.files, s.err
}

func parseConfig(path, home string) (*ssh_config.Config, error) {
	if err := checkMatches(path, home, 0); err != nil {
		return nil, err
	}
	b, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	if filepath.Dir(path) == "/etc/ssh" { // its Includes are relative to /etc/ssh
		includes := regexp.MustCompile(`(?im)^(\s*include\s+)([^/~\s][^\s]*)`)
		b = includes.ReplaceAll(b, []byte("${1}/etc/ssh/$2"))
	}
	return ssh_config.DecodeBytes(b)
}

// checkMatches refuses what the parser would take for something else: of Match it
// knows "all" and "host" with patterns, and reads further words as patterns too.
func checkMatches(path, home string, depth int) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	lines := bufio.NewScanner(f)
	for n := 1; lines.Scan(); n++ {
		line, _, _ := strings.Cut(lines.Text(), "#")
		words := strings.Fields(strings.Replace(line, "=", " ", 1))
		if len(words) == 0 {
			continue
		}
		switch strings.ToLower(words[0]) {
		case "match":
			plain := len(words) == 2 && strings.EqualFold(words[1], "all")
			if len(words) == 3 && strings.EqualFold(words[1], "host") && !strings.Contains(words[2], ",") {
				plain = true
			}
			if !plain {
				return fmt.Errorf("line %d: %s: of Match only \"Match all\" and \"Match host PATTERN\" are understood here; write a Host block", n, strings.TrimSpace(line))
			}
		case "include":
			if depth > 16 {
				return errors.New("it goes in a circle")
			}
			for _, glob := range words[1:] {
				if err := includes(path, glob, home, depth+1); err != nil {
					return fmt.Errorf("line %d: Include %s: %w", n, glob, err)
				}
			}
		}
	}
	return lines.Err()
}

func includes(from, glob, home string, depth int) error {
	switch {
	case filepath.IsAbs(glob):
	case strings.HasPrefix(glob, "~/"):
		glob = filepath.Join(home, glob[2:])
	case strings.HasPrefix(from, "/etc/ssh/"):
		glob = filepath.Join("/etc/ssh", glob)
	default:
		glob = filepath.Join(home, ".ssh", glob)
	}
	found, err := filepath.Glob(glob)
	if err != nil {
		return err
	}
	for _, path := range found {
		if err := checkMatches(path, home, depth); err != nil {
			return err
		}
	}
	return nil
}

// first is the first value of a keyword for a host, as ssh takes it.
func first(files []*ssh_config.Config, host, key string) string {
	for _, f := range files {
		if v, err := f.Get(host, key); err == nil && v != "" {
			return v
		}
	}
	return ""
}

func all(files []*ssh_config.Config, host, key string) []string {
	var values []string
	for _, f := range files {
		v, _ := f.GetAll(host, key)
		values = append(values, v...)
	}
	return values
}

// Resolve says what would be used for a target, without a connection.
func (c *Client) Resolve(target string) (Endpoint, error) {
	p, err := c.resolve(target)
	if err != nil {
		return Endpoint{}, err
	}
	return p.Endpoint, nil
}

func (c *Client) resolve(target string) (*place, error) {
	files, err := c.settings.load()
	var p *place
	if err == nil {
		p, err = c.place(files, target, nil, 0)
	}
	if err != nil {
		return nil, &Error{Target: target, Stage: StageResolve, Err: err}
	}
	return p, nil
}

// place resolves one target. via is the jump host before it, where a list of
// ProxyJump gave one.
func (c *Client) place(files []*ssh_config.Config, target string, via *place, depth int) (*place, error) {
	if depth > 8 {
		return nil, errors.New("ProxyJump goes in a circle, or over more than eight hosts")
	}
	login, host, port, err := parseTarget(target)
	if err != nil {
		return nil, err
	}
	p := &place{Endpoint: Endpoint{Target: target, User: login, Host: host, Port: port}, jump: via}
	if name := first(files, host, "HostName"); name != "" {
		p.Host = strings.NewReplacer("%%", "%", "%h", host).Replace(name)
	}
	if p.Port == 0 {
		if p.Port, err = c.port(files, host); err != nil {
			return nil, err
		}
	}
	for _, name := range []string{first(files, host, "User"), c.o.User, c.me.Username} {
		if p.User == "" {
			p.User = name
		}
	}
	p.HostKeyName = p.Addr()
	if alias := first(files, host, "HostKeyAlias"); alias != "" {
		p.HostKeyName = net.JoinHostPort(alias, "22")
	}
	if command := first(files, host, "ProxyCommand"); command != "" && !strings.EqualFold(command, "none") && via == nil && first(files, host, "ProxyJump") == "" {
		return nil, fmt.Errorf("ssh_config has ProxyCommand %s for %s, which is not run here; write ProxyJump", command, host)
	}
	if via == nil {
		if p.jump, err = c.jumps(files, first(files, host, "ProxyJump"), depth); err != nil {
			return nil, err
		}
	}
	c.identities(files, host, p)
	c.finish(p)
	return p, nil
}

// finish fills in what follows from the rest.
func (c *Client) finish(p *place) {
	jump := ""
	for j := p.jump; j != nil; j = j.jump {
		p.Jumps = append([]string{j.User + "@" + j.Addr()}, p.Jumps...)
	}
	if p.jump != nil {
		jump = p.jump.key
	}
	p.key = fmt.Sprintf("%q", []any{p.User, p.Addr(), p.HostKeyName, p.IdentityFiles, p.IdentitiesOnly, p.agent, p.certs, p.KnownHosts, jump})
}

func (c *Client) port(files []*ssh_config.Config, host string) (int, error) {
	text := first(files, host, "Port")
	if text == "" {
		return c.o.Port, nil
	}
	n, err := strconv.Atoi(text)
	if err != nil || n < 1 || n > 65535 {
		return 0, fmt.Errorf("ssh_config has Port %s for %s", text, host)
	}
	return n, nil
}

// jumps resolves a list of ProxyJump: each host is reached over the one before
// it, the first one as ssh_config says for it.
func (c *Client) jumps(files []*ssh_config.Config, list string, depth int) (*place, error) {
	if list == "" || strings.EqualFold(list, "none") {
		return nil, nil
	}
	var last *place
	for _, hop := range strings.Split(list, ",") {
		p, err := c.place(files, strings.TrimSpace(hop), last, depth+1)
		if err != nil {
			return nil, fmt.Errorf("jump host %s: %w", hop, err)
		}
		last = p
	}
	return last, nil
}

// usualKeys are tried where ssh_config names none, as ssh does.
var usualKeys = []string{"id_ed25519", "id_ecdsa", "id_rsa"}

func (c *Client) identities(files []*ssh_config.Config, host string, p *place) {
	expand := func(path string) string { return c.expand(path, host, p) }
	p.IdentityFiles = append(p.IdentityFiles, c.o.IdentityFiles...)
	named := all(files, host, "IdentityFile")
	for _, f := range named {
		if !strings.EqualFold(f, "none") {
			p.IdentityFiles = append(p.IdentityFiles, expand(f))
		}
	}
	if len(named) == 0 {
		for _, f := range usualKeys {
			p.usual = append(p.usual, filepath.Join(c.me.HomeDir, ".ssh", f))
		}
	}
	for _, f := range all(files, host, "CertificateFile") {
		p.certs = append(p.certs, expand(f))
	}
	p.IdentitiesOnly = strings.EqualFold(first(files, host, "IdentitiesOnly"), "yes")
	p.agent = os.Getenv("SSH_AUTH_SOCK")
	switch a := first(files, host, "IdentityAgent"); {
	case a == "" || a == "SSH_AUTH_SOCK":
	case strings.EqualFold(a, "none"):
		p.agent = ""
	case strings.HasPrefix(a, "$") && !strings.HasPrefix(a, "${"):
		p.agent = os.Getenv(a[1:])
	default:
		p.agent = expand(a)
	}
	p.KnownHosts = []string{c.o.KnownHosts}
	if c.o.KnownHosts == "" {
		mine := strings.Fields(first(files, host, "UserKnownHostsFile"))
		if len(mine) == 0 {
			mine = []string{"~/.ssh/known_hosts", "~/.ssh/known_hosts2"}
		}
		global := strings.Fields(first(files, host, "GlobalKnownHostsFile"))
		if len(global) == 0 {
			global = []string{"/etc/ssh/ssh_known_hosts", "/etc/ssh/ssh_known_hosts2"}
		}
		p.KnownHosts = nil
		for _, f := range append(mine, global...) {
			if !strings.EqualFold(f, "none") {
				p.KnownHosts = append(p.KnownHosts, expand(f))
			}
		}
	}
}

// expand replaces ~, ${VARIABLES} and the tokens that a file's name may have.
func (c *Client) expand(path, host string, p *place) string {
	if path == "~" || strings.HasPrefix(path, "~/") {
		path = c.me.HomeDir + path[1:]
	}
	if strings.Contains(path, "${") {
		variable := regexp.MustCompile(`\$\{(\w+)\}`)
		path = variable.ReplaceAllStringFunc(path, func(v string) string { return os.Getenv(v[2 : len(v)-1]) })
	}
	name, _ := os.Hostname()
	short, _, _ := strings.Cut(name, ".")
	return strings.NewReplacer("%%", "%", "%d", c.me.HomeDir, "%h", p.Host, "%n", host, "%p", strconv.Itoa(p.Port),
		"%r", p.User, "%u", c.me.Username, "%i", c.me.Uid, "%l", name, "%L", short).Replace(path)
}

// whoami is the user that this process runs as; a container may not know its name.
func whoami() *user.User {
	if u, err := user.Current(); err == nil {
		return u
	}
	return &user.User{Username: os.Getenv("USER"), HomeDir: os.Getenv("HOME"), Uid: strconv.Itoa(os.Getuid())}
}

// parseTarget takes [USER@]HOST[:PORT] apart, with ssh:// before it or not.
func parseTarget(target string) (login, host string, port int, err error) {
	rest := strings.TrimPrefix(target, "ssh://")
	if i := strings.LastIndexByte(rest, '@'); i >= 0 {
		login, rest = rest[:i], rest[i+1:]
	}
	host = rest
	text := ""
	switch {
	case strings.HasPrefix(rest, "["):
		inside, after, ok := strings.Cut(rest[1:], "]")
		if !ok || after != "" && after[0] != ':' {
			return "", "", 0, fmt.Errorf("%q is no [USER@]HOST[:PORT]", target)
		}
		host, text = inside, strings.TrimPrefix(after, ":")
		if after == ":" {
			text = "?"
		}
	case strings.Count(rest, ":") == 1:
		host, text, _ = strings.Cut(rest, ":")
		if text == "" {
			text = "?"
		}
	}
	if text != "" {
		if port, err = strconv.Atoi(text); err != nil || port < 1 || port > 65535 {
			return "", "", 0, fmt.Errorf("%q has no valid port", target)
		}
	}
	if host == "" || strings.HasPrefix(host, "-") || strings.ContainsAny(host, " \t\r\n/") || strings.ContainsAny(login, " \t\r\n") {
		return "", "", 0, fmt.Errorf("%q is no [USER@]HOST[:PORT]", target)
	}
	return login, host, port, nil
}
