package config

import (
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"
)

const job = "{schedule: '0 2 * * *', command: date, targets: '*'}\n"

// said reports whether a problem has all the parts in its message.
func said(set *Set, parts ...string) bool {
	return slices.ContainsFunc(set.Problems, func(p Problem) bool {
		for _, part := range parts {
			if !strings.Contains(p.String(), part) {
				return false
			}
		}
		return true
	})
}

func mustSay(t *testing.T, set *Set, parts ...string) {
	t.Helper()
	if !said(set, parts...) {
		t.Errorf("nothing says %q:\n%s", parts, messages(set))
	}
}

func fileOf(t *testing.T, set *Set, name string) File {
	t.Helper()
	for _, f := range set.Files {
		if f.Name == name {
			return f
		}
	}
	t.Fatalf("no file %s in %+v", name, set.Files)
	return File{}
}

func TestEveryJobKey(t *testing.T) {
	dir := t.TempDir()
	write(t, dir, "web.yaml", `saltpeter_config:
  default_timezone: Europe/Bucharest
  default_wrapper_logdir: /var/log/wrapper
  default_saltpeter_server_host: cron.example.org
defaults: {min: 5, hour: '*', dom: '*', mon: '*', dow: '*', command: date, targets: web1}
all:
  sec: 10
  min: 08
  hour: '*/2'
  dom: L
  mon: jan
  dow: '*'
  year: '2030'
  timezone: America/New_York
  command: |
    echo one
    echo two
  targets: [web1, 'web2']
  target_type: list
  user: app
  cwd: /srv
  env: {A: x, B: 2}
  timeout: 2h
  number_of_targets: 3
  batch_size: 25%
  canary: 1
  max_failures: 2
  on_stop: kill
  on_overlap: wait
  on_lost: start
  lockfile: /run/lock/x
  use_wrapper: no
  wrapper_path: /usr/bin/w
  wrapper_loglevel: off
  wrapper_logdir: /tmp/w
  saltpeter_server_host: other
  catch_up: one
  catch_up_window: 1d
  splay: 5m
  kill_grace: 10
  kill_signal: SIGINT
  leftover: kill
  drain: 250ms
  pause_stops_timeout: on
  lost_after: 10m
  retries: 2
  retry_delay: 30s
  transport: local
  streams: separate
  on_spool_full: block
  max_output: 10M
  notify: {on: [failure], webhook: 'http://x'}
  enabled: false
  description: all of it
`)
	set := load(t, dir, nil)
	if errs := set.Errors(); len(errs) > 0 {
		t.Fatalf("errors: %v", errs)
	}
	if want := []string{"defaults", "all"}; !slices.Equal(set.Order, want) {
		t.Fatalf("order %q, want %q", set.Order, want)
	}
	bucharest, _ := time.LoadLocation("Europe/Bucharest")
	d := *set.Jobs["defaults"]
	if d.Schedule == nil || d.Location.String() != bucharest.String() {
		t.Errorf("schedule %v in %v", d.Schedule, d.Location)
	}
	d.Schedule, d.Location, d.Raw = nil, nil, nil
	want := Job{
		Name: "defaults", Group: "web", File: "web.yaml", Line: 5,
		Fields:  FieldTexts{Min: "5", Hour: "*", Dom: "*", Mon: "*", Dow: "*"},
		Command: "date", Targets: "web1", TargetType: "glob", Timeout: time.Hour, OnStop: "finish", OnOverlap: "skip",
		OnLost: "wait", UseWrapper: true, WrapperLogLevel: "normal", WrapperLogDir: "/var/log/wrapper",
		ServerHost: "cron.example.org", CatchUp: "none", KillGrace: 5 * time.Second, KillSignal: "TERM", Leftover: "leave",
		Drain: 2 * time.Second, LostAfter: 5 * time.Minute, OnSpoolFull: "gap", MaxOutput: 1 << 30, Enabled: true,
	}
	if !reflect.DeepEqual(d, want) {
		t.Errorf("defaults are\n%+v want\n%+v", d, want)
	}
	a := *set.Jobs["all"]
	if a.Location.String() != "America/New_York" {
		t.Errorf("zone %v", a.Location)
	}
	raw := a.Raw
	a.Schedule, a.Location, a.Raw = nil, nil, nil
	want = Job{
		Name: "all", Group: "web", File: "web.yaml", Line: 6,
		Fields:  FieldTexts{Sec: "10", Min: "08", Hour: "*/2", Dom: "L", Mon: "jan", Dow: "*", Year: "2030"},
		Command: "echo one\necho two\n", Targets: "web1,web2", TargetType: "list", User: "app", Cwd: "/srv",
		Env: map[string]string{"A": "x", "B": "2"}, Timeout: 2 * time.Hour, NumberOfTargets: 3, Batch: Size{Percent: 25},
		Canary: 1, MaxFailures: Size{N: 2}, OnStop: "kill", OnOverlap: "wait", OnLost: "start", Lockfile: "/run/lock/x",
		WrapperPath: "/usr/bin/w", WrapperLogLevel: "off", WrapperLogDir: "/tmp/w", ServerHost: "other", CatchUp: "one",
		CatchUpWindow: 24 * time.Hour, Splay: 5 * time.Minute, KillGrace: 10 * time.Second, KillSignal: "INT", Leftover: "kill",
		Drain: 250 * time.Millisecond, PauseStopsTimeout: true, LostAfter: 10 * time.Minute, Retries: 2, RetryDelay: 30 * time.Second,
		Transport: "local", Streams: "separate", OnSpoolFull: "block", MaxOutput: 10 << 20,
		Notify: &Notify{Failure: true, Webhook: "http://x"}, Description: "all of it",
	}
	// "on" is a key here, and a boolean to YAML only as a value.
	if !reflect.DeepEqual(a, want) {
		t.Errorf("all is\n%+v want\n%+v", a, want)
	}
	if raw["min"] != "08" || raw["timeout"] != "2h" || raw["kill_grace"] != int64(10) || raw["enabled"] != false ||
		!reflect.DeepEqual(raw["targets"], []any{"web1", "web2"}) || !reflect.DeepEqual(raw["env"], map[string]any{"A": "x", "B": int64(2)}) {
		t.Errorf("raw is %v", raw)
	}
	// A key nobody tests here is a key nobody reads.
	for _, key := range jobKeyNames.get() {
		switch key {
		case "schedule", "utc", "allow_overlap", "hard_timeout", "soft_timeout":
		default:
			if _, ok := raw[key]; !ok {
				t.Errorf("key %s is not in this test", key)
			}
		}
	}
}

