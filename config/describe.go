package config

import (
	"fmt"
	"math/bits"
	"strconv"
	"strings"
	"time"
)

// Describe says a schedule in words ("every weekday at 02:30 Europe/Bucharest").
// What would be longer in words than in fields, or is wrong, is given back as it
// was written.
func Describe(f FieldTexts, loc *time.Location) string {
	if loc == nil {
		loc = time.UTC
	}
	var times wallTimes
	var err error
	if f.Crontab != "" {
		var delay time.Duration
		if times, delay, err = parseCrontab(f.Crontab); delay > 0 {
			return "every " + lasting(delay)
		}
	} else {
		times, err = parseTimes(f)
	}
	if err != nil {
		return asWritten(f)
	}
	at, days := times.timeWords(), times.dayWords()
	years := times.yearWords()
	if at == "" || days == "" || years == "" {
		return asWritten(f) + zoneWords(loc)
	}
	return times.sentence(at, days, zoneWords(loc)) + strings.TrimPrefix(years, "*")
}

// sentence joins the parts: "every day at 02:30", but "every 5 minutes" alone.
func (w wallTimes) sentence(at, days, zone string) string {
	text := days + " " + at
	switch {
	case days == "every day" && !strings.HasPrefix(at, "at "):
		text = at
		if w.hourly && !strings.Contains(at, " at ") {
			zone = "" // the same in every zone
		}
	case !strings.HasPrefix(at, "at "):
		text = days + ", " + at
	}
	if zone != "" && !strings.Contains(text[len(text)-3:], ":") {
		zone = "," + zone
	}
	if w.never {
		text = "never: " + text
	}
	return text + zone
}

func zoneWords(loc *time.Location) string {
	if loc == time.Local {
		return ""
	}
	return " " + loc.String()
}

// asWritten names the fields that say something.
func asWritten(f FieldTexts) string {
	if f.Crontab != "" {
		return f.Crontab
	}
	var parts []string
	for i, text := range []string{f.Sec, f.Min, f.Hour, f.Dom, f.Mon, f.Dow, f.Year} {
		rule := fieldRules[i]
		if text = strings.TrimSpace(text); text == "" || text == rule.preset || text == "*" && i > 2 {
			continue
		}
		parts = append(parts, rule.name+" "+text)
	}
	return strings.Join(parts, ", ")
}

// timeWords says the time of day: "at 02:30" or "every 5 minutes".
func (w wallTimes) timeWords() string {
	hours, minutes, seconds := values(w.hour), values(w.min), values(w.sec)
	if len(hours)*len(minutes)*len(seconds) <= 6 {
		var all []string
		for _, h := range hours {
			for _, m := range minutes {
				for _, s := range seconds {
					all = append(all, clock(int64(h*3600+m*60+s)))
				}
			}
		}
		return "at " + join(all)
	}
	if w.hourly {
		return w.hourlyWords(minutes, seconds)
	}
	if from, every, ok := stride(hours, 24); ok && from == 0 && len(minutes) == 1 && len(seconds) == 1 {
		return atMark(fmt.Sprintf("every %d hours", every), w.first%3600)
	}
	// A stretch of the day.
	last := int64(hours[len(hours)-1]*3600 + minutes[len(minutes)-1]*60 + seconds[len(seconds)-1])
	between := fmt.Sprintf(" from %s to %s", clock(w.first), clock(last))
	_, every, regular := stride(minutes, 60)
	switch {
	case hours[len(hours)-1]-hours[0] != len(hours)-1:
	case len(seconds) == 60 && len(minutes) == 60:
		return "every second" + between
	case len(seconds) != 1:
	case len(minutes) == 1:
		return "every hour" + between
	case len(minutes) == 60:
		return "every minute" + between
	case regular:
		return fmt.Sprintf("every %d minutes", every) + between
	}
	hourText, minuteText, secondText := spans(hours, plainNumber), spans(minutes, plainNumber), spans(seconds, plainNumber)
	if hourText == "" || minuteText == "" || secondText == "" {
		return ""
	}
	switch {
	case len(minutes) == 60:
		minuteText = "every minute"
	default:
		minuteText = plural("minute", len(minutes)) + " " + minuteText
	}
	text := "at " + minuteText + " of " + plural("hour", len(hours)) + " " + hourText
	switch {
	case len(seconds) == 60:
		return text + ", every second"
	case w.sec != 1:
		return text + " and " + plural("second", len(seconds)) + " " + secondText
	}
	return text
}

