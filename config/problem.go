package config

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
)

func (p Problem) format() string {
	var b strings.Builder
	b.WriteString(p.File)
	if p.Line > 0 {
		fmt.Fprintf(&b, ":%d:%d", p.Line, p.Col)
	}
	b.WriteString(": ")
	if p.Job != "" {
		fmt.Fprintf(&b, "job %q: ", p.Job)
	}
	if p.Key != "" {
		b.WriteString(p.Key + ": ")
	}
	b.WriteString(p.Text)
	if p.Hint != "" {
		b.WriteString("; " + p.Hint)
	}
	return b.String()
}

// sortProblems puts errors first, then goes by file and position.
func sortProblems(ps []Problem) {
	slices.SortStableFunc(ps, func(a, b Problem) int {
		if a.Warning != b.Warning {
			if b.Warning {
				return -1
			}
			return 1
		}
		return cmp.Or(strings.Compare(a.File, b.File), cmp.Compare(a.Line, b.Line), cmp.Compare(a.Col, b.Col))
	})
}

// scope is where the reading of a file stands: it gathers what is wrong there.
type scope struct {
	file   string // DIR/NAME
	job    string
	prefix string // before the key in messages: "saltpeter_config."
	bad    bool   // an error was said since the scope was made
	out    *[]Problem
}

func (s *scope) say(v *value, key, text, hint string, warning bool) {
	if key != "" {
		key = s.prefix + key
	} else {
		key = strings.TrimSuffix(s.prefix, ".")
	}
	*s.out = append(*s.out, Problem{
		File: s.file, Line: v.line, Col: v.col, Job: s.job, Key: key, Text: text, Hint: hint, Warning: warning,
	})
}

func (s *scope) fail(v *value, key, text, hint string) {
	s.bad = true
	s.say(v, key, text, hint, false)
}

func (s *scope) warn(v *value, key, text, hint string) { s.say(v, key, text, hint, true) }

// inside is a scope for a mapping below this one, with its own bad.
func (s *scope) inside(prefix string) *scope {
	return &scope{file: s.file, job: s.job, prefix: s.prefix + prefix, out: s.out}
}

// faults reports every node below v that is wrong in itself.
func (s *scope) faults(v *value, key string) {
	if !v.faulty {
		return
	}
	if v.fault != nil {
		s.fail(v, key, v.fault.text, v.fault.hint)
	}
	for _, item := range v.items {
		s.faults(item, key)
	}
	for _, p := range v.pairs {
		at := key
		if at == "" {
			at = p.key.text
		}
		s.faults(p.key, at)
		s.faults(p.val, at)
	}
}

// doubled warns about keys of a mapping that are written twice.
func (s *scope) doubled(v *value) {
	for _, d := range v.dups {
		s.warn(d.key, d.key.text, fmt.Sprintf("is written twice, first at line %d", d.first), "only this last one counts; take one out")
	}
}

// unknown warns about a key that nobody reads.
func (s *scope) unknown(key *value, known []string) {
	hint := "take it out"
	if near := nearest(key.text, known); near != "" {
		hint = fmt.Sprintf("did you mean %s?", near)
	}
	s.warn(key, cut(key.text), "unknown key, ignored", hint)
}

// nearest is the word of a list that was most likely meant, or "".
func nearest(word string, list []string) string {
	word = strings.ToLower(word)
	best, most := "", min(3, max(1, len(word)/3))
	for _, w := range list {
		if d := distance(word, strings.ToLower(w), most); d <= most && (best == "" || d < most) {
			best, most = w, d
		}
	}
	return best
}

// distance counts the letters to change, add, drop or swap with a neighbour; it
// stops beyond most.
func distance(a, b string, most int) int {
	if len(a)-len(b) > most || len(b)-len(a) > most {
		return most + 1
	}
	before, last, row := make([]int, len(b)+1), make([]int, len(b)+1), make([]int, len(b)+1)
	for j := range last {
		last[j] = j
	}
	for i := 1; i <= len(a); i++ {
		row[0] = i
		for j := 1; j <= len(b); j++ {
			change := 1
			if a[i-1] == b[j-1] {
				change = 0
			}
			row[j] = min(last[j]+1, row[j-1]+1, last[j-1]+change)
			if i > 1 && j > 1 && a[i-1] == b[j-2] && a[i-2] == b[j-1] {
				row[j] = min(row[j], before[j-2]+1)
			}
		}
		before, last, row = last, row, before
	}
	return last[len(b)]
}
