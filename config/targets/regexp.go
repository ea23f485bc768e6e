package targets

import (
	"errors"
	"fmt"
	"regexp"
	"regexp/syntax"
	"strings"
	"unicode/utf8"
)

// anchored is a regular expression that must match from the start of the text,
// and may leave an end over: "web" matches "web1", as in Salt.
type anchored struct{ *regexp.Regexp }

func (a anchored) matches(s string) bool { return a.MatchString(s) }

// parseRegexp compiles RE2, which needs linear time whatever the pattern is.
func parseRegexp(pattern string) (anchored, *Error) {
	own := endOfText(pattern)
	// First by itself, so that "a)(b" can't borrow the brackets around it.
	if _, err := syntax.Parse(own, syntax.Perl); err != nil {
		return anchored{}, explainRegexp(pattern, err)
	}
	re, err := regexp.Compile(`\A(?:` + own + `)`)
	if err != nil {
		return anchored{}, explainRegexp(pattern, err)
	}
	return anchored{re}, nil
}

// endOfText writes Python's \Z, the end of the text, as RE2 does.
func endOfText(pattern string) string {
	if !strings.Contains(pattern, `\Z`) {
		return pattern
	}
	var b strings.Builder
	for i := 0; i < len(pattern); i++ {
		b.WriteByte(pattern[i])
		if pattern[i] == '\\' && i+1 < len(pattern) {
			if i++; pattern[i] == 'Z' {
				b.WriteByte('z')
			} else {
				b.WriteByte(pattern[i])
			}
		}
	}
	return b.String()
}

// backtracking are the notations that need an engine which tries alternatives one
// after the other; RE2 does not, and so can't be made to run for ever.
var backtracking = []struct{ begin, what string }{
	{"(?=", "lookahead"}, {"(?!", "negative lookahead"},
	{"(?<=", "lookbehind"}, {"(?<!", "negative lookbehind"},
	{"(?>", "an atomic group"}, {"(?P=", "a backreference"}, {"(?(", "a condition"},
}

const instead = "write it without, or as a compound such as 'E@web.* and not E@web1'; with transport: salt the pattern goes to Salt as it is"

// explainRegexp says where a pattern is wrong, and whether that is because it
// needs more than RE2.
func explainRegexp(pattern string, err error) *Error {
	at := -1
	for i := 0; i < len(pattern); i++ {
		rest := pattern[i:]
		if rest[0] == '\\' {
			if i+1 < len(pattern) && pattern[i+1] >= '1' && pattern[i+1] <= '9' {
				return &Error{Pos: characters(pattern[:i]) + 1, Text: fmt.Sprintf("%s is a backreference, which RE2 does not have", rest[:2]), Hint: instead}
			}
			i++
			continue
		}
		for _, b := range backtracking {
			if strings.HasPrefix(rest, b.begin) {
				return &Error{Pos: characters(pattern[:i]) + 1, Text: fmt.Sprintf("%q is %s, which RE2 does not have", b.begin, b.what), Hint: instead}
			}
		}
	}
	var fault *syntax.Error
	if !errors.As(err, &fault) {
		return &Error{Text: err.Error()}
	}
	hint := ""
	switch fault.Code {
	case syntax.ErrMissingParen:
		at = strings.LastIndexByte(pattern, '(')
		hint = "close every '(', or write '\\(' for the character"
	case syntax.ErrUnexpectedParen:
		at = strings.LastIndexByte(pattern, ')')
		hint = "write '\\)' for the character"
	case syntax.ErrMissingBracket:
		hint = "close the '[', or write '\\[' for the character"
	case syntax.ErrMissingRepeatArgument, syntax.ErrInvalidRepeatOp:
		hint = "this repeats nothing, or repeats twice; shell wildcards are target_type: glob"
	case syntax.ErrInvalidEscape:
		hint = "RE2 knows no such escape; write the character without the backslash"
	case syntax.ErrTrailingBackslash:
		at = len(pattern) - 1
		hint = "write '\\\\' for the character"
	case syntax.ErrInvalidRepeatSize:
		hint = "RE2 repeats at most 1000 times"
	}
	if at < 0 && fault.Expr != "" {
		at = strings.Index(pattern, fault.Expr)
	}
	return &Error{Pos: max(at, 0) + 1 - bytesOver(pattern, max(at, 0)), Text: fault.Code.String() + ": " + fault.Expr, Hint: hint}
}

// bytesOver is by how much the bytes before at are more than the characters.
func bytesOver(text string, at int) int { return at - characters(text[:at]) }

func characters(s string) int { return utf8.RuneCountInString(s) }
