package config

import (
	"bytes"
	"fmt"
	"iter"
	"maps"
	"path"
	"slices"
	"strings"
	"unicode/utf8"
)

// Crontab is one file to import.
type Crontab struct {
	Path    string // as messages call it; where it lies tells what it is
	Machine string // whose it is
	Zone    string // the machine's time zone
	Kind    CrontabKind
	User    string // whose crontab it is; "" where the path tells
	Owner   string // whose it is if nothing else tells
	Text    []byte
}

// ImportOptions are the same for all files.
type ImportOptions struct {
	Shadow bool              // the jobs are disabled: only `next` shows them
	IsUser func(string) bool // whether there is such a user here
	Before *Set              // what an earlier import has made; its jobs keep their names. nil: there is none
}

// Import is what crontabs have become.
type Import struct {
	Text  []byte // a job file
	Set   *Set   // what the server makes of it
	Notes []ImportNote
}

// ImportNote is something that people must know of a line.
type ImportNote struct {
	File string `json:"file"`
	Line int    `json:"line"` // from 1; 0 = the file as a whole
	Lost bool   `json:"lost"` // the line was not carried over
	Text string `json:"text"`
}

// String is FILE:LINE: TEXT, said as grave as it is.
func (n ImportNote) String() string {
	at := n.File
	if n.Line > 0 {
		at = fmt.Sprintf("%s:%d", n.File, n.Line)
	}
	if n.Lost {
		return at + ": not carried over: " + n.Text
	}
	return at + ": note: " + n.Text
}

// Lost counts the lines that were not carried over.
func (i *Import) Lost() int {
	n := 0
	for _, note := range i.Notes {
		if note.Lost {
			n++
		}
	}
	return n
}

// ImportCrontabs turns crontabs into one job file that means the same. What
// cannot be carried over is a comment at its place in Text and a note. Equal
// lines of several machines are one job.
func ImportCrontabs(files []Crontab, o ImportOptions) *Import {
	im := &importer{o: o, jobs: map[string]*importJob{}, copies: map[string]int{}}
	for _, f := range files {
		im.file(f)
	}
	im.keepNames()
	im.name()
	out := &Import{Text: im.write(files), Notes: im.notes}
	l := newLoading("", nil)
	l.add(l.content("import.yaml", out.Text))
	out.Set = l.merge()
	if len(out.Text) > maxFileBytes {
		out.Notes = append(out.Notes, ImportNote{File: "the result", Lost: true, Text: "is larger than 1 MiB, which is the most that the server reads; import fewer files at a time"})
	}
	for _, p := range out.Set.Problems {
		p.File = "the result"
		out.Notes = append(out.Notes, ImportNote{File: p.File, Line: p.Line, Lost: !p.Warning, Text: strings.TrimPrefix(p.String(), fmt.Sprintf("%s:%d:%d: ", p.File, p.Line, p.Col))})
	}
	return out
}

// importer is one ImportCrontabs.
type importer struct {
	o      ImportOptions
	items  []importItem
	jobs   map[string]*importJob // by what they do
	copies map[string]int        // by machine and what they do: cron runs a line twice that is there twice
	notes  []ImportNote
}

// importItem is comments or a job, in the order of the output.
type importItem struct {
	comments []string
	job      *importJob
}

// crontabReader is where the reading of one file stands.
type crontabReader struct {
	*importer
	f        Crontab
	system   bool
	env      map[string]string
	zone     string
	badZone  error      // CRON_TZ is none
	pending  []cronLine // comments that the next line may make its own
	unused   []cronLine // variables that no entry has followed yet
	lastLine int
}

// crontabLines gives the lines of a file, counted from 1.
func crontabLines(text []byte) iter.Seq2[int, string] {
	return func(yield func(int, string) bool) {
		num := 0
		for line := range bytes.Lines(text) {
			num++
			if !yield(num, strings.TrimSuffix(string(line), "\n")) {
				return
			}
		}
	}
}

