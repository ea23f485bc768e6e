package config

import (
	"fmt"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/robfig/cron/v3"
)

// crontabStar is robfig's mark in a field that allows everything.
const crontabStar = 1 << 63

// ParseCrontab makes a Schedule of the key `schedule:`, a crontab expression of
// five fields, six with seconds first, or an alias. Its parser and its meaning are
// robfig's, but for the changes of the clocks, which are those of ParseFields.
// The error is a *FieldError with the field "schedule". A nil loc is UTC.
func ParseCrontab(text string, loc *time.Location) (Schedule, error) {
	if loc == nil {
		loc = time.UTC
	}
	times, delay, err := parseCrontab(text)
	switch {
	case err != nil:
		return nil, err
	case delay > 0:
		return every{cron.Every(delay), loc}, nil
	}
	return newZoned(times, loc), nil
}

// parseCrontab returns the wall times of an expression, or the delay of @every.
func parseCrontab(text string) (times wallTimes, delay time.Duration, err error) {
	line := strings.TrimSpace(text)
	if err := refuseCrontab(line); err != nil {
		return times, 0, err
	}
	parsed, failure := crontabParser().Parse(line)
	if failure != nil {
		return times, 0, explainCrontab(text, line, failure)
	}
	switch s := parsed.(type) {
	case cron.ConstantDelaySchedule:
		// robfig makes a second of what is no delay at all.
		d, err := time.ParseDuration(strings.TrimSpace(strings.TrimPrefix(line, "@every")))
		if err != nil || d <= 0 {
			return times, 0, crontabError(fmt.Sprintf("%q is not a delay", line), "write a positive one, such as @every 10m")
		}
		return times, s.Delay, nil
	case *cron.SpecSchedule:
		times = wallTimes{
			sec: s.Second & allSixty, min: s.Minute & allSixty, hour: s.Hour & allHours,
			dom: s.Dom & allDays, mon: s.Month & allMonths, dow: s.Dow & allWeekday,
			year:    yearSet{^uint64(0), ^uint64(0), ^uint64(0)},
			either:  s.Dom&crontabStar == 0 && s.Dow&crontabStar == 0,
			minStar: crontabMinuteStar(line),
		}
		for i, set := range []uint64{times.sec, times.min, times.hour, times.dom, times.mon, times.dow} {
			if set == 0 {
				return times, 0, crontabError("the "+fieldRules[i].name+" field is empty", "write * for every "+fieldRules[i].word)
			}
		}
		return times.ready(), 0, nil
	}
	return times, 0, crontabError(fmt.Sprintf("%q is not understood", line), crontabHint)
}

const crontabHint = "write five fields (min hour dom mon dow), six with seconds first, or an alias such as @daily"

func crontabParser() cron.Parser {
	return cron.NewParser(cron.SecondOptional | cron.Minute | cron.Hour | cron.Dom | cron.Month | cron.Dow | cron.Descriptor)
}

func crontabError(text, hint string) *FieldError {
	return &FieldError{Field: "schedule", Text: text, Hint: hint}
}

// refuseCrontab stops what robfig's parser must not see (it panics on a TZ=
// without a blank behind it), and what it would explain badly.
func refuseCrontab(line string) error {
	upper := strings.ToUpper(line)
	for _, prefix := range []string{"TZ=", "CRON_TZ="} {
		if strings.HasPrefix(upper, prefix) {
			zone, rest, _ := strings.Cut(line[len(prefix):], " ")
			hint := "write timezone: as a key of its own"
			if rest = strings.TrimSpace(rest); zone != "" && rest != "" {
				hint = fmt.Sprintf("write schedule: '%s' and timezone: %s", rest, zone)
			}
			return crontabError(line[:len(prefix)]+" is not allowed here", hint)
		}
	}
	switch {
	case line == "":
		return crontabError("is empty", crontabHint)
	case strings.HasPrefix(line, "@reboot"):
		return crontabError("@reboot is not known here", "a job is started by the clock, or by saltpeter run")
	case strings.HasPrefix(line, "@"):
		return nil
	}
	if n := len(strings.Fields(line)); n < 5 || n > 6 {
		return crontabError(fmt.Sprintf("has %s", count(n, "field")), crontabHint+"; the command goes into its own key")
	}
	return nil
}

