package config

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

func TestUnreadableFileKeepsItsJobs(t *testing.T) {
	if os.Getuid() == 0 {
		t.Skip("root reads every file: this needs an ordinary user")
	}
	dir := t.TempDir()
	write(t, dir, "a.yaml", "a: "+job)
	set := load(t, dir, nil)
	if err := os.Chmod(filepath.Join(dir, "a.yaml"), 0); err != nil {
		t.Fatal(err)
	}
	set = load(t, dir, set)
	mustSay(t, set, "a.yaml: cannot be read: permission denied", lastGoodFile)
	if set.Jobs["a"] == nil {
		t.Error("the job is gone")
	}
}

func TestBrokenFileKeepsItsLastGoodJobs(t *testing.T) {
	dir := t.TempDir()
	for name, text := range map[string]string{
		"syntax": "a: [", "empty": "", "blank": "# nothing\n", "list": "- a\n", "text": "a", "documents": "a: " + job + "---\nb: " + job,
		"large": strings.Repeat("#", maxFileBytes+1), "values": "a: [" + strings.Repeat("1,\n", maxNodes) + "]", "bytes": "\xff",
	} {
		t.Run(name, func(t *testing.T) {
			write(t, dir, "a.yaml", "a: "+job+"saltpeter_maintenance: {machines: [m]}\nsaltpeter_config: {debug: true}\n")
			write(t, dir, "b.yaml", "b: "+job)
			good := load(t, dir, nil)
			write(t, dir, "a.yaml", text)
			fresh := load(t, dir, nil)
			if !slices.Equal(fresh.Order, []string{"b"}) {
				t.Errorf("at start: %q", fresh.Order)
			}
			if f := fileOf(t, fresh, "a.yaml"); !f.Broken || f.LastGood {
				t.Errorf("at start: %+v", f)
			}
			for range 2 { // and once more from a set that was broken already
				broken := load(t, dir, good)
				if !slices.Equal(broken.Order, []string{"a", "b"}) || broken.Jobs["a"] != good.Jobs["a"] {
					t.Errorf("after a reload: %q", broken.Order)
				}
				if f := fileOf(t, broken, "a.yaml"); !f.Broken || !f.LastGood || !slices.Equal(f.Jobs, []string{"a"}) {
					t.Errorf("file %+v", f)
				}
				if !broken.Settings.Debug || !slices.Equal(broken.Maintenance.Machines, []string{"m"}) {
					t.Errorf("settings %+v, maintenance %+v", broken.Settings, broken.Maintenance)
				}
				if broken.Serial == good.Serial && good.Errors() == nil {
					t.Error("the serial does not tell that the file is broken")
				}
				mustSay(t, broken, "a.yaml", lastGoodFile)
				good = broken
			}
			write(t, dir, "a.yaml", "{}\n")
			if set := load(t, dir, good); !slices.Equal(set.Order, []string{"b"}) || len(set.Problems) > 0 || set.Settings.Debug {
				t.Errorf("mended to no jobs: %s", messages(set))
			}
			if err := os.Remove(filepath.Join(dir, "a.yaml")); err != nil {
				t.Fatal(err)
			}
			if set := load(t, dir, good); !slices.Equal(set.Order, []string{"b"}) || len(set.Maintenance.Machines) > 0 {
				t.Errorf("deleted: %s", messages(set))
			}
		})
	}
}

