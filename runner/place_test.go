package runner

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"saltpeter/config"
	"saltpeter/runner/ledger"
)

func inventory(names ...string) []config.Machine {
	var all []config.Machine
	for _, name := range names {
		m := config.Machine{Name: strings.TrimPrefix(name, "-"), Local: true, Enabled: !strings.HasPrefix(name, "-")}
		all = append(all, m)
	}
	return all
}

func TestPlace(t *testing.T) {
	for _, c := range []struct {
		what    string
		targets string
		only    narrowing
		lost    []string
		allow   bool
		force   bool
		go_     string
		left    string
		code    string // of a Refusal
		refused string // reason of a refusedFiring
	}{
		{what: "all", targets: "*", go_: "web1 web2 db1", left: "web3:disabled db2:maintenance"},
		{what: "some", targets: "web*", go_: "web1 web2", left: "web3:disabled"},
		{what: "nothing", targets: "mail*"},
		{what: "forced into maintenance, never into what is disabled", targets: "*", force: true, go_: "web1 web2 db1 db2", left: "web3:disabled"},
		{what: "lost holds back its own machine", targets: "web*", lost: []string{"web1"}, go_: "web2", left: "web3:disabled web1:overlap"},
		{what: "unless overlap is allowed", targets: "web*", lost: []string{"web1"}, allow: true, go_: "web1 web2", left: "web3:disabled"},
		{what: "or it is forced", targets: "web*", lost: []string{"web1"}, force: true, go_: "web1 web2", left: "web3:disabled"},
		{what: "by hand, by name", targets: "*", only: narrowing{globs: []string{"db1"}}, go_: "db1"},
		{what: "by hand, by globs", targets: "*", only: narrowing{globs: []string{"db*", "web1"}}, go_: "web1 db1", left: "db2:maintenance"},
		{what: "by hand, none of the job's", targets: "web*", only: narrowing{globs: []string{"db*"}}, code: CodeNoMachines},
		{what: "a retry", targets: "*", only: narrowing{exact: []string{"web2", "db2"}}, go_: "web2", left: "db2:maintenance"},
		{what: "a retry, narrowed", targets: "*", only: narrowing{globs: []string{"w*"}, exact: []string{"web2", "db1"}}, go_: "web2"},
		{what: "a retry where the target has moved away", targets: "db*", only: narrowing{exact: []string{"web1"}}, code: CodeNoMachines},
		{what: "no target at all", targets: "a and (", refused: ledger.ReasonError},
	} {
		t.Run(c.what, func(t *testing.T) {
			set := &config.Set{Machines: inventory("web1", "web2", "-web3", "db1", "db2"), Maintenance: config.Maintenance{Machines: []string{"db2", "nowhere"}}}
			job := &config.Job{Name: "j", Targets: c.targets, TargetType: "glob", OnOverlap: "skip"}
			if c.allow {
				job.OnOverlap = "allow"
			}
			if c.refused != "" {
				job.TargetType = "compound"
			}
			lost := map[string]bool{}
			for _, m := range c.lost {
				lost[m] = true
			}
			p, err := place(set, job, c.only, lost, c.force)
			var refusal *Refusal
			var refused *refusedFiring
			switch {
			case c.code != "":
				if !errors.As(err, &refusal) || refusal.Code != c.code || refusal.Hint == "" {
					t.Errorf("error %#v", err)
				}
				return
			case c.refused != "":
				if !errors.As(err, &refused) || refused.reason != c.refused || refused.detail == "" {
					t.Errorf("error %#v", err)
				}
				return
			case err != nil:
				t.Fatal(err)
			}
			var to, left []string
			for _, m := range p.machines {
				to = append(to, m.Name)
			}
			for _, l := range p.left {
				left = append(left, l.machine+":"+l.reason)
			}
			if got := strings.Join(to, " "); got != c.go_ {
				t.Errorf("goes to %q, not %q", got, c.go_)
			}
			if got := strings.Join(left, " "); got != c.left {
				t.Errorf("leaves out %q, not %q", got, c.left)
			}
		})
	}
}

func TestNumberOfTargets(t *testing.T) {
	all := inventory("a", "b", "c", "d", "e", "f")
	seen := map[string]int{}
	for range 400 {
		chosen := some(all, 2)
		if len(chosen) != 2 || chosen[0].Name >= chosen[1].Name {
			t.Fatalf("chosen %v", chosen)
		}
		seen[chosen[0].Name]++
		seen[chosen[1].Name]++
	}
	for _, m := range all { // 133 each; one that is never chosen is no choice by chance
		if seen[m.Name] < 60 {
			t.Errorf("chosen so often: %v", seen)
			break
		}
	}
	for _, n := range []int{0, 6, 7, -1} {
		if chosen := some(all, n); len(chosen) != 6 {
			t.Errorf("%d of 6 are %v", n, chosen)
		}
	}
}