func TestSettings(t *testing.T) {
	dir := t.TempDir()
	write(t, dir, "a.yaml", `saltpeter_config:
  logdir: /var/log/sp
  debug: yes
  api_ws: true
  api_ws_port: 1
  api_ws_bind_addr: '::1'
  api_ws_tls: [cert, key]
  api_ws_allowed_hosts: [a, b]
  api_anonymous_role: operate
  machines_ws_port: 2
  machines_ws_bind_addr: 0.0.0.0
  machines_ws_tls: off
  default_saltpeter_server_host: h
  default_wrapper_path: /w
  default_wrapper_loglevel: off
  default_wrapper_logdir: /l
  default_timezone: Europe/Bucharest
  default_transport: local
  state_dir: /s
  retention: 30d
  socket_group: cron
  tokens_file: /t
  adopt_unknown: true
  elasticsearch: http://es
  elasticsearch_index: i
  opensearch: [http://os1, http://os2]
  opensearch_index: j
  ssh: {user: u, port: 23, identity_files: /k, known_hosts: /kh, config: /c, concurrency: 9}
`)
	write(t, dir, "b.yaml", "saltpeter_config: {api_ws_port: 3}\n")
	set := load(t, dir, nil)
	if errs := set.Errors(); len(errs) > 0 {
		t.Fatal(errs)
	}
	mustSay(t, set, "b.yaml:1:20: saltpeter_config.api_ws_port: is also set in a.yaml; this one counts")
	got := set.Settings
	if got.DefaultLocation.String() != "Europe/Bucharest" {
		t.Errorf("zone %v", got.DefaultLocation)
	}
	got.DefaultLocation = nil
	want := Settings{
		LogDir: "/var/log/sp", Debug: true, API: true, APIPort: 3, APIBind: "::1", APITLS: "cert,key", APIAllowedHosts: []string{"a", "b"},
		APIAnonymousRole: "operate", MachinesPort: 2, MachinesBind: "0.0.0.0", MachinesTLS: "off", ServerHost: "h", WrapperPath: "/w",
		WrapperLogLevel: "off", WrapperLogDir: "/l", DefaultTransport: "local", StateDir: "/s", Retention: 30 * 24 * time.Hour,
		SocketGroup: "cron", TokensFile: "/t", AdoptUnknown: true, Elasticsearch: []string{"http://es"}, ElasticsearchIndex: "i",
		OpenSearch: []string{"http://os1", "http://os2"}, OpenSearchIndex: "j",
		SSH: SSH{User: "u", Port: 23, IdentityFiles: []string{"/k"}, KnownHosts: "/kh", Config: "/c", Concurrency: 9},
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("settings\n%+v want\n%+v", got, want)
	}
}

