package config

import (
	"fmt"
	"hash/fnv"
	"math/bits"
	"strconv"
	"strings"
)

// The five fields of a crontab as cron reads them (Vixie's, Debian's, cronie's).
// It is a language of its own: 7 is Sunday in ranges too, ~ chooses by chance, a
// step needs a range, and whether dom and dow are ANDed depends on their first
// character alone.

// cronField is what one field allows.
type cronField struct {
	bits uint64
	star bool // its first character is *
}

// cronTimes reads five fields. pick chooses from low to high where a field asks
// for chance; it is told the field's number. The error says what is wrong and how
// to mend it, as "TEXT; HINT".
func cronTimes(fields [5]string, pick func(field, low, high int) int) (wallTimes, error) {
	var sets [5]cronField
	for i, text := range fields {
		set, err := fieldRules[i+1].cron(text, func(low, high int) int { return pick(i, low, high) })
		if err != nil {
			return wallTimes{}, err
		}
		sets[i] = set
	}
	dom, dow := sets[2], sets[4]
	w := wallTimes{
		sec: 1, min: sets[0].bits, hour: sets[1].bits, dom: dom.bits, mon: sets[3].bits,
		dow: dow.bits | dow.bits>>7&1, year: yearSet{^uint64(0), ^uint64(0), ^uint64(0)},
		either: !dom.star && !dow.star, minStar: sets[0].star,
	}
	return w.ready(), nil
}

// cron reads one field.
func (r fieldRule) cron(text string, pick func(low, high int) int) (cronField, error) {
	set := cronField{star: strings.HasPrefix(text, "*")}
	for item := range strings.SplitSeq(text, ",") {
		from, to, step, err := r.cronItem(item, pick)
		if err != nil {
			return set, fmt.Errorf("%s: %w", r.name, err)
		}
		for v := from; v <= to; v += step {
			set.bits |= 1 << v
		}
	}
	return set, nil
}

func (r fieldRule) cronItem(item string, pick func(low, high int) int) (from, to, step int, err error) {
	body, stepText, stepped := strings.Cut(item, "/")
	step = 1
	if stepped {
		if step = number(stepText); !digits(stepText) || step == 0 {
			return 0, 0, 0, fmt.Errorf("%q has no step that cron knows; write a number from 1 on behind the /", item)
		}
	}
	if body == "*" {
		return r.min, r.max, step, nil
	}
	if low, high, random := strings.Cut(body, "~"); random {
		return r.cronRandom(item, low, high, stepped, pick)
	}
	low, high, ranged := strings.Cut(body, "-")
	if from, err = r.cronValue(item, low); err != nil {
		return 0, 0, 0, err
	}
	if !ranged {
		if stepped {
			return 0, 0, 0, fmt.Errorf("%q is a step without a range, which some crons refuse and others read as %s alone; write %s-%d/%s if it means from there on", item, low, low, r.top, stepText)
		}
		return from, from, 1, nil
	}
	if to, err = r.cronValue(item, high); err != nil {
		return 0, 0, 0, err
	}
	if r.name == "dow" && to == 0 && from > 0 {
		to = 7
	}
	if from > to {
		return 0, 0, 0, fmt.Errorf("%q runs backwards, so that cron never fires; %s", item, r.forwards(low, high, from, to))
	}
	return from, to, step, nil
}

// cronRandom is cronie's a~b: any value of a range, chosen when the file is read.
func (r fieldRule) cronRandom(item, low, high string, stepped bool, pick func(low, high int) int) (from, to, step int, err error) {
	from, to = r.min, r.max
	if low != "" {
		if from, err = r.cronValue(item, low); err != nil {
			return 0, 0, 0, err
		}
	}
	if high != "" {
		if to, err = r.cronValue(item, high); err != nil {
			return 0, 0, 0, err
		}
	}
	if from > to || stepped {
		return 0, 0, 0, fmt.Errorf("%q is no range to choose from; write it as low~high", item)
	}
	v := pick(from, to)
	return v, v, 1, nil
}

func (r fieldRule) cronValue(item, text string) (int, error) {
	v := -1
	switch {
	case digits(text):
		v = number(text)
	default:
		for i, name := range r.names {
			if strings.EqualFold(name, text) {
				return r.first + i, nil
			}
		}
		return 0, fmt.Errorf("%q is not understood; write %s", item, r.cronWords())
	}
	if v < r.min || v > r.max {
		return 0, fmt.Errorf("%s is out of range %s; write %s", text, r.limits(), r.cronWords())
	}
	return v, nil
}

