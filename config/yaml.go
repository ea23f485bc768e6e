package config

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"strings"

	yaml "go.yaml.in/yaml/v4"
)

// This file and its neighbour yaml_error.go are the only ones that know the
// YAML library. What comes out is a tree of our own in which aliases and merge
// keys are already followed, within budgets: nobody behind this line can run
// into a cycle or a bomb.

const (
	maxFileBytes = 1 << 20
	maxNodes     = 100_000 // as written, and again with aliases expanded
	maxDepth     = 64
)

type kind uint8

const (
	scalarKind kind = iota
	listKind
	mappingKind
)

// value is one node of a file. It is shared where an alias names it, so it is
// never changed after parsing.
type value struct {
	kind   kind
	plain  bool // a scalar without quotes or with a tag that gives it a meaning
	faulty bool // it has a fault, or something below it has
	size   int  // nodes below and including it, aliases expanded
	line   int
	col    int
	text   string   // a scalar's text, escapes and folding done
	items  []*value // of a list
	pairs  []pair   // of a mapping: keys are unique, merged ones come last
	dups   []dup    // keys that a later one of the same mapping hides
	fault  *fault   // what is wrong with the node itself; only its job falls with it
}

type fault struct {
	text, hint string
}

type pair struct {
	key, val *value
}

type dup struct {
	key   *value // the later one, which counts
	first int    // line of the one that it hides
}

// get returns the value of a key, nil where there is none.
func (v *value) get(key string) *value {
	for _, p := range v.pairs {
		if p.key.text == key {
			return p.val
		}
	}
	return nil
}

// syntaxError is why a whole file cannot be used.
type syntaxError struct {
	line, col  int
	text, hint string
}

// parseYAML returns the one document of a file.
func parseYAML(data []byte) (root *value, bad *syntaxError) {
	// The library panics with its own errors and turns them back; what comes
	// through is a bug of its, which must cost one file and not the server.
	defer func() {
		if r := recover(); r != nil {
			root, bad = nil, &syntaxError{line: 1, col: 1, text: fmt.Sprintf("cannot be read as YAML: %v", r)}
		}
	}()
	loader, err := yaml.NewLoader(bytes.NewReader(data))
	if err != nil {
		return nil, &syntaxError{text: "cannot be read as YAML: " + err.Error()}
	}
	var doc, more yaml.Node
	switch err := loader.Load(&doc); {
	case errors.Is(err, io.EOF):
		return nil, emptyFile(0, 0)
	case err != nil:
		return nil, explain(data, err)
	}
	switch err := loader.Load(&more); {
	case err == nil:
		return nil, &syntaxError{line: more.Line, col: more.Column,
			text: "a second YAML document begins here, and a file holds only one",
			hint: "move it to a file of its own, or take out the ---"}
	case !errors.Is(err, io.EOF):
		return nil, explain(data, err)
	}
	t := &treeMaker{anchored: map[*yaml.Node]*value{}}
	if root = t.node(&doc, 0); t.fatal != nil {
		return nil, t.fatal
	}
	if isNull(root) {
		return nil, emptyFile(root.line, root.col)
	}
	return root, nil
}

func emptyFile(line, col int) *syntaxError {
	return &syntaxError{line: line, col: col, text: "the file is empty", hint: "write {} if it is to have no jobs, or delete it"}
}

// treeMaker turns the library's nodes into values.
type treeMaker struct {
	nodes    int
	anchored map[*yaml.Node]*value // nil while the node is being made: a cycle
	fatal    *syntaxError
	slab     []value // not handed out yet: all values of a file go at once
}

func (t *treeMaker) new() *value {
	if len(t.slab) == 0 {
		t.slab = make([]value, 128)
	}
	v := &t.slab[0]
	t.slab = t.slab[1:]
	return v
}

func (t *treeMaker) fail(n *yaml.Node, text, hint string) *value {
	if t.fatal == nil {
		t.fatal = &syntaxError{line: n.Line, col: n.Column, text: text, hint: hint}
	}
	return &value{line: n.Line, col: n.Column}
}

func (t *treeMaker) node(n *yaml.Node, depth int) *value {
	if t.fatal != nil {
		return &value{}
	}
	if depth > maxDepth {
		return t.fail(n, fmt.Sprintf("values are nested more than %d deep", maxDepth), "")
	}
	if t.nodes++; t.nodes > maxNodes {
		return t.fail(n, fmt.Sprintf("the file holds more than %d values", maxNodes), "split it into several files")
	}
	switch n.Kind {
	case yaml.DocumentNode:
		if len(n.Content) == 0 {
			return &value{plain: true, line: n.Line, col: n.Column}
		}
		return t.node(n.Content[0], depth)
	case yaml.AliasNode:
		return t.alias(n)
	}
	if n.Anchor != "" {
		t.anchored[n] = nil
	}
	v := t.new()
	v.line, v.col, v.size = n.Line, n.Column, 1
	switch n.Kind {
	case yaml.ScalarNode:
		t.scalar(v, n)
	case yaml.SequenceNode:
		t.list(v, n, depth)
	case yaml.MappingNode:
		t.mapping(v, n, depth)
	default:
		return t.fail(n, "cannot be read as YAML: unknown kind of node", "")
	}
	if v.fault != nil {
		v.faulty = true
	}
	if v.size > maxNodes {
		return t.fail(n, fmt.Sprintf("aliases make this more than %d values", maxNodes), "write out what is needed")
	}
	if n.Anchor != "" {
		t.anchored[n] = v
	}
	return v
}

