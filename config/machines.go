package config

import (
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"unicode"
)

const machinesKey = "saltpeter_machines"

// machineEntry is one line of an inventory: a machine, or nil where it is wrong.
type machineEntry struct {
	name    string
	line    int
	machine *Machine
	include string // instead of a machine: a list file to read
	at      pos
}

type machineReader struct {
	*scope
	m          *Machine
	ssh, local *value
}

var machineKeys = lazy[map[string]func(*machineReader, *value)]{make: func() map[string]func(*machineReader, *value) {
	return map[string]func(*machineReader, *value){
		"ssh": func(r *machineReader, v *value) {
			r.ssh = v
			if text, ok := r.trimmed("ssh", v); ok {
				if why := badSSH(text); why != "" {
					r.fail(v, "ssh", why, "write HOST, USER@HOST or USER@HOST:PORT")
					return
				}
				r.m.SSH = text
			}
		},
		"local":   func(r *machineReader, v *value) { r.local = v; set(&r.m.Local)(r.boolean("local", v)) },
		"enabled": func(r *machineReader, v *value) { set(&r.m.Enabled)(r.boolean("enabled", v)) },
		"sudo":    func(r *machineReader, v *value) { set(&r.m.Sudo)(r.boolean("sudo", v)) },
		"push":    func(r *machineReader, v *value) { set(&r.m.Push)(r.boolean("push", v)) },
		"tunnel":  func(r *machineReader, v *value) { set(&r.m.Tunnel)(r.boolean("tunnel", v)) },
		"spool":   func(r *machineReader, v *value) { set(&r.m.Spool)(r.trimmed("spool", v)) },
		"grains": func(r *machineReader, v *value) {
			if isNull(v) {
				return
			}
			if v.kind != mappingKind {
				r.fail(v, "grains", "is not a mapping of names to values", "write NAME: VALUE indented below it")
				return
			}
			r.m.Grains, _ = plainAny(v).(map[string]any)
		},
	}
}}

var machineKeyNames = lazy[[]string]{make: func() []string { return slices.Sorted(maps.Keys(machineKeys.get())) }}

// readMachines reads one saltpeter_machines. ok is false where it is no
// inventory at all; an empty one is.
func readMachines(s *scope, v *value) (list []machineEntry, ok bool) {
	in := s.inside(machinesKey + ".")
	if isNull(v) {
		in.warn(v, "", "is empty, as if it were not there", "write {} if there are to be no machines")
		return nil, false
	}
	if v.kind != mappingKind || v.fault != nil {
		in.faults(v, "")
		if v.kind != mappingKind {
			in.fail(v, "", "is not a mapping of machines", "write NAME: {ssh: HOST} or NAME: {local: true} indented below it")
		}
		return nil, false
	}
	in.doubled(v)
	for _, p := range v.pairs {
		if p.key.text == "include" {
			list = append(list, readIncludes(in, p.val)...)
			continue
		}
		e := machineEntry{name: p.key.text, line: p.key.line, at: pos{p.key.line, p.key.col}}
		if m, ok := readMachine(in, p.key, p.val); ok {
			e.machine = m
		}
		list = append(list, e)
	}
	return list, true
}

func readIncludes(s *scope, v *value) []machineEntry {
	if v.faulty {
		s.faults(v, "include")
		return nil
	}
	if v.kind == mappingKind {
		s.fail(v, "include", "is a mapping, and must be the path of a list of machines", "write include: PATH")
		return nil
	}
	paths, ok := s.texts("include", v)
	if !ok {
		return nil
	}
	list := make([]machineEntry, len(paths))
	for i, p := range paths {
		list[i] = machineEntry{include: p, line: v.line, at: pos{v.line, v.col}}
	}
	return list
}

func readMachine(s *scope, key, v *value) (*Machine, bool) {
	name := key.text
	in := s.inside(cut(name) + ".")
	in.faults(key, "")
	in.faults(v, "")
	if why := badMachineName(name); why != "" || isNull(key) {
		s.fail(key, "", fmt.Sprintf("%q cannot be the name of a machine: %s", cut(name), why), "choose another")
		return nil, false
	}
	if in.bad {
		return nil, false
	}
	if v.kind != mappingKind {
		hint := fmt.Sprintf("write %s: {ssh: HOST} or %s: {local: true}", cut(name), cut(name))
		if v.kind == scalarKind && !isNull(v) && badSSH(v.text) == "" {
			hint = fmt.Sprintf("write %s: {ssh: '%s'}", cut(name), v.text)
		}
		in.fail(v, "", "is not a mapping of keys", hint)
		return nil, false
	}
	r := &machineReader{scope: in, m: &Machine{Name: name, Enabled: true, Push: true, Source: fmt.Sprintf("%s:%d", s.file, key.line)}}
	in.doubled(v)
	for _, p := range v.pairs {
		if read := machineKeys.get()[p.key.text]; read != nil {
			read(r, p.val)
		} else {
			in.unknown(p.key, machineKeyNames.get())
		}
	}
	switch {
	case in.bad:
	case r.m.SSH != "" && r.m.Local:
		in.fail(r.ssh, "ssh", "cannot stand beside local: true", "take one of the two out")
	case r.m.SSH == "" && !r.m.Local:
		in.fail(key, "", "does not say how it is reached", fmt.Sprintf("add ssh: %s, or local: true", cut(name)))
	}
	return r.m, !in.bad
}

func badMachineName(name string) string {
	switch {
	case name == "" || name == "." || name == "..":
		return "it says nothing"
	case len(name) > 200:
		return "it is longer than 200 bytes"
	case strings.ContainsFunc(name, func(r rune) bool { return unicode.IsControl(r) || unicode.IsSpace(r) }):
		return "it holds blanks or control characters"
	case strings.ContainsAny(name, "/,"):
		return "it holds a / or a comma"
	}
	return ""
}

// badSSH says what is wrong with USER@HOST:PORT, "" if nothing is.
func badSSH(text string) string {
	_, host, port := splitSSH(text)
	switch {
	case host == "" || strings.ContainsAny(host, " \t/@,") || strings.HasPrefix(text, "-") || strings.HasPrefix(host, "-"):
		return fmt.Sprintf("%q does not name a host", cut(text))
	case port != "":
		if n, err := strconv.Atoi(port); err != nil || n < 1 || n > 65535 {
			return fmt.Sprintf("port %q is out of range 1-65535", cut(port))
		}
	}
	return ""
}

// splitSSH takes USER@HOST:PORT apart; an IPv6 address stands in brackets, or
// bare where there is no port.
func splitSSH(text string) (user, host, port string) {
	if i := strings.LastIndexByte(text, '@'); i >= 0 {
		user, text = text[:i], text[i+1:]
	}
	if rest, ok := strings.CutPrefix(text, "["); ok {
		host, rest, _ = strings.Cut(rest, "]")
		return user, host, strings.TrimPrefix(rest, ":")
	}
	if strings.Count(text, ":") == 1 {
		host, port, _ = strings.Cut(text, ":")
		return user, host, port
	}
	return user, text, ""
}
