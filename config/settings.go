package config

import (
	"fmt"
	"maps"
	"math"
	"net"
	"slices"
	"strings"
	"time"
)

// setting is one key of a saltpeter_config as one file gives it.
type setting struct {
	key   string
	at    pos
	apply func(*Settings) // nil: its value is wrong
}

func defaultSettings() Settings {
	return Settings{
		APIPort: 8888, APIBind: "127.0.0.1", MachinesPort: 8889, MachinesTLS: "auto",
		WrapperLogLevel: "normal", DefaultLocation: time.UTC, DefaultTransport: "auto",
		ElasticsearchIndex: "saltpeter", OpenSearchIndex: "saltpeter",
	}
}

// settingReader reads saltpeter_config.
type settingReader struct {
	*scope
	zones *zoneTable
	list  []setting
}

type settingKey func(r *settingReader, key string, v *value) func(*Settings)

// put makes the reader of a key out of the reader of its type.
func put[T any](read func(*scope, string, *value) (T, bool), to func(*Settings) *T) settingKey {
	return func(r *settingReader, key string, v *value) func(*Settings) {
		got, ok := read(r.scope, key, v)
		if !ok {
			return nil
		}
		return func(s *Settings) { *to(s) = got }
	}
}

func readPort(s *scope, key string, v *value) (int, bool) { return s.integer(key, v, 0, 65535) }

func readWords(words ...string) func(*scope, string, *value) (string, bool) {
	return func(s *scope, key string, v *value) (string, bool) { return s.word(key, v, words...) }
}

// readTLS reads off, auto or the pair of a certificate and a key.
func readTLS(s *scope, key string, v *value) (string, bool) {
	if is, ok := yamlBool(v.text); v.kind == scalarKind && v.plain && ok {
		return map[bool]string{true: "auto", false: "off"}[is], true
	}
	list, ok := s.texts(key, v)
	if !ok {
		return "", false
	}
	parts := strings.Split(strings.Join(list, ","), ",")
	for i := range parts {
		parts[i] = strings.TrimSpace(parts[i])
	}
	switch {
	case len(parts) == 1 && (parts[0] == "auto" || parts[0] == "off"):
		return parts[0], true
	case len(parts) == 2 && parts[0] != "" && parts[1] != "":
		return parts[0] + "," + parts[1], true
	}
	s.fail(v, key, fmt.Sprintf("%q is neither auto, off nor a pair of files", cut(strings.Join(list, ","))), "write auto, off, or CERTIFICATE,KEY")
	return "", false
}

// readLogDir reads a folder, or off, which YAML takes for a boolean.
func readLogDir(s *scope, key string, v *value) (string, bool) {
	if is, ok := yamlBool(v.text); v.kind == scalarKind && v.plain && ok {
		if is {
			s.fail(v, key, v.text+" is a YAML boolean", "name a folder, or write off")
		}
		return "off", !is
	}
	return s.trimmed(key, v)
}

var settingKeys = lazy[map[string]settingKey]{make: func() map[string]settingKey {
	return map[string]settingKey{
		"logdir":                        put(readLogDir, func(s *Settings) *string { return &s.LogDir }),
		"debug":                         put((*scope).boolean, func(s *Settings) *bool { return &s.Debug }),
		"api_ws":                        put((*scope).boolean, func(s *Settings) *bool { return &s.API }),
		"api_ws_port":                   put(readPort, func(s *Settings) *int { return &s.APIPort }),
		"api_ws_bind_addr":              put((*scope).address, func(s *Settings) *string { return &s.APIBind }),
		"api_ws_tls":                    put(readTLS, func(s *Settings) *string { return &s.APITLS }),
		"api_ws_allowed_hosts":          put((*scope).texts, func(s *Settings) *[]string { return &s.APIAllowedHosts }),
		"api_anonymous_role":            put(readWords("read", "operate"), func(s *Settings) *string { return &s.APIAnonymousRole }),
		"machines_ws_port":              put(readPort, func(s *Settings) *int { return &s.MachinesPort }),
		"machines_ws_bind_addr":         put((*scope).address, func(s *Settings) *string { return &s.MachinesBind }),
		"machines_ws_tls":               put(readTLS, func(s *Settings) *string { return &s.MachinesTLS }),
		"default_saltpeter_server_host": put((*scope).trimmed, func(s *Settings) *string { return &s.ServerHost }),
		"default_wrapper_path":          put((*scope).trimmed, func(s *Settings) *string { return &s.WrapperPath }),
		"default_wrapper_loglevel":      put(readWords("normal", "debug", "off"), func(s *Settings) *string { return &s.WrapperLogLevel }),
		"default_wrapper_logdir":        put((*scope).trimmed, func(s *Settings) *string { return &s.WrapperLogDir }),
		"default_transport":             put(readWords("auto", "local", "ssh", "salt"), func(s *Settings) *string { return &s.DefaultTransport }),
		"state_dir":                     put((*scope).trimmed, func(s *Settings) *string { return &s.StateDir }),
		"retention":                     put((*scope).positive, func(s *Settings) *time.Duration { return &s.Retention }),
		"socket_group":                  put((*scope).trimmed, func(s *Settings) *string { return &s.SocketGroup }),
		"tokens_file":                   put((*scope).trimmed, func(s *Settings) *string { return &s.TokensFile }),
		"adopt_unknown":                 put((*scope).boolean, func(s *Settings) *bool { return &s.AdoptUnknown }),
		"elasticsearch":                 put((*scope).texts, func(s *Settings) *[]string { return &s.Elasticsearch }),
		"elasticsearch_index":           put((*scope).trimmed, func(s *Settings) *string { return &s.ElasticsearchIndex }),
		"opensearch":                    put((*scope).texts, func(s *Settings) *[]string { return &s.OpenSearch }),
		"opensearch_index":              put((*scope).trimmed, func(s *Settings) *string { return &s.OpenSearchIndex }),
		"default_timezone": func(r *settingReader, key string, v *value) func(*Settings) {
			loc, ok := r.zone(key, v, r.zones)
			if !ok {
				return nil
			}
			return func(s *Settings) { s.DefaultLocation = loc }
		},
	}
}}

