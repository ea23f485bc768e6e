package config

import (
	"strings"
	"testing"
	"time"

	"github.com/robfig/cron/v3"
	"pgregory.net/rapid"
)

var fuzzZones = []string{"UTC", "Europe/Bucharest", "America/New_York", "Australia/Lord_Howe", "Pacific/Apia", "Africa/Casablanca"}

// checkNext holds what is true of every schedule: next is strictly later, a whole
// second in the schedule's location, and asking just before it gives it again.
func checkNext(t *testing.T, s Schedule, at time.Time, loc *time.Location) time.Time {
	t.Helper()
	next := s.Next(at)
	if next.IsZero() {
		return next
	}
	if !next.After(at) || next.Nanosecond() != 0 || next.Location() != loc || next.Year() > lastYear {
		t.Fatalf("after %v is %v", at, next)
	}
	if _, delay := s.(every); !delay {
		if again := s.Next(next.Add(-time.Nanosecond)); !again.Equal(next) {
			t.Fatalf("after %v is %v, but just before that it is %v", at, next, again)
		}
	}
	return next
}

func FuzzParseFields(f *testing.F) {
	for _, seed := range [][7]string{
		{"0", "*/5", "*", "*", "*", "*", "*"}, {"", "30", "3", "*", "*", "mon-fri", ""},
		{"*", "*", "*", "L,Z1-7", "jan-DEC", "L5,sun/2", "2026-2030/2"}, {"59", "59/1", "22-2", "15W", "13", "5#2", "1969"},
		{"0", "0", "0", "30", "feb", "?", "*"}, {"é", "1, 2", "-", "Z", "L", "Lx-", ","}, {"0", "0", "2-3", "*", "*", "L0-0", "2011"},
	} {
		f.Add(seed[0], seed[1], seed[2], seed[3], seed[4], seed[5], seed[6], uint8(1), int64(1774740600), int64(1))
	}
	f.Fuzz(func(t *testing.T, sec, min, hour, dom, mon, dow, year string, zone uint8, unix, ns int64) {
		fields := FieldTexts{Sec: sec, Min: min, Hour: hour, Dom: dom, Mon: mon, Dow: dow, Year: year}
		loc := mustLoad(t, fuzzZones[int(zone)%len(fuzzZones)])
		words := Describe(fields, loc)
		s, err := ParseFields(fields, loc)
		if err != nil {
			if !strings.Contains(err.Error(), ": ") {
				t.Fatalf("%+v: %q names no field", fields, err)
			}
			return
		}
		if words == "" {
			t.Fatalf("%+v: no words", fields)
		}
		at := time.Unix(unix, ns%1e9)
		next := checkNext(t, s, at, loc)
		if next.IsZero() {
			return
		}
		_, offset := next.Zone()
		wall := time.Unix(next.Unix()+int64(offset), 0).UTC()
		if !newOracle(fields.trimmed()).wall(wall) && !strings.HasPrefix(Note(s, next), "clocks go forward") {
			t.Fatalf("%+v: %v does not match", fields, next)
		}
	})
}

// trimmed are the fields as the loader hands them over.
func (f FieldTexts) trimmed() FieldTexts {
	for _, p := range []*string{&f.Sec, &f.Min, &f.Hour, &f.Dom, &f.Mon, &f.Dow, &f.Year} {
		*p = strings.TrimSpace(*p)
	}
	return f
}

func FuzzParseCrontab(f *testing.F) {
	for _, seed := range []string{"0 2 * * *", "*/5 * * * * *", "@daily", "@every 10m", "@every -1s", "@every 99999999h", "TZ=", "CRON_TZ=UTC 0 0 * * *",
		"0 0 13 * fri", "0 0 31 2 *", ", , , , ,", "*-5/2 * * * *", "0 0 * * 7", "@", "? ? ? ? ?", "0 0 1-7 jan-DEC sun-SAT", "1/99999999999999999999 * * * *"} {
		f.Add(seed, uint8(1), int64(1774740600))
	}
	f.Fuzz(func(t *testing.T, text string, zone uint8, unix int64) {
		loc := mustLoad(t, fuzzZones[int(zone)%len(fuzzZones)])
		Describe(FieldTexts{Crontab: text}, loc)
		s, err := ParseCrontab(text, loc)
		if err != nil {
			return
		}
		at := time.Unix(unix, 0)
		next := checkNext(t, s, at, loc)
		// Where no clocks change, the meaning is robfig's.
		if robfig, err := crontabParser().Parse(strings.TrimSpace(text)); err == nil && loc == time.UTC && unix > 0 && !next.IsZero() {
			if want := robfig.Next(at.UTC()); !want.IsZero() && !want.Equal(next) {
				t.Fatalf("%q after %v is %v, robfig says %v", text, at.UTC(), next, want)
			}
		}
	})
}

// Where clocks do not change, a crontab means what it means to robfig, also where
// days of the month and of the week are joined by or.
func TestCrontabIsRobfigs(t *testing.T) {
	parts := [6][]string{
		{"0", "*/10", "30", "*"}, {"0", "*/7", "15,45", "*", "5-20/3"}, {"*", "2", "9-17", "*/5", "22,23", "?"},
		{"*", "13", "1-7", "?", "*/10", "31", "*,5"}, {"*", "jan", "2", "6-8", "*/5"}, {"*", "fri", "1-5", "0,6", "*/2", "?"},
	}
	rapid.Check(t, func(t *rapid.T) {
		var fields []string
		for i, choices := range parts {
			if i == 0 && rapid.Bool().Draw(t, "five fields") {
				continue
			}
			fields = append(fields, rapid.SampledFrom(choices).Draw(t, "field"))
		}
		text := strings.Join(fields, " ")
		ours, err := ParseCrontab(text, time.UTC)
		if err != nil {
			t.Fatal(err)
		}
		robfig, err := crontabParser().Parse(text)
		if err != nil {
			t.Fatal(err)
		}
		robfig.(*cron.SpecSchedule).Location = time.UTC
		at := time.Unix(rapid.Int64Range(0, 3e9).Draw(t, "now"), 0).UTC()
		want := robfig.Next(at)
		if want.IsZero() {
			return // it gives up after five years
		}
		if got := ours.Next(at); !got.Equal(want) {
			t.Fatalf("%q after %v is %v, robfig says %v", text, at, got, want)
		}
	})
}
