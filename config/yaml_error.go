package config

import (
	"bytes"
	"errors"
	"fmt"
	"sort"
	"strings"
	"unicode/utf8"

	yaml "go.yaml.in/yaml/v4"
)

// explain turns the library's error into position, text and what to write.
func explain(data []byte, err error) *syntaxError {
	var e *yaml.LoadError
	if !errors.As(err, &e) {
		return &syntaxError{line: 1, col: 1, text: "not valid YAML: " + cut(err.Error())}
	}
	bad := &syntaxError{line: e.Mark.Line, col: e.Mark.Column, text: "not valid YAML: " + e.Message}
	if e.Mark.Line == 0 {
		bad.line, bad.col = positionOf(data, e.Mark.Index)
	}
	if e.ContextMsg != "" && e.ContextMark.Line > 0 && e.ContextMark.Line != bad.line {
		bad.text += fmt.Sprintf(" (%s that begins at line %d)", e.ContextMsg, e.ContextMark.Line)
	} else if e.ContextMsg != "" {
		bad.text += " (" + e.ContextMsg + ")"
	}
	line := lineOf(data, bad.line)
	if strings.HasPrefix(e.ContextMsg, "while scanning an alias") || strings.HasPrefix(e.Message, "unknown anchor") {
		// The mark may stand behind the star; people look for the star itself.
		if e.ContextMark.Line == bad.line && e.ContextMark.Column > 0 {
			bad.col = e.ContextMark.Column
		}
		bad.text = "not valid YAML: a text that begins with * must be quoted"
		bad.hint = starHint(line, bad.col)
		if name := anchorName.get().FindString(skipRunes(line, bad.col)); name != "" {
			bad.text = fmt.Sprintf("not valid YAML: *%s names no anchor &%s above", cut(name), cut(name))
			bad.hint = "mend the name, or if it is a text " + bad.hint
		}
		return bad
	}
	bad.hint = hintFor(e.Message, line, bad.col)
	return bad
}

func hintFor(message, line string, col int) string {
	at, _ := utf8.DecodeRuneInString(skipRunes(line, col-1))
	switch {
	case at == '\t' || strings.Contains(message, "tab character"):
		return "indent with blanks, never with tabs"
	case at == '@' || at == '`' || at == '%':
		return fmt.Sprintf("quote the text that begins with %c", at)
	case strings.HasPrefix(message, "mapping values are not allowed"):
		return "quote a text that has ': ' in it, and check the indentation"
	case strings.HasPrefix(message, "could not find expected ':'"), strings.HasPrefix(message, "did not find expected key"):
		return "check the indentation and the quotes of this line and of the one above"
	case strings.HasPrefix(message, "found unexpected end of stream"):
		return "close the quotes"
	case strings.HasPrefix(message, "did not find expected ',' or"):
		return "close the bracket"
	case strings.HasPrefix(message, "found undefined tag handle"), strings.Contains(message, "while parsing a tag"):
		return "quote the text that begins with !"
	case strings.HasPrefix(message, "invalid"), strings.HasPrefix(message, "control characters"):
		return "save the file as UTF-8 text"
	}
	return ""
}

var (
	anchorName = pattern{text: `^[A-Za-z][A-Za-z0-9_-]*`}
	starKey    = pattern{text: `([A-Za-z_][A-Za-z0-9_]*)\s*:\s+$`}
	// A line of a job whose schedule field is a star without quotes.
	starLine = pattern{text: `^(\s*(?:sec|min|hour|dom|mon|dow|year|schedule)\s*:[ \t]+)(\*[^#'"\[\]{}]*?)([ \t]+#.*)?[ \t\r]*$`}
)

