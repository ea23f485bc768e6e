package config

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"slices"
	"strings"
)

// state is what the next reload builds on. Like the Set that holds it, it never
// changes.
type state struct {
	files    map[string]*fileState
	jobs     map[string]*held // in force
	settings map[string]setting
	machines map[string]Machine  // by name, for entries that get broken
	lists    map[string]listFile // by path, likewise
	includes bool                // some list is read, which can change by itself
	other    []Problem           // of no file that is read
	zones    *zoneTable
	host     *Machine
}

// fileState is a file as it is, and as it was when it could be used last.
type fileState struct {
	now, good *scan
	hold      *holdBack
	finished  *finished
}

// finished are the jobs of a good scan with the defaults of the other files.
type finished struct {
	of       *scan
	def      defaults
	jobs     []*held // one a slot, nil where it is wrong
	problems []Problem
}

// held is a job in force with what made it.
type held struct {
	job   *Job
	draft *draft
	hash  string // of the file that it came from
}

const lastGoodFile = "the last good version of the file stays in force"
const lastGoodJob = "the last good version of this job stays in force"

func addHint(hint, more string) string {
	if hint == "" {
		return more
	}
	return hint + "; " + more
}

// merge makes the Set of all files.
func (l *loading) merge() *Set {
	s := &Set{Dir: l.dir, Problems: slices.Clone(l.other)}
	st := &state{files: make(map[string]*fileState, len(l.files)), other: l.other, zones: l.zones, host: l.before.host}
	s.state = st
	for _, f := range l.files {
		st.files[f.now.name] = f
		if f.now.broken {
			s.Problems = append(s.Problems, brokenProblems(f)...)
		}
	}
	l.maintenance(s)
	def := l.settings(s)
	l.inventory(s)
	l.jobs(s, def)
	sortProblems(s.Problems)
	s.Serial = l.serial(s)
	return s
}

func brokenProblems(f *fileState) []Problem {
	ps := slices.Clone(f.now.problems)
	if f.good != nil {
		for i := range ps {
			if !ps[i].Warning {
				ps[i].Hint = addHint(ps[i].Hint, lastGoodFile)
				break
			}
		}
	}
	return ps
}

// maintenance joins what all files hold back. A file that says nothing readable
// goes on holding back what it did.
func (l *loading) maintenance(s *Set) {
	var sources, silent []string
	for _, f := range l.files {
		var was *holdBack
		if b := l.before.files[f.now.name]; b != nil {
			was = b.hold
		}
		switch {
		case f.now.hold != nil:
			f.hold = f.now.hold.overlay(was)
		case f.now.broken:
			f.hold = was
		}
		h := f.hold
		if h == nil {
			continue
		}
		s.Maintenance.Global = s.Maintenance.Global || h.global
		for _, m := range h.machines {
			if !slices.Contains(s.Maintenance.Machines, m) {
				s.Maintenance.Machines = append(s.Maintenance.Machines, m)
			}
		}
		s.Maintenance.Places = append(s.Maintenance.Places, h.places(f.now.name)...)
		if h.global || len(h.machines) > 0 {
			sources = append(sources, f.now.name)
		} else {
			silent = append(silent, f.now.name)
		}
	}
	if len(sources) == 0 {
		sources = silent
	}
	s.Maintenance.Source = strings.Join(sources, ", ")
}

// settings lays the files' keys over the defaults, the last file winning.
func (l *loading) settings(s *Set) defaults {
	st := s.state
	s.Settings = defaultSettings()
	st.settings = map[string]setting{}
	from := map[string]*scan{}
	zoneBad := false
	for _, f := range l.files {
		if f.good == nil {
			continue
		}
		for _, set := range f.good.settings {
			if first := from[set.key]; first != nil && first != f.good {
				s.Problems = append(s.Problems, Problem{
					File: filePath(l.dir, f.good.name), Line: set.at.line, Col: set.at.col, Key: settingsKey + "." + set.key, Warning: true,
					Text: "is also set in " + first.name + "; this one counts", Hint: "take one of the two out",
				})
			}
			from[set.key] = f.good
			if set.apply == nil {
				was, ok := l.before.settings[set.key]
				if !ok {
					zoneBad = zoneBad || set.key == "default_timezone"
					continue
				}
				set = was
			}
			if set.key == "default_timezone" {
				zoneBad = false
			}
			set.apply(&s.Settings)
			st.settings[set.key] = set
		}
	}
	return defaultsOf(&s.Settings, zoneBad)
}

