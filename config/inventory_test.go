package config

import (
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
)

func namesOf(ms []Machine) string {
	var list []string
	for _, m := range ms {
		list = append(list, m.Name)
	}
	return strings.Join(list, " ")
}

func TestThisHostIsTheInventory(t *testing.T) {
	set := load(t, t.TempDir(), nil)
	host, err := os.Hostname()
	if err != nil {
		t.Fatal(err)
	}
	if len(set.Machines) != 1 {
		t.Fatalf("machines %+v", set.Machines)
	}
	m := set.Machines[0]
	if !strings.HasPrefix(m.Name, host) || !m.Local || !m.Enabled || m.SSH != "" {
		t.Errorf("machine %+v", m)
	}
	for _, grain := range []string{"id", "os", "kernel", "host", "nodename", "fqdn", "cpuarch", "num_cpus"} {
		if v := m.Grains[grain]; v == nil || v == "" {
			t.Errorf("grain %s is %v", grain, v)
		}
	}
}

func TestWrongInventoryIsNotThisHost(t *testing.T) {
	dir := t.TempDir()
	write(t, dir, "a.yaml", "saltpeter_machines: {web1: {shh: web1}}\n")
	if set := load(t, dir, nil); len(set.Machines) != 0 || len(set.Errors()) == 0 {
		t.Errorf("machines %+v", set.Machines)
	}
	write(t, dir, "a.yaml", "saltpeter_machines: {}\n")
	if set := load(t, dir, nil); len(set.Machines) != 0 || len(set.Problems) > 0 {
		t.Errorf("machines %+v", set.Machines)
	}
}

func TestInventoryAndMatching(t *testing.T) {
	dir := t.TempDir()
	write(t, dir, "a.yaml", `saltpeter_machines:
  web1: {ssh: 'root@web1.example.org:2222', grains: {role: web, dc: {name: east}}, sudo: true, push: false, tunnel: true, spool: /s}
  web2: {ssh: web2, enabled: false, grains: {role: web}}
  here: {local: true, grains: {os: Mine}}
`)
	write(t, dir, "b.yaml", `globs: {schedule: '@daily', command: x, targets: 'web*'}
grains: {schedule: '@daily', command: x, targets: 'dc:name:east', target_type: grain}
listed: {schedule: '@daily', command: x, targets: [here, web1, nobody]}
salty: {schedule: '@daily', command: x, targets: 'role:web', target_type: pillar}
`)
	set := load(t, dir, nil)
	if errs := set.Errors(); len(errs) > 0 {
		t.Fatal(errs)
	}
	w := set.Machines[0]
	if w.SSH != "root@web1.example.org:2222" || !w.Sudo || w.Push || !w.Tunnel || w.Spool != "/s" || !w.Enabled || w.Source != dir+"/a.yaml:2" {
		t.Errorf("web1 %+v", w)
	}
	if h := set.Machines[2]; !h.Local || h.Grains["os"] != "Mine" || h.Grains["kernel"] == nil || h.Grains["id"] != "here" {
		t.Errorf("here %+v", h)
	}
	for name, want := range map[string][2]string{"globs": {"web1", "web2"}, "grains": {"web1", ""}, "listed": {"web1 here", ""}} {
		match, disabled, err := set.Matching(set.Jobs[name])
		if err != nil || namesOf(match) != want[0] || namesOf(disabled) != want[1] {
			t.Errorf("%s: %q, disabled %q, %v; want %q", name, namesOf(match), namesOf(disabled), err, want)
		}
	}
	if _, _, err := set.Matching(set.Jobs["salty"]); err == nil {
		t.Error("pillar can be told without Salt")
	}
	// One entry breaks: it stays as it was, the others follow the file.
	write(t, dir, "a.yaml", "saltpeter_machines: {web1: {ssh: ''}, web3: {ssh: web3}}\n")
	if set = load(t, dir, set); namesOf(set.Machines) != "web1 web3" || set.Machines[0].SSH != w.SSH {
		t.Errorf("machines %+v", set.Machines)
	}
	write(t, dir, "b.yaml", "saltpeter_machines: {web3: {local: true}}\n")
	set = load(t, dir, set)
	mustSay(t, set, "b.yaml:1:22: saltpeter_machines.web3: is also at "+dir+"/a.yaml:1; this one counts")
	if namesOf(set.Machines) != "web1 web3" || !set.Machines[1].Local {
		t.Errorf("machines %+v", set.Machines)
	}
}