func TestBatchesOfARun(t *testing.T) {
	for _, c := range []struct {
		batch    config.Size
		machines int
		want     string
	}{
		{config.Size{}, 4, "0 0 0 0"},
		{config.Size{N: 1}, 3, "0 1 2"},
		{config.Size{N: 2}, 5, "0 0 1 1 2"},
		{config.Size{N: 9}, 3, "0 0 0"},
		{config.Size{Percent: 25}, 8, "0 0 1 1 2 2 3 3"},
		{config.Size{Percent: 1}, 3, "0 1 2"},
		{config.Size{N: 2}, 0, ""},
	} {
		job := &config.Job{Name: "j", Batch: c.batch, TargetType: "glob", Targets: "*"}
		var p placement
		for i := range c.machines {
			p.machines = append(p.machines, config.Machine{Name: fmt.Sprint("m", i), Local: true})
		}
		run := runOf(job, beginning{}, p, define(&config.Set{}, job, p.machines, ""))
		var got []string
		for _, task := range run.Tasks {
			got = append(got, fmt.Sprint(task.Batch))
		}
		if strings.Join(got, " ") != c.want {
			t.Errorf("%+v of %d: %v, not %s", c.batch, c.machines, got, c.want)
		}
		if (run.Reason == ledger.ReasonNoMachines) != (c.machines == 0) {
			t.Errorf("%d machines: reason %q", c.machines, run.Reason)
		}
	}
}

// Nothing that lives elsewhere ever runs here, whatever a file says.
func TestTransportOfAMachine(t *testing.T) {
	here, there := config.Machine{Name: "a", Local: true}, config.Machine{Name: "b", SSH: "b.example"}
	for _, c := range []struct {
		job, server string
		m           config.Machine
		want        string
	}{
		{"", "", here, "local"}, {"", "auto", here, "local"}, {"", "auto", there, "ssh"}, {"", "", there, "ssh"},
		{"salt", "", here, "salt"}, {"", "salt", there, "salt"}, {"ssh", "salt", there, "ssh"},
		{"local", "", here, "local"}, {"local", "", there, "ssh"}, {"", "local", there, "ssh"}, {"local", "salt", there, "salt"},
		{"auto", "ssh", here, "ssh"},
	} {
		set := &config.Set{}
		set.Settings.DefaultTransport = c.server
		if got := transportOf(set, &config.Job{Transport: c.job}, c.m); got != c.want {
			t.Errorf("job %q, server %q, %s: %s, not %s", c.job, c.server, c.m.Name, got, c.want)
		}
	}
}

func TestWhyAFiringIsRefused(t *testing.T) {
	p := placement{left: []leftOut{{"a", ledger.ReasonDisabled}, {"b", ledger.ReasonMaintenance}, {"c", ledger.ReasonMaintenance}}}
	if r := p.refused(); r.reason != ledger.ReasonDisabled || r.detail != "disabled on 1, maintenance on 2" {
		t.Errorf("%+v", r)
	}
	p.left = p.left[1:]
	if r := p.refused(); r.reason != ledger.ReasonMaintenance || r.detail != "on every machine that it names" {
		t.Errorf("%+v", r)
	}
	for reason, code := range map[string]string{
		ledger.ReasonMaintenance: CodeMaintenance, ledger.ReasonOverlap: CodeOverlap, ledger.ReasonDisabled: CodeNoMachines, ledger.ReasonError: CodeBadRequest,
	} {
		r := (&refusedFiring{reason, "so"}).refusal("j")
		if r.Code != code || !strings.Contains(r.Text, `"j"`) || !strings.Contains(r.Text, "so") || r.Hint == "" {
			t.Errorf("%s: %+v", reason, r)
		}
	}
}

func TestNoSuchJobNamesTheNearest(t *testing.T) {
	set := &config.Set{Order: []string{"backup", "backups-weekly", "mail"}}
	for name, want := range map[string]string{"bakcup": "backup", "backu": "backup", "mial": "mail"} {
		if r := noSuchJob(set, name); r.Code != CodeNoSuchJob || !strings.Contains(r.Hint, fmt.Sprintf("%q", want)) {
			t.Errorf("%s: %+v", name, r)
		}
	}
	if r := noSuchJob(set, "something else"); slices.ContainsFunc(set.Order, func(j string) bool { return strings.Contains(r.Hint, j) }) {
		t.Errorf("%+v", r)
	}
}
