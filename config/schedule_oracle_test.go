package config

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"
)

// oracle is the grammar of spec "Schedules" once more, as slowly and plainly as it
// can be said: it looks at the text of each item for each value. It shares no code
// with the package.
type oracle struct {
	texts [7]string // sec min hour dom mon dow year
}

func newOracle(f FieldTexts) oracle {
	o := oracle{[7]string{f.Sec, f.Min, f.Hour, f.Dom, f.Mon, f.Dow, f.Year}}
	if o.texts[0] == "" {
		o.texts[0] = "0"
	}
	if o.texts[6] == "" {
		o.texts[6] = "*"
	}
	return o
}

var oracleLimits = [7][2]int{{0, 59}, {0, 59}, {0, 23}, {1, 31}, {1, 12}, {0, 6}, {1970, 2099}}

func oracleValue(text string) int {
	names := "sun mon tue wed thu fri sat "
	if i := strings.Index(names, strings.ToLower(text)+" "); i >= 0 && len(text) == 3 {
		return i / 4
	}
	months := "jan feb mar apr may jun jul aug sep oct nov dec "
	if i := strings.Index(months, strings.ToLower(text)+" "); i >= 0 && len(text) == 3 {
		return i/4 + 1
	}
	n, err := strconv.ParseInt(text, 10, 32)
	if err != nil {
		panic(fmt.Sprintf("the oracle can't read %q", text))
	}
	return int(n)
}

// allows reports whether a field allows a value; date is for L and Z.
func (o oracle) allows(field, v int, date time.Time) bool {
	for _, item := range strings.Split(strings.TrimSpace(o.texts[field]), ",") {
		if oracleItem(field, strings.ToLower(item), v, date) {
			return true
		}
	}
	return false
}

func oracleItem(field int, item string, v int, date time.Time) bool {
	lastDay := time.Date(date.Year(), date.Month()+1, 0, 0, 0, 0, 0, time.UTC).Day()
	switch {
	case item == "*" || item == "?":
		return true
	case field == 3 && item == "l":
		return v == lastDay
	case field == 3 && item[0] == 'z':
		low, high, ranged := strings.Cut(item[1:], "-")
		if !ranged {
			high = low
		}
		return oracleValue(low) <= lastDay-v && lastDay-v <= oracleValue(high)
	case field == 5 && item[0] == 'l':
		if date.Day() <= lastDay-7 {
			return false
		}
		item = item[1:]
	}
	body, stepText, stepped := strings.Cut(item, "/")
	step := 1
	if stepped {
		step = oracleValue(stepText)
	}
	low, high := oracleLimits[field][0], oracleLimits[field][1]
	if body != "*" {
		lowText, highText, ranged := strings.Cut(body, "-")
		low = oracleValue(lowText)
		switch {
		case ranged:
			if high = oracleValue(highText); field == 5 && high == 0 {
				high = 7
			}
		case !stepped:
			high = low
		}
	}
	for n := low; n <= high; n += step {
		if n == v || field == 5 && n == 7 && v == 0 {
			return true
		}
	}
	return false
}

// day reports whether a date matches.
func (o oracle) day(d time.Time) bool {
	return o.allows(3, d.Day(), d) && o.allows(4, int(d.Month()), d) &&
		o.allows(5, int(d.Weekday()), d) && d.Year() >= 1970 && d.Year() <= 2099 && o.allows(6, d.Year(), d)
}

// wall reports whether a wall clock, written as UTC, matches.
func (o oracle) wall(w time.Time) bool {
	return o.allows(0, w.Second(), w) && o.allows(1, w.Minute(), w) && o.allows(2, w.Hour(), w) && o.day(w)
}

func (o oracle) values(field int) []int {
	var all []int
	for v := oracleLimits[field][0]; v <= oracleLimits[field][1]; v++ {
		if o.allows(field, v, time.Time{}) {
			all = append(all, v)
		}
	}
	return all
}

