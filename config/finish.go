package config

import (
	"errors"
	"fmt"
	"strings"
	"time"

	"saltpeter/config/targets"
)

// defaults are what other files say about every job. Comparable: while they stay
// equal, the finished jobs of an unchanged file stay the same pointers.
type defaults struct {
	loc    *time.Location // nil: default_timezone is wrong and never was right
	salt   bool           // targets without a transport of their own go to Salt as they are
	path   string
	level  string
	logDir string
	host   string
}

func defaultsOf(s *Settings, zoneBad bool) defaults {
	d := defaults{
		loc: s.DefaultLocation, salt: s.DefaultTransport == "salt", path: s.WrapperPath,
		level: s.WrapperLogLevel, logDir: s.WrapperLogDir, host: s.ServerHost,
	}
	if zoneBad {
		d.loc = nil
	}
	return d
}

// finish makes the job of a draft. It gives nil where something is an error;
// what is wrong goes to out either way: of a bad draft too, so that people hear
// of everything at once.
func (d *draft) finish(def defaults, path string, out *[]Problem) *Job {
	j := d.job
	f := finisher{scope: scope{file: path, job: j.Name, out: out}, d: d, j: &j}
	if j.Location = d.loc; j.Location == nil {
		j.Location = def.loc
	}
	if d.bad {
		f.rest(def)
		return nil
	}
	if j.Location == nil {
		f.fail(f.at(posName), "", "has no time zone: default_timezone is wrong", "mend it, or give the job a timezone of its own")
		return nil
	}
	f.utc(def)
	f.schedule()
	f.targets(def)
	if f.bad {
		return nil
	}
	fill(&j.WrapperPath, def.path)
	fill(&j.WrapperLogLevel, def.level)
	fill(&j.WrapperLogDir, def.logDir)
	fill(&j.ServerHost, def.host)
	return &j
}

func fill(to *string, from string) {
	if *to == "" {
		*to = from
	}
}

// rest checks what is there of a job that is lost already.
func (f *finisher) rest(def defaults) {
	if f.j.Location == nil {
		f.j.Location = time.UTC
	}
	if f.j.Fields.Crontab != "" {
		f.schedule()
	} else {
		f.everyField(nil)
	}
	if f.j.Targets != "" {
		f.targets(def)
	}
}

type finisher struct {
	scope
	d *draft
	j *Job
}

func (f *finisher) at(i int) *value {
	p := f.d.pos[i]
	return &value{line: p.line, col: p.col}
}

func isUTC(zone string) bool {
	switch zone {
	case "UTC", "Etc/UTC", "Etc/UCT", "UCT", "Zulu", "Etc/Zulu", "Universal", "Etc/Universal":
		return true
	}
	return false
}

func (f *finisher) utc(def defaults) {
	if zone := f.j.Location.String(); f.d.utc && !isUTC(zone) {
		where := "timezone"
		if f.d.loc == nil {
			where = "default_timezone"
		}
		f.fail(f.at(posUTC), "utc", fmt.Sprintf("is true, and %s is %s", where, zone), "write timezone: UTC, or take utc out")
	}
}

func (f *finisher) schedule() {
	var err error
	if f.j.Fields.Crontab != "" {
		f.j.Schedule, err = ParseCrontab(f.j.Fields.Crontab, f.j.Location)
		if err != nil {
			f.fieldError("schedule", posSchedule, err)
			return
		}
	} else if f.j.Schedule, err = ParseFields(f.j.Fields, f.j.Location); err != nil {
		f.everyField(err)
		return
	}
	if !f.d.bad {
		f.never()
	}
}

// everyField says what is wrong with each field, not only with the first.
func (f *finisher) everyField(first error) {
	w := f.j.Fields
	said := false
	for i, x := range []struct {
		key string
		t   FieldTexts
	}{
		posSec: {"sec", FieldTexts{Sec: w.Sec}}, posMin: {"min", FieldTexts{Min: w.Min}},
		posHour: {"hour", FieldTexts{Hour: w.Hour}}, posDom: {"dom", FieldTexts{Dom: w.Dom}},
		posMon: {"mon", FieldTexts{Mon: w.Mon}}, posDow: {"dow", FieldTexts{Dow: w.Dow}},
		posYear: {"year", FieldTexts{Year: w.Year}},
	} {
		for _, other := range []*string{&x.t.Min, &x.t.Hour, &x.t.Dom, &x.t.Mon, &x.t.Dow} {
			fill(other, "*")
		}
		if _, err := ParseFields(x.t, f.j.Location); err != nil {
			f.fieldError(x.key, i, err)
			said = true
		}
	}
	if !said && first != nil {
		f.fieldError("", posName, first)
	}
}

func (f *finisher) fieldError(key string, at int, err error) {
	var fe *FieldError
	if errors.As(err, &fe) {
		f.fail(f.at(at), key, fe.Text, fe.Hint)
		return
	}
	f.fail(f.at(at), key, err.Error(), "")
}

// never warns about a schedule that has no time at all, such as February 30. One
// whose years are over is found by Set.Over, for whom somebody brings the time.
func (f *finisher) never() {
	w := f.j.Fields
	free := func(s string) bool { return s == "" || s == "*" || s == "?" }
	if w.Crontab == "" && free(w.Dom) && free(w.Year) {
		return
	}
	if f.j.Schedule.Next(beginning()).IsZero() {
		at := posDom
		if w.Crontab != "" {
			at = posSchedule
		}
		f.warn(f.at(at), "", "never fires: no date matches", "check dom, mon and year")
	}
}

// beginning is before every year that a schedule can name.
func beginning() time.Time { return time.Date(1969, 12, 30, 0, 0, 0, 0, time.UTC) }

// Over returns a warning for each job whose schedule is over at now: it had times
// once and has none any more.
func (s *Set) Over(now time.Time) []Problem {
	var ps []Problem
	for _, name := range s.Order {
		j := s.Jobs[name]
		if j.Schedule != nil && j.Fields.Year != "" && j.Fields.Year != "*" &&
			j.Schedule.Next(now).IsZero() && !j.Schedule.Next(beginning()).IsZero() {
			ps = append(ps, Problem{
				File: filePath(s.Dir, j.File), Line: j.Line, Col: 1, Job: name, Key: "year",
				Text: "never fires again: its years are over", Hint: "write year: '*', or take the job out", Warning: true,
			})
		}
	}
	return ps
}

func (f *finisher) targets(def defaults) {
	if f.j.Transport == "salt" || f.j.Transport == "" && def.salt {
		return
	}
	for _, only := range targets.SaltOnly {
		if only == f.j.TargetType {
			f.warn(f.at(posTargets), "target_type", only+" is matched by Salt alone, which is not yet in effect: a run fails, and says so",
				"write one of "+strings.Join(targets.Types, ", "))
			return
		}
	}
	if _, err := targets.Parse(f.j.TargetType, f.j.Targets); err != nil {
		f.fail(f.at(posTargets), "targets", err.Error(), "")
	}
}
