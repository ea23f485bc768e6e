package config

import (
	"fmt"
	"path/filepath"
	"strings"
)

// A list of machines kept elsewhere: an ssh_config, or a list as Ansible has
// them. Only hosts are taken from it, by their own lines; patterns, ranges,
// variables and files that it includes itself are not.

// listFile is what one such file says.
type listFile struct {
	machines []Machine
	problems []Problem
}

func includePath(dir, path string) string {
	if filepath.IsAbs(path) {
		return path
	}
	return filepath.Join(dir, path)
}

func parseList(path string, data []byte) listFile {
	p := &listParser{path: path, seen: map[string]int{}}
	lines := strings.Split(strings.ReplaceAll(string(data), "\r\n", "\n"), "\n")
	if looksLikeSSH(lines) {
		p.ssh(lines)
	} else {
		p.ansible(lines)
	}
	for i, h := range p.hosts {
		p.out.machines = append(p.out.machines, p.machine(&p.hosts[i], h.line))
	}
	return p.out
}

// listHost is one host on its way to a Machine.
type listHost struct {
	name, address, user, port string
	local                     bool
	groups                    []any
	line                      int
}

type listParser struct {
	path  string
	hosts []listHost
	seen  map[string]int // name -> index in hosts
	out   listFile
}

func (p *listParser) warn(line int, text, hint string) {
	if len(p.out.problems) < 100 {
		p.out.problems = append(p.out.problems, Problem{File: p.path, Line: line, Col: 1, Text: text, Hint: hint, Warning: true})
	}
}

// looksLikeSSH: some line opens a block as only an ssh_config has them.
func looksLikeSSH(lines []string) bool {
	for _, line := range lines {
		key, args := sshLine(strings.TrimSpace(line))
		if (key == "host" || key == "match") && len(args) > 0 && !strings.Contains(line, "ansible_") {
			return true
		}
	}
	return false
}

// sshLine splits KEYWORD ARG… or KEYWORD=ARG…, quotes taken off.
func sshLine(line string) (key string, args []string) {
	i := strings.IndexAny(line, " \t=")
	if i < 0 {
		return strings.ToLower(line), nil
	}
	key = strings.ToLower(line[:i])
	rest := strings.TrimLeft(line[i:], " \t")
	rest = strings.TrimLeft(strings.TrimPrefix(rest, "="), " \t")
	for rest != "" && rest[0] != '#' {
		var arg string
		if rest[0] == '"' {
			arg, rest, _ = strings.Cut(rest[1:], `"`)
		} else {
			n := strings.IndexAny(rest, " \t")
			if n < 0 {
				n = len(rest)
			}
			arg, rest = rest[:n], rest[n:]
		}
		args = append(args, arg)
		rest = strings.TrimLeft(rest, " \t")
	}
	return key, args
}

func (p *listParser) ssh(lines []string) {
	var block []int // hosts of the block at hand
	for i, line := range lines {
		line = strings.TrimSpace(line)
		if line == "" || line[0] == '#' {
			continue
		}
		key, args := sshLine(line)
		if len(args) == 0 {
			continue
		}
		switch key {
		case "host":
			block = block[:0]
			for _, name := range args {
				if strings.ContainsAny(name, "*?!") {
					continue // a pattern names no machine
				}
				if h := p.host(name, i+1); h >= 0 {
					block = append(block, h)
				}
			}
		case "match":
			block = block[:0]
		case "include":
			p.warn(i+1, "files that this one includes are not read for machines", "name them in include: as well")
		case "hostname", "user", "port":
			for _, h := range block {
				p.hosts[h].first(key, args[0])
			}
		}
	}
}

// first sets what is not set: in an ssh_config the first value wins.
func (h *listHost) first(key, to string) {
	switch {
	case key == "hostname" && h.address == "":
		h.address = strings.ReplaceAll(to, "%h", h.name)
	case key == "user" && h.user == "":
		h.user = to
	case key == "port" && h.port == "":
		h.port = to
	}
}

// host returns the index of a host, new or known, -1 where it cannot be one.
func (p *listParser) host(name string, line int) int {
	if i, ok := p.seen[name]; ok {
		return i
	}
	if why := badMachineName(name); why != "" {
		p.warn(line, fmt.Sprintf("%q cannot be the name of a machine: %s", cut(name), why), "")
		return -1
	}
	p.seen[name] = len(p.hosts)
	p.hosts = append(p.hosts, listHost{name: name, line: line})
	return len(p.hosts) - 1
}

func (p *listParser) ansible(lines []string) {
	group, skip := "", false
	for i, line := range lines {
		line = strings.TrimSpace(line)
		if line == "" || line[0] == '#' || line[0] == ';' {
			continue
		}
		if line[0] == '[' {
			group, _, _ = strings.Cut(line[1:], "]")
			_, suffix, special := strings.Cut(group, ":")
			skip = special
			if special && suffix != "vars" && suffix != "children" {
				p.warn(i+1, fmt.Sprintf("section %s is not known", cut(line)), "")
			}
			continue
		}
		if skip {
			continue
		}
		fields := strings.Fields(line)
		name := fields[0]
		if strings.ContainsAny(name, "[*?") || strings.HasSuffix(name, ":") || strings.Contains(name, "=") {
			p.warn(i+1, fmt.Sprintf("%q is not the name of one host, and is left out", cut(name)), "write one host a line")
			continue
		}
		n := p.host(name, i+1)
		if n < 0 {
			continue
		}
		h := &p.hosts[n]
		if group != "" && group != "ungrouped" {
			h.groups = append(h.groups, group)
		}
		for _, f := range fields[1:] {
			if strings.HasPrefix(f, "#") {
				break
			}
			h.ansible(f)
		}
	}
}

func (h *listHost) ansible(field string) {
	key, to, _ := strings.Cut(field, "=")
	to = strings.Trim(to, `"'`)
	switch key {
	case "ansible_host", "ansible_ssh_host":
		h.address = to
	case "ansible_user", "ansible_ssh_user":
		h.user = to
	case "ansible_port", "ansible_ssh_port":
		h.port = to
	case "ansible_connection":
		h.local = to == "local"
	}
}

// machine makes a Machine; what it says about the road is checked as in YAML.
func (p *listParser) machine(h *listHost, line int) Machine {
	m := Machine{Name: h.name, Enabled: true, Push: true, Source: fmt.Sprintf("%s:%d", p.path, line)}
	if len(h.groups) > 0 {
		m.Grains = map[string]any{"groups": h.groups}
	}
	if h.local {
		m.Local = true
		return m
	}
	host := h.address
	if host == "" {
		host = h.name
	}
	m.SSH = joinHostPort(host, h.port)
	if h.user != "" {
		m.SSH = h.user + "@" + m.SSH
	}
	if why := badSSH(m.SSH); why != "" {
		p.warn(line, fmt.Sprintf("machine %s: %s", h.name, why), "it cannot be reached until that is mended")
	}
	return m
}