// next tries every day up to the end, and every second of a day that matches.
func (o oracle) next(t time.Time) time.Time {
	hours, minutes, seconds := o.values(2), o.values(1), o.values(0)
	t = t.UTC()
	for d := time.Date(t.Year(), t.Month(), t.Day(), 0, 0, 0, 0, time.UTC); d.Year() <= 2099; d = d.AddDate(0, 0, 1) {
		if !o.day(d) {
			continue
		}
		for _, h := range hours {
			for _, m := range minutes {
				for _, s := range seconds {
					at := time.Date(d.Year(), d.Month(), d.Day(), h, m, s, 0, time.UTC)
					if at.After(t) {
						return at
					}
				}
			}
		}
	}
	return time.Time{}
}

// drawField makes a field that the grammar allows.
func drawField(t *rapid.T, i int) string {
	rule := fieldRules[i]
	names := rule.names
	low, high := rule.min, rule.max
	if i == 6 {
		low, high = 2015, 2060 // most draws should match at some time
	}
	show := func(v int) string {
		n := v - rule.first
		if n >= 0 && n < len(names) && rapid.Bool().Draw(t, "name") {
			return names[n]
		}
		return strconv.Itoa(v)
	}
	item := func() string {
		v := rapid.IntRange(low, high).Draw(t, "value")
		kinds := []string{"*", "value", "value", "range", "range", "step", "star step", "range step"}
		switch i {
		case 3:
			kinds = append(kinds, "L", "Z", "Z range", "?")
		case 5:
			kinds = append(kinds, "L", "L range", "?")
		}
		step := rapid.IntRange(1, max(1, min(high, rule.max-v))).Draw(t, "step")
		to := rapid.IntRange(v, high).Draw(t, "to")
		switch kind := rapid.SampledFrom(kinds).Draw(t, "kind"); kind {
		case "value":
			return show(v)
		case "range":
			return show(v) + "-" + show(to)
		case "step", "range step":
			if v+step > rule.max {
				return show(v)
			}
			if kind == "step" {
				return show(v) + "/" + strconv.Itoa(step)
			}
			return show(v) + "-" + show(to) + "/" + strconv.Itoa(step)
		case "star step":
			return "*/" + strconv.Itoa(rapid.IntRange(1, min(rule.max-rule.min, 100)).Draw(t, "step"))
		case "L":
			if i == 3 {
				return "L"
			}
			return "L" + show(v)
		case "L range":
			return "L" + show(v) + "-" + show(to)
		case "Z":
			return "Z" + strconv.Itoa(v%8)
		case "Z range":
			return fmt.Sprintf("Z%d-%d", v%8, rapid.IntRange(v%8, 7).Draw(t, "to"))
		default:
			return kind
		}
	}
	if rapid.IntRange(0, 2).Draw(t, "free") == 0 && i > 2 {
		return "*"
	}
	items := make([]string, rapid.IntRange(1, 3).Draw(t, "items"))
	for n := range items {
		items[n] = item()
	}
	return strings.Join(items, ",")
}

func drawFields(t *rapid.T) FieldTexts {
	var texts [7]string
	for i := range texts {
		texts[i] = drawField(t, i)
	}
	return FieldTexts{Sec: texts[0], Min: texts[1], Hour: texts[2], Dom: texts[3], Mon: texts[4], Dow: texts[5], Year: texts[6]}
}

func TestNextIsTheOracles(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		f := drawFields(t)
		s, err := ParseFields(f, time.UTC)
		if err != nil {
			t.Fatalf("%+v is in the grammar: %v", f, err)
		}
		at := time.Unix(rapid.Int64Range(0, 2840140800).Draw(t, "now"), rapid.SampledFrom([]int64{0, 1, 5e8, 999999999}).Draw(t, "ns"))
		o := newOracle(f)
		for range 3 {
			want, got := o.next(at), s.Next(at)
			if !got.Equal(want) {
				t.Fatalf("%+v after %v is %v, want %v", f, at.UTC(), got, want)
			}
			if at = got; at.IsZero() {
				return
			}
		}
	})
}

// changes are instants at which clocks change, found without ZoneBounds.
func changes(loc *time.Location, year int) []int64 {
	var found []int64
	offset := func(u int64) int { _, o := time.Unix(u, 0).In(loc).Zone(); return o }
	from := time.Date(year, 1, 1, 0, 0, 0, 0, time.UTC).Unix()
	for u := from; u < from+366*86400; u += 10800 {
		low, high := u, u+10800
		if offset(low) == offset(high) {
			continue
		}
		for high-low > 1 {
			if middle := (low + high) / 2; offset(middle) == offset(low) {
				low = middle
			} else {
				high = middle
			}
		}
		found = append(found, high)
	}
	return found
}

