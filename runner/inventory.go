package runner

import (
	"context"
	"fmt"
	"time"

	"saltpeter/config"
	"saltpeter/runner/launch"
	"saltpeter/runner/ledger"
)

// MachineQuery names machines of the inventory; no glob: all that are enabled.
type MachineQuery struct {
	Globs     []string
	AcceptNew bool // check: write down host keys that nobody knows yet
	DryRun    bool // deploy: only look
}

// MachineCheck is a machine that was tried.
type MachineCheck struct {
	Machine    string        `json:"machine"`
	OK         bool          `json:"ok"`
	Transport  string        `json:"transport"`
	Reached    bool          `json:"reached"`
	Address    string        `json:"address,omitempty"` // USER@HOST:PORT
	Jumps      []string      `json:"jumps,omitempty"`
	Keys       []string      `json:"keys,omitempty"`        // files that were offered
	KnownHosts []string      `json:"known_hosts,omitempty"` // files that were looked in
	Accepted   string        `json:"accepted_host_key,omitempty"`
	System     string        `json:"system,omitempty"`
	Wrapper    string        `json:"wrapper_version,omitempty"` // "" = not there yet
	Path       string        `json:"wrapper_path,omitempty"`
	SkewMS     int64         `json:"clock_skew_ms"` // positive: its clock is ahead
	WayBack    []MachineDial `json:"way_back,omitempty"`
	Problems   []string      `json:"problems,omitempty"`
}

// MachineDial is one try of a machine to dial the server.
type MachineDial struct {
	URL   string `json:"url"`
	OK    bool   `json:"ok"`
	Error string `json:"error,omitempty"`
}

// MachineDeploy is what a machine has of the wrapper now.
type MachineDeploy struct {
	Machine string `json:"machine"`
	OK      bool   `json:"ok"`
	Action  string `json:"action"` // put, there, would_put, failed
	Path    string `json:"path,omitempty"`
	Version string `json:"wrapper_version,omitempty"`
	Error   string `json:"error,omitempty"`
}

// Bounds of what is done on many machines.
const (
	machinesAtOnce = 32
	checkWithin    = 45 * time.Second
	deployWithin   = 15 * time.Minute
)

// CheckMachines tries everything on machines, changing nothing there. The answers
// come as they are found.
func (r *Runner) CheckMachines(ctx context.Context, a Actor, q MachineQuery) (<-chan MachineCheck, error) {
	what := "check"
	if q.AcceptNew {
		what = "accept-new"
	}
	return onMachines(ctx, r, a, q, what, func(ctx context.Context, m launch.Machine, road launch.Inspector) MachineCheck {
		ctx, cancel := context.WithTimeout(ctx, checkWithin)
		defer cancel()
		c := MachineCheck{Machine: m.Name, Transport: m.Transport}
		if road == nil {
			c.Problems = []string{noInspector(m)}
			return c
		}
		i := road.Inspect(ctx, m, launch.InspectOptions{URL: r.o.MachinesURL(m), Pin: r.o.Pin, AcceptNew: q.AcceptNew})
		c.Reached, c.Address, c.Jumps, c.Keys, c.KnownHosts = i.Reached, i.Address, i.Jumps, i.Keys, i.KnownHosts
		c.Accepted, c.System, c.Wrapper, c.Path = i.Accepted, i.System, i.Wrapper, i.Path
		c.SkewMS, c.Problems = i.Skew.Milliseconds(), i.Problems
		for _, d := range i.Dials {
			c.WayBack = append(c.WayBack, MachineDial{URL: d.URL, OK: d.Err == "", Error: d.Err})
		}
		c.OK = c.Reached && len(c.Problems) == 0
		return c
	})
}

// Deploy puts the wrapper on machines that lack it.
func (r *Runner) Deploy(ctx context.Context, a Actor, q MachineQuery) (<-chan MachineDeploy, error) {
	what := "deploy"
	if q.DryRun {
		what = "" // looks only: nothing for the audit log
	}
	return onMachines(ctx, r, a, q, what, func(ctx context.Context, m launch.Machine, road launch.Inspector) MachineDeploy {
		ctx, cancel := context.WithTimeout(ctx, deployWithin)
		defer cancel()
		d := MachineDeploy{Machine: m.Name, Action: "failed"}
		if road == nil {
			d.Error = noInspector(m)
			return d
		}
		got := road.Deploy(ctx, m, q.DryRun)
		d.Path, d.Version = got.Path, got.Version
		switch {
		case got.Err != nil:
			d.Error = got.Err.Error()
			return d
		case got.Was:
			d.Action = "there"
		case q.DryRun:
			d.Action = "would_put"
		default:
			d.Action = "put"
		}
		d.OK = true
		return d
	})
}