func TestDirectoryErrors(t *testing.T) {
	dir := t.TempDir()
	missing := filepath.Join(dir, "missing")
	_, err := Load(missing, nil)
	if want := "cannot read job files in " + missing + ": no such directory; create it or name another with -c"; err == nil || err.Error() != want {
		t.Errorf("%v, want %s", err, want)
	}
	write(t, dir, "file", "")
	if _, err = Load(filepath.Join(dir, "file"), nil); err == nil || !strings.Contains(err.Error(), "it is not a directory; ") {
		t.Errorf("a file as directory: %v", err)
	}
	if os.Getuid() == 0 {
		t.Skip("root reads every directory: the rest cannot be tried")
	}
	locked := filepath.Join(dir, "locked")
	if err := os.Mkdir(locked, 0); err != nil {
		t.Fatal(err)
	}
	if _, err = Load(locked, nil); err == nil || !strings.Contains(err.Error(), "permission denied; let this user read it") {
		t.Errorf("unreadable directory: %v", err)
	}
}

func TestWhichFilesCount(t *testing.T) {
	dir, elsewhere := t.TempDir(), t.TempDir()
	write(t, dir, "b.yaml", "b: "+job)
	write(t, dir, "a.yaml", "z: "+job+"y: "+job)
	write(t, dir, "B.yaml", "upper: "+job)
	write(t, dir, ".hidden.yaml", "hidden: "+job)
	write(t, dir, ".#a.yaml", "lock: "+job)
	write(t, dir, "old.yml", "old: "+job)
	write(t, dir, ".yaml", "nameless: "+job)
	write(t, dir, "a.yaml~", "backup: "+job)
	write(t, dir, "none.yaml", "{}\n")
	write(t, elsewhere, "target", "linked: "+job)
	for _, err := range []error{
		os.Mkdir(filepath.Join(dir, "sub.yaml"), 0o755),
		os.WriteFile(filepath.Join(dir, "sub.yaml", "in.yaml"), []byte("deep: "+job), 0o644),
		os.Symlink(filepath.Join(elsewhere, "target"), filepath.Join(dir, "c.yaml")),
		os.Symlink(filepath.Join(elsewhere, "gone"), filepath.Join(dir, "dangling.yaml")),
		os.Symlink(filepath.Join(dir, "loop.yaml"), filepath.Join(dir, "loop.yaml")),
		syscall.Mkfifo(filepath.Join(dir, "pipe.yaml"), 0o644),
		os.Truncate(filepath.Join(dir, "b.yaml"), int64(len("b: "+job))),
		os.WriteFile(filepath.Join(dir, "large.yaml"), make([]byte, maxFileBytes+1), 0o644),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	set := load(t, dir, nil)
	if want := []string{"hidden", "upper", "z", "y", "b", "linked"}; !slices.Equal(set.Order, want) {
		t.Errorf("order %q, want %q", set.Order, want)
	}
	mustSay(t, set, "old.yml: is ignored: the names of job files end in .yaml; rename it to old.yaml")
	mustSay(t, set, "dangling.yaml: is a link to a file that does not exist")
	mustSay(t, set, "loop.yaml: cannot be read: its links lead in a circle")
	mustSay(t, set, "pipe.yaml: is not a regular file")
	mustSay(t, set, "large.yaml: is larger than 1 MiB; split it into several files")
	if n := len(set.Problems); n != 5 {
		t.Errorf("%d problems, want 5:\n%s", n, messages(set))
	}
	if f := fileOf(t, set, "a.yaml"); f.Broken || f.LastGood || f.Group != "a" || !slices.Equal(f.Jobs, []string{"z", "y"}) || f.Hash == "" {
		t.Errorf("file %+v", f)
	}
	if f := fileOf(t, set, "pipe.yaml"); !f.Broken || f.LastGood {
		t.Errorf("file %+v", f)
	}
}

func TestOver(t *testing.T) {
	dir := t.TempDir()
	write(t, dir, "a.yaml", "past: {min: 0, hour: 0, dom: 1, mon: 1, dow: '*', year: 2020, command: x, targets: '*'}\nnow: "+job)
	set := load(t, dir, nil)
	if len(set.Problems) > 0 {
		t.Errorf("Load does not know what year it is: %s", messages(set))
	}
	at := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	if ps := set.Over(at); len(ps) != 1 || ps[0].Job != "past" || !ps[0].Warning {
		t.Errorf("over: %v", ps)
	}
	if ps := set.Over(at.AddDate(-10, 0, 0)); len(ps) != 0 {
		t.Errorf("over: %v", ps)
	}
}