func TestInclude(t *testing.T) {
	dir := t.TempDir()
	write(t, dir, "ssh_config", `# mine
Include other
User everybody
Host web1 web2
    HostName=%h.example.org
    Port 2222
Host *.example.org !bad
    User nobody
Host "db1"
    HostName "10.0.0.1"
    User postgres
    User later
Host web1
    User first
Match host x
    User never
`)
	write(t, dir, "hosts.ini", `; Ansible's
lonely ansible_port=22 # a comment
[web]
web3 ansible_host=10.0.0.3 ansible_user=root ansible_port=2200
web[01:50]
web1
here ansible_connection=local
[db]
web3
[web:vars]
x=1
[all:children]
web
`)
	write(t, dir, "a.yaml", "saltpeter_machines: {include: [ssh_config, '"+filepath.Join(dir, "hosts.ini")+"']}\n")
	set := load(t, dir, nil)
	got := map[string]string{}
	for _, m := range set.Machines {
		got[m.Name] = m.SSH
	}
	for name, want := range map[string]string{
		"web1": "web1", "web2": "web2.example.org:2222", "db1": "postgres@10.0.0.1", "lonely": "lonely:22",
		"web3": "root@10.0.0.3:2200", "here": "",
	} {
		if ssh, ok := got[name]; !ok || ssh != want {
			t.Errorf("%s is reached by %q, want %q", name, ssh, want)
		}
	}
	if len(got) != 6 {
		t.Errorf("machines %v", got)
	}
	mustSay(t, set, "ssh_config:2:1: files that this one includes")
	mustSay(t, set, `hosts.ini:5:1: "web[01:50]" is not the name of one host`)
	mustSay(t, set, "saltpeter_machines.web1: is also at "+dir+"/ssh_config:4")
	for _, m := range set.Machines {
		if m.Name == "web3" && !slices.Equal(m.Grains["groups"].([]any), []any{"web", "db"}) {
			t.Errorf("groups %v", m.Grains)
		}
		if m.Name == "here" && (!m.Local || m.Grains["kernel"] == nil) {
			t.Errorf("here %+v", m)
		}
	}
	// The list changes although no job file does; then it is gone.
	write(t, dir, "hosts.ini", "only\n")
	next := load(t, dir, set)
	if next.Serial == set.Serial || namesOf(next.Machines) != "web1 web2 db1 only" {
		t.Errorf("machines %s", namesOf(next.Machines))
	}
	if err := os.Remove(filepath.Join(dir, "hosts.ini")); err != nil {
		t.Fatal(err)
	}
	gone := load(t, dir, next)
	if namesOf(gone.Machines) != "web1 web2 db1 only" {
		t.Errorf("machines %s", namesOf(gone.Machines))
	}
	mustSay(t, gone, "hosts.ini does not exist; create it or mend the path; the machines that it had stay in force")
	if gone = load(t, dir, gone); namesOf(gone.Machines) != "web1 web2 db1 only" {
		t.Errorf("the second time: %s", namesOf(gone.Machines))
	}
}

func TestDiff(t *testing.T) {
	dir := t.TempDir()
	write(t, dir, "a.yaml", "same: "+job+"gone: "+job+`changed: {schedule: '@daily', command: x, targets: 'w*', env: {A: secret}}
saltpeter_machines: {w1: {local: true}, w2: {local: true}}
`)
	old := load(t, dir, nil)
	if got := Diff(nil, old); len(got) != 3 || !strings.HasPrefix(got[0], `job "same" added (a.yaml:1)`) {
		t.Errorf("from nothing: %q", got)
	}
	write(t, dir, "a.yaml", `
changed: {schedule: '@daily', command: y, targets: 'w*', env: {A: geheim}, timezone: Asia/Tokyo}
new: `+job+"same: "+job+`saltpeter_machines: {w1: {local: true}, w3: {local: true}}
saltpeter_config: {api_ws_port: 9999, debug: true}
saltpeter_maintenance: {global: true, machines: [w1]}
`)
	now := load(t, dir, old)
	want := []string{
		`job "gone" removed (was in a.yaml)`,
		`job "changed" changed: command, env, timezone`,
		`job "changed" runs on other machines: now also w3; no longer w2 (2 instead of 2)`,
		`job "new" added (a.yaml:3)`,
		`job "same" runs on other machines: now also w3; no longer w2 (2 instead of 2)`,
		"maintenance of everything begins: no new run starts",
		"maintenance of machine w1 begins",
		"saltpeter_config.api_ws_port changed from 8888 to 9999: needs a restart",
	}
	if got := Diff(old, now); !slices.Equal(got, want) {
		t.Errorf("diff is\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
	if got := Diff(now, load(t, dir, nil)); len(got) != 0 {
		t.Errorf("equal sets differ: %q", got)
	}
	back := Diff(now, old)
	for _, line := range back {
		if strings.Contains(line, "secret") || strings.Contains(line, "geheim") {
			t.Errorf("a secret is shown: %s", line)
		}
	}
	if !slices.Contains(back, "maintenance of everything ends") || !slices.Contains(back, "maintenance of machine w1 ends") {
		t.Errorf("back: %q", back)
	}
}

// Every exported field of a job is compared: one that is forgotten here would be
// a change that nobody is told of.
func TestDiffKnowsEveryField(t *testing.T) {
	for _, field := range jobFields() {
		switch field {
		case "Name", "File", "Line", "Schedule", "Fields", "Location", "Notify", "Raw":
		default:
			if jobFieldKeys.get()[field] == "" {
				t.Errorf("field %s is not compared", field)
			}
		}
	}
}

func jobFields() []string {
	var list []string
	for i := range reflect.TypeFor[Job]().NumField() {
		list = append(list, reflect.TypeFor[Job]().Field(i).Name)
	}
	return list
}