// crontabMinuteStar reports whether the minute field has an item that begins with
// * (or ?, the same to robfig), which robfig forgets for */5.
func crontabMinuteStar(line string) bool {
	fields := strings.Fields(line)
	if len(fields) < 5 {
		return false
	}
	for item := range strings.SplitSeq(fields[len(fields)-5], ",") {
		if strings.HasPrefix(item, "*") || strings.HasPrefix(item, "?") {
			return true
		}
	}
	return false
}

// explainCrontab turns robfig's error, which names no field, into ours.
func explainCrontab(text, line string, failure error) *FieldError {
	if strings.HasPrefix(line, "@every") {
		return crontabError(fmt.Sprintf("%q has no delay", line), "write one such as @every 10m or @every 1h30m")
	}
	if strings.HasPrefix(line, "@") {
		return crontabError(fmt.Sprintf("%q is not known", line), "write @yearly, @monthly, @weekly, @daily, @hourly, @every 10m, or five fields")
	}
	fields := strings.Fields(line)
	names := fieldRules[6-len(fields) : 6]
	for i, field := range fields {
		alone := []string{"*", "*", "*", "*", "*", "*"}
		alone[6-len(fields)+i] = field
		if _, err := crontabParser().Parse(strings.Join(alone, " ")); err != nil {
			wrong, hint := crontabFault(names[i], field)
			out := crontabError(names[i].name+": "+wrong, hint)
			out.Offset = fieldOffset(text, i)
			return out
		}
	}
	return crontabError(strings.TrimSpace(failure.Error()), crontabHint)
}

// crontabFault says what is wrong with a field that robfig refuses: what is wrong
// with it as a field of ours, or that it is a notation which crontab lacks.
func crontabFault(rule fieldRule, field string) (text, hint string) {
	_, err := rule.parse(field)
	switch {
	case err == nil && rule.name == "dow":
		return fmt.Sprintf("%q is not allowed in a crontab", field), "write 0-6 or sun-sat in ascending order, Sunday is 0"
	case err == nil:
		return fmt.Sprintf("%q is not allowed in a crontab", field), "the keys sec, min, hour, dom, mon, dow, year instead of schedule allow it"
	case strings.Contains(field, "@"):
		return err.Text, crontabHint
	case strings.HasSuffix(err.Hint, "both must match"):
		// A crontab needs only one of the two to match.
		return err.Text, "use the keys of the fields instead of schedule: " + err.Hint
	case rule.name == "dow" && strings.Contains(err.Text, "0-7"):
		return strings.ReplaceAll(err.Text, "0-7", "0-6"), "write 0-6 or sun-sat"
	}
	return err.Text, err.Hint
}

// fieldOffset is the number of characters before the n-th word of text.
func fieldOffset(text string, n int) int {
	at, inside := 0, false
	for i, c := range text {
		switch blank := isBlank(c); {
		case blank:
			inside = false
		case !inside:
			if n == 0 {
				return utf8.RuneCountInString(text[:i])
			}
			n--
			inside = true
		}
		at = i
	}
	return at
}

// every is @every: a delay, counted from the time that it is asked with.
type every struct {
	cron.ConstantDelaySchedule
	loc *time.Location
}

// Next returns the whole second one delay after t, the zero time behind the end
// of all schedules.
func (e every) Next(t time.Time) time.Time {
	if t.Unix() >= latest {
		return time.Time{}
	}
	next := e.ConstantDelaySchedule.Next(t.Round(0)).In(e.loc)
	if next.Year() > lastYear {
		return time.Time{}
	}
	return next
}

func count(n int, word string) string {
	if n == 1 {
		return "1 " + word
	}
	return fmt.Sprintf("%d %ss", n, word)
}