func noInspector(m launch.Machine) string {
	return fmt.Sprintf("cannot reach machines by %q: %v", m.Transport, launch.ErrNoTransport)
}

// onMachines does one thing on each of the machines that are meant, several at a
// time. The channel is closed after the last; it holds all, so nobody is held up.
func onMachines[T any](ctx context.Context, r *Runner, a Actor, q MachineQuery, what string, do func(context.Context, launch.Machine, launch.Inspector) T) (<-chan T, error) {
	set := r.Config()
	only := narrowing{globs: q.Globs}
	var enabled, disabled []config.Machine
	for _, m := range set.Machines {
		if m.Enabled {
			enabled = append(enabled, m)
		} else {
			disabled = append(disabled, m)
		}
	}
	enabled, disabled, err := only.restrict(enabled, disabled)
	if err != nil {
		return nil, err
	}
	if len(q.Globs) > 0 {
		enabled = append(enabled, disabled...) // named on purpose
	}
	if what != "" && what != "check" {
		target := "all machines"
		if len(q.Globs) > 0 {
			target = fmt.Sprint(q.Globs)
		}
		entry := ledger.AuditEntry{At: wallNow(), Who: a.Who, From: a.From, What: what, Target: target}
		if _, err := r.o.Ledger.Apply(context.WithoutCancel(ctx), ledger.Audited{Entry: entry}); err != nil {
			return nil, fmt.Errorf("cannot record who asked: %w", err)
		}
	}
	answers := make(chan T, len(enabled))
	if !r.tasks.spawn(func() {
		r.eachMachine(ctx, set, enabled, func(ctx context.Context, m launch.Machine, road launch.Inspector) { answers <- do(ctx, m, road) })
		close(answers)
	}) {
		close(answers)
	}
	return answers, nil
}

func (r *Runner) eachMachine(ctx context.Context, set *config.Set, machines []config.Machine, do func(context.Context, launch.Machine, launch.Inspector)) {
	// It ends with its asker, or with the server.
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(r.tasks.life, cancel)()
	turns := make(slots, machinesAtOnce)
	done := make(chan struct{})
	began := 0
	for _, m := range machines {
		at := reached(set, anyJob(set), m, r.o.LocalSpool)
		road, _ := r.o.Transports[at.Transport].(launch.Inspector)
		began++
		go func() {
			defer func() { done <- struct{}{} }()
			if turns.take(ctx) {
				defer turns.give()
			}
			do(ctx, at, road)
		}()
	}
	for range began {
		<-done
	}
}

// hold says which machines need a standing connection.
func (r *Runner) hold(set *config.Set) {
	if r.o.Holder == nil {
		return
	}
	var machines []launch.Machine
	for _, m := range set.Machines {
		if at := reached(set, anyJob(set), m, r.o.LocalSpool); m.Enabled && at.Tunnel {
			machines = append(machines, at)
		}
	}
	r.o.Holder.Hold(machines)
}

// Upgrade puts the server's wrapper on machines that have one of another version. It
// goes on in the background of a start, a few machines at a time, so that no firing
// has to wait for it.
func (r *Runner) Upgrade(ctx context.Context) {
	set := r.Config()
	var enabled []config.Machine
	for _, m := range set.Machines {
		if m.Enabled {
			enabled = append(enabled, m)
		}
	}
	r.eachMachine(ctx, set, enabled, func(ctx context.Context, m launch.Machine, _ launch.Inspector) {
		road, ok := r.o.Transports[m.Transport].(launch.Upgrader)
		if !ok {
			return
		}
		ctx, cancel := context.WithTimeout(ctx, deployWithin)
		defer cancel()
		done, err := road.Upgrade(ctx, m)
		switch {
		case err != nil && ctx.Err() == nil:
			r.o.Log.Warn("cannot put the new wrapper on a machine; the next job there tries again", "machine", m.Name, "err", err)
		case done:
			r.o.Log.Info("the machine has the new wrapper", "machine", m.Name)
		}
	})
}
