package sshx

import (
	"fmt"
	"strings"
)

// Quote makes one line of a command and its arguments that every login shell
// takes apart again into the same words: sh, bash, dash, busybox, zsh, csh, tcsh
// and fish. They agree on less than sh promises:
//   - csh and tcsh look for ! inside quotes too, so it stands outside of them,
//     behind a backslash;
//   - fish reads \\ and \' inside single quotes, so both stand outside as well;
//   - no way to write a newline is common to sh and csh: a line with one goes
//     through sh and printf.
//
// A NUL cannot be in a word of any program; a line with one is refused by Run.
func Quote(argv ...string) string {
	words := make([]string, len(argv))
	for i, w := range argv {
		if strings.ContainsAny(w, "\n\r") {
			return viaPrintf(argv)
		}
		words[i] = quoteWord(w, i == 0)
	}
	return strings.Join(words, " ")
}

// isReserved says whether some shell reads a plain word as its own syntax where a
// command stands; quoted, it is a command like others.
func isReserved(word string) bool {
	switch word {
	case "and", "begin", "case", "coproc", "do", "done", "elif", "else",
		"end", "esac", "fi", "for", "foreach", "function", "if", "in",
		"nocorrect", "noglob", "not", "or", "repeat", "select", "switch",
		"then", "time", "until", "while":
		return true
	}
	return false
}

func quoteWord(w string, command bool) string {
	if w == "" {
		return "''"
	}
	if strings.IndexFunc(w, odd) < 0 && !(command && isReserved(w)) {
		return w
	}
	var b strings.Builder
	open := false
	for i := 0; i < len(w); i++ {
		outside := w[i] == '\'' || w[i] == '\\' || w[i] == '!'
		if outside == open {
			b.WriteByte('\'')
			open = !open
		}
		if outside {
			b.WriteByte('\\')
		}
		b.WriteByte(w[i])
	}
	if open {
		b.WriteByte('\'')
	}
	return b.String()
}

// odd says whether a character means something to one of the shells.
func odd(r rune) bool {
	return !(r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || strings.ContainsRune("_-+:,./", r))
}

// viaPrintf writes every odd byte in octal, has sh turn that back into a line
// quoted for sh, and runs that. The line ends with a quote, so that nothing is
// lost where sh takes trailing newlines off.
func viaPrintf(argv []string) string {
	var b strings.Builder
	for i, w := range argv {
		if i > 0 {
			b.WriteString(octal(' '))
		}
		b.WriteString(octal('\''))
		for j := 0; j < len(w); j++ {
			switch {
			case w[j] == '\'':
				for _, c := range []byte(`'\''`) {
					b.WriteString(octal(c))
				}
			case odd(rune(w[j])):
				b.WriteString(octal(w[j]))
			default:
				b.WriteByte(w[j])
			}
		}
		b.WriteString(octal('\''))
	}
	return Quote("sh", "-c", `eval "$(printf %b "`+b.String()+`")"`)
}

func octal(c byte) string { return fmt.Sprintf(`\0%03o`, c) }