// starHint says how to write the value that begins with a star at col.
func starHint(line string, col int) string {
	rest := skipRunes(line, col-1)
	before := line[:len(line)-len(rest)]
	end := "#"
	if strings.ContainsAny(before, "{[") {
		end = ",}]#"
	}
	if i := strings.IndexAny(rest, end); i >= 0 {
		rest = rest[:i]
	}
	rest = strings.TrimSpace(rest)
	if rest == "" || strings.ContainsAny(rest, "'\"") {
		return "put it in quotes"
	}
	if key := starKey.get().FindStringSubmatch(before); key != nil {
		return fmt.Sprintf("quote it: %s: '%s'", key[1], cut(rest))
	}
	return fmt.Sprintf("quote it: '%s'", cut(rest))
}

// star is one schedule field that broke the file for want of quotes.
type star struct {
	line, col int
	text      string
	key       string
}

// quoteStars puts quotes around every bare star of a schedule field. The
// columns of all else stay as they are, so the rest of the file can be checked
// although it is broken: one round of mending instead of one for each star.
func quoteStars(data []byte) ([]byte, []star) {
	var (
		out   bytes.Buffer
		stars []star
	)
	for i, line := range bytes.SplitAfter(data, []byte("\n")) {
		m := starLine.get().FindSubmatch(bytes.TrimRight(line, "\n"))
		if m == nil {
			out.Write(line)
			continue
		}
		text := strings.TrimSpace(string(m[2]))
		stars = append(stars, star{
			line: i + 1, col: utf8.RuneCount(m[1]) + 1, text: text,
			key: strings.TrimSpace(strings.TrimSuffix(strings.TrimSpace(string(m[1])), ":")),
		})
		fmt.Fprintf(&out, "%s'%s'%s\n", m[1], text, m[3])
	}
	return out.Bytes(), stars
}

// only returns the file with every line but those of one top-level key blanked,
// so that the key can be read with its true positions although the rest of the
// file is not YAML. It is nil where the key is not there exactly once.
func only(data []byte, key string) []byte {
	lines := bytes.SplitAfter(data, []byte("\n"))
	inside, found := false, 0
	for i, line := range lines {
		switch {
		case bytes.HasPrefix(line, []byte(key+":")):
			inside, found = true, found+1
		case len(bytes.TrimSpace(line)) > 0 && !bytes.ContainsAny(line[:1], " \t#-"):
			inside = false
		case len(line) > 3 && bytes.HasPrefix(line, []byte("---")):
			inside = false
		}
		if !inside {
			lines[i] = []byte("\n")
		}
	}
	if found != 1 {
		return nil
	}
	return bytes.Join(lines, nil)
}

// positionOf is line and column of a byte.
func positionOf(data []byte, index int) (line, col int) {
	index = max(0, min(index, len(data)))
	start := bytes.LastIndexByte(data[:index], '\n') + 1
	return bytes.Count(data[:index], []byte("\n")) + 1, utf8.RuneCount(data[start:index]) + 1
}

func lineOf(data []byte, line int) string {
	for i := 1; i < line; i++ {
		j := bytes.IndexByte(data, '\n')
		if j < 0 {
			return ""
		}
		data = data[j+1:]
	}
	if j := bytes.IndexByte(data, '\n'); j >= 0 {
		data = data[:j]
	}
	return string(data)
}

func skipRunes(s string, n int) string {
	for ; n > 0 && s != ""; n-- {
		_, size := utf8.DecodeRuneInString(s)
		s = s[size:]
	}
	return s
}

// scalarsAt collects the quoted scalars that stand at the stars, by position.
func scalarsAt(root *value, stars []star) []star {
	want := make(map[[2]int]star, len(stars))
	for _, s := range stars {
		want[[2]int{s.line, s.col}] = s
	}
	var found []star
	var walk func(v *value)
	walk = func(v *value) {
		if s, ok := want[[2]int{v.line, v.col}]; ok && v.kind == scalarKind && v.text == s.text {
			found = append(found, s)
			delete(want, [2]int{v.line, v.col})
		}
		for _, item := range v.items {
			walk(item)
		}
		for _, p := range v.pairs {
			walk(p.val)
		}
	}
	walk(root)
	sort.Slice(found, func(i, j int) bool { return found[i].line < found[j].line })
	return found
}
