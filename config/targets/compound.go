package targets

import (
	"fmt"
	"strings"
	"unicode"
	"unicode/utf8"
)

type (
	not struct{ term matcher }
	and struct{ left, right matcher }
	or  struct{ left, right matcher }
)

func (n not) match(m Machine) bool { return !n.term.match(m) }
func (a and) match(m Machine) bool { return a.left.match(m) && a.right.match(m) }
func (o or) match(m Machine) bool  { return o.left.match(m) || o.right.match(m) }

// maxDepth bounds the recursion of parsing and matching.
const maxDepth = 100

// token is a word of a compound expression.
type token struct {
	text string
	from int // byte
}

// operator reports whether the token is one; Salt knows them in lower case only.
func (t token) operator() bool {
	switch t.text {
	case "and", "or", "not", "(", ")":
		return true
	}
	return false
}

// compound is the state of reading one expression: not binds tighter than and,
// and tighter than or, as in the Python that Salt hands its expressions to.
type compound struct {
	text   string
	tokens []token
	depth  int
}

func parseCompound(text string) (matcher, *Error) {
	c := &compound{text: text, tokens: words(text)}
	root, err := c.alternatives()
	if err != nil {
		return nil, err
	}
	if t, ok := c.peek(); ok {
		if t.text == ")" {
			return nil, c.fail(t.from, "')' closes nothing", "leave it out, or add a '(' before")
		}
		return nil, c.unjoined(t)
	}
	return root, nil
}

// unjoined is the error for two terms without an operator between them.
func (c *compound) unjoined(t token) *Error {
	hint := "write 'and' or 'or' between them"
	lower := strings.ToLower(t.text)
	switch {
	case lower != t.text && token{text: lower}.operator():
		hint = "write " + lower + " in lower case"
	case strings.HasSuffix(strings.TrimRightFunc(c.text[:t.from], unicode.IsSpace), ","):
		hint = "write the list without blanks"
	}
	return c.fail(t.from, fmt.Sprintf("no operator before %q", t.text), hint)
}

func (c *compound) fail(from int, text, hint string) *Error {
	return &Error{Pos: characters(c.text[:from]) + 1, Text: text, Hint: hint}
}

func (c *compound) peek() (token, bool) {
	if len(c.tokens) == 0 {
		return token{}, false
	}
	return c.tokens[0], true
}

// take drops the next token if it is the operator op.
func (c *compound) take(op string) bool {
	t, ok := c.peek()
	if !ok || t.text != op {
		return false
	}
	c.tokens = c.tokens[1:]
	return true
}

func (c *compound) alternatives() (matcher, *Error) {
	left, err := c.conjunction()
	for err == nil && c.take("or") {
		var right matcher
		right, err = c.conjunction()
		left = or{left, right}
	}
	return left, err
}

func (c *compound) conjunction() (matcher, *Error) {
	left, err := c.negation()
	for err == nil {
		// "a not b" is "a and not b": Salt puts the and in.
		if t, ok := c.peek(); !c.take("and") && (!ok || t.text != "not") {
			return left, nil
		}
		var right matcher
		right, err = c.negation()
		left = and{left, right}
	}
	return nil, err
}

func (c *compound) negation() (matcher, *Error) {
	if !c.take("not") {
		return c.term()
	}
	if t, ok := c.peek(); ok && t.text == "not" {
		return nil, c.fail(t.from, "'not' stands twice", "leave both out")
	}
	term, err := c.term()
	return not{term}, err
}

func (c *compound) term() (matcher, *Error) {
	t, ok := c.peek()
	if !ok {
		end := strings.TrimRightFunc(c.text, unicode.IsSpace)
		_, last := utf8.DecodeLastRuneInString(end)
		return nil, c.fail(len(end)-last, "the expression ends where a term is missing", "write a name, a glob, or G@key:value behind it")
	}
	c.tokens = c.tokens[1:]
	switch {
	case t.text == "(":
		if c.depth++; c.depth > maxDepth {
			return nil, c.fail(t.from, fmt.Sprintf("more than %d parentheses inside each other", maxDepth), "write fewer")
		}
		inner, err := c.alternatives()
		c.depth--
		if err != nil {
			return nil, err
		}
		if !c.take(")") {
			if next, more := c.peek(); more {
				return nil, c.unjoined(next)
			}
			return nil, c.fail(t.from, "'(' is never closed", "add a ')'")
		}
		return inner, nil
	case t.text == ")":
		return nil, c.fail(t.from, "')' where a term is missing", "write a name, a glob, or G@key:value before it")
	case t.operator():
		return nil, c.fail(t.from, fmt.Sprintf("%q where a term is missing", t.text), "write a name, a glob, or G@key:value before it")
	}
	return c.leaf(t)
}

