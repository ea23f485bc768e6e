// Package targets tells which machines an expression names: glob, pcre, list,
// grain, compound and their relatives, with the meaning that Salt gives them. It
// is pure: no I/O, no YAML, nothing of Salt. Expressions come in from job files
// and from commands, machines from the inventory; what goes out is a yes or no
// for each machine, or an error that says at which character an expression is
// wrong.
package targets

import (
	"fmt"
	"slices"
	"strings"
)

// Machine is what expressions are matched against.
type Machine struct {
	Name   string
	Grains map[string]any // strings, numbers, bools, lists, nested maps
}

// Types are the target types that this program matches itself; SaltOnly those
// that only Salt can.
var (
	Types    = []string{"glob", "pcre", "list", "grain", "compound", "grain_pcre", "ipcidr"}
	SaltOnly = []string{"pillar", "nodegroup", "range", "pillar_pcre", "data"}
)

// Error is what is wrong with an expression.
type Error struct {
	Pos      int    // character from 1; 0: the expression as a whole
	Text     string // what is wrong
	Hint     string // what to write instead
	SaltOnly bool   // nothing is wrong, but only Salt can tell what it names
}

func (e *Error) Error() string {
	text := e.Text
	if e.Pos > 0 {
		text = fmt.Sprintf("character %d: %s", e.Pos, text)
	}
	if e.Hint != "" {
		text += "; " + e.Hint
	}
	return text
}

// Expr is a checked expression. It never changes.
type Expr struct{ root matcher }

// matcher is a node of an expression.
type matcher interface{ match(m Machine) bool }

// Parse checks an expression of a type ("" is glob). Its error is always an
// *Error: at which character something is wrong, and what to write instead.
func Parse(kind, text string) (*Expr, error) {
	if kind == "" {
		kind = "glob"
	}
	if slices.Contains(SaltOnly, kind) {
		return nil, &Error{Text: fmt.Sprintf("target type %q is known to Salt only", kind),
			Hint: "use transport: salt, or one of " + strings.Join(Types, ", "), SaltOnly: true}
	}
	if !slices.Contains(Types, kind) {
		return nil, &Error{Text: fmt.Sprintf("unknown target type %q", kind), Hint: "write one of " + strings.Join(Types, ", ")}
	}
	if strings.TrimSpace(text) == "" {
		return nil, &Error{Text: "the expression is empty", Hint: "write '*' for all machines"}
	}
	var root matcher
	var err *Error
	switch kind {
	case "list":
		root, err = parseList(text)
	case "compound":
		root, err = parseCompound(text)
	default:
		trimmed := strings.TrimSpace(text)
		root, err = parseSimple(kind, trimmed, ':')
		err = err.shift(text, strings.Index(text, trimmed))
	}
	if err != nil {
		return nil, err
	}
	return &Expr{root}, nil
}

// Match reports whether the expression names the machine.
func (e *Expr) Match(m Machine) bool { return e.root.match(m) }

// shift moves the position of an error in a part of text that begins at byte
// from. It keeps nil.
func (e *Error) shift(text string, from int) *Error {
	if e != nil && e.Pos > 0 {
		e.Pos += characters(text[:from])
	}
	return e
}

// parseSimple reads what is one term in a compound and a type of its own outside.
func parseSimple(kind, text string, delimiter rune) (matcher, *Error) {
	switch kind {
	case "pcre":
		re, err := parseRegexp(text)
		return name{re}, err
	case "grain", "grain_pcre":
		return parseGrain(kind, text, string(delimiter))
	case "ipcidr":
		return parseNet(text)
	case "list":
		return parseList(text)
	}
	return name{glob(text)}, nil
}

// pattern is a glob or a regular expression.
type pattern interface{ matches(s string) bool }

// name matches the machine's name.
type name struct{ pattern }

func (n name) match(m Machine) bool { return n.matches(m.Name) }

// list names machines one by one.
type list map[string]bool

func (l list) match(m Machine) bool { return l[m.Name] }

func parseList(text string) (matcher, *Error) {
	names := list{}
	for part := range strings.SplitSeq(text, ",") {
		if part = strings.TrimSpace(part); part != "" {
			names[part] = true
		}
	}
	if len(names) == 0 {
		return nil, &Error{Pos: 1, Text: "the list names no machine", Hint: "write names with commas between them"}
	}
	return names, nil
}
