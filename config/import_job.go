package config

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"maps"
	"path"
	"slices"
	"strconv"
	"strings"
)

// importJob is an entry of a crontab, or equal ones of several machines.
type importJob struct {
	does   cronJob
	copyOf int  // the n-th such line of a machine; from 1
	alone  bool // no other job of its user has a command of that name

	name        string
	machines    []string
	description []string // paragraphs
	above       []string // notes that stand above it
	from        []string // FILE:LINE
}

// cronJob is what a job does: where that is equal, it is one job.
type cronJob struct {
	User    string
	Zone    string
	Times   FieldTexts
	Command string // for our shell
	Cwd     string
	Env     map[string]string

	bare string // the command as cron has it: names come from it
}

// hash tells jobs apart, the same at each import. What people are likely to
// change comes second, so that names outlast it.
func (j *importJob) hash(all bool) string {
	key := any([]string{j.does.User, j.does.bare})
	if all {
		key = j.does
	}
	text, _ := json.Marshal(key) // strings only: it cannot fail
	sum := sha256.Sum256(text)
	return hex.EncodeToString(sum[:])
}

// entry makes a job of a line. It returns why it cannot.
func (r *crontabReader) entry(l cronLine, description []cronLine) (why string) {
	switch {
	case strings.HasPrefix(strings.TrimPrefix(l.text, "-"), "@reboot"):
		return "jobs are started by the clock, not when a machine starts; a systemd unit with WantedBy=multi-user.target does that"
	case l.wrong != nil:
		return l.wrong.Error()
	case r.badZone != nil:
		return "its time zone is not known: " + r.badZone.Error()
	}
	times, random, why := r.times(l)
	if why != "" {
		return why
	}
	does, why := r.does(l.entry)
	if why != "" {
		return why
	}
	does.Times = times
	j := r.add(does)
	j.from = append(j.from, fmt.Sprintf("%s:%d", r.f.Path, l.num))
	if text := strings.TrimSpace(strings.Join(texts(description), "\n")); text != "" && !slices.Contains(j.description, text) {
		j.description = append(j.description, text)
	}
	if len(r.pending) > 0 { // comments that only stand near
		r.insertBefore(j, texts(r.pending))
		r.pending = nil
	}
	r.remarks(l, j, random)
	return ""
}

// add finds the job that does the same on another machine, or makes one.
func (r *crontabReader) add(does cronJob) *importJob {
	key := (&importJob{does: does}).hash(true)
	r.copies[r.f.Machine+"\x00"+key]++
	n := r.copies[r.f.Machine+"\x00"+key]
	key += "\x00" + strconv.Itoa(n)
	j := r.jobs[key]
	if j == nil {
		j = &importJob{does: does, copyOf: n}
		r.jobs[key] = j
		r.items = append(r.items, importItem{job: j})
	}
	if !slices.Contains(j.machines, r.f.Machine) {
		j.machines = append(j.machines, r.f.Machine)
	}
	return j
}

// insertBefore keeps comments in front of a job that has just been added, or at
// the end where the job stands with another machine's lines.
func (r *crontabReader) insertBefore(j *importJob, comments []string) {
	at := len(r.items)
	if at > 0 && r.items[at-1].job == j {
		at--
	}
	r.items = slices.Insert(r.items, at, importItem{comments: comments})
}

// times reads the schedule of an entry.
func (r *crontabReader) times(l cronLine) (keys FieldTexts, random bool, why string) {
	when := l.entry.when
	if strings.HasPrefix(when, "@") {
		alias := cronAliases.get()[when]
		switch _, err := ParseCrontab(when, nil); {
		case alias == "":
			return keys, false, when + " is no word that cron knows; write five fields"
		case err == nil:
			return FieldTexts{Crontab: when}, false, ""
		}
		when = alias
	}
	w, err := cronTimes([5]string(strings.Fields(when)), chanceOf(r.f.Machine, l.text))
	if err != nil {
		return keys, false, err.Error()
	}
	keys = scheduleKeys(when, w)
	return keys, strings.Contains(when, "~"), ""
}