// alias stands for the node that it names, at that node's position: that is
// where a mistake is mended.
func (t *treeMaker) alias(n *yaml.Node) *value {
	v, made := t.anchored[n.Alias]
	if !made || v == nil {
		return t.fail(n, fmt.Sprintf("alias *%s is inside of what it names", n.Value), "")
	}
	return v
}

func (t *treeMaker) scalar(v *value, n *yaml.Node) {
	v.text = n.Value
	const quotes = yaml.DoubleQuotedStyle | yaml.SingleQuotedStyle | yaml.LiteralStyle | yaml.FoldedStyle
	v.plain = n.Style&quotes == 0
	if n.Style&yaml.TaggedStyle == 0 {
		if n.Tag == "!" {
			v.plain = false
		}
		return
	}
	want, known := map[string]meaning{
		"!!str": textMeaning, "!!int": intMeaning, "!!float": floatMeaning, "!!bool": boolMeaning,
		"!!null": nullMeaning, "!!timestamp": timeMeaning, "!!merge": textMeaning,
	}[n.Tag]
	got := meaningOf(n.Value)
	switch {
	case !known:
		v.fault = unknownTag(n.Tag)
	case want == textMeaning:
		v.plain = false
	case got == want, want == floatMeaning && got == intMeaning:
		v.plain = true
	default:
		v.fault = &fault{fmt.Sprintf("%q is not what the tag %s says", cut(n.Value), n.Tag), "take the tag out"}
	}
}

func unknownTag(tag string) *fault {
	return &fault{fmt.Sprintf("unknown tag %s", cut(tag)), "take it out, or quote the text if it begins with !"}
}

func (t *treeMaker) list(v *value, n *yaml.Node, depth int) {
	v.kind = listKind
	if n.Tag != "!!seq" && n.Tag != "!" {
		v.fault = unknownTag(n.Tag)
	}
	v.items = make([]*value, 0, len(n.Content))
	for _, c := range n.Content {
		item := t.node(c, depth+1)
		v.items = append(v.items, item)
		v.size += item.size
		v.faulty = v.faulty || item.faulty
		if t.fatal != nil || v.size > maxNodes {
			return
		}
	}
}

func (t *treeMaker) mapping(v *value, n *yaml.Node, depth int) {
	v.kind = mappingKind
	if n.Tag != "!!map" && n.Tag != "!" {
		v.fault = unknownTag(n.Tag)
	}
	m := &mappingMaker{v: v}
	v.pairs = make([]pair, 0, len(n.Content)/2)
	for i := 0; i+1 < len(n.Content); i += 2 {
		key, val := t.node(n.Content[i], depth+1), t.node(n.Content[i+1], depth+1)
		v.size += key.size + val.size
		if t.fatal != nil || v.size > maxNodes {
			return
		}
		switch {
		case isMerge(n.Content[i]):
			m.merge(key, val)
		case key.kind != scalarKind:
			v.fault = &fault{"a key must be text, not a list or mapping", "write KEY: VALUE"}
		default:
			m.add(key, val)
		}
		v.faulty = v.faulty || key.faulty || val.faulty
	}
	m.finish()
}

func isMerge(n *yaml.Node) bool {
	return n.Kind == yaml.ScalarNode && n.Value == "<<" && n.Tag == "!!merge"
}

// mappingMaker gathers the pairs of one mapping. Own keys win over merged ones
// wherever they stand, an earlier merged mapping over a later one.
type mappingMaker struct {
	v      *value
	index  map[string]int // only where there are many
	merged []pair
}

func (m *mappingMaker) find(key string) int {
	if m.index == nil && len(m.v.pairs) > 16 {
		m.index = make(map[string]int, cap(m.v.pairs))
		for i, p := range m.v.pairs {
			m.index[p.key.text] = i
		}
	}
	if m.index != nil {
		if i, ok := m.index[key]; ok {
			return i
		}
		return -1
	}
	for i, p := range m.v.pairs {
		if p.key.text == key {
			return i
		}
	}
	return -1
}

func (m *mappingMaker) add(key, val *value) {
	if i := m.find(key.text); i >= 0 {
		m.v.dups = append(m.v.dups, dup{key: key, first: m.v.pairs[i].key.line})
		m.v.pairs[i] = pair{key, val}
		return
	}
	if m.index != nil {
		m.index[key.text] = len(m.v.pairs)
	}
	m.v.pairs = append(m.v.pairs, pair{key, val})
}

func (m *mappingMaker) merge(key, val *value) {
	from := []*value{val}
	if val.kind == listKind {
		from = val.items
	}
	for _, f := range from {
		if f.kind != mappingKind {
			// The fault sits on the mapping that holds <<: the value may be shared.
			m.v.fault = &fault{fmt.Sprintf("<< at line %d names something that is not a mapping", key.line), "write <<: *ANCHOR of a mapping"}
			return
		}
		m.merged = append(m.merged, f.pairs...)
	}
}

func (m *mappingMaker) finish() {
	for _, p := range m.merged {
		if m.find(p.key.text) < 0 {
			m.add(p.key, p.val)
		}
	}
}

// cut keeps a stranger's text short enough for a message.
func cut(s string) string {
	const most = 60
	if r := []rune(s); len(r) > most {
		return string(r[:most]) + "..."
	}
	return strings.ToValidUTF8(s, "?")
}