func (im *importer) file(f Crontab) {
	r := &crontabReader{importer: im, f: f, env: map[string]string{}, zone: f.Zone}
	r.kind()
	if bytes.Contains(f.Text, []byte("\r\n")) {
		r.note(0, "its lines end in CR LF, which cron takes as a part of the command; taken as LF")
	}
	for num := range crontabLines(f.Text) {
		r.lastLine = num
	}
	for num, text := range crontabLines(f.Text) {
		r.line(readCronLine(num, strings.TrimSuffix(text, "\r"), r.system))
	}
	r.flush()
	for _, l := range r.unused {
		r.comment(fmt.Sprintf("%s:%d: %s (nothing follows that it could be for)", f.Path, l.num, l.text))
	}
}

// kind settles whether there is a column of users, and says what it goes by
// where the path or the caller does not tell.
func (r *crontabReader) kind() {
	kind, user := kindByPath(r.f.Path)
	if r.f.Kind != GuessCrontab {
		kind = r.f.Kind
	}
	if r.f.User == "" {
		r.f.User = user
	}
	if path.Base(r.f.Path) == "anacrontab" {
		r.note(0, "looks like an anacrontab, which has other fields than a crontab; write these jobs by hand")
	}
	if kind == GuessCrontab && r.f.User != "" {
		kind = UserCrontab
	}
	if kind == GuessCrontab {
		var why string
		kind, why = kindByLines(r.f.Text, r.o.IsUser)
		if kind == SystemCrontab {
			r.note(0, "taken as a system crontab: "+why+"; --user NAME says otherwise")
		} else {
			r.note(0, "taken as a user's crontab: "+why+"; --system says otherwise")
		}
	}
	r.system = kind == SystemCrontab
	if !r.system && r.f.User == "" {
		r.f.User = r.f.Owner
		r.note(0, fmt.Sprintf("taken as the crontab of %s; --user NAME says otherwise", r.f.User))
	}
	title := "user " + r.f.User
	if r.system {
		title = "system crontab"
	}
	r.comment(fmt.Sprintf("--- %s (%s of %s)", r.f.Path, title, r.f.Machine))
}

func (r *crontabReader) note(line int, text string) {
	r.notes = append(r.notes, ImportNote{File: r.f.Path, Line: line, Text: text})
}

// lost says in both places that a line is not carried over.
func (r *crontabReader) lost(l cronLine, why string) {
	r.notes = append(r.notes, ImportNote{File: r.f.Path, Line: l.num, Lost: true, Text: l.text + ": " + why})
	r.comment(fmt.Sprintf("NOT CARRIED OVER: %s:%d: %s", r.f.Path, l.num, why), "  "+l.text)
}

func (r *crontabReader) comment(lines ...string) {
	r.items = append(r.items, importItem{comments: lines})
}

// flush keeps comments that belong to no job as comments.
func (r *crontabReader) flush() {
	if len(r.pending) > 0 {
		r.comment(texts(r.pending)...)
	}
	r.pending = nil
}

// texts are comments without their mark.
func texts(comments []cronLine) []string {
	list := make([]string, len(comments))
	for i, l := range comments {
		list[i] = strings.TrimPrefix(strings.TrimLeft(l.text, "#"), " ")
	}
	return list
}

func (r *crontabReader) line(l cronLine) {
	switch l.kind {
	case blankLine:
		r.flush()
	case commentLine:
		r.pending = append(r.pending, l)
	case variableLine:
		r.flush()
		r.variable(l)
	default:
		r.unused = nil
		above, description := r.split()
		if r.pending = above; !utf8.ValidString(l.text) || strings.ContainsRune(l.text, 0) {
			r.flush()
			r.lost(l, "has characters that no job file can hold; write it in UTF-8")
			return
		}
		if why := r.entry(l, description); why != "" {
			r.pending = append(r.pending, description...)
			r.flush()
			r.lost(l, why)
		}
	}
}

// split parts the comments above a line into those that tell what it is for and
// what just happens to stand there: headings, rulers, lines that were switched off.
func (r *crontabReader) split() (above, description []cronLine) {
	at := len(r.pending)
	for at > 0 && !r.noDescription(r.pending[at-1]) {
		at--
	}
	for at < len(r.pending) && !hasWords(r.pending[at].text) {
		at++
	}
	end := len(r.pending)
	for end > at && !hasWords(r.pending[end-1].text) {
		end--
	}
	return r.pending[:at:at], r.pending[at:end]
}

