package config

import (
	"errors"
	"fmt"
	"io/fs"

	"saltpeter/config/targets"
)

// inventory makes the list of machines: what the files say, or this host where
// none says anything. Where a file does say something, however wrong, this host
// is not put in its place: a job must never run where nobody sent it.
func (l *loading) inventory(s *Set) {
	st := s.state
	st.machines, st.lists = map[string]Machine{}, map[string]listFile{}
	if st.host == nil {
		host := thisHost()
		st.host = &host
	}
	configured := false
	at := map[string]int{}
	for _, f := range l.files {
		if f.good == nil {
			continue
		}
		configured = configured || f.good.inventory
		for _, e := range f.good.machines {
			if e.include != "" {
				l.list(s, f.good, e, at)
			} else {
				l.machine(s, f.good, e, at)
			}
		}
	}
	if !configured {
		s.Machines = []Machine{*st.host}
	}
}

func (l *loading) machine(s *Set, f *scan, e machineEntry, at map[string]int) {
	m := e.machine
	if m == nil {
		was, ok := l.before.machines[e.name]
		if !ok {
			return
		}
		m = &was
	}
	l.put(s, *m, Problem{File: filePath(l.dir, f.name), Line: e.at.line, Col: e.at.col}, at)
}

// put adds a machine; one of the same name gives way to it.
func (l *loading) put(s *Set, m Machine, where Problem, at map[string]int) {
	s.state.machines[m.Name] = m
	if m.Local {
		m = withHostGrains(m, *s.state.host)
	}
	if i, ok := at[m.Name]; ok {
		where.Key = machinesKey + "." + m.Name
		where.Text = "is also at " + s.Machines[i].Source + "; this one counts"
		where.Hint = "rename one of the two or take it out"
		s.Problems = append(s.Problems, where)
		s.Machines[i] = m
		return
	}
	at[m.Name] = len(s.Machines)
	s.Machines = append(s.Machines, m)
}

// list takes the machines of an included file; one that cannot be read keeps
// those that it had.
func (l *loading) list(s *Set, f *scan, e machineEntry, at map[string]int) {
	s.state.includes = true
	path := includePath(l.dir, e.include)
	where := Problem{File: filePath(l.dir, f.name), Line: e.at.line, Col: e.at.col, Key: machinesKey + ".include"}
	data, err := readRegular(path)
	var list listFile
	if err == nil {
		list = parseList(path, data)
		s.state.lists[path] = list
	} else {
		text, hint := unreadable(err)
		switch {
		case errors.Is(err, fs.ErrNotExist):
			text, hint = "does not exist", "create it or mend the path"
		case errors.Is(err, errDirectory):
			text, hint = errDirectory.Error(), "name a file in it"
		}
		where.Text, where.Hint = fmt.Sprintf("%s %s", cut(path), text), hint
		if was, ok := l.before.lists[path]; ok {
			list = listFile{machines: was.machines}
			s.state.lists[path] = list
			where.Hint = addHint(hint, "the machines that it had stay in force")
		}
		s.Problems = append(s.Problems, where)
		where.Text, where.Hint = "", ""
	}
	s.Problems = append(s.Problems, list.problems...)
	for _, m := range list.machines {
		l.put(s, m, where, at)
	}
}

// Matching returns the machines of the inventory that a job's target expression
// names, in the order of the inventory; those that are not enabled apart.
// Maintenance is not looked at. It is an error where only Salt can tell.
func (s *Set) Matching(j *Job) (match, disabled []Machine, err error) {
	expr, err := targets.Parse(j.TargetType, j.Targets)
	if err != nil {
		return nil, nil, fmt.Errorf("cannot tell which machines %q names: %w", j.Targets, err)
	}
	for _, m := range s.Machines {
		switch {
		case !expr.Match(m.Target()):
		case m.Enabled:
			match = append(match, m)
		default:
			disabled = append(disabled, m)
		}
	}
	return match, disabled, nil
}
