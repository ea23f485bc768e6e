package targets

import (
	"unicode/utf8"
)

// glob is a shell pattern with the meaning of Python's fnmatch, which is Salt's:
// * any text, ? any character, [abc] [a-z] [!a] one of a set. Nothing escapes: a
// backslash is a backslash. A [ that is never closed is itself.
type glob string

// matches takes at most len(pattern) * len(s) steps, whatever the pattern is.
func (g glob) matches(s string) bool {
	p := string(g)
	star, back := -1, "" // where to go on when a star must take one more
	for {
		if p != "" && p[0] == '*' {
			p = p[1:]
			star, back = len(g)-len(p), s
			continue
		}
		if s == "" {
			return p == ""
		}
		if p != "" {
			if rest, ok := one(p, s); ok {
				_, n := utf8.DecodeRuneInString(s)
				p, s = rest, s[n:]
				continue
			}
		}
		if star < 0 {
			return false
		}
		_, n := utf8.DecodeRuneInString(back)
		back = back[n:]
		p, s = string(g)[star:], back
	}
}

// one matches the first character of s and returns what is left of the pattern.
func one(p, s string) (rest string, ok bool) {
	c, n := utf8.DecodeRuneInString(s)
	switch p[0] {
	case '?':
		return p[1:], true
	case '[':
		if set, rest, closed := cutSet(p); closed {
			return rest, inSet(set, c)
		}
	}
	// Bytes that are no UTF-8 are compared as they are.
	if len(p) >= n && p[:n] == s[:n] {
		return p[n:], true
	}
	return "", false
}

// cutSet returns what stands between the brackets at the start of p.
func cutSet(p string) (set, rest string, closed bool) {
	end := 1
	if end < len(p) && p[end] == '!' {
		end++
	}
	if end < len(p) && p[end] == ']' {
		end++ // a ] in the first place is a member
	}
	for ; end < len(p); end++ {
		if p[end] == ']' {
			return p[1:end], p[end+1:], true
		}
	}
	return "", "", false
}

// inSet reports whether a set such as "a-z_" or "!0-9" holds c. A range that runs
// backwards holds nothing.
func inSet(set string, c rune) bool {
	negated := set[0] == '!'
	if negated {
		set = set[1:]
	}
	members := []rune(set)
	return inMembers(members, c) != negated
}

func inMembers(members []rune, c rune) bool {
	for len(members) > 0 {
		if len(members) > 2 && members[1] == '-' {
			if members[0] <= c && c <= members[2] {
				return true
			}
			members = members[3:]
			continue
		}
		if members[0] == c {
			return true
		}
		members = members[1:]
	}
	return false
}
