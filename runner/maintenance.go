package runner

import (
	"context"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"saltpeter/config"
	"saltpeter/config/targets"
	"saltpeter/runner/ledger"
)

// Maintenance is what gets no new run, and where each part of that is said: in the
// job files, or by people who switched it on.
type Maintenance struct {
	Global   bool                `json:"global"`
	Machines []string            `json:"machines"`
	Sources  []MaintenanceSource `json:"sources"`
}

// MaintenanceSource is one thing that is held back, and by what: a line of a file,
// which alone ends it, or a person.
type MaintenanceSource struct {
	Machine string    `json:"machine,omitempty"` // "" = everything
	File    string    `json:"file,omitempty"`
	Line    int       `json:"line,omitempty"`
	By      string    `json:"by,omitempty"`
	From    string    `json:"from,omitempty"`
	Since   time.Time `json:"since,omitzero"`
	Reason  string    `json:"reason,omitempty"`
}

// MaintenanceChange is what switching it on or off came to.
type MaintenanceChange struct {
	Changed []MaintenanceSource `json:"changed"` // what was switched on, or lifted
	Still   []MaintenanceSource `json:"still"`   // what goes on holding back what was to be lifted
	Maintenance
}

// rests is what is held back beside the files, and the files without it.
type rests struct {
	changing sync.Mutex // one change after the other, from looking to recording
	unread   error      // why the book did not say what is held back

	mu    sync.Mutex // of files and holds, which go together with the set in force
	files *config.Set
	holds []ledger.Hold
}

// read takes what an earlier server left.
func (r *rests) read(l *ledger.Ledger) []ledger.Hold {
	holds, err := l.Holds(context.Background())
	if err != nil {
		r.unread = fmt.Errorf("cannot read what is in maintenance: %w", err)
	}
	return holds
}

// inForce changes files or holds, and makes the set in force of both.
func (f *firing) inForce(change func(r *rests)) {
	f.rests.mu.Lock()
	defer f.rests.mu.Unlock()
	change(&f.rests)
	global, machines := false, []string(nil)
	for _, h := range f.rests.holds {
		if h.Machine == "" {
			global = true
		} else {
			machines = append(machines, h.Machine)
		}
	}
	f.set.Store(f.rests.files.Holding(global, machines))
}

// with is the holds after some events; the list that was is not written to, since
// others read it.
func with(holds []ledger.Hold, events []ledger.Event) []ledger.Hold {
	holds = slices.Clone(holds)
	for _, e := range events {
		switch e := e.(type) {
		case ledger.HoldSet:
			holds = slices.DeleteFunc(holds, func(h ledger.Hold) bool { return h.Machine == e.Hold.Machine })
			holds = append(holds, e.Hold)
		case ledger.HoldLifted:
			holds = slices.DeleteFunc(holds, func(h ledger.Hold) bool { return h.Machine == e.Machine })
		}
	}
	return holds
}

// maintenance is what gets no new run now.
func (f *firing) maintenance() Maintenance {
	f.rests.mu.Lock()
	files, holds, set := f.rests.files, f.rests.holds, f.set.Load()
	f.rests.mu.Unlock()
	m := Maintenance{Global: set.Maintenance.Global, Machines: append([]string{}, set.Maintenance.Machines...), Sources: []MaintenanceSource{}}
	for _, h := range holds {
		m.Sources = append(m.Sources, sourceOf(h))
	}
	for _, p := range files.Maintenance.Places {
		path := filepath.Join(files.Dir, p.File)
		if whole, err := filepath.Abs(path); err == nil {
			path = whole
		}
		m.Sources = append(m.Sources, MaintenanceSource{Machine: p.Machine, File: path, Line: p.Line})
	}
	slices.SortStableFunc(m.Sources, func(a, b MaintenanceSource) int { return strings.Compare(a.Machine, b.Machine) })
	return m
}

func sourceOf(h ledger.Hold) MaintenanceSource {
	return MaintenanceSource{Machine: h.Machine, By: h.By, From: h.From, Since: h.At, Reason: h.Reason}
}

// String says by what it is held back, without a time or a line: what is recorded of
// one due time after the other must read the same.
func (s MaintenanceSource) String() string {
	text := "saltpeter_maintenance in " + filepath.Base(s.File)
	if s.File == "" {
		text = "switched on by " + s.By
	}
	if s.Reason != "" {
		text += ": " + s.Reason
	}
	return text
}

// whyAll says why nothing starts.
func (m Maintenance) whyAll() string {
	var why []string
	for _, s := range m.Sources {
		if s.Machine == "" && !slices.Contains(why, s.String()) {
			why = append(why, s.String())
		}
	}
	return strings.Join(why, "; ")
}

// toRunNow says how a run that maintenance keeps back is got going.
func (m Maintenance) toRunNow() string {
	var do []string
	add := func(text string) {
		if !slices.Contains(do, text) {
			do = append(do, text)
		}
	}
	for _, s := range m.Sources {
		switch {
		case m.Global && s.Machine != "":
		case s.File != "":
			add(fmt.Sprintf("take it out of saltpeter_maintenance in %s:%d", s.File, s.Line))
		case s.Machine == "":
			add("end it with `saltpeter maintenance off`")
		default:
			add("end it with `saltpeter maintenance off --machine " + s.Machine + "`")
		}
	}
	if len(do) == 0 {
		add("take it out of saltpeter_maintenance")
	}
	return strings.Join(do, " and ") + ", or add --force"
}

// Maintenance is what gets no new run now, and where that is said.
func (r *Runner) Maintenance() Maintenance { return r.firing.maintenance() }

// Files is the Set as the files alone say it.
func (r *Runner) Files() *config.Set {
	r.firing.rests.mu.Lock()
	defer r.firing.rests.mu.Unlock()
	return r.firing.rests.files
}