func (r fieldRule) cronWords() string {
	if r.names == nil {
		return "numbers from " + r.limits()
	}
	return fmt.Sprintf("numbers from %s, or names from %s to %s", r.limits(), r.names[0], r.names[len(r.names)-1])
}

// cronAliases are the words for five fields, of cronie, FreeBSD and systemd-cron.
// Those that the key schedule knows as well stay as they are.
var cronAliases = lazy[map[string]string]{make: func() map[string]string {
	return map[string]string{
		"@yearly": "0 0 1 1 *", "@annually": "0 0 1 1 *", "@monthly": "0 0 1 * *", "@weekly": "0 0 * * 0",
		"@daily": "0 0 * * *", "@midnight": "0 0 * * *", "@hourly": "0 * * * *",
		"@every_minute": "* * * * *", "@minutely": "* * * * *", "@quarterly": "0 0 1 1,4,7,10 *",
		"@semi-annually": "0 0 1 1,7 *", "@semiannually": "0 0 1 1,7 *", "@bi-annually": "0 0 1 1,7 *", "@biannually": "0 0 1 1,7 *",
	}
}}

// scheduleKeys writes what cron makes of five fields as the keys of a job. Where
// the text means the same to the key schedule, it stays as it is.
func scheduleKeys(written string, w wallTimes) FieldTexts {
	if sameCrontab(written, w) {
		return FieldTexts{Crontab: written}
	}
	rules := fieldRules[1:6]
	texts := make([]string, len(rules))
	for i, set := range []uint64{w.min, w.hour, w.dom, w.mon, w.dow} {
		texts[i] = rules[i].asList(set)
	}
	if w.either && (w.dom&allDays == allDays || w.dow&allWeekday == allWeekday) {
		texts[2], texts[4] = "*", "*" // one of the two is always right, so the other says nothing
	}
	if text := strings.Join(texts, " "); sameCrontab(text, w) {
		return FieldTexts{Crontab: text}
	}
	// Both must match, which a crontab of ours has no way to say: the fields do.
	return FieldTexts{Min: texts[0], Hour: texts[1], Dom: texts[2], Mon: texts[3], Dow: texts[4]}
}

// sameCrontab reports whether the key schedule makes the same of a text.
func sameCrontab(text string, w wallTimes) bool {
	got, delay, err := parseCrontab(text)
	return err == nil && delay == 0 && got.dayRule() == w.dayRule() &&
		got.sec == w.sec && got.min == w.min && got.hour == w.hour && got.mon == w.mon
}

// dayRule is which days match, in one form for all ways to say it.
func (w wallTimes) dayRule() [3]uint64 {
	dom, dow := w.dom&allDays, w.dow&allWeekday
	switch {
	case w.either && (dom == allDays || dow == allWeekday):
		return [3]uint64{allDays, allWeekday, 0}
	case w.either:
		return [3]uint64{dom, dow, 1}
	}
	return [3]uint64{dom, dow, 0}
}

// asList writes a set of values as a field: *, */n, or ranges and values.
func (r fieldRule) asList(set uint64) string {
	all := values(set & (1<<(r.top+1) - 1) &^ (1<<r.min - 1))
	if len(all) == r.top-r.min+1 {
		return "*"
	}
	if len(all) > 2 {
		step := all[1] - all[0]
		even := step > 1 && all[len(all)-1]+step > r.top
		for i := 1; even && i < len(all); i++ {
			even = all[i]-all[i-1] == step
		}
		switch {
		case even && all[0] == r.min:
			return "*/" + strconv.Itoa(step)
		case even:
			return fmt.Sprintf("%d-%d/%d", all[0], r.top, step)
		}
	}
	var parts []string
	for i := 0; i < len(all); {
		j := i + bits.TrailingZeros64(^(set >> all[i])) - 1
		j = min(j, len(all)-1)
		switch {
		case j-i < 2:
			parts = append(parts, strconv.Itoa(all[i]))
			i++
			continue
		}
		parts = append(parts, fmt.Sprintf("%d-%d", all[i], all[j]))
		i = j + 1
	}
	return strings.Join(parts, ",")
}

// chanceOf makes a choice that is the same each time a line is imported, and
// another one for another machine, as cronie's would be.
func chanceOf(machine, line string) func(field, low, high int) int {
	return func(field, low, high int) int {
		h := fnv.New64a()
		fmt.Fprintf(h, "%s\x00%s\x00%d", machine, line, field)
		return low + int(h.Sum64()%uint64(high-low+1))
	}
}
