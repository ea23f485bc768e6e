package config

import (
	"errors"
	"fmt"
	"strings"
)

// What one line of a crontab is.
const (
	blankLine = iota
	commentLine
	variableLine
	entryLine
)

// cronLine is one line of a crontab.
type cronLine struct {
	num         int
	kind        int
	text        string // as written, without the blanks around it
	name, value string // a variable
	entry       cronEntry
	wrong       error // why an entry is none that cron would run
}

// cronEntry is a line that asks for something to be run.
type cronEntry struct {
	when   string // five fields with one blank between, or @word
	user   string // of a system crontab
	rest   string // the command as written
	silent bool   // a - in front: cron writes no line to syslog
	onFail bool   // -n in front of the command: mail only on failure
}

// readCronLine reads a line as cron does: first as a variable, then as an entry.
func readCronLine(num int, text string, system bool) cronLine {
	text = strings.TrimLeft(text, " \t")
	l := cronLine{num: num, text: strings.TrimRight(text, " \t\r")}
	switch {
	case l.text == "":
		return l
	case strings.HasPrefix(text, "#"):
		l.kind = commentLine
		return l
	}
	if name, value, ok := cronVariable(text); ok {
		l.kind, l.name, l.value = variableLine, name, value
		return l
	}
	l.kind = entryLine
	l.entry, l.wrong = readCronEntry(text, system)
	return l
}

func isCronSpace(c byte) bool { return c == ' ' || c >= '\t' && c <= '\r' }

// cronVariable reads NAME = VALUE. Either may be quoted, with nothing behind the
// closing quote; without quotes the value is all of the line but for the blanks
// around it. Nothing is expanded.
func cronVariable(line string) (name, value string, ok bool) {
	name, rest, ok := cronWord(line, true)
	if !ok || name == "" {
		return "", "", false
	}
	rest = strings.TrimLeft(rest, " \t\v\f\r\n")
	if !strings.HasPrefix(rest, "=") {
		return "", "", false
	}
	rest = strings.TrimLeft(rest[1:], " \t\v\f\r\n")
	value, rest, ok = cronWord(rest, false)
	if !ok || strings.TrimLeft(rest, " \t\v\f\r\n") != "" {
		return "", "", false
	}
	return name, value, true
}

// cronWord takes a name or a value from the front of a line.
func cronWord(line string, isName bool) (word, rest string, ok bool) {
	if line != "" && (line[0] == '\'' || line[0] == '"') {
		end := strings.IndexByte(line[1:], line[0])
		if end < 0 {
			return "", "", false
		}
		word, rest = line[1:1+end], line[2+end:]
		return word, rest, !isName || !strings.Contains(word, "=")
	}
	if !isName {
		return strings.TrimRight(line, " \t\v\f\r\n"), "", true
	}
	for i := range len(line) {
		if line[i] == '=' || isCronSpace(line[i]) {
			return line[:i], line[i:], true
		}
	}
	return "", "", false
}

// userName is what may stand in the column of users.
var userName = pattern{text: `^[A-Za-z_][A-Za-z0-9_.-]*\$?$`}

var errNoCommand = errors.New("has no command")

// readCronEntry splits a line into its times, its user and its command.
func readCronEntry(text string, system bool) (cronEntry, error) {
	var e cronEntry
	if strings.HasPrefix(text, "-") {
		e.silent = true
		text = text[1:]
	}
	n := 5
	if strings.HasPrefix(text, "@") {
		n = 1
	}
	words := make([]string, n)
	for i := range words {
		if words[i], text = firstWord(text); words[i] == "" {
			return e, errors.New("is no crontab line: five fields and a command, @daily and a command, or NAME=value")
		}
	}
	e.when = strings.Join(words, " ")
	if system {
		if e.user, text = firstWord(text); e.user != "" && !userName.get().MatchString(e.user) {
			return e, fmt.Errorf("%q is no user name; a system crontab has one in front of the command (if this is a user's crontab, say --user NAME)", cut(e.user))
		}
	}
	if first, rest := firstWord(text); first == "-n" {
		e.onFail = true
		text = rest
	}
	e.rest = text
	switch {
	case strings.Trim(text, " \t\r") == "":
		return e, errNoCommand
	case strings.HasPrefix(text, "*"):
		return e, errors.New("has more than five fields")
	case strings.HasPrefix(text, "-"):
		return e, fmt.Errorf("%q is an option that is not known", cut(text))
	}
	return e, nil
}

func firstWord(text string) (word, rest string) {
	end := strings.IndexAny(text, " \t")
	if end < 0 {
		return text, ""
	}
	return text[:end], strings.TrimLeft(text[end:], " \t")
}

// splitInput parts a command from its standard input, which begins behind the
// first % that no backslash guards. In the input every further % is a newline.
func splitInput(text string) (command, input string, hasInput bool) {
	var b strings.Builder
	escaped := false
	for i := range len(text) {
		c := text[i]
		switch {
		case escaped:
			escaped = false
			if c != '%' {
				b.WriteByte('\\')
			}
			b.WriteByte(c)
		case c == '\\':
			escaped = true
		case c == '%':
			return b.String(), inputText(text[i+1:]), true
		default:
			b.WriteByte(c)
		}
	}
	if escaped {
		b.WriteByte('\\')
	}
	return b.String(), "", false
}

// inputText is what a command reads: % is a newline, \% is %, and the last line
// ends like the others.
func inputText(text string) string {
	var b strings.Builder
	escaped := false
	for i := range len(text) {
		c := text[i]
		switch {
		case escaped && c != '%':
			b.WriteByte('\\')
		case !escaped && c == '%':
			c = '\n'
		}
		if escaped = c == '\\'; !escaped {
			b.WriteByte(c)
		}
	}
	if escaped {
		b.WriteByte('\\')
	}
	if s := b.String(); s != "" && !strings.HasSuffix(s, "\n") {
		b.WriteByte('\n')
	}
	return b.String()
}

// goHome starts a command in its user's home. A home that is not there keeps no job
// from running, as under Vixie's cron: users of services often have none.
const goHome = "cd 2>/dev/null || cd /\n"

// shellCommand makes of a command what our shell must be given to do as cron
// does: start in the user's home, hand the command to the crontab's own shell,
// and give it its standard input.
func shellCommand(command, shell, input string, hasInput, fromHome bool) string {
	start := ""
	if fromHome {
		start = goHome
	}
	if shell == "/bin/sh" && !hasInput {
		return start + command
	}
	text := start + "exec " + shellQuote(shell) + " -c " + shellQuote(command)
	if !hasInput {
		return text
	}
	if input == "" {
		return text + " </dev/null"
	}
	end := "EOF"
	for strings.Contains("\n"+input, "\n"+end+"\n") {
		end += "F"
	}
	return text + " <<'" + end + "'\n" + input + end
}

// shellWord needs no quotes.
var shellWord = pattern{text: `^[A-Za-z0-9_./:=@%+-]+$`}

func shellQuote(s string) string {
	if shellWord.get().MatchString(s) {
		return s
	}
	return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'"
}
