package config

import (
	"strings"
	"testing"
	"time"
)

func mustParse(t testing.TB, f FieldTexts, loc *time.Location) Schedule {
	t.Helper()
	s, err := ParseFields(f, loc)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// daily are fields of a job at one time of day.
func daily(hour, min string) FieldTexts {
	return FieldTexts{Min: min, Hour: hour, Dom: "*", Mon: "*", Dow: "*"}
}

func TestNextWhereClocksChange(t *testing.T) {
	const form = "2006-01-02T15:04:05Z07:00"
	for _, c := range []struct {
		why, zone string
		f         FieldTexts
		crontab   string
		from      string
		want      []string
		note      string // of the first
	}{
		{"a skipped time runs at the first instant after the gap", "Europe/Bucharest", daily("3", "30"), "30 3 * * *",
			"2026-03-28T12:00:00Z", []string{"2026-03-29T04:00:00+03:00", "2026-03-30T03:30:00+03:00"}, "clocks go forward: 03:30 does not exist that day"},
		{"several skipped times are one run", "Europe/Bucharest", daily("3", "10,20,50"), "10,20,50 3 * * *",
			"2026-03-28T12:00:00Z", []string{"2026-03-29T04:00:00+03:00", "2026-03-30T03:10:00+03:00"}, "clocks go forward: 03:10 to 03:50 do not exist that day"},
		{"a skipped time and a regular one at that instant are one run", "Europe/Bucharest", daily("3-4", "0"), "0 3-4 * * *",
			"2026-03-28T12:00:00Z", []string{"2026-03-29T04:00:00+03:00", "2026-03-30T03:00:00+03:00"}, "clocks go forward: 03:00 does not exist that day"},
		{"hourly jobs make up for nothing", "Europe/Bucharest", daily("*", "30"), "30 * * * *",
			"2026-03-29T00:00:00Z", []string{"2026-03-29T02:30:00+02:00", "2026-03-29T04:30:00+03:00"}, ""},
		{"a repeated time runs in the first pass only", "Europe/Bucharest", daily("3", "30"), "30 3 * * *",
			"2026-10-24T12:00:00Z", []string{"2026-10-25T03:30:00+03:00", "2026-10-26T03:30:00+02:00"}, "clocks go back: 03:30 comes twice that day, it runs the first time only"},
		{"unless the minute field has a star", "Europe/Bucharest", daily("3", "*/30"), "*/30 3 * * *",
			"2026-10-24T12:00:00Z", []string{"2026-10-25T03:00:00+03:00", "2026-10-25T03:30:00+03:00", "2026-10-25T03:00:00+02:00", "2026-10-25T03:30:00+02:00"}, "clocks go back: 03:00 comes twice that day, this is the first time"},
		{"or the hour field allows all hours", "Europe/Bucharest", daily("0-23", "30"), "30 0-23 * * *",
			"2026-10-25T00:00:00Z", []string{"2026-10-25T03:30:00+03:00", "2026-10-25T03:30:00+02:00", "2026-10-25T04:30:00+02:00"}, "clocks go back: 03:30 comes twice that day, this is the first time"},
		{"half an hour", "Australia/Lord_Howe", daily("2", "15"), "15 2 * * *",
			"2026-10-03T00:00:00Z", []string{"2026-10-04T02:30:00+11:00", "2026-10-05T02:15:00+11:00"}, "clocks go forward: 02:15 does not exist that day"},
		{"a day that never was", "Pacific/Apia", daily("12", "0"), "0 12 * * *",
			"2011-12-29T22:30:00Z", []string{"2011-12-31T00:00:00+14:00", "2011-12-31T12:00:00+14:00"}, "clocks go forward: 2011-12-30 12:00 does not exist that day"},
		{"at midnight, on the wall date", "America/Havana", FieldTexts{Min: "30", Hour: "0", Dom: "8", Mon: "*", Dow: "*"}, "30 0 8 * *",
			"2026-03-01T00:00:00Z", []string{"2026-03-08T01:00:00-04:00", "2026-04-08T00:30:00-04:00"}, "clocks go forward: 00:30 does not exist that day"},
	} {
		t.Run(c.why, func(t *testing.T) {
			loc := mustLoad(t, c.zone)
			crontab, err := ParseCrontab(c.crontab, loc)
			if err != nil {
				t.Fatal(err)
			}
			for name, s := range map[string]Schedule{"fields": mustParse(t, c.f, loc), "crontab": crontab} {
				from, err := time.Parse(form, c.from)
				if err != nil {
					t.Fatal(err)
				}
				var got []string
				next := NextN(s, from, len(c.want))
				for _, at := range next {
					got = append(got, at.Format(form))
				}
				if strings.Join(got, " ") != strings.Join(c.want, " ") {
					t.Errorf("%s: %v, want %v", name, got, c.want)
				}
				if note := Note(s, next[0]); note != c.note {
					t.Errorf("%s: note %q, want %q", name, note, c.note)
				}
			}
		})
	}
}

func TestNoteOfTheSecondPass(t *testing.T) {
	s := mustParse(t, daily("3", "*/30"), mustLoad(t, "Europe/Bucharest"))
	second := time.Date(2026, 10, 25, 1, 30, 0, 0, time.UTC)
	if got, want := Note(s, second), "clocks go back: 03:30 comes a second time that day"; got != want {
		t.Errorf("note %q, want %q", got, want)
	}
	every, err := ParseCrontab("@every 1h", time.UTC)
	if err != nil {
		t.Fatal(err)
	}
	for _, quiet := range []time.Time{second.Add(24 * time.Hour), second.Add(-12 * time.Hour), {}, time.Date(9999, 1, 1, 0, 0, 0, 0, time.UTC)} {
		if got := Note(s, quiet) + Note(every, quiet); got != "" {
			t.Errorf("note at %v: %q, want none", quiet, got)
		}
	}
}

func TestNeverAndTheEnd(t *testing.T) {
	bucharest := mustLoad(t, "Europe/Bucharest")
	all := func(change func(*FieldTexts)) FieldTexts {
		f := daily("0", "0")
		change(&f)
		return f
	}
	now := time.Date(2026, 6, 1, 0, 0, 0, 0, time.UTC)
	for name, f := range map[string]FieldTexts{
		"30 February": all(func(f *FieldTexts) { f.Dom, f.Mon = "30", "feb" }),
		"31 of short": all(func(f *FieldTexts) { f.Dom, f.Mon = "31", "feb,apr,jun,sep,nov" }),
		"a past year": all(func(f *FieldTexts) { f.Year = "2025" }),
		"L and 1":     all(func(f *FieldTexts) { f.Dom, f.Dow = "1-7", "L1" }),
	} {
		for _, loc := range []*time.Location{time.UTC, bucharest} {
			if got := mustParse(t, f, loc).Next(now); !got.IsZero() {
				t.Errorf("%s in %v: %v, want never", name, loc, got)
			}
		}
	}
	// Never must not cost a scheduler anything, however often it is asked.
	s := mustParse(t, all(func(f *FieldTexts) { f.Dom, f.Mon = "30", "feb" }), bucharest)
	past := mustParse(t, all(func(f *FieldTexts) { f.Year = "2025" }), bucharest)
	begun := time.Now()
	for range 10_000 {
		s.Next(now)
		past.Next(now)
	}
	if took := time.Since(begun); took > 5*time.Second {
		t.Errorf("20,000 times never took %v", took)
	}

	second := mustParse(t, FieldTexts{Sec: "*", Min: "*", Hour: "*", Dom: "*", Mon: "*", Dow: "*"}, bucharest)
	last := time.Date(2099, 12, 31, 23, 59, 59, 0, bucharest)
	if got := second.Next(last.Add(-time.Nanosecond)); !got.Equal(last) {
		t.Errorf("the last second: %v, want %v", got, last)
	}
	for _, late := range []time.Time{last, last.Add(time.Hour), time.Date(250_000, 1, 1, 0, 0, 0, 0, time.UTC)} {
		if got := second.Next(late); !got.IsZero() {
			t.Errorf("after %v: %v, want never", late, got)
		}
	}
	if got, want := second.Next(time.Time{}), time.Date(1970, 1, 1, 0, 0, 0, 0, bucharest); !got.Equal(want) {
		t.Errorf("from the zero time: %v, want %v", got, want)
	}
	leap := mustParse(t, all(func(f *FieldTexts) { f.Dom, f.Mon, f.Dow = "29", "2", "1" }), bucharest)
	if got, want := leap.Next(now), time.Date(2044, 2, 29, 0, 0, 0, 0, bucharest); !got.Equal(want) {
		t.Errorf("29 February on a Monday: %v, want %v", got, want)
	}
	if got := NextN(leap, now, 99); len(got) != 2 { // 2044 and 2072
		t.Errorf("all of them: %v", got)
	}
	if got := NextN(nil, now, 3); got != nil {
		t.Errorf("of no schedule: %v", got)
	}
}

// Go's ZoneBounds ends leap years a day early where a zone goes on by rule; a
// search that trusted it would stand still on that day.
func TestNextOnTheLastDayOfLeapYears(t *testing.T) {
	for _, zone := range []string{"Europe/Bucharest", "America/New_York", "Australia/Sydney"} {
		loc := mustLoad(t, zone)
		s := mustParse(t, daily("12", "0"), loc)
		for year := 2040; year < 2099; year += 4 {
			from := time.Date(year, 12, 31, 13, 0, 0, 0, loc)
			if got, want := s.Next(from), time.Date(year+1, 1, 1, 12, 0, 0, 0, loc); !got.Equal(want) {
				t.Errorf("%s after %v: %v, want %v", zone, from, got, want)
			}
		}
	}
}

func TestNextFromAnyLocation(t *testing.T) {
	bucharest := mustLoad(t, "Europe/Bucharest")
	s := mustParse(t, daily("2", "30"), bucharest)
	at := time.Date(2026, 6, 1, 12, 0, 0, 0, time.UTC)
	want := time.Date(2026, 6, 2, 2, 30, 0, 0, bucharest)
	for _, zone := range []string{"UTC", "Asia/Tokyo", "America/New_York"} {
		if got := s.Next(at.In(mustLoad(t, zone))); !got.Equal(want) || got.Location() != bucharest {
			t.Errorf("asked in %s: %v", zone, got)
		}
	}
	if got := mustParse(t, daily("2", "30"), nil).Next(at); got.Location() != time.UTC || got.Hour() != 2 {
		t.Errorf("without a zone: %v, want UTC", got)
	}
	// A time that carries a monotonic clock reading must not pass it on.
	if got := s.Next(time.Now()); strings.Contains(got.String(), "m=") {
		t.Errorf("%v has a monotonic reading", got)
	}
}