var sshKeys = lazy[map[string]settingKey]{make: func() map[string]settingKey {
	return map[string]settingKey{
		"user":           put((*scope).trimmed, func(s *Settings) *string { return &s.SSH.User }),
		"port":           put(readSSHPort, func(s *Settings) *int { return &s.SSH.Port }),
		"identity_files": put((*scope).texts, func(s *Settings) *[]string { return &s.SSH.IdentityFiles }),
		"known_hosts":    put((*scope).trimmed, func(s *Settings) *string { return &s.SSH.KnownHosts }),
		"config":         put((*scope).trimmed, func(s *Settings) *string { return &s.SSH.Config }),
		"concurrency":    put(readConcurrency, func(s *Settings) *int { return &s.SSH.Concurrency }),
	}
}}

func readSSHPort(s *scope, key string, v *value) (int, bool) { return s.integer(key, v, 1, 65535) }

func readConcurrency(s *scope, key string, v *value) (int, bool) {
	return s.integer(key, v, 1, math.MaxInt32)
}

var (
	settingNames = lazy[[]string]{make: func() []string { return append(slices.Sorted(maps.Keys(settingKeys.get())), "ssh") }}
	sshNames     = lazy[[]string]{make: func() []string { return slices.Sorted(maps.Keys(sshKeys.get())) }}
)

// readSettings reads one saltpeter_config. Every key stands for itself: a wrong
// one keeps its last good value and spoils no other.
func readSettings(s *scope, v *value, zones *zoneTable) []setting {
	if isNull(v) {
		return nil
	}
	r := &settingReader{scope: s.inside("saltpeter_config."), zones: zones}
	r.faults(v, "")
	if v.kind != mappingKind {
		r.fail(v, "", "is not a mapping of keys", "write the keys indented below it")
		return nil
	}
	r.keys(v, "", settingKeys.get(), settingNames.get())
	return r.list
}

func (r *settingReader) keys(v *value, above string, known map[string]settingKey, names []string) {
	r.doubled(v)
	for _, p := range v.pairs {
		key := p.key.text
		full := above + key
		switch read := known[key]; {
		case p.val.faulty:
			r.list = append(r.list, setting{key: full, at: pos{p.key.line, p.key.col}})
		case read != nil:
			if isNull(p.val) {
				r.warn(p.val, key, "is empty, as if it were not there", "give it a value or take it out")
				continue
			}
			r.list = append(r.list, setting{key: full, at: pos{p.key.line, p.key.col}, apply: read(r, key, p.val)})
			r.later(full, key, p.val)
		case full == "ssh":
			r.ssh(p.val)
		default:
			r.unknown(p.key, names)
		}
	}
}

func (r *settingReader) ssh(v *value) {
	if v.kind != mappingKind {
		r.fail(v, "ssh", "is not a mapping", "write user, port, identity_files, known_hosts, config or concurrency indented below it")
		return
	}
	in := &settingReader{scope: r.inside("ssh."), zones: r.zones}
	in.keys(v, "ssh.", sshKeys.get(), sshNames.get())
	r.list = append(r.list, in.list...)
}

func (r *settingReader) later(full, key string, v *value) {
	if full != "default_transport" {
		return
	}
	if instead := transportNotYet(strings.ToLower(v.text)); instead != "" {
		r.warn(v, key, "is not yet in effect: "+instead, "")
	}
}

// needsRestart are the settings that are read at start only, with what they are
// at the moment. The rest is live.
var needsRestart = []struct {
	key string
	get func(*Settings) string
}{
	{"api_ws", func(s *Settings) string { return fmt.Sprint(s.API) }},
	{"api_ws_port", func(s *Settings) string { return fmt.Sprint(s.APIPort) }},
	{"api_ws_bind_addr", func(s *Settings) string { return s.APIBind }},
	{"api_ws_tls", func(s *Settings) string { return s.APITLS }},
	{"machines_ws_port", func(s *Settings) string { return fmt.Sprint(s.MachinesPort) }},
	{"machines_ws_bind_addr", func(s *Settings) string { return s.MachinesBind }},
	{"machines_ws_tls", func(s *Settings) string { return s.MachinesTLS }},
	{"state_dir", func(s *Settings) string { return s.StateDir }},
	{"socket_group", func(s *Settings) string { return s.SocketGroup }},
	{"ssh", func(s *Settings) string { return fmt.Sprint(s.SSH) }},
	{"tokens_file", func(s *Settings) string { return s.TokensFile }},
	{"default_saltpeter_server_host", func(s *Settings) string { return s.ServerHost }},
}

// joinHostPort is net's, but leaves a missing port out.
func joinHostPort(host, port string) string {
	if port == "" {
		if strings.Contains(host, ":") {
			return "[" + host + "]"
		}
		return host
	}
	return net.JoinHostPort(host, port)
}
