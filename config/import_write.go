package config

import (
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"
)

// write makes the job file. It is written by hand rather than by a YAML library,
// since half of it is comments at their places.
func (im *importer) write(files []Crontab) []byte {
	var b strings.Builder
	im.head(&b, files)
	jobs := 0
	for _, item := range im.items {
		for _, line := range item.comments {
			comment(&b, line)
		}
		if item.job != nil {
			im.job(&b, item.job)
			jobs++
		} else if len(item.comments) > 0 {
			b.WriteByte('\n')
		}
	}
	if jobs == 0 {
		b.WriteString("{}\n")
	}
	return []byte(strings.TrimRight(b.String(), "\n") + "\n")
}

func (im *importer) head(b *strings.Builder, files []Crontab) {
	var names []string
	for _, f := range files {
		names = append(names, f.Path)
	}
	comment(b, "Made by `saltpeter import` from "+strings.Join(names, ", ")+".")
	comment(b, "As under cron there is no timeout, a run may overlap the one before, and jobs have the crontab's environment and start in the user's home.")
	comment(b, "Cron sends what a job prints by mail; here `saltpeter logs JOB` shows it.")
	if im.o.Shadow {
		comment(b, "Shadow: the jobs are disabled. `saltpeter next` shows when they would fire; take out `enabled: false` when cron no longer runs them.")
	}
	lost := 0
	for _, n := range im.notes {
		if n.Lost {
			lost++
		}
	}
	if lost > 0 {
		comment(b, fmt.Sprintf("%s not carried over: look for NOT CARRIED OVER.", map[bool]string{true: "1 line was", false: strconv.Itoa(lost) + " lines were"}[lost == 1]))
	}
	b.WriteByte('\n')
}

// comment writes a line that no YAML reader sees. Control characters would be
// errors even there.
func comment(b *strings.Builder, line string) {
	b.WriteString(strings.TrimRight("# "+strings.Map(func(c rune) rune {
		if c == utf8.RuneError || !unicode.IsPrint(c) && c != '\t' {
			return '?'
		}
		return c
	}, strings.ToValidUTF8(line, "?")), " \t") + "\n")
}

func (im *importer) job(b *strings.Builder, j *importJob) {
	for _, line := range j.above {
		comment(b, line)
	}
	comment(b, "from "+strings.Join(j.from, ", "))
	b.WriteString(scalar(j.name, 0) + ":\n")
	key := func(name, value string) {
		if value != "" {
			fmt.Fprintf(b, "  %s: %s\n", name, scalar(value, 4))
		}
	}
	key("description", strings.Join(j.description, "\n\n"))
	key("command", j.does.Command)
	t := j.does.Times
	for _, field := range [][2]string{{"schedule", t.Crontab}, {"min", t.Min}, {"hour", t.Hour}, {"dom", t.Dom}, {"mon", t.Mon}, {"dow", t.Dow}} {
		key(field[0], field[1])
	}
	key("timezone", j.does.Zone)
	key("user", j.does.User)
	key("cwd", j.does.Cwd)
	b.WriteString("  env:\n")
	for _, name := range slices.Sorted(maps.Keys(j.does.Env)) {
		fmt.Fprintf(b, "    %s: %s\n", scalar(name, 0), quoted(j.does.Env[name]))
	}
	machines := make([]string, len(j.machines))
	for i, m := range j.machines {
		machines[i] = scalar(m, 0)
	}
	if len(machines) == 1 {
		b.WriteString("  targets: " + machines[0] + "\n")
	} else {
		b.WriteString("  targets: [" + strings.Join(machines, ", ") + "]\n")
	}
	b.WriteString("  target_type: list\n  timeout: 0\n  on_overlap: allow\n")
	if im.o.Shadow {
		b.WriteString("  enabled: false\n")
	}
	b.WriteByte('\n')
}

// plainScalar needs no quotes, unless YAML has a meaning for it.
var plainScalar = pattern{text: `^[A-Za-z/][A-Za-z0-9/._+-]*$`}

var yamlWords = []string{"y", "n", "yes", "no", "on", "off", "true", "false", "null"}

// scalar writes text so that YAML reads the same text. Where it may take several
// lines, indent is their indentation; 0 keeps it on one.
func scalar(s string, indent int) string {
	switch {
	case plainScalar.get().MatchString(s) && !slices.Contains(yamlWords, strings.ToLower(s)):
		return s
	case indent > 0 && strings.Contains(s, "\n") && !strings.HasPrefix(s, "\n") && !strings.HasPrefix(s, " ") &&
		!strings.HasPrefix(s, "\t") && !strings.HasSuffix(s, "\n") && printableText(strings.ReplaceAll(s, "\n", "")):
		lines := strings.Split(s, "\n")
		var b strings.Builder
		b.WriteString("|-")
		for _, line := range lines {
			b.WriteByte('\n')
			if line != "" {
				b.WriteString(strings.Repeat(" ", indent) + line)
			}
		}
		return b.String()
	}
	return quoted(s)
}

// quoted writes text on one line.
func quoted(s string) string {
	if printableText(s) {
		return "'" + strings.ReplaceAll(s, "'", "''") + "'"
	}
	var b strings.Builder
	b.WriteByte('"')
	for _, c := range s {
		switch {
		case c == '"' || c == '\\':
			b.WriteByte('\\')
			b.WriteRune(c)
		case c == '\n':
			b.WriteString(`\n`)
		case unicode.IsPrint(c) && c != '\uFEFF':
			b.WriteRune(c)
		case c > 0xFFFF:
			fmt.Fprintf(&b, `\U%08X`, c)
		default:
			fmt.Fprintf(&b, `\u%04X`, c)
		}
	}
	b.WriteByte('"')
	return b.String()
}

// printableText may stand in YAML as it is. Tabs may, too.
func printableText(s string) bool {
	return utf8.ValidString(s) && !strings.ContainsFunc(s, func(c rune) bool {
		return c != '\t' && !unicode.IsPrint(c) || c == '\uFEFF' || c == utf8.RuneError
	})
}