// longestReason bounds what is kept as the reason of a hold.
const longestReason = 1000

// MaintenanceOn keeps new runs from machines (names or globs), or from everything,
// until MaintenanceOff, also over a restart. What is on already stays as it was, unless
// there is a new reason.
func (r *Runner) MaintenanceOn(ctx context.Context, a Actor, machines []string, reason string) (MaintenanceChange, error) {
	change := func(f *firing) (events []ledger.Event, changed []MaintenanceSource, err error) {
		if len(reason) > longestReason {
			return nil, nil, &Refusal{Code: CodeBadRequest, Text: fmt.Sprintf("the reason is longer than %d bytes", longestReason), Hint: "say it shorter"}
		}
		names := []string{""}
		if len(machines) > 0 {
			if names, err = machinesOf(machines, inventoryOf(f.set.Load())); err != nil {
				return nil, nil, err
			}
		}
		for _, name := range names {
			hold := ledger.Hold{Machine: name, At: wallNow().UTC(), By: a.Who, From: a.From, Reason: reason}
			if i := slices.IndexFunc(f.rests.holds, func(h ledger.Hold) bool { return h.Machine == name }); i >= 0 {
				if was := f.rests.holds[i]; reason == "" || reason == was.Reason {
					hold = was
				}
			}
			events = append(events, ledger.HoldSet{Hold: hold})
			changed = append(changed, sourceOf(hold))
		}
		return events, changed, nil
	}
	return r.changeMaintenance(ctx, a, "maintenance on", machines, change)
}

// MaintenanceOff ends what MaintenanceOn began: of machines (names or globs), or all
// of it. What the files hold back they go on holding back, and so does everything one
// of its machines; that is Still.
func (r *Runner) MaintenanceOff(ctx context.Context, a Actor, machines []string) (MaintenanceChange, error) {
	var meant func(machine string) bool
	change := func(f *firing) (events []ledger.Event, changed []MaintenanceSource, err error) {
		meant = func(string) bool { return true }
		if len(machines) > 0 {
			names, err := machinesOf(machines, append(inventoryOf(f.set.Load()), f.set.Load().Maintenance.Machines...))
			if err != nil {
				return nil, nil, err
			}
			meant = func(machine string) bool { return slices.Contains(names, machine) }
		}
		for _, h := range f.rests.holds {
			if meant(h.Machine) {
				events = append(events, ledger.HoldLifted{Machine: h.Machine})
				changed = append(changed, sourceOf(h))
			}
		}
		return events, changed, nil
	}
	answer, err := r.changeMaintenance(ctx, a, "maintenance off", machines, change)
	for _, s := range answer.Sources {
		if s.Machine == "" || meant(s.Machine) {
			answer.Still = append(answer.Still, s)
		}
	}
	return answer, err
}

// changeMaintenance records a change, with its line of the audit log, and then puts
// it in force. A refused one is written to that log too.
func (r *Runner) changeMaintenance(ctx context.Context, a Actor, what string, machines []string, change func(*firing) ([]ledger.Event, []MaintenanceSource, error)) (MaintenanceChange, error) {
	f := r.firing
	f.rests.changing.Lock()
	defer f.rests.changing.Unlock()
	ctx = context.WithoutCancel(ctx)
	entry := ledger.AuditEntry{At: wallNow(), Who: a.Who, From: a.From, What: what, Target: "everything", Outcome: "done"}
	if len(machines) > 0 {
		entry.Target = strings.Join(machines, ", ")
	}
	events, changed, err := change(f)
	if err != nil {
		entry.Outcome = err.Error()
		if _, unrecorded := f.put(ctx, ledger.Audited{Entry: entry}); unrecorded != nil {
			f.log.Warn("cannot write to the audit log", "err", unrecorded)
		}
		return MaintenanceChange{}, err
	}
	if len(changed) == 0 {
		entry.Outcome = "nothing of it was on"
	}
	if len(changed) > 0 && changed[0].Reason != "" {
		entry.Outcome += ": " + changed[0].Reason
	}
	if _, err := f.put(ctx, append(events, ledger.Audited{Entry: entry})...); err != nil {
		return MaintenanceChange{}, err
	}
	f.inForce(func(r *rests) { r.holds = with(r.holds, events) })
	f.log.Info(what, "of", entry.Target, "who", a.Who, "from", a.From)
	r.hub.publish(Change{Kind: ChangeConfig, At: time.Now()})
	select {
	case f.wake <- struct{}{}:
	default:
	}
	return MaintenanceChange{Changed: append([]MaintenanceSource{}, changed...), Still: []MaintenanceSource{}, Maintenance: f.maintenance()}, nil
}

func inventoryOf(set *config.Set) []string {
	names := make([]string, len(set.Machines))
	for i, m := range set.Machines {
		names[i] = m.Name
	}
	return names
}

// machinesOf is the names among known that some names or globs mean. One that means
// none is refused: it is most likely misspelt.
func machinesOf(globs, known []string) ([]string, error) {
	var names []string
	for _, text := range globs {
		glob, err := targets.Parse("glob", text)
		if err != nil {
			return nil, &Refusal{Code: CodeBadRequest, Text: fmt.Sprintf("machine %q: %v", text, err), Hint: "write a name or a glob such as 'web*'"}
		}
		found := false
		for _, name := range known {
			if !glob.Match(targets.Machine{Name: name}) {
				continue
			}
			found = true
			if !slices.Contains(names, name) {
				names = append(names, name)
			}
		}
		if !found {
			return nil, &Refusal{Code: CodeNoMachines, Text: fmt.Sprintf("no machine is called %q", text), Hint: "`saltpeter machines` lists them"}
		}
	}
	return names, nil
}