// hourlyWords says what is the same in all hours.
func (w wallTimes) hourlyWords(minutes, seconds []int) string {
	secondFrom, secondStep, secondsRegular := stride(seconds, 60)
	minuteFrom, minuteStep, minutesRegular := stride(minutes, 60)
	switch {
	case len(minutes) == 60 && len(seconds) == 60:
		return "every second"
	case len(minutes) == 60 && len(seconds) == 1:
		if seconds[0] == 0 {
			return "every minute"
		}
		return fmt.Sprintf("every minute at second %d", seconds[0])
	case len(minutes) == 60 && secondsRegular && secondFrom == 0:
		return fmt.Sprintf("every %d seconds", secondStep)
	case len(seconds) == 1 && len(minutes) == 1:
		return atMark("every hour", w.first%3600)
	case len(seconds) == 1 && seconds[0] == 0 && minutesRegular:
		text := fmt.Sprintf("every %d minutes", minuteStep)
		if minuteFrom > 0 {
			text += fmt.Sprintf(" from minute %d", minuteFrom)
		}
		return text
	}
	minuteText, secondText := spans(minutes, plainNumber), spans(seconds, plainNumber)
	if minuteText == "" || secondText == "" {
		return ""
	}
	text := "every hour at " + plural("minute", len(minutes)) + " " + minuteText
	if len(minutes) == 60 {
		text = "every minute"
	}
	switch {
	case w.sec == 1:
		return text
	case len(seconds) == 60:
		return text + ", every second"
	case len(minutes) == 60:
		return text + " at " + plural("second", len(seconds)) + " " + secondText
	}
	return text + " and " + plural("second", len(seconds)) + " " + secondText
}

// atMark says where in its hour something happens, if not at its start.
func atMark(text string, second int64) string {
	if second == 0 {
		return text
	}
	text += fmt.Sprintf(" at minute %d", second/60)
	if second%60 != 0 {
		text += fmt.Sprintf(" and second %d", second%60)
	}
	return text
}

// dayWords says the days: "every weekday", "on the 1st of every month".
func (w wallTimes) dayWords() string {
	freeDom, freeDow := w.dom&allDays == allDays, w.dow == allWeekday
	months := "every month"
	in := ""
	if w.mon&allMonths != allMonths {
		if months = spans(values(w.mon), func(v int) string { return time.Month(v).String() }); months == "" {
			return ""
		}
		in = " in " + months
	}
	dom, dow := w.domWords(), w.dowWords()
	switch {
	case freeDom && freeDow, w.either && (freeDom || freeDow):
		return "every day" + in
	case freeDow:
		return also(dom, "on the "+dom+" of "+months)
	case freeDom:
		return w.weekdayWords(dow, months, in)
	case dom == "" || dow == "":
		return ""
	case w.either:
		return "on the " + dom + " of " + months + " and " + w.weekdayWords(dow, months, in)
	case w.dow == 0:
		return "on the " + dom + " of " + months + " if that is the last " + dow
	case w.dowLast != 0:
		return ""
	}
	return "on the " + dom + " of " + months + " if that is a " + strings.ReplaceAll(dow, " and ", " or ")
}

// weekdayWords says days of the week without days of the month.
func (w wallTimes) weekdayWords(dow, months, in string) string {
	lastNames := spans(weekdayValues(w.dowLast), weekdayName)
	switch {
	case w.dowLast == 0 && strings.Contains(dow, " to "):
		return "every day from " + dow + in
	case w.dowLast == 0:
		return "every " + dow + in
	case w.dow == 0:
		return "on the last " + lastNames + " of " + months
	}
	return "every " + w.weekSet() + in + " and on the last " + lastNames + " of " + months
}

// domWords is "1st and last day".
func (w wallTimes) domWords() string {
	var parts []string
	if w.dom&allDays != 0 {
		text := spans(values(w.dom&allDays), ordinal)
		if text == "" {
			return ""
		}
		parts = append(parts, text)
	}
	last := w.domLast
	// Days that end with the last one are named together.
	if n := bits.TrailingZeros64(^last); n > 1 {
		parts = append(parts, fmt.Sprintf("last %d days", n))
		last = last >> n << n
	}
	for _, n := range values(last) {
		switch n {
		case 0:
			parts = append(parts, "last day")
		case 1:
			parts = append(parts, "day before the last")
		default:
			parts = append(parts, fmt.Sprintf("%d%s day before the last", n, suffix(n)))
		}
	}
	return join(parts)
}

// dowWords is "weekday" or "Monday and Friday", of the set that is there.
func (w wallTimes) dowWords() string {
	if w.dow == 0 {
		return spans(weekdayValues(w.dowLast), weekdayName)
	}
	return w.weekSet()
}

func (w wallTimes) weekSet() string {
	if w.dow == 0b0111110 {
		return "weekday"
	}
	return spans(weekdayValues(w.dow), weekdayName)
}

// yearWords is "*" for all years, else what to append.
func (w wallTimes) yearWords() string {
	var years []int
	for y := firstYear; y <= lastYear; y++ {
		if w.year.has(y) {
			years = append(years, y)
		}
	}
	if len(years) == lastYear-firstYear+1 {
		return "*"
	}
	text := spans(years, plainNumber)
	if strings.Count(text, " ") == 2 && strings.Contains(text, " to ") {
		return ", only from " + text
	}
	return also(text, ", only in "+text)
}

// lasting writes a delay: "10 minutes", "1h30m0s" where no single unit does.
func lasting(d time.Duration) string {
	for _, unit := range []struct {
		length time.Duration
		name   string
	}{{24 * time.Hour, "day"}, {time.Hour, "hour"}, {time.Minute, "minute"}, {time.Second, "second"}} {
		switch n := int(d / unit.length); {
		case d%unit.length != 0:
		case n == 1:
			return unit.name
		case n > 1:
			return strconv.Itoa(n) + " " + unit.name + "s"
		}
	}
	return d.String()
}