func hasWords(s string) bool {
	return strings.ContainsFunc(s, func(c rune) bool { return c >= 0x80 || c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' })
}

// noDescription: the headings that crontabs come with, and entries that are
// commented out.
func (r *crontabReader) noDescription(l cronLine) bool {
	text := strings.TrimLeft(l.text, "# \t")
	words := strings.Join(strings.Fields(text), " ")
	for _, heading := range []string{"m h dom", "m h d", "min hour", "minute hour", "DO NOT EDIT THIS FILE", "(Cron version", "(- installed on", "(/tmp/", "For details see man", "Example of job definition", "For more information see the manual"} {
		if strings.HasPrefix(strings.ToLower(words), strings.ToLower(heading)) {
			return true
		}
	}
	if strings.HasPrefix(text, "|") || strings.HasPrefix(text, ".-") || strings.HasPrefix(text, "* * * * *") {
		return true
	}
	off := readCronLine(l.num, text, r.system)
	if off.kind != entryLine || off.wrong != nil {
		return off.kind == variableLine
	}
	if strings.HasPrefix(off.entry.when, "@") {
		return cronAliases.get()[off.entry.when] != "" || off.entry.when == "@reboot"
	}
	_, err := cronTimes([5]string(strings.Fields(off.entry.when)), func(_, low, _ int) int { return low })
	return err == nil
}

// mailVariables are about mail that is not sent here.
var mailVariables = []string{"MAILTO", "MAILFROM", "CONTENT_TYPE", "CONTENT_TRANSFER_ENCODING"}

// variable takes a setting for the entries that follow.
func (r *crontabReader) variable(l cronLine) {
	if !utf8.ValidString(l.text) || strings.ContainsRune(l.text, 0) {
		r.lost(l, "has characters that no job file can hold; write it in UTF-8")
		return
	}
	if l.name != "CRON_TZ" && l.name != "LOGNAME" && l.name != "USER" {
		r.env[l.name] = l.value
	}
	switch {
	case l.name == "CRON_TZ":
		r.cronZone(l)
	case l.name == "LOGNAME" || l.name == "USER":
		r.note(l.num, l.name+" is always the name of the user, here as under cron")
	case slices.Contains(mailVariables, l.name) && l.value != "": // an empty one asks for no mail: nothing is lost
		r.lost(l, "no mail is sent; `saltpeter logs JOB` has what a job prints, and the key notify tells people of failures")
	case l.name == "RANDOM_DELAY" && l.value != "0":
		r.lost(l, "the jobs start when they are due, without a delay by chance")
	case l.name == "MLS_LEVEL":
		r.lost(l, "the jobs run in the security context of the server")
	case l.name == "TZ":
		r.note(l.num, "TZ is for the commands alone, here as under cron: the schedules go by "+orUTC(r.zone))
		r.unused = append(r.unused, l)
	default:
		r.unused = append(r.unused, l)
	}
}

func orUTC(zone string) string {
	if zone == "" {
		return "UTC"
	}
	return zone
}

// cronZone is cronie's CRON_TZ: from here on times are of another zone.
func (r *crontabReader) cronZone(l cronLine) {
	r.zone, r.badZone = r.f.Zone, nil
	if l.value == "" {
		return
	}
	zone := strings.TrimPrefix(l.value, ":")
	if _, err := loadZone(zone); err != nil {
		r.badZone = err
		r.lost(l, err.Error()+"; write an IANA name such as Europe/Bucharest")
		return
	}
	r.zone = zone
	r.note(l.num, "the times below are of "+zone+", as cronie takes CRON_TZ (Debian's cron ignores it)")
}

// environment is what cron gives an entry.
func (r *crontabReader) environment() map[string]string {
	env := maps.Clone(r.env)
	for name, value := range map[string]string{"SHELL": "/bin/sh", "PATH": "/usr/bin:/bin"} {
		if _, ok := env[name]; !ok {
			env[name] = value
		}
	}
	return env
}