func TestBadJobKeepsItsLastGoodVersion(t *testing.T) {
	dir := t.TempDir()
	write(t, dir, "a.yaml", "one: "+job+"two: "+job+"three: "+job)
	good := load(t, dir, nil)
	write(t, dir, "a.yaml", "one: "+job+"two: {schedule: '0 99 * * *', command: new, targets: '*'}\nthree: {schedule: '0 3 * * *', command: new, targets: '*'}\n")
	set := load(t, dir, good)
	if !slices.Equal(set.Order, []string{"one", "two", "three"}) || set.Jobs["two"] != good.Jobs["two"] || set.Jobs["three"].Command != "new" {
		t.Errorf("jobs %q", set.Order)
	}
	if f := fileOf(t, set, "a.yaml"); f.Broken || !f.LastGood {
		t.Errorf("file %+v", f)
	}
	mustSay(t, set, `job "two"`, "99", lastGoodJob)
	again := load(t, dir, set)
	if again.Serial != set.Serial || again.Jobs["two"] != good.Jobs["two"] {
		t.Error("an unchanged directory gives another set")
	}
	// Carried through a file that breaks as a whole, and out of it again.
	write(t, dir, "a.yaml", "[")
	set = load(t, dir, again)
	if set.Jobs["two"] != good.Jobs["two"] || set.Jobs["three"].Command != "new" {
		t.Error("a broken file lost what was carried")
	}
	write(t, dir, "a.yaml", "one: "+job)
	if set = load(t, dir, set); !slices.Equal(set.Order, []string{"one"}) {
		t.Errorf("a job taken out stays: %q", set.Order)
	}
	// It moved to another file and got broken on the way.
	write(t, dir, "a.yaml", "{}\n")
	write(t, dir, "b.yaml", "one: {schedule: x, command: new, targets: '*'}\n")
	if moved := load(t, dir, set); moved.Jobs["one"] != good.Jobs["one"] && moved.Jobs["one"] != set.Jobs["one"] {
		t.Error("a job that moved and broke is gone")
	}
	fresh := load(t, dir, nil)
	if len(fresh.Order) > 0 || said(fresh, lastGoodJob) {
		t.Errorf("at start there is no last good version: %s", messages(fresh))
	}
}

func TestSameJobInTwoFiles(t *testing.T) {
	dir := t.TempDir()
	write(t, dir, "a.yaml", "x: {schedule: '@hourly', command: first, targets: '*'}\n")
	write(t, dir, "b.yaml", "y: "+job+"x: {schedule: '@hourly', command: second, targets: '*'}\n")
	set := load(t, dir, nil)
	if set.Jobs["x"].Command != "second" || !slices.Equal(set.Order, []string{"y", "x"}) {
		t.Errorf("%q: %+v", set.Order, set.Jobs["x"])
	}
	mustSay(t, set, `b.yaml:2:1: job "x": is also in a.yaml at line 1; the one in b.yaml counts`)
	if len(set.Errors()) != 1 {
		t.Error(messages(set))
	}
	// The last one breaks: what was in force stays.
	write(t, dir, "b.yaml", "y: "+job+"x: {schedule: '@hourly', command: second, targets: '*', timeout: -1}\n")
	if set := load(t, dir, set); set.Jobs["x"].Command != "second" {
		t.Errorf("in force is %q", set.Jobs["x"].Command)
	}
	if err := os.Remove(filepath.Join(dir, "b.yaml")); err != nil {
		t.Fatal(err)
	}
	if set := load(t, dir, set); set.Jobs["x"].Command != "first" || len(set.Problems) > 0 {
		t.Errorf("in force is %q", set.Jobs["x"].Command)
	}
}

func TestMaintenanceTakesEffectInABrokenFile(t *testing.T) {
	dir := t.TempDir()
	write(t, dir, "a.yaml", "a: "+job)
	set := load(t, dir, nil)
	for name, c := range map[string]struct {
		text     string
		global   bool
		machines []string
	}{
		"bad job":      {"saltpeter_maintenance: {global: yes}\na: {}\n", true, nil},
		"bad syntax":   {"a: [\nsaltpeter_maintenance:\n  global: true\n  machines:\n  - m\nb: x: y\n", true, []string{"m"}},
		"bare star":    {"a:\n  min: *\nsaltpeter_maintenance: {machines: 'm n'}\n", false, []string{"m", "n"}},
		"half of it":   {"a: [\nsaltpeter_maintenance: {global: tru", false, nil},
		"twice":        {"a: [\nsaltpeter_maintenance: {global: true}\nsaltpeter_maintenance: {global: true}\n", false, nil},
		"switched off": {"saltpeter_maintenance: {global: no}\na: [\n", false, nil},
	} {
		t.Run(name, func(t *testing.T) {
			write(t, dir, "a.yaml", c.text)
			got := load(t, dir, set)
			if got.Maintenance.Global != c.global || !slices.Equal(got.Maintenance.Machines, c.machines) {
				t.Errorf("maintenance %+v, want %t %v", got.Maintenance, c.global, c.machines)
			}
			if c.global && got.Maintenance.Source != "a.yaml" {
				t.Errorf("source %q", got.Maintenance.Source)
			}
			if got.Jobs["a"] == nil {
				t.Error("the job is gone")
			}
		})
	}
	// What holds back goes on holding back while nobody can read it.
	write(t, dir, "a.yaml", "saltpeter_maintenance: {global: true, machines: [m]}\n")
	set = load(t, dir, set)
	for _, text := range []string{"[", "saltpeter_maintenance: {global: perhaps, machines: [[]]}\n", "saltpeter_maintenance: on\n"} {
		write(t, dir, "a.yaml", text)
		set = load(t, dir, set)
		if !set.Maintenance.Global || !slices.Equal(set.Maintenance.Machines, []string{"m"}) {
			t.Errorf("%q lifts maintenance: %+v", text, set.Maintenance)
		}
	}
	write(t, dir, "b.yaml", "saltpeter_maintenance: {machines: [n]}\n")
	if set = load(t, dir, set); !set.Maintenance.Global || len(set.Maintenance.Machines) != 2 || set.Maintenance.Source != "a.yaml, b.yaml" {
		t.Errorf("two files: %+v", set.Maintenance)
	}
}

