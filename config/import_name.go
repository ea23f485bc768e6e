package config

import (
	"path"
	"slices"
	"strings"
)

// A job's name comes from what its command runs in the end: the script, not the
// shell, nice or flock in front of it.

// before are words that stand in front of what is meant: the options among them
// that take a value, and how many plain words follow.
var before = lazy[map[string]inFront]{make: func() map[string]inFront {
	return map[string]inFront{
		"nice": {valued: "n"}, "ionice": {valued: "cnpPu"}, "exec": {valued: "a"}, "nohup": {}, "time": {valued: "of"}, "env": {valued: "uCS"},
		"sudo": {valued: "ugCpT"}, "doas": {valued: "uC"}, "runuser": {valued: "ugG"}, "flock": {valued: "wE", words: 1}, "timeout": {valued: "ks", words: 1},
		"setsid": {}, "stdbuf": {valued: "ioe"}, "command": {}, "chronic": {}, "cronic": {}, "run-one": {}, "chrt": {words: 1}, "taskset": {words: 1},
		"builtin": {}, "then": {}, "do": {}, "else": {}, "!": {}, "{": {}, "systemd-cat": {valued: "tp"}, "setpriv": {}, "unbuffer": {}, "catchsegv": {},
	}
}}

type inFront struct {
	valued string
	words  int
}

// interpreters run what their first plain word names.
var interpreters = pattern{text: `^(ba|da|z|k|a)?sh$|^(python|pypy|perl|ruby|php|lua|node|nodejs|tclsh|Rscript|java|run-parts|docker-compose)[0-9.]*$`}

// isPrelude says whether a word does something that the command needs, and is not
// what it is about.
func isPrelude(word string) bool {
	switch word {
	case "cd", "test", "[", "[[", ".", "source", "export", "umask", "sleep", "true", ":",
		"if", "fi", "done", "}", "set", "ulimit", "for", "while", "exit", "trap", "mkdir",
		"echo", "printf", "cat":
		return true
	}
	return false
}

// nameOf makes a job's name of a command.
func nameOf(command string) string {
	name := mainWord(command, 3)
	name = path.Base(strings.TrimRight(name, "/"))
	for _, ext := range []string{".sh", ".bash", ".py", ".pl", ".rb", ".php", ".js", ".jar", ".R"} {
		if short := strings.TrimSuffix(name, ext); short != "" {
			name = short
		}
	}
	name = strings.Trim(strings.Map(func(c rune) rune {
		if c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || strings.ContainsRune("._-", c) {
			return c
		}
		return '-'
	}, name), "-.")
	switch name = name[:min(len(name), 60)]; {
	case name == "":
		return "job"
	case strings.HasPrefix(name, "saltpeter_"):
		return "job-" + name // such names are the special keys'
	}
	return name
}

// mainWord is the word of a command that says what it is.
func mainWord(command string, depth int) string {
	first := ""
	for _, words := range simpleCommands(command) {
		word, args := behind(words)
		if word == "" {
			continue
		}
		if first == "" {
			first = word
		}
		if isPrelude(word) {
			continue
		}
		if path.Base(word) == "su" || interpreters.get().MatchString(path.Base(word)) {
			if inner := interpreted(path.Base(word), args, depth); inner != "" {
				return inner
			}
		}
		return word
	}
	return first
}

// behind leaves out variables and what is only put in front.
func behind(words []string) (string, []string) {
	for len(words) > 0 {
		word := words[0]
		if name, _, assigns := strings.Cut(word, "="); assigns && userName.get().MatchString(name) {
			words = words[1:]
			continue
		}
		b, known := before.get()[path.Base(word)]
		if !known || len(words) == 1 {
			return word, words[1:]
		}
		words = plainWords(words[1:], b.valued)
		words = words[min(b.words, len(words)):]
	}
	return "", nil
}

// plainWords leaves out the options at the front; valued are those letters that
// take the next word as their value.
func plainWords(words []string, valued string) []string {
	for len(words) > 0 && strings.HasPrefix(words[0], "-") && words[0] != "-" {
		takes := len(words[0]) == 2 && strings.Contains(valued, words[0][1:])
		words = words[1:]
		if takes && len(words) > 0 {
			words = words[1:]
		}
	}
	return words
}

// interpreted is what an interpreter is given to run, "" if that is not told.
func interpreted(shell string, args []string, depth int) string {
	for i, arg := range args {
		switch {
		case (arg == "-c" || arg == "-lc" || arg == "--command") && i+1 < len(args):
			if strings.HasSuffix(shell, "sh") || shell == "su" {
				if depth > 0 {
					return mainWord(args[i+1], depth-1)
				}
			}
			return ""
		case (arg == "-m" || arg == "-jar" || arg == "-f") && i+1 < len(args):
			return args[i+1]
		}
	}
	if args = plainWords(args, "IWEdeo"); len(args) > 0 && shell != "su" {
		return args[0]
	}
	return ""
}

// simpleCommands splits a command as a shell would, roughly: names need no more.
func simpleCommands(command string) [][]string {
	var all [][]string
	var words []string
	var word strings.Builder
	var quote byte
	begun := false
	endWord := func() {
		if begun {
			words = append(words, word.String())
		}
		word.Reset()
		begun = false
	}
	for i := 0; i < len(command); i++ {
		c := command[i]
		switch {
		case quote != 0 && c == quote:
			quote = 0
		case quote != 0:
			word.WriteByte(c)
		case c == '\'' || c == '"':
			quote, begun = c, true
		case c == '\\' && i+1 < len(command):
			i++
			word.WriteByte(command[i])
			begun = true
		case c == ' ' || c == '\t':
			endWord()
		case strings.IndexByte(";&|()\n`", c) >= 0:
			endWord()
			all = append(all, words)
			words = nil
		default:
			word.WriteByte(c)
			begun = true
		}
	}
	endWord()
	all = append(all, words)
	return slices.DeleteFunc(all, func(w []string) bool { return len(w) == 0 })
}