// engines are the letters before an @.
var engines = [256]string{
	'G': "grain", 'P': "grain_pcre", 'E': "pcre", 'L': "list", 'S': "ipcidr",
	'N': "nodegroup", 'I': "pillar", 'J': "pillar_pcre", 'R': "range",
}

const letters = "G@ (grain), P@ (grain by pattern), E@ (pattern), L@ (list), S@ (network), or a bare glob"

// leaf reads one term: LETTER@pattern, for grains also LETTER DELIMITER@pattern,
// or else a glob.
func (c *compound) leaf(t token) (matcher, *Error) {
	letter, delimiter, skip, ok := engine(t.text)
	if !ok {
		return name{glob(t.text)}, nil
	}
	kind := engines[letter]
	switch {
	case kind == "":
		hint := "write " + letters
		if upper := letter &^ 0x20; engines[upper] != "" {
			hint = fmt.Sprintf("write %c@", upper)
		}
		return nil, c.fail(t.from, fmt.Sprintf("%c@ is not known", letter), hint)
	case strings.ContainsRune("NIJR", rune(letter)):
		err := c.fail(t.from, fmt.Sprintf("%c@ (%s) is known to Salt only", letter, kind), "use transport: salt, or write "+letters)
		err.SaltOnly = true
		return nil, err
	case len(t.text) == skip:
		return nil, c.fail(t.from, fmt.Sprintf("nothing stands behind %s", t.text), "write the pattern without a blank behind the @")
	}
	m, err := parseSimple(kind, t.text[skip:], delimiter)
	return m, err.shift(c.text, t.from+skip)
}

// engine cuts the letter, and for G and P a delimiter of their own, off a term.
func engine(text string) (letter byte, delimiter rune, skip int, ok bool) {
	if text == "" || !('A' <= text[0] && text[0] <= 'Z' || 'a' <= text[0] && text[0] <= 'z') {
		return 0, 0, 0, false
	}
	if strings.HasPrefix(text[1:], "@") {
		return text[0], ':', 2, true
	}
	own, n := utf8.DecodeRuneInString(text[1:])
	if strings.IndexByte("GPIJ", text[0]) >= 0 && n > 0 && own != utf8.RuneError && strings.HasPrefix(text[1+n:], "@") {
		return text[0], own, 2 + n, true
	}
	return 0, 0, 0, false
}

// words cuts a compound expression into terms and operators. Blanks separate;
// parentheses do so too where they can't belong to a term: "(" at the start of a
// word or behind an operator, ")" where no "(" of the same word is open, so that
// E@web(1|2) and G@cpu:Intel(R)* stay whole.
func words(text string) []token {
	var tokens []token
	for at := 0; at < len(text); {
		c, n := utf8.DecodeRuneInString(text[at:])
		switch {
		case unicode.IsSpace(c):
			at += n
			continue
		case c == '(' || c == ')':
			tokens = append(tokens, token{text[at : at+1], at})
			at++
			continue
		}
		end := wordEnd(text, at)
		tokens = append(tokens, token{text[at:end], at})
		at = end
	}
	return tokens
}

// wordEnd returns where the word that begins at from ends.
func wordEnd(text string, from int) int {
	letter, _, _, ok := engine(text[from:])
	escapes := ok && (letter == 'E' || letter == 'P')
	open := 0
	for at := from; at < len(text); {
		c, n := utf8.DecodeRuneInString(text[at:])
		switch {
		case unicode.IsSpace(c):
			return at
		case c == '\\' && escapes:
			at += n // what it escapes is no parenthesis
			if _, n = utf8.DecodeRuneInString(text[at:]); at < len(text) && unicode.IsSpace(rune(text[at])) {
				return at
			}
		case c == '[':
			at += setLength(text[at:])
			continue
		case c == '(' && (token{text: text[from:at]}).operator():
			return at
		case c == '(':
			open++
		case c == ')' && open == 0:
			return at
		case c == ')':
			open--
		}
		at += n
	}
	return len(text)
}

// setLength is how long the set at the start of s is, so that parentheses in it
// are members; 1 if it is not closed within the word.
func setLength(s string) int {
	word := s
	if i := strings.IndexFunc(s, unicode.IsSpace); i >= 0 {
		word = s[:i]
	}
	rest := strings.TrimPrefix(strings.TrimPrefix(word[1:], "!"), "^")
	skip := len(word) - len(rest)
	if i := strings.IndexByte(rest[min(1, len(rest)):], ']'); i >= 0 {
		return skip + min(1, len(rest)) + i + 1
	}
	return 1
}