// does is everything but the times.
func (r *crontabReader) does(e cronEntry) (d cronJob, why string) {
	command, input, hasInput := splitInput(e.rest)
	if short := strings.TrimRight(command, " \t\r"); !strings.HasSuffix(short, `\`) {
		command = short
	}
	if strings.TrimSpace(command) == "" {
		return d, errNoCommand.Error()
	}
	d = cronJob{User: e.user, Zone: orUTC(r.zone), Env: r.environment(), bare: command}
	if !r.system {
		d.User = r.f.User
	}
	home, given := d.Env["HOME"]
	switch {
	case given && path.IsAbs(home):
		d.Cwd = home
	case !given && d.User == "root":
		d.Cwd = "/root"
	}
	d.Command = shellCommand(command, d.Env["SHELL"], input, hasInput, d.Cwd == "")
	if len(d.Command) > maxCommand {
		return d, fmt.Sprintf("its command is %d bytes long, and the system takes %d", len(d.Command), maxCommand)
	}
	return d, ""
}

// remarks are notes about a job that was carried over.
func (r *crontabReader) remarks(l cronLine, j *importJob, random bool) {
	var remarks []string
	if random {
		remarks = append(remarks, fmt.Sprintf("%s: cron chooses at each start; chosen once for %s is %s", l.entry.when, r.f.Machine, written(j.does.Times)))
	} else if j.does.Times.Crontab == "" {
		remarks = append(remarks, l.entry.when+": cron runs it when both dom and dow match, since one of them begins with *; so do the fields")
	}
	if l.entry.onFail {
		remarks = append(remarks, "-n is about mail, which is not sent here")
	}
	if l.entry.silent {
		remarks = append(remarks, "the - in front kept cron's line out of syslog; here it has no meaning")
	}
	if r.lastLine == l.num && len(r.f.Text) > 0 && r.f.Text[len(r.f.Text)-1] != '\n' {
		remarks = append(remarks, "the line has no newline at its end: cron itself may have left it out")
	}
	for _, text := range remarks {
		r.note(l.num, text)
		if line := fmt.Sprintf("%s:%d: %s", r.f.Path, l.num, text); !slices.Contains(j.above, line) {
			j.above = append(j.above, line)
		}
	}
}

func written(f FieldTexts) string {
	if f.Crontab != "" {
		return f.Crontab
	}
	return strings.Join([]string{f.Min, f.Hour, f.Dom, f.Mon, f.Dow}, " ")
}

// name gives every job that has none yet one of its own, which no job before had. It
// depends on what the jobs do and on nothing else: the order of lines and files, and
// when it is done, do not matter.
func (im *importer) name() {
	taken := map[string]bool{}
	if im.o.Before != nil {
		for name := range im.o.Before.Jobs {
			taken[name] = true
		}
	}
	byBase := map[string][]*importJob{}
	for _, j := range im.jobs {
		if j.name == "" {
			base := nameOf(j.does.bare)
			byBase[base] = append(byBase[base], j)
		}
	}
	for base, jobs := range byBase {
		if len(jobs) == 1 && !taken[base] {
			jobs[0].name = base
			taken[base] = true
		}
	}
	for _, base := range slices.Sorted(maps.Keys(byBase)) {
		jobs := byBase[base]
		if jobs[0].name != "" {
			continue
		}
		slices.SortFunc(jobs, func(a, b *importJob) int {
			if c := strings.Compare(a.hash(true), b.hash(true)); c != 0 {
				return c
			}
			return a.copyOf - b.copyOf
		})
		short := map[string]int{}
		for _, j := range jobs {
			short[j.hash(false)]++
		}
		for _, j := range jobs {
			h := j.hash(short[j.hash(false)] > 1)
			j.name = base + "-" + h[:4]
			for n := 5; taken[j.name] && n <= len(h); n++ {
				j.name = base + "-" + h[:n]
			}
			if j.copyOf > 1 {
				j.name = base + "-" + h[:4] + "-" + strconv.Itoa(j.copyOf)
			}
			for n := 2; taken[j.name]; n++ {
				j.name = fmt.Sprintf("%s-%s-%d", base, h[:8], n)
			}
			taken[j.name] = true
		}
	}
}