func TestBadDefaultZone(t *testing.T) {
	dir := t.TempDir()
	write(t, dir, "a.yaml", "saltpeter_config: {default_timezone: Mars/Olympus}\nbare: "+job+"own: {schedule: '@daily', command: x, targets: '*', timezone: UTC}\n")
	set := load(t, dir, nil)
	if !slices.Equal(set.Order, []string{"own"}) {
		t.Errorf("a job that nobody knows the time of runs: %q", set.Order)
	}
	mustSay(t, set, `job "bare": has no time zone: default_timezone is wrong`)
	write(t, dir, "a.yaml", "saltpeter_config: {default_timezone: Europe/Bucharest}\nbare: "+job)
	set = load(t, dir, set)
	write(t, dir, "a.yaml", "saltpeter_config: {default_timezone: Mars/Olympus}\nbare: "+job)
	set = load(t, dir, set)
	if j := set.Jobs["bare"]; j == nil || j.Location.String() != "Europe/Bucharest" {
		t.Errorf("the last good default is not kept: %s", messages(set))
	}
}

// A default in one file reaches the unchanged jobs of all others, and carried ones.
func TestDefaultsReachOtherFiles(t *testing.T) {
	dir := t.TempDir()
	write(t, dir, "a.yaml", "a: "+job+"c: "+job)
	write(t, dir, "z.yaml", "{}\n")
	set := load(t, dir, nil)
	write(t, dir, "a.yaml", "a: "+job+"c: {}\n")
	set = load(t, dir, set)
	write(t, dir, "z.yaml", "saltpeter_config: {default_timezone: Asia/Tokyo, default_wrapper_logdir: /l}\n")
	set = load(t, dir, set)
	for _, name := range []string{"a", "c"} {
		if j := set.Jobs[name]; j == nil || j.Location.String() != "Asia/Tokyo" || j.WrapperLogDir != "/l" {
			t.Errorf("job %s: %+v", name, j)
		}
	}
}

func TestSerialAndReuse(t *testing.T) {
	dir := t.TempDir()
	for i := range 20 {
		write(t, dir, fmt.Sprintf("f%02d.yaml", i), fmt.Sprintf("j%d: %s", i, job))
	}
	first := load(t, dir, nil)
	if second := load(t, dir, nil); second.Serial != first.Serial {
		t.Error("two starts give two serials")
	}
	same := load(t, dir, first)
	if same != first {
		t.Error("nothing changed, and it is another set")
	}
	write(t, dir, "z.yml", "")
	if same = load(t, dir, same); same == first || !said(same, "z.yml: is ignored") {
		t.Error("a file that is ignored is not said to be")
	}
	must(t, os.Remove(filepath.Join(dir, "z.yml")))
	same = load(t, dir, same)
	if same.Serial != first.Serial {
		t.Error("nothing changed, the serial did")
	}
	write(t, dir, "f05.yaml", "j5: {schedule: '@daily', command: other, targets: '*'}\n")
	changed := load(t, dir, same)
	if changed.Serial == first.Serial {
		t.Error("the serial did not change")
	}
	for name, j := range changed.Jobs {
		if (j == first.Jobs[name]) == (name == "j5") {
			t.Errorf("job %s: made again %t", name, j != first.Jobs[name])
		}
	}
	write(t, dir, "f05.yaml", "j5: "+job)
	if back := load(t, dir, changed); back.Serial != first.Serial {
		t.Error("the old content has another serial")
	}
}