// jobs puts the files' jobs together, in the order of files and lines.
func (l *loading) jobs(s *Set, def defaults) {
	type place struct {
		held *held
		at   int // in sequence
	}
	won := make(map[string]place, len(l.before.jobs))
	var sequence []string // every slot of every file
	var wrong []place
	for _, f := range l.files {
		if f.good == nil {
			continue
		}
		l.finish(f, def)
		if !f.now.broken {
			s.Problems = append(s.Problems, l.withLastGood(f)...)
		}
		for i, sl := range f.good.slots {
			at := len(sequence)
			sequence = append(sequence, sl.name)
			h := f.finished.jobs[i]
			if h == nil {
				wrong = append(wrong, place{at: at})
				was := l.before.jobs[sl.name]
				if was == nil || was.job.File != f.good.name {
					continue
				}
				h = l.refinish(was, def)
			}
			if first, ok := won[sl.name]; ok {
				s.Problems = append(s.Problems, l.twice(first.held, h))
			}
			won[sl.name] = place{h, at}
		}
	}
	// A job that moved to another file and got broken on the way.
	for _, w := range wrong {
		name := sequence[w.at]
		if was := l.before.jobs[name]; was != nil && won[name].held == nil {
			won[name] = place{l.refinish(was, def), w.at}
		}
	}
	s.Jobs = make(map[string]*Job, len(won))
	s.state.jobs = make(map[string]*held, len(won))
	s.Order = make([]string, 0, len(won))
	for at, name := range sequence {
		if p := won[name]; p.held != nil && p.at == at {
			s.state.jobs[name] = p.held
			s.Jobs[name] = p.held.job
			s.Order = append(s.Order, name)
		}
	}
	l.fileList(s)
}

// finish makes the jobs of a file's good version, or takes those of the last
// time where nothing that they hang on has changed.
func (l *loading) finish(f *fileState, def defaults) {
	if b := l.before.files[f.good.name]; b != nil && b.finished != nil && b.finished.of == f.good && b.finished.def == def {
		f.finished = b.finished
		return
	}
	path := filePath(l.dir, f.good.name)
	fin := &finished{of: f.good, def: def, jobs: make([]*held, len(f.good.slots))}
	for i, sl := range f.good.slots {
		if sl.draft == nil {
			continue
		}
		if j := sl.draft.finish(def, path, &fin.problems); j != nil {
			fin.jobs[i] = &held{job: j, draft: sl.draft, hash: f.good.hash}
		}
	}
	f.finished = fin
}

// refinish gives a job of an earlier version the defaults of now; where that
// cannot be, it stays wholly as it was.
func (l *loading) refinish(was *held, def defaults) *held {
	var unsaid []Problem
	j := was.draft.finish(def, "", &unsaid)
	if j == nil || len(changed(was.job, j)) == 0 {
		return was
	}
	return &held{job: j, draft: was.draft, hash: was.hash}
}

// withLastGood are a file's problems, told with what happens to the job.
func (l *loading) withLastGood(f *fileState) []Problem {
	ps := slices.Concat(f.now.problems, f.finished.problems)
	if len(l.before.jobs) == 0 {
		return ps
	}
	wrong := map[string]bool{}
	for i, sl := range f.good.slots {
		if f.finished.jobs[i] == nil && l.before.jobs[sl.name] != nil {
			wrong[sl.name] = true
		}
	}
	for i, p := range ps {
		if !p.Warning && wrong[p.Job] {
			ps[i].Hint = addHint(p.Hint, lastGoodJob)
			delete(wrong, p.Job)
		}
	}
	return ps
}

func (l *loading) twice(first, second *held) Problem {
	a, b := first.job, second.job
	return Problem{
		File: filePath(l.dir, b.File), Line: b.Line, Col: second.draft.pos[posName].col, Job: b.Name,
		Text: fmt.Sprintf("is also in %s at line %d; the one in %s counts", a.File, a.Line, b.File),
		Hint: "rename one of the two or take it out",
	}
}

func (l *loading) fileList(s *Set) {
	jobs := map[string][]string{}
	old := map[string]bool{}
	for _, name := range s.Order {
		h := s.state.jobs[name]
		jobs[h.job.File] = append(jobs[h.job.File], name)
		if s.carried(h) {
			old[h.job.File] = true
		}
	}
	for _, f := range l.files {
		name := f.now.name
		s.Files = append(s.Files, File{
			Name: name, Group: f.now.group, Hash: f.now.hash, Broken: f.now.broken,
			LastGood: f.now.broken && f.good != nil || old[name], Jobs: jobs[name],
		})
	}
}

// carried reports whether a job comes from an earlier version of its file.
func (s *Set) carried(h *held) bool {
	f := s.state.files[h.job.File]
	return f == nil || f.now.hash != h.hash
}

// serial is a hash over everything that is in force, and over what is wrong: two
// sets with one serial are the same to everybody. Jobs follow from the hashes of
// their files, but for those that are carried.
func (l *loading) serial(s *Set) string {
	h := sha256.New()
	for _, f := range s.Files {
		fmt.Fprintf(h, "file %q %s %t %t\n", f.Name, f.Hash, f.Broken, f.LastGood)
	}
	for _, name := range s.Order {
		if j := s.state.jobs[name]; s.carried(j) {
			fmt.Fprintf(h, "job %q %q %s\n", name, j.job.File, j.hash)
		}
	}
	settings := s.Settings
	settings.DefaultLocation = nil
	fmt.Fprintf(h, "%+v\n%s\n%+v\n%+v\n", settings, s.Settings.DefaultLocation, s.Maintenance, s.Machines)
	for _, p := range s.Problems {
		_, _ = io.WriteString(h, p.format()+"\n")
	}
	return hex.EncodeToString(h.Sum(nil))
}