// zonedNext walks instant by instant, 30 seconds each, for three days.
func (o oracle) zonedNext(loc *time.Location, now, end int64) (int64, bool) {
	const grain = 30
	everyHour := len(o.values(2)) == 24
	repeats := everyHour || len(o.values(1)) == 60 ||
		slices.ContainsFunc(strings.Split(o.texts[1], ","), func(s string) bool { return strings.HasPrefix(s, "*") })
	matches := func(wall int64) bool { return o.wall(time.Unix(wall, 0).UTC()) }

	shown := map[int64]bool{} // wall times that the clocks have shown
	start := now - 30*3600
	start -= start % grain
	before := int64(0)
	for u := start; u < end; u += grain {
		_, off := time.Unix(u, 0).In(loc).Zone()
		offset := int64(off)
		if u > now {
			if offset > before && !everyHour {
				for wall := u + before; wall < u+offset; wall += grain {
					if matches(wall) {
						return u, true
					}
				}
			}
			if wall := u + offset; matches(wall) && (repeats || !shown[wall]) {
				return u, true
			}
		}
		shown[u+offset] = true
		before = offset
	}
	return 0, false
}

func TestNextIsTheOraclesWhereClocksChange(t *testing.T) {
	zones := []string{"Europe/Bucharest", "America/New_York", "America/St_Johns", "Australia/Lord_Howe", "Pacific/Apia",
		"Africa/Casablanca", "America/Sao_Paulo", "Asia/Tehran", "Antarctica/Troll", "Europe/Dublin", "Pacific/Chatham", "Africa/Monrovia", "America/Havana"}
	rapid.Check(t, func(t *rapid.T) {
		zone := rapid.SampledFrom(zones).Draw(t, "zone")
		loc, err := time.LoadLocation(zone)
		if err != nil {
			t.Fatal(err)
		}
		found := changes(loc, rapid.IntRange(1972, 2097).Draw(t, "year"))
		if zone == "Pacific/Apia" && rapid.Bool().Draw(t, "the lost day") {
			found = changes(loc, 2011)
		}
		if len(found) == 0 {
			t.Skip("no change of the clocks that year")
		}
		f := FieldTexts{
			Sec:  rapid.SampledFrom([]string{"0", "30", "*/30"}).Draw(t, "sec"),
			Min:  rapid.SampledFrom([]string{"0", "30", "15", "5,45", "*/20", "*", "0-59", "59", "0/30"}).Draw(t, "min"),
			Hour: rapid.SampledFrom([]string{"0", "1", "2", "3", "0-2", "2-23/2", "*", "*/3", "1,3", "23", "0-23"}).Draw(t, "hour"),
			Dom:  rapid.SampledFrom([]string{"*", "*", "*/2", "1-7", "Z0-6", "30"}).Draw(t, "dom"),
			Mon:  "*",
			Dow:  rapid.SampledFrom([]string{"*", "*", "0", "L0", "1-6", "5"}).Draw(t, "dow"),
		}
		s, err := ParseFields(f, loc)
		if err != nil {
			t.Fatal(err)
		}
		change := rapid.SampledFrom(found).Draw(t, "change")
		now := change + int64(rapid.IntRange(-7*3600, 3*3600).Draw(t, "away"))
		end := change + 2*86400
		got := s.Next(time.Unix(now, 0))
		want, ok := newOracle(f).zonedNext(loc, now, end)
		switch {
		case ok && got.Unix() != want:
			t.Fatalf("%s %+v after %v is %v, want %v", zone, f, time.Unix(now, 0).In(loc), got, time.Unix(want, 0).In(loc))
		case !ok && !got.IsZero() && got.Unix() < end:
			t.Fatalf("%s %+v after %v is %v, want nothing before %v", zone, f, time.Unix(now, 0).In(loc), got, time.Unix(end, 0).In(loc))
		}
	})
}
