package config

import (
	"testing"
	"time"

	"github.com/robfig/cron/v3"
)

// The baseline is robfig's own Next of the same schedule in the same zone.
func BenchmarkNext(b *testing.B) {
	from := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	for _, c := range []struct{ name, crontab, zone string }{
		{"every-minute", "* * * * *", "UTC"},
		{"daily", "30 2 * * *", "UTC"},
		{"weekdays", "*/15 9-17 * * 1-5", "UTC"},
		{"yearly", "0 0 1 1 *", "UTC"},
		{"leap-day", "0 0 29 2 *", "UTC"},
		{"daily-bucharest", "30 2 * * *", "Europe/Bucharest"},
		{"daily-new-york", "30 2 * * *", "America/New_York"},
		{"yearly-bucharest", "0 0 1 1 *", "Europe/Bucharest"},
	} {
		loc := mustLoad(b, c.zone)
		ours, err := ParseCrontab(c.crontab, loc)
		if err != nil {
			b.Fatal(err)
		}
		parsed, err := crontabParser().Parse(c.crontab)
		if err != nil {
			b.Fatal(err)
		}
		robfig := parsed.(*cron.SpecSchedule)
		robfig.Location = loc
		b.Run(c.name+"/ours", func(b *testing.B) { benchNext(b, ours, from) })
		b.Run(c.name+"/baseline", func(b *testing.B) { benchNext(b, robfig, from) })
	}
}

// What robfig has no notation for, and what it gives up on.
func BenchmarkNextFields(b *testing.B) {
	from := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	for _, c := range []struct {
		name string
		f    FieldTexts
	}{
		{"last-friday", FieldTexts{Min: "0", Hour: "18", Dom: "*", Mon: "*", Dow: "L5"}},
		{"friday-13th", FieldTexts{Min: "0", Hour: "0", Dom: "13", Mon: "*", Dow: "fri"}},
		{"monday-29-february", FieldTexts{Min: "0", Hour: "0", Dom: "29", Mon: "2", Dow: "1"}},
		{"30-february", FieldTexts{Min: "0", Hour: "0", Dom: "30", Mon: "2", Dow: "*"}},
		{"past-year", FieldTexts{Min: "0", Hour: "0", Dom: "*", Mon: "*", Dow: "*", Year: "2025"}},
	} {
		s := mustParse(b, c.f, mustLoad(b, "Europe/Bucharest"))
		b.Run(c.name, func(b *testing.B) { benchNext(b, s, from) })
	}
}

func benchNext(b *testing.B, s Schedule, from time.Time) {
	b.ReportAllocs()
	at := from
	for b.Loop() {
		if at = s.Next(at); at.IsZero() || at.Year() > 2090 {
			at = from
		}
	}
}
