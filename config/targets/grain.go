package targets

import (
	"fmt"
	"math"
	"regexp"
	"strconv"
	"strings"
)

// grain matches "key:pattern" against what is known of a machine. Keys go into
// nested maps, and both keys and patterns may hold the delimiter themselves:
// every place where the key could end is tried.
type grain struct {
	parts    []string
	patterns []pattern // patterns[i] is for the text from parts[i] to the end
	between  string
	lastStar int // the last part that is "*"; -1 if none
}

// The bounds keep the tries few: each part more can double them.
const (
	maxParts = 20
	maxStars = 8
)

func parseGrain(kind, text, between string) (matcher, *Error) {
	example := "os" + between + "Debian or roles" + between + "web*"
	parts := strings.Split(text, between)
	if len(parts) < 2 {
		return nil, &Error{Pos: 1, Text: fmt.Sprintf("%q has no value", text), Hint: "write key" + between + "pattern, such as " + example}
	}
	if parts[0] == "" {
		return nil, &Error{Pos: 1, Text: "the key is empty", Hint: "write key" + between + "pattern, such as " + example}
	}
	stars, lastStar := 0, -1
	for i, part := range parts {
		if part == "*" {
			stars++
			lastStar = i
		}
	}
	if len(parts) > maxParts || stars > maxStars {
		return nil, &Error{Pos: 1, Text: fmt.Sprintf("too many parts: at most %d, and %d of them *", maxParts, maxStars), Hint: "name a key nearer to the value"}
	}
	g := grain{parts: parts, between: between, patterns: make([]pattern, len(parts)), lastStar: lastStar}
	for i := range parts {
		rest := strings.Join(parts[i:], between)
		if kind == "grain" {
			g.patterns[i] = folded{glob(strings.ToLower(rest))}
			continue
		}
		re, err := parseRegexp(rest)
		if err != nil {
			if i == 1 {
				from := len(parts[0]) + len(between)
				return nil, err.shift(text, from)
			}
			continue // only the text behind the first part must be a pattern
		}
		g.patterns[i] = anchored{regexp.MustCompile("(?i)" + re.String())}
	}
	return g, nil
}

// folded compares without regard to case, as Salt does for the values of grains.
type folded struct{ pattern }

func (f folded) matches(s string) bool { return f.pattern.matches(strings.ToLower(s)) }

func (g grain) match(m Machine) bool { return g.within(m.Grains, 0) }

// within tries parts[i:] as a key and a pattern: one part as the key, then two …
func (g grain) within(grains map[string]any, i int) bool {
	for end := i + 1; end < len(g.parts); end++ {
		if end == i+1 && g.parts[i] == "*" {
			if g.inMap(grains, i, true) {
				return true
			}
			continue
		}
		value, ok := walk(grains, g.parts[i:end])
		if ok && g.fits(value, end) {
			return true
		}
	}
	return false
}

// fits reports whether a value is what parts[i:] says.
func (g grain) fits(value any, i int) bool {
	if inner, ok := asMap(value); ok {
		// Without a star, within itself goes on to the longer keys: trying them
		// here as well would double the tries with each part.
		return len(inner) > 0 && g.inMap(inner, i, i <= g.lastStar)
	}
	if members, ok := asList(value); ok {
		for _, member := range members {
			if inner, ok := asMap(member); ok && g.inMap(inner, i, true) {
				return true
			}
			if g.is(member, i) {
				return true
			}
		}
		return false
	}
	return g.is(value, i)
}

// inMap reports whether a map has parts[i:] as a key, or (if deeper is wanted) as
// a key and a value; a "*" as the first of several parts stands for any key.
func (g grain) inMap(values map[string]any, i int, deeper bool) bool {
	anyKey := g.parts[i] == "*" && i+1 < len(g.parts)
	if anyKey {
		i++
	}
	rest := strings.Join(g.parts[i:], g.between)
	if _, ok := values[rest]; ok || rest == "*" || deeper && g.within(values, i) {
		return true
	}
	if !anyKey {
		return false
	}
	for _, value := range values {
		if inner, ok := asMap(value); ok {
			if g.inMap(inner, i, true) {
				return true
			}
			continue
		}
		members, ok := asList(value)
		if !ok {
			members = []any{value}
		}
		for _, member := range members {
			if g.is(member, i) {
				return true
			}
		}
	}
	return false
}

// is reports whether one value has a text that the pattern matches.
func (g grain) is(value any, i int) bool {
	if g.patterns[i] == nil {
		return false
	}
	for _, text := range texts(value) {
		if g.patterns[i].matches(text) {
			return true
		}
	}
	return false
}

// walk follows keys through maps and lists. In a list a number is an index, and
// another key is looked for in the maps that the list holds.
func walk(value any, keys []string) (any, bool) {
	for _, key := range keys {
		if inner, ok := asMap(value); ok {
			if value, ok = inner[key]; !ok {
				return nil, false
			}
			continue
		}
		members, ok := asList(value)
		if !ok {
			return nil, false
		}
		if value, ok = member(members, key); !ok {
			return nil, false
		}
	}
	return value, true
}

func member(members []any, key string) (any, bool) {
	if n, err := strconv.Atoi(key); err == nil {
		if n < 0 {
			n += len(members)
		}
		if n < 0 || n >= len(members) {
			return nil, false
		}
		return members[n], true
	}
	for _, m := range members {
		if inner, ok := asMap(m); ok {
			if value, ok := inner[key]; ok {
				return value, true
			}
		}
	}
	return nil, false
}

func asMap(value any) (map[string]any, bool) {
	switch m := value.(type) {
	case map[string]any:
		return m, true
	case map[string]string:
		out := make(map[string]any, len(m))
		for k, v := range m {
			out[k] = v
		}
		return out, true
	case map[any]any:
		out := make(map[string]any, len(m))
		for k, v := range m {
			out[texts(k)[0]] = v
		}
		return out, true
	}
	return nil, false
}

func asList(value any) ([]any, bool) {
	switch l := value.(type) {
	case []any:
		return l, true
	case []string:
		out := make([]any, len(l))
		for i, v := range l {
			out[i] = v
		}
		return out, true
	}
	return nil, false
}

// texts are the ways to write a value: as Python does, so that expressions that
// were written for Salt mean the same; a whole float (JSON knows no other
// numbers) also without its ".0".
func texts(value any) []string {
	switch v := value.(type) {
	case string:
		return []string{v}
	case nil:
		return []string{"None"}
	case bool:
		if v {
			return []string{"True"}
		}
		return []string{"False"}
	case float64:
		text := strconv.FormatFloat(v, 'g', -1, 64)
		if v == math.Trunc(v) && math.Abs(v) < 1<<53 {
			whole := strconv.FormatFloat(v, 'f', 0, 64)
			return []string{whole, whole + ".0"}
		}
		return []string{text}
	}
	return []string{fmt.Sprint(value)}
}
