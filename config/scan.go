package config

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"strings"
	"time"
)

// scan is what one version of one file says by itself. It never changes, so the
// next reload uses it again as long as the file's hash is the same.
type scan struct {
	name, group string
	hash        string
	broken      bool
	slots       []slot // its jobs in the order of lines, wrong ones too
	hold        *holdBack
	settings    []setting
	machines    []machineEntry
	inventory   bool // saltpeter_machines is there
	problems    []Problem
}

// slot is a job's place in its file.
type slot struct {
	name  string
	draft *draft // nil: it is no job at all
}

const jobFileSuffix = ".yaml"

func hashOf(data []byte) string {
	sum := sha256.Sum256(data)
	return hex.EncodeToString(sum[:])
}

// brokenFile is a scan of a file that cannot be read at all.
func brokenFile(dir, name, text, hint string) *scan {
	return &scan{
		name: name, group: strings.TrimSuffix(name, jobFileSuffix), hash: "unreadable: " + text, broken: true,
		problems: []Problem{{File: filePath(dir, name), Text: text, Hint: hint}},
	}
}

// scanFile reads one file's content.
func scanFile(dir, name string, data []byte, hash string, zones *zoneTable) *scan {
	f := &scan{name: name, group: strings.TrimSuffix(name, jobFileSuffix), hash: hash}
	s := &scope{file: filePath(dir, name), out: &f.problems}
	root, bad := parseYAML(data)
	if bad != nil {
		f.broken = true
		s.syntax(bad)
		f.salvage(s, data, bad, zones)
		return f
	}
	if root.kind != mappingKind {
		f.broken = true
		s.fail(root, "", "the file is not a mapping of job names to jobs", "write NAME: and the keys of the job indented below it")
		return f
	}
	f.top(s, root, zones)
	return f
}

func (s *scope) syntax(bad *syntaxError) {
	s.fail(&value{line: bad.line, col: bad.col}, "", bad.text, bad.hint)
}

// top reads the keys of a file.
func (f *scan) top(s *scope, root *value, zones *zoneTable) {
	s.doubled(root)
	if root.fault != nil {
		s.fail(root, "", root.fault.text, root.fault.hint)
	}
	for _, p := range root.pairs {
		switch name := p.key.text; {
		case name == maintenanceKey:
			f.hold = readMaintenance(s, p.key, p.val)
		case name == settingsKey:
			f.settings = readSettings(s, p.val, zones)
		case name == machinesKey:
			f.machines, f.inventory = readMachines(s, p.val)
		case strings.HasPrefix(name, "saltpeter_") && nearest(name, specialKeys) != "":
			s.fail(p.key, "", fmt.Sprintf("unknown special key %s", cut(name)), fmt.Sprintf("did you mean %s?", nearest(name, specialKeys)))
		default:
			d := readJob(*s, f.group, f.name, p.key, p.val, zones)
			f.slots = append(f.slots, slot{name: name, draft: d})
		}
	}
}

const settingsKey = "saltpeter_config"

var specialKeys = []string{maintenanceKey, settingsKey, machinesKey}

// salvage makes the best of a file that is not YAML: stars without quotes are
// all named at once together with what else is wrong, and maintenance, which
// somebody may have written in a hurry, counts where it can be read by itself.
func (f *scan) salvage(s *scope, data []byte, bad *syntaxError, zones *zoneTable) {
	mended, stars := quoteStars(data)
	if len(stars) > 0 {
		root, again := parseYAML(mended)
		if again == nil && root.kind == mappingKind {
			f.problems = nil
			f.starProblems(s, root, stars)
			f.top(s, root, zones)
			for _, sl := range f.slots {
				if sl.draft != nil {
					sl.draft.finish(defaults{loc: time.UTC}, s.file, &f.problems)
				}
			}
			// The jobs of a broken file stay the last good ones.
			f.slots, f.settings, f.machines, f.inventory = nil, nil, nil, false
			return
		}
		if again != nil && (again.line != bad.line || again.col != bad.col) {
			s.syntax(again)
		}
	}
	part := only(data, maintenanceKey)
	if part == nil {
		return
	}
	if root, bad := parseYAML(part); bad == nil && root.kind == mappingKind && len(root.pairs) == 1 {
		var unsaid []Problem
		h := readMaintenance(&scope{file: s.file, out: &unsaid}, root.pairs[0].key, root.pairs[0].val)
		if len(unsaid) == 0 {
			f.hold = h
		}
	}
}

func (f *scan) starProblems(s *scope, root *value, stars []star) {
	found := scalarsAt(root, stars)
	if len(found) == 0 {
		found = stars
	}
	for _, st := range found {
		in := *s
		for _, p := range root.pairs {
			if p.key.line <= st.line {
				in.job = p.key.text
			}
		}
		in.fail(&value{line: st.line, col: st.col}, st.key, "not valid YAML: a text that begins with * must be quoted",
			fmt.Sprintf("quote it: %s: '%s'", st.key, cut(st.text)))
	}
}
