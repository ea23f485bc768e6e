package runner

import (
	"fmt"
	"math/rand/v2"
	"strings"

	"saltpeter/config"
	"saltpeter/config/targets"
	"saltpeter/runner/ledger"
)

// placement is where one firing goes.
type placement struct {
	machines []config.Machine
	left     []leftOut // machines that were named and get no task, shown as such
}

// leftOut is a machine that a firing names and does not use.
type leftOut struct {
	machine string
	reason  string
}

// place decides where a firing goes: the machines that the job names, but for
// disabled ones, those in maintenance, those where an earlier task may still be
// alive, and as many as number_of_targets allows. only restricts a run by hand.
func place(set *config.Set, job *config.Job, only []string, busy func(machine string) bool, force bool) (placement, error) {
	var p placement
	match, disabled, err := set.Matching(job)
	if err != nil {
		return p, err
	}
	if match, disabled, err = restrict(match, disabled, only); err != nil {
		return p, err
	}
	for _, m := range disabled {
		p.left = append(p.left, leftOut{m.Name, ledger.ReasonDisabled})
	}
	resting := make(map[string]bool, len(set.Maintenance.Machines))
	for _, name := range set.Maintenance.Machines {
		resting[name] = true
	}
	for _, m := range match {
		switch {
		case resting[m.Name] && !force:
			p.left = append(p.left, leftOut{m.Name, ledger.ReasonMaintenance})
		case !force && job.OnOverlap != "allow" && busy(m.Name):
			p.left = append(p.left, leftOut{m.Name, ledger.ReasonOverlap})
		default:
			p.machines = append(p.machines, m)
		}
	}
	if n := job.NumberOfTargets; n > 0 && n < len(p.machines) {
		rand.Shuffle(len(p.machines), func(i, j int) { p.machines[i], p.machines[j] = p.machines[j], p.machines[i] })
		p.machines = p.machines[:n]
	}
	return p, nil
}

// restrict keeps the machines that one of the globs names.
func restrict(match, disabled []config.Machine, only []string) (m, d []config.Machine, err error) {
	if len(only) == 0 {
		return match, disabled, nil
	}
	var globs []*targets.Expr
	for _, text := range only {
		glob, err := targets.Parse("glob", text)
		if err != nil {
			return nil, nil, err
		}
		globs = append(globs, glob)
	}
	keep := func(all []config.Machine) (kept []config.Machine) {
		for _, m := range all {
			for _, g := range globs {
				if g.Match(m.Target()) {
					kept = append(kept, m)
					break
				}
			}
		}
		return kept
	}
	m, d = keep(match), keep(disabled)
	if len(m)+len(d) == 0 {
		return nil, nil, fmt.Errorf("no machine of this job matches %s", strings.Join(only, ", "))
	}
	return m, d, nil
}

// batches cuts the machines of a run into batches.
func batches(job *config.Job, machines int) int {
	size := job.Batch.Of(machines)
	if size <= 0 || size > machines {
		return max(machines, 1)
	}
	return size
}
