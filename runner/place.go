package runner

import (
	"fmt"
	"math/rand/v2"
	"slices"
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

// narrowing restricts a run by hand to some of the job's machines; empty it
// restricts nothing.
type narrowing struct {
	globs []string // machines that one of them names
	exact []string // and that are among these
}

// place decides where a firing goes: the machines that the job names, but for
// disabled ones, those in maintenance, those where a lost task may still live, and
// as many as number_of_targets allows.
func place(set *config.Set, job *config.Job, only narrowing, lost map[string]bool, force bool) (placement, error) {
	var p placement
	match, disabled, err := set.Matching(job)
	if err != nil {
		return p, &refusedFiring{ledger.ReasonError, err.Error()}
	}
	if match, disabled, err = only.restrict(match, disabled); err != nil {
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
		case lost[m.Name] && job.OnOverlap != "allow" && !force:
			p.left = append(p.left, leftOut{m.Name, ledger.ReasonOverlap})
		default:
			p.machines = append(p.machines, m)
		}
	}
	p.machines = some(p.machines, job.NumberOfTargets)
	return p, nil
}

// some chooses n machines by chance, in the order of the inventory; all of them
// where n is 0.
func some(machines []config.Machine, n int) []config.Machine {
	if n <= 0 || n >= len(machines) {
		return machines
	}
	chosen := rand.Perm(len(machines))[:n]
	slices.Sort(chosen)
	kept := make([]config.Machine, n)
	for i, at := range chosen {
		kept[i] = machines[at]
	}
	return kept
}

// restrict keeps the machines that are meant.
func (n narrowing) restrict(match, disabled []config.Machine) (m, d []config.Machine, err error) {
	if len(n.globs) == 0 && len(n.exact) == 0 {
		return match, disabled, nil
	}
	var globs []*targets.Expr
	for _, text := range n.globs {
		glob, err := targets.Parse("glob", text)
		if err != nil {
			return nil, nil, &Refusal{Code: CodeBadRequest, Text: fmt.Sprintf("machine %q: %v", text, err), Hint: "write a name or a glob such as 'web*'"}
		}
		globs = append(globs, glob)
	}
	keep := func(all []config.Machine) (kept []config.Machine) {
		for _, m := range all {
			named := len(globs) == 0 || slices.ContainsFunc(globs, func(g *targets.Expr) bool { return g.Match(m.Target()) })
			if named && (len(n.exact) == 0 || slices.Contains(n.exact, m.Name)) {
				kept = append(kept, m)
			}
		}
		return kept
	}
	m, d = keep(match), keep(disabled)
	if len(m)+len(d) == 0 {
		return nil, nil, &Refusal{Code: CodeNoMachines, Text: "no machine of this job matches " + strings.Join(append(slices.Clone(n.globs), n.exact...), ", "),
			Hint: "see `saltpeter machines` and the job's targets"}
	}
	return m, d, nil
}

// batchSize is how many of a run's machines start together.
func batchSize(job *config.Job, machines int) int {
	size := job.Batch.Of(machines)
	if size <= 0 || size > machines {
		return max(machines, 1)
	}
	return size
}
